package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
)

// Calls that hang are evidence while they hang: the breaker opens at the next call
// after they have become slow, long before they time out.
//
// Spec: B21
func TestHungCallsTripEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &log{}
		b := breaker.New(breaker.Config{SlowCall: time.Second, MinCalls: 10, OnChange: l.add})
		calls(b, 9, nil)
		for range 10 {
			acquire(t, b) // in flight for good
		}
		time.Sleep(999 * time.Millisecond)
		if got := calls(b, 1, nil); got != 1 {
			t.Fatal("opened before the calls were slow")
		}
		time.Sleep(251 * time.Millisecond) // ages are known to a quarter of SlowCall
		if got := calls(b, 1, nil); got != 0 {
			t.Fatal("calls that hang are not noticed")
		}
		c := l.all()[0]
		if c.Rule != breaker.RuleSlowRate || c.Calls != 20 || c.Bad != 10 || c.Hung != 10 {
			t.Errorf("change is %+v", c)
		}
		if s := c.String(); !strings.Contains(s, "10 of 20 calls in 10s were slow, 10 of them in flight") {
			t.Errorf("it says %q", s)
		}
	})
}

// One call that hangs alone, such as a stream that is meant to last, trips nothing.
//
// Spec: B21
func TestOneStuckStreamDoesNotTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(breaker.Config{SlowCall: time.Second, MinCalls: 1})
		stream := acquire(t, b)
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			if got := calls(b, 1, nil); got != 1 {
				t.Fatal("one stuck stream opened the breaker")
			}
		}
		stream.Done(nil)
	})
}

// A call that ends is no longer in flight, however it ends, and one that is dropped
// stops counting after ProbeTimeout.
//
// Spec: B15, B21
func TestInFlightEnds(t *testing.T) {
	c := breaker.Config{SlowCall: time.Second, MinCalls: 2, ProbeTimeout: 5 * time.Second, SlowRate: 0.5, FailureRate: -1, Consecutive: -1}
	inBubble(t, "ended", func(t *testing.T) {
		b := breaker.New(c)
		for range 10 {
			p := acquire(t, b)
			p.Done(mettle.ErrRejected)
			func() {
				defer func() { _ = recover() }()
				_ = b.Do(ctx, func(context.Context) error { panic("boom") })
			}()
		}
		time.Sleep(1500 * time.Millisecond)
		if got := calls(b, 1, nil); got != 1 {
			t.Error("calls that have ended count as in flight")
		}
	})
	inBubble(t, "dropped", func(t *testing.T) {
		b := breaker.New(c)
		for range 10 {
			acquire(t, b)
		}
		time.Sleep(5 * time.Second)
		if got := calls(b, 1, nil); got != 1 {
			t.Error("calls that were dropped count for ever")
		}
	})
	inBubble(t, "reconfigured", func(t *testing.T) {
		b := breaker.New(c)
		for range 10 {
			acquire(t, b)
		}
		c := c
		c.Window = time.Minute
		if err := b.Reconfigure(c); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond)
		if got := calls(b, 1, nil); got != 0 {
			t.Error("calls in flight are forgotten by Reconfigure")
		}
	})
}

// Time that a call spends in a queue of ours is not the dependency's slowness.
//
// Spec: B22
func TestQueueIsNotSlowness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(breaker.Config{SlowCall: time.Second, MinCalls: 1, SlowRate: 1})
		queue := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
			time.Sleep(time.Minute)
			mettle.AddQueued(ctx, time.Minute)
			return op(ctx)
		})
		p := mettle.Compose(b, queue)
		took := func(d time.Duration) {
			_ = p.Do(ctx, func(context.Context) error { time.Sleep(d); return nil })
		}
		took(999 * time.Millisecond)
		wantState(t, b, breaker.Closed)
		took(time.Second)
		wantState(t, b, breaker.Open)
	})
}

// Enough bad keys open the whole group, and one bad shard of ten does not.
//
// Spec: B29
func TestGroupBreadth(t *testing.T) {
	setup := func(l *log) (*breaker.Group[string], func(key string, err error) error) {
		g := breaker.NewGroup[string](breaker.GroupConfig{
			Config:  breaker.Config{Name: "shards", Consecutive: 2, OpenFor: time.Second, Successes: 1, OnChange: l.add},
			Breadth: 0.5, MinKeys: 5,
		})
		p := mettle.Compose(g.By(tenant))
		return g, func(key string, err error) error {
			return p.Do(as(key), func(context.Context) error { return err })
		}
	}
	shard := func(i int) string { return fmt.Sprint("s", i) }
	inBubble(t, "one bad shard", func(t *testing.T) {
		g, call := setup(&log{})
		for range 100 {
			for i := range 10 {
				err := errDown
				if i > 0 {
					err = nil
				}
				if got := call(shard(i), err); i > 0 && got != nil {
					t.Fatalf("shard %d is refused: %v", i, got)
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		if g.Whole().State() != breaker.Closed {
			t.Error("the group opened")
		}
	})
	inBubble(t, "half of them", func(t *testing.T) {
		g, call := setup(&log{})
		for i := range 10 {
			_ = call(shard(i), nil)
		}
		time.Sleep(time.Second)
		for i := range 5 {
			wantState(t, g.Whole(), breaker.Closed)
			_ = call(shard(i), errDown)
			_ = call(shard(i), errDown)
			time.Sleep(100 * time.Millisecond)
		}
		_ = call(shard(9), nil) // whoever comes next finds out
		wantState(t, g.Whole(), breaker.Open)
		err := call(shard(9), nil)
		if !errors.Is(err, breaker.ErrOpen) || !strings.Contains(err.Error(), `"shards[*]" is open: 5 of 10 keys are open`) {
			t.Errorf("a good key is answered %v", err)
		}
		// The dependency recovers: one probe closes the whole, each key closes by itself.
		time.Sleep(2 * time.Second)
		for range 3 {
			for i := range 10 {
				if err := call(shard(i), nil); err != nil {
					t.Fatalf("shard %d is refused after recovery: %v", i, err)
				}
			}
		}
		wantState(t, g.Whole(), breaker.Closed)
	})
	inBubble(t, "no rule", func(t *testing.T) {
		g := breaker.NewGroup[string](breaker.GroupConfig{})
		if g.Whole() != nil {
			t.Error("a group without Breadth has a breaker of its own")
		}
	})
}
