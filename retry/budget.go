package retry

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/internal/clock"
)

// BudgetConfig says how many resends a [Budget] allows. The zero BudgetConfig is
// valid and recommended.
type BudgetConfig struct {
	// Name is the label of the budget's metrics. Zero: no name.
	Name string

	// Ratio is how many tokens a success earns, in (0, 1]: 0.1 lets the resends be
	// a tenth of the calls that succeed. It is rounded up to a millionth.
	// Zero: 0.1 (Google SRE book, chapter 21).
	Ratio float64

	// MinPerSecond is how many tokens time alone earns in a second, at most 1000,
	// so that a client with few calls is not left without any.
	// Zero: 0.1. Negative: none.
	MinPerSecond float64

	// Burst is how many tokens the budget holds at most, and at the start; no more
	// than 10^9. Zero: 10.
	Burst int
}

// Validate reports every mistake in c, joined, or nil.
func (c BudgetConfig) Validate() error {
	var mistakes []error
	if !(c.Ratio >= 0 && c.Ratio <= 1) { // the negation catches NaN
		mistakes = append(mistakes, fmt.Errorf("retry: Ratio is %v, must be in (0, 1], or 0 for %v", c.Ratio, defaultRatio))
	}
	if !(c.MinPerSecond <= maxMinPerSecond) || math.IsInf(c.MinPerSecond, -1) {
		mistakes = append(mistakes, fmt.Errorf("retry: MinPerSecond is %v, must be at most %v, 0 for %v, or negative for none",
			c.MinPerSecond, maxMinPerSecond, defaultMinPerSecond))
	}
	if c.Burst < 0 || c.Burst > maxBurst {
		mistakes = append(mistakes, fmt.Errorf("retry: Burst is %d, must be in [1, %d], or 0 for %d", c.Burst, maxBurst, defaultBurst))
	}
	return errors.Join(mistakes...)
}

const (
	defaultRatio        = 0.1
	defaultMinPerSecond = 0.1
	defaultBurst        = 10

	// The bounds keep every sum of units within an int64 for a hundred years.
	maxBurst        = 1_000_000_000
	maxMinPerSecond = 1000.0

	// token is one token in units. A decimal power, because ratios are decimal:
	// ten times 0.1 is one token, exactly.
	token = 1_000_000
)

// Budget bounds resends to a share of the calls that succeed, so that a dependency
// in trouble is not buried under retries: when all calls fail, next to none are
// resent, and once calls succeed again, so are resends.
//
// A budget holds tokens and starts full. A success adds Ratio tokens, each second adds
// MinPerSecond, and each resend takes one token, or two when what it repeats has timed
// out, since a timeout costs the dependency the most. With none left there is no
// resend. In the steady state attempts are at most 1+Ratio times the calls, plus
// MinPerSecond (the idea is that of Finagle's RetryBudget and of gRFC A6).
//
// Share one Budget among all that resend to one dependency, hedges included. A
// policy of your own shares it too: [Budget.Deposit] after a success,
// [Budget.Withdraw] before a resend, and [Budget.Refund] when that was not sent.
//
// A Budget may be used from many goroutines at once; it takes no lock, and a success
// while it is full writes nothing. The zero Budget is empty for good, so [New]
// refuses it: use [NewBudget].
type Budget struct {
	unlimited bool
	limit     int64   // in units, like all int64 here
	ratio     int64   // what a success earns
	rate      float64 // what a nanosecond earns
	clock     clock.Clock
	labels    []mettle.Label

	_ [64]byte // the words below are written, those above only read

	// The tokens at a moment t are min(limit, level + earned(t)): what time has
	// earned is not added but counted when it is looked at, and so one CAS changes
	// tokens and time together. Deposits need no clock, since the order of earnings
	// does not matter until the next withdrawal, which applies the limit to all.
	level atomic.Int64

	// seen is the most that earned had been at a withdrawal. It only grows.
	seen atomic.Int64

	denials atomic.Uint64
}

// NoBudget never denies a resend. In a [Config] it turns the budget off.
var NoBudget = &Budget{unlimited: true}

// NewBudget returns a full budget. It panics with the message of
// [BudgetConfig.Validate] when c is not valid.
func NewBudget(c BudgetConfig) *Budget {
	if err := c.Validate(); err != nil {
		panic(err.Error())
	}
	if c.Ratio == 0 {
		c.Ratio = defaultRatio
	}
	if c.MinPerSecond == 0 {
		c.MinPerSecond = defaultMinPerSecond
	}
	if c.Burst == 0 {
		c.Burst = defaultBurst
	}
	b := &Budget{
		limit:  int64(c.Burst) * token,
		ratio:  int64(math.Ceil(c.Ratio * token)),
		rate:   max(c.MinPerSecond, 0) * token / 1e9,
		clock:  clock.New(),
		labels: []mettle.Label{{Key: "policy", Value: c.Name}},
	}
	b.level.Store(b.limit)
	return b
}

// Deposit puts in what a success earns. Call it once for each call that ended in a
// success of the dependency, after however many attempts.
func (b *Budget) Deposit() { b.put(b.ratio) }

// Withdraw takes the price of resending a call whose last attempt ended in o, and
// reports whether the budget had it; if not, nothing is taken and the call must not
// be resent. The price is one token, two after a [mettle.Timeout] (or all the budget
// can hold, if that is less), and nothing after [mettle.Ignored]: what was refused
// before it was sent is no load when it is sent.
func (b *Budget) Withdraw(o mettle.Outcome) bool {
	if b.unlimited || o == mettle.Ignored {
		return true
	}
	cost, earned := b.cost(o), b.earned()
	for {
		level := b.level.Load()
		tokens := min(b.limit, level+earned)
		if tokens < cost || b.limit == 0 {
			b.denials.Add(1)
			return false
		}
		if b.level.CompareAndSwap(level, tokens-cost-earned) {
			break
		}
	}
	for seen := b.seen.Load(); seen < earned; seen = b.seen.Load() {
		if b.seen.CompareAndSwap(seen, earned) {
			break
		}
	}
	return true
}

// Refund gives back what Withdraw took for o, when the resend was not sent after
// all: the caller gave up during the wait, say, or a policy further in refused it.
// Refund at most once a withdrawal, and never because a resend failed.
func (b *Budget) Refund(o mettle.Outcome) { b.put(b.cost(o)) }

// Balance returns the tokens in the budget, between 0 and its Burst. It changes
// nothing. That of [NoBudget] is +Inf.
func (b *Budget) Balance() float64 {
	if b.unlimited {
		return math.Inf(1)
	}
	tokens := min(b.limit, b.level.Load()+b.earned())
	// A withdrawal that read the clock a moment later than we did may have left
	// the sum slightly below zero.
	return float64(max(tokens, 0)) / token
}

// Observe yields these metrics, with the label policy, which is the Name:
//
//	mettle.retry.budget_tokens   gauge    {token}  that are left: resends it would allow now
//	mettle.retry.budget_denials  counter  {call}   resends that it did not allow
//
// A [Retrier] with a shared budget does not yield them, or the same numbers would come
// several times. [NoBudget] yields nothing.
func (b *Budget) Observe(yield func(mettle.Metric) bool) {
	if b.unlimited {
		return
	}
	b.observe(b.labels, yield)
}

func (b *Budget) observe(labels []mettle.Label, yield func(mettle.Metric) bool) bool {
	return yield(mettle.Metric{
		Kind: mettle.Gauge, Name: "mettle.retry.budget_tokens", Unit: "{token}",
		Help:   "Resends that the retry budget would allow now.",
		Labels: labels, Value: b.Balance(),
	}) && yield(mettle.Metric{
		Kind: mettle.Counter, Name: "mettle.retry.budget_denials", Unit: "{call}",
		Help:   "Resends that the retry budget did not allow.",
		Labels: labels, Value: float64(b.denials.Load()),
	})
}

// put adds units unless the budget is known to be full. It may go over the limit by
// what others put in at the same moment, which the next withdrawal cuts off.
func (b *Budget) put(units int64) {
	// earned is at least seen now, so a level that was enough then still is.
	if units == 0 || b.level.Load() >= b.limit-b.seen.Load() {
		return
	}
	b.level.Add(units)
}

func (b *Budget) cost(o mettle.Outcome) int64 {
	switch o {
	case mettle.Ignored:
		return 0
	case mettle.Timeout:
		return min(2*token, b.limit)
	default:
		return min(token, b.limit)
	}
}

// earned returns what time has put in since NewBudget. It never goes back, not even
// for a clock that does: one from outside a synctest bubble is years behind inside.
func (b *Budget) earned() int64 {
	seen := b.seen.Load()
	if b.rate == 0 {
		return seen
	}
	return max(seen, int64(math.Floor(float64(b.clock.Now())*b.rate)))
}
