package breaker_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
)

// A healthy call takes a shorter way through Done than any other, and counts once on
// that way too.
//
// Spec: B15
func TestHealthyPermitOnce(t *testing.T) {
	inBubble(t, "window", func(t *testing.T) {
		b := breaker.New(breaker.Config{})
		calls(b, 30, nil)
		p := acquire(t, b)
		p.Done(nil)
		p.Done(nil)
		if s := b.Stats(); s.Calls != 31 || s.Succeeded != 31 {
			t.Errorf("stats are %+v", s)
		}
	})
	inBubble(t, "run", func(t *testing.T) {
		b := breaker.New(breaker.Config{Consecutive: 2, FailureRate: -1})
		p := acquire(t, b)
		p.Done(nil)
		calls(b, 1, errDown)
		p.Done(nil)
		if got := b.Stats().Consecutive; got != 1 {
			t.Errorf("%d failures in a row, want 1", got)
		}
	})
}

// What a crash counts as is a failure: nobody waited for it in vain.
//
// Spec: P5, B12
func TestCrashIsAFailure(t *testing.T) {
	for name, newBreaker := range map[string]func(t *testing.T) *breaker.Breaker{
		"closed":    func(*testing.T) *breaker.Breaker { return breaker.New(breaker.Config{}) },
		"half-open": func(t *testing.T) *breaker.Breaker { b, _ := probing(t, breaker.Config{}); return b },
	} {
		inBubble(t, name, func(t *testing.T) {
			b := newBreaker(t)
			_ = caught(func() { _ = b.Do(ctx, func(context.Context) error { panic("boom") }) })
			if s := b.Stats(); s.Failures != 1 || s.Timeouts != 0 || s.Overloads != 0 || s.Succeeded != 0 {
				t.Errorf("stats are %+v", s)
			}
		})
	}
}

// A call that only an override let pass moves no rule, and is in the totals.
//
// Spec: B23
func TestFreeCallsAreInTheTotals(t *testing.T) {
	for name, c := range map[string]breaker.Config{"rates": {}, "no rates": {FailureRate: -1}} {
		inBubble(t, name, func(t *testing.T) {
			c.OpenFor = time.Hour
			b, _ := opened(t, c)
			b.ForceClosed(breaker.Override{})
			calls(b, 50, nil)
			calls(b, 50, errDown)
			if s := b.Stats(); s.Succeeded != 50 || s.Failures != 50 || s.Machine != breaker.Open || s.Generation != 1 {
				t.Errorf("stats are %+v", s)
			}
		})
	}
}

// Of two probes the older runs out, and counts as one timeout. The other belongs to a
// state that is over, and what it reports is as void as what the older does.
//
// Spec: B13
func TestForfeitedProbeIsOneTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := probing(t, breaker.Config{Probes: 2, ProbeTimeout: 10 * time.Second})
		older := acquire(t, b)
		time.Sleep(time.Second)
		younger := acquire(t, b)
		time.Sleep(9 * time.Second)
		calls(b, 1, nil) // somebody has to come for it to be noticed
		wantState(t, b, breaker.Open)
		older.Done(nil)
		younger.Done(errDown)
		if s := b.Stats(); s.Timeouts != 1 || s.Failures != 0 || s.Succeeded != 0 || s.Stale != 2 {
			t.Errorf("stats are %+v", s)
		}
	})
}

// Epochs come round after 16 million buckets, 121 days here: what was counted then is
// not in the window, though by its low bits it would be.
//
// Spec: B27, P12
func TestStatsOfAStaleWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window = 10 * time.Second
		b := breaker.New(breaker.Config{Window: window, SlowCall: time.Second, Consecutive: -1})
		p := acquire(t, b)
		time.Sleep(time.Second)
		p.Done(errDown)
		if s := b.Stats(); s.Calls != 1 || s.Failed != 1 || s.Slow != 1 {
			t.Fatalf("stats are %+v", s)
		}
		time.Sleep(1 << 24 * window / 16)
		if s := b.Stats(); s.Calls != 0 || s.Failed != 0 || s.Slow != 0 || s.Failures != 1 {
			t.Errorf("stats are %+v", s)
		}
	})
}

// Failures in a row count however far apart, so that a window that is replaced after
// months without a call takes them along.
//
// Spec: B3
func TestRunOutlivesTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(breaker.Config{Consecutive: 3})
		for range 3 {
			wantState(t, b, breaker.Closed)
			time.Sleep(365 * 24 * time.Hour)
			calls(b, 1, errDown)
		}
		wantState(t, b, breaker.Open)
	})
}

// foreign is a context that somebody else has implemented: its deadline and its end
// need not come together, nor both show.
type foreign struct {
	context.Context
	deadline time.Time // zero: it shows none
	err      *error
}

func (c foreign) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }
func (c foreign) Err() error                  { return *c.err }

// The caller's time is over when its context says so or its deadline has passed,
// whichever comes first.
//
// Spec: B20
func TestCallersTimeIsOver(t *testing.T) {
	inBubble(t, "the context says so", func(t *testing.T) {
		b := breaker.New(breaker.Config{Consecutive: 1, SlowCall: time.Second})
		var err error
		p, _ := b.Acquire(foreign{Context: ctx, err: &err})
		err = context.DeadlineExceeded
		p.Done(err)
		wantState(t, b, breaker.Closed)
	})
	inBubble(t, "the deadline has passed", func(t *testing.T) {
		b := breaker.New(breaker.Config{Consecutive: 1})
		p, _ := b.Acquire(foreign{Context: ctx, err: new(error), deadline: time.Now().Add(time.Millisecond)})
		time.Sleep(time.Millisecond)
		p.Done(context.DeadlineExceeded)
		wantState(t, b, breaker.Closed)
	})
	inBubble(t, "neither", func(t *testing.T) {
		b := breaker.New(breaker.Config{Consecutive: 1})
		p, _ := b.Acquire(foreign{Context: ctx, err: new(error), deadline: time.Now().Add(time.Hour)})
		time.Sleep(time.Millisecond)
		p.Done(context.DeadlineExceeded)
		wantState(t, b, breaker.Open)
		if got := b.Stats().Timeouts; got != 1 {
			t.Errorf("Timeouts = %d, want 1", got)
		}
	})
}

// The classes of a failure are counted apart.
//
// Spec: P14 (part)
func TestFailuresAreCountedByClass(t *testing.T) {
	o := mettle.Success
	b := breaker.New(breaker.Config{Consecutive: -1, Classify: func(context.Context, error) mettle.Outcome { return o }})
	for _, o = range []mettle.Outcome{mettle.Failure, mettle.Overload, mettle.Overload, mettle.Timeout, mettle.Timeout, mettle.Timeout} {
		calls(b, 1, errDown)
	}
	if s := b.Stats(); s.Failures != 1 || s.Overloads != 2 || s.Timeouts != 3 || s.Failed != 6 {
		t.Errorf("stats are %+v", s)
	}
}

// A breaker whose callers get into each other's way counts apart, and counts every
// call: on the shortest way, under a next policy, with a deadline and by permits.
//
// Spec: B9, B32 (part)
func TestCallersInEachOthersWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(breaker.Config{Consecutive: -1, FailureRate: 0.5})
		calls(b, 30, nil)
		breaker.Stripe(b)
		bound := b.Wrap(mettle.Compose())
		soon, cancel := context.WithTimeout(ctx, time.Hour)
		defer cancel()
		const goroutines, each = 8, 500
		var wg sync.WaitGroup
		for g := range goroutines {
			wg.Go(func() {
				for i := range each {
					op := succeed
					if i%5 == 0 {
						op = fail
					}
					switch (g + i) % 4 {
					case 0:
						_ = b.Do(ctx, op)
					case 1:
						_ = bound.Do(ctx, op)
					case 2:
						_ = b.Do(soon, op)
					default:
						if p, err := b.Acquire(ctx); err == nil {
							p.Done(op(ctx))
						}
					}
				}
			})
		}
		wg.Wait()
		const all, failed = 30 + goroutines*each, goroutines * each / 5
		if s := b.Stats(); s.Calls != all || s.Failed != failed || s.Succeeded != all-failed || s.Failures != failed {
			t.Errorf("stats are %+v", s)
		}
		// What was counted apart counts for the rule: it holds at half, and not before.
		calls(b, all-2*failed-1, errDown)
		wantState(t, b, breaker.Closed)
		calls(b, 1, errDown)
		wantState(t, b, breaker.Open)
	})
}
