package tests

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
)

// reference is the breaker that one would write first: one mutex, and slices of
// everything that ever happened. It is written from the documentation, and compared
// with the real one by what both show.
//
// Three things it cannot know: how long an opening is drawn to last, who is admitted
// while the breaker warms up, and where in the sixteenth of a window its oldest calls
// drop out. There it knows the bounds, and within them believes what it sees.
type reference struct {
	mu    sync.Mutex
	c     breaker.Config // with the defaults filled in
	begun time.Time

	state  breaker.State // beneath an override
	since  time.Duration
	until  span // open: when a probe is due
	warm   time.Duration
	down   time.Duration // not closed, before since; 0: never, or healthy by then
	reopen time.Duration // half-open: the nominal delay if a lease runs out
	gen    int

	ended  []ended
	failed int // in a row
	leases []*ticket
	good   int

	override *forced
	changes  []change
	hanging  []*ticket // admitted while closed, and not reported yet

	// A lease that runs out shows at once, and is counted when somebody takes notice: 1
	// from the one to the other.
	unnoticed int
	totals    totals
}

// totals are those of Stats.
type totals struct{ succeeded, failures, overloads, timeouts, ignored, rejected, stale uint64 }

func (t *totals) count(o mettle.Outcome) {
	switch o {
	case mettle.Success:
		t.succeeded++
	case mettle.Failure:
		t.failures++
	case mettle.Overload:
		t.overloads++
	case mettle.Timeout:
		t.timeouts++
	default:
		t.ignored++
	}
}

// span holds the bounds of a moment: not before from, not after to.
type span struct{ from, to time.Duration }

type ended struct {
	at        time.Duration
	bad, slow bool
}

// ticket is what the reference knows of a permit.
type ticket struct {
	gen   int
	begun time.Duration
	ends  time.Duration // of a probe's lease; 0: it is no probe
	free  bool          // admitted by an override alone
	done  bool
}

type forced struct {
	state breaker.State
	until time.Duration // forever: until Release
	by    string
}

// errCrash stands for the error of a call that panicked, whose text is not promised.
var errCrash = errors.New("crash")

const forever = time.Duration(1<<63 - 1)

// change is one that must be told, for any one of the rules.
type change struct {
	from, to breaker.State
	rules    []breaker.Rule
	delay    span // of an opening beneath no override
	evidence evidence
}

// evidence is what a change is to be explained with.
type evidence struct {
	windows []counts // of a rule on a rate: what the window may have held
	hung    int      // the most of the slow calls that may be in flight
	row     int      // of RuleConsecutive
	good    int      // of RuleProbeSucceeded
	err     error
	by      string
	reason  string // of Trip
}

func newReference(c breaker.Config) *reference {
	return &reference{c: c, begun: time.Now()}
}

func (r *reference) now() time.Duration { return time.Since(r.begun) }

// shown returns the state that calls meet.
func (r *reference) shown() breaker.State {
	if r.override != nil {
		return r.override.state
	}
	return r.state
}

// show notes that what calls meet has changed, if it has.
func (r *reference) show(from breaker.State, delay span, why evidence, rules ...breaker.Rule) {
	if to := r.shown(); from != to {
		if r.override != nil || to != breaker.Open {
			delay = span{}
		}
		r.changes = append(r.changes, change{from, to, rules, delay, why})
	}
}

// advance does what time alone brings about, up to now: a lease that runs out opens
// the breaker, an override ends. The earlier comes first, and the lease in a tie.
func (r *reference) advance() {
	for now := r.now(); ; {
		lease, end := forever, forever
		if r.state == breaker.HalfOpen {
			for _, t := range r.leases {
				lease = min(lease, t.ends)
			}
		}
		if r.override != nil {
			end = r.override.until
		}
		switch {
		case lease <= now && lease <= end:
			// The delay was drawn when probing began, or is drawn now.
			next := r.nominal(lease)
			r.totals.timeouts++
			r.open(lease, min(r.reopen, next), max(r.reopen, next), evidence{}, breaker.RuleProbeTimeout)
			r.unnoticed = 1
		case end <= now:
			r.release()
		default:
			return
		}
	}
}

// trouble returns the time, up to the given moment, that was not spent closed since the
// breaker last was for a whole window.
func (r *reference) trouble(at time.Duration) time.Duration {
	switch {
	case r.state != breaker.Closed:
		return r.down + at - r.since
	case at-r.since >= r.c.Window:
		return 0
	default:
		return r.down
	}
}

func (r *reference) nominal(at time.Duration) time.Duration {
	return min(max(r.trouble(at)/5, r.c.OpenFor), r.c.MaxOpenFor)
}

// enter begins a generation, in which nothing is known yet.
func (r *reference) enter(s breaker.State, at time.Duration) {
	r.down = r.trouble(at)
	r.state, r.since, r.warm = s, at, at
	r.gen++
	r.ended, r.failed, r.leases, r.good, r.hanging = nil, 0, nil, 0, nil
}

// look is advance where the real breaker takes notice as well.
func (r *reference) look() {
	r.advance()
	r.unnoticed = 0
}

// open opens at the given moment, with a nominal delay of at least and at most so much.
func (r *reference) open(at, least, most time.Duration, why evidence, rules ...breaker.Rule) {
	from := r.shown()
	r.enter(breaker.Open, at)
	most += most / 5 // the jitter
	r.until = span{at + least, at + most}
	r.show(from, span{least, most}, why, rules...)
}

// openNow opens for a result with the given hint, 0 for none.
func (r *reference) openNow(hint time.Duration, why evidence, rules ...breaker.Rule) {
	now := r.now()
	d := r.nominal(now)
	if hint > 0 {
		d = min(max(hint, min(100*time.Millisecond, r.c.OpenFor)), max(time.Minute, r.c.MaxOpenFor))
	}
	r.open(now, d, d, why, rules...)
}

func (r *reference) close(why evidence, rule breaker.Rule) {
	from := r.shown()
	r.enter(breaker.Closed, r.now())
	r.show(from, span{}, why, rule)
}

func (r *reference) release() {
	from, by := r.shown(), r.override.by
	r.override = nil
	r.show(from, span{}, evidence{by: by}, breaker.RuleReleased)
}

// seen is what the real breaker answered, or shows after it did something.
type seen struct {
	admitted bool
	machine  breaker.State
}

// acquire checks an answer of the real breaker to a call, and returns the ticket of
// one that was admitted.
func (r *reference) acquire(real seen) (*ticket, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.advance()
	if real.admitted {
		r.unnoticed = 0 // a refusal may need no more than a look at the override
	}
	now := r.now()
	if r.state == breaker.Closed && real.machine != breaker.Closed {
		// Before a call is let through, those in flight may be found to be slow.
		hung, reason := r.hung(now)
		if !reason {
			return nil, fmt.Errorf("opened by a call that begins, with %d calls that hang", hung)
		}
		r.openNow(0, evidence{windows: r.windows(now), hung: hung}, breaker.RuleSlowRate)
	}
	forcedOpen := r.override != nil && r.override.state == breaker.Open
	if r.state == breaker.Open && now >= r.until.from && !forcedOpen {
		if now >= r.until.to || real.machine == breaker.HalfOpen {
			from := r.shown()
			r.reopen = r.nominal(now)
			r.enter(breaker.HalfOpen, now)
			r.show(from, span{}, evidence{}, breaker.RuleProbeDue)
		}
	}
	t := &ticket{gen: r.gen, begun: now}
	must, may := false, false
	switch {
	case forcedOpen:
	case r.state == breaker.Closed:
		may, must = true, r.override != nil || now >= r.warm
	case r.state == breaker.HalfOpen && len(r.leases) < r.c.Probes:
		may, must = true, true
		t.ends = now + r.c.ProbeTimeout
	case r.override != nil:
		may, must = true, true
		t.free = true
	}
	switch {
	case must && !real.admitted:
		return nil, fmt.Errorf("refused, and must be admitted: %v", r.state)
	case !may && real.admitted:
		return nil, fmt.Errorf("admitted, and must be refused: %v", r.state)
	case !real.admitted:
		r.totals.rejected++
		return nil, nil
	case t.ends > 0:
		r.leases = append(r.leases, t)
	case !t.free:
		r.hanging = append(r.hanging, t)
	}
	return t, nil
}

// hung returns how many calls in flight are slow by now and not so old that they count
// as lost, and whether they give reason to open: one alone does not.
func (r *reference) hung(now time.Duration) (n int, reason bool) {
	for _, t := range r.hanging {
		if age := now - t.begun; !t.done && age >= r.c.SlowCall && age < r.c.ProbeTimeout {
			n++
		}
	}
	if r.c.SlowCall <= 0 || n < 2 {
		return n, false
	}
	return n, slices.ContainsFunc(r.windows(now), func(w counts) bool {
		// How many of them are counted depends on how exactly ages are known.
		for k := 2; k <= n; k++ {
			if w.total+k >= r.c.MinCalls && reached(w.slow+k, w.total+k, r.c.SlowRate) {
				return true
			}
		}
		return false
	})
}

// done reports how a call ended: its error, what that means and for what delay it
// asks. The error returned says how the real breaker differs, if it does.
func (r *reference) done(t *ticket, e result, real seen) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.done {
		return nil
	}
	t.done = true
	r.advance()
	if t.ends > 0 && t.gen == r.gen-r.unnoticed {
		r.unnoticed = 0 // a probe that seems to be in time makes the real one look at the time
	}
	switch {
	case t.gen != r.gen-r.unnoticed:
		r.totals.stale++
		return nil
	case t.free:
		r.totals.count(e.outcome)
		return nil
	case e.outcome != mettle.Success || t.ends > 0 || r.c.FailureRate > 0 || r.c.SlowCall > 0:
		r.totals.count(e.outcome) // other successes are not counted
	}
	slow := r.c.SlowCall > 0 && r.now()-t.begun >= r.c.SlowCall
	if t.ends > 0 {
		r.probed(t, e, slow)
		return nil
	}
	r.hanging = slices.DeleteFunc(r.hanging, func(h *ticket) bool { return h == t })
	if e.outcome == mettle.Ignored {
		return nil
	}
	return r.counted(e, slow, real)
}

// probed notes how a probe ended.
func (r *reference) probed(t *ticket, e result, slow bool) {
	r.leases = slices.DeleteFunc(r.leases, func(l *ticket) bool { return l == t })
	switch {
	case e.outcome == mettle.Ignored:
	case e.outcome.Failed() || slow:
		r.openNow(e.hint, evidence{err: e.err}, breaker.RuleProbeFailed)
	default:
		if r.good++; r.good >= r.c.Successes {
			r.close(evidence{good: r.good}, breaker.RuleProbeSucceeded)
			r.warm = r.now() + r.c.Ramp
		}
	}
}

// counted notes how a call ended that was admitted while closed.
func (r *reference) counted(e result, slow bool, real seen) error {
	now, failed := r.now(), e.outcome.Failed()
	r.ended = append(r.ended, ended{now, failed, slow})
	if r.failed++; !failed {
		r.failed = 0
	}
	must, may, rules := r.judge(now, e.outcome, slow)
	if must && real.machine != breaker.Open || !may && real.machine == breaker.Open {
		return fmt.Errorf("is %v, which %v may bring about, certain: %v", real.machine, rules, must)
	}
	if real.machine == breaker.Open {
		r.openNow(e.hint, evidence{windows: r.windows(now), row: r.failed, err: e.err}, rules...)
	}
	return nil
}

type counts struct{ total, bad, slow int }

// windows returns what the window may hold: the calls of its youngest 15 sixteenths,
// and of the last sixteenth any number, the younger first.
func (r *reference) windows(now time.Duration) []counts {
	var n counts
	var all []counts
	sure := true
	for _, e := range slices.Backward(r.ended) {
		age := now - e.at
		if age >= r.c.Window {
			break
		}
		if sure && age > r.c.Window/16*15 {
			sure = false
			all = append(all, n)
		}
		n.total++
		if e.bad {
			n.bad++
		}
		if e.slow {
			n.slow++
		}
		if !sure {
			all = append(all, n)
		}
	}
	if sure {
		all = append(all, n)
	}
	return all
}

// reached compares in thousandths, in which the rates of the test are whole.
func reached(bad, total int, rate float64) bool { return bad*1000 >= int(rate*1000+0.5)*total }

// judge says whether the call that was counted last must open the breaker, whether it
// may, and by which rules.
func (r *reference) judge(now time.Duration, o mettle.Outcome, slow bool) (must, may bool, rules []breaker.Rule) {
	failed := o.Failed()
	if r.c.Consecutive > 0 && r.failed >= r.c.Consecutive {
		must, may, rules = true, true, append(rules, breaker.RuleConsecutive)
	}
	windows := r.windows(now)
	rate := func(rule breaker.Rule, on, bad bool, holds func(counts) bool) {
		n := 0
		for _, w := range windows {
			if on && w.total >= r.c.MinCalls && holds(w) && (bad || w.total == r.c.MinCalls) {
				n++
			}
		}
		must = must || n == len(windows)
		if n > 0 {
			may, rules = true, append(rules, rule)
		}
	}
	if late := o == mettle.Timeout || o == mettle.Overload; late && r.c.Ramp >= 0 && r.c.FailureRate > 0 && r.trouble(now) > 0 {
		onTrial := func(w counts) bool { return w.total <= 10 }
		if slices.ContainsFunc(windows, onTrial) {
			may, rules = true, append(rules, breaker.RuleRelapse)
		}
		must = must || !slices.ContainsFunc(windows, func(w counts) bool { return !onTrial(w) })
	}
	rate(breaker.RuleFailureRate, r.c.FailureRate > 0, failed, func(w counts) bool { return reached(w.bad, w.total, r.c.FailureRate) })
	rate(breaker.RuleSlowRate, r.c.SlowCall > 0, slow, func(w counts) bool { return reached(w.slow, w.total, r.c.SlowRate) })
	return must, may, rules
}

func (r *reference) force(s breaker.State, o breaker.Override) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look()
	from := r.shown()
	r.override = &forced{s, forever, o.By}
	if o.For > 0 {
		r.override.until = r.now() + o.For
	}
	r.show(from, span{}, evidence{by: o.By}, breaker.RuleForced)
}

func (r *reference) Release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look()
	if r.override != nil {
		r.release()
	}
}

func (r *reference) Trip(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look()
	if r.state != breaker.Open {
		r.openNow(0, evidence{reason: reason}, breaker.RuleTrip)
	}
}

func (r *reference) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look()
	r.close(evidence{}, breaker.RuleReset)
	r.down = 0
}

func (r *reference) Reconfigure(c breaker.Config) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look()
	r.c = c
}

// compare says how what the real breaker shows differs, and learns from it when the
// present opening ends.
func (r *reference) compare(b subject) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.advance()
	now := r.now()
	s := b.Stats()
	if s.State != r.shown() || s.Machine != r.state || b.State() != s.State || s.Overridden != (r.override != nil) {
		return fmt.Errorf("is %v over %v, overridden: %v; want %v over %v", s.State, s.Machine, s.Overridden, r.shown(), r.state)
	}
	if d := b.RemainingDelay(); d != s.RemainingDelay {
		return fmt.Errorf("RemainingDelay is %v, in Stats %v", d, s.RemainingDelay)
	}
	if err := r.compareDelay(now, s.RemainingDelay); err != nil {
		return err
	}
	want := r.totals
	if s.Timeouts == want.timeouts {
		r.unnoticed = 0
	}
	want.timeouts -= uint64(r.unnoticed)
	if got := (totals{s.Succeeded, s.Failures, s.Overloads, s.Timeouts, s.Ignored, s.Rejected, s.Stale}); got != want {
		return fmt.Errorf("counted %+v, want %+v", got, want)
	}
	if got, want := s.Generation, uint64(r.gen-r.unnoticed); got != want {
		return fmt.Errorf("is in generation %d, want %d", got, want)
	}
	if r.state == breaker.HalfOpen && s.Probes != len(r.leases) {
		return fmt.Errorf("%d probes in flight, want %d", s.Probes, len(r.leases))
	}
	if r.state != breaker.Closed {
		return nil
	}
	if r.c.Consecutive > 0 && s.Consecutive != r.failed {
		return fmt.Errorf("%d failures in a row, want %d", s.Consecutive, r.failed)
	}
	if r.c.FailureRate <= 0 && r.c.SlowCall <= 0 {
		return nil
	}
	slow := r.c.SlowCall > 0
	if !slices.ContainsFunc(r.windows(now), func(w counts) bool {
		return s.Calls == w.total && s.Failed == w.bad && (!slow || s.Slow == w.slow)
	}) {
		return fmt.Errorf("of %d calls %d failed and %d were slow, want one of %v", s.Calls, s.Failed, s.Slow, r.windows(now))
	}
	return nil
}

func (r *reference) compareDelay(now, left time.Duration) error {
	if r.shown() != breaker.Open {
		if left != 0 {
			return fmt.Errorf("%v, with a delay of %v", r.shown(), left)
		}
		return nil
	}
	want := span{}
	if r.state == breaker.Open {
		want = r.until
	}
	switch o := r.override; {
	case o != nil && o.until == forever:
		if left != forever {
			return fmt.Errorf("delay of %v under an override without end", left)
		}
		return nil
	case o != nil:
		want = span{max(want.from, o.until), max(want.to, o.until)}
	case left > 0:
		r.until = span{now + left, now + left}
	}
	if left < max(0, want.from-now) || left > max(0, want.to-now) {
		return fmt.Errorf("delay of %v, want %v to %v", left, want.from-now, want.to-now)
	}
	return nil
}

// compareTold says how the changes that were told differ from those that must be: all
// of them, or all but the last few, which nobody has come to see yet.
func (r *reference) compareTold(told []breaker.Change, all bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(told) > len(r.changes) || all && len(told) < len(r.changes) {
		return fmt.Errorf("told %d changes, want %d: %v", len(told), len(r.changes), r.changes)
	}
	for i, c := range told {
		want := r.changes[i]
		if c.From != want.from || c.To != want.to || !slices.Contains(want.rules, c.Rule) {
			return fmt.Errorf("change %d is %v, want %v", i, c, want)
		}
		if want.delay.to > 0 && (c.Delay < want.delay.from || c.Delay > want.delay.to) {
			return fmt.Errorf("change %d is %v, want a delay of %v", i, c, want.delay)
		}
		if !want.evidence.explains(c, r.c.Window) {
			return fmt.Errorf("change %d is %+v, want it explained with %+v", i, c, want.evidence)
		}
	}
	return nil
}

// explains reports whether c carries the evidence, and nothing else.
func (e evidence) explains(c breaker.Change, window time.Duration) bool {
	want := breaker.Change{Name: c.Name, From: c.From, To: c.To, Rule: c.Rule, Delay: c.Delay, Reason: c.Reason, At: c.At, By: e.by, Err: e.err}
	if e.err == errCrash && c.Err != nil {
		want.Err = c.Err
	}
	switch c.Rule {
	case breaker.RuleTrip:
		want.Reason = e.reason
	case breaker.RuleConsecutive:
		want.Bad = e.row
	case breaker.RuleProbeSucceeded:
		want.Calls = e.good
	case breaker.RuleFailureRate, breaker.RuleSlowRate:
		if c.Hung < 0 || c.Hung == 1 || c.Hung > e.hung {
			return false
		}
		want.Calls, want.Bad, want.Hung, want.Window = c.Calls, c.Bad, c.Hung, window
		if !slices.ContainsFunc(e.windows, func(w counts) bool {
			bad := w.bad
			if c.Rule == breaker.RuleSlowRate {
				bad = w.slow
			}
			return c.Calls == w.total+c.Hung && c.Bad == bad+c.Hung
		}) {
			return false
		}
	}
	return c == want
}
