package bulkhead_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle/bulkhead"
)

// model is a bulkhead as one would write it without a thought for speed: slices, one
// step at a time, time as an argument. The real one must agree with it after every
// step.
type model struct {
	limit, maxQueue int // maxQueue 0: as limit
	maxWait         time.Duration
	lifo            bool

	inFlight         int
	queue            []*call // the one that came first in front
	refused, expired uint64
	waits            uint64
	waited           time.Duration
}

// call is one Acquire or TryAcquire: what the model expects, beside the real one.
type call struct {
	state    string // "waiting", "holding", "released", "full", "late", "cancelled", "deadline"
	since    time.Duration
	deadline time.Duration // 0: none

	real   *attempt
	cancel context.CancelFunc
}

func (m *model) room() int {
	switch {
	case m.maxWait == 0:
		return 0
	case m.maxQueue == 0:
		return m.limit
	default:
		return m.maxQueue
	}
}

func (m *model) acquire(c *call, now time.Duration) {
	switch {
	case m.inFlight < m.limit && len(m.queue) == 0:
		m.inFlight++
		c.state = "holding"
	case len(m.queue) < m.room():
		m.queue = append(m.queue, c)
		c.state, c.since = "waiting", now
	default:
		m.refused++
		c.state = "full"
	}
}

func (m *model) try(c *call) {
	c.state = "full"
	if m.inFlight < m.limit {
		m.inFlight++
		c.state = "holding"
	}
}

func (m *model) release(c *call, now time.Duration) {
	if c.state != "holding" {
		return
	}
	c.state = "released"
	m.inFlight--
	m.grant(now)
}

func (m *model) grant(now time.Duration) {
	for m.inFlight < m.limit && len(m.queue) > 0 {
		c := m.queue[0]
		if m.lifo {
			c = m.queue[len(m.queue)-1]
		}
		m.leave(c, "holding", now)
		m.inFlight++
	}
}

func (m *model) leave(c *call, state string, now time.Duration) {
	m.queue = slices.DeleteFunc(m.queue, func(other *call) bool { return other == c })
	c.state = state
	m.waits++
	m.waited += now - c.since
}

func (m *model) cancel(c *call, now time.Duration) {
	if c.state == "waiting" {
		m.leave(c, "cancelled", now)
	}
}

func (m *model) resize(n int, now time.Duration) {
	m.limit = n
	m.grant(now)
}

// advance ends the waits whose time is up. Nobody's expiry frees a slot, so their
// order does not matter.
func (m *model) advance(now time.Duration) {
	for _, c := range slices.Clone(m.queue) {
		late := c.since + m.maxWait
		switch {
		case c.deadline != 0 && c.deadline < late && c.deadline <= now:
			m.leave(c, "deadline", c.deadline)
		case late <= now:
			m.leave(c, "late", late)
			m.refused++
			m.expired++
		}
	}
}

// stats is what the real bulkhead should answer.
func (m *model) stats() bulkhead.Stats {
	return bulkhead.Stats{Limit: m.limit, InFlight: m.inFlight, MaxQueue: m.room(), Queued: len(m.queue),
		Refused: m.refused, Expired: m.expired, Waits: m.waits, Waited: m.waited}
}

// outcome is the state that the real call is in, as far as it can tell.
func (c *call) outcome() string {
	var full *bulkhead.FullError
	switch a := c.real; {
	case !a.isDone():
		return "waiting"
	case a.err == nil && c.state == "released":
		return "released"
	case a.err == nil:
		return "holding"
	case errors.As(a.err, &full) && full.Waited > 0:
		return "late"
	case errors.As(a.err, &full):
		return "full"
	case errors.Is(a.err, context.Canceled):
		return "cancelled"
	case errors.Is(a.err, context.DeadlineExceeded):
		return "deadline"
	default:
		return a.err.Error()
	}
}

// play runs the steps that data encodes on the model and on a real bulkhead side by
// side, and compares them after each. It must be called in a synctest bubble.
func play(t *testing.T, data []byte) {
	next := func() int {
		if len(data) == 0 {
			return 0
		}
		v := int(data[0])
		data = data[1:]
		return v
	}
	m := &model{limit: 1 + next()%4, maxQueue: next() % 4, lifo: next()%2 == 1}
	if next()%8 != 0 {
		// Waits end between two steps, never at one: the steps are whole milliseconds.
		m.maxWait = time.Duration(next()%20)*time.Millisecond + 300*time.Microsecond
	}
	order := bulkhead.FIFO
	if m.lifo {
		order = bulkhead.LIFO
	}
	b := bulkhead.New(bulkhead.Config{Limit: m.limit, MaxQueue: m.maxQueue, MaxWait: m.maxWait, Order: order})

	start := time.Now()
	var calls []*call
	pick := func() *call {
		if len(calls) == 0 {
			return &call{cancel: func() {}, real: &attempt{}}
		}
		return calls[next()%len(calls)]
	}
	begin := func(ctx context.Context, cancel context.CancelFunc, deadline time.Duration) *call {
		c := &call{cancel: cancel, deadline: deadline, real: acquire(ctx, b)}
		calls = append(calls, c)
		return c
	}
	defer func() {
		for _, c := range calls {
			c.cancel()
		}
	}()

	for step := 0; len(data) > 0; step++ {
		now, did := time.Since(start), ""
		switch next() % 9 {
		case 0, 1:
			did = "acquire"
			ctx, cancel := context.WithCancel(bg)
			m.acquire(begin(ctx, cancel, 0), now)
		case 2:
			d := time.Duration(1+next()%10)*time.Millisecond + 600*time.Microsecond
			did = fmt.Sprint("acquire with ", d)
			ctx, cancel := context.WithTimeout(bg, d)
			m.acquire(begin(ctx, cancel, now+d), now)
		case 3:
			did = "try"
			c := &call{cancel: func() {}, real: &attempt{}}
			c.real.done.Store(true)
			calls = append(calls, c)
			var ok bool
			if c.real.permit, ok = b.TryAcquire(); !ok {
				c.real.err = &bulkhead.FullError{}
			}
			m.try(c)
		case 4, 5:
			did = "release, perhaps again"
			c := pick()
			c.real.release()
			m.release(c, now)
		case 6:
			did = "cancel, and release at once"
			c, r := pick(), pick()
			c.cancel()
			r.real.release()
			m.cancel(c, now)
			m.release(r, now)
		case 7:
			n := 1 + next()%5
			did = fmt.Sprint("resize to ", n)
			b.Resize(n)
			m.resize(n, now)
		case 8:
			d := time.Duration(1+next()%8) * time.Millisecond
			did = fmt.Sprint("advance by ", d)
			time.Sleep(d)
			m.advance(now + d)
		}
		synctest.Wait()
		if got, want := b.Stats(), m.stats(); got != want {
			t.Fatalf("step %d, %s:\n got %+v\nwant %+v", step, did, got, want)
		}
		for i, c := range calls {
			if got := c.outcome(); got != c.state {
				t.Fatalf("step %d, %s: call %d is %s, want %s", step, did, i, got, c.state)
			}
		}
	}
	for m.inFlight > 0 || len(m.queue) > 0 {
		for _, c := range calls {
			c.real.release()
			m.release(c, time.Since(start))
			synctest.Wait()
		}
	}
	wantIdle(t, b)
}

// Spec: K1, K2, K3, K4, K5, K7
func TestAgreesWithTheModel(t *testing.T) {
	rounds := 150
	if testing.Short() {
		rounds = 30
	}
	for seed := range rounds {
		random := rand.New(rand.NewPCG(uint64(seed), 0))
		data := make([]byte, 300)
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		synctest.Test(t, func(t *testing.T) { play(t, data) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func FuzzAgreesWithTheModel(f *testing.F) {
	f.Add([]byte{0, 1, 0, 1, 9, 0, 0, 0, 6, 1, 0})                 // the first in the queue cancelled as the slot comes free
	f.Add([]byte{1, 0, 1, 1, 9, 0, 0, 0, 0, 7, 4, 7, 0, 4, 0})     // resized up and down with calls waiting
	f.Add([]byte{0, 3, 0, 1, 2, 0, 2, 0, 2, 9, 0, 8, 7, 4, 0})     // some expire, some meet their deadline
	f.Add([]byte{0, 0, 0, 0, 0, 3, 0, 4, 0, 4, 0, 3, 4, 0})        // nobody waits; a permit released twice
	f.Add([]byte{3, 2, 1, 1, 19, 3, 3, 3, 3, 0, 2, 5, 6, 4, 1, 4}) // last come, first served
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 500 {
			return
		}
		synctest.Test(t, func(t *testing.T) { play(t, data) })
	})
}

// turnstile counts who is inside, under a mutex: slow, and plainly right.
type turnstile struct {
	mu          sync.Mutex
	inside, max int
}

func (s *turnstile) pass(stay func()) {
	s.mu.Lock()
	s.inside++
	s.max = max(s.max, s.inside)
	s.mu.Unlock()
	stay()
	s.mu.Lock()
	s.inside--
	s.mu.Unlock()
}

// A thousand goroutines, some of which give up, at a bulkhead that is much too small
// for them. A slot lost or a wakeup missed would leave a call in the queue for the
// whole hour, and show as expired; a slot doubled shows at the turnstile.
//
// Spec: K1, K3
func TestNeverMoreThanLimitAndNothingLost(t *testing.T) {
	for _, order := range []bulkhead.Order{bulkhead.FIFO, bulkhead.LIFO} {
		for _, limit := range []int{1, 7} {
			t.Run(fmt.Sprint(order, limit), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := bulkhead.New(bulkhead.Config{Limit: limit, MaxQueue: 2000, MaxWait: time.Hour, Order: order})
					got := hammer(t, b, nil)
					if got.max != limit || got.inside != 0 {
						t.Errorf("%d in flight at once under a limit of %d", got.max, limit)
					}
				})
			})
		}
	}
}

// Spec: K1, K5
func TestResizeUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const highest = 9
		b := bulkhead.New(bulkhead.Config{Limit: highest, MaxQueue: 2000, MaxWait: time.Hour})
		got := hammer(t, b, func(r *rand.Rand) { b.Resize(1 + r.IntN(highest)) })
		if got.max > highest || got.inside != 0 {
			t.Errorf("%d in flight at once under limits of at most %d", got.max, highest)
		}
	})
}

// Few goroutines and short stays, so that releases meet calls that are about to queue
// for a slot that is about to be free. A lost one leaves everybody in the queue. It
// takes the race detector's slowness to make that moment wide enough to be hit.
//
// Spec: K1, K3
func TestReleaseMeetsJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bulkhead.New(bulkhead.Config{Limit: 1, MaxQueue: 10, MaxWait: time.Hour})
		inside := 0 // guarded by the bulkhead
		var all sync.WaitGroup
		for id := range 4 {
			all.Go(func() {
				for i := range 10_000 {
					err := b.Do(bg, func(context.Context) error {
						inside++
						if (i+id)%50 == 0 {
							runtime.Gosched()
						}
						return nil
					})
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		wantIdle(t, b)
		if inside != 40_000 {
			t.Errorf("counted %d under a limit of 1", inside)
		}
	})
}

// hammer lets a thousand goroutines through b, calling disturb now and then, and
// fails unless b is idle afterwards and nobody was refused.
func hammer(t *testing.T, b *bulkhead.Bulkhead, disturb func(*rand.Rand)) *turnstile {
	gate := &turnstile{}
	var all sync.WaitGroup
	for id := range 1000 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(id), 1))
			stay := func() {
				for range r.IntN(3) {
					runtime.Gosched()
				}
				if r.IntN(4) == 0 {
					time.Sleep(time.Duration(r.IntN(1000)))
				}
			}
			for range 10 {
				if disturb != nil && r.IntN(20) == 0 {
					disturb(r)
				}
				if err := enter(b, r, func() { gate.pass(stay) }); err != nil && !errors.Is(err, context.Cause(ended)) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
	all.Wait()
	synctest.Wait() // for the last copies that are released
	wantIdle(t, b)
	if s := b.Stats(); s.Refused != 0 {
		t.Errorf("a call was left in the queue: %+v", s)
	}
	b.Resize(3)
	for _, p := range hold(t, b, 3) {
		p.Release()
	}
	return gate
}

var ended = func() context.Context {
	ctx, cancel := context.WithCancelCause(bg)
	cancel(errors.New("gave up"))
	return ctx
}()

// enter passes through b in one of the ways there are: by Do or with a permit that is
// released by two copies at once, with a context that lasts or with one that ends at
// some moment, which is as likely as not that of the grant.
func enter(b limiter, r *rand.Rand, pass func()) error {
	ctx := bg
	if r.IntN(2) == 0 {
		c, cancel := context.WithCancelCause(bg)
		ctx = c
		giveUp := func() { cancel(context.Cause(ended)) }
		defer giveUp()
		if wait := r.IntN(200); wait == 0 {
			go giveUp()
		} else {
			defer time.AfterFunc(time.Duration(wait*100), giveUp).Stop()
		}
	}
	if r.IntN(2) == 0 {
		return b.Do(ctx, func(context.Context) error { pass(); return nil })
	}
	p, err := b.Acquire(ctx)
	if err != nil {
		return err
	}
	pass()
	go p.Release()
	p.Release()
	return nil
}
