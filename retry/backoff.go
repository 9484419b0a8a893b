package retry

import (
	"math"
	"math/rand/v2"
	"time"
)

// Backoff tells how long to wait before the next attempt. attempt is the number of
// the attempt that has just failed, 1 for the first; prev is what the Backoff said
// before in the same call, 0 at first. A negative delay counts as zero.
//
// A Backoff has no state, so that one may be shared by any number of retriers and
// is called from many goroutines at once. A Backoff that panics does so through
// [Retrier.Do], with nothing held.
//
// Those of this package return delays in [0, max], jitter included, for any
// argument. A negative duration counts as zero, an attempt below 1 as 1, and where
// max is less than base, max holds.
type Backoff func(attempt int, prev time.Duration) time.Duration

// Constant returns a Backoff that always waits d. Clients that failed together come
// back together; prefer jitter for anything that is shared.
func Constant(d time.Duration) Backoff {
	d = max(d, 0)
	return func(int, time.Duration) time.Duration { return d }
}

// Linear returns a Backoff that waits base, 2·base, 3·base and so on up to max.
func Linear(base, max time.Duration) Backoff {
	base, max = atLeastZero(base), atLeastZero(max)
	return func(attempt int, _ time.Duration) time.Duration {
		n := time.Duration(atLeastOne(attempt))
		if base > max/n { // base·n may not fit
			return max
		}
		return base * n
	}
}

// Exponential returns a Backoff that waits base, 2·base, 4·base and so on up to max.
func Exponential(base, max time.Duration) Backoff {
	base, max = atLeastZero(base), atLeastZero(max)
	return func(attempt int, _ time.Duration) time.Duration {
		return exponential(base, max, attempt)
	}
}

// FullJitter returns a Backoff that waits a random time in [0, v), where v is what
// [Exponential] would wait. Of the three kinds of jitter it spreads clients widest
// and does the least work under contention (M. Brooker, "Exponential Backoff And
// Jitter", AWS Architecture Blog, 2015).
func FullJitter(base, max time.Duration) Backoff { return Jitter{}.Full(base, max) }

// EqualJitter returns a Backoff that waits a random time in [v/2, v], where v is
// what [Exponential] would wait: half the delay is kept, for those who need some.
func EqualJitter(base, max time.Duration) Backoff { return Jitter{}.Equal(base, max) }

// Decorrelated returns a Backoff that waits a random time in [base, 3·prev], no more
// than max, where prev is base at first. It grows at random and not with the number of
// attempts. With a zero base all its delays are zero.
func Decorrelated(base, max time.Duration) Backoff { return Jitter{}.Decorrelated(base, max) }

// Jitter makes the randomized kinds of [Backoff] over a source of the caller's, so
// that a simulation or a test can be run again: the same numbers from Rand give the
// same delays. [FullJitter], [EqualJitter] and [Decorrelated] are those of the zero
// Jitter.
type Jitter struct {
	// Rand is where the randomness comes from. It is called from as many
	// goroutines as the Backoff is, which most sources are not safe for. Nil: the
	// generator behind the functions of math/rand/v2, which is.
	Rand rand.Source
}

// Full is [FullJitter] over j.Rand.
func (j Jitter) Full(base, max time.Duration) Backoff {
	base, max = atLeastZero(base), atLeastZero(max)
	below := uint64N(j.Rand)
	return func(attempt int, _ time.Duration) time.Duration {
		v := exponential(base, max, attempt)
		if v == 0 {
			return 0
		}
		return time.Duration(below(uint64(v)))
	}
}

// Equal is [EqualJitter] over j.Rand.
func (j Jitter) Equal(base, max time.Duration) Backoff {
	base, max = atLeastZero(base), atLeastZero(max)
	below := uint64N(j.Rand)
	return func(attempt int, _ time.Duration) time.Duration {
		v := exponential(base, max, attempt)
		return between(below, v/2, v)
	}
}

// Decorrelated is [Decorrelated] over j.Rand.
func (j Jitter) Decorrelated(base, max time.Duration) Backoff {
	base, max = atLeastZero(base), atLeastZero(max)
	below := uint64N(j.Rand)
	return func(_ int, prev time.Duration) time.Duration {
		if prev < base {
			prev = base
		}
		high := time.Duration(math.MaxInt64)
		if prev <= high/3 {
			high = 3 * prev
		}
		// Drawn from the whole range and cut afterwards, as in Brooker's
		// article: near max most delays are max itself.
		if d := between(below, base, high); d < max {
			return d
		}
		return max
	}
}

// exponential returns base·2^(attempt-1), no more than limit. A shift by more bits
// than there are is defined in Go and leaves zero, so any attempt will do.
func exponential(base, limit time.Duration, attempt int) time.Duration {
	doublings := atLeastOne(attempt) - 1
	if base > limit>>doublings {
		return limit
	}
	return base << doublings
}

// between draws from [low, high], ends included.
func between(below func(uint64) uint64, low, high time.Duration) time.Duration {
	return low + time.Duration(below(uint64(high-low)+1))
}

// uint64N returns a function that draws from [0, n), n > 0, using src.
func uint64N(src rand.Source) func(n uint64) uint64 {
	if src == nil {
		return rand.Uint64N
	}
	return rand.New(src).Uint64N
}

func atLeastZero(d time.Duration) time.Duration { return max(d, 0) }
func atLeastOne(n int) int                      { return max(n, 1) }
