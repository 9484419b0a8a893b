package breaker_test

import (
	"context"
	"errors"
	"math"
	"net/url"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
)

// caught runs f and returns what it panicked with.
func caught(f func()) (r any) {
	defer func() { r = recover() }()
	f()
	return nil
}

// rude is a context of the user's own making, which panics when asked.
type rude struct {
	context.Context
	value, deadline bool
}

func (c rude) Value(key any) any {
	if c.value {
		panic("Value")
	}
	return c.Context.Value(key)
}

func (c rude) Deadline() (time.Time, bool) {
	if c.deadline {
		panic("Deadline")
	}
	return c.Context.Deadline()
}

// A method of an error or of a context is the user's code too, and a nil pointer in
// an error makes it panic easily. Each of these once kept the lock, so that the
// breaker hung for ever, or the slot of a probe, so that it refused every call until
// ProbeTimeout and then opened for longer.
//
// Spec: P6
func TestErrorsAndContextsMayPanic(t *testing.T) {
	for _, v := range []struct {
		name string
		ctx  context.Context
		err  error
	}{
		{"Timeout of an error", ctx, (*url.Error)(nil)},
		{"RetryAfter of an error", ctx, (*retryAfter)(nil)},
		{"Value of a context", rude{Context: ctx, value: true}, errDown},
		{"Deadline of a context", rude{Context: ctx, deadline: true}, errDown},
	} {
		crash := func(t *testing.T, b *breaker.Breaker) {
			t.Helper()
			if r := caught(func() { _ = b.Do(v.ctx, func(context.Context) error { return v.err }) }); r == nil {
				t.Error("nothing panicked")
			}
			if breaker.Locked(b) {
				t.Fatal("the lock is held for ever")
			}
			if s := b.Stats(); s.Probes != 0 || s.Failures+s.Timeouts+s.Ignored > 1 {
				t.Errorf("stats are %+v", s)
			}
		}
		inBubble(t, v.name+", closed", func(t *testing.T) {
			b := breaker.New(breaker.Config{Consecutive: 1})
			crash(t, b)
			calls(b, 1, errDown)
			wantState(t, b, breaker.Open)
		})
		inBubble(t, v.name+", half-open", func(t *testing.T) {
			b, _ := probing(t, breaker.Config{Successes: 1})
			crash(t, b)
			if calls(b, 1, nil) != 1 {
				t.Error("the slot did not come back")
			}
			wantState(t, b, breaker.Closed)
		})
	}
}

// The call that finds the delay over tells OnChange of it. It once took the slot of a
// probe first, which a hook that panicked took along, and which a hook that blocked
// held for as long, though its call was not under way.
//
// Spec: B24, P6
func TestHooksHoldNoProbe(t *testing.T) {
	inBubble(t, "panicking", func(t *testing.T) {
		boom := true
		b := breaker.New(breaker.Config{Successes: 1, OnChange: func(c breaker.Change) {
			if c.To == breaker.HalfOpen && boom {
				boom = false
				panic("hook")
			}
		}})
		b.Trip("test")
		time.Sleep(b.RemainingDelay())
		if r := caught(func() { calls(b, 1, nil) }); r != "hook" {
			t.Errorf("recovered %v", r)
		}
		if got := b.Stats().Probes; got != 0 {
			t.Errorf("%d probes are in flight", got)
		}
		calls(b, 1, nil)
		wantState(t, b, breaker.Closed)
	})
	inBubble(t, "blocking", func(t *testing.T) {
		l := &log{}
		b := breaker.New(breaker.Config{Successes: 1, OnChange: func(c breaker.Change) {
			if l.add(c); c.To == breaker.HalfOpen {
				time.Sleep(time.Hour)
			}
		}})
		b.Trip("test")
		time.Sleep(b.RemainingDelay())
		ran := false
		go func() { _ = b.Do(ctx, func(context.Context) error { ran = true; return nil }) }()
		synctest.Wait() // until its hook sleeps
		if calls(b, 1, nil) != 1 {
			t.Error("another call was refused meanwhile")
		}
		wantState(t, b, breaker.Closed)
		time.Sleep(time.Hour)
		synctest.Wait()
		if !ran {
			t.Error("the call whose hook blocked did not run")
		}
		if got := l.path(); got != "closed open half-open closed" {
			t.Errorf("went %s", got)
		}
	})
}

// The hook of a trace belongs to one call: its panic goes to that call and keeps no
// change from OnChange, which was once told of it only with the next.
//
// Spec: B24, P6
func TestPanickingTraceHidesNoChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &log{}
		b := breaker.New(breaker.Config{Consecutive: 1, OnChange: l.add})
		traced := mettle.WithTrace(ctx, &mettle.Trace{StateChanged: func(mettle.TraceEvent) { panic("trace") }})
		if r := caught(func() { _ = b.Do(traced, fail) }); r != "trace" {
			t.Errorf("recovered %v", r)
		}
		if got := l.path(); got != "closed open" {
			t.Errorf("told %s", got)
		}
	})
}

// A change that waits behind a hook which panics is told at once, and not with the
// next change, which may be days away.
//
// Spec: B24
func TestChangesBehindAPanicAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &log{}
		var b *breaker.Breaker
		b = breaker.New(breaker.Config{OnChange: func(c breaker.Change) {
			if l.add(c); c.To == breaker.Open {
				b.Reset()
				panic("hook")
			}
		}})
		if r := caught(func() { b.Trip("test") }); r != "hook" {
			t.Errorf("recovered %v", r)
		}
		if got := l.path(); got != "closed open closed" {
			t.Errorf("told %s", got)
		}
	})
}

// A trace's hooks run on the goroutine of its call. When another goroutine was telling
// changes, that one once called them, and after the call had returned.
//
// Spec: B24
func TestTraceStaysWithItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unblock := make(chan struct{})
		first := true
		b := breaker.New(breaker.Config{Consecutive: 1, OnChange: func(breaker.Change) {
			if first {
				first = false
				<-unblock
			}
		}})
		go b.Trip("test")
		synctest.Wait()
		b.Reset()
		told := 0
		_ = b.Do(mettle.WithTrace(ctx, &mettle.Trace{StateChanged: func(mettle.TraceEvent) { told++ }}), fail)
		if told != 1 {
			t.Errorf("told %d times when the call returned, want once", told)
		}
		close(unblock)
		synctest.Wait()
		if told != 1 {
			t.Errorf("told %d times, want once", told)
		}
	})
}

// The caller's deadline excuses a call that did not answer in time. It once excused
// whatever ended after it: a panic, and a failure that the dependency reported.
//
// Spec: B20, P5
func TestDeadlineExcusesTimeoutsOnly(t *testing.T) {
	for name, op := range map[string]func(context.Context) error{
		"failure": func(context.Context) error { time.Sleep(time.Second); return errDown },
		"panic":   func(context.Context) error { time.Sleep(time.Second); panic("boom") },
		"Goexit":  func(context.Context) error { time.Sleep(time.Second); runtime.Goexit(); return nil },
	} {
		inBubble(t, name, func(t *testing.T) {
			b := breaker.New(breaker.Config{Consecutive: 1, SlowCall: time.Minute})
			c, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			go func() {
				defer func() { _ = recover() }()
				_ = b.Do(c, op)
			}()
			time.Sleep(time.Second)
			synctest.Wait()
			if s := b.Stats(); s.State != breaker.Open || s.Failures != 1 {
				t.Errorf("stats are %+v", s)
			}
		})
	}
}

// An override whose time is over is still there until somebody looks. A rule that
// opened the breaker then once did so without a word, and the next call told of an
// override that ended.
//
// Spec: B23, B24, B33
func TestExpiredOverrideHidesNoChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &log{}
		b := breaker.New(breaker.Config{Consecutive: 1, OpenFor: time.Second, OnChange: l.add})
		b.ForceClosed(breaker.Override{For: time.Second})
		p := acquire(t, b)
		time.Sleep(2 * time.Second)
		p.Done(errDown)
		wantState(t, b, breaker.Open)
		calls(b, 1, nil)
		if got := l.all(); len(got) != 1 || got[0].Rule != breaker.RuleConsecutive || got[0].Delay < time.Second {
			t.Errorf("told %v", got)
		}
	})
}

// The refusal of an override says when it ends, but beneath it the breaker may be open
// for longer: what comes back by then is refused again.
//
// Spec: B23, P7
func TestRefusalLooksBeneathTheOverride(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := opened(t, breaker.Config{OpenFor: time.Hour})
		b.ForceOpen(breaker.Override{For: time.Minute})
		_, err := b.Acquire(ctx)
		if d, ok := mettle.RetryAfter(err); !ok || d != b.RemainingDelay() || d < time.Hour {
			t.Errorf("RetryAfter is %v (%v), RemainingDelay %v", d, ok, b.RemainingDelay())
		}
	})
}

// The opening beneath an override can end before the override does, by Reset. Refusals
// once went on to name the end of an opening that was over.
//
// Spec: B23, P7
func TestRefusalForgetsWhatResetForgot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := opened(t, breaker.Config{OpenFor: time.Hour})
		b.ForceOpen(breaker.Override{For: time.Minute})
		b.Reset()
		_, err := b.Acquire(ctx)
		if d, ok := mettle.RetryAfter(err); !ok || d != time.Minute || d != b.RemainingDelay() {
			t.Errorf("RetryAfter is %v (%v), RemainingDelay %v, want a minute", d, ok, b.RemainingDelay())
		}
	})
}

// While every slot is held nobody knows when one will be free. The refusal once
// suggested to come back at once.
//
// Spec: P7
func TestFullHalfOpenSuggestsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := probing(t, breaker.Config{Probes: 1})
		acquire(t, b)
		_, err := b.Acquire(ctx)
		if d, ok := mettle.RetryAfter(err); ok || !errors.Is(err, breaker.ErrOpen) {
			t.Errorf("%v suggests %v", err, d)
		}
	})
}

// An outcome that a classifier makes up says nothing. It once passed for a success,
// and closed the breaker.
//
// Spec: B11
func TestUnknownOutcomeIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := probing(t, breaker.Config{Successes: 1, Classify: func(context.Context, error) mettle.Outcome { return 99 }})
		for range 3 {
			if calls(b, 1, errDown) != 1 {
				t.Fatal("the slot did not come back")
			}
		}
		wantState(t, b, breaker.HalfOpen)
		if s := b.Stats(); s.Ignored != 3 || s.Succeeded != 0 {
			t.Errorf("stats are %+v", s)
		}
	})
}

// A permit that is done once kept the context of its call, and all that hangs on it,
// for as long as the caller kept the permit.
//
// Spec: B15
func TestDonePermitLetsGo(t *testing.T) {
	type request struct {
		context.Context
		_ [1 << 20]byte
	}
	for name, c := range map[string]breaker.Config{
		"healthy":  {FailureRate: -1},
		"settled":  {SlowCall: time.Second},
		"panicked": {Classify: func(context.Context, error) mettle.Outcome { panic("classifier") }},
	} {
		r := &request{Context: ctx}
		gone := weak.Make(r)
		p, _ := breaker.New(c).Acquire(r)
		_ = caught(func() { p.Done(nil) })
		r = nil
		runtime.GC()
		if gone.Value() != nil {
			t.Errorf("%s: a permit that is done keeps its context", name)
		}
		runtime.KeepAlive(&p)
	}
}

// The rate is judged when a call fails. Good calls that leave the window make it rise
// as well, but what the last call said was good, and that does not open.
//
// Spec: B1
func TestRateIsJudgedOnFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(breaker.Config{FailureRate: 0.5, Consecutive: -1, MinCalls: 5})
		calls(b, 100, nil)
		time.Sleep(5 * time.Second)
		calls(b, 30, errDown)
		time.Sleep(6 * time.Second)
		calls(b, 10, nil)
		if s := b.Stats(); s.State != breaker.Closed || s.Calls != 40 || s.Failed != 30 {
			t.Errorf("stats are %+v", s)
		}
		calls(b, 1, errDown)
		wantState(t, b, breaker.Open)
	})
}

// -Inf is negative, and once passed for a rule that is off. What divides by zero has
// not meant to say so.
//
// Spec: P10
func TestInfiniteRatesAreRefused(t *testing.T) {
	for _, inf := range []float64{math.Inf(1), math.Inf(-1)} {
		if (breaker.Config{FailureRate: inf}).Validate() == nil || (breaker.Config{SlowRate: inf}).Validate() == nil {
			t.Errorf("%v was accepted", inf)
		}
	}
}

// A key whose breaker is closed, or was opened and then forgotten, makes room. Where
// a ramp or an override was over and nobody had looked since, it once stayed for ever,
// and so did what was decommissioned while it was down: no new key was protected.
//
// Spec: B29
func TestGroupLetsGoOfTheForgotten(t *testing.T) {
	for name, leave := range map[string]func(b *breaker.Breaker){
		"closed":                func(*breaker.Breaker) {},
		"open":                  func(b *breaker.Breaker) { b.Trip("decommissioned") },
		"override over, open":   func(b *breaker.Breaker) { b.ForceOpen(breaker.Override{For: time.Second}) },
		"override over, closed": func(b *breaker.Breaker) { b.ForceClosed(breaker.Override{For: time.Second}) },
		"ramp over":             func(b *breaker.Breaker) { b.Trip("test"); time.Sleep(b.RemainingDelay()); calls(b, 1, nil) },
	} {
		inBubble(t, name, func(t *testing.T) {
			g := breaker.NewGroup[int](breaker.GroupConfig{MaxKeys: 4, Config: breaker.Config{Ramp: time.Second, Successes: 1}})
			for i := range 4 {
				leave(g.Get(i))
			}
			time.Sleep(30 * 24 * time.Hour)
			if b := g.Get(99); b != g.Get(99) || g.Len() != 4 {
				t.Errorf("a new key was not kept; the group holds %d", g.Len())
			}
		})
	}
}

// NaN does not equal itself: a group once kept a breaker for each, which no look would
// find and no eviction delete.
//
// Spec: B29
func TestGroupKeepsNoNaN(t *testing.T) {
	g := breaker.NewGroup[float64](breaker.GroupConfig{MaxKeys: 4})
	for range 1000 {
		if calls(g.Get(math.NaN()), 1, nil) != 1 {
			t.Fatal("a call was refused")
		}
	}
	if g.Len() != 0 {
		t.Errorf("the group holds %d keys that nobody can ask for", g.Len())
	}
	if b := g.Get(1); b != g.Get(1) {
		t.Error("the keys that were not kept have taken the room")
	}
}

// The bound is that of the whole group. It was once split evenly among the shards,
// over which keys do not spread evenly: some were let go while there was room.
//
// Spec: B29
func TestGroupBoundIsThatOfTheWhole(t *testing.T) {
	const keys = 9_900
	g := breaker.NewGroup[int](breaker.GroupConfig{MaxKeys: 10_000})
	kept := make([]*breaker.Breaker, keys)
	for i := range kept {
		kept[i] = g.Get(i)
	}
	for i, b := range kept {
		if g.Get(i) != b {
			t.Fatalf("key %d was let go while the group held %d", i, g.Len())
		}
	}
}

// nosy is a key that asks the group for itself as it is printed.
type nosy struct{ ask *func() }

func (k nosy) String() string {
	if ask := *k.ask; ask != nil {
		*k.ask = nil
		ask()
	}
	return "nosy"
}

// A key's String method names its breaker, and may ask the group for that breaker. It
// runs before the lock is taken, so that what the key got by then is there to be
// found.
//
// Spec: B29, P6 (part)
func TestGroupKeyAsksForItself(t *testing.T) {
	g := breaker.NewGroup[nosy](breaker.GroupConfig{})
	var inner *breaker.Breaker
	ask := new(func())
	*ask = func() { inner = g.Get(nosy{ask}) }
	if outer := g.Get(nosy{ask}); inner == nil || outer != inner || g.Len() != 1 {
		t.Errorf("got %p and %p for one key, %d are kept", outer, inner, g.Len())
	}
}

// Once what it takes has been made, looking allocates nothing.
//
// Spec: P12
func TestObserveAllocatesNothing(t *testing.T) {
	b := breaker.New(breaker.Config{Name: "db"})
	g := breaker.NewGroup[string](breaker.GroupConfig{})
	g.Get("host")
	for name, o := range map[string]mettle.Observable{"breaker": b, "group": g} {
		look := func() { o.Observe(func(mettle.Metric) bool { return true }) }
		look()
		if n := testing.AllocsPerRun(100, look); n != 0 {
			t.Errorf("%s: Observe allocates %v times", name, n)
		}
	}
}

// The lease of a probe begins when the probe does. It once began when its call came, so
// that a hook which blocked for longer than ProbeTimeout made a good probe void.
//
// Spec: B13, B24
func TestLeaseBeginsWithTheProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(breaker.Config{Successes: 1, OnChange: func(c breaker.Change) {
			if c.To == breaker.HalfOpen {
				time.Sleep(20 * time.Second)
			}
		}})
		b.Trip("test")
		time.Sleep(b.RemainingDelay())
		_ = b.Do(ctx, succeed)
		wantState(t, b, breaker.Closed)
	})
}

// A refusal under an override tells of the opening beneath it, which may last longer.
//
// Spec: B23, P7
func TestOpenedBeneathAnOverride(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(breaker.Config{Consecutive: 1, OpenFor: time.Hour, MaxOpenFor: time.Hour})
		p := acquire(t, b)
		b.ForceOpen(breaker.Override{For: time.Minute})
		p.Done(errDown)
		_, err := b.Acquire(ctx)
		if d, _ := mettle.RetryAfter(err); d != b.RemainingDelay() || d < time.Hour {
			t.Errorf("RetryAfter says %v, RemainingDelay %v", d, b.RemainingDelay())
		}
	})
}

// A probe that runs out beneath an override opens the breaker for longer than the
// override lasts. Nobody took notice while calls were refused anyway, and they were told
// to come back when the override would be over: too soon.
//
// Spec: B13, B23, P7
func TestRefusalKnowsOfAProbeThatRanOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := probing(t, breaker.Config{OpenFor: time.Minute, ProbeTimeout: time.Second})
		acquire(t, b) // hangs
		b.ForceOpen(breaker.Override{For: 10 * time.Second})
		time.Sleep(9 * time.Second)
		_, err := b.Acquire(ctx)
		if d, _ := mettle.RetryAfter(err); d != b.RemainingDelay() || d < 50*time.Second {
			t.Errorf("RetryAfter says %v, RemainingDelay %v", d, b.RemainingDelay())
		}
	})
}

// A key function that panics says nothing about the dependency. The breaker of the whole
// once took it for a probe that failed, and opened again.
//
// Spec: B29, P6
func TestKeyThatPanicsIsNobodysFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := breaker.NewGroup[string](breaker.GroupConfig{Breadth: 0.5, Config: breaker.Config{Successes: 1}})
		boom := true
		p := mettle.Compose(g.By(func(context.Context) string {
			if boom {
				panic("no key")
			}
			return "key"
		}))
		whole := g.Whole()
		for _, state := range []breaker.State{breaker.Closed, breaker.HalfOpen} {
			boom = true
			if r := caught(func() { _ = p.Do(ctx, succeed) }); r != "no key" {
				t.Errorf("%v: recovered %v", state, r)
			}
			if s := whole.Stats(); s.Failures != 0 || s.Probes != 0 || g.Len() != 0 {
				t.Errorf("%v: a call was counted: %+v, %d keys", state, s, g.Len())
			}
			whole.Trip("test")
			time.Sleep(whole.RemainingDelay())
		}
		boom = false
		if err := p.Do(ctx, succeed); err != nil {
			t.Errorf("the probe is answered %v", err)
		}
		wantState(t, whole, breaker.Closed)
	})
}
