package mettletest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/internal/clock"
)

// FaultConfig says what a [Fault] does. The zero FaultConfig does nothing.
type FaultConfig struct {
	// Seed chooses which calls a Rate hits. With the same seed it is the same
	// calls by number, in whatever order goroutines make them. Zero is a seed
	// like any other.
	Seed uint64
	// Rules are what is done to the calls. The first rule that hits a call
	// decides, and a call that no rule hits runs as it is. None: no call is hit.
	Rules []FaultRule
}

// FaultRule does harm to some calls: those that it is about, by their number and
// their time, and of these the share that is its Rate.
type FaultRule struct {
	// From and To bound the numbers of the calls, which count from 1, both
	// inclusive. Zero From is the first call, zero To is no bound.
	From, To int
	// After and Until bound the time at which a call begins, since NewFault: at
	// After or later, and before Until. Zero Until is no bound.
	After, Until time.Duration
	// Rate is the share of these calls that is hit, at most 1. Zero is all of
	// them, as 1 is; for none, leave the rule out.
	Rate float64

	// Latency is how long a call that is hit waits before whatever else is to
	// happen. When its context ends first, op does not run and the error is the
	// cause. Zero is no wait.
	Latency time.Duration

	// At most one of the following is set; the op of such a call does not run.
	// With none of them, the call runs op, after the Latency.

	// Err is returned. It is the operation's error as far as other policies can
	// tell, so it may be a mettle.Permanent one, or have a RetryAfter method.
	Err error
	// Panic is the value to panic with. Nil is no panic.
	Panic any
	// Hang waits for the call's context to end, as a connection does to a host
	// that is gone, and returns its cause. Without an end the call hangs for good.
	Hang bool
}

// Validate returns all that is wrong with the configuration, or nil.
func (c FaultConfig) Validate() error {
	var errs []error
	for i, r := range c.Rules {
		bad := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("mettletest: Rules[%d]."+format, append([]any{i}, args...)...))
		}
		if r.From < 0 {
			bad("From is %d, must not be negative", r.From)
		}
		if r.To < 0 || r.To > 0 && r.To < r.From {
			bad("To is %d, must be 0 or at least From, %d", r.To, r.From)
		}
		if r.After < 0 {
			bad("After is %v, must not be negative", r.After)
		}
		if r.Until < 0 || r.Until > 0 && r.Until <= r.After {
			bad("Until is %v, must be 0 or more than After, %v", r.Until, r.After)
		}
		if !(r.Rate >= 0 && r.Rate <= 1) { // NaN is neither
			bad("Rate is %v, must be from 0 to 1", r.Rate)
		}
		if r.Latency < 0 {
			bad("Latency is %v, must not be negative", r.Latency)
		}
		switch n := r.harms(); {
		case n > 1:
			bad("Err, Panic and Hang: %d are set, must be at most one", n)
		case n == 0 && r.Latency == 0:
			bad("Latency, Err, Panic and Hang: none is set, must be at least one")
		}
	}
	return errors.Join(errs...)
}

func (r FaultRule) harms() (n int) {
	for _, set := range []bool{r.Err != nil, r.Panic != nil, r.Hang} {
		if set {
			n++
		}
	}
	return n
}

// Fault is a policy that does harm on purpose, to see how what is around it bears
// it. It stands where the dependency is, innermost. It may be used from many
// goroutines at once, inside a testing/synctest bubble or outside; one that is used
// in a bubble is to be made in it.
type Fault struct {
	seed  uint64
	rules []FaultRule
	clock clock.Clock

	calls                           atomic.Int64
	delayed, failed, panicked, hung atomic.Int64
}

// NewFault returns a Fault whose time and calls count from now. It panics when
// the configuration is not valid, with the message of [FaultConfig.Validate].
func NewFault(c FaultConfig) *Fault {
	if err := c.Validate(); err != nil {
		panic(err.Error())
	}
	return &Fault{seed: c.Seed, rules: slices.Clone(c.Rules), clock: clock.New()}
}

// Do runs op, unless a rule has it that something else happens.
func (f *Fault) Do(ctx context.Context, op func(context.Context) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return f.run(ctx, nil, op)
}

// Wrap returns the policy bound to next. The calls of all that it is bound to are
// counted together.
func (f *Fault) Wrap(next mettle.Policy) mettle.Policy { return &boundFault{f, next} }

type boundFault struct {
	fault *Fault
	next  mettle.Policy
}

func (b *boundFault) Do(ctx context.Context, op func(context.Context) error) error {
	return b.fault.run(ctx, b.next, op)
}

func (f *Fault) run(ctx context.Context, next mettle.Policy, op func(context.Context) error) error {
	if r := f.hit(f.calls.Add(1), time.Duration(f.clock.Now())); r != nil {
		if r.Latency > 0 {
			f.delayed.Add(1)
			if err := wait(ctx, r.Latency); err != nil {
				return err
			}
		}
		switch {
		case r.Err != nil:
			f.failed.Add(1)
			return r.Err
		case r.Panic != nil:
			f.panicked.Add(1)
			panic(r.Panic)
		case r.Hang:
			f.hung.Add(1)
			<-ctx.Done()
			return context.Cause(ctx)
		}
	}
	if next != nil {
		return next.Do(ctx, op)
	}
	return op(ctx)
}

// hit returns the rule that decides the call of that number and time, or nil.
func (f *Fault) hit(call int64, at time.Duration) *FaultRule {
	// Chance is drawn from the number of the call, not from a sequence that is
	// shared, so that it does not hang on who came first. Each rule draws, of its
	// turn or not, so that it does not hang on the time either.
	chance := rand.NewPCG(f.seed, uint64(call))
	for i := range f.rules {
		r := &f.rules[i]
		drawn := float64(chance.Uint64()>>11) / (1 << 53) // in [0, 1)
		if call >= int64(r.From) && (r.To == 0 || call <= int64(r.To)) &&
			at >= r.After && (r.Until == 0 || at < r.Until) &&
			(r.Rate == 0 || drawn < r.Rate) {
			return r
		}
	}
	return nil
}

// wait returns nil after d, or the cause of ctx when that ends by then.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// FaultStats is what a [Fault] has done so far.
type FaultStats struct {
	Calls                           int64 // all of them, hit or not
	Delayed, Failed, Panicked, Hung int64 // as each began
}

// Stats returns what f has done so far. Calls under way may be counted in part.
func (f *Fault) Stats() FaultStats {
	return FaultStats{
		Calls:   f.calls.Load(),
		Delayed: f.delayed.Load(), Failed: f.failed.Load(),
		Panicked: f.panicked.Load(), Hung: f.hung.Load(),
	}
}
