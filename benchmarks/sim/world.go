package sim

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
)

// Caller makes one call of a client's, under whatever protects it: it runs op as often
// as it sees fit. The key is the part of the dependency that the call is for, such as a
// shard; most worlds have only key 0.
type Caller func(ctx context.Context, key int, op func(context.Context) error) error

// Config describes a world.
type Config struct {
	Seed     uint64        // of all that is drawn
	Arrivals Profile       // requests in a second
	Until    time.Duration // when the last request arrives
	Deadline time.Duration // after which an answer is of no use; by the intended time
	From, To time.Duration // of the time in which something is wrong, if any
	Network  time.Duration // that a message takes, one way

	// Client and Key tell whose request it is and for what. Nil: the first.
	Client, Key func(Draw) int

	// Work is one attempt. Nil: a call of Server.
	Work func(w *World, ctx context.Context, r *Request) error
	// Server is what Work calls unless it is set.
	Server *Server

	// Cancels says that attempts are cancelled other than by the deadline of their
	// context. Waiting for that costs a timer more in each attempt.
	Cancels bool

	// Drain is how long the world goes on after Until, for calls in flight. What is in
	// flight after that is over.
	Drain time.Duration
}

// World is a run of a [Config]. It lives in one bubble.
type World struct {
	Config
	start time.Time
	over  chan struct{} // closed when the world ends

	mu     sync.Mutex // never held while time passes
	Record *Record    // guarded by mu while the world runs

	callers []Caller
	next    int           // request; guarded by mu
	at      time.Duration // when the one before it arrives; guarded by mu
	waiting int           // runners that have a request which has not arrived; guarded by mu
	idle    []*runner     // guarded by mu

	requests sync.WaitGroup
}

// Request is one request of the world.
type Request struct {
	ID, Client, Key int
	At              time.Duration // when it was meant to be sent
	Sends           atomic.Int32  // attempts that were sent
	won             float64       // guarded by World.mu: work of the attempt that succeeded
}

// Draw returns the source of the numbers for attempt n of the request.
func (r *Request) Draw(seed uint64, n int) Draw {
	return Draw{Seed: seed, Request: r.ID, Attempt: n}
}

// Errors of attempts, which policies tell apart as they would those of a transport.
var (
	ErrFailed  = errors.New("sim: the server failed")
	ErrGone    = errors.New("sim: connection refused")
	ErrReset   = errors.New("sim: connection reset")
	ErrRefused = error(refusal{}) // as 503 is: the server says that it has too much to do
)

type refusal struct{}

func (refusal) Error() string           { return "sim: the server is overloaded" }
func (refusal) Outcome() mettle.Outcome { return mettle.Overload }

// New returns a world that begins now. It must be called in a bubble.
func New(c Config) *World {
	return &World{Config: c, start: time.Now(), over: make(chan struct{}), Record: newRecord(c)}
}

// Run lets the world happen, once and in the bubble in which it was made, with a caller
// for each client. It returns what was recorded, when all calls have ended.
func (w *World) Run(callers []Caller) *Record {
	w.callers = callers
	w.requests.Add(1) // for all that are to come: Add must not meet Wait when there are none
	w.mu.Lock()
	w.expect()
	w.mu.Unlock()
	time.Sleep(w.Until - w.Now())
	w.requests.Done()

	ended := make(chan struct{})
	go func() {
		w.requests.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(w.Drain):
	}
	close(w.over)
	<-ended
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.idle {
		close(r.wake)
	}
	return w.Record
}

// request returns the next request, nil if there is none before the end. It is called
// with w.mu held.
func (w *World) request() *Request {
	d := Draw{Seed: w.Seed, Request: w.next, Purpose: ForArrival}
	if w.at = w.Arrivals.After(w.at, d.Exp()); w.at >= w.Until {
		return nil
	}
	r := &Request{ID: w.next, At: w.at}
	if w.Client != nil {
		d.Purpose = ForClient
		r.Client = w.Client(d)
	}
	if w.Key != nil {
		d.Purpose = ForKey
		r.Key = w.Key(d)
	}
	w.next++
	return r
}

// Now returns the time since the world began.
func (w *World) Now() time.Duration { return time.Since(w.start) }

// runner is a goroutine that waits for a request to arrive, makes its call, and goes on to
// the next. A goroutine for each would spend its time on growing its stack, and one that
// hands requests out would spend that of the scheduler.
type runner struct {
	w    *World
	wake chan struct{} // when there is a request again; closed when there is none
}

// ready is how many runners wait for requests at most, while others could. Few have their
// stacks in the cache, and more than one are seldom woken by each other.
const ready = 3

// expect sees to it that a runner waits for the next request. It is called with w.mu held.
func (w *World) expect() {
	if w.waiting > 0 {
		return
	}
	if n := len(w.idle); n > 0 {
		w.idle[n-1].wake <- struct{}{}
		w.idle = w.idle[:n-1]
	} else {
		r := &runner{w: w, wake: make(chan struct{}, 1)}
		go r.run()
	}
	w.waiting++
}

func (r *runner) run() {
	var q *Request
	w, op := r.w, func(ctx context.Context) error { return r.w.attempt(ctx, q) }
	for {
		w.mu.Lock()
		q = w.request()
		w.mu.Unlock()
		if q == nil {
			return
		}
		time.Sleep(q.At - w.Now())
		w.requests.Add(1)
		w.mu.Lock()
		w.waiting--
		w.expect()
		w.mu.Unlock()
		err := w.callers[q.Client](context.Background(), q.Key, op)
		if again := w.ended(q, err, r); !again {
			if _, more := <-r.wake; !more {
				return
			}
		}
	}
}

func (w *World) attempt(ctx context.Context, r *Request) error {
	if w.Work != nil {
		return w.Work(w, ctx, r)
	}
	return w.Call(ctx, r, w.Server)
}

// ended records the end of a request, and reports whether its runner is to wait for
// another.
func (w *World) ended(q *Request, err error, r *runner) (again bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Record.ended(q, w.Now(), err)
	w.requests.Done()
	if w.waiting >= ready {
		w.idle = append(w.idle, r)
		return false
	}
	w.waiting++
	return true
}

// Call sends one attempt of a request to a server and waits for the answer, as a client
// does that hangs up when ctx ends.
func (w *World) Call(ctx context.Context, r *Request, s *Server) error {
	n := int(r.Sends.Add(1))
	w.mu.Lock()
	sent := w.Now()
	reply := s.Accept(sent+w.Network, r.Draw(w.Seed, n))
	w.Record.sent(sent, r, reply)
	w.mu.Unlock()

	answer := Forever
	if reply.At < Forever-w.Network {
		answer = reply.At + w.Network
	}
	if err := w.Wait(ctx, answer); err != nil {
		return err
	}
	switch reply.Kind {
	case OK:
		w.Won(r, reply.Work)
		return nil
	case Failed:
		return ErrFailed
	case Refused:
		return ErrRefused
	default:
		return ErrGone
	}
}

// Sent records an attempt that is sent now to a server of the caller's own making.
func (w *World) Sent(r *Request, reply Reply) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Record.sent(w.Now(), r, reply)
}

// Won records that so much work made a request succeed.
func (w *World) Won(r *Request, work float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r.won += work
}

// Serve has another server do the work, which goes on when ctx ends and nobody waits for
// it any longer.
func (w *World) Serve(ctx context.Context, work func() error) error {
	done := make(chan error, 1)
	w.requests.Add(1)
	go func() {
		defer w.requests.Done()
		time.Sleep(w.Network)
		err := work()
		time.Sleep(w.Network)
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-w.over:
		return ErrReset
	}
}

// Wait waits until the given time of the world, or until ctx ends and returns its error.
// At the end of the world everything ends.
func (w *World) Wait(ctx context.Context, until time.Duration) error {
	if d, ok := ctx.Deadline(); ok && !w.Cancels {
		// Nothing else ends ctx, so there is one moment to wake up at.
		if end := d.Sub(w.start); end <= until {
			time.Sleep(end - w.Now())
			if ctx.Err() == nil {
				<-ctx.Done() // its own timer is about to fire
			}
			return ctx.Err()
		}
		time.Sleep(until - w.Now())
		return nil
	}
	if ctx.Done() == nil && until < w.Until {
		time.Sleep(until - w.Now())
		return nil
	}
	var timer <-chan time.Time // never, if until is
	if until < Forever {
		t := time.NewTimer(until - w.Now())
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-timer:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-w.over:
		return ErrReset
	}
}

// Promise returns when an answer would be here if a request was sent now, [Forever] if
// none would be. Only the oracle may ask.
func (w *World) Promise(s *Server) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := s.Promise(w.Now() + w.Network); t < Forever-w.Network {
		return t + w.Network
	}
	return Forever
}

// Lock and Unlock guard what a world's callers share. No time may pass in between.
func (w *World) Lock() { w.mu.Lock() }

// Unlock is the end of Lock.
func (w *World) Unlock() { w.mu.Unlock() }
