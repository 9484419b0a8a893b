package mettlehttp

import (
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mettle-go/mettle"
)

// StatusError is what a policy is told when a server answered with a status that counts
// as a failure, by default 408, 425, 429 and 5xx but 501 and 505. It is for classifiers, hooks and
// conditions such as retry's RetryIf; the caller of [Transport.RoundTrip] gets the
// response itself.
//
// A StatusError has the [mettle.Outcome] of its status, the suggestion of a Retry-After
// header on 429 and 503, and is permanent when the request may not be resent.
type StatusError struct {
	Code int

	host       string
	outcome    mettle.Outcome
	retryAfter time.Duration // negative: none
	permanent  bool
	onceOnly   string // why a retry was not tried where another request's would be; empty: nothing to say
}

// Error names the status, the host, and what about the request kept it from being sent
// again if its method or body did; nothing else that the request or the response carries.
func (e *StatusError) Error() string {
	text := "mettlehttp: " + strconv.Itoa(e.Code)
	if t := http.StatusText(e.Code); t != "" {
		text += " " + t
	}
	return text + " from " + e.host + notResent(e.onceOnly)
}

// Outcome returns the class of the status: Overload for 429 and 503, Timeout for 408 and
// 504, else Failure; or what [Classify] made of it.
func (e *StatusError) Outcome() mettle.Outcome { return e.outcome }

// RetryAfter returns how long the server asked to wait, negative when it did not.
func (e *StatusError) RetryAfter() time.Duration { return e.retryAfter }

// Permanent reports whether the request must not be sent again.
func (e *StatusError) Permanent() bool { return e.permanent }

// statusOutcome is the table of [mettle.Classify] for answers over HTTP. An answer about
// the request itself is a success of the server, which answered.
func statusOutcome(code int) mettle.Outcome {
	switch code {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return mettle.Overload
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return mettle.Timeout
	case http.StatusTooEarly:
		return mettle.Failure
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return mettle.Success
	}
	if code >= 500 && code <= 599 {
		return mettle.Failure
	}
	return mettle.Success
}

// resent reports whether the answer is one after which a request is sent again.
func resent(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		// An event stream is for its reader, who knows the last event seen.
		media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
		return media != "text/event-stream"
	}
	return false
}

// retryAfter returns what the Retry-After header of a 429 or 503 asks for, negative when
// there is nothing that could be followed: RFC 9110 section 10.2.3, seconds or a date.
func retryAfter(resp *http.Response, now time.Time) time.Duration {
	const none = -1
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return none
	}
	value := strings.TrimSpace(resp.Header.Get("Retry-After"))
	if value != "" && strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > math.MaxInt64/int64(time.Second) {
			return math.MaxInt64 // above every cap
		}
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return none
	}
	// By the server's own clock, if it tells: ours may be minutes off.
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		now = date
	}
	if d := at.Sub(now); d > 0 {
		return d
	}
	return none
}
