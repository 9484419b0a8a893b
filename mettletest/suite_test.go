package mettletest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mettle-go/mettle"
)

// The suite is held to two things: policies that keep the contract pass it whole,
// and each way to break the contract fails the check that is named for it.

func TestSoundPoliciesPass(t *testing.T) {
	for name, newPolicy := range map[string]func() mettle.Policy{
		"hands on":  func() mettle.Policy { return mettle.PolicyFunc(guarded(handOn)) },
		"pipeline":  func() mettle.Policy { return mettle.Compose() },
		"semaphore": func() mettle.Policy { return newSemaphore(3) },
		"wrapper":   func() mettle.Policy { return &boundSemaphore{semaphore: newSemaphore(3)} },
		"breaker":   func() mettle.Policy { return &fuse{limit: 5, coolOff: time.Minute} },
		"deadline":  func() mettle.Policy { return mettle.PolicyFunc(guarded(deadline)) },
		"resends":   func() mettle.Policy { return &resender{} },
		"observed":  func() mettle.Policy { return &counted{} },
		"fault":     func() mettle.Policy { return NewFault(FaultConfig{}) },
		"slow": func() mettle.Policy {
			return NewFault(FaultConfig{Rules: []FaultRule{{Latency: time.Second, Rate: 0.5}}})
		},
	} {
		t.Run(name, func(t *testing.T) { TestPolicy(t, newPolicy) })
	}
	t.Run("overlaps", func(t *testing.T) {
		TestPolicy(t, func() mettle.Policy { return mettle.PolicyFunc(guarded(sideBySide)) }, MayOverlap())
	})
}

func TestFaultyPoliciesFail(t *testing.T) {
	for _, f := range faulty {
		t.Run(f.name, func(t *testing.T) {
			i := slices.IndexFunc(checks, func(c check) bool { return c.name == f.check })
			r := new(recorder)
			checks[i].run(t, r, f.policy, options{})
			if !strings.Contains(r.text.String(), f.says) || r.text.Len() == 0 {
				t.Errorf("check %q said %q, want it to say %q", f.check, &r.text, f.says)
			}
		})
	}
}

// deaf is a semaphore written by hand, without a look at the context.
type deaf chan struct{}

func (d deaf) Do(ctx context.Context, op func(context.Context) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	d <- struct{}{}
	defer func() { <-d }()
	return op(ctx)
}

// TestHangIsToldShortly has a policy under test whose calls hang. That used to end in
// 136,094 lines: the stacks of all goroutines there were, once for each check.
func TestHangIsToldShortly(t *testing.T) {
	const child = "METTLETEST_HANG"
	if os.Getenv(child) != "" {
		TestPolicy(t, func() mettle.Policy { return make(deaf, 3) })
		return
	}
	self := exec.Command(os.Args[0], "-test.v", "-test.run=^TestHangIsToldShortly$")
	self.Env = append(os.Environ(), child+"=1")
	out, err := self.CombinedOutput()
	if err == nil {
		t.Error("a policy that hangs passes")
	}
	text := string(out)
	stuck := strings.Count(text, "mettletest.deaf.Do(")
	if n := strings.Count(text, "goroutine "); n > 10 || stuck < 1 || stuck > 3 {
		t.Errorf("%d lines with goroutines, %d of the policy", n, stuck)
	}
	for _, want := range []string{"deadlock: ", "… and ", " more\n", `not tried: a call hangs in "alone/`, "--- SKIP: TestHangIsToldShortly/outside"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	if n := strings.Count(text, "deadlock: "); n != 1 {
		t.Errorf("%d deadlocks are told", n)
	}
	if t.Failed() {
		t.Logf("%.5000s", text)
	}
}

// TestEveryCheckIsTried wants a faulty policy for each check of the suite.
func TestEveryCheckIsTried(t *testing.T) {
	for _, c := range checks {
		if !slices.ContainsFunc(faulty, func(f fault) bool { return f.check == c.name }) {
			t.Errorf("no faulty policy is known to fail %q", c.name)
		}
	}
}

// recorder is a reporter that lets the test pass.
type recorder struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(&r.text, format+"\n", args...)
}

// fault is a way to break the contract, and the check that finds it.
type fault struct {
	name   string
	policy func() mettle.Policy
	check  string
	says   string // part of what the check says
}

type operation = func(context.Context) error

// bare is a policy that does what the function does and no more: a mettle.PolicyFunc
// looks at the context by itself.
type bare func(ctx context.Context, op operation) error

func (do bare) Do(ctx context.Context, op operation) error { return do(ctx, op) }

func plant(do func(ctx context.Context, op operation) error) func() mettle.Policy {
	return func() mettle.Policy { return bare(do) }
}

var faulty = []fault{
	{
		name:   "never runs op",
		policy: plant(guarded(func(context.Context, operation) error { return mettle.ErrRejected })),
		check:  "runs op", says: "does not run op",
	},
	{
		name: "loses the error",
		policy: plant(guarded(func(ctx context.Context, op operation) error {
			if err := op(ctx); err != nil {
				return fmt.Errorf("op: %v", err)
			}
			return nil
		})),
		check: "returns op's error", says: "errors.Is does not find",
	},
	{
		name: "swallows the error",
		policy: plant(guarded(func(ctx context.Context, op operation) error {
			_ = op(ctx)
			return nil
		})),
		check: "returns op's error", says: "Do returned nil",
	},
	{
		name: "detaches the context",
		policy: plant(guarded(func(ctx context.Context, op operation) error {
			return op(context.WithoutCancel(ctx))
		})),
		check: "hands on the context", says: "Done is not closed",
	},
	{
		name: "drops the values",
		policy: plant(guarded(func(ctx context.Context, op operation) error {
			bare, cancel := context.WithCancelCause(context.Background())
			defer cancel(nil)
			if d, ok := ctx.Deadline(); ok {
				var stop func()
				bare, stop = context.WithDeadline(bare, d)
				defer stop()
			}
			defer context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })()
			return op(bare)
		})),
		check: "hands on the context", says: "lacks the values",
	},
	{
		name: "moves the deadline",
		policy: plant(guarded(func(ctx context.Context, op operation) error {
			return op(lenient{ctx})
		})),
		check: "hands on the context", says: "the deadline of op's context",
	},
	{
		name:   "does not look at the context",
		policy: plant(handOn),
		check:  "context done on entry", says: "op ran although the context was done",
	},
	{
		name: "returns Err and not the cause",
		policy: plant(func(ctx context.Context, op operation) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return op(ctx)
		}),
		check: "context done on entry", says: "must be its cause",
	},
	{
		name: "leaks when the context is done on entry",
		policy: func() mettle.Policy {
			s := newSemaphore(3)
			return bare(func(ctx context.Context, op operation) error {
				if ctx.Err() != nil && s.acquire() {
					return context.Cause(ctx)
				}
				return s.Do(ctx, op)
			})
		},
		check: "context done on entry", says: "no call gets through",
	},
	{
		name:   "does not look at the context after a wait",
		policy: func() mettle.Policy { return &resender{deaf: true} },
		check:  "context done while waiting", says: "after the caller's context had ended",
	},
	{
		name:   "goes on waiting",
		policy: func() mettle.Policy { return &resender{sleeps: true} },
		check:  "context done while waiting", says: "goes on waiting",
	},
	{
		name: "waits past its own deadline",
		policy: plant(guarded(func(ctx context.Context, op operation) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			time.Sleep(2 * time.Second)
			return op(ctx)
		})),
		check: "runs op", says: "after the deadline of the context it was given",
	},
	{
		name: "takes a late success away",
		policy: plant(guarded(func(ctx context.Context, op operation) error {
			if err := op(ctx); err != nil {
				return err
			}
			return context.Cause(ctx)
		})),
		check: "success after the context ended", says: "op succeeded, Do returned",
	},
	{
		name:   "abandons op",
		policy: plant(guarded(abandon)),
		check:  "op ends before Do returns", says: "Do returned while op was running",
	},
	{
		name: "runs op after Do returned",
		policy: plant(guarded(func(ctx context.Context, op operation) error {
			err := op(ctx)
			if err != nil {
				time.AfterFunc(time.Second, func() { _ = op(ctx) })
			}
			return err
		})),
		check: "op ends before Do returns", says: "op ran after Do had returned",
	},
	{
		name:   "overlaps",
		policy: plant(guarded(sideBySide)),
		check:  "success after the context ended", says: "2 runs of op at a time",
	},
	{
		name: "swallows a panic",
		policy: plant(guarded(func(ctx context.Context, op operation) (err error) {
			defer func() {
				if v := recover(); v != nil {
					err = fmt.Errorf("recovered: %v", v)
				}
			}()
			return op(ctx)
		})),
		check: "panic passes through", says: "swallowed",
	},
	{
		name: "changes the value of a panic",
		policy: plant(guarded(func(ctx context.Context, op operation) error {
			defer func() {
				if v := recover(); v != nil {
					panic(fmt.Errorf("op panicked: %v", v))
				}
			}()
			return op(ctx)
		})),
		check: "panic passes through", says: "op panicked with string a text, Do with *errors.errorString",
	},
	{
		name:   "loses the stack of a panic",
		policy: plant(guarded(panicAnew)),
		check:  "panic passes through", says: "does not show where op panicked",
	},
	{
		name: "makes an error of Goexit",
		policy: plant(guarded(func(ctx context.Context, op operation) error {
			done := make(chan error, 1)
			var value any
			go func() {
				defer close(done)
				defer func() { value = recover() }()
				done <- op(ctx)
			}()
			err, ok := <-done
			if value != nil {
				panic(value)
			}
			if !ok {
				return errors.New("op did not return")
			}
			return err
		})),
		check: "Goexit passes through", says: "swallowed",
	},
	leak("panics", func(panicking bool, _ error) bool { return panicking }),
	leak("errors", func(_ bool, err error) bool { return err != nil && !errors.Is(err, context.Canceled) }),
	leak("calls cancelled in op", func(_ bool, err error) bool { return errors.Is(err, context.Canceled) }),
	{
		name: "leaks when a hook panics",
		policy: func() mettle.Policy {
			s := newSemaphore(3)
			return mettle.PolicyFunc(func(ctx context.Context, op operation) error {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if !s.acquire() {
					return mettle.ErrRejected
				}
				if tr := mettle.ContextTrace(ctx); tr != nil {
					tr.Wait(mettle.TraceEvent{})
				}
				defer s.release()
				return op(ctx)
			})
		},
		check: "gives everything back", says: "panics in hooks",
	},
	{
		name:   "refuses with an error of its own",
		policy: func() mettle.Policy { return &fuse{limit: 5, coolOff: time.Minute, refusal: errors.New("blown")} },
		check:  "refuses properly", says: "must be ErrRejected",
	},
	{
		name:   "refuses with a nil pointer",
		policy: func() mettle.Policy { return &fuse{limit: 5, coolOff: time.Minute, refusal: (*refusal)(nil)} },
		check:  "refuses properly", says: "Error method of the refusal",
	},
	{
		name:   "allocates a refusal",
		policy: func() mettle.Policy { return &fuse{limit: 5, coolOff: time.Minute, alloc: true} },
		check:  "refuses properly", says: "a refusal allocates",
	},
	{
		name:   "never recovers",
		policy: func() mettle.Policy { return &fuse{limit: 5, coolOff: 1000 * leaveAlone} },
		check:  "refuses properly", says: "even when all is over",
	},
	{
		name:   "counts refusals as failures",
		policy: func() mettle.Policy { return &fuse{limit: 5, coolOff: time.Minute, counts: true} },
		check:  "ignores what is no outcome", says: "refusals further in",
	},
	{
		name: "calls hooks under a lock",
		policy: func() mettle.Policy {
			lock := make(chan struct{}, 1) // a sync.Mutex would hang this test
			return mettle.PolicyFunc(guarded(func(ctx context.Context, op operation) error {
				lock <- struct{}{}
				if tr := mettle.ContextTrace(ctx); tr != nil && tr.Wait != nil {
					defer func() { <-lock }()
					tr.Wait(mettle.TraceEvent{})
				} else {
					<-lock
				}
				return op(ctx)
			}))
		},
		check: "hooks call back in", says: "a call hangs",
	},
	{
		name: "mixes up the calls",
		policy: func() mettle.Policy {
			var last atomic.Value
			return mettle.PolicyFunc(guarded(func(ctx context.Context, op operation) error {
				err := op(ctx)
				if err != nil {
					last.Store(fmt.Errorf("op: %w", err))
					time.Sleep(time.Second)
					err = last.Load().(error)
				}
				return err
			}))
		},
		check: "concurrent use", says: "does not find op's error",
	},
	{
		name:   "forgets next",
		policy: func() mettle.Policy { return forgetful{} },
		check:  "Wrap binds the policy", says: "was called 0 times",
	},
	{
		name:   "hides the error of next",
		policy: func() mettle.Policy { return hiding{} },
		check:  "Wrap binds the policy", says: "next returned",
	},
	{
		name:   "binds a copy of its state",
		policy: func() mettle.Policy { return &boundSemaphore{semaphore: newSemaphore(3), apart: true} },
		check:  "Wrap shares the state", says: "do not share",
	},
	{
		name:   "counts being observed",
		policy: func() mettle.Policy { return &counted{impure: true} },
		check:  "Observe only reads", says: "no pure read",
	},
	{
		name:   "yields on",
		policy: func() mettle.Policy { return &counted{deaf: true} },
		check:  "Observe only reads", says: "goes on",
	},
	{
		name:   "yields twice",
		policy: func() mettle.Policy { return &counted{labels: []mettle.Label{{Key: "a"}, {Key: "a"}}, twice: true} },
		check:  "Observe only reads", says: "an empty key or one twice",
	},
	{
		name:   "yields the same metric twice",
		policy: func() mettle.Policy { return &counted{twice: true} },
		check:  "Observe only reads", says: "twice",
	},
	{
		name:   "has a counter that falls",
		policy: func() mettle.Policy { return &counted{falls: true} },
		check:  "Observe only reads", says: "fell from",
	},
	{
		name: "leaves a goroutine",
		policy: plant(guarded(func(ctx context.Context, op operation) error {
			go func() { time.Sleep(time.Second) }()
			return op(ctx)
		})),
		check: "leaves no goroutine", says: "left a goroutine behind",
	},
	{
		name: "keeps its context",
		policy: plant(guarded(func(ctx context.Context, op operation) error {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
			time.AfterFunc(time.Hour, cancel)
			return op(ctx)
		})),
		check: "leaves no goroutine", says: "has not ended with Do",
	},
}

// leak plants a semaphore that keeps the slot of the calls that lost is true for.
func leak(name string, lost func(panicking bool, err error) bool) fault {
	return fault{
		name: "leaks on " + name,
		policy: func() mettle.Policy {
			s := newSemaphore(3)
			return mettle.PolicyFunc(guarded(func(ctx context.Context, op operation) (err error) {
				if !s.acquire() {
					return mettle.ErrRejected
				}
				panicking := true
				defer func() {
					if !lost(panicking, err) {
						s.release()
					}
				}()
				err = op(ctx)
				panicking = false
				return err
			}))
		},
		check: "gives everything back", says: name,
	}
}

// guarded adds what every policy owes on entry.
func guarded(do func(context.Context, operation) error) func(context.Context, operation) error {
	return func(ctx context.Context, op operation) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return do(ctx, op)
	}
}

func deadline(ctx context.Context, op operation) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return op(ctx)
}

// abandon returns when ctx ends, with or without op.
func abandon(ctx context.Context, op operation) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		defer func() {
			if recover() != nil {
				done <- errors.New("op panicked")
			}
		}()
		done <- op(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// panicAnew leaves the frames of op before it panics again.
func panicAnew(ctx context.Context, op operation) error {
	var value any
	normal, err := false, error(nil)
	func() {
		defer func() { value = recover() }()
		err = op(ctx)
		normal = true
	}()
	if value != nil || !normal {
		panic(value)
	}
	return err
}

// sideBySide runs op a second time if the first takes a second, and waits for
// both: a hedge of the simplest kind. The goroutine of Do is where the first runs,
// so that Goexit and panics pass through.
func sideBySide(ctx context.Context, op operation) error {
	second := make(chan error, 1)
	stop := time.AfterFunc(time.Second, func() {
		result := errors.New("the second run did not return")
		defer func() { second <- result }()
		if ctx.Err() != nil {
			result = context.Cause(ctx)
			return
		}
		result = op(ctx)
	})
	normal := false
	defer func() {
		if !normal && !stop.Stop() {
			<-second
		}
	}()
	err := op(ctx)
	normal = true
	if stop.Stop() {
		return err
	}
	if late := <-second; err != nil && late != nil {
		return errors.Join(err, late)
	}
	return nil
}

// lenient claims a deadline an hour later than it is.
type lenient struct{ context.Context }

func (l lenient) Deadline() (time.Time, bool) {
	d, ok := l.Context.Deadline()
	return d.Add(time.Hour), ok
}

// semaphore is a bulkhead of the simplest kind, sound.
type semaphore chan struct{}

func newSemaphore(n int) semaphore { return make(semaphore, n) }

func (s semaphore) acquire() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s semaphore) release() { <-s }

func (s semaphore) Do(ctx context.Context, op func(context.Context) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !s.acquire() {
		return mettle.ErrRejected
	}
	defer s.release()
	return op(ctx)
}

type boundSemaphore struct {
	semaphore
	apart bool
}

func (b *boundSemaphore) Wrap(next mettle.Policy) mettle.Policy {
	s := b.semaphore
	if b.apart {
		s = newSemaphore(cap(s))
	}
	return mettle.PolicyFunc(func(ctx context.Context, op operation) error {
		return s.Do(ctx, func(ctx context.Context) error { return next.Do(ctx, op) })
	})
}

// fuse is a breaker of the simplest kind, sound but for what its fields say.
type fuse struct {
	limit   int
	coolOff time.Duration
	counts  bool  // refusals and cancellations as failures
	refusal error // in place of ErrRejected
	alloc   bool  // a refusal for each call

	mu       sync.Mutex
	failures int
	blown    time.Time
}

type refusal struct{ text string }

func (r *refusal) Error() string        { return r.text }
func (r *refusal) Is(target error) bool { return target == mettle.ErrRejected }

func (f *fuse) Do(ctx context.Context, op func(context.Context) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if f.open() {
		switch {
		case f.alloc:
			return &refusal{"blown at " + f.blown.String()}
		case f.refusal != nil:
			return f.refusal
		}
		return mettle.ErrRejected
	}
	outcome := mettle.Failure
	defer func() { f.record(outcome) }()
	err := op(ctx)
	outcome = mettle.Classify(ctx, err)
	return err
}

func (f *fuse) open() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failures >= f.limit && time.Since(f.blown) < f.coolOff
}

func (f *fuse) record(o mettle.Outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case o.Failed() || o == mettle.Ignored && f.counts:
		f.failures++
		f.blown = time.Now()
	case o == mettle.Success:
		f.failures = 0
	}
}

// resender is a retry of the simplest kind, sound but for what its fields say.
type resender struct {
	deaf   bool // does not look at the context after a wait
	sleeps bool // nor during one
}

func (r *resender) Do(ctx context.Context, op func(context.Context) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for n := 1; ; n++ {
		err := op(ctx)
		if err == nil || n == 3 || errors.Is(err, mettle.ErrRejected) {
			return err
		}
		ended := ctx.Done()
		if r.sleeps {
			ended = nil
		}
		select {
		case <-ended:
		case <-time.After(time.Second):
		}
		if ctx.Err() != nil && !r.deaf {
			return err
		}
	}
}

// counted counts its calls, soundly but for what its fields say.
type counted struct {
	impure, deaf, twice, falls bool
	labels                     []mettle.Label

	calls atomic.Int64
}

func (c *counted) Do(ctx context.Context, op func(context.Context) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.calls.Add(1)
	return op(ctx)
}

func (c *counted) Observe(yield func(mettle.Metric) bool) {
	if c.impure {
		c.calls.Add(1)
	}
	v := float64(c.calls.Load())
	if c.falls {
		v = max(0, 30-v)
	}
	m := mettle.Metric{Kind: mettle.Counter, Name: "calls", Unit: "{call}", Labels: c.labels, Value: v}
	second := m
	if !c.twice {
		second.Name = "more_calls"
	}
	if yield(m) || c.deaf {
		yield(second)
	}
}

// forgetful runs op itself where it ought to run next.
type forgetful struct{}

func (forgetful) Do(ctx context.Context, op func(context.Context) error) error {
	return guarded(handOn)(ctx, op)
}
func (f forgetful) Wrap(mettle.Policy) mettle.Policy { return f }

// hiding replaces the refusals of next by its own.
type hiding struct{}

func (hiding) Do(ctx context.Context, op func(context.Context) error) error {
	return guarded(handOn)(ctx, op)
}

func (hiding) Wrap(next mettle.Policy) mettle.Policy {
	return mettle.PolicyFunc(func(ctx context.Context, op operation) error {
		if err := next.Do(ctx, op); !errors.Is(err, mettle.ErrRejected) {
			return err
		}
		return mettle.ErrRejected
	})
}
