package retry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/retry"
)

type ctx = context.Context

var (
	bg      = context.Background()
	errDown = errors.New("the backend is down")
	errFull = refusal{after: -1}
)

// refusal is what an inner policy refuses with.
type refusal struct{ after time.Duration }

func (refusal) Error() string               { return "gate: closed" }
func (refusal) Is(target error) bool        { return target == mettle.ErrRejected }
func (r refusal) RetryAfter() time.Duration { return r.after }

// answer is an error about the request, which is a success of the dependency.
type answer string

func (a answer) Error() string         { return string(a) }
func (answer) Outcome() mettle.Outcome { return mettle.Success }

// suggestion is a failure that says when to come back.
type suggestion time.Duration

func (suggestion) Error() string               { return "busy" }
func (s suggestion) RetryAfter() time.Duration { return time.Duration(s) }

// script is an op that ends its attempts as told, the last way over and over, and
// remembers when they began.
type script struct {
	errs   []error
	starts []time.Time
}

func fails(errs ...error) *script { return &script{errs: errs} }

func (s *script) op(ctx ctx) error {
	if ctx.Err() != nil {
		panic("op runs under a context that is done")
	}
	s.starts = append(s.starts, time.Now())
	return s.errs[min(len(s.starts), len(s.errs))-1]
}

// waits returns the times from the start of one attempt to the start of the next.
func (s *script) waits() (waits []time.Duration) {
	for i := range len(s.starts) - 1 {
		waits = append(waits, s.starts[i+1].Sub(s.starts[i]))
	}
	return waits
}

func bubble(t *testing.T, name string, test func(*testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}

// wantStop checks that err is an *Error with these fields.
func wantStop(t *testing.T, err error, attempts int, elapsed time.Duration, last, reason error) {
	t.Helper()
	var e *retry.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an *Error", err)
	}
	if e.Attempts != attempts || e.Elapsed != elapsed || e.Last != last || !errors.Is(e.Reason, reason) {
		t.Errorf("got %+v, want %d attempts in %v, last %v, reason %v", *e, attempts, elapsed, last, reason)
	}
	if !errors.Is(err, last) || !errors.Is(err, reason) {
		t.Errorf("%v is not both %v and %v", err, last, reason)
	}
}

// Spec: R1, R4
func TestAttemptsAreCounted(t *testing.T) {
	for n := range 6 {
		want := n
		if n == 0 {
			want = 3 // the default
		}
		bubble(t, fmt.Sprint("MaxAttempts ", n), func(t *testing.T) {
			var events []retry.Event
			var planned []time.Duration
			r := retry.New(retry.Config{
				MaxAttempts: n, Backoff: retry.Constant(time.Second),
				OnRetry: func(e retry.Event) { events = append(events, e) },
			})
			traced := mettle.WithTrace(bg, &mettle.Trace{Wait: func(e mettle.TraceEvent) { planned = append(planned, e.Delay) }})
			s := fails(errDown)
			err := r.Do(traced, s.op)
			wantStop(t, err, want, time.Duration(want-1)*time.Second, errDown, retry.ErrExhausted)
			if len(s.starts) != want || len(events) != want-1 || len(planned) != want-1 {
				t.Errorf("%d attempts, %d events, %d waits; want %d attempts", len(s.starts), len(events), len(planned), want)
			}
		})
	}
}

// Spec: R7, P13
func TestHealthyCallCosts(t *testing.T) {
	r := retry.New(retry.Config{})
	succeed := func(ctx) error { return nil }
	if got := testing.AllocsPerRun(100, func() { _ = r.Do(bg, succeed) }); got > 1 {
		t.Errorf("Do allocates %v times, want 1", got)
	}
	if got := testing.AllocsPerRun(100, func() {
		n := 0
		_ = r.Do(bg, func(ctx) error { n++; return nil })
	}); got > 1 {
		t.Errorf("Do of a closure allocates %v times, want 1", got)
	}
	p := mettle.Compose(r)
	if got := testing.AllocsPerRun(100, func() { _ = p.Do(bg, succeed) }); got > 1 {
		t.Errorf("a pipeline allocates %v times, want 1", got)
	}
	inside := mettle.WithAttempt(bg, 1)
	if got := testing.AllocsPerRun(100, func() { _ = r.Do(inside, succeed) }); got > 1 {
		t.Errorf("inside another attempt Do allocates %v times, want 1", got)
	}
	refused := fmt.Errorf("inner: %w", errFull)
	refuse := func(ctx) error { return refused }
	if got := testing.AllocsPerRun(100, func() { _ = r.Do(bg, refuse) }); got > 1 {
		t.Errorf("a refusal passing through allocates %v times, want 1", got)
	}
}

// Spec: R7, P9
func TestSuccessComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, start := retry.New(retry.Config{}), time.Now()
		value := new(int)
		got, err := mettle.Get(bg, r, func(ctx) (*int, error) { return value, nil })
		if got != value || err != nil || time.Since(start) != 0 {
			t.Errorf("got %p, %v after %v; want %p at once", got, err, time.Since(start), value)
		}
		ctx, cancel := context.WithCancel(bg)
		if err := r.Do(ctx, func(context.Context) error { cancel(); return nil }); err != nil {
			t.Errorf("a success under a context that ended meanwhile: %v", err)
		}
	})
}

// Spec: R1, R7
func TestDefaultBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fails(errDown)
		r := retry.New(retry.Config{MaxAttempts: 8, Rand: rand.NewPCG(1, 2)})
		_ = r.Do(bg, s.op)
		backoff := retry.Jitter{Rand: rand.NewPCG(1, 2)}.Full(100*time.Millisecond, 5*time.Second)
		for i, got := range s.waits() {
			if want := backoff(i+1, 0); got != want {
				t.Errorf("wait %d is %v, want %v", i+1, got, want)
			}
		}
	})
}

// Spec: R2, R4
func TestContextEndsTheWait(t *testing.T) {
	bubble(t, "cancelled", func(t *testing.T) {
		b := retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1, Start: 10})
		r := retry.New(retry.Config{Backoff: retry.Constant(time.Hour), Budget: b})
		enough := errors.New("enough")
		ctx, cancel := context.WithCancelCause(bg)
		time.AfterFunc(time.Second, func() { cancel(enough) })
		s, start := fails(errDown), time.Now()
		err := r.Do(ctx, s.op)
		wantStop(t, err, 1, time.Second, errDown, enough)
		if len(s.starts) != 1 || time.Since(start) != time.Second {
			t.Errorf("%d attempts, back after %v", len(s.starts), time.Since(start))
		}
		if got := b.Balance(); got != 10 {
			t.Errorf("balance %v: the resend that was not sent is still paid for", got)
		}
	})
	bubble(t, "in the hook", func(t *testing.T) {
		for _, delay := range []time.Duration{0, time.Hour} {
			ctx, cancel := context.WithCancel(bg)
			r := retry.New(retry.Config{Backoff: retry.Constant(delay), OnRetry: func(retry.Event) { cancel() }})
			wantStop(t, r.Do(ctx, fails(errDown).op), 1, 0, errDown, context.Canceled)
		}
	})
}

// doneLate is a context that ends when somebody begins to wait for it, which takes so
// long that any timer of less than a minute is ready too.
type doneLate struct {
	context.Context
	cancel context.CancelFunc
}

func (c doneLate) Done() <-chan struct{} {
	time.Sleep(time.Minute)
	c.cancel()
	return c.Context.Done()
}

// Spec: R3
func TestTimerAndContextTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := retry.New(retry.Config{Backoff: retry.Constant(time.Second), Budget: retry.NoBudget})
		for range 100 { // select takes either branch
			inner, cancel := context.WithCancel(bg)
			s := fails(errDown)
			wantStop(t, r.Do(doneLate{inner, cancel}, s.op), 1, time.Minute, errDown, context.Canceled)
			if len(s.starts) != 1 {
				t.Fatal("op ran again")
			}
		}
	})
}

// Spec: R4, R11, R14, P14
func TestNotRetryableComesBackUnchanged(t *testing.T) {
	for name, err := range map[string]error{
		"permanent":         mettle.Permanent(errDown),
		"permanent wrapped": fmt.Errorf("charge: %w", errors.Join(errors.New("a"), mettle.Permanent(errDown))),
		"permanent method":  fmt.Errorf("charge: %w", mark(true)),
		"permanent behind":  errors.Join(mark(false), fmt.Errorf("b: %w", mettle.Permanent(errDown))),
		"answer":            answer("404 Not Found"),
		"refusal":           errFull,
	} {
		for before := range 2 { // failures
			if name == "refusal" && before > 0 {
				continue // TestRefusalAfterFailure
			}
			bubble(t, fmt.Sprint(name, " after ", before), func(t *testing.T) {
				text := err.Error()
				s := fails(append(slices.Repeat([]error{errDown}, before), err)...)
				got := retry.New(retry.Config{}).Do(bg, s.op)
				if fmt.Sprintf("%T %p", got, got) != fmt.Sprintf("%T %p", err, err) || got.Error() != text {
					t.Errorf("got %v, want it unchanged", got)
				}
				if len(s.starts) != before+1 {
					t.Errorf("%d attempts, want %d", len(s.starts), before+1)
				}
			})
		}
	}
}

// mark is an error of the user's that says whether it is permanent.
type mark bool

func (mark) Error() string     { return "mark" }
func (m mark) Permanent() bool { return bool(m) }

// hollow is a wrapper with nothing in it.
type hollow struct{}

func (hollow) Error() string { return "hollow" }
func (hollow) Unwrap() error { return nil }

// Spec: R11
func TestPermanentMethodThatSaysNo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fails(mark(false), errors.Join(mark(false), hollow{}), nil)
		if err := retry.New(retry.Config{}).Do(bg, s.op); err != nil {
			t.Errorf("not retried: %v", err)
		}
	})
}

// Spec: R4, R14, P8
func TestRefusalAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := refusal{after: time.Minute}
		err := retry.New(retry.Config{Backoff: retry.Constant(time.Second)}).Do(bg, fails(errDown, closed).op)
		wantStop(t, err, 2, time.Second, errDown, closed)
		if !errors.Is(err, mettle.ErrRejected) {
			t.Errorf("%v does not show the refusal", err)
		}
		if got := mettle.Classify(bg, err); got != mettle.Failure {
			t.Errorf("class %v: the refusal hides the failure", got)
		}
		if d, ok := mettle.RetryAfter(err); !ok || d != time.Minute {
			t.Errorf("RetryAfter %v, %v", d, ok)
		}
	})
}

// own is an error of op's that is no failure, until a RetryIf says otherwise.
type own string

func (e own) Error() string         { return string(e) }
func (own) Outcome() mettle.Outcome { return mettle.Ignored }

// A RetryIf may admit errors that are no failures. One of op's own was lost once a
// refusal followed, which for an error of that kind took its place.
//
// Spec: R4, R14
func TestLastErrorOfOpIsFound(t *testing.T) {
	met := fmt.Errorf("in op: %w", errFull) // a refusal that op met itself
	one, two := own("one"), own("two")
	first, second := refusal{after: -1}, refusal{after: -2}
	for name, tt := range map[string]struct {
		attempts []error // refusals as they are come from the policy between retry and op
		last     error
		found    []error
		not      error
	}{
		"own":                       {[]error{one, first}, one, []error{first}, nil},
		"own, refused twice":        {[]error{one, first, second}, one, []error{second}, nil},
		"own after a refusal":       {[]error{first, one, second}, one, []error{second}, first},
		"own after own":             {[]error{one, two, first}, two, []error{first}, one},
		"own comes last":            {[]error{one, first, two}, two, nil, one},
		"own after a failure":       {[]error{errDown, one, first}, errDown, []error{one, first}, nil},
		"a failure after own":       {[]error{one, errDown, first}, errDown, []error{first}, one},
		"met":                       {[]error{met, first}, met, []error{first}, nil},
		"met, later":                {[]error{first, met, second}, met, []error{second}, nil},
		"refusals":                  {[]error{first, second}, first, []error{second}, nil},
		"one refusal over and over": {[]error{first, first, first}, first, nil, nil},
	} {
		bubble(t, name, func(t *testing.T) {
			n := 0
			gate := mettle.PolicyFunc(func(ctx ctx, op func(ctx) error) error {
				n++
				if err, ok := tt.attempts[n-1].(refusal); ok {
					return err
				}
				return op(ctx)
			})
			r := retry.New(retry.Config{
				MaxAttempts: len(tt.attempts), Backoff: retry.Constant(0), RetryIf: func(error) bool { return true },
			})
			err := mettle.Compose(r, gate).Do(bg, func(ctx) error { return tt.attempts[n-1] })
			wantStop(t, err, len(tt.attempts), 0, tt.last, retry.ErrExhausted)
			for _, want := range tt.found {
				if !errors.Is(err, want) {
					t.Errorf("%q is not found in %q", want, err)
				}
			}
			if tt.not != nil && errors.Is(err, tt.not) {
				t.Errorf("%q is still told in %q", tt.not, err)
			}
		})
	}
}

// An attempt counts although an inner policy has refused it, in the middle as at the end.
//
// Spec: R4
func TestRefusedAttemptsCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := refusal{after: time.Second}
		attempts := 0
		gate := mettle.PolicyFunc(func(ctx ctx, op func(ctx) error) error {
			if attempts++; attempts == 2 || attempts == 4 {
				return closed
			}
			return op(ctx)
		})
		r := retry.New(retry.Config{
			MaxAttempts: 4, Backoff: retry.Constant(0), RetryIf: func(error) bool { return true },
		})
		s := fails(errDown)
		err := mettle.Compose(r, gate).Do(bg, s.op)
		var e *retry.Error
		if !errors.As(err, &e) || e.Attempts != 4 || len(s.starts) != 2 {
			t.Fatalf("got %v after %d runs, want 4 attempts and 2 runs", err, len(s.starts))
		}
		if e.Last != errDown || r.Stats().Attempts != 4 {
			t.Errorf("last %v, %d attempts counted", e.Last, r.Stats().Attempts)
		}
	})
}

// Spec: R5, R6
func TestNoWaitPastTheEnd(t *testing.T) {
	const wait = 2 * time.Second
	for _, tt := range []struct {
		room     time.Duration // from the start
		attempts int
	}{
		{wait - 1, 1}, {wait, 1}, {wait + 1, 2}, {2 * wait, 2}, {2*wait + 1, 3},
	} {
		check := func(t *testing.T, ctx ctx, c retry.Config, reason error) {
			c.Backoff, c.MaxAttempts = retry.Constant(wait), 100
			c.Budget = retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1, Start: 10})
			s := fails(errDown)
			err := retry.New(c).Do(ctx, s.op)
			wantStop(t, err, tt.attempts, time.Duration(tt.attempts-1)*wait, errDown, reason)
			if got, want := c.Budget.Balance(), float64(11-tt.attempts); got != want {
				t.Errorf("balance %v, want %v: a wait that is not begun costs nothing", got, want)
			}
		}
		bubble(t, fmt.Sprint("deadline ", tt.room), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(bg, tt.room)
			defer cancel()
			check(t, ctx, retry.Config{}, retry.ErrDeadline)
		})
		bubble(t, fmt.Sprint("elapsed ", tt.room), func(t *testing.T) {
			check(t, bg, retry.Config{MaxElapsed: tt.room}, retry.ErrElapsed)
		})
	}
	bubble(t, "the attempt took it all", func(t *testing.T) {
		r := retry.New(retry.Config{MaxElapsed: time.Second, Backoff: retry.Constant(0)})
		err := r.Do(bg, func(ctx) error { time.Sleep(time.Minute); return errDown })
		wantStop(t, err, 1, time.Minute, errDown, retry.ErrElapsed)
	})
	bubble(t, "endless backoff", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(bg, math.MaxInt64)
		defer cancel()
		time.Sleep(time.Hour)
		c := retry.Config{MaxElapsed: math.MaxInt64, Backoff: retry.Constant(math.MaxInt64)}
		wantStop(t, retry.New(c).Do(ctx, fails(errDown).op), 1, 0, errDown, retry.ErrDeadline)
		wantStop(t, retry.New(c).Do(bg, fails(errDown).op), 1, 0, errDown, retry.ErrElapsed)
	})
}

// Spec: R12
func TestWhoseTimeIsUp(t *testing.T) {
	bubble(t, "an attempt's, under a live caller", func(t *testing.T) {
		attempts := 0
		err := retry.New(retry.Config{Budget: retry.NoBudget}).Do(bg, func(ctx ctx) error {
			if attempts++; attempts == 3 {
				return nil
			}
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			<-ctx.Done()
			return ctx.Err()
		})
		if err != nil || attempts != 3 {
			t.Errorf("%d attempts, %v", attempts, err)
		}
	})
	bubble(t, "the callee's own Canceled", func(t *testing.T) {
		if err := retry.New(retry.Config{}).Do(bg, fails(context.Canceled, nil).op); err != nil {
			t.Errorf("not retried: %v", err)
		}
	})
	bubble(t, "a transport that tells before the context does", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		early := early{ctx}
		err := retry.New(retry.Config{Backoff: retry.Constant(0)}).Do(early, func(context.Context) error {
			time.Sleep(time.Second)
			return context.DeadlineExceeded
		})
		wantStop(t, err, 1, time.Second, context.DeadlineExceeded, retry.ErrDeadline)
	})

	enough := errors.New("enough")
	for _, before := range []int{0, 1} {
		for name, end := range map[string]struct {
			caller func(ctx) (ctx, context.CancelFunc)
			cause  error
		}{
			"deadline": {func(c ctx) (ctx, context.CancelFunc) { return context.WithTimeout(c, time.Second) }, context.DeadlineExceeded},
			"deadline with a cause": {func(c ctx) (ctx, context.CancelFunc) {
				return context.WithTimeoutCause(c, time.Second, enough)
			}, enough},
			"cancel": {func(c ctx) (ctx, context.CancelFunc) {
				c, cancel := context.WithCancel(c)
				time.AfterFunc(time.Second, cancel)
				return c, cancel
			}, context.Canceled},
			"cancel with a cause": {func(c ctx) (ctx, context.CancelFunc) {
				c, cancel := context.WithCancelCause(c)
				time.AfterFunc(time.Second, func() { cancel(enough) })
				return c, func() { cancel(nil) }
			}, enough},
		} {
			bubble(t, fmt.Sprint("the caller's ", name, " after ", before), func(t *testing.T) {
				caller, cancel := end.caller(bg)
				defer cancel()
				var own error
				attempts := 0
				err := retry.New(retry.Config{Backoff: retry.Constant(1)}).Do(caller, func(ctx ctx) error {
					if attempts++; attempts <= before {
						return errDown
					}
					<-ctx.Done()
					own = fmt.Errorf("get: %w", ctx.Err())
					return own
				})
				if attempts != before+1 {
					t.Errorf("%d attempts", attempts)
				}
				if before == 0 {
					if err != own {
						t.Errorf("got %v, want op's error unchanged", err)
					}
					return
				}
				wantStop(t, err, 2, time.Second, errDown, end.cause)
				if !errors.Is(err, own) {
					t.Errorf("%v has lost what op said", err)
				}
			})
		}
	}
	bubble(t, "a failure of its own as the caller goes", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(bg)
		err := retry.New(retry.Config{}).Do(ctx, func(context.Context) error { cancel(enough); return errDown })
		wantStop(t, err, 1, 0, errDown, enough)
	})
}

// list is an error that cannot be compared, though its type looks as if it could.
type list struct{ details any }

func (list) Error() string           { return "a list" }
func (list) Outcome() mettle.Outcome { return mettle.Ignored }

// Causes and errors are anybody's values, and a retry compares them unasked. Some panic
// on that.
//
// Spec: R4, R12
func TestErrorsThatCannotBeCompared(t *testing.T) {
	odd := list{details: []string{"a", "b"}}
	bubble(t, "the cause of the caller's end", func(t *testing.T) {
		for name, err := range map[string]error{
			"as it is": odd, "wrapped": fmt.Errorf("get: %w", odd), "nothing of it": errDown,
		} {
			ctx, cancel := context.WithCancelCause(bg)
			r := retry.New(retry.Config{RetryIf: func(error) bool { return true }})
			got := r.Do(ctx, func(context.Context) error { cancel(odd); return err })
			var e *retry.Error
			if !errors.As(got, &e) || !errors.As(e.Last, new(list)) && e.Last != errDown || !errors.As(e.Reason, new(list)) {
				t.Errorf("%s: got %v, want the error and the cause", name, got)
			}
		}
	})
	bubble(t, "what follows on a failure", func(t *testing.T) {
		err := retry.New(retry.Config{Backoff: retry.Constant(0)}).Do(bg, fails(errDown, odd).op)
		if want := "retry: 2 attempts in 0s: the backend is down (a list)"; err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
		if !errors.As(err, new(list)) {
			t.Errorf("%v has lost what came last", err)
		}
	})
}

// early is a context whose own timer is late.
type early struct{ context.Context }

func (early) Err() error            { return nil }
func (early) Done() <-chan struct{} { return nil }

// pushback is a suggestion that is to be kept to the letter, or says that it is not.
type pushback struct {
	suggestion
	exactly bool
}

func (p pushback) RetryExactly() bool { return p.exactly }

// Spec: R13, G3
func TestExactWait(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		name    string
		err     error
		backoff time.Duration
		want    time.Duration // zero: no matter
		stop    error
	}{
		{"below the backoff", pushback{suggestion(s), true}, 10 * s, s, nil},
		{"above the backoff", pushback{suggestion(10 * s), true}, s, 10 * s, nil},
		{"at once", pushback{suggestion(0), true}, 10 * s, 0, nil},
		{"wrapped", fmt.Errorf("%w", errors.Join(io.EOF, pushback{suggestion(s), true})), 10 * s, s, nil},
		{"not exactly", pushback{suggestion(s), false}, 10 * s, 10 * s, nil},
		{"beside a longer one that is a floor", errors.Join(pushback{suggestion(s), true}, suggestion(2*s)), 10 * s, 10 * s, nil},
		{"beside a shorter one", errors.Join(suggestion(s), pushback{suggestion(2 * s), true}), 10 * s, 2 * s, nil},
		{"negative, which is none", pushback{suggestion(-1), true}, 10 * s, 10 * s, nil},
		{"above the cap", pushback{suggestion(31 * s), true}, s, 0, retry.ErrRetryAfter},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			r := retry.New(retry.Config{Backoff: retry.Constant(tt.backoff), Budget: retry.NoBudget})
			for range 20 {
				op := fails(tt.err, nil)
				err := r.Do(bg, op.op)
				if tt.stop != nil {
					wantStop(t, err, 1, 0, tt.err, tt.stop)
				} else if err != nil {
					t.Fatal(err)
				} else if got := op.waits()[0]; got != tt.want {
					t.Errorf("waited %v, want %v", got, tt.want)
				}
			}
		})
	}
}

// Spec: R13
func TestSuggestedWait(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		name      string
		suggested time.Duration
		backoff   time.Duration
		low, high time.Duration
	}{
		{"above the backoff", 10 * s, s, 10 * s, 11 * s},
		{"below the backoff", s, 10 * s, 10 * s, 10 * s},
		{"just below the backoff", 10 * s, 10*s + s/2, 10*s + s/2, 11 * s},
		{"zero", 0, s, s, s},
		{"zero both", 0, 0, 0, 0},
		{"one nanosecond", 1, 0, 1, 1},
		{"negative, which is none", -1, s, s, s},
		{"at the cap", 30 * s, 0, 30 * s, 33 * s},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			r := retry.New(retry.Config{Backoff: retry.Constant(tt.backoff), Budget: retry.NoBudget})
			least, most := time.Duration(math.MaxInt64), time.Duration(0)
			for range 500 {
				op := fails(fmt.Errorf("wrapped: %w", suggestion(tt.suggested)), nil)
				if err := r.Do(bg, op.op); err != nil {
					t.Fatal(err)
				}
				wait := op.waits()[0]
				least, most = min(least, wait), max(most, wait)
			}
			slack := (tt.high - tt.low) / 20 // jitter that never comes near its ends is none
			if least < tt.low || least > tt.low+slack || most > tt.high || most < tt.high-slack {
				t.Errorf("waits in [%v, %v], want [%v, %v]", least, most, tt.low, tt.high)
			}
		})
	}
	bubble(t, "above the cap", func(t *testing.T) {
		for _, tt := range []struct{ limit, suggested time.Duration }{
			{0, 30*s + 1}, {s, s + 1}, {s, math.MaxInt64},
		} {
			op := fails(suggestion(tt.suggested))
			err := retry.New(retry.Config{MaxRetryAfter: tt.limit}).Do(bg, op.op)
			wantStop(t, err, 1, 0, suggestion(tt.suggested), retry.ErrRetryAfter)
			if d, _ := mettle.RetryAfter(err); d != tt.suggested {
				t.Errorf("RetryAfter of the error is %v, want %v", d, tt.suggested)
			}
		}
	})
	bubble(t, "endless, and allowed", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(bg, time.Hour)
		defer cancel()
		r := retry.New(retry.Config{MaxRetryAfter: math.MaxInt64})
		wantStop(t, r.Do(ctx, fails(suggestion(math.MaxInt64)).op), 1, 0, suggestion(math.MaxInt64), retry.ErrDeadline)
	})
	bubble(t, "repeatable", func(t *testing.T) {
		waits := func() []time.Duration {
			s := fails(suggestion(10*s), suggestion(10*s), nil)
			_ = retry.New(retry.Config{Rand: rand.NewPCG(4, 4)}).Do(bg, s.op)
			return s.waits()
		}
		if one, again := waits(), waits(); !slices.Equal(one, again) || len(one) != 2 {
			t.Errorf("one source, two sequences: %v, %v", one, again)
		}
	})
}

// Spec: R14, P8
func TestRefusalWaitedOut(t *testing.T) {
	const s = time.Second
	config := func() retry.Config {
		return retry.Config{
			Backoff: retry.Constant(0), Budget: retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1, Start: 10}),
			RetryIf: func(err error) bool { return !errors.Is(err, errDown) || errors.Is(err, mettle.ErrRejected) },
		}
	}
	bubble(t, "it opens", func(t *testing.T) {
		c, op := config(), fails(refusal{5 * s}, refusal{5 * s}, nil)
		if err := retry.New(c).Do(bg, op.op); err != nil {
			t.Fatal(err)
		}
		for _, wait := range op.waits() {
			if wait < 5*s || wait > 5*s+s/2 {
				t.Errorf("waited %v for a refusal of 5 s", wait)
			}
		}
		if got := c.Budget.Balance(); got != 10 {
			t.Errorf("balance %v: what was refused was never sent", got)
		}
	})
	bubble(t, "it stays shut", func(t *testing.T) {
		err := retry.New(config()).Do(bg, fails(refusal{s}).op)
		var e *retry.Error
		if !errors.As(err, &e) || e.Last != (refusal{s}) || e.Reason != retry.ErrExhausted {
			t.Errorf("got %v", err)
		}
		if got := mettle.Classify(bg, err); got != mettle.Ignored {
			t.Errorf("class %v, want that of the refusals", got)
		}
	})
	bubble(t, "it stays shut after a failure", func(t *testing.T) {
		c, closed := config(), refusal{s}
		c.RetryIf = func(error) bool { return true }
		err := retry.New(c).Do(bg, fails(errDown, closed).op)
		var e *retry.Error
		if !errors.As(err, &e) || e.Last != errDown || !errors.Is(e.Reason, retry.ErrExhausted) || !errors.Is(e.Reason, closed) {
			t.Errorf("got %v", err)
		}
	})
	bubble(t, "above the cap", func(t *testing.T) {
		closed := refusal{time.Hour}
		wantStop(t, retry.New(config()).Do(bg, fails(closed).op), 1, 0, closed, retry.ErrRetryAfter)
	})
	bubble(t, "past the deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(bg, 4*s)
		defer cancel()
		closed := refusal{5 * s}
		wantStop(t, retry.New(config()).Do(ctx, fails(closed).op), 1, 0, closed, retry.ErrDeadline)
	})
}

// RetryIf replaces the class test, and no other.
//
// Spec: R11, R12
func TestRetryIf(t *testing.T) {
	bubble(t, "yes to everything", func(t *testing.T) {
		r := retry.New(retry.Config{Backoff: retry.Constant(0), RetryIf: func(error) bool { return true }})
		if err := r.Do(bg, fails(answer("404"), errFull, nil).op); err != nil {
			t.Errorf("not retried: %v", err)
		}
		op := fails(mettle.Permanent(errDown))
		if err := r.Do(bg, op.op); len(op.starts) != 1 || err != op.errs[0] {
			t.Errorf("permanent, and retried: %v", err)
		}
		ctx, cancel := context.WithCancel(bg)
		attempts := 0
		_ = r.Do(ctx, func(ctx context.Context) error { attempts++; cancel(); return ctx.Err() })
		if attempts != 1 {
			t.Error("retried under a context that is done")
		}
	})
	bubble(t, "no to everything", func(t *testing.T) {
		op := fails(errDown)
		r := retry.New(retry.Config{RetryIf: func(error) bool { return false }})
		if err := r.Do(bg, op.op); len(op.starts) != 1 || err != errDown {
			t.Errorf("%d attempts, %v", len(op.starts), err)
		}
	})
}

// Spec: R15, R16
func TestBudgetIsAsked(t *testing.T) {
	newBudget := func() *retry.Budget { return retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1, Start: 10}) }
	bubble(t, "only before a resend", func(t *testing.T) {
		for name, errs := range map[string][]error{
			"success": {nil}, "permanent": {mettle.Permanent(errDown)}, "refusal": {errFull}, "answer": {answer("404")},
			"above the cap": {suggestion(time.Hour)},
		} {
			b := newBudget()
			_ = retry.New(retry.Config{Budget: b}).Do(bg, fails(errs...).op)
			if b.Balance() != 10 {
				t.Errorf("%s: balance %v", name, b.Balance())
			}
		}
		b := newBudget()
		_ = retry.New(retry.Config{Budget: b, MaxAttempts: 1}).Do(bg, fails(errDown).op)
		if b.Balance() != 10 {
			t.Errorf("no attempt left: balance %v", b.Balance())
		}
		_ = retry.New(retry.Config{Budget: b, MaxAttempts: 4}).Do(bg, fails(errDown, context.DeadlineExceeded, nil).op)
		if got := b.Balance(); math.Abs(got-7.1) > 1e-9 {
			t.Errorf("balance %v after a failure, a timeout and a success, want 7.1", got)
		}
	})
	bubble(t, "denial", func(t *testing.T) {
		b := newBudget()
		drain(b, mettle.Failure)
		hooks := 0
		r := retry.New(retry.Config{Budget: b, OnRetry: func(retry.Event) { hooks++ }})
		err := r.Do(bg, fails(errDown).op)
		wantStop(t, err, 1, 0, errDown, retry.ErrBudget)
		if errors.Is(err, mettle.ErrRejected) || mettle.Classify(bg, err) != mettle.Failure {
			t.Errorf("%v is taken for a refusal", err)
		}
		if hooks != 0 {
			t.Error("OnRetry called, and no retry followed")
		}
		_ = r.Do(bg, fails(answer("404")).op) // an answer is a success of the dependency
		_ = r.Do(bg, fails(nil).op)
		if got := b.Balance(); math.Abs(got-0.2) > 1e-9 {
			t.Errorf("balance %v after two successes, want 0.2", got)
		}
	})
	bubble(t, "off", func(t *testing.T) {
		r := retry.New(retry.Config{Budget: retry.NoBudget, MaxAttempts: 1000})
		op := fails(errDown)
		_ = r.Do(bg, op.op)
		if len(op.starts) != 1000 {
			t.Errorf("%d attempts", len(op.starts))
		}
	})
}

// A breaker that opened after the first attempt refuses the second. Such resends once
// drained the budget, until the breaker had closed and nothing was left for the failures
// that a resend mends.
//
// Spec: R15, R16, P8
func TestRefusedResendIsRefunded(t *testing.T) {
	all := func(error) bool { return true }
	wrapped := fmt.Errorf("inner: %w", errFull)
	onlyDown := func(err error) bool { return err == errDown }
	nested := &retry.Error{Last: errDown, Reason: errFull} // failed, and then was refused
	for name, tt := range map[string]struct {
		errs    []error
		retryIf func(error) bool
		spent   float64
	}{
		"refused":                          {[]error{errDown, wrapped}, nil, 0},
		"refused after a timeout":          {[]error{context.DeadlineExceeded, errFull}, nil, 0},
		"refused after a resend":           {[]error{errDown, errDown, errFull}, nil, 1},
		"waited out, and refused":          {[]error{errDown, errFull}, all, 0},
		"waited out, and sent":             {[]error{errDown, errFull, errFull, nil}, all, 0.9}, // it earns 0.1
		"waited out, and failed":           {[]error{errDown, errFull, errDown, errFull}, all, 1},
		"waited out, and refused at first": {[]error{errFull, errDown, errFull, nil}, all, 0.9},
		"an answer":                        {[]error{errDown, answer("404")}, nil, 0.9},
		"refused in part":                  {[]error{errDown, nested}, onlyDown, 1},
		"ignored, but sent":                {[]error{errDown, list{}}, nil, 1},
	} {
		bubble(t, name, func(t *testing.T) {
			b := retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1, Start: 10})
			c := retry.Config{Budget: b, MaxAttempts: 4, Backoff: retry.Constant(time.Second), RetryIf: tt.retryIf}
			_ = retry.New(c).Do(bg, fails(tt.errs...).op)
			if got := 10 - b.Balance(); math.Abs(got-tt.spent) > 1e-9 {
				t.Errorf("%v tokens are gone, want %v", got, tt.spent)
			}
		})
	}
	bubble(t, "no slot in a queue of ours", func(t *testing.T) {
		b := retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1, Start: 10})
		n := 0
		queue := mettle.PolicyFunc(func(ctx ctx, op func(ctx) error) error {
			if n++; n == 2 {
				return own("the attempt's time ended in the queue")
			}
			return op(ctx)
		})
		_ = mettle.Compose(retry.New(retry.Config{Budget: b}), queue).Do(bg, fails(errDown).op)
		if got := b.Balance(); got != 10 || n != 2 {
			t.Errorf("balance %v after %d attempts, want 10 after 2", got, n)
		}
	})
	bubble(t, "refused, and the caller leaves", func(t *testing.T) {
		b := retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1, Start: 10})
		ctx, cancel := context.WithCancel(bg)
		time.AfterFunc(1500*time.Millisecond, cancel)
		c := retry.Config{Budget: b, Backoff: retry.Constant(time.Second), RetryIf: all}
		wantStop(t, retry.New(c).Do(ctx, fails(errDown, errFull).op), 2, 1500*time.Millisecond, errDown, context.Canceled)
		if got := b.Balance(); got != 10 {
			t.Errorf("balance %v, want 10", got)
		}
	})
	bubble(t, "refused, and the user's code leaves", func(t *testing.T) {
		b := retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1, Start: 10})
		r := retry.New(retry.Config{Budget: b, RetryIf: func(err error) bool {
			if err == errFull {
				panic(err)
			}
			return true
		}})
		if v, _ := leave(func() { _ = r.Do(bg, fails(errDown, errFull).op) }); v != errFull {
			t.Errorf("recovered %v", v)
		}
		if got := b.Balance(); got != 10 {
			t.Errorf("balance %v, want 10", got)
		}
	})
}

// Spec: R17
func TestBudgetIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := retry.NewBudget(retry.BudgetConfig{Burst: 3, Start: 3, MinPerSecond: -1})
		c := retry.Config{Budget: b, Backoff: retry.Constant(0)}
		wantStop(t, retry.New(c).Do(bg, fails(errDown).op), 3, 0, errDown, retry.ErrExhausted)
		wantStop(t, retry.New(c).Do(bg, fails(errDown).op), 2, 0, errDown, retry.ErrBudget)
	})
}
