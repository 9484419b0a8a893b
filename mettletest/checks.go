package mettletest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
)

// testRunsOp establishes what all other checks need: without it they would find
// nothing wrong with a policy that does nothing.
func testRunsOp(s *suite) {
	c := s.do(context.Background(), s.newPolicy(), succeed)
	if c.runs == 0 {
		s.Errorf("a new policy does not run op: Do returned %s", text(c.err))
	}
}

// testError wants the very error of op in what Do returns. That errors.Is finds it
// is wanted of every call, by judge; errors.As has to find it too, since an adapter
// asks for a status or a response that way.
func testError(s *suite) {
	p := s.newPolicy()
	want := newError()
	c := s.do(context.Background(), p, fail(want)) // judge wants errors.Is
	if c.err == nil {
		return
	}
	if got := new(opError); !errors.As(c.err, &got) || got != want {
		s.Errorf("errors.As does not find op's error in %s", text(c.err))
	}
	// A policy that looks into errors must not take them apart.
	wrapped := fmt.Errorf("wrapped: %w", newError())
	s.do(context.Background(), s.newPolicy(), fail(wrapped))
	s.do(context.Background(), s.newPolicy(), fail(errors.Join(newError(), newError())))
	s.do(context.Background(), s.newPolicy(), fail(mettle.Permanent(newError())))
}

// testContext wants op's context to descend from the caller's: it has the values,
// ends no later, and ends with the caller's cause, which is how op tells who had
// enough. Children of op's context are looked at as well, because a context of the
// policy's own making can get Done right and still not pass a cancellation on.
func testContext(s *suite) {
	type key struct{}
	cause := errors.New("the caller has had enough")
	ctx, stop := context.WithTimeout(context.WithValue(context.Background(), key{}, "value"), time.Hour)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit, _ := ctx.Deadline()

	s.do(ctx, s.newPolicy(), func(ctx context.Context) error {
		if ctx.Value(key{}) != "value" {
			s.Errorf("op's context lacks the values of the caller's")
		}
		if d, ok := ctx.Deadline(); !ok || d.After(limit) {
			s.Errorf("the deadline of op's context is %v (%v); the caller's is %v", d, ok, limit)
		}
		child, stop := context.WithCancel(ctx)
		defer stop()
		cancel(cause)
		settle()
		for what, ctx := range map[string]context.Context{"op's context": ctx, "a context derived from op's": child} {
			select {
			case <-ctx.Done():
			default:
				s.Errorf("%s: Done is not closed when the caller's context is cancelled", what)
			}
			if ctx.Err() == nil {
				s.Errorf("%s: Err is nil when the caller's context is cancelled", what)
			}
			if got := context.Cause(ctx); !errors.Is(got, cause) {
				s.Errorf("%s: its cause is %v, that of the caller's is %v", what, got, cause)
			}
		}
		return nil
	})
}

// done returns contexts that have ended, in every way there is.
func done() map[string]context.Context {
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	caused, cancelCause := context.WithCancelCause(context.Background())
	cancelCause(errors.New("the caller has had enough"))
	late, stop := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	stop()
	lateCaused, stop := context.WithDeadlineCause(context.Background(), time.Now().Add(-time.Second), errors.New("too late"))
	stop()
	return map[string]context.Context{
		"cancelled": cancelled, "cancelled with a cause": caused,
		"past its deadline": late, "past its deadline with a cause": lateCaused,
	}
}

// testDoneOnEntry wants no op and the cause as the error, not merely the context's
// Err: the cause is all that the caller has to tell one end from another.
func testDoneOnEntry(s *suite) {
	p := s.newPolicy()
	for what, ctx := range done() {
		for range hammer / 10 { // which must not use anything up
			c := s.do(ctx, p, func(context.Context) error {
				s.Errorf("op runs under a context that is %s", what)
				return nil
			})
			if c.runs > 0 {
				return
			}
		}
	}
	if !s.admits(p) {
		s.Errorf("after calls whose context was done on entry, no call gets through")
	}
}

// testDoneWhileWaiting ends contexts at all kinds of moments, among them those in
// which the policy makes the call wait; call.enter sees an op that begins too late.
func testDoneWhileWaiting(s *suite) {
	p := s.newPolicy()
	var all sync.WaitGroup
	for i := range 200 {
		op := fail(newError())
		if i%2 == 0 {
			op = func(ctx context.Context) error {
				select {
				case <-ctx.Done():
					return context.Cause(ctx)
				case <-time.After(100 * time.Millisecond):
					return newError()
				}
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+i)*17*time.Millisecond)
		all.Go(func() {
			defer cancel()
			s.do(ctx, p, op)
		})
	}
	all.Wait()
	s.testCancelledWaits(s.newPolicy())
	s.testCancelledAsAdmitted(p)
	if !s.admits(p) {
		s.Errorf("after calls whose context ended in mid-call, no call gets through")
	}
}

// testCancelledWaits cancels calls one by one while they wait for whatever it is. A
// wait of the policy's own has to end with the context.
func (s *suite) testCancelledWaits(p mettle.Policy) {
	var all sync.WaitGroup
	for i := range 60 {
		ctx, cancel := context.WithCancelCause(context.Background())
		c := &call{s: s, ctx: ctx, fn: func(context.Context) error {
			time.Sleep(time.Duration(i%3) * time.Second)
			return newError()
		}}
		all.Go(func() { c.do(p) })
		time.Sleep(time.Duration(i*i) * time.Millisecond)
		synctest.Wait()
		c.bar()
		cancel(errors.New("enough"))
		settle()
		if c.waits() {
			s.Errorf("a call goes on waiting when its context has ended")
		}
	}
	all.Wait()
}

// testCancelledAsAdmitted cancels calls that wait, just before those that they wait
// for come to an end and may let them in.
func (s *suite) testCancelledAsAdmitted(p mettle.Policy) {
	for range 10 {
		var all sync.WaitGroup
		ctx, cancel := context.WithCancel(context.Background())
		release := make(chan struct{})
		var calls []*call
		for range hammer {
			c := &call{s: s, ctx: ctx, fn: func(context.Context) error {
				<-release
				return nil
			}}
			calls = append(calls, c)
			all.Go(func() { c.do(p) })
		}
		synctest.Wait()
		for _, c := range calls {
			c.bar()
		}
		cancel()
		close(release)
		all.Wait()
	}
}

// testLateSuccess has op succeed when nobody waits any more. The work is done, and
// an error would have the caller do it again. judge wants nil.
func testLateSuccess(s *suite) {
	ctx, cancel := context.WithCancel(context.Background())
	s.do(ctx, s.newPolicy(), func(context.Context) error {
		cancel()
		settle()
		return nil
	})
	ctx, stop := context.WithTimeout(context.Background(), time.Second)
	defer stop()
	s.do(ctx, s.newPolicy(), func(context.Context) error {
		time.Sleep(2 * time.Second)
		return nil
	})
	// Longer than any timeout of the policy's own.
	s.do(context.Background(), s.newPolicy(), func(context.Context) error {
		time.Sleep(leaveAlone)
		return nil
	})
}

// testOpEnds tempts the policy to go on without op, or with more of it; call.op
// and call.leave see it.
func testOpEnds(s *suite) {
	s.do(context.Background(), s.newPolicy(), func(context.Context) error {
		time.Sleep(leaveAlone)
		return newError()
	})
	s.do(context.Background(), s.newPolicy(), func(ctx context.Context) error {
		select {
		case <-ctx.Done(): // of the policy's own making, if at all
			time.Sleep(time.Minute)
		case <-time.After(leaveAlone):
		}
		return newError()
	})
	for _, deaf := range []time.Duration{0, time.Hour} {
		ctx, cancel := context.WithCancel(context.Background())
		s.do(ctx, s.newPolicy(), func(context.Context) error {
			time.Sleep(time.Second)
			cancel()
			time.Sleep(deaf)
			return newError()
		})
		cancel()
	}
	time.Sleep(leaveAlone)
}

// panicInOp is a function of its own so that its name is found in a stack.
//
//go:noinline
func panicInOp(value any) error { panic(value) }

// testPanic wants the value, by identity, and the stack. A policy that recovers
// and panics again in the same deferred function keeps the stack; one that does so
// later shows its own frames where the crash report should show op's.
func testPanic(s *suite) {
	for _, want := range []any{"a text", errors.New("an error"), new(opError)} {
		c := s.do(context.Background(), s.newPolicy(), func(context.Context) error { return panicInOp(want) })
		switch {
		case c.value == nil:
			s.Errorf("op panicked with %T %v, Do did not panic", want, want)
		case c.value != want:
			s.Errorf("op panicked with %T %v, Do with %T %v", want, want, c.value, c.value)
		case !s.overlap && !strings.Contains(string(c.stack), "mettletest.panicInOp"):
			s.Errorf("the stack of the panic does not show where op panicked; recovering and panicking anew loses it:\n%s", c.stack)
		}
	}
	c := s.do(context.Background(), s.newPolicy(), func(context.Context) error { return panicInOp(nil) })
	if _, ok := c.value.(*runtime.PanicNilError); !ok {
		s.Errorf("op called panic(nil), Do panicked with %T %v, want a *runtime.PanicNilError", c.value, c.value)
	}
}

// testGoexit has op end its goroutine, which is what t.FailNow does. A policy that
// tells a normal return from a panic by recover alone takes it for neither.
func testGoexit(s *suite) {
	c := s.do(context.Background(), s.newPolicy(), exitInOp)
	if !c.exit {
		s.Errorf("op called runtime.Goexit, but Do ended otherwise: panic %v, error %s", c.value, text(c.err))
	}
}

func exitInOp(context.Context) error {
	runtime.Goexit()
	return nil
}

// ways are the ways in which a call can go wrong, each of which leaves Do by
// another path and so past another place that could forget to give something back.
var ways = map[string]func(*suite, mettle.Policy) *call{
	"errors": func(s *suite, p mettle.Policy) *call {
		return s.do(context.Background(), p, fail(newError()))
	},
	"panics": func(s *suite, p mettle.Policy) *call {
		return s.do(context.Background(), p, func(context.Context) error { return panicInOp("in op") })
	},
	"calls of runtime.Goexit": func(s *suite, p mettle.Policy) *call {
		return s.do(context.Background(), p, exitInOp)
	},
	"calls cancelled in op": func(s *suite, p mettle.Policy) *call {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		return s.do(ctx, p, func(context.Context) error {
			cancel()
			return context.Cause(ctx)
		})
	},
	"calls that ran out of time": func(s *suite, p mettle.Policy) *call {
		ctx, stop := context.WithTimeout(context.Background(), time.Minute)
		defer stop()
		return s.do(ctx, p, func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
	},
	"refusals further in": func(s *suite, p mettle.Policy) *call {
		return s.do(context.Background(), p, fail(fmt.Errorf("full: %w", mettle.ErrRejected)))
	},
	"panics in hooks": func(s *suite, p mettle.Policy) *call {
		c := &call{s: s, fn: fail(newError())}
		c.ctx = mettle.WithTrace(context.Background(), everyHook(func(mettle.TraceEvent) {
			c.interrupted()
			panic("in a hook")
		}))
		c.do(p)
		return c
	},
}

// testGivesBack has many calls go wrong in each way and wants one to get through
// after that. A breaker may refuse for a while, and then it is given time: what
// tells a leak is that time does not mend it.
func testGivesBack(s *suite) {
	for name, goWrong := range ways {
		p := s.newPolicy()
		refused := 0
		for n := 0; n < hammer && refused < int(leaveAlone/time.Hour); {
			if goWrong(s, p).refused() {
				refused++
				time.Sleep(time.Hour)
				continue
			}
			refused = 0
			n++
		}
		time.Sleep(leaveAlone)
		if !s.admits(p) {
			s.Errorf("after %d %s, no call gets through; what they held was not given back", hammer, name)
		}
	}
}

// loads are what makes a policy refuse: failures, for a breaker, and calls that
// stay, for a bulkhead. Each starts its load and returns how to end it.
var loads = map[string]func(*suite, mettle.Policy) (end func()){
	"after failures": func(s *suite, p mettle.Policy) func() {
		for range hammer {
			s.do(context.Background(), p, fail(newError()))
		}
		return func() {}
	},
	"with many calls in flight": func(s *suite, p mettle.Policy) func() {
		release := make(chan struct{})
		var all sync.WaitGroup
		for range hammer + hammer/10 {
			all.Go(func() {
				s.do(context.Background(), p, func(context.Context) error {
					<-release
					return nil
				})
			})
		}
		settle()
		return func() {
			close(release)
			all.Wait()
		}
	},
}

// refusals makes a few calls at once and returns how many of them p refused.
func (s *suite) refusals(p mettle.Policy) int {
	n := 0
	for range manyCalls {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		if s.do(ctx, p, fail(newError())).refused() {
			n++
		}
		cancel()
	}
	return n
}

// manyCalls is how many refusals in a row tell a policy that refuses every call
// from one that draws lots.
const manyCalls = 20

// testRefusal drives the policy to where it refuses, if there is such a point.
// Refusals are what a policy does most of when things are worst, so they are to be
// cheap: no dearer than the calls that get through.
func testRefusal(s *suite) {
	first := s.newPolicy()
	admitted := allocs(first, succeed)
	// In a pipeline the refusal may be another's, and an outer policy may have
	// something to add to it, as a fallback does that failed as well.
	_, composed := first.(*mettle.Pipeline)
	for when, load := range loads {
		p := s.newPolicy()
		end := load(s, p)
		// Only a policy that refuses each and every call can be measured.
		if s.refusals(p) == manyCalls && !composed { // judge has looked at the errors
			if n := allocs(p, succeed); n > admitted {
				s.Errorf("%s, a refusal allocates %d times, a call that gets through %d times", when, n, admitted)
			}
		}
		end()
		if !s.admits(p) {
			s.Errorf("%s, no call gets through even when all is over", when)
		}
	}
}

// allocs returns the allocations of one call. It stands in for
// [testing.AllocsPerRun], which panics where tests run in parallel; the least of
// several rounds is that in which nobody else allocated.
func allocs(p mettle.Policy, op func(context.Context) error) uint64 {
	const runs = 50
	ctx := context.Background()
	least := ^uint64(0)
	for range 5 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			_ = p.Do(ctx, op)
		}
		runtime.ReadMemStats(&after)
		least = min(least, (after.Mallocs-before.Mallocs)/runs)
	}
	return least
}

// testIgnored has calls end in ways that say nothing about what op calls. They
// must not make the policy refuse, unless as many successes would too, as under a
// rate limiter.
func testIgnored(s *suite) {
	p := s.newPolicy()
	for range hammer {
		if s.do(context.Background(), p, succeed).refused() {
			return
		}
	}
	for _, name := range []string{"refusals further in", "calls cancelled in op"} {
		p := s.newPolicy()
		for n := range hammer {
			if ways[name](s, p).refused() {
				s.Errorf("after %d %s, which are no failures, the policy refuses calls", n, name)
				break
			}
		}
	}
}

// everyHook returns a Trace that calls hook for every event.
func everyHook(hook func(mettle.TraceEvent)) *mettle.Trace {
	return &mettle.Trace{
		AttemptStart: hook, AttemptDone: hook, Wait: hook, Rejected: hook,
		Hedged: hook, FellBack: hook, StateChanged: hook,
	}
}

// testHooks has every hook call the policy. One that is called under a lock
// hangs, and the stacks that go test prints on its timeout show where.
func testHooks(s *suite) {
	p := s.newPolicy()
	ctx := mettle.WithTrace(context.Background(), everyHook(func(mettle.TraceEvent) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.do(ctx, p, succeed)
		if o, ok := p.(mettle.Observable); ok {
			o.Observe(func(mettle.Metric) bool { return true })
		}
	}))
	for i := range 100 {
		if i%10 == 0 {
			time.Sleep(time.Hour)
		}
		s.do(ctx, p, fail(newError()))
	}
	if !s.admits(p) {
		s.Errorf("after calls whose hooks called the policy, no call gets through")
	}
}

// testConcurrent mixes everything. Most of what can go wrong is the race
// detector's to see, or judge's: a result that belongs to another call.
func testConcurrent(s *suite) {
	p := s.newPolicy()
	var all sync.WaitGroup
	for g := range uint64(32) {
		all.Go(func() {
			random := rand.New(rand.NewPCG(g, 0))
			for range 15 {
				s.doAnything(p, random)
				time.Sleep(time.Duration(random.IntN(3)) * time.Second)
			}
		})
	}
	var stop atomic.Bool
	if o, ok := p.(mettle.Observable); ok {
		all.Go(func() {
			for !stop.Load() {
				o.Observe(func(mettle.Metric) bool { return true })
				time.Sleep(time.Second)
			}
		})
		time.AfterFunc(time.Minute, func() { stop.Store(true) })
	}
	all.Wait()
	if !s.admits(p) {
		s.Errorf("after concurrent calls, no call gets through")
	}
}

// doAnything makes a call that may end in any way, the caller's deadline included.
func (s *suite) doAnything(p mettle.Policy, random *rand.Rand) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+random.IntN(5000))*time.Millisecond)
	defer cancel()
	for range random.IntN(10) { // in a bubble, goroutines that sleep wake in lockstep
		runtime.Gosched()
	}
	kind, nap := random.IntN(6), time.Duration(random.IntN(500))*time.Millisecond
	s.do(ctx, p, func(ctx context.Context) error {
		time.Sleep(nap)
		switch kind {
		case 0:
			return newError()
		case 1:
			return panicInOp("in op")
		case 2:
			return exitInOp(ctx)
		case 3:
			cancel()
			return context.Cause(ctx)
		default:
			return nil
		}
	})
}

// testLeavesNothing returns right after the calls: a goroutine that is still
// there then deadlocks the bubble.
func testLeavesNothing(s *suite) {
	p := s.newPolicy()
	for _, op := range []func(context.Context) error{
		succeed,
		fail(newError()),
		exitInOp,
		func(context.Context) error { return panicInOp("in op") },
		func(ctx context.Context) error { <-ctx.Done(); return nil },
		func(context.Context) error { time.Sleep(time.Hour); return nil },
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Hour)
		s.do(ctx, p, op)
		cancel()
	}
	s.testEndsContext(p)
}

// testEndsContext wants a context of the policy's own making to end with the call:
// one that lives on keeps its timer, and its place in the caller's context.
func (s *suite) testEndsContext(p mettle.Policy) {
	for _, asks := range []bool{false, true} {
		var given context.Context
		s.do(context.Background(), p, func(ctx context.Context) error {
			given = ctx
			if asks {
				_ = ctx.Done()
			}
			return nil
		})
		if given == nil {
			return // refused
		}
		if _, timed := given.Deadline(); given.Err() == nil && (timed || given.Done() != nil) {
			s.Errorf("the context that the policy made for op has not ended with Do")
		}
	}
}
