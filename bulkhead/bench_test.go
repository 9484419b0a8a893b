package bulkhead_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/bulkhead"
)

// One read of the clock, to compare with: a call that finds a free slot makes none.
func BenchmarkTimeSince(b *testing.B) {
	start := time.Now()
	for b.Loop() {
		_ = time.Since(start)
	}
}

func BenchmarkDo(b *testing.B) {
	x := bulkhead.New(bulkhead.Config{})
	b.ReportAllocs()
	for b.Loop() {
		_ = x.Do(bg, noop)
	}
}

func BenchmarkDoParallel(b *testing.B) {
	x := bulkhead.New(bulkhead.Config{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_ = x.Do(bg, noop)
		}
	})
}

func BenchmarkPipeline(b *testing.B) {
	p := mettle.Compose(bulkhead.New(bulkhead.Config{}))
	b.ReportAllocs()
	for b.Loop() {
		_ = p.Do(bg, noop)
	}
}

func BenchmarkAcquireRelease(b *testing.B) {
	x := bulkhead.New(bulkhead.Config{})
	b.ReportAllocs()
	for b.Loop() {
		p, err := x.Acquire(bg)
		if err != nil {
			b.Fatal(err)
		}
		p.Release()
	}
}

func BenchmarkAcquireReleaseParallel(b *testing.B) {
	x := bulkhead.New(bulkhead.Config{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if p, ok := x.TryAcquire(); ok {
				p.Release()
			}
		}
	})
}

func BenchmarkRefused(b *testing.B) {
	x := bulkhead.New(bulkhead.Config{Limit: 1})
	hold(b, x, 1)
	b.ReportAllocs()
	for b.Loop() {
		_ = x.Do(bg, noop)
	}
}

// A queue that is full refuses without the lock.
func BenchmarkRefusedByQueue(b *testing.B) {
	x := bulkhead.New(bulkhead.Config{Limit: 1, MaxWait: time.Hour})
	held := hold(b, x, 1)
	ctx, cancel := context.WithCancel(bg)
	waiter := acquire(ctx, x)
	for x.Stats().Queued == 0 { // until the waiter stands in the queue
	}
	b.ReportAllocs()
	for b.Loop() {
		_ = x.Do(bg, noop)
	}
	cancel()
	held[0].Release()
	waiter.release()
}

// Every call waits for the one before it.
func BenchmarkHandover(b *testing.B) {
	x := bulkhead.New(bulkhead.Config{Limit: 1, MaxQueue: 1000, MaxWait: time.Hour})
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_ = x.Do(bg, noop)
		}
	})
}

func BenchmarkStats(b *testing.B) {
	x := bulkhead.New(bulkhead.Config{})
	for b.Loop() {
		_ = x.Stats()
	}
}

// A partition takes a lock where a bulkhead has one word; see BenchmarkDo and the
// others above for what that costs.
func newPools() *bulkhead.Partition {
	return bulkhead.NewPartition(bulkhead.PartitionConfig{Pools: []bulkhead.PoolConfig{
		{Name: "critical"}, {Name: "normal", Lend: 100}, {Name: "background", Lend: 50},
	}})
}

func BenchmarkPoolDo(b *testing.B) {
	x := newPools().Pool("normal")
	b.ReportAllocs()
	for b.Loop() {
		_ = x.Do(bg, noop)
	}
}

func BenchmarkPoolDoParallel(b *testing.B) {
	x := newPools().Pool("normal")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_ = x.Do(bg, noop)
		}
	})
}

func BenchmarkPoolBy(b *testing.B) {
	x := newPools().By(func(context.Context) string { return "normal" })
	b.ReportAllocs()
	for b.Loop() {
		_ = x.Do(bg, noop)
	}
}

func BenchmarkPoolAcquireRelease(b *testing.B) {
	x := newPools().Pool("normal")
	b.ReportAllocs()
	for b.Loop() {
		p, err := x.Acquire(bg)
		if err != nil {
			b.Fatal(err)
		}
		p.Release()
	}
}

func BenchmarkPoolRefused(b *testing.B) {
	x := newPools().Pool("background")
	fill(x)
	b.ReportAllocs()
	for b.Loop() {
		_ = x.Do(bg, noop)
	}
}

// Each of three pools has calls waiting, so that every call looks at all of them.
func BenchmarkPoolHandover(b *testing.B) {
	const wait = time.Hour
	x := bulkhead.NewPartition(bulkhead.PartitionConfig{Pools: []bulkhead.PoolConfig{
		{Name: "a", Limit: 1, MaxQueue: 1000, MaxWait: wait},
		{Name: "b", Limit: 1, Lend: 1, MaxQueue: 1000, MaxWait: wait},
		{Name: "c", Limit: 1, Lend: 1, MaxQueue: 1000, MaxWait: wait},
	}})
	var next atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(12)
	b.RunParallel(func(pb *testing.PB) {
		p := x.Pool([]string{"a", "b", "c"}[next.Add(1)%3])
		for pb.Next() {
			_ = p.Do(bg, noop)
		}
	})
}
