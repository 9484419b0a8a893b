package overhead

import (
	"context"
	"testing"
	"time"

	"github.com/afex/hystrix-go/hystrix"
	eapachesemaphore "github.com/eapache/go-resiliency/semaphore"
	fsbulkhead "github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/zeromicro/go-zero/core/syncx"
	"golang.org/x/sync/semaphore"

	"github.com/mettle-go/mettle/bulkhead"
)

// A bulkheadKind is a way to make bulkheads that refuse at once, but for those that
// can only wait.
type bulkheadKind struct {
	name  string
	waits bool // is not measured when full
	make  func(limit int) contender
}

// Who has no function that makes the call gives the slot back in a defer, so that a
// panic does not keep it: that is what all others do, except hystrix, where a panic
// ends the process. aegis and gobreaker have no bulkhead.
var bulkheadKinds = []bulkheadKind{
	{"mettle", false, mettleBulkhead},
	{"mettle-permit", false, mettlePermit},
	{"mettle-pool", false, mettlePool},
	{"semaphore", false, weighted},
	{"semaphore-acquire", true, weightedAcquire},
	{"channel", false, channel},
	{"failsafe", false, func(limit int) contender { return failsafeCalls(fsbulkhead.New[any](uint(limit))) }},
	{"eapache", true, eapacheSemaphore},
	{"go-zero", false, gozeroLimit},
	{"hystrix", false, hystrixPool},
}

func mettleBulkhead(limit int) contender {
	x := bulkhead.New(bulkhead.Config{Limit: limit})
	return contender{
		bare: func(ctx context.Context) error { return x.Do(ctx, noop) },
		call: func(ctx context.Context, n int) error {
			return x.Do(ctx, func(ctx context.Context) error { return work(ctx, n) })
		},
	}
}

// A permit can be released twice without harm, which a semaphore forbids.
func mettlePermit(limit int) contender {
	x := bulkhead.New(bulkhead.Config{Limit: limit})
	return contender{
		bare: func(ctx context.Context) error {
			p, err := x.Acquire(ctx)
			if err != nil {
				return err
			}
			defer p.Release()
			return noop(ctx)
		},
		call: func(ctx context.Context, n int) error {
			p, err := x.Acquire(ctx)
			if err != nil {
				return err
			}
			defer p.Release()
			return work(ctx, n)
		},
	}
}

// A pool of three that share one dependency, none of whose room is lent.
func mettlePool(limit int) contender {
	x := bulkhead.NewPartition(bulkhead.PartitionConfig{Pools: []bulkhead.PoolConfig{
		{Name: "critical", Limit: limit}, {Name: "normal", Limit: limit}, {Name: "background", Limit: limit},
	}}).Pool("normal")
	return contender{
		bare: func(ctx context.Context) error { return x.Do(ctx, noop) },
		call: func(ctx context.Context, n int) error {
			return x.Do(ctx, func(ctx context.Context) error { return work(ctx, n) })
		},
	}
}

func weighted(limit int) contender {
	s := semaphore.NewWeighted(int64(limit))
	return contender{
		bare: func(ctx context.Context) error {
			if !s.TryAcquire(1) {
				return errFull
			}
			defer s.Release(1)
			return noop(ctx)
		},
		call: func(ctx context.Context, n int) error {
			if !s.TryAcquire(1) {
				return errFull
			}
			defer s.Release(1)
			return work(ctx, n)
		},
	}
}

// weightedAcquire looks at the context, as mettle does, and would wait.
func weightedAcquire(limit int) contender {
	s := semaphore.NewWeighted(int64(limit))
	return contender{
		bare: func(ctx context.Context) error {
			if err := s.Acquire(ctx, 1); err != nil {
				return err
			}
			defer s.Release(1)
			return noop(ctx)
		},
		call: func(ctx context.Context, n int) error {
			if err := s.Acquire(ctx, 1); err != nil {
				return err
			}
			defer s.Release(1)
			return work(ctx, n)
		},
	}
}

// channel is what is written where there is no library.
func channel(limit int) contender {
	slots := make(chan struct{}, limit)
	do := func(call func() error) error {
		select {
		case slots <- struct{}{}:
		default:
			return errFull
		}
		defer func() { <-slots }()
		return call()
	}
	return contender{
		bare: func(context.Context) error { return do(noop0) },
		call: func(ctx context.Context, n int) error {
			return do(func() error { return work(ctx, n) })
		},
	}
}

// eapacheSemaphore starts a timer on every call. It cannot refuse at once: with a timeout
// of zero it refuses now and then while there is room.
func eapacheSemaphore(limit int) contender {
	s := eapachesemaphore.New(limit, time.Hour)
	return contender{
		bare: func(ctx context.Context) error {
			if err := s.Acquire(); err != nil {
				return err
			}
			defer s.Release()
			return noop(ctx)
		},
		call: func(ctx context.Context, n int) error {
			if err := s.Acquire(); err != nil {
				return err
			}
			defer s.Release()
			return work(ctx, n)
		},
	}
}

func gozeroLimit(limit int) contender {
	l := syncx.NewLimit(limit)
	return contender{
		bare: func(ctx context.Context) error {
			if !l.TryBorrow() {
				return errFull
			}
			defer func() { _ = l.Return() }()
			return noop(ctx)
		},
		call: func(ctx context.Context, n int) error {
			if !l.TryBorrow() {
				return errFull
			}
			defer func() { _ = l.Return() }()
			return work(ctx, n)
		},
	}
}

// hystrixPool takes a refusal for a failure of the dependency; the threshold keeps the
// breaker that comes with it shut.
func hystrixPool(limit int) contender {
	c, _ := hystrixCalls(hystrix.CommandConfig{
		Timeout:               int(time.Hour.Milliseconds()),
		MaxConcurrentRequests: limit,
		ErrorPercentThreshold: 101,
	})
	return c
}

// fill makes a call that does not return before the test ends.
func fill(t testing.TB, c contender) {
	entered, leave, left := make(chan struct{}), make(chan struct{}), make(chan struct{})
	instead(t, func() error { close(entered); <-leave; return nil })
	ctx := t.Context()
	go func() {
		defer close(left)
		_ = c.bare(ctx)
	}()
	<-entered
	unusual = nil
	t.Cleanup(func() { close(leave); <-left })
}

func BenchmarkBulkhead(b *testing.B) {
	for _, form := range []struct {
		name  string
		limit int
		run   func(b *testing.B, c contender)
	}{
		{"free", 100, func(b *testing.B, c contender) { alone(b, b.Context(), c.bare, true) }},
		{"closure", 100, func(b *testing.B, c contender) { withClosure(b, c.call) }},
		{"full", 1, func(b *testing.B, c contender) {
			fill(b, c)
			alone(b, b.Context(), c.bare, false)
		}},
	} {
		for _, kind := range bulkheadKinds {
			if form.name == "full" && kind.waits {
				continue
			}
			b.Run("case="+form.name+"/impl="+kind.name, func(b *testing.B) {
				form.run(b, kind.make(form.limit))
			})
		}
	}
}

// BenchmarkBulkheadShared is for -cpu=1,2: as many callers as processors, in one
// bulkhead that has room for all, or for none.
func BenchmarkBulkheadShared(b *testing.B) {
	for _, form := range []struct {
		name  string
		limit int
		run   func(b *testing.B, c contender)
	}{
		{"free", 100, func(b *testing.B, c contender) { together(b, c.ignoringN) }},
		{"full", 1, func(b *testing.B, c contender) { fill(b, c); togetherFailing(b, 1, c.ignoringN) }},
	} {
		for _, kind := range bulkheadKinds {
			if kind.name == "hystrix" || form.name == "full" && kind.waits {
				continue // see hystrixBreaker
			}
			b.Run("case="+form.name+"/impl="+kind.name, func(b *testing.B) {
				form.run(b, kind.make(form.limit))
			})
		}
	}
}

// All bulkheads make the call while there is room, and not when there is none.
func TestBulkheads(t *testing.T) {
	for _, kind := range bulkheadKinds {
		t.Run(kind.name, func(t *testing.T) {
			makesCalls(t, kind.make(100))
			if kind.waits {
				return
			}
			full := kind.make(1)
			fill(t, full)
			if n := refused(t, full, 10); n != 10 {
				t.Errorf("full: refused %d calls of 10", n)
			}
		})
	}
}
