package breaker

import (
	"context"
	"fmt"
	"time"

	"github.com/mettle-go/mettle/internal/window"
)

// Override holds a breaker open or closed by hand.
type Override struct {
	For    time.Duration // how long; zero: until Release
	By     string        // who, for those who find it
	Reason string        // why
}

// ForceOpen makes the breaker refuse every call, probes included, until the
// override ends. It replaces an override in force. Beneath it the breaker lives on:
// calls in flight count as they end. A negative For panics.
func (b *Breaker) ForceOpen(o Override) { b.override(Open, o) }

// ForceClosed makes the breaker admit every call until the override ends. It
// replaces an override in force. Beneath it the breaker lives on: it opens, lets
// probes pass and closes again, and when the override ends its own state shows. A
// negative For panics.
func (b *Breaker) ForceClosed(o Override) { b.override(Closed, o) }

func (b *Breaker) override(state State, o Override) {
	if o.For < 0 {
		panic(fmt.Sprintf("breaker: Override.For is %v, must be positive, or zero for until Release", o.For))
	}
	f := &force{Override: o, state: state, until: forever}
	c := Change{Rule: RuleForced, To: state, By: o.By, Reason: o.Reason}
	t := b.begin(b.clock.Now())
	if o.For > 0 {
		f.until = add(t.now, o.For)
	}
	next := *t.phase()
	if state == Open {
		until := f.until
		if next.state == Open {
			until = max(until, next.until)
		}
		f.refusal = t.refusal(&next, refusedForced, "is "+c.why(), until)
	}
	next.force = f
	t.publish(&next, c)
	t.end(context.Background())
}

// Release ends an override, if there is one, and the breaker's own state shows.
func (b *Breaker) Release() {
	t := b.begin(b.clock.Now())
	if ph := t.phase(); ph.force != nil {
		t.release(ph, "")
	}
	t.end(context.Background())
}

// Trip opens the breaker as a rule would, for the reason given: it probes when its
// delay is over. Tripping an open breaker changes nothing.
func (b *Breaker) Trip(reason string) { b.trip(Change{Rule: RuleTrip, Reason: reason}) }

func (b *Breaker) trip(c Change) {
	t := b.begin(b.clock.Now())
	if ph := t.phase(); ph.state != Open {
		t.toOpen(ph, t.now, ph.delay(t.now, 0), c)
	}
	t.end(context.Background())
}

// Reset closes the breaker and forgets: counts, growing delays and the ramp. Calls
// in flight report to nobody. An override stays.
func (b *Breaker) Reset() {
	t := b.begin(b.clock.Now())
	t.toClosed(t.phase(), Change{Rule: RuleReset})
	t.end(context.Background())
}

// Reconfigure replaces the configuration and keeps state, window and generation.
// A delay or lease that runs keeps its end; what begins later follows the new
// configuration. Each call sees one whole configuration. An invalid one is refused
// whole, as is one with another Name; an empty Name keeps the name.
func (b *Breaker) Reconfigure(c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	t := b.begin(b.clock.Now())
	defer t.end(context.Background())
	ph := t.phase()
	if c.Name != "" && c.Name != ph.set.name {
		return fmt.Errorf("breaker: Name is %q, must stay %q or be empty", c.Name, ph.set.name)
	}
	c.Name = ph.set.name
	next := *ph
	next.set = newSettings(c)
	next.counts = ph.counts.reconfigured(ph.set, next.set, t.now)
	if ph.state == Closed {
		next.down = ph.trouble(t.now) // by the window that it was, not by a longer one
	}
	if next.half != nil {
		next.half.publish(next.set.probes)
	}
	t.publish(&next, Change{})
	return nil
}

// reconfigured returns the counts under new settings: the same windows where their
// span stays, their content moved over where it does not. A call that ends at that
// very moment may be counted in the old one alone, and so be missing.
func (c *counts) reconfigured(old, set *settings, now int64) *counts {
	fresh := newCounts(set, now, c)
	fresh.run.Store(c.run.Load())
	if fresh.slow != nil && c.slow != nil {
		fresh.slow.calls = moved(fresh.slow.calls, c.slow.calls, old, set, now)
		if old.slowCall == set.slowCall && old.probeTimeout == set.probeTimeout {
			fresh.slow.flying = c.slow.flying // else calls in flight count when they end
		}
	}
	rate := fresh.rate
	if fresh.rate = moved(rate, c.rate, old, set, now); fresh.rate != rate {
		fresh.past = c.past // the window brings its own along
	}
	return fresh
}

// moved returns the window that takes the place of from: fresh, which may be nil for
// none, if there is nothing to keep.
func moved(fresh, from *window.Window, old, set *settings, now int64) *window.Window {
	switch {
	case fresh == nil || from == nil || from.Stale(now):
		return fresh
	case old.window == set.window:
		return from
	default:
		return from.Resize(set.window, now)
	}
}
