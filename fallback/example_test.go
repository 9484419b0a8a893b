package fallback_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/fallback"
)

var (
	errUnavailable = errors.New("payments unavailable")
	errDeclined    = errors.New("card declined")
)

// queue stands for one on disk.
type queue []string

func (q *queue) add(ctx context.Context, order string) error {
	*q = append(*q, order)
	return ctx.Err()
}

// Work that cannot be done now is kept for later, unless it can never be done.
func ExampleFallback_Do() {
	var later queue
	p := fallback.New(fallback.Config{
		Name: "queue",
		If:   func(err error) bool { return !errors.Is(err, errDeclined) },
		Run: func(ctx context.Context, err error) error {
			// The caller may have run out of time; the order is kept all the same.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			return later.add(ctx, "order 17")
		},
	})
	ctx := context.Background()
	fmt.Println(p.Do(ctx, func(context.Context) error { return errUnavailable }), later)
	fmt.Println(p.Do(ctx, func(context.Context) error { return errDeclined }), later)
	// Output:
	// <nil> [order 17]
	// card declined [order 17]
}

// The fallback is outermost, where it sees what the policies inside return.
func ExampleFallback_Wrap() {
	p := mettle.Compose(
		fallback.New(fallback.Config{Run: func(_ context.Context, err error) error {
			fmt.Println("instead of:", err)
			return nil
		}}),
		mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
			return fmt.Errorf("pay: %w", op(ctx))
		}),
	)
	fmt.Println(p.Do(context.Background(), func(context.Context) error { return errUnavailable }))
	// Output:
	// instead of: pay: payments unavailable
	// <nil>
}

// A value comes from the operation or from what stands in for it.
func ExampleGet() {
	p := mettle.Compose() // the policies that the operation runs under
	rate, err := fallback.Get(context.Background(), p,
		func(context.Context) (float64, error) { return 0, errors.New("no route to host") },
		func(_ context.Context, err error) (float64, error) {
			fmt.Println("yesterday's rate, because of:", err)
			return 1.08, nil
		})
	fmt.Println(rate, err)
	// Output:
	// yesterday's rate, because of: no route to host
	// 1.08 <nil>
}

// When the fallback fails as well, the caller can tell, and learn both reasons.
func ExampleError() {
	errDisk := errors.New("disk full")
	p := fallback.New(fallback.Config{
		Name: "queue",
		Run:  func(context.Context, error) error { return errDisk },
	})
	err := p.Do(context.Background(), func(context.Context) error { return errUnavailable })

	var lost *fallback.Error
	fmt.Println(errors.As(err, &lost), errors.Is(err, errUnavailable), errors.Is(err, errDisk))
	fmt.Println(err)
	// Output:
	// true true true
	// fallback: queue: payments unavailable; the fallback failed: disk full
}

func ExampleError_LogValue() {
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
	p := fallback.New(fallback.Config{
		Name: "queue",
		Run:  func(context.Context, error) error { return errors.New("disk full") },
	})
	err := p.Do(context.Background(), func(context.Context) error { return errUnavailable })
	log.Error("order lost", "err", err)
	// Output: level=ERROR msg="order lost" err.policy=queue err.err="payments unavailable" err.fallback="disk full"
}

func ExampleFallback_Observe() {
	p := fallback.New(fallback.Config{Name: "queue", Run: func(context.Context, error) error { return nil }})
	_ = p.Do(context.Background(), func(context.Context) error { return errUnavailable })
	for m := range p.Observe {
		fmt.Println(m.Name, m.Value)
	}
	fmt.Printf("%+v\n", p.Stats())
	// Output:
	// mettle.fallback.fell_back 1
	// mettle.fallback.failed 0
	// {FellBack:1 Failed:0}
}

func ExampleFallback_LogValue() {
	f := fallback.New(fallback.Config{Name: "to-queue", Run: func(context.Context, error) error { return nil }})
	fmt.Println(f.LogValue())
	// Output: [Name=to-queue]
}
