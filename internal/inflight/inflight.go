// Package inflight counts calls in flight by their age without a lock.
package inflight

import (
	"sync/atomic"
	"time"
)

// slots is how many moments of beginning are told apart. A power of two, so that the
// slot of an epoch is a mask, right for negative epochs too.
const slots = 64

// Ages counts calls in flight by when they began, in epochs of equal width. A call
// that is not reported to have ended is forgotten after a time, so that one that was
// lost does not count for ever. Its methods may be called concurrently.
type Ages struct {
	width int64

	// A slot is one word, so that a new epoch takes it over by one CAS, and what
	// remains in it of an old one is forgotten by the same:
	//
	//	epoch 32 bits │ calls in flight that began in it 32 bits
	slots [slots]atomic.Uint64
}

// New returns an Ages that tells ages apart to a quarter of resolution, and forgets
// after at least memory. Where the two are more than 16 times apart, memory decides.
func New(resolution, memory time.Duration) *Ages {
	const finest = int64(time.Millisecond) // below it the scheduler's own noise is counted
	return &Ages{width: max(finest, int64(resolution)/4, int64(memory)/(slots-2))}
}

// Width returns how exactly ages are known.
func (a *Ages) Width() time.Duration { return time.Duration(a.width) }

func (a *Ages) epoch(at int64) int64 {
	e := at / a.width
	if at%a.width < 0 {
		e-- // round down, not towards zero
	}
	return e
}

// Begin notes a call that begins at time at.
func (a *Ages) Begin(at int64) {
	e := a.epoch(at)
	slot := &a.slots[e&(slots-1)]
	for {
		old := slot.Load()
		next := old + 1
		switch behind := int32(uint32(e) - uint32(old>>32)); {
		case behind > 0 || old == 0:
			next = uint64(uint32(e))<<32 | 1
		case behind < 0:
			return // held up for so long that it is forgotten before it is noted
		}
		if slot.CompareAndSwap(old, next) {
			return
		}
	}
}

// End notes that a call has ended that began at time at. One that is forgotten
// already is none.
func (a *Ages) End(at int64) {
	e := a.epoch(at)
	slot := &a.slots[e&(slots-1)]
	for {
		old := slot.Load()
		if uint32(old>>32) != uint32(e) || uint32(old) == 0 || slot.CompareAndSwap(old, old-1) {
			return
		}
	}
}

// Older returns how many calls that began at least age ago, and less than memory
// ago, are in flight at time now. A call whose age is not known to the width counts
// as the younger, so that none counts too early.
func (a *Ages) Older(now int64, age, memory time.Duration) int {
	present := a.epoch(now)
	n := 0
	for back := int64(0); back < slots; back++ {
		e := present - back
		youngest := now - (e+1)*a.width // of the calls that began in e
		if youngest+1 < int64(age) || now-e*a.width >= int64(memory) {
			continue
		}
		if word := a.slots[e&(slots-1)].Load(); uint32(word>>32) == uint32(e) {
			n += int(uint32(word))
		}
	}
	return n
}
