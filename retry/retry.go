// Package retry runs an operation again when it failed in a way that may pass.
//
//	r := retry.New(retry.Config{Name: "payments"})
//	err := r.Do(ctx, func(ctx context.Context) error { return charge(ctx, order) })
//
// Retries help with failures that are rare and independent, and make things worse
// when they are neither. So the zero [Config] spreads its waits with full jitter,
// keeps to a [Budget] that runs out when the dependency is down, never begins a wait
// that the deadline would cut short, and resends in one layer only when retries are
// nested.
//
// # What is retried
//
// After each attempt the first of these that applies decides:
//
//  1. nil comes back as nil, even when the context has ended meanwhile.
//  2. An error marked [mettle.Permanent] comes back unchanged.
//  3. So does one that is no failure of the dependency by [mettle.Classify]: an
//     answer about the request itself, the caller's own cancellation, a refusal
//     by an inner policy. RetryIf takes the place of this test.
//  4. When the caller's context is done, there is no further attempt.
//  5. MaxAttempts, MaxRetryAfter, the deadline of the context, MaxElapsed and the
//     budget, in this order, may each end the call.
//
// Where 4 or 5 ends it, the result is an [*Error] that Is both the last failure and
// the reason to stop. The same holds when a refusal or the end of the context
// follows a failed attempt; without one, it comes back unchanged.
//
// # Waits
//
// The wait is what the Backoff says, or longer when the failure suggests it with a
// method RetryAfter() time.Duration (see [mettle.RetryAfter]). A suggestion is a
// floor, and up to a tenth of it is added at random, because those who were told
// the same time would all come at once. A failure that has a method RetryExactly() bool
// as well, which returns true, sets the wait: that long and neither shorter nor longer,
// whatever the Backoff says. So it is with the pushback of a gRPC server (gRFC A6).
//
// # Deadlines
//
// No wait is begun that would end at the deadline of the context or later. Nor is one that
// would leave less time than an attempt usually takes: what is more likely than not to be
// given up is work for nothing, here and wherever it is passed on to. What is usual is the
// median of the attempts of the last minute that succeeded, of up to a hundred in a second,
// and at most a sixteenth too long; until there are twenty, nothing is taken for usual. So a
// Retrier should be for calls that take about as long: where most of them take a second,
// the few that take a millisecond are not resent within the last second. The first attempt
// of a call is always made.
package retry

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/internal/clock"
	"github.com/mettle-go/mettle/internal/mark"
	"github.com/mettle-go/mettle/internal/relay"
)

// Config says when a [Retrier] resends. The zero Config is valid and recommended.
type Config struct {
	// Name is the label of the metrics and of the trace events. Zero: no name.
	Name string

	// MaxAttempts is how many attempts a call makes at most, the first included,
	// so 1 never resends. Zero: 3.
	MaxAttempts int

	// Backoff tells how long to wait between attempts.
	// Nil: FullJitter(100ms, 5s), drawn from Rand.
	Backoff Backoff

	// MaxElapsed bounds the start of the last attempt, counted from the start of
	// the call: a wait that would end then or later is not begun. It cuts no
	// attempt short; that is for a timeout to do. Zero: no bound.
	MaxElapsed time.Duration

	// MaxRetryAfter is the longest wait that a failure may suggest. When one asks
	// for more, the call ends with [ErrRetryAfter], because coming back sooner
	// than asked is worse than not at all. The jitter on top is not counted.
	// Zero: 30 s.
	MaxRetryAfter time.Duration

	// Budget bounds the resends of all calls together; share one between all that
	// call the same dependency. Nil: a budget of its own, of the zero BudgetConfig but for
	// a Start that is enough for the MaxAttempts of one call, as far as Burst allows and
	// unless they time out, which costs double.
	// NoBudget: resends are not bounded.
	Budget *Budget

	// RetryIf reports whether to retry after err, which is not nil. It takes the
	// place of the test of the outcome only: what is Permanent is not retried, and
	// nothing is once the context is done. To wait until a breaker lets calls
	// through again, return true for its refusals too, as in
	//
	//	errors.Is(err, breaker.ErrOpen) || mettle.Classify(context.Background(), err).Failed()
	//
	// It is called from many goroutines at once. When it panics, the panic goes
	// through Do. Nil: retry when mettle.Classify gives Failure, Overload or Timeout.
	RetryIf func(err error) bool

	// OnRetry is called before each wait, on the goroutine of the call and with no
	// lock held. Do waits for it, and lets its panic through. Nil: not called.
	OnRetry func(Event)

	// Nested makes a Retrier resend even where another one, or a hedge, around it
	// does so already. Attempts then multiply. False: inside another's attempt
	// (mettle.Attempt of the context is not 0) the operation runs once, its result
	// is passed through, and nothing of the budget is touched.
	Nested bool

	// Rand is the source of the jitter that is added to a suggested wait, and of
	// the jitter of the default Backoff. It is called from as many goroutines as
	// Do is, which most sources are not safe for. Nil: the generator behind the
	// functions of math/rand/v2, which is.
	Rand rand.Source
}

const (
	defaultMaxAttempts   = 3
	defaultBase          = 100 * time.Millisecond
	defaultMax           = 5 * time.Second
	defaultMaxRetryAfter = 30 * time.Second
)

// Validate reports every mistake in c, joined, or nil.
func (c Config) Validate() error {
	var mistakes []error
	refuse := func(format string, args ...any) {
		mistakes = append(mistakes, fmt.Errorf("retry: "+format, args...))
	}
	if c.MaxAttempts < 0 {
		refuse("MaxAttempts is %d, must be at least 1, or 0 for %d", c.MaxAttempts, defaultMaxAttempts)
	}
	if c.MaxElapsed < 0 {
		refuse("MaxElapsed is %v, must be positive, or 0 for no bound", c.MaxElapsed)
	}
	if c.MaxRetryAfter < 0 {
		refuse("MaxRetryAfter is %v, must be positive, or 0 for %v", c.MaxRetryAfter, defaultMaxRetryAfter)
	}
	if c.Budget != nil && !c.Budget.unlimited && c.Budget.limit == 0 {
		refuse("Budget is the zero Budget, which allows nothing, must be made by NewBudget, or nil for one of its own")
	}
	return errors.Join(mistakes...)
}

// Event tells [Config.OnRetry] about a resend to come.
type Event struct {
	// Context is that of the attempt that failed: mettle.Attempt of it is Attempt.
	Context context.Context
	// Policy is the Name in the Config.
	Policy string
	// Attempt is the number of the attempt that failed, 1 for the first.
	Attempt int
	// Delay is how long the wait before the next one will be.
	Delay time.Duration
	// Elapsed is the time since the start of the call.
	Elapsed time.Duration
	// Err is the failure.
	Err error
}

// Retrier is the policy that resends. It is made by [New], is immutable, and may be
// used from many goroutines at once. It holds no goroutine, and a timer only while a
// call waits.
type Retrier struct {
	name          string
	maxAttempts   int
	backoff       Backoff
	maxElapsed    time.Duration
	maxRetryAfter time.Duration
	budget        *Budget
	ownBudget     bool
	retryIf       func(error) bool
	onRetry       func(Event)
	nested        bool
	below         func(n uint64) uint64 // draws from [0, n)
	clock         clock.Clock
	labels        labels

	_        [64]byte // counters are written by every call, the fields above only read
	counters counters
	recent   recent
	usual    usual
}

var (
	_ mettle.Wrapper    = (*Retrier)(nil)
	_ mettle.Observable = (*Retrier)(nil)
	_ mettle.Observable = (*Budget)(nil)
)

// New returns a Retrier. It panics with the message of [Config.Validate] when c is not
// valid.
func New(c Config) *Retrier {
	if err := c.Validate(); err != nil {
		panic(err.Error())
	}
	r := &Retrier{
		name:          c.Name,
		maxAttempts:   c.MaxAttempts,
		backoff:       c.Backoff,
		maxElapsed:    c.MaxElapsed,
		maxRetryAfter: c.MaxRetryAfter,
		budget:        c.Budget,
		retryIf:       c.RetryIf,
		onRetry:       c.OnRetry,
		nested:        c.Nested,
		below:         uint64N(c.Rand),
		clock:         clock.New(),
		labels:        newLabels(c.Name),
	}
	r.recent.begin(r.clock.Now())
	r.usual.begin(r.clock.Now())
	if r.maxAttempts == 0 {
		r.maxAttempts = defaultMaxAttempts
	}
	if r.backoff == nil {
		r.backoff = Jitter{Rand: c.Rand}.Full(defaultBase, defaultMax)
	}
	if r.maxRetryAfter == 0 {
		r.maxRetryAfter = defaultMaxRetryAfter
	}
	if r.budget == nil {
		r.budget, r.ownBudget = NewBudget(BudgetConfig{Name: c.Name, Start: min(max(r.maxAttempts-1, 1), defaultBurst)}), true
	}
	return r
}

// Do runs op until it succeeds, fails for good, or may not be run again, one attempt
// after the other. The context of each attempt descends from ctx and carries its
// number ([mettle.Attempt]). The package documentation says what is retried and
// which error comes back.
//
// When ctx is done on entry, op does not run and Do returns [context.Cause] of ctx.
// When ctx ends during a wait, Do returns at once.
func (r *Retrier) Do(ctx context.Context, op func(context.Context) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// Written out here and in bound.Do: handed to an interface, op would escape to
	// the heap, and every caller would pay for its closure.
	c := call{r: r, ctx: ctx, now: clock.Unknown}
	for attempt := c.begin(); ; {
		err := c.direct(attempt, op)
		if attempt, err = c.settle(attempt, err); attempt == nil {
			return err
		}
	}
}

// Wrap returns the Retrier bound to next. See [mettle.Wrapper].
func (r *Retrier) Wrap(next mettle.Policy) mettle.Policy { return &bound{r, relay.To(next)} }

type bound struct {
	r    *Retrier
	next relay.Policy
}

func (b *bound) Do(ctx context.Context, op func(context.Context) error) error {
	_, err := b.DoAt(ctx, op, clock.Unknown)
	return err
}

// DoAt implements [relay.Policy].
func (b *bound) DoAt(ctx context.Context, op func(context.Context) error, now clock.Instant) (clock.Instant, error) {
	c := call{r: b.r, ctx: ctx, now: now}
	for attempt := c.begin(); ; {
		err := c.through(attempt, b.next, op)
		if attempt, err = c.settle(attempt, err); attempt == nil {
			return c.now, err
		}
		op = c.watch(op)
	}
}

// call is one call of Do on its way through the attempts. It lives on the stack.
type call struct {
	r        *Retrier
	ctx      context.Context // the caller's
	trace    *mettle.Trace   // nil: nobody listens
	now      clock.Instant   // the time, where nothing has taken any since it was read; else Unknown
	start    int64           // reading of the clock; all calls pay for it, or Elapsed would miss the first attempt
	n        int             // the attempt that runs or ran last, from 1; 0: the call is inside another's attempt
	attempt  int64           // the clock when attempt n began
	traced   bool            // whether the end of attempt n is to be told
	sample   bool            // whether attempt n counts for what is usual, if it is a success
	prev     time.Duration   // what the backoff said last
	failure  error           // the last failure of the dependency, nil while there is none
	own      error           // the last error of op, nil where that is the error of attempt n
	timeline *timeline       // nil before the first resend, which most calls do without
	ran      *atomic.Bool    // whether op ran in attempt n; nil: it is taken to have
	charged  mettle.Outcome  // what the budget was charged for a resend that may not be sent yet; Ignored: nothing
	paid     mettle.Outcome  // the same for the attempt that has just ended
}

// begin returns the context of the first attempt.
func (c *call) begin() context.Context {
	if n := mettle.Attempt(c.ctx); n > 0 && !c.r.nested {
		c.r.counters.passed.Add(1)
		// Where an adapter has begun a call of its own within the other's attempt, this is
		// the retry that mettle.CallContext means, even if it leaves the resending to the
		// other. Elsewhere the mark changes nothing.
		return mettle.WithAttempt(c.ctx, n)
	}
	c.now = c.now.OrNow()
	c.start, c.n = c.r.clock.At(c.now), 1
	c.attempt, c.sample = c.start, c.r.usual.counts(c.start)
	c.charged, c.paid = mettle.Ignored, mettle.Ignored
	attempt := mettle.WithAttempt(c.ctx, 1)
	c.trace = mettle.ContextTrace(attempt)
	return attempt
}

// settle takes note of how an attempt ended. It returns the context of the next one, or
// nil and what Do returns.
func (c *call) settle(attempt context.Context, err error) (next context.Context, end error) {
	switch {
	case c.n == 0:
		return nil, err
	case err == nil:
		c.r.budget.succeeded(c.charged)
		if c.sample {
			c.now = c.now.OrNow()
			c.r.usual.add(c.attempt, c.r.clock.At(c.now))
		}
		return nil, nil
	}
	c.now = clock.Unknown
	if end := c.after(attempt, err); end != nil {
		return nil, end
	}
	c.n++
	c.attempt = c.r.clock.Now()
	c.sample = c.r.usual.counts(c.attempt)
	return mettle.WithAttempt(c.ctx, c.n), nil
}

// errAborted stands for the error of an attempt that never returned one.
var errAborted = errors.New("retry: the attempt panicked or called runtime.Goexit")

// direct makes an attempt that runs op.
func (c *call) direct(ctx context.Context, op func(context.Context) error) error {
	err := errAborted
	defer func() { c.ended(ctx, err) }()
	c.started(ctx)
	c.now = clock.Unknown
	err = op(ctx)
	return err
}

// through makes an attempt that runs op under next.
func (c *call) through(ctx context.Context, next relay.Policy, op func(context.Context) error) error {
	err := errAborted
	defer func() { c.ended(ctx, err) }()
	c.started(ctx)
	c.now, err = next.DoAt(ctx, op, c.now)
	return err
}

// started tells that an attempt begins.
func (c *call) started(ctx context.Context) {
	if c.trace == nil {
		return
	}
	if c.trace.AttemptStart != nil {
		c.now = clock.Unknown
		c.tellStart(ctx)
	}
	if c.trace.AttemptDone != nil {
		c.attempt, c.traced = c.r.clock.Now(), true
	}
}

// tellStart calls the hook. After one that panics nothing is sent.
func (c *call) tellStart(ctx context.Context) {
	told := false
	defer func() {
		if !told {
			c.r.budget.Refund(c.charged)
		}
	}()
	c.trace.AttemptStart(mettle.TraceEvent{Context: ctx, Policy: c.r.name, Attempt: c.n})
	told = true
}

// ended counts the attempt that ended with err. It is deferred, so that what AttemptStart
// began can be ended when op panics.
func (c *call) ended(ctx context.Context, err error) {
	if !c.traced {
		c.count(err)
		return
	}
	c.traced, c.now = false, clock.Unknown
	told := errAborted // by a hook that panics
	defer func() { c.count(told) }()
	now := c.r.clock.Now()
	if c.sample && err == nil { // now, for the hook may take its time
		c.sample = false
		c.r.usual.add(c.attempt, now)
	}
	elapsed := time.Duration(now - c.attempt)
	c.trace.AttemptDone(mettle.TraceEvent{Context: ctx, Policy: c.r.name, Attempt: c.n, Elapsed: elapsed, Err: err})
	told = err
}

func (c *call) count(err error) {
	if c.n > 0 {
		c.r.count(c.n, err)
	}
}

// after decides what follows an attempt that ended with err, and waits for it: nil for
// another attempt, or the end of the call.
//
// What the budget was charged for a resend that was never sent goes back to it, however
// the call ends: by the context or a panic before the attempt, or by a refusal further in.
// Where a refusal is waited out, the charge is for the attempt that follows.
func (c *call) after(attempt context.Context, err error) (end error) {
	outcome := mettle.Classify(c.ctx, err)
	if outcome != mettle.Ignored || c.opRan() && !errors.Is(err, mettle.ErrRejected) {
		c.paid, c.charged = c.charged, mettle.Ignored // it was sent
	}
	if c.opRan() {
		c.own = nil
	}
	resend := false
	defer func() {
		if !resend {
			c.r.budget.Refund(c.charged)
		}
	}()
	delay, end := c.judge(err, outcome)
	if end != nil {
		return end
	}
	if c.timeline == nil {
		c.timeline = new(timeline)
	}
	c.timeline.note(c.n, step{c.elapsed(), delay, outcome})
	if cause := c.wait(attempt, delay, err); cause != nil {
		return c.stop(stopContext, cause, err, outcome)
	}
	resend = true
	return nil
}

// judge decides what follows on err: a resend after delay, for which the budget has
// been charged, or the end of the call with the error end.
func (c *call) judge(err error, outcome mettle.Outcome) (delay time.Duration, end error) {
	r := c.r
	if mark.Permanent(err) || !r.retryable(outcome, err) {
		return 0, c.giveBack(err, outcome)
	}
	if c.ctx.Err() != nil {
		cause := context.Cause(c.ctx)
		if is(err, cause) || is(err, c.ctx.Err()) {
			// The end of the caller's time, and nothing else, ended the attempt.
			return 0, c.giveBack(err, mettle.Ignored)
		}
		return 0, c.stop(stopContext, cause, err, outcome)
	}
	enough := r.budget.failed(outcome)
	if c.n >= r.maxAttempts {
		return 0, c.stop(stopExhausted, ErrExhausted, err, outcome)
	}
	delay, ok := c.delay(err)
	if !ok {
		return 0, c.stop(stopRetryAfter, ErrRetryAfter, err, outcome)
	}
	if deadline, ok := c.ctx.Deadline(); ok {
		// Two comparisons, since a delay may be any and a deadline long past.
		left := time.Until(deadline)
		if delay >= left || left-delay < r.usual.at(r.clock.Now()) {
			return 0, c.stop(stopDeadline, ErrDeadline, err, outcome)
		}
	}
	if r.maxElapsed > 0 && delay >= r.maxElapsed-c.elapsed() {
		return 0, c.stop(stopElapsed, ErrElapsed, err, outcome)
	}
	if !enough || !r.budget.resend(outcome) {
		r.budget.denials.Add(1)
		return 0, c.stop(stopBudget, ErrBudget, err, outcome)
	}
	if outcome != mettle.Ignored {
		c.failure, c.charged = err, outcome
	}
	if c.opRan() {
		c.own = err
	}
	return delay, nil
}

func (r *Retrier) retryable(outcome mettle.Outcome, err error) bool {
	if r.retryIf != nil {
		return r.retryIf(err)
	}
	return outcome.Failed()
}

// delay returns how long to wait before the next attempt, or false when err asks
// for a longer wait than is allowed.
func (c *call) delay(err error) (time.Duration, bool) {
	c.prev = max(c.r.backoff(c.n, c.prev), 0)
	floor, ok := mettle.RetryAfter(err)
	if !ok {
		return c.prev, true
	}
	if floor > c.r.maxRetryAfter {
		return 0, false
	}
	if exact(err, floor) {
		return floor, true
	}
	spread := min(floor/10, math.MaxInt64-floor)
	return max(c.prev, between(c.r.below, floor, floor+spread)), true
}

// wait calls the hooks and lets delay pass. It returns the cause when ctx is done
// before or by the end of it.
func (c *call) wait(attempt context.Context, delay time.Duration, err error) (cause error) {
	if hook := c.r.onRetry; hook != nil {
		hook(Event{
			Context: attempt, Policy: c.r.name, Attempt: c.n, Delay: delay, Elapsed: c.elapsed(), Err: err,
		})
	}
	if t := c.trace; t != nil && t.Wait != nil {
		t.Wait(mettle.TraceEvent{Context: attempt, Policy: c.r.name, Attempt: c.n, Delay: delay, Err: err})
	}
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.ctx.Done():
		}
	}
	// Looked at after the timer too: when both are ready, select picks either.
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	return nil
}

func (c *call) elapsed() time.Duration { return time.Duration(c.r.clock.Now() - c.start) }

// giveBack ends the call with err, which is not to be retried: unchanged, unless it
// would hide a failure of the dependency.
func (c *call) giveBack(err error, outcome mettle.Outcome) error {
	kind, reason := stopNotRetryable, error(nil)
	switch {
	case outcome == mettle.Success:
		// An answer about the request is a success of the dependency.
		c.r.budget.succeeded(c.paid)
	case outcome == mettle.Ignored && c.ctx.Err() != nil:
		kind, reason = stopContext, context.Cause(c.ctx)
	}
	if outcome == mettle.Ignored && (c.failure != nil || c.own != nil) {
		return c.stop(kind, reason, err, outcome)
	}
	c.r.counters.stops[kind].Add(1)
	return err
}

// stop ends the call, whose last attempt ended with err, for reason, which is nil where
// that is err itself.
func (c *call) stop(kind stopKind, reason, err error, outcome mettle.Outcome) error {
	c.r.counters.stops[kind].Add(1)
	last, before := err, c.failure
	if before == nil {
		before = c.own
	}
	hides := outcome == mettle.Ignored && before != nil
	if hides {
		last = before
	}
	if c.own != nil && !is(last, c.own) {
		reason = because(reason, c.own)
	}
	if hides && (reason == nil || !is(last, err)) {
		reason = because(reason, err)
	}
	e := &Error{Attempts: c.n, Elapsed: c.elapsed(), Last: last, Reason: reason, timeline: c.timeline}
	if c.timeline != nil {
		c.timeline.note(c.n, step{at: e.Elapsed, outcome: outcome})
	}
	return e
}

// because returns an error that is reason, which may be nil, and err.
func because(reason, err error) error {
	switch {
	case reason == nil || is(err, reason):
		return err
	case is(reason, err):
		return reason
	default:
		return fmt.Errorf("%w: %w", reason, err)
	}
}

// watch has the attempts to come tell whether op ran in them. No error tells that: a
// refusal may be one that op met itself, and is then the answer to the call. The first
// attempt goes unwatched, or every healthy call would pay for it.
func (c *call) watch(op func(context.Context) error) func(context.Context) error {
	if c.ran != nil {
		c.ran.Store(false)
		return op
	}
	ran := new(atomic.Bool) // a hedge further in may run op on another goroutine
	c.ran = ran
	return func(ctx context.Context) error {
		ran.Store(true)
		return op(ctx)
	}
}

func (c *call) opRan() bool { return c.ran == nil || c.ran.Load() }
