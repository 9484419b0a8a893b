package bulkhead_test

import (
	"context"
	"fmt"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/bulkhead"
)

type priority struct{}

// One pool for each class of calls, and each call in the pool that its context names.
func ExamplePartition() {
	db := bulkhead.NewPartition(bulkhead.PartitionConfig{
		Name: "db",
		Pools: []bulkhead.PoolConfig{ // the highest priority first
			{Name: "critical", Limit: 10, MaxWait: 100 * time.Millisecond},
			{Name: "normal", Limit: 20, Lend: 10, MaxWait: 50 * time.Millisecond},
			{Name: "background", Limit: 10, Lend: 8},
		},
	})
	p := mettle.Compose(db.By(func(ctx context.Context) string {
		name, _ := ctx.Value(priority{}).(string)
		return name
	}))

	query := func(context.Context) error {
		fmt.Println(db.Pool("critical").Stats().InFlight, db.Pool("background").Stats().InFlight)
		return nil
	}
	p.Do(context.WithValue(context.Background(), priority{}, "critical"), query)
	p.Do(context.Background(), query) // no such pool: the last one
	// Output:
	// 1 0
	// 0 1
}

// What one pool borrows, the pool that lent it does without, down to what it keeps.
func ExamplePartition_Pool() {
	db := bulkhead.NewPartition(bulkhead.PartitionConfig{
		Name: "db",
		Pools: []bulkhead.PoolConfig{
			{Name: "critical", Limit: 1},
			{Name: "background", Limit: 3, Lend: 2},
		},
	})
	for _, name := range []string{"critical", "critical", "critical", "background", "background"} {
		if _, err := db.Pool(name).Acquire(context.Background()); err != nil {
			fmt.Println(err)
		}
	}
	critical, background := db.Pool("critical").Stats(), db.Pool("background").Stats()
	fmt.Println(critical.InFlight, "of", critical.Limit, "and", background.InFlight, "of", background.Limit)
	// Output:
	// bulkhead: "db[background]" full: 3 in flight or lent
	// 3 of 1 and 1 of 3
}

// The policy that By returns picks a pool for each call.
func ExamplePartition_By() {
	db := bulkhead.NewPartition(bulkhead.PartitionConfig{
		Pools: []bulkhead.PoolConfig{{Name: "reads"}, {Name: "writes"}},
	})
	p := db.By(func(ctx context.Context) string { return "writes" })
	err := p.Do(context.Background(), func(context.Context) error {
		fmt.Println(db.Pool("reads").Stats().InFlight, db.Pool("writes").Stats().InFlight)
		return nil
	})
	fmt.Println(err)
	// Output:
	// 0 1
	// <nil>
}

func ExamplePartition_Observe() {
	db := bulkhead.NewPartition(bulkhead.PartitionConfig{
		Name:  "db",
		Pools: []bulkhead.PoolConfig{{Name: "critical", Limit: 10}, {Name: "background", Limit: 5}},
	})
	for m := range db.Observe {
		if m.Name == "mettle.bulkhead.limit" {
			fmt.Println(m.Labels, m.Value)
		}
	}
	// Output:
	// [{policy db[critical]}] 10
	// [{policy db[background]}] 5
}

// A pool is a policy, for calls whose class is known where they are made.
func ExamplePool_Do() {
	db := newDB()
	err := db.Pool("critical").Do(context.Background(), func(context.Context) error { return nil })
	fmt.Println(err)
	// Output: <nil>
}

func ExamplePool_Wrap() {
	p := mettle.Compose(newDB().Pool("critical")) // binds the pool to what it encloses, by Wrap
	n, err := mettle.Get(context.Background(), p, func(context.Context) (int, error) { return 42, nil })
	fmt.Println(n, err)
	// Output: 42 <nil>
}

func ExamplePool_Acquire() {
	background := newDB().Pool("background")
	permit, err := background.Acquire(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer permit.Release()
	fmt.Println(background.Stats().InFlight)
	// Output: 1
}

func ExamplePool_TryAcquire() {
	background := newDB().Pool("background")
	for range 2 {
		permit, ok := background.TryAcquire()
		fmt.Println(ok)
		defer permit.Release() // the zero Permit is harmless
	}
	// Output:
	// true
	// false
}

func ExamplePool_Stats() {
	s := newDB().Pool("critical").Stats()
	fmt.Printf("%d of %d in flight, %d waiting, %d refused\n", s.InFlight, s.Limit, s.Queued, s.Refused)
	// Output: 0 of 2 in flight, 0 waiting, 0 refused
}

func ExamplePartitionConfig_Validate() {
	c := bulkhead.PartitionConfig{Pools: []bulkhead.PoolConfig{
		{Name: "critical", Limit: 10, Lend: 5},
		{Name: "background", Limit: 10, Lend: 11},
	}}
	fmt.Println(c.Validate())
	// Output:
	// bulkhead: Pools[0].Lend is 5, must be zero: the first pool has the highest priority and none to lend to
	// bulkhead: Pools[1].Lend is 11, must be between 0 and Limit, which is 10
}

func newDB() *bulkhead.Partition {
	return bulkhead.NewPartition(bulkhead.PartitionConfig{
		Name: "db",
		Pools: []bulkhead.PoolConfig{
			{Name: "critical", Limit: 2},
			{Name: "background", Limit: 1, Lend: 1},
		},
	})
}

func ExamplePartition_LogValue() {
	p := bulkhead.NewPartition(bulkhead.PartitionConfig{Name: "db", Pools: []bulkhead.PoolConfig{
		{Name: "critical", Limit: 10}, {Name: "batch", Limit: 20, Lend: 5, MaxWait: time.Second, Order: bulkhead.LIFO},
	}})
	fmt.Println(p.LogValue())
	fmt.Println(p.Pool("critical").LogValue())
	// Output:
	// [critical=[Name=db[critical] Limit=10 MaxQueue=0 MaxWait=0s Order=fifo Lend=0] batch=[Name=db[batch] Limit=20 MaxQueue=20 MaxWait=1s Order=lifo Lend=5]]
	// [Name=db[critical] Limit=10 MaxQueue=0 MaxWait=0s Order=fifo Lend=0]
}
