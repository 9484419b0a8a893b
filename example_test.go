package mettle_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// charge is a payment service that needs to be asked twice.
func charge() func(context.Context) error {
	asked := 0
	return func(ctx context.Context) error {
		if asked++; asked == 1 {
			return errors.New("connection reset")
		}
		fmt.Println("charged at attempt", mettle.Attempt(ctx))
		return nil
	}
}

func ExampleCompose() {
	payments := mettle.Compose(
		timeout.New(timeout.Config{After: 2 * time.Second}), // all attempts together
		retry.New(retry.Config{Backoff: retry.Constant(0)}),
		breaker.New(breaker.Config{Name: "payments"}), // sees every attempt
	)
	err := payments.Do(context.Background(), charge())
	fmt.Println(err)
	// Output:
	// charged at attempt 2
	// <nil>
}

// A pipeline is a policy, so what several callers have in common can be composed
// once and shared, with its state.
func ExamplePipeline() {
	dependency := mettle.Compose(
		breaker.New(breaker.Config{Name: "payments"}),
		timeout.New(timeout.Config{After: time.Second}),
	)
	patient := mettle.Compose(retry.New(retry.Config{Backoff: retry.Constant(0)}), dependency)
	hasty := dependency

	fmt.Println(patient.Do(context.Background(), charge()))
	fmt.Println(hasty.Do(context.Background(), charge()))
	// Output:
	// charged at attempt 2
	// <nil>
	// connection reset
}

// Wrap is how a pipeline is bound to something that is no function: here to
// another policy, once, so that calls pay nothing for it.
func ExamplePipeline_Wrap() {
	outer := mettle.Compose(timeout.New(timeout.Config{After: time.Second}))
	bound := outer.Wrap(mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		_, limited := ctx.Deadline()
		fmt.Println("limited:", limited)
		return op(ctx)
	}))
	fmt.Println(bound.Do(context.Background(), func(context.Context) error { return nil }))
	// Output:
	// limited: true
	// <nil>
}

func ExampleLogTrace() {
	withoutTime := &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}
	trace := mettle.LogTrace(slog.New(slog.NewTextHandler(os.Stdout, withoutTime)), 0) // one for all calls

	b := breaker.New(breaker.Config{Name: "payments"})
	b.ForceOpen(breaker.Override{By: "ops", Reason: "drill"})
	ctx := mettle.WithTrace(context.Background(), trace)
	_ = b.Do(ctx, func(context.Context) error { return nil })
	// Output:
	// level=WARN msg="call refused" policy=payments err.policy=payments err.why="is forced open by ops: drill"
}

func ExamplePipeline_Observe() {
	p := mettle.Compose(
		retry.New(retry.Config{Name: "payments", Backoff: retry.Constant(0)}),
		breaker.New(breaker.Config{Name: "payments"}),
	)
	_ = p.Do(context.Background(), charge())
	for m := range p.Observe {
		if m.Name == "mettle.retry.attempts" {
			fmt.Println(m.Kind, m.Name, m.Unit, m.Labels, m.Value)
		}
	}
	// Output:
	// charged at attempt 2
	// counter mettle.retry.attempts {attempt} [{policy payments} {attempt 1}] 1
	// counter mettle.retry.attempts {attempt} [{policy payments} {attempt 2}] 1
	// counter mettle.retry.attempts {attempt} [{policy payments} {attempt 3+}] 0
}

func ExampleGet() {
	p := mettle.Compose(retry.New(retry.Config{}))
	price, err := mettle.Get(context.Background(), p, func(ctx context.Context) (int, error) {
		return 1295, nil
	})
	fmt.Println(price, err)
	// Output: 1295 <nil>
}

// A value that nobody gets is given back, here that of the first of two runs.
func ExampleGetDispose() {
	again := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		_ = op(ctx)
		return op(ctx)
	})
	n := 0
	dial := func(context.Context) (string, error) {
		n++
		return fmt.Sprintf("connection %d", n), nil
	}
	conn, err := mettle.GetDispose(context.Background(), again, dial, func(conn string) {
		fmt.Println("close", conn)
	})
	fmt.Println("use", conn, err)
	// Output:
	// close connection 1
	// use connection 2 <nil>
}

// A policy of one's own in four lines.
func ExamplePolicyFunc() {
	logged := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		err := op(ctx)
		fmt.Println("attempt", mettle.Attempt(ctx), "ended with", err)
		return err
	})
	p := mettle.Compose(retry.New(retry.Config{Backoff: retry.Constant(0)}), logged)
	_ = p.Do(context.Background(), charge())
	// Output:
	// attempt 1 ended with connection reset
	// charged at attempt 2
	// attempt 2 ended with <nil>
}

// counter counts calls. With Wrap it does so without a closure per call.
type counter struct {
	calls *atomic.Int64
	next  mettle.Policy
}

func (c counter) Wrap(next mettle.Policy) mettle.Policy { return counter{c.calls, next} }

func (c counter) Do(ctx context.Context, op func(context.Context) error) error {
	if c.next == nil { // on its own, not in a pipeline
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		c.calls.Add(1)
		return op(ctx)
	}
	c.calls.Add(1)
	return c.next.Do(ctx, op)
}

func ExampleWrapper() {
	c := counter{calls: new(atomic.Int64)}
	p := mettle.Compose(retry.New(retry.Config{Backoff: retry.Constant(0)}), c)
	_ = p.Do(context.Background(), charge())
	fmt.Println("calls:", c.calls.Load())
	// Output:
	// charged at attempt 2
	// calls: 2
}

func ExampleClassify() {
	ctx := context.Background()
	gone, cancel := context.WithCancel(ctx)
	cancel()
	for _, end := range []struct {
		ctx context.Context
		err error
	}{
		{ctx, nil},
		{ctx, errors.New("connection refused")},
		{ctx, os.ErrDeadlineExceeded},
		{ctx, breaker.ErrOpen},
		{ctx, context.Canceled}, // the dependency's, for the caller still waits
		{gone, context.Canceled},
	} {
		fmt.Println(mettle.Classify(end.ctx, end.err))
	}
	// Output:
	// success
	// failure
	// timeout
	// ignored
	// failure
	// ignored
}

func ExampleOutcome_Failed() {
	for _, o := range []mettle.Outcome{mettle.Success, mettle.Failure, mettle.Overload, mettle.Timeout, mettle.Ignored} {
		fmt.Println(o, o.Failed())
	}
	// Output:
	// success false
	// failure true
	// overload true
	// timeout true
	// ignored false
}

func ExamplePermanent() {
	p := retry.New(retry.Config{Backoff: retry.Constant(0)})
	err := p.Do(context.Background(), func(ctx context.Context) error {
		fmt.Println("attempt", mettle.Attempt(ctx))
		return mettle.Permanent(errors.New("card is stolen"))
	})
	fmt.Println(err)
	// Output:
	// attempt 1
	// card is stolen
}

// busyError is an error that knows when to come back.
type busyError struct{ wait time.Duration }

func (e busyError) Error() string             { return "busy" }
func (e busyError) RetryAfter() time.Duration { return e.wait }

func ExampleRetryAfter() {
	err := fmt.Errorf("order 7: %w", busyError{2 * time.Second})
	fmt.Println(mettle.RetryAfter(err))
	fmt.Println(mettle.RetryAfter(errors.New("connection refused")))
	// Output:
	// 2s true
	// 0s false
}

func ExampleWithTrace() {
	ctx := mettle.WithTrace(context.Background(), &mettle.Trace{
		AttemptDone: func(e mettle.TraceEvent) { fmt.Println("attempt", e.Attempt, "ended with", e.Err) },
		Wait:        func(e mettle.TraceEvent) { fmt.Println("waiting", e.Delay) },
	})
	_ = retry.New(retry.Config{Backoff: retry.Constant(0)}).Do(ctx, charge())
	// Output:
	// attempt 1 ended with connection reset
	// waiting 0s
	// charged at attempt 2
	// attempt 2 ended with <nil>
}

// A policy tells those who listen that it refuses, and looks for them only then.
func ExampleContextTrace() {
	errClosed := fmt.Errorf("closed for the night: %w", mettle.ErrRejected)
	closed := mettle.PolicyFunc(func(ctx context.Context, _ func(context.Context) error) error {
		if tr := mettle.ContextTrace(ctx); tr != nil && tr.Rejected != nil {
			tr.Rejected(mettle.TraceEvent{Policy: "hours", Err: errClosed})
		}
		return errClosed
	})
	ctx := mettle.WithTrace(context.Background(), &mettle.Trace{
		Rejected: func(e mettle.TraceEvent) { fmt.Println(e.Policy, "refused:", e.Err) },
	})
	_ = closed.Do(ctx, charge())
	// Output: hours refused: closed for the night: mettle: rejected
}

func ExampleAttempt() {
	p := mettle.Compose(retry.New(retry.Config{MaxAttempts: 2, Backoff: retry.Constant(0)}))
	_ = p.Do(context.Background(), func(ctx context.Context) error {
		fmt.Println("attempt", mettle.Attempt(ctx))
		return errors.New("connection refused")
	})
	fmt.Println("outside:", mettle.Attempt(context.Background()))
	// Output:
	// attempt 1
	// attempt 2
	// outside: 0
}

// A policy that resends marks what it resends, so that a retry inside it does not
// multiply and adapters know an attempt when they see one.
func ExampleWithAttempt() {
	twice := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		if err := op(mettle.WithAttempt(ctx, 1)); err == nil {
			return nil
		}
		return op(mettle.WithAttempt(ctx, 2))
	})
	_ = mettle.Compose(twice, retry.New(retry.Config{})).Do(context.Background(), charge())
	// Output: charged at attempt 2
}

// An adapter whose result outlives the attempt that made it: the attempt's
// deadline ends with the attempt, the call's bounds the result.
func ExampleCallContext() {
	p := mettle.Compose(
		timeout.New(timeout.Config{After: time.Hour}),
		retry.New(retry.Config{}),
		timeout.New(timeout.Config{After: time.Minute}),
	)
	_ = p.Do(context.Background(), func(ctx context.Context) error {
		attempt, _ := ctx.Deadline()
		call, _ := mettle.CallContext(ctx).Deadline()
		fmt.Println("attempt:", time.Until(attempt).Round(time.Minute))
		fmt.Println("call:", time.Until(call).Round(time.Minute))
		return nil
	})
	// Output:
	// attempt: 1m0s
	// call: 1h0m0s
}

// An adapter begins a call of its own, whatever retry it is itself inside.
func ExampleWithCall() {
	someoneElses := mettle.WithAttempt(context.Background(), 3)

	ctx := mettle.WithCall(someoneElses)
	fmt.Println(mettle.CallContext(ctx) == ctx, mettle.Attempt(ctx))
	// Output: true 3
}

// A policy that measures its dependency subtracts what a queue of ours took.
func ExampleWithQueued() {
	measure := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		ctx = mettle.WithQueued(ctx)
		err := op(ctx)
		fmt.Println("of that in our own queue:", mettle.Queued(ctx))
		return err
	})
	queue := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		mettle.AddQueued(ctx, 20*time.Millisecond) // after having waited
		return op(ctx)
	})
	_ = mettle.Compose(measure, queue).Do(context.Background(), func(context.Context) error { return nil })
	// Output: of that in our own queue: 20ms
}

func ExamplePipeline_Policies() {
	p := mettle.Compose(
		timeout.New(timeout.Config{Name: "total"}),
		retry.New(retry.Config{Name: "payments"}),
	)
	for _, policy := range p.Policies() {
		fmt.Printf("%T\n", policy)
	}
	// Output:
	// *timeout.Timeout
	// *retry.Retrier
}
