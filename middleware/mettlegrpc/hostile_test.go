package mettlegrpc_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/middleware/mettlegrpc"
	"github.com/mettle-go/mettle/retry"
)

// Peers that speak HTTP/2 and no gRPC, or what they please of it. They are net/http's,
// which lets them say what grpc-go would not.

func unencrypted() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// impostor starts a server whose answers are what handle makes of HTTP/2, and returns its
// address.
func impostor(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &http.Server{Handler: handle, Protocols: unencrypted()}
	var served sync.WaitGroup
	served.Go(func() { s.Serve(listener) })
	t.Cleanup(func() {
		s.Close()
		served.Wait()
	})
	return listener.Addr().String()
}

// message is one of gRPC's as it goes over the wire, of a length that may be a lie.
func message(m proto.Message, length int) []byte {
	body, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	if length < 0 {
		length = len(body)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(length)), body...)
}

// say answers with messages, and trailers in pairs.
func say(w http.ResponseWriter, body []byte, trailers ...string) {
	w.Header().Set("Content-Type", "application/grpc")
	w.WriteHeader(http.StatusOK)
	w.Write(body)
	for i := 0; i < len(trailers); i += 2 {
		w.Header().Add(http.TrailerPrefix+trailers[i], trailers[i+1])
	}
}

func details(t *testing.T, code codes.Code, delays ...*durationpb.Duration) string {
	st := &spb.Status{Code: int32(code), Message: "busy"}
	for _, d := range delays {
		a, err := anypb.New(&errdetails.RetryInfo{RetryDelay: d})
		require.NoError(t, err)
		st.Details = append(st.Details, a)
	}
	b, err := proto.Marshal(st)
	require.NoError(t, err)
	return base64.RawStdEncoding.EncodeToString(b)
}

// Whatever a server answers, a call ends, in a status, with as many attempts as the rules
// allow, and holds nothing afterwards; so does a stream.
//
// Spec: G1, G2, G3, G7
func TestHostileServer(t *testing.T) {
	const pushback, detail = "Grpc-Retry-Pushback-Ms", "Grpc-Status-Details-Bin"
	good := message(named("whole"), -1)
	unavailable := []string{"Grpc-Status", "14"}
	with := func(more ...string) []string { return append(unavailable[:2:2], more...) }
	for _, tt := range []struct {
		name  string
		say   func(w http.ResponseWriter)
		code  codes.Code
		times int32 // sent, in all
	}{
		{"a page, and no gRPC", func(w http.ResponseWriter) { http.Error(w, "down for maintenance", http.StatusServiceUnavailable) }, codes.Unavailable, 3},
		{"a page that is missing", func(w http.ResponseWriter) { http.Error(w, "no", http.StatusNotFound) }, codes.Unimplemented, 1},
		{"a page that is endless", func(w http.ResponseWriter) {
			for page := bytes.Repeat([]byte("x"), 1<<16); ; {
				if _, err := w.Write(page); err != nil {
					return
				}
			}
		}, codes.Unknown, 1},
		{"no status", func(w http.ResponseWriter) { say(w, good) }, codes.Internal, 1},
		{"a status that is no number", func(w http.ResponseWriter) { say(w, nil, "Grpc-Status", "fine") }, codes.Unknown, 1},
		{"a status beyond all numbers", func(w http.ResponseWriter) { say(w, nil, "Grpc-Status", strings.Repeat("9", 5000)) }, codes.Unknown, 1},
		{"a negative status", func(w http.ResponseWriter) { say(w, nil, "Grpc-Status", "-14") }, codes.Code(1<<32 - 14), 1},
		{"a text that never ends", func(w http.ResponseWriter) {
			say(w, nil, with("Grpc-Message", strings.Repeat("%F0", 100_000))...)
		}, codes.Unavailable, 3},
		{"a pushback", func(w http.ResponseWriter) { say(w, nil, with(pushback, "0")...) }, codes.Unavailable, 3},
		{"two pushbacks", func(w http.ResponseWriter) { say(w, nil, with(pushback, "0", pushback, "0")...) }, codes.Unavailable, 1},
		{"two in one", func(w http.ResponseWriter) { say(w, nil, with(pushback, "0,0")...) }, codes.Unavailable, 1},
		{"ten thousand pushbacks", func(w http.ResponseWriter) {
			say(w, nil, append(with(), slices.Repeat([]string{pushback, "0"}, 10_000)...)...)
		}, codes.Unavailable, 1},
		{"a pushback in digits of another script", func(w http.ResponseWriter) { say(w, nil, with(pushback, "\u0663")...) }, codes.Unavailable, 1},
		{"a pushback of many digits", func(w http.ResponseWriter) { say(w, nil, with(pushback, strings.Repeat("0", 100_000))...) }, codes.Unavailable, 1},
		{"details that are not base64", func(w http.ResponseWriter) { say(w, nil, with(detail, "!")...) }, codes.Internal, 1},
		{"details that are no status", func(w http.ResponseWriter) { say(w, nil, with(detail, "/////w")...) }, codes.Unavailable, 3},
		{"details of another code", func(w http.ResponseWriter) { say(w, nil, with(detail, details(t, codes.NotFound))...) }, codes.Internal, 1},
		{"details of a wait beyond all", func(w http.ResponseWriter) {
			say(w, nil, with(detail, details(t, codes.Unavailable, &durationpb.Duration{Seconds: 1 << 62, Nanos: -1 << 31}))...)
		}, codes.Unavailable, 1},
		{"details without end", func(w http.ResponseWriter) {
			say(w, nil, with(detail, details(t, codes.Unavailable, make([]*durationpb.Duration, 10_000)...))...)
		}, codes.Unavailable, 3},
		{"half a message", func(w http.ResponseWriter) { say(w, good[:len(good)-1], "Grpc-Status", "0") }, codes.Internal, 1},
		{"half a message, and unavailable", func(w http.ResponseWriter) { say(w, good[:len(good)-1], unavailable...) }, codes.Internal, 1},
		{"a whole message, and unavailable", func(w http.ResponseWriter) { say(w, good, unavailable...) }, codes.Unavailable, 3},
		{"two messages", func(w http.ResponseWriter) { say(w, append(good[:len(good):len(good)], good...), "Grpc-Status", "0") }, codes.Internal, 1},
		{"a message longer than there is", func(w http.ResponseWriter) { say(w, message(named("x"), 1<<20), "Grpc-Status", "0") }, codes.Internal, 1},
		{"a message too long for anybody", func(w http.ResponseWriter) { say(w, message(named("x"), 1<<32-1), "Grpc-Status", "0") }, codes.ResourceExhausted, 1},
		{"a message that is none", func(w http.ResponseWriter) { say(w, []byte{0, 0, 0, 0, 3, 0xff, 0xff, 0xff}, "Grpc-Status", "0") }, codes.Internal, 1},
		{"a message packed in an unknown way", func(w http.ResponseWriter) { say(w, append([]byte{1}, good[1:]...), "Grpc-Status", "0") }, codes.Internal, 1},
		{"a cut", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, codes.Internal, 1},
		{"a cut after the header", func(w http.ResponseWriter) {
			say(w, nil)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, codes.Internal, 1},
		{"a cut in a message", func(w http.ResponseWriter) {
			say(w, good[:7])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, codes.Internal, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var came atomic.Int32
			target := impostor(t, func(w http.ResponseWriter, r *http.Request) {
				came.Add(1)
				io.Copy(io.Discard, r.Body)
				tt.say(w)
			})
			slots := bulkhead.New(bulkhead.Config{})
			p := mettle.Compose(retry.New(retry.Config{Backoff: retry.Constant(0), Budget: retry.NoBudget}), slots)
			conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry(),
				grpc.WithUnaryInterceptor(mettlegrpc.UnaryClientInterceptor(p)),
				grpc.WithStreamInterceptor(mettlegrpc.StreamClientInterceptor(p)))
			require.NoError(t, err)
			defer conn.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()

			reply := new(pb.SimpleResponse)
			err = conn.Invoke(ctx, "/grpc.testing.TestService/UnaryCall", &pb.SimpleRequest{}, reply)
			assert.Equal(t, tt.code, status.Code(err), "%.500v", err)
			assert.Equal(t, tt.times, came.Swap(0), "%.500v", err)
			assert.Zero(t, proto.Size(reply), "nothing is seen of what came with an error")

			str, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/grpc.testing.TestService/StreamingOutputCall")
			require.NoError(t, err)
			require.NoError(t, str.SendMsg(&pb.StreamingOutputCallRequest{}))
			require.NoError(t, str.CloseSend())
			n := 0
			for ; err == nil; n++ {
				err = str.RecvMsg(new(pb.SimpleResponse))
			}
			if n == 1 {
				assert.Equal(t, tt.times, came.Load(), "%.500v", err)
			} else {
				assert.EqualValues(t, 1, came.Load(), "after a message")
			}
			noStreamLeft(t)
			assert.Zero(t, slots.Stats().InFlight)
		})
	}
}

// Whatever a client sends, a call is answered or its connection ended, the handler runs at
// most once for it, and the policy has back what it gave.
//
// Spec: G7, G9
func TestHostileClient(t *testing.T) {
	const call, str = "/grpc.testing.TestService/UnaryCall", "/grpc.testing.TestService/FullDuplexCall"
	good := message(&pb.SimpleRequest{Payload: payload("x")}, -1)
	begun := make(chan bool, 1)
	s := new(service)
	s.unary = func(ctx context.Context, req *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		if string(req.Payload.GetBody()) == "wait" {
			begun <- true
			<-ctx.Done()
		}
		return &pb.SimpleResponse{}, ctx.Err()
	}
	slots, w := bulkhead.New(bulkhead.Config{}), new(witness)
	set := wearing(mettle.Compose(w, slots))
	conn := set.connect(t, direct, s)
	c := pb.NewTestServiceClient(conn)
	transport := &http.Transport{Protocols: unencrypted()}
	defer transport.CloseIdleConnections()

	header := func(pairs ...string) http.Header {
		h := http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
		for i := 0; i < len(pairs); i += 2 {
			h.Add(pairs[i], pairs[i+1])
		}
		return h
	}
	send := func(ctx context.Context, path string, h http.Header, body io.Reader) (code string) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+conn.Target(), body)
		require.NoError(t, err)
		req.URL.Path, req.Header = path, h
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return "none"
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return "none"
		}
		return cmp.Or(resp.Trailer.Get("Grpc-Status"), resp.Header.Get("Grpc-Status"), resp.Status)
	}
	for _, tt := range []struct {
		name, path string
		header     http.Header
		body       []byte
		want       string
		runs       int32 // of the handler
	}{
		{"what it should", call, header(), good, "0", 1},
		{"a stream of nothing", str, header(), nil, "0", 1},
		{"no message", call, header(), nil, "13", 0},
		{"half a message", call, header(), good[:len(good)-1], "13", 0},
		{"two messages", call, header(), append(good[:len(good):len(good)], good...), "13", 0},
		{"a message longer than there is", call, header(), message(&pb.SimpleRequest{}, 1<<20), "13", 0},
		{"a message too long for anybody", call, header(), message(&pb.SimpleRequest{}, 1<<32-1), "8", 0},
		{"the same on a stream", str, header(), message(&pb.SimpleRequest{}, 1<<32-1), "8", 1},
		{"a message that is none", call, header(), []byte{0, 0, 0, 0, 1, 0xff}, "13", 0},
		{"the same on a stream ", str, header(), []byte{0, 0, 0, 0, 1, 0xff}, "13", 1},
		{"a message packed in an unknown way", call, header("Grpc-Encoding", "zebra"), append([]byte{1}, good[1:]...), "12", 0},
		{"a time that is none", call, header("Grpc-Timeout", "soon"), good, "13", 0},
		{"a time before now", call, header("Grpc-Timeout", "-1S"), good, "13", 0},
		{"a time that is over", call, header("Grpc-Timeout", "0n"), good, "4", 0},
		{"a time without end", call, header("Grpc-Timeout", "99999999H"), good, "0", 1},
		{"a time of too many digits", call, header("Grpc-Timeout", strings.Repeat("9", 5000)+"S"), good, "13", 0},
		{"what is gRPC's own", call, header("Grpc-Previous-Rpc-Attempts", strings.Repeat("9", 5000), "Grpc-Retry-Pushback-Ms", "-1"), good, "0", 1},
		{"values that are not base64", call, header("K-Bin", "!"), good, "13", 0},
		{"a thousand values", call, header(slices.Repeat([]string{"K", "v"}, 1000)...), good, "0", 1},
		{"a method without end", "/grpc.testing.TestService/" + strings.Repeat("x", 100_000), header(), good, "12", 0},
		{"no method", "/", header(), good, "12", 0},
		{"a page", call, http.Header{"Content-Type": {"text/html"}}, good, "3", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			s.calls.Store(0)
			assert.Equal(t, tt.want, send(ctx, tt.path, tt.header, bytes.NewReader(tt.body)))
			assert.Equal(t, tt.runs, s.calls.Load())
			_, err := c.UnaryCall(t.Context(), &pb.SimpleRequest{})
			assert.NoError(t, err, "of somebody else")
			assert.Zero(t, slots.Stats().InFlight)
		})
	}
	t.Run("calls that it walks away from", func(t *testing.T) {
		w.mu.Lock()
		w.outcomes = nil
		w.mu.Unlock()
		for range 1000 {
			ctx, cancel := context.WithCancel(t.Context())
			var one sync.WaitGroup
			one.Go(func() {
				send(ctx, call, header(), bytes.NewReader(message(&pb.SimpleRequest{Payload: payload("wait")}, -1)))
			})
			<-begun
			cancel()
			one.Wait()
		}
		_, err := c.UnaryCall(t.Context(), &pb.SimpleRequest{})
		assert.NoError(t, err)
		assert.Eventually(t, func() bool { return slots.Stats().InFlight == 0 }, 10*time.Second, time.Millisecond)
		w.mu.Lock()
		defer w.mu.Unlock()
		left := slices.DeleteFunc(w.outcomes, func(o mettle.Outcome) bool { return o == mettle.Ignored })
		assert.Equal(t, []mettle.Outcome{mettle.Success}, left, "who goes says nothing about the handler")
	})
}
