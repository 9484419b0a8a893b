package breaker

import (
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
		s.Rejected = m.rejected.Load()
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
		s.Consecutive = int(ph.counts.run.Load())
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
	return s
}

// Observe yields the breaker's metrics; see [mettle.Observable]. The label policy is
// the breaker's name.
//
//	mettle.breaker.calls        {call}        calls that ended, by outcome
//	mettle.breaker.rejected     {call}        calls refused
//	mettle.breaker.stale        {call}        calls that ended after the state that admitted them
//	mettle.breaker.transitions  {transition}  changes of state, by the state changed to
//	mettle.breaker.state        1             1 for the state that calls meet, by state
//	mettle.breaker.probes       {call}        probes in flight
//
// With the rules on rates turned off, successes in the closed state are not counted.
func (b *Breaker) Observe(yield func(mettle.Metric) bool) {
	s := b.Stats()
	l := b.rest().series
	if !b.totals().observe(l, yield) {
		return
	}
	for i := range l.states {
		v := 0.0
		if s.State == State(i) {
			v = 1
		}
		if !yield(mettle.Metric{
			Kind: mettle.Gauge, Name: "mettle.breaker.state", Unit: "1",
			Help: "1 for the state that calls meet, 0 for the others.", Labels: l.states[i], Value: v,
		}) {
			return
		}
	}
	yield(mettle.Metric{
		Kind: mettle.Gauge, Name: "mettle.breaker.probes", Unit: "{call}",
		Help: "Probes in flight.", Labels: l.policy, Value: float64(s.Probes),
	})
}

// totals is what a breaker, or a group of them, has counted since it was made.
type totals struct {
	calls           [5]uint64 // by outcome
	rejected, stale uint64
	transitions     [3]uint64 // by the state changed to
}

func (b *Breaker) totals() totals {
	s := b.Stats()
	t := totals{
		calls:    [...]uint64{s.Succeeded, s.Failures, s.Overloads, s.Timeouts, s.Ignored},
		rejected: s.Rejected, stale: s.Stale,
	}
	if m := b.more.Load(); m != nil {
		t.transitions = [...]uint64{m.closed.Load(), m.opened.Load(), m.halfOpened.Load()}
	}
	return t
}

func (t *totals) add(o totals) {
	for i, n := range o.calls {
		t.calls[i] += n
	}
	t.rejected += o.rejected
	t.stale += o.stale
	for i, n := range o.transitions {
		t.transitions[i] += n
	}
}

// observe yields the totals and reports whether there is to be more.
func (t totals) observe(l *series, yield func(mettle.Metric) bool) bool {
	count := func(name, unit, help string, labels []mettle.Label, v uint64) bool {
		return yield(mettle.Metric{Kind: mettle.Counter, Name: name, Unit: unit, Help: help, Labels: labels, Value: float64(v)})
	}
	for o, n := range t.calls {
		if !count("mettle.breaker.calls", "{call}", "Calls that ended, by outcome.", l.outcomes[o], n) {
			return false
		}
	}
	for i, n := range t.transitions {
		if !count("mettle.breaker.transitions", "{transition}", "Changes of state, by the state changed to.", l.states[i], n) {
			return false
		}
	}
	return count("mettle.breaker.rejected", "{call}", "Calls refused.", l.policy, t.rejected) &&
		count("mettle.breaker.stale", "{call}", "Calls that ended after the state that admitted them, and counted for nothing.", l.policy, t.stale)
}
