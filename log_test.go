package mettle_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/fallback"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// jsonLog is a log whose lines can be read back.
type jsonLog struct{ bytes.Buffer }

func (l *jsonLog) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

func (l *jsonLog) lines(t *testing.T) (all []map[string]any) {
	t.Helper()
	for dec := json.NewDecoder(l); ; {
		var line map[string]any
		if err := dec.Decode(&line); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, line)
	}
}

// A call that goes wrong in every way is told step by step, one that does not is not.
//
// Spec: O4
func TestLogTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log jsonLog
		ctx := mettle.WithTrace(t.Context(), mettle.LogTrace(log.logger(slog.LevelDebug), 0))
		p := mettle.Compose(
			fallback.New(fallback.Config{Name: "f", Run: func(context.Context, error) error { return nil }}),
			retry.New(retry.Config{Name: "r", Backoff: retry.Constant(time.Second)}),
			breaker.New(breaker.Config{Name: "b", Consecutive: 2, OpenFor: time.Hour}),
		)
		if err := p.Do(ctx, func(context.Context) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if log.Len() > 0 {
			t.Errorf("a call without trouble logs %s", &log)
		}
		down := errors.New("down")
		if err := p.Do(ctx, func(context.Context) error { time.Sleep(time.Second); return down }); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, l := range log.lines(t) {
			line := strings.Join([]string{l["level"].(string), l["msg"].(string), l["policy"].(string)}, " ")
			if to, ok := l["to"]; ok {
				line += " " + to.(string)
			}
			got = append(got, line)
		}
		want := []string{
			"DEBUG attempt failed r", "DEBUG waiting r", "WARN breaker changed b open", "DEBUG attempt failed r",
			"DEBUG waiting r", "WARN call refused b", "DEBUG attempt failed r", "WARN falling back f",
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("logged %q\nwant   %q", got, want)
		}
	})
}

// Errors of ours are logged by their fields, through marks and into their parts.
//
// Spec: O4
func TestLogTraceTellsErrorsByField(t *testing.T) {
	var log jsonLog
	hooks := mettle.LogTrace(log.logger(slog.LevelInfo), 0)
	hooks.Rejected(mettle.TraceEvent{Policy: "p", Err: mettle.Permanent(&bulkhead.FullError{Name: "p", Limit: 3})})
	hooks.FellBack(mettle.TraceEvent{Policy: "p", Err: &timeout.Error{After: time.Second, Err: errors.New("x")}})
	hooks.FellBack(mettle.TraceEvent{Policy: "p", Err: &hedge.Error{Errs: []error{errors.New("\n\"x")}}})
	lines := log.lines(t)
	for i, want := range []map[string]any{
		{"policy": "p", "limit": 3.0, "max_queue": 0.0},
		{"after": 1e9, "err": "x"},
		{"1": "\n\"x"},
	} {
		if got := lines[i]["err"]; !reflect.DeepEqual(got, want) {
			t.Errorf("logged %v, want %v", got, want)
		}
	}
}

// In a flood of one kind of event the others are still told, and then how many were not.
func TestLogTraceIsRateLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log jsonLog
		hooks := mettle.LogTrace(log.logger(slog.LevelDebug), 3)
		for range 1000 {
			hooks.Rejected(mettle.TraceEvent{Err: breaker.ErrOpen})
			hooks.StateChanged(mettle.TraceEvent{From: "open", To: "half-open"})
		}
		hooks.FellBack(mettle.TraceEvent{Err: breaker.ErrOpen})
		time.Sleep(time.Second)
		hooks.Rejected(mettle.TraceEvent{Err: breaker.ErrOpen})
		hooks.Rejected(mettle.TraceEvent{Err: breaker.ErrOpen})
		n := map[any]int{}
		var leftOut []any
		for _, line := range log.lines(t) {
			n[line["msg"]]++
			if v, ok := line["left_out"]; ok {
				leftOut = append(leftOut, v)
			}
		}
		if n["call refused"] != 5 || n["falling back"] != 1 || n["breaker changed"] != 1000 {
			t.Errorf("logged %v", n)
		}
		if !reflect.DeepEqual(leftOut, []any{997.0}) {
			t.Errorf("left out %v, want 997", leftOut)
		}
	})
}

// tagging is a handler that adds what it finds in the context, as those do that add a span.
type tagging struct{ slog.Handler }

type tagKey struct{}

func (h tagging) Handle(ctx context.Context, r slog.Record) error {
	r.AddAttrs(slog.Any("tag", ctx.Value(tagKey{})), slog.Int("within", mettle.Attempt(ctx)))
	return h.Handler.Handle(ctx, r)
}

// The handler of the logger finds in the context what the caller has put there, and the
// attempt that the event is of.
//
// Spec: O4
func TestLogTraceHandsOnTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log jsonLog
		hooks := mettle.LogTrace(slog.New(tagging{log.logger(slog.LevelDebug).Handler()}), 0)
		ctx := mettle.WithTrace(context.WithValue(t.Context(), tagKey{}, "order 7"), hooks)
		fails := func(context.Context) error { time.Sleep(time.Minute); return errors.New("down") }
		forced := breaker.New(breaker.Config{})
		forced.ForceOpen(breaker.Override{})
		full := bulkhead.New(bulkhead.Config{Limit: 1, MaxWait: time.Second})
		if _, ok := full.TryAcquire(); !ok {
			t.Fatal("no slot")
		}
		for _, p := range []mettle.Policy{
			mettle.Compose(
				fallback.New(fallback.Config{Run: func(context.Context, error) error { return nil }}),
				retry.New(retry.Config{MaxAttempts: 2, Backoff: retry.Constant(0)}),
				hedge.New(hedge.Config{After: time.Second}),
				breaker.New(breaker.Config{Consecutive: 1, OpenFor: time.Hour}),
			), mettle.Compose(forced), mettle.Compose(full),
		} {
			_ = p.Do(ctx, fails)
		}
		within := map[string]float64{} // the highest attempt
		for _, l := range log.lines(t) {
			msg := l["msg"].(string)
			if l["tag"] != "order 7" {
				t.Errorf("%q has come with the tag %v", msg, l["tag"])
			}
			within[msg] = max(within[msg], l["within"].(float64))
		}
		want := map[string]float64{
			"attempt failed": 2, "waiting": 1, "hedge sent": 2, "breaker changed": 1, "call refused": 2, "falling back": 0,
		}
		if !reflect.DeepEqual(within, want) {
			t.Errorf("events were of the attempts %v, want %v", within, want)
		}
	})
}

// stuck is a handler that hangs until it is freed.
type stuck struct {
	slog.Handler
	freed chan struct{}
}

func (s stuck) Handle(context.Context, slog.Record) error { <-s.freed; return nil }

// A logger that hangs holds some calls for good, and not some more each second.
func TestLogTraceOfALoggerThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handler := stuck{slog.NewTextHandler(io.Discard, nil), make(chan struct{})}
		hooks := mettle.LogTrace(slog.New(handler), 3)
		var held atomic.Int64
		for range 100 {
			go func() {
				held.Add(1)
				hooks.Rejected(mettle.TraceEvent{Err: breaker.ErrOpen})
				held.Add(-1)
			}()
			time.Sleep(time.Second)
		}
		if n := held.Load(); n != 3 {
			t.Errorf("%d calls are held", n)
		}
		close(handler.freed)
		synctest.Wait()
		if n := held.Load(); n != 0 {
			t.Errorf("%d calls are held by a handler that has been freed", n)
		}
	})
}

func TestLogTraceBelowTheLevel(t *testing.T) {
	hooks := mettle.LogTrace(slog.New(slog.NewTextHandler(io.Discard, nil)), 0)
	if n := testing.AllocsPerRun(100, func() { hooks.Wait(mettle.TraceEvent{Err: io.EOF}) }); n != 0 {
		t.Errorf("an event that is not logged allocates %v times", n)
	}
}

func TestLogTracePanics(t *testing.T) {
	for name, f := range map[string]func(){
		"nil logger": func() { mettle.LogTrace(nil, 0) },
		"negative":   func() { mettle.LogTrace(slog.Default(), -1) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s does not panic", name)
				}
			}()
			f()
		}()
	}
}
