package bulkhead

import (
	"container/list"
	"context"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/internal/clock"
)

// waiter is a call in a queue. It is not pooled: its channel may belong to a
// testing/synctest bubble, and who waits can afford the allocation.
type waiter struct {
	granted chan struct{} // closed when the waiter has a slot
	since   int64         // reading of the clock when it joined the queue
	place   *list.Element // in the queue, or nil; guarded by the mutex of the queue
}

// slots is what a call waits for: those of a [Bulkhead], or the room in a [Pool].
type slots interface {
	// join puts wt into the queue, or takes a slot that came free meanwhile, or returns
	// the refusal of a full queue.
	join(wt *waiter) (joined bool, full *FullError)
	// leave takes wt out of the queue and returns the refusal of a call that waited in
	// vain, or nil if wt has been granted a slot.
	leave(wt *waiter) (late *FullError)
	release()
	refuse(context.Context, *FullError) error
}

// wait takes a slot for a call that found none, or returns why it got none: a refusal,
// or the end of ctx. What clk reads is the time, and name is that of the policy.
func wait(ctx context.Context, from slots, name string, maxWait time.Duration, clk clock.Clock) error {
	if t := mettle.ContextTrace(ctx); t != nil && t.Wait != nil {
		t.Wait(mettle.TraceEvent{Context: ctx, Policy: name, Delay: longestWait(ctx, maxWait)})
	}
	// The hook and a foreign context's Done may block or panic. They come before the
	// call is in the queue, where it could be granted a slot that nobody gives back.
	ended := ctx.Done()
	wt := &waiter{granted: make(chan struct{})}
	joined, full := from.join(wt)
	if full != nil {
		return from.refuse(ctx, full)
	}
	var late *FullError // nil: there is a slot in hand
	kept := false
	defer func() { // a foreign context, which is asked with a slot in hand, may panic
		if late == nil && !kept {
			from.release()
		}
	}()
	if joined {
		expired := time.NewTimer(maxWait)
		defer expired.Stop()
		select {
		case <-wt.granted:
		case <-ended:
			late = from.leave(wt)
		case <-expired.C:
			late = from.leave(wt)
		}
	}
	// Of several things that happen at once, select takes any. The context decides.
	if ctx.Err() != nil {
		return &endedError{name, context.Cause(ctx)}
	}
	if late != nil {
		return from.refuse(ctx, late)
	}
	if joined {
		mettle.AddQueued(ctx, time.Duration(clk.Now()-wt.since))
	}
	kept = true
	return nil
}

// longestWait returns how long a call with ctx may wait from now on.
func longestWait(ctx context.Context, maxWait time.Duration) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return max(0, min(maxWait, time.Until(deadline)))
	}
	return maxWait
}

// counts is how many calls were refused, at once and after a wait.
type counts struct{ refused, expired atomic.Uint64 }

// refuse counts a refusal, tells who listens, and returns it. The call holds nothing
// by then, so that the hook may do as it likes. The trace is looked up here and not
// sooner because a healthy call should not pay for the walk up its context.
func (c *counts) refuse(ctx context.Context, err *FullError) error {
	if err.Waited > 0 {
		c.expired.Add(1)
	} else {
		c.refused.Add(1)
	}
	if t := mettle.ContextTrace(ctx); t != nil && t.Rejected != nil {
		t.Rejected(mettle.TraceEvent{Context: ctx, Policy: err.Name, Err: err})
	}
	return err
}
