package scorecard

import (
	"time"

	"github.com/mettle-go/mettle/benchmarks/sim"
)

// Measures are figures of a run, by name.
type Measures map[string]float64

// Units and meanings of the measures that several scenarios have. What belongs to a
// fault counts from its beginning to a minute after its end.
const (
	Goodput   = "goodput"   // answers in time, in a second
	Share     = "share"     // goodput over that of the oracle in the same run
	Lost      = "lost"      // requests that did not succeed, over those that came during the fault
	Amplified = "amplified" // attempts over requests
	Worst     = "worst"     // the same, in the worst second
	Wasted    = "wasted"    // share of the server's work that made no request succeed in time
	P50       = "p50"       // seconds from intended time to answer, of the requests that succeeded in time
	P99       = "p99"
	P999      = "p999"
	Detect    = "detect"   // seconds from the fault to the first opening, mean over the clients that opened
	Recover   = "recover"  // seconds from the end of the fault to 5 s at 0.95 of the oracle's goodput
	Opens     = "opens"    // openings of breakers
	Hourly    = "opens/h"  // the same in an hour, of all clients together
	Tripped   = "tripped"  // share of the clients that opened at least once
	Refusals  = "refused"  // share of requests refused without an attempt
	Possible  = "possible" // goodput over that which is possible without resending
	Others    = "others"   // share of the requests that have nothing to do with the fault and succeed in time
	Errors    = "errors"   // share of requests that do not succeed in time
	Again     = "again"    // seconds with less than half of the oracle's goodput, from 2 s after the fault on
	Peak      = "peak"     // most attempts in a second over what the scenario compares them with
	Width     = "width"    // rates at which a server does not recover from overload, over those it can do
	Hopeless  = "hopeless" // share of attempts that began with less time left than the median service takes
	Cut       = "cut"      // p99.9 without hedges over that with them
	Extra     = "extra"    // calls beyond those that are needed, over those
	Probes    = "probes"   // attempts in a second and per client, once the fault is detected
	Ahead     = "ahead"    // of a peer: goodput of ours over its own, with the same seed, at least one a second
)

const (
	aftermath = time.Minute // after a fault, that counts as a part of it
	never     = 60.0        // for a time that did not come
)

// whole returns the measures of a run from one time to another.
func (t *trial) whole(best *trial, from, to time.Duration) Measures {
	span := (to - from).Seconds()
	offered, good := sim.Sum(t.Offered, from, to), sim.Sum(t.Good, from, to)
	sent, local := sim.Sum(t.Sent, from, to), sim.Sum(t.Local, from, to)
	m := Measures{
		Goodput:   float64(good) / span,
		Share:     over(good, sim.Sum(best.Good, from, to)),
		Amplified: over(sent, offered),
		Worst:     t.worst(from, to),
		P50:       sim.Quantile(t.Latency, 0.50),
		P99:       sim.Quantile(t.Latency, 0.99),
		P999:      sim.Quantile(t.Latency, 0.999),
		Refusals:  over(local, offered),
		Opens:     float64(len(t.opened)),
	}
	if t.Work > 0 {
		m[Wasted] = 1 - t.Useful/t.Work
	}
	return m
}

// fault returns the measures of a run with a fault.
func (t *trial) fault(best *trial) Measures {
	end := min(t.to+aftermath, t.until)
	m := t.whole(best, t.from, end)
	during := sim.Sum(t.Offered, t.from, t.to)
	m[Lost] = over(sim.Sum(t.Offered, t.from, end)-sim.Sum(t.Good, t.from, end), during)
	m[Recover] = t.recovered(best)
	if d, ok := t.detected(); ok {
		m[Detect] = d
	}
	return m
}

// worst returns the most attempts over mean requests in a second.
func (t *trial) worst(from, to time.Duration) float64 {
	most := 0
	for at := from; at+time.Second <= to; at += sim.Bin {
		most = max(most, sim.Sum(t.Sent, at, at+time.Second))
	}
	mean := float64(sim.Sum(t.Offered, from, to)) / (to - from).Seconds()
	return float64(most) / mean
}

// recovered returns the seconds from the end of the fault to the beginning of the first
// five during which no second had less than 0.95 of the oracle's goodput.
func (t *trial) recovered(best *trial) float64 {
	const lasting = 5 * time.Second
	since := t.to
	for at := t.to; at+time.Second <= t.until; at += sim.Bin {
		good, most := sim.Sum(t.Good, at, at+time.Second), sim.Sum(best.Good, at, at+time.Second)
		if float64(good) < 0.95*float64(most) {
			since = at + sim.Bin
			continue
		}
		if at+time.Second-since >= lasting {
			return (since - t.to).Seconds()
		}
	}
	return never
}

// detected returns the mean seconds from the beginning of the fault to the first opening
// of a client, over those that opened during it.
func (t *trial) detected() (mean float64, ok bool) {
	first := make(map[int]time.Duration)
	for _, o := range t.opened {
		if _, known := first[o.client]; !known && o.at >= t.from && o.at < t.to {
			first[o.client] = o.at - t.from
		}
	}
	for _, d := range first {
		mean += d.Seconds() / float64(len(first))
	}
	return mean, len(first) > 0
}

// tripped returns the share of the clients that opened at least once.
func (t *trial) tripped() float64 {
	opened := make(map[int]bool)
	for _, o := range t.opened {
		opened[o.client] = true
	}
	return float64(len(opened)) / float64(t.clients)
}

func over(a, b int) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}
