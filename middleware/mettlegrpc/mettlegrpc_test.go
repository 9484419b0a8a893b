package mettlegrpc_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettlegrpc"
)

// server is gRPC's own test service, whose one method does what the test says.
// n counts the calls that reach it, from 1.
type server struct {
	pb.UnimplementedTestServiceServer
	calls  atomic.Int32
	handle func(ctx context.Context, n int) (*pb.SimpleResponse, error)
}

func (s *server) UnaryCall(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	return s.handle(ctx, int(s.calls.Add(1)))
}

// dial starts a server on loopback and returns a client of it that wears p.
func dial(t *testing.T, p mettle.Policy, handle func(context.Context, int) (*pb.SimpleResponse, error),
	opts ...mettlegrpc.Option,
) (pb.TestServiceClient, *server) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	service := &server{handle: handle}
	s := grpc.NewServer()
	pb.RegisterTestServiceServer(s, service)
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	t.Cleanup(func() {
		s.Stop()
		assert.NoError(t, <-served)
	})
	conn, err := grpc.NewClient(listener.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(mettlegrpc.UnaryClientInterceptor(p, opts...)))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, conn.Close()) })
	return pb.NewTestServiceClient(conn), service
}

func named(name string) *pb.SimpleResponse {
	return &pb.SimpleResponse{Username: name, Payload: &pb.Payload{Body: []byte(name)}}
}

var direct = mettle.Compose()

// repeat runs op n times whatever it returns, and returns the last error.
func repeat(n int) mettle.Policy {
	return mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) (err error) {
		for i := range n {
			err = op(mettle.WithAttempt(ctx, i+1))
		}
		return err
	})
}

// race runs op n times side by side and returns when all have ended: nil if any
// succeeded, as a hedge does.
func race(n int) mettle.Policy {
	return mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		errs := make([]error, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { errs[i] = op(ctx) })
		}
		wg.Wait()
		for _, err := range errs {
			if err == nil {
				return nil
			}
		}
		return errors.Join(errs...)
	})
}

func TestReplyIsThatOfTheWinner(t *testing.T) {
	client, _ := dial(t, repeat(3), func(_ context.Context, n int) (*pb.SimpleResponse, error) {
		if n == 1 { // what only the first reply has must not show
			return &pb.SimpleResponse{Username: "1", OauthScope: "first"}, nil
		}
		return named(fmt.Sprint(n)), nil
	})
	reply, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{})
	require.NoError(t, err)
	assert.True(t, proto.Equal(named("3"), reply), "got %v", reply)
}

// The attempts of a hedge write concurrently, and all of them succeed: under the race
// detector this fails when two of them share a reply, a header or a peer.
//
// Spec: G4
func TestHedgedReplyIsOfOneAttempt(t *testing.T) {
	client, _ := dial(t, race(8), func(ctx context.Context, n int) (*pb.SimpleResponse, error) {
		name := fmt.Sprint(n)
		return named(name), errors.Join(
			grpc.SetHeader(ctx, metadata.Pairs("n", name)), grpc.SetTrailer(ctx, metadata.Pairs("n", name)))
	})
	for range 20 {
		var header, trailer metadata.MD
		var from peer.Peer
		reply, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{},
			grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&from))
		require.NoError(t, err)
		assert.Equal(t, reply.Username, string(reply.Payload.Body))
		assert.Equal(t, []string{reply.Username}, header.Get("n"))
		assert.Equal(t, []string{reply.Username}, trailer.Get("n"))
		assert.NotNil(t, from.Addr)
	}
}

// half is an invoker that receives half a reply, and then what end returns.
func half(end func(got *pb.SimpleResponse) error) grpc.UnaryInvoker {
	return func(_ context.Context, _ string, _, got any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
		got.(*pb.SimpleResponse).Username = "half a reply"
		return end(got.(*pb.SimpleResponse))
	}
}

// What came with an error is not seen, whatever the caller's reply held before, nor by
// the attempt that follows.
//
// Spec: G4
func TestErrorLeavesTheReplyAlone(t *testing.T) {
	no := status.Error(codes.Internal, "no")
	turned := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		return cmp.Or(op(ctx), no) // makes nothing of a success
	})
	recovers := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) (err error) {
		defer func() { err = fmt.Errorf("%v: %w", recover(), no) }()
		return op(ctx)
	})
	for name, tt := range map[string]struct {
		p   mettle.Policy
		end func(*pb.SimpleResponse) error
	}{
		"one attempt":            {direct, func(*pb.SimpleResponse) error { return no }},
		"several":                {repeat(3), func(*pb.SimpleResponse) error { return no }},
		"side by side":           {race(3), func(*pb.SimpleResponse) error { return no }},
		"a success refused":      {turned, func(*pb.SimpleResponse) error { return nil }},
		"two successes refused":  {mettle.Compose(turned, repeat(2)), func(*pb.SimpleResponse) error { return nil }},
		"a panic that is caught": {recovers, func(*pb.SimpleResponse) error { panic("half way") }},
	} {
		for _, before := range []*pb.SimpleResponse{{}, named("mine")} {
			t.Run(name, func(t *testing.T) {
				reply := proto.Clone(before)
				err := mettlegrpc.UnaryClientInterceptor(tt.p)(t.Context(), "/s/m", nil, reply, nil, half(tt.end))
				assert.Equal(t, codes.Internal, status.Code(err))
				assert.True(t, proto.Equal(before, reply), "%v", reply)
			})
		}
	}
	t.Run("and then a success", func(t *testing.T) {
		var seen []*pb.SimpleResponse
		var reply pb.SimpleResponse
		err := mettlegrpc.UnaryClientInterceptor(repeat(2))(t.Context(), "/s/m", nil, &reply, nil,
			func(_ context.Context, _ string, _, got any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
				m := got.(*pb.SimpleResponse)
				assert.Zero(t, proto.Size(m), "each attempt starts with an empty reply: %v", m)
				if seen = append(seen, m); len(seen) == 1 {
					m.Username, m.OauthScope = "half", "a reply"
					return no
				}
				m.Username = "whole"
				return nil
			})
		require.NoError(t, err)
		assert.True(t, proto.Equal(&pb.SimpleResponse{Username: "whole"}, &reply), "%v", &reply)
		assert.NotSame(t, seen[0], seen[1])
	})
}

// A first attempt may receive into the caller's reply, so a call does not return before
// it has, even if a policy does: the caller would read what the attempt still writes.
//
// Spec: G4, P3
func TestPolicyThatWalksAway(t *testing.T) {
	for _, won := range []bool{false, true} { // by an attempt that comes second
		bubble(t, fmt.Sprint("with a result: ", won), func(t *testing.T) {
			walksAway := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
				go op(ctx)
				synctest.Wait()
				if won {
					return op(ctx)
				}
				return nil
			})
			var first *pb.SimpleResponse
			var reply pb.SimpleResponse
			start := time.Now()
			err := mettlegrpc.UnaryClientInterceptor(walksAway)(t.Context(), "/s/m", nil, &reply, nil,
				half(func(got *pb.SimpleResponse) error {
					if first == nil {
						first = got
						time.Sleep(time.Minute)
					}
					got.OauthScope = "late"
					return nil
				}))
			require.NoError(t, err)
			assert.Equal(t, time.Minute, time.Since(start))
			assert.Same(t, first, &reply, "the fast path is what this is about")
			want := &pb.SimpleResponse{}
			if won {
				want = &pb.SimpleResponse{Username: "half a reply", OauthScope: "late"}
			}
			assert.True(t, proto.Equal(want, &reply), "%v", &reply)
		})
	}
}

// A codec of the user's has messages that are not protobuf's.
func TestReplyThatIsNotProtobuf(t *testing.T) {
	type answer struct{ Text string }
	intercept := mettlegrpc.UnaryClientInterceptor(repeat(2))
	reply := answer{"old"}
	err := intercept(t.Context(), "/s/m", nil, &reply, nil,
		func(_ context.Context, _ string, _, got any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
			assert.Empty(t, got.(*answer).Text, "each attempt starts with an empty reply")
			got.(*answer).Text = "new"
			return nil
		})
	require.NoError(t, err)
	assert.Equal(t, "new", reply.Text)
}

func TestFallbackWithoutReply(t *testing.T) {
	swallow := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		_ = op(ctx)
		return nil
	})
	client, _ := dial(t, swallow, func(context.Context, int) (*pb.SimpleResponse, error) {
		return nil, status.Error(codes.Internal, "no")
	})
	reply, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{})
	require.NoError(t, err)
	assert.True(t, proto.Equal(&pb.SimpleResponse{}, reply))
}

// The status of the last attempt comes back with message and details, however the
// policies wrap the error; and so do its trailers.
//
// Spec: G1
func TestStatusOfTheLastAttempt(t *testing.T) {
	wrap := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		return fmt.Errorf("gave up: %w", op(ctx))
	})
	handle := func(ctx context.Context, n int) (*pb.SimpleResponse, error) {
		st, err := status.New(codes.Aborted, fmt.Sprintf("attempt %d", n)).
			WithDetails(&errdetails.ErrorInfo{Reason: "CONFLICT"})
		if err != nil {
			return nil, err
		}
		return nil, errors.Join(grpc.SetTrailer(ctx, metadata.Pairs("n", fmt.Sprint(n))), st.Err())
	}
	for name, p := range map[string]mettle.Policy{
		"as it is": repeat(3),
		"wrapped":  mettle.Compose(wrap, repeat(3)),
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := dial(t, p, handle)
			var trailer metadata.MD
			_, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{}, grpc.Trailer(&trailer))
			require.Error(t, err)
			assert.Equal(t, codes.Aborted, status.Code(err))
			assert.Contains(t, status.Convert(err).Message(), "attempt 3")
			require.Len(t, status.Convert(err).Details(), 1)
			assert.Equal(t, "CONFLICT", status.Convert(err).Details()[0].(*errdetails.ErrorInfo).Reason)
			assert.Equal(t, []string{"3"}, trailer.Get("n"))
		})
	}
}

// full is a refusal as the policies of this module make them.
type full struct{}

func (*full) Error() string        { return "bulkhead: full" }
func (*full) Is(target error) bool { return target == mettle.ErrRejected }

// Spec: G9
func TestRefusalIsUnavailable(t *testing.T) {
	refuse := mettle.PolicyFunc(func(context.Context, func(context.Context) error) error { return new(full) })
	client, service := dial(t, refuse, nil)
	_, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{})
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.ErrorIs(t, err, mettle.ErrRejected)
	assert.ErrorAs(t, err, new(*full))
	assert.ErrorContains(t, err, "bulkhead: full")
	assert.Zero(t, service.calls.Load())
}

// A refusal by a policy further in is not the server's doing.
func TestRefusalFurtherInIsIgnored(t *testing.T) {
	var got error
	observe := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		got = op(ctx)
		return got
	})
	inner := mettlegrpc.UnaryClientInterceptor(
		mettle.PolicyFunc(func(context.Context, func(context.Context) error) error { return new(full) }))
	outer := mettlegrpc.UnaryClientInterceptor(observe)
	err := outer(t.Context(), "/s/m", nil, &pb.SimpleResponse{}, nil,
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
			return inner(ctx, method, req, reply, cc, nil, opts...)
		})
	assert.Equal(t, mettle.Ignored, mettle.Classify(t.Context(), got))
	assert.Equal(t, codes.Unavailable, status.Code(err))
}

// class runs one call and returns what the policies see of its end.
func class(t *testing.T, ctx context.Context, p mettle.Policy,
	handle func(context.Context, int) (*pb.SimpleResponse, error), opts ...mettlegrpc.Option,
) (outcome mettle.Outcome, permanent bool, err error) {
	t.Helper()
	observe := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		err := p.Do(ctx, op)
		outcome = mettle.Classify(ctx, err)
		var mark interface{ Permanent() bool }
		permanent = errors.As(err, &mark) && mark.Permanent()
		return err
	})
	client, _ := dial(t, observe, handle, opts...)
	_, err = client.UnaryCall(ctx, &pb.SimpleRequest{})
	return outcome, permanent, err
}

// Spec: P14, G2
func TestOutcomes(t *testing.T) {
	for code, want := range map[codes.Code]mettle.Outcome{
		codes.OK:                 mettle.Success,
		codes.Canceled:           mettle.Failure, // the server's own: the caller still waits
		codes.Unknown:            mettle.Failure,
		codes.InvalidArgument:    mettle.Success,
		codes.DeadlineExceeded:   mettle.Timeout,
		codes.NotFound:           mettle.Success,
		codes.AlreadyExists:      mettle.Success,
		codes.PermissionDenied:   mettle.Success,
		codes.ResourceExhausted:  mettle.Overload,
		codes.FailedPrecondition: mettle.Success,
		codes.Aborted:            mettle.Failure,
		codes.OutOfRange:         mettle.Success,
		codes.Unimplemented:      mettle.Success,
		codes.Internal:           mettle.Failure,
		codes.Unavailable:        mettle.Failure,
		codes.DataLoss:           mettle.Failure,
		codes.Unauthenticated:    mettle.Success,
		codes.Code(99):           mettle.Failure,
	} {
		t.Run(code.String(), func(t *testing.T) {
			outcome, permanent, err := class(t, t.Context(), direct,
				func(context.Context, int) (*pb.SimpleResponse, error) {
					return &pb.SimpleResponse{}, status.Error(code, "so it is")
				})
			assert.Equal(t, want, outcome, "%v", err)
			assert.Equal(t, code, status.Code(err))
			resent := code == codes.Unavailable || code == codes.OK
			assert.Equal(t, !resent, permanent, "only UNAVAILABLE is resent by default")
		})
	}
}

// An error says what its error.type is in a span, in the words of the protocol.
//
// Spec: O2 (part)
func TestErrorType(t *testing.T) {
	for code, want := range map[codes.Code]string{
		codes.Unavailable: "UNAVAILABLE", codes.DeadlineExceeded: "DEADLINE_EXCEEDED", codes.DataLoss: "DATA_LOSS",
		codes.Canceled: "CANCELLED", // with two L, unlike the constant
		42:             "UNKNOWN",   // a server may say what it likes
	} {
		told := ""
		look := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
			err := op(ctx)
			var typed interface{ ErrorType() string }
			if errors.As(err, &typed) {
				told = typed.ErrorType()
			}
			return err
		})
		class(t, t.Context(), look, func(context.Context, int) (*pb.SimpleResponse, error) {
			return nil, status.Error(code, "so it is")
		})
		assert.Equal(t, want, told)
	}
}

func TestResend(t *testing.T) {
	handle := func(context.Context, int) (*pb.SimpleResponse, error) {
		return nil, status.Error(codes.Aborted, "conflict")
	}
	_, permanent, _ := class(t, t.Context(), direct, handle, mettlegrpc.Resend(codes.Aborted, codes.Unavailable))
	assert.False(t, permanent)
	_, permanent, _ = class(t, t.Context(), direct, handle, mettlegrpc.Resend())
	assert.True(t, permanent)

	assert.PanicsWithValue(t, "mettlegrpc: Resend: NotFound is an answer, must be a failure of the server",
		func() { mettlegrpc.Resend(codes.Unavailable, codes.NotFound) })
	assert.PanicsWithValue(t, "mettlegrpc: Resend: Code(99) is no code of gRPC's",
		func() { mettlegrpc.Resend(99) })
}

func TestCallerGivesUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	outcome, _, err := class(t, ctx, direct, func(ctx context.Context, _ int) (*pb.SimpleResponse, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	})
	assert.Equal(t, mettle.Ignored, outcome)
	assert.Equal(t, codes.Canceled, status.Code(err))
}

func TestAttemptsOwnDeadline(t *testing.T) {
	expired := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		ctx, cancel := context.WithDeadline(ctx, time.Now())
		defer cancel()
		return op(ctx)
	})
	outcome, _, err := class(t, t.Context(), expired, nil)
	assert.Equal(t, mettle.Timeout, outcome)
	assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
}

// When no attempt has left a status, the end of the context is told as gRPC would.
func TestContextErrorsHaveAStatus(t *testing.T) {
	custom := errors.New("shutting down")
	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(custom)
	for _, tt := range []struct {
		ctx  context.Context
		err  error
		want codes.Code
	}{
		{t.Context(), context.DeadlineExceeded, codes.DeadlineExceeded},
		{t.Context(), fmt.Errorf("timeout: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		{t.Context(), context.Canceled, codes.Canceled},
		{cancelled, custom, codes.Canceled},
		{t.Context(), custom, codes.Unknown},
	} {
		fail := mettle.PolicyFunc(func(context.Context, func(context.Context) error) error { return tt.err })
		err := mettlegrpc.UnaryClientInterceptor(fail)(tt.ctx, "/s/m", nil, &pb.SimpleResponse{}, nil, nil)
		assert.Equal(t, tt.want, status.Code(err), "%v", tt.err)
		assert.ErrorIs(t, err, tt.err)
	}
}
