package mettlehttp_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// flaky fails twice before it answers.
func flaky() *httptest.Server {
	n := 0
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n++; n < 3 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		data, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %q at attempt %d", r.Method, data, n)
	}))
}

func ExampleNewTransport() {
	server := flaky()
	defer server.Close()

	client := &http.Client{Transport: mettlehttp.NewTransport(nil, nil)}
	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	fmt.Println(resp.StatusCode, string(text))
	// Output: 200 GET "" at attempt 3
}

// Two transports whose metrics go to one place.
func ExampleNamed() {
	payments := mettlehttp.NewTransport(nil, nil, mettlehttp.Named("payments"))
	search := mettlehttp.NewTransport(nil, nil, mettlehttp.Named("search"))
	for _, t := range []*mettlehttp.Transport{payments, search} {
		for m := range t.Observe {
			if m.Name == "mettle.timeout.exceeded" {
				fmt.Println(m.Name, m.Labels, m.Value)
			}
		}
	}
	// Output:
	// mettle.timeout.exceeded [{policy payments total}] 0
	// mettle.timeout.exceeded [{policy payments attempt}] 0
	// mettle.timeout.exceeded [{policy search total}] 0
	// mettle.timeout.exceeded [{policy search attempt}] 0
}

// A pipeline of one's own, with one breaker for each host.
func ExampleHost() {
	server := flaky()
	defer server.Close()

	breakers := breaker.NewGroup[string](breaker.GroupConfig{})
	transport := mettlehttp.NewTransport(nil, mettle.Compose(
		timeout.New(timeout.Config{After: 5 * time.Second}),
		retry.New(retry.Config{MaxAttempts: 5, Backoff: retry.FullJitter(time.Millisecond, time.Second)}),
		breakers.By(mettlehttp.Host),
	))
	req, _ := http.NewRequest("POST", server.URL, strings.NewReader("pay"))
	req.Header.Set("Idempotency-Key", "order-1") // without a key, a POST goes out once
	resp, err := transport.RoundTrip(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	fmt.Println(string(text))
	fmt.Println(breakers.Len(), "breaker,", breakers.Get(server.URL).State()) // httptest's URL is the key as it is
	// Output:
	// POST "pay" at attempt 3
	// 1 breaker, closed
}

func ExampleBufferBodies() {
	server := flaky()
	defer server.Close()

	transport := mettlehttp.NewTransport(nil, nil, mettlehttp.BufferBodies(1<<20))
	// io.LimitReader is no reader whose content net/http could make again.
	req, _ := http.NewRequest("PUT", server.URL, io.LimitReader(strings.NewReader("text and more"), 4))
	req.ContentLength = 4
	resp, err := transport.RoundTrip(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	fmt.Println(string(text))
	// Output: PUT "text" at attempt 3
}

func ExampleNewHandler() {
	slots := bulkhead.New(bulkhead.Config{Limit: 1})
	handler := mettlehttp.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "done")
	}), slots, mettlehttp.RefuseWith(http.StatusServiceUnavailable))

	permit, _ := slots.TryAcquire() // somebody else is being served
	for range 2 {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		fmt.Println(w.Code, w.Header().Get("Retry-After"))
		permit.Release()
	}
	// Output:
	// 503 1
	// 200
}

func ExampleRefuseWith() {
	full := bulkhead.New(bulkhead.Config{Limit: 1})
	permit, _ := full.TryAcquire()
	defer permit.Release()
	handler := mettlehttp.NewHandler(http.NotFoundHandler(), full, mettlehttp.RefuseWith(http.StatusTooManyRequests))
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	fmt.Println(w.Code)
	// Output: 429
}
