// Package mettlegrpc makes gRPC clients wear policies.
//
//	conn, err := grpc.NewClient(target,
//		grpc.WithUnaryInterceptor(mettlegrpc.UnaryClientInterceptor(policy)))
//
// # Outcomes
//
// The status of a call tells its [mettle.Outcome]:
//
//   - Success: OK, and every answer about the request itself: INVALID_ARGUMENT,
//     NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, UNAUTHENTICATED,
//     FAILED_PRECONDITION, OUT_OF_RANGE, UNIMPLEMENTED.
//   - Overload: RESOURCE_EXHAUSTED.
//   - Timeout: DEADLINE_EXCEEDED, whether the server's or that of the context.
//   - Ignored: CANCELLED when the context of the attempt was cancelled.
//   - Failure: everything else, a CANCELLED of the server's own included.
//
// # Resending
//
// A retry resends a call that ended in UNAVAILABLE and no other, because every other
// code leaves open whether the server has done the work. [Resend] names the codes
// that a service's methods can bear twice.
//
// gRPC's own retries, those of a service config with a retryPolicy, happen below an
// interceptor, so the attempts multiply with those of a retry here. Turn one of
// the two off: grpc.WithDisableRetry keeps to ours.
package mettlegrpc

import (
	"context"
	"errors"
	"reflect"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/mettle-go/mettle"
)

// Option changes how an interceptor works.
type Option func(*options)

type options struct{ resend map[codes.Code]bool }

// Resend replaces the codes after which a retry may resend, UNAVAILABLE by
// default. None at all: nothing is resent.
//
// A code whose outcome is Success is one that a retry never sees as a failure, so
// Resend panics for OK and for the answers about the request; it panics for a
// code that does not exist as well.
func Resend(resend ...codes.Code) Option {
	set := make(map[codes.Code]bool, len(resend))
	for _, c := range resend {
		if c > codes.Unauthenticated {
			panic("mettlegrpc: Resend: " + c.String() + " is no code of gRPC's")
		}
		if outcome(context.Background(), c) == mettle.Success {
			panic("mettlegrpc: Resend: " + c.String() + " is an answer, must be a failure of the server")
		}
		set[c] = true
	}
	return func(o *options) { o.resend = set }
}

// UnaryClientInterceptor returns an interceptor that runs each unary call under p,
// which may send it more than once and, as a hedge does, concurrently.
//
// Every attempt receives into a reply of its own, and the winner's is moved to the
// caller's reply, once; an error leaves the caller's reply as it was. So it goes
// with what the call options Header, Trailer and Peer ask for, which show the winner,
// or the last attempt to end when all have failed. OnFinish runs for every attempt.
//
// The error is that of the policy, and [status.Code] of it is the code of the last
// attempt. Where no attempt has left a status, a refusal is UNAVAILABLE and still Is
// [mettle.ErrRejected], and the end of a context is DEADLINE_EXCEEDED or CANCELLED.
//
// A nil p panics.
func UnaryClientInterceptor(p mettle.Policy, opts ...Option) grpc.UnaryClientInterceptor {
	if p == nil {
		panic("mettlegrpc: UnaryClientInterceptor: nil Policy")
	}
	o := options{resend: map[codes.Code]bool{codes.Unavailable: true}}
	for _, opt := range opts {
		opt(&o)
	}
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
		invoke grpc.UnaryInvoker, callOpts ...grpc.CallOption,
	) error {
		c := call{options: &o, method: method, req: req, reply: reply, cc: cc, invoke: invoke, opts: callOpts}
		winner, err := mettle.Get(mettle.WithCall(ctx), p, c.attempt)
		if err == nil && winner != nil { // nil when a fallback has stood in
			moveReply(reply, winner.reply)
			winner.show(callOpts)
			return nil
		}
		c.mu.Lock()
		last := c.last
		c.mu.Unlock()
		if last != nil {
			last.show(callOpts)
		}
		return withStatus(ctx, err)
	}
}

// call is one call of the user's, whatever the number of attempts.
type call struct {
	*options
	method     string
	req, reply any // reply is the caller's: a model for each attempt's, written by none
	cc         *grpc.ClientConn
	invoke     grpc.UnaryInvoker
	opts       []grpc.CallOption

	mu   sync.Mutex
	last *attempt // the last to end in an error
}

// attempt is what one attempt receives, so that attempts share nothing.
type attempt struct {
	reply           any
	header, trailer metadata.MD
	peer            peer.Peer
}

func (c *call) attempt(ctx context.Context) (*attempt, error) {
	a := &attempt{reply: newReply(c.reply)}
	err := c.invoke(ctx, c.method, c.req, a.reply, c.cc, a.divert(c.opts)...)
	if err == nil {
		return a, nil
	}
	c.mu.Lock()
	c.last = a
	c.mu.Unlock()
	if errors.Is(err, mettle.ErrRejected) {
		return nil, err // of an interceptor further in: no answer of the server's
	}
	code := status.Code(err)
	return nil, &callError{err: err, outcome: outcome(ctx, code), permanent: !c.resend[code]}
}

// divert returns opts with those that receive replaced by ones that a receives.
func (a *attempt) divert(opts []grpc.CallOption) []grpc.CallOption {
	var own []grpc.CallOption // nil while nothing had to be replaced
	for i, opt := range opts {
		switch opt.(type) {
		case grpc.HeaderCallOption:
			opt = grpc.Header(&a.header)
		case grpc.TrailerCallOption:
			opt = grpc.Trailer(&a.trailer)
		case grpc.PeerCallOption:
			opt = grpc.Peer(&a.peer)
		default:
			continue
		}
		if own == nil {
			own = append(own, opts...)
		}
		own[i] = opt
	}
	if own == nil {
		return opts
	}
	return own
}

// show writes what a received to where the caller's options want it.
func (a *attempt) show(opts []grpc.CallOption) {
	for _, opt := range opts {
		switch o := opt.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = a.header
		case grpc.TrailerCallOption:
			*o.TrailerAddr = a.trailer
		case grpc.PeerCallOption:
			*o.PeerAddr = a.peer
		}
	}
}

// newReply returns an empty message of reply's type.
func newReply(reply any) any {
	if m, ok := reply.(proto.Message); ok {
		return m.ProtoReflect().New().Interface()
	}
	return reflect.New(reflect.TypeOf(reply).Elem()).Interface() // a codec of the user's
}

// moveReply gives to what from holds. Nobody else has from, so what it points to
// need not be copied.
func moveReply(to, from any) {
	dst, ok := to.(proto.Message)
	if !ok {
		reflect.ValueOf(to).Elem().Set(reflect.ValueOf(from).Elem())
		return
	}
	proto.Reset(dst)
	d, s := dst.ProtoReflect(), from.(proto.Message).ProtoReflect()
	s.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		d.Set(field, value)
		return true
	})
	d.SetUnknown(s.GetUnknown())
}

// outcome is the class of an attempt that ended with code; ctx is the attempt's.
func outcome(ctx context.Context, code codes.Code) mettle.Outcome {
	switch code {
	case codes.OK, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied,
		codes.Unauthenticated, codes.FailedPrecondition, codes.OutOfRange, codes.Unimplemented:
		return mettle.Success
	case codes.ResourceExhausted:
		return mettle.Overload
	case codes.DeadlineExceeded:
		return mettle.Timeout
	case codes.Canceled:
		if ctx.Err() != nil {
			return mettle.Ignored
		}
	}
	return mettle.Failure
}

// callError tells the policies what an attempt's status means.
type callError struct {
	err       error
	outcome   mettle.Outcome
	permanent bool
}

func (e *callError) Error() string              { return e.err.Error() }
func (e *callError) Unwrap() error              { return e.err }
func (e *callError) Outcome() mettle.Outcome    { return e.outcome }
func (e *callError) Permanent() bool            { return e.permanent }
func (e *callError) GRPCStatus() *status.Status { return status.Convert(e.err) }

// withStatus returns err such that it has a status, if one can be told.
func withStatus(ctx context.Context, err error) error {
	var has interface{ GRPCStatus() *status.Status }
	switch {
	case err == nil, errors.As(err, &has):
		return err
	case errors.Is(err, mettle.ErrRejected):
		return &statusError{err, codes.Unavailable}
	case errors.Is(err, context.DeadlineExceeded):
		return &statusError{err, codes.DeadlineExceeded}
	case errors.Is(err, context.Canceled):
		return &statusError{err, codes.Canceled}
	case ctx.Err() != nil && errors.Is(err, context.Cause(ctx)): // a cause of the user's
		return &statusError{err, status.FromContextError(ctx.Err()).Code()}
	default:
		return err
	}
}

// statusError gives a status to an error of a policy.
type statusError struct {
	err  error
	code codes.Code
}

func (e *statusError) Error() string              { return e.err.Error() }
func (e *statusError) Unwrap() error              { return e.err }
func (e *statusError) GRPCStatus() *status.Status { return status.New(e.code, e.err.Error()) }
