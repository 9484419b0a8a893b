// Package dashboard is one live web page that shows pipelines as they are composed,
// outermost policy first, and each policy with its state, its rates, its configuration in
// force and its last changes of state with their reasons.
//
//	http.Handle("/debug/mettle/", dashboard.Handler(direct, replay))
//
// The page is made to be understood from across a room: one line says how things are,
// and one dial for each policy how much there is to do (the disc), how it ends (its
// sectors) and what the policy does about it (the ring: that of an open breaker is open).
// Every colour has a word and a sign beside it. It follows the colour scheme of the reader, fits
// a phone, and works by keyboard and with a screen reader, to which changes of state are
// announced. It needs JavaScript, and nothing from any other server.
//
// # What it shows of a policy
//
// The numbers are those of [mettle.Observable], so that policies of the user's own are
// shown as well. The configuration is what the policy's LogValue tells ([log/slog.LogValuer]),
// which all of ours have; what others keep in fields stays there. Of a group
// of breakers the page shows the sums and the few keys in the worst state. Whatever has a
// method Policies() []mettle.Policy is drawn as the policies that it returns.
//
// # Cost
//
// Nobody watching costs nothing: there is no goroutine and no timer. While pages are
// open, all of them share one snapshot for each [Config.Interval], made by the request
// of whichever is first. A client that reads slowly or has vanished holds a goroutine and a
// connection until a write has been stuck for some seconds, or for ten minutes; there are
// 64 streams at most. Behind a proxy that holds streams back, the page asks for one
// snapshot after the other. Each is whole, so that Last-Event-ID has no meaning.
//
// # Security
//
// The page tells the names of policies, their configuration, the traffic, and the keys of
// groups, such as host names. Do not serve it to the public: wrap the handler in whatever
// protects the other pages for operators, or serve it on an address of its own.
//
// It is read-only, unless [Config.Authorize] says who may use the switches of breakers.
// Whatever a name, a key or a reason contains is shown as text and never taken for
// markup, and a strict Content-Security-Policy comes with every answer.
package dashboard

import (
	"embed"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/mettle-go/mettle"
)

// Config says what a page shows, and to whom it gives switches.
type Config struct {
	// Show is what the page shows, from top to bottom.
	Show []Item

	// Interval is the time between two snapshots. Zero: 1 s. At least 100 ms.
	Interval time.Duration

	// Authorize is asked before a breaker is forced open or closed, released or reset.
	// It returns the name of who is about to do it, which the breaker then tells by
	// [github.com/mettle-go/mettle/breaker.Change], or an error, whose text is
	// not shown, if that is not allowed; an empty name is not allowed either. The form has been parsed
	// and checked: r.PostForm has the fields "action" (open, closed, release, reset),
	// "policy" (its number), "kind" and "name" (of the policy, as the page has them: a number alone
	// may be another policy's after a deploy), of the first two actions "for" and "reason", and where the policy is a
	// [github.com/mettle-go/mettle/breaker.Group] "key": the name of the key's breaker, such as "hosts[db-7]".
	//
	// The request has come from the page itself, or from something that is not a
	// browser ([http.CrossOriginProtection]). Who it comes from is for Authorize to find
	// out. It must not trust a header that anybody can set.
	// Nil: the page is read-only.
	Authorize func(r *http.Request) (by string, err error)
}

// Item is one thing to show.
type Item struct {
	// Name is its title. Zero: "pipeline" and its number.
	Name string
	// Of is a [*mettle.Pipeline], which is drawn policy by policy, or anything else
	// that has metrics, such as a Transport of mettlehttp, a [mettle.Policy] or a
	// retry.Budget that several share. It must not be nil.
	Of mettle.Observable
}

const (
	defaultInterval = time.Second
	minInterval     = 100 * time.Millisecond
)

// Validate reports every mistake in c, or nil.
func (c Config) Validate() error {
	var errs []error
	for i, it := range c.Show {
		if isNil(it.Of) {
			errs = append(errs, fmt.Errorf("dashboard: Show[%d].Of is nil, must be what to show", i))
		}
	}
	if c.Interval != 0 && c.Interval < minInterval {
		errs = append(errs, fmt.Errorf("dashboard: Interval is %v, must be at least %v, or zero for %v", c.Interval, minInterval, defaultInterval))
	}
	return errors.Join(errs...)
}

// Handler returns a read-only page that shows the pipelines; see [New]. It panics when
// one is nil.
func Handler(pipelines ...*mettle.Pipeline) http.Handler {
	var c Config
	for _, p := range pipelines {
		c.Show = append(c.Show, Item{Of: p})
	}
	return New(c)
}

// New returns a handler that serves the page and all that belongs to it, under any path
// that ends with a slash, such as "/debug/mettle/". It looks at the last element
// of a path only. It panics with the message of [Config.Validate] when c is not valid.
//
// A stream ends when the [http.Server] begins its Shutdown, so that an open page does
// not hold that up. A server whose very first request to the handler comes after that
// cannot be heard of any more.
func New(c Config) http.Handler {
	if err := c.Validate(); err != nil {
		panic(err.Error())
	}
	if c.Interval == 0 {
		c.Interval = defaultInterval
	}
	p := &page{
		interval: c.Interval, patience: 5 * time.Second, authorize: c.Authorize, base: time.Now(),
	}
	for i, it := range c.Show {
		if it.Name == "" {
			it.Name = fmt.Sprintf("pipeline %d", i+1)
		}
		p.add(it)
	}
	return p
}

// page is the handler.
type page struct {
	interval  time.Duration
	patience  time.Duration // how long a client may let a write wait
	authorize func(*http.Request) (string, error)
	origin    http.CrossOriginProtection
	items     []item
	layers    []any // what the items consist of; each once, though several may have it

	base time.Time // ticks are counted from here

	servers sync.Map // of *http.Server: a chan struct{}, closed when it shuts down

	mu      sync.Mutex // held while a snapshot is made, for the others to wait for it
	tick    int64      // of the last snapshot; guarded by mu, as all below
	last    []byte     // as an event; nil: none yet
	streams int
}

//go:embed static
var static embed.FS

// policy lets the page use what we serve and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'none'; base-uri 'none'; frame-ancestors 'none'"

func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	closing := p.closing(r) // before a page that is being loaded asks for events
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	name := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	if name == "override" {
		p.override(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "this is only for reading", http.StatusMethodNotAllowed)
		return
	}
	switch name {
	case "events":
		p.events(w, r, closing)
	case "":
		serve(w, r, "index.html", "text/html; charset=utf-8")
	case "page.css":
		serve(w, r, name, "text/css; charset=utf-8")
	case "page.js":
		serve(w, r, name, "text/javascript; charset=utf-8")
	case "icon.svg":
		serve(w, r, name, "image/svg+xml")
	default:
		http.NotFound(w, r)
	}
}

func serve(w http.ResponseWriter, r *http.Request, name, contentType string) {
	w.Header().Set("Content-Type", contentType)
	http.ServeFileFS(w, r, static, "static/"+name)
}
