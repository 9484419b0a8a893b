package retry_test

import (
	"container/heap"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/retry"
)

// aws is the retry quota of the AWS SDKs as of 2026 (AWS SDKs and Tools Reference Guide,
// "Retry behavior"), for so many tokens.
func aws(tokens int) retry.BudgetConfig {
	return retry.BudgetConfig{
		Burst: tokens, Start: tokens, Ratio: 1, MinPerSecond: -1,
		Costs:         retry.Costs{Failure: 14, Overload: min(5, float64(tokens)), Timeout: 14},
		RefundSuccess: true,
	}
}

// grpc is the retry throttling of gRFC A6. There, maxTokens is an integer and a failure
// takes one of them; a scale makes both smaller or larger without changing anything.
func grpc(maxTokens int, tokenRatio, scale float64) retry.BudgetConfig {
	return retry.BudgetConfig{
		Burst: int(float64(maxTokens) * scale), Ratio: tokenRatio * scale, MinPerSecond: -1,
		Costs:     retry.Costs{Failure: scale, Timeout: scale},
		Threshold: 0.5,
	}
}

var errThrottled = classed{errors.New("slow down"), mettle.Overload}

// classed is an error that says what it is.
type classed struct {
	error
	outcome mettle.Outcome
}

func (c classed) Outcome() mettle.Outcome { return c.outcome }

// step is an answer, and what the vector says is to follow from it.
type step struct {
	err    error
	tokens float64       // that are left when it has been dealt with
	delay  time.Duration // before the resend; 0: none follows, or the vector has one by another rule than ours
}

func wantTokens(t *testing.T, b *retry.Budget, want float64, when string, args ...any) {
	t.Helper()
	if got := b.Balance(); math.Abs(got-want) > 1e-9 {
		t.Errorf("%v tokens after %s, want %v", got, fmt.Sprintf(when, args...), want)
	}
}

// The vectors are those of the SDKs' own tests for the standard mode, "Retry Behavior
// 2.1", with the jitter off, as there.
//
// Spec: R20
func TestAWSVectors(t *testing.T) {
	const ms = time.Millisecond
	down := classed{errDown, mettle.Failure}
	for _, tt := range []struct {
		name     string
		tokens   int // 0: 500
		attempts int // 0: 3
		base     time.Duration
		limit    time.Duration
		calls    [][]step
		end      error
	}{
		{name: "succeeds in the end", calls: [][]step{{{down, 486, 50 * ms}, {down, 472, 100 * ms}, {nil, 486, 0}}}},
		{name: "attempts exhausted", calls: [][]step{{{down, 486, 50 * ms}, {down, 472, 100 * ms}, {down, 472, 0}}}, end: retry.ErrExhausted},
		{name: "quota for a single retry", tokens: 14, calls: [][]step{{{down, 0, 50 * ms}, {down, 0, 0}}}, end: retry.ErrBudget},
		{name: "backoff", attempts: 5, calls: [][]step{{
			{down, 486, 50 * ms}, {down, 472, 100 * ms}, {down, 458, 200 * ms}, {down, 444, 400 * ms}, {down, 444, 0},
		}}, end: retry.ErrExhausted},
		{name: "longest backoff", attempts: 5, limit: 200 * ms, calls: [][]step{{
			{down, 486, 50 * ms}, {down, 472, 100 * ms}, {down, 458, 200 * ms}, {down, 444, 200 * ms}, {down, 444, 0},
		}}, end: retry.ErrExhausted},
		{name: "quota exhausted", attempts: 5, tokens: 20, calls: [][]step{{{down, 6, 50 * ms}, {down, 6, 0}}}, end: retry.ErrBudget},
		{name: "quota recovers", attempts: 5, tokens: 30, calls: [][]step{
			{{down, 16, 50 * ms}, {down, 2, 100 * ms}, {nil, 16, 0}}, {{down, 2, 50 * ms}, {nil, 16, 0}},
		}},
		{name: "throttled", calls: [][]step{{{errThrottled, 495, 0}, {nil, 500, 0}}}},
		{name: "DynamoDB", attempts: 4, base: 25 * ms, calls: [][]step{{
			{down, 486, 25 * ms}, {down, 472, 50 * ms}, {down, 458, 100 * ms}, {down, 458, 0},
		}}, end: retry.ErrExhausted},
		// Not among the vectors, but in the guide's table: what a first try earns, that
		// timeouts are like any transient error, and that the price of the last resend is
		// what comes back.
		{name: "success at once", calls: [][]step{{{down, 486, 50 * ms}, {down, 472, 100 * ms}, {down, 472, 0}}, {{nil, 473, 0}}}},
		{name: "timeout", calls: [][]step{{{classed{errDown, mettle.Timeout}, 486, 50 * ms}, {errThrottled, 481, 0}, {nil, 486, 0}}}},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			either := func(d, zero time.Duration) time.Duration {
				if d == 0 {
					return zero
				}
				return d
			}
			tokens := int(either(time.Duration(tt.tokens), 500))
			b := retry.NewBudget(aws(tokens))
			var now []step // of the call in hand
			r := retry.New(retry.Config{
				MaxAttempts: tt.attempts, Budget: b,
				Backoff: retry.Exponential(either(tt.base, 50*ms), either(tt.limit, 20*time.Second)),
				OnRetry: func(e retry.Event) {
					want := now[e.Attempt-1]
					wantTokens(t, b, want.tokens, "attempt %d", e.Attempt)
					if want.delay > 0 && e.Delay != want.delay {
						t.Errorf("delay %v after attempt %d, want %v", e.Delay, e.Attempt, want.delay)
					}
				},
			})
			var err error
			for _, now = range tt.calls {
				attempts := 0
				err = r.Do(bg, func(ctx) error { attempts++; return now[attempts-1].err })
				if attempts != len(now) {
					t.Errorf("%d attempts, want %d", attempts, len(now))
				}
				wantTokens(t, b, now[len(now)-1].tokens, "the call")
			}
			if !errors.Is(err, tt.end) {
				t.Errorf("ended with %v, want %v", err, tt.end)
			}
		})
	}
	bubble(t, "no quota at all", func(t *testing.T) {
		b := retry.NewBudget(aws(14))
		drain(b, mettle.Failure)
		wantStop(t, retry.New(retry.Config{Budget: b}).Do(bg, fails(down).op), 1, 0, down, retry.ErrBudget)
	})
	bubble(t, "two clients", func(t *testing.T) {
		b := retry.NewBudget(aws(500))
		r := retry.New(retry.Config{MaxAttempts: 5, Budget: b, Backoff: retry.Exponential(50*ms, 20*time.Second)})
		var both sync.WaitGroup
		both.Go(func() { _ = r.Do(bg, fails(down, down, nil).op) }) // at 0, 50 and 150 ms
		both.Go(func() { time.Sleep(60 * ms); _ = r.Do(bg, fails(down, nil).op) })
		begun := time.Now()
		for _, want := range []struct {
			at     time.Duration
			tokens float64
		}{{5 * ms, 486}, {55 * ms, 472}, {65 * ms, 458}, {115 * ms, 472}, {155 * ms, 486}} {
			time.Sleep(want.at - time.Since(begun))
			wantTokens(t, b, want.tokens, "%v", want.at)
		}
		both.Wait()
		wantTokens(t, b, 486, "both")
	})
}

// The vector is that of gRPC core's own test, which has four tokens and 1.6 for a success;
// half of all that is the same.
//
// Spec: R20
func TestGRPCVector(t *testing.T) {
	const failure, success = 'f', 's'
	b := retry.NewBudget(grpc(4, 1.6, 0.5))
	for i, want := range []struct {
		event  rune
		tokens float64
		resend bool
	}{
		{failure, 3, true}, {success, 4, false}, {failure, 3, true}, {failure, 2, false}, {failure, 1, false},
		{failure, 0, false}, {failure, 0, false}, {success, 1.6, false}, {success, 3.2, false}, {failure, 2.2, true},
		{failure, 1.2, false}, {success, 2.8, false}, {failure, 1.8, false}, {success, 3.4, false}, {failure, 2.4, true},
	} {
		if want.event == success {
			b.Deposit()
		} else if got := b.Withdraw(mettle.Failure); got != want.resend {
			t.Errorf("event %d: resend %v, want %v", i+1, got, want.resend)
		}
		wantTokens(t, b, want.tokens/2, "event %d", i+1)
	}
}

// throttler is that of gRFC A6 as its text has it.
type throttler struct{ tokens, limit, ratio float64 }

func (t *throttler) failed() (resend bool) {
	t.tokens = max(0, t.tokens-1)
	return t.tokens > t.limit/2
}

func (t *throttler) succeeded() { t.tokens = min(t.limit, t.tokens+t.ratio) }

// do is a call under the throttler, whose attempts fail as told. It returns how many it made.
func (t *throttler) do(maxAttempts int, fails func() bool) (attempts int) {
	for attempts = 1; ; attempts++ {
		if !fails() {
			t.succeeded()
			return attempts
		}
		// Counted first, as gRPC does: the last attempt of a call is a failure like any.
		if !t.failed() || attempts == maxAttempts {
			return attempts
		}
	}
}

// Spec: R20
func TestGRPCThrottling(t *testing.T) {
	bubble(t, "calls agree with the text", func(t *testing.T) {
		random := rand.New(rand.NewPCG(6, 6))
		for range 50 {
			maxAttempts, share := 1+random.IntN(5), random.Float64()
			oracle := &throttler{10, 10, 0.1}
			b := retry.NewBudget(grpc(10, 0.1, 1))
			r := retry.New(retry.Config{MaxAttempts: maxAttempts, Budget: b, Backoff: retry.Constant(0)})
			for call := range 200 {
				var fate []bool // of the attempts of this call
				want := oracle.do(maxAttempts, func() bool {
					fate = append(fate, random.Float64() < share)
					return fate[len(fate)-1]
				})
				got := 0
				_ = r.Do(bg, func(ctx) error {
					if got++; got <= len(fate) && fate[got-1] {
						return errDown
					}
					return nil
				})
				if got != want {
					t.Fatalf("call %d: %d attempts, want %d", call, got, want)
				}
				wantTokens(t, b, oracle.tokens, "call %d", call)
			}
		}
	})
	t.Run("an eleventh is the limit", func(t *testing.T) {
		for successes, throttled := range map[int]bool{9: true, 10: false, 11: false} { // for each failure
			b := retry.NewBudget(grpc(10, 0.1, 1))
			denied := false
			for range 1000 {
				denied = !b.Withdraw(mettle.Failure)
				for range successes {
					b.Deposit()
				}
			}
			if denied != throttled {
				t.Errorf("one failure in %d: throttled %v, want %v", successes+1, denied, throttled)
			}
		}
	})
	t.Run("what fails stays charged", func(t *testing.T) {
		b := retry.NewBudget(grpc(10, 0.1, 1))
		b.Withdraw(mettle.Failure)
		b.Refund(mettle.Failure) // the caller gave up, say
		wantTokens(t, b, 9, "a refund")
		if !b.Withdraw(mettle.Success) || !b.Withdraw(mettle.Ignored) {
			t.Error("a hedge is denied above the threshold")
		}
		wantTokens(t, b, 9, "a hedge")
		for range 20 {
			b.Withdraw(mettle.Timeout)
		}
		if b.Withdraw(mettle.Success) {
			t.Error("a hedge is allowed below the threshold")
		}
		if !b.Withdraw(mettle.Ignored) {
			t.Error("what was never sent is denied")
		}
	})
}

// rowWriters plays M. Brooker's simulation ("Exponential Backoff And Jitter", AWS
// Architecture Blog, 2015; aws-samples/aws-arch-backoff-simulator): clients that each
// want to write one row once, by reading its version and writing if that has not
// changed, over a network whose every hop takes |N(10, 2)| ms. It returns how often
// they wrote and when the last one was through.
func rowWriters(random *rand.Rand, clients int, backoff retry.Backoff) (calls int, end time.Duration) {
	hop := func() time.Duration {
		return time.Duration(math.Abs(10+2*random.NormFloat64()) * float64(time.Millisecond))
	}
	version, queue := 0, make(events, 0, clients)
	for range clients {
		queue = append(queue, &client{at: hop()})
	}
	heap.Init(&queue)
	for len(queue) > 0 {
		c := queue[0]
		end = c.at
		switch {
		case !c.writing:
			c.writing, c.version = true, version
			c.at += hop() + hop()
		case c.version == version:
			calls++
			version++
			end += hop() // the answer
			heap.Pop(&queue)
			continue
		default:
			calls++
			c.attempt++
			c.prev = backoff(c.attempt, c.prev)
			c.writing = false
			c.at += hop() + c.prev + hop()
		}
		heap.Fix(&queue, 0)
	}
	return calls, end
}

type client struct {
	at      time.Duration // when its message arrives
	writing bool          // or reading
	version int
	attempt int
	prev    time.Duration
}

// events are the clients by when their messages arrive.
type events []*client

func (e events) Len() int           { return len(e) }
func (e events) Less(i, j int) bool { return e[i].at < e[j].at }
func (e events) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *events) Push(c any)        { *e = append(*e, c.(*client)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// The figures are the means of 100 runs of Brooker's simulator. It counts
// from 1 where ours is at 0, which makes its base of 5 ms one of 10 for all but the
// decorrelated jitter.
//
// Spec: R9, R20
func TestJitterTable(t *testing.T) {
	const base, limit, runs = 5 * time.Millisecond, 2 * time.Second, 40
	j := retry.Jitter{Rand: rand.NewPCG(20, 15)}
	for _, tt := range []struct {
		name    string
		backoff retry.Backoff
		clients int
		calls   float64
		end     time.Duration
	}{
		{"none", retry.Constant(0), 100, 2424, 2030 * time.Millisecond},
		{"exponential", retry.Exponential(2*base, limit), 100, 1857, 63_700 * time.Millisecond},
		{"equal", j.Equal(2*base, limit), 100, 812, 6640 * time.Millisecond},
		{"full", j.Full(2*base, limit), 100, 796, 4950 * time.Millisecond},
		{"decorrelated", j.Decorrelated(base, limit), 100, 1000, 4590 * time.Millisecond},
		{"none", retry.Constant(0), 50, 690, 1140 * time.Millisecond},
		{"exponential", retry.Exponential(2*base, limit), 50, 624, 36_500 * time.Millisecond},
		{"equal", j.Equal(2*base, limit), 50, 347, 4264 * time.Millisecond},
		{"full", j.Full(2*base, limit), 50, 332, 2885 * time.Millisecond},
		{"decorrelated", j.Decorrelated(base, limit), 50, 373, 2300 * time.Millisecond},
	} {
		random := rand.New(rand.NewPCG(1, uint64(tt.clients)))
		calls, end := 0, time.Duration(0)
		for range runs {
			n, last := rowWriters(random, tt.clients, tt.backoff)
			calls, end = calls+n, end+last
		}
		gotCalls, gotEnd := float64(calls)/runs, end/runs
		t.Logf("%d clients, %-12s  %6.0f calls in %v", tt.clients, tt.name, gotCalls, gotEnd.Round(time.Millisecond))
		if math.Abs(gotCalls/tt.calls-1) > 0.03 {
			t.Errorf("%d clients, %s: %.0f calls, want %.0f", tt.clients, tt.name, gotCalls, tt.calls)
		}
		if math.Abs(gotEnd.Seconds()/tt.end.Seconds()-1) > 0.08 {
			t.Errorf("%d clients, %s: %v, want %v", tt.clients, tt.name, gotEnd, tt.end)
		}
	}
}
