package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/examples/orders/internal/payments"
	"github.com/mettle-go/mettle/examples/orders/internal/store"
)

// report writes the timeline: one line for each thing that a person would want to
// know at once, and how far things are in between, as a line a second or, on a
// terminal, as one line that is redrawn. It may be used from many goroutines.
type report struct {
	counts func() store.Counts
	state  func() (breaker.State, time.Duration)
	resent func() uint64

	mu       sync.Mutex
	out      io.Writer // guarded by mu, as all below
	terminal bool
	start    time.Time
	shown    string // the last progress line

	since   store.Counts   // as of the last progress line
	resends uint64         // so many were shown
	reasons map[string]int // why orders were queued since the last progress line
	again   int            // replays that turned out to be paid already
	probing bool           // the breaker is half-open, and that is not told yet
	down    time.Time      // since when the breaker is not closed; zero: it is

	backlog   time.Time       // since when there is a queue; zero: there is none
	recovered int             // orders replayed in this backlog
	customers map[string]bool // whose they are
	oldest    time.Duration   // the longest wait among them
	full      bool            // the queue is full, and that is told
}

func newReport(out io.Writer, terminal bool) *report {
	return &report{
		out: out, terminal: terminal, start: time.Now(),
		counts: func() store.Counts { return store.Counts{} },
		state:  func() (breaker.State, time.Duration) { return breaker.Closed, 0 },
		resent: func() uint64 { return 0 },

		reasons: map[string]int{}, customers: map[string]bool{},
	}
}

// isTerminal reports whether f is one that can redraw a line.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

// watch gives the report what it shows between the events.
func (r *report) watch(s *store.Store, p *pipeline) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts = s.Counts
	r.state = func() (breaker.State, time.Duration) { return p.breaker.State(), p.breaker.RemainingDelay() }
	r.resent = func() uint64 { return p.resend.Stats().Retries }
	r.since = s.Counts()
	if r.since.Waiting > 0 {
		r.backlog = time.Now()
	}
}

// event adds a line to the timeline.
func (r *report) event(who, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.line(who, format, args...)
}

// line writes a line of the timeline. The caller holds mu.
func (r *report) line(who, format string, args ...any) {
	r.erase()
	fmt.Fprintf(r.out, "%7.2fs  %-8s  %s\n", time.Since(r.start).Seconds(), who, fmt.Sprintf(format, args...))
}

// plain writes lines that are not part of the timeline.
func (r *report) plain(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.erase()
	fmt.Fprintf(r.out, format+"\n", args...)
}

func (r *report) erase() {
	if r.terminal && r.shown != "" {
		fmt.Fprint(r.out, "\r\x1b[K")
		r.shown = ""
	}
}

// progress says how far things are, until stop is closed.
func (r *report) progress(stop <-chan struct{}) {
	every := time.Second
	if r.terminal {
		every = 100 * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			r.mu.Lock()
			r.erase()
			r.mu.Unlock()
			return
		case <-tick.C:
			r.tick()
		}
	}
}

func (r *report) tick() {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.counts()
	state, delay := r.state()
	line := fmt.Sprintf("%d orders: %d paid, %d waiting, %d dead; breaker %v", c.Orders, c.Direct+c.Replayed, c.Waiting, c.Dead, state)
	if delay > 0 {
		line += fmt.Sprintf(", probe in %.1fs", delay.Seconds())
	}
	if !r.terminal {
		if c != r.since {
			r.line("progress", "%s", r.why(line))
		}
		r.since = c
		clear(r.reasons)
		return
	}
	line = fmt.Sprintf("%7.2fs  %-8s  %s", time.Since(r.start).Seconds(), "now", line)
	line = line[:min(len(line), 79)] // a line that wraps cannot be redrawn
	fmt.Fprint(r.out, "\r\x1b[K"+line)
	r.shown = line
}

// maxWidth is how many columns a progress line has at most: more do not fit on a screen.
const maxWidth = 140

// why adds to a progress line what was queued and resent since the last one, the
// commonest reasons first and those that do not fit together. The caller holds mu.
func (r *report) why(line string) string {
	if n := r.resent(); n > r.resends {
		line += fmt.Sprintf("; resent: %d", n-r.resends)
		r.resends = n
	}
	names := slices.SortedFunc(maps.Keys(r.reasons), func(a, b string) int {
		if d := r.reasons[b] - r.reasons[a]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	others := 0
	for i, name := range names {
		part := fmt.Sprintf(", %s ×%d", name, r.reasons[name])
		if i == 0 {
			part = "; queued: " + part[len(", "):]
		}
		if others > 0 || len(line)+len(part) > maxWidth {
			others += r.reasons[name]
			continue
		}
		line += part
	}
	if others > 0 {
		line += fmt.Sprintf(", others ×%d", others)
	}
	return line
}

// phase tells what the payment service begins to do.
func (r *report) phase(p payments.Phase) {
	lasts := ""
	if p.For > 0 {
		lasts = fmt.Sprintf(" (for %v)", p.For)
	}
	r.event("service", "%v%s", p, lasts)
}

// change tells what the breaker does. A probe that fails is one line, not two.
func (r *report) change(c breaker.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.To == breaker.HalfOpen {
		r.probing = true
		return
	}
	path := fmt.Sprintf("%v → %v", c.From, c.To)
	if r.probing {
		path, r.probing = fmt.Sprintf("%v → %v → %v", breaker.Open, c.From, c.To), false
	}
	now := time.Now()
	if c.To == breaker.Closed {
		down := ""
		if !r.down.IsZero() {
			down = fmt.Sprintf(", after %.1fs", now.Sub(r.down).Seconds())
		}
		r.down = time.Time{}
		r.line("breaker", "%s: %d probes succeeded%s; %s to replay", path, c.Calls, down, plural(r.counts().Waiting, "order"))
		return
	}
	if r.down.IsZero() {
		r.down = now
	}
	r.line("breaker", "%s: %s; next probe in %.1fs", path, changeWhy(c), c.Delay.Seconds())
}

func changeWhy(c breaker.Change) string {
	last := ""
	if c.Err != nil {
		last = why(c.Err)
	}
	switch c.Rule {
	case breaker.RuleConsecutive:
		return fmt.Sprintf("%d failures in a row, the last %s", c.Bad, last)
	case breaker.RuleFailureRate:
		return fmt.Sprintf("%d of %d calls in %v failed, the last %s", c.Bad, c.Calls, c.Window, last)
	case breaker.RuleProbeFailed:
		return "the probe failed: " + last
	default:
		return string(c.Rule)
	}
}

// queued tells that an order went into the queue: the first of a backlog as a line,
// the others in the next progress line.
func (r *report) queued(rec store.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reasons[rec.Reason]++
	if r.backlog.IsZero() {
		r.backlog = time.Now()
		r.line("queue", "order %s of %s is queued to be tried again: %s", rec.Order.ID, rec.Order.Customer, rec.Reason)
	}
}

// replayed tells that a queued order is paid, by way of the end of a backlog.
func (r *report) replayed(rec store.Record, again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if again {
		r.again++
	}
	r.recovered++
	r.customers[rec.Order.Customer] = true
	r.oldest = max(r.oldest, rec.Final.Sub(rec.At))
	r.drained()
}

// drained tells when the queue has become empty. The caller holds mu.
func (r *report) drained() {
	if r.full = false; r.backlog.IsZero() || r.counts().Waiting > 0 {
		return
	}
	if r.recovered > 0 {
		r.line("queue", "empty: replayed %s of %s, the oldest %.1fs old",
			plural(r.recovered, "order"), plural(len(r.customers), "customer"), r.oldest.Seconds())
	}
	r.backlog, r.recovered, r.oldest = time.Time{}, 0, 0
	clear(r.customers)
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// were is plural with its verb, in the past.
func were(n int, noun string) string {
	if n == 1 {
		return "1 " + noun + " was"
	}
	return plural(n, noun) + " were"
}

// buried tells that an order went to the dead letters.
func (r *report) buried(rec store.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.line("dead", "order %s of %s can never be paid: %s", rec.Order.ID, rec.Order.Customer, rec.Reason)
	r.drained()
}

// blocked tells, once until it has room again, that the queue is full.
func (r *report) blocked(capacity int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.full {
		r.full = true
		r.line("queue", "full: %d orders are not settled, so no more are accepted until one is", capacity)
	}
}
