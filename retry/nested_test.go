package retry_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/retry"
)

// layers runs op under three retries, one inside the other, in two ways.
var layers = map[string]func(one, two, three *retry.Retrier, op func(ctx) error) error{
	"composed": func(one, two, three *retry.Retrier, op func(ctx) error) error {
		return mettle.Compose(one, two, three).Do(bg, op)
	},
	"called": func(one, two, three *retry.Retrier, op func(ctx) error) error {
		return one.Do(bg, func(ctx ctx) error {
			return two.Do(ctx, func(ctx context.Context) error { return three.Do(ctx, op) })
		})
	},
}

// Spec: R18
func TestNestedRetriesDoNotMultiply(t *testing.T) {
	for name, run := range layers {
		for _, nested := range []bool{false, true} {
			bubble(t, fmt.Sprint(name, ", Nested ", nested), func(t *testing.T) {
				c := retry.Config{MaxAttempts: 4, Backoff: retry.Constant(0), Budget: retry.NoBudget, Nested: nested}
				op := fails(errDown)
				one, two, three := retry.New(c), retry.New(c), retry.New(c)
				err := run(one, two, three, op.op)
				if !errors.Is(err, errDown) || !errors.Is(err, retry.ErrExhausted) {
					t.Errorf("got %v", err)
				}
				want, passed := 4, uint64(4)
				if nested {
					want, passed = 64, 0
				}
				if len(op.starts) != want || two.Stats().PassedThrough != passed {
					t.Errorf("%d calls, %d passed through; want %d, %d", len(op.starts), two.Stats().PassedThrough, want, passed)
				}
				if !nested && err.(*retry.Error).Last != errDown {
					t.Errorf("the inner retries have wrapped the failure: %v", err)
				}
			})
		}
	}
}

// A budget shared by layers earns once a success.
//
// Spec: R17, R18
func TestNestedRetryLeavesTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1, Start: 10})
		drain(b, mettle.Failure)
		r := retry.New(retry.Config{Budget: b})
		p := mettle.Compose(r, r, r)
		for range 10 {
			if err := p.Do(bg, fails(nil).op); err != nil {
				t.Fatal(err)
			}
		}
		if got := b.Balance(); got != 1 {
			t.Errorf("balance %v after ten successes, want 1", got)
		}
	})
}

// Work that an attempt leaves behind is still inside it, and passes through, unless it
// is told to resend by itself.
//
// Spec: R18
func TestDetachedWorkIsInsideTheAttempt(t *testing.T) {
	for nested, want := range map[bool]int{false: 1, true: 3} {
		synctest.Test(t, func(t *testing.T) {
			detached := fails(errDown)
			var work sync.WaitGroup
			_ = retry.New(retry.Config{}).Do(bg, func(ctx ctx) error {
				own := mettle.WithCall(context.WithoutCancel(ctx))
				work.Go(func() { _ = retry.New(retry.Config{Nested: nested}).Do(own, detached.op) })
				return nil
			})
			work.Wait()
			if len(detached.starts) != want {
				t.Errorf("Nested %v: %d attempts, want %d", nested, len(detached.starts), want)
			}
		})
	}
}

// A retry that passes through is still the one which an adapter entered with its call.
// It once left no mark, so that inside an outer retry the timeout of an attempt, further
// in, was taken for that of the whole call.
//
// Spec: R18, R19
func TestPassingThroughMarksTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempt := mettle.PolicyFunc(func(ctx ctx, op func(ctx) error) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			return op(ctx)
		})
		inner := mettle.Compose(retry.New(retry.Config{}), attempt)
		for _, adapter := range []bool{true, false} {
			outer := fails(errDown, nil)
			err := retry.New(retry.Config{}).Do(bg, func(outermost ctx) error {
				entered := outermost
				if adapter {
					entered = mettle.WithCall(outermost)
				}
				want := mettle.CallContext(entered) // of the adapter's call, or of the outer retry's
				return inner.Do(entered, func(ctx context.Context) error {
					if mettle.CallContext(ctx) != want || mettle.Attempt(ctx) != mettle.Attempt(outermost) {
						t.Errorf("adapter %v, attempt %d of the outer retry: got the call of %v and attempt %d",
							adapter, mettle.Attempt(outermost), mettle.CallContext(ctx), mettle.Attempt(ctx))
					}
					return outer.op(ctx)
				})
			})
			if err != nil || len(outer.starts) != 2 {
				t.Errorf("%d attempts, %v", len(outer.starts), err)
			}
		}
	})
}

// Spec: R19
func TestAttemptIsMarked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []string
		note := func(where string, n int) { seen = append(seen, fmt.Sprint(where, " ", n)) }
		caller := mettle.WithTrace(bg, &mettle.Trace{
			AttemptStart: func(e mettle.TraceEvent) { note("start", e.Attempt) },
			AttemptDone:  func(e mettle.TraceEvent) { note("done", e.Attempt) },
			Wait:         func(e mettle.TraceEvent) { note("wait", e.Attempt) },
		})
		r := retry.New(retry.Config{
			Backoff: func(attempt int, _ time.Duration) time.Duration { note("backoff", attempt); return 0 },
			OnRetry: func(e retry.Event) {
				note("retry", e.Attempt)
				if got := mettle.Attempt(e.Context); got != e.Attempt {
					t.Errorf("the event's context is of attempt %d, want %d", got, e.Attempt)
				}
			},
		})
		_ = mettle.Compose(r).Do(caller, func(ctx ctx) error {
			note("op", mettle.Attempt(ctx))
			if mettle.CallContext(ctx) != caller {
				t.Error("CallContext is not the caller's")
			}
			return errDown
		})
		want := []string{
			"start 1", "op 1", "done 1", "backoff 1", "retry 1", "wait 1",
			"start 2", "op 2", "done 2", "backoff 2", "retry 2", "wait 2",
			"start 3", "op 3", "done 3",
		}
		if !slices.Equal(seen, want) {
			t.Errorf("got  %v\nwant %v", seen, want)
		}
	})
}

// Spec: R10
func TestBackoffIsToldItsLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var prevs []time.Duration
		op := fails(errDown, suggestion(10*time.Second), errDown, errDown, nil)
		r := retry.New(retry.Config{MaxAttempts: 5, Backoff: func(attempt int, prev time.Duration) time.Duration {
			prevs = append(prevs, prev)
			if attempt == 3 {
				return -time.Second // counts as zero
			}
			return time.Duration(attempt) * time.Second
		}})
		if err := r.Do(bg, op.op); err != nil {
			t.Fatal(err)
		}
		if want := []time.Duration{0, time.Second, 2 * time.Second, 0}; !slices.Equal(prevs, want) {
			t.Errorf("prev was %v, want %v: what the backoff said, not what was suggested", prevs, want)
		}
		if waits := op.waits(); waits[0] != time.Second || waits[1] < 10*time.Second || waits[2] != 0 {
			t.Errorf("waits %v", waits)
		}
	})
}

// Spec: P1, P2
func TestWrapRunsNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		layer := func(name string) mettle.Policy {
			return mettle.PolicyFunc(func(ctx ctx, op func(ctx) error) error {
				order = append(order, fmt.Sprint(name, mettle.Attempt(ctx)))
				return op(ctx)
			})
		}
		r := retry.New(retry.Config{Backoff: retry.Constant(0)})
		p := mettle.Compose(layer("outer"), r, layer("inner"))
		if err := p.Do(bg, fails(errDown, nil).op); err != nil {
			t.Fatal(err)
		}
		if want := []string{"outer0", "inner1", "inner2"}; !slices.Equal(order, want) {
			t.Errorf("got %v, want %v", order, want)
		}
		if got := r.Stats().Attempts; got != 2 {
			t.Errorf("the bound policy does not share its state: %d attempts", got)
		}
	})
}
