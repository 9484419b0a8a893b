package retry

import (
	"errors"
	"fmt"
	"log/slog"
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
	// so that a client with few calls is not left without any. It is in no proportion
	// to the calls, so many clients of one dependency add up to a load of resends
	// that no failure of theirs bounds. Zero: 0.003, one in five and a half minutes.
	// Negative: none.
	MinPerSecond float64

	// Burst is how many tokens the budget holds at most; no more than 10^9. Zero: 10.
	Burst int

	// Start is how many tokens the budget holds at first, at most Burst. They too add up
	// over many clients, which tend to begin all at once, with a new release or after an
	// outage. Zero: 2, so that one call can be resent twice, or once after a timeout; with other Costs the price of
	// two Failures, and Burst if that is less or there is a Threshold.
	Start int

	// Costs are the prices of a resend. Zero: one token, two after a timeout.
	Costs Costs

	// RefundSuccess gives a call that a resend brought to success the price of that
	// resend back, in place of Ratio, which is then for those that succeed at once.
	// It makes resends that help free, so that attempts may be more than 1+Ratio times
	// the calls while some of these fail. False: every success earns Ratio.
	RefundSuccess bool

	// Threshold is a share of Burst, less than 1, that the resends must leave alone:
	// there is none unless more is left after its price was taken. With a Threshold
	// that price is no longer for the resend but for the failure before it, and every
	// failure that could be retried pays, resent or not, down to no token at all. The
	// budget then reacts to the share of calls that fail, and to a long outage with a
	// longer abstinence. Zero: none; resends pay, and may spend everything.
	Threshold float64
}

// Costs are how many tokens a resend costs by how the attempt before it ended, each at
// most the Burst of the budget. They are rounded to a millionth.
type Costs struct {
	Failure  float64 // after a mettle.Failure. Zero: 1
	Overload float64 // after a mettle.Overload. Zero: that of Failure
	Timeout  float64 // after a mettle.Timeout. Zero: twice that of Failure, or Burst if that is less
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
	if most := c.burst(); c.Start < 0 || c.Start > most {
		mistakes = append(mistakes, fmt.Errorf("retry: Start is %d, must be in [1, %d], which is Burst, or 0 for two resends", c.Start, most))
	}
	return errors.Join(append(mistakes, c.mispriced()...)...)
}

// burst returns Burst with its default, and the most that it may be where it is a mistake
// itself: beside that, nothing else is too much.
func (c BudgetConfig) burst() int {
	switch {
	case c.Burst < 0 || c.Burst > maxBurst:
		return maxBurst
	case c.Burst == 0:
		return defaultBurst
	}
	return c.Burst
}

// mispriced reports the mistakes in what resends cost.
func (c BudgetConfig) mispriced() (mistakes []error) {
	c.Burst = c.burst()
	burst := float64(c.Burst)
	for _, cost := range []struct {
		name  string
		value float64
		zero  string
	}{
		{"Failure", c.Costs.Failure, "1"},
		{"Overload", c.Costs.Overload, "that of Failure"},
		{"Timeout", c.Costs.Timeout, "twice that of Failure"},
	} {
		if !(cost.value >= 0 && cost.value <= burst) {
			mistakes = append(mistakes, fmt.Errorf("retry: Costs.%s is %v, must be in (0, %v], which is Burst, or 0 for %s",
				cost.name, cost.value, burst, cost.zero))
		}
	}
	switch {
	case !(c.Threshold >= 0 && c.Threshold < 1):
		mistakes = append(mistakes, fmt.Errorf("retry: Threshold is %v, must be in (0, 1), or 0 for none", c.Threshold))
	case c.Threshold > 0 && c.RefundSuccess:
		mistakes = append(mistakes, fmt.Errorf("retry: RefundSuccess is true, must be false with a Threshold, which is %v: resends pay nothing then",
			c.Threshold))
	case len(mistakes) == 0 && c.Threshold > 0:
		costs := c.withDefaults().Costs
		if least := min(costs.Failure, costs.Overload, costs.Timeout); units(burst)-units(least) <= units(c.Threshold*burst) {
			mistakes = append(mistakes, fmt.Errorf("retry: Threshold is %v, must be less than %v, or a full budget allows no resend",
				c.Threshold, 1-least/burst))
		}
	}
	return mistakes
}

// withDefaults returns c with the defaults in the place of zeros.
func (c BudgetConfig) withDefaults() BudgetConfig {
	set := func(v *float64, value float64) {
		if *v == 0 {
			*v = value
		}
	}
	set(&c.Ratio, defaultRatio)
	set(&c.MinPerSecond, defaultMinPerSecond)
	c.Burst = c.burst()
	set(&c.Costs.Failure, 1)
	set(&c.Costs.Overload, c.Costs.Failure)
	set(&c.Costs.Timeout, min(2*c.Costs.Failure, float64(c.Burst)))
	return c
}

const (
	defaultRatio        = 0.1
	defaultMinPerSecond = 0.003
	defaultBurst        = 10

	// The bounds keep every sum of units within an int64 for a hundred years.
	maxBurst        = 1_000_000_000
	maxMinPerSecond = 1000.0

	// token is one token in units. A decimal power, because ratios are decimal:
	// ten times 0.1 is one token, exactly.
	token = 1_000_000
)

// units returns so many tokens in units.
func units(tokens float64) int64 { return int64(math.Round(tokens * token)) }

// Budget bounds resends to a share of the calls that succeed, so that a dependency
// in trouble is not buried under retries: when all calls fail, next to none are
// resent, and once calls succeed again, so are resends.
//
// A budget holds tokens, a few at the start. A success adds Ratio tokens, each second adds
// MinPerSecond, and each resend takes one token, or two when what it repeats has timed
// out, since a timeout costs the dependency the most. With none left there is no
// resend. In the steady state attempts are at most 1+Ratio times the calls, plus
// MinPerSecond (the idea is that of Finagle's RetryBudget).
//
// The other fields of [BudgetConfig] are for those who want the arithmetic of another
// client, whose tokens are meant for its own: that of gRFC A6 has a Threshold, that of
// the AWS SDKs has Costs and RefundSuccess. The examples of [NewBudget] show both.
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
	start     int64   // the level at first
	ratio     int64   // what a success earns
	rate      float64 // what a nanosecond earns
	costs     [mettle.Ignored + 1]int64
	refund    bool  // RefundSuccess
	threshold int64 // what is to be left; 0: failures that are not resent pay nothing
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

// NewBudget returns a budget that holds its Start. It panics with the message of
// [BudgetConfig.Validate] when c is not valid.
func NewBudget(c BudgetConfig) *Budget {
	if err := c.Validate(); err != nil {
		panic(err.Error())
	}
	c = c.withDefaults()
	b := &Budget{
		limit:  int64(c.Burst) * token,
		ratio:  int64(math.Ceil(c.Ratio * token)),
		rate:   max(c.MinPerSecond, 0) * token / 1e9,
		refund: c.RefundSuccess,
		clock:  clock.New(),
		labels: []mettle.Label{{Key: "policy", Value: c.Name}},
	}
	// Rounding must not make anything free, nor do away with a Threshold.
	failure := max(units(c.Costs.Failure), 1)
	b.costs = [...]int64{
		mettle.Success: failure, mettle.Failure: failure, mettle.Ignored: 0,
		mettle.Overload: max(units(c.Costs.Overload), 1), mettle.Timeout: max(units(c.Costs.Timeout), 1),
	}
	if c.Threshold > 0 {
		b.threshold = max(units(c.Threshold*float64(c.Burst)), 1)
		b.costs[mettle.Success] = 0
	}
	switch {
	case c.Start > 0:
		b.start = int64(c.Start) * token
	case c.Threshold > 0:
		b.start = b.limit
	default:
		b.start = min(2*failure, b.limit)
	}
	b.level.Store(b.start)
	return b
}

// Deposit puts in what a success earns. Call it once for each call that ended in a
// success of the dependency, after however many attempts; but after a resend, where the
// budget was made with RefundSuccess, call Refund instead.
func (b *Budget) Deposit() { b.put(b.ratio) }

// Withdraw takes the price of resending a call whose last attempt ended in o, and
// reports whether the budget had it; if not, nothing is taken and the call must not
// be resent. The price is that of the Costs, and nothing after [mettle.Ignored]: what
// was refused before it was sent is no load when it is sent. A hedge, which repeats
// what has not ended, asks with [mettle.Success], which has the price of a Failure.
//
// With a Threshold the price is for the failure and is taken anyway, as far as there
// is any. So call Withdraw then for each failure that could be retried, once, whether a
// resend is wanted or not. A hedge pays nothing.
func (b *Budget) Withdraw(o mettle.Outcome) bool {
	granted := b.failed(o) && b.resend(o)
	if !granted {
		b.denials.Add(1)
	}
	return granted
}

// failed takes the price of a failure, where failures have one, and reports whether
// that leaves enough for a resend.
func (b *Budget) failed(o mettle.Outcome) bool { return b.threshold == 0 || b.take(o) }

// resend takes the price of a resend, where failures have none, and reports whether the
// budget had it.
func (b *Budget) resend(o mettle.Outcome) bool { return b.threshold > 0 || b.take(o) }

// take takes the price after o and reports whether that allows a resend.
func (b *Budget) take(o mettle.Outcome) bool {
	if b.unlimited || o == mettle.Ignored {
		return true
	}
	cost, earned := b.cost(o), b.earned()
	granted := true
	for {
		level := b.level.Load()
		left := min(b.limit, level+earned) - cost
		switch {
		case b.threshold > 0:
			granted, left = left > b.threshold, max(left, 0)
		case left < 0 || b.limit == 0:
			return false
		}
		if b.level.CompareAndSwap(level, left-earned) {
			break
		}
	}
	for seen := b.seen.Load(); seen < earned; seen = b.seen.Load() {
		if b.seen.CompareAndSwap(seen, earned) {
			break
		}
	}
	return granted
}

// Refund gives back what Withdraw took for o, when the resend was not sent after
// all: the caller gave up during the wait, say, or a policy further in refused it.
// Refund at most once a withdrawal, and never because a resend failed. With a
// Threshold it does nothing, since the failure has happened all the same.
func (b *Budget) Refund(o mettle.Outcome) {
	if b.threshold == 0 {
		b.put(b.cost(o))
	}
}

// succeeded puts in what a call earns that ended in a success, and whose last resend
// had been paid for after o; Ignored: nothing was paid.
func (b *Budget) succeeded(o mettle.Outcome) {
	if b.refund && o != mettle.Ignored {
		b.Refund(o)
		return
	}
	b.Deposit()
}

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
//	mettle.retry.budget_tokens   gauge    {token}  that are left
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
		Help:   "Tokens left in the retry budget.",
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

// cost returns the price after o. An outcome that is none costs what a failure does.
func (b *Budget) cost(o mettle.Outcome) int64 {
	if int(o) >= len(b.costs) {
		o = mettle.Failure
	}
	return b.costs[o]
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

// LogValue returns the configuration, under the names of the fields of [BudgetConfig] and
// with the defaults filled in; "none" for [NoBudget].
func (b *Budget) LogValue() slog.Value {
	if b.unlimited {
		return slog.StringValue("none")
	}
	attrs := []slog.Attr{
		slog.Float64("Ratio", float64(b.ratio)/token),
		slog.Float64("MinPerSecond", math.Round(b.rate*1e9)/token), // as precise as a token is
		slog.Float64("Burst", float64(b.limit)/token),
		slog.Float64("Start", float64(b.start)/token),
	}
	if b.refund {
		attrs = append(attrs, slog.Bool("RefundSuccess", true))
	}
	if b.threshold > 0 {
		attrs = append(attrs, slog.Float64("Threshold", float64(b.threshold)/float64(b.limit)))
	}
	return slog.GroupValue(attrs...)
}
