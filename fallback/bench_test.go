package fallback_test

import (
	"context"
	"testing"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/fallback"
)

func BenchmarkDo(b *testing.B) {
	f := fallback.New(fallback.Config{Run: saves})
	for _, bench := range []struct {
		name string
		p    mettle.Policy
		op   func(context.Context) error
	}{
		{"success", f, succeeds},
		{"fallen back", f, fails},
		{"both failed", fallback.New(fallback.Config{Run: cannotSave}), fails},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = bench.p.Do(b.Context(), bench.op)
			}
		})
	}
}

// BenchmarkGet compares Get with mettle.Get, which it adds a fallback to.
func BenchmarkGet(b *testing.B) {
	p := mettle.Compose()
	fn := value(1, nil)
	alt := func(context.Context, error) (int, error) { return 2, nil }
	b.Run("fallback.Get", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = fallback.Get(b.Context(), p, fn, alt)
		}
	})
	b.Run("mettle.Get", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = mettle.Get(b.Context(), p, fn)
		}
	})
}
