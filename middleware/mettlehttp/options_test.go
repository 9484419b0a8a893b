//lint:file-ignore SA1019 Request.Cancel is deprecated and has to end a call all the same.

package mettlehttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// TestResend allows and forbids resending by method and by status, under a retry that
// heeds what it is told and under one that does not.
//
// Spec: W6, W8, W9, W12
func TestResend(t *testing.T) {
	onUnavailable := func(_ *http.Request, resp *http.Response, byDefault bool) bool {
		return byDefault || resp != nil && resp.StatusCode == 503
	}
	never := func(*http.Request, *http.Response, bool) bool { return false }
	always := func(*http.Request, *http.Response, bool) bool { return true }
	naive := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) (err error) {
		for range 3 {
			if err = op(ctx); err == nil {
				break
			}
		}
		return err
	})
	for _, test := range []struct {
		name, method string
		code         int
		may          func(*http.Request, *http.Response, bool) bool
		want, naive  int
	}{
		{"by status", "POST", 503, onUnavailable, 3, 3},
		{"by status, another", "POST", 500, onUnavailable, 1, 1},
		{"by status, no answer", "POST", 0, onUnavailable, 1, 1},
		{"default stays", "GET", 500, onUnavailable, 3, 3},
		{"never", "GET", 503, never, 1, 1},
		{"never, no answer", "GET", 0, never, 1, 1},
		{"always", "PATCH", 507, always, 3, 3},
		{"always, no answer", "PATCH", 0, always, 3, 3},
		{"no failure", "GET", 404, always, 1, 1},
	} {
		for name, p := range map[string]mettle.Policy{"heeds": resend(3), "naive": naive} {
			base := &failing{codes: []int{test.code}}
			sent := newBody("payload")
			req := request(t, test.method, "http://host/", sent)
			req.ContentLength = 7
			tr := mettlehttp.NewTransport(base, p, mettlehttp.Resend(test.may), mettlehttp.BufferBodies(10))
			resp, err := tr.RoundTrip(req)
			if test.code == 0 {
				if text := failed(t, resp, err).Error(); test.want == 1 && name == "heeds" && !strings.HasSuffix(text, "; not resent: Resend forbids it") {
					t.Errorf("%s: got %q, which does not say why", test.name, text)
				}
			} else if one(t, resp, err).Body.Close(); resp.StatusCode != test.code {
				t.Errorf("%s: got %d", test.name, resp.StatusCode)
			}
			want := test.want
			if name == "naive" {
				want = test.naive
			}
			if len(base.got) != want || sent.closed.Load() != 1 {
				t.Errorf("%s, %s: %d attempts, want %d; body closed %d times", test.name, name, len(base.got), want, sent.closed.Load())
			}
			for _, got := range base.got {
				if got != "payload" {
					t.Errorf("%s: sent %q", test.name, got)
				}
			}
		}
	}
}

// TestClassify makes failures of answers and answers of failures, on both sides.
//
// Spec: W12, W19, P14
func TestClassify(t *testing.T) {
	classify := mettlehttp.Classify(func(status int, byDefault mettle.Outcome) mettle.Outcome {
		switch status {
		case 200:
			return mettle.Failure
		case 404:
			return mettle.Overload
		case 503:
			return mettle.Success
		case 502:
			return mettle.Ignored
		}
		return byDefault
	})
	any := mettlehttp.Resend(func(*http.Request, *http.Response, bool) bool { return true })
	for _, test := range []struct {
		code     int
		want     mettle.Outcome
		attempts int
	}{
		{200, mettle.Failure, 3}, {404, mettle.Overload, 3}, {503, mettle.Success, 1},
		{502, mettle.Ignored, 1}, {500, mettle.Failure, 3}, {400, mettle.Success, 1},
	} {
		var seen []mettle.Outcome
		watch := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
			err := op(ctx)
			seen = append(seen, mettle.Classify(ctx, err))
			return err
		})
		base := baseFunc(func(req *http.Request) (*http.Response, error) { return answer(req, test.code, newBody("text")), nil })
		tr := mettlehttp.NewTransport(base, mettle.Compose(resend(3), watch), classify, any)
		resp, err := tr.RoundTrip(request(t, "GET", "http://host/", nil))
		if one(t, resp, err); resp.StatusCode != test.code || readAll(t, resp) != "text" {
			t.Errorf("%d: got %d", test.code, resp.StatusCode)
		}
		if want := slices.Repeat([]mettle.Outcome{test.want}, test.attempts); !slices.Equal(seen, want) {
			t.Errorf("%d: attempts ended as %v, want %v", test.code, seen, want)
		}

		seen = nil
		next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if test.code != 200 { // which it is without being said, too
				w.WriteHeader(test.code)
			}
		})
		w := httptest.NewRecorder()
		mettlehttp.NewHandler(next, watch, classify).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		if w.Code != test.code || !slices.Equal(seen, []mettle.Outcome{test.want}) {
			t.Errorf("handler, %d: got %d, class %v", test.code, w.Code, seen)
		}
	}
}

// TestPrepare signs every attempt anew, and fails to.
//
// Spec: W2, W4, W6, W10
func TestPrepare(t *testing.T) {
	var got []string
	base := baseFunc(func(req *http.Request) (*http.Response, error) {
		got = append(got, req.Header.Get("Signature")+req.URL.RawQuery)
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
		return answer(req, 503, newBody("")), nil
	})
	sign := mettlehttp.Prepare(func(req *http.Request) error {
		n := mettle.Attempt(req.Context())
		req.Header.Set("Signature", fmt.Sprint("s", n, req.Header.Values("Signature")))
		req.URL.RawQuery = fmt.Sprint("n=", n)
		return nil
	})
	req := request(t, "PUT", "http://host/", strings.NewReader("payload"))
	resp, err := mettlehttp.NewTransport(base, resend(3), sign).RoundTrip(req)
	one(t, resp, err).Body.Close()
	if want := []string{"s1 []n=1", "s2 []n=2", "s3 []n=3"}; !slices.Equal(got, want) || len(req.Header) != 0 || req.URL.RawQuery != "" {
		t.Errorf("sent %q, want %q; the caller's request has %v, %v", got, want, req.Header, req.URL)
	}

	broken := errors.New("no token")
	for name, test := range map[string]struct {
		prepare func(*http.Request) error
		want    error
	}{
		"fails":  {func(*http.Request) error { return broken }, broken},
		"panics": {func(*http.Request) error { panic(broken) }, broken},
		"spoils": {func(r *http.Request) error { r.Header.Set("A", "a\r\nb"); return nil }, nil},
		"hangs": {func(r *http.Request) error {
			<-r.Context().Done()
			return context.Cause(r.Context())
		}, timeout.ErrExceeded},
	} {
		synctest.Test(t, func(t *testing.T) {
			var seen []mettle.Outcome
			watch := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
				err := op(ctx)
				seen = append(seen, mettle.Classify(ctx, err))
				return err
			})
			tries := 0
			prepare := mettlehttp.Prepare(func(r *http.Request) error { tries++; return test.prepare(r) })
			p := mettle.Compose(resend(3), watch, after(time.Second))
			sent := newBody("text")
			func() {
				defer func() {
					if v := recover(); v != nil && (name != "panics" || v != broken) {
						t.Errorf("%s: recovered %v", name, v)
					}
				}()
				resp, err := mettlehttp.NewTransport(&http.Transport{}, p, prepare).RoundTrip(request(t, "PUT", "http://127.0.0.1:1/", sent))
				if err := failed(t, resp, err); test.want != nil && !errors.Is(err, test.want) {
					t.Errorf("%s: got %v", name, err)
				}
				if !slices.Equal(seen, []mettle.Outcome{mettle.Ignored}) {
					t.Errorf("%s: attempts ended as %v", name, seen)
				}
			}()
			if tries != 1 || sent.closed.Load() != 1 {
				t.Errorf("%s: tried %d times, body closed %d times", name, tries, sent.closed.Load())
			}
		})
	}
}

// TestKeyOfTheCallers has breakers by something that the request's context knows.
//
// Spec: W17
func TestKeyOfTheCallers(t *testing.T) {
	type tenant struct{}
	group := breaker.NewGroup[string](breaker.GroupConfig{Config: breaker.Config{Consecutive: 1, OpenFor: time.Hour}})
	p := group.By(func(ctx context.Context) string { return ctx.Value(tenant{}).(string) })
	base := baseFunc(func(req *http.Request) (*http.Response, error) {
		if req.Context().Value(tenant{}) == "bad" {
			return nil, errors.New("connection reset")
		}
		return answer(req, 200, http.NoBody), nil
	})
	tr := mettlehttp.NewTransport(base, p)
	send := func(name string) error {
		resp, err := tr.RoundTrip(request(t, "GET", "http://host/", nil).WithContext(context.WithValue(t.Context(), tenant{}, name)))
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	send("bad")
	if err := send("bad"); !errors.Is(err, breaker.ErrOpen) {
		t.Errorf("got %v", err)
	}
	if err := send("good"); err != nil {
		t.Errorf("the breaker of another tenant stopped it: %v", err)
	}
}

// TestPropagate lets a client's deadline and attempts reach the handler of a server, over
// a socket, and shows that neither does unasked.
//
// Spec: W19, W20, R18
func TestPropagate(t *testing.T) {
	type seen struct {
		attempt int
		left    time.Duration // zero: no deadline
		calls   int
	}
	serveAs := func(opts ...mettlehttp.Option) (string, *http.Transport, *[]seen) {
		var got []seen
		url, base := serve(t, mettlehttp.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s := seen{attempt: mettle.Attempt(r.Context())}
			if d, ok := r.Context().Deadline(); ok {
				s.left = time.Until(d)
			}
			// A retry of the handler's own, over something that is down.
			resend(4).Do(r.Context(), func(context.Context) error { s.calls++; return errors.New("down") })
			got = append(got, s)
			w.WriteHeader(503)
		}), nil, opts...).ServeHTTP)
		return url, base, &got
	}
	send := func(method, url string, base http.RoundTripper, opts ...mettlehttp.Option) {
		req := request(t, method, url, nil)
		req.Header.Set("Mettle-Attempt", "17") // not the caller's to say
		p := mettle.Compose(after(time.Minute), resend(2), after(30*time.Second))
		resp, err := mettlehttp.NewTransport(base, p, opts...).RoundTrip(req)
		one(t, resp, err).Body.Close()
	}

	url, base, got := serveAs(mettlehttp.Propagate())
	send("GET", url, base, mettlehttp.Propagate())
	if len(*got) != 2 {
		t.Fatalf("%d requests, want 2", len(*got))
	}
	for i, s := range *got {
		if s.attempt != i+1 || s.calls != 1 || s.left > time.Minute || s.left < 50*time.Second {
			t.Errorf("request %d: %+v, want its number, the deadline of the call, and one call further on", i+1, s)
		}
	}
	*got = nil
	send("POST", url, base, mettlehttp.Propagate()) // which goes out once, so the handler may retry
	if s := (*got)[0]; len(*got) != 1 || s.attempt != 0 || s.calls != 4 || s.left == 0 {
		t.Errorf("POST: %+v", *got)
	}
	*got = nil
	send("GET", url, base)
	if s := (*got)[0]; s.left != 0 || s.attempt != 17 {
		t.Errorf("sent unasked: %+v", s)
	}
	url, base, got = serveAs()
	send("GET", url, base, mettlehttp.Propagate())
	if s := (*got)[0]; s.left != 0 || s.attempt != 0 || s.calls != 4 {
		t.Errorf("read unasked: %+v", s)
	}
}

// TestPropagatedDeadline ends a handler when its client's time is up, or its own.
//
// Spec: W19
func TestPropagatedDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for header, want := range map[string]time.Duration{
			"1500": 1500 * time.Millisecond, "60000": 2 * time.Second, "": 2 * time.Second, "-1": 2 * time.Second,
			"9223372036854": 2 * time.Second, "9223372036855": 2 * time.Second, "99999999999999999999": 2 * time.Second,
		} {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Mettle-Timeout-Ms", header)
			w, start := httptest.NewRecorder(), time.Now()
			next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
			mettlehttp.NewHandler(next, after(2*time.Second), mettlehttp.Propagate()).ServeHTTP(w, r)
			if took := time.Since(start); took != want || w.Code != 503 {
				t.Errorf("%q: %d after %v, want 503 after %v", header, w.Code, took, want)
			}
		}
		// No time at all is a refusal, before the handler runs.
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Mettle-Timeout-Ms", "0")
		w := httptest.NewRecorder()
		never := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the handler ran") })
		mettlehttp.NewHandler(never, nil, mettlehttp.Propagate()).ServeHTTP(w, r)
		if w.Code != 503 || w.Header().Get("Retry-After") == "" {
			t.Errorf("got %d", w.Code)
		}
	})
}

// blockingReader is a caller's body that does not come.
type blockingReader struct {
	body
	release chan struct{} // nil: deaf to Close
	closing chan struct{}
}

func (b *blockingReader) Read([]byte) (int, error) {
	select {
	case <-b.release:
		return 0, io.EOF
	case <-b.closing:
		return 0, io.ErrClosedPipe
	}
}

func (b *blockingReader) Close() error {
	if b.closed.Add(1) == 1 && b.closing != nil {
		close(b.closing)
	}
	return nil
}

// TestBufferingHeedsContext gives up a body that does not come when its time is up. It
// used to be read before the policy was entered, however long it took.
//
// Spec: W6, W14
func TestBufferingHeedsContext(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		for _, how := range []string{"total", "attempt", "ctx", "Cancel", "open"} {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				p, want := mettle.Policy(mettle.Compose(after(time.Second), resend(2))), error(timeout.ErrExceeded)
				sent := &blockingReader{release: make(chan struct{})}
				if !deaf {
					sent.closing = make(chan struct{})
				}
				defer close(sent.release)
				req := request(t, "PUT", "http://host/", sent).WithContext(ctx)
				req.ContentLength = 10
				took := time.Second
				switch how {
				case "attempt":
					p = mettle.Compose(resend(2), after(time.Second))
				case "ctx":
					p, want = resend(2), context.Canceled
					time.AfterFunc(time.Second, cancel)
				case "Cancel":
					p, want = resend(2), context.Canceled
					stop := make(chan struct{})
					req.Cancel = stop
					time.AfterFunc(time.Second, func() { close(stop) })
				case "open":
					p, want, took = refuse, errRefused, 0 // and nothing is read
				}
				base := &failing{codes: []int{200}}
				start := time.Now()
				resp, err := mettlehttp.NewTransport(base, p, mettlehttp.BufferBodies(10)).RoundTrip(req)
				if !errors.Is(failed(t, resp, err), want) || time.Since(start) != took {
					t.Errorf("%s: after %v: %v", how, time.Since(start), err)
				}
				if len(base.got) != 0 || sent.closed.Load() != 1 {
					t.Errorf("%s: sent %q, body closed %d times", how, base.got, sent.closed.Load())
				}
			})
		}
	}
}

// TestBufferedSideBySide has attempts that wait for one and the same body.
//
// Spec: W6, W16
func TestBufferedSideBySide(t *testing.T) {
	var attempts atomic.Int32
	base := baseFunc(func(req *http.Request) (*http.Response, error) {
		data, err := io.ReadAll(req.Body)
		attempts.Add(1)
		if string(data) != "payload" || err != nil {
			t.Errorf("sent %q, %v", data, err)
		}
		return answer(req, 200, newBody("")), nil
	})
	twice := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		other := make(chan error)
		go func() { other <- op(ctx) }()
		return errors.Join(op(ctx), <-other)
	})
	r, w := io.Pipe()
	go func() { io.WriteString(w, "pay"); io.WriteString(w, "load"); w.Close() }()
	req := request(t, "PUT", "http://host/", r)
	req.ContentLength = 7
	resp, err := mettlehttp.NewTransport(base, twice, mettlehttp.BufferBodies(10)).RoundTrip(req)
	if one(t, resp, err).Body.Close(); attempts.Load() != 2 {
		t.Errorf("%d attempts", attempts.Load())
	}
}

// deafBody heeds no context, but its Close.
type deafBody struct {
	*io.PipeReader
	closed chan struct{}
}

func (b deafBody) Close() error { close(b.closed); return b.PipeReader.Close() }

// TestBodyDeafToItsContext reads a body that does not end with its context, which used to
// outlive the total timeout.
//
// Spec: W4
func TestBodyDeafToItsContext(t *testing.T) {
	for name, p := range map[string]mettle.Policy{
		"total":         after(time.Second),
		"total, answer": mettle.Compose(after(time.Second), retry.New(retry.Config{MaxAttempts: 1})),
	} {
		for _, code := range []int{200, 503} {
			synctest.Test(t, func(t *testing.T) {
				r, _ := io.Pipe()
				b := deafBody{r, make(chan struct{})}
				base := baseFunc(func(req *http.Request) (*http.Response, error) { return answer(req, code, b), nil })
				start := time.Now()
				resp, err := mettlehttp.NewTransport(base, p).RoundTrip(request(t, "GET", "http://host/", nil))
				_, err = one(t, resp, err).Body.Read(make([]byte, 1))
				if !errors.Is(err, timeout.ErrExceeded) || time.Since(start) < time.Second || time.Since(start) > 1500*time.Millisecond {
					t.Errorf("%s %d: after %v: %v", name, code, time.Since(start), err)
				}
				resp.Body.Close()
				<-b.closed
			})
		}
	}
}

// TestCancelInBody closes Request.Cancel while the body is being read, and leaves
// nothing behind that watched it.
//
// Spec: W14
func TestCancelInBody(t *testing.T) {
	for _, end := range []string{"cancel", "close", "EOF", "no body"} {
		synctest.Test(t, func(t *testing.T) {
			base, stop := servePipe(func(w http.ResponseWriter, r *http.Request) {
				if end == "no body" {
					return
				}
				io.WriteString(w, "text")
				w.(http.Flusher).Flush()
				if end == "cancel" {
					<-r.Context().Done()
				}
			})
			defer stop()
			req := request(t, "GET", "http://host/", nil)
			cancel := make(chan struct{})
			req.Cancel = cancel
			tr := mettlehttp.NewTransport(base, nil)
			resp, err := tr.RoundTrip(req)
			one(t, resp, err)
			switch end {
			case "cancel":
				time.AfterFunc(time.Second, func() { close(cancel) })
				if data, err := io.ReadAll(resp.Body); !errors.Is(err, context.Canceled) || string(data) != "text" {
					t.Errorf("read %q, %v", data, err)
				}
			case "EOF", "no body":
				io.ReadAll(resp.Body)
			}
			resp.Body.Close() // a goroutine left behind would fail the bubble
		})
	}
}

// TestOptionsRefused calls the options with what they cannot use.
//
// Spec: P10
func TestOptionsRefused(t *testing.T) {
	for name, option := range map[string]func(){
		"Resend: may is nil": func() { mettlehttp.Resend(nil) },
		"Prepare: f is nil":  func() { mettlehttp.Prepare(nil) },
		"Classify: f is nil": func() { mettlehttp.Classify(nil) },
	} {
		func() {
			defer func() {
				if v := recover(); v != "mettlehttp: "+name {
					t.Errorf("recovered %v, want %q", v, name)
				}
			}()
			option()
		}()
	}
}

// FuzzInboundHeaders sends a handler any bytes in the headers that it reads.
//
// Spec: W20
func FuzzInboundHeaders(f *testing.F) {
	for _, s := range []string{"", "0", "1", "007", "9999", "10000", "1500", "9223372036854", "9223372036855", "99999999999999999999",
		"-1", "+1", " 1", "1 ", "1.5", "1e3", "0x10", "1_0", "\x00", "١٢", strings.Repeat("0", 1<<10), "1,2"} {
		f.Add(s, s, false)
	}
	f.Add("5", "5", true)
	f.Fuzz(func(t *testing.T, ms, attempt string, twice bool) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Mettle-Timeout-Ms"] = []string{ms}
		r.Header["Mettle-Attempt"] = []string{attempt}
		if twice {
			r.Header.Add("Mettle-Timeout-Ms", ms)
			r.Header.Add("Mettle-Attempt", attempt)
		}
		ran, start := false, time.Now()
		next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ran = true
			defer w.WriteHeader(200) // though its time may be up by then
			d, ok := r.Context().Deadline()
			wantMS, bounded := naiveNumber(ms, 9223372036854)
			if bounded = bounded && !twice; ok != bounded {
				t.Errorf("Mettle-Timeout-Ms %q: a deadline: %v", ms, ok)
			}
			left := time.Duration(wantMS) * time.Millisecond
			if ok && (d.Before(start.Add(left)) || d.After(time.Now().Add(left))) {
				t.Errorf("Mettle-Timeout-Ms %q: %v left", ms, time.Until(d))
			}
			wantAttempt, ok := naiveNumber(attempt, 9999)
			if !ok || twice {
				wantAttempt = 0
			}
			if n := int64(mettle.Attempt(r.Context())); n != wantAttempt {
				t.Errorf("Mettle-Attempt %q: %d", attempt, n)
			}
		})
		w := httptest.NewRecorder()
		mettlehttp.NewHandler(next, nil, mettlehttp.Propagate()).ServeHTTP(w, r)
		if want := map[bool]int{true: 200, false: 503}[ran]; w.Code != want {
			t.Errorf("ran: %v, got %d", ran, w.Code)
		}
	})
}

// naiveNumber is what a header's value means, by another way than the handler's.
func naiveNumber(s string, most int64) (int64, bool) {
	if !regexp.MustCompile(`^[0-9]{1,13}$`).MatchString(s) {
		return 0, false
	}
	n, _ := new(big.Int).SetString(s, 10)
	return n.Int64(), n.Cmp(big.NewInt(most)) <= 0
}
