package tests

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// hedgedRun is what one run of an operation is going to do.
type hedgedRun struct {
	takes time.Duration
	err   error
	deaf  bool // to its context
}

// hedgedCall is one call of a random operation through a random pipeline with a hedge, and
// what came of it.
type hedgedCall struct {
	runs    []hedgedRun // the last one for all that follow
	p       mettle.Policy
	budget  *retry.Budget
	most    int // runs side by side
	perCall int // runs in all

	mu                    sync.Mutex
	begun, running, peak  int
	refused               int   // runs that ended so, and cost nothing
	made                  []int // values
	disposed              []int
	wantClass, class      map[mettle.Outcome]int // of runs, as a policy around each sees them
	runsAfterDo, wrongCtx int
	returned              bool
}

func (c *hedgedCall) op(ctx context.Context) (int, error) {
	c.mu.Lock()
	if c.returned {
		c.runsAfterDo++
	}
	n := c.begun
	r := c.runs[min(n, len(c.runs)-1)]
	// No two runs end at the same moment, so that none loses while it ends.
	takes := r.takes + time.Duration(n*n+1)
	c.begun++
	c.running++
	c.peak = max(c.peak, c.running)
	c.mu.Unlock()

	err := r.err
	timer := time.NewTimer(takes)
	defer timer.Stop()
	if r.deaf {
		<-timer.C
	} else {
		select {
		case <-timer.C:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	if err == nil {
		c.made = append(c.made, n)
	}
	if err == mettle.ErrRejected {
		c.refused++
	}
	c.wantClass[expectedClass(ctx, err)]++
	return n, err
}

// expectedClass tells the outcome of a run that ended with err when ctx, the context of the
// run, was as it is now.
func expectedClass(ctx context.Context, err error) mettle.Outcome {
	switch lost, left := errors.Is(context.Cause(ctx), hedge.ErrLost), ctx.Err() == context.Canceled; {
	case err == nil:
		return mettle.Success
	case lost, left && err == context.Canceled:
		return mettle.Ignored
	case ctx.Err() == context.DeadlineExceeded: // whatever it ends with
		return mettle.Timeout
	case err == mettle.ErrRejected:
		return mettle.Ignored
	default:
		return mettle.Failure
	}
}

// see is a policy around each run, as a breaker would be.
func (c *hedgedCall) see(ctx context.Context, op func(context.Context) error) error {
	err := op(ctx)
	class := mettle.Classify(ctx, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.class[class]++
	if _, ok := ctx.Deadline(); !ok {
		c.wrongCtx++
	}
	return err
}

func drawHedgedCall(t *rapid.T) *hedgedCall {
	c := &hedgedCall{class: map[mettle.Outcome]int{}, wantClass: map[mettle.Outcome]int{}}
	millis := func(most int, name string) time.Duration {
		return time.Duration(rapid.IntRange(0, most).Draw(t, name)) * time.Millisecond
	}
	for range rapid.IntRange(1, 6).Draw(t, "runs") {
		c.runs = append(c.runs, hedgedRun{
			takes: millis(100, "takes"),
			err:   rapid.SampledFrom([]error{nil, nil, errors.New("down"), mettle.ErrRejected, mettle.Permanent(errors.New("no"))}).Draw(t, "err"),
			deaf:  rapid.Bool().Draw(t, "deaf"),
		})
	}
	burst := rapid.IntRange(1, 10).Draw(t, "burst")
	c.budget = retry.NewBudget(retry.BudgetConfig{Burst: burst, Start: burst, MinPerSecond: -1})
	further := rapid.IntRange(1, 3).Draw(t, "Max")
	c.most, c.perCall = 1+further, 1+further
	h := hedge.New(hedge.Config{After: 1 + millis(40, "After"), Max: further, Budget: c.budget})
	policies := []mettle.Policy{timeout.New(timeout.Config{After: time.Second})}
	if rapid.Bool().Draw(t, "retry") {
		policies = append(policies, retry.New(retry.Config{MaxAttempts: 3, Budget: c.budget}))
		c.perCall *= 3
	}
	policies = append(policies, h, mettle.PolicyFunc(c.see))
	if rapid.Bool().Draw(t, "attempt timeout") {
		policies = append(policies, timeout.New(timeout.Config{After: time.Millisecond/2 + millis(100, "attempt")}))
	}
	c.p = mettle.Compose(policies...)
	return c
}

// do makes the call, whose caller leaves after a while; zero: never.
func (c *hedgedCall) do(leaves time.Duration) (int, error) {
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	if leaves > 0 {
		timer := time.AfterFunc(leaves, leave)
		defer timer.Stop()
	}
	v, err := mettle.GetDispose(ctx, c.p, c.op, func(v int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.disposed = append(c.disposed, v)
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.returned = true
	return v, err
}

// Whatever runs take and end with, whether they listen to their contexts or not, and
// whenever the caller leaves: no run outlives the call, each value is returned or disposed
// of, once, what policies further in see is what happened to them, and the budget has paid
// for what was sent.
//
// Spec: H1 (part), H2, H3, H5, P3, R16 (part)
func TestHedgedCalls(t *testing.T) {
	hedged, lost := 0, 0
	explore(t, 7, time.Hour, func(t testing.TB) {
		rapid.Check(t, func(t *rapid.T) {
			c := drawHedgedCall(t)
			before := c.budget.Balance()
			leaves := time.Duration(0)
			if rapid.Bool().Draw(t, "the caller leaves") {
				leaves = time.Duration(rapid.Int64Range(1, int64(150*time.Millisecond)).Draw(t, "after"))
			}
			v, err := c.do(leaves)

			require.Zero(t, c.running, "runs outlive the call")
			assert.LessOrEqual(t, c.begun, c.perCall, "runs")
			assert.LessOrEqual(t, c.peak, c.most, "runs side by side")
			assert.Equal(t, c.wantClass[mettle.Failure], c.class[mettle.Failure], "failures")
			assert.Equal(t, c.wantClass[mettle.Timeout], c.class[mettle.Timeout], "timeouts")
			assert.Equal(t, c.wantClass[mettle.Success], c.class[mettle.Success], "successes")
			assert.Zero(t, c.wrongCtx, "contexts without the deadline")
			if err == nil {
				c.disposed = append(c.disposed, v)
			} else {
				assert.Zero(t, v)
			}
			assert.ElementsMatch(t, c.made, c.disposed, "values made, and returned or disposed of")

			spent, earned := before-c.budget.Balance(), 0.0
			if err == nil {
				earned = 0.1
			}
			further := float64(max(c.begun-1, 0))
			assert.GreaterOrEqual(t, spent, further-float64(c.refused)-earned-1e-9, "tokens for %v runs beside the first", further)
			assert.LessOrEqual(t, spent, 2*further+1e-9, "tokens for %v runs beside the first", further)
			assert.False(t, math.Signbit(c.budget.Balance()))
			hedged += c.begun - 1
			lost += c.class[mettle.Ignored]
			time.Sleep(time.Second)
			assert.Zero(t, c.runsAfterDo)
		})
	})
	assert.GreaterOrEqual(t, hedged, 100, "runs beside the first")
	assert.GreaterOrEqual(t, lost, 50, "runs that lost")
}
