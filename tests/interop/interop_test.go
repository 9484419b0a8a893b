// Package interop has the cases by which implementations of gRPC prove to understand one
// another go through mettlegrpc.
package interop

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/interop"
	pb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/middleware/mettlegrpc"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// A case that fails logs so and ends the process. It is to end the test.
type logger struct{ grpclog.LoggerV2 }

type failed string

func (logger) Fatal(args ...any)                 { panic(failed(fmt.Sprint(args...))) }
func (logger) Fatalln(args ...any)               { panic(failed(fmt.Sprintln(args...))) }
func (logger) Fatalf(format string, args ...any) { panic(failed(fmt.Sprintf(format, args...))) }

func TestMain(m *testing.M) {
	grpclog.SetLoggerV2(logger{grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard)})
	goleak.VerifyTestMain(m)
}

// cases are those of gRPC's suite that need nothing but a connection.
var cases = map[string]func(ctx context.Context, c pb.TestServiceClient, conn *grpc.ClientConn){
	"empty_unary":                 plain(interop.DoEmptyUnaryCall),
	"large_unary":                 plain(interop.DoLargeUnaryCall),
	"client_streaming":            plain(interop.DoClientStreaming),
	"server_streaming":            plain(interop.DoServerStreaming),
	"ping_pong":                   plain(interop.DoPingPong),
	"empty_stream":                plain(interop.DoEmptyStream),
	"timeout_on_sleeping_server":  plain(interop.DoTimeoutOnSleepingServer),
	"cancel_after_begin":          plain(interop.DoCancelAfterBegin),
	"cancel_after_first_response": plain(interop.DoCancelAfterFirstResponse),
	"custom_metadata":             plain(interop.DoCustomMetadata),
	"status_code_and_message":     plain(interop.DoStatusCodeAndMessage),
	"special_status_message":      plain(interop.DoSpecialStatusMessage),
	"unimplemented_service": func(ctx context.Context, _ pb.TestServiceClient, conn *grpc.ClientConn) {
		interop.DoUnimplementedService(ctx, pb.NewUnimplementedServiceClient(conn))
	},
	"unimplemented_method": func(ctx context.Context, _ pb.TestServiceClient, conn *grpc.ClientConn) {
		interop.DoUnimplementedMethod(ctx, conn)
	},
}

func plain(f func(context.Context, pb.TestServiceClient, ...grpc.CallOption)) func(context.Context, pb.TestServiceClient, *grpc.ClientConn) {
	return func(ctx context.Context, c pb.TestServiceClient, _ *grpc.ClientConn) { f(ctx, c) }
}

const hedged = "a hedge"

// pipelines returns what clients and servers wear. A hedge that does not wait has every
// unary call sent twice, side by side.
func pipelines() (clients, servers map[string]mettle.Policy) {
	clients = map[string]mettle.Policy{
		"nothing":  mettle.Compose(),
		"standard": mettlegrpc.Standard(""),
		hedged:     mettle.Compose(hedge.New(hedge.Config{After: 1, Budget: retry.NoBudget}), bulkhead.New(bulkhead.Config{})),
	}
	servers = map[string]mettle.Policy{
		"nothing":  nil,
		"policies": mettle.Compose(timeout.New(timeout.Config{}), breaker.New(breaker.Config{}), bulkhead.New(bulkhead.Config{})),
	}
	return clients, servers
}

// connect starts gRPC's own test server, which wears one policy, and returns a
// connection that wears the other.
func connect(t *testing.T, client, server mettle.Policy) *grpc.ClientConn {
	var opts []grpc.ServerOption
	if server != nil {
		opts = []grpc.ServerOption{
			grpc.UnaryInterceptor(mettlegrpc.UnaryServerInterceptor(server)),
			grpc.StreamInterceptor(mettlegrpc.StreamServerInterceptor(server)),
		}
	}
	s := grpc.NewServer(append(opts, grpc.WaitForHandlers(true))...)
	pb.RegisterTestServiceServer(s, interop.NewTestServer())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var served sync.WaitGroup
	served.Go(func() { s.Serve(listener) })
	conn, err := grpc.NewClient(listener.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry(),
		grpc.WithUnaryInterceptor(mettlegrpc.UnaryClientInterceptor(client)),
		grpc.WithStreamInterceptor(mettlegrpc.StreamClientInterceptor(client)))
	require.NoError(t, err)
	t.Cleanup(func() {
		conn.Close()
		s.Stop()
		served.Wait()
	})
	return conn
}

// Whoever wears the interceptors, at one end or both, still speaks gRPC to the letter:
// messages of every size, streams of every kind, metadata, status texts, cancellation.
// What is held while that goes on has been given back.
//
// Spec: G1, G4, G5, G6, G7
func TestInterop(t *testing.T) {
	clients, servers := pipelines()
	for c, client := range clients {
		for s, server := range servers {
			t.Run(fmt.Sprintf("client with %s, server with %s", c, s), func(t *testing.T) {
				conn := connect(t, client, server)
				for name, play := range cases {
					if c == hedged && strings.Contains(name, "status") {
						continue // a hedge that fails tells of both attempts
					}
					t.Run(name, func(t *testing.T) {
						defer func() {
							switch v := recover().(type) {
							case nil:
							case failed:
								t.Fatal(v)
							default:
								panic(v)
							}
						}()
						ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
						defer cancel()
						play(ctx, pb.NewTestServiceClient(conn), conn)
					})
				}
				for _, p := range []mettle.Policy{client, server} {
					assert.Eventually(t, func() bool { return inFlight(p) == 0 }, 10*time.Second, time.Millisecond)
				}
			})
		}
	}
}

// inFlight returns how many calls the bulkheads of p hold.
func inFlight(p mettle.Policy) (n float64) {
	if o, ok := p.(mettle.Observable); ok {
		o.Observe(func(m mettle.Metric) bool {
			if m.Name == "mettle.bulkhead.in_flight" {
				n += m.Value
			}
			return true
		})
	}
	return n
}

// A case that ought to fail does so, and ends nothing but the test.
func TestCaseFails(t *testing.T) {
	full := bulkhead.New(bulkhead.Config{Limit: 1})
	slot, ok := full.TryAcquire()
	require.True(t, ok)
	defer slot.Release()
	conn := connect(t, mettle.Compose(), full)
	defer func() {
		_, ok := recover().(failed)
		assert.True(t, ok)
	}()
	interop.DoEmptyUnaryCall(t.Context(), pb.NewTestServiceClient(conn))
	t.Error("a call that is refused succeeded")
}
