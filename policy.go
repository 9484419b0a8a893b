package mettle

import "context"

// Policy runs an operation under a rule.
//
// What every implementation promises, and package mettletest checks:
//
//   - op runs zero or more times, never after Do has returned, and never more
//     than once at a time unless the policy's documentation says so (a hedge).
//   - The context handed to op descends from ctx. When ctx is done on entry,
//     op does not run and the error Is [context.Cause] of ctx.
//   - A wait of the policy's own, for its turn or between two runs of op, ends when
//     ctx does, and op does not run after that. Where it had not run before, the
//     error Is [context.Cause] of ctx here too, or a refusal.
//   - The error of op comes back such that [errors.Is] and [errors.As] find it.
//     A success of op comes back as nil even when ctx has ended meanwhile.
//   - A refusal of the policy's own Is [ErrRejected] and costs no allocation.
//   - A panic in op, and [runtime.Goexit], pass through with their own value and
//     stack, after everything the call held has been given back.
//   - Hooks of the user run with no lock held and may call the policy again.
//   - Do may be called from many goroutines at once.
type Policy interface {
	Do(ctx context.Context, op func(context.Context) error) error
}

// PolicyFunc makes a Policy of a function. A PolicyFunc that keeps the contract
// of [Policy] may stand anywhere in a pipeline, at the cost of one closure a call.
// The function need not look whether ctx is done on entry: Do has done so.
type PolicyFunc func(ctx context.Context, op func(context.Context) error) error

// Do calls f. When ctx is done on entry, f is not called and Do returns
// [context.Cause] of ctx.
func (f PolicyFunc) Do(ctx context.Context, op func(context.Context) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return f(ctx, op)
}

// Wrapper is the fast path of a Policy, and optional: a policy that is bound
// once, by [Compose], to what it encloses. The bound policy hands op on as an
// argument, so that no layer of a pipeline allocates a closure per call.
//
// What Wrap returns runs next where the policy itself would have run op, and
// keeps the contract of [Policy] except for one point: it need not check whether ctx
// is done on entry, because what encloses it has done so. State is shared: all that
// is wrapped by one policy counts as calls of that one policy.
type Wrapper interface {
	Policy
	Wrap(next Policy) Policy
}
