package timeout

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle/internal/ctxkey"
)

// lazyCtx is a context with a deadline that costs one allocation until somebody
// asks for its end. Then it makes a context of package context, with the same
// parent, deadline and cause, and from there on answers as that one does. So it
// behaves as context.WithDeadlineCause, except when it is first asked after the end:
// when both the deadline and a cancellation of the parent have passed by then, the
// cancellation counts as the earlier; and when Do has returned, its return does.
//
// All methods may be called from many goroutines at once, also after Do returned.
type lazyCtx struct {
	parent   context.Context
	limit    *limit
	deadline time.Time // after that of parent, if parent has one

	end atomic.Pointer[end] // nil until somebody asks or Do returns; set once
	own end                 // what end points to, mostly: spares an allocation
	// Set by who may write own: the first who asks. One who asks at the same time
	// makes an end elsewhere, so that nobody waits for the other.
	claimed atomic.Bool
	stopped atomic.Bool // by Stop, or Do has returned

	flight int64 // for flights
}

// lazyKey is what Stop asks a context for, to find the lazyCtx it descends from.
type lazyKey struct{}

// end is what knows how a lazyCtx ends.
type end struct {
	ctx    context.Context
	cancel context.CancelFunc
}

// canceled is the end of a lazyCtx that nobody asked before Do returned.
var canceled = func() *end {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return &end{ctx, cancel}
}()

// cancelKey is by what package context asks for the context inside one; a variable for
// the test of what comes if it does not. See Value.
var cancelKey = ctxkey.Cancel

// EndsWith returns the context with which c ends, if not at its Deadline. An adapter that
// watches both need not ask for Done, and so for a timer.
func (c *lazyCtx) EndsWith() context.Context { return c.parent }

// DeadlineCause returns what context.Cause of c is once its Deadline has come, for an
// adapter that watches that itself.
func (c *lazyCtx) DeadlineCause() error { return c.limit.cause }

func (c *lazyCtx) Deadline() (time.Time, bool) { return c.deadline, true }

func (c *lazyCtx) Done() <-chan struct{} { return c.ask().ctx.Done() }

// Err needs no timer: the clock tells the same.
func (c *lazyCtx) Err() error {
	e := c.end.Load()
	if e == nil {
		if time.Since(c.deadline) < 0 && c.parent.Err() == nil {
			return nil
		}
		e = c.ask()
	}
	return e.ctx.Err()
}

// Value answers package context with the context that was made on being asked: it
// must find that one, whose Done channel is ours, and not the parent's. With no key
// to tell that question from others, all are answered so: slower, and as right.
func (c *lazyCtx) Value(key any) any {
	if key == cancelKey || cancelKey == nil {
		return c.ask().ctx.Value(key)
	}
	if key == (lazyKey{}) {
		return c
	}
	return c.parent.Value(key)
}

// String is for logs, and keeps package fmt from reading the fields without
// synchronization.
func (c *lazyCtx) String() string {
	parent, ok := c.parent.(fmt.Stringer)
	if !ok {
		return fmt.Sprintf("%T.WithTimeout(%v)", c.parent, c.deadline)
	}
	return fmt.Sprintf("%v.WithTimeout(%v)", parent, c.deadline)
}

// ask returns the end of c, making it if nobody has asked before.
func (c *lazyCtx) ask() *end {
	if e := c.end.Load(); e != nil {
		return e
	}
	parent := c.parent
	if parent.Err() == context.DeadlineExceeded && c.outlived() && time.Since(c.deadline) >= 0 {
		parent = context.WithoutCancel(parent) // ours came first
	}
	ctx, cancel := context.WithDeadlineCause(parent, c.deadline, c.limit.cause)
	e := &c.own
	if !c.claimed.CompareAndSwap(false, true) {
		e = new(end)
	}
	e.ctx, e.cancel = ctx, cancel
	if !c.end.CompareAndSwap(nil, e) {
		cancel() // somebody else asked as well, or Do has returned
	}
	return c.end.Load()
}

// running reports whether somebody asked for the end and it has not come yet.
func (c *lazyCtx) running() bool {
	e := c.end.Load()
	return e != nil && e.ctx.Err() == nil
}

// owned reports, once the deadline is past, whether c ended of it, and not before
// of its parent. The context may be a moment behind the clock.
func (c *lazyCtx) owned() bool {
	switch c.Err() {
	case nil:
		return true
	case context.DeadlineExceeded:
		return c.outlived() || context.Cause(c) == error(c.limit.cause)
	default:
		return false
	}
}

// outlived reports whether the deadline of the parent is known, and so later than
// ours. A custom context may expire with none.
func (c *lazyCtx) outlived() bool {
	_, ok := c.parent.Deadline()
	return ok
}

// finish ends c, with everything derived from it, and stops its timer.
func (c *lazyCtx) finish() {
	if c.end.Load() == nil && c.end.CompareAndSwap(nil, canceled) {
		return
	}
	c.end.Load().cancel()
}
