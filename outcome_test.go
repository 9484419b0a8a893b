package mettle_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/mettle-go/mettle"
)

// outcomeError speaks for itself.
type outcomeError mettle.Outcome

func (e outcomeError) Error() string           { return "outcome " + mettle.Outcome(e).String() }
func (e outcomeError) Outcome() mettle.Outcome { return mettle.Outcome(e) }

// timeoutError has the method that errors of package net have.
type timeoutError bool

func (e timeoutError) Error() string { return fmt.Sprintf("timeout: %t", bool(e)) }
func (e timeoutError) Timeout() bool { return bool(e) }

var (
	errCause = errors.New("the caller's reason")
	errFull  = fmt.Errorf("bulkhead full: %w", mettle.ErrRejected)
)

// contexts of a caller, by the state that it is in.
func contexts() map[string]context.Context {
	cancelled, cancel := context.WithCancel(bg)
	cancel()
	caused, cancelCause := context.WithCancelCause(bg)
	cancelCause(errCause)
	late, stop := context.WithDeadline(bg, time.Now().Add(-time.Second))
	stop()
	lateCaused, stop := context.WithDeadlineCause(bg, time.Now().Add(-time.Second), errCause)
	stop()
	return map[string]context.Context{
		"live": bg, "cancelled": cancelled, "cancelled with cause": caused,
		"late": late, "late with cause": lateCaused,
	}
}

// listError is an error that cannot be compared, though its type looks as if it could.
type listError struct{ details any }

func (listError) Error() string { return "a list" }

// A caller's cause that cannot be compared once made Classify panic, in the middle of a
// policy, when the operation returned it.
//
// Spec: P14
func TestClassifyBesideACauseThatCannotBeCompared(t *testing.T) {
	cause := listError{details: []string{"a", "b"}}
	cancelled, cancel := context.WithCancelCause(bg)
	cancel(cause)
	late, stop := context.WithDeadlineCause(bg, time.Now().Add(-time.Second), cause)
	defer stop()
	for name, test := range map[string]struct {
		ctx  context.Context
		err  error
		want mettle.Outcome
	}{
		"the cause":                      {cancelled, context.Cause(cancelled), mettle.Failure}, // nobody can tell
		"the cause, wrapped":             {cancelled, fmt.Errorf("x: %w", cause), mettle.Failure},
		"what the context says":          {cancelled, cancelled.Err(), mettle.Ignored},
		"the cause of a deadline":        {late, context.Cause(late), mettle.Failure},
		"what the late context says":     {late, late.Err(), mettle.Timeout},
		"a cause, under a live context":  {bg, cause, mettle.Failure},
		"one of the type that can be":    {cancelled, listError{details: "a"}, mettle.Failure},
		"both, as an adapter joins them": {cancelled, errors.Join(cause, cancelled.Err()), mettle.Ignored},
	} {
		if got := mettle.Classify(test.ctx, test.err); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// The table of Classify, as far as it knows no transport.
//
// Spec: P8, P14, B19
func TestClassify(t *testing.T) {
	const (
		s = mettle.Success
		f = mettle.Failure
		v = mettle.Overload
		o = mettle.Timeout
		i = mettle.Ignored
	)
	order := []string{"live", "cancelled", "cancelled with cause", "late", "late with cause"}
	for _, test := range []struct {
		name string
		err  error
		want [5]mettle.Outcome // by context, in that order
	}{
		{"nil", nil, [5]mettle.Outcome{s, s, s, s, s}},
		{"any error", errBoom, [5]mettle.Outcome{f, f, f, f, f}},
		{"permanent", mettle.Permanent(errBoom), [5]mettle.Outcome{f, f, f, f, f}},

		// A refusal, deep down or beside others.
		{"refusal", errFull, [5]mettle.Outcome{i, i, i, i, i}},
		{"refusal wrapped", fmt.Errorf("x: %w", errFull), [5]mettle.Outcome{i, i, i, i, i}},
		{"refusal joined", errors.Join(errBoom, errFull), [5]mettle.Outcome{i, i, i, i, i}},
		{"refusal and timeout", errors.Join(timeoutError(true), errFull), [5]mettle.Outcome{i, i, i, i, i}},

		// A cancellation is the caller's only if the caller did cancel.
		{"Canceled", context.Canceled, [5]mettle.Outcome{f, i, i, f, f}},
		{"Canceled wrapped", fmt.Errorf("x: %w", context.Canceled), [5]mettle.Outcome{f, i, i, f, f}},
		{"Canceled joined", errors.Join(errBoom, context.Canceled), [5]mettle.Outcome{f, i, i, f, f}},
		{"cause", errCause, [5]mettle.Outcome{f, f, i, f, o}},
		{"cause wrapped", fmt.Errorf("x: %w", errCause), [5]mettle.Outcome{f, f, i, f, o}},

		// A timeout is one, whoever's it is.
		{"DeadlineExceeded", context.DeadlineExceeded, [5]mettle.Outcome{o, o, o, o, o}},
		{"DeadlineExceeded wrapped", fmt.Errorf("x: %w", context.DeadlineExceeded), [5]mettle.Outcome{o, o, o, o, o}},
		{"os deadline", os.ErrDeadlineExceeded, [5]mettle.Outcome{o, o, o, o, o}},
		{"Timeout method", timeoutError(true), [5]mettle.Outcome{o, o, o, o, o}},
		{"Timeout method, false", timeoutError(false), [5]mettle.Outcome{f, f, f, f, f}},
		{"Timeout method, false then true", errors.Join(timeoutError(false), timeoutError(true)), [5]mettle.Outcome{o, o, o, o, o}},
		{"Canceled and timeout", errors.Join(context.Canceled, timeoutError(true)), [5]mettle.Outcome{o, i, i, o, o}},

		// A method Outcome speaks first, before all else.
		{"says success", outcomeError(s), [5]mettle.Outcome{s, s, s, s, s}},
		{"says overload", outcomeError(v), [5]mettle.Outcome{v, v, v, v, v}},
		{"says so, wrapped", fmt.Errorf("x: %w", outcomeError(v)), [5]mettle.Outcome{v, v, v, v, v}},
		{"says so beneath Permanent", mettle.Permanent(outcomeError(s)), [5]mettle.Outcome{s, s, s, s, s}},
		{"says so, joined", errors.Join(errBoom, outcomeError(v)), [5]mettle.Outcome{v, v, v, v, v}},
		{"says so, of two the first", errors.Join(outcomeError(o), outcomeError(v)), [5]mettle.Outcome{o, o, o, o, o}},
		{"says so beside a refusal", errors.Join(errFull, outcomeError(f)), [5]mettle.Outcome{f, f, f, f, f}},
		{"says so beside a cancellation", errors.Join(context.Canceled, outcomeError(f)), [5]mettle.Outcome{f, f, f, f, f}},
		{"says so beside a timeout", errors.Join(timeoutError(true), outcomeError(s)), [5]mettle.Outcome{s, s, s, s, s}},
	} {
		contexts := contexts()
		for n, name := range order {
			if got := mettle.Classify(contexts[name], test.err); got != test.want[n] {
				t.Errorf("%s under a context that is %s: %v, want %v", test.name, name, got, test.want[n])
			}
		}
	}
}

// Whoever cancels an attempt because nobody wants its answer any more says so by the
// cause, and then it does not matter in which words the attempt reports that.
//
// Spec: P8, P14, H2 (part)
func TestClassifyUnwanted(t *testing.T) {
	for name, test := range map[string]struct {
		cause, err error
		want       mettle.Outcome
	}{
		"success all the same":     {outcomeError(mettle.Ignored), nil, mettle.Success},
		"any error":                {outcomeError(mettle.Ignored), errBoom, mettle.Ignored},
		"a timeout":                {outcomeError(mettle.Ignored), timeoutError(true), mettle.Ignored},
		"an error with a class":    {outcomeError(mettle.Ignored), outcomeError(mettle.Overload), mettle.Overload},
		"a wrapped cause":          {fmt.Errorf("x: %w", outcomeError(mettle.Ignored)), errBoom, mettle.Ignored},
		"a cause of another class": {outcomeError(mettle.Timeout), errBoom, mettle.Failure},
	} {
		ctx, cancel := context.WithCancelCause(bg)
		cancel(test.cause)
		if got := mettle.Classify(ctx, test.err); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
		if got := mettle.Classify(bg, test.err); test.err == errBoom && got != mettle.Failure {
			t.Errorf("%s, under a live context: %v, want failure", name, got)
		}
	}
}

// The caller's context decides, not that of the attempt: one that an attempt ended
// by itself shows as what it is.
//
// Spec: P14, B20
func TestClassifyAttempt(t *testing.T) {
	attempt, stop := context.WithDeadline(bg, time.Now().Add(-time.Second))
	defer stop()
	if got := mettle.Classify(bg, attempt.Err()); got != mettle.Timeout {
		t.Errorf("the attempt's own deadline: %v, want timeout", got)
	}
	loser, cancel := context.WithCancel(bg)
	cancel()
	if got := mettle.Classify(bg, loser.Err()); got != mettle.Failure {
		t.Errorf("a cancellation that the caller knows nothing of: %v, want failure", got)
	}
}

// Success is on every healthy call's way.
//
// Spec: P13
func TestClassifyAllocations(t *testing.T) {
	for name, err := range map[string]error{
		"nil": nil, "error": errBoom, "refusal": errFull, "timeout": context.DeadlineExceeded,
		"joined": errors.Join(errBoom, outcomeError(mettle.Overload)),
	} {
		for state, ctx := range contexts() {
			if n := testing.AllocsPerRun(100, func() { mettle.Classify(ctx, err) }); n != 0 {
				t.Errorf("%s, %s: %v allocations", name, state, n)
			}
		}
	}
}

func TestOutcome(t *testing.T) {
	for _, test := range []struct {
		o      mettle.Outcome
		text   string
		failed bool
	}{
		{mettle.Success, "success", false},
		{mettle.Failure, "failure", true},
		{mettle.Overload, "overload", true},
		{mettle.Timeout, "timeout", true},
		{mettle.Ignored, "ignored", false},
		{mettle.Outcome(9), "outcome(9)", false},
	} {
		if test.o.String() != test.text || test.o.Failed() != test.failed {
			t.Errorf("%d: %v, failed %t; want %v, %t", uint8(test.o), test.o, test.o.Failed(), test.text, test.failed)
		}
	}
	var zero mettle.Outcome
	if zero != mettle.Success {
		t.Errorf("the zero Outcome is %v", zero)
	}
}

func TestKind(t *testing.T) {
	for kind, want := range map[mettle.Kind]string{mettle.Counter: "counter", mettle.Gauge: "gauge", 9: "kind(9)"} {
		if got := kind.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
