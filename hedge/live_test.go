package hedge_test

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/hedge"
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
