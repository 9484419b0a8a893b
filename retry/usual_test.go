package retry_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// takes is an operation that ends with err after d, or with its context.
func takes(d time.Duration, err error) func(context.Context) error {
	return func(ctx ctx) error {
		select {
		case <-time.After(d):
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// within returns how many attempts a call makes that has so much time and fails at once.
func within(p mettle.Policy, room time.Duration) (attempts int, err error) {
	short, cancel := context.WithTimeout(bg, room)
	defer cancel()
	err = p.Do(short, func(ctx) error { attempts++; return errDown })
	return attempts, err
}

// A wait is not begun that leaves less time than an attempt usually takes, once that is
// known. It is in S16 of the scorecard that such attempts were work for nothing.
//
// Spec: R5
func TestNoTimeForAnAttempt(t *testing.T) {
	const wait, took = 50 * time.Millisecond, 100 * time.Millisecond
	for name, around := range map[string]func(r *retry.Retrier) mettle.Policy{
		"alone": func(r *retry.Retrier) mettle.Policy { return r },
		"in a pipeline": func(r *retry.Retrier) mettle.Policy {
			return mettle.Compose(timeout.New(timeout.Config{}), r, breaker.New(breaker.Config{}), timeout.New(timeout.Config{}))
		},
	} {
		bubble(t, name, func(t *testing.T) {
			r := retry.New(retry.Config{MaxAttempts: 2, Backoff: retry.Constant(wait), Budget: retry.NoBudget})
			p := around(r)
			check := func(when string, room time.Duration, want int) {
				t.Helper()
				start := time.Now()
				attempts, err := within(p, room)
				if attempts != want {
					t.Errorf("%s, in %v: %d attempts, want %d", when, room, attempts, want)
				}
				if want == 1 && (!errors.Is(err, retry.ErrDeadline) || !errors.Is(err, errDown) || time.Since(start) != 0) {
					t.Errorf("%s, in %v: %v after %v", when, room, err, time.Since(start))
				}
			}
			check("nothing is known", wait+1, 2)
			time.Sleep(time.Second)
			for range 19 {
				_ = p.Do(bg, takes(took, nil))
				_ = p.Do(bg, takes(3*took, mettle.Permanent(errDown))) // is no success
			}
			time.Sleep(time.Second)
			check("19 attempts are known", wait+1, 2)
			time.Sleep(time.Second)
			_ = p.Do(bg, takes(took, nil))
			time.Sleep(time.Second)
			usual := r.Stats().Usual
			if usual < took || usual > took+took/16 {
				t.Errorf("usual is %v, want %v", usual, took)
			}
			check("20 attempts are known", wait+usual, 2)
			check("20 attempts are known", wait+usual-1, 1)
			check("20 attempts are known", 1, 1) // the first attempt is always made
			time.Sleep(time.Minute)
			if got := r.Stats().Usual; got != 0 {
				t.Errorf("usual is %v after a minute of nothing", got)
			}
			check("a minute ago", wait+1, 2)
		})
	}
}

// naiveUsual keeps all attempts, and looks through them when asked.
type naiveUsual struct {
	due  time.Duration
	all  []time.Duration // how long they took
	ends []time.Duration
}

// attempt is an operation that the naive one knows of.
func (u *naiveUsual) attempt(start time.Time, op func(context.Context) error) func(context.Context) error {
	return func(ctx ctx) error {
		began := time.Since(start)
		counts := began >= u.due
		if counts {
			u.due = began + 10*time.Millisecond
		}
		err := op(ctx)
		if counts && err == nil {
			u.all, u.ends = append(u.all, time.Since(start)-began), append(u.ends, time.Since(start))
		}
		return err
	}
}

// median returns that of what ended in this half minute or the one before.
func (u *naiveUsual) median(now time.Duration) time.Duration {
	const half = 30 * time.Second
	from, _ := slices.BinarySearch(u.ends, now-now%half-half)
	recent := slices.Sorted(slices.Values(u.all[from:]))
	if len(recent) < 20 {
		return 0
	}
	return recent[(len(recent)+1)/2-1]
}

// What is taken for usual is the median that a naive list has, and decides every resend.
//
// Spec: R5
func TestUsualAgreesWithNaive(t *testing.T) {
	for seed := range uint64(20) {
		bubble(t, fmt.Sprint("seed ", seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 11))
			wait := time.Duration(random.Int64N(int64(100 * time.Millisecond)))
			r := retry.New(retry.Config{MaxAttempts: 2, Backoff: retry.Constant(wait), Budget: retry.NoBudget})
			start, naive := time.Now(), naiveUsual{}
			for range 60 {
				scale := float64(time.Millisecond << random.IntN(8))
				for range random.IntN(50) {
					d := time.Millisecond + time.Duration(random.Float64()*scale)
					fail := random.IntN(4) == 0
					_ = r.Do(bg, naive.attempt(start, func(ctx ctx) error {
						if fail && mettle.Attempt(ctx) == 1 {
							return takes(10*d, errDown)(ctx)
						}
						return takes(d, nil)(ctx)
					}))
				}
				time.Sleep(time.Duration(random.Float64()*scale*100) + time.Second) // it is worked out again
				usual, exact := r.Stats().Usual, naive.median(time.Since(start))
				if usual < exact || usual > exact+max(exact/16, 256) {
					t.Fatalf("usually %v, by the list %v", usual, exact)
				}
				room := wait + time.Duration(random.Float64()*2*scale) + 1
				want := 2
				if room-wait < usual {
					want = 1
				}
				attempts := 0
				short, cancel := context.WithTimeout(bg, room)
				err := r.Do(short, naive.attempt(start, func(ctx) error { attempts++; return errDown }))
				if cancel(); attempts != want {
					t.Fatalf("usually %v: %d attempts with a wait of %v in %v, want %d: %v", usual, attempts, wait, room, want, err)
				}
			}
		})
	}
}

// At any rate of calls, a hundred attempts a second count at most, and those are no
// shorter or longer than others.
//
// Spec: R5 (part)
func TestUsualOfManyCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := retry.New(retry.Config{})
		for range 20_000 { // in twenty seconds, seven in ten of them slow
			d := 2 * time.Millisecond
			if rand.IntN(10) < 7 {
				d = 80 * time.Millisecond
			}
			go func() { _ = r.Do(bg, takes(d, nil)) }()
			time.Sleep(time.Millisecond)
		}
		if got := r.Stats().Usual; got < 80*time.Millisecond || got > 85*time.Millisecond {
			t.Errorf("usually %v, want 80ms", got)
		}
		time.Sleep(time.Second)
	})
}
