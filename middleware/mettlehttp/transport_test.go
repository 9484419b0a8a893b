package mettlehttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
)

// TestStatuses sends one request for every status there is.
//
// Spec: W1, W12
func TestStatuses(t *testing.T) {
	resent := []int{408, 425, 429, 500, 502, 503, 504}
	overload := []int{429, 503}
	timeout := []int{408, 504}
	for code := 200; code < 600; code++ {
		want := mettle.Success
		switch {
		case slices.Contains(overload, code):
			want = mettle.Overload
		case slices.Contains(timeout, code):
			want = mettle.Timeout
		case code == 501 || code == 505:
		case code >= 500 || code == 425:
			want = mettle.Failure
		}
		attempts := 1
		if slices.Contains(resent, code) {
			attempts = 3
		}

		var bodies []*body
		base := baseFunc(func(req *http.Request) (*http.Response, error) {
			bodies = append(bodies, newBody("the answer"))
			return answer(req, code, bodies[len(bodies)-1]), nil
		})
		var seen mettle.Outcome
		watch := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
			err := op(ctx)
			seen = mettle.Classify(ctx, err)
			var status *mettlehttp.StatusError
			if errors.As(err, &status) && status.Code != code {
				t.Errorf("%d: StatusError has Code %d", code, status.Code)
			}
			return err
		})
		tr := mettlehttp.NewTransport(base, mettle.Compose(resend(3), watch))
		resp, err := tr.RoundTrip(request(t, "GET", "http://host/", nil))
		one(t, resp, err)
		if resp.StatusCode != code || len(bodies) != attempts || seen != want {
			t.Errorf("%d: got %d after %d attempts, class %v; want %d attempts, class %v",
				code, resp.StatusCode, len(bodies), seen, attempts, want)
		}
		for i, b := range bodies[:attempts-1] {
			if b.closed.Load() != 1 {
				t.Errorf("%d: body of attempt %d closed %d times", code, i+1, b.closed.Load())
			}
		}
		last := bodies[attempts-1]
		if attempts == 1 && last.closed.Load() != 0 {
			t.Errorf("%d: the body was closed before the caller had it", code)
		}
		if got := readAll(t, resp); got != "the answer" || last.readAfter.Load() || last.closed.Load() != 1 {
			t.Errorf("%d: body %q, closed %d times", code, got, last.closed.Load())
		}
	}
}

// TestRequestUnchanged lets a base do to its request what it must not do to the caller's.
//
// Spec: W2
func TestRequestUnchanged(t *testing.T) {
	type ctxKey struct{}
	ctx := context.WithValue(t.Context(), ctxKey{}, "value")
	req, _ := http.NewRequestWithContext(ctx, "PUT", "http://user:pw@host/path?q=1", strings.NewReader("payload"))
	req.Header = http.Header{"A": {"1", "2"}, "Idempotency-Key": nil}
	req.Trailer = http.Header{"T": nil}
	req.TransferEncoding = []string{"identity"}
	before, beforeURL, beforeBody := *req, *req.URL, req.Body
	beforeHeader, beforeTrailer := req.Header.Clone(), req.Trailer.Clone()

	attempts := 0
	base := baseFunc(func(r *http.Request) (*http.Response, error) {
		if r == req || r.URL == req.URL || reflect.ValueOf(r.Header).Pointer() == reflect.ValueOf(req.Header).Pointer() {
			t.Error("the base got the caller's own request, URL or header")
		}
		if r.Context().Value(ctxKey{}) != "value" {
			t.Error("the base's context has lost the caller's value")
		}
		if attempts++; mettle.Attempt(r.Context()) != attempts {
			t.Errorf("Attempt is %d in attempt %d", mettle.Attempt(r.Context()), attempts)
		}
		if got := r.Header.Values("A"); !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("attempt %d has header A %q", attempts, got)
		}
		r.Header.Set("A", "changed")
		r.Header.Set("B", "added")
		if reflect.ValueOf(r.Trailer).Pointer() != reflect.ValueOf(req.Trailer).Pointer() {
			t.Error("the base got a Trailer that is not the one the caller's body knows")
		}
		r.URL.Path, r.Host, r.Method, r.ContentLength = "/changed", "changed", "POST", 99
		r.TransferEncoding[0] = "chunked"
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
		return answer(r, 503, newBody("")), nil
	})
	resp, err := mettlehttp.NewTransport(base, resend(3)).RoundTrip(req)
	one(t, resp, err).Body.Close()

	if attempts != 3 {
		t.Errorf("%d attempts, want 3", attempts)
	}
	if !reflect.DeepEqual(req.Header, beforeHeader) || !reflect.DeepEqual(req.Trailer, beforeTrailer) ||
		*req.URL != beforeURL || req.TransferEncoding[0] != "identity" {
		t.Errorf("the request was changed: %+v", req)
	}
	if req.Method != before.Method || req.Host != before.Host || req.ContentLength != before.ContentLength ||
		req.Body != beforeBody || req.Context() != ctx {
		t.Errorf("the request was changed: %+v", req)
	}
}

// TestResponseKept checks what a caller may look for in a response, over real HTTP.
//
// Spec: W3
func TestResponseKept(t *testing.T) {
	h := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Sum")
		switch r.URL.Path {
		case "/length":
			w.Header().Del("Trailer")
			w.Header().Set("Content-Length", "5")
			io.WriteString(w, "12345")
		case "/gzip":
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(gzipped)
		default:
			io.WriteString(w, "body")
			w.(http.Flusher).Flush()
		}
		w.Header().Set("Sum", "42")
	}
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(protocol, func(t *testing.T) {
			s := httptest.NewUnstartedServer(http.HandlerFunc(h))
			s.EnableHTTP2 = protocol == "HTTP/2.0"
			s.StartTLS()
			defer s.Close()
			tr := mettlehttp.NewTransport(s.Client().Transport, nil)
			get := func(path string) *http.Response {
				req := request(t, "GET", s.URL+path, nil)
				resp, err := tr.RoundTrip(req)
				one(t, resp, err)
				if resp.Request != req {
					t.Error("Response.Request is not the request of the caller")
				}
				if resp.Proto != protocol || resp.TLS == nil {
					t.Errorf("Proto %s, TLS %v", resp.Proto, resp.TLS)
				}
				return resp
			}
			resp := get("/")
			if got := readAll(t, resp); got != "body" || resp.Trailer.Get("Sum") != "42" {
				t.Errorf("body %q, trailer %v", got, resp.Trailer)
			}
			if resp := get("/length"); resp.ContentLength != 5 || readAll(t, resp) != "12345" {
				t.Errorf("ContentLength %d", resp.ContentLength)
			}
			if resp := get("/gzip"); !resp.Uncompressed || readAll(t, resp) != "plain" {
				t.Error("the gzip of net/http's own asking was not undone")
			}
		})
	}
}

// TestEndlessAnswerDiscarded answers first with a 503 that has no end, on the only
// connection there may be.
//
// Spec: W5
func TestEndlessAnswerDiscarded(t *testing.T) {
	var n atomic.Int32
	url, base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) > 1 {
			return
		}
		w.WriteHeader(503)
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
	base.MaxConnsPerHost = 1
	resp, err := mettlehttp.NewTransport(base, resend(2)).RoundTrip(request(t, "GET", url, nil))
	if one(t, resp, err).Body.Close(); resp.StatusCode != 200 {
		t.Errorf("got %d", resp.StatusCode)
	}
}

// TestBodyEndsAttempt watches the context that the base got.
//
// Spec: W4
func TestBodyEndsAttempt(t *testing.T) {
	for name, end := range map[string]func(*http.Response){
		"close": func(r *http.Response) { r.Body.Close() },
		"EOF":   func(r *http.Response) { io.ReadAll(r.Body) },
		"close twice": func(r *http.Response) {
			r.Body.Close()
			if err := r.Body.Close(); err != nil {
				t.Errorf("second Close: %v", err)
			}
		},
		"EOF and close": func(r *http.Response) { io.ReadAll(r.Body); r.Body.Close() },
	} {
		for _, code := range []int{200, 500} {
			b := newBody("text")
			var ctx context.Context
			base := baseFunc(func(req *http.Request) (*http.Response, error) {
				ctx = req.Context()
				return answer(req, code, b), nil
			})
			resp, err := mettlehttp.NewTransport(base, resend(1)).RoundTrip(request(t, "GET", "http://host/", nil))
			one(t, resp, err)
			if ctx.Err() != nil {
				t.Errorf("%s %d: the context ended before the body: %v", name, code, ctx.Err())
			}
			end(resp)
			if ctx.Err() == nil {
				t.Errorf("%s %d: the context lives on", name, code)
			}
			if n := b.closed.Load(); n > 1 || n == 0 && name != "EOF" {
				t.Errorf("%s %d: body closed %d times", name, code, n)
			}
		}
	}

	broken := errors.New("connection lost")
	var ctx context.Context
	base := baseFunc(func(req *http.Request) (*http.Response, error) {
		ctx = req.Context()
		return answer(req, 200, &body{Reader: io.MultiReader(strings.NewReader("half"), errReader{broken})}), nil
	})
	resp, err := mettlehttp.NewTransport(base, nil).RoundTrip(request(t, "GET", "http://host/", nil))
	if data, err := io.ReadAll(one(t, resp, err).Body); !errors.Is(err, broken) || string(data) != "half" {
		t.Errorf("read %q, %v", data, err)
	}
	if ctx.Err() == nil {
		t.Error("the context lives on after a read error")
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// TestPerHost shuts one host and uses another.
//
// Spec: W17
func TestPerHost(t *testing.T) {
	calls := map[string]int{}
	base := baseFunc(func(req *http.Request) (*http.Response, error) {
		calls[req.URL.Host]++
		if req.URL.Hostname() == "bad" {
			return nil, errors.New("connection reset")
		}
		return answer(req, 200, newBody("")), nil
	})
	tr := mettlehttp.NewTransport(base, nil)
	send := func(url string) error {
		resp, err := tr.RoundTrip(request(t, "POST", url, nil))
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	open := false
	for range 50 {
		open = errors.Is(send("http://bad/"), breaker.ErrOpen)
	}
	if !open || calls["bad"] >= 50 {
		t.Errorf("after %d failures of 50 calls the breaker of the bad host is not open", calls["bad"])
	}
	for _, url := range []string{"http://good/", "http://bad:81/", "https://bad:80/"} {
		if err := send(url); errors.Is(err, mettle.ErrRejected) {
			t.Errorf("%s: %v", url, err)
		}
	}
	for _, url := range []string{"http://bad:80/", "http://BAD/other", "http://user:pw@bad/?q"} {
		if err := send(url); !errors.Is(err, breaker.ErrOpen) {
			t.Errorf("%s: %v, want the breaker of bad", url, err)
		}
	}
}

// TestHost asks for the key in a policy and outside.
//
// Spec: W17
func TestHost(t *testing.T) {
	for url, want := range map[string]string{
		"http://Example.COM/path":       "http://example.com:80",
		"https://user:pw@example.com?q": "https://example.com:443",
		"http://[::1]:8080/":            "http://[::1]:8080",
		"HTTP://h:80":                   "http://h:80",
		"unix://sock":                   "unix://sock",
	} {
		var got []string
		note := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
			got = append(got, mettlehttp.Host(ctx))
			return op(ctx)
		})
		base := baseFunc(func(req *http.Request) (*http.Response, error) {
			got = append(got, mettlehttp.Host(req.Context()))
			return answer(req, 200, http.NoBody), nil
		})
		resp, err := mettlehttp.NewTransport(base, mettle.Compose(resend(2), note)).RoundTrip(request(t, "GET", url, nil))
		one(t, resp, err)
		if !slices.Equal(got, []string{want, want}) {
			t.Errorf("%s: Host is %q, want %q", url, got, want)
		}
	}
	if got := mettlehttp.Host(context.Background()); got != "" {
		t.Errorf("Host outside a transport is %q", got)
	}
}

// TestNothingSecretInErrors looks for what a request carries in every error text that
// a policy, a hook or a caller gets to see.
//
// Spec: W18
func TestNothingSecretInErrors(t *testing.T) {
	const secret = "s3cr3t"
	var texts []string
	logged := func(err error) string {
		var text strings.Builder
		slog.New(slog.NewJSONHandler(&text, nil)).Info("failed", "err", err)
		return text.String()
	}
	note := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		err := op(ctx)
		texts = append(texts, fmt.Sprint(err), fmt.Sprintf("%+v", err), logged(err))
		return err
	})
	for _, base := range []http.RoundTripper{
		baseFunc(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, 503, newBody(secret))
			resp.Status = "503 " + secret
			resp.Header.Set("Retry-After", secret)
			return resp, nil
		}),
		baseFunc(func(req *http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }),
		baseFunc(func(req *http.Request) (*http.Response, error) { return nil, nil }),
		&http.Transport{DialContext: (&pipeListener{done: closedChan}).dial},
	} {
		for _, method := range []string{"GET", "POST", "bad method"} {
			req := request(t, "GET", "http://user:"+secret+"@host/"+secret+"?token="+secret, strings.NewReader(secret))
			req.Method = method
			req.Header.Set("Authorization", "Bearer "+secret)
			req.Header.Set("X-Bad", secret+"\n")
			resp, err := mettlehttp.NewTransport(base, mettle.Compose(note, resend(2), note)).RoundTrip(req)
			if err == nil {
				resp.Body.Close()
				continue
			}
			texts = append(texts, err.Error(), logged(err))
		}
	}
	for _, text := range texts {
		if strings.Contains(text, secret) {
			t.Errorf("the secret is in %q", text)
		}
	}
	if len(texts) < 40 || !slices.Contains(texts, "mettlehttp: 503 Service Unavailable from http://host:80") {
		t.Errorf("texts: %q", texts)
	}
}

var closedChan = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// TestClient goes through redirects with cookies, each hop of which fails at first.
//
// Spec: W1, W3
func TestClient(t *testing.T) {
	seen := map[string]int{}
	url, base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if seen[r.URL.Path]++; seen[r.URL.Path]%2 == 1 {
			w.WriteHeader(502)
			return
		}
		switch r.URL.Path {
		case "/a":
			http.SetCookie(w, &http.Cookie{Name: "c", Value: "1"})
			http.Redirect(w, r, "/b", http.StatusTemporaryRedirect)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		default:
			c, _ := r.Cookie("c")
			data, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %v %s", r.Method, c, data)
		}
	})
	jar, _ := cookiejar.New(nil)
	client := &http.Client{Transport: mettlehttp.NewTransport(base, resend(2)), Jar: jar}
	req := request(t, "PUT", url+"/a", strings.NewReader("payload"))
	resp, err := client.Do(req)
	if got := readAll(t, one(t, resp, err)); got != "PUT c=1 payload" {
		t.Errorf("got %q", got)
	}
	if resp.Request.URL.Path != "/b" || resp.Request.Response == nil {
		t.Errorf("the request of the last hop is %v", resp.Request.URL)
	}
	if !maps.Equal(seen, map[string]int{"/a": 2, "/b": 2}) {
		t.Errorf("requests: %v", seen)
	}
	clear(seen)
	if _, err := client.Get(url + "/loop"); err == nil {
		t.Error("a redirect without end came to an end")
	}
	// Ten hops, each of one failure and one redirect: the Client's limit, not ours.
	if seen["/loop"] != 20 {
		t.Errorf("%d requests for ten hops", seen["/loop"])
	}
}

// TestClientErrors looks at errors as users of http.Client do.
//
// Spec: W1
func TestClientErrors(t *testing.T) {
	refused := &http.Transport{DialContext: (&pipeListener{done: closedChan}).dial}
	client := &http.Client{Transport: mettlehttp.NewTransport(refused, resend(2))}
	_, err := client.Get("http://host/path")
	var ue *url.Error
	if !errors.As(err, &ue) || ue.Op != "Get" || ue.URL != "http://host/path" || ue.Timeout() {
		t.Errorf("got %v", err)
	}
	client.Transport = mettlehttp.NewTransport(refused, refuse)
	if _, err = client.Get("http://host/"); !errors.Is(err, mettle.ErrRejected) || !errors.Is(err, errRefused) {
		t.Errorf("got %v", err)
	}
	slow := baseFunc(func(req *http.Request) (*http.Response, error) {
		return nil, fmt.Errorf("wrapped: %w", context.DeadlineExceeded)
	})
	client.Transport = mettlehttp.NewTransport(slow, resend(2))
	if _, err = client.Get("http://host/"); !errors.As(err, &ue) || !ue.Timeout() || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want a timeout", err)
	}
}

// TestBaseBreaksContract has bases that return both, or neither.
//
// Spec: W1
func TestBaseBreaksContract(t *testing.T) {
	b, broken := newBody("x"), errors.New("broken")
	both := baseFunc(func(req *http.Request) (*http.Response, error) { return answer(req, 200, b), broken })
	resp, err := mettlehttp.NewTransport(both, resend(1)).RoundTrip(request(t, "GET", "http://host/", nil))
	if !errors.Is(failed(t, resp, err), broken) || b.closed.Load() != 1 {
		t.Errorf("got %v, body closed %d times", err, b.closed.Load())
	}
	neither := baseFunc(func(req *http.Request) (*http.Response, error) { return nil, nil })
	resp, err = mettlehttp.NewTransport(neither, resend(1)).RoundTrip(request(t, "GET", "http://host/", nil))
	failed(t, resp, err)
	bodiless := baseFunc(func(req *http.Request) (*http.Response, error) { return answer(req, 503, nil), nil })
	resp, err = mettlehttp.NewTransport(bodiless, resend(2)).RoundTrip(request(t, "GET", "http://host/", nil))
	one(t, resp, err)
}

// TestPoliciesOfOthers runs policies that do what ours do not.
//
// Spec: W1
func TestPoliciesOfOthers(t *testing.T) {
	var bodies []*body
	code := 503
	base := baseFunc(func(req *http.Request) (*http.Response, error) {
		bodies = append(bodies, newBody("text"))
		return answer(req, code, bodies[len(bodies)-1]), nil
	})
	do := func(p mettle.PolicyFunc) (*http.Response, error) {
		bodies = nil
		return mettlehttp.NewTransport(base, p).RoundTrip(request(t, "GET", "http://host/", nil))
	}
	mine := errors.New("mine")

	resp, err := do(func(ctx context.Context, op func(context.Context) error) error { op(ctx); return nil })
	if one(t, resp, err); resp.StatusCode != 503 || readAll(t, resp) != "text" {
		t.Error("a policy that swallows the failure gets the failed answer")
	}
	resp, err = do(func(context.Context, func(context.Context) error) error { return nil })
	failed(t, resp, err)
	resp, err = do(func(ctx context.Context, op func(context.Context) error) error { op(ctx); return mine })
	if !errors.Is(failed(t, resp, err), mine) || bodies[0].closed.Load() != 1 {
		t.Errorf("got %v, body closed %d times", err, bodies[0].closed.Load())
	}
	resp, err = do(func(ctx context.Context, op func(context.Context) error) error { op(ctx); return errRefused })
	if one(t, resp, err); resp.StatusCode != 503 || readAll(t, resp) != "text" {
		t.Error("an answer followed by a refusal is the result")
	}
	code = 200
	resp, err = do(func(ctx context.Context, op func(context.Context) error) error { op(ctx); return mine })
	if !errors.Is(failed(t, resp, err), mine) || bodies[0].closed.Load() != 1 {
		t.Errorf("got %v, body closed %d times", err, bodies[0].closed.Load())
	}
	resp, err = do(func(ctx context.Context, op func(context.Context) error) error { op(ctx); return op(ctx) })
	if one(t, resp, err); bodies[0].closed.Load() != 1 || bodies[1].closed.Load() != 0 || readAll(t, resp) != "text" {
		t.Error("of two successes, one after the other, the last is the result")
	}
}

// TestPanicPassesThrough panics in the base, with an answer held and a body not sent.
//
// Spec: W6
func TestPanicPassesThrough(t *testing.T) {
	held := newBody("text")
	var ctx context.Context
	base := baseFunc(func(req *http.Request) (*http.Response, error) {
		if held.closed.Load() > 0 {
			ctx = req.Context()
			panic("boom")
		}
		return answer(req, 503, held), nil
	})
	func() {
		defer func() {
			if v := recover(); v != "boom" {
				t.Errorf("recovered %v", v)
			}
		}()
		mettlehttp.NewTransport(base, resend(2)).RoundTrip(request(t, "GET", "http://host/", nil))
	}()
	if held.closed.Load() != 1 || ctx.Err() == nil {
		t.Error("the panic left a body open or a context alive")
	}

	upload := newBody("upload")
	req := request(t, "POST", "http://host/", upload)
	func() {
		defer func() { recover() }()
		mettlehttp.NewTransport(base, mettle.PolicyFunc(func(context.Context, func(context.Context) error) error {
			panic("policy")
		})).RoundTrip(req)
	}()
	if upload.closed.Load() != 1 {
		t.Errorf("upload closed %d times", upload.closed.Load())
	}
}

// TestForwarded checks what a Transport passes on.
//
// Spec: W14
func TestForwarded(t *testing.T) {
	base := &closeIdler{}
	tr := mettlehttp.NewTransport(base, resend(1))
	if resp, err := tr.RoundTrip(request(t, "GET", "http://host/", nil)); err != nil || base.closed != 0 {
		t.Errorf("%v, %v, idle connections closed %d times", resp, err, base.closed)
	}
	(&http.Client{Transport: tr}).CloseIdleConnections()
	if base.closed != 1 {
		t.Errorf("CloseIdleConnections was forwarded %d times", base.closed)
	}
	mettlehttp.NewTransport(baseFunc(nil), nil).CloseIdleConnections() // has none
	metrics := 0
	mettlehttp.NewTransport(nil, nil).Observe(func(m mettle.Metric) bool { metrics++; return metrics < 5 })
	if metrics != 5 {
		t.Errorf("%d metrics, want to be stopped after 5", metrics)
	}
	mettlehttp.NewTransport(nil, refuse).Observe(func(m mettle.Metric) bool { t.Error("a metric of nothing"); return true })
}

type closeIdler struct{ closed int }

func (c *closeIdler) CloseIdleConnections() { c.closed++ }
func (c *closeIdler) RoundTrip(r *http.Request) (*http.Response, error) {
	return answer(r, 200, http.NoBody), nil
}
