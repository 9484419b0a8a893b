package mettle

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// LogTrace returns a trace that tells l what is out of the ordinary about the calls whose
// context carries it: an attempt that failed, the wait that follows and a hedge at
// [slog.LevelDebug], a refusal and a fallback at [slog.LevelWarn], a breaker that opens at
// LevelWarn and another change of its state at [slog.LevelInfo]. Calls that succeed at once
// log nothing.
//
// One trace is for any number of calls, from many goroutines at once: make one for a
// logger and hand it to [WithTrace] again and again. Of each kind of event it logs at most
// perSecond a second, so that an outage does not become one of the log as well; zero means
// 10, and negative panics. The next event that is logged of its kind says how many were
// left_out. Changes of state are all logged.
//
// Each event has the attributes that it has fields for: policy, attempt, delay, elapsed,
// from, to, and err, which is logged by its fields if it is one of ours. The handler gets
// the context of the event ([TraceEvent.Context]), so that one which adds the trace and the
// span of a context, or what a request is called, adds those of the call. What is the same for
// all calls belongs into l, by its With.
//
// A call waits while the handler takes what it has to log, with no lock of ours held. A
// handler that hangs holds perSecond calls for each kind of event, and those that change the
// state of a breaker; to all others it is as if the second had not ended. LogTrace panics when
// l is nil.
func LogTrace(l *slog.Logger, perSecond int) *Trace {
	switch {
	case l == nil:
		panic("mettle: LogTrace: nil Logger")
	case perSecond < 0:
		panic("mettle: LogTrace: negative perSecond")
	case perSecond == 0:
		perSecond = 10
	}
	hook := func(level slog.Level, text string) func(TraceEvent) {
		r := &logRate{most: perSecond}
		return func(e TraceEvent) {
			if !l.Enabled(e.context(), level) {
				return
			}
			if leftOut, ok := r.take(time.Now()); ok {
				defer r.done() // also when the handler panics
				e.log(l, level, text, leftOut)
			}
		}
	}
	failed := hook(slog.LevelDebug, "attempt failed")
	return &Trace{
		AttemptDone: func(e TraceEvent) {
			if e.Err != nil {
				failed(e)
			}
		},
		Wait:     hook(slog.LevelDebug, "waiting"),
		Rejected: hook(slog.LevelWarn, "call refused"),
		Hedged:   hook(slog.LevelDebug, "hedge sent"),
		FellBack: hook(slog.LevelWarn, "falling back"),
		StateChanged: func(e TraceEvent) {
			level := slog.LevelInfo
			if e.To == "open" {
				level = slog.LevelWarn
			}
			e.log(l, level, "breaker changed", 0)
		},
	}
}

// context is never nil, whoever has made e.
func (e TraceEvent) context() context.Context {
	if e.Context == nil {
		return context.Background()
	}
	return e.Context
}

func (e TraceEvent) log(l *slog.Logger, level slog.Level, text string, leftOut int) {
	attrs := make([]slog.Attr, 0, 8)
	attrs = append(attrs, slog.String("policy", e.Policy))
	if e.Attempt > 0 {
		attrs = append(attrs, slog.Int("attempt", e.Attempt))
	}
	if e.Delay > 0 {
		attrs = append(attrs, slog.Duration("delay", e.Delay))
	}
	if e.Elapsed > 0 {
		attrs = append(attrs, slog.Duration("elapsed", e.Elapsed))
	}
	if e.To != "" {
		attrs = append(attrs, slog.String("from", e.From), slog.String("to", e.To))
	}
	if e.Err != nil {
		attrs = append(attrs, slog.Any("err", e.Err))
	}
	if leftOut > 0 {
		attrs = append(attrs, slog.Int("left_out", leftOut))
	}
	l.LogAttrs(e.context(), level, text, attrs...)
}

// logRate lets so many events a second pass.
type logRate struct {
	most int

	mu      sync.Mutex // never held over the logger
	since   time.Time  // when the second began
	n       int        // events that have passed in it
	busy    int        // events that the handler has not done with
	leftOut int        // since the last that passed
}

// take reports whether an event may pass, and how many before it were left out.
func (r *logRate) take(now time.Time) (leftOut int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.since) >= time.Second {
		r.since, r.n = now, 0
	}
	if r.n >= r.most || r.busy >= r.most {
		r.leftOut++
		return 0, false
	}
	r.n++
	r.busy++
	leftOut, r.leftOut = r.leftOut, 0
	return leftOut, true
}

// done says that an event which passed has been logged.
func (r *logRate) done() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.busy--
}
