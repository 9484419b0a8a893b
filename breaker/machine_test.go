package breaker

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

var errDown = errors.New("down")

// Two calls that both saw their rule hold open the breaker once: the second comes
// from a generation that is over by then.
//
// Spec: B4, B6
func TestSecondOpenIsVoid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		b := New(Config{OnChange: func(Change) { told++ }})
		gen := b.phase.Load().gen
		for range 2 {
			b.open(context.Background(), gen, Change{Rule: RuleConsecutive, Bad: 10, Err: errDown})
		}
		if s := b.Stats(); s.Generation != gen+1 || told != 1 {
			t.Errorf("%d generations later, %d changes told; want 1 and 1", s.Generation-gen, told)
		}
		if d := b.RemainingDelay(); d >= 2*time.Second {
			t.Errorf("the delay grew to %v", d)
		}
	})
}

// The first call after the ramp ends it, so that the next ones take the short way
// again and draw no lots.
//
// Spec: B26
func TestRampEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Config{Ramp: time.Minute, Successes: 1})
		call := func() { _ = b.Do(context.Background(), func(context.Context) error { return nil }) }
		b.Trip("test")
		time.Sleep(b.RemainingDelay())
		call()
		closed := b.phase.Load()
		if closed.state != Closed || closed.plain {
			t.Fatalf("after the probe: %v, plain: %v", closed.state, closed.plain)
		}
		time.Sleep(time.Minute - 1)
		call()
		if b.phase.Load() != closed {
			t.Error("the ramp ended too early")
		}
		time.Sleep(time.Nanosecond)
		call()
		if ph := b.phase.Load(); !ph.plain || ph.gen != closed.gen || ph.counts != closed.counts {
			t.Errorf("after the ramp: plain: %v, generation %d after %d", ph.plain, ph.gen, closed.gen)
		}
	})
}

// Windows whose span stays are kept as they are, so that calls that end meanwhile are
// counted: all but those that are stale, which old events would come back to life in.
//
// Spec: B25
func TestReconfigureKeepsItsWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Config{Window: 20 * time.Second, SlowCall: time.Second}
		b := New(c)
		old := b.phase.Load().counts
		c.MinCalls = 7
		if err := b.Reconfigure(c); err != nil {
			t.Fatal(err)
		}
		if now := b.phase.Load().counts; now.rate != old.rate || now.slow.calls != old.slow.calls {
			t.Error("windows of the same span were replaced")
		}
		time.Sleep(365 * 24 * time.Hour)
		if err := b.Reconfigure(c); err != nil {
			t.Fatal(err)
		}
		if now := b.phase.Load().counts; now.rate.Stale(b.clock.Now()) || now.slow.calls.Stale(b.clock.Now()) {
			t.Error("a stale window was kept")
		}
	})
}

// Who must go when room is needed: first who is closed, well and not asked for, then
// who failed lately, then who is in use; of the others only who is open, due to probe
// and forgotten. Any two agree with that order, and those at its end stay.
//
// Spec: B29
func TestLeastMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		with := func(asked bool, set func(b *Breaker)) func() *entry {
			return func() *entry {
				e := &entry{breaker: New(Config{})}
				set(e.breaker)
				e.asked.Store(asked)
				return e
			}
		}
		call := func(b *Breaker, err error) {
			_ = b.Do(context.Background(), func(context.Context) error { return err })
		}
		fail := func(b *Breaker) { call(b, errDown) }
		succeed := func(b *Breaker) { call(b, nil) }
		due := func(b *Breaker) { b.Trip("test"); time.Sleep(b.RemainingDelay()) }
		failThen := func(then func(b *Breaker)) func(b *Breaker) { return func(b *Breaker) { fail(b); then(b) } }
		order := []map[string]func() *entry{
			{"idle": with(false, func(*Breaker) {})},
			{
				"failed lately":            with(false, fail),
				"failed, then succeeded":   with(false, failThen(succeed)),
				"failed, not called since": with(false, failThen(func(*Breaker) { time.Sleep(time.Minute) })),
			},
			{"in use": with(true, func(*Breaker) {}), "in use and failing": with(true, fail)},
			{"due": with(false, due)},
		}
		stays := map[string]func() *entry{
			"due, in use":   with(true, due),
			"open":          with(false, func(b *Breaker) { b.Trip("test") }),
			"half-open":     with(false, func(b *Breaker) { due(b); _, _ = b.Acquire(context.Background()) }),
			"forced open":   with(false, func(b *Breaker) { b.ForceOpen(Override{}) }),
			"forced closed": with(false, func(b *Breaker) { b.ForceClosed(Override{}) }),
		}
		later := maps.Clone(stays)
		for _, equals := range slices.Backward(order) {
			for first, v := range equals {
				for second, other := range later {
					for range 20 { // a map is walked in another order each time
						keys := map[string]*entry{first: v()}
						keys[second] = other() // last, for what is open is so for a while only
						if victim, ok := leastMissed(keys); !ok || victim != first {
							t.Fatalf("of %q and %q, %q had to go (%v)", first, second, victim, ok)
						}
					}
				}
			}
			maps.Copy(later, equals)
		}
		for name, stay := range stays {
			if victim, ok := leastMissed(map[string]*entry{name: stay()}); ok {
				t.Errorf("%q had to go", victim)
			}
		}
	})
}

// Being asked for saves a key once: what nobody asks for again goes the next time.
//
// Spec: B29
func TestLookUsesUpBeingAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := map[string]*entry{"due": {breaker: New(Config{})}}
		b := keys["due"].breaker
		b.Trip("test")
		time.Sleep(b.RemainingDelay())
		keys["due"].asked.Store(true)
		if _, ok := leastMissed(keys); ok {
			t.Error("a key that was just asked for had to go")
		}
		if _, ok := leastMissed(keys); !ok {
			t.Error("a key that nobody asked for since was kept")
		}
	})
}
