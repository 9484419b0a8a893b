package tests

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/mettle-go/mettle/bulkhead"
)

// slot is one operation on a bulkhead, or on the pool with the given number.
type slot struct {
	name   string
	pool   int
	permit uint
	limit  int // of resize
}

// room is a bulkhead to which one thing happens at a time: two pools, the second of
// which may lend some of its room to the first. A bulkhead is the first, of a partition
// that has no room in the second.
type room struct {
	limit [2]int
	lend  int
	taken [2]set
}

// fits reports whether there is room for one more in the given pool.
func (m room) fits(pool int) bool {
	high, low := m.taken[0].len(), m.taken[1].len()
	if pool == 0 {
		high++
	} else {
		low++
	}
	borrowed := max(0, high-m.limit[0])
	return borrowed <= m.lend && low+borrowed <= m.limit[1]
}

// step reports whether the model can answer as the bulkhead did, and what becomes of it.
func (m room) step(s slot, output any) (bool, room) {
	switch s.name {
	case "acquire", "try":
		fits := m.fits(s.pool)
		if fits {
			m.taken[s.pool] = m.taken[s.pool].with(s.permit)
		}
		// Who acquires waits for as long as it takes, and is never told that there is no
		// room: its moment is one at which there is.
		return output == fits && (fits || s.name == "try"), m
	case "release":
		m.taken[s.pool] = m.taken[s.pool].without(s.permit)
		return true, m
	case "resize":
		m.limit[0] = s.limit
		return true, m
	case "in flight":
		return output == m.taken[s.pool].len(), m
	default:
		panic(s.name)
	}
}

func roomModel(m room) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return m },
		Step: func(state, input, output any) (bool, any) {
			ok, next := state.(room).step(input.(slot), output)
			return ok, next
		},
	}
}

// limiter is a Bulkhead or a Pool.
type limiter interface {
	Acquire(context.Context) (bulkhead.Permit, error)
	TryAcquire() (bulkhead.Permit, bool)
	Stats() bulkhead.Stats
}

// pools are what a history is played on. A nil resize leaves it out.
type pools struct {
	pools  []limiter
	resize func(int)
}

// use does one thing to the pools, and returns what it answered.
func (p pools) use(s slot, permits *held[slotted], permit bulkhead.Permit) any {
	b, ok := p.pools[s.pool], false
	switch s.name {
	case "acquire":
		var err error
		permit, err = b.Acquire(context.Background())
		ok = err == nil
	case "try":
		permit, ok = b.TryAcquire()
	case "release":
		permit.Release()
		return nil
	case "resize":
		p.resize(s.limit)
		return nil
	case "in flight":
		return b.Stats().InFlight
	}
	if ok {
		permits.put(s.permit, slotted{permit, s.pool})
	}
	return ok
}

type slotted struct {
	bulkhead.Permit
	pool int
}

// play has goroutines use the pools, and returns what they saw.
func (p pools) play(seed uint64) *history {
	h, permits := &history{}, &held[slotted]{}
	do := func(client int, s slot, permit bulkhead.Permit) {
		h.do(client, s, func() any { return p.use(s, permits, permit) })
	}
	release := func(client int, r *rand.Rand) bool {
		id, item, ok := permits.take(r)
		if ok {
			do(client, slot{name: "release", permit: id, pool: item.pool}, item.Permit)
			item.Release() // without effect
		}
		return ok
	}
	var waiters sync.WaitGroup
	atOnce(seed, 4, 10, func(client int, r *rand.Rand) {
		s := slot{pool: r.IntN(len(p.pools))}
		switch n := r.IntN(12); {
		case n < 4:
			s.name, s.permit = "try", permits.next()
			do(client, s, bulkhead.Permit{})
		case n < 6: // and the goroutine goes on to other things
			s.name, s.permit = "acquire", permits.next()
			waiters.Go(func() { do(10+int(s.permit), s, bulkhead.Permit{}) })
		case n < 10:
			release(client, r)
		case n < 11 && p.resize != nil:
			s.name, s.limit = "resize", 1+r.IntN(4)
			do(client, s, bulkhead.Permit{})
		default:
			s.name = "in flight"
			do(client, s, bulkhead.Permit{})
		}
	})
	for r := rand.New(rand.NewPCG(seed, 99)); ; { // who waits still has to be let in
		synctest.Wait()
		if !release(99, r) {
			break
		}
	}
	waiters.Wait()
	return h
}

func newBulkhead(limit int) pools {
	b := bulkhead.New(bulkhead.Config{Limit: limit, MaxWait: time.Hour, MaxQueue: 1000})
	return pools{[]limiter{b}, b.Resize}
}

func newPools(limit [2]int, lend int) pools {
	s := bulkhead.NewPartition(bulkhead.PartitionConfig{Pools: []bulkhead.PoolConfig{
		{Name: "high", Limit: limit[0], MaxWait: time.Hour, MaxQueue: 1000},
		{Name: "low", Limit: limit[1], Lend: lend, MaxWait: time.Hour, MaxQueue: 1000},
	}})
	return pools{[]limiter{s.Pool("high"), s.Pool("low")}, nil}
}

// Whatever goroutines do to a bulkhead at once, they see what they could have seen had
// they done it one after the other: at no moment a slot too many or too few, and none
// that is free while a call waits.
//
// Spec: K1, K3, K4, K5
func TestBulkheadIsLinearizable(t *testing.T) {
	for name, v := range map[string]struct {
		from  room
		begin func() pools
	}{
		"bulkhead":         {room{limit: [2]int{2, 0}}, func() pools { return newBulkhead(2) }},
		"pools":            {room{limit: [2]int{1, 2}, lend: 2}, func() pools { return newPools([2]int{1, 2}, 2) }},
		"pools, some lent": {room{limit: [2]int{1, 3}, lend: 1}, func() pools { return newPools([2]int{1, 3}, 1) }},
	} {
		t.Run(name, func(t *testing.T) {
			linearizable(t, 1000, roomModel(v.from), func(seed uint64) *history { return v.begin().play(seed) })
		})
	}
}

// careless finds out whether a slot is free, and then takes it from a bulkhead that has
// one more.
type careless struct {
	*bulkhead.Bulkhead
	limit int
}

func (b careless) TryAcquire() (bulkhead.Permit, bool) {
	if b.Stats().InFlight >= b.limit {
		return bulkhead.Permit{}, false
	}
	runtime.Gosched()
	return b.Bulkhead.TryAcquire()
}

// A check that accepts everything proves nothing: a bulkhead that is right for one
// goroutine and wrong for several is found out.
//
// Spec: K1
func TestBulkheadThatIsNotLinearizable(t *testing.T) {
	notLinearizable(t, roomModel(room{limit: [2]int{2, 0}}), func(seed uint64) *history {
		b := careless{bulkhead.New(bulkhead.Config{Limit: 3, MaxWait: time.Hour, MaxQueue: 1000}), 2}
		return pools{[]limiter{b}, nil}.play(seed)
	})
}
