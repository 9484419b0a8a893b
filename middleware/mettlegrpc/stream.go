package mettlegrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/timeout"
)

// StreamClientInterceptor returns an interceptor that runs each stream under p, from its
// making to its end. The package documentation says which streams are resent, how long a
// policy holds what it gave, and what ends a stream.
//
// A nil p is [Standard], new with each interceptor. One that holds a nil pointer panics.
func StreamClientInterceptor(p mettle.Policy, opts ...Option) grpc.StreamClientInterceptor {
	p = clientPolicy(p)
	o := newOptions(opts)
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
		streamer grpc.Streamer, callOpts ...grpc.CallOption,
	) (grpc.ClientStream, error) {
		stop := func() {}
		if o.total > 0 {
			ctx, stop = context.WithTimeoutCause(ctx, o.total, errTotal)
		}
		s := &clientStream{
			node: enter(ctx, method, cc), options: o,
			desc: desc, streamer: streamer, opts: callOpts,
			resends: desc.ServerStreams && !desc.ClientStreams,
			turns:   make(chan *streamAttempt), done: make(chan struct{}),
			open: true, waiting: true,
		}
		if md, ok := metadata.FromOutgoingContext(ctx); ok && s.resends {
			// A copy, because the caller may change its own before a resend.
			s.node.Context = metadata.NewOutgoingContext(s.node.Context, md)
		}
		go s.run(p, stop)
		if err := s.advance(); err != nil {
			return nil, err
		}
		return &stream{s}, nil
	}
}

// clientStream is a stream of the caller's, and the context with which its pipeline is
// entered.
//
// A policy runs on a goroutine of its own, because its operation returns when the stream
// ends, and that is the only way to hold what any policy may have given. All it does
// there is wait: each attempt hands itself, through turns, to the caller's goroutine, which
// makes the stream of gRPC and later reports how it ended. So a panic in gRPC, or in an
// interceptor further in, happens where the caller can see it, with its own stack.
type clientStream struct {
	node
	*options
	desc     *grpc.StreamDesc
	streamer grpc.Streamer
	opts     []grpc.CallOption
	resends  bool // a stream of the server's: its one request can be sent again

	turns chan *streamAttempt // from the operation to whoever is in advance
	done  chan struct{}       // closed when the policy has returned, and what follows is set

	err      error // what the policy came to
	panicked any   // a panic of the policy's, for whoever waits
	exited   bool  // the policy's goroutine ended otherwise

	recv sync.Mutex // held by whoever receives and may meet the end: RecvMsg, and Header
	send sync.Mutex // where resends: held by SendMsg, CloseSend and a replay

	mu        sync.Mutex     // guards what follows; nothing that is not ours runs under it
	cur       *streamAttempt // what the caller talks to; nil until it is made
	open      bool           // the operation may run: somebody is in advance, or about to be
	waiting   bool           // somebody is in advance, or about to be
	committed bool           // the caller has seen something of cur
	answered  bool           // a message has come
	req       any            // to be sent again
	sent      bool
	closed    bool          // CloseSend was called
	last      *attemptError // of the last attempt that failed; nil where it says nothing
	lastErr   error         // with which the last attempt ended
	over      bool          // the stream has ended, with result
	result    error
}

// streamAttempt is one making of a stream.
type streamAttempt struct {
	s      *clientStream
	policy context.Context // what the operation was handed
	ctx    *detached       // of the stream of gRPC: ends with the call, not with the policy
	cancel context.CancelCauseFunc
	inner  grpc.ClientStream
	unwait func() bool // stops waiting for the end of ctx

	// Guarded by mu of the stream.
	busy    int   // callers who are in inner, and will tell how it ended
	noted   bool  // somebody else has told, meanwhile, that it ended with noteErr
	noteErr error //
	over    bool  // the end is told
	crashed bool  // inner, or the making of it, panicked

	ended chan struct{} // closed with over; err is set
	err   error         // for the policy
}

// run runs the policy. A panic goes to the caller who waits for it, if there is one.
func (s *clientStream) run(p mettle.Policy, stop func()) {
	returned := false
	defer func() {
		stop()
		if returned {
			close(s.done)
			return
		}
		s.mu.Lock()
		waiting := s.waiting
		s.mu.Unlock()
		if waiting {
			s.panicked, s.exited = recover(), true
		}
		close(s.done)
	}()
	s.err = p.Do(s, s.attempt)
	returned = true
}

// attempt is the operation that the policy runs: it lasts as long as the stream does.
func (s *clientStream) attempt(ctx context.Context) error {
	a, err := s.begin(ctx)
	if err != nil {
		return err
	}
	select {
	case s.turns <- a: // somebody is there, or about to be: see open
	case <-s.done: // run by a policy that did not wait
		a.cancel(nil)
		return errReturned
	}
	<-a.ended
	if a.crashed {
		runtime.Goexit() // the panic itself is the caller's
	}
	return a.err
}

// begin admits an attempt, if the stream may be made now.
func (s *clientStream) begin(ctx context.Context) (*streamAttempt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open {
		if s.last != nil {
			return nil, &onceError{s.last}
		}
		return nil, &onceError{}
	}
	s.open = false
	a := &streamAttempt{s: s, policy: ctx, ended: make(chan struct{}), busy: 1}
	life, cancel := context.WithCancelCause(s.node.Context)
	a.cancel, a.ctx = cancel, &detached{life, ctx}
	return a, nil
}

var (
	errTotal    = fmt.Errorf("mettlegrpc: StreamTotal: %w", context.DeadlineExceeded)
	errIdle     = fmt.Errorf("mettlegrpc: StreamIdle: %w", context.DeadlineExceeded)
	errCrashed  = status.Error(codes.Internal, "mettlegrpc: the stream panicked")
	errNoStream = status.Error(codes.Unavailable, "mettlegrpc: the policy reported success without a stream")
)

// advance serves the policy until there is a stream, or none will come: then it returns
// how the stream ended.
//
// The caller has set waiting, or told an end that it attended.
func (s *clientStream) advance() error {
	defer func() {
		s.mu.Lock()
		s.waiting = false
		s.mu.Unlock()
	}()
	for {
		select {
		case a := <-s.turns:
			if s.make(a) {
				return nil
			}
		case <-s.done:
			return s.settled()
		}
	}
}

// settled returns how the stream ended, now that the policy has returned.
func (s *clientStream) settled() error {
	switch {
	case s.panicked != nil:
		panic(s.panicked)
	case s.exited:
		runtime.Goexit()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return s.result
	}
	s.over = true
	switch {
	case s.err != nil:
		s.result = told(s.node.Context, s.err, s.last)
	case s.lastErr != nil: // a fallback has stood in, but nothing can stand in for a stream
		s.result = told(s.node.Context, s.lastErr, s.last)
	case s.cur == nil:
		s.result = errNoStream
	default:
		s.result = io.EOF
	}
	return s.result
}

// make makes the stream of an attempt, and reports whether that worked; if not, the
// policy has been told.
func (s *clientStream) make(a *streamAttempt) bool {
	// Until it is made the policy's context ends it. From then on only the caller's does.
	detach := a.attach()
	returned := false
	defer func() {
		if !returned {
			detach()
			s.crash(a)
		}
	}()
	inner, err := s.streamer(a.ctx, s.desc, s.cc, s.method,
		append(slices.Clip(s.opts), grpc.OnFinish(a.finished))...)
	if err == nil {
		a.inner = inner
		err = s.replay(a)
	}
	returned = true
	if whole := detach(); !whole {
		// Not by the Err of the policy's context, whose own timer may be a moment late.
		ended := context.DeadlineExceeded
		if _, cause, _ := bounds(a.policy, s); cause == nil {
			ended = a.policy.Err()
		}
		err = status.FromContextError(ended).Err()
	}
	if err != nil {
		s.end(a, a.policy, err, true)
		return false
	}
	timeout.Stop(a.policy, s)
	a.unwait = context.AfterFunc(a.ctx, func() { a.finished(a.why(context.Canceled)) })
	s.leave(a)
	return true
}

// attach makes the policy's context end the attempt, until the function that it returns is
// called, which reports false if it has come to that.
func (a *streamAttempt) attach() (detach func() bool) {
	deadline, cause, other := bounds(a.policy, a.s)
	switch {
	case other:
		return context.AfterFunc(a.policy, func() { a.cancel(context.Cause(a.policy)) })
	case cause != nil:
		return time.AfterFunc(time.Until(deadline), func() { a.cancel(cause) }).Stop
	default:
		return func() bool { return true }
	}
}

// replay makes a what the caller talks to, and sends what the caller has sent.
func (s *clientStream) replay(a *streamAttempt) error {
	s.send.Lock()
	defer s.send.Unlock()
	s.mu.Lock()
	s.cur = a
	req, sent, closed := s.req, s.sent, s.closed
	s.mu.Unlock()
	if sent {
		// io.EOF is no error here: RecvMsg will say why the stream has ended.
		if err := a.inner.SendMsg(req); err != nil && err != io.EOF {
			return err
		}
	}
	if closed {
		return a.inner.CloseSend()
	}
	return nil
}

// current returns what the caller talks to.
func (s *clientStream) current() *streamAttempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cur
}

// enter returns what the caller talks to, for somebody who will tell, with end or leave,
// what came of it.
func (s *clientStream) enter() *streamAttempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cur.busy++
	return s.cur
}

// leave is for who has not met the end. If somebody else has meanwhile, it is told now.
func (s *clientStream) leave(a *streamAttempt) {
	s.mu.Lock()
	a.busy--
	tell := a.noted && a.busy == 0 && !a.over
	s.mu.Unlock()
	if tell {
		s.end(a, s, a.noteErr, false)
	}
}

// finished is told by gRPC, or by the end of the context, that the stream has ended. It
// matters when the caller is not there to see it: a connection that is closed, a context
// that ends, a SendMsg that fails.
func (a *streamAttempt) finished(err error) {
	a.s.mu.Lock()
	if a.busy > 0 || a.over {
		if !a.noted {
			a.noted, a.noteErr = true, err
		}
		a.s.mu.Unlock()
		return
	}
	a.s.mu.Unlock()
	a.s.end(a, a.s, err, false)
}

// why returns err, or a status for what has ended the context of the attempt.
func (a *streamAttempt) why(err error) error {
	cause := context.Cause(a.ctx)
	switch {
	case cause == errTotal, cause == errIdle:
		return &statusError{cause, status.New(codes.DeadlineExceeded, cause.Error())}
	case a.ctx.Err() != nil && err == context.Canceled:
		return status.FromContextError(a.ctx.Err()).Err()
	}
	return err
}

// end tells the policy, once, how an attempt ended; nil and io.EOF are success. The
// context is the one whose end is not the server's doing. Where the caller attends, a
// stream that the caller has seen nothing of may be made again.
func (s *clientStream) end(a *streamAttempt, ctx context.Context, err error, attended bool) {
	s.mu.Lock()
	if a.over {
		s.mu.Unlock()
		return
	}
	a.over = true
	again := attended && s.resends && !s.committed
	answered := s.answered
	s.mu.Unlock()

	var marked *attemptError
	if err == io.EOF {
		err = nil
	}
	if err != nil && !errors.Is(err, mettle.ErrRejected) {
		var trailer metadata.MD
		if attended && a.inner != nil {
			trailer = a.inner.Trailer()
		}
		marked = s.mark(ctx, err, trailer)
		marked.permanent = marked.permanent || !again
		switch {
		case closedHere(s.cc, marked):
			marked.outcome = mettle.Ignored
		case marked.outcome == mettle.Timeout && answered && s.late():
			marked.outcome = mettle.Ignored // the server did its part
		}
		err = marked
	}
	if a.unwait != nil {
		a.unwait()
	}
	a.cancel(nil)

	s.mu.Lock()
	s.last, s.lastErr = marked, err
	s.waiting = s.waiting || attended // before the policy can go on, and panic
	s.open = again && err != nil
	s.mu.Unlock()
	a.err = err
	close(a.ended)
}

// late reports whether the time of the call itself is over. The clock is asked because the
// server, who was told, may be quicker than the context.
func (s *clientStream) late() bool {
	deadline, ok := s.Deadline()
	return ok && time.Until(deadline) <= 0
}

// crash ends an attempt whose stream panicked, or called Goexit, on the caller's
// goroutine. It returns when the policy has counted that as a failure.
func (s *clientStream) crash(a *streamAttempt) {
	s.mu.Lock()
	if a.over {
		s.mu.Unlock()
		return
	}
	a.over, a.crashed, s.open, s.waiting = true, true, false, true
	s.mu.Unlock()
	if a.unwait != nil {
		a.unwait()
	}
	a.cancel(nil)
	close(a.ended)
	<-s.done
	s.mu.Lock()
	s.over, s.result = true, errCrashed
	s.mu.Unlock()
}

// stream is what the caller has of a clientStream.
type stream struct{ s *clientStream }

// RecvMsg receives, and makes the stream again where the policy does.
func (c *stream) RecvMsg(m any) error {
	s := c.s
	s.recv.Lock()
	defer s.recv.Unlock()
	for {
		if over, err := s.ended(); over {
			return err
		}
		a := s.enter()
		err := a.receive(m)
		if err == nil {
			s.mu.Lock()
			first := !s.answered
			s.committed, s.answered, s.req = true, true, nil
			s.mu.Unlock()
			if s.desc.ServerStreams {
				s.leave(a)
				if first {
					breaker.Answered(a.policy, s)
				}
				return nil
			}
			// The one answer of the server's is the end, as gRPC has it too.
			s.end(a, s, nil, true)
			if err := s.advance(); err != io.EOF {
				return err
			}
			return nil
		}
		s.end(a, s, err, true)
		if err := s.advance(); err != nil {
			return err
		}
	}
}

func (s *clientStream) ended() (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over, s.result
}

// receive is RecvMsg of the attempt, within StreamIdle.
func (a *streamAttempt) receive(m any) error {
	returned := false
	defer func() {
		if !returned {
			a.s.crash(a)
		}
	}()
	stop := a.idle()
	err := a.inner.RecvMsg(m)
	stop()
	if err != nil && err != io.EOF {
		err = a.why(err)
	}
	returned = true
	return err
}

// idle ends the attempt after StreamIdle, unless it is stopped.
func (a *streamAttempt) idle() (stop func() bool) {
	if a.s.options.idle == 0 {
		return func() bool { return true }
	}
	return time.AfterFunc(a.s.options.idle, func() { a.cancel(errIdle) }).Stop
}

// Header waits for the header, and makes the stream again where the policy does. As gRPC
// has it, a stream that ends without a header has none, and RecvMsg tells why.
func (c *stream) Header() (metadata.MD, error) {
	s := c.s
	for {
		a := s.enter()
		md, err := a.header()
		if md != nil && s.commit(a) {
			s.leave(a)
			breaker.Answered(a.policy, s)
			return md, err
		}
		switch again, none := s.follow(a); {
		case none:
			return nil, nil
		case !again:
			return md, err
		}
	}
}

func (a *streamAttempt) header() (metadata.MD, error) {
	returned := false
	defer func() {
		if !returned {
			a.s.crash(a)
		}
	}()
	defer a.idle()()
	md, err := a.inner.Header()
	returned = true
	return md, err
}

// commit notes that the caller sees something of a, after which it is not made again. It
// reports false when a has ended, and another may follow.
func (s *clientStream) commit(a *streamAttempt) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a != s.cur || a.over && s.open {
		return false
	}
	s.committed, s.req = true, nil
	return true
}

// follow finds out what becomes of an attempt that has no header to show: there may be
// another one, or none any more. The caller has entered a.
func (s *clientStream) follow(a *streamAttempt) (again, none bool) {
	s.recv.Lock()
	defer s.recv.Unlock()
	if over, _ := s.ended(); over {
		return false, true
	}
	s.mu.Lock()
	newer, gone := s.cur != a, a.noted || a.over
	s.mu.Unlock()
	switch {
	case newer: // RecvMsg has met the end as well, and was faster
		return true, false
	case !gone: // a stream that is not gRPC's and knows no headers
		s.commit(a)
		s.leave(a)
		return false, false
	}
	// There is no message without a header, so this does not wait and receives nothing.
	err := a.receive(new(emptypb.Empty))
	s.end(a, s, err, true)
	again = s.advance() == nil
	return again, !again
}

// SendMsg sends, and keeps what a server's stream may have to send again.
func (c *stream) SendMsg(m any) error {
	s := c.s
	if s.resends {
		s.send.Lock()
		defer s.send.Unlock()
	}
	s.mu.Lock()
	a := s.cur
	if s.resends && !s.committed {
		s.req, s.sent = m, true
	}
	s.mu.Unlock()
	err := a.inner.SendMsg(m)
	if err != nil && err != io.EOF {
		err = a.why(err)
		a.finished(err)
	}
	return err
}

func (c *stream) CloseSend() error {
	s := c.s
	if s.resends {
		s.send.Lock()
		defer s.send.Unlock()
	}
	s.mu.Lock()
	a := s.cur
	s.closed = true
	s.mu.Unlock()
	return a.inner.CloseSend()
}

func (c *stream) Trailer() metadata.MD { return c.s.current().inner.Trailer() }

// Context is that of the attempt; a caller who has it has seen something of the stream.
func (c *stream) Context() context.Context {
	s := c.s
	s.mu.Lock()
	a := s.cur
	s.committed = true
	s.mu.Unlock()
	return a.inner.Context()
}
