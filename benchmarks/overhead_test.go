package benchmarks

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/failsafe-go/failsafe-go"
	fsbulkhead "github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	fstimeout "github.com/failsafe-go/failsafe-go/timeout"
	"github.com/sony/gobreaker/v2"
	"github.com/stretchr/testify/assert"
	"golang.org/x/sync/semaphore"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// worked counts the calls, for TestContenders.
var worked atomic.Int64

// work is what is called. It takes an argument besides the context, as real calls do, so
// that everyone needs a closure.
func work(_ context.Context, n int) error {
	if n < 0 {
		worked.Add(1)
	}
	return nil
}

// contender is one way to make a protected call of work, in the form in which its
// users would write it.
type contender struct {
	name string
	do   func(ctx context.Context, n int) error
}

func fromPolicy(p mettle.Policy) contender {
	return contender{"mettle", func(ctx context.Context, n int) error {
		return p.Do(ctx, func(ctx context.Context) error { return work(ctx, n) })
	}}
}

func fromFailsafe(policies ...failsafe.Policy[any]) contender {
	executor := failsafe.With(policies...)
	return contender{"failsafe", func(ctx context.Context, n int) error {
		return executor.WithContext(ctx).RunWithExecution(func(e failsafe.Execution[any]) error {
			return work(e.Context(), n)
		})
	}}
}

var groups = map[string]func() []contender{
	"Nothing":  nothing,
	"Breaker":  breakers,
	"Retry":    retries,
	"Bulkhead": bulkheads,
	"Timeout":  timeouts,
	"Pipeline": pipelines,
}

func nothing() []contender {
	return []contender{{"none", work}, fromPolicy(mettle.Compose())}
}

// All breakers measure the rate of failures over 10 s.
func breakers() []contender {
	gb := newGobreaker()
	return []contender{
		fromPolicy(breaker.New(breaker.Config{})),
		{"gobreaker", func(ctx context.Context, n int) error {
			_, err := gb.Execute(func() (struct{}, error) { return struct{}{}, work(ctx, n) })
			return err
		}},
		fromFailsafe(newFailsafeBreaker()),
	}
}

func newGobreaker() *gobreaker.CircuitBreaker[struct{}] {
	return gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Interval:     10 * time.Second,
		BucketPeriod: time.Second,
		Timeout:      time.Second,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return c.ConsecutiveFailures >= 10 || c.Requests >= 20 && c.TotalFailures*2 >= c.Requests
		},
	})
}

func newFailsafeBreaker() failsafe.Policy[any] {
	return circuitbreaker.NewBuilder[any]().WithFailureRateThreshold(0.5, 20, 10*time.Second).Build()
}

func retries() []contender {
	return []contender{
		fromPolicy(retry.New(retry.Config{})),
		{"backoff", func(ctx context.Context, n int) error {
			_, err := backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, work(ctx, n) },
				backoff.WithBackOff(backoff.NewExponentialBackOff()), backoff.WithMaxTries(3))
			return err
		}},
		fromFailsafe(newFailsafeRetry()),
	}
}

func newFailsafeRetry() failsafe.Policy[any] {
	return retrypolicy.NewBuilder[any]().WithMaxRetries(2).WithBackoff(100*time.Millisecond, 5*time.Second).Build()
}

var errFull = errors.New("full")

func bulkheads() []contender {
	weighted := semaphore.NewWeighted(100)
	return []contender{
		fromPolicy(bulkhead.New(bulkhead.Config{Limit: 100})),
		{"semaphore", func(ctx context.Context, n int) error {
			if !weighted.TryAcquire(1) {
				return errFull
			}
			defer weighted.Release(1)
			return work(ctx, n)
		}},
		fromFailsafe(fsbulkhead.New[any](100)),
	}
}

func timeouts() []contender {
	return []contender{
		fromPolicy(timeout.New(timeout.Config{After: 10 * time.Second})),
		{"context", func(ctx context.Context, n int) error {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			return work(ctx, n)
		}},
		fromFailsafe(fstimeout.New[any](10 * time.Second)),
	}
}

// The standard order: total timeout, retry, breaker, bulkhead, timeout of an attempt.
func pipelines() []contender {
	gb, weighted := newGobreaker(), semaphore.NewWeighted(100)
	byHand := func(ctx context.Context, n int) error {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		_, err := backoff.Retry(ctx, func() (struct{}, error) {
			return gb.Execute(func() (struct{}, error) {
				if !weighted.TryAcquire(1) {
					return struct{}{}, errFull
				}
				defer weighted.Release(1)
				ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
				defer cancel()
				return struct{}{}, work(ctx, n)
			})
		}, backoff.WithBackOff(backoff.NewExponentialBackOff()), backoff.WithMaxTries(3))
		return err
	}
	return []contender{
		fromPolicy(mettle.Compose(
			timeout.New(timeout.Config{After: 30 * time.Second}),
			retry.New(retry.Config{}),
			breaker.New(breaker.Config{}),
			bulkhead.New(bulkhead.Config{Limit: 100}),
			timeout.New(timeout.Config{After: 10 * time.Second}),
		)),
		{"by-hand", byHand},
		fromFailsafe(
			fstimeout.New[any](30*time.Second),
			newFailsafeRetry(),
			newFailsafeBreaker(),
			fsbulkhead.New[any](100),
			fstimeout.New[any](10*time.Second),
		),
	}
}

// Whoever is compared makes the call, once.
func TestContenders(t *testing.T) {
	for group, contenders := range groups {
		for _, c := range contenders() {
			before := worked.Load()
			assert.NoError(t, c.do(t.Context(), -1), "%s/%s", group, c.name)
			assert.EqualValues(t, 1, worked.Load()-before, "%s/%s", group, c.name)
		}
	}
}

func BenchmarkNothing(b *testing.B)  { compare(b, "Nothing") }
func BenchmarkBreaker(b *testing.B)  { compare(b, "Breaker") }
func BenchmarkRetry(b *testing.B)    { compare(b, "Retry") }
func BenchmarkBulkhead(b *testing.B) { compare(b, "Bulkhead") }
func BenchmarkTimeout(b *testing.B)  { compare(b, "Timeout") }
func BenchmarkPipeline(b *testing.B) { compare(b, "Pipeline") }

// compare runs each contender from one goroutine and from all processors. The names
// are in the form that benchstat takes apart.
func compare(b *testing.B, group string) {
	for _, c := range groups[group]() {
		b.Run("callers=one/impl="+c.name, func(b *testing.B) {
			b.ReportAllocs()
			ctx := b.Context()
			for n := 0; b.Loop(); n++ {
				if err := c.do(ctx, n); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("callers=all/impl="+c.name, func(b *testing.B) {
			b.ReportAllocs()
			ctx := b.Context()
			b.RunParallel(func(pb *testing.PB) {
				for n := 0; pb.Next(); n++ {
					if err := c.do(ctx, n); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
