package bulkhead_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/bulkhead"
)

var (
	bg   = context.Background()
	noop = func(context.Context) error { return nil }
)

// limiter is a Bulkhead or a Pool.
type limiter interface {
	mettle.Policy
	Acquire(context.Context) (bulkhead.Permit, error)
	TryAcquire() (bulkhead.Permit, bool)
	Stats() bulkhead.Stats
}

// hold takes n slots.
func hold(t testing.TB, b limiter, n int) []bulkhead.Permit {
	t.Helper()
	var ps []bulkhead.Permit
	for range n {
		p, ok := b.TryAcquire()
		if !ok {
			t.Fatalf("slot %d of %d is not free: %+v", len(ps)+1, n, b.Stats())
		}
		ps = append(ps, p)
	}
	return ps
}

// attempt is an Acquire that runs on its own goroutine. Its other fields may be read
// once isDone.
type attempt struct {
	done   atomic.Bool
	permit bulkhead.Permit
	err    error
	took   time.Duration
}

func acquire(ctx context.Context, b limiter) *attempt {
	a := &attempt{}
	start := time.Now()
	go func() {
		a.permit, a.err = b.Acquire(ctx)
		a.took = time.Since(start)
		a.done.Store(true)
	}()
	return a
}

func (a *attempt) isDone() bool { return a.done.Load() }

// release releases the permit if there is one yet.
func (a *attempt) release() {
	if a.isDone() {
		a.permit.Release()
	}
}

// wantIdle fails unless every slot is free and nobody waits.
func wantIdle(t testing.TB, b limiter) {
	t.Helper()
	if s := b.Stats(); s.InFlight != 0 || s.Queued != 0 {
		t.Fatalf("want an idle bulkhead, got %+v", s)
	}
}

func TestZeroConfig(t *testing.T) {
	b := bulkhead.New(bulkhead.Config{})
	hold(t, b, 200)
	if err := b.Do(bg, noop); !errors.Is(err, bulkhead.ErrFull) {
		t.Errorf("call 201: got %v, want ErrFull at once", err)
	}
	if s := b.Stats(); s.Limit != 200 || s.MaxQueue != 0 || s.Refused != 1 {
		t.Errorf("got %+v", s)
	}
}

// Spec: P10
func TestConfigIsValidatedWhole(t *testing.T) {
	valid := []bulkhead.Config{
		{},
		{Name: "x", Limit: 1, MaxQueue: 1, MaxWait: 1, Order: bulkhead.LIFO},
		{Limit: math.MaxInt32, MaxQueue: math.MaxInt32, MaxWait: math.MaxInt64},
		{MaxQueue: 5}, // without effect, not wrong
	}
	for _, c := range valid {
		if err := c.Validate(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		bulkhead.New(c)
	}

	bad := bulkhead.Config{Limit: -1, MaxQueue: -2, MaxWait: -3 * time.Second, Order: 7}
	err := bad.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"bulkhead: Limit is -1, must be between 1 and 2147483647, or zero for the default",
		"bulkhead: MaxQueue is -2, must be between 1 and 2147483647, or zero for as many as Limit",
		"bulkhead: MaxWait is -3s, must be positive, or zero for no waiting",
		"bulkhead: Order is order(7), must be FIFO or LIFO",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in\n%v", want, err)
		}
	}
	if math.MaxInt > math.MaxInt32 {
		big := math.MaxInt32 // a variable, for 32-bit builds
		big++
		if (bulkhead.Config{Limit: big}).Validate() == nil || (bulkhead.Config{MaxQueue: big}).Validate() == nil {
			t.Error("2^31 is accepted")
		}
	}
	if got := mustPanic(t, func() { bulkhead.New(bad) }); got != err.Error() {
		t.Errorf("New panics with %v, want Validate's message", got)
	}
}

func mustPanic(t testing.TB, f func()) (value any) {
	t.Helper()
	defer func() {
		if value = recover(); value == nil {
			t.Error("no panic")
		}
	}()
	f()
	return nil
}

func TestOrderString(t *testing.T) {
	if got := fmt.Sprint(bulkhead.FIFO, bulkhead.LIFO); got != "fifo lifo" {
		t.Errorf("got %q", got)
	}
}

// Spec: K4, P5
func TestSlotComesBackHoweverOpEnds(t *testing.T) {
	failure := errors.New("failure")
	ends := map[string]func(context.Context) error{
		"return":     func(context.Context) error { return failure },
		"panic":      func(context.Context) error { panic(failure) },
		"panic(nil)": func(context.Context) error { panic(nil) },
		"Goexit":     func(context.Context) error { runtime.Goexit(); return nil },
	}
	for name, op := range ends {
		t.Run(name, func(t *testing.T) {
			b := bulkhead.New(bulkhead.Config{Limit: 1})
			for _, p := range []mettle.Policy{b, mettle.Compose(b)} {
				var err error
				var recovered any
				returned := false
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					defer func() { recovered = recover() }()
					err = p.Do(bg, op)
					returned = true
				}()
				<-ended
				wantIdle(t, b)
				var wantErr error
				if name == "return" {
					wantErr = failure
				}
				if err != wantErr || returned != (name == "return") {
					t.Errorf("returned %v, error %v", returned, err)
				}
				if name == "panic" && recovered != any(failure) {
					t.Errorf("panic value is %v", recovered)
				}
			}
		})
	}
}

// Spec: P4
func TestContextDoneOnEntry(t *testing.T) {
	cause := errors.New("cause")
	ctx, cancel := context.WithCancelCause(bg)
	cancel(cause)
	b := bulkhead.New(bulkhead.Config{})
	ran := false
	op := func(context.Context) error { ran = true; return nil }
	if err := b.Do(ctx, op); err != cause || ran {
		t.Errorf("Do: got %v, ran %v", err, ran)
	}
	if p, err := b.Acquire(ctx); err != cause || p != (bulkhead.Permit{}) {
		t.Errorf("Acquire: got %v, %v", p, err)
	}
	wantIdle(t, b)
}

// A bound bulkhead does not look at the context on entry, but looks after a wait.
//
// Spec: P4, P9
func TestOpDoesNotRunUnderAContextThatEndedInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bulkhead.New(bulkhead.Config{Limit: 1, MaxWait: time.Minute})
		held := hold(t, b, 1)
		ctx, cancel := context.WithCancel(bg)
		ran, result := false, make(chan error, 1)
		go func() {
			result <- mettle.Compose(b).Do(ctx, func(context.Context) error { ran = true; return nil })
		}()
		synctest.Wait()
		cancel()
		held[0].Release() // the grant and the end of the context are there together
		if err := <-result; !errors.Is(err, context.Canceled) || ran {
			t.Errorf("got %v, ran %v", err, ran)
		}
		wantIdle(t, b)
	})

	b := bulkhead.New(bulkhead.Config{})
	ctx, cancel := context.WithCancel(bg)
	if err := b.Do(ctx, func(context.Context) error { cancel(); return nil }); err != nil {
		t.Errorf("a success comes back as %v because its context ended", err)
	}
}

// Spec: K2, P7
func TestNobodyWaitsWithoutMaxWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bulkhead.New(bulkhead.Config{Name: "db", Limit: 2, MaxQueue: 5})
		hold(t, b, 2)
		start := time.Now()
		_, err := b.Acquire(bg)
		if time.Since(start) != 0 {
			t.Error("it waited")
		}
		var full *bulkhead.FullError
		if !errors.As(err, &full) || *full != (bulkhead.FullError{Name: "db", Limit: 2}) {
			t.Errorf("got %#v", err)
		}
		if got, want := err.Error(), `bulkhead: "db" full: 2 in flight`; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// Spec: K2, K7, P7
func TestQueueIsBoundedInLengthAndTime(t *testing.T) {
	for _, tc := range []struct{ maxQueue, want int }{{0, 2}, {3, 3}} {
		synctest.Test(t, func(t *testing.T) {
			b := bulkhead.New(bulkhead.Config{Name: "db", Limit: 2, MaxQueue: tc.maxQueue, MaxWait: 50 * time.Millisecond})
			hold(t, b, 2)
			var as []*attempt
			for range tc.want + 1 {
				as = append(as, acquire(bg, b))
				synctest.Wait()
			}
			last := as[tc.want]
			if !last.isDone() || last.err.Error() != fmt.Sprintf(`bulkhead: "db" full: 2 in flight and %d waiting`, tc.want) {
				t.Fatalf("one too many: got %v, %v", last.isDone(), last.err)
			}
			if s := b.Stats(); s.Queued != tc.want || s.MaxQueue != tc.want || s.Refused != 1 || s.Expired != 0 {
				t.Errorf("got %+v", s)
			}
			time.Sleep(50 * time.Millisecond)
			synctest.Wait()
			for _, a := range as[:tc.want] {
				var full *bulkhead.FullError
				if !errors.As(a.err, &full) || full.Waited != 50*time.Millisecond || a.took != full.Waited {
					t.Fatalf("after %v: %v", a.took, a.err)
				}
				if want := `bulkhead: "db" full: none of 2 slots came free within 50ms`; a.err.Error() != want {
					t.Errorf("got %q, want %q", a.err, want)
				}
			}
			s := b.Stats()
			if s.Queued != 0 || s.Waits != uint64(tc.want) || s.Waited != time.Duration(tc.want)*50*time.Millisecond ||
				s.Expired != uint64(tc.want) || s.Refused != s.Expired+1 {
				t.Errorf("got %+v", s)
			}
		})
	}
}

// Spec: K2
func TestContextEndsAWait(t *testing.T) {
	cause := errors.New("cause")
	for name, derive := range map[string]func() (context.Context, context.CancelFunc){
		"deadline": func() (context.Context, context.CancelFunc) {
			return context.WithTimeoutCause(bg, time.Second, cause)
		},
		"cancel": func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(bg)
			time.AfterFunc(time.Second, func() { cancel(cause) })
			return ctx, func() { cancel(nil) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := bulkhead.New(bulkhead.Config{Limit: 1, MaxWait: time.Minute})
				held := hold(t, b, 1)
				ctx, cancel := derive()
				defer cancel()
				start := time.Now()
				if err := b.Do(ctx, noop); !errors.Is(err, cause) || time.Since(start) != time.Second {
					t.Errorf("got %v after %v", err, time.Since(start))
				}
				if s := b.Stats(); s.Refused != 0 || s.Waits != 1 || s.Waited != time.Second {
					t.Errorf("a wait that the caller ended is no refusal: %+v", s)
				}
				held[0].Release()
				wantIdle(t, b)
			})
		})
	}
}

// slow is the cause of a context that ended by a timeout of a policy's, which says of
// itself that a dependency took too long.
type slow struct{}

func (slow) Error() string           { return "too slow" }
func (slow) Outcome() mettle.Outcome { return mettle.Timeout }

// A deadline that passed in our own queue once came back as it was. It passed for a
// timeout of the dependency, so that ten impatient callers opened the breaker around the
// bulkhead although nobody had called.
//
// Spec: K2, P8
func TestTimeInTheQueueIsNotTheDependencys(t *testing.T) {
	for name, tc := range map[string]struct {
		derive func() (context.Context, context.CancelFunc)
		cause  error
	}{
		"the caller's deadline": {func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(bg, time.Second)
		}, context.DeadlineExceeded},
		"a timeout's deadline": {func() (context.Context, context.CancelFunc) {
			return context.WithTimeoutCause(bg, time.Second, slow{})
		}, slow{}},
		"cancelled": {func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(bg)
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		}, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := bulkhead.New(bulkhead.Config{Name: "db", Limit: 1, MaxWait: time.Minute})
				hold(t, b, 1)
				for way, enter := range map[string]func(context.Context) error{
					"Do":       func(ctx context.Context) error { return b.Do(ctx, noop) },
					"pipeline": func(ctx context.Context) error { return mettle.Compose(b).Do(ctx, noop) },
					"Acquire":  func(ctx context.Context) error { _, err := b.Acquire(ctx); return err },
				} {
					ctx, cancel := tc.derive()
					err := enter(ctx)
					cancel()
					if !errors.Is(err, tc.cause) || errors.Is(err, mettle.ErrRejected) {
						t.Errorf("%s: got %v, want the cause, and no refusal", way, err)
					}
					// A classifier may be asked with another context than the one that ended.
					for _, asked := range []context.Context{bg, ctx} {
						if got := mettle.Classify(asked, err); got != mettle.Ignored {
							t.Errorf("%s: %v is a %v, want it ignored", way, err, got)
						}
					}
					if want := fmt.Sprintf(`bulkhead: "db": no slot before the context ended: %v`, tc.cause); err.Error() != want {
						t.Errorf("%s: got %q, want %q", way, err, want)
					}
				}
			})
		})
	}
}

// A breaker around the bulkhead would take a long queue for a slow dependency, if it
// could not see how much of the time the call has spent in the queue.
//
// Spec: B22 (part), K7
func TestTimeInTheQueueIsNoted(t *testing.T) {
	for name, enter := range map[string]func(*bulkhead.Bulkhead, context.Context) error{
		"pipeline": func(b *bulkhead.Bulkhead, ctx context.Context) error { return mettle.Compose(b).Do(ctx, noop) },
		"Do":       func(b *bulkhead.Bulkhead, ctx context.Context) error { return b.Do(ctx, noop) },
		"Acquire": func(b *bulkhead.Bulkhead, ctx context.Context) error {
			p, err := b.Acquire(ctx)
			p.Release()
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := bulkhead.New(bulkhead.Config{Limit: 1, MaxWait: time.Minute})
				outer := mettle.WithQueued(bg)
				for i, want := range []time.Duration{0, 3 * time.Second, 0, 5 * time.Second} {
					inner := mettle.WithQueued(mettle.WithAttempt(outer, i+1))
					if want > 0 {
						p := hold(t, b, 1)[0]
						time.AfterFunc(want, p.Release)
					}
					if err := enter(b, inner); err != nil {
						t.Fatal(err)
					}
					if got := mettle.Queued(inner); got != want {
						t.Errorf("call %d waited %v, and %v are noted", i+1, want, got)
					}
				}
				if got := mettle.Queued(outer); got != 8*time.Second {
					t.Errorf("around all attempts %v are noted, want 8s", got)
				}
			})
		})
	}
}

// A context may be past its end before its Done says so, and the wait may expire in
// between. The end of the context goes first then, as it does before a grant.
//
// Spec: K2
func TestContextThatEndsAsTheWaitExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bulkhead.New(bulkhead.Config{Limit: 1, MaxWait: time.Second})
		held := hold(t, b, 1)
		ctx := &endedContext{Context: bg}
		waiter := acquire(ctx, b)
		synctest.Wait()
		ctx.ended.Store(true)
		time.Sleep(time.Second)
		synctest.Wait()
		if !errors.Is(waiter.err, context.Canceled) || b.Stats().Refused != 0 {
			t.Errorf("got %v, %+v", waiter.err, b.Stats())
		}
		held[0].Release()
		wantIdle(t, b)
	})
}

// endedContext has ended when told so, and never closes Done.
type endedContext struct {
	context.Context
	ended atomic.Bool
}

func (c *endedContext) Err() error {
	if c.ended.Load() {
		return context.Canceled
	}
	return nil
}

// Spec: K2
func TestOrder(t *testing.T) {
	for order, want := range map[bulkhead.Order]string{bulkhead.FIFO: "[0 1 2 3]", bulkhead.LIFO: "[3 2 1 0]"} {
		synctest.Test(t, func(t *testing.T) {
			b := bulkhead.New(bulkhead.Config{Limit: 1, MaxQueue: 4, MaxWait: time.Minute, Order: order})
			held := hold(t, b, 1)
			var got []int
			for i := range 4 {
				go b.Do(bg, func(context.Context) error { got = append(got, i); return nil })
				synctest.Wait()
			}
			if _, ok := b.TryAcquire(); ok {
				t.Error("TryAcquire overtook the queue")
			}
			held[0].Release()
			synctest.Wait()
			if fmt.Sprint(got) != want {
				t.Errorf("%v: got %v, want %v", order, got, want)
			}
			wantIdle(t, b)
		})
	}
}

// Three calls: one holds, one is about to be granted, one stands behind it. The
// second is cancelled while the first releases. Whichever comes first, the slot goes
// to exactly one of the two, and to the other afterwards.
//
// Spec: K3
func TestCancelAtTheInstantOfTheGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bulkhead.New(bulkhead.Config{Limit: 1, MaxQueue: 2, MaxWait: time.Hour})
		granted := 0
		for i := range 500 {
			if cancelAtGrant(t, b, i%3) {
				granted++
			}
		}
		t.Logf("granted before cancelled: %d of 500", granted)
	})
}

// cancelAtGrant plays one round, and reports whether the cancelled call had its slot
// before the cancellation.
func cancelAtGrant(t *testing.T, b limiter, how int) bool {
	held := hold(t, b, 1)
	ctx, cancel := context.WithCancel(bg)
	defer cancel()
	second := acquire(ctx, b)
	synctest.Wait()
	third := acquire(bg, b)
	synctest.Wait()

	switch how {
	case 0: // in parallel
		go held[0].Release()
		cancel()
	case 1: // the cancellation is certain to come before the grant
		cancel()
		held[0].Release()
	case 2: // and here after it
		held[0].Release()
		cancel()
	}
	synctest.Wait()
	if !second.isDone() {
		t.Fatal("the cancelled waiter still waits")
	}
	granted := second.err == nil
	if granted {
		if third.isDone() || how == 1 {
			t.Fatal("one slot for two, or a slot under a context that has ended")
		}
		second.permit.Release()
		synctest.Wait()
	} else if !errors.Is(second.err, context.Canceled) {
		t.Fatal(second.err)
	}
	if !third.isDone() || third.err != nil {
		t.Fatalf("the slot was lost: %v, %v, %+v", third.isDone(), third.err, b.Stats())
	}
	third.permit.Release()
	wantIdle(t, b)
	return granted
}

// The wait expires in the instant in which the slot comes free. The call is refused or
// has the slot, and the slot is free afterwards.
//
// Spec: K3
func TestGrantAtTheInstantOfExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bulkhead.New(bulkhead.Config{Limit: 3, MaxWait: time.Second})
		granted := 0
		for range 300 {
			held := hold(t, b, 3)
			var waiters []*attempt
			for range held {
				waiters = append(waiters, acquire(bg, b))
			}
			synctest.Wait()
			time.Sleep(time.Second)
			for _, p := range held {
				p.Release()
			}
			synctest.Wait()
			for _, w := range waiters {
				if w.err == nil {
					granted++
				}
				w.release()
			}
			wantIdle(t, b)
		}
		t.Logf("granted before expired: %d of 900", granted)
	})
}

// Spec: K5
func TestResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bulkhead.New(bulkhead.Config{Name: "db", Limit: 2, MaxWait: time.Hour})
		held := hold(t, b, 2)
		first, second := acquire(bg, b), acquire(bg, b)
		synctest.Wait()

		b.Resize(4) // up: both waiters enter at once
		synctest.Wait()
		if !first.isDone() || !second.isDone() || first.err != nil || second.err != nil {
			t.Fatalf("waiters were not admitted: %+v", b.Stats())
		}
		held = append(held, first.permit, second.permit)

		b.Resize(1) // below what is in flight: it drains
		waiter := acquire(bg, b)
		synctest.Wait()
		if s := b.Stats(); s.Limit != 1 || s.InFlight != 4 || s.Queued != 1 || s.MaxQueue != 1 {
			t.Fatalf("got %+v", s)
		}
		if err := b.Do(bg, noop); err == nil || err.Error() != `bulkhead: "db" full: 1 in flight and 1 waiting` {
			t.Errorf("refusal does not follow the limit: %v", err)
		}
		for i, p := range held {
			if waiter.isDone() {
				t.Fatalf("admitted with %d in flight", 4-i)
			}
			p.Release()
			synctest.Wait()
		}
		if !waiter.isDone() || waiter.err != nil {
			t.Fatalf("not admitted when drained: %+v", b.Stats())
		}
		waiter.permit.Release()
		wantIdle(t, b)
	})
}

// Spec: K5
func TestResizeRefusesWhatNewWould(t *testing.T) {
	b := bulkhead.New(bulkhead.Config{Limit: 3})
	for _, n := range []int{0, -1, math.MinInt} {
		if got, want := mustPanic(t, func() { b.Resize(n) }), fmt.Sprintf("bulkhead: Resize to %d, must be between 1 and 2147483647", n); got != want {
			t.Errorf("panics with %q, want %q", got, want)
		}
	}
	hold(t, b, 3) // nothing changed, and no lock is held
	b.Resize(math.MaxInt32)
	hold(t, b, 1)
}

// Spec: K4
func TestPermitIsReleasedOnce(t *testing.T) {
	b := bulkhead.New(bulkhead.Config{Limit: 2})
	bulkhead.Permit{}.Release()
	held := hold(t, b, 2)
	p, copied := held[0], held[0]
	p.Release()
	p.Release()
	copied.Release()
	if s := b.Stats(); s.InFlight != 1 {
		t.Fatalf("one permit released three times, one held: %+v", s)
	}
	next := hold(t, b, 1)
	copied.Release() // the slot belongs to another now
	if s := b.Stats(); s.InFlight != 2 {
		t.Fatalf("a stale copy released the slot of another permit: %+v", s)
	}
	next[0].Release()
	held[1].Release()
	wantIdle(t, b)

	// More permits than tickets were made for, some of them held for long.
	b.Resize(20_000)
	held = hold(t, b, 20_000)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for j := range held {
				held[(j+i*777)%len(held)].Release()
			}
		})
	}
	all.Wait()
	wantIdle(t, b)
}

// Spec: P8
func TestRefusalIsNoOutcomeOfTheDependency(t *testing.T) {
	outer := bulkhead.New(bulkhead.Config{Name: "outer", Limit: 1})
	inner := bulkhead.New(bulkhead.Config{Name: "inner", Limit: 1})
	p := mettle.Compose(outer, inner)

	for _, full := range []*bulkhead.Bulkhead{inner, outer} {
		held := hold(t, full, 1)
		err := p.Do(bg, noop)
		if !errors.Is(err, bulkhead.ErrFull) || !errors.Is(err, mettle.ErrRejected) {
			t.Errorf("got %v", err)
		}
		if got := mettle.Classify(bg, err); got != mettle.Ignored {
			t.Errorf("classified as %v", got)
		}
		if _, ok := mettle.RetryAfter(err); ok {
			t.Error("a bulkhead cannot know when a slot comes free")
		}
		var refusal *bulkhead.FullError
		if want := map[*bulkhead.Bulkhead]string{inner: "inner", outer: "outer"}[full]; !errors.As(err, &refusal) || refusal.Name != want {
			t.Errorf("got %+v, want the refusal of %s", refusal, want)
		}
		held[0].Release()
	}
	wantIdle(t, outer)
	wantIdle(t, inner)
}

// gate stands in for a half-open breaker: it admits one probe at a time, refuses
// the rest, and an ignored outcome gives the probe back.
type gate struct {
	probes  int // free ones
	decided int // outcomes that counted
}

var errShut = fmt.Errorf("gate: shut: %w", mettle.ErrRejected)

func (g *gate) Do(ctx context.Context, op func(context.Context) error) error {
	if g.probes == 0 {
		return errShut
	}
	g.probes--
	err := op(ctx)
	if mettle.Classify(ctx, err) == mettle.Ignored {
		g.probes++
	} else {
		g.decided++
	}
	return err
}

// Spec: K6, P2
func TestBreakerAndBulkheadCostEachOtherNothing(t *testing.T) {
	g, b := &gate{probes: 1}, bulkhead.New(bulkhead.Config{Limit: 1})
	for name, p := range map[string]mettle.Policy{
		"breaker outside": mettle.Compose(g, b),
		"breaker inside":  mettle.Compose(b, g),
	} {
		t.Run(name, func(t *testing.T) {
			held := hold(t, b, 1)
			for range 3 {
				if err := p.Do(bg, noop); !errors.Is(err, bulkhead.ErrFull) {
					t.Fatal(err)
				}
			}
			if g.probes != 1 || g.decided != 0 {
				t.Errorf("a full bulkhead cost a probe: %+v", g)
			}
			held[0].Release()

			g.probes = 0
			if err := p.Do(bg, noop); err != errShut {
				t.Fatal(err)
			}
			wantIdle(t, b)

			g.probes = 1
			if err := p.Do(bg, noop); err != nil || g.decided != 1 {
				t.Errorf("a healthy call after all that: %v, %+v", err, g)
			}
			*g = gate{probes: 1}
		})
	}
}

func TestTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bulkhead.New(bulkhead.Config{Name: "db", Limit: 1, MaxQueue: 1, MaxWait: time.Second})
		held := hold(t, b, 1)
		var got []string
		trace := &mettle.Trace{
			Wait: func(e mettle.TraceEvent) {
				got = append(got, fmt.Sprint("wait ", e.Policy, " ", e.Delay))
				b.Stats() // no lock is held
			},
			Rejected: func(e mettle.TraceEvent) {
				got = append(got, fmt.Sprint("rejected ", e.Policy, " ", e.Err))
				b.Stats()
			},
		}
		ctx := mettle.WithTrace(bg, trace)
		if b.Do(ctx, noop); len(got) != 2 {
			t.Fatal(got)
		}
		short, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		b.Do(short, noop)
		waiter := acquire(bg, b)
		synctest.Wait()
		b.Do(ctx, noop)
		held[0].Release()
		synctest.Wait()
		waiter.permit.Release()
		b.Do(ctx, noop) // a healthy call calls no hook

		want := []string{
			"wait db 1s",
			`rejected db bulkhead: "db" full: none of 1 slots came free within 1s`,
			"wait db 1ms",
			`rejected db bulkhead: "db" full: 1 in flight and 1 waiting`,
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// The Wait hook may do what it likes to the bulkhead. What it changes is what the call
// then finds.
func TestWaitHookChangesTheBulkhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bulkhead.New(bulkhead.Config{Limit: 1, MaxQueue: 1, MaxWait: time.Hour})
		held := hold(t, b, 1)
		var hook func()
		ctx, cancel := context.WithCancel(bg)
		ctx = mettle.WithTrace(ctx, &mettle.Trace{Wait: func(mettle.TraceEvent) { hook() }})

		var waiter *attempt
		hook = func() { waiter = acquire(bg, b); synctest.Wait() } // takes the last place in the queue
		start := time.Now()
		if err := b.Do(ctx, noop); !errors.Is(err, bulkhead.ErrFull) || time.Since(start) != 0 {
			t.Errorf("queue full meanwhile: got %v after %v", err, time.Since(start))
		}
		held[0].Release()
		synctest.Wait()
		held[0] = waiter.permit

		hook = func() { held[0].Release() }
		if err := b.Do(ctx, noop); err != nil {
			t.Errorf("slot free meanwhile: got %v", err)
		}
		held = hold(t, b, 1)
		hook = func() { held[0].Release(); cancel() }
		if err := b.Do(ctx, noop); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled meanwhile: got %v", err)
		}
		wantIdle(t, b)
	})
}

// Spec: P6
func TestPanicInAHook(t *testing.T) {
	trace := &mettle.Trace{
		Wait:     func(mettle.TraceEvent) { panic("wait") },
		Rejected: func(mettle.TraceEvent) { panic("rejected") },
	}
	ctx := mettle.WithTrace(bg, trace)
	for want, c := range map[string]bulkhead.Config{
		"wait":     {Limit: 1, MaxWait: time.Hour},
		"rejected": {Limit: 1},
	} {
		b := bulkhead.New(c)
		held := hold(t, b, 1)
		if got := mustPanic(t, func() { b.Do(ctx, noop) }); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
		if s := b.Stats(); s.InFlight != 1 || s.Queued != 0 {
			t.Errorf("%s: got %+v", want, s)
		}
		held[0].Release()
		if err := b.Do(bg, noop); err != nil {
			t.Error(err)
		}
	}
}

// A context of the user's is asked once more when the wait is over. One that panicked
// there took the slot with it that the call had just been granted.
//
// Spec: P5, P6, K4
func TestPanicInAContextWithASlotInHand(t *testing.T) {
	for name, leave := range map[string]func(){
		"panic": func() { panic("err") }, "Goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := bulkhead.New(bulkhead.Config{Limit: 1, MaxWait: time.Hour})
				held := hold(t, b, 1)
				ctx := &leavingContext{Context: bg}
				go func() {
					defer func() { _ = recover() }()
					_ = mettle.Compose(b).Do(ctx, func(context.Context) error { t.Error("op ran"); return nil })
				}()
				synctest.Wait()
				ctx.leave = leave
				held[0].Release()
				synctest.Wait()
				wantIdle(t, b)
			})
		})
	}
}

// leavingContext does not live to say whether it has ended, from some moment on.
type leavingContext struct {
	context.Context
	leave func() // nil: not yet
}

func (c *leavingContext) Err() error {
	if c.leave != nil {
		c.leave()
	}
	return nil
}

// A context of the user's may start a timer in Done, or panic there.
//
// Spec: P6
func TestPanicInAContext(t *testing.T) {
	b := bulkhead.New(bulkhead.Config{Limit: 1, MaxWait: time.Hour})
	held := hold(t, b, 1)
	mustPanic(t, func() { b.Do(brokenContext{bg}, noop) })
	held[0].Release()
	wantIdle(t, b)
	hold(t, b, 1)
}

type brokenContext struct{ context.Context }

func (brokenContext) Done() <-chan struct{} { panic("done") }

// Spec: K7, P12
func TestObserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bulkhead.New(bulkhead.Config{Name: "db", Limit: 2, MaxQueue: 3, MaxWait: 1500 * time.Millisecond})
		hold(t, b, 2)
		b.Do(bg, noop)
		for range 3 {
			acquire(bg, b)
			synctest.Wait()
		}
		b.Do(bg, noop)
		b.Do(bg, noop)

		var got []string
		for range 2 { // looking changes nothing
			got = nil
			b.Observe(func(m mettle.Metric) bool {
				got = append(got, fmt.Sprint(m.Kind, " ", m.Name, m.Labels, " ", m.Value, m.Unit))
				if m.Help == "" {
					t.Errorf("%s has no help", m.Name)
				}
				return true
			})
		}
		want := []string{
			"gauge mettle.bulkhead.in_flight[{policy db}] 2{call}",
			"gauge mettle.bulkhead.limit[{policy db}] 2{call}",
			"gauge mettle.bulkhead.queued[{policy db}] 3{call}",
			"gauge mettle.bulkhead.max_queue[{policy db}] 3{call}",
			"counter mettle.bulkhead.rejected[{policy db} {reason full}] 2{call}",
			"counter mettle.bulkhead.rejected[{policy db} {reason max_wait}] 1{call}",
			"counter mettle.bulkhead.waits[{policy db}] 1{call}",
			"counter mettle.bulkhead.wait_time[{policy db}] 1.5s",
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		n := 0
		b.Observe(func(mettle.Metric) bool { n++; return n < 3 })
		if n != 3 {
			t.Errorf("yielded %d after being told to stop at 3", n)
		}
		time.Sleep(2 * time.Second) // let the waiters go
	})
}

// Spec: P13, P7, P12
func TestAllocations(t *testing.T) {
	b := bulkhead.New(bulkhead.Config{Limit: 2, MaxQueue: 1, MaxWait: time.Hour})
	shut := bulkhead.New(bulkhead.Config{Limit: 1})
	hold(t, shut, 1)
	pipeline, n := mettle.Compose(b), 0
	refused := func(err error) {
		if !errors.Is(err, bulkhead.ErrFull) {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name string
		want float64
		call func()
	}{
		{"Do", 0, func() { b.Do(bg, noop) }},
		{"Acquire and Release", 0, func() { p, _ := b.Acquire(bg); p.Release() }},
		{"TryAcquire and Release", 0, func() { p, _ := b.TryAcquire(); p.Release() }},
		{"pipeline, with the caller's closure", 1, func() {
			i := n
			pipeline.Do(bg, func(context.Context) error { n = i + 1; return nil })
		}},
		{"refused at once", 0, func() { refused(shut.Do(bg, noop)) }},
		{"Acquire refused", 0, func() { _, err := shut.Acquire(bg); refused(err) }},
		{"Stats", 0, func() { n += b.Stats().Limit }},
		{"Observe", 0, func() { b.Observe(func(mettle.Metric) bool { return true }) }},
	} {
		if got := testing.AllocsPerRun(100, tc.call); got != tc.want {
			t.Errorf("%s: %v allocations, want %v", tc.name, got, tc.want)
		}
	}

	synctest.Test(t, func(t *testing.T) {
		b := bulkhead.New(bulkhead.Config{Limit: 1, MaxWait: time.Hour})
		held := hold(t, b, 1)
		waiter := acquire(bg, b)
		synctest.Wait()
		if got := testing.AllocsPerRun(100, func() { refused(b.Do(bg, noop)) }); got != 0 {
			t.Errorf("refused by a full queue: %v allocations", got)
		}
		held[0].Release()
		synctest.Wait()
		waiter.permit.Release()
	})
}

// Spec: P11
func TestCollectable(t *testing.T) {
	b := bulkhead.New(bulkhead.Config{})
	b.Do(bg, noop)
	w := weak.Make(b)
	b = nil
	for range 10 {
		runtime.GC()
	}
	if w.Value() != nil {
		t.Error("an unreferenced bulkhead is kept")
	}
}
