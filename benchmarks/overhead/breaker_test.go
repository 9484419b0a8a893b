package overhead

import (
	"context"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/afex/hystrix-go/hystrix"
	eapache "github.com/eapache/go-resiliency/breaker"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/go-kratos/aegis/circuitbreaker/sre"
	"github.com/sony/gobreaker/v2"
	gozero "github.com/zeromicro/go-zero/core/breaker"

	"github.com/mettle-go/mettle/breaker"
)

// The rules of others are as near to each other as they can be set, and ours has its
// defaults, since no call costs more or less by the numbers: half of at least 20 calls in
// 10 s, or 10 failures in a row. Whoever opens stays open for longer than a benchmark.
const (
	window      = 10 * time.Second
	rate        = 0.5
	minCalls    = 20
	consecutive = 10
	openFor     = time.Hour
)

// A breakerKind is a way to make breakers.
type breakerKind struct {
	rule string // rate, or consecutive
	name string
	// make returns the calls through a new breaker, and what has to be kept for the
	// breaker to live.
	make func() (contender, any)
	idle int // how many are made to find out the size of one
}

const many, few = 100_000, 1000

var breakerKinds = []breakerKind{
	{"rate", "mettle", mettleBreaker(breaker.Config{OpenFor: openFor}), many},
	{"rate", "gobreaker-rolling", gobreakerOf(rolling), many},
	{"rate", "failsafe", failsafeBreaker(circuitbreaker.NewBuilder[any]().
		WithFailureRateThreshold(rate, minCalls, window).WithDelay(openFor)), many},
	{"rate", "aegis", aegisBreaker, 10_000},
	{"rate", "go-zero", gozeroBreaker, 10_000},
	{"rate", "hystrix", hystrixBreaker, few},

	{"consecutive", "mettle-consecutive", mettleBreaker(breaker.Config{FailureRate: -1, OpenFor: openFor}), many},
	// Its defaults, with which it counts and never forgets, but for the time it is open.
	{"consecutive", "gobreaker", gobreakerOf(gobreaker.Settings{Timeout: openFor}), many},
	// Its default form: so many failures of the last so many calls.
	{"consecutive", "failsafe-count", failsafeBreaker(circuitbreaker.NewBuilder[any]().
		WithFailureThreshold(consecutive).WithDelay(openFor)), many},
	{"consecutive", "eapache", eapacheBreaker, many},
}

var rolling = gobreaker.Settings{
	Interval:     window,
	BucketPeriod: time.Second,
	Timeout:      openFor,
	// Asked after failures only, so that a healthy call does not pay for it.
	ReadyToTrip: func(c gobreaker.Counts) bool {
		return c.ConsecutiveFailures >= consecutive ||
			c.Requests >= minCalls && float64(c.TotalFailures) >= rate*float64(c.Requests)
	},
}

func mettleBreaker(c breaker.Config) func() (contender, any) {
	return func() (contender, any) {
		br := breaker.New(c)
		return contender{
			bare: func(ctx context.Context) error { return br.Do(ctx, noop) },
			call: func(ctx context.Context, n int) error {
				return br.Do(ctx, func(ctx context.Context) error { return work(ctx, n) })
			},
		}, br
	}
}

// gobreaker takes no context, and keeps the closure on the caller's stack.
func gobreakerOf(s gobreaker.Settings) func() (contender, any) {
	return func() (contender, any) {
		cb := gobreaker.NewCircuitBreaker[struct{}](s)
		nothing := func() (struct{}, error) { return struct{}{}, noop0() }
		return contender{
			bare: func(context.Context) error { _, err := cb.Execute(nothing); return err },
			call: func(ctx context.Context, n int) error {
				_, err := cb.Execute(func() (struct{}, error) { return struct{}{}, work(ctx, n) })
				return err
			},
		}, cb
	}
}

func failsafeBreaker(builder circuitbreaker.Builder[any]) func() (contender, any) {
	return func() (contender, any) {
		cb := builder.Build()
		return failsafeCalls(cb), cb
	}
}

// failsafeCalls uses Run and not RunWithExecution, which costs more and is for policies
// that change the context. These do not.
func failsafeCalls(policies ...failsafe.Policy[any]) contender {
	executor := failsafe.With(policies...)
	return contender{
		bare: func(ctx context.Context) error { return executor.WithContext(ctx).Run(noop0) },
		call: func(ctx context.Context, n int) error {
			return executor.WithContext(ctx).Run(func() error { return work(ctx, n) })
		},
	}
}

// aegis has no open state: it drops a share of the calls, which grows with the share
// that fail. It has no function that makes the call, so that nobody needs a closure,
// and a call that panics is not counted. A call that it drops is marked as failed, as
// the middleware of kratos does.
func aegisBreaker() (contender, any) {
	br := sre.NewBreaker(sre.WithWindow(window), sre.WithRequest(minCalls), sre.WithSuccess(rate))
	mark := func(err error) error {
		if err != nil {
			br.MarkFailed()
		} else {
			br.MarkSuccess()
		}
		return err
	}
	return contender{
		bare: func(ctx context.Context) error {
			if err := br.Allow(); err != nil {
				return mark(err)
			}
			return mark(noop(ctx))
		},
		call: func(ctx context.Context, n int) error {
			if err := br.Allow(); err != nil {
				return mark(err)
			}
			return mark(work(ctx, n))
		},
	}, br
}

// go-zero drops a share of the calls as aegis does. It has no settings: 40 buckets of
// 250 ms. Outside tests it also logs what it drops, every five minutes.
func gozeroBreaker() (contender, any) {
	br := gozero.NewBreaker()
	return contender{
		bare: func(ctx context.Context) error { return br.DoCtx(ctx, noop0) },
		call: func(ctx context.Context, n int) error {
			return br.DoCtx(ctx, func() error { return work(ctx, n) })
		},
	}, br
}

var circuits atomic.Int64

// hystrix is breaker, bulkhead and timeout in one, which cannot be had apart. It makes
// the call on a goroutine of its own, watched by a second one. Its window is 10 s.
//
// It returns before it has given its slot back, which it does no faster than one
// goroutine of its metrics can keep up. Callers on two processors that do not pause
// soon find no slot, however many there are, and then an open breaker: it is not
// measured with callers that share it.
func hystrixBreaker() (contender, any) {
	return hystrixCalls(hystrix.CommandConfig{
		Timeout:               int(time.Hour.Milliseconds()),
		MaxConcurrentRequests: 100,
		SleepWindow:           int(openFor.Milliseconds()),
	})
}

func hystrixCalls(c hystrix.CommandConfig) (contender, any) {
	name := "circuit-" + strconv.FormatInt(circuits.Add(1), 10) // kept in a map of the package
	hystrix.ConfigureCommand(name, c)
	return contender{
		bare: func(ctx context.Context) error { return hystrix.DoC(ctx, name, noop, nil) },
		call: func(ctx context.Context, n int) error {
			return hystrix.DoC(ctx, name, func(ctx context.Context) error { return work(ctx, n) }, nil)
		},
	}, nil
}

// eapache opens at so many failures without a pause of openFor between two of them, and
// takes no context. Healthy calls are not counted, and do not look at a clock. However
// many there are, ten failures are too many: it is not measured while some calls fail.
func eapacheBreaker() (contender, any) {
	br := eapache.New(consecutive, 2, openFor)
	return contender{
		bare: func(context.Context) error { return br.Run(noop0) },
		call: func(ctx context.Context, n int) error {
			return br.Run(func() error { return work(ctx, n) })
		},
	}, br
}

// open makes calls that fail until the breaker has had enough. It takes more than ten of
// them where the share that is dropped only comes near to the whole.
func open(t testing.TB, c contender) {
	instead(t, func() error { return errDown })
	for range 10_000 {
		if c.bare(t.Context()) == nil {
			t.Fatal("a failed call succeeded")
		}
	}
}

func BenchmarkBreaker(b *testing.B) {
	for _, form := range []struct {
		name string
		run  func(b *testing.B, c contender)
	}{
		{"closed", func(b *testing.B, c contender) { alone(b, b.Context(), c.bare, true) }},
		{"closure", func(b *testing.B, c contender) { withClosure(b, c.call) }},
		{"deadline", func(b *testing.B, c contender) {
			ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
			defer cancel()
			alone(b, ctx, c.bare, true)
		}},
		{"failing", func(b *testing.B, c contender) { withFailures(b, c.call) }},
		{"open", func(b *testing.B, c contender) {
			open(b, c)
			alone(b, b.Context(), c.bare, false)
		}},
	} {
		for _, kind := range breakerKinds {
			if form.name == "failing" && kind.name == "eapache" {
				continue // see eapacheBreaker
			}
			b.Run("case="+form.name+"/rule="+kind.rule+"/impl="+kind.name, func(b *testing.B) {
				c, _ := kind.make()
				form.run(b, c)
			})
		}
	}
}

// BenchmarkBreakerShared is for -cpu=1,2: as many callers as processors, on one breaker.
func BenchmarkBreakerShared(b *testing.B) {
	for _, form := range []struct {
		name string
		run  func(b *testing.B, c contender)
	}{
		{"closed", func(b *testing.B, c contender) { together(b, c.ignoringN) }},
		{"failing", func(b *testing.B, c contender) { someFail(b); togetherFailing(b, every, c.call) }},
		{"open", func(b *testing.B, c contender) { open(b, c); togetherFailing(b, 1, c.ignoringN) }},
	} {
		for _, kind := range breakerKinds {
			switch {
			case kind.name == "hystrix": // see hystrixBreaker
			case kind.name == "eapache" && form.name == "failing": // see eapacheBreaker
			default:
				b.Run("case="+form.name+"/rule="+kind.rule+"/impl="+kind.name, func(b *testing.B) {
					c, _ := kind.make()
					form.run(b, c)
				})
			}
		}
	}
}

// BenchmarkBreakerIdle tells how large a breaker is that has made one call, and how
// many goroutines it keeps.
func BenchmarkBreakerIdle(b *testing.B) {
	for _, kind := range breakerKinds {
		b.Run("case=idle/rule="+kind.rule+"/impl="+kind.name, func(b *testing.B) {
			kept := make([]any, kind.idle)
			goroutines, bytes := runtime.NumGoroutine(), inUse()
			for i := range kept {
				var c contender
				c, kept[i] = kind.make()
				if err := c.bare(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			per := func(n int) float64 { return float64(n) / float64(len(kept)) }
			bytes, goroutines = inUse()-bytes, runtime.NumGoroutine()-goroutines
			for b.Loop() { // nothing: what is measured is no duration
			}
			b.ReportMetric(per(bytes), "B/breaker")
			b.ReportMetric(per(goroutines), "goroutines/breaker")
			b.ReportMetric(0, "ns/op")
			runtime.KeepAlive(kept)
		})
	}
}

// inUse returns how much memory objects and stacks take.
func inUse() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what a sync.Pool has kept is gone after the second
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

// All breakers make the calls while closed, and hardly any while open.
func TestBreakers(t *testing.T) {
	for _, kind := range breakerKinds {
		t.Run(kind.name, func(t *testing.T) {
			c, _ := kind.make()
			makesCalls(t, c)
			open(t, c)
			const calls = 1000
			if n := refused(t, c, calls); n < calls*98/100 {
				t.Errorf("open: refused %d calls of %d", n, calls)
			}
		})
	}
}
