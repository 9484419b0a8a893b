package retry_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/retry"
)

// ways are those of a function of the user's to end without returning.
var ways = map[string]struct {
	leave func()
	want  func(recovered any, exited bool) bool
}{
	"panic":      {func() { panic(errDown) }, func(v any, exited bool) bool { return v == errDown && !exited }},
	"panic(nil)": {func() { panic(nil) }, func(v any, exited bool) bool { _, ok := v.(*runtime.PanicNilError); return ok && !exited }},
	"Goexit":     {runtime.Goexit, func(v any, exited bool) bool { return v == nil && exited }},
}

// leave calls f on a goroutine of its own and returns how that ended.
func leave(f func()) (recovered any, exited bool) {
	var done sync.WaitGroup
	done.Go(func() {
		returned := false
		defer func() {
			recovered = recover()
			exited = recovered == nil && !returned
		}()
		f()
		returned = true
	})
	done.Wait()
	return recovered, exited
}

// Whatever the user's code does, it shows once, costs no token, and the Retrier goes on.
//
// Spec: P5, P6
func TestUsersCodeLeaves(t *testing.T) {
	seams := map[string]func(leave func(), c *retry.Config) (*mettle.Trace, func(ctx) error){
		"op": func(leave func(), _ *retry.Config) (*mettle.Trace, func(ctx) error) {
			return &mettle.Trace{}, func(ctx) error { leave(); return nil }
		},
		"op, second attempt": func(leave func(), _ *retry.Config) (*mettle.Trace, func(ctx) error) {
			return &mettle.Trace{}, func(ctx ctx) error {
				if mettle.Attempt(ctx) == 2 {
					leave()
				}
				return errDown
			}
		},
		"OnRetry": func(leave func(), c *retry.Config) (*mettle.Trace, func(ctx) error) {
			c.OnRetry = func(retry.Event) { leave() }
			return &mettle.Trace{}, nil
		},
		"RetryIf": func(leave func(), c *retry.Config) (*mettle.Trace, func(ctx) error) {
			c.RetryIf = func(error) bool { leave(); return true }
			return &mettle.Trace{}, nil
		},
		"Backoff": func(leave func(), c *retry.Config) (*mettle.Trace, func(ctx) error) {
			c.Backoff = func(int, time.Duration) time.Duration { leave(); return 0 }
			return &mettle.Trace{}, nil
		},
		"AttemptStart": func(leave func(), _ *retry.Config) (*mettle.Trace, func(ctx) error) {
			return &mettle.Trace{AttemptStart: func(mettle.TraceEvent) { leave() }}, nil
		},
		"AttemptStart, second attempt": func(leave func(), _ *retry.Config) (*mettle.Trace, func(ctx) error) {
			return &mettle.Trace{AttemptStart: func(e mettle.TraceEvent) {
				if e.Attempt == 2 {
					leave()
				}
			}}, nil
		},
		"AttemptDone": func(leave func(), _ *retry.Config) (*mettle.Trace, func(ctx) error) {
			return &mettle.Trace{AttemptDone: func(mettle.TraceEvent) { leave() }}, nil
		},
		"Wait": func(leave func(), _ *retry.Config) (*mettle.Trace, func(ctx) error) {
			return &mettle.Trace{Wait: func(mettle.TraceEvent) { leave() }}, nil
		},
	}
	for seam, arm := range seams {
		for way, w := range ways {
			bubble(t, seam+", "+way, func(t *testing.T) {
				armed, left := true, 0
				c := retry.Config{Budget: retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1, Start: 10}), Backoff: retry.Constant(time.Second)}
				trace, op := arm(func() {
					if armed {
						left++
						w.leave()
					}
				}, &c)
				if op == nil {
					op = func(ctx) error { return errDown }
				}
				r := retry.New(c)
				v, exited := leave(func() { _ = r.Do(mettle.WithTrace(bg, trace), op) })
				if left != 1 || !w.want(v, exited) {
					t.Errorf("left %d times, recovered %v, exited %v", left, v, exited)
				}
				spent, attempts := 0.0, uint64(1)
				switch seam {
				case "op, second attempt":
					spent, attempts = 1, 2
				case "AttemptStart, second attempt": // begun, but not sent
					attempts = 2
				}
				if got := c.Budget.Balance(); got != 10-spent {
					t.Errorf("balance %v", got)
				}
				if got := r.Stats().Attempts; got != attempts {
					t.Errorf("%d attempts counted, want %d", got, attempts)
				}
				armed = false
				if err := r.Do(bg, fails(errDown, nil).op); err != nil {
					t.Errorf("afterwards: %v", err)
				}
			})
		}
	}
}

// Whoever began something in AttemptStart can end it, whatever becomes of op.
//
// Spec: P5
func TestAttemptDoneFollowsAttemptStart(t *testing.T) {
	for way, w := range ways {
		bubble(t, way, func(t *testing.T) {
			var done []mettle.TraceEvent
			ctx := mettle.WithTrace(bg, &mettle.Trace{AttemptDone: func(e mettle.TraceEvent) { done = append(done, e) }})
			r := retry.New(retry.Config{Name: "payments"})
			leave(func() {
				_ = r.Do(ctx, func(context.Context) error { time.Sleep(time.Second); w.leave(); return nil })
			})
			if len(done) != 1 || done[0].Err == nil || done[0].Elapsed != time.Second || done[0].Policy != "payments" {
				t.Errorf("got %+v", done)
			}
		})
	}
}

// Spec: R1, R19
func TestHooksAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var event retry.Event
		var start, done, wait mettle.TraceEvent
		r := retry.New(retry.Config{
			Name: "payments", Backoff: retry.Constant(time.Second), OnRetry: func(e retry.Event) { event = e },
		})
		ctx := mettle.WithTrace(bg, &mettle.Trace{
			AttemptStart: func(e mettle.TraceEvent) { start = e },
			AttemptDone: func(e mettle.TraceEvent) {
				if e.Attempt == 1 {
					done = e
				}
			},
			Wait: func(e mettle.TraceEvent) { wait = e },
		})
		op := fails(errDown, nil)
		if err := r.Do(ctx, func(ctx context.Context) error { time.Sleep(time.Minute); return op.op(ctx) }); err != nil {
			t.Fatal(err)
		}
		event.Context = nil // TestAttemptIsMarked
		if want := (retry.Event{Policy: "payments", Attempt: 1, Delay: time.Second, Elapsed: time.Minute, Err: errDown}); event != want {
			t.Errorf("OnRetry was told %+v, want %+v", event, want)
		}
		for _, e := range []*mettle.TraceEvent{&start, &done, &wait} {
			if got := mettle.Attempt(e.Context); got != e.Attempt {
				t.Errorf("the context of attempt %d is that of %d", e.Attempt, got)
			}
			e.Context = nil
		}
		if want := (mettle.TraceEvent{Policy: "payments", Attempt: 2}); start != want {
			t.Errorf("AttemptStart was told %+v, want %+v", start, want)
		}
		if want := (mettle.TraceEvent{Policy: "payments", Attempt: 1, Elapsed: time.Minute, Err: errDown}); done != want {
			t.Errorf("AttemptDone was told %+v, want %+v", done, want)
		}
		if want := (mettle.TraceEvent{Policy: "payments", Attempt: 1, Delay: time.Second, Err: errDown}); wait != want {
			t.Errorf("Wait was told %+v, want %+v", wait, want)
		}
	})
}

// Spec: P6
func TestHooksMayCallBackIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r *retry.Retrier
		inner := 0
		again := func() {
			if inner++; inner <= 3 {
				_ = r.Do(bg, fails(errDown, nil).op)
				r.Stats()
				observe(r)
			}
		}
		r = retry.New(retry.Config{
			Budget:  retry.NoBudget, // calls that are made in calls take as many tokens
			OnRetry: func(retry.Event) { again() },
			RetryIf: func(err error) bool { again(); return errors.Is(err, errDown) },
		})
		if err := r.Do(bg, fails(errDown, nil).op); err != nil || inner < 4 {
			t.Errorf("%d calls back in, %v", inner, err)
		}
	})
}
