package retry_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/retry"
)

func BenchmarkDo(b *testing.B) {
	ctx := context.Background()
	succeed := func(context.Context) error { return nil }
	fail := func(context.Context) error { return errors.ErrUnsupported }
	twice := func(ctx context.Context) error {
		if mettle.Attempt(ctx) == 1 {
			return errors.ErrUnsupported
		}
		return nil
	}

	b.Run("success", func(b *testing.B) {
		r := retry.New(retry.Config{})
		b.ReportAllocs()
		for b.Loop() {
			_ = r.Do(ctx, succeed)
		}
	})
	b.Run("success/parallel", func(b *testing.B) {
		r := retry.New(retry.Config{})
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				_ = r.Do(ctx, succeed)
			}
		})
	})
	b.Run("second attempt", func(b *testing.B) {
		r := retry.New(retry.Config{Budget: retry.NoBudget, Backoff: retry.Constant(0)})
		b.ReportAllocs()
		for b.Loop() {
			_ = r.Do(ctx, twice)
		}
	})
	b.Run("budget spent", func(b *testing.B) {
		r := retry.New(retry.Config{Backoff: retry.Constant(0)})
		b.ReportAllocs()
		for b.Loop() {
			_ = r.Do(ctx, fail)
		}
	})
	b.Run("nested", func(b *testing.B) {
		r := retry.New(retry.Config{})
		ctx := mettle.WithAttempt(ctx, 1)
		b.ReportAllocs()
		for b.Loop() {
			_ = r.Do(ctx, succeed)
		}
	})
}

func BenchmarkBudget(b *testing.B) {
	b.Run("deposit/full", func(b *testing.B) {
		budget := retry.NewBudget(retry.BudgetConfig{})
		b.ReportAllocs()
		for b.Loop() {
			budget.Deposit()
		}
	})
	b.Run("withdraw/refund", func(b *testing.B) {
		budget := retry.NewBudget(retry.BudgetConfig{})
		b.ReportAllocs()
		for b.Loop() {
			budget.Withdraw(mettle.Failure)
			budget.Refund(mettle.Failure)
		}
	})
	b.Run("withdraw/empty", func(b *testing.B) {
		budget := retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1, Start: 10})
		for budget.Withdraw(mettle.Failure) {
		}
		b.ReportAllocs()
		for b.Loop() {
			budget.Withdraw(mettle.Failure)
		}
	})
}

func BenchmarkBackoff(b *testing.B) {
	backoff := retry.FullJitter(100*time.Millisecond, 5*time.Second)
	b.ReportAllocs()
	for b.Loop() {
		backoff(3, 0)
	}
}
