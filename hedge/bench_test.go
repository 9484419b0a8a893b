package hedge_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/retry"
)

// BenchmarkDo is about calls that are answered before the delay, but for the last two.
func BenchmarkDo(b *testing.B) {
	succeed := func(context.Context) error { return nil }
	for _, bench := range []struct {
		name   string
		config hedge.Config
		op     func(context.Context) error
	}{
		{"fixed", hedge.Config{After: time.Minute}, succeed},
		{"live", hedge.Config{}, succeed},
		{"asks Done", hedge.Config{After: time.Minute}, func(ctx context.Context) error { _ = ctx.Done(); return nil }},
		{"fails, hedged", hedge.Config{After: time.Minute, Budget: retry.NoBudget}, func(ctx context.Context) error {
			if mettle.Attempt(ctx) == 1 {
				return errors.ErrUnsupported
			}
			return nil
		}},
		{"slow, hedged", hedge.Config{After: time.Nanosecond, Budget: retry.NoBudget}, func(ctx context.Context) error {
			if mettle.Attempt(ctx) == 1 {
				<-ctx.Done()
			}
			return nil
		}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			h := hedge.New(bench.config)
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			b.ReportAllocs()
			for b.Loop() {
				if err := h.Do(ctx, bench.op); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkParallel shows what callers at once share: the sketch of a live delay.
func BenchmarkParallel(b *testing.B) {
	for name, c := range map[string]hedge.Config{"fixed": {After: time.Minute}, "live": {}} {
		b.Run(name, func(b *testing.B) {
			h := hedge.New(c)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_ = h.Do(context.Background(), func(context.Context) error { return nil })
				}
			})
		})
	}
}
