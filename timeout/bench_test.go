package timeout_test

import (
	"context"
	"testing"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/timeout"
)

// Each pair runs the same operation under a Timeout and under what one would write
// by hand, with a caller's context that can be cancelled, as a server's can.

func quick(context.Context) error { return nil }

func asksDone(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	default:
		return nil
	}
}

func byHand(ctx context.Context, op func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return op(ctx)
}

func benchmark(b *testing.B, p mettle.Policy, op func(context.Context) error) {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Do(ctx, op); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkQuick(b *testing.B) {
	b.Run("WithTimeout", func(b *testing.B) { benchmark(b, mettle.PolicyFunc(byHand), quick) })
	b.Run("Timeout", func(b *testing.B) { benchmark(b, timeout.New(timeout.Config{After: time.Second}), quick) })
	b.Run("Nested", func(b *testing.B) {
		benchmark(b, mettle.Compose(
			timeout.New(timeout.Config{After: 2 * time.Second}),
			timeout.New(timeout.Config{After: time.Second})), quick)
	})
	b.Run("CallersDeadline", func(b *testing.B) {
		benchmark(b, mettle.Compose(
			timeout.New(timeout.Config{After: time.Second}),
			timeout.New(timeout.Config{After: 2 * time.Second})), quick)
	})
}

func BenchmarkAsksDone(b *testing.B) {
	b.Run("WithTimeout", func(b *testing.B) { benchmark(b, mettle.PolicyFunc(byHand), asksDone) })
	b.Run("Timeout", func(b *testing.B) { benchmark(b, timeout.New(timeout.Config{After: time.Second}), asksDone) })
}

// BenchmarkParallel shows that calls share nothing.
func BenchmarkParallel(b *testing.B) {
	t := timeout.New(timeout.Config{After: time.Second})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_ = t.Do(context.Background(), quick)
		}
	})
}
