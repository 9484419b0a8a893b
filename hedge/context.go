package hedge

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle/internal/ctxkey"
)

// ErrLost is the cause of the context of a run that is of no use any more: another one
// has been answered, or has panicked. It Is [context.Canceled], and its outcome is
// [mettle.Ignored]: no breaker further in counts what the run then ends with, unless that
// is a success or speaks for itself.
var ErrLost error = errLost{}

// runCtx is the context of one run of op. It can be cancelled, and costs nothing beside
// its room until somebody asks for its Done: then it makes a context of package context,
// with the same parent, and from there on answers as that one does.
//
// All methods may be called from many goroutines at once, also after Do returned.
type runCtx struct {
	parent context.Context     // carries the mark of the attempt
	end    atomic.Pointer[end] // nil until somebody asks, or the run ends; set once
}

// end is what knows how a runCtx ends.
type end struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// The ends of a run that nobody has asked for.
var (
	lost = ended(ErrLost)
	over = ended(context.Canceled) // Do has returned
)

func ended(cause error) *end {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	return &end{ctx, cancel}
}

// finish ends c as e does. Only the first time has effect.
func (c *runCtx) finish(e *end) {
	// A parent that has ended came first.
	if c.end.Load() == nil && c.parent.Err() == nil && c.end.CompareAndSwap(nil, e) {
		return
	}
	c.ask().cancel(context.Cause(e.ctx))
}

// ask returns the end of c, making it if nobody has asked before.
func (c *runCtx) ask() *end {
	if e := c.end.Load(); e != nil {
		return e
	}
	ctx, cancel := context.WithCancelCause(c.parent)
	if !c.end.CompareAndSwap(nil, &end{ctx, cancel}) {
		cancel(nil) // somebody else asked as well, or the run has ended
	}
	return c.end.Load()
}

func (c *runCtx) Deadline() (deadline time.Time, ok bool) { return c.parent.Deadline() }

func (c *runCtx) Done() <-chan struct{} { return c.ask().ctx.Done() }

func (c *runCtx) Err() error {
	if e := c.end.Load(); e != nil {
		return e.ctx.Err()
	}
	return c.parent.Err()
}

// Value answers package context with the context that was made on being asked.
func (c *runCtx) Value(key any) any {
	if key == ctxkey.Cancel || ctxkey.Cancel == nil {
		return c.ask().ctx.Value(key)
	}
	return c.parent.Value(key)
}

// String is for logs, and keeps package fmt from reading the fields without
// synchronization.
func (c *runCtx) String() string {
	if parent, ok := c.parent.(fmt.Stringer); ok {
		return parent.String() + ".WithHedge"
	}
	return fmt.Sprintf("%T.WithHedge", c.parent)
}
