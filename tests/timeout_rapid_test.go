package tests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/timeout"
)

// pair is one context of a tree that is made twice: on what a Timeout hands its
// operation, and on what context.WithTimeoutCause returns.
type pair struct {
	name     string
	ours     context.Context
	theirs   context.Context
	end      func(cause error) // ends both; nil where there is nothing to end
	returned chan struct{}     // closed when the Do that made ours has returned
}

// expired is the cause of theirs where that of ours is a timeout.Error.
type expired struct{ after time.Duration }

func (e expired) Error() string { return fmt.Sprintf("exceeded %v", e.after) }

// cause returns the cause of either in one form.
func cause(ctx context.Context) error {
	err := context.Cause(ctx)
	var e *timeout.Error
	if errors.As(err, &e) && errors.Is(err, timeout.ErrExceeded) {
		return expired{e.After}
	}
	return err
}

type contextKey int

// hides is a context that package context does not know.
type hides struct{ context.Context }

// forest plays random operations on both trees.
type forest struct {
	t     *rapid.T
	pairs []*pair
	// What AfterFunc has started.
	started []struct{ ours, theirs *atomic.Bool }
	stops   []func() (ours, theirs bool)
	n       int // makes durations and keys unique
}

func (f *forest) pick() *pair { return f.pairs[rapid.IntRange(0, len(f.pairs)-1).Draw(f.t, "of")] }

// duration returns one that no other deadline falls on: which of a parent and a child
// ends first in the same instant is chance.
func (f *forest) duration() time.Duration {
	f.n++
	return time.Duration(rapid.IntRange(1, 2000).Draw(f.t, "ms"))*time.Millisecond + time.Duration(f.n)*time.Microsecond
}

func (f *forest) add(p *pair) { f.pairs = append(f.pairs, p) }

// within runs a Timeout in a goroutine of its own, whose operation returns when it
// is told to.
func (f *forest) within() {
	parent, after := f.pick(), f.duration()
	if d, ok := parent.theirs.Deadline(); ok && !d.After(time.Now().Add(after)) || parent.theirs.Err() != nil {
		return // the parent itself is handed on, or nothing runs
	}
	p := &pair{name: fmt.Sprintf("Timeout(%v) in %s", after, parent.name), returned: make(chan struct{})}
	theirs, cancel := context.WithTimeoutCause(parent.theirs, after, expired{after})
	policy, given, leave := timeout.New(timeout.Config{After: after}), make(chan context.Context), make(chan error, 1)
	go func() {
		defer close(p.returned)
		_ = policy.Do(parent.ours, func(ctx context.Context) error {
			given <- ctx
			return <-leave
		})
	}()
	p.ours, p.theirs = <-given, theirs
	p.end = func(err error) {
		select {
		case leave <- err:
		default: // it has been told
		}
		<-p.returned
		cancel()
	}
	f.add(p)
}

func (f *forest) cancelable() {
	parent := f.pick()
	ours, cancelOurs := context.WithCancelCause(parent.ours)
	theirs, cancelTheirs := context.WithCancelCause(parent.theirs)
	f.add(&pair{name: "cancelable in " + parent.name, ours: ours, theirs: theirs,
		end: func(err error) { cancelOurs(err); cancelTheirs(err) }})
}

func (f *forest) deadline() {
	parent, d := f.pick(), f.duration()
	reason := fmt.Errorf("deadline %d", f.n)
	ours, cancelOurs := context.WithTimeoutCause(parent.ours, d, reason)
	theirs, cancelTheirs := context.WithTimeoutCause(parent.theirs, d, reason)
	f.add(&pair{name: fmt.Sprintf("deadline %v in %s", d, parent.name), ours: ours, theirs: theirs,
		end: func(error) { cancelOurs(); cancelTheirs() }})
}

func (f *forest) plain() {
	parent, p := f.pick(), &pair{}
	switch rapid.IntRange(0, 2).Draw(f.t, "which") {
	case 0:
		f.n++
		p.ours, p.theirs = context.WithValue(parent.ours, contextKey(f.n), f.n), context.WithValue(parent.theirs, contextKey(f.n), f.n)
		p.name = "value in " + parent.name
	case 1:
		p.ours, p.theirs = context.WithoutCancel(parent.ours), context.WithoutCancel(parent.theirs)
		p.name = "without cancel in " + parent.name
	case 2:
		p.ours, p.theirs = hides{mettle.WithAttempt(parent.ours, 1)}, hides{mettle.WithAttempt(parent.theirs, 1)}
		p.name = "custom in " + parent.name
	}
	f.add(p)
}

func (f *forest) afterFunc() {
	p := f.pick()
	ours, theirs := new(atomic.Bool), new(atomic.Bool)
	stopOurs := context.AfterFunc(p.ours, func() { ours.Store(true) })
	stopTheirs := context.AfterFunc(p.theirs, func() { theirs.Store(true) })
	f.started = append(f.started, struct{ ours, theirs *atomic.Bool }{ours, theirs})
	f.stops = append(f.stops, func() (bool, bool) { return stopOurs(), stopTheirs() })
}

func (f *forest) stop() {
	if len(f.stops) == 0 {
		return
	}
	ours, theirs := f.stops[rapid.IntRange(0, len(f.stops)-1).Draw(f.t, "stop")]()
	if ours != theirs {
		f.t.Fatalf("stop returned %v, want %v", ours, theirs)
	}
}

// end ends one of them. All that have ended before are looked at first: nobody could
// tell afterwards which of two ends that nobody saw was the earlier.
func (f *forest) end() {
	p := f.pick()
	if p.end == nil {
		return
	}
	for _, other := range f.pairs {
		if other.theirs.Err() != nil {
			other.ours.Err()
		}
	}
	f.n++
	p.end(fmt.Errorf("end %d", f.n))
}

// look compares what one of them says, in any order, or only some of it: to ask is what
// makes ours act.
func (f *forest) look() {
	p := f.pick()
	for _, question := range rapid.SliceOfN(rapid.IntRange(0, 5), 1, 6).Draw(f.t, "questions") {
		f.ask(p, question)
	}
}

func (f *forest) ask(p *pair, question int) {
	var what string
	var ours, theirs any
	switch question {
	case 0:
		what, ours, theirs = "Err", p.ours.Err(), p.theirs.Err()
	case 1:
		what, ours, theirs = "Cause", cause(p.ours), cause(p.theirs)
	case 2:
		what, ours, theirs = "Done", closed(p.ours.Done()), closed(p.theirs.Done())
	case 3:
		what, ours, theirs = "no Done", p.ours.Done() == nil, p.theirs.Done() == nil
	case 4:
		a, aok := p.ours.Deadline()
		b, bok := p.theirs.Deadline()
		what, ours, theirs = "Deadline", aok && a.Equal(b), bok
	case 5:
		k := contextKey(rapid.IntRange(0, f.n).Draw(f.t, "key"))
		what, ours, theirs = "Value", p.ours.Value(k), p.theirs.Value(k)
	}
	if ours != theirs {
		f.t.Fatalf("%s: %s is %v, want %v", p.name, what, ours, theirs)
	}
}

func closed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

func (f *forest) check(*rapid.T) {
	synctest.Wait()
	for i, s := range f.started {
		if s.ours.Load() != s.theirs.Load() {
			f.t.Fatalf("AfterFunc %d has run: %v, want %v", i, s.ours.Load(), s.theirs.Load())
		}
	}
}

// The context that a Timeout hands its operation cannot be told from that of package
// context, by any sequence of what can be done with it, and costs no goroutine.
//
// Spec: T4
func TestTimeoutContextAgainstTheStandardLibrary(t *testing.T) {
	steps := 0
	explore(t, 4, 20*time.Hour, func(tb testing.TB) {
		rapid.Check(tb, func(rt *rapid.T) {
			f := &forest{t: rt}
			root, cancelRoot := context.WithCancelCause(context.WithValue(context.Background(), contextKey(0), "root"))
			f.add(&pair{name: "root", ours: root, theirs: root, end: cancelRoot})
			action := func(act func()) func(*rapid.T) {
				return func(*rapid.T) { steps++; act() }
			}
			actions := map[string]func(*rapid.T){
				"":           f.check,
				"within":     action(f.within),
				"cancelable": action(f.cancelable),
				"deadline":   action(f.deadline),
				"plain":      action(f.plain),
				"afterFunc":  action(f.afterFunc),
				"stop":       action(f.stop),
				"end":        action(f.end),
				"look":       action(f.look),
				"look again": action(f.look),
				"sleep":      action(func() { time.Sleep(f.duration() / 4) }),
			}
			defer func() { // when it fails too: nothing may be left in the bubble
				for i := len(f.pairs) - 1; i >= 0; i-- {
					if p := f.pairs[i]; p.end != nil {
						p.end(nil)
					}
				}
				cancelRoot(nil)
			}()
			rt.Repeat(actions)
			for _, p := range f.pairs {
				for question := range 5 {
					f.ask(p, question)
				}
			}
			f.check(rt)
			// Not by their number: others of the process come and go.
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			if bytes.Contains(stacks, []byte("context.(*cancelCtx).propagateCancel")) {
				rt.Fatalf("a child costs a goroutine:\n%s", stacks)
			}
		})
	})
	assert.GreaterOrEqual(t, steps, 10_000)
}
