package mettlegrpc_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/middleware/mettlegrpc"
	"github.com/mettle-go/mettle/timeout"
)

// wearing makes a server wear p for calls and for streams.
func wearing(p mettle.Policy, opts ...mettlegrpc.Option) setup {
	return setup{server: []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(mettlegrpc.UnaryServerInterceptor(p, opts...)),
		grpc.ChainStreamInterceptor(mettlegrpc.StreamServerInterceptor(p, opts...)),
	}}
}

// headers notes whether a client received any before the trailers.
type headers struct {
	mu   sync.Mutex
	seen []*stats.InHeader
}

func (h *headers) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (h *headers) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (h *headers) HandleConn(context.Context, stats.ConnStats)                       {}
func (h *headers) HandleRPC(_ context.Context, s stats.RPCStats) {
	if in, ok := s.(*stats.InHeader); ok {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.seen = append(h.seen, in)
	}
}

// fullFor is a refusal that suggests a wait.
type fullFor struct {
	full
	d time.Duration
}

func (f *fullFor) RetryAfter() time.Duration { return f.d }

// Spec: G9
func TestServerRefuses(t *testing.T) {
	for _, tt := range []struct {
		name    string
		refusal error
		opts    []mettlegrpc.Option
		code    codes.Code
		push    []string
	}{
		{"as it does", new(full), nil, codes.Unavailable, nil},
		{"and says when", &fullFor{d: 1500 * time.Microsecond}, nil, codes.Unavailable, []string{"2"}},
		{"at once", &fullFor{d: 0}, nil, codes.Unavailable, nil},
		{"blaming the client", new(full), []mettlegrpc.Option{mettlegrpc.RefuseWith(codes.ResourceExhausted)}, codes.ResourceExhausted, []string{"1000"}},
		{"blaming the client, and says when", &fullFor{d: time.Minute}, []mettlegrpc.Option{mettlegrpc.RefuseWith(codes.ResourceExhausted)}, codes.ResourceExhausted, []string{"60000"}},
		{"for good", &fullFor{d: 1<<63 - 1}, nil, codes.Unavailable, []string{"9223372036854"}},
		{"by a timeout of its own in a queue", context.DeadlineExceeded, nil, codes.Unavailable, nil},
		{"by a fallback that has nothing to say", nil, nil, codes.Unavailable, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := new(service)
			refuse := mettle.PolicyFunc(func(context.Context, func(context.Context) error) error { return tt.refusal })
			set, seen := wearing(refuse, tt.opts...), new(headers)
			set.dial = []grpc.DialOption{grpc.WithStatsHandler(seen)}
			var told []error
			set.server = append(set.server, grpc.UnaryInterceptor(
				func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
					resp, err := handler(ctx, req)
					told = append(told, err)
					return resp, err
				}))
			c := pb.NewTestServiceClient(set.connect(t, direct, s))
			var trailer metadata.MD
			_, err := c.UnaryCall(t.Context(), &pb.SimpleRequest{}, grpc.Trailer(&trailer))
			assert.Equal(t, tt.code, status.Code(err))
			assert.Equal(t, tt.push, trailer["grpc-retry-pushback-ms"])
			assert.NotContains(t, err.Error(), "bulkhead", "what is behind the server is no business of the client")
			require.Len(t, told, 1)
			if tt.refusal != nil {
				assert.ErrorIs(t, told[0], tt.refusal, "but of the log")
			}

			str, err := c.FullDuplexCall(t.Context())
			require.NoError(t, err)
			_, err = str.Recv()
			assert.Equal(t, tt.code, status.Code(err))
			assert.Equal(t, tt.push, str.Trailer()["grpc-retry-pushback-ms"])
			assert.Empty(t, seen.seen, "Trailers-Only")
			assert.Zero(t, s.calls.Load())
		})
	}
	assert.Panics(t, func() { mettlegrpc.RefuseWith(codes.Internal) })
}

// What the handler answers stands, and is what the policy is told.
//
// Spec: G9, P14
func TestHandlerAnswers(t *testing.T) {
	detailed, err := status.New(codes.FailedPrecondition, "so it is").WithDetails(&pb.SimpleRequest{})
	require.NoError(t, err)
	for _, tt := range []struct {
		name string
		err  error
		code codes.Code
		want mettle.Outcome
	}{
		{"well", nil, codes.OK, mettle.Success},
		{"about the request", detailed.Err(), codes.FailedPrecondition, mettle.Success},
		{"a failure", status.Error(codes.Internal, ""), codes.Internal, mettle.Failure},
		{"overload", status.Error(codes.ResourceExhausted, ""), codes.ResourceExhausted, mettle.Overload},
		{"no status", errors.New("x"), codes.Unknown, mettle.Failure},
		{"a deadline of its own", context.DeadlineExceeded, codes.DeadlineExceeded, mettle.Timeout},
		{"a refusal that it met", new(full), codes.Unknown, mettle.Failure},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := new(witness)
			hide := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
				op(ctx)
				if op(ctx) == nil {
					t.Error("the handler ran twice")
				}
				return errors.New("the policy's own")
			})
			s := &service{
				unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
					assert.Equal(t, "/grpc.testing.TestService/UnaryCall", mettlegrpc.Method(ctx))
					assert.Empty(t, mettlegrpc.Target(ctx))
					return &pb.SimpleResponse{}, tt.err
				},
				output: func(_ *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
					assert.Equal(t, "/grpc.testing.TestService/StreamingOutputCall", mettlegrpc.Method(out.Context()))
					return errors.Join(send(out, 3), tt.err)
				},
			}
			if tt.err != nil {
				s.output = func(*pb.StreamingOutputCallRequest, pb.TestService_StreamingOutputCallServer) error { return tt.err }
			}
			c := pb.NewTestServiceClient(wearing(mettle.Compose(hide, mettle.PolicyFunc(first(w)))).connect(t, direct, s))
			_, err := c.UnaryCall(t.Context(), &pb.SimpleRequest{})
			assert.Equal(t, tt.code, status.Code(err))
			str, err := c.StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
			require.NoError(t, err)
			_, err = receive(str)
			assert.Equal(t, tt.code, status.Code(err))
			assert.EqualValues(t, 2, s.calls.Load())
			if tt.code == codes.FailedPrecondition {
				assert.Len(t, status.Convert(err).Details(), 1)
			}
			assert.Equal(t, []mettle.Outcome{tt.want, tt.want}, w.outcomes)
		})
	}
}

// first lets w witness what runs first, and not what is refused after it.
func first(w *witness) func(context.Context, func(context.Context) error) error {
	return func(ctx context.Context, op func(context.Context) error) error {
		err := op(ctx)
		if !errors.Is(err, mettle.ErrRejected) || errors.As(err, new(*full)) {
			w.Do(ctx, func(context.Context) error { return err })
		}
		return err
	}
}

// Spec: P14, G7
func TestClientGone(t *testing.T) {
	w := new(witness)
	slots := bulkhead.New(bulkhead.Config{})
	begun := make(chan bool, 1)
	s := &service{duplex: func(both pb.TestService_FullDuplexCallServer) error {
		begun <- true
		_, err := both.Recv()
		assert.Equal(t, 1, slots.Stats().InFlight)
		return err
	}}
	c := pb.NewTestServiceClient(wearing(mettle.Compose(w, slots)).connect(t, direct, s))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := c.FullDuplexCall(ctx)
	require.NoError(t, err)
	<-begun
	cancel()
	assert.Equal(t, mettle.Ignored, w.last(t))
	assert.Zero(t, slots.Stats().InFlight)
}

// A timeout at a server bounds what comes before the handler of a stream.
//
// Spec: G8
func TestServerTimeout(t *testing.T) {
	p := func() (*timeout.Timeout, *bulkhead.Bulkhead) {
		return timeout.New(timeout.Config{After: time.Second}),
			bulkhead.New(bulkhead.Config{Limit: 1, MaxWait: time.Hour})
	}
	slow := func(_ *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
		select {
		case <-time.After(time.Minute):
		case <-out.Context().Done():
			return out.Context().Err()
		}
		return send(out, 1)
	}
	bubble(t, "not a healthy stream", func(t *testing.T) {
		limit, slots := p()
		set := wearing(mettle.Compose(limit, slots))
		set.memory = true
		c := pb.NewTestServiceClient(set.connect(t, direct, &service{output: slow}))
		str, err := c.StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
		require.NoError(t, err)
		time.Sleep(time.Millisecond)
		_, err = c.UnaryCall(t.Context(), &pb.SimpleRequest{}) // waits in vain
		assert.Equal(t, codes.Unavailable, status.Code(err))
		text, err := receive(str)
		require.NoError(t, err)
		assert.Equal(t, "0", text)
		assert.Zero(t, limit.Stats().Late)
	})
	bubble(t, "unless it is to be total", func(t *testing.T) {
		set := wearing(direct, mettlegrpc.StreamTotal(30*time.Second))
		set.memory = true
		s := &service{output: slow, duplex: func(both pb.TestService_FullDuplexCallServer) error {
			<-both.Context().Done()
			assert.Equal(t, codes.DeadlineExceeded, status.Code(both.Send(&pb.StreamingOutputCallResponse{})))
			_, err := both.Recv()
			return err
		}}
		c := pb.NewTestServiceClient(set.connect(t, direct, s))
		start := time.Now()
		str, err := c.StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
		require.NoError(t, err)
		_, err = receive(str)
		assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
		assert.Equal(t, 30*time.Second, time.Since(start))
		both, err := c.FullDuplexCall(t.Context())
		require.NoError(t, err)
		_, err = both.Recv()
		assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
	})
	bubble(t, "but a call's handler", func(t *testing.T) {
		limit, slots := p()
		set := wearing(mettle.Compose(limit, slots))
		set.memory = true
		s := &service{unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		_, err := pb.NewTestServiceClient(set.connect(t, direct, s)).UnaryCall(t.Context(), &pb.SimpleRequest{})
		assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
		assert.EqualValues(t, 1, limit.Stats().Exceeded)
	})
}

// A panic of the handler passes, counted, to whoever recovers it.
//
// Spec: G9, P5
func TestHandlerPanics(t *testing.T) {
	b, slots := breaker.New(breaker.Config{Consecutive: 2}), bulkhead.New(bulkhead.Config{})
	set := wearing(mettle.Compose(slots, b))
	var values []any
	caught := func(err *error) {
		if v := recover(); v != nil {
			values = append(values, v)
			*err = status.Error(codes.Internal, "caught")
		}
	}
	set.server = append(set.server,
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (_ any, err error) {
			defer caught(&err)
			return handler(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
			defer caught(&err)
			return handler(srv, ss)
		}))
	s := &service{
		unary:  func(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error) { panic(io.ErrShortWrite) },
		duplex: func(pb.TestService_FullDuplexCallServer) error { panic(io.ErrNoProgress) },
	}
	c := pb.NewTestServiceClient(set.connect(t, direct, s))
	_, err := c.UnaryCall(t.Context(), &pb.SimpleRequest{})
	assert.Equal(t, codes.Internal, status.Code(err))
	str, err := c.FullDuplexCall(t.Context())
	require.NoError(t, err)
	_, err = str.Recv()
	assert.Equal(t, codes.Internal, status.Code(err))
	assert.Equal(t, []any{io.ErrShortWrite, io.ErrNoProgress}, values)
	assert.Equal(t, breaker.Open, b.State())
	assert.Zero(t, slots.Stats().InFlight)
}

// What the default admits, and that an interceptor without a policy has one.
//
// Spec: G9
func TestDefaults(t *testing.T) {
	hold := make(chan bool)
	begun := make(chan bool, 200)
	s := &service{unary: func(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		begun <- true
		<-hold
		return &pb.SimpleResponse{}, nil
	}}
	c := pb.NewTestServiceClient(wearing(nil).connect(t, direct, s))
	var calls sync.WaitGroup
	for range 200 {
		calls.Go(func() {
			_, err := c.UnaryCall(t.Context(), &pb.SimpleRequest{})
			assert.NoError(t, err)
		})
	}
	for range 200 {
		<-begun
	}
	_, err := c.UnaryCall(t.Context(), &pb.SimpleRequest{})
	assert.Equal(t, codes.Unavailable, status.Code(err))
	close(hold)
	calls.Wait()

	s = new(service)
	s.unary = func(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		if s.calls.Load() < 3 {
			return nil, down
		}
		return &pb.SimpleResponse{}, nil
	}
	_, err = client(t, nil, s).UnaryCall(t.Context(), &pb.SimpleRequest{})
	assert.NoError(t, err, "resent")

	names := map[string]bool{}
	mettlegrpc.Standard("orders").Observe(func(m mettle.Metric) bool {
		for _, l := range m.Labels {
			if l.Key == "policy" {
				names[l.Value] = true
			}
		}
		return true
	})
	assert.Equal(t, map[string]bool{"orders": true, "orders total": true, "orders attempt": true}, names)

	var none *breaker.Breaker
	for _, f := range []func(){
		func() { mettlegrpc.UnaryClientInterceptor(none) }, func() { mettlegrpc.StreamClientInterceptor(none) },
		func() { mettlegrpc.UnaryServerInterceptor(none) }, func() { mettlegrpc.StreamServerInterceptor(none) },
	} {
		assert.Panics(t, f)
	}
}

// Policies can keep state by connection and by method.
func TestKeys(t *testing.T) {
	var targets, methods []string
	note := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		targets, methods = append(targets, mettlegrpc.Target(ctx)), append(methods, mettlegrpc.Method(ctx))
		return op(ctx)
	})
	conn := setup{memory: true}.connect(t, note, new(service))
	c := pb.NewTestServiceClient(conn)
	_, err := c.UnaryCall(t.Context(), &pb.SimpleRequest{})
	require.NoError(t, err)
	str, err := c.StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
	require.NoError(t, err)
	_, err = receive(str)
	require.NoError(t, err)
	assert.Equal(t, []string{"passthrough:///memory", "passthrough:///memory"}, targets)
	assert.Equal(t, []string{"/grpc.testing.TestService/UnaryCall", "/grpc.testing.TestService/StreamingOutputCall"}, methods)
	assert.Empty(t, mettlegrpc.Target(t.Context()))
	assert.Empty(t, mettlegrpc.Method(t.Context()))
}
