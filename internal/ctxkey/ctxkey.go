// Package ctxkey finds out the keys by which other packages ask a context for values of
// their own. Such keys are not exported, but are shown to whoever is asked.
package ctxkey

import "context"

// Cancel is the key by which package context asks a context for the one inside it that
// can be cancelled. It does so to derive children without a goroutine for each, and to
// find the cause. A context of one's own whose Done channel is that of a context it has
// made must answer with [context.Context.Value] of the latter.
//
// Should package context ever stop asking, Cancel is nil. Then all keys are to be answered
// so: slower, and as right.
var Cancel = Asked(func(ctx context.Context) { _ = context.Cause(ctx) })

// Asked returns the key for which ask asks its argument last, an ended context without
// any values, or nil if it asks for none.
func Asked(ask func(context.Context)) (key any) {
	var p probe
	ask(&p)
	return p.asked
}

// probe is an ended context that remembers which key it was asked for.
type probe struct {
	context.Context
	asked any
}

func (p *probe) Err() error { return context.Canceled }

func (p *probe) Value(key any) any {
	p.asked = key
	return nil
}
