package hedge_test

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/retry"
)

// takes is an operation that succeeds after d, or ends with its context.
func takes(d time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// There is no delay to go by before there are enough samples, and none when all of them
// are old. A failure is followed at once all the same.
//
// Spec: H4
func TestLiveDelayNeedsSamples(t *testing.T) {
	for q, least := range map[float64]int{0: 40, 0.5: 20, 0.99: 200} {
		synctest.Test(t, func(t *testing.T) {
			h := hedge.New(hedge.Config{Quantile: q})
			for range least - 1 {
				_ = h.Do(t.Context(), takes(10*time.Millisecond))
			}
			time.Sleep(time.Second) // the estimate is renewed
			if s := h.Stats(); s.Delay != 0 {
				t.Errorf("quantile %v: a delay of %v from %d samples", q, s.Delay, least-1)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_ = h.Do(ctx, hang) // is a sample too: it took at least that long
			cancel()
			if s := h.Stats(); s.Hedges != 0 {
				t.Errorf("quantile %v: %d hedges without a delay", q, s.Hedges)
			}
			if _ = h.Do(t.Context(), func(context.Context) error { return errDown }); h.Stats().Hedges != 1 {
				t.Errorf("quantile %v: no hedge after a failure", q)
			}
			time.Sleep(time.Second)
			if s := h.Stats(); s.Delay < 10*time.Millisecond || s.Delay > 11*time.Millisecond {
				t.Errorf("quantile %v: a delay of %v from %d samples", q, s.Delay, least)
			}
			time.Sleep(time.Minute)
			if s := h.Stats(); s.Delay != 0 {
				t.Errorf("quantile %v: a delay of %v from what is old", q, s.Delay)
			}
		})
	}
}

// The delay is the quantile of how long calls take, as exact as is promised, and follows
// it when the dependency becomes slower or faster; as many calls are hedged as exceed it.
//
// Spec: H4
func TestLiveDelayFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 2))
		h := hedge.New(hedge.Config{})
		for _, scale := range []time.Duration{10 * time.Millisecond, 80 * time.Millisecond, 5 * time.Millisecond} {
			var took []time.Duration
			before, calls := hedge.Stats{}, 0
			for start := time.Now(); time.Since(start) < 4*time.Minute; {
				if time.Since(start) < time.Minute { // the window holds some of what was
					before, calls, took = h.Stats(), 0, nil
				}
				d := time.Duration(float64(scale) * math.Exp(r.NormFloat64()))
				took = append(took, d)
				calls++
				_ = h.Do(t.Context(), func(ctx context.Context) error {
					if mettle.Attempt(ctx) == 1 {
						return takes(d)(ctx)
					}
					return takes(time.Duration(float64(scale) * math.Exp(r.NormFloat64())))(ctx)
				})
				time.Sleep(5 * time.Millisecond)
			}
			slices.Sort(took)
			exact := took[len(took)*95/100]
			s := h.Stats()
			if ratio := float64(s.Delay) / float64(exact); ratio < 0.85 || ratio > 1.25 { // a sixteenth, and chance
				t.Errorf("at %v: a delay of %v, the exact quantile is %v", scale, s.Delay, exact)
			}
			if share := float64(s.Hedges-before.Hedges) / float64(calls); share < 0.03 || share > 0.06 {
				t.Errorf("at %v: %.1f%% of the calls were hedged", scale, 100*share)
			}
		}
	})
}

// First runs that were beaten count for as long as they were given, or the delay would
// fall for want of slow samples; and hedges do not count, or it would fall for their haste.
//
// Spec: H4
func TestBeatenRunsCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hedge.New(hedge.Config{Quantile: 0.9})
		for n := range 6000 {
			d := 10 * time.Millisecond
			switch {
			case n >= 100 && n%25 == 0:
				d = time.Hour // for ever
			case n%10 == 0:
				d = 30 * time.Millisecond
			}
			_ = h.Do(t.Context(), func(ctx context.Context) error {
				if mettle.Attempt(ctx) == 2 {
					return takes(time.Millisecond)(ctx)
				}
				return takes(d)(ctx)
			})
			time.Sleep(10 * time.Millisecond)
		}
		// Of 50 calls 2 hang, 4 take 30 ms and 44 take 10 ms: the quantile is 30 ms.
		if s := h.Stats(); s.Delay < 30*time.Millisecond || s.Delay > 32*time.Millisecond {
			t.Errorf("a delay of %v", s.Delay)
		}
	})
}

// Failures that come at once do not make the delay short, nor do callers who give up or
// our own queue make it long. No delay is shorter than After.
//
// Spec: H4, B22 (part)
func TestWhatIsNoSample(t *testing.T) {
	for name, test := range map[string]struct {
		inner []mettle.Policy
		op    func(n int) func(context.Context) error
		after time.Duration
		want  time.Duration
	}{
		"failures": {nil, func(n int) func(context.Context) error {
			if n%2 == 0 {
				return func(context.Context) error { return errDown }
			}
			return takes(10 * time.Millisecond)
		}, 0, 10 * time.Millisecond},
		"refusals": {nil, func(n int) func(context.Context) error {
			if n%2 == 0 {
				return func(context.Context) error { return mettle.ErrRejected }
			}
			return takes(10 * time.Millisecond)
		}, 0, 10 * time.Millisecond},
		"in a queue": {
			[]mettle.Policy{mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
				time.Sleep(time.Second)
				mettle.AddQueued(ctx, time.Second)
				return op(ctx)
			}), bulkhead.New(bulkhead.Config{})},
			func(int) func(context.Context) error { return takes(10 * time.Millisecond) }, 0, 10 * time.Millisecond,
		},
		"too fast":          {nil, func(int) func(context.Context) error { return succeed }, 0, time.Millisecond},
		"faster than After": {nil, func(int) func(context.Context) error { return takes(10 * time.Millisecond) }, 20 * time.Millisecond, 20 * time.Millisecond},
		"slower than After": {nil, func(int) func(context.Context) error { return takes(40 * time.Millisecond) }, 20 * time.Millisecond, 40 * time.Millisecond},
		"timeouts are samples": {nil, func(int) func(context.Context) error {
			return func(context.Context) error { time.Sleep(40 * time.Millisecond); return late{cause{errDown}} }
		}, 0, 40 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := hedge.New(hedge.Config{Quantile: 0.95, After: test.after})
			p := mettle.Compose(append([]mettle.Policy{h}, test.inner...)...)
			for n := range 100 {
				_ = p.Do(t.Context(), test.op(n))
			}
			time.Sleep(time.Second)
			if got := h.Stats().Delay; got < test.want || got > test.want+test.want/16 {
				t.Errorf("%s: a delay of %v, want %v", name, got, test.want)
			}
		})
	}
}

// When everything becomes slow at once, the live delay soon follows, and until then the
// budget holds.
//
// Spec: H3, H4
func TestAllBecomesSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hedge.New(hedge.Config{})
		slow := false
		var hedges uint64
		for n := range 20000 {
			if n == 10000 {
				slow, hedges = true, h.Stats().Hedges
			}
			d := 10 * time.Millisecond
			if slow {
				d = 100 * time.Millisecond
			}
			_ = h.Do(t.Context(), takes(d))
		}
		if got := h.Stats().Hedges - hedges; got > 20 {
			t.Errorf("%d hedges in 10000 calls that were all slow", got)
		}
	})
}

// When everything has been slow for some seconds, slow is the usual, and it is not bad
// luck any more to be among the slowest: they are not hedged for it. This is S11 of the
// scorecard, where 5 % more calls were made without that.
//
// Spec: H3 (part), H4
func TestHedgesInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(3, 4))
		h := hedge.New(hedge.Config{})
		usual := func() time.Duration { return time.Duration(1e7 * math.Exp(0.3*r.NormFloat64())) }
		share := func(d time.Duration, slow func() bool) float64 {
			before, calls := h.Stats().Hedges, 0
			for start := time.Now(); time.Since(start) < d; calls++ {
				var took [2]time.Duration
				for i := range took {
					if took[i] = usual(); slow() {
						took[i] *= 10
					}
				}
				go func() {
					_ = h.Do(t.Context(), func(ctx context.Context) error { return takes(took[mettle.Attempt(ctx)-1])(ctx) })
				}()
				time.Sleep(2500 * time.Microsecond)
			}
			return float64(h.Stats().Hedges-before) / float64(calls)
		}
		some := func() bool { return r.Float64() < 0.01 }
		if got := share(time.Minute, some); got < 0.03 || got > 0.055 {
			t.Errorf("%.2f%% are hedged while 1%% are slow", 100*got)
		}
		if got := share(10*time.Second, func() bool { return true }); got > 0.016 {
			t.Errorf("%.2f%% are hedged in ten seconds in which all are slow", 100*got)
		}
		if got := share(time.Minute, func() bool { return true }); got > 0.01 {
			t.Errorf("%.2f%% are hedged in the minute after that", 100*got)
		}
		share(time.Minute, some) // what is slow is forgotten
		if got := share(time.Minute, some); got < 0.03 || got > 0.055 {
			t.Errorf("%.2f%% are hedged when it is bad luck again", 100*got)
		}
	})
}

// The delay is that of rare hedges after twenty calls that were not helped, and no longer
// once one is, which makes up for ten. What neither had a hedge for the delay nor an answer changes nothing.
//
// Spec: H4
func TestRareHedgesAgreeWithNaive(t *testing.T) {
	const short, long = 20 * time.Millisecond, 300 * time.Millisecond
	// A call of each kind, with what becomes of the number of those in vain.
	kinds := []struct {
		name string
		op   func(delay time.Duration) func(context.Context) error
		next func(vain int) int
	}{
		{"answered in time", func(time.Duration) func(context.Context) error { return takes(0) }, unchanged},
		{"helped", func(d time.Duration) func(context.Context) error { return pair(hang, takes(d/2)) }, fewer},
		{"helped, after just the delay", func(d time.Duration) func(context.Context) error { return pair(hang, takes(d)) }, fewer},
		{"not helped", func(d time.Duration) func(context.Context) error { return pair(takes(d+time.Millisecond), hang) }, more},
		{"answered by a hedge, but late", func(d time.Duration) func(context.Context) error { return pair(hang, takes(d+1)) }, more},
		{"hedged after a failure", func(time.Duration) func(context.Context) error {
			return pair(func(context.Context) error { return errDown }, succeed)
		}, unchanged},
		{"the hedge is refused", func(d time.Duration) func(context.Context) error {
			return pair(takes(d+time.Millisecond), func(context.Context) error { return mettle.ErrRejected })
		}, unchanged},
		{"both fail", func(d time.Duration) func(context.Context) error {
			fail := func(ctx context.Context) error { _ = takes(d + 1)(ctx); return errDown }
			return pair(fail, fail)
		}, unchanged},
	}
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 7))
			h := hedge.New(hedge.Config{Budget: retry.NoBudget})
			var all sync.WaitGroup
			for n := range 4000 { // 10 % take 20 ms, 0.5 % take 300 ms
				d := time.Millisecond
				switch {
				case n%200 == 0:
					d = long
				case n%10 == 1:
					d = short
				}
				all.Go(func() {
					_ = h.Do(t.Context(), func(ctx context.Context) error { return takes(d)(context.WithoutCancel(ctx)) })
				})
			}
			all.Wait()
			time.Sleep(time.Second)
			vain := 0
			for step := range 120 {
				delay := h.Stats().Delay
				if rare := delay > 2*short; rare != (vain >= 20) || delay < short {
					t.Fatalf("seed %d, step %d: a delay of %v after %d calls in vain", seed, step, delay, vain)
				}
				kind := kinds[r.IntN(len(kinds))]
				if seed%2 == 0 && r.IntN(20) > 0 {
					kind = kinds[3+r.IntN(len(kinds)-3)] // one that does not help
				}
				_ = h.Do(t.Context(), kind.op(delay))
				vain = kind.next(vain)
			}
		})
	}
}

func unchanged(vain int) int { return vain }
func more(vain int) int      { return min(vain+1, 20) }
func fewer(vain int) int     { return max(vain-10, 0) }

// pair is an operation whose hedge is another one.
func pair(first, hedge func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if mettle.Attempt(ctx) == 1 {
			return first(ctx)
		}
		return hedge(ctx)
	}
}

// A hedge that waits in the queue of a bulkhead when the first run is answered was not in
// vain: it was not sent. It counted, and where a bulkhead was full hedges became rare.
//
// Spec: H4
func TestQueuedHedgeIsNotInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hedge.New(hedge.Config{Budget: retry.NoBudget})
		p := mettle.Compose(h, bulkhead.New(bulkhead.Config{Limit: 1, MaxWait: time.Second}))
		for range 960 {
			_ = p.Do(t.Context(), takes(10*time.Millisecond))
		}
		for range 4 {
			_ = p.Do(t.Context(), takes(300*time.Millisecond))
		}
		time.Sleep(time.Second)
		for range 21 {
			_ = p.Do(t.Context(), takes(12*time.Millisecond))
		}
		time.Sleep(time.Second)
		if d := h.Stats().Delay; d > 100*time.Millisecond {
			t.Errorf("a delay of %v, as if the hedges had been of no use", d)
		}
	})
}
