package dashboard

import (
	"errors"
	"fmt"
	"iter"
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
		status := http.StatusBadRequest
		if errors.Is(err, errElsewhere) {
			status = http.StatusConflict
		}
		http.Error(w, err.Error(), status)
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
	if err := act(by); err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// keyed is a [breaker.Group], or a policy of one.
type keyed interface {
	Breakers() iter.Seq[*breaker.Breaker]
}

// errElsewhere is for a form from the page of another version of the program, in which
// the policy had another number.
var errElsewhere = errors.New("the policy of this number is another one here, and nothing was done: load the page again")

// meant reports whether a form names the layer as its first card does, which has the
// switches. JSON has given the page the replacement character for each byte that is not UTF-8.
func meant(form url.Values, of any) bool {
	c := titled(of)[0]
	return form.Get("kind") == string([]rune(c.Kind)) && form.Get("name") == string([]rune(c.Name))
}

// parse returns what a form asks for, to be done in somebody's name. Which breaker a key
// of a group has is found out then, for those alone who are allowed to ask.
func (p *page) parse(form url.Values) (act func(by string) error, err error) {
	i, err := strconv.Atoi(form.Get("policy"))
	if err != nil || i < 0 || i >= len(p.layers) {
		return nil, errors.New("there is no such policy")
	}
	if !meant(form, p.layers[i]) {
		return nil, errElsewhere
	}
	do, err := action(form)
	if err != nil {
		return nil, err
	}
	key := form.Get("key")
	switch of := p.layers[i].(type) {
	case *breaker.Breaker:
		if key != "" {
			return nil, errors.New("the policy has no keys")
		}
		return func(by string) error { do(of, by); return nil }, nil
	case keyed:
		if key == "" {
			return nil, errors.New("the policy has a breaker for each key, and the key is missing")
		}
		stays := form.Get("action") == "open" || form.Get("action") == "closed"
		return func(by string) error { return withKey(of, key, stays, func(b *breaker.Breaker) { do(b, by) }) }, nil
	default:
		return nil, errors.New("the policy is not a breaker")
	}
}

// withKey does something to the breaker with that name in a group. What forces it is done
// only if it stays there.
func withKey(group keyed, name string, stays bool, do func(*breaker.Breaker)) error {
	var found *breaker.Breaker
	for b := range group.Breakers() {
		if nameOf(b) != name {
			continue
		}
		if found != nil {
			return errors.New("two keys have this name")
		}
		found = b
	}
	if found == nil {
		return errors.New("there is no such key, or no call has come with it lately")
	}
	do(found)
	if !stays {
		return nil // the next call finds no override, and no failures, either way
	}
	// A full group may have let the key go before that, and would make a new breaker for
	// the next call. One that is forced stays.
	for b := range group.Breakers() {
		if b == found {
			return nil
		}
	}
	return errors.New("the group has let the key go")
}

// action returns what a form asks to be done to a breaker.
func action(form url.Values) (do func(b *breaker.Breaker, by string), err error) {
	var force func(*breaker.Breaker, breaker.Override)
	switch form.Get("action") {
	case "release":
		return func(b *breaker.Breaker, _ string) { b.Release() }, nil
	case "reset":
		return func(b *breaker.Breaker, _ string) { b.Reset() }, nil
	case "open":
		force = (*breaker.Breaker).ForceOpen
	case "closed":
		force = (*breaker.Breaker).ForceClosed
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
	return func(b *breaker.Breaker, by string) {
		force(b, breaker.Override{For: d, By: by, Reason: reason})
	}, nil
}

// printable refuses what would be hard to read in a log, or write other lines into it.
func printable(what, s string, limit int) error {
	if s == "" || len(s) > limit || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("the %s must be a line of text of at most %d bytes", what, limit)
	}
	return nil
}
