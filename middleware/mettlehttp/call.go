package mettlehttp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
)

type callKey struct{}

// call is one RoundTrip: the node of the context with which the pipeline is entered,
// and what its attempts share. Policies may run attempts side by side.
type call struct {
	context.Context
	parent    context.Context // of Context and of the attempts: the request's, or one that req.Cancel ends too
	transport *Transport
	req       *http.Request
	host      string
	canceled  func() // nil unless req.Cancel is set, as unwatch
	unwatch   func() // ends the watch on req.Cancel
	handed    bool   // an attempt does so when its body has ended

	idempotent bool                          // by its method or a key
	getBody    func() (io.ReadCloser, error) // nil: the body can be sent once only
	buffer     *buffer                       // takes the place of getBody; nil: none
	hasBody    bool
	malformed  bool // by its Trailer, to which the body may write once it is read

	started atomic.Int32 // attempts
	first   attempt      // so that it need not be allocated

	mu        sync.Mutex // guards what follows
	bodyTaken bool       // the caller's body belongs to an attempt, or is closed
	runs      int        // attempts that may have reached the server
	commits   int        // how many attempts have given the result
	won       *attempt   // the answer that is the result so far
	held      *attempt   // the failed answer of the last attempt, in case it is the result
	lastErr   error      // what the last attempt that has ended failed with
	finished  bool       // nobody takes an answer any more
}

// Value finds the call itself by callKey, for Host.
func (c *call) Value(key any) any {
	if _, ok := key.(callKey); ok {
		return c
	}
	return c.Context.Value(key)
}

// EndsWith is for an attempt of another Transport inside; see beneath.
func (c *call) EndsWith() context.Context { return c.Context }

// prepare finds out whether the request can be sent more than once.
func (c *call) prepare() {
	req, opts := c.req, &c.transport.opts
	c.idempotent = idempotent(req)
	c.hasBody = req.Body != nil && req.Body != http.NoBody
	c.getBody = req.GetBody
	if c.hasBody && c.getBody == nil && (c.idempotent || opts.resend != nil) &&
		req.ContentLength > 0 && req.ContentLength <= opts.bufferMax {
		c.buffer = &buffer{body: req.Body, size: req.ContentLength, done: make(chan struct{})}
	}
}

// mayResend reports whether the request may be sent again although the server may have
// seen it. It is nil that resp is where there is no answer, or none yet.
func (c *call) mayResend(resp *http.Response) bool {
	may := c.idempotent && (resp == nil || resent(resp))
	if f := c.transport.opts.resend; f != nil {
		may = f(c.req, resp, may)
	}
	return may
}

// needsProof reports whether it matters that the server cannot have seen a request, or
// that the base tells about its connections: see unsent and hopeless.
func (c *call) needsProof() bool {
	return !c.idempotent || c.transport.opts.resend != nil || !isHTTP(c.req)
}

// replayable reports whether a further attempt would send the same body.
func (c *call) replayable() bool { return !c.hasBody || c.getBody != nil || c.buffer != nil }

// onceOnly says what about the request keeps it from being sent again, or nothing: when
// nothing does, when no retry is there to send it, and when there is no time to.
func (c *call) onceOnly(policy context.Context, may bool) string {
	switch {
	case mettle.Attempt(policy) == 0, mettle.CallContext(policy).Err() != nil:
		return ""
	case !may && c.transport.opts.resend != nil:
		return "Resend forbids it"
	case !may:
		method := c.req.Method
		if len(method) > 20 || !isToken(method) { // whatever it is, it is none to show
			method = "method"
		}
		return method + " without Idempotency-Key"
	case !c.replayable():
		return "body without GetBody"
	default:
		return ""
	}
}

// begin admits an attempt and gives it a body of its own. It returns how many results
// there were when the attempt began.
func (c *call) begin(ctx context.Context) (body io.ReadCloser, begun int, err error) {
	may := c.mayResend(nil)
	c.mu.Lock()
	if c.finished {
		c.mu.Unlock()
		return nil, 0, errReturned
	}
	if c.runs > 0 && !may || c.bodyTaken && !c.replayable() {
		last := c.lastErr
		c.mu.Unlock()
		return nil, 0, &notResentError{last}
	}
	first := !c.bodyTaken
	c.bodyTaken = true
	c.runs++
	begun, last := c.commits, c.held
	c.mu.Unlock()

	if body, err = c.body(ctx, first); err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.runs--
		if c.buffer != nil && c.lastErr == nil {
			return nil, 0, own(err)
		}
		// The answer of the attempt before, if there is one, stays the result.
		return nil, 0, &notResentError{errors.Join(err, c.lastErr)}
	}

	if last == nil {
		return body, begun, nil
	}
	// What the attempt before was answered is of no use any more, and its connection may
	// be the only one that we may have.
	c.mu.Lock()
	if c.held == last {
		c.held = nil
	} else {
		last = nil // by now another attempt has replaced it
	}
	c.mu.Unlock()
	last.discard(ctx)     // nil: nothing
	if ctx.Err() != nil { // that took its time
		if body != nil {
			body.Close()
		}
		return nil, 0, context.Cause(ctx)
	}
	return body, begun, nil
}

// body returns the request body for one attempt: the caller's own for the first, unless
// it is buffered.
func (c *call) body(ctx context.Context, first bool) (io.ReadCloser, error) {
	switch {
	case !c.hasBody:
		return c.req.Body, nil // nil or http.NoBody
	case c.buffer != nil:
		if first {
			go c.buffer.fill()
		}
		return c.buffer.wait(ctx)
	case !first:
		body, err := c.getBody()
		if err != nil {
			return nil, fmt.Errorf("mettlehttp: Request.GetBody: %w", err)
		}
		if body == nil {
			return nil, errors.New("mettlehttp: Request.GetBody returned no body")
		}
		return body, nil
	default:
		return c.req.Body, nil
	}
}

// attempt is the operation that the policy runs: it sends the request once.
func (c *call) attempt(ctx context.Context) error {
	body, begun, err := c.begin(ctx)
	if err != nil {
		return err
	}
	a := newAttempt(c, ctx)
	out := a.clone()
	upload := a.upload(body)
	out.Body = upload
	switch {
	case c.buffer != nil:
		out.GetBody = c.buffer.reader
	case c.getBody != nil:
		out.GetBody = a.replay(c.getBody)
	}

	// Until the headers have come, the policy's context ends the attempt. From then on
	// only the caller's does: the policy is left while the body is still being read.
	detach := a.watch()
	returned := false
	defer func() {
		if !returned { // a panic
			if detach != nil {
				detach()
			}
			a.end()
			if upload != nil {
				upload.Close()
			}
		}
	}()
	if err = a.address(out); err != nil {
		if upload != nil {
			upload.Close()
		}
	} else {
		a.resp, err = c.transport.base.RoundTrip(out)
	}
	returned = true
	inTime := a.state.CompareAndSwap(waiting, whole)
	if detach != nil {
		detach()
	}

	a.sent = out
	switch {
	case a.resp == nil && err == nil:
		err = errNilResponse
	case a.resp == nil:
	case err != nil: // a base that broke the contract
		a.drop()
	case !inTime || a.Err() != nil:
		a.drop()
		err = cmp.Or(context.Cause(ctx), context.Cause(a))
	default:
		return c.answered(ctx, a, begun)
	}
	a.end()
	return c.failed(ctx, a, err)
}

// address sets what the options add to the request of an attempt, just before it is sent.
func (a *attempt) address(out *http.Request) error {
	opts := &a.call.transport.opts
	if opts.propagate && out.Header != nil {
		a.propagate(out.Header)
	}
	if opts.prepare == nil {
		return nil
	}
	if err := opts.prepare(out); err != nil {
		a.unprepared = true
		return fmt.Errorf("mettlehttp: Prepare: %w", err)
	}
	a.malformed = a.malformed || malformed(out)
	return nil
}

// clone copies the request but for its Trailer, whose values the body sets as it is read:
// it is the map that the caller gave which the base has to look at. It is not iterated
// either, because the body of an attempt before may be setting them still.
//
// The header is copied for net/http's own Transport as well, which does not write to it:
// over HTTP/2 it may still be reading when RoundTrip has returned because the context
// ended, while the header is the caller's again.
func (a *attempt) clone() *http.Request {
	req, ctx := a.call.req, a.hooked()
	out := req.WithContext(ctx)
	switch {
	case req.Form != nil || req.PostForm != nil || req.MultipartForm != nil: // of a server's request, sent on
		out.Trailer = nil
		out = out.Clone(ctx)
		out.Trailer = req.Trailer
	default:
		if req.URL != nil {
			u := *req.URL // a Userinfo cannot be changed
			out.URL = &u
		}
		out.Header = req.Header.Clone()
		out.TransferEncoding = slices.Clone(req.TransferEncoding)
	}
	//lint:ignore SA1019 it is deprecated and has to be kept from the base all the same
	out.Cancel = nil // the context ends with it, at no further cost
	return out
}

// answered takes the response of an attempt and tells the policy what it was.
func (c *call) answered(ctx context.Context, a *attempt, begun int) error {
	outcome := c.transport.opts.outcome(a.resp.StatusCode)
	if outcome == mettle.Success {
		c.mu.Lock()
		// As in mettle.Get: of overlapping attempts the first to succeed is the result,
		// of attempts that follow one another the last.
		loser := a
		if c.commits == begun && !c.finished {
			c.commits++
			loser, c.won = c.won, a
		}
		c.mu.Unlock()
		loser.drop()
		return nil
	}
	may := c.mayResend(a.resp)
	err := &StatusError{
		Code:       a.resp.StatusCode,
		host:       c.host,
		outcome:    outcome,
		retryAfter: retryAfter(a.resp, time.Now()),
		permanent:  !may || !c.replayable(),
	}
	if outcome.Failed() && resent(a.resp) {
		err.onceOnly = c.onceOnly(ctx, may)
	}
	if !err.permanent && mettle.Attempt(ctx) > 0 { // there may be a backoff
		a.readAhead()
	}
	c.mu.Lock()
	if may {
		c.runs--
	}
	before := a
	if !c.finished {
		before, c.held, c.lastErr = c.held, a, err
	}
	c.mu.Unlock()
	before.drop()
	return err
}

// failed gives the error of an attempt the marks that policies go by.
func (c *call) failed(ctx context.Context, a *attempt, err error) error {
	c.checkCancel()
	unsent, never := a.unprepared || a.unsent(ctx, err), hopeless(c.req, a, err)
	may := unsent || c.mayResend(nil)
	m := attemptError{err: err, permanent: !may || !c.replayable() || never}
	// A base may say in its own words that its context ended, or nothing but Canceled.
	if cause := context.Cause(ctx); cause != nil && !isCause(err, cause) {
		m.cause = cause
	}
	switch {
	case a.malformed, malformed(c.req), a.unprepared, a.uploadFailed.Load():
		m.permanent = true
		err = &ownError{m}
	case m.permanent || m.cause != nil:
		if !never {
			m.onceOnly = c.onceOnly(ctx, may)
		}
		err = &m
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastErr = err
	if unsent {
		c.runs--
	}
	return err
}

// finish turns what the policy came to into the result of RoundTrip.
func (c *call) finish(err error) (*http.Response, error) {
	c.mu.Lock()
	won, held := c.won, c.held
	c.won, c.held, c.finished = nil, nil, true
	c.mu.Unlock()

	if err == nil && won != nil {
		held.drop()
		c.handed = true
		return won.hand(), nil
	}
	won.drop()
	if held != nil && c.isResult(err) && !held.over() {
		c.handed = true
		return held.hand(), nil
	}
	held.drop()
	if err == nil {
		err = errNoResponse
	}
	if ended := c.Err(); ended != nil {
		if cause := context.Cause(c); !isCause(err, cause) {
			err = &attemptError{err: err, cause: cause}
		}
	}
	return nil, decorate(c, err)
}

// isResult reports whether the failed answer that is held is what err, the end of the
// policy, is about. A policy that made an error of its own out of it keeps that error;
// one that refused a further attempt has not answered anything.
func (c *call) isResult(err error) bool {
	if c.Err() != nil {
		return false
	}
	var status *StatusError
	return err == nil || errors.As(err, &status) || errors.Is(err, mettle.ErrRejected)
}

// abandon gives back what is still held when RoundTrip is left, be it by a panic, and
// closes the caller's body if no attempt has taken it.
func (c *call) abandon() {
	c.mu.Lock()
	won, held, taken := c.won, c.held, c.bodyTaken
	c.won, c.held, c.finished, c.bodyTaken = nil, nil, true, true
	c.mu.Unlock()
	won.drop()
	held.drop()
	switch {
	case c.req.Body == nil:
	case !taken:
		c.req.Body.Close()
	case c.buffer != nil:
		c.buffer.close()
	}
	if c.unwatch != nil && !c.handed {
		c.unwatch()
	}
}
