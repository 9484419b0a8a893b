// Package timeout bounds how long an operation may take.
//
// A [Timeout] hands the operation a context with a deadline and waits for it to
// return. It never walks away from an operation that still runs: an operation
// that ignores its context delays the caller, shows in [Stats.Overdue] while it does and
// in [Stats.Abandoned] afterwards, and [Timeout.Abandoned] tells where it was called.
//
// The deadline costs next to nothing until it is needed. A timer is started only when
// the Done method of the context is called, which an operation that answers at once
// seldom does.
//
// How long is long enough can be learnt from the dependency; see [Config.Quantile].
package timeout

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/internal/clock"
	"github.com/mettle-go/mettle/internal/relay"
)

// defaultAfter is long enough for a slow answer, and short enough that a dependency
// that hangs does not collect the goroutines of a whole process.
const defaultAfter = 10 * time.Second

// Config says what a [Timeout] allows. The zero Config is valid and recommended.
type Config struct {
	// Name names the policy in errors and metrics. It may be empty.
	Name string

	// After is how long an operation may take, counted from the call of Do. Zero
	// means 10 s. A negative value is refused: there is no way to say "forever",
	// short of leaving the policy out.
	After time.Duration

	// Quantile makes the timeout adapt to the dependency: an operation then may take
	// twice as long as this quantile of the successful ones of the last minute, such as
	// 0.99 or 0.999, but not less than Floor nor more than After. Zero means none, and
	// After always applies. It must be below 1; negative and NaN are refused.
	//
	// After applies unless the last half minute to a minute has brought 100 successes, or
	// 1/(1-Quantile) of them if that is more: to make use of 0.999 it takes 34 calls a
	// second.
	//
	// While the dependency behaves as it has in that time, the share of calls that fail of
	// this, and would have succeeded within After, is on average at most twice
	// 1-Quantile whatever the distribution, and much less for most: see [Timeout].
	Quantile float64

	// Floor is the least that Quantile can come to, so that a few slow packets are
	// not taken for a failure where answers usually are quick. Zero means a hundredth
	// of After. It is refused when negative or above After, and means nothing without
	// Quantile.
	Floor time.Duration
}

// Validate reports every mistake in c, or nil.
func (c Config) Validate() error {
	var errs []error
	if c.After < 0 {
		errs = append(errs, fmt.Errorf("timeout: After is %v, must be positive, or zero for %v", c.After, defaultAfter))
	}
	if !(c.Quantile >= 0 && c.Quantile < 1) {
		errs = append(errs, fmt.Errorf("timeout: Quantile is %v, must be above 0 and below 1, or zero for none", c.Quantile))
	}
	switch longest := c.longest(); {
	case longest < 0 && c.Floor < 0:
		errs = append(errs, fmt.Errorf("timeout: Floor is %v, must be zero or positive", c.Floor))
	case longest >= 0 && (c.Floor < 0 || c.Floor > longest):
		errs = append(errs, fmt.Errorf("timeout: Floor is %v, must be from 0 to After, which is %v", c.Floor, longest))
	}
	return errors.Join(errs...)
}

// longest returns After with its default.
func (c Config) longest() time.Duration {
	if c.After == 0 {
		return defaultAfter
	}
	return c.After
}

// Timeout is a policy that gives an operation a deadline. Make one with [New]; the
// zero Timeout is not usable. It holds no goroutine and no timer of its own, and may be
// used from many goroutines at once.
//
// # The rate of false timeouts
//
// With [Config.Quantile] q the timeout is twice an estimate of the q-quantile of the
// calls that succeed within After. Of n calls that are distributed alike, the
// estimate is the one of rank qn, rounded up by at most a sixteenth. A further call
// exceeds that one with a probability of (n+1-qn)/(n+1) at most, which is less than
// 1-q + 1/n; and n is at least 1/(1-q). Hence twice 1-q, without the factor of two in
// the timeout. With it, the probability falls to (1-q)² where latencies have an
// exponential tail, and to (1-q)/2^a where they have a heavy one of index a.
//
// A call that is cut off does not tell how long it would have taken, and an estimate
// from the others alone would sink from one minute to the next. Therefore one call in
// 32, chosen at random, may take until After. When it takes longer than the others may
// and succeeds, it counts for itself and for all that were cut off since the last one of
// its kind. So the estimate stays unbiased, and is drawn up by a dependency that slows
// down: as soon as 1-q of the calls of the last minute exceeded the timeout, and one of
// them explored, which takes 32 of them on average, the timeout rises for all, within a
// second of its success, whatever the factor, if After allows for it. Only successes count, so that neither errors
// which come at once nor a dependency that does not answer at all change what is known
// about it; in such an outage calls fail as quickly as before, but for one in 32.
type Timeout struct {
	name     string
	clock    clock.Clock
	fixed    limit
	adaptive *adaptive // nil: always fixed
	labels   []mettle.Label

	flights flights
	samples samples

	exceeded, late, abandoned atomic.Uint64 // written by late calls only
}

// limit is how long a call may take.
type limit struct {
	t     *Timeout
	after time.Duration
	grace time.Duration // past the deadline, until an operation counts as abandoned
	cause *Error        // what every context reports as the cause of its expiry
}

func (t *Timeout) newLimit(after time.Duration) limit {
	return limit{
		t:     t,
		after: after,
		grace: max(after/10, 10*time.Millisecond),
		cause: &Error{Name: t.name, After: after, Err: context.DeadlineExceeded},
	}
}

// New returns a Timeout. It panics with the message of [Config.Validate] when c is
// not valid.
func New(c Config) *Timeout {
	if err := c.Validate(); err != nil {
		panic(err.Error())
	}
	t := &Timeout{name: c.Name, clock: clock.New(), labels: []mettle.Label{{Key: "policy", Value: c.Name}}}
	t.fixed = t.newLimit(c.longest())
	t.flights.init(t.fixed.after, t.fixed.grace)
	t.samples.init()
	if c.Quantile > 0 {
		t.adaptive = newAdaptive(c, t.clock)
	}
	return t
}

// Do runs op with a context whose deadline is After from now, or less with
// [Config.Quantile], and waits until op returns.
//
//   - A success of op comes back as nil, even when it came after the deadline.
//   - A failure of op after the deadline comes back wrapped in an [*Error], which
//     Is [ErrExceeded] and [context.DeadlineExceeded] besides all that op's error
//     Is; an error that wraps the cause of the context is one already. The clock
//     decides, not the context: a transport that was given the deadline may well
//     report it a moment before the context does.
//   - Any other failure of op comes back as it is.
//
// When the deadline of ctx itself is as early or earlier, op is handed ctx as it
// is, and what comes of that deadline is the caller's: never an ErrExceeded. The
// same holds when ctx is cancelled before the deadline.
//
// A context that Do has made for op ends when Do returns, as if cancelled: its timer
// is stopped, and what was derived from it is cancelled. A nil op panics.
//
// The Deadline of that context is exact by the monotonic clock, which is what counts within
// the process. Its reading of the wall clock, which remains when it is printed or sent to
// another machine, is wrong by what the wall clock was set in the second before the call,
// or by as long as the machine was suspended in it.
func (t *Timeout) Do(ctx context.Context, op func(context.Context) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// Written out here and in bound.DoAt, which would have to be reached through two
	// interfaces. Op escapes to the heap in both: package reflect, which tells its name if
	// the call is one to keep, sees to that.
	k := call{t: t, op: op, now: clock.Now()}
	ctx = k.begin(ctx)
	defer k.end()
	err := op(ctx)
	_, err = k.settle(clock.Unknown, err)
	return err
}

// Wrap returns the policy bound to next; see [mettle.Wrapper].
func (t *Timeout) Wrap(next mettle.Policy) mettle.Policy { return &bound{t, relay.To(next)} }

type bound struct {
	t    *Timeout
	next relay.Policy
}

func (b *bound) Do(ctx context.Context, op func(context.Context) error) error {
	_, err := b.DoAt(ctx, op, clock.Unknown)
	return err
}

// DoAt implements [relay.Policy].
func (b *bound) DoAt(ctx context.Context, op func(context.Context) error, now clock.Instant) (clock.Instant, error) {
	k := call{t: b.t, op: op, now: now.OrNow()}
	ctx = k.begin(ctx)
	defer k.end()
	left, err := b.next.DoAt(ctx, op, k.now)
	return k.settle(left, err)
}

// Stop tells the Timeouts that the operation has done what they bound, in time, and goes
// on for another reason. It is for those who write an adapter whose operation stands for
// something that outlives its making, such as a stream: the operation returns when the
// stream ends, so that a bulkhead further out counts it for as long, and no Timeout is to
// take a healthy stream for a late answer.
//
// It applies to the Timeouts between entered, the context with which the pipeline was
// entered, and ctx, that of the operation; one that the caller has around it all is none
// of the adapter's business. What the operation returns afterwards is passed on as it is,
// however late, and is neither counted nor learnt from. The contexts still end at their
// deadlines: what is to live on must not descend from them. Stop is to be called while the
// operation runs, from any goroutine; after that, it does nothing.
func Stop(ctx, entered context.Context) {
	outer, _ := entered.Value(lazyKey{}).(*lazyCtx)
	for {
		c, _ := ctx.Value(lazyKey{}).(*lazyCtx)
		if c == nil || c == outer {
			return
		}
		if !c.stopped.Swap(true) {
			c.limit.t.flights.end(c.flight)
			c.limit.t.samples.dismiss(c)
		}
		ctx = c.parent
	}
}

// call is one call of Do. It lives on the stack.
type call struct {
	t      *Timeout
	now    clock.Instant               // when it began
	op     func(context.Context) error // for its name
	c      *lazyCtx                    // nil: the deadline is the caller's
	l      *limit
	sample *sample // nil: nobody watches
	trial  trial   // what the adaptive timeout wants to know
}

// begin returns the context for op.
func (k *call) begin(ctx context.Context) context.Context {
	t, now := k.t, k.t.clock.At(k.now)
	k.l = &t.fixed
	if t.adaptive != nil {
		k.l = t.adaptive.begin(t, &k.trial, time.Duration(now), ctx)
	}
	// The wall clock's reading matters as well: a deadline may be sent to another machine.
	deadline := k.now.After(k.l.after)
	if d, ok := ctx.Deadline(); ok && !d.After(deadline) {
		return ctx
	}
	k.c = &lazyCtx{parent: ctx, limit: k.l, deadline: deadline}
	k.track(now)
	return k.c
}

// track makes the call show if it does not come back.
func (k *call) track(now int64) {
	t, first := k.t, false
	k.c.flight, first = t.flights.begin(due(now, k.l))
	if first && t.flights.overdue(now) > 0 {
		t.samples.suspectUntil.Store(now + int64(suspicion))
	}
	if now < t.samples.suspectUntil.Load() {
		t.samples.watch(k, now)
	}
}

// end gives back what the call holds, however it ends.
func (k *call) end() {
	if k.c != nil {
		k.c.finish()
		if k.c.stopped.Swap(true) { // a Stop that comes later has no effect
			return
		}
		k.t.flights.end(k.c.flight)
		if k.sample != nil {
			k.t.samples.dismiss(k.c)
		}
	}
}

// settle counts how the call ended, at left if that is known, and returns what Do returns
// for op's err. The time goes on outwards with a success.
func (k *call) settle(left clock.Instant, err error) (clock.Instant, error) {
	c, t := k.c, k.t
	if c != nil && c.stopped.Load() {
		return clock.Unknown, err
	}
	if t.adaptive != nil {
		left = left.OrNow()
		t.adaptive.end(&k.trial, time.Duration(t.clock.At(left)), err)
	}
	if c == nil || err == nil && c.running() {
		return left, err // the timer has not fired, which spares reading the clock
	}
	// An operation that never asked for Done or Err may be late without knowing,
	// so the clock is read for its success too.
	left = left.OrNow()
	over := time.Duration(left-k.now) - k.l.after
	if over < 0 || !c.owned() {
		return left, err
	}
	if over > k.l.grace {
		t.abandoned.Add(1)
		t.samples.returned(k, over, t.clock.At(left))
	}
	if err == nil {
		t.late.Add(1)
		return left, nil
	}
	t.exceeded.Add(1)
	return clock.Unknown, k.l.wrap(err)
}

// wrap returns err as one that says which deadline passed. An err that says so
// already, as most do that come from a context, is not told twice.
func (l *limit) wrap(err error) error {
	if err == context.DeadlineExceeded {
		return l.cause
	}
	if errors.Is(err, l.cause) {
		return err
	}
	return &Error{Name: l.cause.Name, After: l.after, Err: err}
}
