package mettlegrpc_test

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/test/bufconn"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettlegrpc"
)

// service is gRPC's own test service, whose methods do what the test says. A nil one
// answers what it is sent.
type service struct {
	pb.UnimplementedTestServiceServer
	calls  atomic.Int32 // that have reached a handler
	unary  func(ctx context.Context, req *pb.SimpleRequest) (*pb.SimpleResponse, error)
	output func(req *pb.StreamingOutputCallRequest, s pb.TestService_StreamingOutputCallServer) error
	input  func(s pb.TestService_StreamingInputCallServer) error
	duplex func(s pb.TestService_FullDuplexCallServer) error
}

func (s *service) UnaryCall(ctx context.Context, req *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	s.calls.Add(1)
	if s.unary != nil {
		return s.unary(ctx, req)
	}
	return &pb.SimpleResponse{Payload: req.Payload}, nil
}

func (s *service) StreamingOutputCall(req *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
	s.calls.Add(1)
	if s.output != nil {
		return s.output(req, out)
	}
	return send(out, 3)
}

func (s *service) StreamingInputCall(in pb.TestService_StreamingInputCallServer) error {
	s.calls.Add(1)
	if s.input != nil {
		return s.input(in)
	}
	size := 0
	for {
		req, err := in.Recv()
		if err == io.EOF {
			return in.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: int32(size)})
		}
		if err != nil {
			return err
		}
		size += len(req.Payload.Body)
	}
}

func (s *service) FullDuplexCall(both pb.TestService_FullDuplexCallServer) error {
	s.calls.Add(1)
	if s.duplex != nil {
		return s.duplex(both)
	}
	for {
		req, err := both.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := both.Send(&pb.StreamingOutputCallResponse{Payload: req.Payload}); err != nil {
			return err
		}
	}
}

// send sends n messages, numbered from 0.
func send(s pb.TestService_StreamingOutputCallServer, n int) error {
	for i := range n {
		if err := s.Send(&pb.StreamingOutputCallResponse{Payload: payload(string('0' + rune(i)))}); err != nil {
			return err
		}
	}
	return nil
}

func payload(text string) *pb.Payload { return &pb.Payload{Body: []byte(text)} }

// setup is a connection and what is at its ends.
type setup struct {
	client []mettlegrpc.Option
	server []grpc.ServerOption
	dial   []grpc.DialOption
	memory bool // through memory and not a socket, as a synctest bubble needs it
}

// connect starts s and returns a connection to it whose client wears p.
func (c setup) connect(t *testing.T, p mettle.Policy, s *service) *grpc.ClientConn {
	t.Helper()
	server := grpc.NewServer(append(c.server, grpc.WaitForHandlers(true))...)
	pb.RegisterTestServiceServer(server, s)
	dial := append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(mettlegrpc.UnaryClientInterceptor(p, c.client...)),
		grpc.WithStreamInterceptor(mettlegrpc.StreamClientInterceptor(p, c.client...)),
	}, c.dial...)
	var listener net.Listener
	var target string
	if c.memory {
		buffer := bufconn.Listen(1 << 20)
		listener, target = buffer, "passthrough:///memory"
		dial = append(dial, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return buffer.DialContext(ctx)
		}))
	} else {
		var err error
		listener, err = net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		target = listener.Addr().String()
	}
	var served sync.WaitGroup
	served.Go(func() { server.Serve(listener) })
	conn, err := grpc.NewClient(target, dial...)
	require.NoError(t, err)
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		served.Wait()
	})
	return conn
}

// client is connect over a socket, without anything else.
func client(t *testing.T, p mettle.Policy, s *service, opts ...mettlegrpc.Option) pb.TestServiceClient {
	t.Helper()
	return pb.NewTestServiceClient(setup{client: opts}.connect(t, p, s))
}

// bubble runs a test with a clock of its own. What it connects goes through memory.
func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// noStreamLeft fails unless every goroutine of a client's stream ends.
func noStreamLeft(t *testing.T) {
	t.Helper()
	buf := make([]byte, 1<<20)
	for range 500 {
		all := string(buf[:runtime.Stack(buf, true)])
		if !strings.Contains(all, "mettlegrpc.(*clientStream).run") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("a stream is left:\n%s", buf[:runtime.Stack(buf, true)])
}

// witness is a policy that notes what the end of each call was taken for.
type witness struct {
	mu       sync.Mutex
	outcomes []mettle.Outcome
	errs     []error
}

func (w *witness) Do(ctx context.Context, op func(context.Context) error) error {
	err := errors.New("panicked")
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.outcomes = append(w.outcomes, mettle.Classify(ctx, err))
		w.errs = append(w.errs, err)
	}()
	err = op(ctx)
	return err
}

// last returns the outcome of the only call, once it has ended.
func (w *witness) last(t *testing.T) mettle.Outcome {
	t.Helper()
	require.Eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.outcomes) > 0
	}, 10*time.Second, time.Millisecond)
	w.mu.Lock()
	defer w.mu.Unlock()
	assert.Len(t, w.outcomes, 1)
	return w.outcomes[0]
}

// receive reads a stream to its end.
func receive(s pb.TestService_StreamingOutputCallClient) (text string, err error) {
	for {
		m, err := s.Recv()
		if err == io.EOF {
			return text, nil
		}
		if err != nil {
			return text, err
		}
		text += string(m.Payload.Body)
	}
}
