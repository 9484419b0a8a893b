package overhead

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	fsbulkhead "github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafegrpc"
	fstimeout "github.com/failsafe-go/failsafe-go/timeout"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettlegrpc"
)

// A grpcKind is an interceptor for unary calls; nil is none.
type grpcKind struct {
	name      string
	intercept grpc.UnaryClientInterceptor
	stream    grpc.StreamClientInterceptor
}

// Besides the bare connection: the standard pipeline, the same five policies of failsafe
// in the same order, what an interceptor of mettlegrpc costs without a policy, and what gRPC
// itself takes for a deadline, which both ends keep a timer for. The timeouts of failsafe are
// timers at the client alone: no deadline is in the context, so that the server is sent none,
// and its attempts share the caller's reply.
func grpcKinds() []grpcKind {
	standard := mettlegrpc.Standard("")
	return []grpcKind{
		{name: "bare"},
		{"mettle", mettlegrpc.UnaryClientInterceptor(standard), mettlegrpc.StreamClientInterceptor(standard)},
		{"mettle-none", mettlegrpc.UnaryClientInterceptor(mettle.Compose()), mettlegrpc.StreamClientInterceptor(mettle.Compose())},
		{name: "failsafe", intercept: failsafegrpc.NewUnaryClientInterceptor[*pb.SimpleResponse](
			fstimeout.New[*pb.SimpleResponse](30*time.Second),
			failsafegrpc.NewRetryPolicyBuilder[*pb.SimpleResponse]().WithMaxRetries(2).WithBackoff(100*time.Millisecond, 5*time.Second).Build(),
			circuitbreaker.NewBuilder[*pb.SimpleResponse]().WithFailureRateThreshold(rate, minCalls, window).Build(),
			fsbulkhead.New[*pb.SimpleResponse](100),
			fstimeout.New[*pb.SimpleResponse](10*time.Second))},
		{name: "deadline", intercept: func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			return invoke(ctx, method, req, reply, cc, opts...)
		}},
	}
}

// grpcService answers with 200 bytes, and streams ten such messages.
type grpcService struct {
	pb.UnimplementedTestServiceServer
	fail func() bool
}

var grpcPage = &pb.Payload{Body: bytes.Repeat([]byte("x"), 200)}

func (s grpcService) UnaryCall(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	if s.fail() {
		return nil, status.Error(codes.Unavailable, "not now")
	}
	return &pb.SimpleResponse{Payload: grpcPage}, nil
}

func (s grpcService) StreamingOutputCall(_ *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
	for range 10 {
		if err := out.Send(&pb.StreamingOutputCallResponse{Payload: grpcPage}); err != nil {
			return err
		}
	}
	return nil
}

// grpcClients returns a client for each kind, each with a connection of its own over
// loopback.
func grpcClients(tb testing.TB, kinds []grpcKind, fail func() bool) []pb.TestServiceClient {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterTestServiceServer(server, grpcService{fail: fail})
	go server.Serve(listener)
	tb.Cleanup(server.Stop)
	var clients []pb.TestServiceClient
	for _, kind := range kinds {
		opts := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry()}
		if kind.intercept != nil {
			opts = append(opts, grpc.WithUnaryInterceptor(kind.intercept))
		}
		if kind.stream != nil {
			opts = append(opts, grpc.WithStreamInterceptor(kind.stream))
		}
		conn, err := grpc.NewClient(listener.Addr().String(), opts...)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { conn.Close() })
		clients = append(clients, pb.NewTestServiceClient(conn))
	}
	return clients
}

func healthy() bool { return false }

func grpcCall(tb testing.TB, c pb.TestServiceClient) {
	resp, err := c.UnaryCall(tb.Context(), &pb.SimpleRequest{})
	if err != nil || len(resp.Payload.Body) != 200 {
		tb.Fatal(resp, err)
	}
}

func grpcStream(tb testing.TB, c pb.TestServiceClient) {
	s, err := c.StreamingOutputCall(tb.Context(), &pb.StreamingOutputCallRequest{})
	n := 0
	for ; err == nil; n++ {
		_, err = s.Recv()
	}
	if n != 11 {
		tb.Fatal(n, err)
	}
}

// BenchmarkGRPC is for allocations, which include those of the server in the same
// process. For times see BenchmarkGRPCInTurn.
func BenchmarkGRPC(b *testing.B) {
	kinds := grpcKinds()
	clients := grpcClients(b, kinds, healthy)
	for i, c := range clients {
		b.Run("case=unary/impl="+kinds[i].name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				grpcCall(b, c)
			}
		})
	}
	for i, c := range clients {
		if kinds[i].intercept != nil && kinds[i].stream == nil {
			continue
		}
		b.Run("case=stream/impl="+kinds[i].name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				grpcStream(b, c)
			}
		})
	}
}

// BenchmarkGRPCInTurn is what BenchmarkHTTPInTurn is for HTTP: it reports the median of
// each kind, and of its ratio to the bare connection in the same round.
func BenchmarkGRPCInTurn(b *testing.B) {
	kinds := grpcKinds()
	clients := grpcClients(b, kinds, healthy)
	times := make([][]float64, len(kinds))
	ratios := make([][]float64, len(kinds))
	random := rand.New(rand.NewPCG(1, 2))
	for b.Loop() {
		var took [8]float64
		// What a call leaves to be done falls to the next one, so that each has to come after
		// every other as often: in turn, the same code was 1 % dearer behind a dear neighbour.
		for _, i := range random.Perm(len(clients)) {
			start := time.Now()
			grpcCall(b, clients[i])
			took[i] = float64(time.Since(start))
		}
		for i := range clients {
			times[i] = append(times[i], took[i])
			ratios[i] = append(ratios[i], took[i]/took[0])
		}
	}
	for i, kind := range kinds {
		b.ReportMetric(median(times[i]), kind.name+"-ns")
		if i > 0 {
			b.ReportMetric(median(ratios[i]), kind.name+"/bare")
		}
	}
}

// All kinds but the bare connection resend what failed once, so that all do the same work.
func TestGRPCKinds(t *testing.T) {
	n := 0
	kinds := grpcKinds()
	clients := grpcClients(t, kinds, func() bool { n++; return n%2 == 1 })
	for i, c := range clients {
		n = 0
		_, err := c.UnaryCall(t.Context(), &pb.SimpleRequest{})
		resends := kinds[i].name == "mettle" || kinds[i].name == "failsafe"
		if (err == nil) != resends {
			t.Errorf("%s: %v after %d calls", kinds[i].name, err, n)
		}
	}
	for i, c := range grpcClients(t, kinds[:3], healthy) {
		t.Log(kinds[i].name)
		grpcStream(t, c)
	}
}
