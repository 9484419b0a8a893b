package mettlehttp

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/bulkhead"
)

// NewHandler returns a handler that runs every request to next under p. A nil p is a
// bulkhead with its defaults: 200 requests at once, and nobody waits. NewHandler panics
// when next is nil, and when p holds a nil pointer or function or has come with [Named].
//
// A request that p refuses is answered before next runs: with 503, or what
// [RefuseWith] says, and a Retry-After header. Once next has run, its answer stands
// and its status is the outcome, by the same table as for a [Transport]: 5xx but 501
// and 505 count as failures, a client that went away is ignored. When next returns
// without an answer because the policy's context has ended, the answer is 503.
//
// next runs at most once for a request, whatever p would have: there is one answer
// and one body. What its ResponseWriter can do, flush, hijack, push and deadlines among
// them, it can do for next, directly or through [http.ResponseController]; what it cannot
// do returns [http.ErrNotSupported]. Panics of next pass, [http.ErrAbortHandler] too.
func NewHandler(next http.Handler, p mettle.Policy, opts ...Option) http.Handler {
	if next == nil {
		panic("mettlehttp: NewHandler: next is nil")
	}
	h := &handler{next: next, policy: p, opts: options{refuseWith: http.StatusServiceUnavailable}}
	for _, o := range opts {
		o(&h.opts)
	}
	if p == nil {
		h.policy = bulkhead.New(bulkhead.Config{Name: cmp.Or(h.opts.name, "http server")})
	} else {
		h.opts.check("NewHandler", p)
	}
	return h
}

type handler struct {
	next   http.Handler
	policy mettle.Policy
	opts   options
}

// ServeHTTP runs the request under the policy.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s := &serving{handler: h, w: &recorder{ResponseWriter: w}, r: r}
	ctx := r.Context()
	if h.opts.propagate {
		bounded, stop := withTimeout(ctx, r.Header)
		defer stop()
		ctx = bounded
	}
	s.Context = mettle.WithCall(ctx)
	err := h.policy.Do(s, s.run)
	if s.w.status != 0 || err == nil && s.ran.Load() {
		return
	}
	// No answer yet: refused, or out of time. A second is the least that can be asked for.
	delay, _ := mettle.RetryAfter(err)
	seconds := max(1, int64((delay+time.Second-1)/time.Second))
	if delay > time.Hour*24*365 {
		seconds = int64(delay / time.Second) // the sum above may have overflowed
	}
	status := http.StatusServiceUnavailable
	if !s.ran.Load() {
		status = h.opts.refuseWith
	}
	w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
	http.Error(w, http.StatusText(status), status)
}

// Observe yields what the policy offers, if it is [mettle.Observable].
func (h *handler) Observe(yield func(mettle.Metric) bool) {
	if o, ok := h.policy.(mettle.Observable); ok {
		o.Observe(yield)
	}
}

// Policies is for those who show what a handler has, as [Transport.Policies].
func (h *handler) Policies() []mettle.Policy { return policies(h.policy) }

// serving is one request on its way through the policy: the node of the context with which
// that is entered. It must not run twice, one after the other or side by side; the
// policies that do so have no place here.
type serving struct {
	context.Context
	*handler
	w   *recorder
	r   *http.Request
	ran atomic.Bool
}

type servingKey struct{}

// Value finds the request itself by servingKey, for Urgency.
func (s *serving) Value(key any) any {
	if _, ok := key.(servingKey); ok {
		return s
	}
	return s.Context.Value(key)
}

func (s *serving) run(ctx context.Context) error {
	if s.ran.Swap(true) {
		return &notResentError{}
	}
	if s.opts.propagate {
		ctx = withAttempt(ctx, s.r.Header)
	}
	s.next.ServeHTTP(s.w, s.r.WithContext(ctx))
	switch {
	case s.r.Context().Err() != nil:
		return context.Cause(s.r.Context()) // nobody is there to be answered
	case s.w.status == 0 && ctx.Err() != nil:
		return context.Cause(ctx)
	}
	s.w.answered() // by net/http, where next has not
	if outcome := s.opts.outcome(s.w.status); outcome != mettle.Success {
		return &StatusError{Code: s.w.status, host: "handler", outcome: outcome, retryAfter: -1, permanent: true}
	}
	return nil
}

// recorder notes the status of an answer and is otherwise the ResponseWriter it has.
type recorder struct {
	http.ResponseWriter
	status int // zero: not answered
}

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) WriteHeader(status int) {
	// 1xx is not the answer yet, but for 101, after which there is none.
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	w.answered()
	return w.ResponseWriter.Write(p)
}

// ReadFrom keeps the fast path from a file to a socket. Nothing read is no answer yet.
func (w *recorder) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(w.ResponseWriter, r)
	if n > 0 {
		w.answered()
	}
	return n, err
}

// Flush is for handlers that ask for an [http.Flusher] themselves.
func (w *recorder) Flush() { w.FlushError() }

// FlushError is what http.ResponseController asks for first.
func (w *recorder) FlushError() error {
	err := http.NewResponseController(w.ResponseWriter).Flush()
	if !errors.Is(err, http.ErrNotSupported) {
		w.answered()
	}
	return err
}

// Push is for handlers that ask for an [http.Pusher], which http.ResponseController does
// not know.
func (w *recorder) Push(target string, opts *http.PushOptions) error {
	for under := w.ResponseWriter; ; {
		switch x := under.(type) {
		case http.Pusher:
			return x.Push(target, opts)
		case interface{ Unwrap() http.ResponseWriter }:
			under = x.Unwrap()
		default:
			return http.ErrNotSupported
		}
	}
}

// Hijack gives the connection away, which is an answer.
func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil && w.status == 0 {
		w.status = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}

func (w *recorder) answered() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
}
