package overhead

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	fsbulkhead "github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	fstimeout "github.com/failsafe-go/failsafe-go/timeout"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
)

// An httpKind is a way to send a request over a base of its own.
type httpKind struct {
	name string
	wrap func(base http.RoundTripper) http.RoundTripper
}

// Besides the bare transport: the standard pipeline, the same five policies of failsafe
// in the same order, and what a mettlehttp.Transport costs without a policy.
var httpKinds = []httpKind{
	{"bare", func(base http.RoundTripper) http.RoundTripper { return base }},
	{"mettle", func(base http.RoundTripper) http.RoundTripper { return mettlehttp.NewTransport(base, nil) }},
	{"mettle-none", func(base http.RoundTripper) http.RoundTripper {
		return mettlehttp.NewTransport(base, mettle.Compose())
	}},
	{"failsafe", func(base http.RoundTripper) http.RoundTripper {
		return failsafehttp.NewRoundTripper(base,
			fstimeout.New[*http.Response](30*time.Second),
			failsafehttp.NewRetryPolicyBuilder().WithMaxRetries(2).WithBackoff(100*time.Millisecond, 5*time.Second).Build(),
			circuitbreaker.NewBuilder[*http.Response]().WithFailureRateThreshold(rate, minCalls, window).Build(),
			fsbulkhead.New[*http.Response](100),
			fstimeout.New[*http.Response](10*time.Second))
	}},
}

// httpCalls returns, for each kind, a GET of 200 bytes over loopback. Each has
// connections of its own.
func httpCalls(tb testing.TB, h http.HandlerFunc) []func() int {
	server := httptest.NewServer(h)
	tb.Cleanup(server.Close)
	calls := make([]func() int, len(httpKinds))
	for i, kind := range httpKinds {
		base := http.DefaultTransport.(*http.Transport).Clone()
		tb.Cleanup(base.CloseIdleConnections)
		rt := kind.wrap(base)
		req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			tb.Fatal(err)
		}
		calls[i] = func() int {
			resp, err := rt.RoundTrip(req)
			if err != nil {
				tb.Fatal(err)
			}
			n, err := io.Copy(io.Discard, resp.Body)
			if resp.Body.Close(); err != nil || n != 200 {
				tb.Fatal(n, err)
			}
			return resp.StatusCode
		}
	}
	return calls
}

var page = bytes.Repeat([]byte("x"), 200)

func servePage(w http.ResponseWriter, _ *http.Request) { w.Write(page) }

// BenchmarkHTTP is for allocations, which include those of the server in the same
// process. For times see BenchmarkHTTPInTurn.
func BenchmarkHTTP(b *testing.B) {
	for i, call := range httpCalls(b, servePage) {
		b.Run("case=get/impl="+httpKinds[i].name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				call()
			}
		})
	}
}

// BenchmarkHTTPInTurn has all kinds make one call after the other, in an order that
// changes from round to round, so that whatever else the machine does meets all alike.
// It reports the median of each, and the median of its ratio to the bare transport in the
// same round. An operation is a round.
func BenchmarkHTTPInTurn(b *testing.B) {
	calls := httpCalls(b, servePage)
	times := make([][]float64, len(calls))
	ratios := make([][]float64, len(calls))
	for round := 0; b.Loop(); round++ {
		var took [8]float64
		for turn := range calls {
			i := (turn + round) % len(calls)
			if round/len(calls)%2 == 1 { // the one before is not always the same either
				i = len(calls) - 1 - i
			}
			start := time.Now()
			calls[i]()
			took[i] = float64(time.Since(start))
		}
		for i := range calls {
			times[i] = append(times[i], took[i])
			ratios[i] = append(ratios[i], took[i]/took[0])
		}
	}
	for i, kind := range httpKinds {
		b.ReportMetric(median(times[i]), kind.name+"-ns")
		if i > 0 {
			b.ReportMetric(median(ratios[i]), kind.name+"/bare")
		}
	}
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}

// All kinds get the page, and all but the bare transport get it from a server that says
// 503 every other time.
func TestHTTPKinds(t *testing.T) {
	n := 0
	calls := httpCalls(t, func(w http.ResponseWriter, r *http.Request) {
		if n++; n%2 == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		servePage(w, r)
	})
	for i, call := range calls {
		n = 0
		want := http.StatusOK
		if httpKinds[i].name == "bare" || httpKinds[i].name == "mettle-none" {
			want = http.StatusServiceUnavailable
		}
		if got := call(); got != want {
			t.Errorf("%s: got %d, want %d", httpKinds[i].name, got, want)
		}
	}
}
