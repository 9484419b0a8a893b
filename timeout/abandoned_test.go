package timeout_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/timeout"
)

// deaf does not look at its context.
func deaf(context.Context) error {
	time.Sleep(10 * after)
	return nil
}

// callsTheDeaf is what a stack ought to show.
func callsTheDeaf(ctx context.Context, p mettle.Policy) error { return p.Do(ctx, deaf) }

func wantDeaf(t *testing.T, a timeout.Abandoned, over time.Duration, running bool) {
	t.Helper()
	if !strings.HasSuffix(a.Op, ".deaf") || a.After != after || a.Over != over || a.Running != running {
		t.Errorf("%+v, want deaf, %v over %v, running: %v", a, over, after, running)
	}
	if !strings.Contains(a.Stack, ".callsTheDeaf\n\t") || !strings.Contains(a.Stack, "abandoned_test.go:") {
		t.Errorf("the stack does not show the caller:\n%s", a.Stack)
	}
	if strings.Contains(a.Stack, "runtime.Callers") || strings.Contains(a.Stack, "(*samples)") {
		t.Errorf("the stack shows how it was taken:\n%s", a.Stack)
	}
	if s := a.String(); !strings.Contains(s, a.Stack) || !strings.HasPrefix(s, a.Op) {
		t.Errorf("String = %q", s)
	}
}

// An operation deaf to its context shows while it runs, when it has returned, and
// with where it was called.
//
// Spec: T6, T2
func TestAbandonedWork(t *testing.T) {
	forEachForm(t, func(t *testing.T, p *timeout.Timeout, bound mettle.Policy) {
		var wg sync.WaitGroup
		wg.Go(func() { _ = callsTheDeaf(t.Context(), bound) })
		time.Sleep(after + after/10)
		wantStats(t, p, timeout.Stats{})
		time.Sleep(after / 3) // a third late
		wantStats(t, p, timeout.Stats{Overdue: 1})
		if a := p.Abandoned(); len(a) != 0 {
			t.Errorf("%v: kept of a call that began when nothing was suspected", a)
		}
		wg.Wait()
		wantStats(t, p, timeout.Stats{Late: 1, Abandoned: 1})
		a := p.Abandoned()
		if len(a) != 1 {
			t.Fatalf("%d calls are kept, want 1", len(a))
		}
		wantDeaf(t, a[0], 9*after, false)
	})
}

// What hangs for ever is not counted as having returned, and shows with its stack if
// it began when abandoned work had been seen before.
//
// Spec: T6
func TestOverdue(t *testing.T) {
	forEachForm(t, func(t *testing.T, p *timeout.Timeout, bound mettle.Policy) {
		const calls = 5
		hang := make(chan struct{})
		var wg sync.WaitGroup
		for range calls {
			wg.Go(func() {
				_ = bound.Do(t.Context(), func(context.Context) error { <-hang; return errDown })
			})
			time.Sleep(10 * after) // far enough for the count to change its place
		}
		wantStats(t, p, timeout.Stats{Overdue: calls})
		time.Sleep(1000 * after)
		wantStats(t, p, timeout.Stats{Overdue: calls})
		_ = bound.Do(t.Context(), func(context.Context) error { return nil })
		var running int
		for _, a := range p.Abandoned() {
			if a.Running && a.Over >= 1000*after && strings.Contains(a.Op, "TestOverdue") {
				running++
			}
		}
		if running < 2 {
			t.Errorf("%d of the calls that hang are kept: %v", running, p.Abandoned())
		}
		close(hang)
		wg.Wait()
		wantStats(t, p, timeout.Stats{Exceeded: calls, Abandoned: calls})
		for _, a := range p.Abandoned() {
			if a.Running {
				t.Errorf("%v: has returned", a)
			}
		}
	})
}

// However many there are and however long it goes on, few are kept, and the newest.
//
// Spec: T6
func TestAbandonedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := timeout.New(timeout.Config{After: after})
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * after / 10)
				_ = callsTheDeaf(t.Context(), p)
			})
		}
		wg.Wait()
		if n := p.Stats().Abandoned; n != 200 {
			t.Errorf("%d calls counted, want 200", n)
		}
		kept := p.Abandoned()
		if len(kept) != 8 {
			t.Fatalf("%d calls kept, want 8", len(kept))
		}
		for _, a := range kept {
			wantDeaf(t, a, 9*after, false)
		}
	})
}

// A healthy call is not watched: not before anything was seen, and not a minute after.
// One that is watched and comes back in time is not kept.
//
// Spec: T6, P13
func TestWatchingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := timeout.New(timeout.Config{After: after})
		_ = callsTheDeaf(t.Context(), p)
		for range 200 { // watched, some of them
			_ = p.Do(t.Context(), func(context.Context) error { time.Sleep(after / 2); return nil })
		}
		wantStats(t, p, timeout.Stats{Late: 1, Abandoned: 1})
		if n := len(p.Abandoned()); n != 1 {
			t.Errorf("%d calls kept, want 1", n)
		}
		time.Sleep(time.Minute)
		// A second is enough for another call to be watched, and for the wall clock to be looked
		// at by every other call.
		if n := testing.AllocsPerRun(100, func() { time.Sleep(time.Second); _ = p.Do(t.Context(), quick) }); n != 1 {
			t.Errorf("%v allocations a minute after abandoned work was seen", n)
		}
	})
}

// Of several that are in time, one is watched, and none is told of.
//
// Spec: T6
func TestWatchedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := timeout.New(timeout.Config{After: 10 * after})
		var wg sync.WaitGroup
		wg.Go(func() { _ = p.Do(t.Context(), func(context.Context) error { time.Sleep(20 * after); return nil }) })
		wg.Wait() // from now on calls are watched
		for range 3 {
			time.Sleep(2 * after)
			wg.Go(func() { _ = p.Do(t.Context(), func(context.Context) error { time.Sleep(9 * after); return nil }) })
		}
		time.Sleep(after)
		if a := p.Abandoned(); len(a) != 1 || a[0].Running {
			t.Errorf("%v, want the one that has returned alone", a)
		}
		wg.Wait()
	})
}

// A call in flight shows in no count of the overdue once it has ended, however it ends.
//
// Spec: T6, P5
func TestOverdueIsGivenBack(t *testing.T) {
	gone := errors.New("gone")
	for name, end := range map[string]func() error{
		"success": func() error { return nil },
		"failure": func() error { return gone },
		"panic":   func() error { panic("boom") },
		"Goexit":  func() error { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			forEachForm(t, func(t *testing.T, p *timeout.Timeout, bound mettle.Policy) {
				for _, takes := range []time.Duration{0, after / 2, 3 * after, 100 * after} {
					var wg sync.WaitGroup
					for range 3 {
						wg.Go(func() {
							defer func() { _ = recover() }()
							_ = bound.Do(t.Context(), func(context.Context) error { time.Sleep(takes); return end() })
						})
					}
					time.Sleep(50 * after) // others take over the place of those that hang
					_ = bound.Do(t.Context(), quick)
					wg.Wait()
					time.Sleep(10 * after)
					if n := p.Stats().Overdue; n != 0 {
						t.Errorf("after calls of %v: %d overdue, want none", takes, n)
					}
					for _, a := range p.Abandoned() {
						if a.Running {
							t.Errorf("%v: it does not run", a)
						}
					}
				}
			})
		})
	}
}

// Nothing is lost and nothing is left when many begin and end at once while others look.
//
// Spec: T6, P11
func TestAbandonedConcurrently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := timeout.New(timeout.Config{After: 10 * time.Millisecond})
		var wg sync.WaitGroup
		for i := range 400 {
			wg.Go(func() {
				for n := range 5 {
					_ = p.Do(t.Context(), func(context.Context) error {
						time.Sleep(time.Duration((i*7+n*13)%90) * time.Millisecond)
						return nil
					})
				}
			})
		}
		for range 20 {
			time.Sleep(10 * time.Millisecond)
			if n := p.Stats().Overdue; n > 400 {
				t.Errorf("%d overdue of 400", n)
			}
			p.Abandoned()
		}
		wg.Wait()
		time.Sleep(time.Second)
		if s := p.Stats(); s.Overdue != 0 || s.Late == 0 || s.Abandoned == 0 || s.Late < s.Abandoned {
			t.Errorf("Stats = %+v", s)
		}
	})
}

// A call that was shown as running is not shown any more when it has ended in a way that
// counts as nothing. It was kept for good, and seemed to run for longer and longer, when
// it had panicked or its caller had left before the deadline.
//
// Spec: T6, P5, T3
func TestKeptCallThatCountsAsNothing(t *testing.T) {
	for name, end := range map[string]func(ctx, entered context.Context){
		"panic":         func(context.Context, context.Context) { panic("boom") },
		"Goexit":        func(context.Context, context.Context) { runtime.Goexit() },
		"stopped":       func(ctx, entered context.Context) { timeout.Stop(ctx, entered) },
		"caller leaves": func(context.Context, context.Context) {},
	} {
		t.Run(name, func(t *testing.T) {
			forEachForm(t, func(t *testing.T, p *timeout.Timeout, bound mettle.Policy) {
				_ = bound.Do(t.Context(), deaf) // from now on calls are watched
				time.Sleep(after)
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				var wg sync.WaitGroup
				wg.Go(func() {
					defer func() { _ = recover() }()
					_ = bound.Do(ctx, func(inner context.Context) error {
						time.Sleep(20 * after)
						end(inner, ctx)
						return inner.Err()
					})
				})
				time.Sleep(after / 2)
				if name == "caller leaves" {
					leave()
				}
				time.Sleep(5 * after)
				_ = bound.Do(t.Context(), quick) // is watched in the place of the one that hangs
				if a := p.Abandoned(); len(a) != 2 || !a[0].Running {
					t.Fatalf("%v, want one that runs and one that has returned", a)
				}
				wg.Wait()
				if a := p.Abandoned(); len(a) != 1 || a[0].Running {
					t.Errorf("%v, want the one that has returned alone", a)
				}
				wantStats(t, p, timeout.Stats{Late: 1, Abandoned: 1})
			})
		})
	}
}
