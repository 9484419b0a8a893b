package sim

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestProfile(t *testing.T) {
	p := Pulse(2, 0.5, 10*time.Second, 4*time.Second)
	for at, want := range map[time.Duration]float64{0: 2, 10*time.Second - 1: 2, 10 * time.Second: 0.5, 14*time.Second - 1: 0.5, 14 * time.Second: 2, time.Hour: 2} {
		assert.Equal(t, want, p.At(at), at)
	}
	assert.Equal(t, 1.0, Profile(nil).At(time.Second))
	assert.Equal(t, 1.0, Profile(nil).Most())
	assert.Equal(t, 2.0, p.Most())
	assert.InDelta(t, 20+2+2, p.Integral(0, 15*time.Second), 1e-9)
	assert.Equal(t, 12*time.Second, p.After(0, 21))
	assert.Equal(t, Forever, Constant(0).After(time.Second, 1e-9))
	stalled := Pulse(1, 0, time.Second, time.Second)
	assert.Equal(t, 2500*time.Millisecond, stalled.After(500*time.Millisecond, 1))
}

// After is the inverse of Integral.
func TestProfileAfterInverts(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		var p Profile
		at := time.Duration(0)
		for range rng.IntN(5) {
			p = append(p, Step{at, float64(rng.IntN(4))})
			at += time.Duration(rng.Int64N(int64(5 * time.Second)))
		}
		from, amount := time.Duration(rng.Int64N(int64(10*time.Second))), 10*rng.Float64()
		end := p.After(from, amount)
		if end == Forever {
			assert.Less(t, p.Integral(from, 1000*time.Hour), amount)
			continue
		}
		assert.InDelta(t, amount, p.Integral(from, end), 1e-6, "%v from %v", p, from)
	}
}

// Numbers belong to what they are drawn for, and have the distribution that they should.
func TestDraw(t *testing.T) {
	d := Draw{Seed: 1, Request: 2, Attempt: 3, Purpose: ForService}
	assert.Equal(t, d.Uniform(), d.Uniform())
	for _, other := range []Draw{{2, 2, 3, ForService}, {1, 3, 3, ForService}, {1, 2, 4, ForService}, {1, 2, 3, ForFailure}} {
		assert.NotEqual(t, d.Uniform(), other.Uniform())
	}
	const n = 200_000
	var exp, normal, square, log, log2 float64
	below := make([]float64, 4)
	for i := range n {
		d := Draw{Seed: 7, Request: i}
		exp += d.Exp() / n
		normal += d.Normal() / n
		square += d.Normal() * d.Normal() / n
		log += d.Lognormal(1) / n
		log2 += d.Lognormal(1) * d.Lognormal(1) / n
		below[d.Below(4)] += 1.0 / n
	}
	assert.InDelta(t, 1, exp, 0.01)
	assert.InDelta(t, 0, normal, 0.01)
	assert.InDelta(t, 1, square, 0.02)
	assert.InDelta(t, 1, log, 0.02)
	assert.InDelta(t, 1, math.Sqrt(log2-log*log)/log, 0.05)
	for _, share := range below {
		assert.InDelta(t, 0.25, share, 0.01)
	}
}

// naive is a queue as one would draw it: workers that take who has waited longest when
// they are done, looked at moment by moment.
type naive struct {
	speed   Profile
	workers []time.Duration // when each is done
	queue   []job2
	limit   int
	ends    map[int]time.Duration // of requests, by id
}

type job2 struct {
	id   int
	at   time.Duration
	work float64
}

func (n *naive) advance(now time.Duration) {
	for len(n.queue) > 0 {
		w := 0
		for i := range n.workers {
			if n.workers[i] < n.workers[w] {
				w = i
			}
		}
		start := max(n.workers[w], n.queue[0].at)
		if start > now {
			return
		}
		end := n.speed.After(start, n.queue[0].work)
		n.ends[n.queue[0].id], n.workers[w] = end, end
		n.queue = n.queue[1:]
	}
}

func (n *naive) arrive(id int, now time.Duration, work float64) (accepted bool) {
	n.advance(now)
	busy := !slices.ContainsFunc(n.workers, func(end time.Duration) bool { return end <= now })
	if busy && len(n.queue) >= n.limit {
		return false
	}
	n.queue = append(n.queue, job2{id, now, work})
	n.advance(now)
	return true
}

// What a server promises at the arrival of a request is what a queue does that knows
// nothing of the future.
func TestServerIsAQueue(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 2))
		speed := Profile{{0, 1}, {2 * time.Second, 0}, {3 * time.Second, 0.5}, {6 * time.Second, 2}}
		s := &Server{Workers: 1 + rng.IntN(5), Queue: rng.IntN(30), Service: 0.1, CV: 1, Speed: speed}
		n := &naive{speed: speed, workers: make([]time.Duration, s.Workers), limit: s.Queue, ends: make(map[int]time.Duration)}
		replies := make(map[int]Reply)
		now := time.Duration(0)
		for id := range 500 {
			now += time.Duration(rng.ExpFloat64() * 0.1 / float64(s.Workers) * 1e9)
			d := Draw{Seed: seed, Request: id}
			reply := s.Accept(now, d)
			d.Purpose = ForService
			if accepted := n.arrive(id, now, s.Service*d.Lognormal(1)); accepted != (reply.Kind == OK) {
				t.Fatalf("seed %d, request %d: %+v, accepted %v", seed, id, reply, accepted)
			} else if accepted {
				replies[id] = reply
			}
		}
		n.advance(Forever - 1)
		for id, reply := range replies {
			assert.InDelta(t, n.ends[id].Seconds(), reply.At.Seconds(), 1e-6, "seed %d, request %d", seed, id)
		}
		require.Greater(t, len(replies), 100)
	}
}

func TestServerInAnOutage(t *testing.T) {
	for _, hang := range []bool{false, true} {
		s := &Server{Workers: 1, Queue: 10, Service: 1, CV: 1e-9, Down: []Outage{{At: 10 * time.Second, For: 5 * time.Second, Hang: hang}}}
		lost, gone := Gone, 10*time.Second
		if hang {
			lost, gone = Vanished, Forever
		}
		assert.Equal(t, OK, s.Accept(8*time.Second, Draw{}).Kind)
		r := s.Accept(9500*time.Millisecond, Draw{}) // would end within the outage
		assert.Equal(t, lost, r.Kind)
		assert.Equal(t, gone, r.At)
		assert.Equal(t, Forever, s.Promise(12*time.Second))
		assert.Equal(t, lost, s.Accept(12*time.Second, Draw{}).Kind)
		assert.Equal(t, 15*time.Second, s.Up(12*time.Second))
		assert.InDelta(t, 16, s.Accept(15*time.Second, Draw{}).At.Seconds(), 1e-3) // its queue is empty
	}
}

// A refusal takes a share of a service from the capacity of a server.
func TestRefusalsCost(t *testing.T) {
	s := NewPlant()
	served, refused := 0, 0
	const span = 100 * time.Second
	for id, now := 0, time.Duration(0); now < span; id++ {
		now += time.Duration(Draw{Request: id}.Exp() * 1e9 / 3000)
		if s.Accept(now, Draw{Request: id}).Kind == OK {
			served++
		} else {
			refused++
		}
	}
	// 3000 a second come, x are served: x + 0.1 (3000 - x) = 1000.
	assert.InDelta(t, (1000-300)/0.9, float64(served)/span.Seconds(), 20)
	assert.InDelta(t, 1, (float64(served)+0.1*float64(refused))/100_000, 0.02)
}

func direct(_ context.Context, _ int, op func(context.Context) error) error {
	return op(context.Background())
}

// All of a world belongs to its seed.
func TestWorldBelongsToItsSeed(t *testing.T) {
	world := func(seed uint64) (r *Record) {
		synctest.Test(t, func(*testing.T) {
			r = New(Config{Seed: seed, Arrivals: Constant(900), Until: 5 * time.Second, Drain: time.Second,
				Deadline: 50 * time.Millisecond, Network: time.Millisecond, Server: NewPlant()}).Run([]Caller{direct})
		})
		return r
	}
	assert.Equal(t, world(1), world(1))
	assert.NotEqual(t, world(1).Good, world(2).Good)
	offered := Sum(world(1).Offered, 0, 5*time.Second)
	assert.InDelta(t, 4500, offered, 300)
	assert.Equal(t, offered, len(world(1).All))
}

// A client that hangs up, and one that is never answered, get what their contexts say.
func TestWait(t *testing.T) {
	for _, cancels := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := New(Config{Until: time.Hour, Cancels: cancels})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			assert.NoError(t, w.Wait(ctx, 500*time.Millisecond))
			assert.Equal(t, 500*time.Millisecond, w.Now())
			assert.ErrorIs(t, w.Wait(ctx, Forever), context.DeadlineExceeded)
			assert.Equal(t, time.Second, w.Now())
			if cancels {
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Second, func() { cancel(errors.New("enough")) })
				assert.ErrorIs(t, w.Wait(ctx, Forever), context.Canceled)
				assert.Equal(t, 2*time.Second, w.Now())
			}
			go close(w.over)
			assert.ErrorIs(t, w.Wait(context.Background(), Forever), ErrReset)
		})
	}
}

func TestQuantile(t *testing.T) {
	assert.Equal(t, 0.0, Quantile(nil, 0.5))
	values := []float32{4, 1, 3, 2}
	assert.Equal(t, 3.0, Quantile(values, 0.5))
	assert.Equal(t, 4.0, Quantile(values, 0.99))
	assert.Equal(t, 1.0, Quantile(values, 0))
}
