package tests

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
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

const installPrometheus = "apt-get install prometheus"

// watched is a pipeline of all the policies that a service would wear, with a state that
// queries can ask for: open breaker, resends, refusals, a key in a group.
func watched() *mettle.Pipeline {
	const name = "payments"
	keys := breaker.NewGroup[string](breaker.GroupConfig{Config: breaker.Config{Name: name + " by shard"}})
	p := mettle.Compose(
		fallback.New(fallback.Config{Name: name, Run: func(_ context.Context, err error) error { return err }}),
		timeout.New(timeout.Config{Name: name}),
		retry.New(retry.Config{Name: name, Backoff: retry.Constant(0)}),
		hedge.New(hedge.Config{Name: name}),
		breaker.New(breaker.Config{Name: name, Consecutive: 3, OpenFor: time.Hour}),
		keys.By(func(context.Context) string { return "7" }),
		bulkhead.NewPartition(bulkhead.PartitionConfig{Name: name, Pools: []bulkhead.PoolConfig{{Name: "all"}}}).
			By(func(context.Context) string { return "all" }),
		bulkhead.New(bulkhead.Config{Name: name}),
	)
	for range 4 {
		_ = p.Do(context.Background(), func(context.Context) error { return nil })
	}
	// The first fails twice, by a hedge, and at the second attempt a third time, which opens
	// the breaker: its hedge is refused, and so is the other call.
	for range 2 {
		_ = p.Do(context.Background(), func(context.Context) error { return errors.New("down") })
	}
	return p
}

// metricsServer serves what promhttp makes of a collector of p.
func metricsServer(t *testing.T, p mettle.Observable) *httptest.Server {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(mettleprom.NewCollector(p)))
	server := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	t.Cleanup(server.Close)
	return server
}

// promtool finds nothing to complain of in the names, units and help texts of a scrape,
// and would if there were.
//
// Spec: O1
func TestPromtoolCheckMetrics(t *testing.T) {
	need(t, installPrometheus, "promtool")
	lint := func(text string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "promtool", "check", "metrics")
		cmd.Stdin = strings.NewReader(text)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	resp, err := http.Get(metricsServer(t, watched()).URL)
	require.NoError(t, err)
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.Contains(t, string(text), `mettle_breaker_transitions_total{from="closed",policy="payments",rule="consecutive",to="open"} 1`)
	assert.NotContains(t, string(text), "mettle_dropped_metrics")
	out, err := lint(string(text))
	require.NoError(t, err, out)
	assert.Empty(t, strings.TrimSpace(out))

	out, err = lint("# TYPE planted counter\nplanted 1\n")
	require.Error(t, err)
	assert.Contains(t, out, "planted")
}

// The rules that mettleprom writes are those that its rules_test.yaml has tests for, and
// these pass.
func TestPromtoolRules(t *testing.T) {
	need(t, installPrometheus, "promtool")
	const dir = "../middleware/mettleprom"
	output(t, dir, nil, "promtool", "check", "rules", "rules.yaml")
	output(t, dir, nil, "promtool", "test", "rules", "rules_test.yaml")

	rules, err := os.ReadFile(filepath.Join(dir, "rules.yaml"))
	require.NoError(t, err)
	tests, err := os.ReadFile(filepath.Join(dir, "rules_test.yaml"))
	require.NoError(t, err)
	for line := range strings.Lines(string(rules)) {
		if _, name, ok := strings.Cut(strings.TrimSpace(line), "- alert: "); ok {
			assert.Contains(t, string(tests), "alertname: "+name+"\n", "no test in which the alert is set off")
			assert.Contains(t, string(tests), "alertname: "+name+", exp_alerts: []", "no test in which it is not")
		}
	}
}

// promServer is a Prometheus of its own that scrapes one target every 200 ms.
type promServer struct {
	t   *testing.T
	url string
	log *bytes.Buffer // to be read when the process has ended
}

func startPrometheus(t *testing.T, target string) *promServer {
	t.Helper()
	dir := t.TempDir()
	var rules bytes.Buffer
	require.NoError(t, mettleprom.WriteRules(&rules, watched()))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "rules.yaml"), rules.Bytes(), 0o600))
	config := fmt.Sprintf(`
global: {scrape_interval: 200ms, evaluation_interval: 200ms}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: mettle
    scrape_timeout: 200ms
    static_configs: [{targets: [%q]}]
`, strings.TrimPrefix(target, "http://"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600))

	l, err := net.Listen("tcp", "127.0.0.1:0") // for a port that nobody has
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())

	s := &promServer{t: t, url: "http://" + address, log: new(bytes.Buffer)}
	cmd := exec.Command("prometheus", "--config.file=prometheus.yml",
		"--storage.tsdb.path=data", "--web.listen-address="+address, "--log.level=warn")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, s.log, s.log
	cmd.WaitDelay = 5 * time.Second
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // its data is in a folder that goes away with the test
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("prometheus:\n%s", s.log)
		}
	})
	return s
}

// get returns what the API answers, an error while there is no answer.
func (s *promServer) get(path string, query url.Values) (data json.RawMessage, err error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path+"?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Status != "success" {
		return nil, fmt.Errorf("%s: %s", answer.Status, answer.Error)
	}
	return answer.Data, nil
}

// ask returns the value of a query that has one series, "" if it has none or several.
func (s *promServer) ask(expr string) (string, error) {
	raw, err := s.get("/api/v1/query", url.Values{"query": {expr}})
	if err != nil {
		return "", err
	}
	var data struct {
		Result []struct{ Value [2]any }
	}
	if err := json.Unmarshal(raw, &data); err != nil || len(data.Result) != 1 {
		return "", err
	}
	return fmt.Sprint(data.Result[0].Value[1]), nil
}

// A real Prometheus scrapes a collector: what the policies have counted is what a query
// answers, the rules load, and every query of the dashboard is one that it understands and
// has series for.
//
// Spec: O1, O5 (part)
func TestPrometheusScrapes(t *testing.T) {
	need(t, installPrometheus, "prometheus")
	p := watched()
	s := startPrometheus(t, metricsServer(t, p).URL)
	require.Eventually(t, func() bool {
		up, err := s.ask(`mettle_breaker_state{job="mettle",state="open",policy="payments"}`)
		return err == nil && up == "1"
	}, 30*time.Second, 100*time.Millisecond, "the open breaker never showed")
	require.Eventually(t, func() bool { // a rate takes two scrapes
		failed, err := s.ask(`rate(mettle_fallback_failed_total[1m])`)
		return err == nil && failed == "0"
	}, 30*time.Second, 100*time.Millisecond, "no second scrape")
	for expr, want := range map[string]string{
		`mettle_breaker_calls_total{policy="payments",outcome="success"}`:                                "4",
		`sum(mettle_breaker_calls_total{policy="payments",outcome="failure"})`:                           "3",
		`mettle_breaker_transitions_total{from="closed",to="open",rule="consecutive",policy="payments"}`: "1",
		`sum(mettle_breaker_rejected_total{reason="open",policy="payments"})`:                            "2",
		`sum(mettle_retry_attempts_total{policy="payments"})`:                                            "7",
		`mettle_retry_successes_total{attempt="1"}`:                                                      "4",
		`mettle_fallback_failed_total`:                                                                   "2",
		`count(mettle_dropped_metrics)`:                                                                  "",
	} {
		got, err := s.ask(expr)
		require.NoError(t, err, expr)
		assert.Equal(t, want, got, expr)
	}

	raw, err := s.get("/api/v1/rules", nil)
	require.NoError(t, err)
	assert.Contains(t, string(raw), "MettleBreakerNotClosed")
	assert.NotContains(t, string(raw), `"health":"err"`)

	var board bytes.Buffer
	require.NoError(t, mettleprom.WriteDashboard(&board, p))
	var panels struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(board.Bytes(), &panels))
	variables := strings.NewReplacer("$__rate_interval", "1m", "$job", ".*", "$policy", ".*")
	asked := 0
	for _, panel := range panels.Panels {
		for _, target := range panel.Targets {
			expr := variables.Replace(target.Expr)
			// Whether there are series, and not what they are: a share of nothing has none.
			expr = strings.NewReplacer(" > 0)", ")").Replace(expr)
			n, err := s.ask("count(" + expr + ")")
			require.NoError(t, err, "%s: %s", panel.Title, expr)
			assert.NotEmpty(t, n, "%s: no series for %s", panel.Title, expr)
			asked++
		}
	}
	assert.Greater(t, asked, 30)
}
