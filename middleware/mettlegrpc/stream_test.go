package mettlegrpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/middleware/mettlegrpc"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

var down = status.Error(codes.Unavailable, "down")

// kinds plays a healthy stream of each kind.
var kinds = map[string]func(t *testing.T, c pb.TestServiceClient){
	"server": func(t *testing.T, c pb.TestServiceClient) {
		s, err := c.StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
		require.NoError(t, err)
		text, err := receive(s)
		require.NoError(t, err)
		assert.Equal(t, "012", text)
		_, err = s.Recv()
		assert.Equal(t, io.EOF, err, "as often as asked")
	},
	"client": func(t *testing.T, c pb.TestServiceClient) {
		s, err := c.StreamingInputCall(t.Context())
		require.NoError(t, err)
		for range 3 {
			require.NoError(t, s.Send(&pb.StreamingInputCallRequest{Payload: payload("12345")}))
		}
		sum, err := s.CloseAndRecv()
		require.NoError(t, err)
		assert.EqualValues(t, 15, sum.AggregatedPayloadSize)
	},
	"bidi": func(t *testing.T, c pb.TestServiceClient) {
		s, err := c.FullDuplexCall(t.Context())
		require.NoError(t, err)
		for i := range 3 {
			require.NoError(t, s.Send(&pb.StreamingOutputCallRequest{Payload: payload(fmt.Sprint(i))}))
			m, err := s.Recv()
			require.NoError(t, err)
			assert.Equal(t, fmt.Sprint(i), string(m.Payload.Body))
		}
		require.NoError(t, s.CloseSend())
		_, err = s.Recv()
		assert.Equal(t, io.EOF, err, "%v", err)
	},
}

// No kind of stream fails for being one, whatever the policy.
//
// Spec: G6, G7
func TestStreamsOfEveryKind(t *testing.T) {
	full := bulkhead.New(bulkhead.Config{Limit: 1})
	watch := new(witness)
	for name, p := range map[string]mettle.Policy{
		"nothing":     direct,
		"the default": nil,
		"a retry":     retry.New(retry.Config{}),
		"a breaker":   breaker.New(breaker.Config{SlowCall: time.Minute}),
		"a bulkhead":  mettle.Compose(watch, full),
		"a race":      race(3),
	} {
		for kind, play := range kinds {
			t.Run(name+" around a stream of the "+kind, func(t *testing.T) {
				s := new(service)
				play(t, client(t, p, s))
				assert.EqualValues(t, 1, s.calls.Load())
				assert.Zero(t, full.Stats().InFlight, "given back by the time the caller sees the end")
				noStreamLeft(t)
			})
		}
	}
	assert.Equal(t, []mettle.Outcome{0, 0, 0}, watch.outcomes, "all are successes")
}

// Spec: G6, G1, G5
func TestServerStreamIsResent(t *testing.T) {
	s := new(service)
	s.output = func(req *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
		n := s.calls.Load()
		md, _ := metadata.FromIncomingContext(out.Context())
		assert.Equal(t, "asked", string(req.Payload.Body))
		assert.Equal(t, []string{"mine"}, md.Get("key"))
		assert.Empty(t, md.Get("grpc-previous-rpc-attempts"), "it is gRPC's own")
		out.SetTrailer(metadata.Pairs("n", fmt.Sprint(n)))
		if n < 3 {
			return down
		}
		out.SetHeader(metadata.Pairs("n", fmt.Sprint(n)))
		return send(out, 5)
	}
	for _, header := range []bool{false, true} {
		t.Run(fmt.Sprint("asked for the header first: ", header), func(t *testing.T) {
			s.calls.Store(0)
			c := client(t, resend(), s)
			own := metadata.Pairs("key", "mine")
			var seen metadata.MD
			var trailer metadata.MD
			var from peer.Peer
			str, err := c.StreamingOutputCall(metadata.NewOutgoingContext(t.Context(), own),
				&pb.StreamingOutputCallRequest{Payload: payload("asked")},
				grpc.Header(&seen), grpc.Trailer(&trailer), grpc.Peer(&from))
			require.NoError(t, err)
			own.Set("key", "mine no more")
			if header {
				md, err := str.Header()
				require.NoError(t, err)
				assert.Equal(t, []string{"3"}, md.Get("n"))
			}
			text, err := receive(str)
			require.NoError(t, err)
			assert.Equal(t, "01234", text)
			assert.Equal(t, []string{"3"}, str.Trailer().Get("n"))
			assert.Equal(t, []string{"3"}, seen.Get("n"))
			assert.Equal(t, []string{"3"}, trailer.Get("n"))
			assert.NotNil(t, from.Addr)
			assert.EqualValues(t, 3, s.calls.Load())
			noStreamLeft(t)
		})
	}
}

// After anything of the answer has reached the caller there is no way back.
//
// Spec: G6, G1
func TestStreamIsNotResent(t *testing.T) {
	header := func(out grpc.ServerStream) { out.SendHeader(metadata.Pairs("k", "v")) }
	one := func(out pb.TestService_StreamingOutputCallServer) { send(out, 1) }
	for name, tt := range map[string]struct {
		before func(pb.TestService_StreamingOutputCallServer)
		look   func(*testing.T, pb.TestService_StreamingOutputCallClient)
		calls  int
	}{
		"after a message": {one, func(*testing.T, pb.TestService_StreamingOutputCallClient) {}, 1},
		"after a header that was looked at": {
			func(out pb.TestService_StreamingOutputCallServer) { header(out) },
			func(t *testing.T, s pb.TestService_StreamingOutputCallClient) {
				md, err := s.Header()
				require.NoError(t, err)
				assert.Equal(t, []string{"v"}, md.Get("k"))
			}, 1,
		},
		"but after a header that nobody saw": {
			func(out pb.TestService_StreamingOutputCallServer) { header(out) },
			func(*testing.T, pb.TestService_StreamingOutputCallClient) {}, 3,
		},
		"after the context was asked for": {
			func(pb.TestService_StreamingOutputCallServer) {},
			func(t *testing.T, s pb.TestService_StreamingOutputCallClient) { assert.NotNil(t, s.Context()) }, 1,
		},
		"more often than may be, for want of a header": {
			func(pb.TestService_StreamingOutputCallServer) {},
			func(t *testing.T, s pb.TestService_StreamingOutputCallClient) {
				md, err := s.Header()
				assert.NoError(t, err, "RecvMsg will tell")
				assert.Nil(t, md)
			}, 3,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &service{output: func(_ *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
				tt.before(out)
				return down
			}}
			str, err := client(t, resend(), s).StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
			require.NoError(t, err)
			tt.look(t, str)
			_, err = receive(str)
			assert.Equal(t, codes.Unavailable, status.Code(err))
			_, again := str.Recv()
			assert.Equal(t, err, again)
			assert.Equal(t, tt.calls > 1, errors.Is(err, retry.ErrExhausted))
			assert.EqualValues(t, tt.calls, s.calls.Load())
			noStreamLeft(t)
		})
	}
}

// Spec: G6
func TestClientAndBidiStreamsAreSentOnce(t *testing.T) {
	for name, p := range map[string]mettle.Policy{
		"a retry": resend(), "somebody who tries all the same": repeat(3), "a race": race(3),
	} {
		t.Run(name, func(t *testing.T) {
			s := &service{
				input:  func(pb.TestService_StreamingInputCallServer) error { return down },
				duplex: func(pb.TestService_FullDuplexCallServer) error { return down },
			}
			c := client(t, p, s)
			in, err := c.StreamingInputCall(t.Context())
			require.NoError(t, err)
			_, err = in.CloseAndRecv()
			assert.Equal(t, codes.Unavailable, status.Code(err))
			assert.Contains(t, err.Error(), "down")
			both, err := c.FullDuplexCall(t.Context())
			require.NoError(t, err)
			_, err = both.Recv()
			assert.Equal(t, codes.Unavailable, status.Code(err))
			assert.EqualValues(t, 2, s.calls.Load())
			noStreamLeft(t)
		})
	}
}

// Spec: G6, G9
func TestStreamIsRefused(t *testing.T) {
	b := breaker.New(breaker.Config{Consecutive: 2})
	s := &service{duplex: func(pb.TestService_FullDuplexCallServer) error { return status.Error(codes.Internal, "broken") }}
	c := client(t, b, s)
	for range 2 {
		str, err := c.FullDuplexCall(t.Context())
		require.NoError(t, err)
		_, err = str.Recv()
		assert.Equal(t, codes.Internal, status.Code(err))
	}
	_, err := c.FullDuplexCall(t.Context())
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.ErrorIs(t, err, breaker.ErrOpen)
	_, err = c.StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
	assert.ErrorIs(t, err, mettle.ErrRejected)
	assert.EqualValues(t, 2, s.calls.Load())
	noStreamLeft(t)
}

// The slot is held for as long as the stream lasts, however that ends.
//
// Spec: G7, G9
func TestStreamHoldsItsSlot(t *testing.T) {
	wait := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, end := range map[string]func(t *testing.T, cancel func(), conn *grpc.ClientConn, s pb.TestService_FullDuplexCallClient){
		"end of the stream": func(t *testing.T, _ func(), _ *grpc.ClientConn, s pb.TestService_FullDuplexCallClient) {
			require.NoError(t, s.CloseSend())
			_, err := s.Recv()
			assert.Equal(t, codes.DataLoss, status.Code(err))
		},
		"the caller walks away and cancels": func(_ *testing.T, cancel func(), _ *grpc.ClientConn, _ pb.TestService_FullDuplexCallClient) {
			cancel()
		},
		"the connection is closed": func(_ *testing.T, _ func(), conn *grpc.ClientConn, _ pb.TestService_FullDuplexCallClient) {
			conn.Close()
		},
		"a message cannot be sent": func(t *testing.T, _ func(), _ *grpc.ClientConn, s pb.TestService_FullDuplexCallClient) {
			err := s.SendMsg("not a message")
			assert.Equal(t, codes.Internal, status.Code(err))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := bulkhead.New(bulkhead.Config{Limit: 1})
			s := &service{duplex: func(both pb.TestService_FullDuplexCallServer) error {
				if _, err := both.Recv(); err != nil {
					return err
				}
				if _, err := both.Recv(); err == io.EOF {
					return status.Error(codes.DataLoss, "the end")
				}
				return wait(both.Context())
			}}
			conn := setup{}.connect(t, b, s)
			c := pb.NewTestServiceClient(conn)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			str, err := c.FullDuplexCall(ctx)
			require.NoError(t, err)
			require.NoError(t, str.Send(&pb.StreamingOutputCallRequest{}))

			_, err = c.UnaryCall(t.Context(), &pb.SimpleRequest{})
			assert.Equal(t, codes.ResourceExhausted, status.Code(err))
			assert.ErrorIs(t, err, bulkhead.ErrFull)
			assert.Equal(t, 1, b.Stats().InFlight)

			end(t, cancel, conn, str)
			noStreamLeft(t)
			assert.Zero(t, b.Stats().InFlight)
		})
	}
}

// The end of a stream is what it says about the server, and no more.
//
// Spec: P14, G7
func TestStreamOutcomes(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(out pb.TestService_StreamingOutputCallServer) error
		read func(ctx context.Context, cancel func(), conn *grpc.ClientConn, s pb.TestService_StreamingOutputCallClient)
		want mettle.Outcome
	}{
		{"a failure", func(pb.TestService_StreamingOutputCallServer) error { return down }, nil, mettle.Failure},
		{"overload", func(pb.TestService_StreamingOutputCallServer) error {
			return status.Error(codes.ResourceExhausted, "")
		}, nil, mettle.Overload},
		{"an answer", func(pb.TestService_StreamingOutputCallServer) error {
			return status.Error(codes.NotFound, "")
		}, nil, mettle.Success},
		{"CANCELLED by the server", func(pb.TestService_StreamingOutputCallServer) error {
			return status.Error(codes.Canceled, "")
		}, nil, mettle.Failure},
		{"cancelled by the caller", nil, func(_ context.Context, cancel func(), _ *grpc.ClientConn, _ pb.TestService_StreamingOutputCallClient) {
			cancel()
		}, mettle.Ignored},
		{"cancelled by the caller who receives", nil, func(_ context.Context, cancel func(), _ *grpc.ClientConn, s pb.TestService_StreamingOutputCallClient) {
			s.Recv()
			cancel()
			s.Recv()
		}, mettle.Ignored},
		{"closed by the caller", nil, func(_ context.Context, _ func(), conn *grpc.ClientConn, s pb.TestService_StreamingOutputCallClient) {
			conn.Close()
			s.Recv()
		}, mettle.Ignored},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := new(witness)
			s := &service{output: func(_ *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
				if tt.end != nil {
					return tt.end(out)
				}
				if err := send(out, 1); err != nil {
					return err
				}
				<-out.Context().Done()
				return out.Context().Err()
			}}
			conn := setup{}.connect(t, w, s)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			str, err := pb.NewTestServiceClient(conn).StreamingOutputCall(ctx, &pb.StreamingOutputCallRequest{})
			require.NoError(t, err)
			if tt.read != nil {
				tt.read(ctx, cancel, conn, str)
			} else {
				receive(str)
			}
			assert.Equal(t, tt.want, w.last(t), "%v", w.errs)
		})
	}
}

// Spec: G8
func TestTimeoutBoundsTheMaking(t *testing.T) {
	bubble(t, "a healthy stream may last", func(t *testing.T) {
		attempt, total := timeout.New(timeout.Config{After: time.Second}), timeout.New(timeout.Config{After: 3 * time.Second})
		w := new(witness)
		s := &service{output: func(_ *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
			_, limited := out.Context().Deadline()
			assert.False(t, limited, "nor is the server told of a deadline")
			for range 3 {
				time.Sleep(time.Hour)
				if err := send(out, 1); err != nil {
					return err
				}
			}
			return status.Error(codes.NotFound, "no more")
		}}
		p := mettle.Compose(total, retry.New(retry.Config{}), w, attempt)
		c := pb.NewTestServiceClient(setup{memory: true}.connect(t, p, s))
		str, err := c.StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
		require.NoError(t, err)
		text, err := receive(str)
		assert.Equal(t, "000", text)
		assert.Equal(t, status.Error(codes.NotFound, "no more").Error(), err.Error())
		assert.Equal(t, mettle.Success, mettle.Classify(t.Context(), w.errs[0]))
		for _, p := range []*timeout.Timeout{attempt, total} {
			assert.Equal(t, timeout.Stats{After: p.Stats().After}, p.Stats())
		}
	})
	bubble(t, "one that cannot be made", func(t *testing.T) {
		attempt := timeout.New(timeout.Config{After: time.Second})
		w := new(witness)
		intercept := mettlegrpc.StreamClientInterceptor(mettle.Compose(w, attempt))
		_, err := intercept(t.Context(), &grpc.StreamDesc{ClientStreams: true}, nil, "/s/m",
			func(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
				<-ctx.Done() // as the picker of a connection does that is not ready
				return nil, status.FromContextError(ctx.Err()).Err()
			})
		assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
		assert.ErrorIs(t, err, timeout.ErrExceeded)
		assert.Equal(t, mettle.Timeout, w.outcomes[0])
	})
}

// Spec: G8
func TestStreamBounds(t *testing.T) {
	// talks sends a message every minute, n times, and then is silent.
	talks := func(n int) *service {
		return &service{output: func(_ *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
			for range n {
				time.Sleep(time.Minute)
				if err := send(out, 1); err != nil {
					return err
				}
			}
			<-out.Context().Done()
			return out.Context().Err()
		}}
	}
	for _, tt := range []struct {
		name  string
		opt   mettlegrpc.Option
		after time.Duration // of the caller's own
		talks int
		want  time.Duration
		class mettle.Outcome
	}{
		{"total, with messages", mettlegrpc.StreamTotal(150 * time.Second), time.Hour, 9, 150 * time.Second, mettle.Ignored},
		{"total, without any", mettlegrpc.StreamTotal(150 * time.Second), time.Hour, 0, 150 * time.Second, mettle.Timeout},
		{"idle", mettlegrpc.StreamIdle(61 * time.Second), time.Hour, 5, 361 * time.Second, mettle.Timeout},
		{"the caller's own, with messages", mettlegrpc.StreamIdle(0), 150 * time.Second, 9, 150 * time.Second, mettle.Ignored},
		{"the caller's own, without any", mettlegrpc.StreamTotal(0), 150 * time.Second, 0, 150 * time.Second, mettle.Timeout},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			w := new(witness)
			c := pb.NewTestServiceClient(setup{memory: true, client: []mettlegrpc.Option{tt.opt}}.connect(t, w, talks(tt.talks)))
			ctx, cancel := context.WithTimeout(t.Context(), tt.after)
			defer cancel()
			start := time.Now()
			str, err := c.StreamingOutputCall(ctx, &pb.StreamingOutputCallRequest{})
			require.NoError(t, err)
			_, err = receive(str)
			assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
			assert.Equal(t, tt.want, time.Since(start))
			assert.Equal(t, tt.class, w.last(t))
		})
	}
	for _, opt := range []func(time.Duration) mettlegrpc.Option{mettlegrpc.StreamTotal, mettlegrpc.StreamIdle} {
		assert.Panics(t, func() { opt(-1) })
	}
}

// Panics come to the caller, when everything has been given back.
//
// Spec: P5, P6, G7
func TestStreamPanics(t *testing.T) {
	type fault struct{ where string }
	inner := func(where string, exit bool) grpc.DialOption {
		crash := func(at string) {
			switch {
			case at == where && exit:
				runtime.Goexit()
			case at == where:
				panic(&fault{where})
			}
		}
		return grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
			streamer grpc.Streamer, opts ...grpc.CallOption,
		) (grpc.ClientStream, error) {
			crash("making")
			s, err := streamer(ctx, desc, cc, method, opts...)
			return crashing{s, crash}, err
		})
	}
	for _, where := range []string{"making", "receiving", "header", "hook"} {
		for _, exit := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, Goexit %v", where, exit), func(t *testing.T) {
				slots := bulkhead.New(bulkhead.Config{})
				b := breaker.New(breaker.Config{Consecutive: 1})
				p := mettle.Compose(slots, b)
				if where == "hook" {
					p = mettle.Compose(slots, retry.New(retry.Config{OnRetry: func(retry.Event) {
						if exit {
							runtime.Goexit()
						}
						panic(&fault{where})
					}}))
				}
				s := &service{output: func(*pb.StreamingOutputCallRequest, pb.TestService_StreamingOutputCallServer) error { return down }}
				c := pb.NewTestServiceClient(setup{dial: []grpc.DialOption{inner(where, exit)}}.connect(t, p, s))
				var returned bool
				var value any
				var over sync.WaitGroup
				over.Go(func() {
					defer func() { value = recover() }()
					str, err := c.StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
					if err == nil && where == "header" {
						str.Header()
					} else if err == nil {
						str.Recv()
					}
					returned = true
				})
				over.Wait()
				assert.False(t, returned)
				if !exit {
					assert.Equal(t, &fault{where}, value)
				}
				assert.Zero(t, slots.Stats().InFlight)
				if where != "hook" {
					assert.Equal(t, breaker.Open, b.State(), "it counts as a failure")
				}
				noStreamLeft(t)
			})
		}
	}
}

type crashing struct {
	grpc.ClientStream
	crash func(at string)
}

func (c crashing) RecvMsg(m any) error { c.crash("receiving"); return c.ClientStream.RecvMsg(m) }

func (c crashing) Header() (metadata.MD, error) { c.crash("header"); return c.ClientStream.Header() }

// A policy that swallows the error of a stream has nothing to put in its place.
func TestFallbackWithoutStream(t *testing.T) {
	swallow := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		op(ctx)
		return nil
	})
	never := mettle.PolicyFunc(func(context.Context, func(context.Context) error) error { return nil })
	s := &service{output: func(*pb.StreamingOutputCallRequest, pb.TestService_StreamingOutputCallServer) error { return down }}
	str, err := client(t, swallow, s).StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
	require.NoError(t, err)
	_, err = receive(str)
	assert.Equal(t, codes.Unavailable, status.Code(err))
	_, err = client(t, never, s).StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
	assert.Equal(t, codes.Unavailable, status.Code(err))
	noStreamLeft(t)
}

// Sending, receiving, closing and asking for the header may come from goroutines of their
// own, while the stream is made again.
//
// Spec: G4, G6
func TestStreamSideBySide(t *testing.T) {
	s := new(service)
	s.output = func(req *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
		if s.calls.Load()%3 != 0 {
			return down
		}
		assert.Equal(t, "asked", string(req.Payload.Body))
		return send(out, 3)
	}
	conn := setup{}.connect(t, retry.New(retry.Config{Backoff: retry.Constant(0), Budget: retry.NoBudget}), s)
	desc := &grpc.StreamDesc{ServerStreams: true}
	for range 50 {
		str, err := conn.NewStream(t.Context(), desc, "/grpc.testing.TestService/StreamingOutputCall")
		require.NoError(t, err)
		var all sync.WaitGroup
		all.Go(func() {
			assert.NoError(t, str.SendMsg(&pb.StreamingOutputCallRequest{Payload: payload("asked")}))
			assert.NoError(t, str.CloseSend())
		})
		all.Go(func() {
			_, err := str.Header()
			assert.NoError(t, err)
		})
		n := 0
		for {
			var m pb.StreamingOutputCallResponse
			if err = str.RecvMsg(&m); err != nil {
				break
			}
			n++
		}
		all.Wait()
		assert.Equal(t, io.EOF, err, "%v", err)
		assert.Equal(t, 3, n)
	}
	noStreamLeft(t)
}
