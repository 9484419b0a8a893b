package retry

import (
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
)

// Stats is what a [Retrier] has counted since [New]. The counts are read one after
// the other while calls go on, so that they may differ by those calls.
type Stats struct {
	// Attempts is how many attempts have ended, and Retries how many of them were
	// not the first of their call.
	Attempts, Retries uint64
	// ByAttempt is how many of the Attempts were the first of their call, the second, and
	// a later one. Beside Successes it tells what a resend is worth.
	ByAttempt [3]uint64
	// Successes is how many calls succeeded at the first attempt, at the second,
	// and at a later one.
	Successes [3]uint64
	// Exhausted, Deadline, Elapsed, Budget and RetryAfter are how many calls ended
	// with the Err of that name; Context, how many because the context was done;
	// NotRetryable, how many with an error that is not retried.
	Exhausted, Deadline, Elapsed, Budget, RetryAfter, Context, NotRetryable uint64
	// PassedThrough is how many calls were inside another policy's attempt and so
	// were not retried here. They are in none of the other counts.
	PassedThrough uint64
	// Amplification is how many attempts there were for each call in the last 10 s, 1
	// without resends. It is estimated where nothing failed for longer than a second: no
	// call that succeeds at once pays for it.
	Amplification float64
	// Usual is how long an attempt that succeeds usually takes, the median of the last minute,
	// which is to be left before the deadline when an attempt begins that is not the first. It
	// is 0 while that is not known.
	Usual time.Duration
}

// Stats returns the counts so far. It changes nothing.
func (r *Retrier) Stats() Stats {
	c := &r.counters
	// Successes first, so that no attempt of those that are read succeeded more often
	// than it was made.
	successes := [3]uint64{c.first.Load(), c.second.Load(), c.later.Load()}
	by := [3]uint64{successes[0] + c.ended[0].Load(), c.ended[1].Load(), c.ended[2].Load()}
	return Stats{
		Attempts:      by[0] + by[1] + by[2],
		Retries:       by[1] + by[2],
		ByAttempt:     by,
		Successes:     successes,
		Amplification: r.recent.amplification(r.clock.Now(), by[0], by[1]+by[2]),
		Exhausted:     c.stops[stopExhausted].Load(),
		Deadline:      c.stops[stopDeadline].Load(),
		Elapsed:       c.stops[stopElapsed].Load(),
		Budget:        c.stops[stopBudget].Load(),
		RetryAfter:    c.stops[stopRetryAfter].Load(),
		Context:       c.stops[stopContext].Load(),
		NotRetryable:  c.stops[stopNotRetryable].Load(),
		PassedThrough: c.passed.Load(),
		Usual:         r.usual.peek(r.clock.Now()),
	}
}

// Observe yields these metrics, with the label policy, which is the Name:
//
//	mettle.retry.attempts        counter  {attempt}  that have ended, by attempt: 1, 2, 3+
//	mettle.retry.successes       counter  {call}     by the attempt that succeeded: 1, 2, 3+
//	mettle.retry.passed_through  counter  {call}     left to the retry around this one
//	mettle.retry.amplification   gauge    1          attempts for each call, in the last 10 s
//	mettle.retry.stops           counter  {call}     that failed, by reason: exhausted, deadline,
//	                                                 elapsed, budget, retry_after, context,
//	                                                 not_retryable
//
// and those of [Budget.Observe], with the Name of the Retrier, unless the budget was
// passed in by [Config.Budget]: a shared budget is observed once, on its own.
func (r *Retrier) Observe(yield func(mettle.Metric) bool) {
	s := r.Stats()
	counter := func(name, unit, help string, labels []mettle.Label, value uint64) bool {
		return yield(mettle.Metric{
			Kind: mettle.Counter, Name: name, Unit: unit, Help: help, Labels: labels, Value: float64(value),
		})
	}
	for i, n := range s.ByAttempt {
		if !counter("mettle.retry.attempts", "{attempt}", "Attempts that have ended, by their number in the call.", r.labels.attempts[i], n) {
			return
		}
	}
	for i, n := range s.Successes {
		if !counter("mettle.retry.successes", "{call}", "Calls that succeeded, by the number of the attempt that did.", r.labels.attempts[i], n) {
			return
		}
	}
	if !counter("mettle.retry.passed_through", "{call}", "Calls left to the retry around this one.", r.labels.policy, s.PassedThrough) ||
		!yield(mettle.Metric{
			Kind: mettle.Gauge, Name: "mettle.retry.amplification", Unit: "1",
			Help: "Attempts for each call, over the last 10 s.", Labels: r.labels.policy, Value: s.Amplification,
		}) {
		return
	}
	stops := [stopKinds]uint64{
		stopExhausted: s.Exhausted, stopDeadline: s.Deadline, stopElapsed: s.Elapsed, stopBudget: s.Budget,
		stopRetryAfter: s.RetryAfter, stopContext: s.Context, stopNotRetryable: s.NotRetryable,
	}
	for kind, n := range stops {
		if !counter("mettle.retry.stops", "{call}", "Calls that failed, by why there was no further attempt.", r.labels.stops[kind], n) {
			return
		}
	}
	if r.ownBudget {
		r.budget.observe(r.labels.policy, yield)
	}
}

// stopKind is why a call that did not succeed made no further attempt.
type stopKind uint8

const (
	stopExhausted stopKind = iota
	stopDeadline
	stopElapsed
	stopBudget
	stopRetryAfter
	stopContext
	stopNotRetryable
	stopKinds
)

var stopNames = [stopKinds]string{
	"exhausted", "deadline", "elapsed", "budget", "retry_after", "context", "not_retryable",
}

type counters struct {
	first  atomic.Uint64    // successes of a first attempt: all that a healthy call writes
	ended  [3]atomic.Uint64 // attempts that ended, by number, but for those in first
	second atomic.Uint64    // successes of a second attempt
	later  atomic.Uint64
	passed atomic.Uint64
	stops  [stopKinds]atomic.Uint64
}

// count counts attempt n, which ended with err.
func (r *Retrier) count(n int, err error) {
	c := &r.counters
	if n == 1 && err == nil {
		c.first.Add(1)
		return
	}
	if now := r.clock.Now(); r.recent.due(now) {
		// Before the attempt is counted, so that it is within the second that begins.
		resends := c.ended[1].Load() + c.ended[2].Load()
		r.recent.note(counted{now, c.first.Load() + c.ended[0].Load(), resends})
	}
	c.ended[min(n, 3)-1].Add(1)
	switch {
	case err != nil:
	case n == 2:
		c.second.Add(1)
	default:
		c.later.Add(1)
	}
}

// labels are made once, so that Observe makes none.
type labels struct {
	policy   []mettle.Label
	attempts [3][]mettle.Label
	stops    [stopKinds][]mettle.Label
}

func newLabels(name string) labels {
	policy := mettle.Label{Key: "policy", Value: name}
	l := labels{policy: []mettle.Label{policy}}
	for i, attempt := range [...]string{"1", "2", "3+"} {
		l.attempts[i] = []mettle.Label{policy, {Key: "attempt", Value: attempt}}
	}
	for kind, reason := range stopNames {
		l.stops[kind] = []mettle.Label{policy, {Key: "reason", Value: reason}}
	}
	return l
}

// LogValue returns the configuration, under the names of the fields of [Config] and with
// the defaults filled in.
func (r *Retrier) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("Name", r.name), slog.Int("MaxAttempts", r.maxAttempts)}
	if r.maxElapsed > 0 {
		attrs = append(attrs, slog.Duration("MaxElapsed", r.maxElapsed))
	}
	attrs = append(attrs, slog.Duration("MaxRetryAfter", r.maxRetryAfter))
	if r.nested {
		attrs = append(attrs, slog.Bool("Nested", true))
	}
	return slog.GroupValue(append(attrs, slog.Attr{Key: "Budget", Value: r.budget.LogValue()})...)
}
