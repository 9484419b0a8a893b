package overhead

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	avast "github.com/avast/retry-go/v5"
	"github.com/cenkalti/backoff/v5"
	"github.com/eapache/go-resiliency/retrier"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	sethvargo "github.com/sethvargo/go-retry"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/retry"
)

const (
	retryBase = 100 * time.Millisecond
	retryMax  = 5 * time.Second
	attempts  = 3
)

// retries are those who make at most three attempts with a growing wait between them.
// None but mettle keeps to a budget, marks the attempt in the context, or counts.
func retries() []entry {
	r := retry.New(retry.Config{})
	e := retrier.New(retrier.ExponentialBackoff(attempts-1, retryBase), nil)
	// With the context of a call it has to be made for the call. Made once it is
	// quicker, and does not hear of the caller's end.
	once := avast.New(avast.Attempts(attempts), avast.Delay(retryBase), avast.MaxDelay(retryMax))
	fs := failsafe.With(newFailsafeRetry())
	return []entry{
		{"mettle", contender{
			bare: func(ctx context.Context) error { return r.Do(ctx, noop) },
			call: func(ctx context.Context, n int) error {
				return r.Do(ctx, func(ctx context.Context) error { return work(ctx, n) })
			},
		}},
		// Composed, as it is used with others.
		fromPolicy("mettle-pipeline", mettle.Compose(r)),
		{"backoff", contender{
			bare: func(ctx context.Context) error {
				_, err := backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, noop(ctx) },
					backoff.WithBackOff(backoff.NewExponentialBackOff()), backoff.WithMaxTries(attempts))
				return err
			},
			call: func(ctx context.Context, n int) error {
				_, err := backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, work(ctx, n) },
					backoff.WithBackOff(backoff.NewExponentialBackOff()), backoff.WithMaxTries(attempts))
				return err
			},
		}},
		{"avast", contender{
			bare: func(ctx context.Context) error {
				return avast.New(avast.Context(ctx), avast.Attempts(attempts), avast.Delay(retryBase), avast.MaxDelay(retryMax)).
					Do(func() error { return noop(ctx) })
			},
			call: func(ctx context.Context, n int) error {
				return avast.New(avast.Context(ctx), avast.Attempts(attempts), avast.Delay(retryBase), avast.MaxDelay(retryMax)).
					Do(func() error { return work(ctx, n) })
			},
		}},
		{"avast-no-context", contender{
			bare: func(context.Context) error { return once.Do(noop0) },
			call: func(ctx context.Context, n int) error { return once.Do(func() error { return work(ctx, n) }) },
		}},
		{"sethvargo", contender{
			bare: func(ctx context.Context) error {
				b := sethvargo.WithMaxRetries(attempts-1, sethvargo.NewExponential(retryBase))
				return sethvargo.Do(ctx, b, func(ctx context.Context) error { return sethvargo.RetryableError(noop(ctx)) })
			},
			call: func(ctx context.Context, n int) error {
				b := sethvargo.WithMaxRetries(attempts-1, sethvargo.NewExponential(retryBase))
				return sethvargo.Do(ctx, b, func(ctx context.Context) error { return sethvargo.RetryableError(work(ctx, n)) })
			},
		}},
		{"eapache", contender{
			bare: func(ctx context.Context) error { return e.RunCtx(ctx, noop) },
			call: func(ctx context.Context, n int) error {
				return e.RunCtx(ctx, func(ctx context.Context) error { return work(ctx, n) })
			},
		}},
		{"failsafe", contender{
			bare: func(ctx context.Context) error {
				return fs.WithContext(ctx).RunWithExecution(func(e failsafe.Execution[any]) error { return noop(e.Context()) })
			},
			call: func(ctx context.Context, n int) error {
				return fs.WithContext(ctx).RunWithExecution(func(e failsafe.Execution[any]) error { return work(e.Context(), n) })
			},
		}},
	}
}

func newFailsafeRetry() failsafe.Policy[any] {
	return retrypolicy.NewBuilder[any]().WithMaxRetries(attempts-1).WithBackoff(retryBase, retryMax).Build()
}

// Whoever is compared makes the call, and makes it again when it failed for once.
func TestRetries(t *testing.T) {
	for _, e := range retries() {
		t.Run(e.name, func(t *testing.T) {
			makesCall(t, e.call)
			if e.bare != nil {
				makesCall(t, func(ctx context.Context, _ int) error { return e.bare(ctx) })
			}
			synctest.Test(t, func(t *testing.T) {
				made := 0
				instead(t, func() error {
					if made++; made < attempts {
						return errDown
					}
					return nil
				})
				for _, fresh := range retries() { // made in the bubble, where their timers are
					if made = 0; fresh.name == e.name {
						if err := fresh.call(context.Background(), 1); err != nil || made != attempts {
							t.Errorf("made %d times, error %v", made, err)
						}
					}
				}
			})
		})
	}
}

func BenchmarkRetry(b *testing.B) {
	for _, e := range retries() {
		if e.bare != nil {
			b.Run("case=success/impl="+e.name, func(b *testing.B) { alone(b, b.Context(), e.bare, true) })
		}
	}
	for _, e := range retries() {
		b.Run("case=closure/impl="+e.name, func(b *testing.B) { withClosure(b, e.call) })
	}
}

// BenchmarkRetryShared is for -cpu=1,2: as many callers as processors, on one retrier.
func BenchmarkRetryShared(b *testing.B) {
	for _, e := range retries() {
		b.Run("case=shared/impl="+e.name, func(b *testing.B) { together(b, e.call) })
	}
}

// BenchmarkPipeline is of one caller, since those who share a breaker and a bulkhead are
// measured with these.
func BenchmarkPipeline(b *testing.B) {
	for _, e := range pipelines() {
		b.Run("case=closure/impl="+e.name, func(b *testing.B) { withClosure(b, e.call) })
	}
}
