package mettle_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/mettle-go/mettle"
)

// What the layers themselves cost, with policies that do nothing.
func BenchmarkCompose(b *testing.B) {
	for _, kind := range []struct {
		name   string
		policy mettle.Policy
	}{{"wrapper", idle{}}, {"plain", mettle.PolicyFunc(naive)}} {
		for _, depth := range []int{0, 1, 3, 5} {
			p := mettle.Compose(slices.Repeat([]mettle.Policy{kind.policy}, depth)...)
			b.Run(fmt.Sprintf("%s/depth=%d", kind.name, depth), func(b *testing.B) {
				b.ReportAllocs()
				sum := 0
				for b.Loop() {
					_ = p.Do(bg, func(context.Context) error { sum++; return nil })
				}
			})
		}
	}
}

// idle is the least that a Wrapper can be.
type idle struct{ next mettle.Policy }

func (i idle) Wrap(next mettle.Policy) mettle.Policy { return &idle{next} }

func (i idle) Do(ctx context.Context, op func(context.Context) error) error {
	return i.next.Do(ctx, op)
}

func BenchmarkGet(b *testing.B) {
	p := mettle.Compose(idle{}, idle{}, idle{})
	b.ReportAllocs()
	for b.Loop() {
		_, _ = mettle.Get(bg, p, func(context.Context) (int, error) { return 1, nil })
	}
}

func BenchmarkClassify(b *testing.B) {
	for _, end := range []struct {
		name string
		err  error
	}{{"success", nil}, {"failure", fmt.Errorf("x: %w", errBoom)}, {"refusal", errFull}} {
		b.Run(end.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				mettle.Classify(bg, end.err)
			}
		})
	}
}

func BenchmarkWithAttempt(b *testing.B) {
	ctx, cancel := context.WithCancel(bg)
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		mettle.WithAttempt(ctx, 1)
	}
}
