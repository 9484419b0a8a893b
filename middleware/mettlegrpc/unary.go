package mettlegrpc

import (
	"context"
	"errors"
	"reflect"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

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
		c := &call{node: enter(ctx, method, cc), options: o, req: req, reply: reply, cc: cc, invoke: invoke, opts: callOpts}
		return c.finish(p.Do(c, c.attempt))
	}
}

// call is one call of the user's, whatever the number of attempts, and the context with
// which its pipeline is entered. Policies may run attempts side by side.
type call struct {
	node
	*options
	req, reply any // reply is the caller's: a model for each attempt's, written by none
	cc         *grpc.ClientConn
	invoke     grpc.UnaryInvoker
	opts       []grpc.CallOption

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
	fresh           bool // reply is not the caller's own
	header, trailer metadata.MD
	peer            peer.Peer
	room            [3]grpc.CallOption // for divert, where the caller has one or two
}

// begin admits an attempt. It returns how many results there were when it began.
func (c *call) begin() (a *attempt, begun int, err error) {
	reply, fresh := newReply(c.reply)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.finished {
		return nil, 0, errReturned
	}
	if c.begun && !fresh {
		if c.lastErr != nil {
			return nil, 0, &onceError{c.lastErr}
		}
		return nil, 0, &onceError{}
	}
	c.begun = true
	return &attempt{reply: reply, fresh: fresh}, c.commits, nil
}

// attempt is the operation that the policy runs: it sends the call once.
func (c *call) attempt(ctx context.Context) error {
	a, begun, err := c.begin()
	if err != nil {
		return err
	}
	life, stop := bounded(ctx, c)
	defer stop()
	if err = c.invoke(life, c.method, c.req, a.reply, c.cc, a.divert(c.opts)...); err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		// As in mettle.Get: of overlapping attempts the first to succeed is the result, of
		// attempts that follow one another the last.
		if c.commits == begun && !c.finished {
			c.commits++
			c.won = a
		}
		return nil
	}
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
	if err == nil {
		if won != nil { // nil when a fallback has stood in
			if won.fresh {
				moveReply(c.reply, won.reply)
			}
			won.show(c.opts)
		}
		return nil
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

// newReply returns an empty message of reply's type, or reply itself and false where
// there can be no other: the message of a codec of the user's need not be a pointer.
func newReply(reply any) (empty any, fresh bool) {
	if m, ok := reply.(proto.Message); ok {
		return m.ProtoReflect().New().Interface(), true
	}
	if v := reflect.ValueOf(reply); v.Kind() == reflect.Pointer && !v.IsNil() {
		return reflect.New(v.Type().Elem()).Interface(), true
	}
	return reply, false
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
