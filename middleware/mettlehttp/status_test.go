package mettlehttp

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// FuzzRetryAfter holds the parser against what each form of the header says.
//
// Spec: W11
func FuzzRetryAfter(f *testing.F) {
	for _, v := range []string{
		"", "0", "1", "120", "-1", "+1", " 7 ", "1.5", "9223372036", "9223372037", "18446744073709551616",
		"99999999999999999999999999999999", "Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT",
		"Sun Nov  6 08:49:37 1994", "Fri, 31 Dec 9999 23:59:59 GMT", "\x00", "１２", "1\n2",
		"18700000000000000000A", // out of range before it is out of its alphabet
	} {
		f.Add(v, "", int64(784111777))
		f.Add(v, "Sun, 06 Nov 1994 08:49:00 GMT", int64(0))
	}
	f.Fuzz(func(t *testing.T, value, date string, unix int64) {
		now := time.Unix(unix%(1<<40), 0)
		resp := &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {value}, "Date": {date}}}
		got := retryAfter(resp, now)
		if got < -1 {
			t.Fatalf("%q: %v", value, got)
		}
		text := strings.TrimSpace(value)
		digits := text != "" && strings.Trim(text, "0123456789") == ""
		if n, err := strconv.ParseInt(text, 10, 64); digits && err == nil && n <= math.MaxInt64/int64(time.Second) {
			if got != time.Duration(n)*time.Second {
				t.Errorf("%q: %v", value, got)
			}
		} else if digits && got != math.MaxInt64 {
			t.Errorf("%q: %v, want above every cap", value, got)
		} else if _, err := http.ParseTime(text); err != nil && !digits && got != -1 {
			t.Errorf("%q: %v, want none", value, got)
		}
		for _, code := range []int{200, 408, 500, 502, 504} {
			resp.StatusCode = code
			if got := retryAfter(resp, now); got != -1 {
				t.Errorf("%d: %v", code, got)
			}
		}
	})
}

// TestRetryAfterByServersClock has two clocks that are an hour apart.
//
// Spec: W11
func TestRetryAfterByServersClock(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, apart := range []time.Duration{-time.Hour, 0, time.Hour} {
		server := now.Add(apart)
		resp := &http.Response{StatusCode: 429, Header: http.Header{
			"Date":        {server.Format(http.TimeFormat)},
			"Retry-After": {server.Add(5 * time.Second).Format(http.TimeFormat)},
		}}
		if got := retryAfter(resp, now); got != 5*time.Second {
			t.Errorf("%v apart: %v", apart, got)
		}
	}
}

// FuzzMalformed holds our reading of what a header may be against net/http's.
//
// Spec: W10
func FuzzMalformed(f *testing.F) {
	for _, s := range []string{"", "A", "a b", "x\n", "x\r\ny", "\t", "\x7f", "é", "!#$%&'*+-.^_`|~", "a:b", " ", "\x80"} {
		f.Add(s, s)
	}
	nowhere := &http.Transport{DialContext: nil, Proxy: nil, DisableKeepAlives: true}
	nowhere.RegisterProtocol("http", refuser{})
	f.Fuzz(func(t *testing.T, name, value string) {
		req, _ := http.NewRequest("GET", "http://host/", nil)
		req.Header = http.Header{name: {value}}
		_, err := nowhere.RoundTrip(req)
		// The alternate protocol is asked only after net/http has looked at the header.
		if refused := err != errAsked; refused != malformed(req) {
			t.Errorf("%q: %q: malformed is %v, net/http says %v", name, value, malformed(req), err)
		}
	})
}

type refuser struct{}

func (refuser) RoundTrip(*http.Request) (*http.Response, error) { return nil, errAsked }

var errAsked = http.ErrBodyNotAllowed
