package breaker_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle/breaker"
)

func wantDelay(t *testing.T, b *breaker.Breaker, nominal time.Duration) {
	t.Helper()
	if d := b.RemainingDelay(); d < nominal || d >= nominal*12/10 {
		t.Fatalf("the delay is %v, want %v to a fifth more", d, nominal)
	}
}

// slowCalls makes n calls at once that take d.
func slowCalls(t *testing.T, b *breaker.Breaker, n int, d time.Duration) {
	t.Helper()
	permits := make([]breaker.Permit, n)
	for i := range permits {
		permits[i] = acquire(t, b)
	}
	time.Sleep(d)
	for i := range permits {
		permits[i].Done(nil)
	}
}

// The rules of a breaker whose Config leaves them at zero are those that the comments
// of Config promise, one off at either side.
//
// Spec: P10 (part)
func TestDefaultRules(t *testing.T) {
	for _, v := range []struct {
		name string
		c    breaker.Config
		do   func(t *testing.T, b *breaker.Breaker)
		want breaker.State
	}{
		{"Window, just within", breaker.Config{Consecutive: -1}, func(_ *testing.T, b *breaker.Breaker) {
			calls(b, 99, errDown)
			time.Sleep(10*time.Second - 1)
			calls(b, 1, errDown)
		}, breaker.Open},
		{"Window, over", breaker.Config{Consecutive: -1}, func(_ *testing.T, b *breaker.Breaker) {
			calls(b, 99, errDown)
			time.Sleep(10 * time.Second)
			calls(b, 1, errDown)
		}, breaker.Closed},
		{"FailureRate, below", breaker.Config{Consecutive: -1}, func(_ *testing.T, b *breaker.Breaker) {
			calls(b, 101, nil)
			calls(b, 400, errDown)
		}, breaker.Closed},
		{"FailureRate", breaker.Config{Consecutive: -1}, func(_ *testing.T, b *breaker.Breaker) {
			calls(b, 100, nil)
			calls(b, 400, errDown)
		}, breaker.Open},
		{"MinCalls, below", breaker.Config{Consecutive: -1}, func(_ *testing.T, b *breaker.Breaker) {
			calls(b, 99, errDown)
		}, breaker.Closed},
		{"MinCalls", breaker.Config{Consecutive: -1}, func(_ *testing.T, b *breaker.Breaker) {
			calls(b, 100, errDown)
		}, breaker.Open},
		{"Consecutive, below", breaker.Config{FailureRate: -1}, func(_ *testing.T, b *breaker.Breaker) {
			calls(b, 9, errDown)
		}, breaker.Closed},
		{"Consecutive", breaker.Config{FailureRate: -1}, func(_ *testing.T, b *breaker.Breaker) {
			calls(b, 10, errDown)
		}, breaker.Open},
		{"SlowRate, below", breaker.Config{SlowCall: time.Second}, func(t *testing.T, b *breaker.Breaker) {
			calls(b, 51, nil)
			slowCalls(t, b, 50, time.Second)
		}, breaker.Closed},
		{"SlowRate", breaker.Config{SlowCall: time.Second}, func(t *testing.T, b *breaker.Breaker) {
			calls(b, 50, nil)
			slowCalls(t, b, 50, time.Second)
		}, breaker.Open},
		{"SlowCall", breaker.Config{}, func(t *testing.T, b *breaker.Breaker) {
			slowCalls(t, b, 100, time.Hour)
		}, breaker.Closed},
	} {
		inBubble(t, v.name, func(t *testing.T) {
			b := breaker.New(v.c)
			v.do(t, b)
			wantState(t, b, v.want)
		})
	}
}

// With a zero Consecutive, a run of failures opens when chance would bring it about once
// in a billion calls, by what calls did before it: few are enough where calls never
// failed, many where they often do, and a history of five calls proves next to nothing.
//
// Spec: B3
func TestRunBeyondChance(t *testing.T) {
	for _, v := range []struct {
		name      string
		c         breaker.Config
		good, bad int // before the run, spread evenly
		want      int
	}{
		{"unknown", breaker.Config{}, 0, 0, 10},
		{"hardly known", breaker.Config{}, 5, 0, 8},
		{"known", breaker.Config{}, 20, 0, 6},
		{"healthy", breaker.Config{}, 100, 0, 5},
		{"one in a hundred fails", breaker.Config{}, 990, 10, 5},
		{"one in twenty", breaker.Config{}, 950, 50, 7},
		{"three in ten", breaker.Config{}, 700, 300, 18},
		{"every other", breaker.Config{}, 500, 500, 30},
		{"no window", breaker.Config{FailureRate: -1}, 100, 0, 10},
		{"a number", breaker.Config{Consecutive: 3}, 998, 2, 3},
	} {
		inBubble(t, v.name, func(t *testing.T) {
			b := breaker.New(v.c)
			before := v.good + v.bad
			for i := range before {
				// The last is good, whatever the share: the run begins after it.
				if (i+1)*v.bad/max(before, 1) > i*v.bad/max(before, 1) && i < before-1 {
					calls(b, 1, errDown)
				} else {
					calls(b, 1, nil)
				}
			}
			wantState(t, b, breaker.Closed)
			got := 0
			for b.State() == breaker.Closed && got < 1000 {
				calls(b, 1, errDown)
				got++
			}
			if got != v.want {
				t.Errorf("%d failures in a row open it, want %d", got, v.want)
			}
		})
	}
	inBubble(t, "longer than the window", func(t *testing.T) {
		b := breaker.New(breaker.Config{})
		calls(b, 100, nil)
		n := 0
		for b.State() == breaker.Closed && n < 100 {
			time.Sleep(4 * time.Second)
			calls(b, 1, errDown)
			n++
		}
		if n != 10 { // at the fifth, all that went well is forgotten
			t.Errorf("%d failures in a row open it, want 10", n)
		}
	})
	inBubble(t, "after a month", func(t *testing.T) {
		b := breaker.New(breaker.Config{})
		calls(b, 100, nil)
		time.Sleep(40 * 24 * time.Hour)
		calls(b, 9, errDown)
		wantState(t, b, breaker.Closed)
		calls(b, 1, errDown)
		wantState(t, b, breaker.Open)
	})
}

// How a breaker whose Config is zero stays open, probes and closes.
//
// Spec: P10 (part)
func TestDefaultRecovery(t *testing.T) {
	inBubble(t, "OpenFor, MaxOpenFor", func(t *testing.T) {
		for _, openFor := range []time.Duration{0, 3 * time.Second} {
			b, _ := opened(t, breaker.Config{OpenFor: openFor})
			unit := max(openFor, 100*time.Millisecond)
			for _, nominal := range []time.Duration{1, 2, 4, 8, 10, 10} {
				wantDelay(t, b, nominal*unit)
				time.Sleep(b.RemainingDelay())
				calls(b, 1, errDown)
			}
		}
	})
	inBubble(t, "Probes", func(t *testing.T) {
		b, _ := probing(t, breaker.Config{})
		acquire(t, b)
		if _, err := b.Acquire(ctx); err == nil {
			t.Error("a second probe was admitted")
		}
	})
	inBubble(t, "Successes, Ramp", func(t *testing.T) {
		b, _ := probing(t, breaker.Config{})
		calls(b, 1, nil)
		wantState(t, b, breaker.HalfOpen)
		calls(b, 1, nil)
		wantState(t, b, breaker.Closed)
		if n := calls(b, 1000, nil); n != 1000 {
			t.Errorf("%d of 1000 calls were admitted after closing", n)
		}
	})
	inBubble(t, "ProbeTimeout", func(t *testing.T) {
		b, _ := probing(t, breaker.Config{})
		acquire(t, b)
		time.Sleep(15*time.Second - 1)
		wantState(t, b, breaker.HalfOpen)
		time.Sleep(time.Nanosecond)
		wantState(t, b, breaker.Open)
	})
}

// A negative SlowRate turns the rule off whole: a slow probe is as good as any.
//
// Spec: P10 (part)
func TestNegativeSlowRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(breaker.Config{SlowCall: time.Second, SlowRate: -1})
		slowCalls(t, b, 100, time.Minute)
		wantState(t, b, breaker.Closed)
		if got := b.Stats().Slow; got != 0 {
			t.Errorf("%d calls were slow", got)
		}
		b.Trip("test")
		time.Sleep(b.RemainingDelay())
		for range 2 {
			slowCalls(t, b, 1, 10*time.Second)
		}
		wantState(t, b, breaker.Closed)
	})
}

// Without a SlowCall, 50 ms are a fair time: a deadline of the caller's counts from
// there on.
//
// Spec: B20
func TestFairTime(t *testing.T) {
	for _, v := range []struct {
		given time.Duration
		want  breaker.State
	}{{50*time.Millisecond - 1, breaker.Closed}, {50 * time.Millisecond, breaker.Open}} {
		inBubble(t, v.given.String(), func(t *testing.T) {
			b := breaker.New(breaker.Config{Consecutive: 1})
			c, cancel := context.WithTimeout(ctx, v.given)
			defer cancel()
			_ = b.Do(c, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
			wantState(t, b, v.want)
		})
	}
}

// What a Retry-After may ask for: at least 100 ms or OpenFor, whichever is less, at
// most a minute or MaxOpenFor, whichever is more.
//
// Spec: B18
func TestRetryAfterIsBounded(t *testing.T) {
	for _, v := range []struct {
		openFor, maxOpenFor time.Duration
		asked, nominal      time.Duration
	}{
		{10 * time.Second, 0, 1, 100 * time.Millisecond},
		{20 * time.Millisecond, 0, 1, 20 * time.Millisecond},
		{0, 0, time.Hour, time.Minute},
		{0, time.Second, time.Hour, time.Minute},
		{0, 10 * time.Minute, 5 * time.Minute, 5 * time.Minute},
		{0, 10 * time.Minute, time.Hour, 10 * time.Minute},
	} {
		inBubble(t, fmt.Sprintf("%v of %v to %v", v.asked, v.openFor, v.maxOpenFor), func(t *testing.T) {
			for range 100 { // as often as it takes for the random part to be small once
				b := breaker.New(breaker.Config{Consecutive: 1, OpenFor: v.openFor, MaxOpenFor: v.maxOpenFor})
				calls(b, 1, retryAfter(v.asked))
				wantDelay(t, b, v.nominal)
			}
		})
	}
}

// The delay that follows a probe which ran out is random as any other: clients whose
// probes hung together do not come back together.
//
// Spec: B13, B18
func TestForfeitedProbesDelayIsRandom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		delays := map[time.Duration]bool{}
		for range 20 {
			b, _ := probing(t, breaker.Config{OpenFor: time.Second, ProbeTimeout: time.Second})
			acquire(t, b)
			time.Sleep(time.Second)
			wantDelay(t, b, 2*time.Second)
			delays[b.RemainingDelay()] = true
		}
		if len(delays) < 10 {
			t.Errorf("20 breakers drew %d delays", len(delays))
		}
	})
}
