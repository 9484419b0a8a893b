package mettlehttp_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
)

type laterError time.Duration

func (laterError) Error() string                                           { return "later" }
func (laterError) Is(target error) bool                                    { return target == mettle.ErrRejected }
func (d laterError) RetryAfter() time.Duration                             { return time.Duration(d) }
func (d laterError) Do(context.Context, func(context.Context) error) error { return d }

// TestHandlerRefuses answers for a policy that lets nothing through.
//
// Spec: W19
func TestHandlerRefuses(t *testing.T) {
	never := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the handler ran") })
	for _, test := range []struct {
		p          mettle.Policy
		opts       []mettlehttp.Option
		status     int
		retryAfter string
	}{
		{refuse, nil, 503, "1"},
		{laterError(0), nil, 503, "1"},
		{laterError(1500 * time.Millisecond), nil, 503, "2"},
		{laterError(time.Minute), []mettlehttp.Option{mettlehttp.RefuseWith(429)}, 429, "60"},
		{laterError(math.MaxInt64), nil, 503, "9223372036"},
	} {
		w := httptest.NewRecorder()
		mettlehttp.NewHandler(never, test.p, test.opts...).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		if w.Code != test.status || w.Header().Get("Retry-After") != test.retryAfter {
			t.Errorf("got %d, Retry-After %q; want %d, %q", w.Code, w.Header().Get("Retry-After"), test.status, test.retryAfter)
		}
	}
	for _, bad := range []func(){
		func() { mettlehttp.RefuseWith(500) },
		func() { mettlehttp.NewHandler(nil, nil) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			bad()
		}()
	}
}

// TestHandlerOutcome shows the policy what the handler made of a request.
//
// Spec: W19
func TestHandlerOutcome(t *testing.T) {
	gone, leave := context.WithCancel(t.Context())
	for _, test := range []struct {
		name   string
		serve  http.HandlerFunc
		want   mettle.Outcome
		status int
	}{
		{"nothing", func(w http.ResponseWriter, r *http.Request) {}, mettle.Success, 200},
		{"text", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "x") }, mettle.Success, 200},
		{"404", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) }, mettle.Success, 404},
		{"500", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) }, mettle.Failure, 500},
		{"429", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(429) }, mettle.Overload, 429},
		{"504", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(504) }, mettle.Timeout, 504},
		{"first counts", func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, strings.NewReader("x"))
			w.WriteHeader(500)
		}, mettle.Success, 200},
		{"client gone", func(w http.ResponseWriter, r *http.Request) { leave(); w.WriteHeader(500) }, mettle.Ignored, 500},
	} {
		var got mettle.Outcome
		twice := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
			err := op(ctx)
			got = mettle.Classify(ctx, err)
			if again := op(ctx); !errors.Is(again, mettle.ErrRejected) {
				t.Errorf("%s: ran again: %v", test.name, again)
			}
			return err
		})
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/", nil)
		if test.name == "client gone" {
			r = r.WithContext(gone)
		}
		mettlehttp.NewHandler(test.serve, twice).ServeHTTP(w, r)
		if got != test.want || w.Code != test.status || w.Header().Get("Retry-After") != "" {
			t.Errorf("%s: class %v, status %d; want %v, %d", test.name, got, w.Code, test.want, test.status)
		}
	}
}

// TestHandlerTimeout has handlers that give up when their context ends.
//
// Spec: W19
func TestHandlerTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for status, serve := range map[int]http.HandlerFunc{
			503: func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			500: func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done(); w.WriteHeader(500) },
			200: func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done(); w.WriteHeader(200) },
		} {
			w := httptest.NewRecorder()
			mettlehttp.NewHandler(serve, after(time.Second)).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			if w.Code != status {
				t.Errorf("got %d, want %d", w.Code, status)
			}
		}
	})
}

// TestHandlerWriter uses all that a ResponseWriter of net/http can do, over a socket.
//
// Spec: W19
func TestHandlerWriter(t *testing.T) {
	h := mettlehttp.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/shout" {
			shout(w, r)
			return
		}
		c := http.NewResponseController(w)
		w.WriteHeader(http.StatusEarlyHints) // not yet an answer
		if err := errors.Join(c.EnableFullDuplex(), c.SetWriteDeadline(time.Time{}), c.Flush()); err != nil {
			t.Error(err)
		}
		if _, ok := w.(io.ReaderFrom); !ok {
			t.Error("no ReaderFrom")
		}
		w.(http.Flusher).Flush()
		io.Copy(w, r.Body)
	}), nil)
	url, base := serve(t, h.ServeHTTP)
	tr := mettlehttp.NewTransport(base, nil)
	resp, err := tr.RoundTrip(request(t, "POST", url, strings.NewReader("echo")))
	if got := readAll(t, one(t, resp, err)); got != "echo" {
		t.Errorf("got %q", got)
	}
	req := request(t, "GET", url+"/shout", nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "shout")
	resp, err = tr.RoundTrip(req)
	rwc := one(t, resp, err).Body.(io.ReadWriteCloser)
	defer rwc.Close()
	io.WriteString(rwc, "a\n")
	if line, err := bufio.NewReader(rwc).ReadString('\n'); line != "a\n" {
		t.Errorf("got %q, %v", line, err)
	}
	// What cannot be hijacked is not said to be.
	mettlehttp.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, _, err := http.NewResponseController(w).Hijack(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("Hijack: %v", err)
		}
	}), nil).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	metrics := 0
	h.(mettle.Observable).Observe(func(mettle.Metric) bool { metrics++; return true })
	if metrics == 0 {
		t.Error("no metrics of the bulkhead")
	}
}

// TestHandlerPanics lets a panic through to the server.
//
// Spec: W19
func TestHandlerPanics(t *testing.T) {
	defer func() {
		if v := recover(); v != http.ErrAbortHandler {
			t.Errorf("recovered %v", v)
		}
	}()
	h := mettlehttp.NewHandler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), nil)
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
}
