package mettlehttp

import (
	"context"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/mettle-go/mettle"
)

// The headers of [Propagate].
const (
	timeoutHeader = "Mettle-Timeout-Ms"
	attemptHeader = "Mettle-Attempt"
)

const (
	// maxTimeout is the longest time left that a header can tell, and maxDigits how many
	// digits that takes. Whoever has more time than that has no deadline to speak of.
	maxTimeout = math.MaxInt64 / time.Millisecond
	maxDigits  = len("9223372036854")
	// maxAttempt is more attempts than any policy makes.
	maxAttempt = 9999
)

// Propagate has two headers tell the server what the client knows about the call. A
// Transport with this option sends them and, being theirs, removes what the caller has
// set; a handler with it reads them. Neither is sent or read without.
//
//	Mettle-Timeout-Ms   milliseconds until the client stops reading the answer: the
//	                    deadline of the call, not of the attempt
//	Mettle-Attempt      the number of the attempt, for requests that the client may resend
//
// In a handler the first bounds the context of the policy and of next; a shorter bound
// of their own, such as a timeout's, stays. The second is [mettle.Attempt] there, so that
// the retries of next leave resending to the client, and retries in a chain of services
// do not multiply.
//
// A header that is anything but one short number is ignored. What a client can do with
// them is to have less done for its own request.
func Propagate() Option {
	return func(o *options) { o.propagate = true }
}

// propagate sets the headers of an attempt.
func (a *attempt) propagate(h http.Header) {
	h.Del(timeoutHeader)
	h.Del(attemptHeader)
	if deadline, ok := a.Deadline(); ok {
		left := max(0, time.Until(deadline).Milliseconds())
		h.Set(timeoutHeader, strconv.FormatInt(left, 10))
	}
	if n := mettle.Attempt(a.values); n > 0 && a.call.replayable() && a.call.mayResend(nil) {
		h.Set(attemptHeader, strconv.Itoa(n))
	}
}

// withTimeout bounds ctx by what the header says. stop must be called.
func withTimeout(ctx context.Context, h http.Header) (bounded context.Context, stop context.CancelFunc) {
	ms, ok := number(h, timeoutHeader, int64(maxTimeout))
	if !ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
}

// withAttempt marks ctx with what the header says.
func withAttempt(ctx context.Context, h http.Header) context.Context {
	if n, ok := number(h, attemptHeader, maxAttempt); ok && n > 0 {
		return mettle.WithAttempt(ctx, int(n))
	}
	return ctx
}

// number returns the value of a header that comes once and is a number from 0 to most in
// digits alone.
func number(h http.Header, name string, most int64) (int64, bool) {
	values := h[name]
	if len(values) != 1 || len(values[0]) == 0 || len(values[0]) > maxDigits {
		return 0, false
	}
	n := int64(0)
	for _, c := range []byte(values[0]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, n <= most
}
