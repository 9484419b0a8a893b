package mettle_test

import (
	"context"
	"errors"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/mettle-go/mettle"
)

// everyHook returns a Trace all of whose hooks call hook with their name.
func everyHook(hook func(name string)) *mettle.Trace {
	tr := new(mettle.Trace)
	v := reflect.ValueOf(tr).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		v.Field(i).Set(reflect.ValueOf(func(mettle.TraceEvent) { hook(name) }))
	}
	return tr
}

// fire calls each hook that is set.
func fire(tr *mettle.Trace) {
	v := reflect.ValueOf(tr).Elem()
	for i := range v.NumField() {
		if hook := v.Field(i).Interface().(func(mettle.TraceEvent)); hook != nil {
			hook(mettle.TraceEvent{})
		}
	}
}

func TestTrace(t *testing.T) {
	if tr := mettle.ContextTrace(bg); tr != nil {
		t.Errorf("a context without hooks has %v", tr)
	}
	tr := new(mettle.Trace)
	ctx := mettle.WithTrace(bg, tr)
	if got := mettle.ContextTrace(ctx); got != tr {
		t.Errorf("got %p, want the Trace that was put in, %p", got, tr)
	}
	fire(mettle.ContextTrace(ctx)) // has no hook at all
	child, cancel := context.WithCancel(context.WithValue(ctx, callKey{}, 1))
	defer cancel()
	if got := mettle.ContextTrace(child); got != tr {
		t.Errorf("a descendant has %p, want %p", got, tr)
	}
}

// Hooks add up, the latest first, each of them by itself.
func TestTraceComposes(t *testing.T) {
	var got []string
	named := func(prefix string) *mettle.Trace {
		return everyHook(func(name string) { got = append(got, prefix+name) })
	}
	outer, inner := named("outer "), named("inner ")
	outer.Hedged, inner.FellBack = nil, nil
	ctx := mettle.WithTrace(bg, outer)
	ctx = mettle.WithTrace(ctx, new(mettle.Trace)) // adds nothing, hides nothing
	ctx = mettle.WithTrace(ctx, inner)

	fire(mettle.ContextTrace(ctx))
	var want []string
	for i := range reflect.TypeFor[mettle.Trace]().NumField() {
		switch name := reflect.TypeFor[mettle.Trace]().Field(i).Name; name {
		case "Hedged":
			want = append(want, "inner "+name)
		case "FellBack":
			want = append(want, "outer "+name)
		default:
			want = append(want, "inner "+name, "outer "+name)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}

	// Neither Trace has been changed.
	got = nil
	fire(outer)
	if outer.Hedged != nil || inner.FellBack != nil || slices.Contains(got, "inner Wait") {
		t.Error("WithTrace has changed a Trace that it was given")
	}
}

func TestTraceNilPanics(t *testing.T) {
	defer func() {
		if got := recover(); got != "mettle: WithTrace: nil Trace" {
			t.Errorf("panicked with %v", got)
		}
	}()
	mettle.WithTrace(bg, nil)
}

// Spec: R19
func TestAttempt(t *testing.T) {
	if n := mettle.Attempt(bg); n != 0 {
		t.Errorf("outside a retry: %d, want 0", n)
	}
	first := mettle.WithAttempt(bg, 1)
	third := mettle.WithAttempt(bg, 3)
	nested := mettle.WithAttempt(third, 2)
	for _, test := range []struct {
		name string
		ctx  context.Context
		want int
	}{
		{"first", first, 1},
		{"third", third, 3},
		{"nested", nested, 2},
		{"around the nested one", third, 3},
		{"with hooks", mettle.WithTrace(third, new(mettle.Trace)), 3},
		{"with a call", mettle.WithCall(third), 3},
		{"with a value", context.WithValue(third, callKey{}, 1), 3},
	} {
		if got := mettle.Attempt(test.ctx); got != test.want {
			t.Errorf("%s: attempt %d, want %d", test.name, got, test.want)
		}
	}
	tr := new(mettle.Trace)
	if mettle.ContextTrace(mettle.WithAttempt(mettle.WithTrace(bg, tr), 1)) != tr {
		t.Error("WithAttempt loses the hooks")
	}
}

func TestAttemptPanics(t *testing.T) {
	for _, n := range []int{0, -1} {
		func() {
			defer func() {
				if got := recover(); got != "mettle: WithAttempt: attempts count from 1" {
					t.Errorf("%d: panicked with %v", n, got)
				}
			}()
			mettle.WithAttempt(bg, n)
		}()
	}
}

// The context of the call is the one that the outermost retry was entered with,
// and so has the call's deadline where that of op is the attempt's.
func TestCallContext(t *testing.T) {
	if got := mettle.CallContext(bg); got != bg {
		t.Errorf("outside a retry: %v, want the context itself", got)
	}
	total, cancel := context.WithTimeout(bg, time.Hour)
	defer cancel()
	if got := mettle.CallContext(total); got != total {
		t.Errorf("outside a retry: %v, want the context itself", got)
	}

	attempt := mettle.WithAttempt(total, 1)
	timed, cancel := context.WithTimeout(attempt, time.Minute)
	defer cancel()
	nested := mettle.WithAttempt(timed, 2)
	for name, ctx := range map[string]context.Context{
		"attempt": attempt, "with its own deadline": timed, "nested retry": nested,
		"with hooks": mettle.WithTrace(nested, new(mettle.Trace)),
	} {
		if got := mettle.CallContext(ctx); got != total {
			t.Errorf("%s: %v, want the context that the outermost retry was entered with", name, got)
		}
	}

	// An adapter's pipeline inside somebody else's retry: a call of its own.
	call := mettle.WithCall(nested)
	if got := mettle.CallContext(call); got != call {
		t.Errorf("after WithCall: %v, want the context itself", got)
	}
	if got := mettle.CallContext(mettle.WithAttempt(call, 1)); got != call {
		t.Errorf("a retry after WithCall: %v, want what WithCall returned", got)
	}
	if got := mettle.CallContext(nested); got != total {
		t.Errorf("WithCall has changed the context that it was given: %v", got)
	}
}

// The contexts made here are part of the family: they end, with the cause, when
// their parents do, and their children hang on to those directly, without a
// goroutine each.
//
// Spec: T4
func TestContextInterop(t *testing.T) {
	parent, cancel := context.WithCancelCause(bg)
	makers := map[string]func(context.Context) context.Context{
		"WithAttempt": func(ctx context.Context) context.Context { return mettle.WithAttempt(ctx, 1) },
		"WithTrace":   func(ctx context.Context) context.Context { return mettle.WithTrace(ctx, new(mettle.Trace)) },
		"WithCall":    mettle.WithCall,
	}
	before := runtime.NumGoroutine()
	children := make(map[string][]context.Context)
	for name, derive := range makers {
		ctx := derive(derive(parent))
		child, stop := context.WithCancel(ctx)
		defer stop()
		timed, stop := context.WithTimeout(ctx, time.Hour)
		defer stop()
		defer context.AfterFunc(ctx, func() {})()
		children[name] = []context.Context{ctx, child, timed, context.WithValue(ctx, callKey{}, 1)}
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines for the children, want none", n-before)
	}
	cancel(errBoom)
	for name, all := range children {
		for i, ctx := range all {
			select {
			case <-ctx.Done():
			default:
				t.Errorf("%s, child %d: not done", name, i)
			}
			if ctx.Err() != context.Canceled || !errors.Is(context.Cause(ctx), errBoom) {
				t.Errorf("%s, child %d: Err %v, cause %v", name, i, ctx.Err(), context.Cause(ctx))
			}
		}
	}
}

// callKey is of the name that the package uses itself, and another key.
type callKey struct{}

// Spec: P13, R7
func TestContextAllocations(t *testing.T) {
	tr := new(mettle.Trace)
	ctx, cancel := context.WithCancel(context.WithValue(bg, callKey{}, 1))
	defer cancel()
	marked := mettle.WithAttempt(mettle.WithTrace(ctx, tr), 1)
	for name, test := range map[string]struct {
		do   func()
		want float64
	}{
		"WithAttempt":  {func() { mettle.WithAttempt(marked, 2) }, 1},
		"WithTrace":    {func() { mettle.WithTrace(ctx, tr) }, 1},
		"WithCall":     {func() { mettle.WithCall(marked) }, 1},
		"Attempt":      {func() { mettle.Attempt(marked) }, 0},
		"ContextTrace": {func() { mettle.ContextTrace(marked) }, 0},
		"CallContext":  {func() { mettle.CallContext(marked) }, 0},
	} {
		if n := testing.AllocsPerRun(100, test.do); n > test.want {
			t.Errorf("%s: %v allocations, want %v", name, n, test.want)
		}
	}
}

// Time in a queue is noted on every context it was derived from, so that each policy
// that measures learns of the waits inside it and of no others.
//
// Spec: B22 (part)
func TestQueued(t *testing.T) {
	outer := mettle.WithQueued(context.Background())
	mettle.AddQueued(outer, time.Second)
	attempt := mettle.WithAttempt(outer, 1)
	inner := mettle.WithQueued(attempt)
	mettle.AddQueued(context.WithValue(inner, callKey{}, 1), time.Minute)
	mettle.AddQueued(context.Background(), time.Hour) // nobody measures
	for name, v := range map[string]struct {
		ctx  context.Context
		want time.Duration
	}{
		"outer":   {outer, time.Minute + time.Second},
		"attempt": {attempt, time.Minute},
		"inner":   {inner, time.Minute},
		"none":    {context.Background(), 0},
	} {
		if got := mettle.Queued(v.ctx); got != v.want {
			t.Errorf("%s: Queued = %v, want %v", name, got, v.want)
		}
	}
}
