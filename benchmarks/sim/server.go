package sim

import (
	"math"
	"time"
)

// Server is the plant: workers that serve a queue, first come, first served. What it
// has accepted it does, whether or not somebody still waits for the answer.
//
// Since nothing that happens after a request has arrived can change when it is served,
// its end is known at its arrival. So a server needs no goroutine, and its clients sleep
// once, until the answer is there.
type Server struct {
	Workers int
	Queue   int     // requests that may wait; more are refused
	Service float64 // mean work of a request, in seconds at speed 1
	CV      float64 // of the lognormal service time; 0: exponential service times
	// Refusal is what it costs to refuse a request, as a share of Service.
	Refusal float64

	Speed Profile // of each worker, 1 normally and 0 in a stall
	Fail  Profile // probability that a request fails once it has been served; empty: 0
	Down  []Outage

	free    []time.Duration // when each worker has done what it has accepted
	waiting fifo            // when those begin that are in the queue
	downs   int             // outages that have begun

	work   float64 // done or accepted, in seconds at speed 1
	served int
}

// Outage is a time in which a server is gone, with all that was in it.
type Outage struct {
	At, For time.Duration
	Hang    bool // whoever calls hears nothing; else it is refused at once
}

// Reply is what a server makes of a request.
type Reply struct {
	At   time.Duration // when it leaves the server; Forever: never
	Kind Kind
	Work float64 // that the request costs the server, in seconds at speed 1
}

// Kind is the kind of a reply.
type Kind uint8

// Kinds of replies.
const (
	OK       Kind = iota
	Failed        // served, in vain
	Refused       // the queue was full
	Gone          // nobody there
	Vanished      // no reply at all
)

// NewPlant returns the plant of the scorecard: ten workers, a mean service time of 10 ms
// with a coefficient of variation of 1, so that it can do 1000 requests a second; a queue
// of 1000, and refusals that cost a tenth of a service.
func NewPlant() *Server {
	return &Server{Workers: 10, Queue: 1000, Service: 0.010, CV: 1, Refusal: 0.1}
}

// Capacity is how many requests the server can do in a second at speed 1.
func (s *Server) Capacity() float64 { return float64(s.Workers) / s.Service }

// Accept returns what becomes of a request that arrives at time t, which is never before
// that of an earlier call. The draw's purpose does not matter.
func (s *Server) Accept(t time.Duration, d Draw) Reply {
	s.restart(t)
	if o := s.outage(t); o != nil {
		if o.Hang {
			return Reply{At: Forever, Kind: Vanished}
		}
		return Reply{At: t, Kind: Gone}
	}
	for s.waiting.len() > 0 && s.waiting.first() <= t {
		s.waiting.pop()
	}
	worker := s.next()
	if s.waiting.len() >= s.Queue && s.free[worker] > t {
		// Somebody has to say no. Who is next to be free says it after what has been
		// accepted before, which takes as much from the server as saying it now.
		cost := s.Refusal * s.Service
		s.free[worker] = s.Speed.After(s.free[worker], cost)
		s.work += cost
		return Reply{At: t, Kind: Refused, Work: cost}
	}
	start := max(t, s.free[worker])
	if start > t {
		s.waiting.push(start)
	}
	d.Purpose = ForService
	work := s.Service
	if s.CV > 0 {
		work *= d.Lognormal(s.CV)
	} else {
		work *= d.Exp()
	}
	end := s.Speed.After(start, work)
	s.free[worker] = end
	s.work += work
	s.served++
	if o := s.nextOutage(); o != nil && end > o.At {
		if o.Hang {
			return Reply{At: Forever, Kind: Vanished, Work: work}
		}
		return Reply{At: o.At, Kind: Gone, Work: work}
	}
	reply := Reply{At: end, Work: work}
	if len(s.Fail) > 0 {
		d.Purpose = ForFailure
		if d.Uniform() < s.Fail.At(end) {
			reply.Kind = Failed
		}
	}
	return reply
}

// Promise returns when a request of mean work would be answered if it arrived at time t,
// which is never before that of an earlier call of Accept: Forever if it would not be.
// It is what only the oracle knows.
func (s *Server) Promise(t time.Duration) time.Duration {
	s.restart(t)
	if s.outage(t) != nil {
		return Forever
	}
	end := s.Speed.After(max(t, s.free[s.next()]), s.Service)
	if o := s.nextOutage(); o != nil && end > o.At {
		return Forever
	}
	return end
}

// Up returns the first moment, from t on, at which the server is there.
func (s *Server) Up(t time.Duration) time.Duration {
	for _, o := range s.Down {
		if t >= o.At && t < o.At+o.For {
			t = o.At + o.For
		}
	}
	return t
}

// restart empties the server at the end of an outage that has begun by time t.
func (s *Server) restart(t time.Duration) {
	if s.free == nil {
		s.free = make([]time.Duration, s.Workers)
	}
	for s.downs < len(s.Down) && s.Down[s.downs].At <= t {
		o := s.Down[s.downs]
		for i := range s.free {
			s.free[i] = o.At + o.For
		}
		s.waiting = fifo{}
		s.downs++
	}
}

// outage returns the outage at time t, nil if there is none.
func (s *Server) outage(t time.Duration) *Outage {
	if s.downs == 0 {
		return nil
	}
	if o := &s.Down[s.downs-1]; t < o.At+o.For {
		return o
	}
	return nil
}

func (s *Server) nextOutage() *Outage {
	if s.downs < len(s.Down) {
		return &s.Down[s.downs]
	}
	return nil
}

// next returns the worker that is free first.
func (s *Server) next() (worker int) {
	earliest := time.Duration(math.MaxInt64)
	for i, t := range s.free {
		if t < earliest {
			worker, earliest = i, t
		}
	}
	return worker
}

// fifo is a queue of times.
type fifo struct {
	times []time.Duration
	head  int
}

func (q *fifo) len() int             { return len(q.times) - q.head }
func (q *fifo) first() time.Duration { return q.times[q.head] }

func (q *fifo) push(t time.Duration) {
	if q.head > 1024 && q.head > len(q.times)/2 {
		q.times = append(q.times[:0], q.times[q.head:]...)
		q.head = 0
	}
	q.times = append(q.times, t)
}

func (q *fifo) pop() { q.head++ }
