package mettlehttp_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
)

const wellFormed = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfine\n"

// TestHostileServer is answered first by what no server should say, and then well. Either
// the first is the answer, with a body that tells what is wrong with it, or an error, or
// the second is; in all cases soon, with nothing left behind.
//
// Spec: W1, W5, W11, W15
func TestHostileServer(t *testing.T) {
	const busy = "HTTP/1.1 503 Service Unavailable\r\n"
	forever := func(chunk string) func(net.Conn) {
		return func(c net.Conn) {
			for {
				if _, err := io.WriteString(c, chunk); err != nil {
					return
				}
			}
		}
	}
	slowly := func(c net.Conn) {
		for {
			if _, err := io.WriteString(c, "1\r\nx\r\n"); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	z.Write(make([]byte, 8<<20))
	z.Close()

	const fine, bad, broken = "the second answer", "a body that fails", "an error"
	for name, test := range map[string]struct {
		say  string
		more func(net.Conn)
		want string
	}{
		"nothing":                      {"", nil, fine},
		"no HTTP":                      {"220 smtp ready\r\n", nil, fine},
		"half a status line":           {"HTTP/1.1 2", nil, fine},
		"half a header":                {"HTTP/1.1 200 OK\r\nContent-Le", nil, fine},
		"body too short":               {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", nil, bad},
		"503, body too short":          {busy + "Content-Length: 100\r\n\r\nshort", nil, fine},
		"503, body too long":           {busy + "Content-Length: 5\r\n\r\nmuch too long", nil, fine},
		"503, huge length":             {busy + "Content-Length: 9223372036854775807\r\n\r\nshort", nil, fine},
		"length negative":              {busy + "Content-Length: -5\r\n\r\nshort", nil, fine},
		"two lengths":                  {busy + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nshort", nil, fine},
		"chunks that are none":         {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nshort", nil, bad},
		"503, chunks that are none":    {busy + "Transfer-Encoding: chunked\r\n\r\nzz\r\nshort", nil, fine},
		"503, chunk without end":       {busy + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nshort", nil, fine},
		"503, endless":                 {busy + "\r\n", forever(strings.Repeat("x", 4096)), fine},
		"503, endless chunks":          {busy + "Transfer-Encoding: chunked\r\n\r\n", forever("1\r\nx\r\n"), fine},
		"503, endless and slow":        {busy + "Transfer-Encoding: chunked\r\n\r\n", slowly, fine},
		"503, endless trailer":         {busy + "Transfer-Encoding: chunked\r\n\r\n0\r\n", forever("A: " + strings.Repeat("b", 1000) + "\r\n"), fine},
		"503, trailer that is none":    {busy + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\n\x00\r\n\r\n", nil, fine},
		"503, bomb":                    {busy + fmt.Sprintf("Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n", bomb.Len()) + bomb.String(), nil, fine},
		"503, gzip that is none":       {busy + "Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nshort", nil, fine},
		"503, hour":                    {busy + "Retry-After: 3600\r\nContent-Length: 0\r\n\r\n", nil, "503"},
		"503, ages":                    {busy + "Retry-After: " + strings.Repeat("9", 10_000) + "\r\nContent-Length: 0\r\n\r\n", nil, "503"},
		"503, nonsense":                {busy + "Retry-After: \x01 soon, -1, NaN\r\nContent-Length: 0\r\n\r\n", nil, fine},
		"503, several":                 {busy + "Retry-After: soon\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n", nil, fine},
		"header without end":           {"HTTP/1.1 200 OK\r\n", forever("A: " + strings.Repeat("b", 10_000) + "\r\n"), fine},
		"103 without end":              {"", forever("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"), fine},
		"101 unasked":                  {"HTTP/1.1 101 Switching Protocols\r\n\r\n", nil, broken},
		"status of four digits":        {"HTTP/1.1 2000 OK\r\n\r\n", nil, fine},
		"status that is none":          {"HTTP/1.1 999 ?\r\nContent-Length: 0\r\n\r\n", nil, "999"},
		"answer that nobody asked for": {wellFormed + wellFormed, nil, fine},
	} {
		t.Run(name, func(t *testing.T) {
			url, base, conns := speak(t, func(n int, c net.Conn) {
				if n > 1 {
					io.WriteString(c, wellFormed)
					return
				}
				io.WriteString(c, test.say)
				if test.more != nil {
					test.more(c)
				}
			})
			base.MaxResponseHeaderBytes = 1 << 20
			// The second attempt may find the connection of the first in the pool, as it breaks.
			resp, err := mettlehttp.NewTransport(base, resend(3)).RoundTrip(request(t, "GET", url, nil))
			got := broken
			if err == nil {
				data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
				switch resp.Body.Close(); {
				case err != nil:
					got = bad
				case resp.StatusCode == 200 && string(data) == "fine\n":
					got = fine
				default:
					got = fmt.Sprint(resp.StatusCode)
				}
			} else if resp != nil {
				t.Errorf("a response beside the error %v", err)
			}
			if name == "101 unasked" { // is a connection of the caller's then, which has ended
				if got != "101" {
					t.Errorf("got %s, %v", got, err)
				}
			} else if got != test.want {
				t.Errorf("got %s, want %s; error %v", got, test.want, err)
			}
			if n := conns.Load(); n > 4 {
				t.Errorf("%d connections for three attempts", n)
			}
		})
	}
}

// FuzzServer has a server say anything, once for each attempt. Whatever it is, the result
// is one of a response and an error, and nothing is left behind in the bubble.
//
// Which code runs depends on the scheduler too, so that an input which go test takes for a
// new one may not be so again. It then looks in vain for a shorter one, for up to a minute
// in which it seems to hang: give it -fuzzminimizetime 1x.
//
// Spec: W1, W5, W15
func FuzzServer(f *testing.F) {
	for _, s := range []string{
		"", wellFormed, "HTTP/1.1 503 x\r\nRetry-After: 1\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 503 x\r\n\r\n",
		"HTTP/1.1 429 x\r\nRetry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 500 x\r\n\r\nabc", "HTTP/1.1 101 x\r\n\r\nabc", "HTTP/1.1 204 x\r\n\r\n", "\x00\xff",
	} {
		f.Add([]byte(s), []byte(wellFormed))
	}
	f.Fuzz(func(t *testing.T, first, then []byte) {
		synctest.Test(t, func(t *testing.T) {
			dials := 0
			base := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
				client, server := net.Pipe()
				say := then
				if dials++; dials == 1 {
					say = first
				}
				go func() {
					defer server.Close()
					if readHeader(server) == nil {
						server.Write(say)
					}
				}()
				return client, nil
			}}
			resp, err := mettlehttp.NewTransport(base, nil).RoundTrip(request(t, "GET", "http://host/", nil))
			if (resp == nil) == (err == nil) {
				t.Errorf("response %v, error %v", resp, err)
			}
			if resp != nil {
				io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
				resp.Body.Close()
			}
			if dials > 6 {
				t.Errorf("%d requests for three attempts", dials)
			}
			time.Sleep(time.Minute) // for both sides to see it
		})
	})
}

// TestHostileClient sends a handler what no client should, over sockets, and asks for
// the slots afterwards.
//
// Spec: W19, W20
func TestHostileClient(t *testing.T) {
	slots := bulkhead.New(bulkhead.Config{Limit: 4})
	var served atomic.Int32
	w := newWire(t, "HTTP/1.1", mettlehttp.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		io.Copy(w, r.Body)
		<-r.Context().Done()
	}), mettle.Compose(after(300*time.Millisecond), slots), mettlehttp.Propagate()).ServeHTTP)
	for _, say := range []string{
		"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nshort",
		"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9223372036854775807\r\n\r\nshort",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: b",
		"GET / HTTP/1.1\r\nHost: h\r\nMettle-Timeout-Ms: " + strings.Repeat("9", 100_000) + "\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: h\r\nMettle-Timeout-Ms: 1\r\nMettle-Timeout-Ms: 2\r\nMettle-Attempt: -1\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("Mettle-Attempt: 1\r\n", 1000) + "\r\n",
		"GET / HTTP/1.1\r\nHost: h\r\nMettle-Attempt: \xff\xfe\r\nMettle-Timeout-Ms: \t\r\n\r\n",
	} {
		for _, stays := range []bool{true, false} {
			conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(conn, say)
			if stays {
				conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond)) // some wait for the rest in vain
				if _, err := conn.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
					t.Errorf("%.40q: hung up on without an answer", say)
				}
			}
			conn.Close()
		}
	}
	eventually(t, "every slot has been given back", func() bool { return slots.Stats().InFlight == 0 })
	if served.Load() == 0 {
		t.Error("the handler never ran")
	}
}
