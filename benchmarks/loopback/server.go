package loopback

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/mettle-go/mettle/benchmarks/sim"
)

// page is what is asked for.
var page = []byte(strings.Repeat("x", 200))

// address is what a server tells when it is ready.
type address struct{ Addr string }

// served is what a server tells in the end.
type served struct {
	Seen int // attempts that have reached it
}

// server is the plant of the simulation: it decides what becomes of a request in the same
// way and with the same numbers, and then sleeps until the answer is due. So it does not
// depend on how exactly the machine sleeps how much it can do.
type server struct {
	pb.UnimplementedTestServiceServer
	World
	begin time.Time

	mu    sync.Mutex
	model *sim.Server // nil: any number of workers, some of whom are slow
	sends map[int]int // attempts, by request
	seen  int
}

// serve is the life of a server process: it is told its world, tells its address, is told
// when to begin, and serves until nobody speaks to it any more.
func serve(in *json.Decoder, out *json.Encoder) error {
	s := &server{sends: make(map[int]int)}
	if err := in.Decode(&s.World); err != nil {
		return err
	}
	if s.Slow == 0 {
		s.model = s.plant()
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := out.Encode(address{listener.Addr().String()}); err != nil {
		return err
	}
	var b beginning
	if err := in.Decode(&b); err != nil {
		return err
	}
	s.begin = b.clock()
	stop, ended := s.listen(listener)
	err = hearEnd(in)
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return out.Encode(served{s.seen})
}

// listen answers calls until stop is called.
func (s *server) listen(l net.Listener) (stop func(), ended <-chan error) {
	result := make(chan error, 1)
	if s.Proto == overGRPC {
		g := grpc.NewServer()
		pb.RegisterTestServiceServer(g, s)
		go func() { result <- g.Serve(l) }()
		return g.Stop, result
	}
	h := &http.Server{Handler: s}
	go func() {
		err := h.Serve(l)
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		result <- err
	}()
	return func() { h.Close() }, result
}

// work is one attempt at a request. It reports whether there is an answer, false if it
// failed, and returns when that is due.
func (s *server) work(ctx context.Context, request int) bool {
	s.mu.Lock()
	now := max(time.Since(s.begin), 0)
	s.sends[request]++
	s.seen++
	d := sim.Draw{Seed: s.Seed, Request: request, Attempt: s.sends[request]}
	var reply sim.Reply
	if s.model != nil {
		reply = s.model.Accept(now, d)
	} else {
		reply.At = now + s.tail(d)
	}
	s.mu.Unlock()

	due := time.NewTimer(reply.At - now)
	defer due.Stop()
	select {
	case <-due.C:
	case <-ctx.Done(): // nobody waits; what has been accepted keeps its worker all the same
	}
	return reply.Kind == sim.OK
}

// plant returns the server of w.
func (w World) plant() *sim.Server {
	s := sim.NewPlant()
	s.Workers, s.Queue = workers, queue
	if w.Fail > 0 {
		s.Fail = sim.Pulse(0, w.Fail, w.From, w.To-w.From)
	}
	return s
}

// tail is how long an answer takes where a part of them is slow, as in the scorecard.
func (w World) tail(d sim.Draw) time.Duration {
	d.Purpose = sim.ForService
	took := 0.010 * d.Lognormal(0.3)
	d.Purpose = sim.ForSpare
	if d.Uniform() < w.Slow {
		took *= 10
	}
	return time.Duration(took * 1e9)
}

// ServeHTTP answers the path /N for request N.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	request, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	if !s.work(r.Context(), request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	w.Write(page)
}

// UnaryCall answers. The size that is asked for is the number of the request.
func (s *server) UnaryCall(ctx context.Context, r *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	if !s.work(ctx, int(r.ResponseSize)) {
		return nil, status.Error(codes.Unavailable, "not now")
	}
	return &pb.SimpleResponse{Payload: &pb.Payload{Body: page}}, nil
}
