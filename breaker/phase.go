package breaker

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle/internal/inflight"
	"github.com/mettle-go/mettle/internal/window"
)

// forever is a reading of the clock that never comes.
const forever = math.MaxInt64

// phase is everything that admission depends on. It is immutable once published in
// Breaker.phase, but for the counters it points to; a change makes a new one, with
// Breaker.mu held.
type phase struct {
	plain bool      // closed, no override, no ramp: every call is admitted without a further look
	lean  bool      // plain, and a success needs neither a classifier nor its duration
	state State     // of the machine, beneath an override
	gen   uint64    // counts changes of state: results count in their own generation only
	set   *settings // in force
	since int64     // when the state began

	counts *counts // of the closed state; kept while open for what it has counted in all

	down    time.Duration // how long, by since, it has not been closed; 0: not since it last was for a whole window
	until   int64         // open: when a probe is due. closed: when the ramp ends
	half    *halfOpen     // half-open: the probes
	refusal *OpenError    // what calls get that the machine refuses

	force *force // nil: no override
}

// counts is what one generation of the closed state has counted.
type counts struct {
	run  atomic.Int64   // failures in a row, in runBits, and above those how many of them timed out
	past uint64         // successes counted by the windows before
	rate *window.Window // calls, and which failed; nil: no rule on rates
	slow *slowCounts    // nil: no rule on slow calls
}

// slowCounts is what the rule on slow calls needs.
type slowCounts struct {
	calls  *window.Window // calls, and which were slow
	flying *inflight.Ages // calls in flight, by age
	due    atomic.Int64   // when their ages are looked at next
}

// A run is one word, so that a success ends it with one store. The upper part wraps after
// 65,535 timeouts in a row, when it has long said all that it can say.
const (
	runBits   = 48
	runFailed = 1
	runLate   = 1<<runBits | runFailed
)

// row returns how many calls failed in a row, and how many of those timed out.
func row(run int64) (failed, late int) {
	return int(min(run&(1<<runBits-1), math.MaxInt)), int(uint64(run) >> runBits)
}

// newCounts returns the counts of a generation that begins, nil older for the first.
func newCounts(s *settings, now int64, older *counts) *counts {
	c := &counts{past: older.succeeded()}
	if s.failureUnits > 0 || s.slowUnits > 0 {
		c.rate = window.New(s.window, now)
	}
	if s.slowUnits > 0 {
		c.slow = &slowCounts{calls: window.New(s.window, now), flying: inflight.New(s.slowCall, s.probeTimeout)}
	}
	return c
}

// succeeded returns how many successes the closed state has counted, in this
// generation and before.
func (c *counts) succeeded() uint64 {
	if c == nil {
		return 0
	}
	n := c.past
	if c.rate != nil {
		total, bad := c.rate.Lifetime()
		n += total - min(bad, total)
	}
	return n
}

// halfOpen holds the probes in flight.
type halfOpen struct {
	leases []lease // guarded by Breaker.mu, oldest first
	ids    uint64  // guarded by Breaker.mu: the last lease given
	good   int     // guarded by Breaker.mu: probes that succeeded

	// Copies of the above for those who only look.
	first    atomic.Int64 // when the oldest lease runs out; forever without one
	inFlight atomic.Int64
	full     atomic.Bool // no slot is free

	// again is the random part of the delay that follows when a probe runs out. It is
	// drawn beforehand, so that looking is pure.
	again float64
}

// lease is the right of one probe to be in flight, for a limited time.
type lease struct {
	id  uint64
	end int64
}

// force is an override in force.
type force struct {
	Override
	state   State
	until   int64
	refusal *OpenError
}

// over returns f for a machine that is open until the given moment: whoever f
// refuses learns of the later end, its own or that one.
func (f *force) over(until int64) *force {
	if f == nil || f.state != Open || f.refusal.until == max(f.until, until) {
		return f
	}
	next, refusal := *f, *f.refusal
	refusal.until = max(f.until, until)
	next.refusal = &refusal
	return &next
}

// effective returns the state that calls meet at time now and, if that is Open,
// until when no call is admitted.
func (p *phase) effective(now int64) (State, int64) {
	state, until := p.machine(now)
	if p.force == nil || now >= p.force.until {
		return state, until
	}
	if p.force.state == Open && state == Open {
		return Open, max(until, p.force.until)
	}
	return p.force.state, p.force.until
}

// machine returns the state of the machine beneath an override. A half-open phase
// whose probe ran out is open from that moment, though nobody may have noticed yet.
func (p *phase) machine(now int64) (State, int64) {
	if p.state == HalfOpen {
		if first := p.half.first.Load(); first <= now {
			return Open, add(first, p.delayAgain(first))
		}
	}
	return p.state, p.until
}

// delayAgain returns the delay of the opening that follows when a probe runs out at first,
// whose time was a part of the outage.
func (p *phase) delayAgain(first int64) time.Duration {
	return openDelay(p.nominal(first), p.half.again)
}

// trouble returns for how long, by now, the breaker has not been closed, all openings
// taken together since it was closed for a whole window.
func (p *phase) trouble(now int64) time.Duration {
	switch d := time.Duration(now - p.since); {
	case p.state != Closed:
		return p.down + d
	case d >= p.set.window:
		return 0
	default:
		return p.down
	}
}

// onTrial reports whether a call that ends now is one of the first to end since an opening.
// By the windows, which begin anew with each closing, and not by what is in them now:
// calls that have left them are no reason for another trial.
func (p *phase) onTrial(now int64) bool {
	if !p.set.trial || p.trouble(now) == 0 {
		return false
	}
	calls, _ := p.counts.rate.Lifetime()
	return calls < trialCalls
}

// verdict is what a phase says to a call.
type verdict uint8

const (
	ask   verdict = iota // it takes the lock to tell
	admit                // and the outcome counts
	pass                 // by an override alone: the outcome counts for nothing
	refuse
)

// look says what a call meets at time now, as far as that can be told without the
// lock: under an outage, and under an override, a look is all that a call costs.
func (p *phase) look(now int64) (verdict, *OpenError) {
	forced := p.force != nil
	if forced && now >= p.force.until {
		return ask, nil
	}
	if forced && p.force.state == Open {
		if p.state == HalfOpen && now >= p.half.first.Load() {
			return ask, nil // a probe ran out beneath, and the refusal does not know yet
		}
		return refuse, p.force.refusal
	}
	shut := p.state == Open && now < p.until ||
		p.state == HalfOpen && p.half.full.Load() && now < p.half.first.Load()
	switch {
	case shut && forced:
		return pass, nil
	case shut:
		return refuse, p.refusal
	case p.state != Closed:
		return ask, nil
	case forced || p.plain:
		return admit, nil
	case now >= p.until:
		return ask, nil
	case p.ramped(now):
		return admit, nil
	default:
		return refuse, p.refusal
	}
}

// lease takes a slot for a probe and returns its id, 0 if none is free. Breaker.mu
// is held.
func (p *phase) lease(now int64) uint64 {
	h := p.half
	if len(h.leases) >= p.set.probes {
		return 0
	}
	h.ids++
	h.leases = append(h.leases, lease{h.ids, add(now, p.set.probeTimeout)})
	h.publish(p.set.probes)
	return h.ids
}

// publish copies what the probes are up to for those who only look. Breaker.mu is
// held.
func (h *halfOpen) publish(probes int) {
	first := int64(forever)
	for _, l := range h.leases {
		first = min(first, l.end)
	}
	// first before full: who sees full sees the lease that filled it.
	h.first.Store(first)
	h.inFlight.Store(int64(len(h.leases)))
	h.full.Store(len(h.leases) >= probes)
}

// ramped reports whether a call is admitted while the closed breaker warms up.
func (p *phase) ramped(now int64) bool {
	const least = 0.1
	share := float64(now-p.since) / float64(max(p.until-p.since, 1))
	return rand.Float64() < max(least, share)
}

// forcedOpen reports whether an override holds the breaker open. It is asked after
// advance, which ends overrides whose time is over.
func (p *phase) forcedOpen() bool { return p.force != nil && p.force.state == Open }

// shown returns the effective state as it was published, without regard to time:
// changes that time brings about are told when they are published.
func (p *phase) shown() State {
	if p.force != nil {
		return p.force.state
	}
	return p.state
}

func (p *phase) shownUntil() int64 {
	if p.force != nil {
		return p.force.until
	}
	return p.until
}

// add returns at plus d, and forever where the sum is too large.
func add(at int64, d time.Duration) int64 {
	if d > 0 && at > forever-int64(d) {
		return forever
	}
	return at + int64(d)
}
