package bulkhead

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/internal/clock"
)

// PartitionConfig says which pools share a dependency. There is no pool by default, so
// that the zero PartitionConfig is not valid.
type PartitionConfig struct {
	// Name is what metrics call the partition. It may be empty. With one, the pools go by
	// this name and their own in brackets, as in "payments[critical]".
	Name string

	// Pools are the classes of calls in order of priority, the highest first. There must
	// be one at least, and their limits must be at most 2^31-1 together.
	Pools []PoolConfig
}

// PoolConfig is a pool of a [PartitionConfig]. All fields but Name may be zero. Limit,
// MaxQueue, MaxWait and Order mean what they mean in [Config].
type PoolConfig struct {
	// Name is what [Partition.Pool] and [Partition.By] know the pool by. It must not be
	// empty, and must be different from those of the others.
	Name string

	// Limit is how many calls of the pool may be in flight at once, not counting those
	// in room that it borrows. Zero: 200.
	Limit int

	// Lend is how many of Limit pools of higher priority may use while this one does not,
	// at most Limit. Zero: none, the room is this pool's alone.
	//
	// The rest, Limit less Lend, is never lent. It is what the pool has left in the worst
	// overload of those above, and should be enough for the calls that cannot be done
	// without. The first pool, which has none above it, can lend nothing.
	Lend int

	// MaxQueue is how many calls may wait at once. Zero: as many as Limit.
	MaxQueue int

	// MaxWait is how long a call may wait for room. Zero: nobody waits, and a call for
	// which there is no room is refused at once, even if that is because room is lent.
	MaxWait time.Duration

	// Order tells which of the pool's waiting calls goes first. Zero: FIFO.
	Order Order
}

// Validate reports every field that [NewPartition] would refuse, or nil.
func (c PartitionConfig) Validate() error {
	var errs []error
	if len(c.Pools) == 0 {
		errs = append(errs, errors.New("bulkhead: Pools is empty, must have a pool at least"))
	}
	place := make(map[string]int)
	total := int64(0)
	for i, p := range c.Pools {
		field := fmt.Sprintf("Pools[%d].", i)
		errs = append(errs, p.faults(field, i == 0)...)
		if first, ok := place[p.Name]; !ok {
			place[p.Name] = i
		} else if p.Name != "" {
			errs = append(errs, fmt.Errorf("bulkhead: %sName is %q, must be different from that of Pools[%d]", field, p.Name, first))
		}
		total += max(0, int64(p.limit()))
	}
	if total > maxCalls {
		errs = append(errs, fmt.Errorf("bulkhead: Pools have limits of %d together, must be at most %d", total, maxCalls))
	}
	return errors.Join(errs...)
}

func (c PoolConfig) faults(field string, first bool) []error {
	own := Config{Limit: c.Limit, MaxQueue: c.MaxQueue, MaxWait: c.MaxWait, Order: c.Order}
	errs := own.faults(field)
	if c.Name == "" {
		errs = append(errs, fmt.Errorf("bulkhead: %sName is empty, must be what the pool is known by", field))
	}
	switch limit := c.limit(); {
	case c.Lend != 0 && first:
		errs = append(errs, fmt.Errorf("bulkhead: %sLend is %d, must be zero: the first pool has the highest priority and none to lend to", field, c.Lend))
	case c.Lend < 0 || limit > 0 && c.Lend > limit:
		errs = append(errs, fmt.Errorf("bulkhead: %sLend is %d, must be between 0 and Limit, which is %d", field, c.Lend, limit))
	}
	return errs
}

func (c PoolConfig) limit() int {
	if c.Limit == 0 {
		return defaultLimit
	}
	return c.Limit
}

// Partition divides the calls that one dependency can bear among pools, such as
// critical, normal and background ones, so that a flood of one kind leaves room for
// the others. Make one with [NewPartition] for each dependency. It may be used from
// many goroutines at once. The zero Partition is not usable. Its limits stay as they
// are.
//
// A pool is a bulkhead with a limit and a queue of its own. In addition, a pool with
// too little room of its own borrows from pools of lower priority what they may lend
// ([PoolConfig.Lend]) and have no use for; never from those of higher priority. In
// flight in all pools together there are never more calls than their limits add up to.
//
// # How room comes back
//
// No running call is stopped to give room back, so a pool may have to wait for what it
// has lent. The wait has bounds:
//
//   - Limit less Lend slots of a pool are never lent, and nobody else can take them. A
//     pool whose calls may not wait, or not long enough for what follows, can count on
//     these alone.
//   - Room that comes free goes first to waiting calls within the Limit of their pool, and
//     only then to those that would borrow it; of either kind, to the pool of the highest
//     priority.
//   - So, while a call waits for room that its pool has lent, nobody new borrows it, and
//     those that do give it back as their calls end. With up to three pools all of it is
//     back, at the latest, when the calls that were in flight have ended. With more, where
//     a lender that lacks its room may in turn take that of one below, that can happen as
//     many times over as there are pools above.
//
// The first pool lends nothing, and has room for Limit calls at any time.
//
// # Cost
//
// A call takes a lock twice, for as long as it takes to add up a few numbers, one for
// each pool. With nobody else at the lock, and three pools, that is about 1.6 times what
// a [Bulkhead] costs; nothing is allocated either. A call that waits costs the same.
type Partition struct {
	clock   clock.Clock
	pools   []Pool // the highest priority first
	labels  []mettle.Label
	unknown atomic.Uint64

	_ [64]byte // every call writes what follows: keep the neighbours off its line

	// mu is held for arithmetic and for moving waiters about; no code of the user's runs
	// under it. One word in its place, as a Bulkhead has, would bound how many and how
	// large the pools can be. It was tried and is no faster: 12 ns a call where this is 11,
	// since what takes time is to find out whether there is room.
	mu     sync.Mutex
	shares []share // by pool; guarded by mu
}

// share is the part of the whole that a pool has. It is apart from the pool because
// every call looks at all shares, which should be few cache lines.
//
// A pool's calls use the room that it keeps first. Those over take room that may be
// lent, the pool's own or that of a pool below. So, for every k, the calls over of pool
// k and all below it must fit into the room that these pools may lend. That is also
// enough for each call to have a slot which it may use, by Hall's theorem, because a
// pool may use all the lent room that the pools below it may use. No call is told
// which slot it has, and so whichever ends, the others need not move.
type share struct {
	keep     int // slots that are never lent
	lend     int // slots that may be lent
	inFlight int
	waiting  int // length of the pool's queue
}

// over is how many calls of the pool are in room that may be lent.
func (s share) over() int { return max(0, s.inFlight-s.keep) }

// NewPartition returns a partition with all room free. It panics when c is not valid,
// with the message of [PartitionConfig.Validate].
func NewPartition(c PartitionConfig) *Partition {
	if err := c.Validate(); err != nil {
		panic(err.Error())
	}
	s := &Partition{
		clock:  clock.New(),
		pools:  make([]Pool, len(c.Pools)),
		labels: []mettle.Label{{Key: "policy", Value: c.Name}},
		shares: make([]share, len(c.Pools)),
	}
	for i, p := range c.Pools {
		s.shares[i] = share{keep: p.limit() - p.Lend, lend: p.Lend}
		s.pools[i].init(s, i, c.Name, p)
	}
	return s
}

// Pool returns the pool with this name. It panics when there is none, since a name
// written in a program should be one of its configuration; for names that come from
// elsewhere there is [Partition.By].
func (s *Partition) Pool(name string) *Pool {
	p := s.find(name)
	if p == nil {
		names := make([]string, len(s.pools))
		for i := range s.pools {
			names[i] = fmt.Sprintf("%q", s.pools[i].key)
		}
		panic(fmt.Sprintf("bulkhead: Pool %q, must be one of %s", name, strings.Join(names, ", ")))
	}
	return p
}

// find looks at one name after the other: there are few, and most differ in length.
func (s *Partition) find(name string) *Pool {
	for i := range s.pools {
		if s.pools[i].key == name {
			return &s.pools[i]
		}
	}
	return nil
}

// By returns a policy that runs each call in the pool whose name pool finds in the
// call's context.
//
// With a name that no pool has, the empty one included, a call runs in the last pool,
// that of the lowest priority: it is not refused for a misspelling or a header that
// somebody made up, and it takes nothing from calls that were told apart. Such calls
// are counted, see [Partition.Observe].
//
// A panic in pool goes to the caller, and nothing is held. A nil pool panics.
func (s *Partition) By(pool func(context.Context) string) mettle.Policy {
	if pool == nil {
		panic("bulkhead: Partition.By: pool is nil")
	}
	return &byName{s: s, pool: pool}
}

// byName is a partition with a way to find the pool; next is nil until it is wrapped.
type byName struct {
	s    *Partition
	pool func(context.Context) string
	next mettle.Policy
}

func (l *byName) Do(ctx context.Context, op func(context.Context) error) error {
	if l.next == nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p := l.s.find(l.pool(ctx))
	if p == nil {
		l.s.unknown.Add(1)
		p = &l.s.pools[len(l.s.pools)-1]
	}
	return p.run(ctx, l.next, op)
}

func (l *byName) Wrap(next mettle.Policy) mettle.Policy {
	return &byName{s: l.s, pool: l.pool, next: next}
}

func (l *byName) Observe(yield func(mettle.Metric) bool) { l.s.Observe(yield) }

// Observe yields the metrics of every pool, as [Pool.Observe] does, and
//
//	mettle.bulkhead.partition.unknown  counter  {call}
//
// with the label policy, which is the partition's Name: the calls that [Partition.By]
// ran in the last pool because no pool had the name.
func (s *Partition) Observe(yield func(mettle.Metric) bool) {
	for i := range s.pools {
		for m := range s.pools[i].Observe {
			if !yield(m) {
				return
			}
		}
	}
	yield(mettle.Metric{
		Kind: mettle.Counter, Name: "mettle.bulkhead.partition.unknown", Unit: "{call}",
		Help: "Calls that ran in the last pool because no pool had the name.", Labels: s.labels,
		Value: float64(s.unknown.Load()),
	})
}

// fitsLocked reports whether there is room for one more call of pool i: room that the
// pool keeps, or else one slot in the sum of every pool k that has i in it.
func (s *Partition) fitsLocked(i int) bool {
	if s.shares[i].inFlight < s.shares[i].keep {
		return true
	}
	room := 0
	for k := len(s.shares) - 1; k >= 0; k-- {
		room += s.shares[k].lend - s.shares[k].over()
		if k <= i && room < 1 {
			return false
		}
	}
	return true
}

// releaseLocked gives back the room of a call of pool i, to a call that waits for it if
// there is one. There is never room for two. The release adds one to the sums of the
// pools up to i, and the first call that enters takes one from those up to its own:
// were there room for another then, either of them would have had room before.
//
// So whenever mu is free, no pool has both a waiting call and room for it, and a call
// that finds room on arrival overtakes nobody.
func (s *Partition) releaseLocked(i int) {
	s.shares[i].inFlight--
	if next := s.nextLocked(); next >= 0 {
		s.pools[next].grantLocked()
	}
}

// nextLocked returns the pool whose waiting call is to have room next, -1 if there is
// no room for any. Those that would borrow it come last.
func (s *Partition) nextLocked() int {
	borrower := -1
	for i := range s.shares {
		sh := &s.shares[i]
		if sh.waiting == 0 || !s.fitsLocked(i) {
			continue
		}
		if sh.inFlight < sh.keep+sh.lend {
			return i
		}
		if borrower < 0 {
			borrower = i
		}
	}
	return borrower
}
