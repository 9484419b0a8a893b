package mettlehttp_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
)

// The tests here are what net/http asks of its own Transport and Client, asked of one that
// wears a Transport of ours, over both protocols.

// both runs test over each protocol, with a client in the standard pipeline whose server
// answers 503 to every first try of a request with the header "Flaky".
func both(t *testing.T, h http.HandlerFunc, test func(t *testing.T, w *wire, client *http.Client)) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			var n atomic.Int32
			w := newWire(t, protocol, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Flaky") != "" && n.Add(1)%2 == 1 {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				h(w, r)
			})
			test(t, w, &http.Client{Transport: mettlehttp.NewTransport(w.base, resend(2))})
		})
	}
}

func do(t *testing.T, client *http.Client, method, url string, body io.Reader, header ...string) *http.Response {
	t.Helper()
	req := request(t, method, url, body)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	return one(t, resp, err)
}

// TestHeadAndLength asks for headers alone, and for bodies of all lengths.
//
// Spec: W3
func TestHeadAndLength(t *testing.T) {
	both(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		if r.URL.Path == "/known" {
			w.Header().Set("Content-Length", strconv.Itoa(n))
		}
		if r.Method == http.MethodHead {
			return
		}
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		w.Write(bytes.Repeat([]byte("x"), n))
	}, func(t *testing.T, w *wire, client *http.Client) {
		for _, n := range []int{0, 1, 511, 512, 513, 64 << 10, 1 << 20} {
			for _, path := range []string{"/known", "/unknown"} {
				url := fmt.Sprintf("%s%s?n=%d", w.url, path, n)
				resp := do(t, client, "HEAD", url, nil, "Flaky", "yes")
				if got := readAll(t, resp); got != "" || path == "/known" && resp.ContentLength != int64(n) {
					t.Errorf("HEAD %s %d: length %d, body of %d bytes", path, n, resp.ContentLength, len(got))
				}
				resp = do(t, client, "GET", url, nil, "Flaky", "yes")
				want := int64(-1)
				if path == "/known" {
					want = int64(n)
				}
				if got := readAll(t, resp); len(got) != n || resp.ContentLength != want {
					t.Errorf("GET %s %d: length %d, body of %d bytes", path, n, resp.ContentLength, len(got))
				}
			}
		}
		if got := readAll(t, do(t, client, "", w.url+"?n=3", nil)); got != "xxx" {
			t.Errorf("no method: %q", got)
		}
		if w.opened.Load() != 1 {
			t.Errorf("%d connections, want 1", w.opened.Load())
		}
	})
}

// TestInformational gets 1xx answers before the one that counts, and waits for 100.
//
// Spec: W3, W6
func TestInformational(t *testing.T) {
	both(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		if r.Header.Get("Expect") != "" && r.Header.Get("Allow") == "" {
			w.WriteHeader(http.StatusExpectationFailed) // without a look at the body
			return
		}
		io.Copy(w, r.Body)
	}, func(t *testing.T, w *wire, client *http.Client) {
		w.base.ExpectContinueTimeout = 10 * time.Second
		var hints, continues atomic.Int32
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				if code == http.StatusEarlyHints && h.Get("Link") != "" {
					hints.Add(1)
				}
				return nil
			},
			Got100Continue: func() { continues.Add(1) },
		})
		h1 := strings.HasPrefix(w.url, "http:") // net/http's server of HTTP/2 says no 100 after a 103
		for _, allow := range []string{"yes", ""} {
			req := request(t, "PUT", w.url, strings.NewReader("payload")).WithContext(ctx)
			if h1 {
				req.Header.Set("Expect", "100-continue")
			}
			req.Header.Set("Allow", allow)
			resp, err := client.Do(req)
			got := readAll(t, one(t, resp, err))
			if h1 && allow == "" {
				if resp.StatusCode != http.StatusExpectationFailed {
					t.Errorf("not allowed: %d %q", resp.StatusCode, got)
				}
			} else if got != "payload" || h1 && continues.Load() != 1 {
				t.Errorf("allowed: %d %q, %d times 100", resp.StatusCode, got, continues.Load())
			}
		}
		if hints.Load() != 2 {
			t.Errorf("%d early hints, want 2: the hooks of the caller's are called too", hints.Load())
		}
	})
}

// TestTrailersBothWays sends trailers and gets them back, after a first try that failed.
//
// Over HTTP/2 a trailer that comes after the answer makes net/http's server give up the
// connection. The second attempt, which it says it has not processed and net/http sends
// again, used to be cut for that.
//
// Spec: W3, W15
func TestTrailersBothWays(t *testing.T) {
	both(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Announced")
		io.Copy(w, r.Body)
		w.Header().Set("Announced", r.Trailer.Get("Up"))
		w.Header().Set(http.TrailerPrefix+"Surprise", "yes")
	}, func(t *testing.T, w *wire, client *http.Client) {
		for range 30 {
			req := request(t, "PUT", w.url, nil)
			req.Header.Set("Flaky", "yes")
			req.Trailer = http.Header{"Up": {"sent"}}
			req.ContentLength = -1
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("payload")), nil }
			req.Body, _ = req.GetBody()
			resp, err := client.Do(req)
			got := readAll(t, one(t, resp, err))
			if got != "payload" || resp.Trailer.Get("Announced") != "sent" || resp.Trailer.Get("Surprise") != "yes" {
				t.Errorf("got %q with trailers %v", got, resp.Trailer)
			}
		}
	})
}

// TestCompression leaves what the caller asked for alone, and what net/http asked for to it.
//
// Spec: W3
func TestCompression(t *testing.T) {
	both(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s,%s,", r.Header.Get("Accept-Encoding"), r.Header.Get("Range"))
	}, func(t *testing.T, w *wire, client *http.Client) {
		if got := readAll(t, do(t, client, "GET", w.url, nil, "Range", "bytes=0-9", "Flaky", "yes")); got != ",bytes=0-9," {
			t.Errorf("range: %q", got)
		}
		w.base.DisableCompression = true
		if got := readAll(t, do(t, client, "GET", w.url, nil, "Flaky", "yes")); got != ",," {
			t.Errorf("no compression: %q", got)
		}
	})
	both(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close()
		z.Write(make([]byte, 10<<20))
	}, func(t *testing.T, w *wire, client *http.Client) {
		resp := do(t, client, "GET", w.url, nil, "Flaky", "yes")
		if n, err := io.Copy(io.Discard, resp.Body); n != 10<<20 || err != nil || !resp.Uncompressed {
			t.Errorf("read %d bytes, %v", n, err)
		}
		resp.Body.Close()
		// Left unread, it costs its connection and nothing else.
		do(t, client, "GET", w.url, nil).Body.Close()
	})
}

// TestManyAtOnce sends requests from many goroutines, each of which fails at first.
//
// Spec: W5, W6
func TestManyAtOnce(t *testing.T) {
	var tries sync.Map
	both(t, func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		key := r.Proto + string(data)
		if _, again := tries.LoadOrStore(key, true); !again {
			w.WriteHeader(http.StatusBadGateway)
		}
		w.Write(data)
	}, func(t *testing.T, w *wire, client *http.Client) {
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				for k := range 20 {
					want := strings.Repeat(fmt.Sprintf("%d.%d ", i, k), 1000)
					req := request(t, "PUT", w.url, strings.NewReader(want))
					resp, err := client.Do(req)
					if err != nil {
						t.Error(err)
						return
					}
					got, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if resp.StatusCode != http.StatusOK || string(got) != want || err != nil {
						t.Errorf("%d.%d: %d, %d bytes, %v", i, k, resp.StatusCode, len(got), err)
					}
				}
			})
		}
		all.Wait()
	})
}

// TestRedirectsAndCookies goes through every kind of redirect with a jar, while each hop
// fails at first.
//
// Spec: W1, W2, W6
func TestRedirectsAndCookies(t *testing.T) {
	both(t, func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		if code, err := strconv.Atoi(strings.Trim(r.URL.Path, "/")); err == nil {
			http.SetCookie(w, &http.Cookie{Name: "hop", Value: strconv.Itoa(code), Path: "/"})
			w.Header().Set("Location", "/end")
			w.WriteHeader(code)
			return
		}
		c, _ := r.Cookie("hop")
		fmt.Fprintf(w, "%s %q %s auth=%v", r.Method, data, c, r.Header.Get("Authorization") != "")
	}, func(t *testing.T, w *wire, client *http.Client) {
		client.Jar, _ = cookiejar.New(nil)
		for code, want := range map[int]string{
			301: `GET "" hop=301 auth=true`, 302: `GET "" hop=302 auth=true`, 303: `GET "" hop=303 auth=true`,
			307: `PUT "payload" hop=307 auth=true`, 308: `PUT "payload" hop=308 auth=true`,
		} {
			resp := do(t, client, "PUT", fmt.Sprint(w.url, "/", code), strings.NewReader("payload"), "Flaky", "yes", "Authorization", "Bearer x")
			if got := readAll(t, resp); got != want {
				t.Errorf("%d: %s, want %s", code, got, want)
			}
			if resp.Request.URL.Path != "/end" || resp.Request.Response == nil || resp.Request.Response.StatusCode != code {
				t.Errorf("%d: the response does not tell how it came about", code)
			}
		}
		// Without GetBody there is nothing to follow with, and the redirect is the answer.
		req := request(t, "PUT", w.url+"/308", io.LimitReader(strings.NewReader("payload"), 7))
		resp, err := client.Do(req)
		if one(t, resp, err).Body.Close(); resp.StatusCode != 308 {
			t.Errorf("got %d", resp.StatusCode)
		}
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		if resp := do(t, client, "GET", w.url+"/302", nil); readAll(t, resp) != "" || resp.StatusCode != 302 {
			t.Errorf("got %d", resp.StatusCode)
		}
	})
}

// TestClientTimeout has the Timeout of a Client pass before the headers, in the body and
// between attempts, and looks at the error as its users do.
//
// Spec: W14
func TestClientTimeout(t *testing.T) {
	both(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			io.WriteString(w, "half")
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
	}, func(t *testing.T, w *wire, client *http.Client) {
		client.Timeout = 50 * time.Millisecond
		for _, path := range []string{"/headers", "/body"} {
			resp, err := client.Do(request(t, "GET", w.url+path, nil))
			if path == "/body" {
				var data []byte
				data, err = io.ReadAll(one(t, resp, err).Body)
				if resp.Body.Close(); string(data) != "half" {
					t.Errorf("read %q", data)
				}
			}
			var timeout interface{ Timeout() bool }
			if !errors.As(err, &timeout) || !timeout.Timeout() || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", path, err)
			}
		}
	})
}

// TestBodiesLeftBehind closes bodies at every point, and cancels in the middle.
//
// Spec: W4, W14
func TestBodiesLeftBehind(t *testing.T) {
	both(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "first")
		w.(http.Flusher).Flush()
		if r.URL.Path == "/long" {
			<-r.Context().Done()
		}
	}, func(t *testing.T, w *wire, client *http.Client) {
		for range 20 {
			do(t, client, "GET", w.url+"/long", nil).Body.Close()
			resp := do(t, client, "GET", w.url, nil, "Flaky", "yes")
			resp.Body.Read(make([]byte, 2))
			resp.Body.Close()
			if _, err := resp.Body.Read(make([]byte, 1)); err == nil || err == io.EOF {
				t.Errorf("read after Close: %v", err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			resp, err := client.Do(request(t, "GET", w.url+"/long", nil).WithContext(ctx))
			one(t, resp, err)
			time.AfterFunc(time.Millisecond, cancel)
			if _, err := io.ReadAll(resp.Body); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
			resp.Body.Close()
		}
	})
}

// TestServerHangsUp closes connections before, in and after an answer.
//
// Spec: W8, W15
func TestServerHangsUp(t *testing.T) {
	var n atomic.Int32
	both(t, func(w http.ResponseWriter, r *http.Request) {
		switch n.Add(1) % 3 {
		case 1:
			w.Header().Set("Connection", "close")
		case 2:
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, "whole")
	}, func(t *testing.T, w *wire, client *http.Client) {
		for range 30 {
			if got := readAll(t, do(t, client, "GET", w.url, nil)); got != "whole" {
				t.Errorf("got %q", got)
			}
		}
	})
	both(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}, func(t *testing.T, w *wire, client *http.Client) {
		resp := do(t, client, "GET", w.url, nil)
		if data, err := io.ReadAll(resp.Body); string(data) != "half" || err == nil {
			t.Errorf("read %q, %v: what is cut short is no whole answer", data, err)
		}
		resp.Body.Close()
	})
}

// TestSlowHeaders leaves a timeout for the headers to the base, which has an error of its
// own for it.
//
// Spec: W8, W14
func TestSlowHeaders(t *testing.T) {
	var n atomic.Int32
	both(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // or the server does not see the client go
		if n.Add(1)%2 == 1 {
			<-r.Context().Done()
		}
	}, func(t *testing.T, w *wire, client *http.Client) {
		w.base.ResponseHeaderTimeout = 50 * time.Millisecond
		n.Store(0)
		do(t, client, "GET", w.url, nil).Body.Close()
		n.Store(0)
		_, err := client.Do(request(t, "POST", w.url, strings.NewReader("payload")))
		var e *url.Error
		if !errors.As(err, &e) || !e.Timeout() || n.Load() != 1 {
			t.Errorf("after %d requests: %v", n.Load(), err)
		}
	})
}

// TestThroughProxy goes through a proxy of HTTP, and by CONNECT through one that refuses.
//
// Spec: W3, W9
func TestThroughProxy(t *testing.T) {
	var asked []string
	proxy := newWire(t, "HTTP/1.1", func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.String()+r.Host)
		if r.Method == http.MethodConnect {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		if len(asked)%2 == 1 {
			w.WriteHeader(http.StatusBadGateway)
		}
		io.WriteString(w, "by proxy")
	})
	proxyURL, _ := url.Parse(proxy.url)
	proxy.base.Proxy = http.ProxyURL(proxyURL)
	client := &http.Client{Transport: mettlehttp.NewTransport(proxy.base, resend(2))}
	if got := readAll(t, do(t, client, "GET", "http://far.example/path", nil)); got != "by proxy" || len(asked) != 2 {
		t.Errorf("got %q, the proxy was asked %q", got, asked)
	}
	if resp, err := client.Do(request(t, "POST", "https://far.example/", strings.NewReader("x"))); err == nil {
		t.Errorf("got %d through a proxy that refuses", resp.StatusCode)
	}
}

// TestThousandRetriedCalls keeps to one connection through a thousand calls that succeed
// at the second attempt.
//
// Spec: W5
func TestThousandRetriedCalls(t *testing.T) {
	both(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "text")
	}, func(t *testing.T, w *wire, client *http.Client) {
		client.Transport = mettlehttp.NewTransport(w.base, mettle.Compose(after(time.Minute), resend(2), after(30*time.Second)))
		for range 1000 {
			if resp := do(t, client, "GET", w.url, nil, "Flaky", "yes"); resp.StatusCode != 200 || readAll(t, resp) != "text" {
				t.Fatalf("got %d", resp.StatusCode)
			}
		}
		// net/http itself may give a connection up that was busy for 50 ms.
		if n := w.opened.Load(); n > 2 {
			t.Errorf("%d connections", n)
		}
	})
}
