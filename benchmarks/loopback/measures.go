package loopback

import (
	"slices"
	"time"

	"github.com/mettle-go/mettle/benchmarks/scorecard"
)

// Measures are figures of a contender in a round, by name. What scorecard has as well is
// called as there.
type Measures map[string]float64

// Units and meanings of the measures. All but the last three count requests that were due,
// and attempts that were sent, from the beginning of the fault to the end of the round.
const (
	During    = "during" // share of the requests during the fault that were answered in time
	After     = "after"  // the same after it
	Lost      = scorecard.Lost
	Amplified = scorecard.Amplified // attempts that clients sent over requests
	Recover   = scorecard.Recover
	Opens     = scorecard.Opens
	Possible  = scorecard.Possible // share of the requests answered in time over that of the attempts that do not fail
	P50       = scorecard.P50
	P99       = scorecard.P99
	P999      = scorecard.P999
	Cut       = scorecard.Cut
	Extra     = scorecard.Extra

	Arrived    = "arrived"    // attempts that reached the server over requests, in the whole round
	Late       = "late"       // seconds by which requests were sent later than they were due, 99th percentile, without those during an outage
	Machine    = "machine"    // share of its time that the machine was busy, whatever with
	Processors = "processors" // share of the machine's time that one server and one client took
)

// Quiet is the most by which requests may be late, in seconds, if what is measured is to be
// the contenders and not the machine: a fifth of what an attempt is given.
const Quiet = 0.020

// Lateness returns by how much they were in a round, of the contender that had it worst.
func Lateness(results []Result) (worst float64) {
	for _, r := range results {
		worst = max(worst, r.Measures[Late])
	}
	return worst
}

// there reports whether there is a server at time t.
func (w World) there(t time.Duration) bool { return !w.Down && !w.Hang || t < w.From || t >= w.To }

// never stands for a recovery that did not come.
const never = 60.0

func measure(w World, r *Report, seen int) Measures {
	m := Measures{
		Amplified: over(count(r.Sent, w.From, w.Until), len(r.due(w.From, w.Until))),
		Opens:     float64(r.Opens),
		Arrived:   over(seen, len(r.Requests)),
		Late:      quantile(collect(r.Requests, func(q Request) (time.Duration, bool) { return q.Late, w.there(q.At) }), 0.99),
	}
	took := collect(r.due(w.From, w.Until), func(q Request) (time.Duration, bool) { return q.Took, w.good(q) })
	m[P50], m[P99], m[P999] = quantile(took, 0.50), quantile(took, 0.99), quantile(took, 0.999)
	during := r.due(w.From, w.To)
	m[During] = w.share(during)
	switch {
	case w.Down || w.Hang:
		after := r.due(w.To, w.Until)
		m[After] = w.share(after)
		m[Lost] = over(len(during)+len(after)-w.count(during)-w.count(after), len(during))
		m[Recover] = r.recovered(w)
	case w.Fail > 0:
		m[Possible] = m[During] / (1 - w.Fail)
	case w.Slow > 0:
		m[Extra] = m[Amplified] - 1
	}
	return m
}

// beside fills in what compares the contenders of a round.
func beside(results []Result) {
	i := slices.IndexFunc(results, func(r Result) bool { return r.Contender == "timeout" })
	if i < 0 || results[i].Measures[Extra] != 0 {
		return
	}
	plain := results[i].Measures[P999]
	for _, r := range results {
		if _, ok := r.Measures[Extra]; ok && r.Measures[P999] > 0 {
			r.Measures[Cut] = plain / r.Measures[P999]
		}
	}
}

// due returns the requests that were due from one time to another.
func (r *Report) due(from, to time.Duration) []Request {
	at := func(t time.Duration) int {
		i, _ := slices.BinarySearchFunc(r.Requests, t, func(q Request, t time.Duration) int { return int(q.At - t) })
		return i
	}
	return r.Requests[at(from):at(to)]
}

// good reports whether there was an answer in time.
func (w World) good(q Request) bool { return q.OK && q.Took >= 0 && q.Took <= w.Deadline }

// share returns the share of requests to which there was.
func (w World) share(requests []Request) float64 { return over(w.count(requests), len(requests)) }

func (w World) count(requests []Request) (n int) {
	for _, q := range requests {
		if w.good(q) {
			n++
		}
	}
	return n
}

// recovered returns the seconds from the end of the fault to the beginning of the first
// two during which no second had less than 0.95 of its requests answered in time.
func (r *Report) recovered(w World) float64 {
	const lasting, step = 2 * time.Second, 100 * time.Millisecond
	since := w.To
	for at := w.To; at+time.Second <= w.Until; at += step {
		if second := r.due(at, at+time.Second); w.share(second) < 0.95 {
			since = at + step
			continue
		}
		if at+time.Second-since >= lasting {
			return (since - w.To).Seconds()
		}
	}
	return never
}

// count returns how many of times are from one time to another.
func count(times []time.Duration, from, to time.Duration) (n int) {
	for _, t := range times {
		if t >= from && t < to {
			n++
		}
	}
	return n
}

func collect(requests []Request, of func(Request) (time.Duration, bool)) (seconds []float64) {
	for _, q := range requests {
		if d, ok := of(q); ok {
			seconds = append(seconds, d.Seconds())
		}
	}
	return seconds
}

// quantile returns the value below which the share p of values lies, 0 of none. It sorts
// them.
func quantile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[min(int(p*float64(len(values))), len(values)-1)]
}

func over(a, b int) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}
