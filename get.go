package mettle

import (
	"context"
	"sync"
)

// Get runs fn under p and returns fn's value: [Policy.Do] for an operation that
// answers with something. It adds at most two allocations to those of p.
//
// When p returns an error, the value is the zero T. It is the zero T as well when
// p succeeds without a success of fn, as under a fallback; fallback.Get returns
// the fallback's own value.
//
// Get is safe under a policy that runs fn more than once, one after the other or
// at the same time. Of runs that overlap, the first to succeed gives the value;
// of runs that follow one another, the last to succeed does.
func Get[T any](ctx context.Context, p Policy, fn func(context.Context) (T, error)) (T, error) {
	r := &result[T]{fn: fn}
	if err := p.Do(ctx, r.run); err != nil {
		var zero T
		return zero, err
	}
	// A policy that breaks the contract may still be running fn.
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.value, nil
}

// result takes the value of the run that wins. It is shared by every run of fn.
type result[T any] struct {
	fn func(context.Context) (T, error)

	mu      sync.Mutex // guards what follows
	commits int        // how many runs have given their value
	value   T
}

func (r *result[T]) run(ctx context.Context) error {
	r.mu.Lock()
	begun := r.commits
	r.mu.Unlock()

	v, err := r.fn(ctx)
	if err != nil {
		return err
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	// A commit since we began is that of a run we overlapped: it came first, and
	// whoever ran us side by side takes the first. A commit from before we began
	// is that of a run whose success was not enough, so ours replaces it.
	if r.commits == begun {
		r.commits++
		r.value = v
	}
	return nil
}
