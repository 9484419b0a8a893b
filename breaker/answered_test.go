package breaker_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
)

// wearings are the ways in which an operation can be a probe.
var wearings = map[string]func(*breaker.Breaker) mettle.Policy{
	"Do":   func(b *breaker.Breaker) mettle.Policy { return b },
	"Wrap": func(b *breaker.Breaker) mettle.Policy { return mettle.Compose(b) },
}

// streaming runs an operation that answers, and goes on for an hour. It returns when the
// operation has answered.
func streaming(p mettle.Policy, end func() error) *sync.WaitGroup {
	var all sync.WaitGroup
	all.Go(func() {
		defer func() { _ = recover() }()
		_ = p.Do(ctx, func(inner context.Context) error {
			breaker.Answered(inner, ctx)
			time.Sleep(time.Hour)
			return end()
		})
	})
	synctest.Wait()
	return &all
}

// A stream that was a probe and went on for longer than ProbeTimeout made the breaker open
// again, however healthy it was, so that a dependency with nothing but such streams was
// given up for good.
//
// Spec: B13
func TestAnsweredProbe(t *testing.T) {
	ends := map[string]func() error{
		"in success":   func() error { return nil },
		"in failure":   func() error { return errDown },
		"with a panic": func() error { panic("boom") },
		"with Goexit":  func() error { runtime.Goexit(); return nil },
	}
	for form, wear := range wearings {
		for name, end := range ends {
			inBubble(t, form+" that ends "+name, func(t *testing.T) {
				b, l := probing(t, breaker.Config{SlowCall: time.Second})
				p := wear(b)
				first := streaming(p, end)
				wantState(t, b, breaker.HalfOpen)
				second := streaming(p, end) // the slot of the first is free
				wantState(t, b, breaker.Closed)
				first.Wait()
				second.Wait()
				wantState(t, b, breaker.Closed)
				s := b.Stats()
				if s.Succeeded != 2 || s.Failures+s.Timeouts+s.Ignored+s.Stale != 0 {
					t.Errorf("%+v, want two successes, and nothing of how they ended", s)
				}
				if got := l.path(); got != "closed open half-open closed" {
					t.Errorf("went %s", got)
				}
			})
		}
	}
	inBubble(t, "of a group", func(t *testing.T) {
		g := breaker.NewGroup[string](breaker.GroupConfig{Breadth: 0.5, MinKeys: 1})
		g.Get("k").Trip("test")
		g.Whole().Trip("test")
		time.Sleep(time.Second)
		p := g.By(func(context.Context) string { return "k" })
		streaming(p, ends["in failure"])
		streaming(p, ends["in failure"]).Wait()
		wantState(t, g.Get("k"), breaker.Closed)
		wantState(t, g.Whole(), breaker.Closed)
	})
}

// An operation that has not answered is as any other probe, and so is what Answered is told
// of too late.
//
// Spec: B13, B6
func TestAnsweredTooLate(t *testing.T) {
	inBubble(t, "after ProbeTimeout", func(t *testing.T) {
		b, _ := probing(t, breaker.Config{ProbeTimeout: time.Second, Successes: 1})
		_ = b.Do(ctx, func(inner context.Context) error {
			time.Sleep(time.Second)
			wantState(t, b, breaker.Open)
			breaker.Answered(inner, ctx)
			return nil
		})
		wantState(t, b, breaker.Open)
		if s := b.Stats(); s.Stale != 1 {
			t.Errorf("Stale = %d, want 1", s.Stale)
		}
	})
	inBubble(t, "after it was slow", func(t *testing.T) {
		b, _ := probing(t, breaker.Config{SlowCall: time.Second, Successes: 1})
		_ = b.Do(ctx, func(inner context.Context) error {
			time.Sleep(time.Second)
			breaker.Answered(inner, ctx)
			return nil
		})
		wantState(t, b, breaker.Open)
	})
	inBubble(t, "after the operation", func(t *testing.T) {
		b, _ := probing(t, breaker.Config{Successes: 1})
		var kept context.Context
		_ = b.Do(ctx, func(inner context.Context) error { kept = inner; return errDown })
		breaker.Answered(kept, ctx)
		wantState(t, b, breaker.Open)
		if s := b.Stats(); s.Stale != 0 {
			t.Errorf("Stale = %d, want 0", s.Stale)
		}
	})
}

// Only probes can answer before they end: any other call counts when it does.
func TestAnsweredWhileClosed(t *testing.T) {
	for _, c := range []breaker.Config{{Consecutive: 3}, {Consecutive: 3, SlowCall: time.Second}} {
		b := breaker.New(c)
		for _, p := range []mettle.Policy{b, mettle.Compose(b), b} {
			wantState(t, b, breaker.Closed)
			_ = p.Do(ctx, func(inner context.Context) error { breaker.Answered(inner, ctx); return errDown })
		}
		wantState(t, b, breaker.Open)
	}
}

// The breakers that an adapter's caller has around it all are none of its business.
func TestAnsweredWithinThePipeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		around, _ := probing(t, breaker.Config{Successes: 1})
		outer, _ := probing(t, breaker.Config{Successes: 1})
		inner, _ := probing(t, breaker.Config{Successes: 1})
		_ = around.Do(ctx, func(entered context.Context) error {
			return mettle.Compose(outer, inner).Do(entered, func(ctx context.Context) error {
				breaker.Answered(context.WithoutCancel(ctx), entered)
				wantState(t, outer, breaker.Closed)
				wantState(t, inner, breaker.Closed)
				wantState(t, around, breaker.HalfOpen)
				return errDown
			})
		})
		wantState(t, around, breaker.Open)
	})
}

// Whoever is first reports, alone.
//
// Spec: B15
func TestAnsweredAsItEnds(t *testing.T) {
	for range 100 {
		b := breaker.New(breaker.Config{OpenFor: time.Nanosecond, MaxOpenFor: time.Nanosecond, Successes: 10})
		b.Trip("test")
		for b.RemainingDelay() > 0 {
			runtime.Gosched()
		}
		var others sync.WaitGroup
		_ = b.Do(ctx, func(inner context.Context) error {
			for range 3 {
				others.Go(func() { breaker.Answered(inner, ctx) })
			}
			runtime.Gosched()
			return nil
		})
		others.Wait()
		if s := b.Stats(); s.Succeeded != 1 || s.Stale != 0 {
			t.Fatalf("%+v, want one success", s)
		}
	}
}

// A hook that panics does so where the answer was reported, and the end is no second one.
//
// Spec: P6
func TestHookPanicsInAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		b := breaker.New(breaker.Config{Successes: 1, OnChange: func(c breaker.Change) {
			if c.To == breaker.Closed {
				panic(boom)
			}
		}})
		b.Trip("test")
		time.Sleep(b.RemainingDelay())
		var got any
		err := b.Do(ctx, func(inner context.Context) error {
			defer func() { got = recover() }()
			breaker.Answered(inner, ctx)
			return nil
		})
		if got != boom || err != nil {
			t.Errorf("panicked with %v, returned %v", got, err)
		}
		wantState(t, b, breaker.Closed)
		if s := b.Stats(); s.Succeeded != 1 || s.Failures != 0 {
			t.Errorf("%+v, want one success", s)
		}
	})
}
