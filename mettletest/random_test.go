package mettletest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/fallback"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// The contract of a policy names no order, so it has to hold in every one. Each seed
// makes a pipeline of its own, of leaves drawn and configured at random, and has
// callers at once do everything to it that an operation can do.
//
// Spec: P3, P4, P5, P6, P9, R4, H1, K1, K3, K4
func TestRandomCompositions(t *testing.T) {
	seeds := uint64(200)
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			c := newComposition(t, rand.New(rand.NewPCG(seed, 0)))
			c.hammer(seed)
			c.wantIdle()
			if t.Failed() {
				t.Logf("seed %d:\n\t%s", seed, c)
			}
		})
	}
}

// composition is a pipeline whose leaves are known, so that they can be asked what
// they still hold.
type composition struct {
	t         *testing.T
	r         *rand.Rand // only while the composition is made
	names     []string   // of the layers, outermost first
	pipeline  *mettle.Pipeline
	breakers  []*breaker.Breaker
	bulkheads []*bulkhead.Bulkhead
	budgets   []*retry.Budget
	limit     int            // of the narrowest bulkhead inside all hedges; 0: none
	patient   *retry.Retrier // the last one made that waits refusals out
	overlaps  bool           // there is a hedge
	running   atomic.Int64
}

func (c *composition) String() string { return strings.Join(c.names, "\n\t") }

func newComposition(t *testing.T, r *rand.Rand) *composition {
	c := &composition{t: t, r: r}
	makers := []func() mettle.Policy{c.timeout, c.retry, c.breaker, c.bulkhead, c.fallback}
	if c.one(2) {
		makers = append(makers, c.hedge)
	}
	var layers []mettle.Policy
	for _, i := range r.Perm(len(makers)) {
		for range []int{0, 1, 1, 1, 1, 2}[r.IntN(6)] {
			p := makers[i]()
			// As a PolicyFunc, without Wrap, a retry takes for the operation all that is
			// further in. Of refusals that it waits out it tells the last, whoever refused.
			if c.one(6) && p != mettle.Policy(c.patient) {
				p = mettle.PolicyFunc(p.Do)
				c.note("in a PolicyFunc")
			}
			layers = append(layers, p)
		}
	}
	if c.one(3) && len(layers) > 0 {
		at := r.IntN(len(layers))
		layers = append(layers[:at:at], mettle.Compose(layers[at:]...))
		c.names = append(c.names, fmt.Sprintf("from layer %d on in a pipeline of their own", at+1))
	}
	c.pipeline = mettle.Compose(layers...)
	return c
}

func (c *composition) one(in int) bool { return c.r.IntN(in) == 0 }

func (c *composition) note(format string, args ...any) {
	c.names[len(c.names)-1] += " " + fmt.Sprintf(format, args...)
}

// some returns a duration whose order of magnitude is random as well.
func (c *composition) some() time.Duration {
	return time.Duration(1+c.r.IntN(9)) * []time.Duration{
		time.Microsecond, time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second,
	}[c.r.IntN(5)]
}

func (c *composition) maybe() time.Duration {
	if c.one(2) {
		return 0
	}
	return c.some()
}

func (c *composition) timeout() mettle.Policy {
	config := timeout.Config{After: c.maybe()}
	c.names = append(c.names, fmt.Sprintf("timeout %+v", config))
	return timeout.New(config)
}

func (c *composition) retry() mettle.Policy {
	base, limit := c.some(), c.some()
	config := retry.Config{
		MaxAttempts: 1 + c.r.IntN(5),
		Backoff: []retry.Backoff{
			nil, retry.Constant(0), retry.Constant(base), retry.FullJitter(base, limit), retry.Decorrelated(base, limit),
		}[c.r.IntN(5)],
		MaxElapsed:    c.maybe(),
		MaxRetryAfter: c.maybe(),
		Budget:        retry.NoBudget,
		Nested:        c.one(3),
	}
	if c.one(2) {
		config.Budget = retry.NewBudget(retry.BudgetConfig{Burst: 1 + c.r.IntN(20)})
		c.budgets = append(c.budgets, config.Budget)
	}
	c.names = append(c.names, fmt.Sprintf("retry %+v", config))
	if c.one(3) {
		config.RetryIf = func(err error) bool {
			return errors.Is(err, mettle.ErrRejected) || mettle.Classify(bg, err).Failed()
		}
		c.note("refusals too")
	}
	if c.one(3) {
		config.OnRetry = func(e retry.Event) { trialOf(e.Context).hook() }
	}
	r := retry.New(config)
	if config.RetryIf != nil {
		c.patient = r
	}
	return r
}

func (c *composition) hedge() mettle.Policy {
	config := hedge.Config{After: c.maybe(), Max: 1 + c.r.IntN(3)}
	if c.one(4) {
		config.Quantile = 0.5
	}
	switch c.r.IntN(3) {
	case 0:
		config.Budget = retry.NoBudget
	case 1:
		config.Budget = retry.NewBudget(retry.BudgetConfig{Burst: 1 + c.r.IntN(20)})
		c.budgets = append(c.budgets, config.Budget)
	}
	c.names = append(c.names, fmt.Sprintf("hedge %+v", config))
	c.overlaps = true
	c.limit = 0 // bulkheads outside of it bound calls and not runs
	return hedge.New(config)
}

func (c *composition) breaker() mettle.Policy {
	config := breaker.Config{
		MinCalls: 1 + c.r.IntN(20), Consecutive: c.r.IntN(10) - 1,
		SlowCall: c.maybe(), OpenFor: c.some(), MaxOpenFor: time.Minute,
		Probes: 1 + c.r.IntN(3), Successes: 1 + c.r.IntN(3), ProbeTimeout: c.some(), Ramp: c.maybe(),
	}
	c.names = append(c.names, fmt.Sprintf("breaker %+v", config))
	b := breaker.New(config)
	c.breakers = append(c.breakers, b)
	return b
}

func (c *composition) bulkhead() mettle.Policy {
	config := bulkhead.Config{
		Limit: 1 + c.r.IntN(6), MaxQueue: c.r.IntN(4), MaxWait: c.maybe(), Order: bulkhead.Order(c.r.IntN(2)),
	}
	c.names = append(c.names, fmt.Sprintf("bulkhead %+v", config))
	b := bulkhead.New(config)
	c.bulkheads = append(c.bulkheads, b)
	if c.limit == 0 || config.Limit < c.limit {
		c.limit = config.Limit
	}
	return b
}

func (c *composition) fallback() mettle.Policy {
	var config fallback.Config
	switch c.r.IntN(4) {
	case 0:
		c.names = append(c.names, "fallback that helps")
		config.Run = func(ctx context.Context, _ error) error {
			trialOf(ctx).help()
			return nil
		}
	case 1:
		c.names = append(c.names, "fallback that fails")
		config.Run = func(context.Context, error) error { return errors.New("no help") }
	case 2:
		c.names = append(c.names, "fallback that passes the error on")
		config.Run = failAgain
	case 3:
		c.names = append(c.names, "fallback for refusals")
		config.If = func(err error) bool { return errors.Is(err, mettle.ErrRejected) }
		config.Run = func(_ context.Context, err error) error { return fmt.Errorf("no help: %w", err) }
	}
	return fallback.New(config)
}

// hammer has callers at once make calls one after the other.
func (c *composition) hammer(seed uint64) {
	before, _ := bubbled()
	var all sync.WaitGroup
	for caller := range uint64(8) {
		all.Go(func() {
			r := rand.New(rand.NewPCG(seed, 1+caller))
			for range 12 {
				c.try(r)
				time.Sleep(time.Duration(r.IntN(3)) * 300 * time.Millisecond)
			}
		})
	}
	all.Wait()
	synctest.Wait()
	if n, stacks := bubbled(); n > before {
		c.t.Errorf("%d goroutines are left:\n%s", n-before, stacks)
	}
}

// bubbled returns how many goroutines are in a bubble, and the stacks of all. The
// count of the runtime would still have those that have come to their end.
func bubbled() (int, []byte) {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return bytes.Count(stacks, []byte(", synctest bubble ")), stacks
}

// wantIdle wants everything given back by the time that the calls are over, and a
// pipeline that works when it was left alone.
func (c *composition) wantIdle() {
	for _, b := range c.bulkheads {
		if s := b.Stats(); s.InFlight != 0 || s.Queued != 0 {
			c.t.Errorf("a bulkhead has %d calls in flight and %d in its queue", s.InFlight, s.Queued)
		}
	}
	for _, b := range c.breakers {
		if s := b.Stats(); s.Probes != 0 {
			c.t.Errorf("a breaker has %d probes in flight", s.Probes)
		}
	}
	for _, b := range c.budgets {
		if b.Balance() < 0 {
			c.t.Errorf("a budget is at %v", b.Balance())
		}
	}
	time.Sleep(24 * time.Hour)
	ran := false
	for n := 0; n < 20 && !ran; n++ { // the first calls may be for a breaker to close
		_ = c.pipeline.Do(bg, func(context.Context) error { ran = true; return nil })
		time.Sleep(time.Minute)
	}
	if !ran {
		c.t.Error("a day later no call gets through")
	}
}

// trial is one call, and what its operation did.
type trial struct {
	c      *composition
	ctx    context.Context
	cancel context.CancelCauseFunc
	hooks  bool

	mu        sync.Mutex // guards what follows
	r         *rand.Rand
	runs      int
	running   int
	returned  bool
	succeeded bool
	helped    bool // a fallback did
	last      error
	crashed   []any             // the values of the panics, or errExit
	left      time.Time         // when op had the caller leave
	given     []context.Context // to runs of op
	children  []context.Context // derived from them
}

var (
	errExit  = errors.New("runtime.Goexit")
	errLeave = errors.New("the caller leaves")
)

type trialKey struct{}

func trialOf(ctx context.Context) *trial { return ctx.Value(trialKey{}).(*trial) }

func (c *composition) try(r *rand.Rand) {
	x := &trial{c: c, r: rand.New(rand.NewPCG(r.Uint64(), 0)), hooks: r.IntN(10) == 0}
	ctx, cancel := context.WithCancelCause(context.WithValue(bg, trialKey{}, x))
	defer cancel(nil)
	if r.IntN(2) == 0 {
		late, stop := context.WithTimeoutCause(ctx, moment(r, 3000), errors.New("the caller's time is over"))
		defer stop()
		ctx = late
	}
	if r.IntN(20) == 0 {
		cancel(errLeave)
	}
	if r.IntN(4) == 0 { // at any moment, waits included
		soon := time.AfterFunc(moment(r, 2000), func() { cancel(errLeave) })
		defer soon.Stop()
	}
	x.ctx, x.cancel = mettle.WithTrace(ctx, &mettle.Trace{
		AttemptStart: x.event, AttemptDone: x.event, Wait: x.event, Rejected: x.event, Hedged: x.event, FellBack: x.event,
	}), cancel
	entered := x.ctx.Err() == nil

	var err error
	value, exit := crashes(func() { err = c.pipeline.Do(x.ctx, x.op) })
	x.mu.Lock()
	defer x.mu.Unlock()
	x.returned = true
	x.judge(entered, err, value, exit)
	x.wantEnded()
}

// moment returns a time within so many milliseconds at which nothing else happens:
// an op that begins under a context which ends then begins too late.
func moment(r *rand.Rand, within int) time.Duration {
	return time.Duration(r.IntN(within))*time.Millisecond + time.Duration(1+r.IntN(999_999))
}

// crashes runs f on a goroutine that may end, and returns how it did, if badly.
func crashes(f func()) (value any, exit bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		normal := false
		defer func() {
			if !normal {
				value = recover()
				exit = value == nil
			}
		}()
		f()
		normal = true
	}()
	<-done
	return value, exit
}

func (x *trial) event(mettle.TraceEvent) { x.hook() }

// hook panics now and then, for all hooks of the user's.
func (x *trial) hook() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.returned {
		x.c.t.Error("a hook is called after Do has returned")
	}
	if x.hooks && x.r.IntN(3) == 0 {
		x.crashed = append(x.crashed, "in a hook")
		panic("in a hook")
	}
}

func (x *trial) help() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.helped = true
}

// leave has the caller give up.
func (x *trial) leave() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.left = time.Now()
	x.cancel(errLeave)
}

func (x *trial) draw(n int) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.r.IntN(n)
}

func (x *trial) op(ctx context.Context) error {
	boom := x.enter(ctx)
	returned := false
	var crash any = errExit // unless it turns out otherwise
	var err error
	defer func() {
		x.c.running.Add(-1)
		x.mu.Lock()
		defer x.mu.Unlock()
		x.running--
		switch {
		case !returned:
			x.crashed = append(x.crashed, crash)
		case err == nil:
			x.succeeded = true
		default:
			x.last, x.succeeded = err, x.succeeded && x.c.overlaps
		}
	}()
	err = x.fate(ctx, boom, &crash)
	returned = true
	return err
}

// enter notes that op begins, and returns a failure for it.
func (x *trial) enter(ctx context.Context) error {
	n := x.c.running.Add(1)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.returned || x.running > 0 && !x.c.overlaps {
		x.c.t.Errorf("op runs after Do has returned (%t), or twice at a time (%t)", x.returned, x.running > 0)
	}
	// Another run may have ended it at this very moment.
	if x.ctx.Err() != nil && !(x.c.overlaps && time.Now().Equal(x.left)) {
		x.c.t.Error("op runs though the caller's context has ended")
	}
	if x.c.limit > 0 && n > int64(x.c.limit) {
		x.c.t.Errorf("%d calls in flight in a bulkhead of %d", n, x.c.limit)
	}
	x.runs++
	x.running++
	x.keep(ctx)
	return fmt.Errorf("run %d failed", x.runs)
}

// keep derives contexts that outlive the call.
func (x *trial) keep(ctx context.Context) {
	x.given = append(x.given, ctx)
	switch x.r.IntN(4) {
	case 0:
		child, cancel := context.WithCancel(ctx)
		context.AfterFunc(child, cancel)
		x.children = append(x.children, child)
	case 1:
		child, cancel := context.WithTimeout(context.WithValue(ctx, trialKey{}, x), 48*time.Hour)
		context.AfterFunc(child, cancel)
		x.children = append(x.children, child)
	case 2:
		x.children = append(x.children, context.WithValue(ctx, trialKey{}, x))
	}
}

// fate is everything that an operation can do. A panic's value is told before.
func (x *trial) fate(ctx context.Context, boom error, crash *any) error {
	if x.draw(2) == 0 {
		time.Sleep(time.Duration(x.draw(400)) * time.Millisecond) // deaf to ctx
	}
	switch x.draw(14) {
	case 0, 1, 2:
		return nil
	case 3, 4:
		return boom
	case 5:
		return mettle.Permanent(boom)
	case 6:
		return fmt.Errorf("%w: refused further in: %w", boom, mettle.ErrRejected)
	case 7: // hangs
		select {
		case <-ctx.Done():
		case <-time.After(time.Minute):
		}
		return fmt.Errorf("%w: %w", boom, context.Cause(ctx))
	case 8: // a transport that knows no causes
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Minute):
			return boom
		}
	case 9:
		x.leave()
		return context.Cause(ctx)
	case 10:
		x.leave()
		return nil
	case 11:
		return later(time.Duration(x.draw(1000)) * time.Millisecond)
	case 12:
		*crash = boom
		panic(boom)
	default:
		runtime.Goexit()
		return nil
	}
}

// later is a failure that says when to come back.
type later time.Duration

func (later) Error() string               { return "come back later" }
func (l later) RetryAfter() time.Duration { return time.Duration(l) }

// judge compares how Do ended with what op did.
func (x *trial) judge(entered bool, err error, value any, exit bool) {
	t := x.c.t
	switch {
	case exit || value != nil:
		if exit {
			value = errExit
		}
		if !slices.Contains(x.crashed, value) {
			t.Errorf("Do ended by %v, op by %v", value, x.crashed)
		}
	case len(x.crashed) > 0:
		t.Errorf("%v was swallowed: Do returned %v", x.crashed, err)
	case !entered:
		if x.runs > 0 || !errors.Is(err, context.Cause(x.ctx)) {
			t.Errorf("with a context done on entry op ran %d times, and Do returned %v", x.runs, err)
		}
	case err == nil:
		if !x.succeeded && !x.helped {
			t.Errorf("op ran %d times and failed last with %v, no fallback helped, Do returned nil", x.runs, x.last)
		}
	case x.succeeded:
		t.Errorf("op succeeded, Do returned %v", err)
	case x.runs > 0:
		if !errors.Is(err, x.last) {
			t.Errorf("op's error %q is not found in %q", x.last, err)
		}
	case !errors.Is(err, mettle.ErrRejected) && !errors.Is(err, context.Cause(x.ctx)) && !errors.Is(err, timeout.ErrExceeded):
		t.Errorf("op did not run, and %q is neither a refusal nor the end of a context", err)
	}
}

// wantEnded wants a context of a policy's own to have ended with the call, and all
// that was derived from it.
func (x *trial) wantEnded() {
	limit, _ := x.ctx.Deadline()
	own := false
	for _, ctx := range x.given {
		d, ok := ctx.Deadline()
		if !ok || d.Equal(limit) {
			continue // it may be the caller's
		}
		own = true
		if ctx.Err() == nil || context.Cause(ctx) == nil {
			x.c.t.Error("a context that a policy made has not ended with Do")
		}
	}
	x.cancel(nil) // ends the others
	for _, child := range x.children {
		select {
		case <-child.Done():
		default:
			x.c.t.Errorf("a derived context has not ended (a policy's own: %t)", own)
		}
	}
}
