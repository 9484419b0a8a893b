package mettlegrpc_test

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettlegrpc"
)

var errClosed = fmt.Errorf("closed for maintenance: %w", mettle.ErrRejected)

func ExampleUnaryClientInterceptor() {
	// Any policy will do; this one refuses every call.
	policy := mettle.PolicyFunc(func(context.Context, func(context.Context) error) error { return errClosed })

	conn, err := grpc.NewClient("127.0.0.1:50051",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(mettlegrpc.UnaryClientInterceptor(policy,
			mettlegrpc.Resend(codes.Unavailable, codes.Aborted))))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()

	_, err = pb.NewTestServiceClient(conn).UnaryCall(context.Background(), &pb.SimpleRequest{})
	fmt.Println(status.Code(err), errors.Is(err, mettle.ErrRejected))
	// Output: Unavailable true
}
