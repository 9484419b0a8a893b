package timeout_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/timeout"
)

// dependency answers after a time of its own, or when its caller gives up.
type dependency struct {
	p     mettle.Policy
	every time.Duration // between two calls
	takes func() time.Duration
	fails error         // what it answers with
	limit time.Duration // the callers' own deadline; 0: none

	calls, cut, ok atomic.Int64
	waited         atomic.Int64 // by all callers together
	tookMu         sync.Mutex
	took           []time.Duration
}

// serve makes calls for d, and returns when all have come back.
func (dep *dependency) serve(d time.Duration) {
	dep.calls.Store(0)
	dep.cut.Store(0)
	dep.ok.Store(0)
	dep.waited.Store(0)
	dep.took = dep.took[:0]
	var wg sync.WaitGroup
	for range d / dep.every {
		takes := dep.takes()
		dep.tookMu.Lock()
		dep.took = append(dep.took, takes)
		dep.tookMu.Unlock()
		wg.Go(func() { dep.call(takes) })
		time.Sleep(dep.every)
	}
	wg.Wait()
}

func (dep *dependency) call(takes time.Duration) {
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if dep.limit > 0 {
		ctx, cancel = context.WithTimeout(ctx, dep.limit)
	}
	defer cancel()
	start := time.Now()
	err := dep.p.Do(ctx, func(ctx context.Context) error {
		if takes <= 0 {
			return dep.fails
		}
		timer := time.NewTimer(takes)
		defer timer.Stop()
		select {
		case <-timer.C:
			return dep.fails
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	dep.calls.Add(1)
	dep.waited.Add(int64(time.Since(start)))
	switch {
	case errors.Is(err, timeout.ErrExceeded):
		dep.cut.Add(1)
	case err == nil:
		dep.ok.Add(1)
	}
}

func (dep *dependency) shareCut() float64 {
	return float64(dep.cut.Load()) / float64(max(dep.calls.Load(), 1))
}

// exact returns the q-quantile of what the dependency took since serve began.
func (dep *dependency) exact(q float64) time.Duration {
	slices.Sort(dep.took)
	return dep.took[int(math.Ceil(q*float64(len(dep.took))))-1]
}

// scale returns d times x, and no more than a day.
func scale(d time.Duration, x float64) time.Duration {
	return time.Duration(min(float64(d)*x, float64(24*time.Hour)))
}

// Distributions of latency, each with a median of about d.
var shapes = map[string]func(r *rand.Rand, d time.Duration) time.Duration{
	"constant":    func(_ *rand.Rand, d time.Duration) time.Duration { return d },
	"uniform":     func(r *rand.Rand, d time.Duration) time.Duration { return scale(d, 0.9+0.2*r.Float64()) },
	"exponential": func(r *rand.Rand, d time.Duration) time.Duration { return scale(d, r.ExpFloat64()/math.Ln2) },
	"lognormal":   func(r *rand.Rand, d time.Duration) time.Duration { return scale(d, math.Exp(r.NormFloat64()/2)) },
	"heavy tail":  func(r *rand.Rand, d time.Duration) time.Duration { return scale(d/2, math.Pow(1-r.Float64(), -1/1.5)) },
	"two modes": func(r *rand.Rand, d time.Duration) time.Duration {
		if r.IntN(50) == 0 {
			d *= 20
		}
		return scale(d, math.Exp(r.NormFloat64()/10))
	},
}

func forEachShape(t *testing.T, test func(t *testing.T, r *rand.Rand, takes func(time.Duration) time.Duration)) {
	t.Helper()
	for name, shape := range shapes {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(1, 2))
				test(t, r, func(d time.Duration) time.Duration { return shape(r, d) })
			})
		})
	}
}

// The timeout comes to be twice the quantile, and cuts off no more of a dependency that
// behaves as before than the documentation says.
//
// Spec: T7
func TestQuantileCutsOffFew(t *testing.T) {
	forEachShape(t, func(t *testing.T, r *rand.Rand, takes func(time.Duration) time.Duration) {
		for _, q := range []float64{0.95, 0.999} {
			const cap = 10 * time.Second
			p := timeout.New(timeout.Config{Quantile: q, After: cap, Floor: time.Millisecond})
			dep := &dependency{p: p, every: 10 * time.Millisecond, takes: func() time.Duration { return takes(40 * time.Millisecond) }}
			dep.serve(time.Minute)
			if s := p.Stats().After; s >= cap && dep.exact(q) < cap/4 {
				t.Errorf("%v: nothing learnt in a minute", q)
			}
			dep.serve(time.Minute)
			if share := dep.shareCut(); share > 2*(1-q) {
				t.Errorf("%v: %v of all calls were cut off, want at most %v", q, share, 2*(1-q))
			}
			// The window is half a minute to a minute, so some of the error is chance.
			got, want := p.Stats().After, 2*dep.exact(q)
			if least, most := dep.exact(1-2*(1-q)), dep.exact(1-(1-q)/4); got < least*3/2 || got > max(most*5/2, most+time.Millisecond) && got != cap {
				t.Errorf("%v: calls may take %v, want about %v", q, got, want)
			}
		}
	})
}

// When a dependency becomes slower by any factor that After allows for, the timeout
// follows it up. It does not kill every call for ever.
//
// Spec: T7
func TestQuantileFollowsUpwards(t *testing.T) {
	forEachShape(t, func(t *testing.T, r *rand.Rand, takes func(time.Duration) time.Duration) {
		for q, factor := range map[float64]time.Duration{0.95: 20, 0.999: 3} {
			p := timeout.New(timeout.Config{Quantile: q, After: time.Minute, Floor: time.Millisecond})
			slow := time.Duration(1)
			dep := &dependency{p: p, every: 10 * time.Millisecond, takes: func() time.Duration { return takes(slow * 20 * time.Millisecond) }}
			dep.serve(40 * time.Second)
			slow = factor
			dep.serve(15 * time.Second) // 1-q of a minute, 32 calls, and a second
			first := dep.shareCut()
			dep.serve(20 * time.Second)
			// Of two modes only one call in 50 exceeds what was learnt, and one in 32 of
			// these explores: that may still be to come.
			if share := dep.shareCut(); share > 2*(1-q)+0.021 {
				t.Errorf("%v: %d times as slow, %v of the calls are cut off after %v in the first 15 s", q, factor, share, first)
			}
			if first > 0.6 {
				t.Errorf("%v: %d times as slow, %v of the calls of the first 15 s were cut off", q, factor, first)
			}
			slow = 1
			dep.serve(65 * time.Second)
			if got := p.Stats().After; got > 5*dep.exact(1-(1-q)/4)+time.Millisecond {
				t.Errorf("%v: calls may still take %v a minute after it became quick", q, got)
			}
		}
	})
}

// What a dependency takes to refuse is not what it takes to answer.
//
// Spec: T7
func TestQuantileLearnsNothingFromFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := timeout.New(timeout.Config{Quantile: 0.99})
		takes := 200 * time.Millisecond
		dep := &dependency{p: p, every: 10 * time.Millisecond, takes: func() time.Duration { return takes }}
		dep.serve(time.Minute)
		learnt := p.Stats().After
		if learnt < 400*time.Millisecond || learnt > 425*time.Millisecond {
			t.Fatalf("calls that take %v may take %v", takes, learnt)
		}
		takes, dep.fails = 0, errDown
		dep.serve(20 * time.Second)
		if got := p.Stats().After; got != learnt {
			t.Errorf("errors that come at once made %v of %v", got, learnt)
		}
		// An answer about the request is an answer.
		takes, dep.fails = 300*time.Millisecond, answer{}
		dep.serve(20 * time.Second)
		if got := p.Stats().After; got < 600*time.Millisecond || got > 650*time.Millisecond {
			t.Errorf("answers that take %v may take %v", takes, got)
		}
	})
}

// answer is an error that says something about the request, such as that it was wrong.
type answer struct{}

func (answer) Error() string           { return "no such order" }
func (answer) Outcome() mettle.Outcome { return mettle.Success }

// Of a dependency that does not answer at all nothing is learnt and nothing forgotten:
// the calls but for one in 32 fail as quickly as before, however long it goes on. When it
// is back, and slower, it is not cut off.
//
// Spec: T7
func TestQuantileInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := timeout.New(timeout.Config{Quantile: 0.99})
		takes := 50 * time.Millisecond
		dep := &dependency{p: p, every: 10 * time.Millisecond, takes: func() time.Duration { return takes }}
		dep.serve(time.Minute)
		learnt := p.Stats().After
		takes = time.Hour
		for minute := range 5 {
			dep.serve(time.Minute)
			mean := time.Duration(dep.waited.Load() / dep.calls.Load())
			if most := learnt + 10*time.Second/20; mean > most { // one in 32 would be 10 s/32
				t.Errorf("minute %d: a call takes %v to fail, want at most %v", minute, mean, most)
			}
			if got := p.Stats().After; got != learnt {
				t.Errorf("minute %d: %v of %v is left", minute, got, learnt)
			}
		}
		takes = 500 * time.Millisecond
		dep.serve(10 * time.Second)
		dep.serve(10 * time.Second)
		if share := dep.shareCut(); share > 0 {
			t.Errorf("%v of the calls are cut off when it is back", share)
		}
	})
}

// Calls that had until After and did not make it are not among those that the others'
// shorter time has cut off. They were, after an outage in which nothing was known yet:
// the first slow call afterwards stood for thousands and drew the timeout up for all.
//
// Spec: T7
func TestQuantileAfterAnOutageAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := timeout.New(timeout.Config{Quantile: 0.9, After: time.Second})
		n, takes := 0, func() time.Duration { return time.Hour }
		dep := &dependency{p: p, every: 10 * time.Millisecond, takes: func() time.Duration { return takes() }}
		dep.serve(30 * time.Second)
		takes = func() time.Duration {
			if n++; n > 200 && n%20 == 0 { // half as often as the quantile allows for
				return 300 * time.Millisecond
			}
			return 10 * time.Millisecond
		}
		for range 60 {
			dep.serve(time.Second)
			if got := p.Stats().After; got != time.Second && got > 25*time.Millisecond {
				t.Fatalf("calls may take %v, where nine in ten take 10 ms", got)
			}
		}
		if got := p.Stats().After; got > 25*time.Millisecond {
			t.Errorf("calls may take %v after a minute", got)
		}
	})
}

// Callers with a deadline of their own, always shorter than After, teach as well.
//
// Spec: T7, T3
func TestQuantileUnderCallersDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := timeout.New(timeout.Config{Quantile: 0.99})
		takes := 50 * time.Millisecond
		dep := &dependency{p: p, every: 10 * time.Millisecond, takes: func() time.Duration { return takes }, limit: 2 * time.Second}
		dep.serve(time.Minute)
		if got := p.Stats().After; got > 110*time.Millisecond {
			t.Fatalf("calls that take %v may take %v", takes, got)
		}
		takes = time.Second
		dep.serve(10 * time.Second)
		dep.serve(10 * time.Second)
		if share := dep.shareCut(); share > 0 || dep.ok.Load() != dep.calls.Load() {
			t.Errorf("20 times as slow, %v of the calls are cut off", share)
		}
	})
}

// Until enough is known, and once it is forgotten, After applies; Floor and After bound
// what is learnt.
//
// Spec: T7
func TestQuantileBounds(t *testing.T) {
	for _, test := range []struct {
		c     timeout.Config
		calls int
		takes time.Duration
		want  time.Duration // a sixteenth more is right too
	}{
		{timeout.Config{Quantile: 0.9}, 99, time.Second, 10 * time.Second},
		{timeout.Config{Quantile: 0.9}, 100, time.Second, 2 * time.Second},
		{timeout.Config{Quantile: 0.999}, 999, time.Second, 10 * time.Second},
		{timeout.Config{Quantile: 0.999}, 1000, time.Second, 2 * time.Second},
		{timeout.Config{Quantile: 0.9}, 100, 0, 100 * time.Millisecond},
		{timeout.Config{Quantile: 0.9, After: time.Second}, 100, 0, 10 * time.Millisecond},
		{timeout.Config{Quantile: 0.9, Floor: time.Second}, 100, time.Millisecond, time.Second},
		{timeout.Config{Quantile: 0.9, Floor: 1}, 100, 100 * time.Microsecond, 200 * time.Microsecond},
		{timeout.Config{Quantile: 0.9, Floor: 10 * time.Second}, 100, time.Second, 10 * time.Second},
		{timeout.Config{Quantile: 0.9}, 100, 6 * time.Second, 10 * time.Second},
		{timeout.Config{Quantile: 0.9, After: math.MaxInt64, Floor: 1}, 100, time.Hour, 2 * time.Hour},
		// What is longer than 2.4 h is not told apart, and was taken for that: calls of 10 h
		// were cut off after twice as much for good.
		{timeout.Config{Quantile: 0.9, After: 100 * time.Hour}, 100, 10 * time.Hour, 100 * time.Hour},
		{timeout.Config{Quantile: math.Nextafter(1, 0)}, 2000, time.Second, 10 * time.Second},
	} {
		t.Run(fmt.Sprintf("%+v", test), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := timeout.New(test.c)
				var wg sync.WaitGroup
				for range test.calls {
					wg.Go(func() {
						_ = p.Do(t.Context(), func(context.Context) error { time.Sleep(test.takes); return nil })
					})
				}
				wg.Wait()
				time.Sleep(time.Second)
				var given time.Duration
				for range 200 { // of which some explore
					_ = p.Do(t.Context(), func(ctx context.Context) error {
						d, _ := ctx.Deadline()
						given = time.Until(d)
						return errDown
					})
					if given < 2*test.want-1 && given != p.Stats().After && given != 10*time.Second {
						t.Errorf("the deadline is in %v, Stats say %v", given, p.Stats().After)
					}
				}
				if got := p.Stats().After; got < test.want || got > test.want+test.want/16 {
					t.Errorf("calls may take %v, want %v", got, test.want)
				}
				time.Sleep(2 * time.Minute)
				_ = p.Do(t.Context(), quick)
				want := test.c.After
				if want == 0 {
					want = 10 * time.Second
				}
				if got := p.Stats().After; got != want {
					t.Errorf("after a silence calls may take %v, want %v", got, want)
				}
			})
		})
	}
}

// An error tells the time that its call had, which is what the context said.
//
// Spec: T7, T1
func TestQuantileInErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := timeout.New(timeout.Config{Name: "payments", Quantile: 0.9})
		dep := &dependency{p: p, every: 10 * time.Millisecond, takes: func() time.Duration { return 100 * time.Millisecond }}
		dep.serve(10 * time.Second)
		learnt := p.Stats().After
		seen := make(map[time.Duration]int)
		for range 300 {
			start := time.Now()
			err := p.Do(t.Context(), func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
			var e *timeout.Error
			if !errors.As(err, &e) || e.After != time.Since(start) || e.Name != "payments" || !errors.Is(err, timeout.ErrExceeded) {
				t.Fatalf("%v after %v", err, time.Since(start))
			}
			seen[e.After]++
			if e.After == 10*time.Second {
				dep.serve(time.Second) // it answers others, so that what is known is not forgotten
			}
		}
		if n := seen[10*time.Second]; len(seen) > 20 || n == 0 || n > 40 || seen[learnt] < 200 {
			t.Errorf("calls had %v, want %v but for one in 32", seen, learnt)
		}
	})
}

// Learning costs no allocation, and is safe for many at once.
//
// Spec: T7, P11, P13
func TestQuantileCosts(t *testing.T) {
	p := timeout.New(timeout.Config{Quantile: 0.9, After: time.Hour, Floor: time.Minute})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				_ = p.Do(context.Background(), quick)
				p.Stats()
			}
		})
	}
	wg.Wait()
	if n := testing.AllocsPerRun(1000, func() { _ = p.Do(context.Background(), quick) }); n != 1 {
		t.Errorf("%v allocations, want 1", n)
	}
}
