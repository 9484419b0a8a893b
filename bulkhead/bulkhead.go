// Package bulkhead limits how many calls may be in flight at once, so that one slow
// dependency cannot take every goroutine, connection and byte of memory for itself.
//
//	b := bulkhead.New(bulkhead.Config{Name: "payments", Limit: 20, MaxWait: 50 * time.Millisecond})
//	err := b.Do(ctx, charge)
//
// A call that finds all slots taken waits for one, in a bounded queue and for a
// bounded time, or is refused with [ErrFull]. The bound is exact: at no moment are more
// calls in flight than the limit allows, however many arrive at once.
//
// Where calls of several classes share one dependency, a [Partition] gives each of them
// a pool of its own, and lends what one has no use for to those more important.
//
// In a pipeline a bulkhead belongs inside a breaker, so that calls which the breaker
// refuses take no slot, and outside the timeout of an attempt, so that the time in the
// queue is not taken for slowness of the dependency. A refusal is ignored by a breaker
// around it and costs it no probe, and so is a wait that the context ended.
package bulkhead

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/internal/clock"
	"github.com/mettle-go/mettle/internal/relay"
)

// Bulkhead is a [mettle.Policy] that limits the calls in flight. Make one with [New]
// for each dependency. It may be used from many goroutines at once.
//
// The zero Bulkhead is not usable.
//
// Calls through Do, through a pipeline and through Acquire count together. A call
// that finds a free slot takes no lock and allocates nothing; one that is refused at
// once does not either. A call that waits costs a few allocations and a timer.
type Bulkhead struct {
	name     string
	maxQueue int // 0: as the limit
	maxWait  time.Duration
	order    Order
	clock    clock.Clock
	tickets  ticketBook
	labels   [3][]mettle.Label // plain, refused at once, refused after a wait
	refusals atomic.Pointer[refusals]

	_     [64]byte // every call writes the word below: keep the neighbours off its line
	state atomic.Uint64
	_     [56]byte

	counts
	queued atomic.Int64 // length of queue, written under mu

	mu     sync.Mutex // taken only where calls wait or the limit changes; no hook runs under it
	queue  list.List  // of *waiter, the one that came first in front; guarded by mu
	waits  uint64     // waits that have ended, however; guarded by mu
	waited time.Duration
}

// New returns a bulkhead with all slots free. It panics when c is not valid, with the
// message of [Config.Validate].
func New(c Config) *Bulkhead {
	if err := c.Validate(); err != nil {
		panic(err.Error())
	}
	if c.Limit == 0 {
		c.Limit = defaultLimit
	}
	b := &Bulkhead{
		name:     c.Name,
		maxQueue: c.MaxQueue,
		maxWait:  c.MaxWait,
		order:    c.Order,
		clock:    clock.New(),
		tickets:  newTicketBook(c.Limit),
		labels:   newLabels(c.Name),
	}
	b.state.Store(uint64(newWord(c.Limit)))
	b.refusals.Store(b.newRefusals(c.Limit))
	return b
}

// Do runs op in a slot of its own and gives the slot back when op has ended, be it by
// a panic or [runtime.Goexit]. It returns op's error, or, without having run op:
//
//   - [context.Cause] of ctx, when ctx was done on entry;
//   - an error that wraps the cause, when ctx ended while the call waited for a slot.
//     Its Outcome is [mettle.Ignored], be it the end of the caller's time or of a
//     timeout's: it passed in a queue of ours, and what is behind that is not to blame;
//   - a [*FullError], when there was neither a slot nor room to wait, or no slot came
//     free within MaxWait.
//
// How long a call waited for the slot that it got is noted by [mettle.AddQueued], for
// policies further out that measure how long the dependency takes.
func (b *Bulkhead) Do(ctx context.Context, op func(context.Context) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// Not through run, which hands op to an interface: it would escape to the heap,
	// and every caller would pay for its closure.
	if err := b.take(ctx); err != nil {
		return err
	}
	defer b.release() // on a panic and Goexit as well, which pass through with their stack
	return op(ctx)
}

// Wrap returns the bulkhead bound to next, which takes the place of the operation.
func (b *Bulkhead) Wrap(next mettle.Policy) mettle.Policy { return &bound{b, relay.To(next)} }

type bound struct {
	b    *Bulkhead
	next relay.Policy
}

func (l *bound) Do(ctx context.Context, op func(context.Context) error) error {
	_, err := l.DoAt(ctx, op, clock.Unknown)
	return err
}

// DoAt implements [relay.Policy]. It does not look at ctx, which whatever encloses a bound
// bulkhead has done already.
func (l *bound) DoAt(ctx context.Context, op func(context.Context) error, now clock.Instant) (clock.Instant, error) {
	if !l.b.tryTake() {
		if err := l.b.lineUp(ctx); err != nil {
			return clock.Unknown, err
		}
		now = clock.Unknown // it may have waited
	}
	defer l.b.release()
	return l.next.DoAt(ctx, op, now)
}

// Acquire takes a slot for work that is not one function call, such as a stream. It
// waits and refuses as Do does, with the same errors, and returns the zero Permit
// with them: the cause of a ctx that ended during the wait is to be looked for with
// [errors.Is]. The caller must Release the permit.
func (b *Bulkhead) Acquire(ctx context.Context) (Permit, error) {
	if ctx.Err() != nil {
		return Permit{}, context.Cause(ctx)
	}
	if err := b.take(ctx); err != nil {
		return Permit{}, err
	}
	return b.tickets.issue(b, b.hint()), nil
}

// TryAcquire takes a slot if one is free now, and never waits. It counts as no
// refusal when there is none. The caller must Release a permit it got.
func (b *Bulkhead) TryAcquire() (Permit, bool) {
	if !b.tryTake() {
		return Permit{}, false
	}
	return b.tickets.issue(b, b.hint()), true
}

// Resize sets the limit to n for all calls from now on. A higher limit admits waiting
// calls at once, as many as there are new slots. Under a lower one calls in flight go
// on, and none enters until fewer than n are left.
//
// Where MaxQueue is zero the room in the queue becomes n as well; calls that wait
// already stay. Resize panics and changes nothing when n is less than 1 or more than
// 2^31-1, as New does: a bulkhead that admits nobody would never find out that it
// could admit somebody.
func (b *Bulkhead) Resize(n int) {
	if n < 1 || n > maxCalls {
		panic(fmt.Sprintf("bulkhead: Resize to %d, must be between 1 and %d", n, maxCalls))
	}
	r := b.newRefusals(n)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changeLocked(func(w word) word { return w.withLimit(n) })
	b.refusals.Store(r) // under mu, so that of two Resizes the same one has the last word in both
}
