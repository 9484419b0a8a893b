package faults

import "time"

// table is what is promised. Where a request has arrived once more than there were
// attempts, net/http has sent it again by itself; where less often, the fault was faster.
var table = []struct {
	fault
	cells []cell
}{
	{
		fault{name: "latency of 40 ms", toxic: "latency", attributes: `"latency": 40`, delay: 40 * time.Millisecond, every: true},
		[]cell{
			{http1, get, standard, result{"200, body whole", 1, 1}},
			{http2, get, standard, result{"200, body whole", 1, 1}},
			{grpcQuick, unary, standard, result{"OK, reply whole", 1, 1}},
			{grpcQuick, stream, standard, result{"OK, all messages", 1, 1}},
		},
	},
	{
		fault{name: "jitter: latency of 0 to 60 ms", toxic: "latency", attributes: `"latency": 30, "jitter": 30`, every: true},
		[]cell{
			{http1, getLong, standard, result{"200, body whole", 1, 1}},
			{http2, getLong, standard, result{"200, body whole", 1, 1}},
			{grpcQuick, unaryLong, standard, result{"OK, reply whole", 1, 1}},
			{grpcQuick, stream, standard, result{"OK, all messages", 1, 1}},
		},
	},
	{
		fault{name: "latency of 9 s", toxic: "latency", attributes: `"latency": 9000`, live: true},
		[]cell{
			{http1, get, short, result{"200, body whole", 2, 2}},
			{http1, post, short, result{"timeout; not resent: POST without Idempotency-Key", 1, 1}},
			{http2, get, short, result{"timeout", 3, 3}},
			{http2, post, short, result{"timeout; not resent: POST without Idempotency-Key", 1, 1}},
			{grpcQuick, unary, short, result{"DeadlineExceeded", 1, 1}},
			{grpcQuick, stream, impatient, result{"DeadlineExceeded before the first message", 1, 1}},
		},
	},
	{
		fault{name: "bandwidth: the answer takes 4 s", toxic: "bandwidth", attributes: `"rate": 64`, delay: 3500 * time.Millisecond, live: true, every: true},
		[]cell{
			{http1, getLong, short, result{"200, body whole", 1, 1}},
			{http2, getLong, short, result{"200, body whole", 1, 1}},
			{grpcQuick, unaryLong, standard, result{"OK, reply whole", 1, 1}},
			{grpcQuick, unaryLong, short, result{"DeadlineExceeded", 1, 1}},
			{grpcQuick, stream, short, result{"OK, all messages", 1, 1}},
		},
	},
	{
		fault{name: "bandwidth: the answer takes 10 s", toxic: "bandwidth", attributes: `"rate": 26`, live: true, every: true},
		[]cell{
			{http1, getLong, short, result{"200, body broken off: timeout", 1, 1}},
			{http1, getLong, impatient, result{"200, body broken off: timeout", 1, 1}},
			{http2, getLong, short, result{"200, body broken off: timeout", 1, 1}},
			{grpcQuick, unaryLong, short, result{"DeadlineExceeded", 1, 1}},
			{grpcQuick, stream, shortTotal, result{"DeadlineExceeded between messages", 1, 1}},
			{grpcQuick, stream, impatient, result{"DeadlineExceeded between messages", 1, 1}},
		},
	},
	{
		fault{name: "reset in the making of the first connection", toxic: "reset_peer"},
		[]cell{
			{http2, get, standard, result{"200, body whole", 2, 1}},
			{http2, post, standard, result{"200, body whole", 2, 1}},
			{grpcQuick, unary, short, result{"OK, reply whole", 2, 1}},
			{grpcQuick, stream, short, result{"OK, all messages", 2, 1}},
		},
	},
	{
		fault{name: "reset in the making of every connection", toxic: "reset_peer", every: true},
		[]cell{
			{http2, get, standard, result{"connection broken", 3, 0}},
			{http2, post, standard, result{"connection broken", 3, 0}},
			{grpcQuick, unary, short, result{"Unavailable", 3, 0}},
			{grpcQuick, stream, short, result{"Unavailable before the first message", 3, 0}},
		},
	},
	{
		fault{name: "reset under the request, first connection", toxic: "reset_peer", stream: "upstream"},
		[]cell{
			{http1, get, standard, result{"200, body whole", 2, 1}},
			{http1, post, standard, result{"connection broken; not resent: POST without Idempotency-Key", 1, 0}},
			{http1, postKey, standard, result{"200, body whole", 2, 1}},
		},
	},
	{
		fault{name: "reset under the request, every connection", toxic: "reset_peer", stream: "upstream", every: true},
		[]cell{
			{http1, get, standard, result{"connection broken", 3, 0}},
			{http1, post, standard, result{"connection broken; not resent: POST without Idempotency-Key", 1, 0}},
		},
	},
	{
		fault{name: "reset under the request, connection used before", toxic: "reset_peer", stream: "upstream", live: true},
		[]cell{
			{http1, get, standard, result{"200, body whole", 1, 1}},
			{http1, post, standard, result{"connection broken; not resent: POST without Idempotency-Key", 1, 0}},
			{http1, postKey, standard, result{"200, body whole", 1, 1}},
			{http2, get, standard, result{"200, body whole", 2, 1}},
			{http2, post, standard, result{"connection broken; not resent: POST without Idempotency-Key", 1, 0}},
			{http2, postKey, standard, result{"200, body whole", 2, 1}},
			{grpcQuick, unary, standard, result{"OK, reply whole", 2, 1}},
			{grpcQuick, unary, shortNone, result{"Unavailable", 1, 0}},
			{grpcQuick, stream, standard, result{"OK, all messages", 2, 1}},
		},
	},
	{
		fault{name: "reset under the answer, connection used before", toxic: "reset_peer", live: true},
		[]cell{
			{http1, get, standard, result{"200, body whole", 1, 2}},
			{http1, post, standard, result{"connection broken; not resent: POST without Idempotency-Key", 1, 1}},
			{http1, postKey, standard, result{"200, body whole", 1, 2}},
			{http2, get, standard, result{"200, body whole", 2, 2}},
			{http2, post, standard, result{"connection broken; not resent: POST without Idempotency-Key", 1, 1}},
			{http2, postKey, standard, result{"200, body whole", 2, 2}},
			{grpcQuick, unary, standard, result{"OK, reply whole", 2, 2}},
			{grpcQuick, unary, shortNone, result{"Unavailable", 1, 1}},
			{grpcQuick, stream, standard, result{"OK, all messages", 2, 2}},
		},
	},
	{
		fault{name: "cut after 64 KiB of the request, first connection", toxic: "limit_data", stream: "upstream", attributes: `"bytes": 65536`},
		[]cell{
			{http1, putLong, standard, result{"200, body whole", 2, 1}},
			{http1, postLong, standard, result{"connection broken; not resent: POST without Idempotency-Key", 1, 0}},
			{http2, putLong, standard, result{"200, body whole", 2, 1}},
			{http2, postLong, standard, result{"connection broken; not resent: POST without Idempotency-Key", 1, 0}},
			{grpcQuick, unaryUp, standard, result{"OK, reply whole", 2, 1}},
			{grpcQuick, unaryUp, shortNone, result{"Unavailable", 1, 0}},
		},
	},
	{
		fault{name: "cut after 10 bytes of the answer", toxic: "limit_data", attributes: `"bytes": 10`, live: true},
		[]cell{
			{http1, get, standard, result{"200, body whole", 2, 2}},
			{http1, post, standard, result{"net/http: HTTP/1.x transport connection broken: malformed HTTP status code \"2\"; not resent: POST without Idempotency-Key", 1, 1}},
			{http1, postKey, standard, result{"200, body whole", 2, 2}},
			{http2, get, standard, result{"200, body whole", 2, 2}},
			{http2, post, standard, result{"connection broken; not resent: POST without Idempotency-Key", 1, 1}},
			{grpcQuick, unary, standard, result{"OK, reply whole", 2, 2}},
			{grpcQuick, stream, standard, result{"OK, all messages", 2, 2}},
		},
	},
	{
		fault{name: "cut after 64 KiB of the answer", toxic: "limit_data", attributes: `"bytes": 65536`, live: true},
		[]cell{
			{http1, getLong, standard, result{"200, body broken off: connection broken", 1, 1}},
			{http1, getChunked, standard, result{"200, body broken off: connection broken", 1, 1}},
			{http2, getLong, standard, result{"200, body broken off: connection broken", 1, 1}},
			{http2, getChunked, standard, result{"200, body broken off: connection broken", 1, 1}},
			{grpcQuick, unaryLong, standard, result{"OK, reply whole", 2, 2}},
			{grpcQuick, stream, standard, result{"Unavailable between messages", 1, 1}},
		},
	},
	{
		fault{name: "slow close: 400 ms after the server has hung up", toxic: "slow_close", attributes: `"delay": 400`, hangUp: true},
		[]cell{
			{http1, get, standard, result{"200, body whole", 1, 1}},
			{http1, post, standard, result{"connection broken; not resent: POST without Idempotency-Key", 1, 0}},
			{http1, postKey, standard, result{"200, body whole", 1, 1}},
			{http2, get, standard, result{"200, body whole", 1, 1}},
			{http2, post, standard, result{"200, body whole", 1, 1}},
			{grpcQuick, unary, standard, result{"OK, reply whole", 1, 1}},
			{grpcQuick, stream, standard, result{"OK, all messages", 1, 1}},
		},
	},
	{
		fault{name: "black hole: answers vanish, first connection", toxic: "timeout", attributes: `"timeout": 0`, live: true},
		[]cell{
			{http1, get, short, result{"200, body whole", 2, 2}},
			{http1, get, impatient, result{"timeout", 1, 1}},
			{http1, post, short, result{"timeout; not resent: POST without Idempotency-Key", 1, 1}},
			{http1, postKey, short, result{"200, body whole", 2, 2}},
			{http1, get, hedged, result{"200, body whole", 2, 2}},
			{http1, post, hedged, result{"timeout; the hedge was refused", 2, 1}},
			{http2, get, short, result{"timeout", 3, 3}},
			{http2, post, short, result{"timeout; not resent: POST without Idempotency-Key", 1, 1}},
			{http2Pings, get, short, result{"200, body whole", 2, 2}},
			{http2Pings, post, short, result{"http2: client connection lost; not resent: POST without Idempotency-Key", 1, 1}},
			{grpcQuick, unary, short, result{"DeadlineExceeded", 1, 1}},
			{grpcQuick, unary, shortAny, result{"DeadlineExceeded", 3, 3}},
			{grpcQuick, unary, hedged, result{"DeadlineExceeded", 2, 2}},
			{grpcQuick, unary, impatient, result{"DeadlineExceeded", 1, 1}},
			{grpcQuick, stream, shortTotal, result{"DeadlineExceeded before the first message", 1, 1}},
			{grpcQuick, stream, impatient, result{"DeadlineExceeded before the first message", 1, 1}},
		},
	},
	{
		fault{name: "black hole: requests vanish, every connection", toxic: "timeout", stream: "upstream", attributes: `"timeout": 0`, every: true},
		[]cell{
			{http1, get, short, result{"timeout", 3, 0}},
			{http1, get, impatient, result{"timeout", 1, 0}},
			{http1, post, short, result{"timeout; not resent: POST without Idempotency-Key", 1, 0}},
			{http2, get, short, result{"timeout", 3, 0}},
			{http2, post, short, result{"timeout", 3, 0}},
			{grpcQuick, unary, short, result{"DeadlineExceeded", 1, 0}},
			{grpcQuick, unary, impatient, result{"DeadlineExceeded", 1, 0}},
			{grpcQuick, stream, impatient, result{"DeadlineExceeded before the first message", 1, 0}},
		},
	},
	{
		fault{name: "silence for 200 ms, then closed", toxic: "timeout", attributes: `"timeout": 200`, live: true},
		[]cell{
			{http1, get, standard, result{"200, body whole", 1, 2}},
			{http1, post, standard, result{"connection broken; not resent: POST without Idempotency-Key", 1, 1}},
			{http2, get, standard, result{"200, body whole", 2, 2}},
			{http2, post, standard, result{"connection broken; not resent: POST without Idempotency-Key", 1, 1}},
			{grpcQuick, unary, standard, result{"OK, reply whole", 2, 2}},
			{grpcQuick, stream, standard, result{"OK, all messages", 2, 2}},
		},
	},
	{
		fault{name: "first connection refused", down: true},
		[]cell{
			{http1, get, standard, result{"200, body whole", 2, 1}},
			{http1, post, standard, result{"200, body whole", 2, 1}},
			{http2, get, standard, result{"200, body whole", 2, 1}},
			{http2, post, standard, result{"200, body whole", 2, 1}},
			{grpcQuick, unary, short, result{"OK, reply whole", 2, 1}},
			{grpcQuick, stream, short, result{"OK, all messages", 2, 1}},
			{grpcSlow, unary, standard, result{"Unavailable", 3, 0}},
			{grpcSlow, unaryReady, standard, result{"OK, reply whole", 1, 1}},
		},
	},
	{
		fault{name: "every connection refused", down: true, every: true},
		[]cell{
			{http1, get, standard, result{"connection refused", 3, 0}},
			{http1, post, standard, result{"connection refused", 3, 0}},
			{http2, get, standard, result{"connection refused", 3, 0}},
			{grpcQuick, unary, standard, result{"Unavailable", 3, 0}},
			{grpcQuick, unaryReady, short, result{"DeadlineExceeded", 1, 0}},
			{grpcQuick, stream, standard, result{"Unavailable before the first message", 3, 0}},
		},
	},
	{
		fault{name: "outage: cut under the handler, back once a connection was refused", outage: true, every: true},
		[]cell{
			{http1, get, short, result{"200, body whole", 3, 2}},
			{http1, post, short, result{"connection broken; not resent: POST without Idempotency-Key", 1, 1}},
			{http1, postKey, short, result{"200, body whole", 3, 2}},
			{http2, get, short, result{"200, body whole", 3, 2}},
			{http2, post, short, result{"connection broken; not resent: POST without Idempotency-Key", 1, 1}},
			{grpcQuick, unary, short, result{"OK, reply whole", 3, 2}},
			{grpcQuick, stream, short, result{"OK, all messages", 3, 2}},
		},
	},
}
