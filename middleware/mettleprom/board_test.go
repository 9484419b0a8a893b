package mettleprom

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/fallback"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

var update = flag.Bool("update", false, "rewrite dashboard.json and rules.yaml")

// everything returns one of each thing of the root module that has metrics.
func everything() []mettle.Observable {
	return []mettle.Observable{
		breaker.New(breaker.Config{}),
		breaker.NewGroup[int](breaker.GroupConfig{}),
		bulkhead.New(bulkhead.Config{}),
		bulkhead.NewPartition(bulkhead.PartitionConfig{Pools: []bulkhead.PoolConfig{{Name: "all"}}}),
		fallback.New(fallback.Config{Run: func(_ context.Context, err error) error { return err }}),
		hedge.New(hedge.Config{}),
		retry.New(retry.Config{}),
		timeout.New(timeout.Config{}),
	}
}

func written(t *testing.T, write func(io.Writer, ...mettle.Observable) error, observables ...mettle.Observable) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, write(&b, observables...))
	return b.Bytes()
}

// The files in the repository are what the functions write.
func TestFiles(t *testing.T) {
	for name, write := range map[string]func(io.Writer, ...mettle.Observable) error{
		"dashboard.json": WriteDashboard, "rules.yaml": WriteRules,
	} {
		fresh := written(t, write, everything()...)
		if *update {
			require.NoError(t, os.WriteFile(name, fresh, 0o644))
		}
		old, err := os.ReadFile(name)
		require.NoError(t, err)
		assert.Equal(t, string(fresh), string(old), "%s is not what the code writes; see go test . -run TestFiles -update", name)
	}
}

// No panel and no alert asks for a metric that nobody yields, and the dashboard shows
// every metric that there is.
//
// Spec: O1 (part)
func TestQueriesNameWhatIsYielded(t *testing.T) {
	names := namesOf(everything())
	shown := map[string]bool{"mettle.dropped_metrics": true} // by an alert
	for _, r := range rows {
		for _, p := range r.panels {
			for _, q := range p.queries {
				require.NotEmpty(t, metricsIn(q.expr), "panel %s: %s", p.title, q.expr)
				for _, m := range metricsIn(q.expr) {
					assert.Contains(t, names, m, "panel %s", p.title)
					shown[m] = true
				}
				assert.NotContains(t, translate(q.expr, names), "<mettle")
			}
		}
	}
	for name := range names {
		assert.True(t, shown[name], "%s is in no panel", name)
	}
	for _, a := range alerts {
		require.NotEmpty(t, metricsIn(a.expr), a.name)
		for _, m := range metricsIn(a.expr) {
			assert.Contains(t, names, m, "alert %s", a.name)
		}
	}
}

// What is not there is not asked for, so that no panel is empty for good.
func TestOnlyWhatIsThere(t *testing.T) {
	var board struct {
		Panels []struct {
			ID      int
			Title   string
			Targets []struct{ Expr string }
		}
	}
	raw := written(t, WriteDashboard, fallback.New(fallback.Config{Run: func(_ context.Context, err error) error { return err }}))
	require.NoError(t, json.Unmarshal(raw, &board))
	require.Len(t, board.Panels, 2, "a row and a panel")
	assert.Equal(t, `sum by (policy) (rate(mettle_fallback_fell_back_total{job=~"$job",policy=~"$policy"}[$__rate_interval]))`,
		board.Panels[1].Targets[0].Expr)
	rules := string(written(t, WriteRules, timeout.New(timeout.Config{})))
	assert.Equal(t, 2, strings.Count(rules, "- alert:"), rules) // and the one about the collector itself
	assert.Contains(t, rules, `expr: "mettle_timeout_overdue > 0"`)
}

type broken struct{}

var errBroken = errors.New("broken")

func (broken) Write([]byte) (int, error) { return 0, errBroken }

func TestWriteErrors(t *testing.T) {
	require.ErrorIs(t, WriteDashboard(broken{}), errBroken)
	require.ErrorIs(t, WriteRules(broken{}), errBroken)
	assert.Panics(t, func() { _ = WriteDashboard(io.Discard, nil) })
	assert.Panics(t, func() { _ = WriteRules(io.Discard, nil) })
}
