package retry_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/retry"
)

// observe returns the metrics of o by name and labels.
func observe(o mettle.Observable) map[string]float64 {
	metrics := make(map[string]float64)
	o.Observe(func(m mettle.Metric) bool {
		key := m.Name
		for _, l := range m.Labels {
			key += " " + l.Key + "=" + l.Value
		}
		metrics[key] = m.Value
		return true
	})
	return metrics
}

func checkMetrics(t *testing.T, got, want map[string]float64) {
	t.Helper()
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if v, ok := got[key]; !ok || v != want[key] {
			t.Errorf("%s is %v (%v), want %v", key, v, ok, want[key])
		}
	}
	for key := range got {
		if _, ok := want[key]; !ok {
			t.Errorf("unexpected metric %s", key)
		}
	}
}

// everyEnd makes calls with r that end in every way there is.
func everyEnd(r *retry.Retrier) {
	for _, errs := range [][]error{
		{nil}, {nil}, {errDown, nil}, {errDown, errDown, nil}, {errDown, errDown, errDown, nil}, // successes
		{errDown},                              // exhausted
		{mettle.Permanent(errDown)}, {errFull}, // not retryable
		{errDown, suggestion(time.Hour)},          // retry after
		{suggestion(time.Minute), errors.New("")}, // elapsed
	} {
		_ = r.Do(bg, fails(errs...).op)
	}
	_ = r.Do(mettle.WithAttempt(bg, 1), fails(errDown).op) // passed through
	late, cancel := context.WithTimeout(bg, 1)
	defer cancel()
	_ = r.Do(late, fails(errDown).op) // deadline
	gone, leave := context.WithCancel(bg)
	_ = r.Do(gone, func(ctx context.Context) error { leave(); return ctx.Err() }) // context
	_ = r.Do(gone, fails(nil).op)                                                 // not even begun
}

// Spec: P12, R16
func TestStatsAndMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := retry.New(retry.Config{
			Name: "payments", MaxAttempts: 4, Backoff: retry.Constant(time.Second),
			MaxElapsed: 30 * time.Second, MaxRetryAfter: time.Minute,
		})
		for range 70 {
			_ = r.Do(bg, fails(nil).op) // a full budget
		}
		everyEnd(r)
		for range 4 {
			_ = r.Do(bg, fails(errDown).op) // the budget ends one of these, at the third attempt, and the last two
		}
		want := retry.Stats{
			Attempts: 70 + 2 + 2 + 3 + 4 + 4 + 1 + 1 + 2 + 1 + 1 + 1, Retries: 1 + 2 + 3 + 3 + 1,
			Successes: [3]uint64{72, 1, 2},
			Exhausted: 1, Deadline: 1, Elapsed: 1, RetryAfter: 1, Context: 1, NotRetryable: 2, PassedThrough: 1,
		}
		got := r.Stats()
		// What time earns decides how far the last four got; they all failed.
		ends := got.Exhausted - want.Exhausted + got.Budget
		if ends != 4 || got.Budget == 0 || got.Attempts-want.Attempts != got.Retries-want.Retries+4 {
			t.Errorf("after four more failures: %+v", got)
		}
		want.Exhausted, want.Budget, want.Attempts, want.Retries = got.Exhausted, got.Budget, got.Attempts, got.Retries
		if by := got.ByAttempt; by[0] != 86 || by[0]+by[1]+by[2] != want.Attempts || by[1]+by[2] != want.Retries {
			t.Errorf("attempts by number: %v", by)
		}
		want.ByAttempt, want.Amplification = got.ByAttempt, got.Amplification
		if got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}

		metrics := observe(r)
		tokens := metrics["mettle.retry.budget_tokens policy=payments"]
		if tokens < 0 || tokens >= 1 {
			t.Errorf("%v tokens left after a denial", tokens)
		}
		checkMetrics(t, metrics, map[string]float64{
			"mettle.retry.attempts policy=payments attempt=1":         float64(want.ByAttempt[0]),
			"mettle.retry.attempts policy=payments attempt=2":         float64(want.ByAttempt[1]),
			"mettle.retry.attempts policy=payments attempt=3+":        float64(want.ByAttempt[2]),
			"mettle.retry.amplification policy=payments":              want.Amplification,
			"mettle.retry.passed_through policy=payments":             1,
			"mettle.retry.successes policy=payments attempt=1":        72,
			"mettle.retry.successes policy=payments attempt=2":        1,
			"mettle.retry.successes policy=payments attempt=3+":       2,
			"mettle.retry.stops policy=payments reason=exhausted":     float64(want.Exhausted),
			"mettle.retry.stops policy=payments reason=deadline":      1,
			"mettle.retry.stops policy=payments reason=elapsed":       1,
			"mettle.retry.stops policy=payments reason=budget":        float64(want.Budget),
			"mettle.retry.stops policy=payments reason=retry_after":   1,
			"mettle.retry.stops policy=payments reason=context":       1,
			"mettle.retry.stops policy=payments reason=not_retryable": 2,
			"mettle.retry.budget_tokens policy=payments":              tokens,
			"mettle.retry.budget_denials policy=payments":             float64(want.Budget),
		})
	})
}

// Spec: P12
func TestObserveIsPure(t *testing.T) {
	shared := retry.NewBudget(retry.BudgetConfig{})
	for name, r := range map[string]*retry.Retrier{
		"own budget": retry.New(retry.Config{}), "shared budget": retry.New(retry.Config{Budget: shared}),
	} {
		if got := testing.AllocsPerRun(100, func() {
			r.Observe(func(mettle.Metric) bool { return true })
			_ = r.Stats()
		}); got != 0 {
			t.Errorf("%s: Observe and Stats allocate %v times", name, got)
		}
		before, all := r.Stats(), len(observe(r))
		if want := map[string]int{"own budget": 17, "shared budget": 15}[name]; all != want {
			t.Errorf("%s: %d metrics, want %d", name, all, want)
		}
		for stop := 1; stop <= all; stop++ {
			n := 0
			r.Observe(func(m mettle.Metric) bool {
				if n++; n > stop {
					t.Errorf("%s: yields after false", name)
				}
				if !strings.HasPrefix(m.Name, "mettle.retry.") || m.Unit == "" || m.Help == "" {
					t.Errorf("%+v", m)
				}
				return n < stop
			})
		}
		if r.Stats() != before {
			t.Errorf("%s: Observe has changed the counts", name)
		}
	}
	shared.Observe(func(mettle.Metric) bool { return false })
}

// Spec: P11, R16
func TestConcurrentCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := retry.NewBudget(retry.BudgetConfig{Burst: 100, Start: 100})
		r := retry.New(retry.Config{Budget: b, OnRetry: func(retry.Event) {}})
		p := mettle.Compose(r)
		var attempts, successes atomic.Uint64
		var all sync.WaitGroup
		for i := range 64 {
			all.Go(func() {
				random := rand.New(rand.NewPCG(uint64(i), 2))
				for range 50 {
					ctx, cancel := context.WithTimeout(bg, time.Duration(random.IntN(1000))*time.Millisecond)
					err := p.Do(ctx, func(ctx context.Context) error {
						attempts.Add(1)
						if random.IntN(3) > 0 {
							return errDown
						}
						return nil
					})
					cancel()
					if err == nil {
						successes.Add(1)
					}
					observe(r)
				}
			})
		}
		all.Wait()
		s := r.Stats()
		if s.Attempts != attempts.Load() || s.Successes[0]+s.Successes[1]+s.Successes[2] != successes.Load() {
			t.Errorf("%d attempts and %d successes, counted %+v", attempts.Load(), successes.Load(), s)
		}
		if got := b.Balance(); got < 0 || got > 100 {
			t.Errorf("balance %v", got)
		}
	})
}

// Spec: P11
func TestRetrierIsCollectable(t *testing.T) {
	r := retry.New(retry.Config{Budget: retry.NoBudget, Backoff: retry.Constant(0)})
	_ = r.Do(bg, fails(errDown).op)
	gone := weak.Make(r)
	r = nil
	runtime.GC()
	if gone.Value() != nil {
		t.Error("something still refers to a Retrier that nobody has")
	}
}

// Spec: P10
func TestConfigValidate(t *testing.T) {
	for _, tt := range []struct {
		name string
		c    retry.Config
		want []string // in the message; none: valid
	}{
		{"zero", retry.Config{}, nil},
		{"no budget", retry.Config{MaxAttempts: 1, MaxElapsed: 1, MaxRetryAfter: 1, Budget: retry.NoBudget}, nil},
		{"attempts", retry.Config{MaxAttempts: -1}, []string{"MaxAttempts is -1"}},
		{"durations", retry.Config{MaxElapsed: -1, MaxRetryAfter: -time.Second}, []string{"MaxElapsed is -1ns", "MaxRetryAfter is -1s"}},
		{"zero budget", retry.Config{Budget: &retry.Budget{}}, []string{"Budget is the zero Budget, which allows nothing"}},
	} {
		checkValidation(t, tt.name, tt.c.Validate(), func() { retry.New(tt.c) }, tt.want)
	}
}

// Spec: R4
func TestErrorText(t *testing.T) {
	for _, tt := range []struct {
		e    *retry.Error
		want string
	}{
		{&retry.Error{Attempts: 3, Elapsed: 312 * time.Millisecond, Last: errDown, Reason: retry.ErrExhausted},
			"retry: 3 attempts in 312ms: the backend is down (attempts exhausted)"},
		{&retry.Error{Attempts: 1, Elapsed: time.Second, Last: errDown, Reason: context.Canceled},
			"retry: 1 attempt in 1s: the backend is down (context canceled)"},
		{&retry.Error{Attempts: 2, Elapsed: 1_312_498_765, Last: errDown, Reason: retry.ErrBudget},
			"retry: 2 attempts in 1.312s: the backend is down (budget spent)"},
		{&retry.Error{Attempts: 1, Elapsed: 43_512, Last: errDown, Reason: retry.ErrBudget},
			"retry: 1 attempt in 44µs: the backend is down (budget spent)"},
		{&retry.Error{}, "retry: 0 attempts in 0s: <nil> (<nil>)"},
	} {
		if got := tt.e.Error(); got != tt.want {
			t.Errorf("got  %q\nwant %q", got, tt.want)
		}
	}
	if got := new(retry.Error); errors.Is(got, errDown) || errors.As(got, new(refusal)) {
		t.Error("the zero Error is something")
	}
	if got := mettle.Classify(bg, new(retry.Error)); got != mettle.Failure {
		t.Errorf("the zero Error is a %v, want a failure", got)
	}
}

// Spec: R4
func TestErrorIsLoggedByField(t *testing.T) {
	var line strings.Builder
	slog.New(slog.NewJSONHandler(&line, nil)).Info("failed", "err", &retry.Error{
		Attempts: 2, Elapsed: time.Second, Last: errDown, Reason: retry.ErrBudget,
	})
	var got struct{ Err map[string]any }
	if err := json.Unmarshal([]byte(line.String()), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"attempts": 2.0, "elapsed": 1e9, "last": "the backend is down", "reason": "retry: budget spent",
	}
	if !maps.Equal(got.Err, want) {
		t.Errorf("got %v, want %v", got.Err, want)
	}
}

// The amplification is that of a reference which remembers every attempt, whether calls
// had failed before or not, and is 1 again when the last resend is 10 s old.
//
// Spec: O1 (part), P12
func TestAmplification(t *testing.T) {
	type attempt struct {
		at     time.Time
		resend bool
	}
	for name, failing := range map[string]func(second int) bool{
		"a sudden outage":      func(s int) bool { return s >= 30 && s < 60 },
		"an outage that blips": func(s int) bool { return s%7 == 3 },
		"healthy":              func(int) bool { return false },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := retry.New(retry.Config{Backoff: retry.Constant(time.Millisecond), Budget: retry.NoBudget})
				if a := r.Stats().Amplification; a != 1 {
					t.Errorf("%v before the first call", a)
				}
				var made []attempt
				for second := range 100 {
					for range 50 {
						time.Sleep(time.Second/50 - 2*time.Millisecond)
						_ = r.Do(bg, func(ctx context.Context) error {
							made = append(made, attempt{time.Now(), mettle.Attempt(ctx) > 1})
							if failing(second) {
								return errDown
							}
							return nil
						})
					}
					calls, all := 0, 0
					for _, a := range made {
						if time.Since(a.at) < 10*time.Second {
							all++
							if !a.resend {
								calls++
							}
						}
					}
					want := float64(all) / float64(calls)
					if got := r.Stats().Amplification; math.Abs(got-want) > 0.03*want || want == 1 && got != 1 {
						t.Errorf("after %d s: %.3f, want %.3f", second+1, got, want)
					}
				}
				time.Sleep(time.Hour)
				if a := r.Stats().Amplification; a != 1 {
					t.Errorf("%v after an hour without a call", a)
				}
			})
		})
	}
}
