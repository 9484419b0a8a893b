package hedge

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/internal/mark"
)

// call is one call of Do. The goroutine of the caller makes the first run, and then the
// hedges that its failures bring about; the others are made on the goroutines on which
// the timer calls tick.
type call struct {
	h      *Hedge
	ctx    context.Context // the caller's
	next   mettle.Policy
	op     func(context.Context) error
	base   int  // the number of the first run
	nested bool // within an attempt of a policy that resends
	delay  time.Duration
	start  int64 // reading of the clock; 0 where the delay is fixed
	first  run

	mu        sync.Mutex     // guards what follows; no code of the user's runs under it but methods of ctx
	timer     *time.Timer    // calls tick; nil: no delay is known
	due       int64          // when the timer is to call it; 0: since the first run began
	hedges    []*run         // in the order in which they were sent
	workers   int            // goroutines in tick that make runs
	idle      chan struct{}  // closed when there are no workers any more; nil: nobody waits for that
	closed    bool           // nothing is sent any more
	outlasted bool           // the delay passed without an answer
	winner    *run           // nil: no run has been answered
	answer    error          // of the winner
	decided   int64          // when there was a winner or a crash
	crash     *crash         // the first
	errs      []error        // of the runs that failed
	outcome   mettle.Outcome // of the last of errs that counts; Ignored: none does
}

// run is one run of op. It is itself its context.
type run struct {
	runCtx
	n       int            // 0: the first
	charged mettle.Outcome // what was withdrawn for it
	cause   error          // the failure that it repeats; nil: the delay has passed
	sent    int64          // reading of the clock; 0 for the first
	ran     atomic.Bool    // op has begun; of hedges only
	unsent  bool           // it ended in a refusal, or before op had begun
}

// begin starts the timer.
func (c *call) begin() {
	if c.h.live != nil {
		c.start = c.h.clock.Now()
	}
	c.delay = c.h.delay(c.start)
	c.outcome = mettle.Ignored
	if c.delay > 0 {
		c.mu.Lock() // the timer may call before it is known here
		c.timer = time.AfterFunc(c.delay, c.tick)
		c.mu.Unlock()
	}
}

// do makes the first run and returns the result of the call, when all runs have ended.
func (c *call) do() error {
	returned := false
	defer func() {
		if returned {
			return
		}
		first := c.crashed(&crash{})
		c.finish()
		if first != nil {
			first.raise()
		}
	}()
	c.work(&c.first)
	returned = true
	c.finish()
	if c.crash != nil {
		c.crash.raise()
	}
	return c.result()
}

// work makes the run r, and then those that its failures bring about.
func (c *call) work(r *run) {
	for r != nil {
		r = c.ended(r, c.attempt(r))
	}
}

func (c *call) attempt(r *run) error {
	op := c.op
	if r.n > 0 {
		if t := mettle.ContextTrace(c.ctx); t != nil && t.Hedged != nil {
			e := mettle.TraceEvent{Context: r, Policy: c.h.name, Attempt: c.base + r.n, Err: r.cause}
			if r.cause == nil {
				e.Delay = c.delay
			}
			t.Hedged(e)
		}
		if r.Err() != nil { // the hook may have taken long
			return context.Cause(r)
		}
		op = func(ctx context.Context) error {
			r.ran.Store(true)
			return c.op(ctx)
		}
	}
	if c.next == nil {
		return op(r)
	}
	return c.next.Do(r, op)
}

// tick is called by the timer, on a goroutine of its own.
func (c *call) tick() {
	r := c.late()
	if r == nil {
		return
	}
	failed := &crash{exit: true}
	defer func() {
		if failed != nil {
			if failed.value = recover(); failed.value != nil {
				failed.exit, failed.stack = false, debug.Stack()
			}
			c.crashed(failed)
		}
		c.leave()
	}()
	c.work(r)
	failed = nil
}

// late returns the hedge that is to be sent because the delay has passed, if any.
func (c *call) late() *run {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.due != 0 && c.h.clock.Now() < c.due {
		return nil // the latter: a failure was faster, and the timer has been set anew
	}
	c.outlasted = true
	r := c.hedgeLocked(mettle.Success, nil) // there was no failure to pay for
	if r != nil {
		c.workers++
	}
	return r
}

// hedgeLocked returns a further run for a price, which repeats one that failed with cause,
// or nil if there is to be none.
func (c *call) hedgeLocked(price mettle.Outcome, cause error) *run {
	h := c.h
	switch {
	case c.closed || len(c.hedges) >= h.max:
		return nil
	case c.ctx.Err() != nil:
		c.closeLocked()
		return nil
	case !h.withdraw(price):
		h.counters.denied.Add(1)
		c.closeLocked()
		return nil
	}
	r := &run{n: len(c.hedges) + 1, charged: price, cause: cause, sent: h.clock.Now()}
	r.parent = mettle.WithAttempt(c.ctx, c.base+r.n)
	c.hedges = append(c.hedges, r)
	h.counters.hedges.Add(1)
	if c.timer != nil && r.n < h.max {
		c.due = r.sent + int64(c.delay)
		c.timer.Reset(c.delay)
	}
	return r
}

// closeLocked sees to it that nothing is sent any more.
func (c *call) closeLocked() {
	c.closed = true
	if c.timer != nil {
		c.timer.Stop()
	}
}

// ended takes the result of a run. It returns the one that is to follow at once, if any.
func (c *call) ended(r *run, err error) *run {
	e := ending{err: err}
	if err != nil {
		// All that may run code of the user's, before the lock is taken.
		e.outcome = c.h.classify(c.ctx, err)
		e.refused = errors.Is(err, mettle.ErrRejected)
		e.repeat = repeatable(e.outcome, err)
	}
	next, won := c.count(r, e)
	if won {
		c.cancel(r)
	}
	return next
}

// ending is what a run ended with.
type ending struct {
	err     error
	outcome mettle.Outcome
	refused bool
	repeat  bool // a hedge may follow at once
}

// repeatable reports whether a run that ended so may be repeated without waiting.
func repeatable(outcome mettle.Outcome, err error) bool {
	if outcome != mettle.Failure && outcome != mettle.Timeout || mark.Permanent(err) {
		return false
	}
	wait, _ := mettle.RetryAfter(err)
	return wait == 0
}

// count notes what a run ended with. It returns the one that is to follow, if any, and
// whether this one was answered first, so that the others are of no use any more.
func (c *call) count(r *run, e ending) (next *run, won bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.unsent = e.outcome == mettle.Ignored && (e.refused || !r.ran.Load())
	beaten := c.winner != nil || c.crash != nil
	c.sampleLocked(r, e.outcome, beaten)
	switch {
	case beaten:
		if time.Duration(c.h.clock.Now()-c.decided) > max(c.delay/10, 10*time.Millisecond) {
			c.h.counters.abandoned.Add(1)
		}
	case e.outcome == mettle.Success:
		c.winner, c.answer = r, e.err
		c.closeLocked()
		if won = len(c.hedges) > 0; won {
			c.decided = c.h.clock.Now()
			c.learnLocked()
		}
	default:
		c.errs = append(c.errs, e.err)
		if e.outcome.Failed() {
			c.outcome = e.outcome
		}
		if e.repeat {
			next = c.hedgeLocked(e.outcome, e.err)
		} else {
			c.closeLocked()
		}
	}
	return next, won
}

// learnLocked tells whether a call was helped that has a winner, if it was hedged for the
// delay. A hedge that takes longer than the delay has met the same slowness as the first
// run, which then was not bad luck.
func (c *call) learnLocked() {
	late := false
	for _, r := range c.hedges {
		late = late || r.cause == nil && r.ran.Load() && !r.unsent // nor one that waits in a queue of ours
	}
	if !late {
		return
	}
	w := c.winner
	c.h.learn(w.n > 0 && time.Duration(c.decided-w.sent) <= c.delay)
}

// sampleLocked adds the first run to what the live delay is made of. One that was beaten
// would have taken longer than it was given, and so would be above the delay as well.
func (c *call) sampleLocked(r *run, outcome mettle.Outcome, beaten bool) {
	if c.h.live == nil || r.n > 0 {
		return
	}
	now := c.h.clock.Now()
	end := now
	switch {
	case c.winner != nil:
		end = c.decided
	case beaten || outcome != mettle.Success && outcome != mettle.Timeout:
		return
	}
	took := time.Duration(end-c.start) - mettle.Queued(c.first.parent)
	c.h.sketch.Add(time.Duration(now), took)
}

// cancel ends the contexts of all runs but the winner, once there will be no more runs.
func (c *call) cancel(winner *run) {
	if winner != &c.first {
		c.first.finish(lost)
	}
	for _, r := range c.hedges {
		if r != winner {
			r.finish(lost)
		}
	}
}

// leave is called on a goroutine of tick when it makes no more runs.
func (c *call) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.workers--; c.workers == 0 && c.idle != nil {
		close(c.idle)
	}
}

// finish waits for all other goroutines, ends the contexts of the runs, and gives back
// what was withdrawn for those that were not sent.
func (c *call) finish() {
	c.mu.Lock()
	if c.workers > 0 {
		idle := make(chan struct{})
		c.idle = idle
		c.mu.Unlock()
		<-idle
		c.mu.Lock()
	}
	c.closeLocked()
	c.mu.Unlock()

	c.first.finish(over)
	for _, r := range c.hedges {
		r.finish(over)
		if r.unsent || !r.ran.Load() {
			c.h.refund(r.charged)
		}
	}
}

// result returns what Do returns, when finish has returned.
func (c *call) result() error {
	if c.winner == nil {
		if len(c.errs) == 1 {
			return c.errs[0]
		}
		return &Error{Errs: c.errs, outcome: c.outcome}
	}
	if c.winner.n > 0 {
		c.h.counters.wins.Add(1)
	}
	if len(c.hedges) == 0 && !c.outlasted {
		c.h.earn()
	}
	if c.h.shared != nil && !c.nested {
		c.h.shared.Deposit()
	}
	return c.answer
}

// crash is how a run ended that did not return.
type crash struct {
	exit  bool   // by runtime.Goexit
	value any    // of a panic
	stack []byte // of that panic
}

// crashed notes a crash, which ends the call, and returns the one before it, if any.
func (c *call) crashed(x *crash) (before *crash) {
	c.mu.Lock()
	before = c.crash
	if before == nil {
		c.crash = x
		c.closeLocked()
		if c.winner == nil {
			c.decided = c.h.clock.Now()
		}
	}
	c.mu.Unlock()
	c.cancel(nil)
	return before
}

// raise does to the caller's goroutine what happened on another.
func (x *crash) raise() {
	if x.exit {
		runtime.Goexit()
	}
	// Who recovers gets the value of the later panic, which is the one of op. If nobody
	// does, the report of the runtime shows both, and so where op panicked.
	defer panic(x.value)
	panic(&elsewhere{x.stack})
}

// elsewhere is panicked with to show the stack of a panic on another goroutine.
type elsewhere struct{ stack []byte }

func (e *elsewhere) Error() string {
	return "hedge: a run panicked on a goroutine of its own:\n\n" + string(e.stack)
}
