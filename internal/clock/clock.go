// Package clock reads the time once and cheaply.
package clock

import (
	"math"
	"sync/atomic"
	"time"
)

// start has a monotonic reading, so that a step of the wall clock changes nothing. It is
// a moment early, so that no Clock is the zero one however coarse the system's is.
var start = time.Now().Add(-1)

// Instant is a moment in nanoseconds since the process began. Compare differences, never
// the sign: inside a testing/synctest bubble it is that of another age.
type Instant int64

// Unknown is the Instant of nobody having read the clock.
const Unknown Instant = math.MinInt64

// Now reads the clock. It is one system clock read, where [time.Now] is two.
func Now() Instant { return Instant(time.Since(start)) }

// OrNow returns i, or reads the clock if i is Unknown.
func (i Instant) OrNow() Instant {
	if i == Unknown {
		return Now()
	}
	return i
}

// anchorAge is how long the wall clock is not looked at again.
const anchorAge = time.Second

// anchor is one moment on both clocks.
type anchor struct {
	at   Instant
	time time.Time
}

var anchored atomic.Pointer[anchor]

// After returns the time d after i, with a reading of both clocks. Where i is Unknown or d
// negative, it means nothing. That of the monotonic clock is exact. That of the wall clock
// counts on from when it was last looked at, within a second of i, and so is wrong by what
// the wall clock was set, or the machine slept, since.
func (i Instant) After(d time.Duration) time.Time {
	a := anchored.Load()
	if a == nil || time.Duration(i-a.at).Abs() > anchorAge {
		now := time.Now()
		a = &anchor{Instant(now.Sub(start)), now}
		anchored.Store(a)
	}
	// One addition to a time is most of what this costs.
	since := time.Duration(i - a.at)
	return a.time.Add(since + min(d, math.MaxInt64-max(since, 0)))
}

// Clock counts nanoseconds from its construction. It is monotonic. The zero Clock is not
// usable.
//
// It begins where the policy is made, so that its readings are small numbers inside a
// testing/synctest bubble as well, whose time is years from that of the process.
type Clock struct{ zero Instant }

// New returns a clock that reads zero now.
func New() Clock { return Clock{Now()} }

// Now returns the nanoseconds since New. Compare differences, never the sign: a
// clock made outside a synctest bubble is negative inside.
func (c Clock) Now() int64 { return c.At(Now()) }

// Time returns the time at which the clock has the reading ns, as [Instant.After] does.
func (c Clock) Time(ns int64) time.Time { return (c.zero + Instant(ns)).After(0) }

// At returns the reading that the clock has at i, which is not Unknown.
func (c Clock) At(i Instant) int64 { return int64(i - c.zero) }
