package bulkhead_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/bulkhead"
)

func Example() {
	b := bulkhead.New(bulkhead.Config{Name: "payments", Limit: 20, MaxWait: 50 * time.Millisecond})

	err := b.Do(context.Background(), func(ctx context.Context) error {
		fmt.Println("in flight:", b.Stats().InFlight)
		return nil
	})
	fmt.Println(err, b.Stats().InFlight)
	// Output:
	// in flight: 1
	// <nil> 0
}

// A call that finds the bulkhead full is refused. The refusal names the bulkhead, and
// a retry or a breaker around it knows that the dependency was never asked.
func ExampleBulkhead_Do_full() {
	b := bulkhead.New(bulkhead.Config{Name: "payments", Limit: 1})
	charge := func(context.Context) error { return nil }

	err := b.Do(context.Background(), func(ctx context.Context) error {
		return b.Do(ctx, charge) // the only slot is taken by the call around it
	})
	fmt.Println(err)
	fmt.Println(errors.Is(err, bulkhead.ErrFull), errors.Is(err, mettle.ErrRejected))
	// Output:
	// bulkhead: "payments" full: 1 in flight
	// true true
}

// In a pipeline.
func ExampleBulkhead_Wrap() {
	b := bulkhead.New(bulkhead.Config{Limit: 10})
	p := mettle.Compose(b) // binds b to what it encloses, by Wrap

	n, err := mettle.Get(context.Background(), p, func(context.Context) (int, error) { return 42, nil })
	fmt.Println(n, err)
	// Output: 42 <nil>
}

// A slot for as long as a stream is open.
func ExampleBulkhead_Acquire() {
	b := bulkhead.New(bulkhead.Config{Name: "streams", Limit: 1})

	permit, err := b.Acquire(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer permit.Release()

	_, err = b.Acquire(context.Background())
	fmt.Println(err)
	// Output: bulkhead: "streams" full: 1 in flight
}

// Work that is worth doing only when there is room.
func ExampleBulkhead_TryAcquire() {
	b := bulkhead.New(bulkhead.Config{Limit: 1})

	for range 2 {
		permit, ok := b.TryAcquire()
		fmt.Println(ok)
		defer permit.Release() // the zero Permit is harmless
	}
	// Output:
	// true
	// false
}

func ExamplePermit_Release() {
	b := bulkhead.New(bulkhead.Config{Limit: 2})
	permit, _ := b.TryAcquire()
	copied := permit

	permit.Release()
	copied.Release() // stands for the same slot: no effect
	fmt.Println(b.Stats().InFlight)
	// Output: 0
}

func ExampleBulkhead_Resize() {
	b := bulkhead.New(bulkhead.Config{Limit: 1})
	first, _ := b.TryAcquire()

	b.Resize(2)
	second, ok := b.TryAcquire()
	fmt.Println(ok)

	b.Resize(1) // both go on, and nobody enters until both have left
	first.Release()
	_, ok = b.TryAcquire()
	fmt.Println(ok)

	second.Release()
	_, ok = b.TryAcquire()
	fmt.Println(ok)
	// Output:
	// true
	// false
	// true
}

func ExampleBulkhead_Stats() {
	b := bulkhead.New(bulkhead.Config{Limit: 20, MaxQueue: 40, MaxWait: time.Second})
	permit, _ := b.TryAcquire()
	defer permit.Release()

	s := b.Stats()
	fmt.Printf("%d of %d in flight, %d of %d waiting, %d refused\n",
		s.InFlight, s.Limit, s.Queued, s.MaxQueue, s.Refused)
	// Output: 1 of 20 in flight, 0 of 40 waiting, 0 refused
}

func ExampleBulkhead_Observe() {
	b := bulkhead.New(bulkhead.Config{Name: "payments", Limit: 20})
	for m := range b.Observe {
		if m.Name == "mettle.bulkhead.limit" {
			fmt.Println(m.Kind, m.Labels, m.Value)
		}
	}
	// Output: gauge [{policy payments}] 20
}

func ExampleConfig_Validate() {
	c := bulkhead.Config{Limit: -1, MaxWait: -time.Second}
	fmt.Println(c.Validate())
	// Output:
	// bulkhead: Limit is -1, must be between 1 and 2147483647, or zero for the default
	// bulkhead: MaxWait is -1s, must be positive, or zero for no waiting
}

func ExampleBulkhead_LogValue() {
	b := bulkhead.New(bulkhead.Config{Name: "payments", MaxWait: time.Second})
	b.Resize(50)
	fmt.Println(b.LogValue())
	// Output: [Name=payments Limit=50 MaxQueue=50 MaxWait=1s Order=fifo]
}
