package fallback_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/fallback"
)

var (
	errDown = errors.New("down")
	errFull = errors.New("queue full")
)

func fails(context.Context) error             { return errDown }
func succeeds(context.Context) error          { return nil }
func saves(context.Context, error) error      { return nil }
func cannotSave(context.Context, error) error { return errFull }
func never(t *testing.T) func(context.Context) error {
	return func(context.Context) error { t.Error("ran"); return nil }
}

// forms are the ways into a Fallback, which must not differ.
var forms = []struct {
	name string
	bind func(*fallback.Fallback) mettle.Policy
}{
	{"Do", func(f *fallback.Fallback) mettle.Policy { return f }},
	{"Wrap", func(f *fallback.Fallback) mettle.Policy { return mettle.Compose(f) }},
	{"inside", func(f *fallback.Fallback) mettle.Policy {
		return mettle.Compose(mettle.PolicyFunc(passes), f, mettle.PolicyFunc(passes))
	}},
}

// direct runs the operation and does not look at ctx.
type direct struct{}

func (direct) Do(ctx context.Context, op func(context.Context) error) error { return op(ctx) }

func passes(ctx context.Context, op func(context.Context) error) error { return op(ctx) }

func forEachForm(t *testing.T, c fallback.Config, test func(*testing.T, *fallback.Fallback, mettle.Policy)) {
	t.Helper()
	for _, form := range forms {
		t.Run(form.name, func(t *testing.T) {
			f := fallback.New(c)
			test(t, f, form.bind(f))
		})
	}
}

// Spec: P10, F1
func TestConfig(t *testing.T) {
	err := fallback.Config{Name: "queue"}.Validate()
	if err == nil || !strings.Contains(err.Error(), "fallback: Run is nil") {
		t.Errorf("Validate without Run: %v", err)
	}
	defer func() {
		if p := recover(); p != err.Error() {
			t.Errorf("New panicked with %v, want the message of Validate", p)
		}
	}()
	fallback.New(fallback.Config{})
}

// Spec: F1
func TestRunsOnFailureOnly(t *testing.T) {
	var told []error
	c := fallback.Config{Run: func(_ context.Context, err error) error {
		told = append(told, err)
		return nil
	}}
	forEachForm(t, c, func(t *testing.T, f *fallback.Fallback, p mettle.Policy) {
		told = nil
		if err := p.Do(t.Context(), succeeds); err != nil || told != nil {
			t.Errorf("after a success: %v, fallback told %v", err, told)
		}
		if got := f.Stats(); got != (fallback.Stats{}) {
			t.Errorf("a success was counted: %+v", got)
		}
		if err := p.Do(t.Context(), fails); err != nil || !slices.Equal(told, []error{errDown}) {
			t.Errorf("after a failure: %v, fallback told %v", err, told)
		}
		if got, want := f.Stats(), (fallback.Stats{FellBack: 1}); got != want {
			t.Errorf("Stats = %+v, want %+v", got, want)
		}
	})
}

// Spec: F1
func TestBothFail(t *testing.T) {
	forEachForm(t, fallback.Config{Name: "queue", Run: cannotSave}, func(t *testing.T, f *fallback.Fallback, p mettle.Policy) {
		err := p.Do(t.Context(), fails)
		if !errors.Is(err, errDown) || !errors.Is(err, errFull) {
			t.Errorf("%v: Is not both errors", err)
		}
		var e *fallback.Error
		if !errors.As(err, &e) || e.Name != "queue" || e.Err != errDown || e.Fallback != errFull {
			t.Errorf("As *Error: %#v", e)
		}
		if want := "fallback: queue: down; the fallback failed: queue full"; err.Error() != want {
			t.Errorf("text %q, want %q", err, want)
		}
		if got, want := f.Stats(), (fallback.Stats{FellBack: 1, Failed: 1}); got != want {
			t.Errorf("Stats = %+v, want %+v", got, want)
		}
	})
}

// refused is a refusal as those of the policies are.
type refused struct{}

func (refused) Error() string        { return "refused" }
func (refused) Is(target error) bool { return target == mettle.ErrRejected }

// overload speaks for itself.
type overload struct{}

func (overload) Error() string           { return "too much" }
func (overload) Outcome() mettle.Outcome { return mettle.Overload }

// The joined error must not make a failure out of a refusal because the fallback
// failed, nor hide a failure because the fallback was refused.
//
// Spec: F1, P8
func TestOutcomeIsThatOfTheOperation(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		name        string
		ctx         context.Context
		err, second error
		want        mettle.Outcome
	}{
		{"failure, fallback fails", t.Context(), errDown, errFull, mettle.Failure},
		{"failure, fallback is refused", t.Context(), errDown, refused{}, mettle.Failure},
		{"refusal, fallback fails", t.Context(), refused{}, errFull, mettle.Ignored},
		{"overload, fallback fails", t.Context(), overload{}, errFull, mettle.Overload},
		{"failure, fallback has a class", t.Context(), errDown, overload{}, mettle.Failure},
		{"timeout, fallback fails", t.Context(), context.DeadlineExceeded, errFull, mettle.Timeout},
		{"caller gone, fallback fails", cancelled, context.Canceled, errFull, mettle.Ignored},
		{"caller gone, fallback is told so too", cancelled, errDown, context.Canceled, mettle.Failure},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := fallback.New(fallback.Config{Run: func(context.Context, error) error { return test.second }})
			bound := f.Wrap(direct{})
			err := bound.Do(test.ctx, func(context.Context) error { return test.err })
			if got := mettle.Classify(test.ctx, err); got != test.want {
				t.Errorf("%v is %v, want %v", err, got, test.want)
			}
			if test.ctx == cancelled {
				return
			}
			literal := &fallback.Error{Err: test.err, Fallback: test.second}
			if got := literal.Outcome(); got != test.want {
				t.Errorf("a literal is %v, want %v", got, test.want)
			}
		})
	}
}

// A dependency may cancel by itself, which is its failure while the caller waits. The
// caller once turned that into a cancellation of its own by leaving during Run.
//
// Spec: F1, B19
func TestOutcomeIsThatOfTheTimeBeforeRun(t *testing.T) {
	gaveUp := fmt.Errorf("rpc: %w", context.Canceled)
	fails := func(context.Context) error { return gaveUp }
	for name, call := range map[string]func(context.Context, func(context.Context, error) error) error{
		"Do": func(ctx context.Context, run func(context.Context, error) error) error {
			return fallback.New(fallback.Config{Run: run}).Do(ctx, fails)
		},
		"Get": func(ctx context.Context, run func(context.Context, error) error) error {
			_, err := fallback.Get(ctx, mettle.Compose(),
				func(ctx context.Context) (int, error) { return 0, fails(ctx) },
				func(ctx context.Context, err error) (int, error) { return 0, run(ctx, err) })
			return err
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		err := call(ctx, func(context.Context, error) error { cancel(); return errFull })
		if !errors.Is(err, gaveUp) || !errors.Is(err, errFull) {
			t.Errorf("%s: got %v", name, err)
		}
		if got := mettle.Classify(ctx, err); got != mettle.Failure {
			t.Errorf("%s: %v is %v, want failure", name, err, got)
		}
	}
}

// Spec: O4 (part)
func TestErrorIsLoggedByField(t *testing.T) {
	for name, want := range map[string]string{
		"queue": `level=ERROR msg=lost err.policy=queue err.err=down err.fallback="queue full"`,
		"":      `level=ERROR msg=lost err.err=down err.fallback="queue full"`,
	} {
		var line strings.Builder
		log := slog.New(slog.NewTextHandler(&line, &slog.HandlerOptions{
			ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			},
		}))
		f := fallback.New(fallback.Config{Name: name, Run: cannotSave})
		log.Error("lost", "err", f.Do(t.Context(), fails))
		if got := strings.TrimSpace(line.String()); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// An error without a class is a failure, not a success.
func TestZeroError(t *testing.T) {
	var zero fallback.Error
	if got := mettle.Classify(t.Context(), &zero); got != mettle.Failure {
		t.Errorf("outcome %v, want failure", got)
	}
	if got, want := zero.Error(), "fallback: <nil>; the fallback failed: <nil>"; got != want {
		t.Errorf("text %q, want %q", got, want)
	}
}

// incomparable is an error that == panics on, which its type does not show.
type incomparable struct{ detail any }

func (incomparable) Error() string { return "incomparable" }

// A Run that cannot help returns what it was told, and the caller sees that alone.
//
// Spec: F1
func TestRunDeclines(t *testing.T) {
	f := fallback.New(fallback.Config{Run: func(_ context.Context, err error) error { return err }})
	if err := f.Do(t.Context(), fails); err != errDown {
		t.Errorf("got %v, want the operation's error as it is", err)
	}
	if got, want := f.Stats(), (fallback.Stats{FellBack: 1, Failed: 1}); got != want {
		t.Errorf("Stats = %+v, want %+v", got, want)
	}
	err := f.Do(t.Context(), func(context.Context) error { return incomparable{[]int{1}} })
	if !errors.As(err, new(incomparable)) {
		t.Errorf("got %v", err)
	}
}

// Spec: F1
func TestIf(t *testing.T) {
	c := fallback.Config{Run: saves, If: func(err error) bool { return errors.Is(err, errDown) }}
	forEachForm(t, c, func(t *testing.T, f *fallback.Fallback, p mettle.Policy) {
		if err := p.Do(t.Context(), func(context.Context) error { return fmt.Errorf("pay: %w", errDown) }); err != nil {
			t.Errorf("an error that If admits came back: %v", err)
		}
		other := errors.New("other")
		if err := p.Do(t.Context(), func(context.Context) error { return other }); err != other {
			t.Errorf("an error that If refuses came back as %v", err)
		}
		if got, want := f.Stats(), (fallback.Stats{FellBack: 1}); got != want {
			t.Errorf("Stats = %+v, want %+v", got, want)
		}
	})
}

// Spec: P4, F1
func TestContextDone(t *testing.T) {
	gone := errors.New("client gone")
	var ran []context.Context
	c := fallback.Config{Run: func(ctx context.Context, _ error) error {
		ran = append(ran, ctx)
		return nil
	}}
	forEachForm(t, c, func(t *testing.T, _ *fallback.Fallback, p mettle.Policy) {
		ran = nil
		ctx, cancel := context.WithCancelCause(t.Context())
		err := p.Do(ctx, func(ctx context.Context) error {
			cancel(gone)
			return context.Cause(ctx)
		})
		if err != nil || len(ran) != 1 || ran[0] != ctx {
			t.Errorf("ctx ended during op: %v, Run saw %v, want the caller's ctx", err, ran)
		}
		if err := p.Do(ctx, never(t)); !errors.Is(err, gone) || len(ran) != 1 {
			t.Errorf("ctx done on entry: %v, Run called %d times in all", err, len(ran))
		}
	})
}

// Spec: P5
func TestPanicPassesThrough(t *testing.T) {
	c := fallback.Config{Run: func(context.Context, error) error { t.Error("Run stood in for a panic"); return nil }}
	forEachForm(t, c, func(t *testing.T, f *fallback.Fallback, p mettle.Policy) {
		func() {
			defer func() {
				if v := recover(); v != "boom" {
					t.Errorf("recovered %v, want boom", v)
				}
			}()
			_ = p.Do(t.Context(), func(context.Context) error { panic("boom") })
		}()
		exits(func() { _ = p.Do(t.Context(), func(context.Context) error { runtime.Goexit(); return nil }) })
		if got := f.Stats(); got != (fallback.Stats{}) {
			t.Errorf("counted %+v", got)
		}
	})
}

// exits runs f, which may end its goroutine, and returns when it has.
func exits(f func()) {
	var wg sync.WaitGroup
	wg.Go(f)
	wg.Wait()
}

// A hook of the user's that panics is not caught, and a fallback that did not come
// to its end has failed.
//
// Spec: P6
func TestHooksPanic(t *testing.T) {
	boom := func() { panic("boom") }
	for _, test := range []struct {
		name string
		c    fallback.Config
		tr   mettle.Trace
		want fallback.Stats
	}{
		{"Run", fallback.Config{Run: func(context.Context, error) error { boom(); return nil }}, mettle.Trace{},
			fallback.Stats{FellBack: 1, Failed: 1}},
		{"If", fallback.Config{Run: saves, If: func(error) bool { boom(); return true }}, mettle.Trace{},
			fallback.Stats{}},
		{"FellBack", fallback.Config{Run: saves}, mettle.Trace{FellBack: func(mettle.TraceEvent) { boom() }},
			fallback.Stats{FellBack: 1, Failed: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := fallback.New(test.c)
			defer func() {
				if v := recover(); v != "boom" {
					t.Errorf("recovered %v, want boom", v)
				}
				if got := f.Stats(); got != test.want {
					t.Errorf("Stats = %+v, want %+v", got, test.want)
				}
			}()
			_ = f.Do(mettle.WithTrace(t.Context(), &test.tr), fails)
		})
	}
}

// Spec: F1
func TestTraceFellBackBeforeRun(t *testing.T) {
	var order []string
	ctx := mettle.WithTrace(t.Context(), &mettle.Trace{FellBack: func(e mettle.TraceEvent) {
		order = append(order, fmt.Sprintf("fell back %s: %v", e.Policy, e.Err))
	}})
	f := fallback.New(fallback.Config{Name: "queue", Run: func(context.Context, error) error {
		order = append(order, "run")
		return nil
	}})
	_ = f.Do(ctx, succeeds)
	_ = f.Do(ctx, fails)
	_, _ = fallback.Get(ctx, mettle.Compose(), value(0, errDown), func(context.Context, error) (int, error) {
		order = append(order, "alt")
		return 0, nil
	})
	want := []string{"fell back queue: down", "run", "fell back : down", "alt"}
	if !slices.Equal(order, want) {
		t.Errorf("got %q, want %q", order, want)
	}
	// Hooks that nobody set are not called.
	_ = f.Do(mettle.WithTrace(t.Context(), &mettle.Trace{}), fails)
}

func value[T any](v T, err error) func(context.Context) (T, error) {
	return func(context.Context) (T, error) { return v, err }
}

// Spec: F1
func TestGet(t *testing.T) {
	p := mettle.Compose()
	cached := func(_ context.Context, err error) (string, error) { return "cached after " + err.Error(), nil }
	for _, test := range []struct {
		name string
		fn   func(context.Context) (string, error)
		alt  func(context.Context, error) (string, error)
		want string
		errs []error
	}{
		{"fn succeeds", value("fresh", nil), cached, "fresh", nil},
		{"alt succeeds", value("half", errDown), cached, "cached after down", nil},
		{"both fail", value("half", errDown), func(context.Context, error) (string, error) { return "x", errFull }, "",
			[]error{errDown, errFull}},
		{"alt declines", value("half", errDown), func(_ context.Context, err error) (string, error) { return "x", err }, "",
			[]error{errDown}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := fallback.Get(t.Context(), p, test.fn, test.alt)
			if got != test.want || (err == nil) != (test.errs == nil) {
				t.Errorf("got %q, %v", got, err)
			}
			for _, want := range test.errs {
				if !errors.Is(err, want) {
					t.Errorf("%v: Is not %v", err, want)
				}
			}
			if got, want := errors.As(err, new(*fallback.Error)), len(test.errs) == 2; got != want {
				t.Errorf("%v: is an *Error: %v, want %v", err, got, want)
			}
		})
	}
}

// alt sees what comes out of the policy, not what went in.
//
// Spec: F1
func TestGetRunsUnderThePolicy(t *testing.T) {
	refuses := mettle.PolicyFunc(func(context.Context, func(context.Context) error) error { return refused{} })
	got, err := fallback.Get(t.Context(), refuses, value(1, nil), func(_ context.Context, err error) (int, error) {
		if !errors.Is(err, mettle.ErrRejected) {
			t.Errorf("alt was told %v, want the refusal", err)
		}
		return 2, nil
	})
	if got != 2 || err != nil {
		t.Errorf("got %d, %v", got, err)
	}
}

// Spec: P4, P5, F1
func TestGetEdges(t *testing.T) {
	p := mettle.Compose()
	alt := func(context.Context, error) (int, error) { t.Error("alt ran"); return 0, nil }

	gone := errors.New("client gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := fallback.Get(ctx, p, value(1, nil), alt); !errors.Is(err, gone) {
		t.Errorf("ctx done on entry: %v", err)
	}

	for name, call := range map[string]func(){
		"panic in fn": func() {
			_, _ = fallback.Get(t.Context(), p, func(context.Context) (int, error) { panic("boom") }, alt)
		},
		"nil alt": func() { _, _ = fallback.Get(t.Context(), p, value(1, nil), nil) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			call()
		}()
	}

	ctx, cancel = context.WithCancelCause(t.Context())
	got, err := fallback.Get(ctx, p, func(ctx context.Context) (int, error) {
		cancel(gone)
		return 0, context.Cause(ctx)
	}, func(got context.Context, err error) (int, error) {
		if got != ctx || err != gone {
			t.Errorf("alt was given %v and %v", got, err)
		}
		return 7, nil
	})
	if got != 7 || err != nil {
		t.Errorf("ctx ended during fn: %d, %v", got, err)
	}
}

// A fallback may use the policy that it belongs to.
//
// Spec: P11
func TestReentrant(t *testing.T) {
	var f *fallback.Fallback
	f = fallback.New(fallback.Config{Run: func(ctx context.Context, _ error) error { return f.Do(ctx, succeeds) }})
	if err := f.Do(t.Context(), fails); err != nil {
		t.Error(err)
	}
}

// Spec: P11, P12
func TestConcurrentUseAndObserve(t *testing.T) {
	f := fallback.New(fallback.Config{Name: "queue", Run: cannotSave})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 100 {
				if i%2 == 0 {
					_ = f.Do(t.Context(), fails)
				} else if s := f.Stats(); s.Failed > s.FellBack {
					t.Errorf("%d failed of %d", s.Failed, s.FellBack)
				}
			}
		})
	}
	wg.Wait()

	var got []string
	for m := range f.Observe {
		got = append(got, fmt.Sprintf("%v %s %s %v %v", m.Kind, m.Name, m.Unit, m.Labels, m.Value))
	}
	want := []string{
		"counter mettle.fallback.fell_back {call} [{policy queue}] 400",
		"counter mettle.fallback.failed {call} [{policy queue}] 400",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for range f.Observe {
		break // must not be called again
	}
	var sum float64
	if n := testing.AllocsPerRun(100, func() {
		f.Observe(func(m mettle.Metric) bool { sum += m.Value; return true })
		_ = f.Stats()
	}); n != 0 {
		t.Errorf("Observe and Stats allocate %v times", n)
	}
}

// Spec: P13
func TestAllocations(t *testing.T) {
	f := fallback.New(fallback.Config{Run: saves, If: func(error) bool { return true }})
	bound := f.Wrap(mettle.Compose())
	ctx := t.Context()
	for name, call := range map[string]func(){
		"Do, success":   func() { _ = f.Do(ctx, succeeds) },
		"Wrap, success": func() { _ = bound.Do(ctx, succeeds) },
		"Do, saved":     func() { _ = f.Do(ctx, fails) },
	} {
		if n := testing.AllocsPerRun(100, call); n != 0 {
			t.Errorf("%s: %v allocations, want none", name, n)
		}
	}
	fn := value(1, nil)
	alt := func(context.Context, error) (int, error) { return 2, nil }
	if n := testing.AllocsPerRun(100, func() { _, _ = fallback.Get(ctx, bound, fn, alt) }); n > 2 {
		t.Errorf("Get, success: %v allocations, want at most 2", n)
	}
}
