package breaker

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/mettle-go/mettle"
)

// turn is a time during which one goroutine holds Breaker.mu to change the phase.
// No code of the user's runs in it: errors are asked for hints and contexts for
// traces before or after, and hooks are called after. So nothing can panic, block or
// call back with the lock held.
type turn struct {
	b       *Breaker
	now     int64
	changes []Change // made in this turn, of the state that calls meet
}

// begin takes the lock and brings the phase up to date.
func (b *Breaker) begin(now int64) turn {
	b.mu.Lock()
	t := turn{b: b, now: now}
	t.advance()
	return t
}

// end releases the lock and tells what was changed: first, and here, the trace of the
// call whose turn it was, then OnChange.
func (t *turn) end(ctx context.Context) {
	t.b.mu.Unlock()
	if len(t.changes) == 0 {
		return
	}
	defer t.b.deliver() // also when a hook of the trace panics
	trace := mettle.ContextTrace(ctx)
	if trace == nil || trace.StateChanged == nil {
		return
	}
	for _, c := range t.changes {
		trace.StateChanged(mettle.TraceEvent{
			Context: ctx, Policy: c.Name, From: c.From.String(), To: c.To.String(), Err: c.Err,
		})
	}
}

func (t *turn) phase() *phase { return t.b.phase.Load() }

// acquireSlow admits or refuses a call when the breaker is not plainly closed.
func (b *Breaker) acquireSlow(ctx context.Context, p *Permit) error {
	now, ph := b.clock.Now(), b.phase.Load()
	v, e := ph.look(now)
	if v == refuse { // at once: an open breaker does little else
		return b.reject(ctx, e)
	}
	_, deadline := ctx.Deadline() // before a slot is taken, since it is not our code
	for {
		var lease uint64
		if v == ask {
			ph, v, e, lease = b.ask(ctx, now)
		}
		switch v {
		case ask: // the state changed while hooks ran: look again
			now, ph = b.clock.Now(), b.phase.Load()
			v, e = ph.look(now)
		case refuse:
			return b.reject(ctx, e)
		default:
			p.b, p.ctx, p.phase, p.lease, p.free = b, ctx, ph, lease, v == pass
			p.time(deadline)
			return nil
		}
	}
}

// ask brings the phase up to date, begins to probe if that is due, and admits a
// probe if there is room for one. Hooks run before a slot is taken: one that blocks or
// panics holds none.
func (b *Breaker) ask(ctx context.Context, now int64) (ph *phase, v verdict, e *OpenError, lease uint64) {
	t := b.begin(now)
	if ph := t.phase(); ph.state == Open && now >= ph.until && !ph.forcedOpen() {
		t.toHalfOpen(ph)
	}
	t.end(ctx)

	now = b.clock.Now() // hooks may have taken their time
	b.mu.Lock()
	defer b.mu.Unlock()
	ph = b.phase.Load()
	if ph.state == HalfOpen && !ph.forcedOpen() && now < ph.half.first.Load() {
		if lease = ph.lease(now); lease != 0 {
			return ph, admit, nil, lease
		}
	}
	v, e = ph.look(now)
	return ph, v, e, 0
}

// reject counts and shows a refusal.
func (b *Breaker) reject(ctx context.Context, e *OpenError) error {
	b.rest().rejected[e.kind].Add(1)
	if t := mettle.ContextTrace(ctx); t != nil && t.Rejected != nil {
		t.Rejected(mettle.TraceEvent{Context: ctx, Policy: e.Name, Err: e})
	}
	return e
}

// advance brings the phase up to date with what time alone brings about, in the
// order in which it came: the end of a probe's lease, of an override, of the ramp.
func (t *turn) advance() {
	t.forfeit()
	ph := t.phase()
	if ph.force != nil && t.now >= ph.force.until {
		t.release(ph, "its time is over")
		ph = t.phase()
	}
	if ph.state == Closed && !ph.plain && t.now >= ph.until {
		next := *ph
		t.publish(&next, Change{})
	}
}

// forfeit opens the breaker if a probe's lease has run out.
func (t *turn) forfeit() {
	ph := t.phase()
	if ph.state != HalfOpen {
		return
	}
	first := ph.half.first.Load()
	if first > t.now {
		return
	}
	if ph.force != nil && ph.force.until < first {
		// The override ended before, and calls could have met the half-open state.
		t.release(ph, "its time is over")
		ph = t.phase()
	}
	t.b.rest().count(mettle.Timeout)
	t.toOpen(ph, first, ph.delayAgain(first), Change{Rule: RuleProbeTimeout})
}

// release ends the override of ph.
func (t *turn) release(ph *phase, reason string) {
	next := *ph
	next.force = nil
	t.publish(&next, Change{Rule: RuleReleased, By: ph.force.By, Reason: reason})
}

// settleProbe counts the outcome of a probe and gives its slot back. The hint is the
// delay that a failure asked for, 0 for none.
func (b *Breaker) settleProbe(p *Permit, o mettle.Outcome, slow bool, hint time.Duration, err error) {
	ctx := p.ctx
	t := b.begin(b.clock.Now()) // the lease may have run out without anybody noticing
	defer t.end(ctx)
	ph := t.phase()
	if ph.gen != p.phase.gen {
		b.rest().stale.Add(1)
		return
	}
	h := ph.half
	held := len(h.leases)
	h.leases = slices.DeleteFunc(h.leases, func(l lease) bool { return l.id == p.lease })
	if len(h.leases) == held {
		return // a copy of the permit has reported already
	}
	h.publish(ph.set.probes)
	b.rest().count(o)
	switch {
	case o == mettle.Ignored:
	case o.Failed() || slow:
		t.toOpen(ph, t.now, ph.delay(t.now, hint), Change{Rule: RuleProbeFailed, Err: err})
	default:
		if h.good++; h.good >= ph.set.successes {
			t.toClosed(ph, Change{Rule: RuleProbeSucceeded, Calls: h.good})
		}
	}
}

// open opens the breaker for a rule that held in generation gen, unless another
// call was quicker.
func (b *Breaker) open(ctx context.Context, gen uint64, c Change) {
	asked := hint(c.Err)
	t := b.begin(b.clock.Now())
	if ph := t.phase(); ph.gen == gen {
		t.toOpen(ph, t.now, ph.delay(t.now, asked), c)
	}
	t.end(ctx)
}

// hint returns the delay that err asks for, 0 for none.
func hint(err error) time.Duration {
	d, _ := mettle.RetryAfter(err)
	return d
}

// nominal returns the nominal delay of an opening at time now.
func (p *phase) nominal(now int64) time.Duration {
	return max(p.set.openFor, min(p.trouble(now)/openShare, p.set.maxOpenFor))
}

// delay returns how long an opening at time now lasts, whose failure asked for the
// given delay, or for none if that is 0.
func (p *phase) delay(now int64, asked time.Duration) time.Duration {
	nominal := p.nominal(now)
	if asked > 0 {
		most := max(retryAfterMax, p.set.maxOpenFor)
		least := min(retryAfterMin, p.set.openFor)
		nominal = min(max(asked, least), most)
	}
	return openDelay(nominal, rand.Float64())
}

// toOpen opens the machine at the moment at, which has passed or is now.
func (t *turn) toOpen(ph *phase, at int64, delay time.Duration, c Change) {
	next := &phase{
		state: Open, gen: ph.gen + 1, set: ph.set, since: at,
		counts: ph.counts, down: ph.trouble(at),
		until: add(at, delay),
	}
	c.Delay, c.At = delay, t.b.clock.Time(at)
	next.refusal = t.refusal(ph, refusedOpen, "is open: "+c.why(), next.until)
	next.force = ph.force.over(next.until)
	t.publish(next, c)
}

// toHalfOpen lets probes begin.
func (t *turn) toHalfOpen(ph *phase) {
	next := &phase{
		state: HalfOpen, gen: ph.gen + 1, set: ph.set, since: t.now,
		counts: ph.counts, down: ph.trouble(t.now), force: ph.force,
		half: &halfOpen{},
	}
	next.refusal = t.refusal(ph, refusedProbing, "is half-open and all its probes are in flight", forever)
	next.half.first.Store(forever)
	next.half.again = rand.Float64()
	t.publish(next, Change{Rule: RuleProbeDue})
}

// toClosed closes the machine, with a ramp if it comes from an opening.
func (t *turn) toClosed(ph *phase, c Change) {
	next := &phase{
		state: Closed, gen: ph.gen + 1, set: ph.set, since: t.now, until: t.now,
		counts: newCounts(ph.set, t.now, ph.counts), down: ph.trouble(t.now),
	}
	if c.Rule == RuleReset {
		next.down = 0
	} else {
		next.until = add(t.now, ph.set.ramp)
	}
	next.force = ph.force.over(t.now)
	next.refusal = t.refusal(ph, refusedRamping, "has just closed and admits more calls by and by", forever)
	t.publish(next, c)
}

func (t *turn) refusal(ph *phase, kind refusalKind, why string, until int64) *OpenError {
	return &OpenError{Name: ph.set.name, kind: kind, why: why, clock: t.b.clock, until: until}
}

// publish makes next the phase in force, and notes the change if calls meet another
// state by it.
func (t *turn) publish(next *phase, c Change) {
	next.plain = next.state == Closed && next.force == nil && t.now >= next.until
	next.lean = next.plain && next.set.lean()
	from, to := t.phase().shown(), next.shown()
	t.b.phase.Store(next)
	if from == to {
		return
	}
	m := t.b.rest()
	m.turns.Store(m.turns.Load().with(edge{from, to, c.Rule}.index()))
	if to == Open && t.b.opened != nil {
		t.b.opened.Add(1)
	}
	c.Name, c.From, c.To = next.set.name, from, to
	if until := next.shownUntil(); to == Open && c.Delay == 0 && until != forever {
		c.Delay = remaining(until, t.now)
	}
	if c.At.IsZero() {
		c.At = t.b.clock.Time(t.now)
	}
	m.remember(c)
	t.changes = append(t.changes, c)
	if hook := next.set.onChange; hook != nil {
		m.events = append(m.events, event{c, hook})
	}
}

// renew replaces the windows of a breaker that has idled for so long that their
// buckets have become ambiguous, and returns the phase in force.
func (b *Breaker) renew(now int64) *phase {
	t := b.begin(now)
	ph := t.phase()
	if ph.counts.rate != nil && ph.counts.rate.Stale(now) {
		next := *ph
		next.counts = newCounts(ph.set, now, ph.counts)
		next.counts.run.Store(ph.counts.run.Load())
		if s := next.counts.slow; s != nil {
			s.flying = ph.counts.slow.flying
		}
		t.publish(&next, Change{})
	}
	t.end(context.Background())
	return b.phase.Load()
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
