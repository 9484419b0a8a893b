package mettlegrpc

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/mettle-go/mettle"
)

// UnaryClientInterceptor returns an interceptor that runs each unary call under p,
// which may send it more than once and, as a hedge does, side by side. The package
// documentation says what is resent and what comes back.
//
// A nil p is [Standard], new with each interceptor. One that holds a nil pointer panics.
func UnaryClientInterceptor(p mettle.Policy, opts ...Option) grpc.UnaryClientInterceptor {
	p = clientPolicy(p)
	o := newOptions(opts)
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
		invoke grpc.UnaryInvoker, callOpts ...grpc.CallOption,
	) error {
		c := &call{
			node: enter(ctx, method, cc), options: o,
			req: req, reply: replyOf(reply), invoke: invoke, opts: callOpts,
		}
		return c.finish(p.Do(c, c.attempt))
	}
}

// call is one call of the user's, whatever the number of attempts, and the context with
// which its pipeline is entered. Policies may run attempts side by side.
type call struct {
	node
	*options
	req    any
	reply  reply
	invoke grpc.UnaryInvoker
	opts   []grpc.CallOption
	first  attempt // most calls have no other

	// lent counts the attempt that has the caller's reply. A policy that returns before its
	// operation has broken its promise; the call waits for it, and so keeps its own.
	lent sync.WaitGroup

	mu       sync.Mutex // guards what follows
	begun    bool       // there was an attempt
	commits  int        // how many attempts have given the result
	won      *attempt   // the result so far
	last     *attempt   // the last to end in an error
	lastErr  *attemptError
	finished bool // nobody takes a result any more
}

// attempt is what one attempt receives, so that attempts share nothing.
type attempt struct {
	reply           any
	own             bool     // reply is the caller's
	life            detached // the context of gRPC's call, where it is not the policy's
	header, trailer metadata.MD
	peer            peer.Peer
	room            [3]grpc.CallOption // for divert, where the caller has one or two
}

// begin admits an attempt. It returns how many results there were when it began.
func (c *call) begin() (a *attempt, begun int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.finished:
		return nil, 0, errReturned
	case !c.begun:
		c.begun = true
		a = &c.first
		if a.own = c.reply.lends; a.own {
			a.reply = c.reply.callers
			c.lent.Add(1)
		}
		return a, c.commits, nil
	case !c.reply.single:
		return new(attempt), c.commits, nil
	case c.lastErr != nil:
		return nil, 0, &onceError{c.lastErr}
	default:
		return nil, 0, &onceError{}
	}
}

// attempt is the operation that the policy runs: it sends the call once.
func (c *call) attempt(ctx context.Context) error {
	a, begun, err := c.begin()
	if err != nil {
		return err
	}
	taken := false
	if a.own {
		defer func() {
			if !taken { // nothing is to be seen of it
				c.reply.clear()
			}
			c.lent.Done()
		}()
	} else {
		a.reply = c.reply.fresh()
	}
	life := ctx
	if deadline, cause, other := bounds(ctx, c); cause != nil && !other {
		// Made for gRPC, which asks for Done.
		inner, cancel := context.WithDeadlineCause(c.node.Context, deadline, cause)
		defer cancel()
		a.life = detached{inner, ctx}
		life = &a.life
	}
	if err = c.invoke(life, c.method, c.req, a.reply, c.cc, a.divert(c.opts)...); err == nil {
		taken = c.succeeded(a, begun)
		return nil
	}
	return c.failed(ctx, a, err)
}

// succeeded reports whether a is the result so far. As in mettle.Get, of overlapping
// attempts that is the first to succeed, of attempts that follow one another the last.
func (c *call) succeeded(a *attempt, begun int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.commits != begun || c.finished {
		return false
	}
	c.commits++
	c.won = a
	return true
}

// failed returns what the policy is told of an attempt that ended with err.
func (c *call) failed(ctx context.Context, a *attempt, err error) error {
	var marked *attemptError
	if !errors.Is(err, mettle.ErrRejected) { // else of an interceptor further in: no answer of the server's
		marked = c.mark(ctx, err, a.trailer)
		if closedHere(c.cc, marked) {
			marked.outcome = mettle.Ignored
		}
		err = marked
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.finished {
		c.last, c.lastErr = a, marked
	}
	return err
}

// closedHere reports whether a call failed because its connection was closed at this end,
// of which there are two accounts.
func closedHere(cc *grpc.ClientConn, e *attemptError) bool {
	if e.outcome != mettle.Failure || cc == nil || cc.GetState() != connectivity.Shutdown {
		return false
	}
	code := status.Code(e.err)
	return code == codes.Canceled || code == codes.Unavailable
}

// finish turns what the policy came to into the result of the call.
func (c *call) finish(err error) error {
	c.mu.Lock()
	won, last, lastErr := c.won, c.last, c.lastErr
	c.finished = true
	c.mu.Unlock()
	c.lent.Wait()
	if err == nil {
		if won != nil { // nil when a fallback has stood in
			if !won.own {
				c.reply.move(won.reply)
			}
			won.show(c.opts)
		}
		return nil
	}
	if c.first.own { // it may have been the result, of which the policy makes nothing
		c.reply.clear()
	}
	if last != nil {
		last.show(c.opts)
	}
	return told(c.Context, err, lastErr)
}

// divert returns opts with those that receive replaced by ones that a receives. The
// trailer is received in any case, because a pushback comes in it.
func (a *attempt) divert(opts []grpc.CallOption) []grpc.CallOption {
	own := append(append(a.room[:0], opts...), grpc.Trailer(&a.trailer))
	for i, opt := range opts {
		switch opt.(type) {
		case grpc.HeaderCallOption:
			own[i] = grpc.Header(&a.header)
		case grpc.TrailerCallOption:
			own[i] = grpc.EmptyCallOption{}
		case grpc.PeerCallOption:
			own[i] = grpc.Peer(&a.peer)
		}
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
