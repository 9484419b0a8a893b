package mettleotel

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
)

// The attributes of spans and their events for which OpenTelemetry has no convention. All
// others are those of its semantic conventions.
const (
	keyAttempt  = attribute.Key("mettle.attempt")      // the number of an attempt, from 1
	keyAttempts = attribute.Key("mettle.attempts")     // how many a call made
	keyOutcome  = attribute.Key("mettle.outcome")      // that of mettle.Classify
	keyPolicy   = attribute.Key("mettle.policy")       // the Name of the policy that an event is of
	keyDelay    = attribute.Key("mettle.delay")        // of a wait, in seconds
	keyFrom     = attribute.Key("mettle.breaker.from") // states of a breaker
	keyTo       = attribute.Key("mettle.breaker.to")

	keyErrorType = attribute.Key("error.type")
)

// CallSpan returns a policy that records each call as one internal span with the given
// name, however many attempts it makes. It belongs outermost in a pipeline:
//
//	mettle.Compose(mettleotel.CallSpan(tracer, "charge"), retry, breaker, mettleotel.AttemptSpan(tracer, "charge"))
//
// The span has the status Error when the call ended in a failure of the dependency or was
// refused, and not when an attempt of it did: what was retried with success, or stood in
// for by a fallback, shows as events and as the spans of attempts. A call that its caller
// gave up, and one that was answered with an error about the request itself, has an
// error.type and no status. No text of an error is recorded, since it may hold anything.
//
// A call whose span is not sampled costs what starting that span does, and no more. A nil
// tracer panics.
func CallSpan(tracer trace.Tracer, name string) mettle.Wrapper {
	return newSpans("CallSpan", tracer, name, (*spans).call)
}

// AttemptSpan returns a policy that records each attempt, and each run of a hedge, as one
// client span with the given name and its number as mettle.attempt. It belongs innermost
// in a pipeline. Over HTTP, [NewTransport] takes its place.
//
// The span has the status Error when the attempt ended in a failure of the dependency. A
// nil tracer panics.
func AttemptSpan(tracer trace.Tracer, name string) mettle.Wrapper {
	s := newSpans("AttemptSpan", tracer, name, (*spans).attempt)
	s.options = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindClient)}
	return s
}

// spans is a policy that opens a span around what it encloses.
type spans struct {
	tracer  trace.Tracer
	name    string
	options []trace.SpanStartOption // made once, since every call would pay for them
	open    func(s *spans, ctx context.Context) (context.Context, ending)
	next    mettle.Policy // nil until it is wrapped
}

// ending closes a span whose operation has ended with err.
type ending func(ctx context.Context, err error)

func newSpans(from string, tracer trace.Tracer, name string,
	open func(*spans, context.Context) (context.Context, ending)) *spans {
	if tracer == nil {
		panic("mettleotel: " + from + ": nil Tracer")
	}
	return &spans{tracer: tracer, name: name, open: open}
}

// errAborted stands for the error of an operation that never returned one.
var errAborted = errors.New("mettleotel: the operation panicked or called runtime.Goexit")

func (s *spans) Do(ctx context.Context, op func(context.Context) error) error {
	if s.next == nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	within, end := s.open(s, ctx)
	err := errAborted
	defer func() { end(ctx, err) }()
	if s.next == nil {
		err = op(within)
	} else {
		err = s.next.Do(within, op)
	}
	return err
}

func (s *spans) Wrap(next mettle.Policy) mettle.Policy {
	bound := *s
	bound.next = next
	return &bound
}

func notSampled(context.Context, error) {}

func (s *spans) attempt(ctx context.Context) (context.Context, ending) {
	n := mettle.Attempt(ctx)
	ctx, span := s.tracer.Start(ctx, s.name, s.options...)
	if !span.IsRecording() {
		return ctx, notSampled
	}
	span.SetAttributes(keyAttempt.Int(max(n, 1)))
	return ctx, func(ctx context.Context, err error) {
		defer span.End()
		if err != nil {
			o := mettle.Classify(ctx, err)
			span.SetAttributes(keyOutcome.String(o.String()), errorType(o, err))
			if o.Failed() {
				span.SetStatus(codes.Error, "")
			}
		}
	}
}

func (s *spans) call(ctx context.Context) (context.Context, ending) {
	ctx, span := s.tracer.Start(ctx, s.name, s.options...)
	if !span.IsRecording() {
		return ctx, notSampled
	}
	c := &callSpan{span: span}
	return mettle.WithTrace(ctx, c.hooks()), c.end
}

// callSpan is the span of one call. Its hooks run concurrently under a hedge.
type callSpan struct {
	span     trace.Span
	attempts atomic.Int64
}

func (c *callSpan) hooks() *mettle.Trace {
	return &mettle.Trace{
		AttemptStart: func(e mettle.TraceEvent) { c.counted(e.Attempt) },
		Wait:         func(e mettle.TraceEvent) { c.event("mettle.wait", e) },
		Rejected:     func(e mettle.TraceEvent) { c.event("mettle.rejected", e) },
		Hedged: func(e mettle.TraceEvent) {
			c.counted(e.Attempt)
			c.event("mettle.hedged", e)
		},
		FellBack:     func(e mettle.TraceEvent) { c.event("mettle.fell_back", e) },
		StateChanged: func(e mettle.TraceEvent) { c.event("mettle.breaker.changed", e) },
	}
}

func (c *callSpan) counted(attempt int) {
	for n := c.attempts.Load(); int64(attempt) > n; n = c.attempts.Load() {
		if c.attempts.CompareAndSwap(n, int64(attempt)) {
			return
		}
	}
}

func (c *callSpan) event(name string, e mettle.TraceEvent) {
	attrs := make([]attribute.KeyValue, 0, 6)
	attrs = append(attrs, keyPolicy.String(bounded(e.Policy)))
	if e.Attempt > 0 {
		attrs = append(attrs, keyAttempt.Int(e.Attempt))
	}
	if e.Delay > 0 {
		attrs = append(attrs, keyDelay.Float64(e.Delay.Seconds()))
	}
	if e.To != "" {
		attrs = append(attrs, keyFrom.String(e.From), keyTo.String(e.To))
	}
	if e.Err != nil {
		attrs = append(attrs, errorType(mettle.Classify(context.Background(), e.Err), e.Err))
	}
	c.span.AddEvent(name, trace.WithAttributes(attrs...))
}

func (c *callSpan) end(ctx context.Context, err error) {
	defer c.span.End()
	if n := c.attempts.Load(); n > 0 {
		c.span.SetAttributes(keyAttempts.Int64(n))
	}
	if err == nil {
		return
	}
	o := mettle.Classify(ctx, err)
	c.span.SetAttributes(keyOutcome.String(o.String()), errorType(o, err))
	if o.Failed() || errors.Is(err, mettle.ErrRejected) {
		c.span.SetStatus(codes.Error, "")
	}
}

// errorType describes an error in a few words that are the same for all of its kind: which
// policy refused, what an error in it says of itself, a timeout, a cancellation, or else the
// type of what is at the bottom of it.
func errorType(o mettle.Outcome, err error) attribute.KeyValue {
	var open *breaker.OpenError
	var full *bulkhead.FullError
	var told interface{ ErrorType() string } // as OpenTelemetry's own semconv.ErrorType
	switch {
	case o == mettle.Ignored && errors.As(err, &open):
		return keyErrorType.String("breaker_open")
	case o == mettle.Ignored && errors.As(err, &full):
		return keyErrorType.String("bulkhead_full")
	case o == mettle.Ignored && errors.Is(err, mettle.ErrRejected):
		return keyErrorType.String("rejected")
	case errors.As(err, &told) && told.ErrorType() != "":
		return keyErrorType.String(bounded(told.ErrorType()))
	case o == mettle.Timeout:
		return keyErrorType.String("timeout")
	case o == mettle.Ignored && errors.Is(err, context.Canceled):
		return keyErrorType.String("canceled")
	case o == mettle.Ignored && errors.Is(err, context.DeadlineExceeded):
		return keyErrorType.String("deadline_exceeded")
	case err == errAborted:
		return keyErrorType.String("panic")
	}
	for {
		inner := err
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			inner = e.Unwrap()
		case interface{ Unwrap() []error }:
			if all := e.Unwrap(); len(all) > 0 {
				inner = all[0]
			}
		}
		if inner == nil || inner == err {
			return keyErrorType.String(fmt.Sprintf("%T", err))
		}
		err = inner
	}
}
