package hedge_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

var errDown = errors.New("down")

func succeed(context.Context) error { return nil }

// hang waits for the end of its context, and reports it.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// direct runs op as it is.
type direct struct{ next mettle.Policy }

func (d direct) Do(ctx context.Context, op func(context.Context) error) error {
	if d.next != nil {
		return d.next.Do(ctx, op)
	}
	return op(ctx)
}

func (d direct) Wrap(next mettle.Policy) mettle.Policy { return direct{next} }

//go:noinline
func exit() { runtime.Goexit() }

// crash runs f on a goroutine of its own and returns how it ended, if badly.
func crash(f func()) (value any, exited bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		returned := false
		defer func() {
			if !returned {
				value = recover()
				exited = value == nil
			}
		}()
		f()
		returned = true
	}()
	<-done
	return value, exited
}

// Spec: P10
func TestConfig(t *testing.T) {
	for _, test := range []struct {
		config hedge.Config
		want   []string // beginnings of the mistakes
	}{
		{hedge.Config{}, nil},
		{hedge.Config{After: math.MaxInt64, Quantile: math.SmallestNonzeroFloat64, Max: math.MaxInt, Budget: retry.NoBudget}, nil},
		{hedge.Config{Quantile: math.Nextafter(1, 0)}, nil},
		{hedge.Config{After: -1, Quantile: 1, Max: -1, Budget: new(retry.Budget)}, []string{
			"hedge: After is -1ns, must be", "hedge: Quantile is 1, must be", "hedge: Max is -1, must be", "hedge: Budget is the zero Budget",
		}},
		{hedge.Config{Quantile: math.NaN()}, []string{"hedge: Quantile is NaN"}},
		{hedge.Config{Quantile: math.Inf(1)}, []string{"hedge: Quantile is +Inf"}},
		{hedge.Config{Quantile: -0.5}, []string{"hedge: Quantile is -0.5"}},
	} {
		err := test.config.Validate()
		if len(test.want) == 0 {
			if err != nil {
				t.Errorf("%+v: %v", test.config, err)
			}
			if err := hedge.New(test.config).Do(t.Context(), succeed); err != nil {
				t.Errorf("%+v: Do: %v", test.config, err)
			}
			continue
		}
		lines := strings.Split(fmt.Sprint(err), "\n")
		if !slices.EqualFunc(lines, test.want, strings.HasPrefix) {
			t.Errorf("%+v: %q, want %q", test.config, lines, test.want)
		}
		if value, _ := crash(func() { hedge.New(test.config) }); value != err.Error() {
			t.Errorf("New panicked with %v, want the message of Validate", value)
		}
	}
}

// A call that is answered before the delay stays on its goroutine, and pays for the call
// itself, the mark of the run in its context, the timer, and the function that this calls.
//
// Spec: H5, P13
func TestFastCallCostsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]hedge.Config{"live": {}, "fixed": {After: time.Hour}} {
			h := hedge.New(c)
			for range 100 {
				_ = h.Do(t.Context(), succeed)
			}
			time.Sleep(2 * time.Second)
			if h.Stats().Delay == 0 {
				t.Fatalf("%s: there is no delay yet", name)
			}
			before := runtime.NumGoroutine()
			if err := h.Do(t.Context(), func(context.Context) error {
				if n := runtime.NumGoroutine(); n > before {
					return fmt.Errorf("%d goroutines, %d before the call", n, before)
				}
				return nil
			}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if n := testing.AllocsPerRun(1000, func() { _ = h.Do(t.Context(), succeed) }); n > 4 {
				t.Errorf("%s: %v allocations, want at most 4", name, n)
			}
		}
	})
}

// A panic on another goroutine than the caller's comes out with its own value, when the
// others have returned; so does one of the hook.
//
// Spec: P5, H2 (part)
func TestPanicElsewhere(t *testing.T) {
	boom := errors.New("boom")
	for name, test := range map[string]struct {
		hook  func(mettle.TraceEvent)
		hedge func(context.Context) error
		exit  bool
	}{
		"op panics":             {nil, func(context.Context) error { panic(boom) }, false},
		"op calls Goexit":       {nil, func(context.Context) error { exit(); return nil }, true},
		"the hook panics":       {func(mettle.TraceEvent) { panic(boom) }, succeed, false},
		"the hook calls Goexit": {func(mettle.TraceEvent) { exit() }, succeed, true},
		"Classify panics":       {nil, func(context.Context) error { return boom }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				budget := retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1, Start: 10})
				h := hedge.New(hedge.Config{After: time.Second, Budget: budget, Classify: func(ctx context.Context, err error) mettle.Outcome {
					if err == boom {
						panic(boom)
					}
					return mettle.Classify(ctx, err)
				}})
				ctx := mettle.WithTrace(t.Context(), &mettle.Trace{Hedged: test.hook})
				returned, ran := false, false
				value, exited := crash(func() {
					_ = h.Do(ctx, func(ctx context.Context) error {
						if mettle.Attempt(ctx) > 1 {
							ran = true
							return test.hedge(ctx)
						}
						<-ctx.Done()
						time.Sleep(time.Minute) // deaf
						returned = true
						return context.Cause(ctx)
					})
				})
				if exited != test.exit || !test.exit && value != boom {
					t.Errorf("ended by panic %v, Goexit %t", value, exited)
				}
				if !returned {
					t.Error("Do was left while the other run went on")
				}
				// What was never sent is not paid for.
				if want := map[bool]float64{true: 9, false: 10}[ran]; budget.Balance() != want {
					t.Errorf("the budget is at %v, want %v", budget.Balance(), want)
				}
			})
		})
	}
}

// Of several crashes the first comes out, also when it is not that of the caller's own
// goroutine.
//
// Spec: P5
func TestFirstCrashCounts(t *testing.T) {
	for _, first := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			h := hedge.New(hedge.Config{After: time.Second})
			value, _ := crash(func() {
				_ = h.Do(t.Context(), func(ctx context.Context) error {
					n := mettle.Attempt(ctx)
					time.Sleep(time.Minute)
					if n != first {
						time.Sleep(time.Minute)
					}
					panic(n)
				})
			})
			if value != first {
				t.Errorf("panicked with %v, want %d", value, first)
			}
		})
	}
}

// When a panic ends the process, the report says where it was, though the goroutine that
// it happened on is gone.
//
// Spec: P5
func TestCrashReport(t *testing.T) {
	if os.Getenv("HEDGE_CRASH") != "" {
		h := hedge.New(hedge.Config{After: time.Millisecond})
		_ = h.Do(t.Context(), func(ctx context.Context) error {
			if mettle.Attempt(ctx) == 2 {
				panicHere()
			}
			return hang(ctx)
		})
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashReport$")
	cmd.Env = append(os.Environ(), "HEDGE_CRASH=1")
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("the process survived:\n%s", out)
	}
	for _, want := range []string{"the reason", "hedge_test.panicHere"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the report lacks %q:\n%s", want, out)
		}
	}
}

//go:noinline
func panicHere() { panic("the reason") }

// The context of a run is one as others are, before and after somebody asks for its end,
// and in the order in which things end.
//
// Spec: H2 (part)
func TestContext(t *testing.T) {
	type key struct{}
	for _, asked := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			limit := time.Now().Add(time.Hour)
			parent, cancel := context.WithDeadline(context.WithValue(t.Context(), key{}, "value"), limit)
			defer cancel()
			var won, beaten, child context.Context
			ask := func(ctx context.Context) {
				if ctx.Err() != nil || context.Cause(ctx) != nil && asked {
					t.Errorf("a run begins with %v", ctx.Err())
				}
				if d, ok := ctx.Deadline(); !ok || d != limit || ctx.Value(key{}) != "value" {
					t.Errorf("deadline %v, value %v", d, ctx.Value(key{}))
				}
				if asked {
					_ = ctx.Done()
				}
			}
			h := hedge.New(hedge.Config{After: time.Second})
			err := h.Do(parent, func(ctx context.Context) error {
				if mettle.Attempt(ctx) == 2 {
					won = ctx
					ask(ctx)
					return nil
				}
				beaten = ctx
				ask(ctx)
				before := runtime.NumGoroutine()
				child, cancel = context.WithCancel(ctx)
				defer cancel()
				if asked {
					context.AfterFunc(ctx, func() {})
				}
				if n := runtime.NumGoroutine(); n > before {
					t.Errorf("a child costs %d goroutines", n-before)
				}
				for ctx.Err() == nil {
					time.Sleep(time.Minute)
				}
				if cause := context.Cause(ctx); cause != hedge.ErrLost || ctx.Err() != context.Canceled {
					t.Errorf("the loser's context ended with %v, %v", ctx.Err(), cause)
				}
				<-ctx.Done()
				<-child.Done()
				if context.Cause(child) != hedge.ErrLost {
					t.Errorf("the child's cause is %v", context.Cause(child))
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if won.Err() != context.Canceled || context.Cause(won) != context.Canceled {
				t.Errorf("after Do the winner's context has %v, %v", won.Err(), context.Cause(won))
			}
			<-won.Done()
			time.Sleep(2 * time.Hour) // the parent ends later, and changes nothing
			if won.Err() != context.Canceled || context.Cause(beaten) != hedge.ErrLost {
				t.Errorf("later: %v, %v", won.Err(), context.Cause(beaten))
			}
			if s := fmt.Sprint(won); !strings.HasSuffix(s, ".WithHedge") {
				t.Errorf("as a text it is %q", s)
			}
		})
	}
}

// The first run wins, and only the other has lost.
func TestContextOfTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var given [3]context.Context
		h := hedge.New(hedge.Config{After: time.Second})
		_ = h.Do(t.Context(), func(ctx context.Context) error {
			n := mettle.Attempt(ctx)
			given[n] = ctx
			if n == 2 {
				return hang(ctx)
			}
			time.Sleep(time.Minute)
			return nil
		})
		if first, second := context.Cause(given[1]), context.Cause(given[2]); first != context.Canceled || second != hedge.ErrLost {
			t.Errorf("the contexts ended with %v and %v", first, second)
		}
	})
}

// A context whose parent has ended before the run did has the end of the parent.
func TestContextOfAnEndedParent(t *testing.T) {
	enough := errors.New("enough")
	parent, cancel := context.WithCancelCause(t.Context())
	var given context.Context
	h := hedge.New(hedge.Config{After: time.Hour})
	err := h.Do(parent, func(ctx context.Context) error {
		given = ctx
		cancel(enough)
		return nil
	})
	if err != nil || given.Err() != context.Canceled || context.Cause(given) != enough {
		t.Errorf("%v; the context has %v, %v", err, given.Err(), context.Cause(given))
	}
}

// Many goroutines look at one context while it ends.
func TestContextConcurrently(t *testing.T) {
	for range 50 {
		h := hedge.New(hedge.Config{After: time.Hour})
		var all sync.WaitGroup
		start := make(chan struct{})
		_ = h.Do(t.Context(), func(ctx context.Context) error {
			for i := range 8 {
				all.Go(func() {
					<-start
					if i%2 == 0 {
						<-ctx.Done()
					}
					for ctx.Err() == nil {
						runtime.Gosched()
					}
					if cause := context.Cause(ctx); cause != context.Canceled {
						t.Errorf("cause %v", cause)
					}
				})
			}
			close(start)
			return nil
		})
		all.Wait()
	}
}

// meddler is a context whose Done does something in the middle of deriving from it.
type meddler struct {
	context.Context
	done   chan struct{}
	meddle func()
}

func (m *meddler) Err() error { return nil }

func (m *meddler) Done() <-chan struct{} {
	if meddle := m.meddle; meddle != nil {
		m.meddle = nil
		meddle()
	}
	return m.done
}

// Two who ask for the end of a run at once get the same one, and the other that was made
// for it is not left: a child of this parent has a goroutine, with which the bubble would
// not end.
//
// Spec: H5 (part)
func TestContextAskedAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent := &meddler{Context: context.Background(), done: make(chan struct{})}
		var other <-chan struct{}
		_ = hedge.New(hedge.Config{After: time.Hour}).Do(parent, func(ctx context.Context) error {
			parent.meddle = func() { other = ctx.Done() }
			if ctx.Done() != other {
				t.Error("two who ask at once get two channels")
			}
			return nil
		})
		<-other
	})
}

// What a loser ends with says nothing about the dependency, in whatever words.
//
// Spec: H2, P8
func TestLosersAreIgnoredByBreakers(t *testing.T) {
	for name, end := range map[string]func(context.Context) error{
		"its cause":               func(ctx context.Context) error { return context.Cause(ctx) },
		"Canceled":                func(ctx context.Context) error { return ctx.Err() },
		"some error":              func(context.Context) error { return errors.New("use of closed network connection") },
		"a timeout":               func(context.Context) error { return os.ErrDeadlineExceeded },
		"a late success":          func(context.Context) error { return nil },
		"an error, an hour later": func(context.Context) error { time.Sleep(time.Hour); return errDown },
	} {
		synctest.Test(t, func(t *testing.T) {
			b := breaker.New(breaker.Config{Consecutive: 1})
			p := mettle.Compose(
				hedge.New(hedge.Config{After: time.Second}), b,
				timeout.New(timeout.Config{After: time.Minute}),
			)
			err := p.Do(t.Context(), func(ctx context.Context) error {
				if mettle.Attempt(ctx) == 2 {
					return nil
				}
				<-ctx.Done()
				return end(ctx)
			})
			s := b.Stats()
			if err != nil || s.State != breaker.Closed || s.Failures+s.Timeouts != 0 {
				t.Errorf("%s: %v, breaker %v with %d failures, %d timeouts", name, err, s.State, s.Failures, s.Timeouts)
			}
			if want := uint64(1); name != "a late success" && s.Ignored != want {
				t.Errorf("%s: %d calls ignored, want %d", name, s.Ignored, want)
			}
		})
	}
}

// A call is hedged while its first run waits for the probe of a breaker that has just
// half opened: the loser gives it back.
//
// Spec: H2 (part), B11
func TestLoserGivesItsProbeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(breaker.Config{Probes: 2, Successes: 2})
		b.Trip("test")
		time.Sleep(time.Minute)
		h := mettle.Compose(hedge.New(hedge.Config{After: time.Second}), b)
		if err := h.Do(t.Context(), func(ctx context.Context) error {
			if mettle.Attempt(ctx) == 2 {
				return nil
			}
			return hang(ctx)
		}); err != nil {
			t.Error(err)
		}
		if s := b.Stats(); s.State != breaker.HalfOpen || s.Probes != 0 || s.Ignored != 1 {
			t.Errorf("breaker %v, %d probes in flight, %d ignored", s.State, s.Probes, s.Ignored)
		}
	})
}

// A loser that is deaf to its context keeps the caller waiting, and shows.
//
// Spec: H2, P3
func TestDeafLoser(t *testing.T) {
	for _, deaf := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			h := hedge.New(hedge.Config{After: time.Second})
			start := time.Now()
			var during hedge.Stats
			err := h.Do(t.Context(), func(ctx context.Context) error {
				if mettle.Attempt(ctx) == deaf {
					time.Sleep(time.Hour)
					during = h.Stats()
					return errDown
				}
				time.Sleep(2 * time.Second)
				return nil
			})
			if took := time.Since(start); err != nil || took < time.Hour {
				t.Errorf("run %d deaf: %v after %v", deaf, err, took)
			}
			if s := h.Stats(); s.Abandoned != 1 || during.Abandoned != 0 {
				t.Errorf("run %d deaf: %d abandoned, %d while it ran", deaf, s.Abandoned, during.Abandoned)
			}
		})
	}
	// To heed it within 10 ms is prompt, and so it is within a tenth of the delay.
	for after, grace := range map[time.Duration]time.Duration{20 * time.Millisecond: 10 * time.Millisecond, time.Second: 100 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			h := hedge.New(hedge.Config{After: after})
			for late := range time.Duration(2) {
				_ = h.Do(t.Context(), func(ctx context.Context) error {
					if mettle.Attempt(ctx) == 2 {
						return nil
					}
					<-ctx.Done()
					time.Sleep(grace + late)
					return errDown
				})
				if s := h.Stats(); s.Abandoned != uint64(late) || s.Wins != uint64(1+late) {
					t.Errorf("after %v: %+v", grace+late, s)
				}
			}
		})
	}
}

// A crash of a loser, long after the answer, excuses no other loser.
//
// Spec: H2 (part)
func TestAbandonedBesideACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hedge.New(hedge.Config{After: time.Second, Max: 2})
		value, _ := crash(func() {
			_ = h.Do(t.Context(), func(ctx context.Context) error {
				switch mettle.Attempt(ctx) {
				case 1:
					time.Sleep(time.Hour)
					panic(errDown)
				case 2:
					time.Sleep(time.Hour - time.Second + time.Millisecond) // just after that
					return errDown
				default:
					return nil
				}
			})
		})
		if s := h.Stats(); value != errDown || s.Abandoned != 1 {
			t.Errorf("panicked with %v; %+v", value, s)
		}
	})
}

// The delay passes at the very moment at which a run fails. Whichever comes first, the
// next delay counts from the hedge that it brought about.
//
// Spec: H1
func TestFailureAtTheDelay(t *testing.T) {
	for range 300 {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			var told []mettle.TraceEvent
			ctx := mettle.WithTrace(t.Context(), &mettle.Trace{Hedged: func(e mettle.TraceEvent) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, e)
			}})
			start := time.Now()
			var begun [4]time.Duration
			h := hedge.New(hedge.Config{After: time.Second, Max: 2})
			_ = h.Do(ctx, func(ctx context.Context) error {
				n := mettle.Attempt(ctx)
				begun[n] = time.Since(start)
				if n == 1 {
					time.Sleep(time.Second)
					return errDown
				}
				time.Sleep(time.Minute)
				return nil
			})
			slices.SortFunc(told, func(a, b mettle.TraceEvent) int { return a.Attempt - b.Attempt })
			if len(told) != 2 || begun[2] != time.Second {
				t.Fatalf("told %+v, begun at %v", told, begun)
			}
			if failure := told[0].Err != nil; failure && begun[3] != 2*time.Second || !failure && begun[3] != time.Second {
				t.Fatalf("told %+v, begun at %v", told, begun)
			}
		})
	}
}

// The number of a run counts on from that of the attempt it is in, and the call is the one
// that the outermost of the two was entered with.
//
// Spec: R19, W16 (part)
func TestMarks(t *testing.T) {
	for name, test := range map[string]struct {
		policies func(h *hedge.Hedge) []mettle.Policy
		want     []int
		hooks    []int
	}{
		"alone": {func(h *hedge.Hedge) []mettle.Policy { return []mettle.Policy{h} }, []int{1, 2, 3}, []int{2, 3}},
		"in retry": {func(h *hedge.Hedge) []mettle.Policy {
			return []mettle.Policy{retry.New(retry.Config{MaxAttempts: 2, Backoff: retry.Constant(0)}), h}
		}, []int{1, 2, 3, 2, 3, 4}, []int{2, 3, 3, 4}},
		"a retry in it leaves resending alone": {func(h *hedge.Hedge) []mettle.Policy {
			return []mettle.Policy{h, retry.New(retry.Config{})}
		}, []int{1, 2, 3}, []int{2, 3}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var got, hooks []int
			entered := mettle.WithCall(mettle.WithTrace(t.Context(), &mettle.Trace{Hedged: func(e mettle.TraceEvent) {
				if e.Policy != "h" || e.Err != errDown || e.Delay != 0 {
					t.Errorf("%s: the hook is told %+v", name, e)
				}
				hooks = append(hooks, e.Attempt)
			}}))
			h := hedge.New(hedge.Config{Name: "h", After: time.Second, Max: 2})
			_ = mettle.Compose(test.policies(h)...).Do(entered, func(ctx context.Context) error {
				if mettle.CallContext(ctx) != entered {
					t.Errorf("%s: the context of the call is not the one it was entered with", name)
				}
				got = append(got, mettle.Attempt(ctx))
				return errDown
			})
			if !slices.Equal(got, test.want) || !slices.Equal(hooks, test.hooks) {
				t.Errorf("%s: attempts %v, in hooks %v; want %v, %v", name, got, hooks, test.want, test.hooks)
			}
		})
	}
}

func TestHookOnDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got mettle.TraceEvent
		ctx := mettle.WithTrace(t.Context(), &mettle.Trace{Hedged: func(e mettle.TraceEvent) {
			got = e
			time.Sleep(time.Minute) // meanwhile the first run succeeds
		}})
		budget := retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1, Start: 10})
		h := hedge.New(hedge.Config{Name: "h", After: time.Second, Budget: budget})
		runs := 0
		err := h.Do(ctx, func(context.Context) error {
			runs++
			time.Sleep(2 * time.Second)
			return nil
		})
		if mettle.Attempt(got.Context) != 2 {
			t.Errorf("the context is that of run %d", mettle.Attempt(got.Context))
		}
		got.Context = nil
		if want := (mettle.TraceEvent{Policy: "h", Attempt: 2, Delay: time.Second}); got != want {
			t.Errorf("told %+v, want %+v", got, want)
		}
		if err != nil || runs != 1 || budget.Balance() != 10 {
			t.Errorf("%v, %d runs, budget at %v; want no run under a context that has ended", err, runs, budget.Balance())
		}
	})
}

// A success is deposited once, whoever shares the budget, and a hedge that was refused
// further in costs nothing.
//
// Spec: R17, H3
func TestSharedBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, test := range map[string]struct {
			policies func(b *retry.Budget) []mettle.Policy
			op       func(context.Context) error
			want     float64 // of a budget of 10 that holds 5 at first
		}{
			"success": {func(b *retry.Budget) []mettle.Policy {
				return []mettle.Policy{hedge.New(hedge.Config{After: time.Second, Budget: b})}
			}, succeed, 5.1},
			"an answer": {func(b *retry.Budget) []mettle.Policy {
				return []mettle.Policy{hedge.New(hedge.Config{After: time.Second, Budget: b})}
			}, func(context.Context) error { return answer{cause{errDown}} }, 5.1},
			"success in a retry with the same budget": {func(b *retry.Budget) []mettle.Policy {
				return []mettle.Policy{retry.New(retry.Config{Budget: b}), hedge.New(hedge.Config{After: time.Second, Budget: b})}
			}, succeed, 5.1},
			"a failure, a hedge, a retry, a hedge": {func(b *retry.Budget) []mettle.Policy {
				return []mettle.Policy{retry.New(retry.Config{MaxAttempts: 2, Budget: b}), hedge.New(hedge.Config{After: time.Second, Budget: b})}
			}, func(context.Context) error { return errDown }, 2},
			"the caller's cancellation": {func(b *retry.Budget) []mettle.Policy {
				return []mettle.Policy{hedge.New(hedge.Config{After: time.Second, Budget: b})}
			}, func(context.Context) error { return mettle.ErrRejected }, 5},
			"a hedge refused": {func(b *retry.Budget) []mettle.Policy {
				return []mettle.Policy{hedge.New(hedge.Config{After: time.Second, Budget: b}), bulkhead.New(bulkhead.Config{Limit: 1})}
			}, func(context.Context) error { time.Sleep(time.Minute); return nil }, 5.1},
			"a hedge that loses in a queue": {func(b *retry.Budget) []mettle.Policy {
				return []mettle.Policy{hedge.New(hedge.Config{After: time.Second, Budget: b}), bulkhead.New(bulkhead.Config{Limit: 1, MaxWait: time.Hour})}
			}, func(context.Context) error { time.Sleep(time.Minute); return nil }, 5.1},
		} {
			b := retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1, Start: 10})
			for range 5 {
				b.Withdraw(mettle.Failure)
			}
			_ = mettle.Compose(test.policies(b)...).Do(t.Context(), test.op)
			if got := b.Balance(); math.Abs(got-test.want) > 1e-9 {
				t.Errorf("%s: the budget is at %v, want %v", name, got, test.want)
			}
		}
	})
}

// Where the price is for failures (retry.BudgetConfig.Threshold), a hedge for a call that
// has not failed costs nothing, and one for a call that has is paid for once. The delay
// was taken for a failure, so that slow answers alone used up what the retries had.
//
// Spec: H3, R17
func TestBudgetWithThreshold(t *testing.T) {
	for name, test := range map[string]struct {
		first func(context.Context) error
		want  float64
	}{
		"slow":   {hang, 10},
		"failed": {func(context.Context) error { return errDown }, 9.1},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := retry.NewBudget(retry.BudgetConfig{Threshold: 0.5, MinPerSecond: -1})
			h := hedge.New(hedge.Config{After: time.Second, Budget: b})
			err := h.Do(t.Context(), func(ctx context.Context) error {
				if mettle.Attempt(ctx) == 1 {
					return test.first(ctx)
				}
				return nil
			})
			if got := b.Balance(); err != nil || h.Stats().Wins != 1 || math.Abs(got-test.want) > 1e-9 {
				t.Errorf("%s: %v, the budget is at %v, want %v", name, err, got, test.want)
			}
		})
	}
}

// What the shared budget denies is not taken from the hedge's own.
//
// Spec: H3
func TestDeniedCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := retry.NewBudget(retry.BudgetConfig{Burst: 1, MinPerSecond: -1})
		b.Withdraw(mettle.Failure)
		h := hedge.New(hedge.Config{After: time.Second, Budget: b})
		runs := 0
		err := h.Do(t.Context(), func(context.Context) error { runs++; return errDown })
		if s := h.Stats(); err != errDown || runs != 1 || s.Denied != 1 || s.Hedges != 0 || s.Tokens != 10 {
			t.Errorf("%v after %d runs; %+v", err, runs, s)
		}
	})
}

// drive makes calls, one after the other on each of a few goroutines, for ten minutes.
func drive(p mettle.Policy, op func(n int) error) (calls int) {
	var all sync.WaitGroup
	var n atomic.Int64
	start := time.Now()
	for range 4 {
		all.Go(func() {
			for time.Since(start) < 10*time.Minute {
				n.Add(1)
				_ = p.Do(context.Background(), func(ctx context.Context) error {
					return op(int(n.Load()))
				})
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
	all.Wait()
	return int(n.Load())
}

// When all calls have become slow, or fail, hedges are next to none, and when a few are
// slow, each gets its hedge. The budget that is shared with a retry, which earns from every
// success however slow, does not change that.
//
// Spec: H3, R17
func TestLoad(t *testing.T) {
	for name, test := range map[string]struct {
		op          func(n int) error
		least, most float64 // hedges per call
	}{
		"all slow": {func(int) error { time.Sleep(100 * time.Millisecond); return nil }, 0, 0.01},
		"all fail": {func(int) error { return errDown }, 0, 0.01},
		"all hang": {func(int) error { time.Sleep(time.Second); return os.ErrDeadlineExceeded }, 0, 0.03}, // 3 calls a second, and 0.1 tokens
		"some slow": {func(n int) error {
			if n%25 == 0 {
				time.Sleep(time.Second)
			}
			return nil
		}, 0.035, 0.045},
	} {
		for _, shared := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				var b *retry.Budget
				if shared {
					b = retry.NewBudget(retry.BudgetConfig{})
				}
				h := hedge.New(hedge.Config{After: 20 * time.Millisecond, Budget: b})
				var p mettle.Policy = h
				if shared {
					p = mettle.Compose(retry.New(retry.Config{Budget: b, MaxAttempts: 1}), h)
				}
				calls := drive(p, test.op)
				hedges := float64(h.Stats().Hedges)
				// The burst of ten at the start is told apart.
				if hedges < test.least*float64(calls) || hedges > 10+test.most*float64(calls) {
					t.Errorf("%s, shared budget %t: %v hedges in %d calls", name, shared, hedges, calls)
				}
			})
		}
	}
}

// Spec: H3
func TestNoBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hedge.New(hedge.Config{After: time.Second, Budget: retry.NoBudget, Max: 3})
		for range 100 {
			_ = h.Do(t.Context(), func(context.Context) error { return errDown })
		}
		if s := h.Stats(); s.Hedges != 300 || s.Denied != 0 || !math.IsInf(s.Tokens, 1) {
			t.Errorf("%+v", s)
		}
	})
}

// Spec: H1, P10
func TestClassifier(t *testing.T) {
	notFound := errors.New("not found")
	h := hedge.New(hedge.Config{After: time.Hour, Classify: func(ctx context.Context, err error) mettle.Outcome {
		if err == notFound {
			return mettle.Success
		}
		return mettle.Classify(ctx, err)
	}})
	runs := 0
	if err := h.Do(t.Context(), func(context.Context) error { runs++; return notFound }); err != notFound || runs != 1 {
		t.Errorf("%v after %d runs, want the answer of the first", err, runs)
	}
}

// Spec: H1 (part), P8
func TestError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for name, test := range map[string]struct {
		ctx  context.Context
		errs []error
		want mettle.Outcome
		text string
	}{
		"failures":             {t.Context(), []error{errDown, late{cause{errDown}}}, mettle.Timeout, "hedge: 2 runs failed: down; down"},
		"a refusal comes last": {t.Context(), []error{late{cause{errDown}}, mettle.ErrRejected}, mettle.Timeout, "hedge: 2 runs failed: down; mettle: rejected"},
		"one alone":            {t.Context(), []error{mettle.ErrRejected}, mettle.Ignored, "mettle: rejected"},
		"the caller gave up":   {ctx, []error{nil, nil}, mettle.Ignored, "hedge: 2 runs failed: context canceled; context canceled"},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := hedge.New(hedge.Config{After: time.Second})
			var n atomic.Int32
			err := h.Do(test.ctx, func(ctx context.Context) error {
				i := int(n.Add(1)) - 1
				if test.errs[i] == nil {
					if i == 1 {
						cancel()
					}
					return hang(ctx)
				}
				return test.errs[i]
			})
			if err == nil || err.Error() != test.text {
				t.Fatalf("%s: %v, want %q", name, err, test.text)
			}
			if got := mettle.Classify(context.Background(), err); got != test.want {
				t.Errorf("%s: outcome %v, want %v", name, got, test.want)
			}
			for _, want := range test.errs {
				if want != nil && !errors.Is(err, want) {
					t.Errorf("%s: %v is not %v", name, err, want)
				}
			}
			if len(test.errs) > 1 {
				var e *hedge.Error
				if !errors.As(err, &e) || len(e.Errs) != 2 {
					t.Errorf("%s: %#v", name, err)
				}
				if v := e.LogValue(); v.Kind() != slog.KindGroup || len(v.Group()) != 2 || v.Group()[0].Key != "1" {
					t.Errorf("%s: logged as %v", name, v)
				}
			}
		})
	}
	if got := (&hedge.Error{}).Outcome(); got != mettle.Failure {
		t.Errorf("the zero Error is a %v", got)
	}
}

// Values that lose are given back, under a hedge as under any policy.
//
// Spec: H2
func TestLosersValuesAreDisposedOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hedge.New(hedge.Config{After: time.Second, Max: 3})
		var mu sync.Mutex
		open := make(map[int]bool)
		conn, err := mettle.GetDispose(t.Context(), h, func(ctx context.Context) (int, error) {
			n := mettle.Attempt(ctx)
			time.Sleep(time.Duration(10-n) * 700 * time.Millisecond) // deaf
			mu.Lock()
			defer mu.Unlock()
			open[n] = true
			return n, nil
		}, func(n int) {
			mu.Lock()
			defer mu.Unlock()
			delete(open, n)
		})
		if err != nil || len(open) != 1 || !open[conn] {
			t.Errorf("%d, %v; open are %v", conn, err, open)
		}
	})
}

// Spec: H3 (part), O1 (part)
func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hedge.New(hedge.Config{Name: "replicas", After: 50 * time.Millisecond})
		for range 12 { // the budget has ten, and what time earns after the first 50 ms
			_ = h.Do(t.Context(), func(ctx context.Context) error {
				if mettle.Attempt(ctx) == 2 {
					return nil
				}
				select {
				case <-ctx.Done():
					time.Sleep(11 * time.Millisecond)
				case <-time.After(time.Second / 2):
				}
				return nil
			})
		}
		got := make(map[string]float64)
		for m := range h.Observe {
			if len(m.Labels) != 1 || m.Labels[0] != (mettle.Label{Key: "policy", Value: "replicas"}) || m.Help == "" || m.Unit == "" {
				t.Errorf("%+v", m)
			}
			got[m.Name] = math.Round(m.Value*1000) / 1000
		}
		want := map[string]float64{
			"mettle.hedge.hedges": 10, "mettle.hedge.wins": 10, "mettle.hedge.denied": 2, "mettle.hedge.abandoned": 10,
			"mettle.hedge.delay": 0.05, "mettle.hedge.tokens": 0.005,
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v\nwant %v", got, want)
		}
		if n := testing.AllocsPerRun(100, func() { h.Observe(func(mettle.Metric) bool { return true }) }); n != 0 {
			t.Errorf("Observe allocates %v times", n)
		}
	})
}

// Timers, answers and callers who give up meet at once, on the wall clock: what happens at
// one moment in a bubble happens side by side here. What must hold holds in any order.
//
// Spec: H5, P3, P11
func TestRaces(t *testing.T) {
	h := hedge.New(hedge.Config{After: time.Microsecond, Max: 3, Budget: retry.NoBudget})
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 300 {
				ctx, cancel := context.WithCancel(t.Context())
				var running, runs atomic.Int32
				v, err := mettle.Get(ctx, h, func(ctx context.Context) (int32, error) {
					running.Add(1)
					defer running.Add(-1)
					n := runs.Add(1)
					for range (g*31 + i*17) % 200 {
						runtime.Gosched()
					}
					switch {
					case ctx.Err() != nil:
						return 0, context.Cause(ctx)
					case (i+int(n))%3 == 0:
						return 0, errDown
					case (i+int(n))%40 == 0:
						cancel()
						return 0, ctx.Err()
					}
					return n, nil
				})
				cancel()
				if running.Load() != 0 {
					t.Errorf("%d runs are left", running.Load())
				}
				if n := runs.Load(); n < 1 || n > 4 || (err == nil) != (v > 0) || v > n {
					t.Errorf("%d runs, and the result is that of %d, %v", n, v, err)
				}
			}
		})
	}
	all.Wait()
	if s := h.Stats(); s.Hedges == 0 || s.Wins == 0 {
		t.Errorf("nothing was hedged: %+v", s)
	}
}

// A value is disposed of once also where a call crashes beside it, or in the disposal.
//
// Spec: H2 (part), P5
func TestValuesBesideACrash(t *testing.T) {
	type seam struct {
		second, dispose func() // what the second run, and the disposal, do
		value           any
		exited          bool
	}
	nothing := func() {}
	for name, test := range map[string]seam{
		"no crash":          {nothing, nothing, nil, false},
		"panic":             {func() { panic("boom") }, nothing, "boom", false},
		"Goexit":            {exit, nothing, nil, true},
		"dispose panics":    {nothing, func() { panic("boom") }, "boom", false},
		"dispose by Goexit": {nothing, exit, nil, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := hedge.New(hedge.Config{After: time.Second})
			var mu sync.Mutex
			held := map[int]bool{}
			value, exited := crash(func() {
				v, err := mettle.GetDispose(t.Context(), h, func(ctx context.Context) (int, error) {
					n := mettle.Attempt(ctx)
					if n == 2 {
						test.second()
					} else {
						<-ctx.Done() // and has a value all the same
					}
					mu.Lock()
					defer mu.Unlock()
					held[n] = true
					return n, nil
				}, func(n int) {
					mu.Lock()
					if !held[n] {
						t.Errorf("%s: value %d is disposed of twice", name, n)
					}
					delete(held, n)
					mu.Unlock()
					test.dispose()
				})
				if v != 2 || err != nil {
					t.Errorf("%s: %d, %v", name, v, err)
				}
				delete(held, v)
			})
			if value != test.value || exited != test.exited || len(held) != 0 {
				t.Errorf("%s: recovered %v, exited %t, not disposed of: %v", name, value, exited, held)
			}
		})
	}
}
