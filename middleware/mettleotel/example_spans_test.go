package mettleotel_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
	"github.com/mettle-go/mettle/middleware/mettleotel"
	"github.com/mettle-go/mettle/retry"
)

// A call that comes right at the second attempt is one span that is no error, with the
// spans of its attempts below.
func ExampleCallSpan() {
	recorder := tracetest.NewSpanRecorder() // in earnest: a batcher with an exporter
	tracer := trace.NewTracerProvider(trace.WithSpanProcessor(recorder)).Tracer("payments")
	p := mettle.Compose(
		mettleotel.CallSpan(tracer, "charge"),
		retry.New(retry.Config{Backoff: retry.Constant(0)}),
		mettleotel.AttemptSpan(tracer, "charge attempt"),
	)
	err := p.Do(context.Background(), func(ctx context.Context) error {
		if mettle.Attempt(ctx) == 1 {
			return errors.New("connection reset")
		}
		return nil
	})
	fmt.Println(err)
	for _, span := range recorder.Ended() {
		fmt.Println(span.Name(), span.SpanKind(), span.Status().Code)
	}
	// Output:
	// <nil>
	// charge attempt client Error
	// charge attempt client Unset
	// charge internal Unset
}

// An attempt on its own, without a span for the call.
func ExampleAttemptSpan() {
	recorder := tracetest.NewSpanRecorder()
	tracer := trace.NewTracerProvider(trace.WithSpanProcessor(recorder)).Tracer("payments")
	p := mettle.Compose(retry.New(retry.Config{}), mettleotel.AttemptSpan(tracer, "charge"))
	_ = p.Do(context.Background(), func(context.Context) error { return nil })
	for _, span := range recorder.Ended() {
		fmt.Println(span.Name(), span.Attributes()[0].Key, span.Attributes()[0].Value.AsInt64())
	}
	// Output: charge mettle.attempt 1
}

// Over HTTP each request is a span by OpenTelemetry's conventions.
func ExampleNewTransport() {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked == 1 {
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	defer server.Close()

	recorder := tracetest.NewSpanRecorder()
	tracer := trace.NewTracerProvider(trace.WithSpanProcessor(recorder)).Tracer("payments")
	base := mettleotel.NewTransport(nil, tracer, propagation.TraceContext{})
	client := http.Client{Transport: mettlehttp.NewTransport(base, mettle.Compose(
		mettleotel.CallSpan(tracer, "charge"),
		retry.New(retry.Config{Backoff: retry.Constant(0)}),
	))}
	defer client.CloseIdleConnections()
	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = resp.Body.Close()
	for _, span := range recorder.Ended() {
		for _, kv := range span.Attributes() {
			if kv.Key == "http.request.resend_count" || kv.Key == "http.response.status_code" {
				fmt.Println(span.Name(), kv.Key, kv.Value.AsInt64())
			}
		}
	}
	// Output:
	// GET http.response.status_code 502
	// GET http.request.resend_count 1
	// GET http.response.status_code 200
}
