package mettlehttp

import (
	"fmt"
	"net/http"

	"github.com/mettle-go/mettle"
)

// Option changes what a [Transport] or a handler does beside its policy, or the name of
// the policy that both have by default ([Named]). [Classify] and [Propagate] are for both,
// [Resend], [BufferBodies] and [Prepare] for Transports, [RefuseWith] for handlers; what
// has no use for an option ignores it. Of an option given twice the last counts.
//
// Much is not an option but a matter of the policy: the longest Retry-After to follow is
// the MaxRetryAfter of a retry.Config, and the key of the breakers is what is given to
// breaker.Group.By, [Host] or whatever else the context of the request tells.
type Option func(*options)

type options struct {
	name string // of the default policy; empty: the default

	// Of a Transport.
	resend    func(req *http.Request, resp *http.Response, byDefault bool) bool
	bufferMax int64 // zero: no buffering
	prepare   func(*http.Request) error

	refuseWith int // of a handler: the status

	classify  func(status int, byDefault mettle.Outcome) mettle.Outcome
	propagate bool
}

// check panics when p, the caller's own policy, is none, or has a name to be given.
func (o *options) check(who string, p mettle.Policy) {
	mettle.Compose(p) // panics when p holds nil
	if o.name != "" {
		panic(fmt.Sprintf("mettlehttp: %s: Named(%q) beside a policy of the caller's, whose Config has the name", who, o.name))
	}
}

// outcome returns what an answer with the status tells.
func (o *options) outcome(status int) mettle.Outcome {
	outcome := statusOutcome(status)
	if o.classify != nil {
		outcome = o.classify(status, outcome)
	}
	return outcome
}

// Named sets the name of the policy that [NewTransport] and [NewHandler] make when they
// are given none. Two that are watched side by side need different names, or their
// metrics would be the same series. The policies of the standard pipeline are called, as
// their label and in their errors:
//
//	name            the retry
//	name + " total" and name + " attempt"    the timeouts
//	name + " host"  the breakers and bulkheads, followed by the host in brackets in errors
//
// The default is "http"; for the one bulkhead of a handler it is "http server". Named
// panics when name is empty, and NewTransport and NewHandler do when it comes with a
// policy of the caller's.
func Named(name string) Option {
	if name == "" {
		panic("mettlehttp: Named: name is empty")
	}
	return func(o *options) { o.name = name }
}

// Resend sets which requests may be sent again although the server may have seen them.
// may is asked with the request and its failed answer, whose body it must leave alone, or
// with nil when there is no answer: the connection broke, the time was up, or the first
// is still under way. byDefault is what the package documentation promises for that case.
//
//	// This service does nothing with a request that it answers 503, POST or not.
//	mettlehttp.Resend(func(req *http.Request, resp *http.Response, byDefault bool) bool {
//		return byDefault || resp != nil && resp.StatusCode == http.StatusServiceUnavailable
//	})
//
// It says what may be resent, and the policy whether. What was provably not sent may
// always be, and what has a body that cannot be made again never. An answer that [Classify]
// takes for no failure is the result, and may is not asked about it.
//
// may is called from many goroutines at once, and must not change what it is given. A nil
// may panics.
func Resend(may func(req *http.Request, resp *http.Response, byDefault bool) bool) Option {
	if may == nil {
		panic("mettlehttp: Resend: may is nil")
	}
	return func(o *options) { o.resend = may }
}

// BufferBodies lets requests be resent whose body cannot be made again because
// [http.Request.GetBody] is nil: a body of known length up to limit bytes is read into
// memory for the first attempt, if the request is otherwise one that may be resent, which
// with [Resend] is any. A body that is longer, or whose ContentLength is unknown, goes out
// once, as it does without this option: set [http.Request.ContentLength] for a reader that
// [http.NewRequest] does not know. A body that is not as long as its ContentLength says
// fails the request, and so does one that has not been read when the policy's context
// ends; it is closed then, and a Read that does not heed that is left behind, as it is by
// net/http. Zero buffers nothing; BufferBodies panics when limit is negative.
func BufferBodies(limit int64) Option {
	if limit < 0 {
		panic(fmt.Sprintf("mettlehttp: BufferBodies: limit is %d, must be 0 or more bytes", limit))
	}
	return func(o *options) { o.bufferMax = limit }
}

// Prepare has f called with the request of every attempt just before it is sent, to sign
// it anew or to give it a fresh token. f may change the header and the URL, which are the
// attempt's own, but not the body. The context of the request is that of the attempt: its
// number is [mettle.Attempt], and it ends when the attempt's time is up.
//
// When f fails, nothing is sent, the call ends with its error, and that says nothing about
// the server ([mettle.Ignored]). f is called from many goroutines at once, and its panics
// go through. A nil f panics.
func Prepare(f func(req *http.Request) error) Option {
	if f == nil {
		panic("mettlehttp: Prepare: f is nil")
	}
	return func(o *options) { o.prepare = f }
}

// RefuseWith makes a handler answer refusals with status, which is 503 or 429: 429 says
// that it is this client that asks too much, as behind a limit for each client. Any other
// status panics.
func RefuseWith(status int) Option {
	if status != http.StatusServiceUnavailable && status != http.StatusTooManyRequests {
		panic(fmt.Sprintf("mettlehttp: RefuseWith: status is %d, must be 503 or 429", status))
	}
	return func(o *options) { o.refuseWith = status }
}

// Classify sets what the status of an answer tells about who answered, a server for a
// Transport and the handler's own for a handler: f is called with the status and with the
// outcome that it has by default. With [mettle.Success] the answer is the result.
// Anything else is a [StatusError] to the policy, and a retry resends a failed one if
// [Resend] lets it: by default that takes a status which is a failure by default.
//
// f is called from many goroutines at once. A nil f panics.
func Classify(f func(status int, byDefault mettle.Outcome) mettle.Outcome) Option {
	if f == nil {
		panic("mettlehttp: Classify: f is nil")
	}
	return func(o *options) { o.classify = f }
}
