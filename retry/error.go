package retry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/internal/mark"
)

// The reasons of a [Retrier] to stop, one of which an [*Error] Is. None Is
// [mettle.ErrRejected]: the operation did run, and its failure counts.
var (
	// ErrExhausted: MaxAttempts attempts have failed.
	ErrExhausted = errors.New("retry: attempts exhausted")
	// ErrDeadline: the wait would end at or past the deadline of the context, or leave less
	// time before it than an attempt usually takes.
	ErrDeadline = errors.New("retry: no time before the deadline")
	// ErrElapsed: the wait would end at or past MaxElapsed.
	ErrElapsed = errors.New("retry: no time before MaxElapsed")
	// ErrBudget: the budget did not allow a resend.
	ErrBudget = errors.New("retry: budget spent")
	// ErrRetryAfter: the failure asks for a longer wait than MaxRetryAfter.
	// [mettle.RetryAfter] of the error tells how long.
	ErrRetryAfter = errors.New("retry: suggested wait above MaxRetryAfter")
)

// Error is returned when a call failed in a way that could have been retried, and
// was not or no more. It Is both Last and Reason. It is made for one call and
// belongs to the caller.
//
// An Error Is [mettle.ErrRejected] where Reason is a refusal, although the operation ran
// and failed before that: Last tells. See [mettle.ErrRejected] for a test that is safe.
type Error struct {
	// Attempts is how many attempts were made, at least 1. An attempt that an inner
	// policy refused is one of them, although the operation did not run in it.
	Attempts int
	// Elapsed is the time from the start of the call, waits included. It is exact;
	// the text of the error rounds it.
	Elapsed time.Duration
	// Last is the last failure of the operation. An error of its own that is none, a
	// refusal by an inner policy, and an attempt cut short by the caller are Last only
	// where nothing else failed.
	Last error
	// Reason is why there was no further attempt: one of ErrExhausted, ErrDeadline,
	// ErrElapsed, ErrBudget, ErrRetryAfter; the cause of the context's end; or a
	// refusal that followed on the failure. It wraps the error of the last attempt,
	// and of the last one in which the operation ran, where they are not Last.
	Reason error

	timeline *timeline // nil where there was one attempt only, and in a literal of the user's
}

// Error returns a text with all four fields, such as
// "retry: 3 attempts in 312ms: connection refused (attempts exhausted)". Elapsed is
// rounded to a millisecond, and below one to a microsecond.
func (e *Error) Error() string {
	plural := "s"
	if e.Attempts == 1 {
		plural = ""
	}
	unit := time.Millisecond
	if e.Elapsed < unit {
		unit = time.Microsecond
	}
	reason := strings.TrimPrefix(fmt.Sprint(e.Reason), "retry: ")
	return fmt.Sprintf("retry: %d attempt%s in %v: %v (%s)", e.Attempts, plural, e.Elapsed.Round(unit), e.Last, reason)
}

// Unwrap returns Last and Reason.
func (e *Error) Unwrap() []error { return []error{e.Last, e.Reason} }

// Outcome returns the class of Last, so that an enclosing policy sees the failure of
// the dependency and not the refusal or cancellation that kept it from being retried.
// Without a Last, as in the zero Error, it is [mettle.Failure]: an error is never a
// success by what it lacks.
func (e *Error) Outcome() mettle.Outcome {
	if e.Last == nil {
		return mettle.Failure
	}
	return mettle.Classify(context.Background(), e.Last)
}

// LogValue returns the four fields as a group, and after a resend what led there, as the
// group timeline. In that, the group of an attempt has its number for a name and tells
// when the attempt ended, counted from the start of the call (at), what it was for the
// dependency (outcome) and how long a wait was to follow (wait). Of a call with many
// attempts these are the first and last four, and left_out is the number of the others.
//
// Only Last and Reason have words of the user's errors.
func (e *Error) LogValue() slog.Value {
	attrs := []slog.Attr{
		slog.Int("attempts", e.Attempts),
		slog.Duration("elapsed", e.Elapsed),
		slog.Any("last", e.Last),
		slog.Any("reason", e.Reason),
	}
	if e.timeline != nil {
		attrs = append(attrs, slog.Attr{Key: "timeline", Value: e.timeline.value()})
	}
	return slog.GroupValue(attrs...)
}

// timeline is what came of the first attempts of a call and of the last ones, so that it
// stays small however many there are.
type timeline struct {
	n     int // attempts in all
	steps [earliest + latest]step
}

const earliest, latest = 4, 4

type step struct {
	at, wait time.Duration
	outcome  mettle.Outcome
}

// step returns the place of attempt n, counted from 1, which may be another's by now.
func (t *timeline) step(n int) *step {
	if n <= earliest {
		return &t.steps[n-1]
	}
	return &t.steps[earliest+(n-1-earliest)%latest]
}

// note adds attempt n, which follows on the one noted last or is that.
func (t *timeline) note(n int, s step) {
	if n > t.n {
		t.n = n
		*t.step(n) = s
	}
}

func (t *timeline) value() slog.Value {
	attrs := make([]slog.Attr, 0, len(t.steps)+1)
	leftOut := max(0, t.n-len(t.steps))
	for n := 1; n <= t.n; n++ {
		if n == earliest+1 && leftOut > 0 {
			attrs = append(attrs, slog.Int("left_out", leftOut))
			n += leftOut
		}
		s := t.step(n)
		attempt := []slog.Attr{slog.Duration("at", s.at), slog.String("outcome", s.outcome.String())}
		if n < t.n || s.wait > 0 {
			attempt = append(attempt, slog.Duration("wait", s.wait))
		}
		attrs = append(attrs, slog.Attr{Key: strconv.Itoa(n), Value: slog.GroupValue(attempt...)})
	}
	return slog.GroupValue(attrs...)
}

// is is errors.Is for a target of somebody else's, who has not asked for it to be
// compared: one that cannot be would make errors.Is panic, whatever its type looks like.
func is(err, target error) bool {
	return reflect.ValueOf(target).Comparable() && errors.Is(err, target)
}

// exact reports whether delay, the longest suggestion in err's tree, is that of an error
// which wants it kept to the letter: it has a method RetryExactly() bool that returns true.
func exact(err error, delay time.Duration) bool {
	return mark.Walk(err, func(err error) bool {
		e, ok := err.(interface {
			RetryAfter() time.Duration
			RetryExactly() bool
		})
		return ok && e.RetryExactly() && e.RetryAfter() == delay
	})
}
