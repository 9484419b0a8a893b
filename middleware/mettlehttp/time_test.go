//lint:file-ignore SA1019 Request.Cancel is deprecated and has to end a call all the same.

package mettlehttp_test

import (
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
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

func after(d time.Duration) mettle.Policy { return timeout.New(timeout.Config{After: d}) }

// drip answers at once and takes 11 s for a body of 10 MiB.
func drip(w http.ResponseWriter, r *http.Request) {
	chunk := make([]byte, 1<<20)
	for range 10 {
		w.Write(chunk)
		w.(http.Flusher).Flush()
		time.Sleep(time.Second)
	}
}

// TestSlowBody reads 10 MiB for ten seconds, under timeouts of every kind.
//
// Spec: W4
func TestSlowBody(t *testing.T) {
	for _, test := range []struct {
		name string
		p    mettle.Policy
		cut  time.Duration // zero: the body is read whole
	}{
		{"attempt", mettle.Compose(resend(2), after(50*time.Millisecond)), 0},
		{"attempt in two retries", mettle.Compose(resend(2), after(50*time.Millisecond), resend(2), after(20*time.Millisecond)), 0},
		{"total is longer", mettle.Compose(after(time.Minute), resend(2), after(50*time.Millisecond)), 0},
		{"total", mettle.Compose(after(2500*time.Millisecond), resend(2), after(50*time.Millisecond)), 2500 * time.Millisecond},
		{"total in total", mettle.Compose(after(time.Minute), after(2500*time.Millisecond), resend(2)), 2500 * time.Millisecond},
		{"alone", after(2500 * time.Millisecond), 2500 * time.Millisecond},
		{"standard", nil, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			base, stop := servePipe(drip)
			defer stop()
			tr := mettlehttp.NewTransport(base, test.p)
			start := time.Now()
			resp, err := tr.RoundTrip(request(t, "GET", "http://host/", nil))
			one(t, resp, err)
			n, err := io.Copy(io.Discard, resp.Body)
			took := time.Since(start)
			if test.cut == 0 {
				if n != 10<<20 || err != nil {
					t.Errorf("%s: read %d bytes, %v", test.name, n, err)
				}
			} else {
				var timer interface{ Timeout() bool }
				if took != test.cut || !errors.As(err, &timer) || !timer.Timeout() ||
					!errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, timeout.ErrExceeded) {
					t.Errorf("%s: after %v read %d bytes, %v", test.name, took, n, err)
				}
				if _, again := resp.Body.Read(make([]byte, 1)); !errors.Is(again, timeout.ErrExceeded) {
					t.Errorf("%s: a further read: %v", test.name, again)
				}
			}
			resp.Body.Close()
			synctest.Wait()
		})
	}
}

// TestSlowBodyInAnotherRetry reads the body in an attempt of the caller's own retry, in
// which that of the pipeline passes through. The attempt timeout inside it once took
// itself for the one of the whole call and cut the body.
//
// Spec: W4, R18
func TestSlowBodyInAnotherRetry(t *testing.T) {
	for _, test := range []struct {
		name string
		p    mettle.Policy
		cut  bool
	}{
		{"attempt", mettle.Compose(after(time.Minute), resend(2), after(50*time.Millisecond)), false},
		{"total", mettle.Compose(after(2500*time.Millisecond), resend(2), after(50*time.Millisecond)), true},
		{"standard", nil, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			base, stop := servePipe(drip)
			defer stop()
			tr := mettlehttp.NewTransport(base, test.p)
			attempts := 0
			err := resend(2).Do(t.Context(), func(ctx context.Context) error {
				attempts++
				resp, err := tr.RoundTrip(request(t, "GET", "http://host/", nil).WithContext(ctx))
				one(t, resp, err)
				defer resp.Body.Close()
				_, err = io.Copy(io.Discard, resp.Body)
				return err
			})
			synctest.Wait()
			switch {
			case test.cut && (attempts != 2 || !errors.Is(err, timeout.ErrExceeded)):
				t.Errorf("%s: %d attempts, %v, want the total timeout to cut two", test.name, attempts, err)
			case !test.cut && (attempts != 1 || err != nil):
				t.Errorf("%s: %d attempts, %v, want one that reads it all", test.name, attempts, err)
			}
		})
	}
}

// TestCallersDeadlineInBody leaves it to the caller's own deadline to cut the body.
//
// Spec: W4, W14
func TestCallersDeadlineInBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, stop := servePipe(drip)
		defer stop()
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		start := time.Now()
		resp, err := mettlehttp.NewTransport(base, nil).RoundTrip(request(t, "GET", "http://host/", nil).WithContext(ctx))
		one(t, resp, err)
		_, err = io.Copy(io.Discard, resp.Body)
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, timeout.ErrExceeded) || time.Since(start) != 1500*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		resp.Body.Close()
	})
}

// TestAttemptTimeout hangs before the headers once.
//
// Spec: W4
func TestAttemptTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		base, stop := servePipe(func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) == 1 {
				<-r.Context().Done()
			}
		})
		defer stop()
		start := time.Now()
		resp, err := mettlehttp.NewTransport(base, mettle.Compose(resend(2), after(time.Second))).
			RoundTrip(request(t, "GET", "http://host/", nil))
		if one(t, resp, err).Body.Close(); time.Since(start) != time.Second {
			t.Errorf("took %v", time.Since(start))
		}
		n.Store(0)
		resp, err = mettlehttp.NewTransport(base, mettle.Compose(after(time.Second))).
			RoundTrip(request(t, "GET", "http://host/", nil))
		if !errors.Is(failed(t, resp, err), timeout.ErrExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// TestAnswerAtTheDeadline has a base that answers when its context has just ended, and
// whose body is of no use then.
//
// Spec: W4, W16
func TestAnswerAtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, code := range []int{200, 503} {
			b := newBody("late")
			base := baseFunc(func(req *http.Request) (*http.Response, error) {
				<-req.Context().Done()
				return answer(req, code, b), nil
			})
			resp, err := mettlehttp.NewTransport(base, after(time.Second)).RoundTrip(request(t, "GET", "http://host/", nil))
			if !errors.Is(failed(t, resp, err), timeout.ErrExceeded) || b.closed.Load() != 1 {
				t.Errorf("got %v, body closed %d times", err, b.closed.Load())
			}
		}
	})
}

// TestConnectionsReused answers with a 503 and a 200 in turn. Over a socket a machine that
// is busy for 50 ms would make net/http itself give up a connection now and then.
//
// Spec: W5
func TestConnectionsReused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		page := strings.Repeat("unavailable ", 2000)
		var requests, dials int
		base, stop := servePipe(func(w http.ResponseWriter, r *http.Request) {
			if requests++; requests%2 == 1 {
				w.WriteHeader(503)
			}
			io.WriteString(w, page)
		})
		defer stop()
		base.MaxConnsPerHost = 1
		dial := base.DialContext
		base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials++
			return dial(ctx, network, addr)
		}
		tr := mettlehttp.NewTransport(base, resend(2))
		for range 1000 {
			resp, err := tr.RoundTrip(request(t, "GET", "http://host/", nil))
			if one(t, resp, err); resp.StatusCode != 200 || readAll(t, resp) != page {
				t.Fatalf("got %d", resp.StatusCode)
			}
		}
		if dials != 1 || requests != 2000 {
			t.Errorf("%d connections for %d requests, want 1 for 2000", dials, requests)
		}
	})
}

// TestSilentAnswerDiscarded answers first with a 503 whose body never comes, on the only
// connection there may be.
//
// Spec: W5
func TestSilentAnswerDiscarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		base, stop := servePipe(func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) == 1 {
				w.WriteHeader(503)
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			}
		})
		defer stop()
		base.MaxConnsPerHost = 1
		start := time.Now()
		resp, err := mettlehttp.NewTransport(base, resend(2)).RoundTrip(request(t, "GET", "http://host/", nil))
		if one(t, resp, err).Body.Close(); resp.StatusCode != 200 || time.Since(start) > 250*time.Millisecond {
			t.Errorf("got %d after %v", resp.StatusCode, time.Since(start))
		}
	})

	// Nor is the timeout of the call exceeded by it.
	synctest.Test(t, func(t *testing.T) {
		base, stop := servePipe(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(503)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		})
		defer stop()
		start := time.Now()
		p := mettle.Compose(after(20*time.Millisecond), resend(2))
		resp, err := mettlehttp.NewTransport(base, p).RoundTrip(request(t, "GET", "http://host/", nil))
		if !errors.Is(failed(t, resp, err), timeout.ErrExceeded) || time.Since(start) != 20*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})

	// A base that is deaf to its context is left behind by closing the body.
	synctest.Test(t, func(t *testing.T) {
		n := 0
		base := baseFunc(func(req *http.Request) (*http.Response, error) {
			if n++; n == 1 {
				r, _ := io.Pipe()
				return answer(req, 503, r), nil
			}
			return answer(req, 200, newBody("")), nil
		})
		start := time.Now()
		resp, err := mettlehttp.NewTransport(base, resend(2)).RoundTrip(request(t, "GET", "http://host/", nil))
		if one(t, resp, err).Body.Close(); resp.StatusCode != 200 || time.Since(start) > 500*time.Millisecond {
			t.Errorf("got %d after %v", resp.StatusCode, time.Since(start))
		}
	})
}

// TestCancel ends a call by every means there is, while it waits between attempts, while
// an attempt is under way, and before it begins.
//
// Spec: W14
func TestCancel(t *testing.T) {
	var held *body
	waiting := baseFunc(func(req *http.Request) (*http.Response, error) {
		held = newBody("text")
		return answer(req, 503, held), nil
	})
	hanging := func(req *http.Request) (*http.Response, error) {
		select {
		case <-req.Context().Done():
			return nil, context.Cause(req.Context())
		case <-req.Cancel:
			return nil, errors.New("net/http: request canceled")
		}
	}
	long := retry.New(retry.Config{Backoff: retry.Constant(time.Hour), MaxRetryAfter: time.Hour, Budget: retry.NoBudget})
	for name, base := range map[string]http.RoundTripper{"waiting": waiting, "under way": baseFunc(hanging)} {
		for _, how := range []string{"ctx", "cause", "deadline", "Cancel", "Timeout", "before"} {
			synctest.Test(t, func(t *testing.T) {
				var class mettle.Outcome
				watch := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
					err := op(ctx)
					class = mettle.Classify(ctx, err)
					return err
				})
				client := &http.Client{Transport: mettlehttp.NewTransport(base, mettle.Compose(watch, long))}
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				req := request(t, "GET", "http://host/", nil).WithContext(ctx)
				want, class2, at := context.Canceled, mettle.Ignored, time.Second
				stop := make(chan struct{})
				req.Cancel = nil
				switch how {
				case "ctx":
					time.AfterFunc(time.Second, func() { cancel(nil) })
				case "cause":
					want = errors.New("shutting down")
					time.AfterFunc(time.Second, func() { cancel(want) })
				case "deadline":
					var end context.CancelFunc
					ctx, end = context.WithTimeout(ctx, time.Second)
					defer end()
					req = req.WithContext(ctx)
					want, class2 = context.DeadlineExceeded, mettle.Timeout
				case "Cancel":
					req.Cancel = stop
					time.AfterFunc(time.Second, func() { close(stop) })
				case "before":
					req.Cancel, at = stop, 0
					close(stop)
				case "Timeout":
					client.Timeout = time.Second
					want, class2 = context.DeadlineExceeded, mettle.Timeout
				}
				start := time.Now()
				resp, err := client.Do(req)
				if name == "waiting" && class2 == mettle.Timeout {
					// No wait is begun that the deadline would cut short: the answer comes back.
					if one(t, resp, err).Body.Close(); resp.StatusCode != 503 || time.Since(start) != 0 {
						t.Errorf("%s, %s: got %d after %v", name, how, resp.StatusCode, time.Since(start))
					}
					return
				}
				failed(t, resp, err)
				if name == "waiting" && how != "before" && held.closed.Load() != 1 {
					t.Errorf("%s: the answer held is closed %d times", how, held.closed.Load())
				}
				if !errors.Is(err, want) || time.Since(start) != at {
					t.Errorf("%s, %s: after %v: %v", name, how, time.Since(start), err)
				}
				if how != "before" && name == "under way" && class != class2 {
					t.Errorf("%s, %s: class %v, want %v", name, how, class, class2)
				}
			})
		}
	}
}

// TestWaitThatDoesNotFit gives up at once, with the last answer, when the wait would
// outlast the deadline, or the server asks for more than the cap.
//
// Spec: W1, W11
func TestWaitThatDoesNotFit(t *testing.T) {
	for _, value := range []string{"40", "99999999999999999999", "20000000000", "Sun, 06 Nov 2094 08:49:37 GMT"} {
		synctest.Test(t, func(t *testing.T) {
			attempts := 0
			base := baseFunc(func(req *http.Request) (*http.Response, error) {
				attempts++
				resp := answer(req, 503, newBody("come back later"))
				resp.Header.Set("Retry-After", value)
				return resp, nil
			})
			start := time.Now()
			resp, err := mettlehttp.NewTransport(base, nil).RoundTrip(request(t, "GET", "http://host/", nil))
			one(t, resp, err)
			if got := readAll(t, resp); got != "come back later" || attempts != 1 || time.Since(start) != 0 {
				t.Errorf("%q after %d attempts in %v", got, attempts, time.Since(start))
			}
		})
	}
}

// TestRetryAfter waits as long as the server asks for, in all forms.
//
// Spec: W11
func TestRetryAfter(t *testing.T) {
	const own = 7 * time.Millisecond
	for _, test := range []struct {
		value string
		want  time.Duration // zero: as if there were none
	}{
		{"3", 3 * time.Second}, {" 3 ", 3 * time.Second}, {"0", 0}, {"003", 3 * time.Second},
		{"", 0}, {"-3", 0}, {"+3", 0}, {"3.5", 0}, {"1e1", 0}, {"soon", 0}, {"0x3", 0}, {"1_0", 0},
		{"Sat, 01 Jan 2000 00:00:05 GMT", 5 * time.Second},
		{"Saturday, 01-Jan-00 00:00:05 GMT", 5 * time.Second},
		{"Sat Jan  1 00:00:05 2000", 5 * time.Second},
		{"Fri, 31 Dec 1999 23:59:59 GMT", 0},
		{"Sat, 01 Jan 2000 00:00:00 GMT", 0},
		{"Sat, 01 Jan 2000 00:00:05 CET", 0},
	} {
		for _, code := range []int{429, 503, 500} {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				base := baseFunc(func(req *http.Request) (*http.Response, error) {
					if n++; n > 1 {
						return answer(req, 200, http.NoBody), nil
					}
					resp := answer(req, code, newBody(""))
					resp.Header["Retry-After"] = []string{test.value}
					return resp, nil
				})
				start := time.Now()
				p := retry.New(retry.Config{Backoff: retry.Constant(own)})
				resp, err := mettlehttp.NewTransport(base, p).RoundTrip(request(t, "GET", "http://host/", nil))
				one(t, resp, err)
				want, most := max(test.want, own), max(test.want+test.want/10, own)
				if code == 500 {
					want, most = own, own
				}
				if took := time.Since(start); took < want || took > most {
					t.Errorf("%q on %d: waited %v, want %v", test.value, code, took, want)
				}
			})
		}
	}
}

// TestBreakerOpensBetweenAttempts returns the answer that opened it.
//
// Spec: W1, W17
func TestBreakerOpensBetweenAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		base := baseFunc(func(req *http.Request) (*http.Response, error) {
			attempts++
			return answer(req, 503, newBody(fmt.Sprint(attempts))), nil
		})
		p := mettle.Compose(resend(5), breaker.New(breaker.Config{Consecutive: 2}))
		tr := mettlehttp.NewTransport(base, p)
		resp, err := tr.RoundTrip(request(t, "GET", "http://host/", nil))
		if one(t, resp, err); resp.StatusCode != 503 || readAll(t, resp) != "2" || attempts != 2 {
			t.Errorf("got %d after %d attempts", resp.StatusCode, attempts)
		}
		sent := newBody("text")
		resp, err = tr.RoundTrip(request(t, "PUT", "http://host/", sent))
		if !errors.Is(failed(t, resp, err), breaker.ErrOpen) || sent.closed.Load() != 1 || attempts != 2 {
			t.Errorf("got %v, body closed %d times", err, sent.closed.Load())
		}
		if d, ok := mettle.RetryAfter(err); !ok || d <= 0 {
			t.Errorf("RetryAfter is %v, %v", d, ok)
		}
	})
}

// TestHedge runs attempts side by side.
//
// Spec: W16, W8
func TestHedge(t *testing.T) {
	// hedged runs op n times at once, returns the first success, and waits for the rest.
	hedged := func(n int) mettle.Policy {
		return mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			results := make(chan error, n)
			for i := range n {
				go func() {
					time.Sleep(time.Duration(i) * time.Nanosecond)
					results <- op(mettle.WithAttempt(ctx, 1))
				}()
			}
			var errs []error
			won := false
			for range n {
				if err := <-results; err != nil {
					errs = append(errs, err)
				} else {
					won = true
					cancel()
				}
			}
			if won {
				return nil
			}
			return errors.Join(errs...)
		})
	}
	for _, test := range []struct {
		name, method string
		codes        []int // by order of arrival; 0: broken. The nth answers after n seconds.
		deaf         bool
		want         int
	}{
		{"first wins", "PUT", []int{200, 200, 200}, false, 1},
		{"first wins, late answers", "PUT", []int{200, 200, 200}, true, 1},
		{"second wins", "PUT", []int{503, 200, 200}, true, 2},
		{"last wins", "PUT", []int{503, 0, 200}, false, 3},
		{"all fail", "PUT", []int{503, 503, 503}, false, 3},
		{"no answer last", "PUT", []int{503, 503, 0}, false, 2},
		{"not idempotent", "POST", []int{200, 0, 0}, false, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			var mu atomic.Int32
			answers := make([]*body, len(test.codes))
			got := make([]string, len(test.codes))
			base := baseFunc(func(req *http.Request) (*http.Response, error) {
				n := int(mu.Add(1))
				data, _ := io.ReadAll(req.Body)
				req.Body.Close()
				got[n-1] = string(data)
				select {
				case <-time.After(time.Duration(n) * time.Second):
				case <-req.Context().Done():
					if !test.deaf {
						return nil, req.Context().Err()
					}
					time.Sleep(time.Duration(n) * time.Second)
				}
				if test.codes[n-1] == 0 {
					return nil, io.ErrUnexpectedEOF
				}
				answers[n-1] = newBody(fmt.Sprint(n))
				return answer(req, test.codes[n-1], answers[n-1]), nil
			})
			tr := mettlehttp.NewTransport(base, hedged(3))
			resp, err := tr.RoundTrip(request(t, test.method, "http://host/", strings.NewReader("payload")))
			one(t, resp, err)
			if resp.StatusCode != test.codes[test.want-1] || readAll(t, resp) != fmt.Sprint(test.want) {
				t.Errorf("%s: got %d, want that of attempt %d", test.name, resp.StatusCode, test.want)
			}
			for i, b := range answers {
				if b != nil && b.closed.Load() != 1 {
					t.Errorf("%s: answer %d closed %d times", test.name, i+1, b.closed.Load())
				}
			}
			for i := range int(mu.Load()) {
				if got[i] != "payload" {
					t.Errorf("%s: attempt %d sent %q", test.name, i+1, got[i])
				}
			}
			if test.method == "POST" && mu.Load() != 1 {
				t.Errorf("%s: sent %d times", test.name, mu.Load())
			}
		})
	}
}

// TestContextOfAttempt uses the context that a base gets as any other.
//
// Spec: W4
func TestContextOfAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("why")
		parent, cancel := context.WithCancelCause(t.Context())
		var ctx context.Context
		base := baseFunc(func(req *http.Request) (*http.Response, error) {
			ctx = req.Context()
			return answer(req, 200, newBody("")), nil
		})
		p := mettle.Compose(after(time.Minute), resend(1), after(time.Second))
		resp, err := mettlehttp.NewTransport(base, p).RoundTrip(request(t, "GET", "http://host/", nil).WithContext(parent))
		defer one(t, resp, err).Body.Close()
		if d, ok := ctx.Deadline(); !ok || time.Until(d) != time.Minute {
			t.Errorf("deadline in %v, want the total one", time.Until(d))
		}
		child, stop := context.WithCancel(context.WithValue(ctx, t, 1))
		defer stop()
		time.Sleep(2 * time.Second) // past the attempt's timeout
		if ctx.Err() != nil || child.Err() != nil {
			t.Errorf("ended with the attempt's timeout: %v", context.Cause(ctx))
		}
		cancel(why)
		if child.Err() != context.Canceled || context.Cause(child) != why || context.Cause(ctx) != why {
			t.Errorf("child %v because %v; %v", child.Err(), context.Cause(child), context.Cause(ctx))
		}
	})
}
