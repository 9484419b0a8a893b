package scorecard

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kratos/aegis/circuitbreaker/sre"
	"github.com/sony/gobreaker/v2"
	"github.com/stretchr/testify/assert"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/benchmarks/sim"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// What others have found, by thought or simulation, has to come out here as well before
// anything else that comes out is believed.

var errDown = errors.New("down")

// occ is what M. Brooker's simulation of clients finds that write the same row, each once
// and all at first, and try again when somebody else was quicker: the writes that they
// make in all, and the milliseconds until the last is done (Exponential Backoff And
// Jitter, AWS Architecture Blog, 2015).
func occ(t *testing.T, clients int, backoff func(rand.Source) retry.Backoff, seed uint64) (calls int, ms float64) {
	synctest.Test(t, func(*testing.T) {
		rng := rand.New(rand.NewPCG(seed, uint64(clients)))
		var (
			mu      sync.Mutex
			version int
			wait    sync.WaitGroup
		)
		hop := func() {
			mu.Lock()
			d := time.Duration(math.Abs(10+2*rng.NormFloat64()) * 1e6)
			mu.Unlock()
			time.Sleep(d)
		}
		op := func(context.Context) error {
			hop()
			mu.Lock()
			seen := version
			mu.Unlock()
			hop()
			hop()
			mu.Lock()
			won := seen == version
			if calls++; won {
				version++
			}
			mu.Unlock()
			hop()
			if !won {
				return errDown
			}
			return nil
		}
		begun := time.Now()
		for id := range clients {
			r := retry.New(retry.Config{
				MaxAttempts: math.MaxInt, Budget: retry.NoBudget,
				Backoff: backoff(rand.NewPCG(seed, uint64(id)+1000)),
			})
			wait.Go(func() { _ = r.Do(context.Background(), op) })
		}
		wait.Wait()
		ms = float64(time.Since(begun).Milliseconds())
	})
	return calls, ms
}

// R1. The simulation counts failures from 1 and doubles its base of 5 ms so often, and
// so begins with twice the base, but for decorrelated jitter, which does not count.
func TestKnownJitter(t *testing.T) {
	notUnderRace(t)
	const base, most = 10 * time.Millisecond, 2 * time.Second
	pure := func(b retry.Backoff) func(rand.Source) retry.Backoff {
		return func(rand.Source) retry.Backoff { return b }
	}
	for name, row := range map[string]struct {
		backoff                        func(rand.Source) retry.Backoff
		calls50, ms50, calls100, ms100 float64
	}{
		"none":         {pure(retry.Constant(0)), 690, 1140, 2424, 2030},
		"exponential":  {pure(retry.Exponential(base, most)), 624, 36500, 1857, 63700},
		"equal":        {func(s rand.Source) retry.Backoff { return retry.Jitter{Rand: s}.Equal(base, most) }, 347, 4264, 812, 6640},
		"full":         {func(s rand.Source) retry.Backoff { return retry.Jitter{Rand: s}.Full(base, most) }, 332, 2885, 796, 4950},
		"decorrelated": {func(s rand.Source) retry.Backoff { return retry.Jitter{Rand: s}.Decorrelated(base/2, most) }, 373, 2300, 1000, 4590},
	} {
		const runs = 100
		for clients, want := range map[int][2]float64{50: {row.calls50, row.ms50}, 100: {row.calls100, row.ms100}} {
			calls, ms := 0.0, 0.0
			for seed := range uint64(runs) {
				c, m := occ(t, clients, row.backoff, seed)
				calls += float64(c) / runs
				ms += m / runs
			}
			assert.InEpsilon(t, want[0], calls, 0.03, "calls, %s with %d clients", name, clients)
			assert.InEpsilon(t, want[1], ms, 0.08, "time, %s with %d clients", name, clients)
		}
	}
}

// coin fails the share p of all calls.
func coin(rng *rand.Rand, p float64) func(context.Context) error {
	return func(context.Context) error {
		if rng.Float64() < p {
			return errDown
		}
		return nil
	}
}

// amplification returns attempts over calls.
func amplification(t *testing.T, c retry.Config, p float64, calls int) (a float64) {
	synctest.Test(t, func(*testing.T) {
		c.Backoff = retry.Constant(0)
		r, n := retry.New(c), 0
		fail := coin(rand.New(rand.NewPCG(1, uint64(1000*p))), p)
		for range calls {
			_ = r.Do(context.Background(), func(ctx context.Context) error { n++; return fail(ctx) })
		}
		a = float64(n) / float64(calls)
	})
	return a
}

// R2: N retries of failures that are independent.
func TestKnownAmplification(t *testing.T) {
	notUnderRace(t)
	for _, p := range []float64{0.1, 0.5, 0.9, 1} {
		for _, n := range []int{1, 2, 5} {
			want := float64(n + 1) // as p tends to 1
			if p < 1 {
				want = (1 - math.Pow(p, float64(n+1))) / (1 - p)
			}
			got := amplification(t, retry.Config{MaxAttempts: n + 1, Budget: retry.NoBudget}, p, 50_000)
			assert.InEpsilon(t, want, got, 0.02, "p %v, %d retries", p, n)
		}
	}
}

// R3: a budget that successes fund. R5 is the same arithmetic: with a tenth of a token for
// a success, failures above 1/11 are more than it pays for.
//
// Spec: R16
func TestKnownBudget(t *testing.T) {
	const r = 0.1
	budget := func() retry.Config {
		return retry.Config{MaxAttempts: 100, Budget: retry.NewBudget(retry.BudgetConfig{Ratio: r, MinPerSecond: -1, Burst: 10})}
	}
	for _, p := range []float64{0.2, 0.5, 0.9, 1} {
		want := 1 / (1 - r*(1-p))
		assert.InEpsilon(t, want, amplification(t, budget(), p, 50_000), 0.005, "p %v", p)
	}
	// Below a failure rate of 1/11 everything is resent, above not.
	for p, all := range map[float64]bool{0.06: true, 0.08: true, 0.11: false, 0.15: false} {
		got, unbounded := amplification(t, budget(), p, 100_000), 1/(1-p)
		assert.Equal(t, all, got > unbounded*0.998, "p %v: %v of %v", p, got, unbounded)
	}
}

// aws returns the retry quota of the AWS SDKs as of 2026 (AWS SDKs and Tools Reference
// Guide, Retry behavior).
func aws() *retry.Budget {
	return retry.NewBudget(retry.BudgetConfig{
		Burst: 500, Start: 500, Ratio: 1, MinPerSecond: -1, RefundSuccess: true,
		Costs: retry.Costs{Failure: 14, Overload: 5, Timeout: 14},
	})
}

// quota lets a client with that quota live through a world in which attempts fail as fate
// says. It returns the resends and the first tries that succeeded, in each second.
func quota(t *testing.T, rate float64, until time.Duration, fate func(at time.Duration, d sim.Draw) error) (resends, first []int) {
	resends, first = make([]int, until/time.Second+1), make([]int, until/time.Second+1)
	synctest.Test(t, func(*testing.T) {
		policy := retry.New(retry.Config{Backoff: retry.Constant(0), Budget: aws()})
		sim.New(sim.Config{
			Seed: 4, Until: until, Drain: time.Second, Deadline: time.Second, Arrivals: sim.Constant(rate),
			Work: func(w *sim.World, _ context.Context, r *sim.Request) error {
				n, at := int(r.Sends.Add(1)), w.Now()
				w.Sent(r, sim.Reply{})
				time.Sleep(2 * time.Millisecond)
				err := fate(at, r.Draw(w.Seed, n))
				w.Lock()
				defer w.Unlock()
				if n > 1 {
					resends[at/time.Second]++
				} else if err == nil {
					first[at/time.Second]++
				}
				return err
			},
		}).Run([]sim.Caller{func(ctx context.Context, _ int, op func(context.Context) error) error {
			return policy.Do(ctx, op)
		}})
	})
	return resends, first
}

// R4: a full quota pays for 500/14 resends of what fails for a moment and for 500/5 of what
// is throttled, however long that lasts. After it every first try that succeeds brings a
// token back.
//
// Spec: R20
func TestKnownQuota(t *testing.T) {
	sum := func(counts []int) (n int) {
		for _, c := range counts {
			n += c
		}
		return n
	}
	for failure, price := range map[error]int{sim.ErrGone: 14, sim.ErrRefused: 5} {
		resends, first := quota(t, 20, 40*time.Second, func(at time.Duration, _ sim.Draw) error {
			if at/(10*time.Second)%2 == 1 { // from 10 s to 20 s, and from 30 s to 40 s
				return failure
			}
			return nil
		})
		assert.Zero(t, sum(resends[:10])+sum(resends[20:30]), failure)
		assert.Equal(t, 500/price, sum(resends[10:20]), failure)
		earned := sum(first[20:30])
		assert.Greater(t, earned, 150, failure)
		assert.Equal(t, (500%price+earned)/price, sum(resends[30:]), failure)
	}
}

// R4, where a share p of all attempts fails: a call earns 1-p tokens, and each of its
// resends that fails in turn costs 14. Up to 21.5 % that pays for all resends, which are
// p+p² for each call; above that a resend is allowed with the probability a that balances
// the account, 1-p = 14(p²a+p³a²).
func TestKnownQuotaInBalance(t *testing.T) {
	notUnderRace(t)
	const rate, warm, until = 500.0, 20, 120 // per second, seconds
	for _, p := range []float64{0.1, 0.2, 0.3, 0.5, 0.8} {
		a := 1.0
		if 1-p < 14*p*p*(1+p) {
			a = (math.Sqrt(1+4*(1-p)/(14*p)) - 1) / (2 * p) // p³a²+p²a = (1-p)/14
		}
		resends, _ := quota(t, rate, until*time.Second, func(_ time.Duration, d sim.Draw) error {
			if d.Purpose = sim.ForFailure; d.Uniform() < p {
				return sim.ErrFailed
			}
			return nil
		})
		got := 0
		for _, n := range resends[warm:until] {
			got += n
		}
		assert.InEpsilon(t, p*a+p*p*a*a, float64(got)/(rate*(until-warm)), 0.02, "p %v", p)
	}
}

// R6: a client that throttles itself as the SRE book has it (chapter 21), here that of
// kratos with its K of 1/0.6, sends K times what is accepted, and finds out about an
// outage when the share of its window that is left from before has fallen to 1/K.
func TestKnownThrottle(t *testing.T) {
	const k, window = 1 / 0.6, 3 * time.Second
	throttled := func(until time.Duration, accepts func(at time.Duration, n int) bool) (sent []time.Duration) {
		synctest.Test(t, func(*testing.T) {
			time.Sleep(age)
			b, begun := sre.NewBreaker(), time.Now()
			second, accepted := time.Duration(0), 0
			for {
				time.Sleep(200 * time.Microsecond) // 5000 a second
				at := time.Since(begun)
				if at >= until {
					return
				}
				if b.Allow() != nil {
					b.MarkFailed()
					continue
				}
				if sent = append(sent, at); at.Truncate(100*time.Millisecond) != second {
					second, accepted = at.Truncate(100*time.Millisecond), 0
				}
				if accepts(at, accepted) {
					accepted++
					b.MarkSuccess()
				} else {
					b.MarkFailed()
				}
			}
		})
		return sent
	}
	sent := throttled(30*time.Second, func(_ time.Duration, n int) bool { return n < 100 }) // 1000 a second
	late := slices.DeleteFunc(sent, func(at time.Duration) bool { return at < 10*time.Second })
	assert.InEpsilon(t, k*1000, float64(len(late))/20, 0.05)

	down := 10 * time.Second
	sent = throttled(20*time.Second, func(at time.Duration, _ int) bool { return at < down })
	noticed := time.Duration(0)
	for i := 1; i < len(sent) && noticed == 0; i++ {
		if sent[i] > down && sent[i]-sent[i-1] > 250*time.Microsecond {
			noticed = sent[i-1] - down
		}
	}
	assert.InDelta(t, window.Seconds()*(1-1/k), noticed.Seconds(), 0.31, "a bucket of its window at most")
}

// R7: how many calls it takes until six in a row fail. gobreaker opens then.
func TestKnownRuns(t *testing.T) {
	notUnderRace(t)
	const p, runs = 0.3, 1500
	want := (1 - math.Pow(p, 6)) / ((1 - p) * math.Pow(p, 6))
	assert.InDelta(t, 1958, want, 1)
	rng := rand.New(rand.NewPCG(7, 7))
	fail := coin(rng, p)
	theirs, ours := 0, 0
	for range runs {
		g := gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{})
		for g.State() == gobreaker.StateClosed {
			_, _ = g.Execute(func() (struct{}, error) { return struct{}{}, fail(context.Background()) })
			theirs++
		}
		b := breaker.New(breaker.Config{Consecutive: 6, FailureRate: -1})
		for b.State() == breaker.Closed {
			_ = b.Do(context.Background(), fail)
			ours++
		}
	}
	assert.InEpsilon(t, want, float64(theirs)/runs, 0.08)
	assert.InEpsilon(t, want, float64(ours)/runs, 0.08)
}

// R8: how often a window of n calls has half of them failed though only a part p does.
func TestKnownFalseTrips(t *testing.T) {
	notUnderRace(t)
	rng := rand.New(rand.NewPCG(8, 8))
	for n, want := range map[int]float64{10: 0.15, 20: 0.048, 100: 2.2e-5} {
		const runs = 20_000
		trips := 0
		for range runs {
			b := breaker.New(breaker.Config{MinCalls: n, FailureRate: 0.5, Consecutive: -1})
			fail := coin(rng, 0.3)
			for range n {
				_ = b.Do(context.Background(), fail)
			}
			if b.State() == breaker.Open {
				trips++
			}
		}
		assert.InDelta(t, want, float64(trips)/runs, 3.5*math.Sqrt(want/runs), "of %d", n)
	}
}

// collapse lets the server collapse that does, or not, under a spike of requests. It
// returns the share of requests that succeed long after the spike.
func collapse(t *testing.T, rate, spike float64, policy func() mettle.Policy) (share float64) {
	const until = 5 * time.Minute
	synctest.Test(t, func(*testing.T) {
		p, server := policy(), new(sim.Collapse)
		r := sim.New(sim.Config{
			Seed: 1, Until: until, Drain: 20 * time.Second, Deadline: 9 * time.Second,
			Arrivals: sim.Pulse(rate, spike, time.Minute, 5*time.Second),
			Work:     server.Call,
		}).Run([]sim.Caller{func(ctx context.Context, _ int, op func(context.Context) error) error {
			return p.Do(ctx, op)
		}})
		share = over(sim.Sum(r.Good, until-time.Minute, until), sim.Sum(r.Offered, until-time.Minute, until))
	})
	return share
}

// R10: where a server stays down that a spike has brought down.
func TestKnownMetastability(t *testing.T) {
	notUnderRace(t)
	thrice := func(budget *retry.Budget, more ...mettle.Policy) mettle.Policy {
		policies := []mettle.Policy{retry.New(retry.Config{Backoff: retry.Constant(0), Budget: budget})}
		policies = append(policies, more...)
		return mettle.Compose(append(policies, timeout.New(timeout.Config{After: 3 * time.Second}))...)
	}
	for name, c := range map[string]struct {
		policy    func() mettle.Policy
		heals     []float64 // requests in a second
		stays     []float64
		leastGood float64
	}{
		// From 21.4 a second on, and up to 64.3, which is all that the server can do
		// within the timeout.
		"naive": {func() mettle.Policy { return thrice(retry.NoBudget) }, []float64{18, 20, 21}, []float64{24, 40, 60}, 0.95},
		// A tenth more attempts than successes would make that 58.4. Successes pay for
		// them, so that there are fewer.
		"budget": {func() mettle.Policy {
			return thrice(retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1}))
		}, []float64{24, 40, 56}, nil, 0.95},
		// Nowhere: some of the requests meet a limit that chance has filled, no more.
		"capped": {func() mettle.Policy {
			return thrice(retry.NoBudget, bulkhead.New(bulkhead.Config{Limit: 179}))
		}, []float64{24, 40, 58, 62}, nil, 0.90},
	} {
		for _, rate := range c.heals {
			assert.Greater(t, collapse(t, rate, 400, c.policy), c.leastGood, "%s at %v/s", name, rate)
		}
		for _, rate := range c.stays {
			assert.Less(t, collapse(t, rate, 400, c.policy), 0.2, "%s at %v/s", name, rate)
		}
	}
	// Twice the requests for five seconds are enough.
	assert.Less(t, collapse(t, 40, 80, func() mettle.Policy { return thrice(retry.NoBudget) }), 0.2)
}

// R12: one of a hundred calls is slow, and somebody needs a hundred.
func TestKnownFanOut(t *testing.T) {
	const runs = 20_000
	slow := 0
	for i := range runs {
		for n := range 100 {
			if (sim.Draw{Seed: 12, Request: i, Attempt: n}).Uniform() < 0.01 {
				slow++
				break
			}
		}
	}
	assert.InDelta(t, 1-math.Pow(0.99, 100), float64(slow)/runs, 0.012)
	assert.InDelta(t, 0.634, 1-math.Pow(0.99, 100), 0.001)
}

// R13: Erlang's formula for how many have to wait.
func TestKnownWaiting(t *testing.T) {
	notUnderRace(t)
	for _, c := range []struct {
		load    float64
		workers int
		wait    float64
	}{{0.5, 5, 0.130}, {0.5, 10, 0.036}, {0.8, 10, 0.409}} {
		waited, n := 0, 500_000
		queue(c.workers, c.load, n, func(at time.Duration, r sim.Reply) {
			if (r.At - at).Seconds() > r.Work+1e-7 {
				waited++
			}
		})
		assert.InDelta(t, c.wait, float64(waited)/float64(n), 0.012, "%+v", c)
	}
}

// R14: how long one worker takes for all but one in a hundred.
func TestKnownTail(t *testing.T) {
	notUnderRace(t)
	for _, load := range []float64{0.5, 0.8} {
		var took []float32
		queue(1, load, 1_000_000, func(at time.Duration, r sim.Reply) {
			took = append(took, float32((r.At - at).Seconds()))
		})
		assert.InEpsilon(t, math.Log(100)/(1-load), sim.Quantile(took, 0.99), 0.06, "load %v", load)
	}
}

// queue sends n requests to workers that take an exponential time of mean 1 s.
func queue(workers int, load float64, n int, each func(at time.Duration, r sim.Reply)) {
	s := &sim.Server{Workers: workers, Queue: math.MaxInt, Service: 1}
	at := time.Duration(0)
	for id := range n {
		d := sim.Draw{Seed: 13, Request: id}
		at += time.Duration(d.Exp() / (load * float64(workers)) * 1e9)
		each(at, s.Accept(at, d))
	}
}
