package mettle_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mettle-go/mettle"
)

// journal notes who is entered and left.
type journal []string

func (j *journal) add(event string) { *j = append(*j, event) }

// wrapper returns a policy with the fast path that is called name.
func (j *journal) wrapper(name string) mettle.Policy {
	return &wrapper{enter: func() { j.add("> " + name) }, leave: func() { j.add("< " + name) }}
}

// plain returns a policy with only Do that is called name.
func (j *journal) plain(name string) mettle.Policy {
	return mettle.PolicyFunc(func(ctx context.Context, op operation) error {
		j.add("> " + name)
		defer j.add("< " + name)
		return naive(ctx, op)
	})
}

func (j *journal) op(context.Context) error {
	j.add("op")
	return nil
}

// The onion of the package documentation: entered from left to right, left from
// right to left, however the layers are made and grouped.
//
// Spec: P1, P2
func TestOrder(t *testing.T) {
	want := strings.Fields(">a >b >c op <c <b <a")
	for name, compose := range map[string]func(*journal) mettle.Policy{
		"wrappers": func(j *journal) mettle.Policy {
			return mettle.Compose(j.wrapper("a"), j.wrapper("b"), j.wrapper("c"))
		},
		"plain": func(j *journal) mettle.Policy {
			return mettle.Compose(j.plain("a"), j.plain("b"), j.plain("c"))
		},
		"plain outside": func(j *journal) mettle.Policy {
			return mettle.Compose(j.plain("a"), j.wrapper("b"), j.wrapper("c"))
		},
		"plain between": func(j *journal) mettle.Policy {
			return mettle.Compose(j.wrapper("a"), j.plain("b"), j.wrapper("c"))
		},
		"plain inside": func(j *journal) mettle.Policy {
			return mettle.Compose(j.wrapper("a"), j.wrapper("b"), j.plain("c"))
		},
		"pipeline outside": func(j *journal) mettle.Policy {
			return mettle.Compose(mettle.Compose(j.wrapper("a"), j.plain("b")), j.wrapper("c"))
		},
		"pipeline inside": func(j *journal) mettle.Policy {
			return mettle.Compose(j.plain("a"), mettle.Compose(j.wrapper("b"), mettle.Compose(j.plain("c"))))
		},
		"empty pipelines": func(j *journal) mettle.Policy {
			none := mettle.Compose()
			return mettle.Compose(none, j.wrapper("a"), none, j.wrapper("b"), j.wrapper("c"), none)
		},
		"bound by hand": func(j *journal) mettle.Policy {
			return mettle.Compose(j.wrapper("a")).Wrap(mettle.Compose(j.wrapper("b"), j.wrapper("c")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			var j journal
			p := compose(&j)
			for range 2 { // a pipeline is used more than once
				j = nil
				if err := p.Do(bg, j.op); err != nil {
					t.Fatal(err)
				}
				for i := range j {
					j[i] = strings.ReplaceAll(j[i], " ", "")
				}
				if !slices.Equal(j, want) {
					t.Errorf("got %v, want %v", j, want)
				}
			}
		})
	}
}

// A layer is left after a panic too, in the same order, with the panic's own value.
//
// Spec: P1, P5
func TestOrderOnPanic(t *testing.T) {
	var j journal
	p := mettle.Compose(j.wrapper("a"), j.plain("b"))
	func() {
		defer func() {
			if got := recover(); got != errBoom {
				t.Errorf("recovered %v, want the value that op panicked with", got)
			}
		}()
		_ = p.Do(bg, func(context.Context) error { panic(errBoom) })
	}()
	if want := (journal{"> a", "> b", "< b", "< a"}); !slices.Equal(j, want) {
		t.Errorf("got %v, want %v", j, want)
	}
}

func TestComposeNilPanics(t *testing.T) {
	var (
		ok         = mettle.PolicyFunc(naive)
		noFunc     mettle.PolicyFunc
		noPipeline *mettle.Pipeline
		noWrapper  *wrapper
	)
	for _, test := range []struct {
		name     string
		policies []mettle.Policy
		want     string
	}{
		{"nil", []mettle.Policy{nil}, "mettle: Compose: policy 1 of 1 is nil"},
		{"nil in the middle", []mettle.Policy{ok, nil, ok}, "mettle: Compose: policy 2 of 3 is nil"},
		{"nil PolicyFunc", []mettle.Policy{ok, ok, noFunc}, "mettle: Compose: policy 3 of 3 is nil"},
		{"nil *Pipeline", []mettle.Policy{noPipeline, ok}, "mettle: Compose: policy 1 of 2 is nil"},
		{"nil *wrapper", []mettle.Policy{ok, noWrapper}, "mettle: Compose: policy 2 of 2 is nil"},
		{"the first of two", []mettle.Policy{ok, nil, nil}, "mettle: Compose: policy 2 of 3 is nil"},
	} {
		t.Run(test.name, func(t *testing.T) {
			defer func() {
				if got := recover(); got != test.want {
					t.Errorf("panicked with %v, want %q", got, test.want)
				}
			}()
			mettle.Compose(test.policies...)
		})
	}
}

// hollow is a Wrapper that forgets to return what it has bound.
type hollow struct{ bound mettle.Policy }

func (hollow) Do(ctx context.Context, op func(context.Context) error) error { return naive(ctx, op) }
func (h hollow) Wrap(mettle.Policy) mettle.Policy                           { return h.bound }

// A Wrap that returns nil once crashed in the first call, with nothing in the stack that
// says whose it is.
func TestComposeNilFromWrapPanics(t *testing.T) {
	var noFunc mettle.PolicyFunc
	ok := mettle.PolicyFunc(naive)
	for name, test := range map[string]struct {
		policies []mettle.Policy
		want     string
	}{
		"alone":     {[]mettle.Policy{hollow{}}, "mettle: Compose: Wrap of policy 1 of 1 returns nil"},
		"outermost": {[]mettle.Policy{hollow{}, ok}, "mettle: Compose: Wrap of policy 1 of 2 returns nil"},
		"innermost": {[]mettle.Policy{ok, ok, hollow{noFunc}}, "mettle: Compose: Wrap of policy 3 of 3 returns nil"},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if got := recover(); got != test.want {
					t.Errorf("panicked with %v, want %q", got, test.want)
				}
			}()
			mettle.Compose(test.policies...)
		})
	}
}

// Spec: P4
func TestZeroPipeline(t *testing.T) {
	zero := new(mettle.Pipeline)
	for name, p := range map[string]mettle.Policy{
		"zero": zero, "composed": mettle.Compose(zero, zero), "bound": zero.Wrap(mettle.Compose()),
	} {
		runs := 0
		op := func(context.Context) error { runs++; return errBoom }
		if err := p.Do(bg, op); err != errBoom || runs != 1 {
			t.Errorf("%s: op ran %d times, %v", name, runs, err)
		}
		gone, cancel := context.WithCancelCause(bg)
		cancel(errCause)
		if err := p.Do(gone, op); err != errCause || runs != 1 {
			t.Errorf("%s, done on entry: op ran %d times in all, %v", name, runs, err)
		}
	}
	zero.Observe(func(m mettle.Metric) bool { t.Errorf("it has a metric, %v", m); return true })
}

// value is a policy that is no pointer and has no fields, so never nil.
type value struct{}

func (value) Do(ctx context.Context, op func(context.Context) error) error { return naive(ctx, op) }

func TestComposeTakesValues(t *testing.T) {
	if err := mettle.Compose(value{}).Do(bg, fail); err != errBoom {
		t.Errorf("got %v, want %v", err, errBoom)
	}
}

func TestComposeKeepsNoSlice(t *testing.T) {
	var j journal
	policies := []mettle.Policy{j.wrapper("a"), j.wrapper("b")}
	p := mettle.Compose(policies...)
	policies[0], policies[1] = nil, nil
	if err := mettle.Compose(p).Do(bg, j.op); err != nil || len(j) != 5 {
		t.Errorf("error %v, journal %v; the pipeline hangs on the caller's slice", err, j)
	}
	p.Observe(func(mettle.Metric) bool { return true })
}

// A context that is done on entry enters no layer at all, and one that a layer
// ends on the way in goes no further.
//
// Spec: P4
func TestPipelineContextDone(t *testing.T) {
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(bg)
	cancel(cause)
	var j journal
	if err := mettle.Compose(j.plain("a"), j.wrapper("b")).Do(ctx, j.op); err != cause || len(j) != 0 {
		t.Errorf("error %v, entered %v; want %v and nobody", err, j, cause)
	}

	ending := mettle.PolicyFunc(func(ctx context.Context, op operation) error {
		ctx, cancel := context.WithCancelCause(ctx)
		cancel(cause)
		return op(ctx)
	})
	if err := mettle.Compose(ending, j.wrapper("b")).Do(bg, j.op); err != cause || len(j) != 0 {
		t.Errorf("error %v, entered %v; want %v and nobody inside", err, j, cause)
	}
}

// One pipeline may be part of many, which share its state and not its place.
func TestPipelineIsShared(t *testing.T) {
	var j journal
	shared := mettle.Compose(j.wrapper("s"))
	left, right := mettle.Compose(j.wrapper("l"), shared), mettle.Compose(j.wrapper("r"), shared)
	for _, p := range []mettle.Policy{left, right, shared} {
		if err := p.Do(bg, j.op); err != nil {
			t.Fatal(err)
		}
	}
	want := journal{"> l", "> s", "op", "< s", "< l", "> r", "> s", "op", "< s", "< r", "> s", "op", "< s"}
	if !slices.Equal(j, want) {
		t.Errorf("got %v, want %v", j, want)
	}
}

// Spec: P11
func TestPipelineConcurrently(t *testing.T) {
	p := mettle.Compose(mettle.PolicyFunc(naive), &wrapper{}, mettle.Compose(mettle.PolicyFunc(naive)))
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			want := fmt.Errorf("error %d", i)
			for range 100 {
				if err := p.Do(bg, func(context.Context) error { return want }); err != want {
					t.Errorf("got %v, want %v", err, want)
				}
			}
		})
	}
	all.Wait()
}

// observed is a policy with two metrics.
type observed struct {
	value
	name string
}

func (o observed) Observe(yield func(mettle.Metric) bool) {
	if yield(mettle.Metric{Name: o.name + ".one"}) {
		yield(mettle.Metric{Name: o.name + ".two"})
	}
}

// Spec: P12
func TestPipelineObserve(t *testing.T) {
	p := mettle.Compose(
		observed{name: "a"},
		mettle.PolicyFunc(naive), // has nothing to tell
		mettle.Compose(observed{name: "b"}, mettle.Compose(observed{name: "c"})),
	)
	want := strings.Fields("a.one a.two b.one b.two c.one c.two")
	for stop := 1; stop <= len(want)+1; stop++ { // the last one reads all
		var got []string
		for m := range p.Observe {
			got = append(got, m.Name)
			if len(got) == stop {
				break // the runtime panics if yield is called once more
			}
		}
		if n := min(stop, len(want)); !slices.Equal(got, want[:n]) {
			t.Errorf("stopped after %d: got %v, want %v", stop, got, want[:n])
		}
	}
}

// A policy that yields on when told to stop must not get through to the reader.
func TestPipelineObserveStubborn(t *testing.T) {
	n := 0
	mettle.Compose(stubborn{}, observed{name: "never"}).Observe(func(mettle.Metric) bool {
		n++
		return false
	})
	if n != 1 {
		t.Errorf("yield was called %d times, and returned false the first time", n)
	}
}

type stubborn struct{ value }

func (stubborn) Observe(yield func(mettle.Metric) bool) {
	yield(mettle.Metric{})
	yield(mettle.Metric{})
}

// A pipeline of wrappers costs nothing but the caller's own closure, one of
// policies with only Do a closure for each.
//
// Spec: P2, P13
func TestPipelineAllocations(t *testing.T) {
	plain := mettle.PolicyFunc(naive)
	for _, test := range []struct {
		name string
		p    *mettle.Pipeline
		want float64
	}{
		{"none", mettle.Compose(), 0},
		{"1 wrapper", mettle.Compose(&wrapper{}), 0},
		{"5 wrappers", mettle.Compose(&wrapper{}, &wrapper{}, &wrapper{}, &wrapper{}, &wrapper{}), 0},
		{"wrappers in pipelines", mettle.Compose(&wrapper{}, mettle.Compose(&wrapper{}, mettle.Compose(&wrapper{}))), 0},
		{"1 plain", mettle.Compose(plain), 1},
		{"plain among wrappers", mettle.Compose(&wrapper{}, plain, &wrapper{}), 1},
		{"3 plain", mettle.Compose(plain, plain, plain), 3},
	} {
		if n := testing.AllocsPerRun(100, func() { _ = test.p.Do(bg, succeed) }); n != test.want {
			t.Errorf("%s: %v allocations for an op that is no closure, want %v", test.name, n, test.want)
		}
		sum := 0
		n := testing.AllocsPerRun(100, func() {
			_ = test.p.Do(bg, func(context.Context) error { sum++; return nil })
		})
		if n > test.want+1 {
			t.Errorf("%s: %v allocations with the caller's closure, want at most %v", test.name, n, test.want+1)
		}
	}
}

func TestPolicies(t *testing.T) {
	a := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error { return op(ctx) })
	inner := mettle.Compose(a, a)
	p := mettle.Compose(a, inner)
	got := p.Policies()
	if len(got) != 2 || got[1] != mettle.Policy(inner) {
		t.Fatalf("Policies returns %v", got)
	}
	got[1] = nil
	if p.Policies()[1] == nil {
		t.Error("Policies hands out the pipeline's own slice")
	}
	if got := new(mettle.Pipeline).Policies(); len(got) != 0 {
		t.Errorf("the zero Pipeline has %v", got)
	}
}
