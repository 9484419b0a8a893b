package mettle

import (
	"context"
	"errors"
	"reflect"
	"strconv"
)

// Outcome says what the end of a call tells about the dependency that was called.
type Outcome uint8

const (
	// Success: the dependency did its work, or answered that the request itself
	// was wrong, which only a working dependency can do.
	Success Outcome = iota
	// Failure: the dependency failed, and the failure may be transient.
	Failure
	// Overload: the dependency failed and said that it has too much to do.
	Overload
	// Timeout: the dependency did not answer within the time it was given.
	Timeout
	// Ignored: the end says nothing about the dependency, because the caller gave
	// up or a policy of ours refused. It counts neither for nor against the
	// dependency, and gives every slot back.
	Ignored
)

// String returns the outcome's name in lower case.
func (o Outcome) String() string {
	switch o {
	case Success:
		return "success"
	case Failure:
		return "failure"
	case Overload:
		return "overload"
	case Timeout:
		return "timeout"
	case Ignored:
		return "ignored"
	default:
		return "outcome(" + strconv.Itoa(int(o)) + ")"
	}
}

// Failed reports whether the outcome counts against the dependency: Failure,
// Overload or Timeout.
func (o Outcome) Failed() bool { return o == Failure || o == Overload || o == Timeout }

// Classifier tells the outcome of a call that ended with err, which may be nil.
// The context is the caller's, not the attempt's: a done context means that the
// caller gave up or ran out of time. A Classifier is called from many goroutines
// at once and must not keep ctx.
type Classifier func(ctx context.Context, err error) Outcome

// Classify is the Classifier that every policy uses unless told otherwise. The
// first of these that applies decides:
//
//  1. nil is Success.
//  2. An error in err's tree with a method Outcome() Outcome speaks for itself.
//  3. What Is [ErrRejected], a refusal of ours, is Ignored.
//  4. The caller's own cancellation (ctx is cancelled and err Is
//     [context.Canceled] or the cause of ctx) is Ignored. A Canceled that comes
//     from the dependency while the caller still waits is a Failure. Where the cause
//     itself has a method Outcome that returns Ignored, as that of a hedge for those
//     that lost has, whatever err is: nobody asked for an answer any more.
//  5. An error in the tree with a method Timeout() bool that returns true, such as
//     [context.DeadlineExceeded], is a Timeout. So is the caller's own deadline;
//     a breaker counts that one only when the call had a fair time to answer.
//  6. Everything else is a Failure.
func Classify(ctx context.Context, err error) Outcome {
	if err == nil {
		return Success
	}
	if own, ok := ownOutcome(err); ok {
		return own
	}
	if errors.Is(err, ErrRejected) {
		return Ignored
	}
	switch ctx.Err() {
	case context.Canceled:
		cause := context.Cause(ctx)
		if errors.Is(err, context.Canceled) || isCause(err, cause) {
			return Ignored
		}
		if o, ok := ownOutcome(cause); ok && o == Ignored {
			return Ignored
		}
	case context.DeadlineExceeded:
		if isCause(err, context.Cause(ctx)) {
			return Timeout
		}
	}
	if walk(err, func(e error) bool {
		t, ok := e.(interface{ Timeout() bool })
		return ok && t.Timeout()
	}) {
		return Timeout
	}
	return Failure
}

// ownOutcome returns the answer of the first error in err's tree that speaks for itself.
func ownOutcome(err error) (own Outcome, found bool) {
	found = walk(err, func(e error) bool {
		o, ok := e.(interface{ Outcome() Outcome })
		if ok {
			own = o.Outcome()
		}
		return ok
	})
	return own, found
}

// isCause is [errors.Is], but for a cause that cannot be compared, which no error Is. A
// cause is anybody's value, and where == panics on it, so would errors.Is: that its type
// can be compared does not tell what a field of an interface type holds. Nobody who
// returns an error has asked for it to be compared with that.
func isCause(err, cause error) bool {
	// The look inside allocates. The usual causes do without.
	v := reflect.ValueOf(cause)
	if v.Kind() != reflect.Pointer && cause != context.DeadlineExceeded && !v.Comparable() {
		return false
	}
	return errors.Is(err, cause)
}
