// Package breaker stops calling a dependency that fails, and finds out, with a few
// calls at a time, when it works again.
//
// A closed breaker admits every call and counts outcomes. It opens when failures
// come in a row, or when the share of failed or slow calls in a sliding window is
// too high. An open breaker refuses calls until its delay is over; then it is
// half-open and admits probes, whose success closes it and whose failure opens it
// for longer.
//
//	         too many failures                 delay over
//	closed ────────────────────▶ open ◀───────────────────▶ half-open
//	   ▲                              a probe fails, or hangs    │
//	   └─────────────────────────────────────────────────────────┘
//	                        enough probes succeed
//
// Each stay in a state is a generation. A call belongs to the generation that
// admitted it, and what it reports in a later one is void: a call begun before the
// breaker opened can neither close nor reopen it.
//
// The healthy path takes no lock and allocates nothing. There is no goroutine and
// no timer: what time brings about shows when somebody looks.
package breaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/internal/clock"
	"github.com/mettle-go/mettle/internal/inflight"
	"github.com/mettle-go/mettle/internal/relay"
	"github.com/mettle-go/mettle/internal/window"
)

// ErrOpen is what every refusal of a breaker Is, besides [mettle.ErrRejected]. The
// refusal itself is an [*OpenError].
var ErrOpen = fmt.Errorf("breaker: open: %w", mettle.ErrRejected)

// errCrashed stands for the error of a call that panicked or called Goexit.
var errCrashed = errors.New("breaker: the call panicked or called runtime.Goexit")

// Breaker is a [mettle.Policy] that refuses calls while its dependency fails. It is
// made by [New], may be used from many goroutines at once, and needs no closing.
type Breaker struct {
	// phase is all that admission depends on, in one immutable value, so that a
	// call loads one word and sees one state with the deadline, the generation and
	// the configuration that belong to it.
	phase atomic.Pointer[phase]
	clock clock.Clock

	mu sync.Mutex // held to replace phase, and for the probes' leases; never over a hook

	opened *atomic.Uint64 // of the group it belongs to, counts openings; nil: nobody counts

	// What a healthy call does not touch is made when first needed. It keeps an idle
	// breaker small, and the counting of failures and refusals off the line above.
	more atomic.Pointer[more]
}

// more is the part of a breaker that only calls which fail, are refused or are
// watched need.
type more struct {
	// Guarded by Breaker.mu.
	events     []event  // changes not yet told
	delivering bool     // somebody is telling them
	last       []Change // what Changes returns

	series *series

	// What the windows do not count.
	failed         [3]atomic.Uint64 // by outcome: Failure, Overload, Timeout
	succeeded      atomic.Uint64    // outside the closed state
	ignored, stale atomic.Uint64
	rejected       [refusalKinds]atomic.Uint64

	// turns are the changes of the effective state. What it points to is replaced, never
	// changed, with Breaker.mu held. Nil: none yet.
	turns atomic.Pointer[turns]
}

// rest returns the part of b that is made when first needed.
func (b *Breaker) rest() *more {
	if m := b.more.Load(); m != nil {
		return m
	}
	b.more.CompareAndSwap(nil, &more{series: newSeries(b.phase.Load().set.name)})
	return b.more.Load()
}

// New returns a closed breaker. It panics when [Config.Validate] finds fault.
func New(c Config) *Breaker {
	if err := c.Validate(); err != nil {
		panic(err.Error())
	}
	return newBreaker(newSettings(c), c.Name)
}

func newBreaker(s *settings, name string) *Breaker {
	if s.name != name {
		named := *s
		named.name = name
		s = &named
	}
	b := &Breaker{clock: clock.New()}
	now := b.clock.Now()
	b.phase.Store(&phase{plain: true, lean: s.lean(), set: s, since: now, counts: newCounts(s, now, nil)})
	return b
}

// Do runs op if the breaker admits the call, and counts its outcome. A refusal is
// an [*OpenError]. A panic or Goexit in op counts as a failure. When ctx is done on
// entry, Do returns its cause and nothing is counted.
func (b *Breaker) Do(ctx context.Context, op func(context.Context) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// The call that must cost least, a success while plainly closed, makes a permit
	// only when it turns out to be anything else: filling and reading one is a third of
	// the time that is not the clock's (profiled). All of this is written four times, here
	// and in the functions below, because op would escape to the heap where it is handed
	// to an interface, and every caller would pay for its closure.
	ph := b.phase.Load()
	if !ph.lean {
		return b.do(ctx, op)
	}
	var begun int64
	_, timed := ctx.Deadline()
	if timed { // else nobody will ask, see Permit.time
		begun = b.clock.Now()
	}
	running := ph // and no flag besides: what the deferred function needs is put together for every call
	defer func() {
		if running != nil {
			b.settle(&Permit{b: b, ctx: ctx, phase: running}, mettle.Failure, 0, errCrashed)
		}
	}()
	err := op(ctx)
	running = nil
	if err != nil || !b.healthy(ph, clock.Unknown) {
		p := Permit{b: b, ctx: ctx, phase: ph, begun: begun, timed: timed}
		p.done(err)
	}
	return err
}

// do is Do in a phase that is not lean.
func (b *Breaker) do(ctx context.Context, op func(context.Context) error) error {
	var p Permit
	if err := b.acquire(ctx, &p); err != nil {
		return err
	}
	ctx, probe := p.probe(ctx)
	returned := false
	defer func() {
		if !returned && probe.reports() {
			b.settle(&p, mettle.Failure, 0, errCrashed)
		}
	}()
	err := op(ctx)
	returned = true
	if probe.reports() {
		p.done(err)
	}
	return err
}

// run is Do under a next policy, of a call that enters at now. See [relay.Policy].
func (b *Breaker) run(ctx context.Context, next relay.Policy, op func(context.Context) error, now clock.Instant) (clock.Instant, error) {
	ph := b.phase.Load()
	if !ph.lean {
		return clock.Unknown, b.runSlow(ctx, next, op)
	}
	var begun int64
	_, timed := ctx.Deadline()
	if timed {
		now = now.OrNow()
		begun = b.clock.At(now)
	}
	running := ph
	defer func() {
		if running != nil {
			b.settle(&Permit{b: b, ctx: ctx, phase: running}, mettle.Failure, 0, errCrashed)
		}
	}()
	left, err := next.DoAt(ctx, op, now)
	running = nil
	if err == nil {
		if ph.counts.rate != nil {
			left = left.OrNow()
		}
		if b.healthy(ph, left) {
			return left, nil
		}
	}
	p := Permit{b: b, ctx: ctx, phase: ph, begun: begun, timed: timed}
	p.done(err)
	return clock.Unknown, err
}

// runSlow is run in a phase that is not lean.
func (b *Breaker) runSlow(ctx context.Context, next relay.Policy, op func(context.Context) error) error {
	var p Permit
	if err := b.acquire(ctx, &p); err != nil {
		return err
	}
	if p.phase.set.slowCall > 0 {
		// There may be a queue of ours inside, whose time is not the dependency's.
		ctx = mettle.WithQueued(ctx)
		p.ctx, p.queued = ctx, true
	}
	ctx, probe := p.probe(ctx)
	returned := false
	defer func() {
		if !returned && probe.reports() {
			b.settle(&p, mettle.Failure, 0, errCrashed)
		}
	}()
	_, err := next.DoAt(ctx, op, clock.Unknown)
	returned = true
	if probe.reports() {
		p.done(err)
	}
	return err
}

// Wrap returns the breaker bound to next; see [mettle.Wrapper].
func (b *Breaker) Wrap(next mettle.Policy) mettle.Policy { return &bound{b, relay.To(next)} }

type bound struct {
	b    *Breaker
	next relay.Policy
}

func (w *bound) Do(ctx context.Context, op func(context.Context) error) error {
	_, err := w.b.run(ctx, w.next, op, clock.Unknown)
	return err
}

// DoAt implements [relay.Policy].
func (w *bound) DoAt(ctx context.Context, op func(context.Context) error, now clock.Instant) (clock.Instant, error) {
	return w.b.run(ctx, w.next, op, now)
}

// Acquire asks for admission of one call that the caller makes itself. The permit
// must be given back with [Permit.Done]. A refusal is an [*OpenError]. When ctx is
// done, Acquire returns its cause. The permit keeps ctx until it is done.
func (b *Breaker) Acquire(ctx context.Context) (Permit, error) {
	if ctx.Err() != nil {
		return Permit{}, context.Cause(ctx)
	}
	var p Permit
	err := b.acquire(ctx, &p)
	return p, err
}

// acquire fills p, which is zero, where it lies: a Permit is large enough for the
// copies to show.
func (b *Breaker) acquire(ctx context.Context, p *Permit) error {
	ph := b.phase.Load()
	if ph.set.slowCall > 0 && ph.state == Closed {
		b.lookForHung(ctx, ph)
		ph = b.phase.Load()
	}
	if !ph.plain {
		return b.acquireSlow(ctx, p)
	}
	p.b, p.ctx, p.phase = b, ctx, ph
	_, deadline := ctx.Deadline()
	p.time(deadline)
	return nil
}

// lookForHung opens the breaker if calls in flight that are slow by now, together
// with those that were, make the rule on slow calls hold: a dependency that hangs is
// found out before the first of its calls has timed out. One call alone that hangs
// is no evidence; a stream may be meant to last.
func (b *Breaker) lookForHung(ctx context.Context, ph *phase) {
	c, now := ph.counts.slow, b.clock.Now()
	due := c.due.Load()
	if now < due || !c.due.CompareAndSwap(due, now+int64(c.flying.Width())) {
		return
	}
	hung := c.flying.Older(now, ph.set.slowCall, ph.set.probeTimeout)
	if hung < 2 || c.calls.Stale(now) {
		return
	}
	calls, bad, _ := c.calls.Sum(now)
	calls, bad = calls+hung, bad+hung
	if ph.set.holds(calls, bad, ph.set.slowUnits) {
		b.open(ctx, ph.gen, Change{Rule: RuleSlowRate, Calls: calls, Bad: bad, Hung: hung, Window: ph.set.window})
	}
}

// holds reports whether a rule on a rate holds: enough calls, and enough of them bad.
func (s *settings) holds(calls, bad int, units int64) bool {
	return units > 0 && calls >= s.minCalls && int64(bad)*rateUnit >= units*int64(calls)
}

// time notes when the call begins, where that matters: to the rule on slow calls, and
// to tell whether a deadline of the caller's gave the dependency a fair time. Other
// calls do not pay for the clock.
func (p *Permit) time(deadline bool) {
	if !deadline && p.phase.set.slowCall == 0 {
		return
	}
	p.timed = true
	p.begun = p.b.clock.Now()
	if f := p.flying(); f != nil {
		f.Begin(p.begun)
	}
}

// flying returns where the call is counted while it is in flight, nil for nowhere:
// probes have leases instead.
func (p *Permit) flying() *inflight.Ages {
	if s := p.phase.counts.slow; s != nil && p.lease == 0 && !p.free {
		return s.flying
	}
	return nil
}

// Permit is the admission of one call. The zero Permit is harmless. A Permit must
// not be copied after it was returned and must not be used concurrently: a copy
// knows nothing of the original's Done.
type Permit struct {
	b     *Breaker // nil: the zero Permit, or done
	ctx   context.Context
	phase *phase // in which the call was admitted
	begun int64  // when, if timed
	lease uint64 // of a probe; 0: none
	timed bool
	free  bool // admitted by an override alone: its outcome counts for nothing
	// queued says that ctx is our own and tells how long a queue of ours inside kept
	// the call waiting.
	queued bool
}

// Done reports how the call ended: err is its error, nil for success. What that
// means is for Config.Classify to say, with the context of Acquire. Only the first
// Done of a permit has an effect. A call whose outcome says nothing about the
// dependency reports an error that is classified as ignored, such as
// [mettle.ErrRejected].
//
// Hooks may run before Done returns.
func (p *Permit) Done(err error) {
	if p.b == nil {
		return
	}
	defer func() { *p = Permit{} }() // lets go of ctx, even when a hook panics
	p.done(err)
}

func (p *Permit) done(err error) {
	b := p.b
	if err != nil || p.phase.set.classify != nil {
		o, asked := b.classify(p, err)
		b.settle(p, o, asked, err)
		return
	}
	// In a lean phase nobody has a lease or is let pass, and only who has a deadline
	// is timed, which matters to failures.
	if p.phase.lean && b.healthy(p.phase, clock.Unknown) {
		return
	}
	b.settle(p, mettle.Success, 0, nil)
}

// healthy counts a success of a call that was admitted in the lean phase ph and ended at
// left, if that phase is still in force and counting takes no more than one clock read and
// one CAS, and reports whether it did. If not, settle has to.
func (b *Breaker) healthy(ph *phase, left clock.Instant) bool {
	if b.phase.Load() != ph {
		return false
	}
	c := ph.counts
	// First, so that nothing waits for the CAS below. And read before write: success after
	// success shares the line.
	if c.run.Load() != 0 {
		c.run.Store(0)
	}
	w := c.rate
	if w == nil {
		return true
	}
	// In a bucket with more calls than MinCalls this one is not the call that makes them
	// enough, and there is nothing to judge.
	now, atLeast := b.clock.At(left.OrNow()), uint64(ph.set.minCalls)+1
	if w.Striped() {
		return w.AddStriped(now, atLeast)
	}
	return w.AddGood(now, atLeast)
}

// classify returns the outcome of a call that ended with err, and of a probe that
// failed the delay that err asks for. Both may run code that is not ours.
func (b *Breaker) classify(p *Permit, err error) (o mettle.Outcome, asked time.Duration) {
	classified := false
	defer func() {
		if !classified { // a panic: it tells of that code, not of the dependency
			b.settle(p, mettle.Ignored, 0, nil)
		}
	}()
	if classify := p.phase.set.classify; classify != nil {
		o = classify(p.ctx, err)
	} else {
		o = mettle.Classify(p.ctx, err)
	}
	switch {
	case o == mettle.Timeout && p.hurried():
		o = mettle.Ignored
	case o != mettle.Success && !o.Failed():
		o = mettle.Ignored // what a classifier makes up says nothing either
	}
	if p.lease != 0 && o.Failed() {
		asked = hint(err)
	}
	classified = true
	return o, asked
}

// hurried reports whether a call that timed out did so because its caller had less
// than a fair time to give: then that says nothing of the dependency.
func (p *Permit) hurried() bool {
	return p.timed && p.took(p.b.clock.Now()) < p.phase.set.fairTime() && callerTimedOut(p.ctx)
}

// settle counts the outcome of p's call, once. The admission's own configuration
// says what was slow, the one in force which rules hold.
func (b *Breaker) settle(p *Permit, o mettle.Outcome, asked time.Duration, err error) {
	if f := p.flying(); f != nil {
		f.End(p.begun)
	}
	ph := b.phase.Load()
	if ph.gen != p.phase.gen {
		b.rest().stale.Add(1)
		return
	}
	var now int64
	if p.timed || ph.counts.rate != nil {
		now = b.clock.Now()
	}
	limit := p.phase.set.slowCall
	slow := limit > 0 && p.took(now) >= limit
	switch {
	case p.lease != 0:
		b.settleProbe(p, o, slow, asked, err)
	case p.free || o == mettle.Ignored:
		b.rest().count(o)
	default:
		if o.Failed() {
			b.rest().count(o)
		}
		b.count(p, ph, now, o, slow, err)
	}
}

// took returns how long a timed call has taken, less what a queue of ours took of it.
func (p *Permit) took(now int64) time.Duration {
	d := time.Duration(now - p.begun)
	if p.queued {
		d -= mettle.Queued(p.ctx)
	}
	return d
}

// callerTimedOut reports whether the deadline of the caller itself has passed, and
// not that which a policy around the breaker has given each attempt. The clock is
// asked as well: a transport can report a deadline before the context does.
func callerTimedOut(attempt context.Context) bool {
	ctx := mettle.CallContext(attempt)
	if ctx == attempt {
		// No resending policy tells the attempt from the call. A cause that knows its
		// own outcome is that of a policy, whose time was set with the dependency in
		// mind.
		var cause interface{ Outcome() mettle.Outcome }
		if errors.As(context.Cause(ctx), &cause) {
			return false
		}
	}
	if ctx.Err() == context.DeadlineExceeded {
		return true
	}
	deadline, ok := ctx.Deadline()
	return ok && time.Until(deadline) <= 0
}

// fairTime is how long a call must have run for the caller's own deadline to be
// evidence: a caller in a hurry cannot trip a healthy dependency.
func (s *settings) fairTime() time.Duration {
	if s.slowCall > 0 {
		return s.slowCall
	}
	return fairTime
}

// count records a call of the closed state and opens the breaker if that makes a
// rule hold.
func (b *Breaker) count(p *Permit, ph *phase, now int64, o mettle.Outcome, slow bool, err error) {
	c, failed := ph.counts, o.Failed()
	if ph.set.consecutive != 0 {
		if failed {
			one := int64(runFailed)
			if o == mettle.Timeout {
				one = runLate
			}
			if n, late := row(c.run.Add(one)); c.tooLong(n, late, ph.set.consecutive, now) {
				b.open(p.ctx, ph.gen, Change{Rule: RuleConsecutive, Bad: n, Err: err})
				return
			}
		} else if c.run.Load() != 0 {
			c.run.Store(0)
		}
	}
	if c.rate == nil {
		return
	}
	if c.rate.Stale(now) {
		if ph = b.renew(now); ph.gen != p.phase.gen {
			b.rest().stale.Add(1)
			return
		}
		if c = ph.counts; c.rate == nil {
			return
		}
	}
	if (o == mettle.Timeout || o == mettle.Overload) && ph.onTrial(now) {
		b.open(p.ctx, ph.gen, Change{Rule: RuleRelapse, Err: err})
		return
	}
	if b.judge(p, ph, c.rate, now, failed, Change{Rule: RuleFailureRate, Err: err}) || c.slow == nil {
		return
	}
	b.judge(p, ph, c.slow.calls, now, slow, Change{Rule: RuleSlowRate, Err: err})
}

// tooLong reports whether n failures in a row, of which so many timed out and the last is
// not in the window yet, open a breaker of which limit says how many do.
func (c *counts) tooLong(n, late, limit int, now int64) bool {
	switch {
	case limit != byChance:
		return n >= limit
	case n+late < defaultConsecutive:
		return false
	case c.rate == nil || c.rate.Stale(now):
		return n >= defaultConsecutive
	}
	calls, failed, _ := c.rate.Sum(now)
	// Where the run is longer than the window, all that the window holds is of the run.
	before, bad := max(calls-(n-1), 0), max(failed-(n-1), 0)
	rate := (float64(bad) + priorCalls*priorRate) / (float64(before) + priorCalls)
	return math.Pow(rate, float64(n)) <= chanceMax
}

// judge counts a call in a window, opens the breaker if the window's rule now
// holds, and reports whether it does.
func (b *Breaker) judge(p *Permit, ph *phase, w *window.Window, now int64, bad bool, c Change) bool {
	in := w.Add(now, bad)
	// A good call makes the rate fall, so that it can make the rule hold in one way
	// only: as the call that makes them enough. Where its bucket alone holds more, it
	// was not, and there is nothing to add up.
	if !bad && in > ph.set.minCalls {
		return false
	}
	units := ph.set.failureUnits
	if c.Rule == RuleSlowRate {
		units = ph.set.slowUnits
	}
	calls, failed, newest := w.Sum(now)
	if place := calls - newest + in; !bad && place != ph.set.minCalls {
		return false
	}
	if !ph.set.holds(calls, failed, units) {
		return false
	}
	c.Calls, c.Bad = calls, failed
	c.Window = ph.set.window
	b.open(p.ctx, ph.gen, c)
	return true
}

// State returns what the breaker does with calls now, overrides included. It is a
// pure read. An open breaker whose delay is over is still open until a call comes
// to probe.
func (b *Breaker) State() State {
	ph := b.phase.Load()
	if ph.plain {
		return Closed
	}
	s, _ := ph.effective(b.clock.Now())
	return s
}

// RemainingDelay returns how long the breaker will refuse every call: 0 when it is
// closed or half-open, or when the next call would be a probe. Under an override
// that opens the breaker until it is released, it is the longest Duration.
func (b *Breaker) RemainingDelay() time.Duration {
	ph := b.phase.Load()
	if ph.plain {
		return 0
	}
	now := b.clock.Now()
	if s, until := ph.effective(now); s == Open {
		return remaining(until, now)
	}
	return 0
}

// remaining returns the time from now until then, never negative.
func remaining(until, now int64) time.Duration {
	if until == forever {
		return time.Duration(forever)
	}
	return time.Duration(max(0, until-now))
}

// OpenError is the refusal of a breaker. It Is [ErrOpen] and [mettle.ErrRejected].
// One value serves all refusals of one opening, so it must not be changed.
type OpenError struct {
	Name string // of the breaker

	kind  refusalKind
	why   string
	clock clock.Clock
	until int64 // forever: not known
}

// refusalKind is what kept a call out, as the metrics tell it.
type refusalKind uint8

const (
	refusedOpen refusalKind = iota
	refusedProbing
	refusedRamping
	refusedForced
	refusalKinds
)

var refusalNames = [refusalKinds]string{"open", "half-open", "ramp", "forced"}

// Error tells which breaker refused, and why.
func (e *OpenError) Error() string {
	name := ""
	if e.Name != "" {
		name = fmt.Sprintf("%q ", e.Name)
	}
	return "breaker: " + name + e.why
}

// Is reports whether target is [ErrOpen] or [mettle.ErrRejected].
func (e *OpenError) Is(target error) bool {
	return target == ErrOpen || target == mettle.ErrRejected
}

// LogValue returns the name, where there is one, why the call was refused, and after how
// long another may be admitted, where that is known.
func (e *OpenError) LogValue() slog.Value {
	attrs := make([]slog.Attr, 0, 3)
	if e.Name != "" {
		attrs = append(attrs, slog.String("policy", e.Name))
	}
	attrs = append(attrs, slog.String("why", e.why))
	if d := e.RetryAfter(); d >= 0 {
		attrs = append(attrs, slog.Duration("retry_after", d))
	}
	return slog.GroupValue(attrs...)
}

// RetryAfter returns how long, from now, the breaker will refuse every call. It is
// negative, which is no suggestion, when nobody knows: under an override without
// an end.
func (e *OpenError) RetryAfter() time.Duration {
	if e.until == forever || e.clock == (clock.Clock{}) {
		return -1
	}
	return remaining(e.until, e.clock.Now())
}
