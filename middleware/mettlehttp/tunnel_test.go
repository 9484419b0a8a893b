package mettlehttp_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
)

// shout gives its connection away and answers every line in two copies.
func shout(w http.ResponseWriter, r *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	if r.Method == http.MethodConnect {
		io.WriteString(rw, "HTTP/1.1 200 OK\r\n\r\n")
	} else {
		io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n")
	}
	rw.Flush()
	for {
		line, err := rw.ReadString('\n')
		if err != nil {
			return
		}
		io.WriteString(rw, line+line)
		rw.Flush()
	}
}

// TestUpgradeThroughReverseProxy puts a proxy between client and server, whose transport
// is ours.
//
// Spec: W13
func TestUpgradeThroughReverseProxy(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(shout))
	defer backend.Close()
	target, _ := url.Parse(backend.URL)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = mettlehttp.NewTransport(nil, nil)
	front := httptest.NewServer(proxy)
	defer front.Close()

	conn, err := net.Dial("tcp", front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: front\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v, %v", resp, err)
	}
	for i := range 3 {
		fmt.Fprintf(conn, "line %d\n", i)
		for range 2 {
			if line, err := r.ReadString('\n'); err != nil || line != fmt.Sprintf("line %d\n", i) {
				t.Fatalf("got %q, %v", line, err)
			}
		}
	}
}

// TestTunnelOutlivesTotalTimeout talks through a 101 after the timeout of the call.
//
// Spec: W13
func TestTunnelOutlivesTotalTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, stop := servePipe(shout)
		defer stop()
		req := request(t, "GET", "http://host/", nil)
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "shout")
		resp, err := mettlehttp.NewTransport(base, nil).RoundTrip(req)
		rwc, ok := one(t, resp, err).Body.(io.ReadWriteCloser)
		if !ok || resp.StatusCode != 101 {
			t.Fatalf("status %d, body %T", resp.StatusCode, resp.Body)
		}
		r := bufio.NewReader(rwc)
		for range 3 {
			time.Sleep(time.Hour)
			io.WriteString(rwc, "hello\n")
			for range 2 {
				if line, err := r.ReadString('\n'); line != "hello\n" {
					t.Fatalf("got %q, %v", line, err)
				}
			}
		}
		// net.Pipe cannot close one side, and that is told, not hidden.
		if err := rwc.(interface{ CloseWrite() error }).CloseWrite(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("CloseWrite: %v", err)
		}
		if err := rwc.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestConnect opens a tunnel whose far side only speaks.
//
// Spec: W13
func TestConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far, near := io.Pipe()
		base := baseFunc(func(req *http.Request) (*http.Response, error) {
			if req.Context().Err() != nil {
				t.Error("the context has ended")
			}
			return answer(req, 200, far), nil
		})
		req := request(t, "CONNECT", "http://host/", nil)
		resp, err := mettlehttp.NewTransport(base, after(time.Second)).RoundTrip(req)
		one(t, resp, err)
		go func() {
			time.Sleep(time.Hour)
			io.WriteString(near, "late")
			near.Close()
		}()
		if got := readAll(t, resp); got != "late" {
			t.Errorf("got %q", got)
		}
	})
}

// TestEventStream resends what is not yet a stream, and never a stream.
//
// Spec: W13
func TestEventStream(t *testing.T) {
	for kind, want := range map[string]int{"text/event-stream": 1, "text/event-stream; charset=utf-8": 1, "text/plain": 3, "": 3} {
		attempts := 0
		base := baseFunc(func(req *http.Request) (*http.Response, error) {
			attempts++
			resp := answer(req, 503, newBody("data: x\n\n"))
			resp.Header.Set("Content-Type", kind)
			return resp, nil
		})
		req := request(t, "GET", "http://host/", nil)
		req.Header.Set("Accept", "text/event-stream")
		resp, err := mettlehttp.NewTransport(base, resend(3)).RoundTrip(req)
		if one(t, resp, err); readAll(t, resp) != "data: x\n\n" || attempts != want {
			t.Errorf("%q: %d attempts, want %d", kind, attempts, want)
		}
	}
}

// TestEarlyAnswer answers before the upload has ended, without a body of its own.
//
// Spec: W4, W13
func TestEarlyAnswer(t *testing.T) {
	var sent *http.Request
	base := baseFunc(func(req *http.Request) (*http.Response, error) {
		sent = req
		return answer(req, 200, http.NoBody), nil
	})
	up, _ := io.Pipe()
	resp, err := mettlehttp.NewTransport(base, mettle.Compose()).RoundTrip(request(t, "POST", "http://host/", up))
	if one(t, resp, err); sent.Context().Err() != nil {
		t.Error("the upload was cut when the answer came")
	}
	resp.Body.Close()
	if sent.Context().Err() == nil {
		t.Error("the context lives on")
	}
}
