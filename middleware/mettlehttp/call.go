package mettlehttp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
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
	transport *Transport
	req       *http.Request
	host      string
	canceled  func() // nil unless req.Cancel is set

	idempotent bool                          // may be sent again though bytes have left
	getBody    func() (io.ReadCloser, error) // nil: the body can be sent once only
	hasBody    bool
	malformed  bool

	started atomic.Int32 // attempts

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

// prepareBody finds out whether the request can be sent more than once, and buffers the
// body if that is what it takes and was asked for.
func (c *call) prepareBody() error {
	c.idempotent = idempotent(c.req)
	c.hasBody = c.req.Body != nil && c.req.Body != http.NoBody
	c.getBody = c.req.GetBody
	limit := c.transport.opts.bufferMax
	if !c.hasBody || c.getBody != nil || !c.idempotent || c.req.ContentLength <= 0 || c.req.ContentLength > limit {
		return nil
	}
	c.bodyTaken = true
	data := make([]byte, c.req.ContentLength)
	_, err := io.ReadFull(c.req.Body, data)
	if err == nil {
		err = ended(c.req.Body)
	}
	if closeErr := c.req.Body.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("mettlehttp: buffering the request body: %w", err)
	}
	c.getBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	return nil
}

// ended fails if there is more to read from a body of which as much as ContentLength says
// has been read. net/http fails so too, rather than send what is cut short.
func ended(body io.Reader) error {
	switch n, err := io.ReadFull(body, make([]byte, 1)); {
	case n > 0:
		return errors.New("it is longer than ContentLength")
	case err == io.EOF:
		return nil
	default:
		return err
	}
}

// replayable reports whether a further attempt would send the same body.
func (c *call) replayable() bool { return !c.hasBody || c.getBody != nil }

// onceOnly says what about the request keeps it from being sent again, or nothing: when
// nothing does, when no retry is there to send it, and when there is no time to.
func (c *call) onceOnly(policy context.Context, unsent bool) string {
	switch {
	case mettle.Attempt(policy) == 0, mettle.CallContext(policy).Err() != nil:
		return ""
	case !c.idempotent && !unsent:
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
	c.mu.Lock()
	if c.finished {
		c.mu.Unlock()
		return nil, 0, errReturned
	}
	if c.runs > 0 && !c.idempotent || c.bodyTaken && !c.replayable() {
		last := c.lastErr
		c.mu.Unlock()
		return nil, 0, &notResentError{last}
	}
	first := !c.bodyTaken
	c.bodyTaken = true
	c.runs++
	begun, last := c.commits, c.held
	c.mu.Unlock()

	if body, err = c.body(first); err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.runs--
		// The answer of the attempt before, if there is one, stays the result.
		return nil, 0, &notResentError{errors.Join(err, c.lastErr)}
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
	if last == nil {
		return body, begun, nil
	}
	last.discard(ctx)
	if ctx.Err() != nil { // that took its time
		if body != nil {
			body.Close()
		}
		return nil, 0, context.Cause(ctx)
	}
	return body, begun, nil
}

// body returns the request body for one attempt: the caller's own for the first.
func (c *call) body(first bool) (io.ReadCloser, error) {
	switch {
	case !c.hasBody:
		return c.req.Body, nil // nil or http.NoBody
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
	out := c.clone(a.traced())
	upload := a.upload(body)
	out.Body = upload
	if c.getBody != nil {
		out.GetBody = a.replay(c.getBody)
	}

	// Until the headers have come, the policy's context ends the attempt. From then on
	// only the caller's does: the policy is left while the body is still being read.
	detach := context.AfterFunc(ctx, a.cut)
	returned := false
	defer func() {
		if !returned { // a panic
			detach()
			a.cancel(nil)
			if upload != nil {
				upload.Close()
			}
		}
	}()
	resp, err := c.transport.base.RoundTrip(out)
	returned = true
	whole := detach()

	if resp != nil {
		a.resp, a.sent = resp, out
		switch {
		case err != nil: // a base that broke the contract
			a.drop()
		case !whole:
			a.drop()
			err = context.Cause(ctx)
		default:
			return c.answered(ctx, a, begun)
		}
	}
	a.cancel(nil)
	if err == nil {
		err = errNilResponse
	}
	return c.failed(ctx, a, err)
}

// clone copies the request but for its Trailer, whose values the body sets as it is read:
// it is the map that the caller gave which the base has to look at. It is not iterated
// either, because the body of an attempt before may be setting them still.
func (c *call) clone(ctx context.Context) *http.Request {
	req := c.req
	if req.Trailer != nil {
		req = req.WithContext(ctx)
		req.Trailer = nil
	}
	out := req.Clone(ctx)
	out.Trailer = c.req.Trailer
	return out
}

// answered takes the response of an attempt and tells the policy what it was.
func (c *call) answered(ctx context.Context, a *attempt, begun int) error {
	outcome := statusOutcome(a.resp.StatusCode)
	if !outcome.Failed() {
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
	err := &StatusError{
		Code:       a.resp.StatusCode,
		host:       c.host,
		retryAfter: retryAfter(a.resp, time.Now()),
		permanent:  !c.idempotent || !c.replayable() || !resent(a.resp),
	}
	if resent(a.resp) {
		err.onceOnly = c.onceOnly(ctx, false)
	}
	if !err.permanent && mettle.Attempt(ctx) > 0 { // there may be a backoff
		a.readAhead(ctx)
	}
	c.mu.Lock()
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
	unsent, never := a.unsent(ctx, err), hopeless(c.req, a, err)
	m := attemptError{
		err:       err,
		permanent: !c.replayable() || !c.idempotent && !unsent || never,
	}
	// A base may say in its own words that its context ended, or nothing but Canceled.
	if cause := context.Cause(ctx); cause != nil && !isCause(err, cause) {
		m.cause = cause
	}
	switch {
	case c.malformed, a.uploadFailed.Load():
		m.permanent = true
		err = &ownError{m}
	case m.permanent || m.cause != nil:
		if !never {
			m.onceOnly = c.onceOnly(ctx, unsent)
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
		return won.hand(), nil
	}
	won.drop()
	if held != nil && c.isResult(err) && !held.over() {
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
	if !taken && c.req.Body != nil {
		c.req.Body.Close()
	}
}
