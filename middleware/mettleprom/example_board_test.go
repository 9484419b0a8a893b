package mettleprom_test

import (
	"os"

	"github.com/mettle-go/mettle/middleware/mettleprom"
	"github.com/mettle-go/mettle/timeout"
)

// Alerts about what this service has: a timeout, and the collector itself.
func ExampleWriteRules() {
	if err := mettleprom.WriteRules(os.Stdout, timeout.New(timeout.Config{Name: "payments"})); err != nil {
		panic(err)
	}
	// Output:
	// groups:
	//   - name: mettle
	//     rules:
	//       - alert: MettleAbandonedWork
	//         expr: "mettle_timeout_overdue > 0"
	//         for: 5m
	//         labels:
	//           severity: ticket
	//         annotations:
	//           summary: "{{ $value }} calls under the timeout {{ $labels.policy }} of {{ $labels.instance }} run on past their deadline."
	//       - alert: MettleMetricsDropped
	//         expr: "mettle_dropped_metrics > 0"
	//         for: 5m
	//         labels:
	//           severity: ticket
	//         annotations:
	//           summary: "{{ $labels.instance }} leaves out {{ $labels.metric }}: {{ $labels.reason }}. Do two policies have the same name?"
}

// A dashboard for Grafana, to be imported there.
func ExampleWriteDashboard() {
	file, err := os.CreateTemp("", "dashboard-*.json")
	if err != nil {
		panic(err)
	}
	defer os.Remove(file.Name())
	if err := mettleprom.WriteDashboard(file, timeout.New(timeout.Config{Name: "payments"})); err != nil {
		panic(err)
	}
	if err := file.Close(); err != nil {
		panic(err)
	}
	// Output:
}
