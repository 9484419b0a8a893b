package mettle

import (
	"context"
	"errors"
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
	return r.taken(p.Do(ctx, r.run))
}

// GetDispose is [Get] for values that hold something, such as a connection. It calls
// dispose once with each value of a success of fn that it does not return: of a run that
// lost to another, of one that was not enough, of one whose success p made an error of.
//
// It calls dispose while p runs, on the goroutine of the run that knows the value to be
// of no use, and so from several at once where p runs fn so; or before it returns, or
// panics. A panic of dispose goes through as one of fn would. A nil dispose panics.
func GetDispose[T any](ctx context.Context, p Policy, fn func(context.Context) (T, error), dispose func(T)) (T, error) {
	if dispose == nil {
		panic("mettle: GetDispose: nil dispose")
	}
	r := &result[T]{fn: fn, dispose: dispose}
	returned := false
	defer func() {
		if !returned { // a panic or Goexit
			_, _ = r.taken(errAborted)
		}
	}()
	err := p.Do(ctx, r.run)
	returned = true
	return r.taken(err)
}

// errAborted stands for the result of a policy that did not return.
var errAborted = errors.New("mettle: a panic or runtime.Goexit")

// result takes the value of the run that wins. It is shared by every run of fn.
type result[T any] struct {
	fn      func(context.Context) (T, error)
	dispose func(T) // nil: values need no disposal

	mu       sync.Mutex // guards what follows
	commits  int        // how many runs have given their value
	value    T
	finished bool // the result is known, and no value is taken any more
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
	useless, some := v, true
	// A commit since we began is that of a run we overlapped: it came first, and
	// whoever ran us side by side takes the first. A commit from before we began
	// is that of a run whose success was not enough, so ours replaces it.
	if r.commits == begun && !r.finished {
		useless, some = r.value, r.commits > 0
		r.commits++
		r.value = v
	}
	r.mu.Unlock()
	if some && r.dispose != nil {
		r.dispose(useless)
	}
	return nil
}

// taken returns the result where the policy returned err. A policy that breaks the
// contract may still be running fn.
func (r *result[T]) taken(err error) (value T, _ error) {
	r.mu.Lock()
	useless, some := r.value, err != nil && r.commits > 0
	if err == nil {
		value = r.value
	}
	r.finished = true
	r.mu.Unlock()
	if some && r.dispose != nil {
		r.dispose(useless)
	}
	return value, err
}
