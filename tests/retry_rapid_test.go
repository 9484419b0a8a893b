package tests

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/retry"
)

// durations are those of a user, and those at the edges of what a Duration holds.
func durations() *rapid.Generator[time.Duration] {
	return rapid.Map(rapid.OneOf(
		rapid.Int64Range(0, int64(time.Minute)),
		rapid.Int64(),
		rapid.SampledFrom([]int64{math.MinInt64, -1, 0, 1, 2, math.MaxInt64/3 - 1, math.MaxInt64 / 3, math.MaxInt64/3 + 1, math.MaxInt64}),
		rapid.Map(rapid.IntRange(0, 62), func(bits int) int64 { return 1 << bits }),
	), func(n int64) time.Duration { return time.Duration(n) })
}

// Every kind of backoff is within the bounds of its kind, which are reckoned here with as
// many digits as it takes.
//
// Spec: R8, R9
func TestBackoffsStayInTheirBounds(t *testing.T) {
	explore(t, 11, time.Hour, func(t testing.TB) {
		rapid.Check(t, func(t *rapid.T) {
			base, limit := durations().Draw(t, "base"), durations().Draw(t, "max")
			attempt := rapid.OneOf(rapid.IntRange(1, 100), rapid.IntRange(1, 1_000_000), rapid.Int()).Draw(t, "attempt")
			prev := durations().Draw(t, "prev")
			j := retry.Jitter{Rand: rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)}

			top := max(limit, 0)
			linear, doubled := big.NewInt(int64(max(base, 0))), big.NewInt(int64(max(base, 0)))
			linear.Mul(linear, big.NewInt(int64(max(attempt, 1))))
			doubled.Lsh(doubled, uint(min(max(attempt, 1)-1, 200))) // far above any Duration, or zero
			atMost := func(v *big.Int) time.Duration {
				if v.Cmp(big.NewInt(int64(top))) > 0 {
					return top
				}
				return time.Duration(v.Int64())
			}
			wantLinear, v := atMost(linear), atMost(doubled)

			assert.Equal(t, max(base, 0), retry.Constant(base)(attempt, prev), "constant")
			assert.Equal(t, wantLinear, retry.Linear(base, limit)(attempt, prev), "linear")
			assert.Equal(t, v, retry.Exponential(base, limit)(attempt, prev), "exponential")

			full := j.Full(base, limit)(attempt, prev)
			assert.True(t, full >= 0 && (full < v || v == 0 && full == 0), "full: %d of %d", full, v)
			equal := j.Equal(base, limit)(attempt, prev)
			assert.True(t, equal >= v/2 && equal <= v, "equal: %d of %d", equal, v)

			low := max(base, 0)
			high := new(big.Int).Mul(big.NewInt(int64(max(prev, low))), big.NewInt(3))
			decorrelated := j.Decorrelated(base, limit)(attempt, prev)
			assert.True(t, decorrelated >= min(low, top) && decorrelated <= atMost(high),
				"decorrelated: %d of %d to %d", decorrelated, low, atMost(high))
		})
	})
}

// Whatever is made of a budget's fields is either refused, or such a budget.
func budgets(t *rapid.T) retry.BudgetConfig {
	cost := rapid.OneOf(rapid.Just(0.0), rapid.Float64Range(0.000001, 5))
	for {
		c := retry.BudgetConfig{
			Burst:        rapid.IntRange(1, 30).Draw(t, "burst"),
			Ratio:        rapid.SampledFrom([]float64{0.000001, 0.1, 0.25, 1}).Draw(t, "ratio"),
			MinPerSecond: rapid.SampledFrom([]float64{-1, -1, 0.001, 0.1, 10, 1000}).Draw(t, "per second"),
			Costs:        retry.Costs{Failure: cost.Draw(t, "failure"), Overload: cost.Draw(t, "overload"), Timeout: cost.Draw(t, "timeout")},
		}
		if rapid.Bool().Draw(t, "has a threshold") {
			c.Threshold = rapid.Float64Range(0.01, 0.95).Draw(t, "threshold")
		} else {
			c.RefundSuccess = rapid.Bool().Draw(t, "refund success")
		}
		c.Start = rapid.OneOf(rapid.Just(0), rapid.IntRange(1, c.Burst)).Draw(t, "start")
		if c.Validate() == nil {
			return c
		}
	}
}

// purse is a budget as one would write it first: a lock, and tokens to which time adds
// whenever somebody looks. It reckons in millionths, as far as time allows.
type purse struct {
	mu                      sync.Mutex
	tokens, limit, perSec   float64
	ratio, line             float64
	costs                   map[mettle.Outcome]float64
	charges, refundsSuccess bool
	last                    time.Time
}

func newPurse(c retry.BudgetConfig) *purse {
	millionths := func(tokens float64) float64 { return math.Round(tokens * 1e6) }
	either := func(tokens, zero float64) float64 {
		if tokens == 0 {
			return zero
		}
		return tokens
	}
	price := func(tokens float64) float64 { return max(millionths(tokens), 1) }
	limit, failure := millionths(float64(c.Burst)), either(c.Costs.Failure, 1)
	start := min(2*price(failure), limit)
	switch {
	case c.Start > 0:
		start = millionths(float64(c.Start))
	case c.Threshold > 0:
		start = limit
	}
	p := &purse{
		tokens: start, limit: limit, perSec: max(c.MinPerSecond, 0) * 1e6, ratio: math.Ceil(c.Ratio * 1e6),
		line: max(millionths(c.Threshold*float64(c.Burst)), 1), charges: c.Threshold > 0, refundsSuccess: c.RefundSuccess,
		costs: map[mettle.Outcome]float64{
			mettle.Success: price(failure), mettle.Failure: price(failure),
			mettle.Overload: price(either(c.Costs.Overload, failure)),
			mettle.Timeout:  price(either(c.Costs.Timeout, min(2*failure, float64(c.Burst)))),
		},
		last: time.Now(),
	}
	if p.charges {
		p.costs[mettle.Success] = 0
	}
	return p
}

func (p *purse) add(tokens float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tokens = min(p.limit, p.tokens+p.perSec*time.Since(p.last).Seconds())
	p.tokens = min(p.limit, p.tokens+tokens)
	p.last = time.Now()
}

func (p *purse) withdraw(o mettle.Outcome) bool {
	p.add(0)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch cost := p.costs[o]; {
	case o == mettle.Ignored:
		return true
	case p.charges:
		p.tokens = max(0, p.tokens-cost)
		return p.tokens > p.line
	case p.tokens < cost:
		return false
	default:
		p.tokens -= cost
		return true
	}
}

func (p *purse) refund(o mettle.Outcome) {
	if !p.charges {
		p.add(p.costs[o])
	}
}

// near reports whether a withdrawal after o is so close that rounding decides.
func (p *purse) near(o mettle.Outcome) bool {
	p.add(0)
	needs := p.costs[o]
	if p.charges {
		needs += p.line
	}
	return math.Abs(p.tokens-needs) < 3
}

var charged = []mettle.Outcome{mettle.Success, mettle.Failure, mettle.Overload, mettle.Timeout, mettle.Ignored}

// Spec: R16, R20
func TestBudgetAgainstPurse(t *testing.T) {
	explore(t, 12, time.Hour, func(t testing.TB) {
		rapid.Check(t, func(t *rapid.T) {
			c := budgets(t)
			b, p := retry.NewBudget(c), newPurse(c)
			outcome := rapid.SampledFrom(charged)
			var lent []mettle.Outcome
			t.Repeat(map[string]func(*rapid.T){
				"deposit": func(*rapid.T) { b.Deposit(); p.add(p.ratio) },
				"withdraw": func(t *rapid.T) {
					o := outcome.Draw(t, "outcome")
					near := p.near(o)
					got, want := b.Withdraw(o), p.withdraw(o)
					if near {
						p.tokens = b.Balance() * 1e6
					} else {
						require.Equal(t, want, got)
					}
					if got {
						lent = append(lent, o)
					}
				},
				"refund": func(t *rapid.T) {
					if len(lent) == 0 {
						t.Skip("nothing is lent")
					}
					b.Refund(lent[0])
					p.refund(lent[0])
					lent = lent[1:]
				},
				"wait": func(t *rapid.T) {
					time.Sleep(time.Duration(rapid.OneOf(rapid.Int64Range(0, 1e9), rapid.Int64Range(0, 1e11)).Draw(t, "ns")))
				},
				"": func(t *rapid.T) {
					p.add(0)
					got := b.Balance()
					require.InDelta(t, p.tokens/1e6, got, 1e-4)
					require.True(t, got >= 0 && got <= float64(c.Burst), "balance %v of %d", got, c.Burst)
				},
			})
		})
	})
}

// However many use a budget at once, it holds neither less than nothing nor more than
// its Burst, and what was spent never exceeds what came in.
//
// Spec: R16, P11
func TestBudgetInManyHands(t *testing.T) {
	explore(t, 13, time.Second, func(t testing.TB) {
		rapid.Check(t, func(t *rapid.T) {
			c := budgets(t)
			b, costs := retry.NewBudget(c), newPurse(c).costs
			begun := time.Now()
			var earned, spent atomic.Int64 // millionths
			var wg sync.WaitGroup
			for i := range rapid.IntRange(2, 8).Draw(t, "goroutines") {
				random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), uint64(i)))
				wg.Go(func() {
					for range 100 {
						o := charged[random.IntN(len(charged))]
						switch random.IntN(5) {
						case 0:
							b.Deposit()
							earned.Add(int64(math.Ceil(c.Ratio * 1e6)))
						case 1, 2:
							if !b.Withdraw(o) {
								continue
							}
							spent.Add(int64(costs[o]))
							if c.Threshold == 0 && random.IntN(4) == 0 {
								spent.Add(-int64(costs[o]))
								b.Refund(o)
							}
						case 3:
							if got := b.Balance(); got < 0 || got > float64(c.Burst) {
								panic(fmt.Sprintf("balance %v of %d", got, c.Burst))
							}
						case 4:
							time.Sleep(time.Duration(random.Int64N(1e8)))
						}
					}
				})
			}
			wg.Wait()
			income := newPurse(c).tokens + float64(earned.Load()) + max(c.MinPerSecond, 0)*1e6*time.Since(begun).Seconds()
			left := float64(spent.Load()) + b.Balance()*1e6
			require.LessOrEqual(t, left, income+10, "spent and left, of the income")
		})
	})
}

// At any rate of failures, a retrier sends at most the resends of one call more than
// 1+Ratio times the calls, and what time earns. Timeouts cost double, so they are resent half as often.
//
// Spec: R16
func TestAmplificationHasABound(t *testing.T) {
	explore(t, 14, time.Hour, func(t testing.TB) {
		rapid.Check(t, func(t *rapid.T) {
			share := rapid.Float64Range(0, 1).Draw(t, "share that fails")
			timeouts := rapid.Float64Range(0, 1).Draw(t, "of these, timeouts")
			pace := time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "pace"))
			random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 2))
			most := rapid.IntRange(2, 10).Draw(t, "attempts")
			r := retry.New(retry.Config{MaxAttempts: most})
			const calls = 500
			begun, attempts, paid, good := time.Now(), 0, 0, 0
			for range calls {
				_ = r.Do(context.Background(), func(context.Context) error {
					attempts++
					switch {
					case random.Float64() >= share:
						good++
						return nil
					case random.Float64() < timeouts:
						return context.DeadlineExceeded
					default:
						return errors.New("down")
					}
				})
				time.Sleep(pace)
			}
			paid = attempts - calls
			granted := float64(most-1) + 0.003*time.Since(begun).Seconds() + 1e-6
			require.LessOrEqual(t, float64(paid), granted+0.1*float64(good), "resends, of what was earned")
			require.LessOrEqual(t, float64(attempts), granted+1.1*calls)
		})
	})
}
