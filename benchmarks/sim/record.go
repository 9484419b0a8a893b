package sim

import (
	"slices"
	"time"
)

// KeyCount counts the requests for one key, from Config.From to Config.To.
type KeyCount struct{ Offered, Good int }

// Bin is how long the intervals are in which a [Record] counts.
const Bin = 100 * time.Millisecond

// Record is what happened in a world, in bins.
type Record struct {
	deadline, from, to time.Duration

	// By the time at which requests were meant to be sent.
	Offered []int // requests
	Good    []int // of these, answered with success within the deadline
	Local   []int // of these, refused without a single attempt

	// By the time at which attempts were sent.
	Sent []int

	// Latency holds the seconds from intended time to answer of the requests that
	// succeeded in time, All those of all requests that have ended.
	Latency, All []float32

	// Keys counts the requests for each key, and those of them that were good.
	Keys []KeyCount

	Work   float64 // of servers, in seconds at speed 1
	Useful float64 // of this, what made a request succeed in time
	Late   int     // requests that ended after their deadline
	Failed int     // requests that did not succeed in time
}

func newRecord(c Config) *Record {
	bins := int((c.Until+c.Drain)/Bin) + 2
	return &Record{
		deadline: c.Deadline, from: c.From, to: c.To,
		Offered: make([]int, bins),
		Good:    make([]int, bins),
		Local:   make([]int, bins),
		Sent:    make([]int, bins),
	}
}

func (r *Record) bin(t time.Duration) int { return min(int(t/Bin), len(r.Sent)-1) }

func (r *Record) sent(t time.Duration, _ *Request, reply Reply) {
	r.Sent[r.bin(t)]++
	r.Work += reply.Work
}

func (r *Record) ended(q *Request, now time.Duration, err error) {
	bin, took := r.bin(q.At), now-q.At
	r.Offered[bin]++
	r.All = append(r.All, float32(took.Seconds()))
	if took > r.deadline {
		r.Late++
	}
	good := err == nil && took <= r.deadline
	if q.At >= r.from && q.At < r.to {
		r.countKey(q.Key, good)
	}
	if good {
		r.Good[bin]++
		r.Useful += q.won
		r.Latency = append(r.Latency, float32(took.Seconds()))
		return
	}
	r.Failed++
	if q.Sends.Load() == 0 {
		r.Local[bin]++
	}
}

func (r *Record) countKey(key int, good bool) {
	for len(r.Keys) <= key {
		r.Keys = append(r.Keys, KeyCount{})
	}
	r.Keys[key].Offered++
	if good {
		r.Keys[key].Good++
	}
}

// Sum adds up the bins from one time to another.
func Sum(bins []int, from, to time.Duration) (n int) {
	for i := int(from / Bin); i < min(int(to/Bin), len(bins)); i++ {
		n += bins[i]
	}
	return n
}

// Quantile returns the value below which the share p of values lies. It sorts them.
func Quantile(values []float32, p float64) float64 {
	if len(values) == 0 {
		return 0
	}
	if !slices.IsSorted(values) {
		slices.Sort(values)
	}
	return float64(values[min(int(p*float64(len(values))), len(values)-1)])
}
