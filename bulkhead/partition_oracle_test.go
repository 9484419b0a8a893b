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

// partitionModel is a partition as one would explain it at a table: chairs, some of
// which a pool lends, and everybody gets up and sits down again whenever somebody
// wants to know whether there is a chair left. What it has of a bulkhead it has from
// model, pool by pool; the limits there are not its own to look at.
type partitionModel struct {
	pools []*model
	lend  []int
}

// seats reports whether everybody in flight can sit, and one more of pool extra. The
// lowest sit down first, who have the least choice, each on the chair that is of
// least use to others.
func (m *partitionModel) seats(extra int) bool {
	type chair struct {
		pool  int
		lent  bool // may be
		taken bool
	}
	var chairs []chair
	for i, p := range m.pools {
		for n := range p.limit {
			chairs = append(chairs, chair{pool: i, lent: n >= p.limit-m.lend[i]})
		}
	}
	sit := func(i int) bool {
		for _, may := range []func(chair) bool{
			func(c chair) bool { return c.pool == i && !c.lent },
			func(c chair) bool { return c.pool == i },
			func(c chair) bool { return c.pool > i && c.lent },
		} {
			for n := range chairs {
				if !chairs[n].taken && may(chairs[n]) {
					chairs[n].taken = true
					return true
				}
			}
		}
		return false
	}
	for i := len(m.pools) - 1; i >= 0; i-- {
		n := m.pools[i].inFlight
		if i == extra {
			n++
		}
		for range n {
			if !sit(i) {
				return false
			}
		}
	}
	return true
}

func (m *partitionModel) acquire(i int, c *call, now time.Duration) {
	p := m.pools[i]
	switch {
	case m.seats(i):
		p.inFlight++
		c.state = "holding"
	case len(p.queue) < p.room():
		p.queue = append(p.queue, c)
		c.state, c.since = "waiting", now
	default:
		p.refused++
		c.state = "full"
	}
}

func (m *partitionModel) try(i int, c *call) {
	c.state = "full"
	if m.seats(i) {
		m.pools[i].inFlight++
		c.state = "holding"
	}
}

func (m *partitionModel) release(i int, c *call, now time.Duration) {
	if c.state != "holding" {
		return
	}
	c.state = "released"
	m.pools[i].inFlight--
	for m.grant(now) {
	}
}

// grant gives one chair away: within their limits first, then in order of priority.
func (m *partitionModel) grant(now time.Duration) bool {
	for _, borrow := range []bool{false, true} {
		for i, p := range m.pools {
			if len(p.queue) == 0 || p.inFlight >= p.limit != borrow || !m.seats(i) {
				continue
			}
			c := p.queue[0]
			if p.lifo {
				c = p.queue[len(p.queue)-1]
			}
			p.leave(c, "holding", now)
			p.inFlight++
			return true
		}
	}
	return false
}

// newPartition makes a model and a partition that have the same pools, from numbers
// that next gives.
func newPartition(next func() int) (*partitionModel, *bulkhead.Partition) {
	m, config := &partitionModel{}, bulkhead.PartitionConfig{}
	for i := range 1 + next()%4 {
		p := &model{limit: 1 + next()%3, maxQueue: next() % 3, lifo: next()%2 == 1}
		if next()%8 != 0 {
			p.maxWait = time.Duration(next()%20)*time.Millisecond + 300*time.Microsecond
		}
		lend := 0
		if i > 0 {
			lend = next() % (p.limit + 1)
		}
		m.pools, m.lend = append(m.pools, p), append(m.lend, lend)
		order := bulkhead.FIFO
		if p.lifo {
			order = bulkhead.LIFO
		}
		config.Pools = append(config.Pools, bulkhead.PoolConfig{
			Name: fmt.Sprint(i), Limit: p.limit, Lend: lend, MaxQueue: p.maxQueue, MaxWait: p.maxWait, Order: order,
		})
	}
	return m, bulkhead.NewPartition(config)
}

// pooled is a call and the pool that it is for.
type pooled struct {
	*call
	pool int
}

// playPartition runs the steps that data encodes on the model and on a partition side
// by side, and compares them after each. It must be called in a synctest bubble.
func playPartition(t *testing.T, data []byte) {
	next := func() int {
		if len(data) == 0 {
			return 0
		}
		v := int(data[0])
		data = data[1:]
		return v
	}
	m, s := newPartition(next)
	start := time.Now()
	var calls []pooled
	pick := func() pooled {
		if len(calls) == 0 {
			return pooled{call: &call{cancel: func() {}, real: &attempt{}}}
		}
		return calls[next()%len(calls)]
	}
	pool := func(i int) *bulkhead.Pool { return s.Pool(fmt.Sprint(i)) }
	begin := func(ctx context.Context, cancel context.CancelFunc, deadline time.Duration) {
		i := next() % len(m.pools)
		c := &call{cancel: cancel, deadline: deadline, real: acquire(ctx, pool(i))}
		calls = append(calls, pooled{c, i})
		m.acquire(i, c, time.Since(start))
	}
	defer func() {
		for _, c := range calls {
			c.cancel()
		}
	}()

	for step := 0; len(data) > 0; step++ {
		now, did := time.Since(start), ""
		switch next() % 9 {
		case 0, 1, 2:
			did = "acquire"
			ctx, cancel := context.WithCancel(bg)
			begin(ctx, cancel, 0)
		case 3:
			d := time.Duration(1+next()%10)*time.Millisecond + 600*time.Microsecond
			did = fmt.Sprint("acquire with ", d)
			ctx, cancel := context.WithTimeout(bg, d)
			begin(ctx, cancel, now+d)
		case 4:
			did = "try"
			i := next() % len(m.pools)
			c := &call{cancel: func() {}, real: &attempt{}}
			c.real.done.Store(true)
			calls = append(calls, pooled{c, i})
			var ok bool
			if c.real.permit, ok = pool(i).TryAcquire(); !ok {
				c.real.err = &bulkhead.FullError{}
			}
			m.try(i, c)
		case 5, 6:
			did = "release, perhaps again"
			c := pick()
			c.real.release()
			m.release(c.pool, c.call, now)
		case 7:
			did = "cancel, and release at once"
			c, r := pick(), pick()
			c.cancel()
			r.real.release()
			m.pools[c.pool].cancel(c.call, now)
			m.release(r.pool, r.call, now)
		case 8:
			d := time.Duration(1+next()%8) * time.Millisecond
			did = fmt.Sprint("advance by ", d)
			time.Sleep(d)
			for _, p := range m.pools {
				p.advance(now + d)
			}
		}
		synctest.Wait()
		for i, p := range m.pools {
			if got, want := pool(i).Stats(), p.stats(); got != want {
				t.Fatalf("step %d, %s: pool %d:\n got %+v\nwant %+v", step, did, i, got, want)
			}
		}
		for i, c := range calls {
			if got := c.outcome(); got != c.state {
				t.Fatalf("step %d, %s: call %d of pool %d is %s, want %s", step, did, i, c.pool, got, c.state)
			}
		}
	}
	for slices.ContainsFunc(m.pools, func(p *model) bool { return p.inFlight > 0 || len(p.queue) > 0 }) {
		for _, c := range calls {
			c.real.release()
			m.release(c.pool, c.call, time.Since(start))
			synctest.Wait()
		}
	}
	for i := range m.pools {
		wantIdle(t, pool(i))
	}
}

// Spec: K1, K2, K3, K4, K7
func TestPartitionAgreesWithTheModel(t *testing.T) {
	rounds := 200
	if testing.Short() {
		rounds = 40
	}
	for seed := range rounds {
		random := rand.New(rand.NewPCG(uint64(seed), 0))
		data := make([]byte, 300)
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		synctest.Test(t, func(t *testing.T) { playPartition(t, data) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func FuzzPartitionAgreesWithTheModel(f *testing.F) {
	two := []byte{1, 0, 0, 0, 1, 9, 0, 0, 0, 1, 9, 1}                                    // one slot each, the second lends its own
	f.Add(slices.Concat(two, []byte{0, 0, 0, 0, 0, 1, 0, 0, 5, 0, 5, 1}))                // borrowed, wanted back, given back
	f.Add(slices.Concat(two, []byte{0, 0, 0, 0, 0, 1, 0, 0, 7, 2, 0, 5, 1}))             // the lender gives up as room comes free
	f.Add(slices.Concat(two, []byte{0, 1, 0, 1, 0, 0, 0, 0, 5, 0, 8, 7, 5, 2}))          // the lender needs it himself
	f.Add([]byte{2, 1, 1, 0, 1, 9, 1, 1, 0, 1, 9, 1, 1, 1, 1, 1, 9, 2, 0, 0, 0, 0, 0, 0, // three pools
		0, 0, 0, 1, 0, 2, 0, 2, 4, 1, 3, 5, 2, 5, 0, 5, 1, 8, 3, 5, 4})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 500 {
			return
		}
		synctest.Test(t, func(t *testing.T) { playPartition(t, data) })
	})
}

// How long can the rule by which room is given away keep a pool waiting for what it
// lent? Random walks of the model, which the partition agrees with: for three pools, the
// pool has all that it asks for when the calls in flight have ended, even though those
// above never stop asking for more.
func TestWhatIsLentComesBack(t *testing.T) {
	waits := 0
	for seed := range 300 {
		r := rand.New(rand.NewPCG(uint64(seed), 2))
		m := &partitionModel{}
		for i := range 3 {
			limit := 1 + r.IntN(2)
			m.pools = append(m.pools, &model{limit: limit, maxQueue: 3, maxWait: time.Hour})
			m.lend = append(m.lend, min(i, 1)*limit)
		}
		var calls []pooled
		holding := func(c pooled) bool { return c.state == "holding" }
		since := make([][]pooled, 3) // by pool that waits: what was in flight when it began to
		for range 200 {
			if i := r.IntN(3); r.IntN(2) == 0 {
				c := pooled{&call{}, i}
				m.acquire(i, c.call, 0)
				calls = append(calls, c)
			} else if i := slices.IndexFunc(calls, holding); i >= 0 { // they all take about as long
				m.release(calls[i].pool, calls[i].call, 0)
			}
			calls = slices.DeleteFunc(calls, func(c pooled) bool { return c.state == "released" || c.state == "full" })
			for i, p := range m.pools {
				switch {
				case len(p.queue) == 0 || p.inFlight >= p.limit:
					since[i] = nil
				case since[i] == nil:
					since[i] = slices.DeleteFunc(slices.Clone(calls), func(c pooled) bool { return !holding(c) })
					waits++
				case !slices.ContainsFunc(since[i], holding):
					t.Fatalf("seed %d: pool %d waits for what it lent, though all who had it have ended", seed, i)
				}
			}
		}
	}
	t.Logf("%d waits", waits)
}

// A thousand goroutines, some of which give up, in three pools that are much too small
// for them. A slot lost or a wakeup missed would leave a call in a queue for the
// whole hour, and show as expired. A slot doubled shows at the door, where those inside
// are asked to sit down every time somebody comes in.
//
// Spec: K1, K3
func TestPartitionNeverTooManyAndNothingLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &partitionModel{
			pools: []*model{{limit: 1}, {limit: 3}, {limit: 3}},
			lend:  []int{0, 3, 2},
		}
		var pools []bulkhead.PoolConfig
		for i, order := range []bulkhead.Order{bulkhead.FIFO, bulkhead.LIFO, bulkhead.FIFO} {
			pools = append(pools, bulkhead.PoolConfig{Name: fmt.Sprint(i), Limit: m.pools[i].limit, Lend: m.lend[i],
				MaxQueue: 2000, MaxWait: time.Hour, Order: order})
		}
		s := bulkhead.NewPartition(bulkhead.PartitionConfig{Pools: pools})

		var mu sync.Mutex // guards m and most
		most := [3]int{}  // in each pool
		pass := func(r *rand.Rand, i int) {
			mu.Lock()
			m.pools[i].inFlight++
			most[i] = max(most[i], m.pools[i].inFlight)
			if !m.seats(-1) {
				t.Errorf("too many at once: %d, %d and %d", m.pools[0].inFlight, m.pools[1].inFlight, m.pools[2].inFlight)
			}
			mu.Unlock()
			for range r.IntN(3) {
				runtime.Gosched()
			}
			if r.IntN(4) == 0 {
				time.Sleep(time.Duration(r.IntN(1000)))
			}
			mu.Lock()
			m.pools[i].inFlight--
			mu.Unlock()
		}
		var all sync.WaitGroup
		for id := range 1000 {
			all.Go(func() {
				r := rand.New(rand.NewPCG(uint64(id), 1))
				for range 10 {
					i := r.IntN(3)
					if r.IntN(10) == 0 { // a lull, in which another pool may borrow
						time.Sleep(time.Duration(r.IntN(5000)))
					}
					err := enter(s.Pool(fmt.Sprint(i)), r, func() { pass(r, i) })
					if err != nil && !errors.Is(err, context.Cause(ended)) {
						t.Errorf("got %v", err)
					}
				}
			})
		}
		all.Wait()
		synctest.Wait() // for the last copies that are released
		for i := range 3 {
			if got := s.Pool(fmt.Sprint(i)).Stats(); got.Refused != 0 {
				t.Errorf("a call was left in the queue of pool %d: %+v", i, got)
			}
		}
		wantFree(t, s, 7, "0", "1", "2")
		t.Logf("at most %v in flight in pools with limits of 1, 3 and 3", most)
		if most[2] > 3 || most[0] < 2 {
			t.Errorf("at most %v in flight: the first pool should have borrowed, the last not", most)
		}
	})
}

// Few goroutines and short stays in two pools of one slot: a release in one pool meets
// calls that are about to wait in the other.
//
// Spec: K1, K3
func TestPartitionReleaseMeetsJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bulkhead.NewPartition(bulkhead.PartitionConfig{Pools: []bulkhead.PoolConfig{
			{Name: "high", Limit: 1, MaxQueue: 10, MaxWait: time.Hour},
			{Name: "low", Limit: 1, Lend: 1, MaxQueue: 10, MaxWait: time.Hour},
		}})
		var all sync.WaitGroup
		for id := range 6 {
			p := s.Pool([]string{"high", "low"}[id%2])
			all.Go(func() {
				for i := range 5_000 {
					err := p.Do(bg, func(context.Context) error {
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
		wantFree(t, s, 2, "high", "low")
	})
}
