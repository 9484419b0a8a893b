package retry_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/retry"
)

// flaky fails on its first attempts.
func flaky(failures int) func(context.Context) error {
	return func(ctx context.Context) error {
		if n := mettle.Attempt(ctx); n <= failures {
			return fmt.Errorf("attempt %d: connection refused", n)
		}
		return nil
	}
}

func Example() {
	ctx := context.Background()
	r := retry.New(retry.Config{Name: "payments", MaxAttempts: 4, Backoff: retry.FullJitter(time.Millisecond, time.Second)})

	price, err := mettle.Get(ctx, r, func(ctx context.Context) (int, error) {
		if mettle.Attempt(ctx) == 1 {
			return 0, errors.New("connection refused")
		}
		return 42, nil
	})
	fmt.Println(price, err)
	// Output: 42 <nil>
}

func ExampleRetrier_Do() {
	r := retry.New(retry.Config{
		Backoff: retry.Constant(time.Millisecond),
		Budget:  retry.NewBudget(retry.BudgetConfig{Start: 10}),
	})
	fmt.Println(r.Do(context.Background(), flaky(2)))

	err := r.Do(context.Background(), flaky(3))
	fmt.Println(errors.Is(err, retry.ErrExhausted))
	fmt.Println(err.(*retry.Error).Last)
	// Output:
	// <nil>
	// true
	// attempt 3: connection refused
}

func ExampleRetrier_Wrap() {
	r := retry.New(retry.Config{Backoff: retry.Constant(time.Millisecond)})
	log := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		err := op(ctx)
		fmt.Println("attempt", mettle.Attempt(ctx), "failed:", err != nil)
		return err
	})
	// Compose calls Wrap, so that the log runs in each attempt.
	_ = mettle.Compose(r, log).Do(context.Background(), flaky(1))
	// Output:
	// attempt 1 failed: true
	// attempt 2 failed: false
}

func ExampleRetrier_Stats() {
	r := retry.New(retry.Config{MaxAttempts: 2, Backoff: retry.Constant(time.Millisecond)})
	_ = r.Do(context.Background(), flaky(0))
	_ = r.Do(context.Background(), flaky(9))
	_ = r.Do(context.Background(), flaky(9))

	s := r.Stats()
	fmt.Println(s.Attempts, "attempts,", s.Retries, "of them retries")
	fmt.Println(s.Successes, "succeeded,", s.Exhausted, "exhausted,", s.Budget, "stopped by the budget")
	// Output:
	// 4 attempts, 1 of them retries
	// [1 0 0] succeeded, 1 exhausted, 1 stopped by the budget
}

func ExampleRetrier_Observe() {
	r := retry.New(retry.Config{Name: "payments", Budget: retry.NoBudget, Backoff: retry.Constant(time.Millisecond)})
	_ = r.Do(context.Background(), flaky(1))

	for m := range r.Observe {
		if m.Value > 0 {
			fmt.Println(m.Name, m.Labels, m.Value)
		}
	}
	// Output:
	// mettle.retry.attempts [{policy payments} {attempt 1}] 1
	// mettle.retry.attempts [{policy payments} {attempt 2}] 1
	// mettle.retry.successes [{policy payments} {attempt 2}] 1
	// mettle.retry.amplification [{policy payments}] 2
}

func ExampleConfig_onRetry() {
	r := retry.New(retry.Config{
		Backoff: retry.Constant(time.Millisecond),
		OnRetry: func(e retry.Event) { fmt.Printf("%v; again in %v\n", e.Err, e.Delay) },
	})
	_ = r.Do(context.Background(), flaky(1))
	// Output: attempt 1: connection refused; again in 1ms
}

func ExampleConfig_Validate() {
	err := retry.Config{MaxAttempts: -1, MaxElapsed: -time.Second}.Validate()
	fmt.Println(err)
	// Output:
	// retry: MaxAttempts is -1, must be at least 1, or 0 for 3
	// retry: MaxElapsed is -1s, must be positive, or 0 for no bound
}

func ExampleError() {
	r := retry.New(retry.Config{MaxAttempts: 1})
	err := r.Do(context.Background(), flaky(1))

	var e *retry.Error
	if errors.As(err, &e) {
		fmt.Println(e.Attempts, e.Last, errors.Is(e.Reason, retry.ErrExhausted))
	}
	// Output: 1 attempt 1: connection refused true
}

func ExampleError_LogValue() {
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == "elapsed" || a.Key == "at" || a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
	r := retry.New(retry.Config{MaxAttempts: 2, Backoff: retry.Constant(time.Millisecond)})
	log.Error("no payment", "err", r.Do(context.Background(), flaky(2)))
	// Output:
	// level=ERROR msg="no payment" err.attempts=2 err.last="attempt 2: connection refused" err.reason="retry: attempts exhausted" err.timeline.1.outcome=failure err.timeline.1.wait=1ms err.timeline.2.outcome=failure
}

func ExampleNewBudget() {
	// One for everything that resends to the payment service.
	budget := retry.NewBudget(retry.BudgetConfig{Name: "payments", Burst: 3, Start: 3})
	charge := retry.New(retry.Config{Budget: budget, Backoff: retry.Constant(0)})
	refund := retry.New(retry.Config{Budget: budget, Backoff: retry.Constant(0)})

	down := func(context.Context) error { return errors.New("connection refused") }
	err := charge.Do(context.Background(), down)
	fmt.Println(err.(*retry.Error).Attempts, err.(*retry.Error).Reason)
	err = refund.Do(context.Background(), down)
	fmt.Println(err.(*retry.Error).Attempts, err.(*retry.Error).Reason)
	// Output:
	// 3 retry: attempts exhausted
	// 2 retry: budget spent
}

// The retry quota of the AWS SDKs as of 2026, by their Reference Guide ("Retry behavior"):
// 500 tokens; a resend costs 14, or 5 where the service had asked to slow down; one that
// succeeds gets them back, and a call that needs none earns 1.
func ExampleNewBudget_aws() {
	budget := retry.NewBudget(retry.BudgetConfig{
		Burst: 500, Start: 500, Ratio: 1, MinPerSecond: -1, RefundSuccess: true,
		Costs: retry.Costs{Failure: 14, Overload: 5, Timeout: 14},
	})
	r := retry.New(retry.Config{Budget: budget, Backoff: retry.Constant(0)})
	_ = r.Do(context.Background(), flaky(9))
	fmt.Println(budget.Balance())
	_ = r.Do(context.Background(), flaky(1))
	fmt.Println(budget.Balance())
	_ = r.Do(context.Background(), flaky(0))
	fmt.Println(budget.Balance())
	// Output:
	// 472
	// 472
	// 473
}

// The retry throttling of gRPC, by gRFC A6, with maxTokens 10 and tokenRatio 0.1: every
// failure takes a token, and there are resends while more than half of them is left.
func ExampleNewBudget_grpc() {
	budget := retry.NewBudget(retry.BudgetConfig{
		Burst: 10, Ratio: 0.1, MinPerSecond: -1,
		Costs:     retry.Costs{Failure: 1, Timeout: 1},
		Threshold: 0.5,
	})
	r := retry.New(retry.Config{Budget: budget, Backoff: retry.Constant(0)})
	for range 3 {
		err := r.Do(context.Background(), flaky(9))
		fmt.Println(err.(*retry.Error).Reason, budget.Balance())
	}
	// Output:
	// retry: attempts exhausted 7
	// retry: budget spent 5
	// retry: budget spent 4
}

// A policy that resends shares the budget of its dependency in four lines.
func ExampleBudget() {
	budget := retry.NewBudget(retry.BudgetConfig{})
	twice := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		err := op(mettle.WithAttempt(ctx, 1))
		if o := mettle.Classify(ctx, err); o.Failed() && budget.Withdraw(o) {
			err = op(mettle.WithAttempt(ctx, 2))
		}
		if err == nil {
			budget.Deposit()
		}
		return err
	})
	fmt.Println(twice.Do(context.Background(), flaky(1)))
	fmt.Printf("%.1f\n", budget.Balance())
	// Output:
	// <nil>
	// 1.1
}

func ExampleBudget_Withdraw() {
	budget := retry.NewBudget(retry.BudgetConfig{Burst: 3, Start: 3})
	fmt.Println(budget.Withdraw(mettle.Timeout)) // costs two
	fmt.Println(budget.Withdraw(mettle.Timeout))
	fmt.Println(budget.Withdraw(mettle.Failure))
	// Output:
	// true
	// false
	// true
}

func ExampleBudget_Deposit() {
	budget := retry.NewBudget(retry.BudgetConfig{Ratio: 0.5, MinPerSecond: -1, Start: 10})
	budget.Withdraw(mettle.Timeout)
	budget.Deposit()
	fmt.Println(budget.Balance())
	// Output: 8.5
}

func ExampleBudget_Refund() {
	budget := retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1})
	if budget.Withdraw(mettle.Failure) {
		gaveUp := true // the caller, while the resend had to wait
		if gaveUp {
			budget.Refund(mettle.Failure)
		}
	}
	fmt.Println(budget.Balance())
	// Output: 2
}

func ExampleBudget_Balance() {
	fmt.Println(retry.NewBudget(retry.BudgetConfig{Start: 5}).Balance(), retry.NoBudget.Balance())
	// Output: 5 +Inf
}

func ExampleBudget_Observe() {
	budget := retry.NewBudget(retry.BudgetConfig{Name: "payments"})
	for m := range budget.Observe {
		fmt.Println(m.Kind, m.Name, m.Labels, m.Value)
	}
	// Output:
	// gauge mettle.retry.budget_tokens [{policy payments}] 2
	// counter mettle.retry.budget_denials [{policy payments}] 0
}

func ExampleBudgetConfig_Validate() {
	fmt.Println(retry.BudgetConfig{Ratio: 1.5}.Validate())
	// Output: retry: Ratio is 1.5, must be in (0, 1], or 0 for 0.1
}

// delays returns what backoff says after the first n attempts of a call.
func delays(backoff retry.Backoff, n int) (all []time.Duration) {
	var prev time.Duration
	for attempt := 1; attempt <= n; attempt++ {
		prev = backoff(attempt, prev)
		all = append(all, prev)
	}
	return all
}

func ExampleConstant() {
	fmt.Println(delays(retry.Constant(time.Second), 3))
	// Output: [1s 1s 1s]
}

func ExampleLinear() {
	fmt.Println(delays(retry.Linear(100*time.Millisecond, 250*time.Millisecond), 4))
	// Output: [100ms 200ms 250ms 250ms]
}

func ExampleExponential() {
	fmt.Println(delays(retry.Exponential(100*time.Millisecond, time.Second), 5))
	// Output: [100ms 200ms 400ms 800ms 1s]
}

func ExampleFullJitter() {
	d := retry.FullJitter(100*time.Millisecond, 5*time.Second)(3, 0)
	fmt.Println(0 <= d && d < 400*time.Millisecond)
	// Output: true
}

func ExampleEqualJitter() {
	d := retry.EqualJitter(100*time.Millisecond, 5*time.Second)(3, 0)
	fmt.Println(200*time.Millisecond <= d && d <= 400*time.Millisecond)
	// Output: true
}

func ExampleDecorrelated() {
	d := retry.Decorrelated(100*time.Millisecond, 5*time.Second)(3, 200*time.Millisecond)
	fmt.Println(100*time.Millisecond <= d && d <= 600*time.Millisecond)
	// Output: true
}

func ExampleJitter_Full() {
	// The same seed, the same delays: a simulation that can be run again.
	run := func() []time.Duration {
		return delays(retry.Jitter{Rand: rand.NewPCG(1, 2)}.Full(time.Second, time.Minute), 4)
	}
	first, again := run(), run()
	fmt.Println(slices.Equal(first, again))
	// Output: true
}

func ExampleJitter_Equal() {
	d := retry.Jitter{Rand: rand.NewPCG(1, 2)}.Equal(time.Second, time.Minute)(1, 0)
	fmt.Println(500*time.Millisecond <= d && d <= time.Second)
	// Output: true
}

func ExampleJitter_Decorrelated() {
	d := retry.Jitter{Rand: rand.NewPCG(1, 2)}.Decorrelated(time.Second, time.Minute)(1, 0)
	fmt.Println(time.Second <= d && d <= 3*time.Second)
	// Output: true
}

func ExampleRetrier_LogValue() {
	fmt.Println(retry.New(retry.Config{Name: "payments"}).LogValue())
	fmt.Println(retry.New(retry.Config{MaxElapsed: time.Second, Nested: true, Budget: retry.NoBudget}).LogValue())
	// Output:
	// [Name=payments MaxAttempts=3 MaxRetryAfter=30s Budget=[Ratio=0.1 MinPerSecond=0.003 Burst=10 Start=2]]
	// [Name= MaxAttempts=3 MaxElapsed=1s MaxRetryAfter=30s Nested=true Budget=none]
}

func ExampleBudget_LogValue() {
	fmt.Println(retry.NewBudget(retry.BudgetConfig{MinPerSecond: 0.3, RefundSuccess: true}).LogValue())
	fmt.Println(retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1, Threshold: 0.5}).LogValue())
	// Output:
	// [Ratio=0.1 MinPerSecond=0.3 Burst=10 Start=2 RefundSuccess=true]
	// [Ratio=0.1 MinPerSecond=0 Burst=10 Start=10 Threshold=0.5]
}
