package mettleprom

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"regexp"
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

var (
	legendLabels = regexp.MustCompile(`\{\{(?:\$labels\.)?([a-z_]+)\}\}|\$labels\.([a-z_]+)`)
	groupings    = regexp.MustCompile(`(?:by|without) \(([a-z_, ]+)\)`)
	matchers     = regexp.MustCompile(`([a-z_]+)(?:=|!=)"([^"]*)"`)
)

// Queries, legends and summaries name labels that the metrics have, with values that they
// can have: a query for others is as empty as one for a metric that nobody yields.
func TestQueriesNameLabelsThatThereAre(t *testing.T) {
	values := map[string]map[string]bool{} // of labels
	keys := map[string][]string{}          // of metrics
	for _, o := range everything() {
		for m := range o.Observe {
			keys[m.Name] = nil
			for _, l := range m.Labels {
				keys[m.Name] = append(keys[m.Name], l.Key)
				if values[l.Key] == nil {
					values[l.Key] = map[string]bool{}
				}
				values[l.Key][l.Value] = true
			}
		}
	}
	keys["mettle.dropped_metrics"] = []string{"reason", "metric"}
	check := func(expr, text string) {
		t.Helper()
		var labels []string
		for _, m := range groupings.FindAllStringSubmatch(expr, -1) {
			labels = append(labels, strings.Split(m[1], ", ")...)
		}
		for _, m := range legendLabels.FindAllStringSubmatch(text, -1) {
			if label := m[1] + m[2]; label != "instance" { // which Prometheus adds
				labels = append(labels, label)
			}
		}
		for _, p := range placeholder.FindAllStringSubmatch(expr, -1) {
			for _, label := range labels {
				assert.Contains(t, keys[p[1]], label, "%s with %s", expr, text)
			}
			for _, m := range matchers.FindAllStringSubmatch(p[2], -1) {
				assert.Contains(t, keys[p[1]], m[1], expr)
				assert.True(t, values[m[1]][m[2]], "%s: no series has %s", expr, m[0])
			}
		}
	}
	for _, r := range rows {
		for _, p := range r.panels {
			for _, q := range p.queries {
				check(q.expr, q.legend)
			}
		}
	}
	for _, a := range alerts {
		check(a.expr, a.summary)
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
