package mettlehttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
	"github.com/mettle-go/mettle/retry"
)

// summing is a body that sets a trailer of its request when it has been read.
type summing struct {
	io.Reader
	req *http.Request
}

func (b summing) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		b.req.Trailer.Set("X-Sum", "42")
	}
	return n, err
}

func (summing) Close() error { return nil }

// TestTrailer has a body that sets a trailer as it ends, which used to be set on a map
// that no attempt looked at.
//
// Spec: W2, W6
func TestTrailer(t *testing.T) {
	var got []string
	url, base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		got = append(got, r.Trailer.Get("X-Sum"))
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	req := request(t, "PUT", url, nil)
	req.ContentLength = -1
	req.Trailer = http.Header{"X-Sum": nil}
	req.GetBody = func() (io.ReadCloser, error) { return summing{strings.NewReader("data"), req}, nil }
	req.Body, _ = req.GetBody()
	resp, err := mettlehttp.NewTransport(base, resend(2)).RoundTrip(req)
	readAll(t, one(t, resp, err))
	if strings.Join(got, " ") != "42 42" {
		t.Errorf("the server got the trailers %q", got)
	}
}

// oddCause is an error whose type can be compared and whose value panics when it is.
type oddCause struct{ v any }

func (oddCause) Error() string { return "odd" }

// TestCauseThatCannotBeCompared cancels with a cause that == panics on, while an attempt
// is under way and between two.
//
// Spec: W14
func TestCauseThatCannotBeCompared(t *testing.T) {
	for _, text := range []string{"", "broken"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		base := baseFunc(func(r *http.Request) (*http.Response, error) {
			cancel(oddCause{[]int{1}})
			<-r.Context().Done()
			if text != "" {
				return nil, errors.New(text)
			}
			return nil, context.Cause(r.Context())
		})
		resp, err := mettlehttp.NewTransport(base, mettle.Compose()).RoundTrip(request(t, "GET", "http://host/", nil).WithContext(ctx))
		var odd oddCause
		if !errors.As(failed(t, resp, err), &odd) {
			t.Errorf("got %v, which does not say why the call ended", err)
		}
	}
}

// TestBaseOfManyExchanges has a base that follows redirects by itself. The third
// exchange used to be taken for a replay of net/http's, and cut; so was the second, from
// the second attempt on.
//
// Spec: W15
func TestBaseOfManyExchanges(t *testing.T) {
	var failures atomic.Int32
	url, base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case len(r.URL.Path) < len("/aaa"):
			http.Redirect(w, r, r.URL.Path+"a", http.StatusFound)
		case failures.Add(1) < 3:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	client := http.Client{Transport: base}
	follow := baseFunc(func(r *http.Request) (*http.Response, error) { return client.Do(r) })
	resp, err := mettlehttp.NewTransport(follow, resend(3)).RoundTrip(request(t, "GET", url+"/", nil))
	if readAll(t, one(t, resp, err)); resp.StatusCode != http.StatusOK {
		t.Errorf("got %d, want the third attempt to succeed", resp.StatusCode)
	}
}

// TestFailoverIsNotUnsent has a base that tries a second server when the first has
// hung up on the request. That nobody is there does not mean that the first saw nothing.
//
// Spec: W8, W9
func TestFailoverIsNotUnsent(t *testing.T) {
	var seen atomic.Int32
	url, first := serve(t, func(w http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		panic(http.ErrAbortHandler)
	})
	gone := &net.OpError{Op: "dial", Net: "tcp", Err: net.ErrClosed}
	second := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, gone }}
	base := baseFunc(func(r *http.Request) (*http.Response, error) {
		if resp, err := first.RoundTrip(r); err == nil {
			return resp, nil
		}
		again := r.Clone(r.Context())
		again.Body, _ = r.GetBody()
		return second.RoundTrip(again)
	})
	resp, err := mettlehttp.NewTransport(base, resend(3)).RoundTrip(request(t, "POST", url, strings.NewReader("pay")))
	if !errors.Is(failed(t, resp, err), gone) || seen.Load() != 1 {
		t.Errorf("a POST reached the server %d times: %v", seen.Load(), err)
	}
}

// TestBackoffHoldsNoConnection backs off for long with the only connection there may be,
// which used to stay with the answer that was waiting to be the result. Nobody else got
// through to an idle server.
//
// Spec: W1, W5
func TestBackoffHoldsNoConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, stop := servePipe(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/busy" { // and again when asked again
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			io.WriteString(w, "answer to "+r.URL.Path)
		})
		defer stop()
		base.MaxConnsPerHost = 1
		p := retry.New(retry.Config{MaxAttempts: 2, Backoff: retry.Constant(time.Hour), Budget: retry.NoBudget})
		tr := mettlehttp.NewTransport(base, p)
		done := make(chan struct{})
		go func() {
			defer close(done)
			resp, err := tr.RoundTrip(request(t, "GET", "http://host/busy", nil))
			if err != nil {
				t.Error(err)
			} else if got := readAll(t, resp); got != "answer to /busy" {
				t.Errorf("read %q", got)
			}
		}()
		synctest.Wait()
		start := time.Now()
		resp, err := tr.RoundTrip(request(t, "GET", "http://host/", nil))
		readAll(t, one(t, resp, err))
		if waited := time.Since(start); waited != 0 {
			t.Errorf("waited %v for the connection of a call that backs off", waited)
		}
		<-done
	})
}

// TestHeldAnswerStaysReadable has failed answers of which not all can be read ahead, as
// the last that comes, and closes them unread too.
//
// Spec: W1, W3, W5
func TestHeldAnswerStaysReadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("connection lost")
		long := strings.Repeat("0123456789", 10_000)
		for name, test := range map[string]struct {
			write func(*io.PipeWriter)
			want  string
			err   error
		}{
			"short":  {func(w *io.PipeWriter) { io.WriteString(w, "text"); w.Close() }, "text", nil},
			"long":   {func(w *io.PipeWriter) { io.WriteString(w, long); w.Close() }, long, nil},
			"broken": {func(w *io.PipeWriter) { io.WriteString(w, "te"); w.CloseWithError(broken) }, "te", broken},
			"slow": {func(w *io.PipeWriter) {
				for _, s := range []string{"t", "e", "xt"} {
					io.WriteString(w, s)
					time.Sleep(time.Second)
				}
				w.Close()
			}, "text", nil},
		} {
			for _, read := range []bool{true, false} {
				r, w := io.Pipe()
				go test.write(w)
				base := baseFunc(func(req *http.Request) (*http.Response, error) {
					return answer(req, http.StatusBadGateway, r), nil
				})
				start := time.Now()
				resp, err := mettlehttp.NewTransport(base, resend(1)).RoundTrip(request(t, "GET", "http://host/", nil))
				one(t, resp, err)
				// It used to be 200 ms late when slow, although no attempt followed.
				if took := time.Since(start); took != 0 {
					t.Errorf("%s: RoundTrip took %v longer than the headers", name, took)
				}
				if read {
					if got, err := io.ReadAll(resp.Body); string(got) != test.want || err != test.err {
						t.Errorf("%s: read %d bytes, %v; want %d, %v", name, len(got), err, len(test.want), test.err)
					}
				}
				if err := resp.Body.Close(); err != nil {
					t.Errorf("%s: Close: %v", name, err)
				}
				time.Sleep(time.Minute) // for the writer to see it
				if _, err := r.Read(make([]byte, 1)); err != io.ErrClosedPipe {
					t.Errorf("%s: the body of the base is still open: %v", name, err)
				}
			}
		}
	})
}

// TestUploadFailsThatCouldBeResent breaks the caller's own reader where GetBody makes
// another. It used to count against the server, and to be tried again.
//
// Spec: W6
func TestUploadFailsThatCouldBeResent(t *testing.T) {
	url, base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	broken := errors.New("disk error")
	for _, test := range []struct {
		name   string
		bodies []io.Reader // in the order in which they are asked for
	}{
		{"first", []io.Reader{errReader{broken}}},
		{"second", []io.Reader{strings.NewReader("text"), errReader{broken}}},
	} {
		var made int
		var classes []mettle.Outcome
		watch := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
			err := op(ctx)
			classes = append(classes, mettle.Classify(ctx, err))
			return err
		})
		req := request(t, "PUT", url, nil)
		req.ContentLength = int64(len("text"))
		req.GetBody = func() (io.ReadCloser, error) {
			made++
			return io.NopCloser(test.bodies[min(made, len(test.bodies))-1]), nil
		}
		req.Body, _ = req.GetBody()
		resp, err := mettlehttp.NewTransport(base, mettle.Compose(resend(3), watch)).RoundTrip(req)
		if err == nil {
			resp.Body.Close()
		}
		if len(classes) != len(test.bodies) || classes[len(classes)-1] != mettle.Ignored {
			t.Errorf("%s: attempts ended as %v, want %d and the last ignored", test.name, classes, len(test.bodies))
		}
	}
}

// TestTimeoutOfTheWhole asks the error of a call whether it was a timeout, where the
// first error inside that could tell is not the one that says why the call ended.
//
// Spec: W4, W14
func TestTimeoutOfTheWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := &net.OpError{Op: "read", Net: "tcp", Err: net.ErrClosed}
		for _, test := range []struct {
			name  string
			err   error
			end   func(context.Context) (context.Context, context.CancelFunc)
			until error
			want  bool
		}{
			{"deadline behind an error that is none", closed, func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, time.Second)
			}, context.DeadlineExceeded, true},
			{"cancelled after a timeout", os.ErrDeadlineExceeded, func(ctx context.Context) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(ctx)
				time.AfterFunc(time.Second, cancel)
				return ctx, cancel
			}, context.Canceled, false},
			{"cancelled by a timer", closed, func(ctx context.Context) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancelCause(ctx)
				time.AfterFunc(time.Second, func() { cancel(os.ErrDeadlineExceeded) })
				return ctx, func() { cancel(nil) }
			}, os.ErrDeadlineExceeded, true},
		} {
			base := baseFunc(func(r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, test.err
			})
			ctx, cancel := test.end(t.Context())
			client := http.Client{Transport: mettlehttp.NewTransport(base, mettle.Compose())}
			_, err := client.Do(request(t, "GET", "http://host/", nil).WithContext(ctx))
			cancel()
			var e *url.Error
			if !errors.As(err, &e) || e.Timeout() != test.want || !errors.Is(err, test.until) {
				t.Errorf("%s: %v, Timeout is %v, want %v", test.name, err, !test.want, test.want)
			}
		}
	})
}

// TestOperationAfterReturn has a policy that keeps the operation and runs it when
// nobody waits for an answer any more.
//
// Spec: W1, W6
func TestOperationAfterReturn(t *testing.T) {
	base := &failing{codes: []int{200}}
	var late func(context.Context) error
	keep := mettle.PolicyFunc(func(_ context.Context, op func(context.Context) error) error {
		late = op
		return errRefused
	})
	sent := newBody("text")
	resp, err := mettlehttp.NewTransport(base, keep).RoundTrip(request(t, "PUT", "http://host/", sent))
	failed(t, resp, err)
	err = late(t.Context())
	if len(base.got) != 0 || sent.closed.Load() != 1 || mettle.Classify(t.Context(), err) != mettle.Ignored {
		t.Errorf("sent %q, body closed %d times, %v", base.got, sent.closed.Load(), err)
	}
}

// TestPanicOfBaseClosesBody has a base that panics with the body in its hands, before
// and after it has closed it.
//
// Spec: W6
func TestPanicOfBaseClosesBody(t *testing.T) {
	for _, closes := range []bool{false, true} {
		base := baseFunc(func(r *http.Request) (*http.Response, error) {
			if closes {
				r.Body.Close()
			}
			panic("base")
		})
		sent := newBody("text")
		func() {
			defer func() {
				if v := recover(); v != "base" {
					t.Errorf("recovered %v", v)
				}
			}()
			mettlehttp.NewTransport(base, resend(2)).RoundTrip(request(t, "POST", "http://host/", sent))
		}()
		if n := sent.closed.Load(); n != 1 {
			t.Errorf("closed before: %v; body closed %d times", closes, n)
		}
	}
}

// TestHandlerSideBySide has a policy that runs its operation several times at once.
//
// Spec: W19
func TestHandlerSideBySide(t *testing.T) {
	var runs atomic.Int32
	p := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() { op(ctx) })
		}
		all.Wait()
		return nil
	})
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { runs.Add(1) })
	mettlehttp.NewHandler(next, p).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	if n := runs.Load(); n != 1 {
		t.Errorf("the handler ran %d times", n)
	}
}

// TestSchemeWithoutHost has a base for a scheme whose URLs have no host. Its failures
// used to be taken for those of a request that nobody could send.
//
// Spec: W10
func TestSchemeWithoutHost(t *testing.T) {
	base := &failing{codes: []int{0}}
	resp, err := mettlehttp.NewTransport(base, resend(1)).RoundTrip(request(t, "GET", "http+unix:///run/server.sock", nil))
	if class := mettle.Classify(t.Context(), failed(t, resp, err)); class != mettle.Failure {
		t.Errorf("got %v of class %v, want %v", err, class, mettle.Failure)
	}
}

// TestHeaderIsTheCallers covers that what an option writes is written to a copy of the
// caller's header. A signature that Prepare put into the caller's own would be sent again
// with the next call.
//
// Spec: W2, W8
func TestHeaderIsTheCallers(t *testing.T) {
	both(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Got", fmt.Sprintf("%q", []string{
			r.Header.Get("Own"), r.Header.Get("Signature"), r.Header.Get("Mettle-Attempt"), r.URL.RawQuery}))
		w.WriteHeader(http.StatusServiceUnavailable)
	}, func(t *testing.T, w *wire, _ *http.Client) {
		sign := mettlehttp.Prepare(func(r *http.Request) error {
			r.Header.Add("Signature", fmt.Sprint("s", mettle.Attempt(r.Context())))
			r.URL.RawQuery = "signed"
			return nil
		})
		for _, test := range []struct {
			opts []mettlehttp.Option
			want string
		}{
			{nil, `["a" "" "" ""]`},
			{[]mettlehttp.Option{sign}, `["a" "s3" "" "signed"]`},
			{[]mettlehttp.Option{mettlehttp.Propagate()}, `["a" "" "3" ""]`},
		} {
			tr := mettlehttp.NewTransport(w.base, resend(3), test.opts...)
			req := request(t, "GET", w.url, nil)
			req.Header.Set("Own", "a")
			for range 2 {
				resp, err := tr.RoundTrip(req)
				readAll(t, one(t, resp, err))
				if got := resp.Header.Get("Got"); got != test.want {
					t.Errorf("the server got %q, want %q", got, test.want)
				}
				if resp.Request != req || len(req.Header) != 1 || req.Header.Get("Own") != "a" || req.URL.String() != w.url {
					t.Errorf("the caller's request has %v and %v", req.Header, req.URL)
				}
			}
		}
	})
}

// TestHeaderIsTheCallersAgain has losers of a hedge cut while net/http writes their
// request, and the caller set fields of the header as soon as it has the answer, as the
// contract of http.RoundTripper allows. Attempts were given the caller's own header for a
// while, and over HTTP/2 the process died of a map that is read and written at once.
//
// Spec: W2, H2
func TestHeaderIsTheCallersAgain(t *testing.T) {
	both(t, func(http.ResponseWriter, *http.Request) {}, func(t *testing.T, w *wire, _ *http.Client) {
		h := hedge.New(hedge.Config{After: 300 * time.Microsecond, Max: 3, Budget: retry.NoBudget})
		tr := mettlehttp.NewTransport(w.base, h)
		for range 300 {
			req := request(t, "GET", w.url, nil)
			for i := range 30 {
				req.Header.Set(fmt.Sprint("X-", i), "v")
			}
			resp, err := tr.RoundTrip(req)
			readAll(t, one(t, resp, err))
			for i := range 30 {
				req.Header.Set(fmt.Sprint("X-", i), "w")
			}
		}
	})
}

// TestRegisteredProtocolWrites covers that a round tripper registered with net/http's
// Transport writes to a copy, as one does that signs.
//
// Spec: W2
func TestRegisteredProtocolWrites(t *testing.T) {
	base := &http.Transport{}
	base.RegisterProtocol("s3", baseFunc(func(r *http.Request) (*http.Response, error) {
		r.Header.Set("Authorization", "signed")
		r.URL.Host = "real"
		return answer(r, 200, http.NoBody), nil
	}))
	req := request(t, "GET", "s3://bucket/x", nil)
	resp, err := mettlehttp.NewTransport(base, mettle.Compose()).RoundTrip(req)
	readAll(t, one(t, resp, err))
	if len(req.Header) != 0 || req.URL.Host != "bucket" {
		t.Errorf("the caller's request has %v and %v", req.Header, req.URL)
	}
}
