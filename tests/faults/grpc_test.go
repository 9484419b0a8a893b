package faults

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettlegrpc"
)

// messages is how many of messageSize make up the content that a stream brings.
const (
	messages    = 16
	messageSize = 16 << 10
)

// window is given so that gRPC does not look for the best one: the pings that this takes
// would be what a fault strikes, in place of the request or the answer.
const window = 1 << 20

// service is gRPC's own test service, as far as the calls here need it.
type service struct {
	pb.UnimplementedTestServiceServer
	*arrivals
}

func (service) EmptyCall(context.Context, *pb.Empty) (*pb.Empty, error) { return &pb.Empty{}, nil }

func (s service) UnaryCall(ctx context.Context, req *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	s.add(ctx)
	if len(req.Payload.GetBody()) > 0 {
		s.check(req.Payload.Body)
	}
	return &pb.SimpleResponse{Payload: &pb.Payload{Body: content[:req.ResponseSize]}}, nil
}

func (s service) StreamingOutputCall(_ *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
	s.add(out.Context())
	for i := range messages {
		part := content[i*messageSize:][:messageSize]
		if err := out.Send(&pb.StreamingOutputCallResponse{Payload: &pb.Payload{Body: part}}); err != nil {
			return err
		}
	}
	return nil
}

// grpcPeers are a client and a server of gRPC.
type grpcPeers struct {
	t      *testing.T
	wire   *wire
	slow   bool // keeps gRPC's own pause of a second before it connects again
	policy mettle.Policy
	conn   *grpc.ClientConn
	client pb.TestServiceClient
}

func newGRPCPeers(t *testing.T, w *wire, protocol string, a *arrivals) peers {
	opts := []grpc.ServerOption{
		grpc.WaitForHandlers(true),
		grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(window),
	}
	if w.hangUp {
		opts = append(opts, grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTime}))
	}
	server := grpc.NewServer(opts...)
	pb.RegisterTestServiceServer(server, service{arrivals: a})
	served := make(chan struct{})
	go func() { defer close(served); server.Serve(w.listener) }()
	t.Cleanup(func() { server.Stop(); <-served })
	return &grpcPeers{t: t, wire: w, slow: protocol == grpcSlow}
}

func (p *grpcPeers) wear(policy mettle.Policy, pipeline string) {
	var opts []mettlegrpc.Option
	switch pipeline {
	case shortAny:
		opts = append(opts, mettlegrpc.Resend(codes.Unavailable, codes.DeadlineExceeded))
	case shortNone:
		opts = append(opts, mettlegrpc.Resend())
	case shortTotal:
		opts = append(opts, mettlegrpc.StreamTotal(totalTimeout))
	}
	if policy == nil {
		policy = mettlegrpc.Standard("")
	}
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(mettlegrpc.UnaryClientInterceptor(policy, opts...)),
		grpc.WithStreamInterceptor(mettlegrpc.StreamClientInterceptor(policy, opts...)),
		grpc.WithDisableRetry(),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return p.wire.dial(ctx, "tcp", addr)
		}),
	}
	if !p.slow {
		dial = append(dial, grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           grpcbackoff.Config{BaseDelay: grpcPause, Multiplier: 1, MaxDelay: grpcPause},
			MinConnectTimeout: 10 * time.Second,
		}))
	}
	p.policy = policy
	var err error
	p.conn, err = grpc.NewClient("passthrough:///wire", dial...)
	require.NoError(p.t, err)
	p.client = pb.NewTestServiceClient(p.conn)
}

func (p *grpcPeers) observe(yield func(mettle.Metric) bool) {
	p.policy.(mettle.Observable).Observe(yield)
}

func (p *grpcPeers) warm() {
	_, err := p.client.EmptyCall(context.Background(), &pb.Empty{})
	require.NoError(p.t, err)
}

func (p *grpcPeers) leave() { p.conn.Close() }

func (p *grpcPeers) call(ctx context.Context, call string) string {
	switch call {
	case unary:
		return p.unary(ctx, &pb.SimpleRequest{ResponseSize: 5})
	case unaryReady:
		return p.unary(ctx, &pb.SimpleRequest{ResponseSize: 5}, grpc.WaitForReady(true))
	case unaryLong:
		return p.unary(ctx, &pb.SimpleRequest{ResponseSize: int32(len(content))})
	case unaryUp:
		return p.unary(ctx, &pb.SimpleRequest{ResponseSize: 5, Payload: &pb.Payload{Body: content}})
	case stream:
		return p.stream(ctx)
	}
	p.t.Fatalf("no such call: %s", call)
	return ""
}

func (p *grpcPeers) unary(ctx context.Context, req *pb.SimpleRequest, opts ...grpc.CallOption) string {
	reply, err := p.client.UnaryCall(ctx, req, opts...)
	if err != nil {
		require.Nil(p.t, reply)
		return name(err)
	}
	require.True(p.t, bytes.Equal(content[:req.ResponseSize], reply.Payload.Body), "the reply is another one, and no error")
	return "OK, reply whole"
}

func (p *grpcPeers) stream(ctx context.Context) string {
	// As gRPC demands of who does not receive to the end, which a failed test may be.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := p.client.StreamingOutputCall(ctx, &pb.StreamingOutputCallRequest{})
	if err != nil {
		return name(err) + " before the first message"
	}
	for n := 0; ; n++ {
		m, err := s.Recv()
		switch {
		case err == io.EOF:
			require.Equal(p.t, messages, n, "messages are missing, and no error")
			return "OK, all messages"
		case err != nil && n == 0:
			return name(err) + " before the first message"
		case err != nil:
			return name(err) + " between messages"
		}
		require.True(p.t, bytes.Equal(content[n*messageSize:][:messageSize], m.Payload.Body), "message %d is another one", n)
	}
}

// name is that of the status of err, which any error of a call has.
func name(err error) string {
	st, ok := status.FromError(err)
	if !ok {
		return fmt.Sprintf("error without a status: %v", err)
	}
	return st.Code().String()
}
