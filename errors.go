package mettle

import (
	"errors"
	"log/slog"
	"time"
)

// ErrRejected is what every refusal of a policy Is: breaker open, bulkhead full,
// and whatever a policy of your own refuses for, such as a rate limit. The policy did
// not run what it encloses, and the refusal says nothing about the dependency, so an
// enclosing policy counts it as [Ignored].
//
// That err Is ErrRejected does not say that the operation never ran. A refusal may
// follow a failure, and the error is both: a retry.Error whose resend was refused, a
// fallback.Error whose Run was refused. The outcome of these is that of the failure. The
// test for a call that was refused and had not failed before is
//
//	errors.Is(err, mettle.ErrRejected) && mettle.Classify(ctx, err) == mettle.Ignored
//
// A call that was cancelled halfway is Ignored as well, and may meet a refusal after
// that. Before a payment is made elsewhere, say, have the operation note that it ran.
//
// Use [errors.Is] with the kind (breaker.ErrOpen, bulkhead.ErrFull) and [errors.As]
// with its type to learn which policy refused.
var ErrRejected = errors.New("mettle: rejected")

// Permanent marks err as not worth retrying: a retry returns it at once. It says
// no more than that, and changes no [Outcome]. The mark is found through %w and
// [errors.Join], the text stays that of err, and Permanent(nil) is nil.
//
// An error type of the user's has the same effect with a method Permanent() bool
// that returns true.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (e *permanentError) Error() string   { return e.err.Error() }
func (e *permanentError) Unwrap() error   { return e.err }
func (e *permanentError) Permanent() bool { return true }

// LogValue returns err's own, so that the mark does not hide it.
func (e *permanentError) LogValue() slog.Value { return slog.AnyValue(e.err) }

// RetryAfter returns how long to wait before another try, as the error suggests:
// the answer of any error in err's tree with a method RetryAfter() time.Duration.
// Of several suggestions the longest is returned, since a suggestion is a floor. A
// negative one is none; zero means that a try may follow at once.
func RetryAfter(err error) (time.Duration, bool) {
	longest, found := time.Duration(0), false
	walk(err, func(e error) bool {
		if s, ok := e.(interface{ RetryAfter() time.Duration }); ok {
			if d := s.RetryAfter(); d >= 0 {
				longest, found = max(longest, d), true
			}
		}
		return false // look at the whole tree
	})
	return longest, found
}

// walk visits the tree of err, depth first as package errors does, until visit
// returns true, and reports whether it did. It stands in for errors.As with an
// interface target, which allocates and stops at the first method it finds.
// The root imports nothing of ours, hence not mark.Walk, which is the same.
func walk(err error, visit func(error) bool) bool {
	for err != nil {
		if visit(err) {
			return true
		}
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			err = e.Unwrap()
		case interface{ Unwrap() []error }:
			for _, branch := range e.Unwrap() {
				if walk(branch, visit) {
					return true
				}
			}
			return false
		default:
			return false
		}
	}
	return false
}
