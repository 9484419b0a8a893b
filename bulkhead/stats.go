package bulkhead

import (
	"log/slog"
	"time"

	"github.com/mettle-go/mettle"
)

// Stats is a snapshot of a bulkhead. The counts since New only grow.
type Stats struct {
	Limit    int // calls that may be in flight at once
	InFlight int // calls in flight; more than Limit only for a while after Resize
	MaxQueue int // calls that may wait at once; zero where nobody may wait
	Queued   int // calls that wait

	Refused uint64 // calls refused since New, the expired ones included
	Expired uint64 // calls of these that had waited for MaxWait

	Waits  uint64        // waits that have ended since New, with a slot or without
	Waited time.Duration // what these took together; it saturates after 292 years
}

// Stats returns a snapshot. InFlight, Limit and Queued belong to one moment: where
// Queued is above zero, InFlight is not below Limit.
func (b *Bulkhead) Stats() Stats {
	expired := b.expired.Load()
	s := Stats{Expired: expired, Refused: expired + b.refused.Load()}
	b.mu.Lock()
	w := b.load()
	s.Queued, s.Waits, s.Waited = b.queue.Len(), b.waits, b.waited
	b.mu.Unlock()
	s.Limit, s.InFlight = w.limit(), w.inFlight()
	if b.maxWait > 0 {
		s.MaxQueue = b.room(s.Limit)
	}
	return s
}

// Observe yields these metrics, with the label policy, which is the Name:
//
//	mettle.bulkhead.in_flight  gauge    {call}
//	mettle.bulkhead.limit      gauge    {call}
//	mettle.bulkhead.queued     gauge    {call}
//	mettle.bulkhead.max_queue  gauge    {call}
//	mettle.bulkhead.rejected   counter  {call}  by reason: full (at once), max_wait
//	mettle.bulkhead.waits      counter  {call}
//	mettle.bulkhead.wait_time  counter  s
//
// The last two tell the mean time in the queue, over any span of time. There is no
// count of calls, since it would cost every healthy call a write of its own.
func (b *Bulkhead) Observe(yield func(mettle.Metric) bool) {
	observe(b.Stats(), &b.labels, yield)
}

func observe(s Stats, labels *[3][]mettle.Label, yield func(mettle.Metric) bool) {
	for i := range metrics {
		m := metrics[i].Metric
		m.Labels = labels[metrics[i].label]
		m.Value = metrics[i].value(s)
		if !yield(m) {
			return
		}
	}
}

const (
	labelPlain = iota
	labelFull
	labelMaxWait
)

// newLabels makes the label sets once, so that Observe allocates none.
func newLabels(name string) [3][]mettle.Label {
	policy := mettle.Label{Key: "policy", Value: name}
	return [...][]mettle.Label{
		labelPlain:   {policy},
		labelFull:    {policy, {Key: "reason", Value: "full"}},
		labelMaxWait: {policy, {Key: "reason", Value: "max_wait"}},
	}
}

var metrics = [...]struct {
	mettle.Metric
	label int
	value func(Stats) float64
}{
	{mettle.Metric{Kind: mettle.Gauge, Name: "mettle.bulkhead.in_flight", Unit: "{call}",
		Help: "Calls in flight."},
		labelPlain, func(s Stats) float64 { return float64(s.InFlight) }},
	{mettle.Metric{Kind: mettle.Gauge, Name: "mettle.bulkhead.limit", Unit: "{call}",
		Help: "Calls that may be in flight at once."},
		labelPlain, func(s Stats) float64 { return float64(s.Limit) }},
	{mettle.Metric{Kind: mettle.Gauge, Name: "mettle.bulkhead.queued", Unit: "{call}",
		Help: "Calls waiting for a slot."},
		labelPlain, func(s Stats) float64 { return float64(s.Queued) }},
	{mettle.Metric{Kind: mettle.Gauge, Name: "mettle.bulkhead.max_queue", Unit: "{call}",
		Help: "Calls that may wait for a slot at once."},
		labelPlain, func(s Stats) float64 { return float64(s.MaxQueue) }},
	{mettle.Metric{Kind: mettle.Counter, Name: "mettle.bulkhead.rejected", Unit: "{call}",
		Help: "Calls refused, at once (full) or after a wait (max_wait)."},
		labelFull, func(s Stats) float64 { return float64(s.Refused - s.Expired) }},
	{mettle.Metric{Kind: mettle.Counter, Name: "mettle.bulkhead.rejected", Unit: "{call}",
		Help: "Calls refused, at once (full) or after a wait (max_wait)."},
		labelMaxWait, func(s Stats) float64 { return float64(s.Expired) }},
	{mettle.Metric{Kind: mettle.Counter, Name: "mettle.bulkhead.waits", Unit: "{call}",
		Help: "Waits for a slot that have ended, with a slot or without."},
		labelPlain, func(s Stats) float64 { return float64(s.Waits) }},
	{mettle.Metric{Kind: mettle.Counter, Name: "mettle.bulkhead.wait_time", Unit: "s",
		Help: "Time in the queue, over all waits that have ended."},
		labelPlain, func(s Stats) float64 { return s.Waited.Seconds() }},
}

// LogValue returns the configuration in force, under the names of the fields of
// [Config] and with the defaults filled in.
func (b *Bulkhead) LogValue() slog.Value {
	s := b.Stats()
	return slog.GroupValue(configAttrs(b.name, s.Limit, s.MaxQueue, b.maxWait, b.order)...)
}

// LogValue returns the configuration of the pool, as [Bulkhead.LogValue] does.
func (p *Pool) LogValue() slog.Value {
	p.part.mu.Lock()
	lend := p.part.shares[p.rank].lend
	p.part.mu.Unlock()
	return slog.GroupValue(append(configAttrs(p.name, p.limit, p.maxQueue, p.maxWait, p.order), slog.Int("Lend", lend))...)
}

// LogValue returns the configuration of every pool, by its name.
func (s *Partition) LogValue() slog.Value {
	var pools []slog.Attr
	for i := range s.pools {
		pools = append(pools, slog.Attr{Key: s.pools[i].key, Value: s.pools[i].LogValue()})
	}
	return slog.GroupValue(pools...)
}

func (l *byName) LogValue() slog.Value { return l.s.LogValue() }

func configAttrs(name string, limit, maxQueue int, maxWait time.Duration, order Order) []slog.Attr {
	return []slog.Attr{
		slog.String("Name", name), slog.Int("Limit", limit), slog.Int("MaxQueue", maxQueue),
		slog.Duration("MaxWait", maxWait), slog.String("Order", order.String()),
	}
}
