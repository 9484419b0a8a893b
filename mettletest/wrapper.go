package mettletest

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/mettle-go/mettle"
)

// inner is what a policy is bound to in these checks.
type inner struct {
	calls atomic.Int64
	err   error // instead of running op, unless nil
}

func (in *inner) Do(ctx context.Context, op func(context.Context) error) error {
	in.calls.Add(1)
	if in.err != nil {
		return in.err
	}
	return op(ctx)
}

// testWrap binds one policy twice. The bound policies share its state, which is
// testWrapShares's to see, but each must reach its own next and no other: a policy
// that keeps next in itself mixes up the pipelines that it is part of.
func testWrap(s *suite) {
	w, ok := s.newPolicy().(mettle.Wrapper)
	if !ok {
		return
	}
	first, second := new(inner), new(inner)
	toFirst, toSecond := w.Wrap(first), w.Wrap(second)
	for _, b := range []struct {
		bound mettle.Policy
		next  *inner
	}{{toFirst, first}, {toSecond, second}} {
		c := s.do(context.Background(), b.bound, succeed)
		if n := b.next.calls.Load(); n != int64(c.runs) {
			s.Errorf("op ran %d times, and the next that the policy is bound to was called %d times", c.runs, n)
		}
	}
	s.do(context.Background(), toFirst, fail(newError()))

	// An error of next, a refusal above all, comes out as that of op would.
	for _, want := range []error{newError(), fmt.Errorf("full: %w", mettle.ErrRejected)} {
		bound := s.newPolicy().(mettle.Wrapper).Wrap(&inner{err: want})
		if err := bound.Do(context.Background(), succeed); !is(err, want) {
			s.Errorf("next returned %q, what Wrap returned gave %s", want, text(err))
		}
	}
}

// testWrapShares drives the policy to where it refuses every call, through Do or
// through what Wrap returned, and wants the other to refuse as well.
func testWrapShares(s *suite) {
	for when, load := range loads {
		for _, throughDo := range []bool{true, false} {
			w, ok := s.newPolicy().(mettle.Wrapper)
			if !ok {
				return
			}
			var one, other mettle.Policy = w, w.Wrap(new(inner))
			if !throughDo {
				one, other = other, one
			}
			end := load(s, one)
			if s.refusals(one) == manyCalls && s.refusals(other) == 0 {
				s.Errorf("%s, Do and what Wrap returned do not share their state: one refuses, the other does not", when)
			}
			end()
		}
	}
}

// testObserve reads the metrics after every kind of call. What adapters rely on is
// checked at each reading: they export counters that must not fall, and key them by
// name and labels, so that two alike are refused by the far end.
func testObserve(s *suite) {
	p := s.newPolicy()
	o, ok := p.(mettle.Observable)
	if !ok {
		return
	}
	before := s.observe(o)
	for _, goWrong := range ways {
		for range 5 {
			goWrong(s, p)
			s.do(context.Background(), p, succeed)
			before = s.testNotLess(before, s.observe(o))
		}
	}
	time.Sleep(leaveAlone)
	s.testNotLess(before, s.observe(o))
}

// observe returns what o yields, by name and labels, and checks that it is sound,
// that it is the same when read again, and that o stops when told.
func (s *suite) observe(o mettle.Observable) map[string]mettle.Metric {
	metrics := make(map[string]mettle.Metric)
	o.Observe(func(m mettle.Metric) bool {
		id := identify(m)
		if _, twice := metrics[id]; twice {
			s.Errorf("Observe yields %s twice; policies of one kind are told apart by their names", id)
		}
		metrics[id] = m
		s.testMetric(m)
		return true
	})
	// No time passes in a bubble between two readings, so that even a gauge that
	// depends on the time must read the same.
	again := 0
	o.Observe(func(m mettle.Metric) bool {
		again++
		was, ok := metrics[identify(m)]
		if !ok || math.Float64bits(was.Value) != math.Float64bits(m.Value) {
			s.Errorf("Observe is no pure read: %s was %v, and is %v when read again", identify(m), was.Value, m.Value)
		}
		return true
	})
	if again != len(metrics) {
		s.Errorf("Observe yields %d metrics, and %d when called again", len(metrics), again)
	}
	for stop := 1; stop <= len(metrics); stop++ {
		yielded := 0
		o.Observe(func(mettle.Metric) bool {
			yielded++
			return yielded < stop
		})
		if yielded != stop {
			s.Errorf("Observe goes on after yield returned false: %d metrics, want %d", yielded, stop)
		}
	}
	return metrics
}

func (s *suite) testMetric(m mettle.Metric) {
	if m.Name == "" || !unicode.IsLetter([]rune(m.Name)[0]) {
		s.Errorf("a metric is named %q; a name starts with a letter", m.Name)
	}
	if m.Kind == mettle.Counter && !(m.Value >= 0) {
		s.Errorf("the counter %s is %v", m.Name, m.Value)
	}
	keys := make(map[string]bool)
	for _, l := range m.Labels {
		if l.Key == "" || keys[l.Key] {
			s.Errorf("the labels of %s have an empty key or one twice: %v", m.Name, m.Labels)
		}
		keys[l.Key] = true
	}
}

// testNotLess wants no counter to have fallen, and returns what is now.
func (s *suite) testNotLess(before, now map[string]mettle.Metric) map[string]mettle.Metric {
	for id, m := range now {
		if was, ok := before[id]; ok && m.Kind == mettle.Counter && m.Value < was.Value {
			s.Errorf("the counter %s fell from %v to %v", id, was.Value, m.Value)
		}
	}
	return now
}

// identify returns what tells a metric from others.
func identify(m mettle.Metric) string {
	var b strings.Builder
	b.WriteString(m.Name)
	for _, l := range m.Labels {
		b.WriteString(" " + l.Key + "=" + strconv.Quote(l.Value))
	}
	return b.String()
}
