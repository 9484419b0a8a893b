package breaker_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/mettle-go/mettle/breaker"
)

// A breaker remembers its last changes, each with the moment at which it came to it and
// without the error, and hands out a copy.
func TestChangesAreRemembered(t *testing.T) {
	inBubble(t, "last eight", func(t *testing.T) {
		b := breaker.New(breaker.Config{Name: "b"})
		if got := b.Changes(); got != nil {
			t.Fatalf("a new breaker remembers %v", got)
		}
		begun := time.Now()
		for i := range 10 {
			time.Sleep(time.Second)
			if i%2 == 0 {
				b.Trip(fmt.Sprint(i))
			} else {
				b.Reset()
			}
		}
		got := b.Changes()
		if len(got) != 8 {
			t.Fatalf("%d changes are remembered, want 8", len(got))
		}
		for i, c := range got {
			n := i + 2
			if want := begun.Add(time.Duration(n+1) * time.Second); !c.At.Equal(want) {
				t.Errorf("change %d was at %v, want %v", n, c.At, want)
			}
			if n%2 == 0 && (c.Rule != breaker.RuleTrip || c.Reason != fmt.Sprint(n)) || n%2 == 1 && c.Rule != breaker.RuleReset {
				t.Errorf("change %d is %v", n, c)
			}
		}
		got[0].Name = "changed"
		if b.Changes()[0].Name != "b" {
			t.Error("the changes are handed out, and not a copy")
		}
	})
	inBubble(t, "error", func(t *testing.T) {
		var told breaker.Change
		b := breaker.New(breaker.Config{Consecutive: 1, OnChange: func(c breaker.Change) { told = c }})
		down := errors.New("secret")
		calls(b, 1, down)
		c := b.Changes()[0]
		if c.Err != nil || told.Err != down {
			t.Errorf("remembers %v and was told %v, want nil and %v", c.Err, told.Err, down)
		}
		if c.Bad != 1 || !c.At.Equal(told.At) {
			t.Errorf("remembers %+v and was told %+v", c, told)
		}
	})
	// Nobody was there when the lease ran out.
	inBubble(t, "noticed later", func(t *testing.T) {
		b, _ := opened(t, breaker.Config{ProbeTimeout: time.Second})
		time.Sleep(b.RemainingDelay())
		if _, err := b.Acquire(ctx); err != nil {
			t.Fatal(err)
		}
		due := time.Now().Add(time.Second)
		time.Sleep(5 * time.Minute)
		calls(b, 1, nil)
		got := b.Changes()
		if c := got[2]; c.Rule != breaker.RuleProbeTimeout || !c.At.Equal(due) {
			t.Errorf("%v was at %v, want probe-timeout at %v", c, c.At, due)
		}
	})
}
