package bulkhead

import (
	"context"
	"math"
	"time"
)

// A word is the state that decides who may enter: how many calls are in flight, the
// limit, and whether calls wait. All three are in one word, so that the CAS which
// takes a slot is proof that the limit of that very moment had room.
//
//	bit 63: calls wait · bits 31 to 61: limit, 1 to 2^31-1 · bits 0 to 30: in flight
//
// No slot is lost and no wakeup missed, because of three rules. The first says who
// may write; the others hold whenever mu is free.
//
//  1. Where waiting is set, only the holder of mu changes the word: every CAS without
//     mu is from a word in which it is clear, and fails.
//  2. While the queue is not empty, waiting is set.
//  3. While waiting is set, no slot is free.
//
// A call sets waiting by a CAS from a word without a free slot (join). A release
// that came before that CAS would have made it fail, and the call would have looked
// again; one that comes after it sees waiting and goes through mu, where the slot
// goes to a waiter directly (settle) and is free at no moment. Resize goes through mu
// as well. So a free slot and a waiter never meet, and nobody overtakes the queue.
//
// A grant and the end of a wait are decided under mu, by whether the waiter is still
// in the queue: it is either granted a slot or has left, never both. One that finds
// itself granted when its context has ended releases the slot like anybody else.
type word uint64

const (
	waiting    word = 1 << 63
	countMask  word = 1<<31 - 1
	limitShift      = 31
)

func newWord(limit int) word              { return word(limit) << limitShift }
func (w word) inFlight() int              { return int(w & countMask) }
func (w word) limit() int                 { return int(w >> limitShift & countMask) }
func (w word) free() bool                 { return w&countMask < w>>limitShift&countMask }
func (w word) waiting() bool              { return w&waiting != 0 }
func (w word) withLimit(limit int) word   { return w&^(countMask<<limitShift) | newWord(limit) }
func (b *Bulkhead) load() word            { return word(b.state.Load()) }
func (b *Bulkhead) cas(old, to word) bool { return b.state.CompareAndSwap(uint64(old), uint64(to)) }

// tryTake takes a slot if one is free.
func (b *Bulkhead) tryTake() bool {
	for {
		w := b.load()
		if !w.free() {
			return false
		}
		if b.cas(w, w+1) {
			return true
		}
	}
}

// release gives a slot back.
func (b *Bulkhead) release() {
	for {
		w := b.load()
		if w.waiting() {
			b.handOn()
			return
		}
		if b.cas(w, w-1) {
			return
		}
	}
}

// handOn is release where calls wait, or did a moment ago.
func (b *Bulkhead) handOn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changeLocked(func(w word) word { return w - 1 })
}

// changeLocked changes the word, and grants the slots that this frees.
func (b *Bulkhead) changeLocked(change func(word) word) {
	for {
		w := b.load()
		if w.waiting() {
			b.settleLocked(change(w)) // rule 1: nobody else writes
			return
		}
		if b.cas(w, change(w)) {
			return
		}
	}
}

// settleLocked grants free slots of w to waiters, which makes rules 2 and 3 true
// again, and then publishes w. Waiting must be set in the word that is there.
func (b *Bulkhead) settleLocked(w word) {
	for w.free() && b.queue.Len() > 0 {
		next := b.queue.Front()
		if b.order == LIFO {
			next = b.queue.Back()
		}
		wt := next.Value.(*waiter)
		b.dequeueLocked(wt)
		close(wt.granted)
		w++
	}
	if b.queue.Len() == 0 {
		w &^= waiting
	}
	b.state.Store(uint64(w))
}

// dequeueLocked takes wt out of the queue and counts the time that it was in there.
func (b *Bulkhead) dequeueLocked(wt *waiter) {
	b.queue.Remove(wt.place)
	wt.place = nil
	b.queued.Store(int64(b.queue.Len()))
	b.waits++
	b.waited += min(time.Duration(b.clock.Now()-wt.since), math.MaxInt64-b.waited) // saturates
}

// room returns how many may wait under a limit.
func (b *Bulkhead) room(limit int) int {
	if b.maxQueue == 0 {
		return limit
	}
	return b.maxQueue
}

// take takes a slot, waiting for it if need be, or returns why there is none: a
// refusal, or the end of the context during the wait. It does not look at
// the context of a call that finds a slot free.
func (b *Bulkhead) take(ctx context.Context) error {
	if b.tryTake() {
		return nil
	}
	return b.lineUp(ctx)
}

// lineUp is take for a call that found no slot.
func (b *Bulkhead) lineUp(ctx context.Context) error {
	// The length of the queue is read without mu, lest calls that are refused hold up
	// those that hand slots on: at the moment of the read there was no room.
	if b.maxWait == 0 || b.queued.Load() >= int64(b.room(b.load().limit())) {
		return b.refuse(ctx, &b.refusals.Load().full)
	}
	return wait(ctx, b, b.name, b.maxWait, b.clock)
}

// join puts wt into the queue, or takes a slot that came free meanwhile, or returns
// the refusal of a full queue.
func (b *Bulkhead) join(wt *waiter) (joined bool, full *FullError) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		w := b.load()
		if w.free() {
			if b.cas(w, w+1) {
				return false, nil
			}
			continue
		}
		if b.queue.Len() >= b.room(w.limit()) {
			return false, &b.refusals.Load().full
		}
		if w.waiting() || b.cas(w, w|waiting) {
			break
		}
	}
	wt.since = b.clock.Now()
	wt.place = b.queue.PushBack(wt)
	b.queued.Store(int64(b.queue.Len()))
	return true, nil
}

// leave takes wt out of the queue and returns the refusal of a call that waited in
// vain, or nil if wt has a slot already.
func (b *Bulkhead) leave(wt *waiter) (late *FullError) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if wt.place == nil {
		return nil
	}
	b.dequeueLocked(wt) // the last one leaves waiting set, for the next release to clear
	return &b.refusals.Load().late
}
