package mettle

import (
	"context"
	"fmt"
	"reflect"
	"slices"
)

// Pipeline is a chain of policies that acts as one. It is made by [Compose], is
// immutable, and may be used from many goroutines at once. A Pipeline is a
// [Policy] and a [Wrapper], so pipelines compose. The zero Pipeline has no policies:
// it runs the operation as it is.
type Pipeline struct {
	policies []Policy
	chain    Policy // policies bound inside out, ending in direct; nil in the zero Pipeline
}

// Compose returns a pipeline that runs an operation under all the policies given.
// The first is the outermost: it is entered first and left last. None at all runs
// the operation as it is.
//
// Compose panics when a policy is nil, or the Wrap of one returns nil, and says which;
// that includes a nil pointer or function held in a non-nil interface.
func Compose(policies ...Policy) *Pipeline {
	for i, p := range policies {
		if isNil(p) {
			panic(fmt.Sprintf("mettle: Compose: policy %d of %d is nil", i+1, len(policies)))
		}
	}
	p := &Pipeline{policies: slices.Clone(policies)}
	p.chain = p.bind(direct{})
	return p
}

// Policies returns what was given to [Compose], outermost first, for those who show
// what a pipeline is made of. The slice is the caller's.
func (p *Pipeline) Policies() []Policy { return slices.Clone(p.policies) }

// Do runs op under every policy of the pipeline. When ctx is done on entry, no
// policy is entered and Do returns [context.Cause] of ctx.
func (p *Pipeline) Do(ctx context.Context, op func(context.Context) error) error {
	// Looked at once, here: the bound layers rely on it, and a layer inside a
	// timeout would pay for a look with a clock read.
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if p.chain == nil {
		return op(ctx)
	}
	return p.chain.Do(ctx, op)
}

// Wrap returns the pipeline bound to next, which takes the place of the operation.
func (p *Pipeline) Wrap(next Policy) Policy {
	return p.bind(next)
}

// Observe yields the metrics of every policy that is [Observable], outermost first.
func (p *Pipeline) Observe(yield func(Metric) bool) {
	more := true
	for _, policy := range p.policies {
		o, ok := policy.(Observable)
		if !ok {
			continue
		}
		o.Observe(func(m Metric) bool {
			more = more && yield(m)
			return more
		})
		if !more {
			return
		}
	}
}

// bind builds the chain from the inside out, once, so that no call has to.
func (p *Pipeline) bind(inner Policy) Policy {
	chain := inner
	for i, policy := range slices.Backward(p.policies) {
		w, ok := policy.(Wrapper)
		if !ok {
			chain = &closing{policy: policy, next: chain}
			continue
		}
		// Here it can be said whose it is, and not in the first call.
		if chain = w.Wrap(chain); isNil(chain) {
			panic(fmt.Sprintf("mettle: Compose: Wrap of policy %d of %d returns nil", i+1, len(p.policies)))
		}
	}
	return chain
}

// direct ends every chain: it is the operation itself.
type direct struct{}

func (direct) Do(ctx context.Context, op func(context.Context) error) error { return op(ctx) }

// closing binds a policy that has only Do, at the cost of one closure a call.
type closing struct{ policy, next Policy }

func (c *closing) Do(ctx context.Context, op func(context.Context) error) error {
	return c.policy.Do(ctx, func(ctx context.Context) error {
		// The policy is not ours and may hand on a context of its own that has
		// ended; the bound layers inside do not look.
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return c.next.Do(ctx, op)
	})
}

// isNil reports whether calling Do on p could only crash.
func isNil(p Policy) bool {
	if p == nil {
		return true
	}
	switch v := reflect.ValueOf(p); v.Kind() {
	case reflect.Pointer, reflect.Func, reflect.Map, reflect.Chan, reflect.Slice:
		return v.IsNil()
	default:
		return false
	}
}
