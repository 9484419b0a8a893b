package mettleprom_test

import (
	"context"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettleprom"
)

func ExampleNewCollector() {
	payments := mettle.Compose(new(counting)) // any policy that is Observable

	registry := prometheus.NewRegistry()
	registry.MustRegister(mettleprom.NewCollector(payments))

	err := payments.Do(context.Background(), func(context.Context) error { return nil })
	if err != nil {
		return
	}
	// What promhttp serves:
	families, _ := registry.Gather()
	for _, f := range families {
		_, _ = expfmt.MetricFamilyToText(os.Stdout, f)
	}
	// Output:
	// # HELP mine_calls_total Calls so far.
	// # TYPE mine_calls_total counter
	// mine_calls_total{policy="mine"} 1
}
