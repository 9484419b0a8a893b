package mettlehttp_test

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/retry"
)

// baseFunc is a base with no socket behind it.
type baseFunc func(*http.Request) (*http.Response, error)

func (f baseFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// resend is a retry that is bounded by its attempts alone and does not wait.
func resend(attempts int) mettle.Policy {
	return retry.New(retry.Config{MaxAttempts: attempts, Backoff: retry.Constant(0), Budget: retry.NoBudget})
}

// refuse is a policy that lets nothing through.
var refuse = mettle.PolicyFunc(func(context.Context, func(context.Context) error) error { return errRefused })

type refusal struct{}

func (refusal) Error() string        { return "refused" }
func (refusal) Is(target error) bool { return target == mettle.ErrRejected }

var errRefused error = refusal{}

// body is a response or request body that knows how often it was closed, and whether
// anybody read it after that.
type body struct {
	io.Reader
	closed    atomic.Int32
	readAfter atomic.Bool
}

func newBody(text string) *body { return &body{Reader: strings.NewReader(text)} }

func (b *body) Read(p []byte) (int, error) {
	if b.closed.Load() > 0 {
		b.readAfter.Store(true)
		return 0, errors.New("read of a closed body")
	}
	return b.Reader.Read(p)
}

func (b *body) Close() error {
	b.closed.Add(1)
	return nil
}

// answer makes a response as a base would.
func answer(req *http.Request, code int, body io.ReadCloser) *http.Response {
	return &http.Response{
		StatusCode: code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: body, ContentLength: -1, Request: req,
	}
}

func request(t testing.TB, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func readAll(t testing.TB, resp *http.Response) string {
	t.Helper()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("reading the response body: %v", err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatalf("closing the response body: %v", err)
	}
	return string(data)
}

// one fails the test unless RoundTrip returned a response and nothing else.
func one(t testing.TB, resp *http.Response, err error) *http.Response {
	t.Helper()
	if err != nil {
		t.Fatalf("RoundTrip: %v", err)
	}
	if resp == nil {
		t.Fatal("RoundTrip: neither a response nor an error")
	}
	return resp
}

// failed fails the test unless RoundTrip returned an error and nothing else.
func failed(t testing.TB, resp *http.Response, err error) error {
	t.Helper()
	if err == nil {
		t.Fatalf("RoundTrip: no error but %v", resp)
	}
	if resp != nil {
		t.Fatalf("RoundTrip: response %v beside the error %v", resp.StatusCode, err)
	}
	return err
}

// serve starts a server on loopback and makes a base of its own for it.
func serve(t testing.TB, h http.HandlerFunc) (url string, base *http.Transport) {
	t.Helper()
	s := httptest.NewServer(h)
	base = &http.Transport{}
	t.Cleanup(func() {
		base.CloseIdleConnections()
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL, base
}

// servePipe is serve without sockets, for synctest bubbles. Stop it before the bubble ends.
func servePipe(h http.HandlerFunc) (base *http.Transport, stop func()) {
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	s := &http.Server{Handler: h}
	go s.Serve(l)
	base = &http.Transport{DialContext: l.dial}
	return base, func() {
		base.CloseIdleConnections()
		s.Close()
		time.Sleep(time.Minute) // of the bubble's time, for handlers to see it
	}
}

type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

var discardLog = log.New(io.Discard, "", 0)
