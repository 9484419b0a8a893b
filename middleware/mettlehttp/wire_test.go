package mettlehttp_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// wire is a server on loopback with a base of its own, whose connections are counted.
// When the test ends it fails if a connection or a goroutine is left.
type wire struct {
	url    string
	base   *http.Transport
	opened atomic.Int32 // connections that ever were

	mu   sync.Mutex
	open map[net.Conn]bool
}

var protocols = []string{"HTTP/1.1", "HTTP/2.0"} // the second over TLS

func newWire(t *testing.T, protocol string, h http.HandlerFunc) *wire {
	t.Helper()
	before := runtime.NumGoroutine()
	w := &wire{open: make(map[net.Conn]bool)}
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = discardLog
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		w.mu.Lock()
		defer w.mu.Unlock()
		switch state {
		case http.StateNew:
			w.opened.Add(1)
			w.open[c] = true
		case http.StateHijacked, http.StateClosed:
			delete(w.open, c)
		}
	}
	if protocol == "HTTP/2.0" {
		s.EnableHTTP2 = true
		s.StartTLS()
		w.base = &http.Transport{TLSClientConfig: s.Client().Transport.(*http.Transport).TLSClientConfig.Clone(), ForceAttemptHTTP2: true}
	} else {
		s.Start()
		w.base = &http.Transport{TLSClientConfig: &tls.Config{}}
	}
	w.url = s.URL
	t.Cleanup(func() {
		eventually(t, "the server has no connection left", func() bool {
			w.base.CloseIdleConnections() // HTTP/2 takes a moment to see that one is idle
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(w.open) == 0
		})
		s.Close()
		settled(t, before)
	})
	return w
}

// settled fails the test unless there are as many goroutines as before, soon.
func settled(t *testing.T, before int) {
	t.Helper()
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}

// eventually waits for what happens on the other side of a socket.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("not so after 10 s: %s\n%s", what, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// speak starts a server on loopback that is no HTTP server: it reads the header of a
// request and has say answer, once for each connection.
func speak(t *testing.T, say func(n int, c net.Conn)) (url string, base *http.Transport, conns *atomic.Int32) {
	t.Helper()
	before := runtime.NumGoroutine()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns = new(atomic.Int32)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n := int(conns.Add(1))
			all.Go(func() {
				defer c.Close()
				if readHeader(c) == nil {
					say(n, c)
				}
			})
		}
	})
	base = &http.Transport{}
	t.Cleanup(func() {
		base.CloseIdleConnections()
		l.Close()
		all.Wait()
		settled(t, before)
	})
	return "http://" + l.Addr().String(), base, conns
}

// readHeader reads from c until a line is empty.
func readHeader(c io.Reader) error {
	for last, b := "", make([]byte, 1); last != "\r\n\r\n"; {
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		if last += string(b); len(last) > 4 {
			last = last[1:]
		}
	}
	return nil
}
