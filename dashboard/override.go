package dashboard

import (
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/mettle-go/mettle/breaker"
)

const (
	maxForm     = 4 << 10
	maxReason   = 200 // bytes
	maxBy       = 100 // bytes
	minOverride = time.Second
	// maxOverride makes whoever needs a breaker forced for longer come back: an override
	// that nobody remembers is an outage of its own.
	maxOverride = 24 * time.Hour
)

// override works the switch of a breaker.
func (p *page) override(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		http.Error(w, "this is for POST", http.StatusMethodNotAllowed)
		return
	}
	if p.authorize == nil {
		http.Error(w, "this page is read-only", http.StatusForbidden)
		return
	}
	if err := p.origin.Check(r); err != nil {
		http.Error(w, "the request does not come from this page", http.StatusForbidden)
		return
	}
	// Browsers send three types across origins without asking; those but this are refused.
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/x-www-form-urlencoded" {
		http.Error(w, "the request must be a form", http.StatusUnsupportedMediaType)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "the form cannot be read", http.StatusBadRequest)
		return
	}
	act, err := p.parse(r.PostForm)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	by, err := p.authorize(r)
	if err == nil {
		err = printable("name", by, maxBy)
	}
	if err != nil {
		http.Error(w, "you may not do this", http.StatusForbidden)
		return
	}
	act(by)
	w.WriteHeader(http.StatusNoContent)
}

// parse returns what a form asks for, to be done in somebody's name.
func (p *page) parse(form url.Values) (func(by string), error) {
	i, err := strconv.Atoi(form.Get("policy"))
	if err != nil || i < 0 || i >= len(p.layers) {
		return nil, errors.New("there is no such policy")
	}
	b, ok := p.layers[i].(*breaker.Breaker)
	if !ok {
		return nil, errors.New("the policy is not a breaker")
	}
	var force func(breaker.Override)
	switch action := form.Get("action"); action {
	case "release":
		return func(string) { b.Release() }, nil
	case "reset":
		return func(string) { b.Reset() }, nil
	case "open":
		force = b.ForceOpen
	case "closed":
		force = b.ForceClosed
	default:
		return nil, errors.New("the action must be open, closed, release or reset")
	}
	d, err := time.ParseDuration(form.Get("for"))
	if err != nil || d < minOverride || d > maxOverride {
		return nil, fmt.Errorf("the time must be between %v and %v", minOverride, maxOverride)
	}
	reason := strings.TrimSpace(form.Get("reason"))
	if err := printable("reason", reason, maxReason); err != nil {
		return nil, err
	}
	return func(by string) { force(breaker.Override{For: d, By: by, Reason: reason}) }, nil
}

// printable refuses what would be hard to read in a log, or write other lines into it.
func printable(what, s string, limit int) error {
	if s == "" || len(s) > limit || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("the %s must be a line of text of at most %d bytes", what, limit)
	}
	return nil
}
