package mettlegrpc_test

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/middleware/mettlegrpc"
)

// probing returns a breaker whose next call is a probe, and which closes when it succeeds.
func probing() *breaker.Breaker {
	b := breaker.New(breaker.Config{Successes: 1, ProbeTimeout: 15 * time.Second})
	b.Trip("test")
	time.Sleep(b.RemainingDelay())
	return b
}

// lasting is a service whose streams last for an hour and then end with end.
func lasting(header bool, every time.Duration, end error) *service {
	s := new(service)
	s.output = func(_ *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
		if header {
			out.SendHeader(metadata.Pairs("k", "v"))
		}
		for until := time.Now().Add(time.Hour); time.Now().Before(until); {
			time.Sleep(every)
			if err := send(out, 1); err != nil {
				return err
			}
		}
		return end
	}
	s.duplex = func(both pb.TestService_FullDuplexCallServer) error {
		for {
			if _, err := both.Recv(); err != nil {
				return end
			}
			time.Sleep(every)
			if err := both.Send(&pb.StreamingOutputCallResponse{}); err != nil {
				return err
			}
		}
	}
	s.input = func(in pb.TestService_StreamingInputCallServer) error {
		for {
			if _, err := in.Recv(); err != nil {
				return in.SendAndClose(&pb.StreamingInputCallResponse{})
			}
		}
	}
	return s
}

// A long healthy stream that happened to be the probe was given up after ProbeTimeout, so
// that a breaker around such streams opened again for as long as it was asked. It has
// succeeded when it brings something; what becomes of it afterwards opens nothing, and it
// holds what other policies gave it to its end, as every stream.
//
// Spec: G7, G8, B13
func TestStreamAsAProbe(t *testing.T) {
	output := func(t *testing.T, c pb.TestServiceClient) pb.TestService_StreamingOutputCallClient {
		str, err := c.StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
		require.NoError(t, err)
		return str
	}
	for _, tt := range []struct {
		name   string
		header bool
		every  time.Duration // a message comes
		play   func(t *testing.T, c pb.TestServiceClient, closed func()) error
		closes bool // the breaker, and not only at the end
	}{
		{"messages of a server", false, 10 * time.Second, func(t *testing.T, c pb.TestServiceClient, closed func()) error {
			str := output(t, c)
			_, err := str.Recv()
			require.NoError(t, err)
			closed()
			_, err = receive(str)
			return err
		}, true},
		{"the header", true, time.Hour, func(t *testing.T, c pb.TestServiceClient, closed func()) error {
			str := output(t, c)
			md, err := str.Header()
			require.NoError(t, err)
			assert.Equal(t, []string{"v"}, md.Get("k"))
			closed()
			_, err = receive(str)
			return err
		}, true},
		{"a conversation", false, 10 * time.Second, func(t *testing.T, c pb.TestServiceClient, closed func()) error {
			str, err := c.FullDuplexCall(t.Context())
			require.NoError(t, err)
			for range 360 {
				require.NoError(t, str.Send(&pb.StreamingOutputCallRequest{}))
				_, err = str.Recv()
				require.NoError(t, err)
				closed()
			}
			require.NoError(t, str.CloseSend())
			_, err = str.Recv()
			return err
		}, true},
		{"a stream that brings nothing for too long", false, time.Minute, func(t *testing.T, c pb.TestServiceClient, _ func()) error {
			_, err := receive(output(t, c))
			return err
		}, false},
		{"a header that nobody looks at", true, time.Minute, func(t *testing.T, c pb.TestServiceClient, _ func()) error {
			_, err := receive(output(t, c))
			return err
		}, false},
		{"an upload, whose answer is its end", false, 0, func(t *testing.T, c pb.TestServiceClient, _ func()) error {
			str, err := c.StreamingInputCall(t.Context())
			require.NoError(t, err)
			for range 60 {
				require.NoError(t, str.Send(&pb.StreamingInputCallRequest{}))
				time.Sleep(time.Second)
			}
			_, err = str.CloseAndRecv()
			return err
		}, false},
	} {
		for _, end := range []error{nil, status.Error(codes.Internal, "broken")} {
			bubble(t, tt.name, func(t *testing.T) {
				b, slots := probing(), bulkhead.New(bulkhead.Config{})
				c := pb.NewTestServiceClient(setup{memory: true}.connect(t, mettle.Compose(b, slots), lasting(tt.header, tt.every, end)))
				err := tt.play(t, c, func() {
					assert.Equal(t, breaker.Closed, b.State())
					assert.Equal(t, 1, slots.Stats().InFlight)
				})
				if err != nil && err != io.EOF {
					assert.Equal(t, end.Error(), err.Error())
				}
				synctest.Wait()
				assert.Equal(t, tt.closes, b.State() == breaker.Closed)
				assert.Zero(t, slots.Stats().InFlight)
				if s := b.Stats(); tt.closes {
					assert.Equal(t, []uint64{1, 0, 0}, []uint64{s.Succeeded, s.Failures, s.Stale})
				} else {
					assert.Equal(t, []uint64{0, 1, 1}, []uint64{s.Succeeded, s.Timeouts, s.Stale})
				}
			})
		}
	}
}

// Streams that end soon are probes like calls are, in all that a probe can come to.
//
// Spec: G7, B13
func TestShortStreamAsAProbe(t *testing.T) {
	refuses := mettle.PolicyFunc(func(context.Context, func(context.Context) error) error { return new(full) })
	for name, tt := range map[string]struct {
		end  error
		want breaker.State
	}{
		"without a message":  {nil, breaker.Closed},
		"with an answer":     {status.Error(codes.NotFound, ""), breaker.Closed},
		"in failure":         {status.Error(codes.Internal, ""), breaker.Open},
		"refused further in": {nil, breaker.HalfOpen},
	} {
		bubble(t, name, func(t *testing.T) {
			b := probing()
			p := mettle.Policy(b)
			if tt.want == breaker.HalfOpen {
				p = mettle.Compose(b, refuses)
			}
			s := &service{output: func(*pb.StreamingOutputCallRequest, pb.TestService_StreamingOutputCallServer) error { return tt.end }}
			c := pb.NewTestServiceClient(setup{memory: true}.connect(t, p, s))
			if str, err := c.StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{}); err == nil {
				receive(str)
			}
			synctest.Wait()
			assert.Equal(t, tt.want, b.State())
		})
	}
}

// At a server the handler's first message is what tells.
//
// Spec: G7, B13
func TestServedStreamAsAProbe(t *testing.T) {
	for name, tt := range map[string]struct {
		every time.Duration
		want  breaker.State
	}{
		"that talks":     {10 * time.Second, breaker.Closed},
		"that is silent": {time.Minute, breaker.Open},
	} {
		bubble(t, name, func(t *testing.T) {
			b := probing()
			set := wearing(b, mettlegrpc.StreamTotal(2*time.Hour))
			set.memory = true
			s := lasting(false, tt.every, status.Error(codes.Internal, "broken"))
			c := pb.NewTestServiceClient(set.connect(t, direct, s))
			str, err := c.StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
			require.NoError(t, err)
			time.Sleep(16 * time.Second)
			assert.Equal(t, tt.want, b.State())
			_, err = receive(str)
			assert.Equal(t, codes.Internal, status.Code(err))
			assert.Zero(t, b.Stats().Failures)
		})
	}
	bubble(t, "an upload", func(t *testing.T) {
		b := probing()
		set := wearing(b)
		set.memory = true
		c := pb.NewTestServiceClient(set.connect(t, direct, lasting(false, 0, nil)))
		str, err := c.StreamingInputCall(t.Context())
		require.NoError(t, err)
		_, err = str.CloseAndRecv()
		require.NoError(t, err)
		synctest.Wait()
		assert.Equal(t, breaker.Closed, b.State())
	})
}

// A hook that panics when a stream's message closes the breaker does so in RecvMsg, and the
// stream goes on.
//
// Spec: G7, P6
func TestHookPanicsAtAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(breaker.Config{Successes: 1, OnChange: func(c breaker.Change) {
			if c.To == breaker.Closed {
				panic("boom")
			}
		}})
		b.Trip("test")
		time.Sleep(b.RemainingDelay())
		slots := bulkhead.New(bulkhead.Config{})
		c := pb.NewTestServiceClient(setup{memory: true}.connect(t, mettle.Compose(b, slots), new(service)))
		str, err := c.StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
		require.NoError(t, err)
		assert.PanicsWithValue(t, "boom", func() { str.Recv() })
		assert.Equal(t, breaker.Closed, b.State())
		text, err := receive(str)
		require.NoError(t, err)
		assert.Equal(t, "12", text)
		synctest.Wait()
		assert.Zero(t, slots.Stats().InFlight)
	})
}
