package scorecard

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/benchmarks/sim"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// Contender is one way to protect calls.
type Contender struct {
	Name string // in data and tables
	What string // how it is set up, for the page of results
	Kind Kind
	// Cancels says that it cancels attempts other than by the deadline of their context.
	Cancels bool
	// New returns what one client calls with.
	New func(Client) sim.Caller
}

// Kind says what a contender is there for.
type Kind uint8

// Kinds of contenders.
const (
	Ours     Kind = iota // the library
	Peer                 // another library, without settings
	Tuned                // a library set up as its documentation suggests
	Baseline             // what people do without a library
	Best                 // what can be done by somebody who knows everything
)

// Client is what a contender is told of the client for which it is set up.
type Client struct {
	ID       int
	Seed     uint64
	World    *sim.World
	Servers  []*sim.Server // for each key; only the oracle looks at them
	Deadline time.Duration // of a call
	Attempt  time.Duration // timeout of an attempt, where there are several
	Once     time.Duration // timeout of the attempt of those who make only one
	Attempts int           // at most, the first included
	Rate     float64       // calls in a second, at most; who tunes knows it
	Cold     bool          // the server comes back slower than it was; so is this
	Opened   func()        // to be called when a breaker opens
}

// source returns a source of randomness of the client's own, which belongs to the seed.
func (c Client) source() rand.Source {
	return &lockedSource{source: rand.NewPCG(c.Seed, uint64(c.ID))}
}

type lockedSource struct {
	mu     sync.Mutex
	source rand.Source
}

func (s *lockedSource) Uint64() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.source.Uint64()
}

// Contenders are all there are, in the order of the tables.
func Contenders() []Contender {
	return []Contender{
		{"mettle", "total timeout, retry, breaker, bulkhead and attempt timeout, as in the standard pipeline: the two timeouts are set, all else is as it comes", Ours, false, mettleDefaults},
		{"mettle-tuned", "as mettle, by what one knows of the client: a bulkhead for its calls in the time of an attempt (Little's law) and 5 more; a breaker whose `MinCalls` is what comes in 5 s, 20 to 100; and where the server comes back cold, a ramp of 1 s", Tuned, false, mettleTuned},
		{"gobreaker", "sony/gobreaker in cenkalti/backoff, both as they come but for 3 tries; an open breaker ends the call", Peer, false, gobreakerDefaults},
		{"failsafe", "failsafe-go: retry policy, circuit breaker and timeout, as they come", Peer, true, failsafeDefaults},
		{"failsafe-throttler", "failsafe-go: retry policy, adaptive throttler and timeout, as they come", Peer, true, failsafeThrottler},
		{"failsafe-limiter", "failsafe-go: retry policy, adaptive limiter and timeout, as they come", Peer, true, failsafeLimiter},
		{"go-zero", "go-zero's breaker under a timeout; it has no retry", Peer, false, gozeroDefaults},
		{"aegis", "the SRE breaker of go-kratos/aegis under a timeout, marked as the middleware of kratos does; it has no retry", Peer, false, aegisDefaults},
		{"gobreaker-tuned", "sony/gobreaker with a rolling window of 10 s that opens for 1 s at half of at least 20 calls, in cenkalti/backoff from 50 ms", Tuned, false, gobreakerTuned},
		{"failsafe-tuned", "failsafe-go: 3 attempts with backoff from 50 ms and jitter, not for refusals; a breaker at half of at least 20 calls in 10 s that opens for 1 s; timeout", Tuned, true, failsafeTuned},
		{"failsafe-throttler-tuned", "failsafe-go: 3 attempts as above, and an adaptive throttler for more than a tenth of at least 10 calls failing, within 10 s; timeout", Tuned, true, failsafeThrottlerTuned},
		{"aegis-tuned", "aegis with the K of 2 that the SRE book prefers; go-zero's breaker has none", Tuned, false, aegisTuned},
		{"none", "the call as it is, and patience without end", Baseline, false, nothing},
		{"timeout", "the deadline and nothing else", Baseline, false, timeoutOnly},
		{"naive", "3 attempts, each with its timeout, without a pause", Baseline, false, naiveRetries},
		{"jitter", "3 attempts, each with its timeout, full jitter from 100 ms between them", Baseline, false, jitterRetries},
		{"oracle", "knows when the server is there and how long its queue is, and sends at once whatever can succeed, up to 3 times", Best, false, oracle},
	}
}

// breaking returns the names of those who give up on a server that is gone.
func breaking() (names []string) {
	for _, k := range Contenders() {
		if k.Kind != Baseline && k.Name != "failsafe-limiter" {
			names = append(names, k.Name)
		}
	}
	return names
}

// mettleDefaults is the standard pipeline of mettlehttp around anything.
func mettleDefaults(c Client) sim.Caller {
	return mettleOf(c, breaker.Config{}, retry.Config{}, bulkhead.Config{})
}

func mettleOf(c Client, b breaker.Config, r retry.Config, k bulkhead.Config) sim.Caller {
	b.OnChange = func(change breaker.Change) {
		if change.To == breaker.Open {
			c.Opened()
		}
	}
	r.Rand = c.source()
	p := mettle.Compose(
		timeout.New(timeout.Config{After: c.Deadline}),
		retry.New(r),
		breaker.New(b),
		bulkhead.New(k),
		timeout.New(timeout.Config{After: c.Attempt}),
	)
	return func(ctx context.Context, _ int, op func(context.Context) error) error {
		return p.Do(ctx, op)
	}
}

// mettleTuned is what our documentation tells somebody to set who knows the calls.
func mettleTuned(c Client) sim.Caller {
	within := func(d time.Duration) int { return int(c.Rate * d.Seconds()) }
	b := breaker.Config{MinCalls: min(max(within(5*time.Second), 20), 100)}
	if c.Cold {
		b.Ramp = time.Second
	}
	return mettleOf(c, b, retry.Config{}, bulkhead.Config{Limit: within(c.Attempt) + 5})
}

func nothing(Client) sim.Caller {
	return func(ctx context.Context, _ int, op func(context.Context) error) error { return op(ctx) }
}

func timeoutOnly(c Client) sim.Caller {
	return func(ctx context.Context, _ int, op func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, c.Once)
		defer cancel()
		return op(ctx)
	}
}

func naiveRetries(c Client) sim.Caller {
	return retries(c, func(int) time.Duration { return 0 })
}

func jitterRetries(c Client) sim.Caller {
	rng := rand.New(c.source())
	return retries(c, func(n int) time.Duration { return time.Duration(rng.Int64N(int64(100 * time.Millisecond << n))) })
}

// retries is the loop that people write.
func retries(c Client, pause func(n int) time.Duration) sim.Caller {
	return func(ctx context.Context, _ int, op func(context.Context) error) (err error) {
		ctx, cancel := context.WithTimeout(ctx, c.Deadline)
		defer cancel()
		for n := range c.Attempts {
			if n > 0 {
				if d := pause(n - 1); d > 0 && c.World.Wait(ctx, c.World.Now()+d) != nil {
					return err
				}
			}
			if err = timed(ctx, c.Attempt, op); err == nil || ctx.Err() != nil {
				return err
			}
		}
		return err
	}
}

// timed is an attempt under a timeout of its own.
func timed(ctx context.Context, d time.Duration, op func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return op(ctx)
}

var errHopeless = errors.New("oracle: no answer would come in time")

// oracle sends an attempt when its answer can be expected in time, and waits for the end
// of an outage if that leaves time enough. It does not lengthen a queue that keeps the
// server busy anyway.
func oracle(c Client) sim.Caller {
	const (
		longest = 100 * time.Millisecond // queue that is worth joining
		margin  = 40 * time.Millisecond  // for a service time that is longer than the mean
	)
	return func(ctx context.Context, key int, op func(context.Context) error) (err error) {
		w, server := c.World, c.Servers[key]
		last := w.Now() + c.Deadline
		ctx, cancel := context.WithTimeout(ctx, c.Deadline)
		defer cancel()
		for range c.Attempts {
			if up := server.Up(w.Now() + w.Network); up > w.Now()+w.Network {
				if up+w.Network+margin > last || w.Wait(ctx, up-w.Network) != nil {
					return errHopeless
				}
			}
			promise := w.Promise(server)
			if promise > min(last-margin, w.Now()+longest) {
				return errHopeless
			}
			if err = op(ctx); err == nil || ctx.Err() != nil {
				return err
			}
		}
		return err
	}
}
