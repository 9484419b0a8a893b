// Package timeout bounds how long an operation may take.
//
// A [Timeout] hands the operation a context with a deadline and waits for it to
// return. It never walks away from an operation that still runs: an operation
// that ignores its context delays the caller, and shows in [Stats.Abandoned].
//
// The deadline costs next to nothing until it is needed. A timer is started only when
// the Done method of the context is called, which an operation that answers at once
// seldom does.
package timeout

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
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
}

// Validate reports every mistake in c, or nil.
func (c Config) Validate() error {
	if c.After < 0 {
		return fmt.Errorf("timeout: After is %v, must be positive, or zero for %v", c.After, defaultAfter)
	}
	return nil
}

// Timeout is a policy that gives an operation a deadline. Make one with [New]; the
// zero Timeout is not usable. It is immutable, holds no goroutine and no timer of
// its own, and may be used from many goroutines at once.
type Timeout struct {
	name   string
	after  time.Duration
	grace  time.Duration // past the deadline, until an operation counts as abandoned
	labels []mettle.Label

	cause *Error // what every context reports as the cause of its expiry

	exceeded, late, abandoned atomic.Uint64 // written by late calls only
}

// New returns a Timeout. It panics with the message of [Config.Validate] when c is
// not valid.
func New(c Config) *Timeout {
	if err := c.Validate(); err != nil {
		panic(err.Error())
	}
	t := &Timeout{name: c.Name, after: c.After, labels: []mettle.Label{{Key: "policy", Value: c.Name}}}
	if t.after == 0 {
		t.after = defaultAfter
	}
	t.grace = max(t.after/10, 10*time.Millisecond)
	t.cause = &Error{Name: t.name, After: t.after, Err: context.DeadlineExceeded}
	return t
}

// Do runs op with a context whose deadline is After from now, and waits until op
// returns.
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
// is stopped, and what was derived from it is cancelled.
func (t *Timeout) Do(ctx context.Context, op func(context.Context) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return t.run(ctx, nil, op)
}

// Wrap returns the policy bound to next; see [mettle.Wrapper].
func (t *Timeout) Wrap(next mettle.Policy) mettle.Policy { return &bound{t, next} }

type bound struct {
	t    *Timeout
	next mettle.Policy
}

func (b *bound) Do(ctx context.Context, op func(context.Context) error) error {
	return b.t.run(ctx, b.next, op)
}

func (t *Timeout) run(ctx context.Context, next mettle.Policy, op func(context.Context) error) error {
	// The wall clock is read as well, where one reading of the monotonic clock
	// would do for us: a deadline may be sent to another machine.
	deadline := time.Now().Add(t.after)
	if d, ok := ctx.Deadline(); ok && !d.After(deadline) {
		return call(ctx, next, op)
	}
	c := &lazyCtx{parent: ctx, policy: t, deadline: deadline}
	defer c.finish()
	return t.settle(c, call(c, next, op))
}

func call(ctx context.Context, next mettle.Policy, op func(context.Context) error) error {
	if next == nil {
		return op(ctx)
	}
	return next.Do(ctx, op)
}

// settle counts how the call ended and returns what Do returns for op's err.
func (t *Timeout) settle(c *lazyCtx, err error) error {
	if err == nil && c.running() {
		return nil // the timer has not fired, which spares reading the clock
	}
	// An operation that never asked for Done or Err may be late without knowing,
	// so the clock is read for its success too.
	over := time.Since(c.deadline)
	if over < 0 || !c.owned() {
		return err
	}
	if over > t.grace {
		t.abandoned.Add(1)
	}
	if err == nil {
		t.late.Add(1)
		return nil
	}
	t.exceeded.Add(1)
	return t.wrap(err)
}

// wrap returns err as one that says which deadline passed. An err that says so
// already, as most do that come from a context, is not told twice.
func (t *Timeout) wrap(err error) error {
	if err == context.DeadlineExceeded {
		return t.cause
	}
	if errors.Is(err, t.cause) {
		return err
	}
	return &Error{Name: t.name, After: t.after, Err: err}
}

// Stats is a snapshot of what a [Timeout] has counted since it was made. Calls
// that ended in time are not counted, so that they share nothing, and neither are
// those whose caller's deadline came first or who were cancelled by their caller.
type Stats struct {
	// Exceeded is the number of calls that failed after their deadline.
	Exceeded uint64
	// Late is the number of calls that succeeded after their deadline.
	Late uint64
	// Abandoned is the number of calls, of those two, that came back only well
	// after the deadline: by more than a tenth of After and more than 10 ms. Their
	// operation ignores its context, or was slow to return once it had ended. A call
	// that has not returned yet is not counted yet.
	Abandoned uint64
}

// Stats returns the counts. The three are read one after the other, so a call that
// ends meanwhile may be in one and not in another.
func (t *Timeout) Stats() Stats {
	return Stats{Exceeded: t.exceeded.Load(), Late: t.late.Load(), Abandoned: t.abandoned.Load()}
}

// Observe yields the counts of [Stats] as these metrics, with the label policy, which
// is the Name:
//
//	mettle.timeout.exceeded   counter  {call}  failed after their deadline
//	mettle.timeout.late       counter  {call}  succeeded after their deadline
//	mettle.timeout.abandoned  counter  {call}  of these two, returned well after it
func (t *Timeout) Observe(yield func(mettle.Metric) bool) {
	s := t.Stats()
	for _, m := range [...]mettle.Metric{
		t.counter("mettle.timeout.exceeded", "Calls that failed after their deadline.", s.Exceeded),
		t.counter("mettle.timeout.late", "Calls that succeeded after their deadline.", s.Late),
		t.counter("mettle.timeout.abandoned", "Calls that came back well after their deadline.", s.Abandoned),
	} {
		if !yield(m) {
			return
		}
	}
}

func (t *Timeout) counter(name, help string, n uint64) mettle.Metric {
	return mettle.Metric{Kind: mettle.Counter, Name: name, Unit: "{call}", Help: help, Labels: t.labels, Value: float64(n)}
}
