package mettlegrpc_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/middleware/mettlegrpc"
	"github.com/mettle-go/mettle/retry"
)

// busy is what a server says that has too much to do.
type busy struct {
	code  codes.Code
	push  []string       // grpc-retry-pushback-ms
	delay *time.Duration // of a RetryInfo
}

func (b busy) status() error {
	st := status.New(b.code, "busy")
	if b.delay != nil {
		st, _ = st.WithDetails(&errdetails.ErrorInfo{}, &errdetails.RetryInfo{RetryDelay: durationpb.New(*b.delay)})
	}
	return st.Err()
}

func (b busy) trailer() metadata.MD { return metadata.MD{"grpc-retry-pushback-ms": b.push} }

func after(d time.Duration) *time.Duration { return &d }

// What a server says about coming back decides whether and when, for a call and for a
// stream of the server's.
//
// Spec: G2, G3
func TestServerSaysWhen(t *testing.T) {
	const never, backoff = -1, 10 * time.Second
	for _, tt := range []struct {
		name string
		busy busy
		want time.Duration // until the second attempt
		most time.Duration // with jitter; zero: exactly want
	}{
		{"nothing", busy{codes.Unavailable, nil, nil}, backoff, 0},
		{"nothing, and too much to do", busy{codes.ResourceExhausted, nil, nil}, never, 0},
		{"pushback below the backoff", busy{codes.Unavailable, []string{"1500"}, nil}, 1500 * time.Millisecond, 0},
		{"pushback above the backoff", busy{codes.ResourceExhausted, []string{"20000"}, nil}, 20 * time.Second, 0},
		{"pushback at once", busy{codes.ResourceExhausted, []string{"0"}, nil}, 0, 0},
		{"pushback above the cap", busy{codes.Unavailable, []string{"30001"}, nil}, never, 0},
		{"pushback above everything", busy{codes.Unavailable, []string{"9223372036854775807"}, nil}, never, 0},
		{"pushback longer than any number", busy{codes.Unavailable, []string{strings.Repeat("9", 4000)}, nil}, never, 0},
		{"negative pushback", busy{codes.Unavailable, []string{"-1"}, nil}, never, 0},
		{"garbage", busy{codes.Unavailable, []string{"soon"}, nil}, never, 0},
		{"an empty pushback", busy{codes.Unavailable, []string{""}, nil}, never, 0},
		{"several", busy{codes.Unavailable, []string{"1", "1"}, nil}, never, 0},
		{"pushback on what is not resent", busy{codes.Internal, []string{"1"}, nil}, never, 0},
		{"pushback on an answer", busy{codes.NotFound, []string{"1"}, nil}, never, 0},
		{"RetryInfo below the backoff", busy{codes.Unavailable, nil, after(time.Second)}, backoff, 0},
		{"RetryInfo above the backoff", busy{codes.ResourceExhausted, nil, after(20 * time.Second)}, 20 * time.Second, 22 * time.Second},
		{"RetryInfo above the cap", busy{codes.ResourceExhausted, nil, after(time.Minute)}, never, 0},
		{"RetryInfo of the past", busy{codes.Unavailable, nil, after(-time.Second)}, backoff, 0},
		{"RetryInfo of the past, and too much to do", busy{codes.ResourceExhausted, nil, after(-time.Second)}, never, 0},
		{"both", busy{codes.Unavailable, []string{"50"}, after(20 * time.Second)}, 50 * time.Millisecond, 0},
	} {
		play := func(t *testing.T, call func(pb.TestServiceClient) error) {
			var came []time.Time
			s := new(service)
			answer := func(set func(metadata.MD)) error {
				if came = append(came, time.Now()); len(came) == 1 {
					set(tt.busy.trailer())
					return tt.busy.status()
				}
				return nil
			}
			s.unary = func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
				return &pb.SimpleResponse{}, answer(func(md metadata.MD) { grpc.SetTrailer(ctx, md) })
			}
			s.output = func(_ *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
				return answer(out.SetTrailer)
			}
			p := retry.New(retry.Config{Backoff: retry.Constant(backoff)})
			err := call(pb.NewTestServiceClient(setup{memory: true}.connect(t, p, s)))
			if tt.want == never {
				assert.Equal(t, tt.busy.code, status.Code(err))
				assert.Len(t, came, 1)
				return
			}
			require.NoError(t, err)
			require.Len(t, came, 2)
			if waited := came[1].Sub(came[0]); tt.most == 0 {
				assert.Equal(t, tt.want, waited)
			} else {
				assert.GreaterOrEqual(t, waited, tt.want)
				assert.LessOrEqual(t, waited, tt.most)
			}
		}
		bubble(t, tt.name+", to a call", func(t *testing.T) {
			play(t, func(c pb.TestServiceClient) error {
				_, err := c.UnaryCall(t.Context(), &pb.SimpleRequest{})
				return err
			})
		})
		bubble(t, tt.name+", to a stream", func(t *testing.T) {
			play(t, func(c pb.TestServiceClient) error {
				str, err := c.StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
				if err != nil {
					return err
				}
				_, err = receive(str)
				return err
			})
		})
	}
}

// Who names RESOURCE_EXHAUSTED has it resent in any case; who names others, in none.
//
// Spec: G2
func TestResendReplacesAllDefaults(t *testing.T) {
	for _, tt := range []struct {
		opt  mettlegrpc.Option
		push []string
		want int32
	}{
		{mettlegrpc.Resend(codes.ResourceExhausted), nil, 3},
		{mettlegrpc.Resend(codes.Unavailable), []string{"0"}, 1},
		{mettlegrpc.Resend(), []string{"0"}, 1},
	} {
		b := busy{codes.ResourceExhausted, tt.push, nil}
		s := &service{unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
			grpc.SetTrailer(ctx, b.trailer())
			return nil, b.status()
		}}
		_, err := client(t, resend(), s, tt.opt).UnaryCall(t.Context(), &pb.SimpleRequest{})
		assert.Equal(t, codes.ResourceExhausted, status.Code(err))
		assert.Equal(t, tt.want, s.calls.Load())
	}
}

// fail runs one call through an interceptor whose server answers so, and returns what a
// policy sees of it.
func fail(t testing.TB, err error, trailer metadata.MD) error {
	w := new(witness)
	got := mettlegrpc.UnaryClientInterceptor(w)(t.Context(), "/s/m", nil, &pb.SimpleResponse{}, nil,
		func(_ context.Context, _ string, _, _ any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
			for _, opt := range opts {
				if o, ok := opt.(grpc.TrailerCallOption); ok {
					*o.TrailerAddr = trailer
				}
			}
			return err
		})
	if status.Code(got) != status.Code(err) {
		t.Errorf("%v came back as %v", err, got)
	}
	return w.errs[0]
}

// Whatever a server sends, there is a delay that can be waited for, or none, and it is sent
// again or not, as a plain reading of the rules has it.
//
// Spec: G2, G3
func FuzzServerSaysWhen(f *testing.F) {
	f.Add(uint32(14), "1", "", []byte{}, 1)
	f.Add(uint32(8), "", "x", []byte{8, 1}, 3)
	f.Add(uint32(14), "-9223372036854775808", "", []byte{0x0a, 0x09, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, 40)
	f.Add(uint32(14), "99999999999999999999", "0", []byte{0x0a, 0x02, 0x10, 0x01}, 100)
	f.Add(uint32(99), "+5", "", []byte{0xff}, 0)
	f.Fuzz(func(t *testing.T, code uint32, one, two string, detail []byte, details int) {
		trailer := metadata.MD{}
		for _, v := range []string{one, two} {
			if v != "" {
				trailer.Append("grpc-retry-pushback-ms", v)
			}
		}
		st := &spb.Status{Code: int32(code)}
		for range min(max(details, 0), 1000) {
			st.Details = append(st.Details, &anypb.Any{TypeUrl: "type.googleapis.com/google.rpc.RetryInfo", Value: detail})
		}
		err := fail(t, status.ErrorProto(st), trailer)
		if err == nil {
			return // OK
		}
		delay, ok := mettle.RetryAfter(err)
		want := asked(trailer.Get("grpc-retry-pushback-ms"), st.Details)
		if !mettle.Classify(t.Context(), err).Failed() {
			want = nil // an answer
		}
		switch {
		case want == nil && ok:
			t.Errorf("a delay of %v, want none", delay)
		case want != nil && (!ok || !want.IsInt64() || delay != time.Duration(want.Int64())):
			t.Errorf("a delay of %v (%v), want %v", delay, ok, want)
		}
		var permanent interface{ Permanent() bool }
		if !errors.As(err, &permanent) {
			t.Fatal("whether to resend is not told")
		}
		told := len(trailer) > 0
		may := code == uint32(codes.Unavailable) && (want != nil || !told) || code == uint32(codes.ResourceExhausted) && want != nil
		if permanent.Permanent() == may {
			t.Errorf("resent: %v, want %v", !may, may)
		}
	})
}

// asked is the plain way to say for how long a server asks to wait, in nanoseconds; nil is
// for not at all.
func asked(pushbacks []string, details []*anypb.Any) *big.Int {
	longest := big.NewInt(math.MaxInt64)
	capped := func(n *big.Int) *big.Int {
		switch {
		case n.Sign() < 0:
			return nil
		case n.Cmp(longest) > 0:
			return longest
		}
		return n
	}
	if len(pushbacks) > 0 {
		ms, ok := new(big.Int).SetString(pushbacks[0], 10)
		if len(pushbacks) > 1 || !ok || !ms.IsInt64() || len(pushbacks[0]) > 20 {
			return nil
		}
		return capped(ms.Mul(ms, big.NewInt(int64(time.Millisecond))))
	}
	var most *big.Int
	for _, d := range details[:min(len(details), 32)] {
		var info errdetails.RetryInfo
		if proto.Unmarshal(d.Value, &info) != nil || info.RetryDelay == nil {
			continue
		}
		n := new(big.Int).Mul(big.NewInt(info.RetryDelay.Seconds), big.NewInt(int64(time.Second)))
		n = capped(n.Add(n, big.NewInt(int64(info.RetryDelay.Nanos))))
		if n != nil && (most == nil || n.Cmp(most) > 0) {
			most = n
		}
	}
	return most
}

// Spec: G3
func TestHostileStatus(t *testing.T) {
	info := func(d *durationpb.Duration) *anypb.Any {
		a, err := anypb.New(&errdetails.RetryInfo{RetryDelay: d})
		require.NoError(t, err)
		return a
	}
	second := info(durationpb.New(time.Second))
	many := make([]*anypb.Any, 100_000)
	for i := range many {
		many[i] = info(nil)
	}
	many[99_999] = second
	for name, tt := range map[string]struct {
		details []*anypb.Any
		want    time.Duration // negative: none
	}{
		"none":                  {nil, -1},
		"a second":              {[]*anypb.Any{info(nil), second}, time.Second},
		"the longest of two":    {[]*anypb.Any{info(durationpb.New(3)), second, info(durationpb.New(5))}, time.Second},
		"longer than there is":  {[]*anypb.Any{info(&durationpb.Duration{Seconds: math.MaxInt64, Nanos: math.MaxInt32})}, math.MaxInt64},
		"odd nanoseconds":       {[]*anypb.Any{info(&durationpb.Duration{Seconds: 1, Nanos: math.MinInt32})}, -1},
		"the one behind 99,999": {many, -1},
		"no value":              {[]*anypb.Any{{TypeUrl: second.TypeUrl}}, -1},
		"cut short":             {[]*anypb.Any{{TypeUrl: second.TypeUrl, Value: second.Value[:1]}}, -1},
		"of no type":            {[]*anypb.Any{{Value: second.Value}, nil}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			err := fail(t, status.ErrorProto(&spb.Status{Code: 14, Details: tt.details}), nil)
			d, ok := mettle.RetryAfter(err)
			assert.Equal(t, tt.want >= 0, ok)
			assert.Equal(t, max(tt.want, 0), d)
		})
	}
	endless := make([]string, 100_000)
	err := fail(t, status.Error(codes.Unavailable, ""), metadata.MD{"grpc-retry-pushback-ms": endless})
	_, ok := mettle.RetryAfter(err)
	assert.False(t, ok)
}

// Each attempt has the caller's metadata, whatever an interceptor further in adds to it.
//
// Spec: G5
func TestMetadataIsTheCallers(t *testing.T) {
	s := new(service)
	s.unary = func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		assert.Equal(t, []string{"mine"}, md.Get("key"))
		assert.Equal(t, []string{fmt.Sprint(s.calls.Load())}, md.Get("signature"), "of this attempt, and only of this")
		assert.Empty(t, md.Get("grpc-previous-rpc-attempts"))
		return nil, down
	}
	sign := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		md, _ := metadata.FromOutgoingContext(ctx)
		md.Append("signature", fmt.Sprint(mettle.Attempt(ctx)))
		return invoke(metadata.NewOutgoingContext(ctx, md), method, req, reply, cc, opts...)
	}
	conn := setup{dial: []grpc.DialOption{grpc.WithChainUnaryInterceptor(sign)}}.connect(t, resend(), s)
	own := metadata.Pairs("key", "mine")
	_, err := pb.NewTestServiceClient(conn).UnaryCall(metadata.NewOutgoingContext(t.Context(), own), &pb.SimpleRequest{})
	assert.ErrorIs(t, err, retry.ErrExhausted)
	assert.EqualValues(t, 3, s.calls.Load())
	assert.Equal(t, metadata.Pairs("key", "mine"), own)
}

// gRPC's own retry happens below every interceptor, so that its attempts multiply with
// ours. WithDisableRetry turns it off, and the service config tells whether it may be on.
//
// Spec: G10
func TestBuiltInRetryMultiplies(t *testing.T) {
	config := grpc.WithDefaultServiceConfig(`{"methodConfig": [{
		"name": [{"service": "grpc.testing.TestService"}],
		"retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.001s", "maxBackoff": "0.001s",
			"backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`)
	for _, tt := range []struct {
		name string
		p    mettle.Policy
		dial []grpc.DialOption
		want int32
	}{
		{"neither", direct, nil, 1},
		{"ours", resend(), nil, 3},
		{"gRPC's", direct, []grpc.DialOption{config}, 3},
		{"both", resend(), []grpc.DialOption{config}, 9},
		{"both, gRPC's turned off", resend(), []grpc.DialOption{config, grpc.WithDisableRetry()}, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var theirs atomic.Int32
			s := &service{}
			s.unary = func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
				if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("grpc-previous-rpc-attempts")) > 0 {
					theirs.Add(1)
				}
				return nil, down
			}
			s.output = func(*pb.StreamingOutputCallRequest, pb.TestService_StreamingOutputCallServer) error { return down }
			conn := setup{dial: tt.dial}.connect(t, tt.p, s)
			c := pb.NewTestServiceClient(conn)
			_, err := c.UnaryCall(t.Context(), &pb.SimpleRequest{})
			assert.Equal(t, codes.Unavailable, status.Code(err))
			assert.Equal(t, tt.want, s.calls.Swap(0))
			config := conn.GetMethodConfig("/grpc.testing.TestService/UnaryCall")
			assert.Equal(t, len(tt.dial) > 0, config.RetryPolicy != nil, "as the documentation says to detect it")
			assert.Equal(t, strings.Contains(tt.name, "off") || len(tt.dial) == 0, theirs.Load() == 0)

			str, err := c.StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
			require.NoError(t, err)
			_, err = receive(str)
			assert.Equal(t, codes.Unavailable, status.Code(err))
			assert.Equal(t, tt.want, s.calls.Load())
		})
	}
}

// A slow call is sent again, the first answer wins and the loser is cancelled; nothing of
// it is seen, and nothing is left.
//
// Spec: G11, G4, G1
func TestHedge(t *testing.T) {
	bubble(t, "a slow first", func(t *testing.T) {
		w := new(witness)
		var cancelled atomic.Int32
		s := new(service)
		s.unary = func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
			n := s.calls.Load()
			grpc.SetHeader(ctx, metadata.Pairs("n", fmt.Sprint(n)))
			grpc.SetTrailer(ctx, metadata.Pairs("n", fmt.Sprint(n)))
			if n == 1 {
				<-ctx.Done()
				cancelled.Add(1)
				return nil, status.Error(codes.Internal, "put out")
			}
			return &pb.SimpleResponse{Username: fmt.Sprint(n)}, nil
		}
		p := mettle.Compose(hedge.New(hedge.Config{After: time.Second}), w)
		c := pb.NewTestServiceClient(setup{memory: true}.connect(t, p, s))
		var header, trailer metadata.MD
		start := time.Now()
		reply, err := c.UnaryCall(t.Context(), &pb.SimpleRequest{}, grpc.Header(&header), grpc.Trailer(&trailer))
		require.NoError(t, err)
		assert.Equal(t, "2", reply.Username)
		assert.Equal(t, []string{"2"}, header.Get("n"))
		assert.Equal(t, []string{"2"}, trailer.Get("n"))
		assert.Equal(t, time.Second, time.Since(start))
		time.Sleep(time.Second)
		assert.EqualValues(t, 1, cancelled.Load(), "the server is told")
		assert.ElementsMatch(t, []mettle.Outcome{mettle.Success, mettle.Ignored}, w.outcomes)
	})
	bubble(t, "all fail", func(t *testing.T) {
		s := new(service)
		s.unary = func(_ context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
			n := s.calls.Load()
			time.Sleep(time.Duration(n) * 2 * time.Second)
			st, err := status.New([]codes.Code{codes.Unavailable, codes.Internal}[n-1], fmt.Sprint("number ", n)).
				WithDetails(&errdetails.ErrorInfo{Reason: fmt.Sprint(n)})
			return nil, errors.Join(err, st.Err())
		}
		c := pb.NewTestServiceClient(setup{memory: true}.connect(t, hedge.New(hedge.Config{After: time.Second}), s))
		_, err := c.UnaryCall(t.Context(), &pb.SimpleRequest{})
		st := status.Convert(err)
		assert.Equal(t, codes.Internal, st.Code(), "that of the last: %v", err)
		require.Len(t, st.Details(), 1)
		assert.Equal(t, "2", st.Details()[0].(*errdetails.ErrorInfo).Reason)
		for _, n := range []string{"number 1", "number 2"} {
			assert.Contains(t, st.Message(), n)
		}
		assert.ErrorAs(t, err, new(*hedge.Error), "what it wraps is kept")
		assert.EqualValues(t, 2, s.calls.Load())
	})
	bubble(t, "an answer about the request is one", func(t *testing.T) {
		s := new(service)
		s.unary = func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
			if s.calls.Load() == 1 {
				<-ctx.Done()
			}
			return nil, status.Error(codes.NotFound, "no such order")
		}
		c := pb.NewTestServiceClient(setup{memory: true}.connect(t, hedge.New(hedge.Config{After: time.Second}), s))
		_, err := c.UnaryCall(t.Context(), &pb.SimpleRequest{})
		assert.Equal(t, codes.NotFound, status.Code(err))
	})
	bubble(t, "streams are let be", func(t *testing.T) {
		s := &service{output: func(_ *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
			time.Sleep(time.Minute)
			return send(out, 3)
		}}
		c := pb.NewTestServiceClient(setup{memory: true}.connect(t, hedge.New(hedge.Config{After: time.Second}), s))
		str, err := c.StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
		require.NoError(t, err)
		text, err := receive(str)
		require.NoError(t, err)
		assert.Equal(t, "012", text)
		assert.EqualValues(t, 1, s.calls.Load())
	})
}

// A message that is no pointer cannot be received twice, so its call is sent once.
//
// Spec: G4
func TestReplyThatIsNoPointer(t *testing.T) {
	calls := 0
	reply := map[string]string{}
	invoke := func(_ context.Context, _ string, _, got any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
		calls++
		got.(map[string]string)["n"] = fmt.Sprint(calls)
		return down
	}
	err := mettlegrpc.UnaryClientInterceptor(repeat(3))(t.Context(), "/s/m", nil, reply, nil, invoke)
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.Equal(t, map[string]string{"n": "1"}, reply)
	assert.Equal(t, 1, calls)

	invoke = func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil }
	for _, reply := range []any{reply, nil, []byte{}} {
		assert.NoError(t, mettlegrpc.UnaryClientInterceptor(direct)(t.Context(), "/s/m", nil, reply, nil, invoke))
	}
}
