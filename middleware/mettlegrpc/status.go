package mettlegrpc

import (
	"context"
	"errors"
	"math"
	"reflect"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/bulkhead"
)

// outcome is the class of an attempt that ended with code; ctx is the attempt's. It is
// the table of [mettle.Classify] for answers over gRPC.
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
		// Either end may tell the end of the context first, in its own words.
		switch ctx.Err() {
		case context.Canceled:
			return mettle.Ignored
		case context.DeadlineExceeded:
			return mettle.Timeout
		}
	}
	return mettle.Failure
}

// unwanted reports whether ctx was cancelled because nobody asks for an answer any more,
// as that of a hedge's loser is. What the attempt then ends with says nothing.
func unwanted(ctx context.Context) bool {
	if ctx.Err() != context.Canceled {
		return false
	}
	var cause interface{ Outcome() mettle.Outcome }
	return errors.As(context.Cause(ctx), &cause) && cause.Outcome() == mettle.Ignored
}

// attemptError tells the policies what an attempt's status means.
type attemptError struct {
	err       error
	outcome   mettle.Outcome
	permanent bool
	after     time.Duration // what the server asked to wait; negative: nothing
	exactly   bool          // after is a pushback
}

func (e *attemptError) Error() string              { return e.err.Error() }
func (e *attemptError) Unwrap() error              { return e.err }
func (e *attemptError) Outcome() mettle.Outcome    { return e.outcome }
func (e *attemptError) Permanent() bool            { return e.permanent }
func (e *attemptError) RetryAfter() time.Duration  { return e.after }
func (e *attemptError) RetryExactly() bool         { return e.exactly }
func (e *attemptError) GRPCStatus() *status.Status { return status.Convert(e.err) }

// mark returns the error of an attempt with what policies go by. The context is the
// attempt's, the trailer may be nil.
func (o *options) mark(ctx context.Context, err error, trailer metadata.MD) *attemptError {
	st := status.Convert(err)
	code := st.Code()
	e := &attemptError{err: err, outcome: outcome(ctx, code), after: -1, permanent: true}
	if e.outcome.Failed() && unwanted(ctx) {
		e.outcome = mettle.Ignored
	}
	if !e.outcome.Failed() {
		return e
	}
	if pushed := trailer.Get(pushbackKey); len(pushed) > 0 {
		e.after, e.exactly = pushback(pushed)
		e.permanent = !e.exactly
	} else {
		e.after = retryInfo(st)
		e.permanent = false
	}
	if !o.resend[code] && !(o.whenTold && code == codes.ResourceExhausted && e.after >= 0) {
		e.permanent = true
	}
	return e
}

const pushbackKey = "grpc-retry-pushback-ms"

// pushback reads the values of a grpc-retry-pushback-ms trailer: the delay, or false
// where they say that there is to be no further attempt (gRFC A6).
func pushback(values []string) (time.Duration, bool) {
	if len(values) != 1 {
		return -1, false
	}
	// 19 digits and a sign are as long as an int64 gets.
	if v := values[0]; len(v) <= 20 {
		ms, err := strconv.ParseInt(v, 10, 64)
		switch {
		case err != nil || ms < 0:
		case ms > math.MaxInt64/int64(time.Millisecond):
			return math.MaxInt64, true // above every cap
		default:
			return time.Duration(ms) * time.Millisecond, true
		}
	}
	return -1, false
}

// maxDetails is how many details of a status are looked at. A sane one has a few.
const maxDetails = 32

// retryInfo returns the longest wait that a RetryInfo among the details of st asks for,
// negative when none does.
func retryInfo(st *status.Status) time.Duration {
	longest := time.Duration(-1)
	details := st.Proto().GetDetails()
	for _, d := range details[:min(len(details), maxDetails)] {
		if !d.MessageIs((*errdetails.RetryInfo)(nil)) {
			continue
		}
		var info errdetails.RetryInfo
		if d.UnmarshalTo(&info) != nil || info.RetryDelay == nil {
			continue
		}
		// A value out of range is a huge one, or garbage in the nanoseconds: AsDuration
		// saturates, and what is negative is none.
		longest = max(longest, info.RetryDelay.AsDuration())
	}
	return longest
}

// told returns what the caller is told of err, the end of the policy: an error with a
// status, that of last, the last attempt to fail, where err is about it.
func told(ctx context.Context, err error, last *attemptError) error {
	if err == nil {
		return nil
	}
	if own, ok := err.(*attemptError); ok {
		return own.err // as gRPC returned it
	}
	if last != nil && errors.Is(err, last) {
		var first *attemptError
		if errors.As(err, &first) && first == last {
			return err
		}
		// Of attempts side by side, status.Code would find another one's.
		p := last.GRPCStatus().Proto()
		p.Message = err.Error()
		return &statusError{err, status.FromProto(p)}
	}
	var has interface{ GRPCStatus() *status.Status }
	code := codes.Unknown
	switch {
	case errors.As(err, &has):
		return err
	case errors.Is(err, bulkhead.ErrFull):
		code = codes.ResourceExhausted
	case errors.Is(err, mettle.ErrRejected):
		code = codes.Unavailable
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case ctx.Err() != nil && isCause(err, context.Cause(ctx)): // a cause of the user's
		code = status.FromContextError(ctx.Err()).Code()
	default:
		return err
	}
	return &statusError{err, status.New(code, err.Error())}
}

// isCause is [errors.Is], but for a cause that cannot be compared, which no error Is: with
// one whose interface holds a slice, == panics.
func isCause(err, cause error) bool {
	return reflect.ValueOf(cause).Comparable() && errors.Is(err, cause)
}

// statusError gives a status to an error of a policy.
type statusError struct {
	err    error
	status *status.Status
}

func (e *statusError) Error() string              { return e.err.Error() }
func (e *statusError) Unwrap() error              { return e.err }
func (e *statusError) GRPCStatus() *status.Status { return e.status }

// onceError is what an attempt ends with that would have done a second time what may be
// done once only. It says nothing about the server, and no retry helps.
type onceError struct{ last error } // of the attempt before; nil: it is still under way

func (e *onceError) Error() string {
	if e.last == nil {
		return "mettlegrpc: this call may not be sent twice"
	}
	return "mettlegrpc: this call may not be sent twice: " + e.last.Error()
}

func (e *onceError) Unwrap() error           { return e.last }
func (e *onceError) Is(target error) bool    { return target == mettle.ErrRejected }
func (e *onceError) Outcome() mettle.Outcome { return mettle.Ignored }
func (e *onceError) Permanent() bool         { return true }

// errReturned is what a policy gets that runs its operation when nobody waits for it.
var errReturned = mettle.Permanent(errors.New("mettlegrpc: the call has returned"))
