package mettlegrpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/middleware/mettlegrpc"
	"github.com/mettle-go/mettle/retry"
)

// serve starts gRPC's test service and returns a client of it, and how to stop both.
func serve(s *service, server []grpc.ServerOption, client ...grpc.DialOption) (pb.TestServiceClient, func()) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	g := grpc.NewServer(server...)
	pb.RegisterTestServiceServer(g, s)
	go g.Serve(listener)
	conn, err := grpc.NewClient(listener.Addr().String(),
		append(client, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		panic(err)
	}
	return pb.NewTestServiceClient(conn), func() { conn.Close(); g.Stop() }
}

// flaky fails twice and then works.
func flaky() *service {
	s := new(service)
	s.unary = func(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		if s.calls.Load() < 3 {
			return nil, status.Error(codes.Unavailable, "starting")
		}
		return &pb.SimpleResponse{Username: "gopher"}, nil
	}
	s.output = func(_ *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
		if s.calls.Load() < 3 {
			return status.Error(codes.Unavailable, "starting")
		}
		return send(out, 3)
	}
	return s
}

func ExampleUnaryClientInterceptor() {
	policy := mettle.Compose(
		retry.New(retry.Config{Backoff: retry.Constant(time.Millisecond)}),
		breaker.New(breaker.Config{Name: "users"}),
	)
	client, stop := serve(flaky(), nil,
		grpc.WithUnaryInterceptor(mettlegrpc.UnaryClientInterceptor(policy)),
		grpc.WithDisableRetry()) // one retry is enough
	defer stop()

	reply, err := client.UnaryCall(context.Background(), &pb.SimpleRequest{})
	fmt.Println(reply.GetUsername(), err)
	// Output: gopher <nil>
}

// gRPC for Go has no hedging of its own.
func ExampleUnaryClientInterceptor_hedge() {
	s := new(service)
	s.unary = func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		if s.calls.Load() == 1 {
			<-ctx.Done() // lost in a queue
			return nil, ctx.Err()
		}
		return &pb.SimpleResponse{Username: "gopher"}, nil
	}
	policy := hedge.New(hedge.Config{After: 10 * time.Millisecond})
	client, stop := serve(s, nil, grpc.WithUnaryInterceptor(mettlegrpc.UnaryClientInterceptor(policy)))
	defer stop()

	reply, err := client.UnaryCall(context.Background(), &pb.SimpleRequest{})
	fmt.Println(reply.GetUsername(), err)
	// Output: gopher <nil>
}

func ExampleStreamClientInterceptor() {
	slots := bulkhead.New(bulkhead.Config{Name: "feed"})
	policy := mettle.Compose(retry.New(retry.Config{Backoff: retry.Constant(time.Millisecond)}), slots)
	client, stop := serve(flaky(), nil, grpc.WithStreamInterceptor(mettlegrpc.StreamClientInterceptor(policy)))
	defer stop()

	stream, err := client.StreamingOutputCall(context.Background(), &pb.StreamingOutputCallRequest{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for {
		message, err := stream.Recv()
		fmt.Println(string(message.GetPayload().GetBody()), err, slots.Stats().InFlight)
		if err != nil {
			break
		}
	}
	// Output:
	// 0 <nil> 1
	// 1 <nil> 1
	// 2 <nil> 1
	//  EOF 0
}

func ExampleUnaryServerInterceptor() {
	limit := bulkhead.New(bulkhead.Config{Limit: 1})
	busy, _ := limit.TryAcquire() // somebody else's call
	client, stop := serve(new(service), []grpc.ServerOption{
		grpc.UnaryInterceptor(mettlegrpc.UnaryServerInterceptor(limit)),
		grpc.StreamInterceptor(mettlegrpc.StreamServerInterceptor(limit)),
	})
	defer stop()

	_, err := client.UnaryCall(context.Background(), &pb.SimpleRequest{})
	fmt.Println(status.Code(err))
	busy.Release()
	_, err = client.UnaryCall(context.Background(), &pb.SimpleRequest{})
	fmt.Println(status.Code(err))
	// Output:
	// Unavailable
	// OK
}

func ExampleStreamServerInterceptor() {
	limit := bulkhead.New(bulkhead.Config{Limit: 1})
	client, stop := serve(new(service), []grpc.ServerOption{
		grpc.StreamInterceptor(mettlegrpc.StreamServerInterceptor(limit)),
	})
	defer stop()

	stream, err := client.FullDuplexCall(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	stream.Send(&pb.StreamingOutputCallRequest{})
	stream.Recv()
	fmt.Println("in flight:", limit.Stats().InFlight)
	stream.CloseSend()
	_, err = stream.Recv()
	fmt.Println(err == io.EOF)
	// Output:
	// in flight: 1
	// true
}

func ExampleRefuseWith() {
	refuse := mettle.PolicyFunc(func(context.Context, func(context.Context) error) error {
		return fmt.Errorf("over the quota of this client: %w", mettle.ErrRejected)
	})
	client, stop := serve(new(service), []grpc.ServerOption{
		grpc.UnaryInterceptor(mettlegrpc.UnaryServerInterceptor(refuse, mettlegrpc.RefuseWith(codes.ResourceExhausted))),
	})
	defer stop()

	var trailer metadata.MD
	_, err := client.UnaryCall(context.Background(), &pb.SimpleRequest{}, grpc.Trailer(&trailer))
	fmt.Println(status.Code(err), trailer.Get("grpc-retry-pushback-ms"))
	// Output: ResourceExhausted [1000]
}

func ExampleResend() {
	s := new(service)
	s.unary = func(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		if s.calls.Load() < 3 {
			return nil, status.Error(codes.Aborted, "conflict")
		}
		return &pb.SimpleResponse{}, nil
	}
	policy := retry.New(retry.Config{Backoff: retry.Constant(time.Millisecond)})
	client, stop := serve(s, nil, grpc.WithUnaryInterceptor(
		mettlegrpc.UnaryClientInterceptor(policy, mettlegrpc.Resend(codes.Unavailable, codes.Aborted))))
	defer stop()

	_, err := client.UnaryCall(context.Background(), &pb.SimpleRequest{})
	fmt.Println(err, s.calls.Load())
	// Output: <nil> 3
}

func ExampleStandard() {
	policy := mettlegrpc.Standard("users") // one for all that goes over the connection
	client, stop := serve(flaky(), nil,
		grpc.WithUnaryInterceptor(mettlegrpc.UnaryClientInterceptor(policy)),
		grpc.WithStreamInterceptor(mettlegrpc.StreamClientInterceptor(policy)),
		grpc.WithDisableRetry())
	defer stop()

	reply, err := client.UnaryCall(context.Background(), &pb.SimpleRequest{})
	fmt.Println(reply.GetUsername(), err)
	policy.Observe(func(m mettle.Metric) bool {
		if m.Name == "mettle.retry.attempts" {
			fmt.Println(m.Name, m.Labels[1], m.Value)
		}
		return true
	})
	// Output:
	// gopher <nil>
	// mettle.retry.attempts {attempt 1} 1
	// mettle.retry.attempts {attempt 2} 1
	// mettle.retry.attempts {attempt 3+} 1
}

func ExampleMethod() {
	breakers := breaker.NewGroup[string](breaker.GroupConfig{Config: breaker.Config{Consecutive: 1}})
	s := &service{unary: func(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		return nil, status.Error(codes.Internal, "broken")
	}}
	policy := breakers.By(mettlegrpc.Method)
	client, stop := serve(s, nil,
		grpc.WithUnaryInterceptor(mettlegrpc.UnaryClientInterceptor(policy)),
		grpc.WithStreamInterceptor(mettlegrpc.StreamClientInterceptor(policy)))
	defer stop()

	client.UnaryCall(context.Background(), &pb.SimpleRequest{})
	_, err := client.UnaryCall(context.Background(), &pb.SimpleRequest{})
	fmt.Println(errors.Is(err, breaker.ErrOpen))
	_, err = client.StreamingOutputCall(context.Background(), &pb.StreamingOutputCallRequest{})
	fmt.Println(err)
	// Output:
	// true
	// <nil>
}

func ExampleTarget() {
	// Several connections may share one interceptor.
	breakers := breaker.NewGroup[string](breaker.GroupConfig{})
	intercept := grpc.WithUnaryInterceptor(mettlegrpc.UnaryClientInterceptor(breakers.By(mettlegrpc.Target)))
	for range 2 {
		client, stop := serve(new(service), nil, intercept)
		client.UnaryCall(context.Background(), &pb.SimpleRequest{})
		stop()
	}
	fmt.Println(breakers.Len(), "breakers")
	// Output: 2 breakers
}

// silent never answers.
var silent = &service{output: func(_ *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
	<-out.Context().Done()
	return out.Context().Err()
}}

func ExampleStreamTotal() {
	client, stop := serve(silent, nil, grpc.WithStreamInterceptor(
		mettlegrpc.StreamClientInterceptor(nil, mettlegrpc.StreamTotal(10*time.Millisecond))))
	defer stop()

	stream, err := client.StreamingOutputCall(context.Background(), &pb.StreamingOutputCallRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	fmt.Println(status.Code(err))
	// Output: DeadlineExceeded
}

func ExampleStreamIdle() {
	client, stop := serve(silent, nil, grpc.WithStreamInterceptor(
		mettlegrpc.StreamClientInterceptor(nil, mettlegrpc.StreamIdle(10*time.Millisecond))))
	defer stop()

	stream, err := client.StreamingOutputCall(context.Background(), &pb.StreamingOutputCallRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	fmt.Println(status.Code(err))
	// Output: DeadlineExceeded
}
