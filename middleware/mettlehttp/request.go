package mettlehttp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/mettle-go/mettle"
)

// idempotent reports whether req may be sent again though the server may have seen it:
// by its method (RFC 9110 section 9.2.2), or because it carries a key by which the
// server tells a copy. As in net/http, a key with no value is a promise of the caller's
// and is not sent.
func idempotent(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	for _, key := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		if _, ok := req.Header[key]; ok {
			return true
		}
	}
	return false
}

// callDeadline returns when the call as a whole must have ended: the deadline outside
// every retry.
func callDeadline(policy context.Context) (time.Time, bool) {
	return mettle.CallContext(policy).Deadline()
}

// hopeless reports whether err will be the same however often the request is sent.
func hopeless(req *http.Request, a *attempt, err error) bool {
	var (
		verify    *tls.CertificateVerificationError
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		lookup    *net.DNSError
	)
	switch {
	case errors.As(err, &verify), errors.As(err, &authority), errors.As(err, &name), errors.As(err, &invalid):
		return true
	case errors.As(err, &lookup):
		return lookup.IsNotFound && !lookup.IsTemporary
	}
	// net/http refuses a scheme it does not know with an error that has no type, and
	// before it asks for a connection.
	return !isHTTP(req) && !a.asked.Load()
}

// isHTTP reports whether the scheme of req is one that net/http knows.
func isHTTP(req *http.Request) bool {
	if req.URL == nil {
		return false
	}
	switch s := req.URL.Scheme; s {
	case "http", "https":
		return true
	default:
		s = strings.ToLower(s)
		return s == "http" || s == "https"
	}
}

// malformed reports whether no server could be asked what req asks, but for its Trailer.
// It is for an attempt that has failed, since net/http's own error has no type.
func malformed(req *http.Request) bool {
	// A base with a scheme of its own may do without a host.
	return req.URL == nil || req.URL.Host == "" && isHTTP(req) ||
		req.Header == nil || req.Method != "" && !isToken(req.Method) || badHeader(req.Header)
}

// badHeader reports whether net/http would not send h.
func badHeader(h http.Header) bool {
	for name, values := range h {
		if !isToken(name) || slices.ContainsFunc(values, func(v string) bool { return !isFieldValue(v) }) {
			return true
		}
	}
	return false
}

// isToken reports whether s is a token of RFC 9110 section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !alnum && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

// isFieldValue reports whether net/http would send s: no control characters but the tab.
func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
