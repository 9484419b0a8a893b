package mettlegrpc_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/middleware/mettlegrpc"
	"github.com/mettle-go/mettle/retry"
)

// What the policies of this module make of the marks that an attempt's error carries.

func resend() mettle.Policy {
	return retry.New(retry.Config{Backoff: retry.Constant(0), Budget: retry.NewBudget(retry.BudgetConfig{Start: 10})})
}

func TestRetryResendsUnavailable(t *testing.T) {
	client, service := dial(t, resend(), func(_ context.Context, n int) (*pb.SimpleResponse, error) {
		if n < 3 {
			return nil, status.Error(codes.Unavailable, "not yet")
		}
		return named("3"), nil
	})
	reply, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{})
	require.NoError(t, err)
	assert.Equal(t, "3", reply.Username)
	assert.EqualValues(t, 3, service.calls.Load())
}

func TestRetryKeepsStatus(t *testing.T) {
	client, service := dial(t, resend(), func(context.Context, int) (*pb.SimpleResponse, error) {
		return nil, status.Error(codes.Unavailable, "down")
	})
	_, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{})
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.ErrorIs(t, err, retry.ErrExhausted)
	assert.NotErrorIs(t, err, mettle.ErrRejected)
	assert.EqualValues(t, 3, service.calls.Load())
}

// Neither an answer nor a failure after which the work may have been done is resent,
// unless the user says that the methods can bear it.
//
// Spec: G2
func TestRetryResendsNothingElse(t *testing.T) {
	for _, tt := range []struct {
		code codes.Code
		opts []mettlegrpc.Option
		want int
	}{
		{codes.NotFound, nil, 1},
		{codes.Internal, nil, 1},
		{codes.ResourceExhausted, nil, 1},
		{codes.DeadlineExceeded, nil, 1},
		{codes.Internal, []mettlegrpc.Option{mettlegrpc.Resend(codes.Internal)}, 3},
		{codes.Unavailable, []mettlegrpc.Option{mettlegrpc.Resend(codes.Internal)}, 1},
	} {
		client, service := dial(t, resend(), func(context.Context, int) (*pb.SimpleResponse, error) {
			return nil, status.Error(tt.code, "no")
		}, tt.opts...)
		_, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{})
		assert.Equal(t, tt.code, status.Code(err))
		assert.EqualValues(t, tt.want, service.calls.Load(), "%v", tt.code)
	}
}

// Spec: G9
func TestOpenBreakerIsUnavailable(t *testing.T) {
	p := breaker.New(breaker.Config{Name: "orders", Consecutive: 3})
	client, service := dial(t, p, func(_ context.Context, n int) (*pb.SimpleResponse, error) {
		if n <= 2 {
			return nil, status.Error(codes.NotFound, "an answer, which trips nothing")
		}
		return nil, status.Error(codes.Internal, "broken")
	})
	for range 5 {
		_, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{})
		assert.NotErrorIs(t, err, mettle.ErrRejected)
	}
	_, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{})
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.ErrorIs(t, err, breaker.ErrOpen)
	var open *breaker.OpenError
	require.ErrorAs(t, err, &open)
	assert.Equal(t, "orders", open.Name)
	assert.EqualValues(t, 5, service.calls.Load())
}
