// Package mettleprom shows the metrics of policies to Prometheus.
//
// Policies count what they do in any case, and the collector reads the counts when it
// is scraped, so that watching a policy costs its calls nothing:
//
//	registry.MustRegister(mettleprom.NewCollector(payments, search))
//
// # Names
//
// A dotted name becomes a Prometheus name: mettle.retry.attempts, a counter, is
// mettle_retry_attempts_total, and mettle.bulkhead.wait_time, a counter in "s", is
// mettle_bulkhead_wait_time_seconds_total. Seconds and bytes are the only units that add to a
// name; parts of a second ("ms", "us", "ns") are converted to seconds, as
// Prometheus wants base units. Dots in label keys become underscores too.
//
// # What cannot be shown
//
// A metric that Prometheus could not take would fail the whole scrape, with all the
// metrics that are in order. The collector leaves it out instead, and reports it as
// mettle_dropped_metrics, by reason and by the name of the metric:
//
//   - "name": the name is empty or has other characters than letters, digits,
//     underscores and dots.
//
//   - "label": a label key is no Prometheus label name, or occurs twice.
//
//   - "value": not a number, or a counter that is negative or infinite.
//
//   - "kind": neither a counter nor a gauge, or both under one name.
//
//   - "duplicate": the same name and labels have been seen in this scrape. Two
//     policies of one kind have the same Name, or none, or the same policy was given
//     twice.
//
//   - "limit": there have been 10,000 series in this scrape already.
//
// Label values may come from outside, such as the key in the name of a breaker of a group.
// They are cut after 200 bytes, and what is not UTF-8 in them is replaced; the client
// library escapes the rest.
//
// The report itself is a series only when there is something to report.
package mettleprom

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mettle-go/mettle"
)

// NewCollector returns a collector of the metrics of all the observables given: a
// policy, a pipeline with all its policies, or anything of the user's.
//
// Prefer one collector for all policies of a registry: only within a collector is a
// series that appears twice noticed and left out. Any number may be registered, since
// a collector describes no metric in advance, but two that yield the same series make
// the whole scrape fail. Where there must be several, and the names of their policies
// may be the same, register each with a label of its own:
//
//	prometheus.WrapRegistererWith(prometheus.Labels{"part": "search"}, registry).
//		MustRegister(mettleprom.NewCollector(search))
//
// The collector keeps no state and may be scraped concurrently. A nil observable
// panics.
func NewCollector(observables ...mettle.Observable) prometheus.Collector {
	for _, o := range observables {
		if o == nil {
			panic("mettleprom: NewCollector: nil Observable")
		}
	}
	return &collector{observables: slices.Clone(observables)}
}

type collector struct{ observables []mettle.Observable }

// Describe sends nothing, which makes the collector an unchecked one.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := scrape{
		ch:       ch,
		families: map[string]family{reportName: {kind: reserved}},
		seen:     make(map[string]struct{}),
		dropped:  make(map[drop]int),
	}
	for _, o := range c.observables {
		o.Observe(func(m mettle.Metric) bool {
			if reason := s.add(m); reason != "" {
				s.drop(reason, m.Name)
			}
			return true
		})
	}
	s.report()
}

// scrape is what one Collect remembers, so that what it sends is consistent.
type scrape struct {
	ch       chan<- prometheus.Metric
	families map[string]family
	seen     map[string]struct{} // series, by seriesKey
	dropped  map[drop]int
}

// family is what all series of one name must share.
type family struct {
	kind mettle.Kind
	help string
}

type drop struct{ reason, metric string }

const (
	reportName = "mettle_dropped_metrics"
	// reserved is the kind of the report's own name, and of no metric.
	reserved mettle.Kind = 255
)

// maxDrops bounds the series of the report, whatever an observable yields.
const maxDrops = 32

func (s *scrape) drop(reason, name string) {
	d := drop{reason, bounded(name)}
	if _, ok := s.dropped[d]; !ok && len(s.dropped) >= maxDrops {
		d.metric = "" // all the others together
	}
	s.dropped[d]++
}

const (
	// maxSeries bounds a scrape: more than a policy for each of what a process calls.
	maxSeries = 10_000
	// maxValue bounds a label value, in bytes. No name that somebody chose is so long.
	maxValue = 200
)

// add sends m, or returns the reason why not.
func (s *scrape) add(m mettle.Metric) (reason string) {
	if m.Kind != mettle.Counter && m.Kind != mettle.Gauge {
		return "kind"
	}
	unit := units[m.Unit]
	name, ok := metricName(m, unit.suffix)
	if !ok {
		return "name"
	}
	labels, ok := sortedLabels(m.Labels)
	if !ok {
		return "label"
	}
	value := m.Value
	if unit.factor != 0 {
		value *= unit.factor
	}
	if math.IsNaN(value) || m.Kind == mettle.Counter && (value < 0 || math.IsInf(value, 0)) {
		return "value"
	}

	f, known := s.families[name]
	if known && f.kind != m.Kind {
		return "kind"
	}
	key := seriesKey(name, labels)
	if _, dup := s.seen[key]; dup {
		return "duplicate"
	}
	if len(s.seen) >= maxSeries {
		return "limit"
	}
	if !known {
		// The first help text stands for all: a registry refuses a family whose
		// texts differ.
		f = family{kind: m.Kind, help: strings.ToValidUTF8(m.Help, "\uFFFD")}
	}
	if !s.send(name, f, labels, value) {
		return "label" // all else that the client library checks has been checked
	}
	s.families[name] = f
	s.seen[key] = struct{}{}
	return ""
}

func (s *scrape) send(name string, f family, labels []mettle.Label, value float64) bool {
	keys := make([]string, len(labels))
	values := make([]string, len(labels))
	for i, l := range labels {
		keys[i], values[i] = l.Key, l.Value
	}
	valueType := prometheus.CounterValue
	if f.kind == mettle.Gauge {
		valueType = prometheus.GaugeValue
	}
	m, err := prometheus.NewConstMetric(prometheus.NewDesc(name, f.help, keys, nil), valueType, value, values...)
	if err != nil {
		return false
	}
	s.ch <- m
	return true
}

var droppedDesc = prometheus.NewDesc(reportName,
	"Metrics left out of this scrape because they were not valid.", []string{"reason", "metric"}, nil)

func (s *scrape) report() {
	for d, n := range s.dropped {
		s.ch <- prometheus.MustNewConstMetric(droppedDesc, prometheus.GaugeValue, float64(n), d.reason, d.metric)
	}
}

// units has what a UCUM unit adds to a name. A factor of zero is one of 1.
var units = map[string]struct {
	suffix string
	factor float64
}{
	"s":  {"_seconds", 0},
	"ms": {"_seconds", 1e-3},
	"us": {"_seconds", 1e-6},
	"ns": {"_seconds", 1e-9},
	"By": {"_bytes", 0},
}

// metricName translates a dotted name. A suffix that the name has already is not
// added again.
func metricName(m mettle.Metric, unitSuffix string) (string, bool) {
	name := strings.ReplaceAll(m.Name, ".", "_")
	if !legal(name) {
		return "", false
	}
	if m.Kind == mettle.Counter {
		name = strings.TrimSuffix(name, "_total")
	}
	if !strings.HasSuffix(name, unitSuffix) {
		name += unitSuffix
	}
	if m.Kind == mettle.Counter {
		name += "_total"
	}
	return name, true
}

// sortedLabels returns a copy of the labels that Prometheus can take, by key.
func sortedLabels(labels []mettle.Label) ([]mettle.Label, bool) {
	sorted := make([]mettle.Label, len(labels))
	for i, l := range labels {
		l.Key = strings.ReplaceAll(l.Key, ".", "_")
		if !legal(l.Key) || strings.HasPrefix(l.Key, "__") {
			return nil, false
		}
		l.Value = bounded(l.Value)
		sorted[i] = l
	}
	slices.SortFunc(sorted, func(a, b mettle.Label) int { return cmp.Compare(a.Key, b.Key) })
	for i := 1; i < len(sorted); i++ {
		if sorted[i].Key == sorted[i-1].Key {
			return nil, false
		}
	}
	return sorted, true
}

// bounded returns a label value that is valid and not too long.
func bounded(s string) string {
	if len(s) > maxValue {
		s = s[:maxValue] + "…" // a rune that is cut in two is not valid, and replaced
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// seriesKey is the same for the same series only: 0xff is in no valid UTF-8.
func seriesKey(name string, labels []mettle.Label) string {
	var b strings.Builder
	b.WriteString(name)
	for _, l := range labels {
		b.WriteByte(0xff)
		b.WriteString(l.Key)
		b.WriteByte(0xff)
		b.WriteString(l.Value)
	}
	return b.String()
}

// legal reports whether s is [a-zA-Z_][a-zA-Z0-9_]*, which every version of
// Prometheus and every query takes without quotes.
func legal(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_':
		case c >= '0' && c <= '9' && i > 0:
		default:
			return false
		}
	}
	return s != ""
}
