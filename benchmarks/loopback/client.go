package loopback

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/mettle-go/mettle/benchmarks/scorecard"
	"github.com/mettle-go/mettle/benchmarks/sim"
)

// order is what a client process is told first.
type order struct {
	World
	Contender string
	Addr      string // of the server, as far as the client knows
}

// ready is what it tells when it waits for the beginning.
type ready struct{ Ready bool }

// Report is what it tells in the end. Times count from the beginning of the world.
type Report struct {
	Requests []Request
	Sent     []time.Duration // attempts, below whatever protects calls
	Opens    int             // of breakers
}

// Request is what became of a request.
type Request struct {
	At   time.Duration // when it was due
	Late time.Duration // how much later it was sent
	Took time.Duration // from At to its end
	OK   bool
}

// client makes the requests of all clients of a contender.
type client struct {
	order
	begin time.Time
	calls []func(ctx context.Context, request int) error // by client

	mu sync.Mutex
	Report
}

// call is the life of a client process: it is told its order, tells that it is ready, is
// told when to begin, makes its calls, and tells what became of them.
func call(in *json.Decoder, out *json.Encoder) error {
	c := &client{}
	if err := in.Decode(&c.order); err != nil {
		return err
	}
	k, ok := find(c.Contender)
	if !ok {
		return fmt.Errorf("there is no contender %q", c.Contender)
	}
	world := sim.New(sim.Config{}) // some pause by its clock
	for id := range c.Clients {
		one, err := c.newClient(k, scorecard.Client{
			ID: id, Seed: c.Seed, World: world,
			Deadline: c.Deadline, Attempt: c.Attempt, Once: c.Deadline, Attempts: attempts,
			Opened: c.opened,
		})
		if err != nil {
			return err
		}
		c.calls = append(c.calls, one)
	}
	if err := out.Encode(ready{true}); err != nil {
		return err
	}
	var b beginning
	if err := in.Decode(&b); err != nil {
		return err
	}
	c.begin = b.clock()
	var done atomic.Bool
	go func() {
		if hearEnd(in); !done.Load() {
			os.Exit(1) // nobody is left to be told anything
		}
	}()
	c.run()
	done.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	return out.Encode(c.Report)
}

// run makes all calls when they are due, whatever became of those before, and returns when
// they have ended or nobody waits for them any longer.
func (c *client) run() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	time.Sleep(time.Until(c.begin))
	var calls sync.WaitGroup
	rate, next := sim.Constant(c.Rate), time.Duration(0)
	for n := 0; ; n++ {
		d := sim.Draw{Seed: c.Seed, Request: n, Purpose: sim.ForArrival}
		at := rate.After(next, d.Exp())
		if next = at; at >= c.Until {
			break
		}
		d.Purpose = sim.ForClient
		who := d.Below(c.Clients)
		time.Sleep(at - c.now())
		c.mu.Lock()
		c.Requests = append(c.Requests, Request{At: at, Late: c.now() - at, Took: -1})
		c.mu.Unlock()
		calls.Go(func() {
			err := c.calls[who](ctx, n)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.Requests[n].Took, c.Requests[n].OK = c.now()-at, err == nil
		})
	}
	time.AfterFunc(c.drain(), cancel)
	ended := make(chan struct{})
	go func() {
		calls.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(c.drain() + time.Second): // deaf to its context
	}
}

func (c *client) now() time.Duration { return time.Since(c.begin) }

func (c *client) opened() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Opens++
}

// sent notes an attempt.
func (c *client) sent() {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Sent = append(c.Sent, now)
}

// newClient returns what one client calls with, over connections of its own.
func (c *client) newClient(k contender, of scorecard.Client) (func(context.Context, int) error, error) {
	once, err := c.newTransport(k, of)
	if err != nil {
		return nil, err
	}
	protected := asItIs
	switch {
	case k.byHand != nil:
		protected = k.byHand(of)
	case k.total:
		protected = underDeadline(c.Deadline)
	}
	return func(ctx context.Context, request int) error {
		return protected(ctx, 0, func(ctx context.Context) error { return once(ctx, request) })
	}, nil
}

// newTransport returns what makes a call through the adapter of a contender, if it has
// one.
func (c *client) newTransport(k contender, of scorecard.Client) (func(context.Context, int) error, error) {
	if c.Proto == overHTTP {
		rt := c.newHTTP(k, of)
		return func(ctx context.Context, request int) error { return get(ctx, rt, c.Addr, request) }, nil
	}
	stub, err := c.newGRPC(k, of)
	return func(ctx context.Context, request int) error {
		_, err := stub.UnaryCall(ctx, &pb.SimpleRequest{ResponseSize: int32(request)})
		return err
	}, err
}

// counted is a transport whose requests are counted.
type counted struct {
	http.RoundTripper
	count func()
}

func (t counted) RoundTrip(r *http.Request) (*http.Response, error) {
	t.count()
	return t.RoundTripper.RoundTrip(r)
}

func (c *client) newHTTP(k contender, of scorecard.Client) http.RoundTripper {
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.Proxy = nil
	base.MaxIdleConnsPerHost = 100 // as who makes many calls sets it; it is 2, and each call more a new connection
	var rt http.RoundTripper = counted{base, c.sent}
	if k.http != nil {
		rt = k.http(of, rt)
	}
	return rt
}

var errStatus = errors.New("not what was asked for")

// get makes a request and reads the answer.
func get(ctx context.Context, rt http.RoundTripper, addr string, request int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/%d", addr, request), nil)
	if err != nil {
		return err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || n != int64(len(page))) {
		err = errStatus
	}
	return err
}

// grpcPause is how long gRPC waits between attempts to connect: by itself for a second, and
// longer each time, so that after an outage nothing would be compared but that.
var grpcPause = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1, MaxDelay: 50 * time.Millisecond},
	MinConnectTimeout: time.Second,
}

func (c *client) newGRPC(k contender, of scorecard.Client) (pb.TestServiceClient, error) {
	count := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		c.sent()
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	var around []grpc.UnaryClientInterceptor
	if k.grpc != nil {
		around = append(around, k.grpc(of))
	}
	conn, err := grpc.NewClient("passthrough:///"+c.Addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpcPause),
		grpc.WithChainUnaryInterceptor(append(around, count)...))
	return pb.NewTestServiceClient(conn), err
}
