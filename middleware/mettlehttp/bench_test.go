package mettlehttp_test

import (
	"io"
	"net/http"
	"net/http/httptest"
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
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello")
	}))
	defer server.Close()
	real := &http.Transport{}
	defer real.CloseIdleConnections()
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
			req := request(b, "GET", server.URL, nil)
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

// TestAllocations pins what a Transport adds to the allocations of its base. They are,
// without a policy: the call with its first attempt, the function that the policy runs, a
// context with its cancel function, four hooks of httptrace, the copy of the request, and
// three for that of a header with one field. The standard pipeline adds two contexts with
// deadlines, the mark of the attempt, and one timer with its function.
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
