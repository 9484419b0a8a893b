package mettleotel

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/mettle-go/mettle"
)

// The attributes of the semantic conventions for HTTP clients that we set.
const (
	keyMethod         = attribute.Key("http.request.method")
	keyMethodOriginal = attribute.Key("http.request.method_original")
	keyResendCount    = attribute.Key("http.request.resend_count")
	keyStatusCode     = attribute.Key("http.response.status_code")
	keyProtocol       = attribute.Key("network.protocol.version")
	keyServerAddress  = attribute.Key("server.address")
	keyServerPort     = attribute.Key("server.port")
	keyURL            = attribute.Key("url.full")
)

// NewTransport returns a transport that sends each request by base and records it as one
// client span, by the semantic conventions for HTTP: for mettlehttp.NewTransport to send
// attempts by, so that each attempt and each hedge has a span and says, as
// http.request.resend_count, how many went before it.
//
//	base := mettleotel.NewTransport(nil, tracer, nil)
//	client := http.Client{Transport: mettlehttp.NewTransport(base, mettle.Compose(mettleotel.CallSpan(tracer, "charge"), …))}
//
// The propagator tells the server which span a request belongs to. The URL is recorded
// without its user, password, query and fragment. A span ends when the header of the
// response has arrived. A nil base is [http.DefaultTransport], a nil propagator the one of
// [otel.GetTextMapPropagator]. A nil tracer panics.
func NewTransport(base http.RoundTripper, tracer trace.Tracer, propagator propagation.TextMapPropagator) http.RoundTripper {
	if tracer == nil {
		panic("mettleotel: NewTransport: nil Tracer")
	}
	if base == nil {
		base = http.DefaultTransport
	}
	if propagator == nil {
		propagator = otel.GetTextMapPropagator()
	}
	return &transport{base, tracer, propagator}
}

type transport struct {
	base       http.RoundTripper
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	method, ok := knownMethod(req.Method)
	name := method
	if !ok {
		name = "HTTP" // as the conventions want it
	}
	caller := req.Context()
	ctx, span := t.tracer.Start(caller, name, trace.WithSpanKind(trace.SpanKindClient))
	defer span.End() // also when base panics
	req = req.Clone(ctx)
	t.propagator.Inject(ctx, propagation.HeaderCarrier(req.Header))
	if !span.IsRecording() {
		return t.base.RoundTrip(req)
	}
	span.SetAttributes(requestAttributes(method, req)...)
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		o := mettle.Classify(caller, err)
		span.SetAttributes(keyOutcome.String(o.String()), errorType(o, err))
		if o.Failed() {
			span.SetStatus(codes.Error, "")
		}
		return resp, err
	}
	span.SetAttributes(keyStatusCode.Int(resp.StatusCode), keyProtocol.String(protocol(resp)))
	if resp.StatusCode >= 400 {
		span.SetAttributes(keyErrorType.String(strconv.Itoa(resp.StatusCode)))
		span.SetStatus(codes.Error, "")
	}
	return resp, nil
}

// CloseIdleConnections is what [http.Client.CloseIdleConnections] looks for.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func requestAttributes(method string, req *http.Request) []attribute.KeyValue {
	attrs := make([]attribute.KeyValue, 0, 8)
	attrs = append(attrs, keyMethod.String(method))
	if method == otherMethod {
		attrs = append(attrs, keyMethodOriginal.String(bounded(req.Method)))
	}
	if n := mettle.Attempt(req.Context()); n > 0 {
		attrs = append(attrs, keyAttempt.Int(n))
		if n > 1 {
			attrs = append(attrs, keyResendCount.Int(n-1))
		}
	}
	u := req.URL
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	attrs = append(attrs, keyURL.String(bounded(shown.String())), keyServerAddress.String(bounded(u.Hostname())))
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		port = map[string]int{"http": 80, "https": 443}[u.Scheme]
	}
	if port > 0 {
		attrs = append(attrs, keyServerPort.Int(port))
	}
	return attrs
}

// otherMethod is what the conventions call a method that is not among those known.
const otherMethod = "_OTHER"

func knownMethod(m string) (string, bool) {
	switch m {
	case "":
		return http.MethodGet, true
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return m, true
	default:
		return otherMethod, false
	}
}

// protocol returns the version as the conventions write it: "1.1", "2".
func protocol(resp *http.Response) string {
	return strings.TrimSuffix(strings.TrimPrefix(resp.Proto, "HTTP/"), ".0")
}
