package scorecard

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
	"github.com/failsafe-go/failsafe-go/adaptivethrottler"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	fstimeout "github.com/failsafe-go/failsafe-go/timeout"
	"github.com/go-kratos/aegis/circuitbreaker/sre"
	"github.com/sony/gobreaker/v2"
	gozero "github.com/zeromicro/go-zero/core/breaker"
	"github.com/zeromicro/go-zero/core/logx"
	"github.com/zeromicro/go-zero/core/stat"

	"github.com/mettle-go/mettle/benchmarks/sim"
)

// go-zero prints what it refuses, and what it uses.
func init() {
	stat.DisableLog()
	logx.Disable()
}

func gobreakerDefaults(c Client) sim.Caller {
	return gobreakerOf(c, gobreaker.Settings{}, backoff.NewExponentialBackOff)
}

// gobreakerTuned uses the rolling window that its documentation recommends for long
// intervals.
func gobreakerTuned(c Client) sim.Caller {
	return gobreakerOf(c, gobreaker.Settings{
		Interval:     10 * time.Second,
		BucketPeriod: time.Second,
		Timeout:      time.Second,
		ReadyToTrip: func(n gobreaker.Counts) bool {
			return n.Requests >= 20 && 2*n.TotalFailures >= n.Requests
		},
	}, func() *backoff.ExponentialBackOff {
		b := backoff.NewExponentialBackOff()
		b.InitialInterval = 50 * time.Millisecond
		return b
	})
}

// gobreakerOf puts the breaker around each attempt, and takes a refusal as the end of the
// call: it would otherwise wait through the deadline for nothing.
func gobreakerOf(c Client, s gobreaker.Settings, pause func() *backoff.ExponentialBackOff) sim.Caller {
	s.OnStateChange = func(_ string, _, to gobreaker.State) {
		if to == gobreaker.StateOpen {
			c.Opened()
		}
	}
	cb := gobreaker.NewCircuitBreaker[struct{}](s)
	return func(ctx context.Context, _ int, op func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, c.Deadline)
		defer cancel()
		_, err := backoff.Retry(ctx, func() (struct{}, error) {
			none, err := cb.Execute(func() (struct{}, error) {
				return struct{}{}, timed(ctx, c.Attempt, op)
			})
			if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
				err = backoff.Permanent(err)
			}
			return none, err
		}, backoff.WithMaxTries(uint(c.Attempts)), backoff.WithBackOff(pause()))
		return err
	}
}

func failsafeDefaults(c Client) sim.Caller {
	return failsafeOf(c, retrypolicy.NewWithDefaults[any](), failsafeBreaker(c, circuitbreaker.NewBuilder[any]()))
}

func failsafeTuned(c Client) sim.Caller {
	return failsafeOf(c, failsafeRetries(c, circuitbreaker.ErrOpen), failsafeBreaker(c, circuitbreaker.NewBuilder[any]().
		WithFailureRateThreshold(0.5, 20, 10*time.Second).
		WithDelay(time.Second)))
}

// failsafeThrottlerTuned has the share of failures that is the default, and the number of
// calls that the documentation suggests, but not its minute: what happened so long ago
// would be held against a server that is back.
func failsafeThrottlerTuned(c Client) sim.Caller {
	return failsafeOf(c, failsafeRetries(c, adaptivethrottler.ErrExceeded), adaptivethrottler.NewBuilder[any]().
		WithFailureRateThreshold(0.1, 10, 10*time.Second).Build())
}

// failsafeRetries resends what did not fail with the given error, a refusal.
func failsafeRetries(c Client, refusal error) retrypolicy.RetryPolicy[any] {
	return retrypolicy.NewBuilder[any]().
		WithMaxAttempts(c.Attempts).
		WithBackoff(50*time.Millisecond, 5*time.Second).
		WithJitterFactor(0.5).
		AbortOnErrors(refusal).
		Build()
}

func failsafeThrottler(c Client) sim.Caller {
	return failsafeOf(c, retrypolicy.NewWithDefaults[any](), adaptivethrottler.NewWithDefaults[any]())
}

func failsafeLimiter(c Client) sim.Caller {
	return failsafeOf(c, retrypolicy.NewWithDefaults[any](), adaptivelimiter.NewWithDefaults[any]())
}

func failsafeBreaker(c Client, b circuitbreaker.Builder[any]) failsafe.Policy[any] {
	return b.OnOpen(func(circuitbreaker.StateChangedEvent) { c.Opened() }).Build()
}

func failsafeOf(c Client, policies ...failsafe.Policy[any]) sim.Caller {
	policies = append(policies, fstimeout.New[any](c.Attempt))
	executor := failsafe.With(policies...)
	return func(ctx context.Context, _ int, op func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, c.Deadline)
		defer cancel()
		return executor.WithContext(ctx).RunWithExecution(func(e failsafe.Execution[any]) error {
			return op(e.Context())
		})
	}
}

func gozeroDefaults(c Client) sim.Caller {
	br := gozero.NewBreaker()
	return func(ctx context.Context, _ int, op func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, c.Once)
		defer cancel()
		return br.DoCtx(ctx, func() error { return op(ctx) })
	}
}

func aegisDefaults(c Client) sim.Caller { return aegisOf(c) }

// aegisTuned sends twice what is accepted, as the SRE book prefers (chapter 21). With a
// longer window than its 3 s it hardly finds out that a server is back, since it counts what
// it refuses itself as failures. Of go-zero's breaker nothing can be set but which errors
// count, and all of them do here.
func aegisTuned(c Client) sim.Caller { return aegisOf(c, sre.WithSuccess(0.5)) }

func aegisOf(c Client, settings ...sre.Option) sim.Caller {
	br := sre.NewBreaker(settings...)
	return func(ctx context.Context, _ int, op func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, c.Once)
		defer cancel()
		if err := br.Allow(); err != nil {
			br.MarkFailed()
			return err
		}
		err := op(ctx)
		if err != nil {
			br.MarkFailed()
		} else {
			br.MarkSuccess()
		}
		return err
	}
}
