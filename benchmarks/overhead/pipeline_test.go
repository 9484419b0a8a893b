package overhead

import (
	"context"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/failsafe-go/failsafe-go"
	fsbulkhead "github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	fstimeout "github.com/failsafe-go/failsafe-go/timeout"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/semaphore"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// entry is a contender in a group of those that do the same.
type entry struct {
	name string
	contender
}

var groups = map[string]func() []entry{
	"Nothing":  nothing,
	"Hedge":    hedges,
	"Pipeline": pipelines,
}

func fromPolicy(name string, p mettle.Policy) entry {
	return entry{name, contender{call: func(ctx context.Context, n int) error {
		return p.Do(ctx, func(ctx context.Context) error { return work(ctx, n) })
	}}}
}

// RunWithExecution, because policies here give the call a context of its own.
func fromFailsafe(policies ...failsafe.Policy[any]) entry {
	executor := failsafe.With(policies...)
	return entry{"failsafe", contender{call: func(ctx context.Context, n int) error {
		return executor.WithContext(ctx).RunWithExecution(func(e failsafe.Execution[any]) error {
			return work(e.Context(), n)
		})
	}}}
}

func nothing() []entry {
	return []entry{{"none", contender{call: work}}, fromPolicy("mettle", mettle.Compose())}
}

// The standard order: total timeout, retry, breaker, bulkhead, timeout of an attempt.
func pipelines() []entry {
	gb, weighted := gobreaker.NewCircuitBreaker[struct{}](rolling), semaphore.NewWeighted(100)
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
	return []entry{
		fromPolicy("mettle", mettle.Compose(
			timeout.New(timeout.Config{After: 30 * time.Second}),
			retry.New(retry.Config{}),
			breaker.New(breaker.Config{}),
			bulkhead.New(bulkhead.Config{Limit: 100}),
			timeout.New(timeout.Config{After: 10 * time.Second}),
		)),
		{"by-hand", contender{call: byHand}},
		fromFailsafe(
			fstimeout.New[any](30*time.Second),
			newFailsafeRetry(),
			circuitbreaker.NewBuilder[any]().WithFailureRateThreshold(rate, minCalls, window).Build(),
			fsbulkhead.New[any](100),
			fstimeout.New[any](10*time.Second),
		),
	}
}

// Whoever is compared makes the call, once.
func TestContenders(t *testing.T) {
	for group, entries := range groups {
		for _, e := range entries() {
			t.Run(group+"/"+e.name, func(t *testing.T) { makesCall(t, e.call) })
		}
	}
}

func BenchmarkNothing(b *testing.B) { compare(b, "Nothing") }

// compare runs each contender from one goroutine and from all processors. The names
// are in the form that benchstat takes apart.
func compare(b *testing.B, group string) {
	for _, e := range groups[group]() {
		b.Run("callers=one/impl="+e.name, func(b *testing.B) { withClosure(b, e.call) })
		b.Run("callers=all/impl="+e.name, func(b *testing.B) { together(b, e.call) })
	}
}
