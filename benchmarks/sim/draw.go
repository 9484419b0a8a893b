package sim

import "math"

// Draw is the source of one random number. The same seed, request, attempt and purpose
// always give the same number: what a library does, and when, draws no other numbers
// than it would have met otherwise (common random numbers).
type Draw struct {
	Seed    uint64
	Request int
	Attempt int
	Purpose Purpose
}

// Purpose tells numbers of the same attempt apart.
type Purpose uint8

// What numbers are drawn for.
const (
	ForArrival Purpose = iota
	ForClient
	ForKey
	ForService
	ForFailure
	ForNetwork
	ForSpare
)

// Uniform returns a number in (0, 1).
func (d Draw) Uniform() float64 {
	h := mix(d.Seed ^ 0x9e3779b97f4a7c15)
	h = mix(h ^ uint64(d.Request))
	h = mix(h ^ uint64(d.Attempt)<<8 ^ uint64(d.Purpose))
	return (float64(h>>11) + 0.5) / (1 << 53)
}

// mix is the finalizer of SplitMix64 (Steele, Lea, Flood, Fast Splittable Pseudorandom
// Number Generators, OOPSLA 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Exp returns a number with an exponential distribution of mean 1.
func (d Draw) Exp() float64 { return -math.Log(d.Uniform()) }

// Normal returns a number with the standard normal distribution.
func (d Draw) Normal() float64 { return math.Sqrt2 * math.Erfinv(2*d.Uniform()-1) }

// Lognormal returns a number with a lognormal distribution of mean 1 and the given
// coefficient of variation.
func (d Draw) Lognormal(cv float64) float64 {
	variance := math.Log(1 + cv*cv)
	return math.Exp(math.Sqrt(variance)*d.Normal() - variance/2)
}

// Below returns a whole number in [0, n).
func (d Draw) Below(n int) int { return min(int(d.Uniform()*float64(n)), n-1) }
