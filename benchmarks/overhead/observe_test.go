package overhead

import (
	"context"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/middleware/mettleotel"
	"github.com/mettle-go/mettle/middleware/mettleprom"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// watched are policies whose metrics somebody looks at, beside the same that nobody does.
var watched = map[string]func() mettle.Observable{
	"breaker":  func() mettle.Observable { return breaker.New(breaker.Config{Name: "x"}) },
	"retry":    func() mettle.Observable { return retry.New(retry.Config{Name: "x"}) },
	"bulkhead": func() mettle.Observable { return bulkhead.New(bulkhead.Config{Name: "x"}) },
	"pipeline": func() mettle.Observable {
		return mettle.Compose(
			timeout.New(timeout.Config{Name: "total", After: 30 * time.Second}),
			retry.New(retry.Config{Name: "x"}),
			breaker.New(breaker.Config{Name: "x"}),
			bulkhead.New(bulkhead.Config{Name: "x", Limit: 100}),
			timeout.New(timeout.Config{Name: "attempt", After: 10 * time.Second}),
		)
	},
}

func metricsHandler(tb testing.TB, o mettle.Observable) http.Handler {
	tb.Helper()
	registry := prometheus.NewRegistry()
	require.NoError(tb, registry.Register(mettleprom.NewCollector(o)))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// scraped has o scraped now and every second until stop is called, which returns how often
// that was. A scrape is all that one over HTTP does but for the socket.
func scraped(tb testing.TB, o mettle.Observable) (stop func() int) {
	tb.Helper()
	handler := metricsHandler(tb, o)
	done, ended := make(chan struct{}), make(chan int)
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for n := 0; ; {
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
			if answer.Code == 200 && answer.Body.Len() > 0 {
				n++
			}
			select {
			case <-tick.C:
			case <-done:
				ended <- n
				return
			}
		}
	}()
	return func() int { close(done); return <-ended }
}

// BenchmarkObserve is a healthy call of a policy that nobody watches, and of one whose
// collector is scraped every second. The difference is what the scrapes take of the
// processor, since a call does nothing for them.
func BenchmarkObserve(b *testing.B) {
	for name, newPolicy := range watched {
		b.Run("case="+name+"/impl=unwatched", func(b *testing.B) {
			withClosure(b, fromPolicy("", newPolicy().(mettle.Policy)).call)
		})
		b.Run("case="+name+"/impl=watched", func(b *testing.B) {
			o := newPolicy()
			stop := scraped(b, o)
			withClosure(b, fromPolicy("", o.(mettle.Policy)).call)
			require.Positive(b, stop())
		})
	}
}

// BenchmarkObserveRatio is the same as a ratio, for a machine that has other things to do:
// the two take turns, a thousand calls each, and the metric watched/unwatched is the median
// over all turns. What the scrapes themselves take is not in it, since few turns have one;
// it is the metric scrape-µs, once a second.
func BenchmarkObserveRatio(b *testing.B) {
	const calls = 1000
	for name, newPolicy := range watched {
		b.Run("case="+name, func(b *testing.B) {
			o := newPolicy()
			stop := scraped(b, o)
			ctx := b.Context()
			policies := [2]func(context.Context, int) error{
				fromPolicy("", newPolicy().(mettle.Policy)).call, fromPolicy("", o.(mettle.Policy)).call,
			}
			var ratios []float64
			for first := 0; b.Loop(); first = 1 - first { // neither is always the first
				var took [2]time.Duration
				for _, i := range [...]int{first, 1 - first} {
					begun := time.Now()
					for n := range calls {
						if err := policies[i](ctx, n); err != nil {
							b.Fatal(err)
						}
					}
					took[i] = time.Since(begun)
				}
				ratios = append(ratios, float64(took[1])/float64(took[0]))
			}
			require.Positive(b, stop())
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "watched/unwatched")
			b.ReportMetric(float64(scrapeTime(b, o))/1e3, "scrape-µs")
		})
	}
}

// A tracing is a way to look at single calls, by the hooks that a context carries or by
// spans.
type tracing struct {
	name string
	call func(ctx context.Context, n int) error
}

// tracings are five policies, bare and looked at in every way. Nobody gets
// the spans: what it takes to send them anywhere is the SDK's affair.
func tracings() []tracing {
	tracer := func(sampler sdktrace.Sampler) trace.Tracer {
		return sdktrace.NewTracerProvider(sdktrace.WithSampler(sampler)).Tracer("")
	}
	with := func(t trace.Tracer) func(context.Context, int) error {
		return fromPolicy("", mettle.Compose(mettleotel.CallSpan(t, "call"), watched["pipeline"]().(mettle.Policy),
			mettleotel.AttemptSpan(t, "call"))).call
	}
	plain := fromPolicy("", watched["pipeline"]().(mettle.Policy)).call
	ignore := func(mettle.TraceEvent) {}
	hooks := &mettle.Trace{AttemptStart: ignore, AttemptDone: ignore, Wait: ignore, Rejected: ignore,
		Hedged: ignore, FellBack: ignore, StateChanged: ignore}
	return []tracing{
		{"bare", plain},
		{"log", func() func(ctx context.Context, n int) error {
			t := mettle.LogTrace(slog.New(slog.DiscardHandler), 0)
			return func(ctx context.Context, n int) error { return plain(mettle.WithTrace(ctx, t), n) }
		}()},
		{"hooks", func(ctx context.Context, n int) error { return plain(mettle.WithTrace(ctx, hooks), n) }},
		{"spans-none-sampled", with(tracer(sdktrace.NeverSample()))},
		{"spans", with(tracer(sdktrace.AlwaysSample()))},
	}
}

// BenchmarkTraceInTurn has all tracings make a hundred calls in turn, as
// BenchmarkHTTPInTurn does. A call whose context carries no trace, in a pipeline without
// spans, looks for neither.
func BenchmarkTraceInTurn(b *testing.B) {
	const calls = 100
	all := tracings()
	ctx, times := b.Context(), make([][]float64, len(all))
	for round := 0; b.Loop(); round++ {
		for turn := range all {
			i := (turn + round) % len(all)
			begun := time.Now()
			for n := range calls {
				if err := all[i].call(ctx, n); err != nil {
					b.Fatal(err)
				}
			}
			times[i] = append(times[i], float64(time.Since(begun))/calls)
		}
	}
	for i := range all {
		b.ReportMetric(median(times[i]), all[i].name+"-ns")
	}
}

// A call pays for tracing where a trace or a span is live, and only there: a trace in the
// context is one allocation, which puts it there; two spans that are not sampled take what
// the tracer takes to start them.
//
// Spec: O3
func TestTracingCostsWhereItIsLive(t *testing.T) {
	ctx, all := t.Context(), map[string]float64{}
	for _, tracing := range tracings() {
		all[tracing.name] = testing.AllocsPerRun(1000, func() { _ = tracing.call(ctx, 1) })
	}
	never := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample())).Tracer("")
	start := testing.AllocsPerRun(1000, func() { _, _ = never.Start(ctx, "call") })
	require.Equal(t, 4.0, all["bare"])
	require.Equal(t, all["bare"]+1, all["log"])
	require.Equal(t, all["bare"]+1, all["hooks"])
	require.Equal(t, all["bare"]+2*start, all["spans-none-sampled"])
	require.Greater(t, all["spans"], all["spans-none-sampled"])
}

// scrapeTime returns how long a scrape of o takes, the median of some.
func scrapeTime(tb testing.TB, o mettle.Observable) time.Duration {
	handler := metricsHandler(tb, o)
	took := make([]time.Duration, 101)
	for i := range took {
		begun := time.Now()
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil))
		took[i] = time.Since(begun)
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// A call allocates what it does, whether or not its policy is scraped meanwhile.
//
// Spec: O3
func TestWatchedCallsPayNothing(t *testing.T) {
	for name, newPolicy := range watched {
		t.Run(name, func(t *testing.T) {
			unwatched, o := newPolicy().(mettle.Policy), newPolicy()
			defer func(stop func() int) { require.Positive(t, stop()) }(scraped(t, o))
			// What scrapes allocate meanwhile is counted along, so that the least of some is it.
			allocs := func(p mettle.Policy) float64 {
				ctx, call := context.Background(), fromPolicy("", p).call
				least := math.Inf(1)
				for range 20 {
					least = min(least, testing.AllocsPerRun(100, func() { _ = call(ctx, 1) }))
				}
				return least
			}
			require.Equal(t, allocs(unwatched), allocs(o.(mettle.Policy)))
		})
	}
}
