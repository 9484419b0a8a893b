package mettle

import (
	"context"
	"sync/atomic"
	"time"
)

// Trace is a set of hooks that a context carries to the policies of one call, the
// way net/http/httptrace does it. Any hook may be nil.
//
// Hooks run on the goroutine of the call, with no lock held, in the order of the
// events, and the call waits for them. Under a policy that runs the operation
// concurrently (a hedge) they may be called concurrently.
type Trace struct {
	// AttemptStart is called before each attempt of a retry; Attempt is set.
	AttemptStart func(TraceEvent)
	// AttemptDone is called when an attempt has ended, with its Err and Elapsed. After
	// a panic or runtime.Goexit its Err says so, in place of the error that never came.
	AttemptDone func(TraceEvent)
	// Wait is called before a policy waits: a retry between attempts, with the
	// Delay, the number of the Attempt that failed and its Err; a bulkhead before
	// a call queues, with the longest wait as Delay. The wait may then not come to be:
	// a call of the bulkhead may find a slot at once, or the queue full, which is told
	// by Rejected.
	Wait func(TraceEvent)
	// Rejected is called when a policy refuses the call, with the refusal as Err.
	Rejected func(TraceEvent)
	// Hedged is called before a hedge sends a further attempt, whose number is Attempt:
	// after Delay, or at once where one before it has failed, with Err.
	Hedged func(TraceEvent)
	// FellBack is called before a fallback runs, with the Err it stands in for.
	FellBack func(TraceEvent)
	// StateChanged is called when this call made a breaker change its state.
	StateChanged func(TraceEvent)
}

// TraceEvent is what a hook of a [Trace] is told. Fields that the hook does not
// name are zero.
type TraceEvent struct {
	// Context is that of the call at the place of the event, and carries what the caller
	// and the policies around have put there, such as a span: that of the attempt where there is
	// one. It is never nil in what a policy of ours tells.
	Context  context.Context
	Policy   string        // the Name in the policy's Config, "" when it has none
	Attempt  int           // 1 for the first attempt
	Delay    time.Duration // of a wait, as it was planned
	Elapsed  time.Duration // of an attempt, from its start to its end
	Err      error
	From, To string // states of a breaker: "closed", "open", "half-open"
}

// WithTrace returns a copy of ctx that carries t. Hooks that ctx carries already
// are called as well, after those of t. A nil t panics.
func WithTrace(ctx context.Context, t *Trace) context.Context {
	if t == nil {
		panic("mettle: WithTrace: nil Trace")
	}
	c := derive(ctx)
	if c.trace == nil {
		c.trace = t
		return c
	}
	old := c.trace
	c.trace = &Trace{
		AttemptStart: both(t.AttemptStart, old.AttemptStart),
		AttemptDone:  both(t.AttemptDone, old.AttemptDone),
		Wait:         both(t.Wait, old.Wait),
		Rejected:     both(t.Rejected, old.Rejected),
		Hedged:       both(t.Hedged, old.Hedged),
		FellBack:     both(t.FellBack, old.FellBack),
		StateChanged: both(t.StateChanged, old.StateChanged),
	}
	return c
}

func both(first, second func(TraceEvent)) func(TraceEvent) {
	switch {
	case first == nil:
		return second
	case second == nil:
		return first
	default:
		return func(e TraceEvent) { first(e); second(e) }
	}
}

// ContextTrace returns the hooks that ctx carries, or nil. It is for those who
// write policies; the hooks of what it returns may be nil one by one.
func ContextTrace(ctx context.Context) *Trace {
	if c := fromContext(ctx); c != nil {
		return c.trace
	}
	return nil
}

// Attempt returns which attempt of a retry ctx belongs to: 1 for the first, 2 for
// the first resend, 0 outside a retry. Of nested retries it is the innermost. A hedge
// counts on from the attempt that it is in, or from 1 outside a retry, so that whatever
// may have been sent before has a number above 1.
//
// Whatever derives its context from that of an attempt belongs to the attempt, work
// that outlives it included ([context.WithoutCancel]): a retry there leaves resending
// to the one outside. Such work gets retries of its own with a retry whose Config says
// Nested, or from a context that does not descend from the attempt's.
func Attempt(ctx context.Context) int {
	if c := fromContext(ctx); c != nil {
		return c.attempt
	}
	return 0
}

// WithAttempt returns a copy of ctx for attempt n of a policy that resends. It is
// for those who write such a policy: the mark lets retries inside see that they are
// nested, and adapters tell the context of an attempt from that of the call. It
// costs one allocation. WithAttempt panics when n is less than 1.
func WithAttempt(ctx context.Context, n int) context.Context {
	if n < 1 {
		panic("mettle: WithAttempt: attempts count from 1")
	}
	c := derive(ctx)
	c.attempt = n
	if c.call == nil {
		c.call = c
	}
	return c
}

// WithCall returns a copy of ctx from which [CallContext] starts afresh. It is for
// those who write an adapter, which enters its pipeline with the result: an
// enclosing retry still shows in [Attempt], but does not count as part of the call.
// A retry inside therefore leaves resending to that one, unless it is Nested.
//
// Where there is nothing to start afresh from, the result is ctx itself.
func WithCall(ctx context.Context) context.Context {
	if c := fromContext(ctx); c == nil || c.call == nil {
		return ctx
	}
	c := derive(ctx)
	c.call = nil
	return c
}

// CallContext returns the context of the whole call that ctx is one attempt of:
// the context with which the outermost retry or hedge since [WithCall] was entered,
// or ctx itself where there is none. Its deadline is that of the call, all attempts
// and waits together. Adapters whose result outlives the operation, such as a
// response body, bound it by this deadline and not by the attempt's.
//
// The context ends when the policy that made it returns.
func CallContext(ctx context.Context) context.Context {
	if c := fromContext(ctx); c != nil && c.call != nil {
		return c.call.Context
	}
	return ctx
}

// WithQueued returns a copy of ctx on which policies further in note, with
// [AddQueued], how long they kept the call waiting; [Queued] starts at 0. It is for
// those who write a policy that measures how long a dependency takes, and do not
// want to blame it for a queue of ours.
func WithQueued(ctx context.Context) context.Context { return derive(ctx) }

// Queued returns how long policies that were handed ctx, or a context derived from
// it, kept the call waiting, as far as they noted it. It is 0 on a context that does
// not come from [WithQueued] or another function of this package.
func Queued(ctx context.Context) time.Duration {
	if c := fromContext(ctx); c != nil {
		return time.Duration(c.queued.Load())
	}
	return 0
}

// AddQueued notes that a policy kept the call of ctx waiting for d, in a queue of its
// own, before the operation. It is for those who write such a policy.
func AddQueued(ctx context.Context, d time.Duration) {
	for c := fromContext(ctx); c != nil; c = fromContext(c.Context) {
		c.queued.Add(int64(d))
	}
}

// callCtx is all that the policies tell one another through a context, in one
// node, so that one walk up the chain finds everything. Every retry makes one: what fits
// into 48 bytes costs less to allocate.
type callCtx struct {
	context.Context
	attempt int          // 0: outside a retry
	trace   *Trace       // nil: nobody listens
	call    *callCtx     // on top of what the outermost retry was entered with; nil: no retry yet
	queued  atomic.Int64 // nanoseconds noted by AddQueued here or further in
}

type callKey struct{}

// EndsWith returns the context whose end is that of c, so that adapters can see past c.
func (c *callCtx) EndsWith() context.Context { return c.Context }

func (c *callCtx) Value(key any) any {
	if _, ok := key.(callKey); ok {
		return c
	}
	return c.Context.Value(key)
}

func fromContext(ctx context.Context) *callCtx {
	c, _ := ctx.Value(callKey{}).(*callCtx)
	return c
}

// derive returns a new node on top of ctx with all that ctx carries.
func derive(ctx context.Context) *callCtx {
	c := &callCtx{Context: ctx}
	if old := fromContext(ctx); old != nil {
		c.attempt, c.trace, c.call = old.attempt, old.trace, old.call
	}
	return c
}
