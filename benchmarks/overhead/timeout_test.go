package overhead

import (
	"context"
	"testing"
	"time"

	"github.com/failsafe-go/failsafe-go"
	fstimeout "github.com/failsafe-go/failsafe-go/timeout"

	"github.com/mettle-go/mettle/timeout"
)

// A timeoutKind is a way to call op with a context that has a deadline, and to wait for
// it. eapache's deadline and go-zero's and hystrix's timeouts run every call on a goroutine
// of its own, and leave it there when time is up: that is something else.
type timeoutKind struct {
	name string
	make func() func(ctx context.Context, op func(context.Context) error) error
}

var timeoutKinds = []timeoutKind{
	{"mettle", func() func(context.Context, func(context.Context) error) error {
		return timeout.New(timeout.Config{After: 10 * time.Second}).Do
	}},
	// Learns from every call how long the next ones may take.
	{"mettle-quantile", func() func(context.Context, func(context.Context) error) error {
		return timeout.New(timeout.Config{After: 10 * time.Second, Quantile: 0.99}).Do
	}},
	{"context", func() func(context.Context, func(context.Context) error) error {
		return func(ctx context.Context, op func(context.Context) error) error {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			return op(ctx)
		}
	}},
	{"failsafe", func() func(context.Context, func(context.Context) error) error {
		executor := failsafe.With(fstimeout.New[any](10 * time.Second))
		return func(ctx context.Context, op func(context.Context) error) error {
			return executor.WithContext(ctx).RunWithExecution(func(e failsafe.Execution[any]) error {
				return op(e.Context())
			})
		}
	}},
}

// asks is an operation that looks at once whether it is too late, as one that waits
// does and most that use the network do.
func asks(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	default:
		return noop(ctx)
	}
}

// derives is an operation that makes a context of its own, as each layer of a server does.
func derives(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return noop(ctx)
}

// BenchmarkTimeout measures a call under a caller that can be cancelled, as a server's
// can be; in case=nested under one that has a later deadline as well.
func BenchmarkTimeout(b *testing.B) {
	for _, form := range []struct {
		name string
		op   func(context.Context) error
	}{
		{"quick", noop},
		{"asks", asks},
		{"derives", derives},
		{"nested", noop},
	} {
		for _, kind := range timeoutKinds {
			b.Run("case="+form.name+"/impl="+kind.name, func(b *testing.B) {
				ctx, do := b.Context(), kind.make()
				if form.name == "nested" {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, time.Hour)
					defer cancel()
				}
				alone(b, ctx, func(ctx context.Context) error { return do(ctx, form.op) }, true)
			})
		}
	}
}

// BenchmarkTimeoutShared is for -cpu=1,2: as many callers as processors, under one policy.
func BenchmarkTimeoutShared(b *testing.B) {
	for _, kind := range timeoutKinds {
		b.Run("case=shared/impl="+kind.name, func(b *testing.B) {
			do := kind.make()
			together(b, func(ctx context.Context, _ int) error { return do(ctx, noop) })
		})
	}
}

// All make the call, with a context that has a deadline and ends with the caller's, and
// return what it returns.
func TestTimeouts(t *testing.T) {
	for _, kind := range timeoutKinds {
		t.Run(kind.name, func(t *testing.T) {
			do := kind.make()
			makesCalls(t, contender{
				bare: func(ctx context.Context) error { return do(ctx, noop) },
				call: func(ctx context.Context, n int) error {
					return do(ctx, func(ctx context.Context) error { return work(ctx, n) })
				},
			})
			for _, op := range []func(context.Context) error{asks, derives} {
				makesCall(t, func(ctx context.Context, _ int) error { return do(ctx, op) })
			}
			ctx, cancel := context.WithCancel(t.Context())
			err := do(ctx, func(ctx context.Context) error {
				if _, ok := ctx.Deadline(); !ok && kind.name != "failsafe" { // it has a timer and tells of none
					t.Error("the context has no deadline")
				}
				cancel()
				<-ctx.Done()
				return nil
			})
			if err != nil && kind.name != "failsafe" { // it returns the caller's end in place of a success
				t.Errorf("a success came back as %v", err)
			}
		})
	}
}
