package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collector is an OpenTelemetry collector that keeps what it is sent.
type collector struct {
	*httptest.Server

	mu      sync.Mutex
	service map[string]bool // values of service.name
	spans   []*traces.Span
	metrics map[string]float64 // the latest, by name and labels
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{service: map[string]bool{}, metrics: map[string]float64{}}
	mux := http.NewServeMux()
	receive := func(path string, request proto.Message, keep func()) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
				return
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			if err := proto.Unmarshal(body, request); err != nil {
				t.Error(err)
				return
			}
			keep()
			w.Header().Set("Content-Type", "application/x-protobuf") // and an empty answer, which is one
		})
	}
	var spans collectortrace.ExportTraceServiceRequest
	receive("/v1/traces", &spans, func() { c.keepSpans(&spans) })
	var values collectormetrics.ExportMetricsServiceRequest
	receive("/v1/metrics", &values, func() { c.keepMetrics(&values) })
	c.Server = httptest.NewServer(mux)
	t.Cleanup(c.Close)
	return c
}

func (c *collector) keepSpans(request *collectortrace.ExportTraceServiceRequest) {
	for _, r := range request.ResourceSpans {
		c.service[attributes(r.Resource.Attributes)["service.name"]] = true
		for _, scope := range r.ScopeSpans {
			for _, span := range scope.Spans {
				c.spans = append(c.spans, proto.Clone(span).(*traces.Span))
			}
		}
	}
}

func (c *collector) keepMetrics(request *collectormetrics.ExportMetricsServiceRequest) {
	for _, r := range request.ResourceMetrics {
		c.service[attributes(r.Resource.Attributes)["service.name"]] = true
		for _, scope := range r.ScopeMetrics {
			for _, m := range scope.Metrics {
				points := m.GetSum().GetDataPoints()
				if m.GetGauge() != nil {
					points = m.GetGauge().DataPoints
				}
				for _, p := range points {
					labels := attributes(p.Attributes)
					c.metrics[fmt.Sprint(m.Name, labels)] = p.GetValue().(*metrics.NumberDataPoint_AsDouble).AsDouble
				}
			}
		}
	}
}

func attributes(kvs []*common.KeyValue) map[string]string {
	m := make(map[string]string, len(kvs))
	for _, kv := range kvs {
		switch v := kv.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			m[kv.Key] = v.StringValue
		case *common.AnyValue_IntValue:
			m[kv.Key] = fmt.Sprint(v.IntValue)
		}
	}
	return m
}

// sum adds up the metrics whose name and labels begin so.
func (c *collector) sum(prefix string) (sum float64) {
	for key, v := range c.metrics {
		if strings.HasPrefix(key, prefix) {
			sum += v
		}
	}
	return sum
}

// A collector learns of a run what its own output tells, by OTLP, over either transport:
// each order that was not queued behind another is a span, each attempt that reached the
// transport a client span below one, and the counts of the policies are those of the summary.
//
// Spec: O2 (part)
func TestTelemetry(t *testing.T) {
	for transport, isResend := range map[string]func(attempt map[string]string) bool{
		"http": func(a map[string]string) bool { return a["http.request.resend_count"] != "" },
		"grpc": func(a map[string]string) bool { return a["mettle.attempt"] != "1" },
	} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			c := newCollector(t)
			r := orders(t, t.Context(), "", "-otlp", c.URL, "-transport", transport, "-data", t.TempDir(), "-faults", write(t, "faults", quick), "-rate", "110")
			r.settled(t, 400, 8)
			require.NotContains(t, r.stdout, "-otlp")
			c.mu.Lock()
			defer c.mu.Unlock()
			assert.Equal(t, map[string]bool{"orders": true}, c.service)
			behind, resent := c.agrees(t, r)
			name := map[string]string{"http": "POST", "grpc": "payments"}[transport]
			attempts, resends := c.attempts(t, 400-behind, name, isResend)
			assert.Greater(t, attempts, 400)
			assert.Positive(t, resends)
			assert.LessOrEqual(t, resends, resent, "a resend that the breaker refused is not sent")
		})
	}
}

// agrees compares the metrics with what the run has printed, and returns how many orders
// were queued behind another, and how many calls were resent.
func (c *collector) agrees(t *testing.T, r result) (behind, resent int) {
	t.Helper()
	var fellBack int
	_, err := fmt.Sscanf(r.stdout[strings.Index(r.stdout, "the fallback queued"):], "the fallback queued %d orders; %d more", &fellBack, &behind)
	require.NoError(t, err)
	_, err = fmt.Sscanf(r.stdout[strings.Index(r.stdout, "the retry resent"):], "the retry resent %d calls", &resent)
	require.NoError(t, err)
	assert.Equal(t, float64(fellBack), c.sum("mettle.fallback.fell_back"))
	assert.Equal(t, float64(resent), c.sum("mettle.retry.attempts")-c.sum("mettle.retry.attemptsmap[attempt:1 "))
	assert.Positive(t, c.sum("mettle.breaker.transitionsmap[from:closed policy:payments rule:"))
	assert.Equal(t, 1.0, c.metrics["mettle.breaker.statemap[policy:payments state:closed]"], "it ends well")
	assert.Zero(t, c.sum("mettle.dropped_metrics"))
	return behind, resent
}

// attempts checks the spans: one for each order that was to be paid directly, and below
// them those of the attempts, which it counts.
func (c *collector) attempts(t *testing.T, orders int, name string, isResend func(map[string]string) bool) (all, resends int) {
	t.Helper()
	calls := map[string]*traces.Span{}
	paid, failed := 0, map[string]int{} // by error.type
	for _, span := range c.spans {
		if span.Kind == traces.Span_SPAN_KIND_INTERNAL {
			calls[string(span.SpanId)] = span
		}
		if span.Name == "pay order" {
			paid++
			assert.NotEqual(t, traces.Status_STATUS_CODE_ERROR, span.Status.GetCode(), "what was queued is no error")
		}
	}
	assert.Equal(t, orders, paid)
	for _, span := range c.spans {
		if span.Kind != traces.Span_SPAN_KIND_CLIENT || len(span.ParentSpanId) == 0 {
			continue // the latter: what the audit asks is part of no order
		}
		all++
		assert.Equal(t, name, span.Name)
		require.Contains(t, calls, string(span.ParentSpanId))
		told := attributes(span.Attributes)
		if isResend(told) {
			resends++
		}
		if span.Status.GetCode() == traces.Status_STATUS_CODE_ERROR {
			failed[told["error.type"]]++
		}
	}
	assert.Positive(t, failed[map[string]string{"POST": "503", "payments": "UNAVAILABLE"}[name]], "%v", failed)
	assert.Zero(t, failed[""])
	return all, resends
}

// A collector that is not there takes nothing away from a run but a line.
func TestTelemetryWithoutACollector(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(nil)
	gone.Close()
	r := orders(t, t.Context(), some(20), "-otlp", gone.URL, "-orders", "-", "-data", t.TempDir(), "-faults", "none", "-rate", "0")
	r.settled(t, 20, 0)
	require.Contains(t, r.stdout, "the collector at -otlp did not take all")

	r = orders(t, t.Context(), "", "-otlp", "127.0.0.1:4318")
	require.Equal(t, exitUsage, r.code)
	require.Contains(t, r.stderr, "-otlp is not an http or https URL")
}
