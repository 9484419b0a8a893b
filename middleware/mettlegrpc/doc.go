// Package mettlegrpc applies policies to gRPC, at the client and at the server, for unary
// calls and for streams of every kind.
//
// A client has the standard pipeline with
//
//	p := mettlegrpc.Standard("orders")
//	conn, err := grpc.NewClient(target,
//		grpc.WithUnaryInterceptor(mettlegrpc.UnaryClientInterceptor(p)),
//		grpc.WithStreamInterceptor(mettlegrpc.StreamClientInterceptor(p)),
//		grpc.WithDisableRetry())
//
// which is, from the outside in: a total timeout of 30 s, a retry with a budget, a
// breaker, a bulkhead, and a timeout of 10 s for each attempt, all with their defaults. Any
// other policy may take its place. One policy for both interceptors, as here, has one
// breaker and one bulkhead for all that goes over the connection; a nil policy is a
// standard pipeline of the interceptor's own. Who gives one interceptor to several
// connections keeps state apart with [Target] as a key, and with [Method] for each method.
//
// # Outcomes
//
// The status of a call tells its [mettle.Outcome], by the table that all transports share:
//
//   - Success: OK, and every answer about the request itself: INVALID_ARGUMENT,
//     NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, UNAUTHENTICATED,
//     FAILED_PRECONDITION, OUT_OF_RANGE, UNIMPLEMENTED.
//   - Overload: RESOURCE_EXHAUSTED.
//   - Timeout: DEADLINE_EXCEEDED, whether the server's or that of the context.
//   - Ignored: CANCELLED when the context of the attempt was cancelled or the connection
//     closed at this end, and refusals of policies.
//   - Failure: everything else, a CANCELLED of the server's own included.
//
// # What comes back
//
// The error of a call is that of the policy, and [status.Code] of it is the code of the
// last attempt, with its message and details. Where no attempt has left a status, a
// refusal is UNAVAILABLE, or RESOURCE_EXHAUSTED when it is a full bulkhead's, and still
// Is [mettle.ErrRejected]; the end of a context is DEADLINE_EXCEEDED or CANCELLED.
//
// # Resending
//
// A retry resends what ended in UNAVAILABLE, and in RESOURCE_EXHAUSTED if the server said
// when to come back. By gRPC's convention these are codes that a client may answer with
// another attempt; [Resend] names those that a service's methods can bear twice.
//
//	unary             resent, hedged
//	server streaming  resent until its header or first message reached the caller; not hedged
//	client streaming  sent once
//	bidirectional     sent once
//	at a server       a handler runs once
//
// No code proves that nothing was done. UNAVAILABLE is also what a call ends with whose
// connection broke after the server had done the work, and grpc-go does not tell the two
// apart. For methods that must not run twice, and have no key by which the server knows a
// copy, there is Resend() with no code at all, or a policy without a retry.
//
// A grpc-retry-pushback-ms trailer is the exact delay before the next attempt, as gRFC A6
// has it; one that is negative or cannot be read, or more than one, means that there is
// to be none. A google.rpc.RetryInfo in the status is a floor, as [mettle.RetryAfter] says.
// With either above MaxRetryAfter a retry stops. Of a status with more than 32 details the
// first 32 are looked at.
//
// No two attempts, hedges among them, receive into the same reply. When the call has
// ended, the caller's reply holds what the winner received, whole, or after an error what it
// held before; while the call lasts, the first attempt may be receiving into it, if it was
// empty. What the call options Header, Trailer and Peer ask for shows the winner as well, or
// the last attempt to end when all have failed. OnFinish runs for every attempt. Metadata
// that goes out is the caller's for each attempt; nothing is added to it. A reply that is
// not a pointer cannot be had twice, so such a call is sent once.
//
// # gRPC's own retry
//
// A service config with a retryPolicy makes grpc-go resend by itself, below every
// interceptor, so its attempts multiply with those of a retry here: three times three are
// nine. Turn one of the two off, as grpc.WithDisableRetry does with gRPC's. Whether the
// resolver brings such a config tells
//
//	conn.GetMethodConfig("/pkg.Service/Method").RetryPolicy != nil
//
// Apart from that, grpc-go sends a call again that certainly has not been processed
// (transparent retry); that is not counted, by neither.
//
// # Connections
//
// After a connection that could not be made grpc-go pauses for a second, and longer each
// time, and meanwhile fails calls at once with UNAVAILABLE, so that quick attempts are over
// before it has tried again. With grpc.WaitForReady(true) a call waits for a connection
// instead, within its deadline.
//
// All attempts share one connection. When packets vanish on it without a word, each of them
// runs into its timeout, and so do later calls until its keepalive gives the connection up
// (grpc.WithKeepaliveParams), or else the system, after many minutes.
//
// What comes of a call under resets, cuts, black holes and other trouble of the network is
// measured in docs/faults.md of the repository.
//
// # Streams
//
// A stream runs under the policy from its making to its end: its outcome is recorded, and
// a bulkhead's slot or a breaker's probe held, until RecvMsg returns an error (io.EOF is
// success), until the context of the call ends or the connection is closed. As grpc-go
// itself demands, a stream that is not received to its end must have its context
// cancelled, or it is never given back. A stream costs one goroutine for as long.
//
// Calls on a stream go to grpc-go on the goroutine of whoever makes them. The policy
// runs on one of the stream's; when a hook of the user's panics there, or calls
// [runtime.Goexit], that passes to the caller who waits for the policy in the making of the
// stream, RecvMsg or Header. If nobody does, it ends the program, as a panic on a goroutine does.
//
// A stream of the server's, with one request, is resent until its first message or
// its header has reached the caller, or the caller has asked for its Context. Client and
// bidirectional streams are never sent twice: what fails is marked [mettle.Permanent], and a
// policy that tries all the same is refused. No stream is hedged: a hedge that lets a second
// one go finds it refused, and learns its delay from how long streams last, so leave it out.
//
// A timeout bounds the making of a stream and nothing after that: not the wait for the
// first message, which may rightly be long. [StreamTotal] bounds the whole stream and
// [StreamIdle] the wait for each message. A stream that ends with the caller's own deadline,
// or with StreamTotal, after messages have come says nothing about the server and is Ignored.
//
// A breaker counts a stream when it ends, so one with a SlowCall takes every long stream
// for a slow call; where unary calls and long streams share a connection, give each a
// breaker of its own. A probe alone counts earlier: it has succeeded once the caller has the
// header or a message, or at a server once a stream's handler has sent a message, and how the
// stream ends then counts for nothing. So a stream may be a probe and last longer than
// ProbeTimeout, but must bring something within it. An upload does not: it is answered
// at its end, and while it may be a probe ProbeTimeout has to be longer than it takes.
//
// # Servers
//
// A server's policy admits calls: a bulkhead, a rate limit, a breaker. What it refuses is
// answered before the handler runs, without a header (Trailers-Only), with UNAVAILABLE or
// what [RefuseWith] says. Once the handler has run, its answer stands, and its status
// is the outcome. A panic of the handler is not recovered here.
//
// # Cost
//
// An interceptor makes two allocations for a call that succeeds at once: the call, with all
// that its first attempt receives, and the operation that the policy runs. With [Standard]
// there are eight more: one for each timeout, one for the retry's mark, and five for a
// context with a timer, of which there is one, however many timeouts a pipeline has. A
// message, a reply or metadata is copied only for further attempts.
//
// The larger part of what Standard adds to a call is no policy's: any deadline costs gRPC a
// header on the wire and a timer at either end. It is worth that, because a server so
// learns when nobody waits any more.
//
// # Promises
//
// What holds for every version of v1, so that an upgrade can be made unread:
//
//   - the table of outcomes, and that a new code of gRPC's would be a Failure;
//   - that UNAVAILABLE alone is resent unasked, RESOURCE_EXHAUSTED when told when;
//   - that nothing is sent twice after the caller has seen any of the answer;
//   - that the caller's request and metadata are not written to, nor is anything of an
//     attempt seen, in the reply or in what options point to, but of the one that counts;
//   - that a refusal Is [mettle.ErrRejected] and has the codes above, on the wire too;
//   - that a stream holds what the policy gave it until its end, and no goroutine longer;
//   - that the handler of a server runs at most once for a call.
//
// Not promised are the texts of errors and the figures of [Standard].
package mettlegrpc
