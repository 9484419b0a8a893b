package mettlehttp_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
	"github.com/mettle-go/mettle/retry"
)

func hedged(max int) mettle.Policy {
	return hedge.New(hedge.Config{After: time.Second, Max: max, Budget: retry.NoBudget})
}

// TestHedgeAnswers sends slow requests again by package hedge. The nth to arrive is
// answered after the nth delay, by a base that is deaf to its context.
//
// Spec: W1, W6, W8, W16
func TestHedgeAnswers(t *testing.T) {
	type reply struct {
		code  int // 0: the connection breaks
		after time.Duration
	}
	for _, test := range []struct {
		name, method string
		p            mettle.Policy
		replies      []reply
		want         int // the reply that is the result
		took         time.Duration
	}{
		{"quick", "PUT", hedged(2), []reply{{200, time.Second / 2}}, 1, time.Second / 2},
		{"second wins", "PUT", hedged(2), []reply{{200, 5 * time.Second}, {200, time.Second / 2}}, 2, 5 * time.Second},
		{"first wins late", "PUT", hedged(2), []reply{{200, 1500 * time.Millisecond}, {200, 3 * time.Second}}, 1, 4 * time.Second},
		{"a failure does not win", "PUT", hedged(1), []reply{{200, 3 * time.Second}, {500, time.Second}}, 1, 3 * time.Second},
		{"failure is hedged at once", "PUT", hedged(1), []reply{{500, time.Second / 4}, {200, time.Second / 4}}, 2, time.Second / 2},
		{"all fail, the last in time", "PUT", hedged(2), []reply{{502, 5 * time.Second}, {500, 3 * time.Second}, {504, time.Second}}, 1, 5 * time.Second},
		{"all fail", "PUT", hedged(1), []reply{{500, 2 * time.Second}, {502, 2 * time.Second}}, 2, 3 * time.Second},
		{"no answer last", "PUT", hedged(1), []reply{{500, 2 * time.Second}, {0, 2 * time.Second}}, 1, 3 * time.Second},
		{"answer about the request", "PUT", hedged(1), []reply{{404, 3 * time.Second}, {200, 4 * time.Second}}, 1, 5 * time.Second},
		{"not idempotent", "POST", hedged(2), []reply{{200, 5 * time.Second}}, 1, 5 * time.Second},
		{"not idempotent fails", "POST", hedged(2), []reply{{500, 5 * time.Second}}, 1, 5 * time.Second},
		{"in a retry", "PUT", mettle.Compose(resend(2), hedged(1)),
			[]reply{{500, 2 * time.Second}, {502, 2 * time.Second}, {200, time.Second / 2}}, 3, 3500 * time.Millisecond},
		{"around attempt timeouts", "PUT", mettle.Compose(hedged(1), after(1500*time.Millisecond)),
			[]reply{{200, 2 * time.Second}, {200, time.Second}}, 2, 2 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			var arrived, connections atomic.Int32
			answers := make([]*body, len(test.replies))
			base := baseFunc(func(req *http.Request) (*http.Response, error) {
				n := int(arrived.Add(1))
				connections.Add(1)
				defer connections.Add(-1)
				data, err := io.ReadAll(req.Body)
				req.Body.Close()
				if string(data) != "payload" || err != nil {
					t.Errorf("%s: request %d sent %q, %v", test.name, n, data, err)
				}
				if n > len(test.replies) {
					t.Errorf("%s: request %d", test.name, n)
					return nil, io.ErrUnexpectedEOF
				}
				r := test.replies[n-1]
				time.Sleep(r.after)
				if r.code == 0 {
					return nil, io.ErrUnexpectedEOF
				}
				answers[n-1] = newBody(fmt.Sprint("answer ", n))
				return answer(req, r.code, answers[n-1]), nil
			})
			start := time.Now()
			resp, err := mettlehttp.NewTransport(base, test.p).RoundTrip(request(t, test.method, "http://host/", strings.NewReader("payload")))
			one(t, resp, err)
			if took := time.Since(start); took != test.took || connections.Load() != 0 {
				t.Errorf("%s: took %v, want %v; %d requests are under way", test.name, took, test.took, connections.Load())
			}
			if got := readAll(t, resp); resp.StatusCode != test.replies[test.want-1].code || got != fmt.Sprint("answer ", test.want) {
				t.Errorf("%s: %d %q, want reply %d", test.name, resp.StatusCode, got, test.want)
			}
			for i, b := range answers {
				if b != nil && b.closed.Load() != 1 {
					t.Errorf("%s: answer %d closed %d times", test.name, i+1, b.closed.Load())
				}
			}
			if int(arrived.Load()) != len(test.replies) {
				t.Errorf("%s: %d requests, want %d", test.name, arrived.Load(), len(test.replies))
			}
		})
	}
}

// TestHedgeOnTheWire has a server whose first answer hangs, before its headers and in its
// body, and looks at what the loser leaves behind.
//
// Spec: W16, W4
func TestHedgeOnTheWire(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			var arrived atomic.Int32
			ended := make(chan error, 1)
			w := newWire(t, protocol, func(w http.ResponseWriter, r *http.Request) {
				data, _ := io.ReadAll(r.Body)
				if arrived.Add(1) == 1 {
					<-r.Context().Done()
					ended <- r.Context().Err()
					return
				}
				fmt.Fprintf(w, "%s %d", data, arrived.Load())
			})
			p := hedge.New(hedge.Config{After: 20 * time.Millisecond, Budget: retry.NoBudget})
			resp, err := mettlehttp.NewTransport(w.base, p).RoundTrip(request(t, "PUT", w.url, strings.NewReader("payload")))
			if got := readAll(t, one(t, resp, err)); got != "payload 2" {
				t.Errorf("got %q", got)
			}
			if err := <-ended; err != context.Canceled {
				t.Errorf("the loser ended with %v", err)
			}
		})
	}
}
