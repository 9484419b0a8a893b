package tests

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/retry"
)

// answered is how an operation ends, with all that a retry asks of an error.
type answered struct {
	outcome   mettle.Outcome
	after     time.Duration // suggested, to the letter, since jitter is not foretold; negative: not
	permanent bool
}

func (a *answered) Error() string             { return a.outcome.String() }
func (a *answered) Outcome() mettle.Outcome   { return a.outcome }
func (a *answered) RetryAfter() time.Duration { return a.after }
func (a *answered) RetryExactly() bool        { return true }
func (a *answered) Permanent() bool           { return a.permanent }

// refusedHere is a refusal by a policy further in.
type refusedHere struct{ after time.Duration }

func (*refusedHere) Error() string               { return "refused" }
func (*refusedHere) Is(target error) bool        { return target == mettle.ErrRejected }
func (r *refusedHere) RetryAfter() time.Duration { return r.after }
func (*refusedHere) RetryExactly() bool          { return true }

// attempt is one that a plan foresees.
type attempt struct {
	took time.Duration
	err  error // nil: a success
}

// plan is a call of Do and all that has a say in it.
type plan struct {
	config   retry.Config // without the budget
	purse    retry.BudgetConfig
	drained  int // resends that others have paid for already
	deadline time.Duration
	cancel   time.Duration // 0: nobody cancels
	attempts []attempt     // the last one over and over
	waits    bool          // refusals are waited out
}

var errHungUp = errors.New("hung up")

// ending is what came of a call.
type ending struct {
	starts  []time.Duration
	elapsed time.Duration
	kind    string // "nil", "as it is", or the reason of an *Error
	last    error
	balance float64
}

// reference is a retry written down in the order of its promises: one loop, no budget
// that others use, and no errors within errors.
func (p *plan) reference() (v ending) {
	purse := newPurse(p.purse)
	for range p.drained {
		purse.withdraw(mettle.Failure)
	}
	var now, prev time.Duration
	var failure error
	lent := mettle.Ignored // what was taken for a resend that may not be sent yet
	ended := func(at time.Duration) bool {
		return p.deadline > 0 && at >= p.deadline || p.cancel > 0 && at >= p.cancel
	}
	finish := func(kind string, last error) ending {
		v.elapsed, v.kind, v.last, v.balance = now, kind, last, purse.tokens/1e6
		return v
	}
	succeed := func(paid mettle.Outcome) {
		if purse.refundsSuccess && paid != mettle.Ignored {
			purse.refund(paid)
		} else {
			purse.add(purse.ratio)
		}
	}
	for n := 1; ; n++ {
		a := p.attempts[min(n, len(p.attempts))-1]
		v.starts = append(v.starts, now)
		now += a.took
		if a.err == nil {
			succeed(lent)
			return finish("nil", nil)
		}
		said, failed := a.err.(*answered)
		outcome, suggested := mettle.Ignored, time.Duration(-1)
		if failed {
			outcome, suggested = said.outcome, said.after
		} else {
			suggested = a.err.(*refusedHere).after
		}
		paid := lent
		if failed {
			lent = mettle.Ignored // it was sent
		}
		back := func() { purse.refund(lent) }
		last := a.err
		if !failed && failure != nil {
			last = failure
		}
		stop := func(kind string) ending { back(); return finish(kind, last) }

		switch {
		case failed && (said.permanent || outcome == mettle.Success):
			if outcome == mettle.Success {
				succeed(paid)
			}
			return finish("as it is", a.err)
		case !failed && !p.waits && failure == nil:
			return finish("as it is", a.err)
		case !failed && !p.waits && !ended(now):
			return stop("refused")
		case ended(now):
			return stop("context")
		}
		enough := !purse.charges || purse.withdraw(outcome)
		if n >= max(p.config.MaxAttempts, 1) {
			return stop("exhausted")
		}
		prev = max(p.config.Backoff(n, prev), 0)
		delay := prev
		if suggested >= 0 {
			delay = suggested
		}
		switch {
		case suggested > p.config.MaxRetryAfter:
			return stop("retry after")
		case p.deadline > 0 && now+delay >= p.deadline:
			return stop("deadline")
		case p.config.MaxElapsed > 0 && now+delay >= p.config.MaxElapsed:
			return stop("elapsed")
		case !enough || !purse.charges && !purse.withdraw(outcome):
			return stop("budget")
		}
		if failed {
			failure, lent = a.err, outcome
		}
		if p.cancel > 0 && now+delay >= p.cancel {
			now = p.cancel
			return stop("context")
		}
		now += delay
	}
}

// run makes the call and tells what came of it in the same words.
func (p *plan) run(t *rapid.T) (v ending) {
	c := p.config
	c.Budget = retry.NewBudget(p.purse)
	for range p.drained {
		c.Budget.Withdraw(mettle.Failure)
	}
	if p.waits {
		c.RetryIf = func(err error) bool {
			return errors.Is(err, mettle.ErrRejected) || mettle.Classify(context.Background(), err).Failed()
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	if p.cancel > 0 {
		defer time.AfterFunc(p.cancel, func() { cancel(errHungUp) }).Stop()
	}
	if p.deadline > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, p.deadline, errHungUp)
		defer stop()
	}
	begun := time.Now()
	err := retry.New(c).Do(ctx, func(ctx context.Context) error {
		n := mettle.Attempt(ctx)
		require.Equal(t, len(v.starts)+1, n, "number of the attempt")
		require.NoError(t, ctx.Err(), "op runs under a context that is done")
		v.starts = append(v.starts, time.Since(begun))
		a := p.attempts[min(n, len(p.attempts))-1]
		time.Sleep(a.took)
		return a.err
	})
	v.elapsed, v.last, v.balance = time.Since(begun), err, c.Budget.Balance()
	e, stopped := err.(*retry.Error)
	switch {
	case err == nil:
		v.kind = "nil"
		return v
	case !stopped:
		v.kind = "as it is"
		return v
	}
	assert.Equal(t, v.elapsed, e.Elapsed)
	assert.Equal(t, len(v.starts), e.Attempts)
	assert.ErrorIs(t, err, e.Last)
	v.last = e.Last
	for kind, reason := range map[string]error{
		"exhausted": retry.ErrExhausted, "deadline": retry.ErrDeadline, "elapsed": retry.ErrElapsed,
		"budget": retry.ErrBudget, "retry after": retry.ErrRetryAfter, "context": errHungUp,
	} {
		if errors.Is(e.Reason, reason) {
			v.kind = kind
			return v
		}
	}
	assert.ErrorIs(t, e.Reason, mettle.ErrRejected)
	v.kind = "refused"
	return v
}

// plans draws a plan. The context ends at an odd microsecond, and all else happens at whole
// milliseconds, so that nothing happens at the moment of its end.
func plans(t *rapid.T) *plan {
	ms := func(most int64) *rapid.Generator[time.Duration] {
		return rapid.Map(rapid.Int64Range(0, most), func(n int64) time.Duration { return time.Duration(n) * time.Millisecond })
	}
	p := &plan{
		config: retry.Config{
			MaxAttempts:   rapid.IntRange(1, 6).Draw(t, "max attempts"),
			MaxElapsed:    rapid.OneOf(rapid.Just(time.Duration(0)), ms(400)).Draw(t, "max elapsed"),
			MaxRetryAfter: ms(60).Draw(t, "max retry after") + time.Millisecond,
			Backoff: rapid.SampledFrom([]retry.Backoff{
				retry.Constant(0), retry.Constant(7 * time.Millisecond),
				retry.Linear(3*time.Millisecond, 10*time.Millisecond), retry.Exponential(time.Millisecond, 20*time.Millisecond),
				func(n int, prev time.Duration) time.Duration {
					return 2*prev - 5*time.Millisecond + time.Duration(n)*3*time.Millisecond
				},
			}).Draw(t, "backoff"),
		},
		purse: budgets(t),
		waits: rapid.Bool().Draw(t, "waits for refusals"),
	}
	p.purse.MinPerSecond = -1 // TestBudgetAgainstPurse
	p.drained = rapid.IntRange(0, 30).Draw(t, "drained")
	switch rapid.IntRange(0, 2).Draw(t, "caller") {
	case 1:
		p.deadline = ms(200).Draw(t, "deadline") + time.Microsecond
	case 2:
		p.cancel = ms(200).Draw(t, "cancel") + time.Microsecond
	}
	outcome := rapid.SampledFrom([]mettle.Outcome{mettle.Failure, mettle.Failure, mettle.Overload, mettle.Timeout, mettle.Success})
	after := rapid.OneOf(rapid.Just(time.Duration(-1)), rapid.Just(time.Duration(-1)), ms(80))
	for range rapid.IntRange(1, 6).Draw(t, "attempts") {
		a := attempt{took: rapid.OneOf(rapid.Just(time.Duration(0)), ms(50)).Draw(t, "took")}
		switch rapid.IntRange(0, 9).Draw(t, "end") {
		case 0:
		case 1, 2:
			a.err = &refusedHere{after.Draw(t, "after")}
		default:
			a.err = &answered{outcome.Draw(t, "outcome"), after.Draw(t, "after"), rapid.IntRange(0, 9).Draw(t, "permanent") == 0}
		}
		p.attempts = append(p.attempts, a)
	}
	return p
}

// Spec: R1, R2, R4, R5, R6, R11, R13, R14, R15, R19
func TestRetrierAgainstReference(t *testing.T) {
	explore(t, 15, time.Hour, func(t testing.TB) {
		kinds := make(map[string]int)
		rapid.Check(t, func(t *rapid.T) {
			for range 20 {
				p := plans(t)
				want := p.reference()
				got := p.run(t)
				require.InDelta(t, want.balance, got.balance, 1e-5, "balance of %+v", p)
				want.balance = got.balance
				require.Equal(t, want, got, "%+v", p)
				kinds[want.kind]++
			}
		})
		for _, kind := range []string{
			"nil", "as it is", "refused", "context", "exhausted", "deadline", "elapsed", "budget", "retry after",
		} {
			assert.Greater(t, kinds[kind], 20, "calls that ended %q", kind)
		}
		t.Log(kinds)
	})
}
