package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/examples/orders/internal/payments"
	"github.com/mettle-go/mettle/examples/orders/internal/store"
	"github.com/mettle-go/mettle/fallback"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// pipeline is how an order gets paid, directly or from the queue.
type pipeline struct {
	url     string
	orQueue *fallback.Fallback // around direct
	breaker *breaker.Breaker   // in both, so that either learns from the other
	direct  *http.Client
	replays *http.Client
	asks    *http.Client // for charged: past the breaker, which the order in question may keep open
	resend  *retry.Retrier
	attempt *timeout.Timeout
}

// newPipeline puts it together. A direct payment goes from the top to the bottom, a
// replay enters at the breaker: the queue is its retry, with a backoff of its own.
//
//	fallback         an order that cannot be paid now goes into the queue
//	total timeout    bounds all that follows, waits and resends included
//	retry            resends what may pass, within a budget
//	breaker          refuses while the service is down
//	bulkhead         bounds the calls in flight
//	attempt timeout  bounds one call
//
// The times are those of a demonstration that must be over in seconds. For a real
// service, begin with the defaults and change what you have measured.
func newPipeline(baseURL string, seed uint64, toQueue func(store.Order, error) error, onChange func(breaker.Change)) *pipeline {
	dice := &lockedSource{src: rand.NewPCG(seed, 1)}

	orQueue := fallback.New(fallback.Config{
		Name: "to-queue",
		Run: func(ctx context.Context, err error) error {
			return toQueue(ctx.Value(orderKey{}).(store.Order), err)
		},
	})
	total := timeout.New(timeout.Config{Name: "total", After: 1200 * time.Millisecond})
	resend := retry.New(retry.Config{
		Name:        "payments",
		MaxAttempts: 3,
		Backoff:     retry.Jitter{Rand: dice}.Full(50*time.Millisecond, 400*time.Millisecond),
		Budget:      retry.NewBudget(retry.BudgetConfig{Name: "payments", Ratio: 0.1, Burst: 10}),
		Rand:        dice,
	})
	guard := breaker.New(breaker.Config{
		Name:        "payments",
		Window:      2 * time.Second,
		FailureRate: 0.5,
		MinCalls:    20,
		Consecutive: 5,
		OpenFor:     300 * time.Millisecond,
		MaxOpenFor:  time.Second,
		OnChange:    onChange,
	})
	slots := bulkhead.New(bulkhead.Config{Name: "payments", Limit: 16, MaxWait: 50 * time.Millisecond})
	attempt := timeout.New(timeout.Config{Name: "attempt", After: 400 * time.Millisecond})

	direct := mettle.Compose(total, resend, guard, slots, attempt)
	replay := mettle.Compose(guard, slots, attempt)
	return &pipeline{
		url:     paymentsURL(baseURL),
		orQueue: orQueue,
		breaker: guard,
		direct:  newClient(direct),
		replays: newClient(replay),
		asks:    newClient(mettle.Compose(slots, attempt)),
		resend:  resend,
		attempt: attempt,
	}
}

// summary says what the policies have done in this run, a line for each kind of trouble.
// behind is how many orders never came to the fallback.
func (p *pipeline) summary(behind int) []string {
	resends, guard := p.resend.Stats(), p.breaker.Stats()
	return []string{
		fmt.Sprintf("the retry resent %s, which paid %s; its budget refused to resend %d more",
			plural(int(resends.Retries), "call"), plural(int(resends.Successes[1]+resends.Successes[2]), "order"), resends.Budget),
		fmt.Sprintf("the breaker refused %s; %s ran out of time",
			plural(int(guard.Rejected), "call"), plural(int(p.attempt.Stats().Exceeded), "attempt")),
		fmt.Sprintf("the fallback queued %s; %d more waited behind an earlier order of theirs",
			plural(int(p.orQueue.Stats().FellBack), "order"), behind),
	}
}

func paymentsURL(base string) string { return strings.TrimSuffix(base, "/") + "/payments" }

func newClient(p mettle.Policy) *http.Client {
	return &http.Client{
		Transport: mettlehttp.NewTransport(nil, p),
		// A payment is never sent on to somewhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

type orderKey struct{}

// pay pays an order directly, or puts it into the queue. When the error is nil, one of
// the two has happened, and paid tells which.
func (p *pipeline) pay(ctx context.Context, o store.Order) (paid bool, err error) {
	ctx = context.WithValue(ctx, orderKey{}, o)
	err = p.orQueue.Do(ctx, func(ctx context.Context) error {
		_, err := p.post(ctx, p.direct, o)
		paid = err == nil
		return err
	})
	return paid, err
}

// replay sends an order from the queue once. again means that the service had made
// the charge before, at an attempt whose answer never came.
func (p *pipeline) replay(ctx context.Context, o store.Order) (again bool, err error) {
	return p.post(ctx, p.replays, o)
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 4 << 10

func (p *pipeline) post(ctx context.Context, client *http.Client, o store.Order) (again bool, err error) {
	body, err := json.Marshal(payments.Payment{Order: o.ID, Customer: o.Customer, Cents: o.Cents, Currency: o.Currency})
	if err != nil {
		return false, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", o.Key())
	resp, err := client.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // to the end, so that the connection is used again
	if resp.StatusCode/100 == 2 {
		return resp.Header.Get("Idempotent-Replayed") == "true", nil
	}
	status := &statusError{code: resp.StatusCode}
	if n, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 31); err == nil {
		status.after = time.Duration(n) * time.Second
	}
	var said struct{ Error string }
	if json.Unmarshal(answer, &said) == nil {
		status.text = said.Error
	}
	return false, status
}

// charged asks the service whether an order was charged: GET /payments/KEY answers
// 2xx if so and 404 if not. Anything else is no answer.
func (p *pipeline) charged(ctx context.Context, o store.Order) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/"+url.PathEscape(o.Key()), nil)
	if err != nil {
		return false, err
	}
	resp, err := p.asks.Do(req)
	if err != nil {
		return false, err
	}
	resp.Body.Close()
	switch {
	case resp.StatusCode/100 == 2:
		return true, nil
	case resp.StatusCode == http.StatusNotFound:
		return false, nil
	default:
		return false, &statusError{code: resp.StatusCode}
	}
}

// statusError is an answer other than yes.
type statusError struct {
	code  int
	text  string        // what the service gave as its reason, if anything
	after time.Duration // how long to stay away, as it said; zero: it did not
}

func (e *statusError) RetryAfter() time.Duration { return e.after }

func (e *statusError) Error() string {
	if e.text != "" {
		return fmt.Sprintf("%d %.100s", e.code, printable(e.text))
	}
	return fmt.Sprintf("%d %s", e.code, http.StatusText(e.code))
}

// never reports that the request itself is wrong: the answer will be the same
// however often it is sent. A 409 may only mean that an earlier attempt under the
// same key is still under way.
func (e *statusError) never() bool {
	switch e.code {
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return e.code/100 == 4
}

// suspect reports that the order may be at fault, or the service: a bug that one
// order meets, with a 500, a cut connection or no answer, looks just like an outage,
// from here.
func suspect(err error) bool {
	var status *statusError
	switch {
	case !errors.As(err, &status):
		return !errors.Is(err, syscall.ECONNREFUSED)
	case status.code == http.StatusTooManyRequests || status.code == http.StatusServiceUnavailable:
		return false
	default:
		return !status.never()
	}
}

// why says in a few words what an error comes down to. It goes into the timeline and
// the store, so it holds nothing of the request but its outcome.
func why(err error) string {
	var status *statusError
	var netErr net.Error
	var urlErr *url.Error
	var resent *mettlehttp.StatusError
	switch {
	case errors.Is(err, breaker.ErrOpen):
		return "breaker open"
	case errors.Is(err, bulkhead.ErrFull):
		return "bulkhead full"
	case errors.As(err, &status):
		return status.Error()
	case errors.As(err, &resent): // what the policies see of an answer
		return (&statusError{code: resent.Code}).Error()
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.As(err, &netErr) && netErr.Timeout():
		return "no answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return "connection cut"
	case errors.As(err, &urlErr): // its own text has the URL, which may have a password
		return fmt.Sprintf("%.100s", urlErr.Err.Error())
	default:
		return fmt.Sprintf("%.100s", err.Error())
	}
}

// lockedSource makes a source of chance safe for the many goroutines that retry.
type lockedSource struct {
	mu  sync.Mutex
	src rand.Source
}

func (s *lockedSource) Uint64() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.src.Uint64()
}
