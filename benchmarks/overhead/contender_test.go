package overhead

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/zeromicro/go-zero/core/logx"
	"github.com/zeromicro/go-zero/core/stat"
)

// go-zero prints what it uses every minute, into the middle of the results.
func init() {
	stat.DisableLog()
	logx.Disable()
}

// contender is one way to make a protected call, in the form in which its users would
// write it. A library that takes a context is given it.
type contender struct {
	// bare calls noop, a function that needs nothing from around the call. This is the
	// library's own cost. Nil: not measured.
	bare func(ctx context.Context) error
	// call calls work, which takes an argument as real calls do. Who wants a function
	// is given a closure, and who lets it escape pays for it.
	call func(ctx context.Context, n int) error
}

// ignoringN is bare in the form of call.
func (c contender) ignoringN(ctx context.Context, _ int) error { return c.bare(ctx) }

// unusual is what noop and work do when they are not to do nothing. It is changed only
// while no call begins.
var unusual func() error

func usual() error {
	if unusual != nil {
		return unusual()
	}
	return nil
}

// The calls are not inlined, or those who need no function value would be excused
// from making one.

//go:noinline
func noop(context.Context) error { return usual() }

//go:noinline
func noop0() error { return usual() }

//go:noinline
func work(_ context.Context, n int) error {
	if every != 0 && n%every == 0 {
		return errDown
	}
	return usual()
}

// every says which calls of work fail: those of which n is a multiple of it. Zero: none.
// It is changed only while no call begins.
var every int

var (
	errDown = errors.New("down")
	errFull = errors.New("full")
)

// instead makes noop and work do f until the test ends.
func instead(t testing.TB, f func() error) {
	unusual = f
	t.Cleanup(func() { unusual = nil })
}

// refused reports how many of so many calls are refused without having been made.
func refused(t testing.TB, c contender, calls int) (n int) {
	t.Helper()
	var made atomic.Int64
	instead(t, func() error { made.Add(1); return errDown })
	for range calls {
		before := made.Load()
		if c.bare(t.Context()) != nil && made.Load() == before {
			n++
		}
	}
	return n
}

// makesCall fails unless call makes the call, once, and tells how it ended.
func makesCall(t *testing.T, call func(ctx context.Context, n int) error) {
	t.Helper()
	var made atomic.Int64
	instead(t, func() error { made.Add(1); return nil })
	if err := call(t.Context(), 1); err != nil || made.Load() != 1 {
		t.Errorf("a good call: made %d times, error %v", made.Load(), err)
	}
}

// makesCalls is makesCall for both forms, and for a call that fails too.
func makesCalls(t *testing.T, c contender) {
	t.Helper()
	for _, call := range []func(context.Context, int) error{c.ignoringN, c.call} {
		makesCall(t, call)
		instead(t, func() error { return errDown })
		if err := call(t.Context(), 1); !errors.Is(err, errDown) {
			t.Errorf("a call that fails: error %v", err)
		}
	}
}

// alone measures one caller. Every call must succeed, or none.
func alone(b *testing.B, ctx context.Context, bare func(ctx context.Context) error, succeed bool) {
	b.ReportAllocs()
	for b.Loop() {
		if err := bare(ctx); (err == nil) != succeed {
			b.Fatal(err)
		}
	}
}

// withClosure measures one caller of work.
func withClosure(b *testing.B, call func(ctx context.Context, n int) error) {
	b.ReportAllocs()
	ctx := b.Context()
	for n := 0; b.Loop(); n++ {
		if err := call(ctx, n); err != nil {
			b.Fatal(err)
		}
	}
}

// withFailures measures one caller of work, every fourth of whose calls fails: not
// enough for a breaker to open.
func withFailures(b *testing.B, call func(ctx context.Context, n int) error) {
	someFail(b)
	b.ReportAllocs()
	ctx := b.Context()
	for n := 0; b.Loop(); n++ {
		if err := call(ctx, n); (err != nil) != (n%every == 0) {
			b.Fatal(err)
		}
	}
}

// someFail makes every fourth call of work fail until the test ends.
func someFail(t testing.TB) {
	every = 4
	t.Cleanup(func() { every = 0 })
}

// together measures as many callers as there are processors, on the same policy.
func together(b *testing.B, call func(ctx context.Context, n int) error) {
	togetherFailing(b, 0, call)
}

// togetherFailing is together where calls fail, or are refused: those of which n is a multiple of
// every, if that is not 0.
func togetherFailing(b *testing.B, every int, call func(ctx context.Context, n int) error) {
	b.ReportAllocs()
	ctx := b.Context()
	b.ResetTimer() // to open a breaker may take its time
	b.RunParallel(func(pb *testing.PB) {
		for n := 0; pb.Next(); n++ {
			if err := call(ctx, n); (err != nil) != (every != 0 && n%every == 0) {
				b.Error(err)
				return
			}
		}
	})
}
