package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"syscall"
	"time"

	"google.golang.org/grpc/status"

	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
)

// subject is what an answer other than yes is about.
type subject int

const (
	nobodyKnows subject = iota // the service or, by a bug that it meets, the order
	theOrder                   // the answer will be the same however often it is sent
	theService                 // which is down or has too much to do
)

// answerError is an answer other than yes.
type answerError struct {
	status string // 402, or FAILED_PRECONDITION
	text   string // what the service gave as its reason, if anything
	about  subject
	after  time.Duration // how long to stay away, as it said; zero: it did not
}

func (e *answerError) RetryAfter() time.Duration { return e.after }

func (e *answerError) Error() string {
	if e.text == "" {
		return e.status
	}
	return fmt.Sprintf("%s %.100s", e.status, printable(e.text))
}

// never reports that the request itself is wrong.
func (e *answerError) never() bool { return e.about == theOrder }

// suspect reports that the order may be at fault, or the service: a bug that one
// order meets, with a 500, a cut connection or no answer, looks just like an outage,
// from here.
func suspect(err error) bool {
	var answer *answerError
	if !errors.As(err, &answer) {
		return !errors.Is(err, syscall.ECONNREFUSED)
	}
	return answer.about == nobodyKnows
}

// why says in a few words what an error comes down to. It goes into the timeline and
// the store, so it holds nothing of the request but its outcome.
func why(err error) string {
	var answer *answerError
	var netErr net.Error
	var urlErr *url.Error
	var resent *mettlehttp.StatusError
	var call interface{ GRPCStatus() *status.Status }
	switch {
	case errors.Is(err, breaker.ErrOpen):
		return "breaker open"
	case errors.Is(err, bulkhead.ErrFull):
		return "bulkhead full"
	case errors.As(err, &answer):
		return answer.Error()
	case errors.As(err, &resent): // what the policies see of an answer
		return httpAnswer(resent.Code).Error()
	case errors.As(err, &call): // the same over gRPC
		return fmt.Sprintf("%.100s", grpcAnswer(call.GRPCStatus().Err()))
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
