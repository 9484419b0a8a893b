package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
)

func Example() {
	b := breaker.New(breaker.Config{
		Name:        "payments",
		Consecutive: 3,
		OnChange:    func(c breaker.Change) { fmt.Println(c.From, "->", c.To) },
	})
	down := func(context.Context) error { return errors.New("connection refused") }
	for range 3 {
		_ = b.Do(context.Background(), down)
	}
	err := b.Do(context.Background(), down) // not called any more
	fmt.Println(errors.Is(err, breaker.ErrOpen), err)
	// Output:
	// closed -> open
	// true breaker: "payments" is open: 3 failures in a row
}

func ExampleBreaker_Acquire() {
	b := breaker.New(breaker.Config{})
	permit, err := b.Acquire(context.Background())
	if err != nil {
		fmt.Println(err) // refused: do something else
		return
	}
	err = errors.New("reset by peer") // what the call came to
	permit.Done(err)
	fmt.Println(b.Stats().Failures)
	// Output: 1
}

func ExampleBreaker_ForceOpen() {
	b := breaker.New(breaker.Config{Name: "db"})
	b.ForceOpen(breaker.Override{For: time.Hour, By: "ops", Reason: "migration"})
	fmt.Println(b.Do(context.Background(), func(context.Context) error { return nil }))
	b.Release()
	fmt.Println(b.State())
	// Output:
	// breaker: "db" is forced open by ops: migration
	// closed
}

func ExampleBreaker_ForceClosed() {
	b := breaker.New(breaker.Config{})
	b.Trip("the runbook said so")
	b.ForceClosed(breaker.Override{By: "ops", Reason: "the runbook was wrong"})
	fmt.Println(b.State(), "over", b.Stats().Machine)
	// Output: closed over open
}

func ExampleBreaker_Trip() {
	b := breaker.New(breaker.Config{OpenFor: time.Minute})
	b.Trip("the disk is full")
	fmt.Println(b.State(), b.RemainingDelay() > 59*time.Second)
	b.Reset()
	fmt.Println(b.State(), b.RemainingDelay())
	// Output:
	// open true
	// closed 0s
}

func ExampleBreaker_Reconfigure() {
	b := breaker.New(breaker.Config{Name: "db"})
	fmt.Println(b.Reconfigure(breaker.Config{FailureRate: 0.25}))
	fmt.Println(b.Reconfigure(breaker.Config{FailureRate: 25}))
	// Output:
	// <nil>
	// breaker: FailureRate is 25, must be above 0 and at most 1, zero for the default, or negative for no rule
}

type hostKey struct{}

func ExampleGroup_By() {
	hosts := breaker.NewGroup[string](breaker.GroupConfig{Config: breaker.Config{Consecutive: 2}})
	p := mettle.Compose(hosts.By(func(ctx context.Context) string {
		host, _ := ctx.Value(hostKey{}).(string)
		return host
	}))
	call := func(host string, err error) {
		ctx := context.WithValue(context.Background(), hostKey{}, host)
		_ = p.Do(ctx, func(context.Context) error { return err })
	}
	call("a.example", errors.New("down"))
	call("a.example", errors.New("down"))
	call("b.example", nil)
	fmt.Println(hosts.Get("a.example").State(), hosts.Get("b.example").State())
	// Output: open closed
}

// The shards of one database share what is beneath them: when enough of them are
// down, it is the database.
func ExampleGroup_Whole() {
	shards := breaker.NewGroup[string](breaker.GroupConfig{
		Config:  breaker.Config{Name: "db", Consecutive: 1},
		Breadth: 0.5, MinKeys: 2,
	})
	p := mettle.Compose(shards.By(func(ctx context.Context) string {
		shard, _ := ctx.Value(hostKey{}).(string)
		return shard
	}))
	for _, shard := range []string{"s1", "s2"} {
		ctx := context.WithValue(context.Background(), hostKey{}, shard)
		_ = p.Do(ctx, func(context.Context) error { time.Sleep(25 * time.Millisecond); return errors.New("down") })
	}
	ctx := context.WithValue(context.Background(), hostKey{}, "s3")
	fmt.Println(p.Do(ctx, func(context.Context) error { return nil }))
	fmt.Println(shards.Whole().State())
	// Output:
	// breaker: "db[*]" is open: 2 of 2 keys are open
	// open
}

func ExampleBreaker_Changes() {
	b := breaker.New(breaker.Config{Name: "payments"})
	b.Trip("the provider announced an outage")
	b.Reset()
	for _, c := range b.Changes() {
		fmt.Println(c.From, "->", c.To, c.Rule, c.Reason)
	}
	// Output:
	// closed -> open trip the provider announced an outage
	// open -> closed reset
}

func ExampleBreaker_LogValue() {
	b := breaker.New(breaker.Config{Name: "payments", OpenFor: 2 * time.Second, SlowCall: -1})
	fmt.Println(b.LogValue())
	// Output: [Name=payments Window=10s FailureRate=0.8 MinCalls=100 Consecutive=10 or more SlowCall=off OpenFor=2s MaxOpenFor=1m0s Probes=1 Successes=2 ProbeTimeout=15s Ramp=0s]
}

func ExampleGroup_Breakers() {
	hosts := breaker.NewGroup[string](breaker.GroupConfig{Config: breaker.Config{Name: "hosts"}})
	hosts.Get("a.example").Trip("by hand")
	for b := range hosts.Breakers() {
		fmt.Println(b.Changes()[0].Name, "is", b.State())
	}
	// Output: hosts[a.example] is open
}

func ExampleGroup_LogValue() {
	hosts := breaker.NewGroup[string](breaker.GroupConfig{Config: breaker.Config{Name: "hosts", FailureRate: -1, SlowCall: time.Second}, Breadth: 0.5})
	fmt.Println(hosts.LogValue())
	// Output: [Name=hosts Window=10s FailureRate=off MinCalls=100 Consecutive=10 SlowCall=1s SlowRate=0.5 OpenFor=50ms MaxOpenFor=1.5s Probes=1 Successes=2 ProbeTimeout=15s Ramp=0s MaxKeys=10000 Breadth=0.5 MinKeys=5]
}

func ExampleAnswered() {
	b := breaker.New(breaker.Config{OpenFor: time.Nanosecond, MaxOpenFor: time.Nanosecond, Successes: 1})
	b.Trip("as an example")
	for b.RemainingDelay() > 0 {
	}
	entered := context.Background()
	_ = b.Do(entered, func(ctx context.Context) error {
		fmt.Println(b.State()) // the operation is a probe
		breaker.Answered(ctx, entered)
		fmt.Println(b.State()) // and may now last
		return nil
	})
	// Output:
	// half-open
	// closed
}
