package timeout

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/internal/clock"
)

// The cases here are those of package context's own tests, told anew. Each runs on
// a context of package context first, which shows that the case is right, and then
// on a lazyCtx, once with nothing asked of it yet and once with its end asked for.

// kind is a way to make a context with a deadline. Its cause is p.cause.
type kind struct {
	name string
	make func(parent context.Context, p *Timeout) (context.Context, context.CancelFunc)
}

// newCtx is that with the policy chosen.
type newCtx func(parent context.Context) (context.Context, context.CancelFunc)

var kinds = []kind{
	{"standard", func(parent context.Context, p *Timeout) (context.Context, context.CancelFunc) {
		return context.WithTimeoutCause(parent, p.fixed.after, p.fixed.cause)
	}},
	{"lazy", newLazy},
	{"lazy, asked", func(parent context.Context, p *Timeout) (context.Context, context.CancelFunc) {
		ctx, cancel := newLazy(parent, p)
		ctx.Done()
		return ctx, cancel
	}},
}

// newLazy makes and ends a lazyCtx as run does.
func newLazy(parent context.Context, p *Timeout) (context.Context, context.CancelFunc) {
	now := clock.Now()
	c := &lazyCtx{parent: parent, limit: &p.fixed, deadline: now.After(p.fixed.after)}
	k := &call{t: p, now: now, c: c, l: &p.fixed}
	k.track(p.clock.At(now))
	return c, func() {
		_, _ = k.settle(clock.Unknown, nil)
		k.end()
	}
}

const after = time.Second

// each runs test on every kind of context, in a bubble of its own.
func each(t *testing.T, test func(t *testing.T, newCtx newCtx)) {
	t.Helper()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := New(Config{Name: "test", After: after})
				test(t, func(parent context.Context) (context.Context, context.CancelFunc) {
					return k.make(parent, p)
				})
			})
		})
	}
}

// ended reports whether Done is closed.
func ended(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	default:
		return false
	}
}

func wantAlive(t *testing.T, ctx context.Context) {
	t.Helper()
	if err, cause := ctx.Err(), context.Cause(ctx); err != nil || cause != nil || ended(ctx) {
		t.Errorf("%v has ended: Err %v, Cause %v", ctx, err, cause)
	}
}

// wantEnd checks that ctx has ended as told, asking for Err, Cause and Done in
// an order of the case's choosing: whichever is first must tell the same.
func wantEnd(t *testing.T, ctx context.Context, err, cause error) {
	t.Helper()
	if got := ctx.Err(); got != err {
		t.Errorf("%v: Err = %v, want %v", ctx, got, err)
	}
	if got := context.Cause(ctx); !errors.Is(got, cause) {
		t.Errorf("%v: Cause = %v, want %v", ctx, got, cause)
	}
	if !ended(ctx) {
		t.Errorf("%v: Done is not closed", ctx)
	}
}

// embedding is the custom context most people write. It hides what it embeds from
// a type switch.
type embedding struct{ context.Context }

// ownDone has a Done channel of its own, so nobody may register with the context
// inside in its place.
type ownDone struct {
	context.Context
	done chan struct{}
}

func (c *ownDone) Done() <-chan struct{} { return c.done }

// Spec: T1, T4
func TestContextExpires(t *testing.T) {
	each(t, func(t *testing.T, newCtx newCtx) {
		want := time.Now().Add(after)
		ctx, cancel := newCtx(t.Context())
		defer cancel()
		views := []context.Context{ctx, embedding{ctx}, context.WithValue(ctx, key(1), 1)}
		for _, view := range views {
			if d, ok := view.Deadline(); !ok || !d.Equal(want) {
				t.Errorf("Deadline = %v, %v, want %v", d, ok, want)
			}
		}
		time.Sleep(after - 1)
		wantAlive(t, ctx)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		for _, view := range views {
			wantEnd(t, view, context.DeadlineExceeded, ErrExceeded)
			wantEnd(t, view, context.DeadlineExceeded, context.DeadlineExceeded)
			if d, ok := view.Deadline(); !ok || !d.Equal(want) {
				t.Errorf("Deadline after it passed = %v, %v, want %v", d, ok, want)
			}
		}
		cancel()
		wantEnd(t, ctx, context.DeadlineExceeded, ErrExceeded) // the first end stays
	})
}

// Whatever is asked first after the deadline tells of it.
//
// Spec: T1, T4
func TestContextFirstQuestionAfterExpiry(t *testing.T) {
	for name, ask := range map[string]func(context.Context) bool{
		"Err":   func(ctx context.Context) bool { return ctx.Err() == context.DeadlineExceeded },
		"Cause": func(ctx context.Context) bool { return errors.Is(context.Cause(ctx), ErrExceeded) },
		"Done":  ended,
		"WithCancel": func(ctx context.Context) bool {
			child, cancel := context.WithCancel(ctx)
			defer cancel()
			return child.Err() == context.DeadlineExceeded && errors.Is(context.Cause(child), ErrExceeded)
		},
		"WithTimeout": func(ctx context.Context) bool {
			child, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			return child.Err() == context.DeadlineExceeded && errors.Is(context.Cause(child), ErrExceeded)
		},
		"AfterFunc": func(ctx context.Context) bool {
			var ran atomic.Bool
			stop := context.AfterFunc(ctx, func() { ran.Store(true) })
			synctest.Wait()
			return ran.Load() && !stop()
		},
		// A context that ended by itself asks for the cause and nothing else.
		"Value": func(ctx context.Context) bool { return errors.Is(context.Cause(dead{ctx}), ErrExceeded) },
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, newCtx newCtx) {
				ctx, cancel := newCtx(t.Context())
				defer cancel()
				time.Sleep(2 * after)
				if !ask(ctx) {
					t.Error("does not tell")
				}
				wantEnd(t, ctx, context.DeadlineExceeded, ErrExceeded)
			})
		})
	}
}

// dead has an Err of its own and the Value of what it embeds.
type dead struct{ context.Context }

func (dead) Err() error { return context.DeadlineExceeded }

// Spec: T4
func TestContextDoneClosesAtTheDeadline(t *testing.T) {
	each(t, func(t *testing.T, newCtx newCtx) {
		start := time.Now()
		ctx, cancel := newCtx(t.Context())
		defer cancel()
		time.Sleep(after / 2) // asked for late, not on time
		done := ctx.Done()
		if done != ctx.Done() {
			t.Error("two calls of Done return two channels")
		}
		<-done
		if d := time.Since(start); d != after {
			t.Errorf("Done closed after %v, want %v", d, after)
		}
	})
}

// Spec: T4
func TestContextCancelPropagatesSynchronously(t *testing.T) {
	each(t, func(t *testing.T, newCtx newCtx) {
		ctx, cancel := newCtx(t.Context())
		child, cancelChild := context.WithCancel(embedding{ctx})
		defer cancelChild()
		grandchild, cancelGrandchild := context.WithTimeout(context.WithValue(child, key(1), 1), time.Hour)
		defer cancelGrandchild()
		views := []context.Context{ctx, child, grandchild}
		for _, view := range views {
			wantAlive(t, view)
		}
		cancel()
		for _, view := range views {
			wantEnd(t, view, context.Canceled, context.Canceled)
			if errors.Is(context.Cause(view), ErrExceeded) {
				t.Error("the return of Do shows as an expiry")
			}
		}
		time.Sleep(2 * after)
		wantEnd(t, ctx, context.Canceled, context.Canceled)
		cancel()
	})
}

// A context that an operation kept ends with Do, also when it is first looked at
// long after.
//
// Spec: T4
func TestContextKeptAfterReturn(t *testing.T) {
	each(t, func(t *testing.T, newCtx newCtx) {
		ctx, cancel := newCtx(t.Context())
		cancel()
		time.Sleep(2 * after)
		child, cancelChild := context.WithCancel(ctx)
		defer cancelChild()
		wantEnd(t, child, context.Canceled, context.Canceled)
		wantEnd(t, ctx, context.Canceled, context.Canceled)
		if d, ok := ctx.Deadline(); !ok || time.Since(d) != after {
			t.Errorf("Deadline = %v, %v", d, ok)
		}
	})
}

// Spec: T3, T4
func TestContextParentEnds(t *testing.T) {
	gone := errors.New("client gone")
	each(t, func(t *testing.T, newCtx newCtx) {
		parent, cancelParent := context.WithCancelCause(t.Context())
		ctx, cancel := newCtx(parent)
		defer cancel()
		child, cancelChild := context.WithCancel(embedding{ctx})
		defer cancelChild()
		wantAlive(t, ctx)
		cancelParent(gone)
		wantEnd(t, ctx, context.Canceled, gone)
		wantEnd(t, child, context.Canceled, gone)

		late, cancelLate := newCtx(parent) // ended before it began
		defer cancelLate()
		wantEnd(t, late, context.Canceled, gone)

		time.Sleep(2 * after)
		wantEnd(t, ctx, context.Canceled, gone)
	})
}

// Of the parent's cancellation and the deadline the first one stays, whenever
// somebody looks, as long as somebody looked in between.
//
// Spec: T3, T4
func TestContextFirstEndStays(t *testing.T) {
	gone := errors.New("client gone")
	each(t, func(t *testing.T, newCtx newCtx) {
		parent, cancelParent := context.WithCancelCause(t.Context())
		first, cancel := newCtx(parent)
		defer cancel()
		time.Sleep(after)
		synctest.Wait()
		if err := first.Err(); err != context.DeadlineExceeded {
			t.Errorf("Err = %v", err)
		}
		cancelParent(gone)
		wantEnd(t, first, context.DeadlineExceeded, ErrExceeded)

		parent, cancelParent = context.WithCancelCause(t.Context())
		second, cancel := newCtx(parent)
		defer cancel()
		cancelParent(gone)
		time.Sleep(2 * after) // nobody looks, and nobody needs to
		wantEnd(t, second, context.Canceled, gone)
	})
}

// What only one who watches could tell is told in the parent's favour, and a
// deadline of the parent is later than ours, so that no watching is needed.
//
// Spec: T3
func TestContextBothEndedUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{After: after})
		gone := errors.New("client gone")

		parent, cancelParent := context.WithCancelCause(t.Context())
		ctx, cancel := newLazy(parent, p)
		defer cancel()
		time.Sleep(2 * after)
		cancelParent(gone)
		wantEnd(t, ctx, context.Canceled, gone)

		for _, ask := range []func(context.Context){func(ctx context.Context) { ctx.Err() }, func(ctx context.Context) { ctx.Done() }} {
			parent, cancelLater := context.WithTimeoutCause(t.Context(), 2*after, gone)
			defer cancelLater()
			ctx, cancel = newLazy(parent, p)
			defer cancel()
			time.Sleep(3 * after)
			ask(ctx)
			wantEnd(t, ctx, context.DeadlineExceeded, ErrExceeded)
			if errors.Is(context.Cause(ctx), gone) {
				t.Error("the parent's later deadline shows")
			}
		}
	})
}

// Spec: T4
func TestContextChildFinishesFirst(t *testing.T) {
	each(t, func(t *testing.T, newCtx newCtx) {
		reason := errors.New("enough")
		ctx, cancel := newCtx(t.Context())
		defer cancel()
		child, cancelChild := context.WithCancelCause(ctx)
		cancelChild(reason)
		wantEnd(t, child, context.Canceled, reason)
		wantAlive(t, ctx)
		time.Sleep(after)
		synctest.Wait()
		wantEnd(t, child, context.Canceled, reason)
		wantEnd(t, ctx, context.DeadlineExceeded, ErrExceeded)
	})
}

// Spec: T4
func TestContextDeadlineChildren(t *testing.T) {
	each(t, func(t *testing.T, newCtx newCtx) {
		sooner, later := errors.New("sooner"), errors.New("later")
		ctx, cancel := newCtx(t.Context())
		defer cancel()
		early, cancelEarly := context.WithTimeoutCause(ctx, after/2, sooner)
		defer cancelEarly()
		late, cancelLate := context.WithTimeoutCause(ctx, 2*after, later)
		defer cancelLate()
		past, cancelPast := context.WithDeadlineCause(ctx, time.Now().Add(-1), sooner)
		defer cancelPast()
		mine, _ := ctx.Deadline()
		if d, ok := early.Deadline(); !ok || !d.Equal(mine.Add(-after/2)) {
			t.Errorf("the earlier child's Deadline = %v, %v", d, ok)
		}
		if d, ok := late.Deadline(); !ok || !d.Equal(mine) {
			t.Errorf("the later child's Deadline = %v, %v, want its parent's", d, ok)
		}
		wantEnd(t, past, context.DeadlineExceeded, sooner)
		time.Sleep(after / 2)
		synctest.Wait()
		wantEnd(t, early, context.DeadlineExceeded, sooner)
		wantAlive(t, ctx)
		wantAlive(t, late)
		time.Sleep(after / 2)
		synctest.Wait()
		wantEnd(t, ctx, context.DeadlineExceeded, ErrExceeded)
		wantEnd(t, late, context.DeadlineExceeded, ErrExceeded)
	})
}

type key int

// Spec: T4
func TestContextValues(t *testing.T) {
	each(t, func(t *testing.T, newCtx newCtx) {
		trace := &mettle.Trace{}
		parent := mettle.WithAttempt(context.WithValue(mettle.WithTrace(t.Context(), trace), key(1), "one"), 3)
		ctx, cancel := newCtx(parent)
		child := context.WithValue(ctx, key(2), "two")
		check := func() {
			t.Helper()
			for _, c := range []context.Context{ctx, child} {
				if got := c.Value(key(1)); got != "one" {
					t.Errorf("the parent's value is %v", got)
				}
				if got := c.Value(key(3)); got != nil {
					t.Errorf("a value that nobody set is %v", got)
				}
				if mettle.Attempt(c) != 3 || mettle.ContextTrace(c) != trace {
					t.Error("the marks of the policies are lost")
				}
			}
			if got := child.Value(key(2)); got != "two" {
				t.Errorf("the child's value is %v", got)
			}
			if got := ctx.Value(key(2)); got != nil {
				t.Errorf("the child's value shows in its parent: %v", got)
			}
		}
		check()
		ctx.Done()
		check()
		cancel()
		check() // as slog and tracing need it after the fact
	})
}

// Spec: T4
func TestContextWithoutCancel(t *testing.T) {
	each(t, func(t *testing.T, newCtx newCtx) {
		ctx, cancel := newCtx(context.WithValue(t.Context(), key(1), "one"))
		free := context.WithoutCancel(ctx)
		check := func() {
			t.Helper()
			if d, ok := free.Deadline(); ok || !d.IsZero() {
				t.Errorf("Deadline = %v, %v", d, ok)
			}
			if free.Done() != nil || free.Err() != nil || context.Cause(free) != nil {
				t.Errorf("it has an end: %v, %v", free.Err(), context.Cause(free))
			}
			if got := free.Value(key(1)); got != "one" {
				t.Errorf("Value = %v", got)
			}
		}
		check()
		time.Sleep(2 * after)
		check()
		cancel()
		check()
	})
}

// Spec: T4
func TestContextAfterFunc(t *testing.T) {
	each(t, func(t *testing.T, newCtx newCtx) {
		var mu sync.Mutex
		var ran []string
		note := func(s string) func() {
			return func() {
				mu.Lock()
				defer mu.Unlock()
				ran = append(ran, s)
			}
		}
		want := func(w ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if fmt.Sprint(ran) != fmt.Sprint(w) {
				t.Errorf("ran %v, want %v", ran, w)
			}
		}

		ctx, cancel := newCtx(t.Context())
		stop := context.AfterFunc(ctx, note("expiry"))
		stopped := context.AfterFunc(ctx, note("stopped"))
		if !stopped() || stopped() {
			t.Error("stop does not tell that it was the first to stop")
		}
		time.Sleep(after - 1)
		want()
		time.Sleep(time.Nanosecond)
		want("expiry")
		if stop() {
			t.Error("stop tells that it stopped what has run")
		}
		cancel()
		want("expiry")

		ctx, cancel = newCtx(t.Context())
		context.AfterFunc(embedding{ctx}, note("cancel"))
		want("expiry")
		cancel()
		want("expiry", "cancel")
		context.AfterFunc(ctx, note("at once")) // on one that has ended
		want("expiry", "cancel", "at once")
	})
}

// Ending a context does not wait for the functions that it starts.
//
// Spec: T4
func TestContextAfterFuncIsAsynchronous(t *testing.T) {
	each(t, func(t *testing.T, newCtx newCtx) {
		ctx, cancel := newCtx(t.Context())
		blocked := func(c chan struct{}) { c <- struct{}{} }
		c := make(chan struct{})
		context.AfterFunc(ctx, func() { blocked(c) })
		cancel()
		<-c
	})
}

// afterFuncer is a custom context with an AfterFunc method, which package context
// uses in place of a goroutine.
type afterFuncer struct {
	context.Context
	mu    sync.Mutex
	done  chan struct{}
	err   error
	funcs map[*func()]struct{}
}

func newAfterFuncer() *afterFuncer {
	return &afterFuncer{Context: context.Background(), done: make(chan struct{}), funcs: map[*func()]struct{}{}}
}

func (c *afterFuncer) Done() <-chan struct{} { return c.done }

func (c *afterFuncer) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *afterFuncer) AfterFunc(f func()) func() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.funcs[&f] = struct{}{}
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, ok := c.funcs[&f]
		delete(c.funcs, &f)
		return ok
	}
}

func (c *afterFuncer) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	close(c.done)
	for f := range c.funcs {
		go (*f)()
	}
	c.funcs = nil
}

func (c *afterFuncer) registered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.funcs)
}

// Spec: T4
func TestContextCustomParents(t *testing.T) {
	t.Run("embedding", func(t *testing.T) {
		each(t, func(t *testing.T, newCtx newCtx) {
			gone := errors.New("client gone")
			inner, cancelInner := context.WithCancelCause(t.Context())
			ctx, cancel := newCtx(embedding{inner})
			defer cancel()
			cancelInner(gone)
			wantEnd(t, ctx, context.Canceled, gone)
		})
	})
	t.Run("own Done", func(t *testing.T) {
		each(t, func(t *testing.T, newCtx newCtx) {
			gone := errors.New("client gone")
			inner, cancelInner := context.WithCancelCause(t.Context())
			parent := &ownDone{inner, make(chan struct{})}
			ctx, cancel := newCtx(parent)
			defer cancel()
			wantAlive(t, ctx)
			cancelInner(gone)
			close(parent.done)
			synctest.Wait()
			wantEnd(t, ctx, context.Canceled, gone)
		})
	})
	t.Run("AfterFunc", func(t *testing.T) {
		each(t, func(t *testing.T, newCtx newCtx) {
			parent := newAfterFuncer()
			ctx, cancel := newCtx(parent)
			ctx.Done()
			if n := parent.registered(); n != 1 {
				t.Errorf("%d functions registered with the parent, want 1", n)
			}
			child, cancelChild := context.WithCancel(ctx)
			defer cancelChild()
			cancel()
			wantEnd(t, child, context.Canceled, context.Canceled)
			if n := parent.registered(); n != 0 {
				t.Errorf("%d functions registered after the end, want none", n)
			}

			ctx, cancel = newCtx(parent)
			defer cancel()
			ctx.Done()
			parent.end(context.Canceled)
			synctest.Wait()
			wantEnd(t, ctx, context.Canceled, context.Canceled)
		})
	})
	t.Run("expires with no Deadline", func(t *testing.T) {
		each(t, func(t *testing.T, newCtx newCtx) {
			parent := newAfterFuncer()
			ctx, cancel := newCtx(parent)
			defer cancel()
			time.Sleep(after / 2)
			parent.end(context.DeadlineExceeded)
			synctest.Wait()
			wantEnd(t, ctx, context.DeadlineExceeded, context.DeadlineExceeded)
			if errors.Is(context.Cause(ctx), ErrExceeded) {
				t.Error("the parent's end shows as ours")
			}
		})
	})
}

// Spec: T4
func TestContextCustomChild(t *testing.T) {
	each(t, func(t *testing.T, newCtx newCtx) {
		ctx, cancel := newCtx(t.Context())
		defer cancel()
		custom := &ownDone{ctx, make(chan struct{})}
		child, cancelChild := context.WithCancel(custom)
		defer cancelChild()
		time.Sleep(after)
		synctest.Wait()
		wantAlive(t, child) // custom has not said so yet
		close(custom.done)
		synctest.Wait()
		wantEnd(t, child, context.DeadlineExceeded, ErrExceeded)
	})
}

// Spec: T4
func TestContextChildrenCostNoGoroutine(t *testing.T) {
	each(t, func(t *testing.T, newCtx newCtx) {
		outer, cancelOuter := newLazy(t.Context(), New(Config{After: time.Hour}))
		defer cancelOuter()
		before := runtime.NumGoroutine()
		for range 50 {
			ctx, cancel := newCtx(mettle.WithAttempt(outer, 1))
			defer cancel()
			for _, view := range []context.Context{ctx, embedding{ctx}, mettle.WithAttempt(ctx, 1), context.WithValue(ctx, key(1), 1)} {
				child, cancelChild := context.WithCancel(view)
				defer cancelChild()
				sooner, cancelSooner := context.WithTimeout(child, after/2)
				defer cancelSooner()
				later, cancelLater := context.WithTimeout(sooner, after*2)
				defer cancelLater()
				stop := context.AfterFunc(later, func() {})
				defer stop()
			}
		}
		synctest.Wait()
		if n := runtime.NumGoroutine() - before; n > 0 {
			t.Errorf("%d goroutines for children", n)
		}
	})
}

// Err must not be ahead of Done, and everybody must see one and the same end.
//
// Spec: T4
func TestContextConcurrentUse(t *testing.T) {
	gone := errors.New("client gone")
	for name, end := range map[string]func(cancel context.CancelFunc, cancelParent context.CancelCauseFunc){
		"expiry": func(context.CancelFunc, context.CancelCauseFunc) { time.Sleep(after) },
		"cancel": func(cancel context.CancelFunc, _ context.CancelCauseFunc) { cancel() },
		"parent": func(_ context.CancelFunc, cancelParent context.CancelCauseFunc) { cancelParent(gone) },
		"cancel and parent": func(cancel context.CancelFunc, cancelParent context.CancelCauseFunc) {
			go cancelParent(gone)
			cancel()
		},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, newCtx newCtx) {
				for range 50 {
					parent, cancelParent := context.WithCancelCause(t.Context())
					ctx, cancel := newCtx(parent)
					var wg sync.WaitGroup
					start := make(chan struct{})
					for i := range 8 {
						wg.Go(func() {
							<-start
							use(t, ctx, i)
						})
					}
					close(start)
					end(cancel, cancelParent)
					cancel()
					wg.Wait()
					cancelParent(nil)
				}
			})
		})
	}
}

// use asks ctx, from where number i begins, until it has ended.
func use(t *testing.T, ctx context.Context, i int) {
	switch i % 4 {
	case 0:
		<-ctx.Done()
	case 1:
		child, cancel := context.WithCancel(ctx)
		defer cancel()
		<-child.Done()
		if child.Err() != ctx.Err() || context.Cause(child) != context.Cause(ctx) {
			t.Errorf("the child ended with %v, its parent with %v", context.Cause(child), context.Cause(ctx))
		}
	case 2:
		for ctx.Err() == nil { // as a loop that computes does
			time.Sleep(after / 10)
		}
	case 3:
		ran := make(chan struct{})
		context.AfterFunc(ctx, func() { close(ran) })
		<-ran
	}
	if !ended(ctx) || ctx.Err() == nil || context.Cause(ctx) == nil {
		t.Errorf("Err %v and Cause %v with Done closed: %v", ctx.Err(), context.Cause(ctx), ended(ctx))
	}
}

// meddling is a parent that does something when it is asked for its Deadline, in the
// middle of the making of a child.
type meddling struct {
	*afterFuncer
	meddle func()
}

func (c *meddling) Deadline() (time.Time, bool) {
	c.meddle()
	return time.Time{}, false
}

// While one goroutine asks for Done, Do may return, or another may ask: there is one
// end, and what was made in vain is not left running.
//
// Spec: P3, T4
func TestContextAskedAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent := &meddling{afterFuncer: newAfterFuncer()}
		ctx, cancel := newLazy(parent, New(Config{After: after}))
		parent.meddle = cancel
		ctx.Done()
		wantEnd(t, ctx, context.Canceled, context.Canceled)
		if n := parent.registered(); n != 0 {
			t.Errorf("%d contexts made as Do returned are alive", n)
		}

		ctx, cancel = newLazy(parent, New(Config{After: after}))
		var other <-chan struct{}
		parent.meddle = func() {
			parent.meddle = func() {}
			other = ctx.Done()
		}
		if ctx.Done() != other {
			t.Error("two who ask at once get two channels")
		}
		if n := parent.registered(); n != 1 {
			t.Errorf("%d contexts made by two who ask at once are alive, want 1", n)
		}
		cancel()
		wantEnd(t, ctx, context.Canceled, context.Canceled)
		if n := parent.registered(); n != 0 {
			t.Errorf("%d contexts are alive after Do returned", n)
		}
	})
}

// Without the key of package context everything is as right, if slower.
//
// Spec: T4
func TestContextKeyIsLearned(t *testing.T) {
	if cancelKey == nil {
		t.Fatal("package context does not ask for a cancelable context any more")
	}
	saved := cancelKey
	defer func() { cancelKey = saved }()
	cancelKey = nil
	t.Run("Values", TestContextValues)
	t.Run("FirstQuestion", TestContextFirstQuestionAfterExpiry)
	t.Run("NoGoroutine", TestContextChildrenCostNoGoroutine)
	t.Run("CustomChild", TestContextCustomChild)
}

// Asking for anything but the end leaves no trace. (Cause is not tried: up to Go 1.25
// it looks for a cancelable context first, and for the end after.)
//
// Spec: T5
func TestContextStartsNoTimerUntilAskedForDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := newLazy(mettle.WithAttempt(t.Context(), 1), New(Config{After: after}))
		c := ctx.(*lazyCtx)
		ctx.Deadline()
		ctx.Value(key(1))
		ctx.Err()
		_ = fmt.Sprint(ctx)
		mettle.ContextTrace(context.WithValue(ctx, key(1), 1))
		context.WithoutCancel(ctx).Done()
		if c.end.Load() != nil {
			t.Error("a timer was started with nobody asking for Done")
		}
		cancel()
		if c.end.Load() != canceled || ctx.Err() != context.Canceled {
			t.Error("the return made a context, or did not end ours")
		}

		ctx, cancel = newLazy(t.Context(), New(Config{After: after}))
		ctx.Done()
		timed := ctx.(*lazyCtx).end.Load().ctx
		if timed.Err() != nil {
			t.Fatal("ended as soon as it was asked for Done")
		}
		cancel()
		if timed.Err() != context.Canceled {
			t.Error("the timer was not stopped by the return")
		}
	})
}

// Spec: T4
func TestContextString(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{After: after})
		inner, cancel := newLazy(context.Background(), p)
		defer cancel()
		deadline, _ := inner.Deadline()
		if got, want := fmt.Sprint(inner), "context.Background.WithTimeout("+deadline.String()+")"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		custom, cancel := newLazy(mettle.WithAttempt(inner, 1), p)
		defer cancel()
		if got, want := fmt.Sprint(custom), "*mettle.callCtx.WithTimeout("; !strings.HasPrefix(got, want) {
			t.Errorf("got %q, want %q…", got, want)
		}
		if got := fmt.Sprint(context.WithValue(inner, key(1), 1)); !strings.HasPrefix(got, "context.Background.WithTimeout(") {
			t.Errorf("a child's text is %q", got)
		}
	})
}
