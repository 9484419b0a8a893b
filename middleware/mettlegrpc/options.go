package mettlegrpc

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/mettle-go/mettle"
)

// Option changes how an interceptor works. An interceptor that has no use for an option
// ignores it, so that one list serves all.
type Option func(*options)

type options struct {
	resend      map[codes.Code]bool
	whenTold    bool // RESOURCE_EXHAUSTED is resent if the server says when
	refuseWith  codes.Code
	total, idle time.Duration // of a stream; zero: no bound
}

func newOptions(opts []Option) *options {
	o := &options{
		resend:     map[codes.Code]bool{codes.Unavailable: true},
		whenTold:   true,
		refuseWith: codes.Unavailable,
	}
	for _, opt := range opts {
		opt(o)
	}
	return o
}

// Resend replaces the codes after which a retry may resend, which by default are
// UNAVAILABLE, and RESOURCE_EXHAUSTED when the server says when to come back. The codes
// named are resent in any case. None at all: nothing is resent.
//
// An attempt that runs into its own timeout ends in DEADLINE_EXCEEDED, so that is the code
// to name for methods that may be resent after it.
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
	return func(o *options) { o.resend, o.whenTold = set, false }
}

// RefuseWith sets the code with which a server answers a call that its policy refuses:
// UNAVAILABLE, the default, or RESOURCE_EXHAUSTED, which says that it is this client that
// asks too much, and always comes with a grpc-retry-pushback-ms: what the refusal suggests,
// else a second. UNAVAILABLE has one when the refusal suggests something. Any other code
// panics.
func RefuseWith(code codes.Code) Option {
	if code != codes.Unavailable && code != codes.ResourceExhausted {
		panic("mettlegrpc: RefuseWith: " + code.String() + ", must be Unavailable or ResourceExhausted")
	}
	return func(o *options) { o.refuseWith = code }
}

// StreamTotal bounds how long a stream may last, from the call that makes it, resends and
// waits included: then it ends with DEADLINE_EXCEEDED. At a client the server is told; at a
// server the handler's context ends, and SendMsg and RecvMsg fail that are called later.
// A RecvMsg under way there waits on, because nothing can end it but the transport.
//
// Zero is no bound, as without the option; StreamTotal panics when d is negative.
func StreamTotal(d time.Duration) Option {
	if d < 0 {
		panic(fmt.Sprintf("mettlegrpc: StreamTotal: %v, must be positive, or zero for no bound", d))
	}
	return func(o *options) { o.total = d }
}

// StreamIdle bounds how long a client's RecvMsg or Header may wait: then the stream ends
// with DEADLINE_EXCEEDED, whose outcome is Timeout. While the caller does not receive,
// nothing is idle. A server has no use for it.
//
// Zero is no bound, as without the option; StreamIdle panics when d is negative.
func StreamIdle(d time.Duration) Option {
	if d < 0 {
		panic(fmt.Sprintf("mettlegrpc: StreamIdle: %v, must be positive, or zero for no bound", d))
	}
	return func(o *options) { o.idle = d }
}
