package mettlehttp_test

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mettle-go/mettle/middleware/mettlehttp"
)

// What a websocket needs of RFC 6455: frames that are final, masked by the client.
const (
	wsText  = 0x81
	wsClose = 0x88
)

func writeFrame(w io.Writer, kind byte, payload []byte, mask []byte) error {
	head := []byte{kind, 0}
	switch n := len(payload); {
	case n < 126:
		head[1] = byte(n)
	case n < 1<<16:
		head[1] = 126
		head = binary.BigEndian.AppendUint16(head, uint16(n))
	default:
		head[1] = 127
		head = binary.BigEndian.AppendUint64(head, uint64(n))
	}
	payload = bytes.Clone(payload)
	if mask != nil {
		head[1] |= 0x80
		head = append(head, mask...)
		for i := range payload {
			payload[i] ^= mask[i%4]
		}
	}
	_, err := w.Write(append(head, payload...))
	return err
}

func readFrame(r io.Reader) (kind byte, payload []byte, err error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, nil, err
	}
	length := uint64(head[1] & 0x7f)
	switch length {
	case 126:
		var n uint16
		err = binary.Read(r, binary.BigEndian, &n)
		length = uint64(n)
	case 127:
		err = binary.Read(r, binary.BigEndian, &length)
	}
	mask := make([]byte, 4)
	if err == nil && head[1]&0x80 != 0 {
		_, err = io.ReadFull(r, mask)
	}
	if err != nil || length > 1<<20 {
		return 0, nil, errors.Join(err, errors.New("no frame of ours"))
	}
	payload = make([]byte, length)
	_, err = io.ReadFull(r, payload)
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return head[0], payload, err
}

func wsAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// echoSocket is a websocket that sends back what it gets, until it is told to close.
func echoSocket(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		w.WriteHeader(http.StatusUpgradeRequired)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		wsAccept(r.Header.Get("Sec-WebSocket-Key")))
	rw.Flush()
	for kind := byte(0); kind != wsClose; {
		var payload []byte
		if kind, payload, err = readFrame(rw); err != nil {
			return
		}
		if writeFrame(rw, kind, payload, nil) != nil || rw.Flush() != nil {
			return
		}
	}
}

// reverse puts a ReverseProxy with a Transport of ours before backend.
func reverse(t *testing.T, backend *wire) (front *wire) {
	t.Helper()
	target, _ := url.Parse(backend.url)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = mettlehttp.NewTransport(backend.base, nil)
	proxy.ErrorLog = discardLog
	return newWire(t, "HTTP/1.1", mettlehttp.NewHandler(proxy, nil).ServeHTTP)
}

// TestWebsocketThroughReverseProxy speaks RFC 6455 through a proxy both of whose sides are
// ours, in frames of every form of length, and ends the connection from either side.
//
// Spec: W13, W19
func TestWebsocketThroughReverseProxy(t *testing.T) {
	backend := newWire(t, "HTTP/1.1", echoSocket)
	front := reverse(t, backend)
	for _, polite := range []bool{true, false} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(front.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		const key = "dGhlIHNhbXBsZSBub25jZQ=="
		fmt.Fprintf(conn, "GET /chat HTTP/1.1\r\nHost: front\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n", key)
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-Websocket-Accept") != wsAccept(key) {
			t.Fatalf("got %v, %v", resp, err)
		}
		for i, n := range []int{0, 5, 125, 126, 200, 65535, 65536, 300_000} {
			text := bytes.Repeat([]byte{byte('a' + i)}, n)
			if err := writeFrame(conn, wsText, text, []byte{1, 2, 3, byte(i)}); err != nil {
				t.Fatal(err)
			}
			if kind, got, err := readFrame(r); err != nil || kind != wsText || !bytes.Equal(got, text) {
				t.Fatalf("frame of %d bytes: kind %#x, %d bytes, %v", n, kind, len(got), err)
			}
		}
		if polite {
			writeFrame(conn, wsClose, nil, make([]byte, 4))
			if kind, _, err := readFrame(r); err != nil || kind != wsClose {
				t.Errorf("close: kind %#x, %v", kind, err)
			}
			if _, err := r.ReadByte(); err != io.EOF {
				t.Errorf("after the close: %v", err)
			}
		}
		conn.Close() // and newWire counts what is left
	}
}

// TestReverseProxy passes answers of all kinds through, and a client that goes away.
//
// Spec: W1, W3, W13
func TestReverseProxy(t *testing.T) {
	var tries atomic.Int32
	gone := make(chan struct{})
	backend := newWire(t, "HTTP/1.1", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/flaky":
			if tries.Add(1) == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		case "/down":
			panic(http.ErrAbortHandler)
		case "/stream":
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "data: 1\n\n")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			close(gone)
		case "/trailer":
			w.Header().Set("Trailer", "Sum")
			data, _ := io.ReadAll(r.Body)
			w.Write(data)
			w.Header().Set("Sum", "42")
		}
	})
	front := reverse(t, backend)
	client := &http.Client{Transport: front.base}
	if resp := do(t, client, "GET", front.url+"/flaky", nil); readAll(t, resp) != "" || resp.StatusCode != 200 || tries.Load() != 2 {
		t.Errorf("flaky: %d after %d tries", resp.StatusCode, tries.Load())
	}
	if resp := do(t, client, "POST", front.url+"/down", strings.NewReader("x")); readAll(t, resp) != "" || resp.StatusCode != http.StatusBadGateway {
		t.Errorf("down: %d", resp.StatusCode)
	}
	long := strings.Repeat("0123456789", 100_000)
	resp := do(t, client, "PUT", front.url+"/trailer", io.LimitReader(strings.NewReader(long), 1e6))
	if got := readAll(t, resp); got != long || resp.Trailer.Get("Sum") != "42" {
		t.Errorf("trailer: %d bytes, %v", len(got), resp.Trailer)
	}
	resp = do(t, client, "GET", front.url+"/stream", nil)
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	if line != "data: 1\n" || err != nil {
		t.Errorf("stream: %q, %v", line, err)
	}
	resp.Body.Close()
	<-gone // the backend is told that nobody reads any more
}
