package bulkhead

import (
	"container/list"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/mettle-go/mettle"
)

// Pool is the part of a [Partition] that calls of one class share. It is a
// [mettle.Policy] and may be used from many goroutines at once. The zero Pool is not
// usable; they come from [Partition.Pool].
type Pool struct {
	part     *Partition
	rank     int    // in part.pools
	key      string // its name within part
	name     string // its name to the world
	limit    int
	maxQueue int // 0: nobody waits
	maxWait  time.Duration
	order    Order
	tickets  ticketBook
	labels   [3][]mettle.Label
	refusals [2]refusals // of a pool that has all its room in use, and of one that has lent the rest

	counts

	queue  list.List     // of *waiter, the one that came first in front; guarded by part.mu
	waits  uint64        // as in Bulkhead; guarded by part.mu
	waited time.Duration // guarded by part.mu
}

func (p *Pool) init(part *Partition, rank int, partition string, c PoolConfig) {
	p.part, p.rank, p.key, p.name = part, rank, c.Name, c.Name
	if partition != "" {
		p.name = fmt.Sprintf("%s[%s]", partition, c.Name)
	}
	p.limit, p.maxWait, p.order = c.limit(), c.MaxWait, c.Order
	if c.MaxWait > 0 {
		p.maxQueue = c.MaxQueue
		if c.MaxQueue == 0 {
			p.maxQueue = p.limit
		}
	}
	p.tickets = newTicketBook(p.limit)
	p.labels = newLabels(p.name)
	for i := range p.refusals {
		full := FullError{Name: p.name, Limit: p.limit, MaxQueue: p.maxQueue, Lent: i == 1}
		late := full
		late.Waited = p.maxWait
		p.refusals[i] = refusals{full, late}
	}
}

// Do runs op in the pool as [Bulkhead.Do] does in a bulkhead, with the same errors. A
// refusal names the pool.
func (p *Pool) Do(ctx context.Context, op func(context.Context) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return p.run(ctx, nil, op)
}

// Wrap returns the pool bound to next, which takes the place of the operation.
func (p *Pool) Wrap(next mettle.Policy) mettle.Policy { return &boundPool{p, next} }

type boundPool struct {
	p    *Pool
	next mettle.Policy
}

func (l *boundPool) Do(ctx context.Context, op func(context.Context) error) error {
	return l.p.run(ctx, l.next, op)
}

// run is Do without the look at ctx. A nil next runs op itself.
func (p *Pool) run(ctx context.Context, next mettle.Policy, op func(context.Context) error) error {
	if err := p.take(ctx); err != nil {
		return err
	}
	defer p.release() // on a panic and Goexit as well, which pass through with their stack
	if next == nil {
		return op(ctx)
	}
	return next.Do(ctx, op)
}

// Acquire takes room for work that is not one function call, as [Bulkhead.Acquire]
// does. The caller must Release the permit.
func (p *Pool) Acquire(ctx context.Context) (Permit, error) {
	if ctx.Err() != nil {
		return Permit{}, context.Cause(ctx)
	}
	if err := p.take(ctx); err != nil {
		return Permit{}, err
	}
	return p.issue(), nil
}

// TryAcquire takes room if there is some now, the pool's own or borrowed, and never
// waits. It counts as no refusal when there is none. The caller must Release a permit
// it got.
func (p *Pool) TryAcquire() (Permit, bool) {
	s := p.part
	s.mu.Lock()
	fits := s.fitsLocked(p.rank)
	if fits {
		s.shares[p.rank].inFlight++
	}
	s.mu.Unlock()
	if !fits {
		return Permit{}, false
	}
	return p.issue(), true
}

// issue looks for a ticket from anywhere in the book. The number in flight, by which a
// bulkhead goes, is behind the lock.
func (p *Pool) issue() Permit { return p.tickets.issue(p, rand.Uint32()) }

// Stats returns a snapshot, as [Bulkhead.Stats] does, of one moment. InFlight is above
// Limit by what the pool borrows. Calls that wait while InFlight is below Limit wait
// for room that the pool has lent.
func (p *Pool) Stats() Stats {
	expired := p.expired.Load()
	s := Stats{Limit: p.limit, MaxQueue: p.maxQueue, Expired: expired, Refused: expired + p.refused.Load()}
	p.part.mu.Lock()
	sh := p.part.shares[p.rank]
	s.InFlight, s.Queued, s.Waits, s.Waited = sh.inFlight, sh.waiting, p.waits, p.waited
	p.part.mu.Unlock()
	return s
}

// Observe yields the metrics that [Bulkhead.Observe] yields, for this pool. The label
// policy is the pool's name, with that of the partition as in "payments[critical]".
func (p *Pool) Observe(yield func(mettle.Metric) bool) { observe(p.Stats(), &p.labels, yield) }

// take takes room, waiting for it if need be, or returns why there is none.
func (p *Pool) take(ctx context.Context) error {
	s := p.part
	s.mu.Lock()
	if s.fitsLocked(p.rank) {
		s.shares[p.rank].inFlight++
		s.mu.Unlock()
		return nil
	}
	full := p.fullLocked()
	s.mu.Unlock()
	if full != nil {
		return p.refuse(ctx, full)
	}
	return wait(ctx, p, p.name, p.maxWait, s.clock)
}

// fullLocked returns the refusal of a call that found no room if there is no place in
// the queue either, and else nil.
func (p *Pool) fullLocked() *FullError {
	if p.part.shares[p.rank].waiting < p.maxQueue {
		return nil
	}
	return &p.refusals[p.lentLocked()].full
}

// lentLocked returns 1 if room of the pool is lent that a call which finds none would
// have had, and 0 if the pool has as many in flight as its own room is for.
func (p *Pool) lentLocked() int {
	if p.part.shares[p.rank].inFlight < p.limit {
		return 1
	}
	return 0
}

// release gives room back.
func (p *Pool) release() {
	s := p.part
	s.mu.Lock()
	s.releaseLocked(p.rank)
	s.mu.Unlock()
}

// join implements slots.
func (p *Pool) join(wt *waiter) (joined bool, full *FullError) {
	s := p.part
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fitsLocked(p.rank) {
		s.shares[p.rank].inFlight++
		return false, nil
	}
	if full := p.fullLocked(); full != nil {
		return false, full
	}
	wt.since = s.clock.Now()
	wt.place = p.queue.PushBack(wt)
	s.shares[p.rank].waiting++
	return true, nil
}

// leave implements slots. That somebody leaves makes no room for anybody.
func (p *Pool) leave(wt *waiter) (late *FullError) {
	p.part.mu.Lock()
	defer p.part.mu.Unlock()
	if wt.place == nil {
		return nil
	}
	p.dequeueLocked(wt)
	return &p.refusals[p.lentLocked()].late
}

// grantLocked gives room to the waiting call whose turn it is.
func (p *Pool) grantLocked() {
	next := p.queue.Front()
	if p.order == LIFO {
		next = p.queue.Back()
	}
	wt := next.Value.(*waiter)
	p.dequeueLocked(wt)
	p.part.shares[p.rank].inFlight++
	close(wt.granted)
}

// dequeueLocked takes wt out of the queue and counts the time that it was in there.
func (p *Pool) dequeueLocked(wt *waiter) {
	p.queue.Remove(wt.place)
	wt.place = nil
	p.part.shares[p.rank].waiting--
	p.waits++
	p.waited += min(time.Duration(p.part.clock.Now()-wt.since), math.MaxInt64-p.waited) // saturates
}
