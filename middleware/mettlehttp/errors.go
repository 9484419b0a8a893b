package mettlehttp

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/internal/mark"
)

var (
	errNoResponse  = errors.New("mettlehttp: the policy reported success without a response")
	errNilResponse = errors.New("mettlehttp: the base returned neither a response nor an error")
)

// notResentError is what an attempt ends with that would have sent a request a second
// time that may go out once only. It says nothing about the server, and no retry helps.
type notResentError struct{ last error } // of the attempt before; nil: it is still under way

func (e *notResentError) Error() string {
	if e.last == nil {
		return "mettlehttp: request may not be sent twice"
	}
	return "mettlehttp: request may not be sent twice: " + e.last.Error()
}
func (e *notResentError) Unwrap() error           { return e.last }
func (e *notResentError) Is(target error) bool    { return target == mettle.ErrRejected }
func (e *notResentError) Outcome() mettle.Outcome { return mettle.Ignored }
func (e *notResentError) Permanent() bool         { return true }

// errReturned is what a policy gets that runs its operation when nobody waits for it.
var errReturned = own(errors.New("mettlehttp: RoundTrip has returned"))

// errCanceled is the cause of a call that ended through [http.Request.Cancel].
var errCanceled = fmt.Errorf("mettlehttp: Request.Cancel closed: %w", context.Canceled)

// attemptError is the error of an attempt with the marks that policies go by.
type attemptError struct {
	err       error
	cause     error // of the context, where err does not say that it ended; nil: none
	permanent bool
	onceOnly  string // as in StatusError
}

func (e *attemptError) Error() string {
	text := e.err.Error()
	if e.cause != nil {
		text = fmt.Sprintf("%s (%v)", text, e.cause)
	}
	return text + notResent(e.onceOnly)
}

// notResent ends the text of an error that a retry would have followed, had the request
// been another one. A bare status or broken connection does not tell why none did.
func notResent(why string) string {
	if why == "" {
		return ""
	}
	return "; not resent: " + why
}

func (e *attemptError) Unwrap() []error {
	if e.cause != nil {
		return []error{e.err, e.cause}
	}
	return []error{e.err}
}

func (e *attemptError) Permanent() bool { return e.permanent }

// ownError is the error of an attempt that failed on our side of the wire: the request
// could not be sent at all, or its body could not be read. The server is not to blame.
type ownError struct{ attemptError }

func (e *ownError) Outcome() mettle.Outcome { return mettle.Ignored }

func own(err error) error { return &ownError{attemptError{err: err, permanent: true}} }

// isCause is [errors.Is], but for a cause that cannot be compared, which no error Is. A
// cause is anybody's value, and with one whose interface holds a slice, == panics.
func isCause(err, cause error) bool {
	v := reflect.ValueOf(cause)
	if v.Kind() != reflect.Pointer && cause != context.DeadlineExceeded && !v.Comparable() {
		return false
	}
	return errors.Is(err, cause)
}

// timeoutError gives the outermost error the method that [url.Error] looks for
// there and nowhere else.
type timeoutError struct {
	error
	timeout bool
}

func (e timeoutError) Unwrap() error   { return e.error }
func (e timeoutError) Timeout() bool   { return e.timeout }
func (e timeoutError) Temporary() bool { return e.timeout }

// decorate makes err, the result of the call, tell whether it was a timeout: something in
// it was one, and it was not the caller who gave up, whatever an attempt before came to.
func decorate(call context.Context, err error) error {
	why := err
	if call.Err() == context.Canceled {
		why = context.Cause(call) // which may be a timer of the caller's own
	}
	late := timedOut(why)
	if t, ok := err.(interface{ Timeout() bool }); ok && t.Timeout() == late || !ok && !late {
		return err
	}
	return timeoutError{err, late}
}

// timedOut reports whether anything in the tree of err is a timeout. The first that has
// the method, which errors.As finds, need not be the one.
func timedOut(err error) bool {
	return mark.Walk(err, func(err error) bool {
		t, ok := err.(interface{ Timeout() bool })
		return ok && t.Timeout()
	})
}
