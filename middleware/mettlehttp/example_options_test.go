package mettlehttp_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
	"github.com/mettle-go/mettle/timeout"
)

// A server that is known to do nothing with a request that it answers 503 may be sent a
// POST again.
func ExampleResend() {
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests++; requests < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	client := &http.Client{Transport: mettlehttp.NewTransport(nil, nil,
		mettlehttp.Resend(func(req *http.Request, resp *http.Response, byDefault bool) bool {
			return byDefault || resp != nil && resp.StatusCode == http.StatusServiceUnavailable
		}))}
	resp, err := client.Post(server.URL, "text/plain", strings.NewReader("text"))
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	fmt.Println(resp.StatusCode, "after", requests, "requests")
	// Output: 200 after 3 requests
}

// An object that is not there yet is a failure of a store that says it has it.
func ExampleClassify() {
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests++; requests < 3 {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer server.Close()
	client := &http.Client{Transport: mettlehttp.NewTransport(nil, nil,
		mettlehttp.Classify(func(status int, byDefault mettle.Outcome) mettle.Outcome {
			if status == http.StatusNotFound {
				return mettle.Failure
			}
			return byDefault
		}),
		mettlehttp.Resend(func(req *http.Request, resp *http.Response, byDefault bool) bool {
			return byDefault || resp != nil && resp.StatusCode == http.StatusNotFound
		}))}
	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	fmt.Println(resp.StatusCode, "after", requests, "requests")
	// Output: 200 after 3 requests
}

func ExamplePrepare() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("signed:", r.Header.Get("Signature"))
		if r.Header.Get("Signature") != "attempt 2" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	client := &http.Client{Transport: mettlehttp.NewTransport(nil, nil,
		mettlehttp.Prepare(func(req *http.Request) error {
			req.Header.Set("Signature", fmt.Sprint("attempt ", mettle.Attempt(req.Context())))
			return nil
		}))}
	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	// Output:
	// signed: attempt 1
	// signed: attempt 2
}

func ExamplePropagate() {
	server := httptest.NewServer(mettlehttp.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		deadline, _ := r.Context().Deadline()
		fmt.Fprint(w, "less than a minute: ", time.Until(deadline) < time.Minute)
	}), nil, mettlehttp.Propagate()))
	defer server.Close()

	total := timeout.New(timeout.Config{After: time.Minute})
	client := &http.Client{Transport: mettlehttp.NewTransport(nil, total, mettlehttp.Propagate())}
	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	var text [64]byte
	n, _ := resp.Body.Read(text[:])
	fmt.Println(string(text[:n]))
	// Output: less than a minute: true
}
