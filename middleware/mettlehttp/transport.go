//lint:file-ignore SA1019 Request.Cancel is deprecated and has to end a call all the same.

package mettlehttp

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
)

// Transport is an [http.RoundTripper] that runs every request under a policy. It is
// made by [NewTransport], is immutable, and may be used from many goroutines at once.
type Transport struct {
	base   http.RoundTripper
	policy mettle.Policy
	opts   options
	last   atomic.Pointer[hostName] // of the host asked last, often the only one
}

// hostName is the key of a host as it is written in URLs.
type hostName struct{ scheme, host, key string }

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

// RoundTrip sends req under the policy and keeps the contract of
// [http.RoundTripper]: req is not changed, its body is closed, and exactly one of
// response and error is returned.
//
// When the policy gives up and its last attempt was answered with a status that counts
// as failed, that answer is the result: a response with its body unread, and no error.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	c := &call{transport: t, req: req, host: t.hostKey(req.URL), malformed: badHeader(req.Trailer), parent: req.Context()}
	if req.Cancel != nil {
		c.watchCancel()
	}
	c.Context = mettle.WithCall(c.parent)
	c.prepare()
	defer c.abandon()
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

// Policies returns what the policy is made of, outermost first, or the policy alone, for
// those who show it. In the standard pipeline each stands for those of all hosts, as its
// metrics do. The slice is the caller's.
func (t *Transport) Policies() []mettle.Policy { return policies(t.policy) }

func policies(p mettle.Policy) []mettle.Policy {
	if c, ok := p.(interface{ Policies() []mettle.Policy }); ok {
		return c.Policies()
	}
	return []mettle.Policy{p}
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

func (t *Transport) hostKey(u *url.URL) string {
	if u == nil {
		return ""
	}
	if h := t.last.Load(); h != nil && h.host == u.Host && h.scheme == u.Scheme {
		return h.key
	}
	h := &hostName{u.Scheme, u.Host, hostKey(u)}
	t.last.Store(h)
	return h.key
}

// hostKey is scheme, host and port, and nothing else: user and path stay out of it,
// because it is used in texts and labels.
func hostKey(u *url.URL) string {
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

// watchCancel makes the deprecated Request.Cancel end the context of the call, because
// waits of a policy know nothing else. [http.Client] sets the field whenever its Timeout
// does and the transport is not one of net/http's own. The goroutine ends with unwatch; it
// stands in for the one that net/http would have, which does not see the field.
func (c *call) watchCancel() {
	parent := c.parent
	ctx, cancel := context.WithCancelCause(parent)
	c.parent = ctx
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
		c.unwatch = func() { cancel(nil) }
		return
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
	c.unwatch = func() { cancel(nil); <-done }
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
