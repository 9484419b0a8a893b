// Package fallback does something else when an operation fails: answers from a
// cache, puts the work in a queue, tells the user to come back.
//
// A [Fallback] is a policy, and belongs outermost in a pipeline, where it sees the
// errors that remain after all the others. [Get] is for operations that return a value.
package fallback

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync/atomic"

	"github.com/mettle-go/mettle"
)

// Config says what a [Fallback] does. It is the one Config of a policy whose zero
// value is not valid: nobody but the user knows what to do instead.
type Config struct {
	// Name names the policy in errors, metrics and traces. It may be empty.
	Name string

	// Run stands in for an operation that failed with err, which is never nil. Its
	// own nil makes the call a success. A nil Run is refused.
	//
	// ctx is the caller's and handed on as it is, so it may be done: Run is called
	// also when the caller ran out of time. A Run that must not fail for that, such
	// as one that saves work for later, makes a context of its own:
	//
	//	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	//
	// Run is called from many goroutines at once.
	Run func(ctx context.Context, err error) error

	// If reports whether Run stands in for an operation that failed with err. Where
	// it does not, the operation's error comes back as it is. Nil: Run stands in
	// for every error, the caller's own cancellation and refusals included. If is
	// called from many goroutines at once.
	If func(err error) bool
}

// Validate reports every mistake in c, or nil.
func (c Config) Validate() error {
	if c.Run == nil {
		return errors.New("fallback: Run is nil, must be what to do when the operation fails")
	}
	return nil
}

// Fallback is a policy that runs something else when an operation fails. Make one
// with [New]; the zero Fallback is not usable. It is immutable and may be used from
// many goroutines at once.
type Fallback struct {
	config Config
	labels []mettle.Label

	fell, failed atomic.Uint64 // written by calls that failed only
}

// New returns a Fallback. It panics with the message of [Config.Validate] when c is
// not valid.
func New(c Config) *Fallback {
	if err := c.Validate(); err != nil {
		panic(err.Error())
	}
	return &Fallback{config: c, labels: []mettle.Label{{Key: "policy", Value: c.Name}}}
}

// Do runs op and, when it fails with an error that Config.If admits, Config.Run in
// its place, after [mettle.Trace].FellBack. A success of either comes back as nil.
// When both fail, the error is an [*Error] with both, unless Run returns the
// operation's error itself to say that it could do nothing: then it is that one.
//
// Run is called also when ctx ended while op ran, since a call that ran out of time is
// one reason to have a fallback. When ctx is done on entry, neither op nor Run is
// called. A panic in op passes through, as [runtime.Goexit] does, and Run is not
// called.
func (f *Fallback) Do(ctx context.Context, op func(context.Context) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return f.run(ctx, nil, op)
}

// Wrap returns the policy bound to next; see [mettle.Wrapper].
func (f *Fallback) Wrap(next mettle.Policy) mettle.Policy { return &bound{f, next} }

type bound struct {
	f    *Fallback
	next mettle.Policy
}

func (b *bound) Do(ctx context.Context, op func(context.Context) error) error {
	return b.f.run(ctx, b.next, op)
}

func (f *Fallback) run(ctx context.Context, next mettle.Policy, op func(context.Context) error) error {
	var err error
	if next == nil {
		err = op(ctx)
	} else {
		err = next.Do(ctx, op)
	}
	if err == nil || f.config.If != nil && !f.config.If(err) {
		return err
	}
	return f.standIn(ctx, err)
}

// standIn runs the fallback for an operation that failed with err.
func (f *Fallback) standIn(ctx context.Context, err error) error {
	f.fell.Add(1)
	helped := false
	defer func() { // deferred, because a Run that panics has failed too
		if !helped {
			f.failed.Add(1)
		}
	}()
	outcome := mettle.Classify(ctx, err) // now: the caller may leave while Run runs
	fellBack(ctx, f.config.Name, err)
	second := f.config.Run(ctx, err)
	helped = second == nil
	return join(outcome, f.config.Name, err, second)
}

// Get runs fn under p, as [mettle.Get] does, and alt in its place when that fails:
// alt is told the error that came out of p. Get returns the value of the one that
// succeeded. When both fail, it returns the zero T and an error as that of
// [Fallback.Do].
//
// What is said of a Fallback's ctx, of panics and of [mettle.Trace].FellBack holds
// here too. Get counts nothing and has no metrics. It panics when alt is nil.
func Get[T any](ctx context.Context, p mettle.Policy, fn func(context.Context) (T, error),
	alt func(context.Context, error) (T, error)) (T, error) {
	if alt == nil {
		panic("fallback: Get: nil alt")
	}
	var zero T
	if ctx.Err() != nil {
		return zero, context.Cause(ctx)
	}
	v, err := mettle.Get(ctx, p, fn)
	if err == nil {
		return v, nil
	}
	outcome := mettle.Classify(ctx, err)
	fellBack(ctx, "", err)
	v, second := alt(ctx, err)
	if second != nil {
		return zero, join(outcome, "", err, second)
	}
	return v, nil
}

func fellBack(ctx context.Context, name string, err error) {
	if t := mettle.ContextTrace(ctx); t != nil && t.FellBack != nil {
		t.FellBack(mettle.TraceEvent{Context: ctx, Policy: name, Err: err})
	}
}

// join returns the error of a call whose operation failed with err, which was an
// outcome, and whose fallback ended with second.
func join(outcome mettle.Outcome, name string, err, second error) error {
	if second == nil {
		return nil
	}
	// Comparable looks into the values, where == panics.
	if reflect.ValueOf(err).Comparable() && reflect.ValueOf(second).Comparable() && err == second {
		return err
	}
	return &Error{Name: name, Err: err, Fallback: second, outcome: outcome, classified: true}
}

// Error is the error of a call that failed and whose fallback failed as well: the
// work was neither done nor saved. [errors.Is] and [errors.As] find both errors,
// the operation's first.
//
// An Error Is [mettle.ErrRejected] where a Run was refused, although the operation may
// have run: Err tells. See [mettle.ErrRejected] for a test that is safe.
type Error struct {
	Name     string // the policy's; empty for one without, and for Get
	Err      error  // what the fallback was to stand in for
	Fallback error  // what the fallback returned

	outcome    mettle.Outcome // of Err under the caller's context, before the fallback ran
	classified bool           // false in a literal of the user's
}

// Error returns a text with both errors.
func (e *Error) Error() string {
	s := "fallback: "
	if e.Name != "" {
		s += e.Name + ": "
	}
	return s + fmt.Sprintf("%v; the fallback failed: %v", e.Err, e.Fallback)
}

// Unwrap returns both errors, the operation's first.
func (e *Error) Unwrap() []error { return []error{e.Err, e.Fallback} }

// LogValue returns the name, where there is one, and both errors as a group.
func (e *Error) LogValue() slog.Value {
	attrs := make([]slog.Attr, 0, 3)
	if e.Name != "" {
		attrs = append(attrs, slog.String("policy", e.Name))
	}
	return slog.GroupValue(append(attrs, slog.Any("err", e.Err), slog.Any("fallback", e.Fallback))...)
}

// Outcome returns that of the operation's error, by [mettle.Classify]: how the
// fallback failed says nothing about the dependency. Without an Err, as in the zero
// Error, it is [mettle.Failure]: an error is never a success by what it lacks.
func (e *Error) Outcome() mettle.Outcome {
	switch {
	case e.classified:
		return e.outcome
	case e.Err == nil:
		return mettle.Failure
	default:
		return mettle.Classify(context.Background(), e.Err)
	}
}

// Stats is a snapshot of what a [Fallback] has counted since it was made.
type Stats struct {
	// FellBack is the number of calls whose fallback was run.
	FellBack uint64
	// Failed is the number of those whose fallback returned an error or panicked.
	Failed uint64
}

// Stats returns the counts. Calls in flight may show in FellBack and not yet in
// Failed.
func (f *Fallback) Stats() Stats {
	failed := f.failed.Load() // first, so that it never exceeds FellBack
	return Stats{FellBack: f.fell.Load(), Failed: failed}
}

// Observe yields the counts of [Stats] as these metrics, with the label policy, which
// is the Name:
//
//	mettle.fallback.fell_back  counter  {call}  whose fallback was run
//	mettle.fallback.failed     counter  {call}  of these, whose fallback failed or panicked
func (f *Fallback) Observe(yield func(mettle.Metric) bool) {
	s := f.Stats()
	for _, m := range [...]mettle.Metric{
		f.counter("mettle.fallback.fell_back", "Calls whose fallback was run.", s.FellBack),
		f.counter("mettle.fallback.failed", "Calls whose fallback failed as well.", s.Failed),
	} {
		if !yield(m) {
			return
		}
	}
}

func (f *Fallback) counter(name, help string, n uint64) mettle.Metric {
	return mettle.Metric{Kind: mettle.Counter, Name: name, Unit: "{call}", Help: help, Labels: f.labels, Value: float64(n)}
}

// LogValue returns the configuration, as far as it is not code.
func (f *Fallback) LogValue() slog.Value {
	return slog.GroupValue(slog.String("Name", f.config.Name))
}
