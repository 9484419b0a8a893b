package mettleotel_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/fallback"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/middleware/mettleotel"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

func pipeline(name string) *mettle.Pipeline {
	return mettle.Compose(
		fallback.New(fallback.Config{Name: name, Run: func(_ context.Context, err error) error { return err }}),
		timeout.New(timeout.Config{Name: name}),
		retry.New(retry.Config{Name: name}),
		hedge.New(hedge.Config{Name: name}),
		breaker.New(breaker.Config{Name: name}),
		bulkhead.New(bulkhead.Config{Name: name}),
	)
}

// All that the policies yield arrives, name by name and value by value, and under names as
// OpenTelemetry wants them: times in seconds, and no suffix that says so or tells a counter.
//
// Spec: O2 (part)
func TestPolicies(t *testing.T) {
	a, b := pipeline("a"), pipeline("b")
	reader := register(t, a, b)
	for range 3 {
		assert.NoError(t, a.Do(t.Context(), func(context.Context) error { return nil }))
	}
	values := collect(t, reader)
	assert.NotContains(t, values, "mettle.dropped_metrics", "%v", values["mettle.dropped_metrics"])
	assert.Equal(t, 3.0, values["mettle.breaker.calls"]["outcome=success,policy=a"])
	assert.Equal(t, 0.0, values["mettle.breaker.calls"]["outcome=success,policy=b"])

	for name := range values {
		assert.Regexp(t, `^mettle\.[a-z_.]+$`, name)
		assert.NotRegexp(t, `_(total|seconds|ratio)$`, name)
	}
	for m := range a.Observe {
		assert.NotContains(t, []string{"ms", "us", "ns"}, m.Unit, m.Name)
	}

	yielded, arrived := 0, 0
	count := func(mettle.Metric) bool { yielded++; return true }
	a.Observe(count)
	b.Observe(count)
	for _, points := range values {
		arrived += len(points)
	}
	assert.Equal(t, yielded, arrived)
}

func BenchmarkCollect(b *testing.B) {
	reader := sdk.NewManualReader()
	provider := sdk.NewMeterProvider(sdk.WithReader(reader))
	if _, err := mettleotel.Register(provider.Meter("test"), pipeline("a"), pipeline("b")); err != nil {
		b.Fatal(err)
	}
	var rm metricdata.ResourceMetrics
	b.ReportAllocs()
	for b.Loop() {
		if err := reader.Collect(b.Context(), &rm); err != nil {
			b.Fatal(err)
		}
	}
}
