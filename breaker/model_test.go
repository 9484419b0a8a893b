package breaker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/internal/window"
)

// model is a breaker as one would write it on a whiteboard: every event in a slice,
// every rule by counting. It takes only the random part of the delays from the
// breaker that it is compared with.
type model struct {
	*settings
	t     *testing.T
	b     *Breaker
	begun time.Time

	state         State
	gen           int
	since, until  int64
	down          time.Duration // not closed, before the state began
	calls         []call
	run           int
	leases        map[int]int64 // by id: when it ends
	again         float64
	good, ids     int
	forced        bool
	force         State
	forceUntil    int64
	shown         State
	changes, told []Change
}

type call struct {
	at        int64
	bad, slow bool
}

// held is a permit of the breaker's together with what the model knows of it.
type held struct {
	permit Permit
	at     int64
	gen    int
	lease  int
	free   bool
}

func (m *model) now() int64 { return int64(time.Since(m.begun)) }

// show notes a change of the state that calls meet.
func (m *model) show(rule Rule) {
	state := m.state
	if m.forced {
		state = m.force
	}
	if state != m.shown {
		m.changes = append(m.changes, Change{From: m.shown, To: state, Rule: rule})
		m.shown = state
	}
}

// advance does what time alone brings about, in its order.
func (m *model) advance() {
	now := m.now()
	first := int64(forever)
	for _, end := range m.leases {
		first = min(first, end)
	}
	for range 2 {
		if m.forced && now >= m.forceUntil && (m.state != HalfOpen || m.forceUntil < first || first > now) {
			m.forced = false
			m.show(RuleReleased)
		}
		if m.state == HalfOpen && now >= first {
			delay := m.delayAgain(first)
			m.open(first, RuleProbeTimeout)
			m.until = first + int64(delay)
		}
	}
}

func (m *model) inRange(delay, nominal time.Duration) {
	if delay < nominal || delay > nominal*12/10 {
		m.t.Fatalf("a delay of %v, want %v to a fifth more", delay, nominal)
	}
}

// trouble adds up the time that was spent in other states than closed.
func (m *model) trouble(now int64) time.Duration {
	d := time.Duration(now - m.since)
	switch {
	case m.state != Closed:
		return m.down + d
	case d >= m.window:
		return 0
	default:
		return m.down
	}
}

func (m *model) nominal(now int64) time.Duration {
	return min(max(m.openFor, m.trouble(now)/5), m.maxOpenFor)
}

// delayAgain is the delay after a probe that runs out at first.
func (m *model) delayAgain(first int64) time.Duration {
	return time.Duration(float64(m.nominal(first)) * (1 + 0.2*m.again))
}

func (m *model) open(at int64, rule Rule) { m.enter(Open, at, rule) }

func (m *model) enter(s State, at int64, rule Rule) {
	m.down = m.trouble(at)
	m.state, m.since = s, at
	m.gen++
	m.leases, m.good, m.ids = map[int]int64{}, 0, 0
	m.calls, m.run = nil, 0
	m.show(rule)
}

// learn takes over the delay that the breaker drew, after checking it.
func (m *model) learn() {
	ph := m.b.phase.Load()
	switch m.state {
	case Open:
		if m.until < m.since { // just opened
			m.until = ph.until
			m.inRange(time.Duration(m.until-m.since), m.nominal(m.since))
		}
	case HalfOpen:
		m.again = ph.half.again
		if m.again < 0 || m.again >= 1 {
			m.t.Fatalf("a random part of %v", m.again)
		}
	}
}

// acquire says what the breaker must answer, and takes the slot.
func (m *model) acquire() (h held, admitted bool) {
	m.advance()
	now := m.now()
	h = held{at: now, gen: m.gen}
	if m.forced && m.force == Open {
		return h, false
	}
	if m.state == Open && now >= m.until {
		m.enter(HalfOpen, now, RuleProbeDue)
		h.gen = m.gen
	}
	switch {
	case m.state == Closed:
		return h, true
	case m.state == HalfOpen && len(m.leases) < m.probes:
		m.ids++
		m.leases[m.ids] = now + int64(m.probeTimeout)
		h.lease = m.ids
		return h, true
	default:
		h.free = m.forced
		return h, m.forced
	}
}

func (m *model) done(h held, o mettle.Outcome) {
	now := m.now()
	// When somebody notices what time has brought about is not promised: the model
	// goes by the breaker, which looks when a probe of its generation reports.
	if h.lease != 0 && h.permit.phase.gen == m.b.phase.Load().gen {
		m.advance()
	}
	if h.gen != m.gen || h.free {
		return
	}
	failed, slow := o.Failed(), m.slowCall > 0 && now-h.at >= int64(m.slowCall)
	if h.lease != 0 {
		delete(m.leases, h.lease)
		switch {
		case o == mettle.Ignored:
		case failed || slow:
			m.open(now, RuleProbeFailed)
			m.until = -1 // to be learnt
		default:
			if m.good++; m.good >= m.successes {
				m.enter(Closed, now, RuleProbeSucceeded)
			}
		}
		return
	}
	if o == mettle.Ignored {
		return
	}
	m.calls = append(m.calls, call{now, failed, slow})
	if m.run++; !failed {
		m.run = 0
	}
	total, bad, slows := m.sum(now)
	enough := total >= int64(m.minCalls)
	var rule Rule
	switch {
	case m.consecutive > 0 && m.run >= m.consecutive:
		rule = RuleConsecutive
	case m.relapsed(o, total):
		rule = RuleRelapse
	case m.failureUnits > 0 && enough && bad*rateUnit >= m.failureUnits*total && (failed || total == int64(m.minCalls)):
		rule = RuleFailureRate
	case m.slowUnits > 0 && enough && slows*rateUnit >= m.slowUnits*total && (slow || total == int64(m.minCalls)):
		rule = RuleSlowRate
	default:
		return
	}
	m.advance()
	m.open(now, rule)
	m.until = -1 // to be learnt
}

// relapsed reports whether a call that ended with o was one of the first ten after an
// opening, and tells of a dependency that cannot keep up.
func (m *model) relapsed(o mettle.Outcome, total int64) bool {
	return m.failureUnits > 0 && (o == mettle.Timeout || o == mettle.Overload) && m.trouble(m.now()) > 0 && total <= 10
}

// sum counts what the window holds.
func (m *model) sum(now int64) (total, bad, slows int64) {
	width := int64(m.window) / window.Buckets
	for _, c := range m.calls {
		if now/width-c.at/width >= window.Buckets {
			continue
		}
		total++
		if c.bad {
			bad++
		}
		if c.slow {
			slows++
		}
	}
	return total, bad, slows
}

// hung lets the breaker look at the ages of its calls in flight, which it does at
// times of its own choosing, and checks that it has reason to open when it does.
func (m *model) hung(permits []held) {
	ph := m.b.phase.Load()
	if m.slowCall == 0 || ph.state != Closed {
		return
	}
	m.b.lookForHung(context.Background(), ph)
	if m.b.phase.Load().gen == ph.gen {
		return
	}
	now := m.now()
	var hung int64
	for _, h := range permits {
		age := time.Duration(now - h.at)
		if h.gen == m.gen && h.lease == 0 && !h.free && age >= m.slowCall && age < m.probeTimeout {
			hung++
		}
	}
	total, _, slows := m.sum(now)
	if total, slows = total+hung, slows+hung; hung < 2 || total < int64(m.minCalls) || slows*rateUnit < m.slowUnits*total {
		m.t.Fatalf("opened for slow calls with %d of %d, %d of them in flight", slows, total, hung)
	}
	m.advance()
	m.open(now, RuleSlowRate)
	m.until = -1
	m.learn()
}

// compare checks that breaker and model show the same.
func (m *model) compare(step string) {
	m.t.Helper()
	m.learn()
	now := m.now()
	state, until := m.state, m.until
	for _, end := range m.leases {
		if state == HalfOpen && now >= end {
			// Not yet noticed, but so it is; the earliest lease decides when.
			state, until = Open, forever
			for _, end := range m.leases {
				until = min(until, end+int64(m.delayAgain(end)))
			}
		}
	}
	machine := state
	if m.forced && now < m.forceUntil {
		if m.force == Open && state == Open {
			until = max(until, m.forceUntil)
		} else {
			until = m.forceUntil
		}
		state = m.force
	}
	var left time.Duration
	if state == Open {
		left = remaining(until, now)
	}
	s := m.b.Stats()
	if s.State != state || s.Machine != machine || s.RemainingDelay != left || m.b.State() != state || m.b.RemainingDelay() != left {
		m.t.Fatalf("after %s: breaker is %v over %v with %v left, want %v over %v with %v", step, s.State, s.Machine, s.RemainingDelay, state, machine, left)
	}
	if len(m.told) != len(m.changes) {
		m.t.Fatalf("after %s: told %v, want %v", step, m.told, m.changes)
	}
	for i, c := range m.changes {
		if got := m.told[i]; got.From != c.From || got.To != c.To || got.Rule != c.Rule {
			m.t.Fatalf("after %s: change %d is %v, want %v", step, i, got, c)
		}
	}
	if s.Consecutive != m.run && m.consecutive > 0 && s.Machine == Closed && machine == m.state {
		m.t.Fatalf("after %s: %d failures in a row, want %d", step, s.Consecutive, m.run)
	}
}

// A random sequence of everything that can be done to a breaker agrees, step by
// step, with the model: admissions, state, delay and changes. Every other seed counts as
// a breaker does whose callers get into each other's way.
//
// Spec: B30, B32 (part)
func TestAgreesWithModel(t *testing.T) {
	errs := map[mettle.Outcome]error{
		mettle.Success: nil,
		mettle.Failure: errors.New("down"),
		mettle.Timeout: context.DeadlineExceeded,
		mettle.Ignored: mettle.ErrRejected,
	}
	outcomes := []mettle.Outcome{mettle.Success, mettle.Failure, mettle.Failure, mettle.Timeout, mettle.Ignored}
	for seed := range uint64(300) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 2))
			m := &model{t: t, begun: time.Now(), leases: map[int]int64{}}
			c := Config{
				Window: time.Duration(1+r.IntN(20)) * time.Second, MinCalls: 1 + r.IntN(12),
				FailureRate: []float64{-1, 0.3, 0.5, 1}[r.IntN(4)], Consecutive: []int{-1, 3, 6}[r.IntN(3)],
				SlowCall: []time.Duration{0, 2 * time.Second}[r.IntN(2)], SlowRate: 0.6,
				OpenFor: time.Second, MaxOpenFor: 5 * time.Second, Probes: 1 + r.IntN(3), Successes: 1 + r.IntN(4),
				ProbeTimeout: time.Duration(1+r.IntN(5)) * time.Second,
				OnChange:     func(c Change) { m.told = append(m.told, c) },
			}
			m.b = New(c)
			m.settings = m.b.phase.Load().set
			var permits []held
			for i := range 400 {
				if w := m.b.phase.Load().counts.rate; w != nil && seed%2 == 1 {
					w.Stripe()
				}
				step := m.step(r, &permits, outcomes, errs)
				m.compare(fmt.Sprintf("seed %d step %d: %s", seed, i, step))
			}
		})
	}
}

// step does one random thing to both.
func (m *model) step(r *rand.Rand, permits *[]held, outcomes []mettle.Outcome, errs map[mettle.Outcome]error) string {
	switch n := r.IntN(100); {
	case n < 40:
		m.hung(*permits)
		h, admitted := m.acquire()
		p, err := m.b.Acquire(context.Background())
		if (err == nil) != admitted {
			m.t.Fatalf("Acquire: %v; the model admits: %v, %v", err, admitted, m.state)
		}
		if admitted {
			h.permit = p
			*permits = append(*permits, h)
		}
		return "acquire"
	case n < 75 && len(*permits) > 0:
		i := r.IntN(len(*permits))
		h := (*permits)[i]
		*permits = append((*permits)[:i], (*permits)[i+1:]...)
		o := outcomes[r.IntN(len(outcomes))]
		m.done(h, o)
		h.permit.Done(errs[o])
		h.permit.Done(errs[o]) // without effect
		return "done " + o.String()
	case n < 92:
		d := time.Duration(r.Int64N(int64(3 * time.Second)))
		time.Sleep(d)
		return "sleep " + d.String()
	default:
		return m.intervene(r)
	}
}

// intervene does by hand what the machine did not decide.
func (m *model) intervene(r *rand.Rand) string {
	m.advance()
	now := m.now()
	switch r.IntN(6) {
	case 0:
		if m.state != Open {
			m.open(now, RuleTrip)
			m.until = -1
		}
		m.b.Trip("by hand")
		return "trip"
	case 1:
		m.enter(Closed, now, RuleReset)
		m.down = 0
		m.b.Reset()
		return "reset"
	case 2, 3:
		m.forced, m.force, m.forceUntil = true, Open, forever
		o := Override{For: time.Duration(r.IntN(3)) * time.Second}
		if o.For > 0 {
			m.forceUntil = now + int64(o.For)
		}
		if r.IntN(2) == 0 {
			m.b.ForceOpen(o)
		} else {
			m.force = Closed
			m.b.ForceClosed(o)
		}
		m.show(RuleForced)
		return "force " + m.force.String()
	default:
		if m.forced {
			m.forced = false
			m.show(RuleReleased)
		}
		m.b.Release()
		return "release"
	}
}
