package mettleprom_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettleprom"
)

// metrics is an Observable that yields what it holds.
type metrics []mettle.Metric

func (ms metrics) Observe(yield func(mettle.Metric) bool) {
	for _, m := range ms {
		if !yield(m) {
			return
		}
	}
}

func label(kv ...string) (labels []mettle.Label) {
	for i := 0; i < len(kv); i += 2 {
		labels = append(labels, mettle.Label{Key: kv[i], Value: kv[i+1]})
	}
	return labels
}

func TestNames(t *testing.T) {
	for _, tt := range []struct {
		kind       mettle.Kind
		name, unit string
		want       string
	}{
		{mettle.Counter, "mettle.retry.attempts", "{attempt}", "mettle_retry_attempts_total"},
		{mettle.Counter, "mettle.bulkhead.wait_time", "s", "mettle_bulkhead_wait_time_seconds_total"},
		{mettle.Counter, "mine.wait_seconds", "s", "mine_wait_seconds_total"},
		{mettle.Counter, "mine.calls_total", "1", "mine_calls_total"},
		{mettle.Gauge, "mettle.breaker.remaining_delay", "s", "mettle_breaker_remaining_delay_seconds"},
		{mettle.Gauge, "mettle.breaker.state", "1", "mettle_breaker_state"},
		{mettle.Gauge, "mine.buffer", "By", "mine_buffer_bytes"},
		{mettle.Gauge, "mine.delay", "ms", "mine_delay_seconds"},
		{mettle.Gauge, "mine.temperature", "Cel", "mine_temperature"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := mettleprom.NewCollector(metrics{{Kind: tt.kind, Name: tt.name, Unit: tt.unit, Help: "Help.", Value: 1}})
			families := gather(t, c)
			require.Len(t, families, 1)
			assert.Contains(t, families, tt.want)
		})
	}
}

func TestConvertsToBaseUnits(t *testing.T) {
	c := mettleprom.NewCollector(metrics{
		{Kind: mettle.Gauge, Name: "a", Unit: "ms", Value: 1500},
		{Kind: mettle.Gauge, Name: "b", Unit: "us", Value: 1500},
		{Kind: mettle.Gauge, Name: "c", Unit: "ns", Value: 1500},
	})
	families := gather(t, c)
	assert.InDelta(t, 1.5, families["a_seconds"][""], 1e-12)
	assert.InDelta(t, 1.5e-3, families["b_seconds"][""], 1e-12)
	assert.InDelta(t, 1.5e-6, families["c_seconds"][""], 1e-12)
}

// Several policies have the same metrics, told apart by their labels. Theirs need
// not even have the same keys, nor come in the same order, nor the same help.
func TestSeveralPolicies(t *testing.T) {
	c := mettleprom.NewCollector(
		metrics{{Kind: mettle.Counter, Name: "mettle.x.calls", Help: "Calls.", Labels: label("policy", "a", "outcome", "success"), Value: 1}},
		metrics{
			{Kind: mettle.Counter, Name: "mettle.x.calls", Help: "Calls!", Labels: label("outcome", "success", "policy", "b"), Value: 2},
			{Kind: mettle.Counter, Name: "mettle.x.calls", Help: "Calls.", Labels: label("policy", "b"), Value: 3},
		},
	)
	require.NoError(t, testutil.CollectAndCompare(c, strings.NewReader(`
# HELP mettle_x_calls_total Calls.
# TYPE mettle_x_calls_total counter
mettle_x_calls_total{policy="b"} 3
mettle_x_calls_total{outcome="success",policy="a"} 1
mettle_x_calls_total{outcome="success",policy="b"} 2
`)))
}

// What Prometheus cannot take is left out and reported; all the rest is there.
func TestNonsenseDoesNotBreakTheScrape(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		bad          metrics
	}{
		{"empty name", "name", metrics{{Name: ""}}},
		{"only dots and digits", "name", metrics{{Name: "9.9"}}},
		{"illegal name", "name", metrics{{Name: "mettle.é"}}},
		{"name of invalid UTF-8", "name", metrics{{Name: "a\xff"}}},
		{"not a number", "value", metrics{{Kind: mettle.Gauge, Name: "a", Value: math.NaN()}}},
		{"negative counter", "value", metrics{{Name: "a", Value: -1}}},
		{"infinite counter", "value", metrics{{Name: "a", Value: math.Inf(1)}}},
		{"unknown kind", "kind", metrics{{Kind: 7, Name: "a"}}},
		{"counter and gauge", "kind", metrics{{Kind: mettle.Gauge, Name: "a_total"}, {Name: "a"}}},
		{"name of the report", "kind", metrics{{Kind: mettle.Gauge, Name: "mettle.dropped_metrics"}}},
		{"label key", "label", metrics{{Name: "a", Labels: label("po licy", "x")}}},
		{"empty label key", "label", metrics{{Name: "a", Labels: label("", "x")}}},
		{"reserved label key", "label", metrics{{Name: "a", Labels: label("__name__", "x")}}},
		{"label twice", "label", metrics{{Name: "a", Labels: label("x.y", "1", "x_y", "2")}}},
		{"series twice", "duplicate", metrics{{Name: "a", Value: 1}, {Name: "a", Value: 2}}},
		{"series twice, by translation", "duplicate", metrics{{Name: "a.b", Value: 1}, {Name: "a_b", Value: 2}}},
		{"series twice, other order", "duplicate", metrics{
			{Name: "a", Labels: label("x", "1", "y", "2")}, {Name: "a", Labels: label("y", "2", "x", "1")},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			good := metrics{{Kind: mettle.Gauge, Name: "good", Value: 42}}
			families := gather(t, mettleprom.NewCollector(tt.bad, good))
			assert.Equal(t, 42.0, families["good"][""])
			require.Len(t, families["mettle_dropped_metrics"], 1)
			for labels, n := range families["mettle_dropped_metrics"] {
				assert.Contains(t, labels, "reason="+tt.reason)
				assert.Equal(t, 1.0, n)
			}
		})
	}
}

func TestOddButValid(t *testing.T) {
	families := gather(t, mettleprom.NewCollector(metrics{
		{Kind: mettle.Gauge, Name: "limit", Value: math.Inf(1), Help: "No limit.\n\xff"},
		{Kind: mettle.Gauge, Name: "delta", Value: -1},
		{Kind: mettle.Gauge, Name: "le", Labels: label("le", "a\xffb\n\"", "quantile", "")},
	}))
	assert.Len(t, families, 3)
	assert.NotContains(t, families, "mettle_dropped_metrics")
}

// What comes from outside can neither break the scrape nor make it grow without end.
//
// Spec: O5 (part)
func TestLabelsFromOutside(t *testing.T) {
	long := strings.Repeat("a", 199) + "éé" + strings.Repeat("b", 1<<20)
	families := gather(t, mettleprom.NewCollector(metrics{
		{Name: "a", Labels: label("policy", long)},
		{Name: "b", Labels: label("policy", long+"c")},
		{Name: "b", Labels: label("policy", long+"d")}, // the same once it is cut
		{Name: "c", Labels: label("policy", "\"} 1\nmettle_forged 1")},
	}))
	assert.Equal(t, map[string]float64{"policy=" + strings.Repeat("a", 199) + "\uFFFD…;": 0}, families["a_total"])
	assert.Len(t, families["b_total"], 1)
	assert.Equal(t, map[string]float64{"metric=b;reason=duplicate;": 1}, families["mettle_dropped_metrics"])
	assert.Equal(t, map[string]float64{"policy=\"} 1\nmettle_forged 1;": 0}, families["c_total"])

	var flood metrics
	for i := range 12_000 {
		flood = append(flood, mettle.Metric{Name: "flood", Labels: label("key", fmt.Sprint(i))})
	}
	families = gather(t, mettleprom.NewCollector(flood))
	assert.Len(t, families["flood_total"], 10_000)
	assert.Equal(t, map[string]float64{"metric=flood;reason=limit;": 2000}, families["mettle_dropped_metrics"])
}

func TestReportIsBounded(t *testing.T) {
	var bad metrics
	for i := range 1000 {
		bad = append(bad, mettle.Metric{Name: fmt.Sprintf("%d", i)})
	}
	report := gather(t, mettleprom.NewCollector(bad))["mettle_dropped_metrics"]
	assert.Len(t, report, 33)
	var sum float64
	for _, n := range report {
		sum += n
	}
	assert.Equal(t, 1000.0, sum)
}

func TestSeveralCollectorsInOneRegistry(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	for _, name := range []string{"a", "b"} {
		require.NoError(t, registry.Register(mettleprom.NewCollector(
			metrics{{Name: "mettle.x.calls", Labels: label("policy", name)}})))
	}
	families, err := registry.Gather()
	require.NoError(t, err)
	require.Len(t, families, 1)
	assert.Len(t, families[0].Metric, 2)
}

// Two collectors do not know of one another. A label for each keeps them apart.
func TestCollectorsOfTheSameSeries(t *testing.T) {
	same := metrics{{Name: "mettle.x.calls", Value: 1}, {Name: "not a name"}}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(mettleprom.NewCollector(same))
	registry.MustRegister(mettleprom.NewCollector(same))
	_, err := registry.Gather()
	assert.ErrorContains(t, err, "was collected before")

	registry = prometheus.NewPedanticRegistry()
	for _, part := range []string{"a", "b"} {
		prometheus.WrapRegistererWith(prometheus.Labels{"part": part}, registry).
			MustRegister(mettleprom.NewCollector(same))
	}
	families, err := registry.Gather()
	require.NoError(t, err)
	require.Len(t, families, 2)
	assert.Len(t, families[0].Metric, 2)
	assert.Len(t, families[1].Metric, 2, "the reports are apart too")
}

// counting is a policy of the kind that users write.
type counting struct{ calls atomic.Int64 }

func (c *counting) Do(ctx context.Context, op func(context.Context) error) error {
	c.calls.Add(1)
	return op(ctx)
}

func (c *counting) Observe(yield func(mettle.Metric) bool) {
	yield(mettle.Metric{
		Name: "mine.calls", Unit: "{call}", Help: "Calls so far.",
		Labels: label("policy", "mine"), Value: float64(c.calls.Load()),
	})
}

func TestConcurrentScrapes(t *testing.T) {
	policy := new(counting)
	pipeline := mettle.Compose(policy)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(mettleprom.NewCollector(pipeline))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if pipeline.Do(t.Context(), func(context.Context) error { return nil }) != nil {
					t.Error("the call failed")
				}
				if _, err := registry.Gather(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	assert.Equal(t, 800.0, gather(t, mettleprom.NewCollector(pipeline))["mine_calls_total"]["policy=mine;"])
}

func TestNilObservablePanics(t *testing.T) {
	assert.PanicsWithValue(t, "mettleprom: NewCollector: nil Observable", func() { mettleprom.NewCollector(nil) })
}

// gather returns name -> labels -> value, as a pedantic registry sees them.
func gather(t *testing.T, c prometheus.Collector) map[string]map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(c))
	families, err := registry.Gather()
	require.NoError(t, err)
	values := make(map[string]map[string]float64)
	for _, f := range families {
		series := make(map[string]float64)
		for _, m := range f.Metric {
			var labels strings.Builder
			for _, l := range m.Label {
				fmt.Fprintf(&labels, "%s=%s;", l.GetName(), l.GetValue())
			}
			series[labels.String()] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
		values[f.GetName()] = series
	}
	return values
}
