package mettle_test

import (
	"context"
	"errors"
	"testing"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/mettletest"
)

var (
	bg      = context.Background()
	errBoom = errors.New("boom")
)

type operation = func(context.Context) error

func succeed(context.Context) error { return nil }

func fail(context.Context) error { return errBoom }

// naive keeps the contract of a policy with nothing but Do, and relies on nobody.
func naive(ctx context.Context, op operation) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return op(ctx)
}

// wrapper is a user's policy with the fast path: it calls enter and leave around
// what it encloses. Either may be nil.
type wrapper struct {
	next         mettle.Policy
	enter, leave func()
}

func (w *wrapper) Wrap(next mettle.Policy) mettle.Policy {
	bound := *w
	bound.next = next
	return &bound
}

func (w *wrapper) Do(ctx context.Context, op func(context.Context) error) error {
	if w.enter != nil {
		w.enter()
	}
	if w.leave != nil {
		defer w.leave()
	}
	if w.next != nil {
		return w.next.Do(ctx, op)
	}
	return naive(ctx, op)
}

// Spec: P2
func TestPolicyFunc(t *testing.T) {
	type key struct{}
	ctx := context.WithValue(bg, key{}, "value")
	p := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		return errors.Join(errors.New("seen by the policy"), op(ctx))
	})
	err := p.Do(ctx, func(ctx context.Context) error {
		if ctx.Value(key{}) != "value" {
			t.Error("op has not been given the context of the call")
		}
		return errBoom
	})
	if !errors.Is(err, errBoom) || err == errBoom {
		t.Errorf("got %v, want what the function returns", err)
	}
}

// Spec: P4
func TestPolicyFuncContextDone(t *testing.T) {
	errLeft := errors.New("left")
	ctx, cancel := context.WithCancelCause(bg)
	cancel(errLeft)
	p := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		t.Error("the function runs under a context that is done")
		return op(ctx)
	})
	for name, p := range map[string]mettle.Policy{"alone": p, "composed": mettle.Compose(p)} {
		if err := p.Do(ctx, succeed); err != errLeft {
			t.Errorf("%s: got %v, want the cause of the context", name, err)
		}
	}
}

// Spec: P2, P3, P4, P5, P9, P11
func TestConformance(t *testing.T) {
	for name, newPolicy := range map[string]func() mettle.Policy{
		"empty pipeline": func() mettle.Policy { return mettle.Compose() },
		"policy with only Do": func() mettle.Policy {
			return mettle.PolicyFunc(naive)
		},
		"function that looks at nothing": func() mettle.Policy {
			return mettle.PolicyFunc(func(ctx context.Context, op operation) error { return op(ctx) })
		},
		"pipeline of both kinds": func() mettle.Policy {
			return mettle.Compose(mettle.PolicyFunc(naive), &wrapper{}, mettle.Compose(&wrapper{}, mettle.PolicyFunc(naive)))
		},
	} {
		t.Run(name, func(t *testing.T) { mettletest.TestPolicy(t, newPolicy) })
	}
}
