package mettlehttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// The first request hangs, the second is answered with a body that outlasts the hedge and
// the timeout of an attempt; the server sees the first one go.
//
// Spec: W16, W4, H2 (part)
func TestHedgeOverSockets(t *testing.T) {
	const size = 4 << 20
	var requests atomic.Int32
	gone := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if data, _ := io.ReadAll(r.Body); string(data) != "payload" {
			t.Errorf("a request has the body %q", data)
		}
		if requests.Add(1) == 1 {
			<-r.Context().Done()
			close(gone)
			return
		}
		for range size >> 16 {
			_, _ = w.Write(make([]byte, 1<<16))
		}
	}))
	defer server.Close()
	b := breaker.New(breaker.Config{Consecutive: 1})
	client := &http.Client{Transport: mettlehttp.NewTransport(server.Client().Transport, mettle.Compose(
		hedge.New(hedge.Config{After: 20 * time.Millisecond}), b, bulkhead.New(bulkhead.Config{}),
		timeout.New(timeout.Config{After: time.Minute}),
	))}
	resp, err := client.Do(request(t, "PUT", server.URL, strings.NewReader("payload")))
	if err != nil {
		t.Fatal(err)
	}
	<-gone
	if got := len(readAll(t, resp)); got != size || requests.Load() != 2 {
		t.Errorf("%d bytes of %d, %d requests", got, size, requests.Load())
	}
	if s := b.Stats(); s.State != breaker.Closed || s.Ignored != 1 {
		t.Errorf("the breaker is %v and ignored %d calls, want the loser", s.State, s.Ignored)
	}
}

// A base that is deaf to its context answers the loser late, and that body is closed.
//
// Spec: W16, H1, H2
func TestHedgeLeavesNoBody(t *testing.T) {
	for _, test := range []struct {
		name, method string
		codes        []int           // by attempt; 0: broken
		takes        []time.Duration // the delay is a second
		deaf         bool
		want         int // the attempt whose answer comes back
		sent         int
	}{
		{"answered in time", "PUT", []int{200}, []time.Duration{1}, false, 1, 1},
		{"an answer of another kind", "PUT", []int{404}, []time.Duration{1}, false, 1, 1},
		{"the hedge wins", "PUT", []int{200, 200}, []time.Duration{9e9, 1e9}, false, 2, 2},
		{"the hedge wins, the other is late", "PUT", []int{200, 200}, []time.Duration{9e9, 1e9}, true, 2, 2},
		{"the hedge is late", "PUT", []int{200, 200}, []time.Duration{2e9, 9e9}, true, 1, 2},
		{"a failure beats nobody", "PUT", []int{200, 500}, []time.Duration{9e9, 1e9}, false, 1, 2},
		{"a failure is followed at once", "PUT", []int{500, 200}, []time.Duration{1, 1}, false, 2, 2},
		{"an overload is not", "PUT", []int{503}, []time.Duration{1}, false, 1, 1},
		{"all fail", "PUT", []int{500, 502}, []time.Duration{3e9, 1e9}, false, 1, 2}, // the last to end
		{"no answer last", "PUT", []int{0, 502}, []time.Duration{3e9, 1e9}, false, 2, 2},
		{"may go out once only", "POST", []int{200}, []time.Duration{9e9}, false, 1, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			var sent atomic.Int32
			answers := make([]*body, len(test.codes))
			base := baseFunc(func(req *http.Request) (*http.Response, error) {
				n := int(sent.Add(1))
				if data, _ := io.ReadAll(req.Body); string(data) != "payload" {
					t.Errorf("%s: attempt %d sends %q", test.name, n, data)
				}
				req.Body.Close()
				if test.deaf {
					time.Sleep(test.takes[n-1])
				}
				select {
				case <-time.After(test.takes[n-1]):
				case <-req.Context().Done():
					if !test.deaf {
						return nil, req.Context().Err()
					}
				}
				if test.codes[n-1] == 0 {
					return nil, io.ErrUnexpectedEOF
				}
				answers[n-1] = newBody(fmt.Sprint(n))
				return answer(req, test.codes[n-1], answers[n-1]), nil
			})
			budget := retry.NewBudget(retry.BudgetConfig{MinPerSecond: -1, Start: 10})
			h := hedge.New(hedge.Config{After: time.Second, Budget: budget})
			tr := mettlehttp.NewTransport(base, h)
			resp, err := tr.RoundTrip(request(t, test.method, "http://host/", strings.NewReader("payload")))
			one(t, resp, err)
			if got := readAll(t, resp); resp.StatusCode != test.codes[test.want-1] || got != fmt.Sprint(test.want) {
				t.Errorf("%s: got %d from attempt %s, want that of %d", test.name, resp.StatusCode, got, test.want)
			}
			resp.Body.Close()
			if int(sent.Load()) != test.sent {
				t.Errorf("%s: sent %d times, want %d", test.name, sent.Load(), test.sent)
			}
			for i, b := range answers {
				if b != nil && b.closed.Load() != 1 {
					t.Errorf("%s: answer %d closed %d times", test.name, i+1, b.closed.Load())
				}
			}
			if test.sent == 1 && budget.Balance() != 10 {
				t.Errorf("%s: the budget is at %v, though nothing was sent again", test.name, budget.Balance())
			}
		})
	}
}

// A timeout outside the hedge bounds the body too, one inside ends at the headers. That
// there is a context in between which ends by itself, as that of a hedge does, once let the
// body go unbounded.
//
// Spec: W4
func TestTotalTimeoutAroundAContextThatEnds(t *testing.T) {
	for name, test := range map[string]struct {
		compose func(limit, hedge mettle.Policy) mettle.Policy
		total   bool
	}{
		"outside a hedge": {func(limit, h mettle.Policy) mettle.Policy { return mettle.Compose(limit, h) }, true},
		"inside a hedge":  {func(limit, h mettle.Policy) mettle.Policy { return mettle.Compose(h, limit) }, false},
		"outside a hedge and a retry": {func(limit, h mettle.Policy) mettle.Policy {
			return mettle.Compose(limit, retry.New(retry.Config{}), h)
		}, true},
		"outside a policy of the caller's": {func(limit, _ mettle.Policy) mettle.Policy {
			return mettle.Compose(limit, mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
				ctx, cancel := context.WithCancel(ctx)
				defer cancel()
				return op(ctx)
			}))
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := baseFunc(func(req *http.Request) (*http.Response, error) {
					r, w := io.Pipe()
					go func() {
						_, _ = io.WriteString(w, "some ")
						select {
						case <-time.After(3 * time.Second):
							_, _ = io.WriteString(w, "more")
							w.Close()
						case <-req.Context().Done():
							w.CloseWithError(req.Context().Err())
						}
					}()
					return &http.Response{StatusCode: 200, Header: http.Header{}, Body: r, Request: req}, nil
				})
				p := test.compose(timeout.New(timeout.Config{After: time.Second}), hedge.New(hedge.Config{After: time.Minute}))
				resp, err := mettlehttp.NewTransport(base, p).RoundTrip(request(t, "GET", "http://host/", nil))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				data, err := io.ReadAll(resp.Body)
				var timed interface{ Timeout() bool }
				if late := errors.As(err, &timed) && timed.Timeout(); late != test.total || !test.total && string(data) != "some more" {
					t.Errorf("read %q, %v", data, err)
				}
			})
		})
	}
}

// The caller who gives up ends all requests, and what he is told is his own cause.
//
// Spec: W14, W16
func TestHedgeCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		enough := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		var running atomic.Int32
		base := baseFunc(func(req *http.Request) (*http.Response, error) {
			if running.Add(1) == 2 {
				time.AfterFunc(time.Second, func() { cancel(enough) })
			}
			<-req.Context().Done()
			running.Add(-1)
			return nil, req.Context().Err()
		})
		tr := mettlehttp.NewTransport(base, hedge.New(hedge.Config{After: time.Second}))
		resp, err := tr.RoundTrip(request(t, "GET", "http://host/", nil).WithContext(ctx))
		if resp != nil || !errors.Is(err, enough) || running.Load() != 0 {
			t.Errorf("%v, %v; %d requests are left", resp, err, running.Load())
		}
	})
}
