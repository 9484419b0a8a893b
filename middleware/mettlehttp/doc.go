// Package mettlehttp applies policies to net/http.
//
// One line gives a client the standard pipeline:
//
//	client.Transport = mettlehttp.NewTransport(nil, nil)
//
// which is, from the outside in: a total timeout of 30 s, a retry with a budget, a
// breaker, a bulkhead, and a timeout of 10 s for each attempt, all with their defaults.
// A pipeline of one's own takes its place as the second argument, with [Host] as the key
// for what is to be kept per host.
//
// # What comes back
//
// An HTTP client gets the last response, with its body unread and a nil error, whenever
// the last attempt was answered: after three attempts that were answered 503 the result is
// the third 503, and its status is for the caller to look at. An error comes back when
// the last attempt had no answer, when a policy refused the first, and when the caller's
// context or the total timeout ended the call.
//
// While a retry backs off, the failed answer that it may end with is read into memory, up
// to 64 KiB, so that its connection is free for others. One that is longer, or has not come
// 200 ms after its headers when the next attempt begins, costs its connection.
//
// # Hosts
//
// In the standard pipeline each host (scheme, host name and port) has a breaker, a retry
// budget and a bulkhead of its own, so that trouble at one takes nothing from the
// others. Budgets and bulkheads are kept for 1,024 hosts: one that is idle and has its
// budget back at what a new one has, as it is after 12 minutes at most, makes room for the
// next, and where none is, the hosts that come on top share one budget and one bulkhead.
// Breakers are kept for 10,000.
//
// Their metrics do not grow with the hosts: those of retries, budgets and bulkheads are
// sums over all hosts, and gauges over those that are kept, so that
// mettle.bulkhead.limit is 200 with two of them. The breakers are counted by state.
//
// All policies of the standard pipeline have "http" in their name; two pipelines that
// are watched need to be told apart by [Named].
//
// # What is resent
//
// A status of 408, 425, 429, 500, 502, 503 or 504, or an error of the connection, is a
// failure that a retry may follow, if the request may go out twice: its method is GET,
// HEAD, OPTIONS, TRACE, PUT or DELETE, or it has an Idempotency-Key or X-Idempotency-Key
// header; or the error proves that nothing was sent. A body must be one that
// [http.Request.GetBody] can make again, which [http.NewRequest] sees to for bodies in
// memory; see [BufferBodies] for others, [Resend] for other methods and statuses, and
// [Prepare] for requests that have to be signed each time. A request that may not be resent is
// marked [mettle.Permanent], and refused if a policy sends it again all the same. So a
// hedge sends it once too. Where a retry had to let it be, the error says why, as in
// "connection reset by peer; not resent: POST without Idempotency-Key".
//
// Certificates that do not verify, names that do not exist, malformed requests and
// unknown schemes fail at once. With a scheme other than http and https, errors are
// resent only over a base that reports its connections to net/http/httptrace.
//
// A Retry-After header on 429 and 503 is what [mettle.RetryAfter] returns for the
// failure. Other statuses are answers: they come back as they are, and a breaker counts
// 4xx, 501 and 505 as successes of the server and every other 5xx as a failure.
//
// One attempt may reach the server twice: when a connection from its pool turns out to
// be broken, net/http sends the request again by itself, which no policy sees. So that
// this does not multiply with a retry, it is allowed to the first attempt of a call, once.
// Any further sending of net/http's own is cut, and the attempt fails. A server sees at
// most one request more than there are attempts, and so never more than twice as many.
// (This holds if net/http notices within 10 ms that an attempt has been cancelled, which
// it does in microseconds; in the worst case there is one request more for each attempt.
// What a server says over HTTP/2 that it has not processed is sent again and not counted.
// Nor is what a base sends after an answer, when it follows redirects or meets challenges.)
//
// # Time
//
// A timeout outside every retry and hedge is the total one: it bounds the reading of the
// response body too, where an error is then returned whose Timeout method is true. One
// inside a retry or hedge ends when the headers arrive. In a pipeline without either, a
// timeout is total. A body that is meant to stream for hours, such as an event stream,
// wants a pipeline without a total timeout; connections given away by 101 or
// CONNECT have none.
//
// Over HTTP/2 all attempts share one connection. When packets vanish on it without a word,
// each of them runs into its timeout, and so do later calls until the connection is given
// up, which takes minutes unless the base has pings:
//
//	base := http.DefaultTransport.(*http.Transport).Clone()
//	base.HTTP2 = &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second}
//	client.Transport = mettlehttp.NewTransport(base, nil)
//
// A bulkhead's slot is given back when the headers arrive, though the connection is in
// use until the body has been read: to hold it longer would cost a goroutine a call.
//
// # Cost
//
// Over net/http's own Transport, a request with five fields in its header that needs no
// second attempt costs 20 allocations of 2.4 KB together on top of what it does there: 15 of
// 2 KB for the Transport, most of them a context with its cancellation and the copies of
// request, URL and header, and 5 for the standard pipeline, which are its two deadlines, the
// mark of the attempt, and one timer with its function. What that comes to in time is in
// benchmarks/RESULTS.md of the repository.
//
// # What is not ours
//
// Redirects, cookies and credentials are those of [http.Client], for which each hop is a
// request of its own. Request.Cancel and Client.Timeout end waits as a context does, but
// cost a goroutine a call, as Request.Cancel does in net/http; a context does not.
//
// What comes of a call under resets, cuts, black holes and other trouble of the network
// is measured, over HTTP/1.1 and HTTP/2, in docs/faults.md of the repository.
package mettlehttp
