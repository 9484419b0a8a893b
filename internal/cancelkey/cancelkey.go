// Package cancelkey knows the key by which package context asks a context for the one
// inside it that can be cancelled.
package cancelkey

import "context"

// Key is that key. It is not exported, but is shown to whoever is asked. Package context
// uses it to derive children without a goroutine for each, and to find the cause. A
// context of one's own whose Done channel is that of a context it has made must answer
// with [context.Context.Value] of the latter.
//
// Should package context ever stop asking, Key is nil. Then all keys are to be answered
// so: slower, and as right.
var Key = func() any {
	var p probe
	_ = context.Cause(&p)
	return p.asked
}()

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
