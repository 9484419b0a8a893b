package mettlehttp_test

import (
	"io"
	"math"
	"net/http"
	"runtime"
	"testing"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
)

// stub answers at once and costs one response.
var stub = baseFunc(func(req *http.Request) (*http.Response, error) {
	return answer(req, 200, http.NoBody), nil
})

// BenchmarkTransport compares what a Transport adds over a base that does nothing and
// over a server on loopback.
func BenchmarkTransport(b *testing.B) {
	url, real := serve(b, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	for _, bench := range []struct {
		name string
		rt   http.RoundTripper
	}{
		{"stub/bare", stub},
		{"stub/no policy", mettlehttp.NewTransport(stub, mettle.Compose())},
		{"stub/standard", mettlehttp.NewTransport(stub, nil)},
		{"loopback/bare", real},
		{"loopback/no policy", mettlehttp.NewTransport(real, mettle.Compose())},
		{"loopback/standard", mettlehttp.NewTransport(real, nil)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			req := request(b, "GET", url, nil)
			req.Header.Set("Accept", "text/plain")
			b.ReportAllocs()
			for b.Loop() {
				resp, err := bench.rt.RoundTrip(req)
				if err != nil {
					b.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
}

// TestAllocations pins what a Transport adds to the allocations of a base that is not
// net/http's. They are, without a policy: the call with its first attempt, the function
// that the policy runs, a context with its cancel function, three hooks of httptrace, the
// copies of the request and its URL, and three for that of a header with one field. The
// standard pipeline adds two contexts with deadlines, the mark of the attempt, and one
// timer with its function.
//
// Spec: P13
func TestAllocations(t *testing.T) {
	req := request(t, "GET", "http://host/", nil)
	req.Header.Set("Accept", "text/plain")
	count := func(rt http.RoundTripper) float64 {
		return testing.AllocsPerRun(1000, func() {
			resp, err := rt.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		})
	}
	bare := count(stub)
	plain := count(mettlehttp.NewTransport(stub, mettle.Compose())) - bare
	standard := count(mettlehttp.NewTransport(stub, nil)) - bare
	if plain > 12 || standard > 17 {
		t.Errorf("no policy adds %v allocations, the standard pipeline %v; want 12 and 17 at most", plain, standard)
	}
}

// TestAllocationsOverNetHTTP pins what a Transport adds to a GET of 200 bytes over
// loopback with five fields in its header.
// Without a policy: the call with its first attempt, the function that the policy runs, a
// context with its cancel function, its channel and the set of its children, three hooks
// of httptrace, the copies of the request, its URL and its header, and the string that
// net/http makes for a hook. The
// standard pipeline adds what [TestAllocations] says.
//
// Spec: P13
func TestAllocationsOverNetHTTP(t *testing.T) {
	page := make([]byte, 200)
	url, base := serve(t, func(w http.ResponseWriter, r *http.Request) { w.Write(page) })
	req := request(t, "GET", url, nil)
	for _, name := range []string{"Accept", "Authorization", "Traceparent", "User-Agent", "X-Tenant"} {
		req.Header.Set(name, "x")
	}
	// What the server and net/http allocate is in all counts. What others allocate meanwhile,
	// such as goroutines of a test before, only adds to them, so the least counts.
	count := func(rt http.RoundTripper) (allocs, bytes float64) {
		const rounds, runs = 12, 50
		allocs, bytes = math.Inf(1), math.Inf(1)
		for range rounds {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range runs {
				resp, err := rt.RoundTrip(req)
				if n := len(readAll(t, one(t, resp, err))); n != len(page) {
					t.Fatalf("got %d bytes", n)
				}
			}
			runtime.ReadMemStats(&after)
			allocs = min(allocs, float64(after.Mallocs-before.Mallocs)/runs)
			bytes = min(bytes, float64(after.TotalAlloc-before.TotalAlloc)/runs)
		}
		return allocs, bytes
	}
	bare, bareBytes := count(base)
	for _, test := range []struct {
		name          string
		rt            http.RoundTripper
		allocs, bytes float64
	}{
		{"no policy", mettlehttp.NewTransport(base, mettle.Compose()), 15, 2050},
		{"the standard pipeline", mettlehttp.NewTransport(base, nil), 20, 2450},
	} {
		allocs, bytes := count(test.rt)
		if allocs -= bare; allocs > test.allocs+0.5 {
			t.Errorf("%s adds %.1f allocations, want %v", test.name, allocs, test.allocs)
		}
		if bytes -= bareBytes; bytes > test.bytes {
			t.Errorf("%s adds %.0f bytes, want %v at most", test.name, bytes, test.bytes)
		}
	}
}
