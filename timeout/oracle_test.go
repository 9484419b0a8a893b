package timeout

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
)

// twin is one context of a tree that is made twice, once on a lazyCtx and once on a
// context of package context.
type twin struct {
	name       string
	lazy, std  context.Context
	cancelLazy func(error) // nil where there is nothing to cancel
	cancelStd  func(error)
}

// model plays random operations on both trees.
type model struct {
	t     *testing.T
	r     *rand.Rand
	p     *Timeout
	log   []string
	twins []twin
	stops []func() (lazy, std bool)
	ran   []struct{ lazy, std *atomic.Bool }
}

// TestContextAgreesWithTheStandardLibrary makes random trees of contexts and
// compares whatever can be asked of them after each step. Not everything is asked
// each time, since asking is what makes a lazyCtx act.
//
// Spec: T4
func TestContextAgreesWithTheStandardLibrary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(400) {
			m := &model{t: t, r: rand.New(rand.NewPCG(seed, 1)), p: New(Config{After: after})}
			m.plant()
			for range 40 {
				m.step()
				synctest.Wait()
			}
			for i := range m.twins {
				m.compare(i)
			}
			for _, tw := range m.twins {
				if tw.cancelLazy != nil {
					tw.cancelLazy(nil)
					tw.cancelStd(nil)
				}
			}
			if t.Failed() {
				t.Fatalf("seed %d:\n%s", seed, strings.Join(m.log, "\n"))
			}
		}
	})
}

func (m *model) logf(format string, args ...any) { m.log = append(m.log, fmt.Sprintf(format, args...)) }

// plant makes the root, which both trees share, and the context under test.
func (m *model) plant() {
	var root twin
	switch m.r.IntN(3) {
	case 0:
		root = twin{name: "background", lazy: context.Background()}
	case 1:
		ctx, cancel := context.WithCancelCause(context.WithValue(context.Background(), key(0), "root"))
		root = twin{name: "cancelable", lazy: ctx, cancelLazy: cancel, cancelStd: cancel}
	case 2:
		ctx, cancel := context.WithTimeout(context.Background(), after+m.duration()+apart)
		plain := func(error) { cancel() }
		root = twin{name: "deadline", lazy: embedding{ctx}, cancelLazy: plain, cancelStd: plain}
	}
	root.std = root.lazy
	m.twins = append(m.twins, root)
	m.logf("root: %s", root.name)
	m.deriveTimeout(root)
}

// apart keeps deadlines from falling on one instant, at which a parent and its
// child may end in either order.
const apart = time.Microsecond

func (m *model) duration() time.Duration {
	return time.Duration(m.r.IntN(500)) * time.Millisecond
}

func (m *model) step() {
	i := m.r.IntN(len(m.twins))
	switch m.r.IntN(8) {
	case 0:
		d := m.duration()
		m.logf("sleep %v", d)
		time.Sleep(d)
	case 1, 2, 3:
		m.compare(i)
	case 4, 5:
		m.derive(m.twins[i])
	case 6:
		if m.r.IntN(3) == 0 {
			m.cancel(i)
		}
	case 7:
		m.afterFunc(i)
	}
}

func (m *model) derive(parent twin) {
	n := len(m.twins)
	child := twin{name: fmt.Sprintf("%d of %s", n, parent.name)}
	switch m.r.IntN(6) {
	case 0:
		child.lazy, child.cancelLazy = context.WithCancelCause(parent.lazy)
		child.std, child.cancelStd = context.WithCancelCause(parent.std)
		child.name = "cancel " + child.name
	case 1:
		d, cause := m.duration()*4+time.Duration(n+1)*apart, fmt.Errorf("cause %d", n)
		lazy, cancelLazy := context.WithTimeoutCause(parent.lazy, d, cause)
		std, cancelStd := context.WithTimeoutCause(parent.std, d, cause)
		child.lazy, child.cancelLazy = lazy, func(error) { cancelLazy() }
		child.std, child.cancelStd = std, func(error) { cancelStd() }
		child.name = fmt.Sprintf("timeout %v %s", d, child.name)
	case 2:
		child.lazy = context.WithValue(parent.lazy, key(n), n)
		child.std = context.WithValue(parent.std, key(n), n)
		child.name = "value " + child.name
	case 3:
		child.lazy, child.std = context.WithoutCancel(parent.lazy), context.WithoutCancel(parent.std)
		child.name = "without cancel " + child.name
	case 4:
		child.lazy, child.std = embedding{parent.lazy}, mettle.WithAttempt(parent.std, 1)
		child.name = "custom " + child.name
	case 5:
		m.deriveTimeout(parent)
		return
	}
	m.logf("%s", child.name)
	m.twins = append(m.twins, child)
}

// deriveTimeout makes a lazyCtx in one tree and its model in the other. It does not
// where run would not, since the parent's deadline comes first.
func (m *model) deriveTimeout(parent twin) {
	p := New(Config{After: after - m.duration()})
	if d, ok := parent.std.Deadline(); ok && !d.After(time.Now().Add(p.fixed.after)) {
		return
	}
	child := twin{name: fmt.Sprintf("lazy %v %d of %s", p.fixed.after, len(m.twins), parent.name)}
	lazy, cancelLazy := newLazy(parent.lazy, p)
	std, cancelStd := context.WithTimeoutCause(parent.std, p.fixed.after, p.fixed.cause)
	child.lazy, child.cancelLazy = lazy, func(error) {
		if child.std.Err() != nil {
			child.lazy.Err()
		}
		cancelLazy()
	}
	child.std, child.cancelStd = std, func(error) { cancelStd() }
	m.logf("%s", child.name)
	m.twins = append(m.twins, child)
}

// cancel ends one context in both trees. Every lazyCtx that has ended already is
// looked at before, for nobody could tell afterwards what ended it first.
func (m *model) cancel(i int) {
	tw := m.twins[i]
	if tw.cancelLazy == nil {
		return
	}
	for _, other := range m.twins {
		if other.std.Err() != nil {
			other.lazy.Err()
		}
	}
	m.logf("cancel %s", tw.name)
	cause := fmt.Errorf("cancel %s", tw.name)
	tw.cancelLazy(cause)
	tw.cancelStd(cause)
}

func (m *model) afterFunc(i int) {
	if len(m.stops) > 0 && m.r.IntN(2) == 0 {
		if lazy, std := m.stops[m.r.IntN(len(m.stops))](); lazy != std {
			m.t.Errorf("stop: %v, want %v", lazy, std)
		}
		return
	}
	m.logf("AfterFunc of %s", m.twins[i].name)
	lazy, std := new(atomic.Bool), new(atomic.Bool)
	stopLazy := context.AfterFunc(m.twins[i].lazy, func() { lazy.Store(true) })
	stopStd := context.AfterFunc(m.twins[i].std, func() { std.Store(true) })
	m.stops = append(m.stops, func() (bool, bool) { return stopLazy(), stopStd() })
	m.ran = append(m.ran, struct{ lazy, std *atomic.Bool }{lazy, std})
}

// compare asks one question, or all in random order, and what has run.
func (m *model) compare(i int) {
	tw := m.twins[i]
	m.logf("look at %s", tw.name)
	questions := []func(){
		func() { m.same(tw.name+": Err", tw.lazy.Err(), tw.std.Err()) },
		func() { m.same(tw.name+": Cause", context.Cause(tw.lazy), context.Cause(tw.std)) },
		func() { m.same(tw.name+": Done", ended(tw.lazy), ended(tw.std)) },
		func() {
			lazy, lok := tw.lazy.Deadline()
			std, sok := tw.std.Deadline()
			m.same(tw.name+": Deadline", lok && lazy.Equal(std), sok)
		},
		func() {
			k := key(m.r.IntN(len(m.twins) + 1))
			m.same(tw.name+": Value", tw.lazy.Value(k), tw.std.Value(k))
		},
	}
	m.r.Shuffle(len(questions), func(i, j int) { questions[i], questions[j] = questions[j], questions[i] })
	for _, ask := range questions[:1+m.r.IntN(len(questions))] {
		ask()
	}
	synctest.Wait()
	for n, f := range m.ran {
		m.same(fmt.Sprintf("AfterFunc %d has run", n), f.lazy.Load(), f.std.Load())
	}
}

func (m *model) same(what string, lazy, std any) {
	m.t.Helper()
	if lazy != std {
		m.t.Errorf("%s = %v, want %v", what, lazy, std)
	}
}
