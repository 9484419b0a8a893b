package timeout

import (
	"context"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/internal/clock"
	"github.com/mettle-go/mettle/internal/quantile"
)

const (
	// learning is for how long a call counts. It also bounds for how long a timeout
	// that has become wrong can stay, whatever else fails.
	learning = time.Minute
	// headroom is what the quantile is multiplied by: a dependency that becomes twice
	// as slow is not cut off for it.
	headroom = 2
	// explore is the number of calls of which one, on average, may take until After.
	explore = 32
	// leastSamples is for quantiles that need fewer.
	leastSamples = 100
)

// adaptive is what a [Timeout] with a Quantile knows about the dependency.
type adaptive struct {
	quantile float64
	floor    time.Duration
	sketch   *quantile.Sketch
	live     *quantile.Live

	current atomic.Pointer[learnt] // nil: After

	// How many calls were cut off since the last that explored and took longer than
	// the others may, and since when. That one stands for them.
	cut, since atomic.Int64
	// When a call that might have taken until After last failed, with no success since.
	// 0: there was a success. Then the dependency does not answer at all, and that
	// nothing is known of the last minute is no reason to wait for longer.
	lost atomic.Int64
}

// learnt is a limit made of a quantile, so that it is made once.
type learnt struct {
	quantile time.Duration
	limit    limit
}

// trial is one call as a sample of how long the dependency takes.
type trial struct {
	ctx      context.Context // the caller's
	began    time.Duration
	usual    time.Duration // what calls may take now, but for those that explore; without end if After
	explores bool          // this one may take longer
}

func newAdaptive(c Config, clock clock.Clock) *adaptive {
	a := &adaptive{quantile: c.Quantile, floor: c.Floor, sketch: quantile.New(learning)}
	if a.floor == 0 {
		a.floor = c.longest() / 100
	}
	// A quantile so high that no minute brings enough samples is never used.
	least := max(leastSamples, min(1/(1-c.Quantile)+0.5, 1<<31-1))
	a.live = quantile.NewLive(a.sketch, c.Quantile, int(least), time.Duration(clock.Now()))
	return a
}

// begin returns what a call that begins now may take.
func (a *adaptive) begin(t *Timeout, k *trial, now time.Duration, ctx context.Context) *limit {
	k.ctx, k.began, k.usual = ctx, now, math.MaxInt64
	l := a.usual(t, now)
	if l == &t.fixed {
		return l
	}
	k.usual = l.after
	if rand.Uint32()%explore == 0 {
		k.explores = true
		return &t.fixed
	}
	return l
}

// usual returns the limit for all calls but those that explore.
func (a *adaptive) usual(t *Timeout, now time.Duration) *limit {
	q := a.live.Value(now)
	known := a.current.Load()
	if q == 0 {
		lost := time.Duration(a.lost.Load())
		if known != nil && lost != 0 && now-lost < learning {
			return &known.limit
		}
		if known != nil {
			a.current.CompareAndSwap(known, nil)
		}
		return &t.fixed
	}
	if known == nil || known.quantile != q {
		after := min(max(headroom*q, a.floor), t.fixed.after)
		if q >= quantile.Max { // and nobody knows by how much
			after = t.fixed.after
		}
		known = &learnt{q, t.newLimit(after)}
		a.current.Store(known)
	}
	if known.limit.after == t.fixed.after {
		return &t.fixed
	}
	return &known.limit
}

// end learns from a call that has returned err.
func (a *adaptive) end(k *trial, now time.Duration, err error) {
	took := now - k.began
	long := took >= k.usual
	if err != nil && mettle.Classify(k.ctx, err) != mettle.Success {
		switch {
		case !long:
		case k.explores: // and those before it would not have succeeded either
			a.cut.Store(0)
			a.lost.Store(int64(now))
		case a.cut.Add(1) == 1:
			a.since.Store(int64(now))
		}
		return
	}
	if a.lost.Load() != 0 {
		a.lost.Store(0)
	}
	n := 1.0
	if long && k.explores {
		cut := float64(a.cut.Swap(0))
		if age := now - time.Duration(a.since.Load()); age > learning {
			cut *= float64(learning) / float64(age) // as many as a minute has had
		}
		n += cut
	}
	a.sketch.AddN(now, took, uint32(min(n, 1<<24)))
}
