//lint:file-ignore SA1019 Request.Cancel is deprecated and has to end a call all the same.

package mettlehttp

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mettle-go/mettle"
)

// Transport is an [http.RoundTripper] that runs every request under a policy. It is
// made by [NewTransport], is immutable, and may be used from many goroutines at once.
type Transport struct {
	base   http.RoundTripper
	policy mettle.Policy
	opts   options
}

// NewTransport returns a transport that sends requests through base and runs each
// one under p. A nil base is [http.DefaultTransport]. A nil p is the standard
// pipeline, new with every Transport; the package documentation says what is in it, and
// [Named] tells the pipelines of several Transports apart.
//
// A policy keeps its state across requests, so make the Transport once. NewTransport
// panics when p holds a nil pointer or function, or has come with [Named].
func NewTransport(base http.RoundTripper, p mettle.Policy, opts ...Option) *Transport {
	t := &Transport{base: base, policy: p}
	if base == nil {
		t.base = http.DefaultTransport
	}
	for _, o := range opts {
		o(&t.opts)
	}
	if p == nil {
		t.policy = newStandard(cmp.Or(t.opts.name, "http"), maxHosts)
	} else {
		t.opts.check("NewTransport", p)
	}
	return t
}

// Option changes what a [Transport] ([BufferBodies]) or a handler ([RefuseWith]) does
// beside its policy, or the name of the policy that both have by default ([Named]). A
// Transport has no use for an option of handlers and ignores it, and the other way round.
type Option func(*options)

type options struct {
	bufferMax  int64  // of a Transport; zero: no buffering
	refuseWith int    // of a handler: the status
	name       string // of the default policy; empty: the default
}

// check panics when p, the caller's own policy, is none, or has a name to be given.
func (o *options) check(who string, p mettle.Policy) {
	mettle.Compose(p) // panics when p holds nil
	if o.name != "" {
		panic(fmt.Sprintf("mettlehttp: %s: Named(%q) beside a policy of the caller's, whose Config has the name", who, o.name))
	}
}

// Named sets the name of the policy that [NewTransport] and [NewHandler] make when they
// are given none. Two that are watched side by side need different names, or their
// metrics would be the same series. The policies of the standard pipeline are called, as
// their label and in their errors:
//
//	name            the retry
//	name + " total" and name + " attempt"    the timeouts
//	name + " host"  the breakers and bulkheads, followed by the host in brackets in errors
//
// The default is "http"; for the one bulkhead of a handler it is "http server". Named
// panics when name is empty, and NewTransport and NewHandler do when it comes with a
// policy of the caller's.
func Named(name string) Option {
	if name == "" {
		panic("mettlehttp: Named: name is empty")
	}
	return func(o *options) { o.name = name }
}

// BufferBodies lets requests be resent whose body cannot be made again because
// [http.Request.GetBody] is nil: a body of known length up to limit bytes is read into
// memory before the first attempt, if the request is otherwise one that may be
// resent. A body that is longer, or whose ContentLength is unknown, goes out once, as it
// does without this option: set [http.Request.ContentLength] for a reader that
// [http.NewRequest] does not know. A body that is not as long as its ContentLength says
// fails the request. Zero buffers nothing; BufferBodies panics when limit
// is negative.
func BufferBodies(limit int64) Option {
	if limit < 0 {
		panic(fmt.Sprintf("mettlehttp: BufferBodies: limit is %d, must be 0 or more bytes", limit))
	}
	return func(o *options) { o.bufferMax = limit }
}

// RoundTrip sends req under the policy and keeps the contract of
// [http.RoundTripper]: req is not changed, its body is closed, and exactly one of
// response and error is returned.
//
// When the policy gives up and its last attempt was answered with a status that counts
// as failed, that answer is the result: a response with its body unread, and no error.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	c := &call{transport: t, req: req, host: hostKey(req.URL), malformed: malformed(req)}
	ctx := req.Context()
	if req.Cancel != nil {
		var stop func()
		ctx, stop = c.watchCancel(ctx)
		defer stop()
	}
	c.Context = mettle.WithCall(ctx)
	defer c.abandon()

	if err := c.prepareBody(); err != nil {
		return nil, err
	}
	return c.finish(t.policy.Do(c, c.attempt))
}

// CloseIdleConnections closes those of the base, if it can; the Transport keeps none of
// its own and never asks for it.
func (t *Transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// Observe yields what the policy offers, if it is [mettle.Observable].
func (t *Transport) Observe(yield func(mettle.Metric) bool) {
	if o, ok := t.policy.(mettle.Observable); ok {
		o.Observe(yield)
	}
}

// Host returns where the request is going that ctx belongs to, as
// "scheme://host:port" in lower case with the port always given, or "" when ctx does
// not come from a [Transport]. It is the key for policies that keep one state per host:
//
//	breakers := breaker.NewGroup[string](breaker.GroupConfig{})
//	p := mettle.Compose(retry.New(retry.Config{}), breakers.By(mettlehttp.Host))
func Host(ctx context.Context) string {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c.host
	}
	return ""
}

// hostKey is scheme, host and port, and nothing else: user and path stay out of it,
// because it is used in texts and labels.
func hostKey(u *url.URL) string {
	if u == nil {
		return ""
	}
	scheme, host, port := strings.ToLower(u.Scheme), strings.ToLower(u.Hostname()), u.Port()
	if port == "" {
		switch scheme {
		case "http":
			port = "80"
		case "https":
			port = "443"
		default:
			return scheme + "://" + host
		}
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// watchCancel makes the deprecated Request.Cancel end a context, because waits of a
// policy know nothing else. [http.Client] sets the field whenever its Timeout does and
// the transport is not one of net/http's own. The goroutine ends with stop.
func (c *call) watchCancel(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	c.canceled = func() {
		// A Client's Timeout closes Cancel when the deadline of the context has come as
		// well. The deadline says more than a cancellation, and is about to be seen.
		if d, ok := parent.Deadline(); ok && !time.Now().Before(d) {
			<-ctx.Done()
			return
		}
		cancel(errCanceled)
	}
	if c.checkCancel() {
		return ctx, func() { cancel(nil) }
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-c.req.Cancel:
			c.canceled()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil); <-done }
}

// checkCancel ends the call when Request.Cancel is closed, and reports whether it is. A
// base can report the closing before the goroutine of watchCancel has run.
func (c *call) checkCancel() bool {
	select {
	case <-c.req.Cancel:
		c.canceled()
		return true
	default: // includes a nil channel
		return false
	}
}
