package mettletest_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/fallback"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/mettletest"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// standard is the composition that the adapters use.
func standard() *mettle.Pipeline {
	return mettle.Compose(
		timeout.New(timeout.Config{Name: "total", After: 30 * time.Second}),
		retry.New(retry.Config{}),
		breaker.New(breaker.Config{}),
		bulkhead.New(bulkhead.Config{}),
		timeout.New(timeout.Config{Name: "attempt", After: 5 * time.Second}),
	)
}

// failAgain is a fallback that fails as well, for the suite asks that a policy
// make no success of a failure.
func failAgain(_ context.Context, err error) error { return err }

// Spec: P1, P3, P4, P5, P6, P7, P8, P9, P11, P12
func TestShippedPolicies(t *testing.T) {
	for name, newPolicy := range map[string]func() mettle.Policy{
		"timeout":       func() mettle.Policy { return timeout.New(timeout.Config{}) },
		"short timeout": func() mettle.Policy { return timeout.New(timeout.Config{After: time.Millisecond}) },
		"retry":         func() mettle.Policy { return retry.New(retry.Config{}) },
		"retry without a budget": func() mettle.Policy {
			return retry.New(retry.Config{Budget: retry.NoBudget, MaxAttempts: 5})
		},
		"breaker": func() mettle.Policy { return breaker.New(breaker.Config{}) },
		"breaker with every rule": func() mettle.Policy {
			return breaker.New(breaker.Config{SlowCall: time.Second, Ramp: time.Minute, Probes: 3})
		},
		"breaker group": func() mettle.Policy {
			g := breaker.NewGroup[int](breaker.GroupConfig{})
			return g.By(func(context.Context) int { return 1 })
		},
		"bulkhead": func() mettle.Policy { return bulkhead.New(bulkhead.Config{}) },
		"bulkhead with a queue": func() mettle.Policy {
			return bulkhead.New(bulkhead.Config{Limit: 3, MaxQueue: 10, MaxWait: time.Second})
		},
		"bulkhead with a stack": func() mettle.Policy {
			return bulkhead.New(bulkhead.Config{Limit: 3, MaxWait: time.Hour, Order: bulkhead.LIFO})
		},
		"fallback": func() mettle.Policy { return fallback.New(fallback.Config{Run: failAgain}) },
		"fallback for nothing": func() mettle.Policy {
			return fallback.New(fallback.Config{
				Run: func(context.Context, error) error { return nil },
				If:  func(error) bool { return false },
			})
		},
	} {
		t.Run(name, func(t *testing.T) { mettletest.TestPolicy(t, newPolicy) })
	}
}

// Spec: P1, P3, P4, P5, P6, P7, P8, P9, P11, P12
func TestShippedCompositions(t *testing.T) {
	for name, newPolicy := range map[string]func() mettle.Policy{
		"standard":                func() mettle.Policy { return standard() },
		"standard with a queue":   func() mettle.Policy { return queueing() },
		"standard and a fallback": func() mettle.Policy { return mettle.Compose(fallback.New(fallback.Config{Run: failAgain}), standard()) },
		"inside out": func() mettle.Policy {
			return mettle.Compose(
				timeout.New(timeout.Config{}),
				bulkhead.New(bulkhead.Config{Limit: 5, MaxWait: time.Second}),
				breaker.New(breaker.Config{}),
				retry.New(retry.Config{}),
			)
		},
		"retry in retry": func() mettle.Policy {
			return mettle.Compose(retry.New(retry.Config{Name: "outer"}), retry.New(retry.Config{Name: "inner", Nested: true}))
		},
	} {
		t.Run(name, func(t *testing.T) { mettletest.TestPolicy(t, newPolicy) })
	}
}

// Spec: P1, P3, P4, P5, P6, P7, P8, P9, P11, P12
func TestShippedHedges(t *testing.T) {
	for name, newPolicy := range map[string]func() mettle.Policy{
		"live":  func() mettle.Policy { return hedge.New(hedge.Config{}) },
		"fixed": func() mettle.Policy { return hedge.New(hedge.Config{After: 10 * time.Millisecond, Max: 2}) },
		"unbounded": func() mettle.Policy {
			return hedge.New(hedge.Config{After: time.Millisecond, Max: 4, Budget: retry.NoBudget})
		},
		"standard with a hedge": func() mettle.Policy {
			budget := retry.NewBudget(retry.BudgetConfig{})
			return mettle.Compose(
				timeout.New(timeout.Config{Name: "total", After: 30 * time.Second}),
				retry.New(retry.Config{Budget: budget}),
				hedge.New(hedge.Config{After: 10 * time.Millisecond, Budget: budget}),
				breaker.New(breaker.Config{}),
				bulkhead.New(bulkhead.Config{}),
				timeout.New(timeout.Config{Name: "attempt", After: 5 * time.Second}),
			)
		},
		"inside out": func() mettle.Policy {
			return mettle.Compose(
				bulkhead.New(bulkhead.Config{Limit: 5, MaxWait: time.Second}),
				breaker.New(breaker.Config{}),
				hedge.New(hedge.Config{After: time.Second}),
				retry.New(retry.Config{Nested: true}),
			)
		},
		"hedge in hedge": func() mettle.Policy {
			return mettle.Compose(hedge.New(hedge.Config{Name: "outer", After: time.Second}), hedge.New(hedge.Config{Name: "inner", After: time.Second}))
		},
	} {
		t.Run(name, func(t *testing.T) { mettletest.TestPolicy(t, newPolicy, mettletest.MayOverlap()) })
	}
}

func queueing() mettle.Policy {
	return mettle.Compose(
		timeout.New(timeout.Config{Name: "total"}),
		retry.New(retry.Config{}),
		breaker.New(breaker.Config{SlowCall: time.Second}),
		bulkhead.New(bulkhead.Config{Limit: 5, MaxWait: time.Second}),
		timeout.New(timeout.Config{Name: "attempt", After: time.Second}),
	)
}

// The operation captures something, so that the caller's own closure counts.
//
// Spec: P13, R7
func TestShippedAllocations(t *testing.T) {
	newBreaker := func() mettle.Policy { return breaker.New(breaker.Config{}) }
	newBulkhead := func() mettle.Policy { return bulkhead.New(bulkhead.Config{}) }
	newTimeout := func() mettle.Policy { return timeout.New(timeout.Config{}) }
	newRetry := func() mettle.Policy { return retry.New(retry.Config{}) }
	newHedge := func() mettle.Policy { return hedge.New(hedge.Config{After: time.Hour}) }
	const closure, mark, deadline, get = 1, 1, 1, 2
	const timer = 3 // itself, its function, and the call that this belongs to
	for _, test := range []struct {
		name string
		p    mettle.Policy
		most float64
	}{
		{"breaker", newBreaker(), closure},
		{"bulkhead", newBulkhead(), closure},
		{"breaker composed", mettle.Compose(newBreaker()), closure},
		{"breaker, bulkhead", mettle.Compose(newBreaker(), newBulkhead()), closure},
		{"timeout, breaker, bulkhead", mettle.Compose(newTimeout(), newBreaker(), newBulkhead()), closure + deadline},
		{"retry, breaker, bulkhead", mettle.Compose(newRetry(), newBreaker(), newBulkhead()), closure + mark},
		{"hedge, breaker, bulkhead", mettle.Compose(newHedge(), newBreaker(), newBulkhead()), closure + mark + timer},
		{"standard", standard(), closure + mark + 2*deadline},
		{"standard in a fallback", mettle.Compose(fallback.New(fallback.Config{Run: failAgain}), standard()), closure + mark + 2*deadline},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(bg)
			defer cancel()
			sum := 0
			for i := range 100 { // whatever is made once
				_ = test.p.Do(ctx, func(context.Context) error { sum += i; return nil })
			}
			i := 0
			n := testing.AllocsPerRun(1000, func() {
				i++
				amount := i
				_ = test.p.Do(ctx, func(context.Context) error { sum += amount; return nil })
			})
			if n > test.most {
				t.Errorf("Do: %v allocations, want at most %v", n, test.most)
			}
			n = testing.AllocsPerRun(1000, func() {
				i++
				amount := i
				_, _ = mettle.Get(ctx, test.p, func(context.Context) (int, error) { return amount, nil })
			})
			if n > test.most+get {
				t.Errorf("Get: %v allocations, want at most %v", n, test.most+get)
			}
		})
	}
}

// Spec: P7
func TestRefusalsAllocateNothing(t *testing.T) {
	open := breaker.New(breaker.Config{Name: "payments"})
	open.Trip("test")
	full := bulkhead.New(bulkhead.Config{Name: "payments", Limit: 1})
	if _, err := full.Acquire(bg); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]mettle.Policy{
		"breaker": open, "bulkhead": full,
		"breaker composed": mettle.Compose(open, full), "bulkhead composed": mettle.Compose(full, open),
	} {
		err := p.Do(bg, succeed)
		if !errors.Is(err, mettle.ErrRejected) || !strings.Contains(err.Error(), "payments") {
			t.Errorf("%s: %v must be a refusal that names the policy", name, err)
		}
		if n := testing.AllocsPerRun(100, func() { _ = p.Do(bg, succeed) }); n != 0 {
			t.Errorf("%s: a refusal allocates %v times", name, n)
		}
	}
	if d, ok := mettle.RetryAfter(open.Do(bg, succeed)); !ok || d <= 0 {
		t.Errorf("the breaker's refusal suggests %v (%v), want when to come back", d, ok)
	}
}

// full returns a bulkhead with no slot left, and how to empty it.
func full(t *testing.T) (*bulkhead.Bulkhead, func()) {
	b := bulkhead.New(bulkhead.Config{Limit: 1})
	permit, err := b.Acquire(bg)
	if err != nil {
		t.Fatal(err)
	}
	return b, permit.Release
}

// Spec: P8, K6, B11
func TestFullBulkheadCostsNoProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		br := breaker.New(breaker.Config{})
		bh, release := full(t)
		p := mettle.Compose(br, bh)

		br.Trip("test")
		time.Sleep(time.Minute) // long enough for a probe
		for range 100 {
			if err := p.Do(bg, succeed); !errors.Is(err, bulkhead.ErrFull) || errors.Is(err, breaker.ErrOpen) {
				t.Fatalf("got %v, want the bulkhead's refusal each time: the probe was not given back", err)
			}
		}
		if s := br.Stats(); s.State != breaker.HalfOpen || s.Probes != 0 || s.Ignored != 100 {
			t.Errorf("state %v, %d probes in flight, %d calls ignored; want half-open, 0, 100", s.State, s.Probes, s.Ignored)
		}
		release()
		for range 2 { // as many successes as close it
			if err := p.Do(bg, succeed); err != nil {
				t.Errorf("a probe after that: %v", err)
			}
		}
		if s := br.State(); s != breaker.Closed {
			t.Errorf("state %v, want closed", s)
		}
	})
}

// Ten callers whose patience ended in our own queue once opened the breaker around it,
// as ten timeouts of a dependency that had not been asked once.
//
// Spec: P8, K2, B20
func TestImpatienceInTheQueueOpensNoBreaker(t *testing.T) {
	for name, impatient := range map[string]func() (mettle.Policy, context.Context, context.CancelFunc){
		"callers": func() (mettle.Policy, context.Context, context.CancelFunc) {
			ctx, cancel := context.WithTimeout(bg, 100*time.Millisecond)
			return mettle.Compose(), ctx, cancel
		},
		"attempts": func() (mettle.Policy, context.Context, context.CancelFunc) {
			return timeout.New(timeout.Config{After: 100 * time.Millisecond}), bg, func() {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				br := breaker.New(breaker.Config{Consecutive: 3})
				bh := bulkhead.New(bulkhead.Config{Limit: 1, MaxQueue: 10, MaxWait: time.Minute})
				permit, err := bh.Acquire(bg)
				if err != nil {
					t.Fatal(err)
				}
				defer permit.Release()
				var all sync.WaitGroup
				for range 10 {
					all.Go(func() {
						limit, ctx, cancel := impatient()
						defer cancel()
						err := mettle.Compose(br, limit, bh).Do(ctx, func(context.Context) error {
							t.Error("op runs without a slot")
							return nil
						})
						if !errors.Is(err, context.DeadlineExceeded) {
							t.Errorf("got %v, want that the time was up", err)
						}
					})
				}
				all.Wait()
				if s := br.Stats(); s.State != breaker.Closed || s.Timeouts != 0 || s.Ignored != 10 {
					t.Errorf("breaker: %v, %d timeouts, %d ignored; want closed, 0, 10", s.State, s.Timeouts, s.Ignored)
				}
			})
		})
	}
}

// The first attempt fails, the second gets no slot within its time. A retry tells of the
// failure: the queue was only the reason that there was nothing worse.
//
// Spec: R4, K2
func TestQueueHidesNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		bh := bulkhead.New(bulkhead.Config{Limit: 1, MaxWait: time.Minute})
		p := mettle.Compose(retry.New(retry.Config{}), timeout.New(timeout.Config{After: time.Second}), bh)
		var others sync.WaitGroup
		runs := 0
		err := p.Do(bg, func(context.Context) error {
			runs++
			others.Go(func() { // takes the slot as soon as it is free
				permit, err := bh.Acquire(bg)
				if err != nil {
					t.Error(err)
				}
				time.Sleep(time.Hour)
				permit.Release()
			})
			synctest.Wait()
			return boom
		})
		others.Wait()
		var e *retry.Error
		if runs != 1 || !errors.As(err, &e) || e.Last != boom || e.Attempts != 2 || !errors.Is(e.Reason, timeout.ErrExceeded) {
			t.Errorf("op ran %d times; got %v, want boom, and why it was not tried again", runs, err)
		}
		if o := mettle.Classify(bg, err); o != mettle.Failure {
			t.Errorf("outcome %v, want failure", o)
		}
	})
}

// Spec: P8, K6
func TestOpenBreakerHoldsNoSlot(t *testing.T) {
	br := breaker.New(breaker.Config{})
	br.Trip("test")
	bh := bulkhead.New(bulkhead.Config{Limit: 1})
	for name, p := range map[string]mettle.Policy{
		"breaker outside": mettle.Compose(br, bh), "breaker inside": mettle.Compose(bh, br),
	} {
		for range 100 {
			if err := p.Do(bg, succeed); !errors.Is(err, breaker.ErrOpen) || errors.Is(err, bulkhead.ErrFull) {
				t.Fatalf("%s: got %v, want the breaker's refusal each time", name, err)
			}
		}
		if s := bh.Stats(); s.InFlight != 0 || s.Refused != 0 {
			t.Errorf("%s: %d slots held, %d calls refused, want none", name, s.InFlight, s.Refused)
		}
	}
}

// A refusal is no outcome, however deep it comes from: it trips no breaker, is
// not sent again, and takes nothing from a budget.
//
// Spec: P8, R14
func TestRefusalCountsNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		outer := breaker.New(breaker.Config{Name: "outer", Consecutive: 3})
		budget := retry.NewBudget(retry.BudgetConfig{Burst: 5, Start: 5})
		re := retry.New(retry.Config{Budget: budget})
		inner := breaker.New(breaker.Config{Name: "inner"})
		inner.Trip("test")
		p := mettle.Compose(outer, re, inner)

		begun := time.Now()
		var open *breaker.OpenError
		for range 100 {
			if err := p.Do(bg, succeed); !errors.As(err, &open) || open.Name != "inner" {
				t.Fatalf("got %v, want the refusal of the inner breaker", err)
			}
		}
		if s := outer.Stats(); s.State != breaker.Closed || s.Ignored != 100 || s.Consecutive != 0 {
			t.Errorf("outer breaker: %v, %d ignored, %d failures in a row; want closed, 100, 0", s.State, s.Ignored, s.Consecutive)
		}
		if s := re.Stats(); s.Retries != 0 {
			t.Errorf("%d refusals were sent again", s.Retries)
		}
		if waited := time.Since(begun); waited != 0 {
			t.Errorf("calls that were refused waited %v", waited)
		}

		// The budget is still whole: all five resends of its Burst are left.
		boom := errors.New("boom")
		for range 5 {
			_ = mettle.Compose(re).Do(bg, fail1(boom))
		}
		if s := re.Stats(); s.Retries != 5 || s.Budget != 0 {
			t.Errorf("%d resends, %d denied by the budget; want 5, 0", s.Retries, s.Budget)
		}
	})
}

// fail1 fails its first run.
func fail1(err error) func(context.Context) error {
	runs := 0
	return func(context.Context) error {
		if runs++; runs == 1 {
			return err
		}
		return nil
	}
}

// A failure is a failure outside as well, even where a refusal kept it from being
// sent again.
//
// Spec: P8, R4
func TestFailureBeforeARefusalCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		outer := breaker.New(breaker.Config{Name: "outer"})
		inner := breaker.New(breaker.Config{Name: "inner", Consecutive: 1, OpenFor: time.Hour, MaxOpenFor: time.Hour})
		p := mettle.Compose(outer, retry.New(retry.Config{}), inner)

		boom := errors.New("boom")
		err := p.Do(bg, func(context.Context) error { return boom })
		if !errors.Is(err, boom) || !errors.Is(err, breaker.ErrOpen) {
			t.Errorf("got %v, want both the failure and the refusal that followed", err)
		}
		if s := outer.Stats(); s.Failures != 1 || s.Ignored != 0 {
			t.Errorf("outer breaker: %d failures, %d ignored; want 1, 0", s.Failures, s.Ignored)
		}
	})
}

// ErrRejected was once said to mean that the operation did not run. It does not where a
// refusal follows a failure; the outcome tells the two apart.
//
// Spec: P8, R4, F1
func TestRefusedIsNotUnsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Longer than the resend of another case waits, whichever comes first.
		open := breaker.New(breaker.Config{OpenFor: time.Hour, MaxOpenFor: time.Hour})
		open.Trip("test")
		for name, test := range map[string]struct {
			p      mettle.Policy
			unsent bool
		}{
			"refused":        {open, true},
			"refused inside": {mettle.Compose(standard(), open), true},
			"refused, and the fallback as well": {mettle.Compose(
				fallback.New(fallback.Config{Run: func(ctx context.Context, _ error) error { return open.Do(ctx, succeed) }}),
				bulkhead.New(bulkhead.Config{}),
				open,
			), true},
			"the resend refused": {mettle.Compose(
				retry.New(retry.Config{}), breaker.New(breaker.Config{Consecutive: 1, OpenFor: time.Minute}),
			), false},
			"the fallback refused": {fallback.New(fallback.Config{
				Run: func(ctx context.Context, _ error) error { return open.Do(ctx, succeed) },
			}), false},
		} {
			ran := false
			err := test.p.Do(bg, func(context.Context) error { ran = true; return errors.New("boom") })
			if !errors.Is(err, mettle.ErrRejected) || ran == test.unsent {
				t.Fatalf("%s: op ran: %t, %v", name, ran, err)
			}
			if unsent := mettle.Classify(bg, err) == mettle.Ignored; unsent != test.unsent {
				t.Errorf("%s: op ran: %t, and %v is ignored: %t", name, ran, err, unsent)
			}
		}
	})
}

// An attempt that its own timeout cut short is a failure that is sent again; the
// total timeout ends the call.
//
// Spec: P1, R12, B20, T3
func TestTimeoutsInAndOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		br := breaker.New(breaker.Config{})
		p := mettle.Compose(
			timeout.New(timeout.Config{Name: "total", After: 10 * time.Second}),
			retry.New(retry.Config{MaxAttempts: 100, Budget: retry.NoBudget, Backoff: retry.Constant(time.Second)}),
			br,
			timeout.New(timeout.Config{Name: "attempt", After: time.Second}),
		)
		begun, attempts := time.Now(), 0
		err := p.Do(bg, func(ctx context.Context) error {
			attempts++
			if n := mettle.Attempt(ctx); n != attempts {
				t.Errorf("attempt %d has number %d", attempts, n)
			}
			<-ctx.Done()
			return context.Cause(ctx)
		})
		if took := time.Since(begun); attempts != 5 || took > 10*time.Second {
			t.Errorf("%d attempts in %v, want 5 within 10s", attempts, took)
		}
		var e *retry.Error
		if !errors.As(err, &e) || !errors.Is(err, timeout.ErrExceeded) || !errors.Is(err, retry.ErrDeadline) {
			t.Errorf("got %v, want the attempt's timeout and that the deadline left no room", err)
		}
		if s := br.Stats(); s.Timeouts != 5 {
			t.Errorf("the breaker saw %d timeouts, want 5", s.Timeouts)
		}
	})
}

// A timeout around a breaker was set with the dependency in mind, so that a call it
// cuts short counts, however short it is. It was once taken for the deadline of a
// caller in a hurry, which does not: a hung dependency never tripped.
//
// Spec: B20
func TestAttemptTimeoutAroundTheBreaker(t *testing.T) {
	attempt := func() mettle.Policy { return timeout.New(timeout.Config{After: 10 * time.Millisecond}) }
	byHand := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		return op(ctx)
	})
	again := func() mettle.Policy { return retry.New(retry.Config{MaxAttempts: 3, Budget: retry.NoBudget}) }
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, around := range map[string]func(br *breaker.Breaker) mettle.Policy{
		"alone":   func(br *breaker.Breaker) mettle.Policy { return mettle.Compose(attempt(), br) },
		"retried": func(br *breaker.Breaker) mettle.Policy { return mettle.Compose(again(), attempt(), br) },
		// What a retry says of its attempts tells the two apart for others' timeouts.
		"by hand, retried": func(br *breaker.Breaker) mettle.Policy { return mettle.Compose(again(), byHand, br) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				br := breaker.New(breaker.Config{Consecutive: 3})
				p := around(br)
				for range 3 {
					if err := p.Do(bg, hang); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, breaker.ErrOpen) {
						t.Errorf("got %v, want the attempt's timeout", err)
					}
				}
				if s := br.Stats(); s.State != breaker.Open || s.Timeouts != 3 {
					t.Errorf("%v after %d timeouts, want open after 3", s.State, s.Timeouts)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				br := breaker.New(breaker.Config{Consecutive: 3})
				p := around(br)
				for range 10 {
					ctx, cancel := context.WithTimeout(bg, 9*time.Millisecond)
					_ = p.Do(ctx, hang)
					cancel()
				}
				if s := br.Stats(); s.State != breaker.Closed || s.Timeouts != 0 || s.Ignored != 10 {
					t.Errorf("callers in a hurry: %v, %d timeouts, %d ignored; want closed, 0, 10", s.State, s.Timeouts, s.Ignored)
				}
			})
		})
	}
}

// Spec: P9
func TestSuccessWhileTheBreakerOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		br := breaker.New(breaker.Config{})
		ctx, cancel := context.WithCancel(bg)
		err := mettle.Compose(standard(), br).Do(ctx, func(context.Context) error {
			br.Trip("test")
			cancel()
			return nil
		})
		if err != nil {
			t.Errorf("a success came back as %v", err)
		}
	})
}

// Spec: P11
func TestPoliciesAreCollected(t *testing.T) {
	gone := map[string]func() bool{
		"breaker":  used(func() *breaker.Breaker { return breaker.New(breaker.Config{}) }),
		"bulkhead": used(func() *bulkhead.Bulkhead { return bulkhead.New(bulkhead.Config{}) }),
		"fallback": used(func() *fallback.Fallback { return fallback.New(fallback.Config{Run: failAgain}) }),
		"pipeline": used(standard),
		"retry":    used(func() *retry.Retrier { return retry.New(retry.Config{}) }),
		"timeout":  used(func() *timeout.Timeout { return timeout.New(timeout.Config{}) }),
	}
	for range 3 { // finalizers and weak pointers may take a round more
		runtime.GC()
	}
	for name, gone := range gone {
		if !gone() {
			t.Errorf("a %s that nobody holds is not collected", name)
		}
	}
}

// used makes a policy, uses it, lets go of it, and returns whether it is gone.
func used[T any, P interface {
	*T
	mettle.Policy
}](newPolicy func() P) func() bool {
	p := newPolicy()
	ctx, cancel := context.WithCancel(bg)
	defer cancel()
	_ = p.Do(ctx, succeed)
	_ = p.Do(ctx, func(ctx context.Context) error {
		child, stop := context.WithCancel(ctx)
		defer stop()
		return fmt.Errorf("with a child: %w", child.Err())
	})
	w := weak.Make((*T)(p))
	return func() bool { return w.Value() == nil }
}
