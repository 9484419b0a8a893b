package breaker_test

import (
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle/breaker"
)

// A hook that never returns holds up the call that ran it, and nothing else: the breaker
// goes through all its states, other calls return, and other breakers tell of theirs.
// What changes meanwhile is told when it returns after all, in order.
//
// Spec: B24
func TestHookThatNeverReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, never := &log{}, make(chan struct{})
		b := breaker.New(breaker.Config{Consecutive: 1, Successes: 1, OnChange: func(c breaker.Change) { <-never; l.add(c) }})
		stuck := true
		go func() { calls(b, 1, errDown); stuck = false }()
		synctest.Wait()
		const rounds = 100
		for range rounds {
			wantState(t, b, breaker.Open)
			time.Sleep(b.RemainingDelay())
			if got := calls(b, 1, nil); got != 1 {
				t.Fatal("the probe was refused")
			}
			wantState(t, b, breaker.Closed)
			calls(b, 1, errDown)
		}
		other, heard := opened(t, breaker.Config{})
		other.Reset()
		if got := heard.path(); got != "closed open closed" {
			t.Errorf("another breaker told %s", got)
		}
		if synctest.Wait(); !stuck || len(l.all()) != 0 {
			t.Errorf("the hook was called again: %d times", len(l.all()))
		}
		close(never)
		synctest.Wait()
		at := breaker.Closed
		for i, c := range l.all() {
			if c.From != at {
				t.Fatalf("change %d is %v after %v", i, c, at)
			}
			at = c.To
		}
		if got := len(l.all()); stuck || got != 1+3*rounds {
			t.Errorf("told %d changes, want %d", got, 1+3*rounds)
		}
	})
}

// A machine that slept, or a container that was frozen, comes back much later than any
// delay. Readings are of the monotonic clock, which no step of the wall clock moves, so
// that forward is the only way to jump: whatever the state, what was due is due, and
// what is far from the present counts for nothing.
//
// Spec: B16, B27
func TestClockThatJumps(t *testing.T) {
	c := breaker.Config{Consecutive: -1, MinCalls: 2, Successes: 1, SlowCall: time.Second, Ramp: time.Second}
	const day = 24 * time.Hour
	for _, jump := range []time.Duration{
		day, 1<<31*time.Millisecond - 1, 1 << 31 * time.Millisecond, 1 << 32 * time.Millisecond, // 24 and 49 days
		100 * 365 * day, 200 * 365 * day,
	} {
		inBubble(t, fmt.Sprint("closed, ", jump), func(t *testing.T) {
			b := breaker.New(c)
			calls(b, 1, errDown)
			flying := acquire(t, b)
			time.Sleep(jump)
			calls(b, 1, errDown)
			if s := b.Stats(); s.State != breaker.Closed || s.Calls != 1 || s.Failed != 1 {
				t.Errorf("a failure from before counts: %+v", s)
			}
			flying.Done(errDown) // it is late, and counts now
			wantState(t, b, breaker.Open)
		})
		inBubble(t, fmt.Sprint("open, ", jump), func(t *testing.T) {
			b, _ := opened(t, c)
			time.Sleep(jump)
			if d := b.RemainingDelay(); d != 0 || calls(b, 1, nil) != 1 {
				t.Errorf("no probe was admitted, with %v left", d)
			}
			time.Sleep(jump) // the ramp is over
			if got := calls(b, 100, nil); got != 100 || b.Stats().Calls != 100 {
				t.Errorf("%d of 100 calls were admitted, %d counted", got, b.Stats().Calls)
			}
		})
		inBubble(t, fmt.Sprint("half-open, ", jump), func(t *testing.T) {
			b, l := probing(t, c)
			hung := acquire(t, b)
			time.Sleep(jump)
			if d := b.RemainingDelay(); d != 0 {
				t.Errorf("%v are left of an opening that began and ended meanwhile", d)
			}
			if got := calls(b, 1, nil); got != 1 {
				t.Error("the probe that hung holds its slot")
			}
			hung.Done(errDown)
			wantState(t, b, breaker.Closed)
			if got := l.path(); got != "closed open half-open open half-open closed" {
				t.Errorf("went %s", got)
			}
		})
		inBubble(t, fmt.Sprint("overridden, ", jump), func(t *testing.T) {
			b := breaker.New(c)
			b.ForceOpen(breaker.Override{For: jump})
			time.Sleep(jump - 1)
			if got := b.RemainingDelay(); got != 1 || calls(b, 1, nil) != 0 {
				t.Errorf("%v are left of the override, want 1ns", got)
			}
			time.Sleep(time.Nanosecond)
			if got := calls(b, 1, nil); got != 1 {
				t.Error("the override did not end")
			}
		})
	}
	inBubble(t, "to the end of the clock", func(t *testing.T) {
		b, _ := opened(t, breaker.Config{Successes: 1})
		b.ForceOpen(breaker.Override{For: math.MaxInt64})
		time.Sleep(math.MaxInt64) // 292 years
		if d := b.RemainingDelay(); d < 0 {
			t.Errorf("RemainingDelay is %v", d)
		}
		b.Release()
		if got := calls(b, 2, nil); got != 2 {
			t.Errorf("%d of 2 calls were admitted", got)
		}
	})
}

// A permit knows its breaker. Whatever variable it is in and however often it is done,
// it counts for that one, once.
//
// Spec: B15
func TestPermitsOfTwoBreakers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := breaker.Config{Consecutive: 2, Successes: 1, Probes: 1}
		a, _ := probing(t, c)
		b := breaker.New(c)
		p, q := acquire(t, a), acquire(t, b)
		p, q = q, p // which a careless caller mixed up
		p.Done(errDown)
		p.Done(errDown)
		if s := b.Stats(); s.State != breaker.Closed || s.Consecutive != 1 {
			t.Errorf("a permit done twice: %+v", s)
		}
		if s := a.Stats(); s.State != breaker.HalfOpen || s.Probes != 1 {
			t.Errorf("another breaker's permit: %+v", s)
		}
		q.Done(nil)
		wantState(t, a, breaker.Closed)
		p = acquire(t, a) // the variable is used again
		p.Done(errDown)
		if sa, sb := a.Stats(), b.Stats(); sa.Consecutive != 1 || sb.Consecutive != 1 {
			t.Errorf("%d and %d failures in a row, want one each", sa.Consecutive, sb.Consecutive)
		}
	})
}
