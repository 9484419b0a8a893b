package payments

import (
	"context"
	"errors"
	"net/http"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/mettle-go/mettle/examples/orders/internal/payments/paymentspb"
)

// newGRPC returns the service for gRPC, to be served over HTTP.
func newGRPC(s *Service) *grpc.Server {
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxBody))
	pb.RegisterPaymentsServer(server, &calls{s: s})
	return server
}

// calls are the methods of the service over gRPC.
type calls struct {
	pb.UnimplementedPaymentsServer
	s *Service
}

func (c *calls) Pay(ctx context.Context, req *pb.PayRequest) (*pb.PayResponse, error) {
	if !validKey(req.IdempotencyKey) {
		return nil, rpcError(&refusal{http.StatusBadRequest, "an Idempotency-Key is needed", 0})
	}
	charge, again, err := c.s.take(ctx, req.IdempotencyKey, Payment{
		Order: req.Payment.GetOrder(), Customer: req.Payment.GetCustomer(),
		Cents: req.Payment.GetCents(), Currency: req.Payment.GetCurrency(),
	})
	if err != nil {
		return nil, rpcError(err)
	}
	return &pb.PayResponse{Charge: message(charge), Replayed: again}, nil
}

func (c *calls) Find(_ context.Context, req *pb.FindRequest) (*pb.FindResponse, error) {
	switch taken, err := c.s.ledger.taken(req.IdempotencyKey); {
	case err != nil:
		return nil, rpcError(err)
	case !taken:
		return nil, rpcError(&refusal{http.StatusNotFound, "no charge under this key", 0})
	}
	return &pb.FindResponse{}, nil
}

func (c *calls) List(_ *pb.ListRequest, out grpc.ServerStreamingServer[pb.Charge]) error {
	return c.s.ledger.each(func(c Charge) error { return out.Send(message(c)) })
}

func message(c Charge) *pb.Charge {
	return &pb.Charge{Number: c.Number, Key: c.Key, Payment: &pb.Payment{
		Order: c.Payment.Order, Customer: c.Payment.Customer, Cents: c.Payment.Cents, Currency: c.Payment.Currency,
	}}
}

// FromMessage returns a charge as it came over gRPC.
func FromMessage(c *pb.Charge) Charge {
	return Charge{Number: c.GetNumber(), Key: c.GetKey(), Payment: Payment{
		Order: c.GetPayment().GetOrder(), Customer: c.GetPayment().GetCustomer(),
		Cents: c.GetPayment().GetCents(), Currency: c.GetPayment().GetCurrency(),
	}}
}

// rpcError is answer for gRPC: it says the same with a status.
func rpcError(err error) error {
	if err == errCut { // what a client sees of a connection that is gone
		return status.Error(codes.Unavailable, "connection cut")
	}
	var no *refusal
	if !errors.As(err, &no) {
		no = &refusal{http.StatusInternalServerError, "the store failed", 0}
	}
	code := codes.Internal
	switch no.status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		code = codes.InvalidArgument
	case http.StatusPaymentRequired:
		code = codes.FailedPrecondition
	case http.StatusForbidden:
		code = codes.PermissionDenied
	case http.StatusNotFound:
		code = codes.NotFound
	case http.StatusServiceUnavailable:
		code = codes.Unavailable
	}
	st := status.New(code, no.text)
	if no.after > 0 {
		if with, err := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(no.after)}); err == nil {
			st = with
		}
	}
	return st.Err()
}
