package mettleotel_test

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettleotel"
)

func ExampleRegister() {
	payments := mettle.Compose(new(counting)) // any policy that is Observable

	reader := sdk.NewManualReader() // in earnest: a periodic reader with an exporter
	provider := sdk.NewMeterProvider(sdk.WithReader(reader))
	registration, err := mettleotel.Register(provider.Meter("payments"), payments)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = registration.Unregister() }()

	_ = payments.Do(context.Background(), func(context.Context) error { return nil })

	var collected metricdata.ResourceMetrics
	_ = reader.Collect(context.Background(), &collected)
	for _, m := range collected.ScopeMetrics[0].Metrics {
		point := m.Data.(metricdata.Sum[float64]).DataPoints[0]
		fmt.Println(m.Name, m.Unit, point.Attributes.Encoded(encoder{}), point.Value)
	}
	// Output: mine.calls {call} policy=mine 1
}

// encoder writes attributes as key=value, with commas between.
type encoder struct{}

func (encoder) Encode(it attribute.Iterator) string {
	var s string
	for it.Next() {
		if s != "" {
			s += ","
		}
		kv := it.Attribute()
		s += string(kv.Key) + "=" + kv.Value.AsString()
	}
	return s
}

func (encoder) ID() attribute.EncoderID { return encoderID }

var encoderID = attribute.NewEncoderID()
