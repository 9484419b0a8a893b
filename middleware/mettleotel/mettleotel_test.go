package mettleotel_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettleotel"
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

// register returns a reader of all that the observables show.
func register(t *testing.T, observables ...mettle.Observable) *sdk.ManualReader {
	t.Helper()
	reader := sdk.NewManualReader()
	provider := sdk.NewMeterProvider(sdk.WithReader(reader))
	_, err := mettleotel.Register(provider.Meter("test"), observables...)
	require.NoError(t, err)
	return reader
}

// collect returns name -> attributes -> value.
func collect(t *testing.T, reader sdk.Reader) map[string]map[string]float64 {
	t.Helper()
	var rm metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &rm))
	values := make(map[string]map[string]float64)
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			values[m.Name] = points(t, m)
		}
	}
	return values
}

func points(t *testing.T, m metricdata.Metrics) map[string]float64 {
	values := make(map[string]float64)
	switch data := m.Data.(type) {
	case metricdata.Sum[float64]:
		assert.True(t, data.IsMonotonic)
		for _, p := range data.DataPoints {
			values[p.Attributes.Encoded(encoder{})] = p.Value
		}
	case metricdata.Gauge[float64]:
		for _, p := range data.DataPoints {
			values[p.Attributes.Encoded(encoder{})] = p.Value
		}
	case metricdata.Gauge[int64]:
		for _, p := range data.DataPoints {
			values[p.Attributes.Encoded(encoder{})] = float64(p.Value)
		}
	default:
		t.Fatalf("%s is a %T", m.Name, m.Data)
	}
	return values
}

func TestInstruments(t *testing.T) {
	reader := register(t, metrics{
		{Kind: mettle.Counter, Name: "mettle.x.calls", Unit: "{call}", Help: "Calls.", Labels: label("policy", "a"), Value: 3},
		{Kind: mettle.Counter, Name: "mettle.x.calls", Unit: "{call}", Help: "Calls.", Labels: label("policy", "b"), Value: 4},
		{Kind: mettle.Gauge, Name: "mettle.x.delay", Unit: "s", Help: "Delay.", Value: 0.5},
	})
	var rm metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &rm))
	require.Len(t, rm.ScopeMetrics, 1)
	require.Len(t, rm.ScopeMetrics[0].Metrics, 2)
	calls, delay := rm.ScopeMetrics[0].Metrics[0], rm.ScopeMetrics[0].Metrics[1]
	assert.Equal(t, "mettle.x.calls", calls.Name)
	assert.Equal(t, "{call}", calls.Unit)
	assert.Equal(t, "Calls.", calls.Description)
	assert.IsType(t, metricdata.Sum[float64]{}, calls.Data)
	assert.Equal(t, map[string]float64{"policy=a": 3, "policy=b": 4}, points(t, calls))
	assert.Equal(t, "s", delay.Unit)
	assert.IsType(t, metricdata.Gauge[float64]{}, delay.Data)
	assert.Equal(t, map[string]float64{"": 0.5}, points(t, delay))
}

// What a reader could not take is left out and reported; all the rest is there.
func TestNonsenseDoesNotBreakTheCollection(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		bad          metrics
	}{
		{"empty name", "name", metrics{{Name: ""}}},
		{"illegal name", "name", metrics{{Name: "mettle é"}}},
		{"name of the report", "name", metrics{{Name: "mettle.Dropped_metrics"}}},
		{"name too long", "name", metrics{{Name: strings.Repeat("a", 256)}}},
		{"not a number", "value", metrics{{Kind: mettle.Gauge, Name: "a", Value: math.NaN()}}},
		{"negative counter", "value", metrics{{Name: "a", Value: -1}}},
		{"infinite counter", "value", metrics{{Name: "a", Value: math.Inf(1)}}},
		{"unknown kind", "kind", metrics{{Kind: 7, Name: "a"}}},
		{"counter and gauge", "kind", metrics{{Kind: mettle.Gauge, Name: "a"}, {Name: "a"}}},
		{"empty label key", "label", metrics{{Name: "a", Labels: label("", "x")}}},
		{"label twice", "label", metrics{{Name: "a", Labels: label("x", "1", "x", "2")}}},
		{"series twice", "duplicate", metrics{{Name: "a", Value: 1}, {Name: "a", Value: 2}}},
		{"series twice, other order", "duplicate", metrics{
			{Name: "a", Labels: label("x", "1", "y", "2")}, {Name: "a", Labels: label("y", "2", "x", "1")},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			values := collect(t, register(t, tt.bad, metrics{{Kind: mettle.Gauge, Name: "good", Value: 42}}))
			assert.Equal(t, 42.0, values["good"][""])
			require.Len(t, values["mettle.dropped_metrics"], 1)
			for attributes, n := range values["mettle.dropped_metrics"] {
				assert.Contains(t, attributes, "reason="+tt.reason)
				assert.Equal(t, 1.0, n)
			}
		})
	}
}

// Two registrations do not know of one another.
func TestRegistrationsOfTheSameSeries(t *testing.T) {
	reader := sdk.NewManualReader()
	meter := sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")
	for _, n := range []float64{1, 2} {
		_, err := mettleotel.Register(meter, metrics{{Name: "calls", Value: n}})
		require.NoError(t, err)
	}
	assert.Equal(t, map[string]float64{"": 3}, collect(t, reader)["calls"])
}

// growing shows one more metric each time it is asked.
type growing struct{ n int }

func (g *growing) Observe(yield func(mettle.Metric) bool) {
	g.n++
	for i := range g.n {
		if !yield(mettle.Metric{Kind: mettle.Gauge, Name: fmt.Sprintf("m%d", i), Value: float64(i)}) {
			return
		}
	}
}

func TestNamesThatComeLate(t *testing.T) {
	values := collect(t, register(t, new(growing)))
	assert.Contains(t, values, "m0")
	assert.NotContains(t, values, "m1")
	assert.Equal(t, map[string]float64{"metric=m1,reason=late": 1}, values["mettle.dropped_metrics"])
}

// Spec: O5 (part)
func TestLabelsFromOutside(t *testing.T) {
	values := collect(t, register(t, metrics{
		{Kind: mettle.Gauge, Name: "a", Labels: label("policy", strings.Repeat("a", 199)+"éé"+strings.Repeat("b", 1<<20))},
	}))
	assert.Equal(t, map[string]float64{"policy=" + strings.Repeat("a", 199) + "\uFFFD…": 0}, values["a"])
}

func TestReportIsBounded(t *testing.T) {
	var bad metrics
	for i := range 1000 {
		bad = append(bad, mettle.Metric{Name: fmt.Sprintf("%d", i)})
	}
	report := collect(t, register(t, bad))["mettle.dropped_metrics"]
	assert.Len(t, report, 33)
	var sum float64
	for _, n := range report {
		sum += n
	}
	assert.Equal(t, 1000.0, sum)
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

func TestConcurrentReaders(t *testing.T) {
	pipeline := mettle.Compose(new(counting))
	readers := []sdk.Reader{sdk.NewManualReader(), sdk.NewManualReader()}
	provider := sdk.NewMeterProvider(sdk.WithReader(readers[0]), sdk.WithReader(readers[1]))
	registration, err := mettleotel.Register(provider.Meter("test"), pipeline)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			var rm metricdata.ResourceMetrics
			for range 100 {
				if pipeline.Do(t.Context(), func(context.Context) error { return nil }) != nil {
					t.Error("the call failed")
				}
				if err := readers[i%2].Collect(t.Context(), &rm); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, reader := range readers {
		assert.Equal(t, map[string]float64{"policy=mine": 800}, collect(t, reader)["mine.calls"])
	}
	require.NoError(t, registration.Unregister())
	assert.Empty(t, collect(t, readers[0]), "nothing is shown once unregistered")
}

func TestNilPanics(t *testing.T) {
	meter := sdk.NewMeterProvider().Meter("test")
	assert.PanicsWithValue(t, "mettleotel: Register: nil Observable", func() { _, _ = mettleotel.Register(meter, nil) })
	assert.PanicsWithValue(t, "mettleotel: Register: nil Meter", func() { _, _ = mettleotel.Register(nil) })
}
