package payments_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/mettle-go/mettle/examples/orders/internal/payments"
	pb "github.com/mettle-go/mettle/examples/orders/internal/payments/paymentspb"
)

func dial(t *testing.T, s *payments.Service) pb.PaymentsClient {
	t.Helper()
	conn, err := grpc.NewClient(strings.TrimPrefix(s.URL(), "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return pb.NewPaymentsClient(conn)
}

func payment(order string, cents int64, currency string) *pb.Payment {
	return &pb.Payment{Order: order, Customer: "c1", Cents: cents, Currency: currency}
}

// Both protocols lead to one store, and a key counts in both.
//
// Spec: Q2
func TestOneKeyOverBothProtocols(t *testing.T) {
	s := start(t, "healthy")
	c := dial(t, s)
	_, err := post(t, s, "k1", good)
	require.NoError(t, err)
	req := &pb.PayRequest{IdempotencyKey: "k1", Payment: payment("o1", 100, "EUR")}
	resp, err := c.Pay(t.Context(), req)
	require.NoError(t, err)
	require.True(t, resp.Replayed)
	req.IdempotencyKey, req.Payment.Order = "k2", "o2"
	resp, err = c.Pay(t.Context(), req)
	require.NoError(t, err)
	require.False(t, resp.Replayed)
	require.Equal(t, map[string]int{"o1": 1, "o2": 1}, charged(t, s))

	_, err = c.Find(t.Context(), &pb.FindRequest{IdempotencyKey: "k2"})
	require.NoError(t, err)
	_, err = c.Find(t.Context(), &pb.FindRequest{IdempotencyKey: "k3"})
	require.Equal(t, codes.NotFound, status.Code(err))

	list, err := c.List(t.Context(), &pb.ListRequest{})
	require.NoError(t, err)
	var seen []payments.Payment
	for {
		m, err := list.Recv()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		seen = append(seen, payments.FromMessage(m).Payment)
	}
	require.Equal(t, []payments.Payment{
		{Order: "o1", Customer: "c1", Cents: 100, Currency: "EUR"}, {Order: "o2", Customer: "c1", Cents: 100, Currency: "EUR"},
	}, seen)
}

func TestRefusalsOverGRPC(t *testing.T) {
	c := dial(t, start(t, "healthy"))
	for _, tt := range []struct {
		key  string
		p    *pb.Payment
		code codes.Code
	}{
		{"1", payment("o", 1, "EUR"), codes.OK},
		{"1", payment("o", 2, "EUR"), codes.InvalidArgument},
		{"", payment("o", 1, "EUR"), codes.InvalidArgument},
		{strings.Repeat("k", 256), payment("o", 1, "EUR"), codes.InvalidArgument},
		{"2", nil, codes.InvalidArgument},
		{"3", payment("o", 1, "XTS"), codes.InvalidArgument},
		{"4", payment("o", 500_001, "EUR"), codes.FailedPrecondition},
		{"5", &pb.Payment{Order: "o", Customer: "gone-1", Cents: 1, Currency: "EUR"}, codes.PermissionDenied},
		{"6", payment("o", 66_666, "EUR"), codes.Internal},
	} {
		_, err := c.Pay(t.Context(), &pb.PayRequest{IdempotencyKey: tt.key, Payment: tt.p})
		require.Equal(t, tt.code, status.Code(err), "%v", tt)
	}
}

func TestPhasesOverGRPC(t *testing.T) {
	s := start(t, "storm 300ms retry-after=1500ms\nrefused 300ms\nhang 300ms\nrecovery")
	c := dial(t, s)
	pay := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := c.Pay(ctx, &pb.PayRequest{IdempotencyKey: "k", Payment: payment("o1", 100, "EUR")})
		return err
	}
	err := pay()
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.Equal(t, 1500*time.Millisecond, status.Convert(err).Details()[0].(*errdetails.RetryInfo).RetryDelay.AsDuration())
	require.Eventually(t, func() bool { return strings.Contains(fmt.Sprint(pay()), "connection refused") }, 5*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		err := pay()
		return err == nil || strings.Contains(err.Error(), "connection cut")
	}, 10*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool { return pay() == nil }, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, map[string]int{"o1": 1}, charged(t, s))
}
