package mettlegrpc

import (
	"cmp"
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

type callKey struct{}

// node is the context with which the pipeline is entered.
type node struct {
	context.Context
	method string           // "/package.Service/Method"
	cc     *grpc.ClientConn // nil at a server
}

// enter returns the node for a call. WithCall makes it one of its own, whatever resends
// around it.
func enter(ctx context.Context, method string, cc *grpc.ClientConn) node {
	return node{Context: mettle.WithCall(ctx), method: method, cc: cc}
}

// Value finds the node itself by callKey.
func (n *node) Value(key any) any {
	if key == (callKey{}) {
		return n
	}
	return n.Context.Value(key)
}

// Method returns the full name, "/package.Service/Method", of the call that ctx belongs
// to, or "" when ctx does not come from an interceptor of this package. It is a key for
// policies that keep one state for each method:
//
//	breakers := breaker.NewGroup[string](breaker.GroupConfig{})
//	p := mettle.Compose(retry.New(retry.Config{}), breakers.By(mettlegrpc.Method))
//
// A server that does not know its methods hands on what clients say.
func Method(ctx context.Context) string {
	if n, ok := ctx.Value(callKey{}).(*node); ok {
		return n.method
	}
	return ""
}

// Target returns the canonical target of the connection that the call of ctx goes out on,
// such as "dns:///orders:443", or "" when ctx does not come from a client's interceptor of
// this package. It is a key for policies that serve several connections.
func Target(ctx context.Context) string {
	if n, ok := ctx.Value(callKey{}).(*node); ok && n.cc != nil {
		return n.cc.CanonicalTarget() // put together each time, so not for who does not ask
	}
	return ""
}

// What the standard pipeline allows. A person waits no longer than the first; the second
// leaves room for a second and third attempt within it.
const (
	totalTimeout   = 30 * time.Second
	attemptTimeout = 10 * time.Second
)

// Standard returns the pipeline that a client's interceptor has without a policy: from
// the outside in a total timeout of 30 s, a retry, a breaker, a bulkhead, and a timeout of
// 10 s for each attempt. It is for one connection, whose interceptors share it.
//
// Its retry, breaker and bulkhead are called name in errors and metrics, and its timeouts
// name + " total" and name + " attempt". An empty name is "grpc".
func Standard(name string) *mettle.Pipeline {
	name = cmp.Or(name, "grpc")
	return mettle.Compose(
		timeout.New(timeout.Config{Name: name + " total", After: totalTimeout}),
		retry.New(retry.Config{Name: name}),
		breaker.New(breaker.Config{Name: name}),
		bulkhead.New(bulkhead.Config{Name: name}),
		timeout.New(timeout.Config{Name: name + " attempt", After: attemptTimeout}),
	)
}

// clientPolicy returns p, or the standard pipeline where it is nil. It panics when p
// holds a nil pointer or function.
func clientPolicy(p mettle.Policy) mettle.Policy {
	if p == nil {
		return Standard("")
	}
	mettle.Compose(p)
	return p
}

// serverPolicy returns p, or a bulkhead where it is nil. It panics when p holds a nil
// pointer or function.
func serverPolicy(p mettle.Policy) mettle.Policy {
	if p == nil {
		return bulkhead.New(bulkhead.Config{Name: "grpc server"})
	}
	mettle.Compose(p)
	return p
}

// EndsWith is for an interceptor further in; see bounds.
func (n *node) EndsWith() context.Context { return n.Context }

// bounds tells what ends ctx, which a policy has handed on, before the call ends: a
// deadline, and its cause, or something else. A context of package timeout starts its timer
// when it is asked for Done, and so does each one around it; with this one timer does.
func bounds(ctx, call context.Context) (deadline time.Time, cause error, other bool) {
	inner := ctx
	for ctx != call {
		if c, ok := ctx.(interface{ DeadlineCause() error }); ok && cause == nil {
			cause = c.DeadlineCause() // the first one's deadline is the earliest
		}
		e, ok := ctx.(interface{ EndsWith() context.Context })
		if !ok {
			return time.Time{}, nil, true
		}
		ctx = e.EndsWith()
	}
	if cause != nil {
		deadline, _ = inner.Deadline()
	}
	return deadline, cause, false
}

// detached is a context that ends with one, made by package context for this, and carries
// the values of another that descends from the same call: what outlives a policy ends with
// the call, and knows what the policy knew.
type detached struct {
	context.Context
	values context.Context
}

func (d *detached) Value(key any) any {
	// Package context asks for its own cancel node, and must get that of our lifetime: with
	// the policy's, the cause would be wrong and every child would cost a goroutine.
	if key == cancelKey || cancelKey == nil {
		// Nothing else has the same Done.
		if c, ok := d.Context.Value(key).(context.Context); ok && c.Done() == d.Context.Done() {
			return c
		}
	}
	return d.values.Value(key)
}

// cancelKey is the key by which package context asks, which it does not export but shows to
// whoever is asked; nil if it stops asking.
var cancelKey = func() any {
	var a asked
	_ = context.Cause(&a)
	return a.key
}()

// asked is a context that remembers by which key it was asked.
type asked struct {
	context.Context
	key any
}

func (a *asked) Err() error { return context.Canceled }

func (a *asked) Value(key any) any {
	a.key = key
	return nil
}
