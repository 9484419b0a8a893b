package timeout

import (
	"context"
	"log/slog"
	"time"

	"github.com/mettle-go/mettle"
)

// ErrExceeded is what every failure Is that came after a deadline of this package
// had passed. It Is [context.DeadlineExceeded] and its Timeout method returns true.
// The same holds for the cause, as [context.Cause] tells it, of a context whose
// deadline has passed.
//
// The caller's own deadline is never an ErrExceeded: that is how the two are told
// apart.
var ErrExceeded error = exceeded{}

type exceeded struct{}

func (exceeded) Error() string        { return "timeout: deadline exceeded" }
func (exceeded) Is(target error) bool { return target == context.DeadlineExceeded }
func (exceeded) Timeout() bool        { return true }
func (exceeded) Temporary() bool      { return true }
func (exceeded) LogValue() slog.Value { return slog.StringValue(exceeded{}.Error()) }

// Error is the failure of an operation whose deadline has passed. It Is
// [ErrExceeded] and [context.DeadlineExceeded], and wraps the operation's own error,
// which may be about something else.
//
// Where that error only says that the deadline has passed, all calls of one [Timeout]
// share one value, which is also the cause of their contexts: read it, do not change it.
type Error struct {
	Name  string        // the policy's, which may be empty
	After time.Duration // how long the operation had
	Err   error         // what the operation returned; never nil
}

// Error returns a text with the name, the time allowed and the operation's error.
func (e *Error) Error() string {
	s := "timeout: "
	if e.Name != "" {
		s += e.Name + ": "
	}
	return s + "exceeded " + e.After.String() + ": " + e.Err.Error()
}

// LogValue returns the name, where there is one, the time allowed and the operation's
// error as a group.
func (e *Error) LogValue() slog.Value {
	attrs := make([]slog.Attr, 0, 3)
	if e.Name != "" {
		attrs = append(attrs, slog.String("policy", e.Name))
	}
	return slog.GroupValue(append(attrs, slog.Duration("after", e.After), slog.Any("err", e.Err))...)
}

// Is reports that e is an [ErrExceeded] and a [context.DeadlineExceeded], whatever
// the operation returned.
func (e *Error) Is(target error) bool {
	return target == ErrExceeded || target == context.DeadlineExceeded
}

// Unwrap returns the operation's error.
func (e *Error) Unwrap() error { return e.Err }

// Timeout returns true.
func (e *Error) Timeout() bool { return true }

// Outcome returns [mettle.Timeout], whatever the operation's own error would say. As
// the cause of a context it tells a time that a policy has set from a deadline that
// the caller brought along.
func (e *Error) Outcome() mettle.Outcome { return mettle.Timeout }

// Temporary returns true, as that of [context.DeadlineExceeded] does. It makes an
// Error a [net.Error], so that code which looks for one does not find that of the
// operation instead, which may be about something else.
func (e *Error) Temporary() bool { return true }
