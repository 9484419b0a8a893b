package mettleprom_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/fallback"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/middleware/mettleprom"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// pipelines returns one pipeline of all the policies for each name.
func pipelines(names ...string) (all []mettle.Observable) {
	for _, name := range names {
		all = append(all, mettle.Compose(
			fallback.New(fallback.Config{Name: name, Run: func(_ context.Context, err error) error { return err }}),
			timeout.New(timeout.Config{Name: name}),
			retry.New(retry.Config{Name: name}),
			hedge.New(hedge.Config{Name: name}),
			breaker.NewGroup[string](breaker.GroupConfig{Config: breaker.Config{Name: name + " by host"}}).
				By(func(context.Context) string { return "" }),
			breaker.New(breaker.Config{Name: name}),
			bulkhead.New(bulkhead.Config{Name: name}),
		))
	}
	return all
}

// Spec: O1 (part)
func TestPoliciesLint(t *testing.T) {
	c := mettleprom.NewCollector(pipelines("a", "b")...)
	problems, err := testutil.CollectAndLint(c)
	require.NoError(t, err)
	assert.Empty(t, problems)
}

// Two pipelines of the same policies show the same metrics, apart in the label policy,
// and none of them has to be left out.
func TestPoliciesKeepApart(t *testing.T) {
	families := gather(t, mettleprom.NewCollector(pipelines("a", "b")...))
	assert.NotContains(t, families, "mettle_dropped_metrics", "%v", families["mettle_dropped_metrics"])
	assert.Contains(t, families, "mettle_bulkhead_wait_time_seconds_total") // as the documentation says
	for name, series := range families {
		labels := slices.Sorted(maps.Keys(series))
		a := slices.DeleteFunc(slices.Clone(labels), func(l string) bool { return !strings.Contains(l, "policy=a") })
		assert.Len(t, labels, 2*len(a), "%s: %q", name, labels)
	}
}

func BenchmarkScrape(b *testing.B) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(mettleprom.NewCollector(pipelines("a", "b")...))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := registry.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
