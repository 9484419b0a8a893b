package hedge

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/mettle-go/mettle"
)

type errLost struct{}

func (errLost) Error() string           { return "hedge: lost to another run" }
func (errLost) Is(target error) bool    { return target == context.Canceled }
func (errLost) Outcome() mettle.Outcome { return mettle.Ignored }
func (errLost) LogValue() slog.Value    { return slog.StringValue(errLost{}.Error()) }

// Error is returned when op ran more than once and was answered in no run. It Is each of
// Errs. A call whose only run failed gets the error of that one unchanged. An Error is
// made for one call and belongs to the caller.
type Error struct {
	// Errs are the errors of the runs, in the order in which these ended. A refusal by
	// an inner policy is among them, although op did not run.
	Errs []error

	outcome mettle.Outcome // never Success: that is an answer
}

// Error returns the texts of all, such as "hedge: 2 runs failed: timeout; refused".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("hedge: " + strconv.Itoa(len(e.Errs)) + " runs failed")
	sep := ": "
	for _, err := range e.Errs {
		b.WriteString(sep)
		fmt.Fprint(&b, err)
		sep = "; "
	}
	return b.String()
}

// Unwrap returns Errs.
func (e *Error) Unwrap() []error { return e.Errs }

// Outcome returns the class of the last of Errs that counts against the dependency, and
// [mettle.Ignored] where none does: a refusal of one run does not hide the failure of
// another. That of an Error which does not come from a [Hedge] is [mettle.Failure].
func (e *Error) Outcome() mettle.Outcome {
	if e.outcome == mettle.Success {
		return mettle.Failure
	}
	return e.outcome
}

// LogValue returns the errors as a group, numbered from 1.
func (e *Error) LogValue() slog.Value {
	attrs := make([]slog.Attr, len(e.Errs))
	for i, err := range e.Errs {
		attrs[i] = slog.Any(strconv.Itoa(i+1), err)
	}
	return slog.GroupValue(attrs...)
}
