package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/examples/orders/internal/payments"
	pb "github.com/mettle-go/mettle/examples/orders/internal/payments/paymentspb"
	"github.com/mettle-go/mettle/examples/orders/internal/store"
	"github.com/mettle-go/mettle/middleware/mettlegrpc"
	"github.com/mettle-go/mettle/middleware/mettleotel"
)

// grpcPayer is a client over gRPC.
type grpcPayer struct {
	conn   *grpc.ClientConn
	client pb.PaymentsClient
}

// grpcTarget returns how a connection is to be made to the host of baseURL: with TLS if
// that is https.
func grpcTarget(baseURL string) (target, error) {
	u, err := url.Parse(baseURL)
	if err != nil {
		return target{}, errors.New("-payment-url is not a URL") // which may have a password
	}
	port, creds := "80", insecure.NewCredentials()
	if u.Scheme == "https" {
		port, creds = "443", credentials.NewTLS(nil)
	}
	to := target{net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port)), creds}
	conn, err := grpc.NewClient(to.host, grpc.WithTransportCredentials(creds)) // dials nobody yet
	if err != nil {
		return target{}, errors.New("-payment-url has no host that gRPC understands")
	}
	return to, conn.Close()
}

type target struct {
	host  string
	creds credentials.TransportCredentials
}

// newGRPC returns a client of the service at a target that grpcTarget has found good. It
// wears p; nil is the standard pipeline. Each attempt is a span.
func newGRPC(to target, tracer trace.Tracer, p mettle.Policy) *grpcPayer {
	if p == nil {
		p = mettlegrpc.Standard("list")
	}
	p = mettle.Compose(p, mettleotel.AttemptSpan(tracer, "payments"))
	// A payment has a key, so it can bear being sent again whatever became of it.
	resend := mettlegrpc.Resend(codes.Unavailable, codes.Internal, codes.DeadlineExceeded)
	conn, err := grpc.NewClient(to.host,
		grpc.WithTransportCredentials(to.creds),
		grpc.WithUnaryInterceptor(mettlegrpc.UnaryClientInterceptor(p, resend)),
		grpc.WithStreamInterceptor(mettlegrpc.StreamClientInterceptor(p)),
		grpc.WithDisableRetry(), // one retry is enough
		// gRPC waits before it dials again, and refuses calls meanwhile. As with the times
		// of the pipeline: this is for a demonstration.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 300 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		panic(err) // grpcTarget has made the same
	}
	return &grpcPayer{conn, pb.NewPaymentsClient(conn)}
}

func (g *grpcPayer) close() { g.conn.Close() }

func (g *grpcPayer) pay(ctx context.Context, o store.Order) (again bool, err error) {
	resp, err := g.client.Pay(ctx, &pb.PayRequest{
		IdempotencyKey: o.Key(),
		Payment:        &pb.Payment{Order: o.ID, Customer: o.Customer, Cents: o.Cents, Currency: o.Currency},
	})
	if err != nil {
		return false, grpcAnswer(err)
	}
	return resp.Replayed, nil
}

func (g *grpcPayer) charged(ctx context.Context, o store.Order) (bool, error) {
	_, err := g.client.Find(ctx, &pb.FindRequest{IdempotencyKey: o.Key()})
	switch {
	case err == nil:
		return true, nil
	case status.Code(err) == codes.NotFound:
		return false, nil
	default:
		return false, grpcAnswer(err)
	}
}

func (g *grpcPayer) charges(fn func(payments.Charge) error) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop() // a stream that is not read to its end has to be cancelled
	list, err := g.client.List(ctx, &pb.ListRequest{})
	for err == nil {
		var c *pb.Charge
		if c, err = list.Recv(); err == nil {
			err = fn(payments.FromMessage(c))
		}
	}
	if err == io.EOF {
		return nil
	}
	return grpcAnswer(err)
}

// grpcAnswer returns what the status in err means, or err itself where the call was refused
// at this end or the failure is not one of gRPC.
func grpcAnswer(err error) error {
	var call interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &call) ||
		errors.Is(err, mettle.ErrRejected) && mettle.Classify(context.Background(), err) == mettle.Ignored {
		return err
	}
	st := call.GRPCStatus()
	e := &answerError{status: name(st.Code()), text: st.Message()}
	e.after, _ = mettle.RetryAfter(err)
	switch st.Code() {
	case codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.FailedPrecondition,
		codes.OutOfRange, codes.Unimplemented, codes.Unauthenticated, codes.AlreadyExists:
		e.about = theOrder
	case codes.Unavailable, codes.ResourceExhausted:
		// A refused connection is among these, and so is one that was cut: gRPC does not
		// tell them apart.
		e.about = theService
		if strings.Contains(e.text, "connection refused") {
			e.status, e.text = "connection refused", ""
		}
	case codes.DeadlineExceeded:
		e.status, e.text = "no answer in time", ""
	}
	return e
}

// name returns a code as the protocol writes it.
func name(c codes.Code) string {
	var b strings.Builder
	for i, r := range c.String() {
		if i > 0 && r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToUpper(b.String())
}
