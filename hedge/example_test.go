package hedge_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/retry"
)

// replicas stand for a service of which one instance hangs and the other does not.
func replicas(ctx context.Context) (string, error) {
	if mettle.Attempt(ctx) == 1 {
		<-ctx.Done()
		return "", context.Cause(ctx)
	}
	return "the second replica answers", nil
}

// Each run returns a value of its own, and Get the one of the run that was answered.
func Example() {
	h := hedge.New(hedge.Config{Name: "replicas", After: time.Millisecond})

	text, err := mettle.Get(context.Background(), h, replicas)
	fmt.Println(text, err)
	// Output: the second replica answers <nil>
}

// What runs share must be safe for runs at the same time: here, a counter.
func ExampleHedge_Do() {
	h := hedge.New(hedge.Config{After: time.Millisecond})

	var sent atomic.Int32
	err := h.Do(context.Background(), func(ctx context.Context) error {
		if sent.Add(1) == 2 {
			return nil
		}
		<-ctx.Done() // the other run has been answered
		return context.Cause(ctx)
	})
	fmt.Println(err, sent.Load())
	// Output: <nil> 2
}

// Inside the retry: a slow attempt is hedged, a failed call is tried again after a wait.
// Both are paid from one budget.
func ExampleHedge_Wrap() {
	budget := retry.NewBudget(retry.BudgetConfig{Name: "replicas"})
	p := mettle.Compose(
		retry.New(retry.Config{Budget: budget}),
		hedge.New(hedge.Config{After: time.Millisecond, Budget: budget}),
	)
	text, err := mettle.Get(context.Background(), p, replicas)
	fmt.Println(text, err)
	// Output: the second replica answers <nil>
}

// What loses may still have something in its hands.
func ExampleErrLost() {
	h := hedge.New(hedge.Config{After: time.Millisecond})
	_ = h.Do(context.Background(), func(ctx context.Context) error {
		if mettle.Attempt(ctx) == 2 {
			return nil
		}
		<-ctx.Done()
		fmt.Println(context.Cause(ctx) == hedge.ErrLost, errors.Is(hedge.ErrLost, context.Canceled))
		return context.Cause(ctx)
	})
	// Output: true true
}

func ExampleError() {
	h := hedge.New(hedge.Config{After: time.Minute})
	err := h.Do(context.Background(), func(ctx context.Context) error {
		return fmt.Errorf("replica %d is down", mettle.Attempt(ctx))
	})
	fmt.Println(err)
	var e *hedge.Error
	fmt.Println(errors.As(err, &e), e.Errs[0])
	// Output:
	// hedge: 2 runs failed: replica 1 is down; replica 2 is down
	// true replica 1 is down
}

func ExampleHedge_Stats() {
	h := hedge.New(hedge.Config{After: time.Millisecond})
	_, _ = mettle.Get(context.Background(), h, replicas)
	s := h.Stats()
	fmt.Println(s.Hedges, s.Wins, s.Delay)
	// Output: 1 1 1ms
}

func ExampleHedge_Observe() {
	h := hedge.New(hedge.Config{Name: "replicas", After: time.Millisecond})
	_, _ = mettle.Get(context.Background(), h, replicas)
	for m := range h.Observe {
		if m.Name == "mettle.hedge.wins" {
			fmt.Println(m.Labels, m.Value, m.Help)
		}
	}
	// Output: [{policy replicas}] 1 Calls that were answered by a further run.
}

func ExampleConfig_Validate() {
	fmt.Println(hedge.Config{After: -time.Second, Quantile: 95}.Validate())
	// Output:
	// hedge: After is -1s, must be positive, or 0 for a live delay
	// hedge: Quantile is 95, must be in (0, 1), or 0 for 0.95, or for a fixed delay
}

func ExampleHedge_LogValue() {
	budget := retry.NewBudget(retry.BudgetConfig{})
	fmt.Println(hedge.New(hedge.Config{}).LogValue())
	fmt.Println(hedge.New(hedge.Config{After: time.Second, Max: 2, Budget: budget}).LogValue())
	fmt.Println(hedge.New(hedge.Config{Name: "reads", Quantile: 0.9, Budget: retry.NoBudget}).LogValue())
	// Output:
	// [Name= After=1ms Quantile=0.95 Max=1]
	// [Name= After=1s Max=2 Budget=[Ratio=0.1 MinPerSecond=0.003 Burst=10 Start=2]]
	// [Name=reads After=1ms Quantile=0.9 Max=1 Budget=none]
}
