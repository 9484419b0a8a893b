package breaker

import (
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
)

// Stats is a snapshot of a breaker. Its fields are read one after the other while
// calls go on, so that they need not add up exactly.
type Stats struct {
	State   State // what calls meet, as [Breaker.State]
	Machine State // the breaker's own state beneath an override

	// Override is the one in force, the zero Override if Overridden is false.
	Override   Override
	Overridden bool

	Generation     uint64        // how often Machine has changed
	RemainingDelay time.Duration // as [Breaker.RemainingDelay]
	Probes         int           // in flight while half-open

	// Calls and Failed are what the window holds while closed, Slow how many of its
	// calls were slow, Consecutive the failures in a row.
	Calls, Failed, Slow, Consecutive int

	// Totals since New. Succeeded is not known, and stays 0, for calls that were
	// counted with all rules on rates turned off.
	Succeeded, Failures, Overloads, Timeouts, Ignored, Rejected, Stale uint64
}

// Stats returns a snapshot. It is a pure read and allocates nothing.
func (b *Breaker) Stats() Stats {
	now := b.clock.Now()
	ph := b.phase.Load()
	s := Stats{Generation: ph.gen, Succeeded: ph.counts.succeeded()}
	if m := b.more.Load(); m != nil {
		s.Succeeded += m.succeeded.Load()
		s.Failures = m.failed[0].Load()
		s.Overloads = m.failed[1].Load()
		s.Timeouts = m.failed[2].Load()
		s.Ignored = m.ignored.Load()
		for kind := range m.rejected {
			s.Rejected += m.rejected[kind].Load()
		}
		s.Stale = m.stale.Load()
	}
	var until int64
	s.State, until = ph.effective(now)
	s.Machine, _ = ph.machine(now)
	if s.State == Open {
		s.RemainingDelay = remaining(until, now)
	}
	if ph.force != nil && now < ph.force.until {
		s.Override, s.Overridden = ph.force.Override, true
	}
	switch s.Machine {
	case HalfOpen:
		s.Probes = int(ph.half.inFlight.Load())
	case Closed:
		s.Consecutive, _ = row(ph.counts.run.Load())
		if w := ph.counts.rate; w != nil && !w.Stale(now) {
			s.Calls, s.Failed, _ = w.Sum(now)
		}
		if c := ph.counts.slow; c != nil && !c.calls.Stale(now) {
			_, s.Slow, _ = c.calls.Sum(now)
		}
	}
	return s
}

// series holds the labels of a breaker's metrics.
type series struct {
	policy   []mettle.Label
	outcomes [5][]mettle.Label
	states   [3][]mettle.Label
	reasons  [refusalKinds][]mettle.Label

	// What the map holds is made when a change is first seen, so that the next look
	// makes nothing. It is replaced, never changed.
	turns atomic.Pointer[map[int][]mettle.Label]
}

func newSeries(name string) *series {
	policy := mettle.Label{Key: "policy", Value: name}
	s := &series{policy: []mettle.Label{policy}}
	for o := range s.outcomes {
		s.outcomes[o] = []mettle.Label{policy, {Key: "outcome", Value: mettle.Outcome(o).String()}}
	}
	for i := range s.states {
		s.states[i] = []mettle.Label{policy, {Key: "state", Value: State(i).String()}}
	}
	for k, reason := range refusalNames {
		s.reasons[k] = []mettle.Label{policy, {Key: "reason", Value: reason}}
	}
	s.turns.Store(new(map[int][]mettle.Label))
	return s
}

// turn returns the labels of the changes of state whose edge has that index.
func (s *series) turn(i int) []mettle.Label {
	known := s.turns.Load()
	if l, ok := (*known)[i]; ok {
		return l
	}
	next := maps.Clone(*known)
	if next == nil {
		next = make(map[int][]mettle.Label)
	}
	e := edgeAt(i)
	l := append(s.policy[:1:1], mettle.Label{Key: "from", Value: e.from.String()},
		mettle.Label{Key: "to", Value: e.to.String()}, mettle.Label{Key: "rule", Value: string(e.rule)})
	next[i] = l
	s.turns.CompareAndSwap(known, &next) // if another look was faster, the next one makes up for it
	return l
}

// edge is one way for a breaker to change its state.
type edge struct {
	from, to State
	rule     Rule
}

// index returns the place of e among all edges.
func (e edge) index() int {
	return (int(e.from)*len(stateNames)+int(e.to))*len(rules) + slices.Index(rules[:], e.rule)
}

func edgeAt(i int) edge {
	states := i / len(rules)
	return edge{State(states / len(stateNames)), State(states % len(stateNames)), rules[i%len(rules)]}
}

const edges = len(stateNames) * len(stateNames) * len(rules)

// ordinary are the edges that every breaker may take by itself. Their counters are
// always there, so that they are seen to begin at zero; those of the others appear when
// they are first taken.
var ordinary = func() (is [edges]bool) {
	for _, e := range []edge{
		{Closed, Open, RuleFailureRate},
		{Closed, Open, RuleConsecutive},
		{Closed, Open, RuleSlowRate},
		{Closed, Open, RuleRelapse},
		{Open, HalfOpen, RuleProbeDue},
		{HalfOpen, Open, RuleProbeFailed},
		{HalfOpen, Open, RuleProbeTimeout},
		{HalfOpen, Closed, RuleProbeSucceeded},
	} {
		is[e.index()] = true
	}
	return is
}()

// turns tells how often each edge was taken that was taken at all. It is immutable
// once published: a breaker takes few of them, and seldom.
type turns []turnCount

type turnCount struct {
	edge int // its index
	n    uint64
}

// all returns what t holds, nothing if it is nil.
func (t *turns) all() turns {
	if t == nil {
		return nil
	}
	return *t
}

// with returns t with one more for the edge of that index.
func (t *turns) with(e int) *turns {
	next := slices.Clone(t.all())
	i := slices.IndexFunc(next, func(c turnCount) bool { return c.edge == e })
	if i < 0 {
		i, next = len(next), append(next, turnCount{edge: e})
	}
	next[i].n++
	return &next
}

// Observe yields the breaker's metrics; see [mettle.Observable]. The label policy is
// the breaker's name.
//
//	mettle.breaker.calls            counter  {call}        that ended, by outcome
//	mettle.breaker.rejected         counter  {call}        refused, by reason: open, half-open (all probes
//	                                                       are in flight), ramp, forced
//	mettle.breaker.stale            counter  {call}        that ended after the state that admitted them
//	mettle.breaker.transitions      counter  {transition}  changes of state, by from, to and rule
//	mettle.breaker.state            gauge    1             1 for the state that calls meet, by state
//	mettle.breaker.forced           gauge    1             1 under an override, else 0
//	mettle.breaker.probes           gauge    {call}        probes in flight
//	mettle.breaker.remaining_delay  gauge    s             until the next call may be admitted
//	mettle.breaker.window.calls     gauge    {call}        in the window, while closed
//	mettle.breaker.window.failed    gauge    {call}        of these, that failed
//	mettle.breaker.window.slow      gauge    {call}        of these, that were slow
//
// With the rules on rates turned off, successes in the closed state are not counted,
// and the window is empty. The delay under an override without an end is 0.
func (b *Breaker) Observe(yield func(mettle.Metric) bool) {
	s := b.Stats()
	l := b.rest().series
	var t totals
	b.addTo(&t)
	if !t.observe(l, yield) {
		return
	}
	gauge := func(name, unit, help string, labels []mettle.Label, v float64) bool {
		return yield(mettle.Metric{Kind: mettle.Gauge, Name: name, Unit: unit, Help: help, Labels: labels, Value: v})
	}
	for i := range l.states {
		if !gauge("mettle.breaker.state", "1", "1 for the state that calls meet, 0 for the others.",
			l.states[i], oneIf(s.State == State(i))) {
			return
		}
	}
	delay := s.RemainingDelay.Seconds()
	if s.RemainingDelay == forever {
		delay = 0 // nobody knows, and 292 years would spoil every graph
	}
	_ = gauge("mettle.breaker.forced", "1", "1 while an override holds the breaker open or closed, else 0.", l.policy, oneIf(s.Overridden)) &&
		gauge("mettle.breaker.probes", "{call}", "Probes in flight.", l.policy, float64(s.Probes)) &&
		gauge("mettle.breaker.remaining_delay", "s", "Time until the next call may be admitted.", l.policy, delay) &&
		gauge("mettle.breaker.window.calls", "{call}", "Calls in the window of the closed state.", l.policy, float64(s.Calls)) &&
		gauge("mettle.breaker.window.failed", "{call}", "Calls in the window that failed.", l.policy, float64(s.Failed)) &&
		gauge("mettle.breaker.window.slow", "{call}", "Calls in the window that were slow.", l.policy, float64(s.Slow))
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// totals is what a breaker, or a group of them, has counted since it was made.
type totals struct {
	calls    [5]uint64 // by outcome
	rejected [refusalKinds]uint64
	stale    uint64
	turns    [edges]uint64
}

// addTo adds what b has counted to t.
func (b *Breaker) addTo(t *totals) {
	s := b.Stats()
	for o, n := range [...]uint64{s.Succeeded, s.Failures, s.Overloads, s.Timeouts, s.Ignored} {
		t.calls[o] += n
	}
	t.stale += s.Stale
	if m := b.more.Load(); m != nil {
		for kind := range m.rejected {
			t.rejected[kind] += m.rejected[kind].Load()
		}
		for _, turn := range m.turns.Load().all() {
			t.turns[turn.edge] += turn.n
		}
	}
}

// observe yields the totals and reports whether there is to be more.
func (t *totals) observe(l *series, yield func(mettle.Metric) bool) bool {
	count := func(name, unit, help string, labels []mettle.Label, v uint64) bool {
		return yield(mettle.Metric{Kind: mettle.Counter, Name: name, Unit: unit, Help: help, Labels: labels, Value: float64(v)})
	}
	for o, n := range t.calls {
		if !count("mettle.breaker.calls", "{call}", "Calls that ended, by outcome.", l.outcomes[o], n) {
			return false
		}
	}
	for i, n := range t.turns {
		if n == 0 && !ordinary[i] {
			continue
		}
		if !count("mettle.breaker.transitions", "{transition}", "Changes of state, by the rule that made them.", l.turn(i), n) {
			return false
		}
	}
	for kind, n := range t.rejected {
		if !count("mettle.breaker.rejected", "{call}", "Calls refused, by what kept them out.", l.reasons[kind], n) {
			return false
		}
	}
	return count("mettle.breaker.stale", "{call}", "Calls that ended after the state that admitted them, and counted for nothing.", l.policy, t.stale)
}
