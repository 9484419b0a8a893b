package breaker

import (
	"context"
	"sync/atomic"
)

// Answered tells the breakers whose probe the operation is that the dependency has
// answered, and is still at it. It is for those who write an adapter whose operation lasts
// as long as what it has begun, such as a stream, which may rightly be longer than
// ProbeTimeout: the probe has succeeded, as [Permit.Done] with nil would have it, and how
// the operation ends counts for nothing.
//
// It applies to the breakers between entered, the context with which the pipeline was
// entered, and ctx, that of the operation, and only where they admitted it as a probe: any
// other call counts when it ends. It may be called from any goroutine, and again, and when
// the operation has returned; then it does nothing. Hooks may run before it returns.
func Answered(ctx, entered context.Context) {
	outer, _ := entered.Value(probeKey{}).(*probe)
	for {
		c, _ := ctx.Value(probeKey{}).(*probe)
		if c == nil || c == outer {
			return
		}
		if c.reports() {
			c.permit.Done(nil)
		}
		ctx = c.Context
	}
}

type probeKey struct{}

// probe is the context of a probe's operation, with a permit for [Answered].
type probe struct {
	context.Context
	permit   Permit
	reported atomic.Bool
}

// probe returns the context for an operation that p admits, and the probe it is: nil for
// a call of the closed state, which costs nothing more.
func (p *Permit) probe(ctx context.Context) (context.Context, *probe) {
	if p.lease == 0 {
		return ctx, nil
	}
	c := &probe{Context: ctx, permit: *p}
	return c, c
}

// reports reports whether it is for the caller to report how the operation went, which is
// for one alone: Answered, or whoever ran it.
func (c *probe) reports() bool { return c == nil || !c.reported.Swap(true) }

// EndsWith returns the context whose end is that of c, so that adapters can see past c.
func (c *probe) EndsWith() context.Context { return c.Context }

// Value finds the probe itself by probeKey.
func (c *probe) Value(key any) any {
	if key == (probeKey{}) {
		return c
	}
	return c.Context.Value(key)
}
