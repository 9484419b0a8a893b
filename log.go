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
// from, to, and err, which is logged by its fields if it is one of ours. Those of a caller
// belong into l, by its With. The context that l's handler gets is empty. LogTrace panics
// when l is nil.
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
			if !l.Enabled(context.Background(), level) {
				return
			}
			if leftOut, ok := r.take(time.Now()); ok {
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
	l.LogAttrs(context.Background(), level, text, attrs...)
}

// logRate lets so many events a second pass.
type logRate struct {
	most int

	mu      sync.Mutex // never held over the logger
	since   time.Time  // when the second began
	n       int        // events that have passed in it
	leftOut int        // since the last that passed
}

// take reports whether an event may pass, and how many before it were left out.
func (r *logRate) take(now time.Time) (leftOut int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.since) >= time.Second {
		r.since, r.n = now, 0
	}
	if r.n >= r.most {
		r.leftOut++
		return 0, false
	}
	r.n++
	leftOut, r.leftOut = r.leftOut, 0
	return leftOut, true
}
