package retry_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/retry"
)

// oracle is the budget as one would write it first: a lock, a float, and time that
// is added up at every call.
type oracle struct {
	mu                                    sync.Mutex
	tokens, limit, ratio, rate, threshold float64
	costs                                 map[mettle.Outcome]float64
	last                                  time.Time
}

func newOracle(c retry.BudgetConfig) *oracle {
	limit, either := float64(c.Burst), func(v, zero float64) float64 {
		if v == 0 {
			return zero
		}
		return v
	}
	failure := either(c.Costs.Failure, 1)
	start := either(float64(c.Start), min(2*failure, limit))
	if c.Start == 0 && c.Threshold > 0 {
		start = limit
	}
	return &oracle{
		tokens: start, limit: limit, ratio: c.Ratio, rate: max(c.MinPerSecond, 0),
		threshold: c.Threshold * limit, last: time.Now(),
		costs: map[mettle.Outcome]float64{
			mettle.Success: failure, mettle.Failure: failure,
			mettle.Overload: either(c.Costs.Overload, failure),
			mettle.Timeout:  either(c.Costs.Timeout, min(2*failure, limit)),
		},
	}
}

func (o *oracle) add(tokens float64) {
	now := time.Now()
	o.tokens = min(o.limit, o.tokens+o.rate*now.Sub(o.last).Seconds())
	o.tokens = min(o.limit, o.tokens+tokens)
	o.last = now
}

func (o *oracle) cost(outcome mettle.Outcome) float64 {
	if o.threshold > 0 && outcome == mettle.Success {
		return 0
	}
	return o.costs[outcome]
}

// line is how many tokens a resend takes there to be.
func (o *oracle) line(outcome mettle.Outcome) float64 { return o.threshold + o.cost(outcome) }

func (o *oracle) Deposit() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.add(o.ratio)
}

func (o *oracle) Refund(outcome mettle.Outcome) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.threshold == 0 {
		o.add(o.cost(outcome))
	}
}

func (o *oracle) Withdraw(outcome mettle.Outcome) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.add(0)
	if outcome == mettle.Ignored {
		return true
	}
	if o.threshold > 0 {
		o.tokens = max(0, o.tokens-o.cost(outcome))
		return o.tokens > o.threshold
	}
	if o.tokens < o.cost(outcome) {
		return false
	}
	o.tokens -= o.cost(outcome)
	return true
}

// compare plays steps on a budget and its oracle. Where float and fixed point may
// round to different sides of a price, the oracle is put right.
func compare(t *testing.T, c retry.BudgetConfig, steps []byte) {
	const slack = 1e-4
	b, o := retry.NewBudget(c), newOracle(c)
	outcomes := []mettle.Outcome{mettle.Success, mettle.Failure, mettle.Overload, mettle.Timeout, mettle.Ignored}
	var lent []mettle.Outcome
	for i, step := range steps {
		outcome := outcomes[int(step>>3)%len(outcomes)]
		switch step % 8 {
		case 0, 1:
			b.Deposit()
			o.Deposit()
		case 2, 3, 4:
			o.add(0)
			near := math.Abs(o.tokens-o.line(outcome)) < slack
			got, want := b.Withdraw(outcome), o.Withdraw(outcome)
			if got != want && !near {
				t.Fatalf("step %d: Withdraw(%v) = %v with %v tokens, oracle %v", i, outcome, got, b.Balance(), want)
			}
			if near {
				o.tokens = b.Balance()
			}
			if got {
				lent = append(lent, outcome)
			}
		case 5:
			if len(lent) > 0 {
				b.Refund(lent[0])
				o.Refund(lent[0])
				lent = lent[1:]
			}
		case 6:
			time.Sleep(time.Duration(step) * 37 * time.Millisecond)
		case 7:
			time.Sleep(time.Duration(step) * time.Minute)
		}
		o.add(0)
		if got := b.Balance(); math.Abs(got-o.tokens) > slack || got < 0 || got > o.limit {
			t.Fatalf("step %d (%d): balance %v, oracle %v, limit %v", i, step, got, o.tokens, o.limit)
		}
	}
}

// Spec: R16
func TestBudgetAgreesWithOracle(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 5))
	for range 300 {
		c := retry.BudgetConfig{
			Ratio: []float64{1e-6, 0.01, 0.1, 0.5, 1}[random.IntN(5)], Burst: 1 + random.IntN(20),
			MinPerSecond: []float64{-1, 1e-4, 0.1, 1, 1000}[random.IntN(5)],
		}
		c.Costs = retry.Costs{
			Failure: cost(random, c.Burst), Overload: cost(random, c.Burst), Timeout: cost(random, c.Burst),
		}
		if c.Threshold = []float64{0, 0.1, 0.5, 0.9}[random.IntN(4)]; c.Validate() != nil {
			c.Threshold = 0
		}
		c.Start = random.IntN(2) * (1 + random.IntN(c.Burst))
		steps := make([]byte, 400)
		for i := range steps {
			steps[i] = byte(random.Uint32())
		}
		synctest.Test(t, func(t *testing.T) { compare(t, c, steps) })
	}
}

// cost returns a valid price: mostly that of the zero Costs.
func cost(random *rand.Rand, burst int) float64 {
	return []float64{0, 0, 0.25, 1, float64(burst)}[random.IntN(5)]
}

// Spec: R16
func FuzzBudgetAgreesWithOracle(f *testing.F) {
	f.Add(uint8(10), uint16(100), uint16(100), []byte{2, 2, 2, 0, 10, 26, 5, 6, 7, 2})
	f.Add(uint8(1), uint16(1000), uint16(0), []byte{26, 26, 0, 26})
	f.Add(uint8(3), uint16(1), uint16(1), []byte{255, 18, 254, 18, 0, 0, 18, 5})
	f.Fuzz(func(t *testing.T, burst uint8, ratio, perSecond uint16, steps []byte) {
		c := retry.BudgetConfig{
			Burst: int(burst)%50 + 1, Ratio: float64(ratio%1000+1) / 1000, MinPerSecond: float64(perSecond%1001) - 1,
		}
		if c.MinPerSecond == 0 {
			c.MinPerSecond = -1
		}
		synctest.Test(t, func(t *testing.T) { compare(t, c, steps) })
	})
}

func drain(b *retry.Budget, o mettle.Outcome) (granted int) {
	for b.Withdraw(o) {
		granted++
	}
	return granted
}

// Spec: R16, P8
func TestBudgetPrices(t *testing.T) {
	for outcome, want := range map[mettle.Outcome]int{
		mettle.Failure: 10, mettle.Overload: 10, mettle.Success: 10, mettle.Timeout: 5,
	} {
		b := retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1, Start: 10})
		if got := drain(b, outcome); got != want {
			t.Errorf("a full budget granted %d after %v, want %d", got, outcome, want)
		}
		if !b.Withdraw(mettle.Ignored) {
			t.Errorf("an empty budget denies the resend of what was never sent")
		}
		for range 9 {
			b.Deposit()
		}
		if b.Withdraw(mettle.Failure) {
			t.Errorf("nine tenths bought a resend")
		}
		b.Deposit()
		if !b.Withdraw(mettle.Failure) || b.Balance() != 0 {
			t.Errorf("ten tenths are not one token: left %v", b.Balance())
		}
	}
}

// A ratio that has no exact decimal is rounded so that the user's arithmetic holds:
// at a third, three successes buy a resend.
//
// Spec: R16
func TestBudgetRatioIsRoundedUp(t *testing.T) {
	for n := 1; n <= 30; n++ {
		b := retry.NewBudget(retry.BudgetConfig{Ratio: 1 / float64(n), MinPerSecond: -1})
		drain(b, mettle.Failure)
		for range n {
			b.Deposit()
		}
		if !b.Withdraw(mettle.Failure) || b.Withdraw(mettle.Failure) {
			t.Errorf("%d successes at 1/%d are not one token", n, n)
		}
	}
}

// A timeout costs two, which a budget of one could never pay.
//
// Spec: R16
func TestBudgetOfOneResendsTimeouts(t *testing.T) {
	b := retry.NewBudget(retry.BudgetConfig{Burst: 1, MinPerSecond: -1})
	if got := drain(b, mettle.Timeout); got != 1 {
		t.Errorf("granted %d, want 1", got)
	}
}

// Spec: R16
func TestBudgetEarnsByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := retry.NewBudget(retry.BudgetConfig{MinPerSecond: 0.1})
		time.Sleep(time.Hour) // earns all that it holds, and no more
		if got := drain(b, mettle.Failure); got != 10 {
			t.Fatalf("granted %d, want Burst", got)
		}
		time.Sleep(10*time.Second - 10*time.Microsecond)
		if b.Withdraw(mettle.Failure) {
			t.Error("a token came before its time")
		}
		time.Sleep(10 * time.Microsecond)
		if !b.Withdraw(mettle.Failure) || b.Withdraw(mettle.Failure) {
			t.Error("ten seconds are not one token")
		}
		time.Sleep(1000 * time.Hour)
		if got := b.Balance(); got != 10 {
			t.Errorf("balance %v, want no more than Burst", got)
		}
	})
}

// Using the budget often must not round away what little time earns: here it is half
// the smallest unit from one withdrawal to the next.
//
// Spec: R16
func TestBudgetEarnsByTimeHoweverOftenUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := retry.NewBudget(retry.BudgetConfig{MinPerSecond: 1e-4, Start: 10})
		for range 5 {
			b.Withdraw(mettle.Failure)
		}
		for range 100_000 {
			time.Sleep(5 * time.Millisecond)
			b.Withdraw(mettle.Failure)
			b.Refund(mettle.Failure)
		}
		if got, want := b.Balance(), 5+500*1e-4; math.Abs(got-want) > 2e-6 {
			t.Errorf("balance %v after 500 s, want %v", got, want)
		}
	})
}

// With tokens in one word and the time they are good for in another, those who come
// at the same moment after an idle time can be credited for it twice.
//
// Spec: R16
func TestBudgetBurstAfterIdling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := retry.NewBudget(retry.BudgetConfig{Burst: 50, Start: 50})
		for range 100 {
			var granted atomic.Int32
			var all sync.WaitGroup
			for range 16 {
				all.Go(func() {
					for range 10 {
						if b.Withdraw(mettle.Failure) {
							granted.Add(1)
						}
					}
				})
			}
			all.Wait()
			if got := granted.Load(); got != 50 {
				t.Fatalf("granted %d at one moment, want 50", got)
			}
			time.Sleep(24 * time.Hour)
		}
	})
}

// Spec: R16, P11
func TestBudgetConcurrently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const burst, ratio = 20, 0.25
		b := retry.NewBudget(retry.BudgetConfig{Burst: burst, Start: burst, Ratio: ratio, MinPerSecond: 2})
		start := time.Now()
		var deposits, granted, refunded atomic.Int64
		var all sync.WaitGroup
		for i := range 32 {
			all.Go(func() {
				random := rand.New(rand.NewPCG(uint64(i), 1))
				for range 500 {
					switch random.IntN(4) {
					case 0:
						b.Deposit()
						deposits.Add(1)
					case 1:
						if b.Withdraw(mettle.Failure) {
							granted.Add(1)
							if random.IntN(3) == 0 {
								b.Refund(mettle.Failure)
								refunded.Add(1)
							}
						}
					case 2:
						if got := b.Balance(); got < 0 || got > burst {
							t.Errorf("balance %v", got)
						}
					case 3:
						time.Sleep(time.Duration(random.IntN(1e7)))
					}
				}
			})
		}
		all.Wait()
		funds := burst + ratio*float64(deposits.Load()) + 2*time.Since(start).Seconds()
		if spent := float64(granted.Load() - refunded.Load()); spent+b.Balance() > funds+1e-3 {
			t.Errorf("spent %v and holds %v, out of %v", spent, b.Balance(), funds)
		}
	})
}

// amplification plays calls against a dependency that fails with probability p, and
// returns attempts per call. Calls are 10 ms apart.
func amplification(random *rand.Rand, r *retry.Retrier, calls int, p float64) float64 {
	attempts := 0
	for range calls {
		_ = r.Do(bg, func(ctx ctx) error {
			attempts++
			if random.Float64() < p {
				return errDown
			}
			return nil
		})
		time.Sleep(10 * time.Millisecond)
	}
	return float64(attempts) / float64(calls)
}

// What can be computed: with resends funded by successes, A = 1 + r(1-p)A while the
// budget is the limit, and nobody resends more than there are failures.
//
// Spec: R16
func TestBudgetAmplification(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(9, 9))
		r := retry.New(retry.Config{MaxAttempts: 4, Backoff: retry.Constant(0)})
		const floor = 0.1 / 100 // MinPerSecond by calls per second
		for _, p := range []float64{0, 0.01, 0.3, 0.5, 0.9, 1, 0.5, 0} {
			amplification(random, r, 2000, p) // the steady state is meant
			got := amplification(random, r, 20_000, p)
			want := min(1/(1-0.1*(1-p)), 1+p+p*p+p*p*p)
			if math.Abs(got-want) > 0.012 {
				t.Errorf("failing %v: %.4f attempts per call, want %.4f", p, got, want)
			}
			if got > 1+0.1+floor+0.012 {
				t.Errorf("failing %v: %.4f attempts per call, above 1+Ratio", p, got)
			}
		}
	})
}

// Spec: R16
func TestNoBudget(t *testing.T) {
	for range 10_000 {
		if !retry.NoBudget.Withdraw(mettle.Timeout) {
			t.Fatal("NoBudget denies")
		}
	}
	retry.NoBudget.Deposit()
	retry.NoBudget.Refund(mettle.Failure)
	if got := retry.NoBudget.Balance(); !math.IsInf(got, 1) {
		t.Errorf("balance %v, want +Inf", got)
	}
	retry.NoBudget.Observe(func(m mettle.Metric) bool { t.Errorf("NoBudget yields %v", m); return true })
}

// An answer about the request is a success, with which a resend has helped as well.
//
// Spec: R16 (part)
func TestRefundForAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := retry.NewBudget(retry.BudgetConfig{RefundSuccess: true, MinPerSecond: -1, Start: 10})
		r := retry.New(retry.Config{Budget: b})
		if err := r.Do(bg, fails(errDown, answer("no such order")).op); err != answer("no such order") {
			t.Errorf("%v", err)
		}
		if got := b.Balance(); got != 10 {
			t.Errorf("balance %v, want 10", got)
		}
	})
}

func TestZeroBudgetIsEmpty(t *testing.T) {
	var b retry.Budget
	b.Deposit()
	b.Refund(mettle.Timeout)
	if b.Withdraw(mettle.Failure) || b.Withdraw(mettle.Timeout) || b.Balance() != 0 {
		t.Error("the zero Budget has tokens")
	}
}

// A budget that is made before a bubble begins, as that of a package's own client
// would be: seen from inside, its clock is decades behind.
//
// Spec: R16
func TestBudgetFromOutsideTheBubble(t *testing.T) {
	outside := retry.NewBudget(retry.BudgetConfig{Start: 10})
	synctest.Test(t, func(t *testing.T) {
		if got := outside.Balance(); got != 10 {
			t.Errorf("balance %v, want 10", got)
		}
		if got := drain(outside, mettle.Failure); got != 10 {
			t.Errorf("granted %d, want 10", got)
		}
		for range 20 {
			outside.Deposit()
		}
		if got := drain(outside, mettle.Failure); got != 2 {
			t.Errorf("granted %d after 20 successes, want 2", got)
		}
	})
}

// Spec: P10
func TestBudgetConfigValidate(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for _, tt := range []struct {
		c    retry.BudgetConfig
		want []string // in the message; none: valid
	}{
		{retry.BudgetConfig{}, nil},
		{retry.BudgetConfig{Ratio: 1, MinPerSecond: 1000, Burst: 1_000_000_000}, nil},
		{retry.BudgetConfig{Ratio: 1e-9, MinPerSecond: -1, Burst: 1}, nil},
		{retry.BudgetConfig{Ratio: -0.1}, []string{"Ratio is -0.1"}},
		{retry.BudgetConfig{Ratio: 1.1}, []string{"Ratio is 1.1"}},
		{retry.BudgetConfig{Ratio: nan, MinPerSecond: nan}, []string{"Ratio is NaN", "MinPerSecond is NaN"}},
		{retry.BudgetConfig{Ratio: inf, MinPerSecond: inf}, []string{"Ratio is +Inf", "MinPerSecond is +Inf"}},
		{retry.BudgetConfig{MinPerSecond: -inf}, []string{"MinPerSecond is -Inf"}},
		{retry.BudgetConfig{MinPerSecond: 1000.1}, []string{"MinPerSecond is 1000.1"}},
		{retry.BudgetConfig{Burst: -1}, []string{"Burst is -1"}},
		{retry.BudgetConfig{Start: 10}, nil},
		{retry.BudgetConfig{Burst: 12, Start: 12, Threshold: 0.5}, nil},
		{retry.BudgetConfig{Start: 11}, []string{"Start is 11"}},
		{retry.BudgetConfig{Burst: 3, Start: -1}, []string{"Start is -1"}},
		{retry.BudgetConfig{Burst: -1, Start: 100}, []string{"Burst is -1"}},
		{retry.BudgetConfig{Burst: 1_000_000_001}, []string{"Burst is 1000000001"}},
		{retry.BudgetConfig{Costs: retry.Costs{Failure: 10, Overload: 1e-9, Timeout: 10}}, nil},
		{retry.BudgetConfig{Costs: retry.Costs{Failure: 6}}, nil}, // a timeout costs 10, and not 12
		{retry.BudgetConfig{Costs: retry.Costs{Failure: -1, Overload: nan, Timeout: 10.5}},
			[]string{"Costs.Failure is -1", "Costs.Overload is NaN", "Costs.Timeout is 10.5"}},
		{retry.BudgetConfig{Burst: 3, Costs: retry.Costs{Failure: inf, Timeout: math.MaxFloat64}},
			[]string{"Costs.Failure is +Inf", "Costs.Timeout is 1.7976931348623157e+308"}},
		{retry.BudgetConfig{Threshold: 0.5, RefundSuccess: false}, nil},
		{retry.BudgetConfig{Threshold: 1e-12}, nil},
		{retry.BudgetConfig{Threshold: nan}, []string{"Threshold is NaN"}},
		{retry.BudgetConfig{Threshold: 1}, []string{"Threshold is 1"}},
		{retry.BudgetConfig{Threshold: -0.5, Costs: retry.Costs{Timeout: -1}}, []string{"Costs.Timeout is -1", "Threshold is -0.5"}},
		{retry.BudgetConfig{Threshold: 0.9}, []string{"Threshold is 0.9"}}, // 9 left of 10 is not above 9
		{retry.BudgetConfig{Threshold: 0.9, Costs: retry.Costs{Overload: 0.5}}, nil},
		{retry.BudgetConfig{Burst: 1, Threshold: 0.1}, []string{"Threshold is 0.1"}},
		{retry.BudgetConfig{Ratio: nan, Burst: -1, Threshold: nan, Costs: retry.Costs{Failure: 1e6, Timeout: nan}},
			[]string{"Ratio is NaN", "Burst is -1", "Costs.Timeout is NaN", "Threshold is NaN"}},
		{retry.BudgetConfig{RefundSuccess: true, Threshold: 0.5}, []string{"RefundSuccess is true"}},
	} {
		checkValidation(t, fmt.Sprintf("%+v", tt.c), tt.c.Validate(), func() { retry.NewBudget(tt.c) }, tt.want)
	}
}

// checkValidation compares what Validate said, and that the constructor panics with
// the same words.
func checkValidation(t *testing.T, config string, err error, make func(), want []string) {
	t.Helper()
	var panicked any
	func() {
		defer func() { panicked = recover() }()
		make()
	}()
	if len(want) == 0 {
		if err != nil || panicked != nil {
			t.Errorf("%s is refused: %v, %v", config, err, panicked)
		}
		return
	}
	if err == nil || panicked != err.Error() {
		t.Errorf("%s: Validate says %v, the constructor panics with %v", config, err, panicked)
		return
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != len(want) {
		t.Errorf("%s: %d mistakes reported, want %d: %v", config, len(lines), len(want), err)
		return
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, "retry: "+want[i]+", must be ") {
			t.Errorf("%s: %q, want %q and what it must be", config, line, want[i])
		}
	}
}

// Spec: P12
func TestBudgetObserve(t *testing.T) {
	b := retry.NewBudget(retry.BudgetConfig{Name: "payments", Burst: 2, MinPerSecond: -1})
	drain(b, mettle.Failure)
	b.Deposit()
	got := observe(b)
	want := map[string]float64{
		"mettle.retry.budget_tokens policy=payments":  0.1,
		"mettle.retry.budget_denials policy=payments": 1,
	}
	checkMetrics(t, got, want)
}

// What a new client may resend is enough for one call, so that a thousand of them that
// begin at once have no more than two thousand resends between them.
//
// Spec: R16 (part)
func TestBudgetOfANewClient(t *testing.T) {
	for _, tt := range []struct {
		c    retry.BudgetConfig
		want float64
	}{
		{retry.BudgetConfig{}, 2},
		{retry.BudgetConfig{Burst: 1}, 1},
		{retry.BudgetConfig{Burst: 1000}, 2},
		{retry.BudgetConfig{Burst: 500, Costs: retry.Costs{Failure: 14}}, 28},
		{retry.BudgetConfig{Costs: retry.Costs{Failure: 0.25}}, 0.5},
		{retry.BudgetConfig{Threshold: 0.5}, 10},
		{retry.BudgetConfig{Start: 7}, 7},
		{retry.BudgetConfig{Start: 7, Threshold: 0.5}, 7},
	} {
		if got := retry.NewBudget(tt.c).Balance(); got != tt.want {
			t.Errorf("%+v: starts with %v, want %v", tt.c, got, tt.want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		for attempts, want := range map[int]float64{0: 2, 1: 1, 2: 1, 3: 2, 6: 5, 100: 10} {
			r := retry.New(retry.Config{MaxAttempts: attempts, Backoff: retry.Constant(0)})
			if got := observe(r)["mettle.retry.budget_tokens policy="]; got != want {
				t.Errorf("MaxAttempts %d: starts with %v, want %v", attempts, got, want)
			}
		}
		r := retry.New(retry.Config{MaxAttempts: 6})
		if err := r.Do(bg, fails(errDown, errDown, errDown, errDown, errDown, nil).op); err != nil {
			t.Errorf("the first call of all: %v", err)
		}
		time.Sleep(1000 * time.Second)
		if got := observe(r)["mettle.retry.budget_tokens policy="]; math.Abs(got-3.1) > 0.1 {
			t.Errorf("%v tokens after a success and 1000 s, want 3.1", got)
		}
	})
}
