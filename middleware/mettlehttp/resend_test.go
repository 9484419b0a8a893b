package mettlehttp_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
	"github.com/mettle-go/mettle/timeout"
)

// failing is a base that reads the body it is sent, closes it and answers in turn with
// the codes given; 0 is a broken connection. It keeps the bodies it was sent.
type failing struct {
	codes []int
	got   []string
	keys  []string
}

func (f *failing) RoundTrip(req *http.Request) (*http.Response, error) {
	data := "none"
	if req.Body != nil {
		b, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		req.Body.Close()
		data = string(b)
	}
	code := f.codes[min(len(f.got), len(f.codes)-1)]
	f.got = append(f.got, data)
	f.keys = append(f.keys, fmt.Sprint(req.Header["Idempotency-Key"], req.Header["X-Idempotency-Key"]))
	if code == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	return answer(req, code, newBody("answer")), nil
}

// TestMethods tries which requests are sent again, after an answer and after a broken
// connection, under a retry that would resend anything.
//
// Spec: W8
func TestMethods(t *testing.T) {
	naive := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) (err error) {
		for range 3 {
			if err = op(ctx); err == nil {
				break
			}
		}
		return err
	})
	for _, test := range []struct {
		method string
		header http.Header
		want   int
	}{
		{"", nil, 3}, {"GET", nil, 3}, {"HEAD", nil, 3}, {"OPTIONS", nil, 3}, {"TRACE", nil, 3}, {"PUT", nil, 3}, {"DELETE", nil, 3},
		{"POST", nil, 1}, {"PATCH", nil, 1}, {"CONNECT", nil, 1}, {"get", nil, 1}, {"PROPFIND", nil, 1},
		{"POST", http.Header{"Idempotency-Key": {"k1"}}, 3},
		{"PATCH", http.Header{"X-Idempotency-Key": {"k1"}}, 3},
		{"POST", http.Header{"Idempotency-Key": {}}, 3},
		{"POST", http.Header{"X-Idempotency-Key": nil}, 3},
		{"POST", http.Header{"Idempotency": {"k1"}}, 1},
	} {
		for _, code := range []int{503, 0} {
			for name, p := range map[string]mettle.Policy{"ours": resend(3), "naive": naive} {
				base := &failing{codes: []int{code}}
				req := request(t, test.method, "http://host/", nil)
				req.Method = test.method
				if test.header != nil {
					req.Header = test.header
				}
				resp, err := mettlehttp.NewTransport(base, p).RoundTrip(req)
				if len(base.got) != test.want {
					t.Errorf("%s %v, %d, %s: %d attempts, want %d", test.method, test.header, code, name, len(base.got), test.want)
				}
				for _, k := range base.keys {
					if k != base.keys[0] {
						t.Errorf("keys %q", base.keys)
					}
				}
				if code != 0 {
					if one(t, resp, err); resp.StatusCode != code {
						t.Errorf("got %d", resp.StatusCode)
					}
					resp.Body.Close()
				} else if !errors.Is(failed(t, resp, err), io.ErrUnexpectedEOF) {
					t.Errorf("%s, %s: got %v", test.method, name, err)
				}
			}
		}
	}
}

// TestBodies sends bodies of every kind.
//
// Spec: W6, W7, W13
func TestBodies(t *testing.T) {
	long := strings.Repeat("0123456789", 10_000)
	for _, test := range []struct {
		name     string
		set      func(*http.Request)
		buffer   int64
		attempts int
	}{
		{name: "GetBody", set: func(r *http.Request) {}, attempts: 3},
		{name: "no GetBody", set: func(r *http.Request) { r.GetBody = nil }, attempts: 1},
		{name: "buffered", set: func(r *http.Request) { r.GetBody = nil }, buffer: 200_000, attempts: 3},
		{name: "above the bound", set: func(r *http.Request) { r.GetBody = nil }, buffer: 99_999, attempts: 1},
		{name: "at the bound", set: func(r *http.Request) { r.GetBody = nil }, buffer: 100_000, attempts: 3},
		{name: "length unknown", set: func(r *http.Request) { r.GetBody, r.ContentLength = nil, -1 }, buffer: 200_000, attempts: 1},
		{name: "not idempotent", set: func(r *http.Request) { r.Method, r.GetBody = "POST", nil }, buffer: 200_000, attempts: 1},
		{name: "GetBody fails", set: func(r *http.Request) {
			r.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
		}, attempts: 1},
		{name: "GetBody returns nothing", set: func(r *http.Request) {
			r.GetBody = func() (io.ReadCloser, error) { return nil, nil }
		}, attempts: 1},
	} {
		for _, code := range []int{503, 0} {
			sent := newBody(long)
			var copies []*body
			req := request(t, "PUT", "http://host/", sent)
			req.ContentLength = int64(len(long))
			req.GetBody = func() (io.ReadCloser, error) {
				copies = append(copies, newBody(long))
				return copies[len(copies)-1], nil
			}
			test.set(req)
			base := &failing{codes: []int{code}}
			resp, err := mettlehttp.NewTransport(base, resend(3), mettlehttp.BufferBodies(test.buffer)).RoundTrip(req)
			if code == 0 {
				failed(t, resp, err)
			} else if one(t, resp, err); readAll(t, resp) != "answer" {
				t.Errorf("%s: the last answer is not the result", test.name)
			}
			if len(base.got) != test.attempts {
				t.Errorf("%s: %d attempts, want %d", test.name, len(base.got), test.attempts)
			}
			for i, got := range base.got {
				if got != long {
					t.Errorf("%s: attempt %d sent %d bytes, want %d", test.name, i+1, len(got), len(long))
				}
			}
			for i, b := range append(copies, sent) {
				if b.closed.Load() != 1 {
					t.Errorf("%s: body %d of %d closed %d times", test.name, i+1, len(copies)+1, b.closed.Load())
				}
			}
		}
	}
}

// TestNothingBuffered has a caller who writes the second half of a body when the server
// has got the first. It would never come if the body were read into memory before.
//
// Spec: W7, W13
func TestNothingBuffered(t *testing.T) {
	half := strings.Repeat("x", 1<<10)
	got := make(chan struct{}, 1)
	both(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadFull(r.Body, make([]byte, len(half)))
		got <- struct{}{}
		rest, _ := io.ReadAll(r.Body)
		if err != nil || string(rest) != half {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}, func(t *testing.T, w *wire, _ *http.Client) {
		for name, test := range map[string]struct {
			method string
			length int64
			opts   []mettlehttp.Option
		}{
			"no option":          {"PUT", 2 << 10, nil},
			"above the bound":    {"PUT", 2 << 10, []mettlehttp.Option{mettlehttp.BufferBodies(2<<10 - 1)}},
			"of unknown length":  {"PUT", -1, []mettlehttp.Option{mettlehttp.BufferBodies(1 << 20)}},
			"may not be resent":  {"POST", 2 << 10, []mettlehttp.Option{mettlehttp.BufferBodies(1 << 20)}},
			"unknown, by Resend": {"POST", -1, []mettlehttp.Option{mettlehttp.BufferBodies(1 << 20), mettlehttp.Resend(always)}},
		} {
			body, write := io.Pipe()
			go func() {
				io.WriteString(write, half)
				select {
				case <-got:
					io.WriteString(write, half)
				case <-time.After(5 * time.Second):
					t.Errorf("%s: the server has not got the first half", name)
				}
				write.Close()
			}()
			req := request(t, test.method, w.url, body)
			req.ContentLength = test.length
			resp, err := mettlehttp.NewTransport(w.base, resend(3), test.opts...).RoundTrip(req)
			if resp = one(t, resp, err); resp.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("%s: got %d", name, resp.StatusCode)
			}
			resp.Body.Close()
		}
	})
}

func always(*http.Request, *http.Response, bool) bool { return true }

// TestSaysWhyNotResent reads the error of a request that went out once, where it is the
// result and where hooks see it. It used to be a bare status or a broken connection.
//
// Spec: W8, W18
func TestSaysWhyNotResent(t *testing.T) {
	const reason = "; not resent: "
	standard, bare := resend(3), mettle.Compose()
	late := mettle.Compose(timeout.New(timeout.Config{After: time.Nanosecond}), resend(3))
	opaque := func(r *http.Request) { r.GetBody = nil }
	for _, test := range []struct {
		name, method string
		p            mettle.Policy
		set          func(*http.Request)
		code         int   // 0: the base fails
		err          error // nil: in mid-request
		want         string
	}{
		{name: "no key", method: "POST", code: 503, want: reason + "POST without Idempotency-Key"},
		{name: "no key", method: "PATCH", want: reason + "PATCH without Idempotency-Key"},
		{name: "no key, but not sent", method: "POST", err: &net.OpError{Op: "dial", Err: errors.New("refused")}},
		{name: "key", method: "POST", set: func(r *http.Request) { r.Header.Set("Idempotency-Key", "k") }, code: 503},
		{name: "body", method: "PUT", set: opaque, code: 503, want: reason + "body without GetBody"},
		{name: "body", method: "PUT", set: opaque, want: reason + "body without GetBody"},
		{name: "may be resent", method: "GET"},
		{name: "status that never is", method: "POST", code: 507},
		{name: "never helps", method: "POST", err: x509.UnknownAuthorityError{}},
		{name: "no retry", method: "POST", p: bare, code: 503},
		{name: "no retry", method: "POST", p: bare},
		{name: "no time", method: "POST", p: late},
		{name: "no method to show", method: strings.Repeat("SECRET", 10), want: reason + "method without Idempotency-Key"},
	} {
		base := baseFunc(func(r *http.Request) (*http.Response, error) {
			if test.p == late {
				<-r.Context().Done()
			}
			switch {
			case test.code != 0:
				return answer(r, test.code, newBody("")), nil
			case test.err != nil:
				return nil, test.err
			}
			return nil, io.ErrUnexpectedEOF
		})
		req := request(t, test.method, "http://user:password@host/path?secret", strings.NewReader("body"))
		if test.set != nil {
			test.set(req)
		}
		var told error
		watch := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
			told = op(ctx)
			return told
		})
		p := cmp.Or(test.p, standard)
		resp, err := mettlehttp.NewTransport(base, mettle.Compose(p, watch)).RoundTrip(req)
		texts := []string{fmt.Sprint(told)}
		if test.code != 0 {
			one(t, resp, err).Body.Close()
		} else {
			texts = append(texts, fmt.Sprint(failed(t, resp, err)))
		}
		for _, text := range texts {
			if strings.Contains(strings.ToLower(text), "secret") || strings.Contains(text, "password") {
				t.Errorf("%s: a secret in %q", test.name, text)
			}
			if test.want != "" && !strings.HasSuffix(text, test.want) || test.want == "" && strings.Contains(text, reason) {
				t.Errorf("%s, %s, %d: got %q, want the end %q", test.name, test.method, test.code, text, test.want)
			}
		}
	}
}

// TestBufferedBodyBroken has bodies that are not what their length says.
//
// Spec: W6
func TestBufferedBodyBroken(t *testing.T) {
	for _, r := range []io.Reader{strings.NewReader("short"), strings.NewReader("eleven long"), errReader{io.ErrClosedPipe}} {
		sent := &body{Reader: r}
		req := request(t, "PUT", "http://host/", sent)
		req.ContentLength = 10
		base := &failing{codes: []int{200}}
		resp, err := mettlehttp.NewTransport(base, nil, mettlehttp.BufferBodies(10)).RoundTrip(req)
		failed(t, resp, err)
		if len(base.got) != 0 || sent.closed.Load() != 1 {
			t.Errorf("%d attempts, body closed %d times", len(base.got), sent.closed.Load())
		}
	}
	defer func() {
		if v := recover(); v == nil || !strings.Contains(v.(string), "limit is -1") {
			t.Errorf("recovered %v", v)
		}
	}()
	mettlehttp.BufferBodies(-1)
}

// TestBodyClosedOnce closes the caller's body however the call ends.
//
// Spec: W6
func TestBodyClosedOnce(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	twice := baseFunc(func(req *http.Request) (*http.Response, error) {
		req.Body.Close()
		req.Body.Close()
		return nil, io.ErrUnexpectedEOF
	})
	url, real := serve(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	gone := &http.Transport{DialContext: (&pipeListener{done: closedChan}).dial}
	for name, test := range map[string]struct {
		ctx  context.Context
		base http.RoundTripper
		p    mettle.Policy
	}{
		"refused":       {t.Context(), twice, refuse},
		"done on entry": {canceled, twice, nil},
		"closed twice":  {t.Context(), twice, nil},
		"sent":          {t.Context(), real, nil},
		"not connected": {t.Context(), gone, resend(2)},
	} {
		sent := newBody("text")
		req := request(t, "POST", url, sent).WithContext(test.ctx)
		if resp, err := mettlehttp.NewTransport(test.base, test.p).RoundTrip(req); err == nil {
			resp.Body.Close()
		}
		if n := sent.closed.Load(); n != 1 {
			t.Errorf("%s: body closed %d times", name, n)
		}
	}
}

// TestUnsent fails before anything was sent, and after.
//
// Spec: W9, W10
func TestUnsent(t *testing.T) {
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	connect := func(r *http.Request) *httptrace.ClientTrace {
		trace := httptrace.ContextClientTrace(r.Context())
		trace.GetConn("host:80")
		return trace
	}
	ignore := func(*http.Request) {}
	for _, test := range []struct {
		name string
		tell func(*http.Request)
		err  error
		want int
	}{
		{"dial", ignore, dial, 3},
		{"dial of the proxy", ignore, &net.OpError{Op: "proxyconnect", Net: "tcp", Err: dial}, 3},
		{"not a TLS server", ignore, tls.RecordHeaderError{Msg: "garbage", Conn: &net.TCPConn{}}, 3},
		{"TLS later on", ignore, tls.RecordHeaderError{Msg: "garbage"}, 1},
		{"write", ignore, &net.OpError{Op: "write", Net: "tcp", Err: errors.New("broken pipe")}, 1},
		{"base that tells nothing", ignore, errors.New("TLS handshake timeout"), 1},
		{"no connection", func(r *http.Request) { connect(r) }, errors.New("TLS handshake timeout"), 3},
		{"never written", func(r *http.Request) { connect(r).GotConn(httptrace.GotConnInfo{}) }, io.EOF, 3},
		{"written", func(r *http.Request) {
			trace := connect(r)
			trace.GotConn(httptrace.GotConnInfo{})
			trace.WroteHeaders()
		}, io.EOF, 1},

		{"name unknown", ignore, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}, 1},
		{"name server slow", ignore, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "timeout", IsTimeout: true}}, 3},
		{"authority", ignore, &net.OpError{Op: "dial", Err: x509.UnknownAuthorityError{}}, 1},
		{"certificate", func(r *http.Request) { connect(r) }, &tls.CertificateVerificationError{Err: errors.New("expired")}, 1},
		{"wrong name", func(r *http.Request) { connect(r) }, fmt.Errorf("wrapped: %w", x509.HostnameError{Certificate: &x509.Certificate{}}), 1},
	} {
		var sent []string
		base := baseFunc(func(r *http.Request) (*http.Response, error) {
			data, _ := io.ReadAll(r.Body)
			r.Body.Close()
			sent = append(sent, string(data))
			test.tell(r)
			return nil, test.err
		})
		resp, err := mettlehttp.NewTransport(base, resend(3)).RoundTrip(request(t, "POST", "http://host/", strings.NewReader("text")))
		if !errors.Is(failed(t, resp, err), test.err) && test.name != "wrong name" {
			t.Errorf("%s: got %v", test.name, err)
		}
		if len(sent) != test.want || strings.ReplaceAll(strings.Join(sent, ""), "text", "") != "" {
			t.Errorf("%s: sent %q, want %d attempts", test.name, sent, test.want)
		}
	}
}

// TestUnsentOnTheWire has servers that refuse, hang up in the handshake, and hang up
// once they have the request.
//
// Spec: W9, W10
func TestUnsentOnTheWire(t *testing.T) {
	untrusted := httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = discardLog
	untrusted.StartTLS()
	defer untrusted.Close()

	for _, test := range []struct {
		name, url string
		talk      func(net.Conn)
		want      int32
	}{
		{"hangs up in the handshake", "https://host/", func(c net.Conn) {}, 3},
		{"no TLS", "https://host/", func(c net.Conn) {
			c.Read(make([]byte, 4096)) // a pipe has no buffer
			io.WriteString(c, "220 smtp ready\r\n")
		}, 3},
		{"hangs up on the request", "http://host/", func(c net.Conn) { c.Read(make([]byte, 1)) }, 1},
		{"certificate", untrusted.URL, nil, 1},
	} {
		var dials atomic.Int32
		base := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials.Add(1)
			if test.talk == nil {
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
			client, server := net.Pipe()
			go func() { defer server.Close(); test.talk(server) }()
			return client, nil
		}}
		resp, err := mettlehttp.NewTransport(base, resend(3)).RoundTrip(request(t, "POST", test.url, strings.NewReader("text")))
		failed(t, resp, err)
		if dials.Load() != test.want {
			t.Errorf("%s: %d connections, want %d: %v", test.name, dials.Load(), test.want, err)
		}
	}
}

// TestNeverSendable has requests that net/http refuses with errors that have no type.
//
// Spec: W10
func TestNeverSendable(t *testing.T) {
	for name, spoil := range map[string]func(*http.Request){
		"scheme":       func(r *http.Request) { r.URL.Scheme = "gopher" },
		"no host":      func(r *http.Request) { r.URL.Host = "" },
		"no URL":       func(r *http.Request) { r.URL = nil },
		"no header":    func(r *http.Request) { r.Header = nil },
		"header name":  func(r *http.Request) { r.Header = http.Header{"a b": {"v"}} },
		"header value": func(r *http.Request) { r.Header = http.Header{"A": {"a\r\nb"}} },
		"trailer":      func(r *http.Request) { r.Trailer = http.Header{"": nil} },
	} {
		var attempts, counted int
		watch := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
			attempts++
			err := op(ctx)
			if mettle.Classify(ctx, err).Failed() {
				counted++
			}
			return err
		})
		req := request(t, "GET", "http://127.0.0.1:1/", nil)
		spoil(req)
		resp, err := mettlehttp.NewTransport(&http.Transport{}, mettle.Compose(resend(3), watch)).RoundTrip(req)
		failed(t, resp, err)
		if attempts != 1 {
			t.Errorf("%s: %d attempts: %v", name, attempts, err)
		}
		if name != "scheme" && counted != 0 {
			t.Errorf("%s: counted against the server", name)
		}
	}
}

// TestUploadFails breaks the caller's own reader in the middle of an upload.
//
// Spec: W6
func TestUploadFails(t *testing.T) {
	url, base := serve(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	broken := errors.New("disk error")
	sent := &body{Reader: io.MultiReader(strings.NewReader("half"), errReader{broken})}
	var class mettle.Outcome
	watch := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		err := op(ctx)
		class = mettle.Classify(ctx, err)
		return err
	})
	resp, err := mettlehttp.NewTransport(base, mettle.Compose(resend(2), watch)).RoundTrip(request(t, "PUT", url, sent))
	if !errors.Is(failed(t, resp, err), broken) || class != mettle.Ignored || sent.closed.Load() != 1 {
		t.Errorf("got %v, class %v, body closed %d times", err, class, sent.closed.Load())
	}
}

// TestReplaysOfNetHTTP leaves many connections in the pool that break when they are
// used, on which net/http resends by itself. Now and then there used to be a request more
// than this, which net/http sent before it noticed that the attempt was cut.
//
// Spec: W15
func TestReplaysOfNetHTTP(t *testing.T) {
	const idle = 20
	for attempts := 1; attempts <= 3; attempts++ {
		var requests atomic.Int32
		var warm sync.WaitGroup
		warm.Add(idle)
		var broken atomic.Bool
		url, base := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if broken.Load() {
				requests.Add(1)
				panic(http.ErrAbortHandler)
			}
			warm.Done()
			warm.Wait() // so that each request has a connection of its own
		})
		base.MaxIdleConnsPerHost = idle
		tr := mettlehttp.NewTransport(base, resend(attempts))
		var done sync.WaitGroup
		for range idle {
			done.Go(func() {
				if resp, err := tr.RoundTrip(request(t, "GET", url, nil)); err == nil {
					resp.Body.Close()
				}
			})
		}
		done.Wait()
		broken.Store(true)
		resp, err := tr.RoundTrip(request(t, "GET", url, nil))
		failed(t, resp, err)
		if n := int(requests.Load()); n < attempts || n > attempts+1 {
			t.Errorf("%d requests for %d attempts, want at most one more", n, attempts)
		}
	}
}
