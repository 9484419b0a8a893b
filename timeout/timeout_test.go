package timeout_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/timeout"
)

const after = time.Second

var errDown = errors.New("down")

// forms are the ways into a Timeout, which must not differ.
var forms = []struct {
	name string
	bind func(*timeout.Timeout) mettle.Policy
}{
	{"Do", func(p *timeout.Timeout) mettle.Policy { return p }},
	{"Wrap", func(p *timeout.Timeout) mettle.Policy { return mettle.Compose(p) }},
	{"inside", func(p *timeout.Timeout) mettle.Policy {
		return mettle.Compose(mettle.PolicyFunc(passes), p, mettle.PolicyFunc(passes))
	}},
}

func passes(ctx context.Context, op func(context.Context) error) error { return op(ctx) }

func forEachForm(t *testing.T, test func(*testing.T, *timeout.Timeout, mettle.Policy)) {
	t.Helper()
	for _, form := range forms {
		t.Run(form.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := timeout.New(timeout.Config{Name: "payments", After: after})
				test(t, p, form.bind(p))
			})
		})
	}
}

func wantStats(t *testing.T, p *timeout.Timeout, want timeout.Stats) {
	t.Helper()
	got := p.Stats()
	want.After = got.After // see TestDeadlineOfTheContext
	if got != want {
		t.Errorf("Stats = %+v, want %+v", got, want)
	}
}

// wantExceeded checks all that the failure of a call past its deadline promises.
func wantExceeded(t *testing.T, err, own error) {
	t.Helper()
	for _, want := range []error{timeout.ErrExceeded, context.DeadlineExceeded, own} {
		if !errors.Is(err, want) {
			t.Errorf("%v: Is not %v", err, want)
		}
	}
	var e *timeout.Error
	if !errors.As(err, &e) || e.Name != "payments" || e.After != after || !e.Timeout() {
		t.Errorf("%v: As *Error is %+v", err, e)
	}
	var n net.Error
	if !errors.As(err, &n) || !n.Timeout() {
		t.Errorf("%v: no net.Error that timed out", err)
	}
	if got := mettle.Classify(context.Background(), err); got != mettle.Timeout {
		t.Errorf("%v is a %v, want a timeout", err, got)
	}
	if errors.Is(err, mettle.ErrRejected) {
		t.Errorf("%v is a refusal", err)
	}
}

// Spec: P10
func TestConfig(t *testing.T) {
	for _, c := range []timeout.Config{
		{}, {After: 1}, {After: math.MaxInt64}, {After: math.MaxInt64, Quantile: 0.5, Floor: math.MaxInt64},
		{Quantile: math.SmallestNonzeroFloat64}, {Quantile: math.Nextafter(1, 0)}, {Floor: 10 * time.Second}, {After: 1, Floor: 1, Quantile: 0.9},
	} {
		if err := c.Validate(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		p := timeout.New(c)
		for range 3 {
			if err := p.Do(t.Context(), func(context.Context) error { return errDown }); c.After != 1 && err != errDown || !errors.Is(err, errDown) {
				t.Errorf("%+v: Do: %v", c, err)
			}
		}
	}
	for _, test := range []struct {
		c    timeout.Config
		want string
	}{
		{timeout.Config{After: -time.Second}, "timeout: After is -1s, must be positive, or zero for 10s"},
		{timeout.Config{After: math.MinInt64}, "timeout: After is -2562047h47m16.854775808s, must be positive, or zero for 10s"},
		{timeout.Config{Quantile: math.NaN()}, "timeout: Quantile is NaN, must be above 0 and below 1, or zero for none"},
		{timeout.Config{Quantile: -0.5}, "timeout: Quantile is -0.5, must be above 0 and below 1, or zero for none"},
		{timeout.Config{Quantile: 1}, "timeout: Quantile is 1, must be above 0 and below 1, or zero for none"},
		{timeout.Config{Quantile: 99.9}, "timeout: Quantile is 99.9, must be above 0 and below 1, or zero for none"},
		{timeout.Config{Quantile: math.Inf(1)}, "timeout: Quantile is +Inf, must be above 0 and below 1, or zero for none"},
		{timeout.Config{Floor: -1}, "timeout: Floor is -1ns, must be from 0 to After, which is 10s"},
		{timeout.Config{Floor: 11 * time.Second}, "timeout: Floor is 11s, must be from 0 to After, which is 10s"},
		{timeout.Config{After: time.Second, Floor: time.Minute}, "timeout: Floor is 1m0s, must be from 0 to After, which is 1s"},
		{timeout.Config{After: -1, Quantile: 2, Floor: -1}, "timeout: After is -1ns, must be positive, or zero for 10s\n" +
			"timeout: Quantile is 2, must be above 0 and below 1, or zero for none\n" +
			"timeout: Floor is -1ns, must be zero or positive"},
	} {
		err := test.c.Validate()
		if err == nil || err.Error() != test.want {
			t.Errorf("%+v: Validate: %v, want %q", test.c, err, test.want)
			continue
		}
		func() {
			defer func() {
				if p := recover(); p != err.Error() {
					t.Errorf("New panicked with %v, want the message of Validate", p)
				}
			}()
			timeout.New(test.c)
		}()
	}
}

// A nil op is a mistake of the caller's like any other nil function, and holds nothing.
//
// Spec: P5
func TestNilOp(t *testing.T) {
	p := timeout.New(timeout.Config{After: after})
	for _, bound := range []mettle.Policy{p, mettle.Compose(p)} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("a nil op did not panic")
				}
			}()
			_ = bound.Do(t.Context(), nil)
		}()
	}
	wantStats(t, p, timeout.Stats{})
}

// Spec: T1, P10
func TestDeadlineOfTheContext(t *testing.T) {
	for _, test := range []struct{ after, want time.Duration }{
		{0, 10 * time.Second},
		{time.Minute, time.Minute},
		{math.MaxInt64, math.MaxInt64},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := timeout.New(timeout.Config{After: test.after})
			time.Sleep(time.Hour) // counted from the call, not from New
			start := time.Now()
			err := p.Do(t.Context(), func(ctx context.Context) error {
				if d, ok := ctx.Deadline(); !ok || !d.Equal(start.Add(test.want)) {
					t.Errorf("After %v: Deadline = %v, %v, want %v from now", test.after, d, ok, test.want)
				}
				if ended(ctx) || ctx.Err() != nil {
					t.Errorf("After %v: ended on entry", test.after)
				}
				return errDown
			})
			if err != errDown {
				t.Errorf("After %v: %v", test.after, err)
			}
			if got := p.Stats().After; got != test.want {
				t.Errorf("After %v: Stats say %v", test.after, got)
			}
		})
	}
}

func ended(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	default:
		return false
	}
}

// Spec: T1, P14
func TestExceeded(t *testing.T) {
	for name, op := range map[string]func(context.Context) error{
		"returns Err":   func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"returns Cause": func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) },
		"wraps Err":     func(ctx context.Context) error { <-ctx.Done(); return fmt.Errorf("pay: %w", ctx.Err()) },
		"wraps Cause":   func(ctx context.Context) error { <-ctx.Done(); return fmt.Errorf("pay: %w", context.Cause(ctx)) },
		"polls Err": func(ctx context.Context) error {
			for ctx.Err() == nil {
				time.Sleep(after / 10)
			}
			return ctx.Err()
		},
		"asks a child": func(ctx context.Context) error {
			child, cancel := context.WithCancel(ctx)
			defer cancel()
			<-child.Done()
			return context.Cause(child)
		},
		// The context may be a moment behind: whether its timer or op's runs first
		// is not for anybody to say.
		"knows the deadline": func(ctx context.Context) error {
			d, _ := ctx.Deadline()
			time.Sleep(time.Until(d))
			return context.DeadlineExceeded
		},
		"knows the deadline, asked Done": func(ctx context.Context) error {
			ctx.Done()
			d, _ := ctx.Deadline()
			time.Sleep(time.Until(d))
			return errDown
		},
		"fails of something else": func(context.Context) error { time.Sleep(after); return errDown },
	} {
		t.Run(name, func(t *testing.T) {
			forEachForm(t, func(t *testing.T, p *timeout.Timeout, bound mettle.Policy) {
				start := time.Now()
				var own error
				err := bound.Do(t.Context(), func(ctx context.Context) error {
					own = op(ctx)
					if got := context.Cause(ctx); got != nil && !errors.Is(got, timeout.ErrExceeded) {
						t.Errorf("Cause = %v", got)
					}
					return own
				})
				wantExceeded(t, err, own)
				if d := time.Since(start); d != after {
					t.Errorf("took %v, want %v", d, after)
				}
				wantStats(t, p, timeout.Stats{Exceeded: 1})
			})
		})
	}
}

// The text says once what happened, and whose deadline it was.
//
// Spec: T1
func TestErrorText(t *testing.T) {
	for _, test := range []struct {
		name string
		op   func(context.Context) error
		want string
	}{
		{"payments", func(ctx context.Context) error { return ctx.Err() }, "timeout: payments: exceeded 1s: context deadline exceeded"},
		{"", func(ctx context.Context) error { return ctx.Err() }, "timeout: exceeded 1s: context deadline exceeded"},
		{"payments", func(ctx context.Context) error { return context.Cause(ctx) }, "timeout: payments: exceeded 1s: context deadline exceeded"},
		{"payments", func(ctx context.Context) error { return fmt.Errorf("pay: %w", context.Cause(ctx)) },
			"pay: timeout: payments: exceeded 1s: context deadline exceeded"},
		{"payments", func(context.Context) error { return errDown }, "timeout: payments: exceeded 1s: down"},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := timeout.New(timeout.Config{Name: test.name, After: after})
			err := p.Do(t.Context(), func(ctx context.Context) error {
				time.Sleep(after)
				return test.op(ctx)
			})
			if err == nil || err.Error() != test.want {
				t.Errorf("got %q, want %q", err, test.want)
			}
		})
	}
	if got, want := timeout.ErrExceeded.Error(), "timeout: deadline exceeded"; got != want {
		t.Errorf("ErrExceeded is %q, want %q", got, want)
	}
	var n net.Error
	if !errors.As(timeout.ErrExceeded, &n) || !n.Timeout() || !errors.Is(timeout.ErrExceeded, context.DeadlineExceeded) {
		t.Error("ErrExceeded is no context.DeadlineExceeded with Timeout() true")
	}
}

// Spec: T1
func TestFailureInTimeComesBackAsItIs(t *testing.T) {
	forEachForm(t, func(t *testing.T, p *timeout.Timeout, bound mettle.Policy) {
		for _, own := range []error{errDown, context.DeadlineExceeded, context.Canceled} {
			err := bound.Do(t.Context(), func(context.Context) error {
				time.Sleep(after - 1)
				return own
			})
			if err != own {
				t.Errorf("got %v, want %v as it is", err, own)
			}
		}
		wantStats(t, p, timeout.Stats{})
	})
}

// Spec: T2, T6, P9
func TestLateSuccess(t *testing.T) {
	for name, begin := range map[string]func(context.Context){
		"asks for nothing": func(context.Context) {},
		"asked for Done":   func(ctx context.Context) { ctx.Done() },
	} {
		t.Run(name, func(t *testing.T) {
			forEachForm(t, func(t *testing.T, p *timeout.Timeout, bound mettle.Policy) {
				for _, test := range []struct {
					takes time.Duration
					want  timeout.Stats // in all
				}{
					{after - 1, timeout.Stats{}},
					{after + time.Millisecond, timeout.Stats{Late: 1}},
					{after + after/10, timeout.Stats{Late: 2}},
					{after + after/10 + 1, timeout.Stats{Late: 3, Abandoned: 1}},
					{100 * after, timeout.Stats{Late: 4, Abandoned: 2}},
				} {
					start := time.Now()
					err := bound.Do(t.Context(), func(ctx context.Context) error {
						begin(ctx)
						time.Sleep(test.takes)
						return nil
					})
					if err != nil {
						t.Errorf("a success after %v came back as %v", test.takes, err)
					}
					if d := time.Since(start); d != test.takes {
						t.Errorf("returned after %v, op after %v", d, test.takes)
					}
					wantStats(t, p, test.want)
				}
			})
		})
	}
}

// A short timeout is not held to a tenth of nothing: no operation returns in the
// same instant.
//
// Spec: T6
func TestAbandonedFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := timeout.New(timeout.Config{After: time.Millisecond})
		fail := func(d time.Duration) {
			_ = p.Do(t.Context(), func(context.Context) error { time.Sleep(d); return errDown })
		}
		fail(11 * time.Millisecond)
		wantStats(t, p, timeout.Stats{Exceeded: 1})
		fail(12 * time.Millisecond)
		wantStats(t, p, timeout.Stats{Exceeded: 2, Abandoned: 1})
	})
}

// Spec: T3
func TestCallersEarlierDeadline(t *testing.T) {
	forEachForm(t, func(t *testing.T, p *timeout.Timeout, bound mettle.Policy) {
		for _, d := range []time.Duration{after / 2, after} {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			var own error
			err := bound.Do(ctx, func(given context.Context) error {
				if given != ctx {
					t.Errorf("op was given %v, want the caller's context", given)
				}
				<-given.Done()
				own = fmt.Errorf("pay: %w", context.Cause(given))
				time.Sleep(2 * after) // past our own deadline too
				return own
			})
			cancel()
			if err != own || errors.Is(err, timeout.ErrExceeded) {
				t.Errorf("a caller with %v: %v, want op's error as it is", d, err)
			}
		}
		wantStats(t, p, timeout.Stats{})
	})
}

// Spec: T3
func TestCallersLaterDeadline(t *testing.T) {
	forEachForm(t, func(t *testing.T, p *timeout.Timeout, bound mettle.Policy) {
		for _, d := range []time.Duration{after + 1, 2 * after} {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			err := bound.Do(ctx, func(given context.Context) error {
				time.Sleep(3 * after) // nobody looked when either passed
				return given.Err()
			})
			cancel()
			wantExceeded(t, err, context.DeadlineExceeded)
		}
		wantStats(t, p, timeout.Stats{Exceeded: 2, Abandoned: 2})
	})
}

// Spec: T3, P14
func TestCallerCancels(t *testing.T) {
	gone := errors.New("client gone")
	for name, begin := range map[string]func(context.Context){
		"asks for nothing": func(context.Context) {},
		"asked for Done":   func(ctx context.Context) { ctx.Done() },
	} {
		t.Run(name, func(t *testing.T) {
			forEachForm(t, func(t *testing.T, p *timeout.Timeout, bound mettle.Policy) {
				ctx, cancel := context.WithCancelCause(t.Context())
				err := bound.Do(ctx, func(given context.Context) error {
					begin(given)
					time.Sleep(after / 2)
					cancel(gone)
					time.Sleep(2 * after) // op is slow to hear of it
					return context.Cause(given)
				})
				if err != gone {
					t.Errorf("got %v, want the caller's cause", err)
				}
				if got := mettle.Classify(ctx, err); got != mettle.Ignored {
					t.Errorf("%v is a %v, want ignored", err, got)
				}
				wantStats(t, p, timeout.Stats{})
			})
		})
	}
}

// expired is a caller's context that ends as if by a deadline, and tells of none.
type expired struct {
	context.Context
	at time.Time
}

func (expired) Deadline() (time.Time, bool) { return time.Time{}, false }

func (c expired) Err() error {
	if time.Now().Before(c.at) {
		return nil
	}
	return context.DeadlineExceeded
}

// Spec: T3
func TestCallersHiddenDeadline(t *testing.T) {
	for name, begin := range map[string]func(context.Context){
		"asks for nothing": func(context.Context) {},
		"asked for Done":   func(ctx context.Context) { ctx.Done() },
	} {
		t.Run(name, func(t *testing.T) {
			forEachForm(t, func(t *testing.T, p *timeout.Timeout, bound mettle.Policy) {
				inner, cancel := context.WithTimeout(t.Context(), after/2)
				defer cancel()
				err := bound.Do(expired{inner, time.Now().Add(after / 2)}, func(ctx context.Context) error {
					begin(ctx)
					time.Sleep(2 * after)
					return ctx.Err()
				})
				if err != context.DeadlineExceeded {
					t.Errorf("got %v, want what the caller's context says", err)
				}
				wantStats(t, p, timeout.Stats{})
			})
		})
	}
}

// A caller that is told of the expiry by somebody else, and cancels after it, does
// not turn the timeout into its own doing.
//
// Spec: T3
func TestCallerCancelsAfterExpiry(t *testing.T) {
	forEachForm(t, func(t *testing.T, p *timeout.Timeout, bound mettle.Policy) {
		ctx, cancel := context.WithCancel(t.Context())
		err := bound.Do(ctx, func(given context.Context) error {
			<-given.Done()
			cancel()
			return errDown
		})
		wantExceeded(t, err, errDown)
		wantStats(t, p, timeout.Stats{Exceeded: 1})
	})
}

// Spec: P4
func TestDoneOnEntry(t *testing.T) {
	forEachForm(t, func(t *testing.T, p *timeout.Timeout, bound mettle.Policy) {
		gone := errors.New("client gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(gone)
		err := bound.Do(ctx, func(context.Context) error { t.Error("op ran"); return nil })
		if err != gone {
			t.Errorf("got %v, want the caller's cause", err)
		}
		late, cancelLate := context.WithDeadline(t.Context(), time.Now())
		defer cancelLate()
		err = bound.Do(late, func(context.Context) error { t.Error("op ran"); return nil })
		if err != context.DeadlineExceeded {
			t.Errorf("got %v, want the caller's deadline", err)
		}
		wantStats(t, p, timeout.Stats{})
	})
}

// Spec: P3, P5, T4
func TestContextEndsWithDo(t *testing.T) {
	ends := map[string]func(){
		"return":  func() {},
		"panic":   func() { panic("boom") },
		"Goexit":  runtime.Goexit,
		"nothing": func() { panic(nil) },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			forEachForm(t, func(t *testing.T, p *timeout.Timeout, bound mettle.Policy) {
				var kept, asked, child context.Context
				heard := false
				var recovered any
				var wg sync.WaitGroup
				wg.Go(func() {
					defer func() { recovered = recover() }()
					_ = bound.Do(t.Context(), func(ctx context.Context) error {
						kept = ctx
						return bound.Do(context.WithoutCancel(ctx), func(ctx context.Context) error {
							asked = ctx
							var cancel context.CancelFunc
							child, cancel = context.WithCancel(ctx)
							_ = cancel
							context.AfterFunc(ctx, func() { heard = true })
							end()
							return nil
						})
					})
				})
				wg.Wait()
				synctest.Wait()
				for what, ctx := range map[string]context.Context{"never asked": kept, "asked": asked, "derived": child} {
					if !ended(ctx) || ctx.Err() != context.Canceled || context.Cause(ctx) != context.Canceled {
						t.Errorf("%s: Err %v, Cause %v, want it cancelled", what, ctx.Err(), context.Cause(ctx))
					}
				}
				if !heard {
					t.Error("AfterFunc did not run")
				}
				switch _, isNil := recovered.(*runtime.PanicNilError); {
				case name == "panic" && recovered != "boom", name == "nothing" && !isNil:
					t.Errorf("recovered %v", recovered)
				}
				wantStats(t, p, timeout.Stats{})
			})
		})
	}
}

// Timeouts within one another: the one whose deadline passed says so, and no other.
//
// Spec: T1, T3, P1
func TestNested(t *testing.T) {
	for _, test := range []struct {
		name         string
		outer, inner time.Duration
		takes        time.Duration
		outerN       uint64
		innerN       uint64
	}{
		{"inner first", 4 * after, after, after, 0, 1},
		{"outer first", after, 4 * after, after, 1, 0},
		{"the same", after, after, after, 1, 0},
		{"both", 2 * after, after, 3 * after, 1, 1},
		{"neither", 2 * after, after, after / 2, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				outer := timeout.New(timeout.Config{Name: "total", After: test.outer})
				inner := timeout.New(timeout.Config{Name: "attempt", After: test.inner})
				mark := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
					return op(mettle.WithAttempt(ctx, 1)) // as a retry between them does
				})
				p := mettle.Compose(outer, mark, inner)
				err := p.Do(t.Context(), func(context.Context) error { time.Sleep(test.takes); return errDown })
				if !errors.Is(err, errDown) {
					t.Errorf("got %v", err)
				}
				if n := outer.Stats().Exceeded; n != test.outerN {
					t.Errorf("%d calls exceeded the outer deadline, want %d", n, test.outerN)
				}
				if n := inner.Stats().Exceeded; n != test.innerN {
					t.Errorf("%d calls exceeded the inner deadline, want %d", n, test.innerN)
				}
				var e *timeout.Error
				want := map[bool]string{true: "total", false: "attempt"}[test.outerN == 1]
				if exceeded := test.outerN+test.innerN > 0; errors.As(err, &e) != exceeded || exceeded && e.Name != want {
					t.Errorf("%v names %+v first, want %s", err, e, want)
				}
			})
		})
	}
}

// A policy may stand inside itself.
//
// Spec: P11, T3
func TestReentrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := timeout.New(timeout.Config{Name: "payments", After: after})
		err := p.Do(t.Context(), func(ctx context.Context) error {
			time.Sleep(after / 2)
			return p.Do(ctx, func(inner context.Context) error {
				if inner != ctx {
					t.Error("the deadline of the first is not the one that counts")
				}
				<-inner.Done()
				return inner.Err()
			})
		})
		wantExceeded(t, err, context.DeadlineExceeded)
		wantStats(t, p, timeout.Stats{Exceeded: 1})
	})
}

// A policy made long before, or outside the bubble of a test, tells the same time.
//
// Spec: P11
func TestMadeElsewhere(t *testing.T) {
	p := timeout.New(timeout.Config{Name: "payments", After: after})
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := p.Do(t.Context(), func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		wantExceeded(t, err, context.DeadlineExceeded)
		if d := time.Since(start); d != after {
			t.Errorf("took %v, want %v", d, after)
		}
		_ = p.Do(t.Context(), func(ctx context.Context) error {
			time.Sleep(2 * after)
			if !ended(ctx) {
				t.Error("an expiry that nobody watched does not show")
			}
			return nil
		})
	})
}

// Spec: P11
func TestConcurrentCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := timeout.New(timeout.Config{Name: "payments", After: after})
		var wg sync.WaitGroup
		for i := range 300 {
			wg.Go(func() {
				err := p.Do(t.Context(), func(ctx context.Context) error {
					switch i % 3 {
					case 0:
						return nil
					case 1:
						time.Sleep(2 * after)
						return nil
					}
					<-ctx.Done()
					return ctx.Err()
				})
				if (err != nil) != (i%3 == 2) {
					t.Errorf("call %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		wantStats(t, p, timeout.Stats{Exceeded: 100, Late: 100, Abandoned: 100})
	})
}

// Spec: P12
func TestObserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := timeout.New(timeout.Config{Name: "payments", After: after})
		for _, err := range []error{errDown, errDown, nil} {
			_ = p.Do(t.Context(), func(context.Context) error { time.Sleep(2 * after); return err })
		}
		var got []string
		for m := range p.Observe {
			got = append(got, fmt.Sprintf("%v %s %s %v %v", m.Kind, m.Name, m.Unit, m.Labels, m.Value))
		}
		want := []string{
			"counter mettle.timeout.exceeded {call} [{policy payments}] 2",
			"counter mettle.timeout.late {call} [{policy payments}] 1",
			"counter mettle.timeout.abandoned {call} [{policy payments}] 3",
			"gauge mettle.timeout.overdue {call} [{policy payments}] 0",
			"gauge mettle.timeout.after s [{policy payments}] 1",
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		for range p.Observe {
			break // must not be called again
		}
		var sum float64
		if n := testing.AllocsPerRun(100, func() {
			p.Observe(func(m mettle.Metric) bool { sum += m.Value; return true })
			_ = p.Stats()
		}); n != 0 {
			t.Errorf("Observe and Stats allocate %v times", n)
		}
	})
}

// Spec: P13, T3, T5
func TestAllocations(t *testing.T) {
	p := timeout.New(timeout.Config{After: time.Hour})
	wrapped := mettle.Compose(p)
	background := context.Background()
	sooner, cancel := context.WithTimeout(background, time.Minute)
	defer cancel()
	looks := func(ctx context.Context) error { // at all that needs no timer
		ctx.Deadline()
		_ = mettle.Attempt(ctx)
		return ctx.Err()
	}
	for _, test := range []struct {
		name string
		p    mettle.Policy
		ctx  context.Context
		op   func(context.Context) error
		want float64
	}{
		{"Do", p, background, quick, 1},
		{"Wrap", wrapped, background, quick, 1},
		{"op asks but not for Done", p, background, looks, 1},
		{"two of them", mettle.Compose(timeout.New(timeout.Config{After: 2 * time.Hour}), p), background, looks, 2},
		{"the caller's deadline is first", p, sooner, looks, 0},
	} {
		if got := testing.AllocsPerRun(100, func() { _ = test.p.Do(test.ctx, test.op) }); got != test.want {
			t.Errorf("%s: %v allocations, want %v", test.name, got, test.want)
		}
	}
}

// A stream lives on after it has been made in time, and ends when it likes.
//
// Spec: G8
func TestStopped(t *testing.T) {
	down := errors.New("down")
	forEachForm(t, func(t *testing.T, inner *timeout.Timeout, bound mettle.Policy) {
		outer := timeout.New(timeout.Config{After: 2 * after})
		callers := timeout.New(timeout.Config{After: 3 * after})
		pipeline := mettle.Compose(outer, bound)
		for _, want := range []error{nil, down} {
			err := callers.Do(t.Context(), func(entered context.Context) error {
				err := pipeline.Do(entered, func(ctx context.Context) error {
					timeout.Stop(ctx, entered)
					<-ctx.Done()
					if !errors.Is(context.Cause(ctx), timeout.ErrExceeded) {
						t.Errorf("the context ended with %v", context.Cause(ctx))
					}
					time.Sleep(100 * after)
					if s := inner.Stats(); s.Overdue > 0 {
						t.Errorf("%d calls are overdue", s.Overdue)
					}
					return want
				})
				if err != want {
					t.Errorf("%v came back as %v", want, err)
				}
				return err
			})
			if want != nil && !errors.Is(err, timeout.ErrExceeded) {
				t.Errorf("the caller's own Timeout was stopped: %v", err)
			}
		}
		wantStats(t, inner, timeout.Stats{})
		wantStats(t, outer, timeout.Stats{})
		if all := append(inner.Abandoned(), outer.Abandoned()...); len(all) > 0 {
			t.Errorf("taken for abandoned: %v", all)
		}
		wantStats(t, callers, timeout.Stats{Exceeded: 1, Late: 1, Abandoned: 2})

		// What was not made in time is late, whatever happened before.
		err := pipeline.Do(t.Context(), func(ctx context.Context) error {
			timeout.Stop(t.Context(), t.Context()) // there are none
			time.Sleep(after)
			return down
		})
		if !errors.Is(err, timeout.ErrExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// A stream can end while its adapter is about to call Stop. Then the call was taken out of
// the count of those in flight twice, and one that hung later did not show.
//
// Spec: G8 (part), T6
func TestStoppedTooLate(t *testing.T) {
	forEachForm(t, func(t *testing.T, p *timeout.Timeout, bound mettle.Policy) {
		var inner context.Context
		_ = bound.Do(t.Context(), func(ctx context.Context) error { inner = ctx; return nil })
		timeout.Stop(inner, t.Context())
		hang := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { _ = bound.Do(t.Context(), func(context.Context) error { <-hang; return errDown }) })
		time.Sleep(100 * after)
		wantStats(t, p, timeout.Stats{Overdue: 1})
		close(hang)
		wg.Wait()
		wantStats(t, p, timeout.Stats{Exceeded: 1, Abandoned: 1})
	})
}
