package breaker_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
)

func reconfigure(t *testing.T, b *breaker.Breaker, c breaker.Config) {
	t.Helper()
	if err := b.Reconfigure(c); err != nil {
		t.Fatal(err)
	}
}

// What the window of slow calls holds moves over as what that of failures holds does.
//
// Spec: B25
func TestReconfigureKeepsSlowCalls(t *testing.T) {
	for _, span := range []time.Duration{10 * time.Second, time.Minute} {
		inBubble(t, span.String(), func(t *testing.T) {
			l := &log{}
			c := breaker.Config{SlowCall: time.Second, MinCalls: 4, FailureRate: -1, Consecutive: -1, OnChange: l.add}
			b := breaker.New(c)
			p, q := acquire(t, b), acquire(t, b)
			time.Sleep(time.Second)
			p.Done(nil)
			q.Done(nil)
			c.Window = span
			reconfigure(t, b, c)
			if s := b.Stats(); s.Slow != 2 || s.Calls != 2 {
				t.Errorf("stats are %+v", s)
			}
			calls(b, 2, nil)
			wantState(t, b, breaker.Open)
			if got := l.all()[0]; got.Rule != breaker.RuleSlowRate || got.Calls != 4 || got.Bad != 2 || got.Window != span {
				t.Errorf("change is %+v", got)
			}
		})
	}
}

// A hook is told what happens while it is configured, and nothing of what comes later.
//
// Spec: B25, B24
func TestReconfigureReplacesTheHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var before, after log
		b := breaker.New(breaker.Config{OnChange: before.add})
		b.Trip("test")
		reconfigure(t, b, breaker.Config{OnChange: after.add})
		b.Reset()
		reconfigure(t, b, breaker.Config{})
		b.Trip("nobody is told")
		if got := before.path(); got != "closed open" {
			t.Errorf("the old hook was told %s", got)
		}
		if got := after.all(); len(got) != 1 || got[0].Rule != breaker.RuleReset {
			t.Errorf("the new hook was told %v", got)
		}
	})
}

// A configuration without a name keeps the one that metrics and errors go by.
//
// Spec: B25
func TestReconfigureKeepsTheName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &log{}
		b := breaker.New(breaker.Config{Name: "db"})
		reconfigure(t, b, breaker.Config{OnChange: l.add})
		b.Trip("test")
		if got := l.all()[0].Name; got != "db" {
			t.Errorf("the change is that of %q", got)
		}
		if _, err := b.Acquire(ctx); err.Error() != `breaker: "db" is open: tripped by hand: test` {
			t.Errorf("the refusal says %q", err)
		}
		reconfigure(t, b, breaker.Config{Name: "db"})
		if err := b.Reconfigure(breaker.Config{Name: "other"}); err == nil {
			t.Error("another name was accepted")
		}
	})
}

// Turning the rules on rates off, and on again, once set the count of successes back
// to zero, which a counter in a metric must never do.
//
// Spec: B25
func TestReconfigureForgetsNoSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(breaker.Config{})
		calls(b, 50, nil)
		for _, c := range []breaker.Config{{FailureRate: -1}, {}, {Window: time.Second}, {SlowCall: time.Second}} {
			reconfigure(t, b, c)
			if got := b.Stats().Succeeded; got != 50 {
				t.Fatalf("Succeeded became %d with %+v", got, c)
			}
		}
		calls(b, 50, nil)
		if got := b.Stats().Succeeded; got != 100 {
			t.Errorf("Succeeded = %d, want 100", got)
		}
	})
}

// A call goes by the configuration it was admitted under. Its outcome was once
// classified by that one, and its slowness measured by the next.
//
// Spec: B25
func TestCallKeepsItsConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := breaker.Config{SlowCall: 10 * time.Second, MinCalls: 1, Consecutive: -1, FailureRate: -1}
		b := breaker.New(c)
		p := acquire(t, b)
		c.SlowCall = time.Second
		c.Classify = func(context.Context, error) mettle.Outcome { return mettle.Ignored }
		reconfigure(t, b, c)
		time.Sleep(5 * time.Second)
		p.Done(nil)
		if s := b.Stats(); s.State != breaker.Closed || s.Calls != 1 || s.Slow != 0 || s.Ignored != 0 {
			t.Errorf("stats are %+v", s)
		}
	})
}

// A ramp begins when the breaker closes. Configuring one for a breaker that had closed
// a moment ago once began it there and then, and refused calls of a healthy dependency.
//
// Spec: B25, B26
func TestReconfigureBeginsNoRamp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := probing(t, breaker.Config{Successes: 1})
		calls(b, 1, nil)
		time.Sleep(3 * time.Second)
		reconfigure(t, b, breaker.Config{Ramp: time.Hour, Successes: 1})
		if n := calls(b, 1000, nil); n != 1000 {
			t.Errorf("%d of 1000 calls were admitted", n)
		}
		b.Trip("test")
		time.Sleep(b.RemainingDelay())
		calls(b, 1, nil)
		if n := calls(b, 1000, nil); n > 200 {
			t.Errorf("%d of 1000 calls were admitted at the beginning of the ramp", n)
		}
	})
}
