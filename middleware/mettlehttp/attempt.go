package mettlehttp

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle/internal/ctxkey"
)

// How much of a response that nobody wants is read so that its connection can be used
// again. More, or slower, than this costs more than a new connection does.
const (
	drainBytes = 64 << 10
	drainTime  = 200 * time.Millisecond
)

// cutTime is how long net/http is given to notice that an attempt has been cut, which
// takes it microseconds, before it goes on to write the request, and a body to notice
// that its time is up.
const cutTime = 10 * time.Millisecond

// The states of an attempt.
const (
	waiting int32 = iota // for the headers, as long as the policy allows
	cut                  // by the policy
	whole                // the headers have come; the total timeout bounds the body
	tunnel               // the connection was given away, and nothing bounds it
)

// attempt is one sending of a request: its context, what net/http told about it, and
// its response. It is itself the context: it lives as long as the caller's, because the
// body outlives the policy's, and carries the values of the policy's.
type attempt struct {
	context.Context // the caller's, with a cancel of our own
	cancel          context.CancelCauseFunc
	values          context.Context // the policy's
	call            *call
	state           atomic.Int32
	total           time.Time   // zero: the caller's own deadline, if any, is the first
	timer           *time.Timer // runs expire; nil: the policy has no deadline of its own

	// Told by httptrace, on goroutines of the base.
	trace            httptrace.ClientTrace
	traced           bool  // by what wraps this context; else Value answers with trace
	sendings         int32 // after so many without an answer no further connection is wanted
	asked, connected atomic.Bool
	wrote, answers   atomic.Int32
	enough           atomic.Bool // another connection was asked for after the last sending
	safe             atomic.Bool // HTTP/2: net/http sends again only what the server says it has not processed

	uploadFailed atomic.Bool // the request body, as the caller gave it, could not be read
	unprepared   bool        // by the hook of Prepare, and not sent
	malformed    bool

	resp    *http.Response
	sent    *http.Request
	ahead   *heldBody     // reads the body of a failed answer ahead; nil: nobody does
	rc      io.ReadCloser // of resp, once the body is handed out
	unwatch func()        // ends the watch on Request.Cancel; nil: there is none
	reading atomic.Bool   // a Read of rc is under way
	closed  atomic.Bool   // rc
	ended   atomic.Bool   // the context is cancelled and the timer stopped
	late    atomic.Bool   // the total timeout has passed
}

// newAttempt prepares an attempt under policy, the context that the policy hands on.
func newAttempt(c *call, policy context.Context) *attempt {
	a := &c.first
	if c.started.Add(1) == 1 {
		// A connection that broke while it lay idle is no failure of the server. Once
		// attempts follow one another, resending is for the policy alone.
		a.sendings = 2
	} else {
		a = &attempt{sendings: 1}
	}
	a.call, a.values, a.malformed = c, policy, c.malformed
	a.Context, a.cancel = context.WithCancelCause(c.parent)
	// The deadline of the call as a whole holds for the body too; that of an attempt
	// ends with the headers.
	if total, ok := callDeadline(policy); ok && sooner(total, c.parent) {
		a.total = total
	}
	if c.needsProof() {
		a.trace.GetConn = a.getConn // else net/http need not spell out the address each time
	}
	a.trace.GotConn = a.gotConn
	a.trace.WroteHeaders = a.wroteHeaders
	a.trace.GotFirstResponseByte = a.gotFirstResponseByte
	return a
}

// sooner reports whether deadline comes before that of ctx.
func sooner(deadline time.Time, ctx context.Context) bool {
	d, ok := ctx.Deadline()
	return !ok || deadline.Before(d)
}

// watch has the policy's context end the attempt until detach is called.
//
// The context is not asked for its Done channel where its end is known without, because
// each timeout on the way would start a timer of its own. One here does for all of them,
// and for the body after that.
func (a *attempt) watch() (detach func() bool) {
	under := a.call.beneath(a.values)
	bound := a.call.parent
	if under != nil {
		detach, bound = context.AfterFunc(under, a.cut), under
	}
	// What ends the attempt by itself does not end the body: the total timeout has to.
	if deadline, ok := a.values.Deadline(); ok && (!a.total.IsZero() || sooner(deadline, bound)) {
		a.timer = time.AfterFunc(time.Until(deadline), a.expire)
	}
	return detach
}

// beneath returns the context that ctx, which a policy hands on, ends with when its
// deadline has not come: nil if that is the call, from which attempts descend anyway.
func (c *call) beneath(ctx context.Context) context.Context {
	for ctx != c {
		// As the contexts of mettle and of package timeout have it.
		e, ok := ctx.(interface{ EndsWith() context.Context })
		if !ok {
			return ctx
		}
		ctx = e.EndsWith()
	}
	return nil
}

// Deadline returns when the body must have been read.
func (a *attempt) Deadline() (time.Time, bool) {
	if !a.total.IsZero() {
		return a.total, true
	}
	return a.Context.Deadline()
}

// The keys under which package context asks for its own cancel node and package httptrace
// for the hooks; nil if those packages stop asking.
var (
	cancelKey = ctxkey.Cancel
	traceKey  = ctxkey.Asked(func(ctx context.Context) { httptrace.ContextClientTrace(ctx) })
)

// Value returns what the policy's context carries.
func (a *attempt) Value(key any) any {
	switch {
	case key == cancelKey && key != nil:
		// It must be the node of our lifetime: with the policy's, the cause would be wrong
		// and every child would cost a goroutine.
		return a.Context.Value(key)
	case key == traceKey && key != nil && !a.traced:
		return &a.trace
	case cancelKey == nil:
		if v := a.Context.Value(key); v == any(a.Context) {
			return v
		}
	}
	return a.values.Value(key)
}

// cut ends the attempt because the policy's context has ended, unless the headers came
// before that.
func (a *attempt) cut() {
	if a.state.CompareAndSwap(waiting, cut) {
		a.cancel(context.Cause(a.values))
	}
}

// expire is called when the attempt's time is up, and again when that of the call is.
func (a *attempt) expire() {
	a.cut()
	if a.state.Load() != whole || a.total.IsZero() {
		return
	}
	if left := time.Until(a.total); left > 0 {
		a.timer.Reset(left)
		if a.ended.Load() {
			a.timer.Stop()
		}
		return
	}
	a.late.Store(true)
	a.cancel(errBodyTimeout)
	// Every base should heed that. A body that does not is closed under the read.
	time.AfterFunc(cutTime, func() {
		if a.reading.Load() {
			a.closeBody()
		}
	})
}

// hooked returns the context for the request, with hooks that tell what no error does:
// whether anything was sent.
func (a *attempt) hooked() context.Context {
	// Hooks of the caller's have to be called as well, which package httptrace sees to.
	if traceKey == nil || a.values.Value(traceKey) != nil {
		a.traced = true
		return httptrace.WithClientTrace(a, &a.trace)
	}
	return a
}

func (a *attempt) getConn(string) {
	a.asked.Store(true)
	a.again()
}

// again is called when a connection is asked for, or has come.
func (a *attempt) again() {
	// net/http sends nothing again once an answer has begun. What follows one is an
	// exchange of the base's own: a redirect, or a challenge that it meets.
	if a.wrote.Load()-a.answers.Load() >= a.sendings && !a.safe.Load() {
		a.enough.Store(true)
		a.cancel(errReplays)
	}
}

func (a *attempt) gotConn(info httptrace.GotConnInfo) {
	a.again()
	a.connected.Store(true)
	c, ok := info.Conn.(interface{ ConnectionState() tls.ConnectionState })
	a.safe.Store(ok && c.ConnectionState().NegotiatedProtocol == "h2")
}

func (a *attempt) gotFirstResponseByte() { a.answers.Add(1) }

func (a *attempt) wroteHeaders() {
	a.wrote.Add(1)
	if a.enough.Load() {
		// The base took the connection all the same. What it wrote is in a buffer of its
		// own yet, and the connection is about to be closed.
		time.Sleep(cutTime)
	}
}

var errReplays = errors.New("mettlehttp: connection after connection broke under one attempt")

// unsent reports whether err proves that the server cannot have seen the request.
func (a *attempt) unsent(policy context.Context, err error) bool {
	switch {
	case a.wrote.Load() > 0:
		return false // a base that tries one server after another may end with a dial
	case dialFailed(err):
		return true
	case !a.asked.Load():
		return false // the base does not trace, which proves nothing
	case !a.connected.Load():
		return true // neither dialled nor shaken hands to the end
	default:
		return policy.Err() == nil // else the base may have left its writer behind
	}
}

// dialFailed reports whether err is that of a connection that never came to be.
func dialFailed(err error) bool {
	for e := err; ; {
		var op *net.OpError
		if !errors.As(e, &op) {
			break
		}
		if op.Op == "dial" {
			return true
		}
		e = op.Err // a proxy's is wrapped in one of its own
	}
	// Conn is set only when the very first record was not one of TLS.
	var record tls.RecordHeaderError
	return errors.As(err, &record) && record.Conn != nil
}

// over reports whether the body can no longer be read.
func (a *attempt) over() bool { return !a.total.IsZero() && !time.Now().Before(a.total) }

// hand gives the response to the caller. The attempt lives on until the body has ended.
func (a *attempt) hand() *http.Response {
	resp := a.resp
	a.unwatch = a.call.unwatch
	if resp.Request == nil || resp.Request == a.sent {
		// As net/http does; our clone's context is about to end.
		resp.Request = a.call.req
	}
	if resp.Body == nil || resp.Body == http.NoBody && !a.call.hasBody {
		a.end()
		return resp
	}
	a.rc = resp.Body
	if a.isTunnel() {
		// A connection in its own right: it has no end that a timeout could mean.
		a.state.Store(tunnel)
		resp.Body = tunnelBody(a)
		return resp
	}
	if a.ahead != nil {
		a.ahead.stop.Store(true)
	}
	resp.Body = responseBody{a}
	return resp
}

func (a *attempt) isTunnel() bool {
	return a.resp.StatusCode == http.StatusSwitchingProtocols ||
		a.sent.Method == http.MethodConnect && a.resp.StatusCode/100 == 2
}

// end gives back the context and the timer.
func (a *attempt) end() {
	if a.ended.Swap(true) {
		return
	}
	if a.timer != nil {
		a.timer.Stop()
	}
	a.cancel(nil)
	if a.unwatch != nil {
		a.unwatch()
	}
}

// closeBody closes rc once, whoever comes first.
func (a *attempt) closeBody() error {
	if a.closed.Swap(true) {
		return nil
	}
	return a.rc.Close()
}

// drop closes a response that came too late to be of use. A nil attempt has none.
func (a *attempt) drop() {
	if a == nil {
		return
	}
	a.cancel(nil) // what is left of the body ends at once
	a.discard(context.Background())
}

// discard reads the rest of a response that nobody wants, within bounds, so that its
// connection can be used for the next attempt, and closes it. It stops early when ctx
// ends. A nil attempt has none.
func (a *attempt) discard(ctx context.Context) {
	if a == nil {
		return
	}
	defer a.end()
	a.rc = a.resp.Body
	if a.rc == nil {
		return
	}
	defer a.closeBody()
	if a.ahead != nil {
		a.ahead.wait(ctx)
		a.cancel(nil)
		return
	}
	if a.rc == http.NoBody || a.resp.ContentLength > drainBytes || a.isTunnel() {
		return
	}
	defer context.AfterFunc(ctx, func() { a.cancel(nil) })()
	done := make(chan struct{})
	timer := time.AfterFunc(drainTime, func() {
		a.cancel(nil)
		// Every base should heed that. A body that does not is closed under the read.
		deaf := time.NewTimer(drainTime)
		defer deaf.Stop()
		select {
		case <-done:
		case <-deaf.C:
			a.closeBody()
		}
	})
	defer timer.Stop()
	defer close(done)
	io.CopyN(io.Discard, a.rc, drainBytes+1)
}
