package faults

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
)

// content is a body longer than what buffers on the way hold back.
var content = func() []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < 256<<10; i++ {
		b.WriteString(strconv.Itoa(i))
	}
	return b.Bytes()[:256<<10]
}()

// idleTime is how long a server keeps an idle connection where it hangs up.
const idleTime = 300 * time.Millisecond

// arrivals are the calls that have reached a server's handler.
type arrivals struct {
	n     atomic.Int64
	first func(context.Context) // runs in the handler of the first; nil: nothing
	keys  sync.Map              // idempotency keys

	damaged atomic.Bool // a request arrived as if it were whole, and was another one
}

func (a *arrivals) add(ctx context.Context) {
	if a.n.Add(1) == 1 && a.first != nil {
		a.first(ctx)
	}
}

// check looks at what was uploaded.
func (a *arrivals) check(body []byte) {
	if !bytes.Equal(content, body) {
		a.damaged.Store(true)
	}
}

// ServeHTTP answers GETs with content, uploads with a few bytes, other POSTs with what they
// bring.
func (a *arrivals) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// PRI is how HTTP/2 begins. It comes from a gRPC client whose own server is gone, which
	// dials a port that by now is ours: ports are free while the way there is down.
	if r.URL.Path == "/warm" || r.Method == "PRI" {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // it has not arrived
	}
	a.add(r.Context())
	switch r.URL.Path {
	case "/short":
		body = []byte("short")
	case "/long", "/chunked":
		body = content
	case "/upload":
		a.check(body)
		body = []byte("short")
	default:
		a.keys.Store(r.Header.Get("Idempotency-Key"), true)
	}
	if r.URL.Path != "/chunked" {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.Write(body)
}

// httpPeers are a client and a server of HTTP/1.1 or, over TLS, HTTP/2.
type httpPeers struct {
	t        *testing.T
	arrivals *arrivals
	server   *httptest.Server
	base     *http.Transport
	client   *http.Client
	http2    bool
}

func newHTTPPeers(t *testing.T, w *wire, protocol string, a *arrivals) peers {
	p := &httpPeers{t: t, arrivals: a, http2: protocol != http1}
	p.server = &httptest.Server{Listener: w.listener, Config: &http.Server{
		Handler:  a,
		ErrorLog: log.New(io.Discard, "", 0), // of handshakes that were cut
	}}
	if w.hangUp {
		p.server.Config.IdleTimeout = idleTime
	}
	p.base = http.DefaultTransport.(*http.Transport).Clone()
	p.base.DialContext = w.dial
	if p.http2 {
		p.server.EnableHTTP2 = true
		p.server.StartTLS()
		p.base.TLSClientConfig = p.server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	} else {
		p.server.Start()
	}
	if protocol == http2Pings {
		p.base.HTTP2 = &http.HTTP2Config{SendPingTimeout: 200 * time.Millisecond, PingTimeout: 400 * time.Millisecond}
	}
	t.Cleanup(p.server.Close)
	return p
}

func (p *httpPeers) wear(policy mettle.Policy, _ string) {
	p.client = &http.Client{Transport: mettlehttp.NewTransport(p.base, policy)}
}

func (p *httpPeers) observe(yield func(mettle.Metric) bool) {
	p.client.Transport.(mettle.Observable).Observe(yield)
}

func (p *httpPeers) warm() {
	resp, err := p.client.Get(p.server.URL + "/warm")
	require.NoError(p.t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(p.t, err)
	resp.Body.Close()
	require.Equal(p.t, p.http2, resp.ProtoMajor == 2)
}

func (p *httpPeers) leave() { p.client.CloseIdleConnections() }

// call makes a call and returns, in words, all that the caller can see of it.
func (p *httpPeers) call(ctx context.Context, call string) string {
	method, path, want := http.MethodGet, "/short", []byte("short")
	var body io.Reader
	switch call {
	case get:
	case getLong:
		path, want = "/long", content
	case getChunked:
		path, want = "/chunked", content
	case post, postKey:
		method, path, want = http.MethodPost, "/do", []byte("once")
		body = strings.NewReader("once")
	case postLong, putLong:
		method, path = http.MethodPost, "/upload"
		if call == putLong {
			method = http.MethodPut
		}
		body = bytes.NewReader(content)
	default:
		p.t.Fatalf("no such call: %s", call)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.server.URL+path, body)
	require.NoError(p.t, err)
	if call == postKey {
		req.Header.Set("Idempotency-Key", "7")
	}
	resp, err := p.client.Do(req)
	if err != nil {
		require.Nil(p.t, resp)
		return httpError(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		require.True(p.t, bytes.HasPrefix(want, got), "what was read is not the beginning of what was sent")
		return fmt.Sprintf("%d, body broken off: %s", resp.StatusCode, httpError(err))
	}
	require.True(p.t, bytes.Equal(want, got), "the body is another one, and no error")
	return fmt.Sprintf("%d, body whole", resp.StatusCode)
}

// httpError tells an error as a caller can, by its types and marks.
func httpError(err error) string {
	var (
		timeout net.Error
		outer   *url.Error // has the address, which is another one each time
	)
	if errors.As(err, &outer) {
		err = outer.Err
	}
	text, why, once := strings.Cut(err.Error(), "; not resent: ")
	kind := text
	switch {
	case errors.As(err, &timeout) && timeout.Timeout() && errors.Is(err, mettle.ErrRejected):
		return "timeout; the hedge was refused" // before it was sent
	case errors.Is(err, mettle.ErrRejected):
		kind = "refused by a policy"
	case errors.Is(err, syscall.ECONNREFUSED):
		kind = "connection refused"
	case errors.As(err, &timeout) && timeout.Timeout():
		kind = "timeout"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		kind = "connection broken" // which of them it is depends on who notices first
	}
	if once {
		kind += "; not resent: " + why
	}
	return kind
}

// A gRPC client of another row that has come to the wrong port is no arrival: net/http
// hands the preface of HTTP/2 to a handler that speaks HTTP/1.1.
func TestPrefaceIsNoArrival(t *testing.T) {
	w, a := newWire(t, fault{}), &arrivals{}
	newHTTPPeers(t, w, http1, a)
	c, err := net.Dial("tcp", w.faultyAt)
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	require.NoError(t, err)
	_, err = bufio.NewReader(c).ReadString('\n') // it has been answered
	require.NoError(t, err)
	assert.Zero(t, a.n.Load())
}
