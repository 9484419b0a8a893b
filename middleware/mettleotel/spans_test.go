package mettleotel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	api "go.opentelemetry.io/otel/trace"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/fallback"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/mettletest"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
	"github.com/mettle-go/mettle/middleware/mettleotel"
	"github.com/mettle-go/mettle/retry"
)

func recorded(options ...trace.TracerProviderOption) (api.Tracer, *tracetest.SpanRecorder) {
	recorder := tracetest.NewSpanRecorder()
	options = append(options, trace.WithSpanProcessor(recorder))
	return trace.NewTracerProvider(options...).Tracer("test"), recorder
}

// tell returns one line for each span that has ended, in that order, with its events.
func tell(recorder *tracetest.SpanRecorder) (lines []string) {
	for _, span := range recorder.Ended() {
		line := fmt.Sprintf("%s %v %v [%s]", span.Name(), span.SpanKind(), span.Status().Code, told(span.Attributes()))
		for _, e := range span.Events() {
			line += fmt.Sprintf(" %s[%s]", e.Name, told(e.Attributes))
		}
		lines = append(lines, line)
	}
	return lines
}

func told(attrs []attribute.KeyValue) string {
	set := attribute.NewSet(attrs...) // in order of keys
	texts := make([]string, set.Len())
	for i, kv := range set.ToSlice() {
		texts[i] = fmt.Sprintf("%s=%v", kv.Key, kv.Value.AsInterface())
	}
	return strings.Join(texts, " ")
}

type errDown struct{ error }

// What a call went through is in its spans, and what came right does not stain them.
//
// Spec: O2 (part)
func TestSpans(t *testing.T) {
	down := fmt.Errorf("wrapped: %w", &errDown{errors.New("secret")})
	fail := func(times int) func(context.Context) error {
		return func(context.Context) error {
			if times--; times >= 0 {
				return down
			}
			return nil
		}
	}
	canceled := func(ctx context.Context) error {
		ctx.Value(leave{}).(context.CancelFunc)()
		return ctx.Err()
	}
	for name, tt := range map[string]struct {
		middle []mettle.Policy
		op     func(context.Context) error
		want   []string
	}{
		"success": {nil, fail(0), []string{
			"charge client Unset [mettle.attempt=1]",
			"charge internal Unset []"}},
		"a failure that was retried": {[]mettle.Policy{retry.New(retry.Config{Name: "r", Backoff: retry.Constant(time.Second)})}, fail(1), []string{
			"charge client Error [error.type=*mettleotel_test.errDown mettle.attempt=1 mettle.outcome=failure]",
			"charge client Unset [mettle.attempt=2]",
			"charge internal Unset [mettle.attempts=2] mettle.wait[error.type=*mettleotel_test.errDown mettle.attempt=1 mettle.delay=1 mettle.policy=r]"}},
		"a failure for good": {[]mettle.Policy{retry.New(retry.Config{MaxAttempts: 1})}, fail(9), []string{
			"charge client Error [error.type=*mettleotel_test.errDown mettle.attempt=1 mettle.outcome=failure]",
			"charge internal Error [error.type=*mettleotel_test.errDown mettle.attempts=1 mettle.outcome=failure]"}},
		"a breaker that opens and refuses": {[]mettle.Policy{
			fallback.New(fallback.Config{Name: "f", Run: func(context.Context, error) error { return nil }}),
			retry.New(retry.Config{Backoff: retry.Constant(0), RetryIf: func(error) bool { return true }}),
			breaker.New(breaker.Config{Name: "b", Consecutive: 1, OpenFor: time.Hour})}, fail(9), []string{
			"charge client Error [error.type=*mettleotel_test.errDown mettle.attempt=1 mettle.outcome=failure]",
			"charge internal Unset [mettle.attempts=2]" +
				" mettle.breaker.changed[error.type=*mettleotel_test.errDown mettle.breaker.from=closed mettle.breaker.to=open mettle.policy=b]" +
				" mettle.wait[error.type=*mettleotel_test.errDown mettle.attempt=1 mettle.policy=]" +
				" mettle.rejected[error.type=breaker_open mettle.policy=b]" +
				" mettle.fell_back[error.type=*mettleotel_test.errDown mettle.policy=f]"}},
		"a refusal": {[]mettle.Policy{forcedOpen()}, fail(0), []string{
			"charge internal Error [error.type=breaker_open mettle.outcome=ignored] mettle.rejected[error.type=breaker_open mettle.policy=b]"}},
		"a caller who leaves": {nil, canceled, []string{
			"charge client Unset [error.type=canceled mettle.attempt=1 mettle.outcome=ignored]",
			"charge internal Unset [error.type=canceled mettle.outcome=ignored]"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tracer, recorder := recorded()
				policies := append([]mettle.Policy{mettleotel.CallSpan(tracer, "charge")}, tt.middle...)
				p := mettle.Compose(append(policies, mettleotel.AttemptSpan(tracer, "charge"))...)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				_ = p.Do(context.WithValue(ctx, leave{}, cancel), tt.op)
				assert.Equal(t, tt.want, tell(recorder))
				for _, span := range recorder.Ended()[:len(recorder.Ended())-1] {
					last := recorder.Ended()[len(recorder.Ended())-1]
					assert.Equal(t, last.SpanContext().SpanID(), span.Parent().SpanID(), "attempts belong to the call")
				}
			})
		})
	}
}

type leave struct{}

func forcedOpen() *breaker.Breaker {
	b := breaker.New(breaker.Config{Name: "b"})
	b.ForceOpen(breaker.Override{})
	return b
}

// The runs of a hedge are client spans of one call, and the loser is no error.
//
// Spec: O2 (part)
func TestSpansOfAHedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tracer, recorder := recorded()
		p := mettle.Compose(mettleotel.CallSpan(tracer, "get"),
			hedge.New(hedge.Config{Name: "h", After: time.Second}), mettleotel.AttemptSpan(tracer, "get"))
		require.NoError(t, p.Do(t.Context(), func(ctx context.Context) error {
			if mettle.Attempt(ctx) == 1 {
				<-ctx.Done()
				return context.Cause(ctx)
			}
			return nil
		}))
		assert.Equal(t, []string{
			"get client Unset [mettle.attempt=2]",
			"get client Unset [error.type=canceled mettle.attempt=1 mettle.outcome=ignored]",
			"get internal Unset [mettle.attempts=2] mettle.hedged[mettle.attempt=2 mettle.delay=1 mettle.policy=h]",
		}, tell(recorder))
	})
}

// spanLog is a handler that notes the span of the context, as those do that send logs to
// OpenTelemetry.
type spanLog struct {
	slog.Handler
	told *[]string
}

func (h spanLog) Handle(ctx context.Context, r slog.Record) error {
	*h.told = append(*h.told, r.Message+" "+api.SpanContextFromContext(ctx).SpanID().String())
	return nil
}

// What mettle.LogTrace logs of a call belongs to the span of the call.
//
// Spec: O4 (part)
func TestLogsBelongToTheSpan(t *testing.T) {
	tracer, recorder := recorded()
	var told []string
	ctx := mettle.WithTrace(t.Context(), mettle.LogTrace(slog.New(spanLog{slog.NewTextHandler(io.Discard, nil), &told}), 0))
	p := mettle.Compose(mettleotel.CallSpan(tracer, "charge"), forcedOpen())
	require.ErrorIs(t, p.Do(ctx, func(context.Context) error { return nil }), breaker.ErrOpen)
	assert.Equal(t, []string{"call refused " + recorder.Ended()[0].SpanContext().SpanID().String()}, told)
}

// A panic ends its spans, as failures.
func TestSpansOfAPanic(t *testing.T) {
	tracer, recorder := recorded()
	p := mettle.Compose(mettleotel.CallSpan(tracer, "charge"), mettleotel.AttemptSpan(tracer, "charge"))
	assert.PanicsWithValue(t, "boom", func() { _ = p.Do(t.Context(), func(context.Context) error { panic("boom") }) })
	assert.Equal(t, []string{
		"charge client Error [error.type=panic mettle.attempt=1 mettle.outcome=failure]",
		"charge internal Error [error.type=panic mettle.outcome=failure]",
	}, tell(recorder))
}

// Where nobody samples, no trace is carried along, so that policies have nobody to tell.
//
// Spec: O3 (part)
func TestNotSampled(t *testing.T) {
	tracer, recorder := recorded(trace.WithSampler(trace.NeverSample()))
	p := mettle.Compose(mettleotel.CallSpan(tracer, "charge"), mettleotel.AttemptSpan(tracer, "charge"))
	require.NoError(t, p.Do(t.Context(), func(ctx context.Context) error {
		assert.Nil(t, mettle.ContextTrace(ctx))
		return nil
	}))
	assert.Empty(t, recorder.Ended())
}

func TestSpansConform(t *testing.T) {
	tracer, _ := recorded()
	for name, p := range map[string]mettle.Policy{
		"call": mettleotel.CallSpan(tracer, "x"), "attempt": mettleotel.AttemptSpan(tracer, "x"),
	} {
		t.Run(name, func(t *testing.T) { mettletest.TestPolicy(t, func() mettle.Policy { return p }) })
	}
}

// Each request that a call over HTTP sends is a span by the semantic conventions, says how
// many went before it, and tells the server of itself. The call is answered in the end, and
// is no error.
//
// Spec: O2
func TestTransport(t *testing.T) {
	var asked atomic.Int64
	var parents []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		parents = append(parents, r.Header.Get("Traceparent"))
		if asked.Add(1) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	tracer, recorder := recorded()
	base := mettleotel.NewTransport(nil, tracer, propagation.TraceContext{})
	client := http.Client{Transport: mettlehttp.NewTransport(base, mettle.Compose(
		mettleotel.CallSpan(tracer, "charge"), retry.New(retry.Config{Backoff: retry.Constant(time.Millisecond)})))}
	defer client.CloseIdleConnections()
	resp, err := client.Get(strings.Replace(server.URL, "http://", "http://user:secret@", 1) + "/a%2Fb?token=secret#part")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())

	port := server.URL[strings.LastIndex(server.URL, ":")+1:]
	common := "network.protocol.version=1.1 server.address=127.0.0.1 server.port=" + port + " url.full=" + server.URL + "/a%2Fb]"
	spans := recorder.Ended()
	require.Len(t, spans, 4)
	lines := tell(recorder)
	assert.Equal(t, []string{
		"GET client Error [error.type=503 http.request.method=GET http.response.status_code=503 mettle.attempt=1 " + common,
		"GET client Error [error.type=503 http.request.method=GET http.request.resend_count=1 http.response.status_code=503 mettle.attempt=2 " + common,
		"GET client Unset [http.request.method=GET http.request.resend_count=2 http.response.status_code=200 mettle.attempt=3 " + common,
	}, lines[:3])
	assert.True(t, strings.HasPrefix(lines[3], "charge internal Unset [mettle.attempts=3] mettle.wait[error.type=503 mettle.attempt=1 "), lines[3])
	for i, span := range spans[:3] {
		assert.Equal(t, spans[3].SpanContext().SpanID(), span.Parent().SpanID())
		assert.Contains(t, parents[i], span.SpanContext().SpanID().String())
	}
	conventions := map[attribute.Key]bool{
		semconv.ErrorTypeKey: true, semconv.HTTPRequestMethodKey: true, semconv.HTTPRequestResendCountKey: true,
		semconv.HTTPResponseStatusCodeKey: true, semconv.NetworkProtocolVersionKey: true,
		semconv.ServerAddressKey: true, semconv.ServerPortKey: true, semconv.URLFullKey: true,
	}
	for _, span := range spans {
		for _, kv := range span.Attributes() {
			assert.True(t, conventions[kv.Key] || strings.HasPrefix(string(kv.Key), "mettle."), "%s", kv.Key)
			assert.NotContains(t, kv.Value.String(), "secret")
		}
	}
}

func TestTransportOddRequests(t *testing.T) {
	tracer, recorder := recorded()
	rt := mettleotel.NewTransport(roundTripper(func(*http.Request) (*http.Response, error) {
		return nil, &errDown{errors.New("secret")}
	}), tracer, propagation.TraceContext{})
	req := httptest.NewRequest("BREW", "https://example.com/", nil)
	header := req.Header.Clone()
	_, err := rt.RoundTrip(req)
	var down *errDown
	require.ErrorAs(t, err, &down)
	assert.Equal(t, header, req.Header, "the request is the caller's")
	assert.Equal(t, []string{"HTTP client Error [error.type=*mettleotel_test.errDown http.request.method=_OTHER" +
		" http.request.method_original=BREW mettle.outcome=failure server.address=example.com server.port=443" +
		" url.full=https://example.com/]"}, tell(recorder))
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestSpansNilPanics(t *testing.T) {
	assert.PanicsWithValue(t, "mettleotel: CallSpan: nil Tracer", func() { mettleotel.CallSpan(nil, "") })
	assert.PanicsWithValue(t, "mettleotel: AttemptSpan: nil Tracer", func() { mettleotel.AttemptSpan(nil, "") })
	assert.PanicsWithValue(t, "mettleotel: NewTransport: nil Tracer", func() { mettleotel.NewTransport(nil, nil, nil) })
}
