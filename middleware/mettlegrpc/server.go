package mettlegrpc

import (
	"cmp"
	"context"
	"errors"
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/timeout"
)

// UnaryServerInterceptor returns an interceptor that runs each unary call under p. What p
// refuses is answered before the handler runs; see [RefuseWith]. Once the handler has run,
// its answer stands, and its status is the outcome, by the same table as at a client;
// a client that went away is ignored.
//
// The handler runs at most once for a call, whatever p would have. A nil p is a bulkhead
// with its defaults: 200 calls at once, and nobody waits. One that holds a nil pointer panics.
func UnaryServerInterceptor(p mettle.Policy, opts ...Option) grpc.UnaryServerInterceptor {
	p = serverPolicy(p)
	o := newOptions(opts)
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		c := &serving{node: enter(ctx, info.FullMethod, nil), options: o}
		var resp any
		err := c.serve(p, func(ctx context.Context) (err error) {
			resp, err = handler(ctx, req)
			return err
		})
		if c.ran.Load() {
			return resp, c.err
		}
		trailer, err := c.refusal(err)
		if trailer != nil {
			grpc.SetTrailer(ctx, trailer) // fails only where there is nobody to tell
		}
		return nil, err
	}
}

// StreamServerInterceptor is [UnaryServerInterceptor] for streams. The policy holds what
// it has given until the handler returns. A timeout bounds what comes before the handler,
// such as a wait in a queue, and does not end the handler's context; see [StreamTotal].
//
// A nil p is a bulkhead with its defaults, and not the one of the other interceptor: give
// the same policy to both for one limit on all that the server does.
func StreamServerInterceptor(p mettle.Policy, opts ...Option) grpc.StreamServerInterceptor {
	p = serverPolicy(p)
	o := newOptions(opts)
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		c := &serving{node: enter(ss.Context(), info.FullMethod, nil), options: o}
		err := c.serve(p, func(ctx context.Context) error {
			life := c.node.Context
			if o.total > 0 {
				var stop context.CancelFunc
				life, stop = context.WithTimeoutCause(life, o.total, errTotal)
				defer stop()
			}
			life, cancel := context.WithCancelCause(life)
			defer cancel(nil)
			timeout.Stop(ctx, c)
			return handler(srv, &serverStream{ServerStream: ss, ctx: &detached{life, ctx}, entered: c, lasts: info.IsServerStream})
		})
		if c.ran.Load() {
			return c.err
		}
		trailer, err := c.refusal(err)
		if trailer != nil {
			ss.SetTrailer(trailer)
		}
		return err
	}
}

// serving is one call at a server, and the context with which its pipeline is entered.
type serving struct {
	node
	*options
	ran atomic.Bool // the handler has begun
	err error       // the handler's
}

// serve runs handle under p, once.
func (c *serving) serve(p mettle.Policy, handle func(context.Context) error) error {
	return p.Do(c, func(ctx context.Context) error {
		if c.ran.Swap(true) {
			return &onceError{}
		}
		if c.err = handle(ctx); c.err == nil {
			return nil
		}
		st, ok := status.FromError(c.err)
		if !ok { // as grpc-go tells the client
			st = status.FromContextError(c.err)
		}
		return &attemptError{err: c.err, outcome: outcome(c, st.Code()), permanent: true, after: -1}
	})
}

// refusal returns what a client is told whose call the handler has not seen. It learns
// nothing of what is behind the server: names and limits are for the log, in the error.
func (c *serving) refusal(err error) (metadata.MD, error) {
	if c.Err() != nil { // nobody waits for an answer
		err = cmp.Or(err, context.Cause(c))
		return nil, &statusError{err, status.FromContextError(c.Err())}
	}
	err = cmp.Or(err, errNoHandler)
	told := &statusError{err, status.New(c.refuseWith, "refused by the server, which has too much to do")}
	delay, ok := mettle.RetryAfter(err)
	switch {
	case ok && delay > 0:
	case c.refuseWith == codes.ResourceExhausted:
		delay = defaultPushback
	default:
		return nil, told
	}
	ms := delay / time.Millisecond
	if delay%time.Millisecond > 0 && delay < math.MaxInt64 {
		ms++
	}
	return metadata.Pairs(pushbackKey, strconv.FormatInt(int64(ms), 10)), told
}

var errNoHandler = errors.New("mettlegrpc: the policy reported success without the handler")

// defaultPushback is what a client is asked to wait when the refusal does not say.
const defaultPushback = time.Second

// serverStream is a stream whose handler sees what the policy put into the context.
type serverStream struct {
	grpc.ServerStream
	ctx     context.Context
	entered context.Context // that of the pipeline
	lasts   bool            // a message need not be the last; SendMsg's, which has one caller at a time
}

func (s *serverStream) Context() context.Context { return s.ctx }

// total returns a status once StreamTotal has ended the stream.
func (s *serverStream) total() error {
	if s.ctx.Err() != nil && context.Cause(s.ctx) == errTotal {
		return status.Error(codes.DeadlineExceeded, errTotal.Error())
	}
	return nil
}

func (s *serverStream) SendMsg(m any) error {
	if err := s.total(); err != nil {
		return err
	}
	err := s.ServerStream.SendMsg(m)
	if err == nil && s.lasts {
		s.lasts = false // once is enough
		breaker.Answered(s.ctx, s.entered)
	}
	return err
}

func (s *serverStream) RecvMsg(m any) error {
	if err := s.total(); err != nil {
		return err
	}
	return s.ServerStream.RecvMsg(m)
}
