package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
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
// Less than ten are enough only where calls time out, which count as two.
//
// Spec: B3
func TestRunBeyondChance(t *testing.T) {
	for _, v := range []struct {
		name      string
		c         breaker.Config
		good, bad int // before the run, spread evenly
		failed    int // how many failures open
		late      int // how many timeouts
		mixed     int // how many, when every other is one, a failure first
	}{
		{"unknown", breaker.Config{}, 0, 0, 10, 10, 10},
		{"hardly known", breaker.Config{}, 5, 0, 10, 8, 8},
		{"known", breaker.Config{}, 20, 0, 10, 6, 7},
		{"healthy", breaker.Config{}, 100, 0, 10, 5, 7},
		{"one in a hundred fails", breaker.Config{}, 990, 10, 10, 5, 7},
		{"one in twenty", breaker.Config{}, 950, 50, 10, 7, 7},
		{"three in ten", breaker.Config{}, 700, 300, 18, 18, 18},
		{"every other", breaker.Config{}, 500, 500, 30, 30, 30},
		{"no window", breaker.Config{FailureRate: -1}, 100, 0, 10, 10, 10},
		{"a number", breaker.Config{Consecutive: 3}, 998, 2, 3, 3, 3},
	} {
		run := func(t *testing.T, want int, errs ...error) {
			t.Helper()
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
				calls(b, 1, errs[got%len(errs)])
				got++
			}
			if got != want {
				t.Errorf("%d of %v in a row open it, want %d", got, errs, want)
			}
		}
		inBubble(t, v.name, func(t *testing.T) {
			run(t, v.failed, errDown)
			run(t, v.late, context.DeadlineExceeded)
			run(t, v.mixed, errDown, context.DeadlineExceeded)
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
			unit, down := max(openFor, 50*time.Millisecond), time.Duration(0)
			for range 30 {
				wantDelay(t, b, min(max(unit, down/5), 30*unit))
				d := b.RemainingDelay()
				time.Sleep(d)
				down += d
				calls(b, 1, errDown)
			}
			if down < 5*30*unit {
				t.Errorf("after 30 openings in %v there is more to come", down)
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

// overloaded is what a dependency says that has too much to do.
type overloaded struct{}

func (overloaded) Error() string           { return "too much to do" }
func (overloaded) Outcome() mettle.Outcome { return mettle.Overload }

// The first ten calls after an opening are on trial: one that times out, or meets an
// overload, opens again. A dependency that comes back slowly was met by all calls there
// are once two probes had succeeded, and was down again for seconds before that showed.
//
// Spec: B26
func TestRelapse(t *testing.T) {
	late := context.DeadlineExceeded
	for _, v := range []struct {
		name  string
		c     breaker.Config
		calls []error // once it has closed
		then  time.Duration
		last  error
		want  breaker.State
	}{
		{"the first times out", breaker.Config{}, nil, 0, late, breaker.Open},
		{"the first meets an overload", breaker.Config{}, nil, 0, overloaded{}, breaker.Open},
		{"the first fails", breaker.Config{}, nil, 0, errDown, breaker.Closed},
		{"the first is ignored", breaker.Config{}, nil, 0, mettle.ErrRejected, breaker.Closed},
		{"the tenth", breaker.Config{}, make([]error, 9), 0, late, breaker.Open},
		{"the eleventh", breaker.Config{}, make([]error, 10), 0, late, breaker.Closed},
		{"those that are ignored do not count", breaker.Config{}, append(make([]error, 9), mettle.ErrRejected), 0, late, breaker.Open},
		{"just within the window", breaker.Config{}, nil, 10*time.Second - 1, late, breaker.Open},
		{"a window later", breaker.Config{}, nil, 10 * time.Second, late, breaker.Closed},
		{"with a ramp", breaker.Config{Ramp: 1}, nil, time.Second, late, breaker.Open},
		{"turned off", breaker.Config{Ramp: -1}, nil, 0, late, breaker.Closed},
		{"no rule on the failure rate", breaker.Config{FailureRate: -1}, nil, 0, late, breaker.Closed},
	} {
		inBubble(t, v.name, func(t *testing.T) {
			b, l := probing(t, v.c)
			calls(b, 2, nil)
			wantState(t, b, breaker.Closed)
			for _, err := range v.calls {
				calls(b, 1, err)
			}
			time.Sleep(v.then)
			calls(b, 1, v.last)
			wantState(t, b, v.want)
			if c := l.all()[len(l.all())-1]; v.want == breaker.Open && (c.Rule != breaker.RuleRelapse || !errors.Is(c.Err, v.last)) {
				t.Errorf("opened by %+v", c)
			}
		})
	}
	inBubble(t, "not at first", func(t *testing.T) {
		b := breaker.New(breaker.Config{})
		calls(b, 1, late)
		wantState(t, b, breaker.Closed)
	})
	inBubble(t, "not after Reset", func(t *testing.T) {
		b, _ := opened(t, breaker.Config{})
		b.Reset()
		calls(b, 1, late)
		wantState(t, b, breaker.Closed)
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
			wantDelay(t, b, time.Second)
			delays[b.RemainingDelay()] = true
		}
		if len(delays) < 10 {
			t.Errorf("20 breakers drew %d delays", len(delays))
		}
	})
}
