package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
)

// inBubble runs a test in virtual time.
func inBubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// log collects the changes of a breaker.
type log struct {
	mu      sync.Mutex
	changes []breaker.Change
}

func (l *log) add(c breaker.Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes = append(l.changes, c)
}

func (l *log) all() []breaker.Change {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]breaker.Change(nil), l.changes...)
}

// path returns the states gone through, such as "closed open half-open".
func (l *log) path() string {
	s := []string{"closed"}
	for _, c := range l.all() {
		s = append(s, c.To.String())
	}
	return strings.Join(s, " ")
}

// calls makes calls that end with err, and returns how many were admitted.
func calls(b *breaker.Breaker, n int, err error) (admitted int) {
	for range n {
		if got := b.Do(ctx, func(context.Context) error { admitted++; return err }); !errors.Is(got, breaker.ErrOpen) && got != err {
			panic(fmt.Sprintf("Do returned %v", got))
		}
	}
	return admitted
}

func wantState(t *testing.T, b *breaker.Breaker, want breaker.State) {
	t.Helper()
	if got := b.State(); got != want {
		t.Fatalf("state is %v, want %v", got, want)
	}
}

// opened returns an open breaker and the log of its changes.
func opened(t *testing.T, c breaker.Config) (*breaker.Breaker, *log) {
	t.Helper()
	l := &log{}
	c.OnChange = l.add
	b := breaker.New(c)
	b.Trip("test")
	wantState(t, b, breaker.Open)
	return b, l
}

// probing returns a breaker whose open delay is over: the next call is a probe.
func probing(t *testing.T, c breaker.Config) (*breaker.Breaker, *log) {
	t.Helper()
	b, l := opened(t, c)
	time.Sleep(b.RemainingDelay())
	return b, l
}

func acquire(t *testing.T, b *breaker.Breaker) breaker.Permit {
	t.Helper()
	p, err := b.Acquire(ctx)
	if err != nil {
		t.Fatalf("Acquire: %v", err)
	}
	return p
}

// Below MinCalls no rate opens; the call that makes them enough does, a failure or
// a success. Failures in a row do not wait for MinCalls.
//
// Spec: B1
func TestMinCallsGatesRatesOnly(t *testing.T) {
	for _, last := range []error{errDown, nil} {
		inBubble(t, fmt.Sprint("last=", last), func(t *testing.T) {
			b := breaker.New(breaker.Config{MinCalls: 10, FailureRate: 0.5, Consecutive: -1})
			calls(b, 9, errDown)
			wantState(t, b, breaker.Closed)
			calls(b, 1, last)
			wantState(t, b, breaker.Open)
		})
	}
	inBubble(t, "consecutive", func(t *testing.T) {
		b := breaker.New(breaker.Config{MinCalls: 10, Consecutive: 3})
		calls(b, 3, errDown)
		wantState(t, b, breaker.Open)
	})
}

// A rate that is exactly the threshold opens, one call less does not.
//
// Spec: B2
func TestRateIsExact(t *testing.T) {
	for _, v := range []struct {
		rate       float64
		bad, calls int
	}{{0.57, 57, 100}, {0.001, 1, 1000}, {0.5, 1, 2}, {1, 7, 7}, {0.29, 29, 100}, {1.0 / 3, 1, 3}, {0.07, 7, 100}} {
		for _, short := range []int{0, 1} {
			inBubble(t, fmt.Sprintf("%v/%d", v.rate, short), func(t *testing.T) {
				b := breaker.New(breaker.Config{FailureRate: v.rate, MinCalls: v.calls, Consecutive: -1})
				calls(b, v.bad-short, errDown)
				calls(b, v.calls-v.bad+short, nil)
				want := breaker.Open
				if short > 0 {
					want = breaker.Closed
				}
				wantState(t, b, want)
			})
		}
	}
}

// Failures in a row count however far apart; a success starts anew, what is ignored
// does not.
//
// Spec: B3
func TestConsecutive(t *testing.T) {
	inBubble(t, "far apart", func(t *testing.T) {
		b := breaker.New(breaker.Config{Consecutive: 3, FailureRate: -1})
		for range 3 {
			wantState(t, b, breaker.Closed)
			calls(b, 1, errDown)
			time.Sleep(24 * time.Hour)
		}
		if got := b.Stats().Machine; got != breaker.Open {
			t.Fatalf("state is %v, want open", got)
		}
	})
	inBubble(t, "success", func(t *testing.T) {
		b := breaker.New(breaker.Config{Consecutive: 3, FailureRate: -1})
		calls(b, 2, errDown)
		calls(b, 1, nil)
		calls(b, 2, errDown)
		wantState(t, b, breaker.Closed)
		calls(b, 1, errDown)
		wantState(t, b, breaker.Open)
	})
	inBubble(t, "ignored", func(t *testing.T) {
		b := breaker.New(breaker.Config{Consecutive: 3, FailureRate: -1})
		calls(b, 2, errDown)
		calls(b, 5, mettle.ErrRejected)
		wantState(t, b, breaker.Closed)
		calls(b, 1, errDown)
		wantState(t, b, breaker.Open)
	})
}

// Failures that cross the line together open once and tell once.
//
// Spec: B4
func TestOpensOnce(t *testing.T) {
	for range 200 {
		l := &log{}
		b := breaker.New(breaker.Config{Consecutive: 2, OnChange: l.add})
		start := make(chan struct{})
		var wg sync.WaitGroup
		for range 8 {
			p, _ := b.Acquire(ctx)
			wg.Go(func() { <-start; p.Done(errDown) })
		}
		close(start)
		wg.Wait()
		if got := l.path(); got != "closed open" {
			t.Fatalf("went %s", got)
		}
	}
}

// A call longer than the window counts when it fails: a backend that hangs trips
// the breaker.
//
// Spec: B5
func TestLongCallCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(breaker.Config{Window: time.Second, MinCalls: 2, Consecutive: -1})
		p, q := acquire(t, b), acquire(t, b)
		time.Sleep(time.Minute)
		p.Done(errDown)
		q.Done(errDown)
		wantState(t, b, breaker.Open)
	})
}

// A result counts in the generation that admitted its call and in no other: no
// counter, no slot and no delay moves by it, and it shows as stale.
//
// Spec: B6, B7
func TestStaleResults(t *testing.T) {
	c := breaker.Config{Consecutive: 2, MinCalls: 2, Probes: 1, Successes: 1}
	inBubble(t, "success begun before opening does not close", func(t *testing.T) {
		b := breaker.New(c)
		old := acquire(t, b)
		b.Trip("test")
		time.Sleep(b.RemainingDelay())
		probe := acquire(t, b)
		old.Done(nil)
		wantState(t, b, breaker.HalfOpen)
		if _, err := b.Acquire(ctx); err == nil {
			t.Fatal("the old result freed the probe's slot")
		}
		probe.Done(nil)
		wantState(t, b, breaker.Closed)
		if got := b.Stats().Stale; got != 1 {
			t.Errorf("Stale = %d, want 1", got)
		}
	})
	inBubble(t, "failure begun before opening does not reopen", func(t *testing.T) {
		b := breaker.New(c)
		old1, old2, old3 := acquire(t, b), acquire(t, b), acquire(t, b)
		b.Trip("test")
		delay := b.RemainingDelay()
		old1.Done(errDown)
		if got := b.RemainingDelay(); got != delay {
			t.Errorf("the delay moved from %v to %v", delay, got)
		}
		time.Sleep(delay)
		probe := acquire(t, b)
		old2.Done(errDown)
		wantState(t, b, breaker.HalfOpen)
		probe.Done(nil)
		old3.Done(errDown)
		if s := b.Stats(); s.State != breaker.Closed || s.Calls != 0 || s.Consecutive != 0 || s.Stale != 3 {
			t.Errorf("stats are %+v", s)
		}
	})
	inBubble(t, "reset", func(t *testing.T) {
		b := breaker.New(c)
		old := acquire(t, b)
		b.Reset()
		old.Done(errDown)
		if s := b.Stats(); s.Calls != 0 || s.Consecutive != 0 || s.Stale != 1 {
			t.Errorf("stats are %+v", s)
		}
	})
}

// The first burst after a long idle time is counted whole.
//
// Spec: B8
func TestBurstAfterIdling(t *testing.T) {
	for _, goroutines := range []int{1, 64} {
		inBubble(t, fmt.Sprint(goroutines), func(t *testing.T) {
			b := breaker.New(breaker.Config{Consecutive: -1, FailureRate: 1, MinCalls: 1000})
			calls(b, 7, nil)
			for _, idle := range []time.Duration{time.Minute, 24 * 24 * time.Hour, 100 * 365 * 24 * time.Hour} {
				time.Sleep(idle)
				var wg sync.WaitGroup
				for range goroutines {
					wg.Go(func() { calls(b, 128/goroutines, nil) })
				}
				wg.Wait()
				if got := b.Stats().Calls; got != 128 {
					t.Errorf("after %v: window holds %d calls, want 128", idle, got)
				}
			}
		})
	}
}

// Under concurrent load, across many bucket boundaries, no call is lost.
//
// Spec: B9
func TestLoadLosesNothing(t *testing.T) {
	const goroutines, each = 8, 20_000
	b := breaker.New(breaker.Config{Window: 16 * time.Millisecond, FailureRate: 1, Consecutive: -1})
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range each {
				err := errDown
				if (i+g)%2 == 0 {
					err = nil
				}
				calls(b, 1, err)
				if s := b.Stats(); s.Calls < 0 || s.Failed < 0 || s.Failed > s.Calls+goroutines {
					t.Errorf("stats are %+v", s)
				}
			}
		})
	}
	wg.Wait()
	s := b.Stats()
	if s.Succeeded+s.Failures != goroutines*each || s.Failures != goroutines*each/2 {
		t.Errorf("counted %d and %d, want %d each", s.Succeeded, s.Failures, goroutines*each/2)
	}
}

// At the instant the delay ends, a thousand calls get at most Probes admissions,
// and one change is told.
//
// Spec: B10
func TestProbesAreBounded(t *testing.T) {
	for _, probes := range []int{1, 3} {
		inBubble(t, fmt.Sprint(probes), func(t *testing.T) {
			b, l := probing(t, breaker.Config{Probes: probes, Successes: 1})
			var inFlight, most, admitted atomic.Int32
			finish := make(chan struct{})
			var wg sync.WaitGroup
			for range 1000 {
				wg.Go(func() {
					_ = b.Do(ctx, func(context.Context) error {
						admitted.Add(1)
						most.Store(max(most.Load(), inFlight.Add(1)))
						<-finish
						inFlight.Add(-1)
						return mettle.ErrRejected // decides nothing
					})
				})
			}
			synctest.Wait()
			if got := admitted.Load(); got != int32(probes) {
				t.Errorf("%d probes were admitted, want %d", got, probes)
			}
			if got := l.path(); got != "closed open half-open" {
				t.Errorf("went %s", got)
			}
			close(finish)
			wg.Wait()
		})
	}
}

// A probe that says nothing gives its slot back and decides nothing.
//
// Spec: B11
func TestIgnoredProbe(t *testing.T) {
	for name, end := range map[string]func(cancel func()) error{
		"refused downstream": func(func()) error { return fmt.Errorf("bulkhead: %w", mettle.ErrRejected) },
		"caller gave up":     func(cancel func()) error { cancel(); return context.Canceled },
	} {
		inBubble(t, name, func(t *testing.T) {
			b, _ := probing(t, breaker.Config{Successes: 1})
			for range 3 {
				ctx, cancel := context.WithCancel(ctx)
				ran := false
				_ = b.Do(ctx, func(context.Context) error { ran = true; return end(cancel) })
				cancel()
				if !ran {
					t.Fatal("the slot did not come back")
				}
				wantState(t, b, breaker.HalfOpen)
			}
			calls(b, 1, nil)
			wantState(t, b, breaker.Closed)
		})
	}
}

// A probe that panics or exits counts as failed and gives its slot back; in the
// closed state such a call counts as failed too.
//
// Spec: B12, P5
func TestPanicAndGoexit(t *testing.T) {
	crash := map[string]func(){
		"panic":  func() { panic("boom") },
		"nil":    func() { panic(nil) },
		"Goexit": runtime.Goexit,
	}
	for name, f := range crash {
		do := func(b *breaker.Breaker) (recovered any) {
			done := make(chan any)
			go func() {
				defer func() { done <- recover() }()
				_ = b.Do(ctx, func(context.Context) error { f(); return nil })
			}()
			return <-done
		}
		inBubble(t, name+" half-open", func(t *testing.T) {
			b, _ := probing(t, breaker.Config{Successes: 1})
			r := do(b)
			if name == "panic" && r != "boom" {
				t.Errorf("recovered %v", r)
			}
			wantState(t, b, breaker.Open)
			if b.RemainingDelay() == 0 {
				t.Error("the breaker did not reopen")
			}
		})
		inBubble(t, name+" closed", func(t *testing.T) {
			b := breaker.New(breaker.Config{Consecutive: 2})
			do(b)
			wantState(t, b, breaker.Closed)
			do(b)
			wantState(t, b, breaker.Open)
		})
	}
}

// A probe that never returns is forfeited: the breaker is open again from the
// moment its lease ends, later calls may probe, and what it reports at last is void.
//
// Spec: B13
func TestHungProbeIsForfeited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, l := probing(t, breaker.Config{OpenFor: time.Second, ProbeTimeout: 3 * time.Second, Successes: 1})
		hung := acquire(t, b)
		time.Sleep(3*time.Second - 1)
		wantState(t, b, breaker.HalfOpen)
		time.Sleep(time.Nanosecond)
		wantState(t, b, breaker.Open)
		wantDelay(t, b, time.Second)
		if _, err := b.Acquire(ctx); !errors.Is(err, breaker.ErrOpen) {
			t.Errorf("Acquire: %v", err)
		}
		time.Sleep(b.RemainingDelay())
		p := acquire(t, b)
		hung.Done(nil)
		wantState(t, b, breaker.HalfOpen)
		p.Done(nil)
		wantState(t, b, breaker.Closed)
		if got := l.path(); got != "closed open half-open open half-open closed" {
			t.Errorf("went %s", got)
		}
		if got := l.all()[2].Rule; got != breaker.RuleProbeTimeout {
			t.Errorf("reopened by %v", got)
		}
	})
}

// A hung probe is found out by its own late report too: nobody else has to call.
//
// Spec: B13, B6
func TestLateProbeIsStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, l := probing(t, breaker.Config{ProbeTimeout: time.Second, Successes: 1})
		p := acquire(t, b)
		time.Sleep(time.Second)
		p.Done(nil)
		wantState(t, b, breaker.Open)
		if got := b.Stats().Stale; got != 1 {
			t.Errorf("Stale = %d, want 1", got)
		}
		if got := l.path(); got != "closed open half-open open" {
			t.Errorf("went %s", got)
		}
	})
}

// More successes than slots are needed: slots are used again. Reset closes and
// forgets everything.
//
// Spec: B14
func TestProbesAreRecycledAndReset(t *testing.T) {
	inBubble(t, "recycled", func(t *testing.T) {
		b, _ := probing(t, breaker.Config{Probes: 2, Successes: 5})
		for range 5 {
			if got := b.Stats().Machine; got == breaker.Closed {
				t.Fatal("closed too early")
			}
			calls(b, 1, nil)
		}
		wantState(t, b, breaker.Closed)
	})
	inBubble(t, "reset", func(t *testing.T) {
		b, l := probing(t, breaker.Config{OpenFor: time.Second, Ramp: time.Hour})
		calls(b, 1, errDown) // reopened
		gen := b.Stats().Generation
		b.Reset()
		wantState(t, b, breaker.Closed)
		if s := b.Stats(); s.Generation <= gen || s.Calls != 0 {
			t.Errorf("stats are %+v", s)
		}
		if got := calls(b, 100, nil); got != 100 {
			t.Errorf("%d of 100 calls were admitted: the ramp was not cleared", got)
		}
		b.Trip("again")
		if d := b.RemainingDelay(); d >= 1200*time.Millisecond {
			t.Errorf("RemainingDelay = %v: the growth was not cleared", d)
		}
		if got := l.path(); got != "closed open half-open open closed open" {
			t.Errorf("went %s", got)
		}
	})
}

// Done counts once, the zero Permit does nothing, and permits that are dropped
// while closed hold nothing.
//
// Spec: B15
func TestPermitOnce(t *testing.T) {
	inBubble(t, "closed", func(t *testing.T) {
		b := breaker.New(breaker.Config{Consecutive: 2})
		p := acquire(t, b)
		p.Done(errDown)
		p.Done(errDown)
		wantState(t, b, breaker.Closed)
		for range 1000 {
			acquire(t, b) // dropped
		}
		calls(b, 1, errDown)
		wantState(t, b, breaker.Open)
	})
	inBubble(t, "probe", func(t *testing.T) {
		b, _ := probing(t, breaker.Config{Probes: 2, Successes: 2})
		p := acquire(t, b)
		twin := p
		p.Done(nil)
		p.Done(nil)
		twin.Done(nil) // a copy: its lease is gone
		wantState(t, b, breaker.HalfOpen)
		calls(b, 1, nil)
		wantState(t, b, breaker.Closed)
	})
	var zero breaker.Permit
	zero.Done(errDown)
}

// RemainingDelay is never negative, falls with time and is zero exactly when a
// probe would be admitted.
//
// Spec: B16, B17
func TestRemainingDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := opened(t, breaker.Config{OpenFor: time.Second, MaxOpenFor: time.Second})
		for range 50 {
			d := b.RemainingDelay()
			if b.State() != breaker.Open || d <= 0 {
				t.Fatalf("%v with %v left", b.State(), d)
			}
			time.Sleep(d - 1)
			if _, err := b.Acquire(ctx); err == nil || b.RemainingDelay() != 1 {
				t.Fatalf("a probe was admitted with %v left", b.RemainingDelay())
			}
			time.Sleep(time.Nanosecond)
			if d := b.RemainingDelay(); d != 0 {
				t.Fatalf("RemainingDelay = %v", d)
			}
			time.Sleep(time.Hour)
			if d := b.RemainingDelay(); d != 0 {
				t.Fatalf("RemainingDelay = %v an hour later", d)
			}
			if got := calls(b, 1, errDown); got != 1 {
				t.Fatal("no probe was admitted with no delay left")
			}
		}
	})
}

// Nobody sees an open breaker with the deadline of an opening that is over.
//
// Spec: B17
func TestNoStaleDeadline(t *testing.T) {
	b := breaker.New(breaker.Config{OpenFor: time.Hour})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 5000 {
			b.Trip("test")
			b.Reset()
		}
		close(stop)
	})
	for {
		select {
		case <-stop:
			wg.Wait()
			return
		default:
		}
		_, err := b.Acquire(ctx)
		if d, ok := mettle.RetryAfter(err); err != nil && (!ok || d < 59*time.Minute) {
			t.Fatalf("refused with %v left", d)
		}
		if s := b.Stats(); s.State == breaker.Open && s.RemainingDelay < 59*time.Minute {
			t.Fatalf("open with %v left", s.RemainingDelay)
		}
	}
}

// Each opening lasts its nominal delay, or up to a fifth longer. The nominal delay is a
// fifth of the time that was not spent closed, within its bounds, and starts anew after a
// healthy closed window.
//
// Spec: B18
func TestDelayGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := opened(t, breaker.Config{OpenFor: time.Second, MaxOpenFor: 6 * time.Second, Successes: 1, Window: 10 * time.Second})
		var down time.Duration
		want := func() {
			t.Helper()
			wantDelay(t, b, min(max(time.Second, down/5), 6*time.Second))
			d := b.RemainingDelay()
			time.Sleep(d)
			down += d
		}
		for range 8 {
			want()
			calls(b, 1, errDown)
		}
		want()
		calls(b, 1, nil)
		time.Sleep(9 * time.Second)
		b.Trip("soon after closing")
		if down < 8*time.Second || down > 20*time.Second {
			t.Fatalf("%v since the first opening show nothing", down)
		}
		want() // without the time between
		time.Sleep(time.Minute)
		down += time.Minute // in which nobody called
		calls(b, 1, errDown)
		wantDelay(t, b, 6*time.Second)
		want()
		calls(b, 1, nil)
		time.Sleep(10 * time.Second)
		b.Trip("after a healthy window")
		wantDelay(t, b, time.Second)
	})
}

type retryAfter time.Duration

func (e retryAfter) Error() string             { return "busy" }
func (e retryAfter) RetryAfter() time.Duration { return time.Duration(e) }

// A Retry-After on the failure that opens the breaker sets the delay, within reason.
//
// Spec: B18
func TestRetryAfterSetsTheDelay(t *testing.T) {
	for _, v := range []struct{ asked, nominal time.Duration }{
		{7 * time.Second, 7 * time.Second},
		{100 * time.Millisecond, 100 * time.Millisecond},
		{math.MaxInt64, time.Minute},
		{0, time.Second},
		{-time.Second, time.Second},
	} {
		inBubble(t, v.asked.String(), func(t *testing.T) {
			b := breaker.New(breaker.Config{Consecutive: 1, OpenFor: time.Second})
			calls(b, 1, retryAfter(v.asked))
			if d := b.RemainingDelay(); d < v.nominal || d >= v.nominal*12/10 {
				t.Errorf("the delay is %v, want %v to a fifth more", d, v.nominal)
			}
			time.Sleep(b.RemainingDelay())
			calls(b, 1, retryAfter(v.asked)) // a probe's counts the same
			if d := b.RemainingDelay(); v.asked > 0 && (d < v.nominal || d >= v.nominal*12/10) {
				t.Errorf("the delay after a probe is %v, want %v to a fifth more", d, v.nominal)
			}
		})
	}
}

// The caller's own cancellation says nothing; a cancellation that the dependency
// reports to a caller that still waits is a failure.
//
// Spec: B19
func TestWhoCancelled(t *testing.T) {
	inBubble(t, "caller", func(t *testing.T) {
		b := breaker.New(breaker.Config{Consecutive: 1})
		c, cancel := context.WithCancelCause(ctx)
		_ = b.Do(c, func(ctx context.Context) error { cancel(errors.New("bored")); return ctx.Err() })
		c, cancel = context.WithCancelCause(ctx)
		_ = b.Do(c, func(ctx context.Context) error { cancel(errors.New("bored")); return context.Cause(ctx) })
		wantState(t, b, breaker.Closed)
		if got := b.Stats().Ignored; got != 2 {
			t.Errorf("Ignored = %d, want 2", got)
		}
	})
	inBubble(t, "callee", func(t *testing.T) {
		b := breaker.New(breaker.Config{Consecutive: 1})
		calls(b, 1, context.Canceled)
		wantState(t, b, breaker.Open)
	})
}

// A caller in a hurry cannot trip a healthy backend, a hung one that only callers'
// deadlines end does trip, and an attempt's own timeout always counts.
//
// Spec: B20
func TestDeadlines(t *testing.T) {
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	within := func(b *breaker.Breaker, d time.Duration, op func(context.Context) error) {
		c, cancel := context.WithTimeout(ctx, d)
		defer cancel()
		_ = b.Do(c, op)
	}
	inBubble(t, "hurry", func(t *testing.T) {
		b := breaker.New(breaker.Config{Consecutive: 1})
		for range 100 {
			within(b, time.Millisecond, hang)
		}
		wantState(t, b, breaker.Closed)
	})
	inBubble(t, "hung", func(t *testing.T) {
		b := breaker.New(breaker.Config{Consecutive: 3})
		for range 3 {
			within(b, 100*time.Millisecond, hang)
		}
		wantState(t, b, breaker.Open)
		if got := b.Stats().Timeouts; got != 3 {
			t.Errorf("Timeouts = %d, want 3", got)
		}
	})
	inBubble(t, "SlowCall is the measure", func(t *testing.T) {
		b := breaker.New(breaker.Config{Consecutive: 1, SlowCall: time.Second})
		within(b, 900*time.Millisecond, hang)
		wantState(t, b, breaker.Closed)
		within(b, time.Second, hang)
		wantState(t, b, breaker.Open)
	})
	inBubble(t, "attempt", func(t *testing.T) {
		b := breaker.New(breaker.Config{Consecutive: 1})
		within(b, time.Hour, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			return hang(ctx)
		})
		wantState(t, b, breaker.Open)
	})
	inBubble(t, "reported before the context ends", func(t *testing.T) {
		b := breaker.New(breaker.Config{Consecutive: 1})
		c, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		p, _ := b.Acquire(c)
		time.Sleep(time.Millisecond)
		p.Done(context.DeadlineExceeded)
		wantState(t, b, breaker.Closed)
	})
}

// Slow calls count once, whether they succeed or not; a slow probe reopens.
//
// Spec: B22
func TestSlowCalls(t *testing.T) {
	slow := func(err error) func(context.Context) error {
		return func(context.Context) error { time.Sleep(time.Second); return err }
	}
	c := breaker.Config{SlowCall: time.Second, SlowRate: 0.5, MinCalls: 4, FailureRate: -1, Consecutive: -1}
	inBubble(t, "rate", func(t *testing.T) {
		l := &log{}
		c.OnChange = l.add
		b := breaker.New(c)
		calls(b, 2, nil)
		_ = b.Do(ctx, slow(nil))
		wantState(t, b, breaker.Closed)
		_ = b.Do(ctx, slow(errDown))
		wantState(t, b, breaker.Open)
		if got := l.all()[0]; got.Rule != breaker.RuleSlowRate || got.Calls != 4 || got.Bad != 2 {
			t.Errorf("change is %+v", got)
		}
	})
	inBubble(t, "probe", func(t *testing.T) {
		c := c
		c.Successes = 1
		b, _ := probing(t, c)
		_ = b.Do(ctx, slow(nil))
		wantState(t, b, breaker.Open)
	})
}

// A forced-open breaker admits nothing, a forced-closed one everything; beneath, the
// machine runs on, and shows when the override ends by itself or by Release.
//
// Spec: B23
func TestOverrides(t *testing.T) {
	inBubble(t, "open", func(t *testing.T) {
		b, l := probing(t, breaker.Config{Name: "db"})
		b.ForceOpen(breaker.Override{For: time.Minute, By: "ops", Reason: "migration"})
		time.Sleep(30 * time.Second)
		if got := calls(b, 10, nil); got != 0 {
			t.Errorf("%d calls were admitted", got)
		}
		s := b.Stats()
		if !s.Overridden || s.Override.By != "ops" || s.Override.Reason != "migration" || b.RemainingDelay() != 30*time.Second {
			t.Errorf("stats are %+v", s)
		}
		if _, err := b.Acquire(ctx); !strings.Contains(err.Error(), "by ops: migration") {
			t.Errorf("the refusal says %q", err)
		}
		time.Sleep(30 * time.Second)
		if got := calls(b, 2, nil); got != 2 {
			t.Errorf("%d of 2 probes were admitted after the override", got)
		}
		wantState(t, b, breaker.Closed)
		if got := l.path(); got != "closed open half-open closed" {
			t.Errorf("went %s", got) // forced open over open is no change to see
		}
	})
	inBubble(t, "open without end", func(t *testing.T) {
		b := breaker.New(breaker.Config{})
		b.ForceOpen(breaker.Override{})
		_, err := b.Acquire(ctx)
		if _, ok := mettle.RetryAfter(err); ok || b.RemainingDelay() != math.MaxInt64 {
			t.Errorf("%v suggests when to come back", err)
		}
		b.Release()
		wantState(t, b, breaker.Closed)
		b.Release() // nothing to release
		wantState(t, b, breaker.Closed)
	})
	inBubble(t, "closed", func(t *testing.T) {
		l := &log{}
		b := breaker.New(breaker.Config{Consecutive: 3, Successes: 2, OpenFor: time.Second, OnChange: l.add})
		b.ForceClosed(breaker.Override{By: "ops"})
		if got := calls(b, 50, errDown); got != 50 {
			t.Errorf("%d of 50 calls were admitted", got)
		}
		if s := b.Stats(); s.State != breaker.Closed || s.Machine != breaker.Open {
			t.Errorf("stats are %+v", s)
		}
		time.Sleep(1200 * time.Millisecond)
		if got := calls(b, 50, nil); got != 50 {
			t.Errorf("%d of 50 calls were admitted", got)
		}
		if s := b.Stats(); s.State != breaker.Closed || s.Machine != breaker.Closed {
			t.Errorf("the machine did not recover beneath the override: %+v", s)
		}
		calls(b, 3, errDown)
		b.Release()
		wantState(t, b, breaker.Open)
		if got := l.path(); got != "closed open" {
			t.Errorf("went %s", got)
		}
		if got := l.all()[0]; got.Rule != breaker.RuleReleased || got.By != "ops" || got.Delay <= 0 {
			t.Errorf("change is %+v", got)
		}
	})
	inBubble(t, "replaced", func(t *testing.T) {
		b := breaker.New(breaker.Config{})
		b.ForceOpen(breaker.Override{For: time.Minute})
		b.ForceClosed(breaker.Override{For: time.Second})
		if got := calls(b, 1, nil); got != 1 {
			t.Error("the older override held")
		}
		time.Sleep(time.Second)
		wantState(t, b, breaker.Closed)
		if b.Stats().Overridden {
			t.Error("the override did not end")
		}
	})
}

// Changes are told in order, one at a time, old and new alternating, while a hook
// blocks, panics or calls back in.
//
// Spec: B24
func TestHooks(t *testing.T) {
	inBubble(t, "blocking", func(t *testing.T) {
		release := make(chan struct{})
		l := &log{}
		first := true
		b := breaker.New(breaker.Config{OnChange: func(c breaker.Change) {
			if first {
				first = false
				<-release
			}
			l.add(c)
		}})
		go b.Trip("test") // its hook blocks
		synctest.Wait()
		wantState(t, b, breaker.Open)
		b.Reset()
		b.Trip("again")
		wantState(t, b, breaker.Open)
		if got := calls(b, 1, nil); got != 0 {
			t.Error("a blocked hook held up the state")
		}
		close(release)
		synctest.Wait()
		if got := l.path(); got != "closed open closed open" {
			t.Errorf("told %s", got)
		}
	})
	inBubble(t, "panicking", func(t *testing.T) {
		l := &log{}
		var b *breaker.Breaker
		b = breaker.New(breaker.Config{Consecutive: 1, OnChange: func(c breaker.Change) {
			if l.add(c); len(l.all()) == 1 {
				b.Reset() // queued behind this one, and told although this one panics
				panic("hook")
			}
		}})
		func() {
			defer func() {
				if r := recover(); r != "hook" {
					t.Errorf("recovered %v", r)
				}
			}()
			calls(b, 1, errDown)
		}()
		b.Trip("later")
		if got := l.path(); got != "closed open closed open" {
			t.Errorf("told %s", got)
		}
		if s := b.Stats(); s.Failures != 1 {
			t.Errorf("the call counted %d times", s.Failures)
		}
	})
	inBubble(t, "Goexit", func(t *testing.T) {
		l := &log{}
		b := breaker.New(breaker.Config{OnChange: func(c breaker.Change) {
			if l.add(c); len(l.all()) == 1 {
				runtime.Goexit()
			}
		}})
		go b.Trip("test")
		synctest.Wait()
		b.Reset()
		if got := l.path(); got != "closed open closed" {
			t.Errorf("told %s", got)
		}
	})
	inBubble(t, "concurrent", func(t *testing.T) {
		l := &log{}
		var inHook atomic.Int32
		b := breaker.New(breaker.Config{OnChange: func(c breaker.Change) {
			if inHook.Add(1) != 1 {
				t.Error("two hooks at once")
			}
			l.add(c)
			runtime.Gosched()
			inHook.Add(-1)
		}})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 200 {
					b.Trip("test")
					b.Reset()
				}
			})
		}
		wg.Wait()
		at := breaker.Closed
		for i, c := range l.all() {
			if c.From != at || c.To == at {
				t.Fatalf("change %d is %v -> %v after %v", i, c.From, c.To, at)
			}
			at = c.To
		}
		if at != b.State() {
			t.Errorf("the last change told leads to %v, the breaker is %v", at, b.State())
		}
	})
}

// A classifier that panics settles the call once, gives a probe's slot back and
// leaves no lock behind.
//
// Spec: P6
func TestClassifierPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := false
		b, _ := probing(t, breaker.Config{Successes: 1, Classify: func(ctx context.Context, err error) mettle.Outcome {
			if boom {
				panic("classifier")
			}
			return mettle.Classify(ctx, err)
		}})
		boom = true
		for range 3 {
			func() {
				defer func() {
					if r := recover(); r != "classifier" {
						t.Errorf("recovered %v", r)
					}
				}()
				calls(b, 1, nil)
			}()
		}
		boom = false
		wantState(t, b, breaker.HalfOpen)
		calls(b, 1, nil)
		wantState(t, b, breaker.Closed)
		if s := b.Stats(); s.Ignored != 3 || s.Succeeded != 1 {
			t.Errorf("stats are %+v", s)
		}
	})
}

// Reconfigure keeps state, window and counts; what is invalid changes nothing.
//
// Spec: B25
func TestReconfigure(t *testing.T) {
	inBubble(t, "closed", func(t *testing.T) {
		b := breaker.New(breaker.Config{Name: "db", MinCalls: 10, Consecutive: -1})
		calls(b, 6, errDown)
		calls(b, 3, nil)
		for _, bad := range []breaker.Config{{FailureRate: 2}, {Name: "other"}, {OpenFor: -1}} {
			if err := b.Reconfigure(bad); err == nil {
				t.Errorf("%+v was accepted", bad)
			}
		}
		calls(b, 0, nil)
		if s := b.Stats(); s.Calls != 9 || s.Failed != 6 {
			t.Errorf("stats are %+v", s)
		}
		// Another window length moves the counts over.
		if err := b.Reconfigure(breaker.Config{Window: time.Minute, MinCalls: 10, FailureRate: 0.7, Consecutive: -1}); err != nil {
			t.Fatal(err)
		}
		if s := b.Stats(); s.Calls != 9 || s.Failed != 6 || s.Succeeded != 3 {
			t.Errorf("stats are %+v", s)
		}
		calls(b, 1, errDown)
		wantState(t, b, breaker.Open)
	})
	inBubble(t, "run", func(t *testing.T) {
		b := breaker.New(breaker.Config{Consecutive: 5})
		calls(b, 3, errDown)
		if err := b.Reconfigure(breaker.Config{Consecutive: 4}); err != nil {
			t.Fatal(err)
		}
		calls(b, 1, errDown)
		wantState(t, b, breaker.Open)
	})
	inBubble(t, "half-open", func(t *testing.T) {
		b, _ := probing(t, breaker.Config{Probes: 1, Successes: 3})
		p := acquire(t, b)
		if err := b.Reconfigure(breaker.Config{Probes: 2, Successes: 1}); err != nil {
			t.Fatal(err)
		}
		q := acquire(t, b)
		if _, err := b.Acquire(ctx); err == nil {
			t.Error("a third probe was admitted")
		}
		p.Done(mettle.ErrRejected)
		wantState(t, b, breaker.HalfOpen)
		q.Done(nil)
		wantState(t, b, breaker.Closed)
	})
	inBubble(t, "concurrently", func(t *testing.T) {
		b := breaker.New(breaker.Config{})
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for j := range 500 {
					_ = b.Reconfigure(breaker.Config{Window: time.Duration(1+(i+j)%3) * time.Second, SlowCall: time.Duration(j%2) * time.Second})
					calls(b, 1, nil)
				}
			})
		}
		wg.Wait()
		wantState(t, b, breaker.Closed)
	})
}

// After closing, admission rises over Ramp, and failures meanwhile open again.
//
// Spec: B26
func TestRamp(t *testing.T) {
	inBubble(t, "rises", func(t *testing.T) {
		b, _ := probing(t, breaker.Config{Ramp: 10 * time.Second, Successes: 1})
		calls(b, 1, nil)
		wantState(t, b, breaker.Closed)
		const n = 20_000
		for _, v := range []struct {
			after time.Duration
			share float64
		}{{0, 0.1}, {5 * time.Second, 0.5}, {4 * time.Second, 0.9}, {time.Second, 1}} {
			time.Sleep(v.after)
			got := float64(calls(b, n, nil)) / n
			if math.Abs(got-v.share) > 0.02 {
				t.Errorf("%v later: %.3f of the calls are admitted, want %v", v.after, got, v.share)
			}
		}
	})
	inBubble(t, "reopens", func(t *testing.T) {
		b, l := probing(t, breaker.Config{Ramp: 10 * time.Second, Successes: 1, Consecutive: -1, FailureRate: 0.3, MinCalls: 20, OpenFor: time.Second})
		time.Sleep(20 * time.Second)
		calls(b, 1, nil)
		for range 50 { // of the few that are admitted, every other one fails
			for _, err := range []error{nil, errDown} {
				for b.State() == breaker.Closed && calls(b, 1, err) == 0 {
				}
			}
		}
		wantState(t, b, breaker.Open)
		if c := l.all()[3]; c.Rule != breaker.RuleFailureRate || c.Calls != 20 || c.Bad != 10 {
			t.Errorf("opened by %+v", c)
		}
		if d := b.RemainingDelay(); d < 4*time.Second { // it has not been healthy
			t.Errorf("the delay is %v", d)
		}
	})
}

// A change explains itself in numbers and in words.
//
// Spec: B33
func TestChangeExplains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &log{}
		b := breaker.New(breaker.Config{Name: "db", FailureRate: 0.5, MinCalls: 4, Consecutive: -1, OpenFor: time.Second, OnChange: l.add})
		calls(b, 2, nil)
		calls(b, 2, errDown)
		c := l.all()[0]
		if c.Name != "db" || c.Rule != breaker.RuleFailureRate || c.Calls != 4 || c.Bad != 2 || c.Rate() != 0.5 ||
			c.Window != 10*time.Second || !errors.Is(c.Err, errDown) || c.Delay < time.Second {
			t.Errorf("change is %+v", c)
		}
		if s := c.String(); !strings.Contains(s, `breaker "db" closed -> open: 2 of 4 calls in 10s failed; open for 1`) {
			t.Errorf("it says %q", s)
		}
	})
}

// A refusal names the breaker, says when to come back, and costs no allocation.
//
// Spec: P7, P8
func TestRefusal(t *testing.T) {
	b, _ := opened(t, breaker.Config{Name: "db", OpenFor: time.Hour})
	err := b.Do(ctx, succeed)
	var open *breaker.OpenError
	if !errors.As(err, &open) || open.Name != "db" || !errors.Is(err, breaker.ErrOpen) || !errors.Is(err, mettle.ErrRejected) {
		t.Errorf("refused with %#v", err)
	}
	if d, ok := mettle.RetryAfter(err); !ok || d < 59*time.Minute {
		t.Errorf("RetryAfter = %v, %v", d, ok)
	}
	if o := mettle.Classify(ctx, err); o != mettle.Ignored {
		t.Errorf("a refusal is %v", o)
	}
	if want := `breaker: "db" is open: tripped by hand: test`; err.Error() != want {
		t.Errorf("it says %q, want %q", err, want)
	}
	if n := testing.AllocsPerRun(100, func() { _ = b.Do(ctx, succeed) }); n != 0 {
		t.Errorf("a refusal allocates %v times", n)
	}
	var zero breaker.OpenError
	if zero.RetryAfter() >= 0 || zero.Error() == "" {
		t.Error("the zero OpenError suggests a time")
	}
}

// Healthy and failing calls allocate nothing, and an idle breaker is small.
//
// Spec: P13, B28
func TestAllocations(t *testing.T) {
	deadline, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	for name, c := range map[string]breaker.Config{"default": {}, "slow": {SlowCall: time.Second}, "consecutive": {FailureRate: -1}} {
		b := breaker.New(c)
		for _, c := range []context.Context{ctx, deadline} {
			if n := testing.AllocsPerRun(1000, func() { _ = b.Do(c, succeed) }); n != 0 {
				t.Errorf("%s: a success allocates %v times", name, n)
			}
		}
		total := 0
		if n := testing.AllocsPerRun(1000, func() {
			// A closure that holds something: Do must not make it escape.
			_ = b.Do(ctx, func(context.Context) error { total++; return nil })
		}); n != 0 {
			t.Errorf("%s: the caller's closure is allocated, %v times", name, n)
		}
		if n := testing.AllocsPerRun(1000, func() { p, _ := b.Acquire(ctx); p.Done(nil) }); n != 0 {
			t.Errorf("%s: Acquire and Done allocate %v times", name, n)
		}
		if n := testing.AllocsPerRun(1000, func() { _, _ = b.Stats(), b.State() }); n != 0 {
			t.Errorf("%s: Stats allocates %v times", name, n)
		}
	}
}

// Spec: B28
func TestIdleBreakersAreSmall(t *testing.T) {
	const n = 100_000
	breakers := make([]*breaker.Breaker, n)
	goroutines := runtime.NumGoroutine()
	size := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := size()
	for i := range breakers {
		breakers[i] = breaker.New(breaker.Config{})
	}
	each := float64(size()-before) / n
	t.Logf("an idle breaker takes %.0f bytes", each)
	if each > 511 { // what takes 512 measures as a little less at times
		t.Errorf("an idle breaker takes %.0f bytes", each)
	}
	if got := runtime.NumGoroutine(); got > goroutines { // those of tests before may have ended meanwhile
		t.Errorf("%d goroutines, %d before", got, goroutines)
	}
	runtime.KeepAlive(breakers)
}

// Every mistake in a Config is named, with its value.
//
// Spec: P10
func TestValidate(t *testing.T) {
	for _, v := range []struct {
		c    breaker.Config
		want string // "" is valid
	}{
		{breaker.Config{}, ""},
		{breaker.Config{FailureRate: -1, Consecutive: -1, SlowCall: -1, SlowRate: -1, Ramp: -1}, ""},
		{breaker.Config{Window: -time.Second}, "Window is -1s"},
		{breaker.Config{Window: time.Millisecond}, "Window is 1ms"},
		{breaker.Config{FailureRate: 1.01}, "FailureRate is 1.01"},
		{breaker.Config{FailureRate: math.NaN()}, "FailureRate is NaN"},
		{breaker.Config{FailureRate: 1e-12}, "FailureRate is 1e-12"},
		{breaker.Config{SlowRate: math.Inf(1)}, "SlowRate is +Inf"},
		{breaker.Config{MinCalls: -1}, "MinCalls is -1"},
		{breaker.Config{MinCalls: 1e7}, "MinCalls is 10000000"},
		{breaker.Config{OpenFor: -1}, "OpenFor is -1ns"},
		{breaker.Config{MaxOpenFor: -1}, "MaxOpenFor is -1ns"},
		{breaker.Config{OpenFor: time.Minute, MaxOpenFor: time.Second}, "MaxOpenFor is 1s"},
		{breaker.Config{MaxOpenFor: time.Millisecond}, "MaxOpenFor is 1ms"},
		{breaker.Config{Probes: -1}, "Probes is -1"},
		{breaker.Config{Successes: -2}, "Successes is -2"},
		{breaker.Config{ProbeTimeout: -time.Second}, "ProbeTimeout is -1s"},
	} {
		err := v.c.Validate()
		switch {
		case v.want == "" && err != nil:
			t.Errorf("%+v: %v", v.c, err)
		case v.want != "" && (err == nil || !strings.HasPrefix(err.Error(), "breaker: "+v.want+", must be ")):
			t.Errorf("%+v: %v, want %q", v.c, err, v.want)
		}
	}
	if err := (breaker.Config{Probes: -1, MinCalls: -1}).Validate(); strings.Count(err.Error(), "must be") != 2 {
		t.Errorf("not every mistake is named: %v", err)
	}
	defer func() {
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "Probes is -1") {
			t.Errorf("New panicked with %v", r)
		}
	}()
	breaker.New(breaker.Config{Probes: -1})
}

// Durations near the end of the clock do not wrap into the past.
//
// Spec: B27
func TestHugeDurations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := opened(t, breaker.Config{OpenFor: math.MaxInt64, ProbeTimeout: math.MaxInt64, Window: math.MaxInt64, Ramp: math.MaxInt64})
		if d := b.RemainingDelay(); d < 100*365*24*time.Hour {
			t.Errorf("RemainingDelay = %v", d)
		}
		b, _ = probing(t, breaker.Config{ProbeTimeout: math.MaxInt64, Successes: 1})
		p := acquire(t, b)
		time.Sleep(24 * time.Hour)
		p.Done(nil)
		wantState(t, b, breaker.Closed)
		b.ForceOpen(breaker.Override{For: math.MaxInt64})
		wantState(t, b, breaker.Open)
	})
}

// What is observed adds up, has unique series, and looking changes nothing.
//
// Spec: P12
func TestObserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, l := opened(t, breaker.Config{Name: "db"})
		calls(b, 3, nil)
		time.Sleep(time.Minute)
		seen := map[string]float64{}
		for range 2 {
			clear(seen)
			b.Observe(func(m mettle.Metric) bool {
				key := fmt.Sprint(m.Name, m.Labels)
				if _, dup := seen[key]; dup || m.Help == "" || m.Unit == "" {
					t.Errorf("metric %+v", m)
				}
				seen[key] = m.Value
				return true
			})
		}
		if seen["mettle.breaker.rejected[{policy db} {reason open}]"] != 3 ||
			seen["mettle.breaker.state[{policy db} {state open}]"] != 1 ||
			seen["mettle.breaker.transitions[{policy db} {from closed} {to open} {rule trip}]"] != 1 {
			t.Errorf("observed %v", seen)
		}
		n := 0
		b.Observe(func(mettle.Metric) bool { n++; return n < 3 })
		if n != 3 {
			t.Errorf("Observe went on to %d metrics", n)
		}
		if got := l.path(); got != "closed open" {
			t.Errorf("looking changed the state: %s", got)
		}
	})
}

// Of the three states one is 1 and the others are 0, whatever the breaker goes through: it
// is the one that calls meet.
//
// Spec: O1 (part)
func TestStateIsOneOfThree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(breaker.Config{Name: "db", Consecutive: 1, OpenFor: time.Second})
		is := func(want breaker.State, forced float64) {
			t.Helper()
			got := map[string]float64{}
			for m := range b.Observe {
				switch m.Name {
				case "mettle.breaker.state":
					got[m.Labels[1].Value] = m.Value
				case "mettle.breaker.forced":
					got["forced"] = m.Value
				}
			}
			all := map[string]float64{"closed": 0, "open": 0, "half-open": 0, "forced": forced}
			all[want.String()] = 1
			if !maps.Equal(got, all) {
				t.Errorf("the states are %v, want %v", got, all)
			}
		}
		is(breaker.Closed, 0)
		b.Trip("test")
		is(breaker.Open, 0)
		b.ForceClosed(breaker.Override{For: time.Minute})
		is(breaker.Closed, 1)
		b.Release()
		is(breaker.Open, 0)
		time.Sleep(time.Minute)
		p, err := b.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		is(breaker.HalfOpen, 0)
		b.ForceOpen(breaker.Override{For: time.Minute})
		is(breaker.Open, 1)
		p.Done(nil)
	})
}

// A refusal is counted by what kept the call out, and a change of state by what made it.
//
// Spec: O1 (part), P12
func TestObserveTellsWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(breaker.Config{Consecutive: 2, OpenFor: time.Second, Successes: 1, Ramp: time.Hour})
		calls(b, 2, errDown)
		calls(b, 1, nil) // refused: open
		b.ForceOpen(breaker.Override{By: "test"})
		calls(b, 2, nil) // refused: forced
		b.Release()
		time.Sleep(2 * time.Second)
		p := acquire(t, b)
		calls(b, 3, nil) // refused: half-open
		p.Done(nil)
		for b.Stats().Rejected == 1+2+3 { // until the ramp refuses one
			calls(b, 1, nil)
		}
		want := map[string]float64{
			"mettle.breaker.rejected open": 1, "mettle.breaker.rejected forced": 2,
			"mettle.breaker.rejected half-open": 3, "mettle.breaker.rejected ramp": 1,
			"mettle.breaker.transitions closed open consecutive":           1,
			"mettle.breaker.transitions open half-open probe-due":          1,
			"mettle.breaker.transitions half-open closed probes-succeeded": 1,
		}
		got := map[string]float64{}
		for m := range b.Observe {
			key := m.Name
			for _, l := range m.Labels[1:] {
				key += " " + l.Value
			}
			if m.Value > 0 && (m.Name == "mettle.breaker.rejected" || m.Name == "mettle.breaker.transitions") {
				got[key] = m.Value
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	})
}

// The hooks of a trace tell of refusals and of the changes that the call made.
func TestTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(breaker.Config{Name: "db", Consecutive: 1})
		var got []string
		traced := mettle.WithTrace(ctx, &mettle.Trace{
			Rejected:     func(e mettle.TraceEvent) { got = append(got, "rejected by "+e.Policy) },
			StateChanged: func(e mettle.TraceEvent) { got = append(got, e.From+" to "+e.To) },
		})
		_ = b.Do(traced, fail)
		_ = b.Do(traced, succeed)
		if s := strings.Join(got, ", "); s != "closed to open, rejected by db" {
			t.Errorf("traced %s", s)
		}
	})
}
