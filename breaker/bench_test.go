package breaker_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/mettle-go/mettle/breaker"
)

var (
	ctx     = context.Background()
	errDown = errors.New("down")
)

func succeed(context.Context) error { return nil }
func fail(context.Context) error    { return errDown }

// BenchmarkTimeSince is the unit that the others are measured in.
func BenchmarkTimeSince(b *testing.B) {
	base := time.Now()
	for b.Loop() {
		_ = time.Since(base)
	}
}

func BenchmarkClosed(b *testing.B) {
	for _, v := range []struct {
		name   string
		config breaker.Config
	}{
		{"default", breaker.Config{}},
		{"rate", breaker.Config{Consecutive: -1}},
		{"consecutive", breaker.Config{FailureRate: -1}},
		{"rate+slow", breaker.Config{SlowCall: time.Second}},
	} {
		b.Run(v.name, func(b *testing.B) {
			br := breaker.New(v.config)
			for b.Loop() {
				_ = br.Do(ctx, succeed)
			}
		})
	}
}

func BenchmarkClosedDeadline(b *testing.B) {
	br := breaker.New(breaker.Config{})
	ctx, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	for b.Loop() {
		_ = br.Do(ctx, succeed)
	}
}

func BenchmarkClosedParallel(b *testing.B) {
	br := breaker.New(breaker.Config{})
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_ = br.Do(ctx, succeed)
		}
	})
}

func BenchmarkAcquire(b *testing.B) {
	br := breaker.New(breaker.Config{})
	for b.Loop() {
		p, _ := br.Acquire(ctx)
		p.Done(nil)
	}
}

// BenchmarkFailure counts failures that a rate below the line tolerates.
func BenchmarkFailure(b *testing.B) {
	br := breaker.New(breaker.Config{FailureRate: 1, Consecutive: -1})
	_ = br.Do(ctx, succeed)
	for i := 0; b.Loop(); i++ {
		op := fail
		if i&7 == 0 {
			op = succeed
		}
		_ = br.Do(ctx, op)
	}
}

func BenchmarkRejected(b *testing.B) {
	br := breaker.New(breaker.Config{OpenFor: time.Hour})
	br.Trip("benchmark")
	for b.Loop() {
		_ = br.Do(ctx, succeed)
	}
}

func BenchmarkGroup(b *testing.B) {
	g := breaker.NewGroup[string](breaker.GroupConfig{})
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = "host-" + strconv.Itoa(i)
	}
	for i := 0; b.Loop(); i++ {
		g.Get(keys[i%len(keys)])
	}
}
