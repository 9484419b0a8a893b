package breaker

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/internal/window"
)

// forever is a reading of the clock that never comes.
const forever = math.MaxInt64

// phase is everything that admission depends on. It is immutable once published in
// Breaker.phase, but for the counters it points to; a change makes a new one, with
// Breaker.mu held.
type phase struct {
	plain bool      // closed, no override, no ramp: every call is admitted without a further look
	state State     // of the machine, beneath an override
	gen   uint64    // counts changes of state: results count in their own generation only
	set   *settings // in force
	since int64     // when the state began

	counts *counts // of the closed state; kept while open for what it has counted in all

	nominal time.Duration // of the last opening; 0: the next is a first one
	until   int64         // open: when a probe is due
	half    *halfOpen     // half-open: the probes
	refusal *OpenError    // what calls get that the machine refuses

	force *force // nil: no override
}

// counts is what one generation of the closed state has counted.
type counts struct {
	run  atomic.Int64   // failures in a row
	rate *window.Window // calls, and which failed; nil: no rule on rates
	slow *window.Window // calls, and which were slow; nil: no rule on slow calls
}

func newCounts(s *settings, now int64, older *counts) *counts {
	c := &counts{}
	if s.failureUnits > 0 || s.slowUnits > 0 {
		var old *window.Window
		if older != nil {
			old = older.rate
		}
		c.rate = window.New(s.window, now, old)
	}
	if s.slowUnits > 0 {
		c.slow = window.New(s.window, now, nil)
	}
	return c
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

	// again is the delay of the opening that follows when a probe runs out. It is
	// drawn beforehand, so that looking is pure.
	again time.Duration
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
			return Open, add(first, p.half.again)
		}
	}
	return p.state, p.until
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
	case now-p.since >= int64(p.set.ramp):
		return ask, nil
	case p.ramped(now):
		return admit, nil
	default:
		return refuse, p.refusal
	}
}

// acquireSlow admits or refuses a call when the breaker is not plainly closed.
func (b *Breaker) acquireSlow(ctx context.Context, p *Permit) error {
	now := b.clock.Now()
	ph := b.phase.Load()
	v, e := ph.look(now)
	var lease uint64
	if v == ask {
		ph, v, e, lease = b.ask(ctx, now)
	}
	if v == refuse {
		return b.reject(ctx, e)
	}
	b.permit(ctx, ph, p)
	p.lease, p.free = lease, v == pass
	return nil
}

// ask brings the phase up to date and admits a probe if there is room for one.
func (b *Breaker) ask(ctx context.Context, now int64) (ph *phase, v verdict, e *OpenError, lease uint64) {
	b.mu.Lock()
	b.advance(ctx, now)
	ph = b.phase.Load()
	if ph.force == nil || ph.force.state != Open {
		if ph.state == Open && now >= ph.until {
			ph = b.toHalfOpen(ctx, ph, now)
		}
		if ph.state == HalfOpen {
			lease = ph.lease(now)
		}
	}
	if lease != 0 {
		v = admit
	} else {
		v, e = ph.look(now)
	}
	b.mu.Unlock()
	b.deliver()
	return ph, v, e, lease
}

// reject counts and shows a refusal.
func (b *Breaker) reject(ctx context.Context, e *OpenError) error {
	b.rest().rejected.Add(1)
	if t := mettle.ContextTrace(ctx); t != nil && t.Rejected != nil {
		t.Rejected(mettle.TraceEvent{Policy: e.Name, Err: e})
	}
	return e
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
	share := float64(now-p.since) / float64(max(p.set.ramp, 1))
	return rand.Float64() < max(least, share)
}

// advance brings the phase up to date with what time alone brings about, in the
// order in which it came: the end of a probe's lease, of an override, of the ramp.
// Breaker.mu is held.
func (b *Breaker) advance(ctx context.Context, now int64) {
	b.forfeit(ctx, now)
	ph := b.phase.Load()
	if ph.force != nil && now >= ph.force.until {
		next := *ph
		next.force = nil
		b.publish(ctx, &next, now, Change{Rule: RuleReleased, By: ph.force.By, Reason: "its time is over"})
		ph = b.phase.Load()
	}
	if ph.state == Closed && !ph.plain && now-ph.since >= int64(ph.set.ramp) {
		next := *ph
		b.publish(ctx, &next, now, Change{})
	}
}

// forfeit opens the breaker if a probe's lease has run out.
func (b *Breaker) forfeit(ctx context.Context, now int64) {
	ph := b.phase.Load()
	if ph.state != HalfOpen {
		return
	}
	first := ph.half.first.Load()
	if first > now {
		return
	}
	if f := ph.force; f != nil && f.until < first {
		// The override ended before, and calls could have met the half-open state.
		next := *ph
		next.force = nil
		b.publish(ctx, &next, now, Change{Rule: RuleReleased, By: f.By, Reason: "its time is over"})
		ph = &next
	}
	b.toOpen(ctx, ph, first, ph.half.again, Change{Rule: RuleProbeTimeout})
}

// settleProbe counts the outcome of a probe and gives its slot back.
func (b *Breaker) settleProbe(p *Permit, o mettle.Outcome, slow bool, err error) {
	now := b.clock.Now()
	b.mu.Lock()
	b.advance(p.ctx, now) // the lease may have run out without anybody noticing
	ph := b.phase.Load()
	if ph.gen != p.phase.gen {
		b.mu.Unlock()
		b.rest().stale.Add(1)
		b.deliver()
		return
	}
	h := ph.half
	held := len(h.leases)
	h.leases = slices.DeleteFunc(h.leases, func(l lease) bool { return l.id == p.lease })
	h.publish(ph.set.probes)
	switch {
	case len(h.leases) == held: // a copy of the permit has reported already
	case o == mettle.Ignored:
		b.rest().count(o)
	case o.Failed() || slow:
		b.rest().count(o)
		b.toOpen(p.ctx, ph, now, ph.delay(now, err), Change{Rule: RuleProbeFailed, Err: err})
	default:
		b.rest().count(o)
		if h.good++; h.good >= ph.set.successes {
			b.toClosed(p.ctx, ph, now, Change{Rule: RuleProbeSucceeded, Calls: h.good})
		}
	}
	b.mu.Unlock()
	b.deliver()
}

// open opens the breaker for a rule that held in phase seen, unless another call
// was quicker.
func (b *Breaker) open(ctx context.Context, seen *phase, c Change) {
	now := b.clock.Now()
	b.mu.Lock()
	ph := b.phase.Load()
	if ph.gen == seen.gen {
		b.toOpen(ctx, ph, now, ph.delay(now, c.Err), c)
	}
	b.mu.Unlock()
	b.deliver()
}

// nextNominal returns the nominal delay of an opening at time now.
func (p *phase) nextNominal(now int64) time.Duration {
	healthy := p.state == Closed && now-p.since >= int64(p.set.window)
	if p.nominal == 0 || healthy {
		return p.set.openFor
	}
	return max(p.set.openFor, min(saturate(2*float64(p.nominal)), p.set.maxOpenFor))
}

// delay returns how long an opening at time now lasts that err brought about.
func (p *phase) delay(now int64, err error) time.Duration {
	nominal := p.nextNominal(now)
	if d, ok := mettle.RetryAfter(err); ok && d > 0 {
		nominal = min(d, max(retryAfterCap, p.set.maxOpenFor))
	}
	return openDelay(nominal, rand.Float64())
}

// toOpen, toHalfOpen and toClosed publish the machine's next state. Breaker.mu is held.
func (b *Breaker) toOpen(ctx context.Context, ph *phase, at int64, delay time.Duration, c Change) {
	next := &phase{
		state: Open, gen: ph.gen + 1, set: ph.set, since: at,
		counts: ph.counts, nominal: ph.nextNominal(at), force: ph.force,
		until: add(at, delay),
	}
	c.Delay = delay
	c.From, c.To = ph.state, Open
	next.refusal = &OpenError{
		Name: ph.set.name, why: "is open: " + c.why(), clock: b.clock, until: next.until,
	}
	b.publish(ctx, next, at, c)
}

func (b *Breaker) toHalfOpen(ctx context.Context, ph *phase, now int64) *phase {
	next := &phase{
		state: HalfOpen, gen: ph.gen + 1, set: ph.set, since: now,
		counts: ph.counts, nominal: ph.nominal, force: ph.force,
		half: &halfOpen{},
		refusal: &OpenError{
			Name: ph.set.name, why: "is half-open and all its probes are in flight", clock: b.clock, until: now,
		},
	}
	next.half.first.Store(forever)
	next.half.again = openDelay(next.nextNominal(now), rand.Float64())
	b.publish(ctx, next, now, Change{Rule: RuleProbeDue})
	return next
}

func (b *Breaker) toClosed(ctx context.Context, ph *phase, now int64, c Change) {
	next := &phase{
		state: Closed, gen: ph.gen + 1, set: ph.set, since: now,
		counts: newCounts(ph.set, now, ph.counts), nominal: ph.nominal, force: ph.force,
		refusal: &OpenError{
			Name: ph.set.name, why: "has just closed and admits more calls by and by", clock: b.clock, until: now,
		},
	}
	b.publish(ctx, next, now, c)
}

// publish makes next the phase in force, and queues the change if calls meet
// another state by it. Breaker.mu is held; the caller delivers when it is not.
func (b *Breaker) publish(ctx context.Context, next *phase, now int64, c Change) {
	old := b.phase.Load()
	ramping := next.state == Closed && next.nominal > 0 && now-next.since < int64(next.set.ramp)
	next.plain = next.state == Closed && next.force == nil && !ramping
	from, to := old.shown(), next.shown()
	b.phase.Store(next)
	if from == to {
		return
	}
	b.rest().changed(to)
	c.Name, c.From, c.To = next.set.name, from, to
	if to == Open && c.Delay == 0 {
		if until := next.shownUntil(); until != forever {
			c.Delay = remaining(until, now)
		}
	}
	e := event{change: c, hook: next.set.onChange}
	if ctx != nil {
		e.trace = mettle.ContextTrace(ctx)
	}
	if e.hook != nil || e.trace != nil {
		m := b.rest()
		m.events = append(m.events, e)
	}
}

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

// count counts an outcome that no window holds: every failure, and the successes
// outside the closed state.
func (t *more) count(o mettle.Outcome) {
	switch {
	case o == mettle.Success:
		t.succeeded.Add(1)
	case o.Failed():
		t.failed[o-mettle.Failure].Add(1)
	default:
		t.ignored.Add(1)
	}
}

func (t *more) changed(to State) {
	switch to {
	case Open:
		t.opened.Add(1)
	case HalfOpen:
		t.halfOpened.Add(1)
	default:
		t.closed.Add(1)
	}
}

// renew replaces the windows of a breaker that has idled for so long that their
// buckets have become ambiguous, and returns the phase in force.
func (b *Breaker) renew(now int64) *phase {
	b.mu.Lock()
	defer b.mu.Unlock()
	ph := b.phase.Load()
	if ph.counts.rate != nil && ph.counts.rate.Stale(now) {
		next := *ph
		next.counts = newCounts(ph.set, now, ph.counts)
		next.counts.run.Store(ph.counts.run.Load())
		b.publish(context.Background(), &next, now, Change{})
		ph = &next
	}
	return ph
}

// add returns at plus d, and forever where the sum is too large.
func add(at int64, d time.Duration) int64 {
	if d > 0 && at > forever-int64(d) {
		return forever
	}
	return at + int64(d)
}

// Override holds a breaker open or closed by hand.
type Override struct {
	For    time.Duration // how long; zero: until Release
	By     string        // who, for those who find it
	Reason string        // why
}

// ForceOpen makes the breaker refuse every call, probes included, until the
// override ends. It replaces an override in force. Beneath it the breaker lives on:
// calls in flight count as they end. A negative For panics.
func (b *Breaker) ForceOpen(o Override) { b.override(Open, o) }

// ForceClosed makes the breaker admit every call until the override ends. It
// replaces an override in force. Beneath it the breaker lives on: it opens, lets
// probes pass and closes again, and when the override ends its own state shows. A
// negative For panics.
func (b *Breaker) ForceClosed(o Override) { b.override(Closed, o) }

func (b *Breaker) override(state State, o Override) {
	if o.For < 0 {
		panic(fmt.Sprintf("breaker: Override.For is %v, must be positive, or zero for until Release", o.For))
	}
	now := b.clock.Now()
	f := &force{Override: o, state: state, until: forever}
	if o.For > 0 {
		f.until = add(now, o.For)
	}
	c := Change{Rule: RuleForced, To: state, By: o.By, Reason: o.Reason}
	b.mu.Lock()
	b.advance(context.Background(), now)
	ph := b.phase.Load()
	if state == Open {
		f.refusal = &OpenError{Name: ph.set.name, why: "is " + c.why(), clock: b.clock, until: f.until}
	}
	next := *ph
	next.force = f
	b.publish(context.Background(), &next, now, c)
	b.mu.Unlock()
	b.deliver()
}

// Release ends an override, if there is one, and the breaker's own state shows.
func (b *Breaker) Release() {
	now := b.clock.Now()
	b.mu.Lock()
	b.advance(context.Background(), now)
	if ph := b.phase.Load(); ph.force != nil {
		next := *ph
		next.force = nil
		b.publish(context.Background(), &next, now, Change{Rule: RuleReleased, By: ph.force.By})
	}
	b.mu.Unlock()
	b.deliver()
}

// Trip opens the breaker as a rule would, for the reason given: it probes when its
// delay is over. Tripping an open breaker changes nothing.
func (b *Breaker) Trip(reason string) {
	now := b.clock.Now()
	b.mu.Lock()
	b.advance(context.Background(), now)
	if ph := b.phase.Load(); ph.state != Open {
		b.toOpen(context.Background(), ph, now, ph.delay(now, nil), Change{Rule: RuleTrip, Reason: reason})
	}
	b.mu.Unlock()
	b.deliver()
}

// Reset closes the breaker and forgets: counts, growing delays and the ramp. Calls
// in flight report to nobody. An override stays.
func (b *Breaker) Reset() {
	now := b.clock.Now()
	b.mu.Lock()
	b.advance(context.Background(), now)
	ph := *b.phase.Load()
	ph.nominal = 0
	b.toClosed(context.Background(), &ph, now, Change{Rule: RuleReset})
	b.mu.Unlock()
	b.deliver()
}

// Reconfigure replaces the configuration and keeps state, window and generation.
// A delay or lease that runs keeps its end; what begins later follows the new
// configuration. Each call sees one whole configuration. An invalid one is refused
// whole, as is one with another Name; an empty Name keeps the name.
func (b *Breaker) Reconfigure(c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	now := b.clock.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	ph := b.phase.Load()
	if c.Name != "" && c.Name != ph.set.name {
		return fmt.Errorf("breaker: Name is %q, must stay %q or be empty", c.Name, ph.set.name)
	}
	c.Name = ph.set.name
	next := *ph
	next.set = newSettings(c)
	next.counts = ph.counts.reconfigured(ph.set, next.set, now)
	b.publish(context.Background(), &next, now, Change{})
	if next.half != nil {
		next.half.publish(next.set.probes)
	}
	return nil
}

// reconfigured returns the counts under new settings: the same where the window
// stays as long as it was, moved over where it does not.
func (c *counts) reconfigured(old, set *settings, now int64) *counts {
	fresh := newCounts(set, now, c)
	fresh.run.Store(c.run.Load())
	move := func(to **window.Window, from *window.Window) {
		switch {
		case *to == nil || from == nil || from.Stale(now):
		case old.window == set.window:
			*to = from
		default:
			*to = from.Resize(set.window, now)
		}
	}
	move(&fresh.rate, c.rate)
	move(&fresh.slow, c.slow)
	return fresh
}
