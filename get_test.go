package mettle_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
)

func TestGet(t *testing.T) {
	p := mettle.Compose(&wrapper{})
	type answer struct{ n int }
	want := &answer{42}
	got, err := mettle.Get(bg, p, func(context.Context) (*answer, error) { return want, nil })
	if err != nil || got != want {
		t.Errorf("got %v, %v; want the value that fn returned", got, err)
	}
	got, err = mettle.Get(bg, p, func(context.Context) (*answer, error) { return want, errBoom })
	if err != errBoom || got != nil {
		t.Errorf("got %v, %v; want no value beside an error", got, err)
	}
	face, err := mettle.Get(bg, p, func(context.Context) (error, error) { return nil, nil })
	if err != nil || face != nil {
		t.Errorf("got %v, %v; want a nil interface", face, err)
	}
}

// Spec: P4
func TestGetContextDone(t *testing.T) {
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(bg)
	cancel(cause)
	n, err := mettle.Get(ctx, mettle.Compose(), func(context.Context) (int, error) {
		t.Error("fn ran under a context that was done")
		return 1, nil
	})
	if n != 0 || err != cause {
		t.Errorf("got %v, %v; want 0, %v", n, err, cause)
	}
}

// results runs fn under a policy and returns what each run is to return.
func results[T any](rs ...T) func(context.Context) (T, error) {
	n := 0
	return func(context.Context) (T, error) {
		n++
		return rs[n-1], nil
	}
}

// Of runs that follow one another the last success counts: whoever ran fn again
// was not content with the one before.
func TestGetRunTwice(t *testing.T) {
	twice := mettle.PolicyFunc(func(ctx context.Context, op operation) error {
		return errors.Join(op(ctx), op(ctx))
	})
	if got, err := mettle.Get(bg, twice, results("first", "second")); got != "second" || err != nil {
		t.Errorf("got %q, %v; want the second value", got, err)
	}

	// A failure after a success takes nothing back; what p returns decides.
	content := mettle.PolicyFunc(func(ctx context.Context, op operation) error {
		_, _ = op(ctx), op(ctx)
		return nil
	})
	n := 0
	got, err := mettle.Get(bg, content, func(context.Context) (string, error) {
		if n++; n == 2 {
			return "worse", errBoom
		}
		return "first", nil
	})
	if got != "first" || err != nil {
		t.Errorf("got %q, %v; want the value of the run that succeeded", got, err)
	}
}

// A success of p's own has no value, and a value without a success of p's is none.
func TestGetValueNeedsBoth(t *testing.T) {
	cached := mettle.PolicyFunc(func(context.Context, operation) error { return nil })
	if got, err := mettle.Get(bg, cached, results("value")); got != "" || err != nil {
		t.Errorf("got %q, %v; want no value", got, err)
	}
	strict := mettle.PolicyFunc(func(ctx context.Context, op operation) error {
		_ = op(ctx)
		return errBoom
	})
	if got, err := mettle.Get(bg, strict, results("value")); got != "" || err != errBoom {
		t.Errorf("got %q, %v; want no value beside an error", got, err)
	}
}

// sideBySide runs op n times at once and waits for all of them.
func sideBySide(n int) mettle.Policy {
	return mettle.PolicyFunc(func(ctx context.Context, op operation) error {
		var all sync.WaitGroup
		var mu sync.Mutex
		err := errBoom
		for range n {
			all.Go(func() {
				e := op(ctx)
				mu.Lock()
				defer mu.Unlock()
				if e == nil {
					err = nil
				}
			})
		}
		all.Wait()
		return err
	})
}

// Of runs that overlap the first success counts, and counts once: those that end
// later were given up.
func TestGetSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		n := 0
		got, err := mettle.Get(bg, sideBySide(4), func(context.Context) (int, error) {
			mu.Lock()
			n++
			me := n
			mu.Unlock()
			// The last to begin is the first to end, but it fails.
			time.Sleep(time.Duration(5-me) * time.Second)
			if me == 4 {
				return me, errBoom
			}
			return me, nil
		})
		if got != 3 || err != nil {
			t.Errorf("got %d, %v; want the value of the first run to succeed, 3", got, err)
		}
	})
}

// A round of overlapping runs after another: the later round counts, as with
// single runs, and within it the first success.
func TestGetRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		n := 0
		rounds := mettle.PolicyFunc(func(ctx context.Context, op operation) error {
			for range 3 {
				_ = sideBySide(2).Do(ctx, op)
			}
			return nil
		})
		got, err := mettle.Get(bg, rounds, func(context.Context) (int, error) {
			mu.Lock()
			n++
			me := n
			mu.Unlock()
			time.Sleep(time.Duration(10-me) * time.Second)
			return me, nil
		})
		if got != 6 || err != nil {
			t.Errorf("got %d, %v; want 6", got, err)
		}
	})
}

// A policy that breaks the contract, and runs fn when Do has returned, changes no
// value that the caller has and races with nothing.
func TestGetLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := mettle.PolicyFunc(func(ctx context.Context, op operation) error {
			go func() {
				time.Sleep(time.Second)
				_ = op(ctx)
			}()
			return op(ctx)
		})
		var mu sync.Mutex
		n := 0
		got, err := mettle.Get(bg, late, func(context.Context) (*int, error) {
			mu.Lock()
			defer mu.Unlock()
			n++
			value := n
			return &value, nil
		})
		time.Sleep(time.Minute)
		if err != nil || *got != 1 {
			t.Errorf("got %d, %v; want 1", *got, err)
		}
	})
}

// Whatever the policy does with fn, each value is either returned or disposed of, once.
//
// Spec: H2 (part)
func TestGetDispose(t *testing.T) {
	aside := func(ctx context.Context, op operation) error { return sideBySide(3).Do(ctx, op) }
	for name, test := range map[string]struct {
		p    func(ctx context.Context, op operation) error
		made int
		want int // the value returned; 0: none
	}{
		"one run":      {func(ctx context.Context, op operation) error { return op(ctx) }, 1, 1},
		"side by side": {aside, 3, 3},
		"run again":    {func(ctx context.Context, op operation) error { return errors.Join(op(ctx), op(ctx)) }, 2, 2},
		"rounds":       {func(ctx context.Context, op operation) error { return errors.Join(aside(ctx, op), aside(ctx, op)) }, 6, 6},
		"not content":  {func(ctx context.Context, op operation) error { return errors.Join(aside(ctx, op), errBoom) }, 3, 0},
		"no run":       {func(context.Context, operation) error { return nil }, 0, 0},
		"panics":       {func(ctx context.Context, op operation) error { _ = op(ctx); panic(errBoom) }, 1, 0},
		"ends too late": {func(ctx context.Context, op operation) error {
			go func() { time.Sleep(time.Hour); _ = op(ctx) }()
			return op(ctx)
		}, 2, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			made, disposed := 0, make(map[int]int)
			got := 0
			func() {
				defer func() { _ = recover() }()
				got, _ = mettle.GetDispose(bg, mettle.PolicyFunc(test.p), func(context.Context) (int, error) {
					mu.Lock()
					made++
					me := made
					mu.Unlock()
					time.Sleep(time.Duration(10-me) * time.Second)
					return me, nil
				}, func(n int) {
					mu.Lock()
					defer mu.Unlock()
					disposed[n]++
				})
			}()
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			if made != test.made || got != test.want {
				t.Errorf("%s: %d values made, %d returned; want %d, %d", name, made, got, test.made, test.want)
			}
			for n := 1; n <= made; n++ {
				if want := map[bool]int{true: 0, false: 1}[n == got]; disposed[n] != want {
					t.Errorf("%s: value %d was disposed of %d times, want %d", name, n, disposed[n], want)
				}
			}
		})
	}
}

func TestGetDisposeNil(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic for a nil dispose")
		}
	}()
	_, _ = mettle.GetDispose(bg, mettle.Compose(), func(context.Context) (int, error) { return 0, nil }, nil)
}

// Spec: P5
func TestGetPanics(t *testing.T) {
	defer func() {
		if got := recover(); got != errBoom {
			t.Errorf("recovered %v, want %v", got, errBoom)
		}
	}()
	_, _ = mettle.Get(bg, mettle.Compose(&wrapper{}), func(context.Context) (int, error) { panic(errBoom) })
}

// Spec: P13
func TestGetAllocations(t *testing.T) {
	p := mettle.Compose(&wrapper{}, &wrapper{}, &wrapper{})
	type large [64]byte
	get := func(context.Context) (large, error) { return large{}, nil }
	if n := testing.AllocsPerRun(100, func() { _, _ = mettle.Get(bg, p, get) }); n > 2 {
		t.Errorf("Get: %v allocations, want at most 2", n)
	}
}
