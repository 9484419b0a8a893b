package retry_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/retry"
)

// logged returns what err looks like in a line of a text log, without the keys of slog.
func logged(err error) string {
	var line strings.Builder
	slog.New(slog.NewTextHandler(&line, nil)).Error("", "err", err)
	_, line1, _ := strings.Cut(strings.TrimSpace(line.String()), ` err.`)
	return strings.ReplaceAll(line1, " err.", " ")
}

// Spec: R4, O4 (part)
func TestErrorTellsItsTimeline(t *testing.T) {
	const ms = time.Millisecond
	closed := refusal{after: -1}
	for _, tt := range []struct {
		name string
		c    retry.Config
		errs []error
		want string // the timeline
	}{
		{"one attempt", retry.Config{MaxAttempts: 1}, []error{errDown}, ""},
		{"kinds", retry.Config{MaxAttempts: 4}, []error{errDown, context.DeadlineExceeded, errThrottled, errDown},
			"1.at=1ms 1.outcome=failure 1.wait=10ms 2.at=12ms 2.outcome=timeout 2.wait=20ms " +
				"3.at=33ms 3.outcome=overload 3.wait=30ms 4.at=64ms 4.outcome=failure"},
		{"refused in the end", retry.Config{}, []error{errDown, closed},
			"1.at=1ms 1.outcome=failure 1.wait=10ms 2.at=12ms 2.outcome=ignored"},
		{"as many as are kept", retry.Config{MaxAttempts: 8}, []error{errDown},
			"1.at=1ms 1.outcome=failure 1.wait=10ms 2.at=12ms 2.outcome=failure 2.wait=20ms " +
				"3.at=33ms 3.outcome=failure 3.wait=30ms 4.at=64ms 4.outcome=failure 4.wait=40ms " +
				"5.at=105ms 5.outcome=failure 5.wait=50ms 6.at=156ms 6.outcome=failure 6.wait=50ms " +
				"7.at=207ms 7.outcome=failure 7.wait=50ms 8.at=258ms 8.outcome=failure"},
		{"one too many", retry.Config{MaxAttempts: 9}, []error{errDown},
			"1.at=1ms 1.outcome=failure 1.wait=10ms 2.at=12ms 2.outcome=failure 2.wait=20ms " +
				"3.at=33ms 3.outcome=failure 3.wait=30ms 4.at=64ms 4.outcome=failure 4.wait=40ms left_out=1 " +
				"6.at=156ms 6.outcome=failure 6.wait=50ms 7.at=207ms 7.outcome=failure 7.wait=50ms " +
				"8.at=258ms 8.outcome=failure 8.wait=50ms 9.at=309ms 9.outcome=failure"},
		{"very many", retry.Config{MaxAttempts: 10_000}, []error{errDown},
			"1.at=1ms 1.outcome=failure 1.wait=10ms 2.at=12ms 2.outcome=failure 2.wait=20ms " +
				"3.at=33ms 3.outcome=failure 3.wait=30ms 4.at=64ms 4.outcome=failure 4.wait=40ms left_out=9992 " +
				"9997.at=8m29.697s 9997.outcome=failure 9997.wait=50ms 9998.at=8m29.748s 9998.outcome=failure 9998.wait=50ms " +
				"9999.at=8m29.799s 9999.outcome=failure 9999.wait=50ms 10000.at=8m29.85s 10000.outcome=failure"},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			tt.c.Backoff, tt.c.Budget = retry.Linear(10*ms, 50*ms), retry.NoBudget
			s := fails(tt.errs...)
			got := logged(retry.New(tt.c).Do(bg, func(ctx ctx) error { time.Sleep(ms); return s.op(ctx) }))
			_, got, _ = strings.Cut(got, " timeline.")
			if got = strings.ReplaceAll(got, " timeline.", " "); got != tt.want {
				t.Errorf("timeline\n%s, want\n%s", got, tt.want)
			}
		})
	}
	bubble(t, "a wait that is cut", func(t *testing.T) {
		ctx, cancel := context.WithCancel(bg)
		time.AfterFunc(time.Second, cancel)
		r := retry.New(retry.Config{Backoff: retry.Constant(time.Hour)})
		want := `attempts=1 elapsed=1s last="the backend is down" reason="context canceled" ` +
			"timeline.1.at=0s timeline.1.outcome=failure timeline.1.wait=1h0m0s"
		if got := logged(r.Do(ctx, fails(errDown).op)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// Two of the keys of the log are the words of errors, once each, and the rest is ours: who
// keeps secrets out of these has kept them out of the log.
//
// Spec: O4 (part)
func TestLogRepeatsNoErrorText(t *testing.T) {
	n := 0
	r := retry.New(retry.Config{MaxAttempts: 20, Budget: retry.NoBudget, Backoff: retry.Constant(time.Nanosecond)})
	line := logged(r.Do(bg, func(ctx) error { n++; return fmt.Errorf("secret %d", n) }))
	if strings.Count(line, "secret") != 1 || !strings.Contains(line, `last="secret 20"`) {
		t.Errorf("got %s", line)
	}
}

// Numbers at the edge of what an int and a Duration hold, and functions that answer
// outside what they are asked for.
//
// Spec: R1, R8
func TestBeyondReason(t *testing.T) {
	bubble(t, "as many attempts as there can be", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		r := retry.New(retry.Config{
			MaxAttempts: math.MaxInt, MaxElapsed: math.MaxInt64, MaxRetryAfter: math.MaxInt64,
			Budget: retry.NoBudget, Backoff: retry.Constant(time.Millisecond),
		})
		wantStop(t, r.Do(ctx, fails(errDown).op), 1000, 999*time.Millisecond, errDown, retry.ErrDeadline)
	})
	bubble(t, "a backoff that answers what it likes", func(t *testing.T) {
		answers := []time.Duration{math.MinInt64, -1, 0, time.Second, math.MinInt64, math.MaxInt64}
		ctx, cancel := context.WithTimeout(bg, time.Hour)
		defer cancel()
		var prevs []time.Duration
		r := retry.New(retry.Config{
			MaxAttempts: 10, Budget: retry.NoBudget,
			Backoff: func(attempt int, prev time.Duration) time.Duration {
				prevs = append(prevs, prev)
				return answers[attempt-1]
			},
		})
		wantStop(t, r.Do(ctx, fails(errDown).op), 6, time.Second, errDown, retry.ErrDeadline)
		if got, want := fmt.Sprint(prevs), "[0s 0s 0s 0s 1s 0s]"; got != want {
			t.Errorf("prev was %v, want %v: a negative delay counts as zero", got, want)
		}
	})
	bubble(t, "no operation", func(t *testing.T) {
		b := retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1, Start: 10})
		r := retry.New(retry.Config{Budget: b})
		v, _ := leave(func() { _ = r.Do(bg, nil) })
		if err, ok := v.(error); !ok || !strings.Contains(err.Error(), "nil pointer") {
			t.Errorf("recovered %v, want the runtime's word for it", v)
		}
		if got := r.Stats(); got.Attempts != 1 || b.Balance() != 10 {
			t.Errorf("counted %+v, balance %v", got, b.Balance())
		}
	})
	bubble(t, "a source of randomness that panics", func(t *testing.T) {
		b := retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1, Start: 10})
		r := retry.New(retry.Config{Budget: b, Rand: broken{}})
		if v, _ := leave(func() { _ = r.Do(bg, fails(errDown).op) }); v != errDown {
			t.Errorf("recovered %v", v)
		}
		if b.Balance() != 10 {
			t.Errorf("balance %v", b.Balance())
		}
	})
}

type broken struct{}

func (broken) Uint64() uint64 { panic(errDown) }

// Spec: R4
func TestLiteralErrorIsLogged(t *testing.T) {
	if got, want := logged(&retry.Error{Last: errors.New("a b")}), `attempts=0 elapsed=0s last="a b" reason=<nil>`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := mettle.Classify(bg, &retry.Error{}); got != mettle.Failure {
		t.Errorf("class %v", got)
	}
}

// Defaults against a dependency that is down: what the budget holds at first, what time
// earns meanwhile, and nothing else. Clients that call less often than the floor earns
// are what it is for; these do not.
//
// Spec: R16
func TestTwoThousandFailures(t *testing.T) {
	const calls, opening = 2000, 10
	for _, pace := range []time.Duration{0, time.Millisecond, 100 * time.Millisecond, time.Second} {
		for name, err := range map[string]error{"failures": errDown, "timeouts": context.DeadlineExceeded} {
			bubble(t, fmt.Sprint(name, " every ", pace), func(t *testing.T) {
				r := retry.New(retry.Config{})
				attempts := 0
				for range calls {
					if got := r.Do(bg, func(ctx) error { attempts++; return err }); !errors.Is(got, err) {
						t.Fatal(got)
					}
					time.Sleep(pace)
				}
				if limit := int(1.15*calls) + opening; attempts > limit || attempts <= calls {
					t.Errorf("%d attempts for %d calls, want at most %d", attempts, calls, limit)
				}
			})
		}
	}
}
