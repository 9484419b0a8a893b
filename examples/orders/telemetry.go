package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettleotel"
)

// telemetry sends the spans of payments and the metrics of the policies to an
// OpenTelemetry collector, or nowhere.
type telemetry struct {
	tracer trace.Tracer
	spans  *sdktrace.TracerProvider // nil: nowhere
	meters *metric.MeterProvider
}

// exportPause is how old metrics may be at the collector, in a run that is over in
// seconds. A service of longer life does with a minute.
const exportPause = time.Second

// newTelemetry sends to the collector at endpoint, by OTLP over HTTP. Without one, nothing
// is recorded. A collector that is not there holds up nothing.
func newTelemetry(ctx context.Context, endpoint string) (*telemetry, error) {
	if endpoint == "" {
		return &telemetry{tracer: noop.NewTracerProvider().Tracer("")}, nil
	}
	at, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	spans, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(at.JoinPath("v1/traces").String()))
	if err != nil {
		return nil, err
	}
	metrics, err := otlpmetrichttp.New(ctx, otlpmetrichttp.WithEndpointURL(at.JoinPath("v1/metrics").String()))
	if err != nil {
		return nil, errors.Join(err, spans.Shutdown(ctx))
	}
	service := resource.NewSchemaless(attribute.String("service.name", "orders"))
	t := &telemetry{
		spans: sdktrace.NewTracerProvider(sdktrace.WithResource(service), sdktrace.WithBatcher(spans)),
		meters: metric.NewMeterProvider(metric.WithResource(service),
			metric.WithReader(metric.NewPeriodicReader(metrics, metric.WithInterval(exportPause)))),
	}
	t.tracer = t.spans.Tracer("orders")
	return t, nil
}

// watch has the metrics of the observables sent.
func (t *telemetry) watch(observables ...mettle.Observable) error {
	if t.meters == nil {
		return nil
	}
	_, err := mettleotel.Register(t.meters.Meter("orders"), observables...)
	return err
}

// close sends what is left, if the collector takes it within a few seconds. Only the first
// close has an effect.
func (t *telemetry) close() error {
	if t.spans == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	err := errors.Join(t.spans.Shutdown(ctx), t.meters.Shutdown(ctx))
	t.spans, t.meters = nil, nil
	if err != nil {
		return fmt.Errorf("the collector at -otlp did not take all: %w", err)
	}
	return nil
}
