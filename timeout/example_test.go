package timeout_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/timeout"
)

// hang stands for a dependency that does not answer.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func ExampleTimeout_Do() {
	p := timeout.New(timeout.Config{Name: "payments", After: time.Millisecond})

	err := p.Do(context.Background(), hang)
	fmt.Println(err)
	fmt.Println(errors.Is(err, timeout.ErrExceeded), errors.Is(err, context.DeadlineExceeded))
	// Output:
	// timeout: payments: exceeded 1ms: context deadline exceeded
	// true true
}

// The caller's own deadline is told apart from the policy's.
func ExampleErrExceeded() {
	p := timeout.New(timeout.Config{After: time.Minute})

	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	err := p.Do(ctx, hang)
	fmt.Println(errors.Is(err, context.DeadlineExceeded), errors.Is(err, timeout.ErrExceeded))
	// Output: true false
}

// One timeout for the whole call and one for each part of it: the error tells which
// of them passed.
func ExampleTimeout_Wrap() {
	p := mettle.Compose(
		timeout.New(timeout.Config{Name: "total", After: time.Minute}),
		timeout.New(timeout.Config{Name: "attempt", After: time.Millisecond}),
	)
	var exceeded *timeout.Error
	if errors.As(p.Do(context.Background(), hang), &exceeded) {
		fmt.Println(exceeded.Name, exceeded.After)
	}
	// Output: attempt 1ms
}

func ExampleTimeout_Observe() {
	p := timeout.New(timeout.Config{After: time.Millisecond})
	_ = p.Do(context.Background(), hang)
	for m := range p.Observe {
		if m.Name == "mettle.timeout.exceeded" {
			fmt.Println(m.Value, m.Help)
		}
	}
	// Output: 1 Calls that failed after their deadline.
}

// An adapter whose operation lasts as long as a stream bounds the making of it.
func ExampleStop() {
	p := timeout.New(timeout.Config{After: time.Millisecond})

	entered := context.Background()
	err := p.Do(entered, func(ctx context.Context) error {
		timeout.Stop(ctx, entered)       // the stream is open
		time.Sleep(2 * time.Millisecond) // and has its life
		return errors.New("stream reset")
	})
	fmt.Println(err)
	// Output: stream reset
}

// A timeout that learns gives a call twice what nearly all of them need, once it has
// seen enough of them: with 0.99, a hundred in half a minute.
func ExampleConfig_quantile() {
	p := timeout.New(timeout.Config{After: 10 * time.Second, Quantile: 0.99, Floor: time.Second})

	_ = p.Do(context.Background(), func(ctx context.Context) error {
		deadline, _ := ctx.Deadline()
		fmt.Println("to begin with:", time.Until(deadline).Round(time.Second))
		return nil
	})
	// Output: to begin with: 10s
}

func ExampleTimeout_Abandoned() {
	p := timeout.New(timeout.Config{After: time.Millisecond})
	_ = p.Do(context.Background(), func(context.Context) error {
		time.Sleep(20 * time.Millisecond) // and does not look at its context
		return nil
	})
	for _, a := range p.Abandoned() {
		fmt.Println(a.After, a.Over > 10*time.Millisecond, a.Running)
		fmt.Println(a.Op[strings.LastIndex(a.Op, "/")+1:])
	}
	// Output:
	// 1ms true false
	// timeout_test.ExampleTimeout_Abandoned.func1
}

func ExampleTimeout_Stats() {
	p := timeout.New(timeout.Config{After: time.Millisecond})
	_ = p.Do(context.Background(), hang)
	s := p.Stats()
	fmt.Println(s.Exceeded, s.Late, s.After)
	// Output: 1 0 1ms
}

func ExampleTimeout_LogValue() {
	fmt.Println(timeout.New(timeout.Config{}).LogValue())
	fmt.Println(timeout.New(timeout.Config{Name: "payments", After: 2 * time.Second, Quantile: 0.99}).LogValue())
	// Output:
	// [Name= After=10s]
	// [Name=payments After=2s Quantile=0.99 Floor=20ms]
}
