package mettletest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// timed are the five policies of a pipeline in their usual order, which hand readings of
// the clock on to one another.
type timed struct {
	total, each *timeout.Timeout
	retrier     *retry.Retrier
	queue       *bulkhead.Bulkhead
}

const totalAfter, eachAfter = time.Minute, 10 * time.Second

func newTimed() timed {
	return timed{
		total:   timeout.New(timeout.Config{After: totalAfter}),
		each:    timeout.New(timeout.Config{After: eachAfter}),
		retrier: retry.New(retry.Config{Backoff: retry.Constant(3 * time.Second), Budget: retry.NoBudget}),
		queue:   bulkhead.New(bulkhead.Config{Limit: 1, MaxWait: time.Hour}),
	}
}

func (s timed) policies() []mettle.Policy {
	return []mettle.Policy{s.total, s.retrier, breaker.New(breaker.Config{}), s.queue, s.each}
}

// late returns how many successes each timeout has found late.
func (s timed) late() [2]uint64 { return [2]uint64{s.total.Stats().Late, s.each.Stats().Late} }

// wantLeft fails unless ctx ends in d.
func wantLeft(t *testing.T, ctx context.Context, d time.Duration) {
	t.Helper()
	deadline, _ := ctx.Deadline()
	if left := time.Until(deadline); left != d {
		t.Errorf("op has %v left, want %v", left, d)
	}
}

// Policies of a pipeline may share a reading of the clock, but not across what takes time:
// a policy of the user's between any two of them, on the way in and on the way out.
//
// Spec: T1, T2
func TestTimeAcrossForeignPolicies(t *testing.T) {
	for place := range 6 {
		t.Run(fmt.Sprint(place), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTimed()
				const before = 2 * time.Second
				slow := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
					time.Sleep(before)
					err := op(ctx)
					time.Sleep(totalAfter)
					return err
				})
				err := mettle.Compose(slices.Insert(s.policies(), place, mettle.Policy(slow))...).Do(t.Context(),
					func(ctx context.Context) error {
						left := eachAfter
						if place == 5 {
							left -= before
						}
						wantLeft(t, ctx, left)
						return nil
					})
				if err != nil {
					t.Error(err)
				}
				want := [2]uint64{1, 0}
				switch place {
				case 0:
					want[0] = 0
				case 5:
					want[1] = 1
				}
				if got := s.late(); got != want {
					t.Errorf("late calls %v, want %v", got, want)
				}
			})
		})
	}
}

// Nor across hooks.
//
// Spec: T1, T2, R19
func TestTimeAcrossHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTimed()
		ctx := mettle.WithTrace(t.Context(), &mettle.Trace{
			AttemptStart: func(mettle.TraceEvent) { time.Sleep(time.Second) },
			AttemptDone: func(e mettle.TraceEvent) {
				if e.Elapsed != 0 {
					t.Errorf("attempt %d took %v", e.Attempt, e.Elapsed)
				}
				time.Sleep(totalAfter / 2)
			},
		})
		start, n := time.Now(), 0
		// With nothing between the three of them that might not hand the time on.
		err := mettle.Compose(s.total, s.retrier, s.each).Do(ctx, func(ctx context.Context) error {
			n++
			wantLeft(t, ctx, eachAfter)
			at := []time.Duration{time.Second, 35 * time.Second}[n-1]
			if got := time.Since(start); got != at {
				t.Errorf("attempt %d begins after %v, want %v", n, got, at)
			}
			if n == 1 {
				return errors.New("down")
			}
			return nil
		})
		if err != nil || n != 2 {
			t.Errorf("%d attempts, error %v", n, err)
		}
		if got, want := s.late(), [2]uint64{1, 0}; got != want {
			t.Errorf("late calls %v, want %v", got, want)
		}
	})
}

// Nor across waits in a queue and between attempts.
//
// Spec: T1
func TestTimeAcrossWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTimed()
		permit, _ := s.queue.TryAcquire()
		time.AfterFunc(4*time.Second, permit.Release)
		err := mettle.Compose(s.policies()...).Do(t.Context(), func(ctx context.Context) error {
			wantLeft(t, ctx, eachAfter)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		n := 0
		err = mettle.Compose(s.total, s.retrier, s.each).Do(t.Context(), func(ctx context.Context) error {
			wantLeft(t, ctx, eachAfter)
			if n++; n == 1 {
				return errors.New("down")
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// What has taken time counts, whoever read the clock: op itself for both timeouts, and an
// error's Elapsed from the start of the call.
//
// Spec: T2, R4
func TestTimeIsHandedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTimed()
		p := mettle.Compose(s.policies()...)
		_ = p.Do(t.Context(), func(context.Context) error { time.Sleep(eachAfter); return nil })
		_ = p.Do(t.Context(), func(context.Context) error { time.Sleep(totalAfter); return nil })
		if got, want := s.late(), [2]uint64{1, 2}; got != want {
			t.Errorf("late calls %v, want %v", got, want)
		}
		err := p.Do(t.Context(), func(context.Context) error { time.Sleep(time.Second); return errors.New("down") })
		var e *retry.Error
		if !errors.As(err, &e) || e.Elapsed != 9*time.Second {
			t.Errorf("got %v, want an error after three attempts and two waits", err)
		}
	})
}
