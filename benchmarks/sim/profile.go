package sim

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Profile is a quantity that changes at known moments, such as the speed of a server or
// the rate of arrivals. It has the value of the last step that is not later; before the
// first, the value of the first. Steps are in order of time. The empty Profile is 1.
type Profile []Step

// Step is a change of a [Profile].
type Step struct {
	At    time.Duration // since the start of the world
	Value float64
}

// Constant is a Profile that never changes.
func Constant(v float64) Profile { return Profile{{0, v}} }

// Pulse is a Profile that is normal but for the time from at until at+d.
func Pulse(normal, other float64, at, d time.Duration) Profile {
	return Profile{{0, normal}, {at, other}, {at + d, normal}}
}

// At returns the value at time t.
func (p Profile) At(t time.Duration) float64 {
	v, _ := p.at(t)
	return v
}

// Most returns the greatest value of all.
func (p Profile) Most() float64 {
	if len(p) == 0 {
		return 1
	}
	return slices.MaxFunc(p, func(a, b Step) int { return cmp.Compare(a.Value, b.Value) }).Value
}

// at returns the value at time t, and when it ends.
func (p Profile) at(t time.Duration) (v float64, end time.Duration) {
	const never = math.MaxInt64
	if len(p) == 0 {
		return 1, never
	}
	// Profiles are short, and nearly all questions are about one of the first steps.
	i := 0
	for i+1 < len(p) && p[i+1].At <= t {
		i++
	}
	if i+1 < len(p) {
		return p[i].Value, p[i+1].At
	}
	return p[i].Value, never
}

// Forever is a time that never comes.
const Forever = time.Duration(math.MaxInt64)

// After returns when the integral of the profile from t on reaches amount, given in
// seconds times the value: when work of that amount is done by a server of that speed,
// or when so many arrivals have come. It is Forever if the integral never gets there.
func (p Profile) After(t time.Duration, amount float64) time.Duration {
	for {
		v, end := p.at(t)
		if v > 0 {
			if done := float64(t) + amount/v*1e9; done <= float64(end) && done < math.MaxInt64 {
				return time.Duration(done)
			}
			amount -= v * (end - t).Seconds()
		}
		if end == Forever {
			return Forever
		}
		t = end
	}
}

// Integral returns the integral of the profile between two times, in seconds times the
// value.
func (p Profile) Integral(from, to time.Duration) (sum float64) {
	for t := from; t < to; {
		v, end := p.at(t)
		end = min(end, to)
		sum += v * (end - t).Seconds()
		t = end
	}
	return sum
}
