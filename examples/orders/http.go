package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/examples/orders/internal/payments"
	"github.com/mettle-go/mettle/examples/orders/internal/store"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
	"github.com/mettle-go/mettle/middleware/mettleotel"
)

// httpPayer is a client over HTTP.
type httpPayer struct {
	url    string // of POST and GET /payments
	client *http.Client
}

// newHTTP returns a client of the service at baseURL that wears p; nil is the standard
// pipeline. Each request that it sends is a span.
func newHTTP(baseURL string, tracer trace.Tracer, p mettle.Policy) *httpPayer {
	return &httpPayer{
		url: strings.TrimSuffix(baseURL, "/") + "/payments",
		client: &http.Client{
			Transport: mettlehttp.NewTransport(mettleotel.NewTransport(nil, tracer, propagation.TraceContext{}), p),
			// A payment is never sent on to somewhere else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

func (h *httpPayer) close() {} // net/http keeps its connections for whoever comes next

// maxAnswer bounds what is read of an answer.
const maxAnswer = 4 << 10

func (h *httpPayer) pay(ctx context.Context, o store.Order) (again bool, err error) {
	body, err := json.Marshal(payments.Payment{Order: o.ID, Customer: o.Customer, Cents: o.Cents, Currency: o.Currency})
	if err != nil {
		return false, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", o.Key())
	resp, err := h.client.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // to the end, so that the connection is used again
	if resp.StatusCode/100 == 2 {
		return resp.Header.Get("Idempotent-Replayed") == "true", nil
	}
	no := httpAnswer(resp.StatusCode)
	if n, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 31); err == nil {
		no.after = time.Duration(n) * time.Second
	}
	var said struct{ Error string }
	if json.Unmarshal(answer, &said) == nil {
		no.text = said.Error
	}
	return false, no
}

// charged asks GET /payments/KEY, which answers 2xx if the order was charged and 404 if
// not. Anything else is no answer.
func (h *httpPayer) charged(ctx context.Context, o store.Order) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+"/"+url.PathEscape(o.Key()), nil)
	if err != nil {
		return false, err
	}
	resp, err := h.client.Do(req)
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
		return false, httpAnswer(resp.StatusCode)
	}
}

// charges reads GET /payments, as JSON Lines.
func (h *httpPayer) charges(fn func(payments.Charge) error) error {
	resp, err := h.client.Get(h.url)
	if err != nil {
		return errors.New(why(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return httpAnswer(resp.StatusCode)
	}
	dec := json.NewDecoder(bufio.NewReader(resp.Body))
	for {
		var c payments.Charge
		switch err := dec.Decode(&c); {
		case err == io.EOF:
			return nil
		case err != nil:
			return errors.New("GET /payments did not answer with the list of charges as JSON Lines")
		}
		if err := fn(c); err != nil {
			return err
		}
	}
}

// httpAnswer returns what a status means, other than 2xx.
func httpAnswer(code int) *answerError {
	e := &answerError{status: strconv.Itoa(code), text: http.StatusText(code)}
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusConflict:
		// A 409 may only mean that an earlier attempt under the same key is still under way.
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		e.about = theService
	default:
		if code/100 == 4 {
			e.about = theOrder
		}
	}
	return e
}
