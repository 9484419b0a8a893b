// Package clock reads the time once and cheaply.
package clock

import "time"

// Clock counts nanoseconds from its construction. It is monotonic: a step of the
// wall clock changes nothing. The zero Clock is not usable.
//
// [time.Since] of a base with a monotonic reading is one system clock read where
// [time.Now] is two. Take the base where the policy is made and not in a package
// variable: inside a testing/synctest bubble a base from outside is years off.
type Clock struct{ base time.Time }

// New returns a clock that reads zero now.
func New() Clock { return Clock{time.Now()} }

// Now returns the nanoseconds since New. Compare differences, never the sign: a
// clock made outside a synctest bubble is negative inside.
func (c Clock) Now() int64 { return int64(time.Since(c.base)) }

// Time returns the time of day at which the clock has the reading ns: that of New and
// what has passed since, whatever the wall clock was set to meanwhile.
func (c Clock) Time(ns int64) time.Time { return c.base.Add(time.Duration(ns)) }

// At returns the reading that the clock has at t, such as a context's deadline.
func (c Clock) At(t time.Time) int64 { return int64(t.Sub(c.base)) }
