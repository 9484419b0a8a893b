// Package hedge runs an operation a second time when the first run takes long, and takes
// the answer that comes first.
//
//	h := hedge.New(hedge.Config{Name: "prices"})
//	price, err := mettle.Get(ctx, h, func(ctx context.Context) (int, error) { return ask(ctx, item) })
//
// A hedge helps where a few calls are slow by bad luck: a busy replica, a lost packet, a
// collection of garbage. It takes that luck twice, and costs little as long as only the
// slowest calls are sent again (Dean and Barroso, The Tail at Scale, CACM 56(2), 2013,
// which waits for the 95th percentile and so adds about 5 % of load). It is for operations
// that may be done twice, and does harm where everything is slow: hence the budget.
//
// # When a hedge is sent
//
// The first run is on the goroutine of the caller. A further one, up to Max of them, is
// sent each time that the delay has passed without an answer, and at once when a run ends
// in a failure or timeout, but for what follows. None is sent any more
//
//   - once there is an answer: a success, or an error whose outcome is [mettle.Success],
//     an answer about the request itself;
//   - after an error that is marked [mettle.Permanent], is an overload or suggests a wait
//     ([mettle.RetryAfter]), which are for a retry around the hedge to deal with, or that
//     is no failure of the dependency, such as a refusal by an inner policy;
//   - when the budget does not allow it, or the caller's context is done.
//
// A failure ends the call only when no run is left that may yet succeed.
//
// # Where it belongs
//
// Inside the retry, if there is one, and the timeout of the whole call, and outside the
// breaker, the bulkhead and the timeout of one attempt, so that these see each run. A
// retry inside a hedge resends nothing unless its Config says Nested.
//
// # What it may cost
//
// Two budgets have to allow a hedge, one token for each (or two to repeat a timeout). One
// is the hedge's own: it holds 10 tokens, and a call that is answered before the delay
// earns a tenth of one. So when everything has become slow, there are next to no hedges:
// one in five minutes. The other is the Budget in the Config, which bounds hedges and
// retries of one dependency together. There each success earns what it says, but for those
// within an attempt of a retry, which deposits them itself.
//
// A live delay follows the calls, so that when everything has been slow for some seconds,
// the slowest twentieth is hedged again, if to no use: the second run is as slow as the
// first. Hedges helped when one of them answered a call, and within the delay. Once 20
// calls were hedged for a live delay and not helped, hedges are rare: of those that there
// would be, only the twentieth part that is for the slowest calls, which is 0.25 % of all
// instead of 5. The tokens are earned a twentieth as fast. A call that is helped ends
// that, and makes up for ten that were not.
package hedge

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/internal/clock"
	"github.com/mettle-go/mettle/internal/quantile"
	"github.com/mettle-go/mettle/retry"
)

// Config says when a [Hedge] sends a call again. The zero Config is valid and recommended.
type Config struct {
	// Name is the label of the metrics and of the trace events. Zero: no name.
	Name string

	// After is the delay: how long a run has, before the next one is sent. Beside a
	// Quantile it is the shortest delay. Zero: 1 ms, and a live delay by Quantile.
	After time.Duration

	// Quantile makes the delay a live one, in (0, 1): how long this share of the first
	// runs of the last minute have taken to be answered or to time out. It is at most a
	// sixteenth too long. Until there are 2/(1-Quantile) of these runs, or 20, nothing is
	// sent for the delay alone. While hedges are of no use the quantile is a higher one,
	// 1-(1-Quantile)/20. Zero: 0.95, or no live delay when After is set.
	Quantile float64

	// Max is how many times a call is sent beside the first. Zero: 1.
	Max int

	// Budget bounds the hedges of all calls, together with the retries, if it is that of a
	// Retrier too: share one between all that call the same dependency. It comes on top of
	// what the hedge allows itself; see the package documentation. Within an attempt of a
	// retry with another budget nothing is ever put in, so give both the same. A hedge that
	// helps pays all the same where the budget has RefundSuccess. Nil: nothing on top.
	// NoBudget: hedges are bounded by nothing but being of no use.
	Budget *retry.Budget

	// Classify tells the outcome of a run that ended with an error, with the context of the
	// caller. An error that is a success by it is an answer, and ends the call. It is called
	// from several goroutines at once, and its panics go through Do. Nil: [mettle.Classify].
	Classify mettle.Classifier
}

const (
	defaultQuantile = 0.95
	defaultFloor    = time.Millisecond // below it a timer of the runtime is not exact
	defaultMax      = 1
	window          = time.Minute
	leastSamples    = 20
	ownTokens       = 10

	// patience is after how many calls that were not helped hedges are rare, and worth for
	// how many of them one makes up that was. Where 1 % of all calls are slow by bad luck
	// and the slowest 5 % are hedged, one in five of these is helped, and hedges are seldom
	// taken to be in vain. That costs little: the next one is for a call that is among
	// the slowest, and helps.
	patience = 20
	worth    = 10
	// rarely is how many hedges there would be, for one that there is.
	rarely = 20
)

// Validate reports every mistake in c, joined, or nil.
func (c Config) Validate() error {
	var mistakes []error
	refuse := func(format string, args ...any) {
		mistakes = append(mistakes, fmt.Errorf("hedge: "+format, args...))
	}
	if c.After < 0 {
		refuse("After is %v, must be positive, or 0 for a live delay", c.After)
	}
	if !(c.Quantile >= 0 && c.Quantile < 1) { // the negation catches NaN
		refuse("Quantile is %v, must be in (0, 1), or 0 for %v, or for a fixed delay", c.Quantile, defaultQuantile)
	}
	if c.Max < 0 {
		refuse("Max is %d, must be at least 1, or 0 for %d", c.Max, defaultMax)
	}
	if (retry.Config{Budget: c.Budget}).Validate() != nil {
		refuse("Budget is the zero Budget, which allows nothing, must be made by retry.NewBudget, or nil for none but the hedge's own")
	}
	return errors.Join(mistakes...)
}

// Hedge is the policy that sends slow calls again. It is made by [New], is immutable, and
// may be used from many goroutines at once. It holds no goroutine, and a timer only while
// a call runs.
type Hedge struct {
	name     string
	after    time.Duration
	max      int
	quantile float64       // 0: the delay is fixed
	own      *retry.Budget // earned by calls that are answered before the delay
	shared   *retry.Budget // nil: none
	classify mettle.Classifier
	clock    clock.Clock
	sketch   *quantile.Sketch // nil: the delay is fixed
	live     *quantile.Live
	later    *quantile.Live // the delay while hedges are rare
	labels   []mettle.Label

	_        [64]byte // what follows is written, the fields above only read
	counters counters
	early    atomic.Uint64 // calls answered before the delay while hedges were rare
	vain     atomic.Int64  // calls hedged for a live delay that were not helped, less those helped, in [0, patience]
}

var (
	_ mettle.Wrapper    = (*Hedge)(nil)
	_ mettle.Observable = (*Hedge)(nil)
)

// New returns a Hedge. It panics with the message of [Config.Validate] when c is not
// valid.
func New(c Config) *Hedge {
	if err := c.Validate(); err != nil {
		panic(err.Error())
	}
	h := &Hedge{
		name:     c.Name,
		after:    c.After,
		max:      c.Max,
		own:      retry.NoBudget,
		classify: c.Classify,
		clock:    clock.New(),
		labels:   []mettle.Label{{Key: "policy", Value: c.Name}},
	}
	if h.max == 0 {
		h.max = defaultMax
	}
	if h.classify == nil {
		h.classify = mettle.Classify
	}
	if c.Budget != retry.NoBudget {
		h.own, h.shared = retry.NewBudget(retry.BudgetConfig{Burst: ownTokens, Start: ownTokens}), c.Budget
	}
	q := c.Quantile
	if q == 0 && h.after == 0 {
		q = defaultQuantile
	}
	if h.quantile = q; q > 0 {
		if h.after == 0 {
			h.after = defaultFloor
		}
		least := max(leastSamples, int(min(math.Round(2/(1-q)), math.MaxInt32)))
		h.sketch = quantile.New(window)
		h.live = quantile.NewLive(h.sketch, q, least, time.Duration(h.clock.Now()))
		h.later = quantile.NewLive(h.sketch, 1-(1-q)/rarely, least, time.Duration(h.clock.Now()))
	}
	return h
}

// Do may run op several times at once, so what the runs share, such as a variable that op
// captures and writes, must be safe for that: [mettle.Get] returns the value of one run,
// and [mettle.GetDispose] gives those of the others back.
//
// The first run is on the goroutine of the caller; the package documentation says when a
// further one is sent. The context of each descends from ctx, carries the number of the
// run ([mettle.Attempt], which counts on from that of ctx), and ends when Do returns. When
// one run is answered, those of the others are cancelled with [ErrLost] as the cause, and
// Do returns once they have returned: a run that is deaf to its context keeps the caller
// waiting, and shows in [Stats.Abandoned].
//
// Do returns the error of the run that was answered, nil for a success. If none was, it
// returns the error of the only run as it is, and those of several in an [*Error].
//
// A panic in a run, or [runtime.Goexit], is passed on when all other runs have returned,
// with its own value, also where another run was answered. One on another goroutine than
// the caller's has lost its stack by then; if the panic ends the process, the report shows
// it all the same.
//
// When ctx is done on entry, op does not run and Do returns [context.Cause] of ctx.
func (h *Hedge) Do(ctx context.Context, op func(context.Context) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return h.run(ctx, nil, op)
}

// Wrap returns the Hedge bound to next. See [mettle.Wrapper].
func (h *Hedge) Wrap(next mettle.Policy) mettle.Policy { return &bound{h, next} }

type bound struct {
	h    *Hedge
	next mettle.Policy
}

func (b *bound) Do(ctx context.Context, op func(context.Context) error) error {
	return b.h.run(ctx, b.next, op)
}

func (h *Hedge) run(ctx context.Context, next mettle.Policy, op func(context.Context) error) error {
	n := mettle.Attempt(ctx)
	c := &call{h: h, ctx: ctx, next: next, op: op, base: max(n, 1), nested: n > 0}
	c.first.parent = mettle.WithAttempt(ctx, c.base)
	c.begin()
	return c.do()
}

// delay returns what a run has until the next one is sent, 0 while that is not known.
func (h *Hedge) delay(now int64) time.Duration {
	if h.live == nil {
		return h.after
	}
	d := h.live.Value(time.Duration(now))
	if d == 0 {
		return 0
	}
	if h.rare() {
		d = max(d, h.later.Value(time.Duration(now)))
	}
	return max(d, h.after)
}

// earn pays for hedges, in reward of a call that was answered before the delay.
func (h *Hedge) earn() {
	if !h.rare() || h.early.Add(1)%rarely == 0 {
		h.own.Deposit()
	}
}

// rare reports whether hedges have been of no use for so long that there are few.
func (h *Hedge) rare() bool { return h.vain.Load() >= patience }

// learn takes note of whether a call was helped that was hedged for the delay.
func (h *Hedge) learn(helped bool) {
	if h.later == nil {
		return
	}
	for {
		vain := h.vain.Load()
		next := min(vain+1, patience)
		if helped {
			next = max(vain-worth, 0)
		}
		if next == vain || h.vain.CompareAndSwap(vain, next) {
			return
		}
	}
}

// withdraw takes the price of a hedge that repeats a run which ended in o.
func (h *Hedge) withdraw(o mettle.Outcome) bool {
	if !h.own.Withdraw(o) {
		return false
	}
	if h.shared != nil && !h.shared.Withdraw(o) {
		h.own.Refund(o)
		return false
	}
	return true
}

// refund gives back what withdraw took for a hedge that was not sent.
func (h *Hedge) refund(o mettle.Outcome) {
	h.own.Refund(o)
	if h.shared != nil {
		h.shared.Refund(o)
	}
}
