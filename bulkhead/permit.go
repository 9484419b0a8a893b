package bulkhead

import (
	"math/bits"
	"math/rand/v2"
	"sync/atomic"
)

// Permit is the right to be in flight: one slot of a bulkhead or a pool, from Acquire to
// Release. It is a value. A copy stands for the same slot, so that whichever copy is
// released first gives the slot back and the others then do nothing. The zero Permit
// holds no slot. Its method may be called from many goroutines at once.
//
// A permit that is never released holds its slot forever.
type Permit struct {
	from   interface{ release() } // nil: the zero Permit
	ticket *ticket
	turn   uint32
}

// Release gives the slot back, to the next call that waits for it if there is one.
// Only the first Release of a permit and all its copies has an effect.
func (p Permit) Release() {
	if p.from == nil || !p.ticket.CompareAndSwap(p.turn, p.turn+1) {
		return
	}
	p.from.release()
}

// A ticket tells the copies of one permit which of them was released first. It is
// odd while a permit has it and even while it is free, and grows by one each time, so
// that a copy kept after the release does not match the permit that has the ticket
// next. A copy would have to be kept for exactly 2^31 turns of its ticket, and be
// released during the last, to pass for another.
type ticket = atomic.Uint32

// A ticketBook holds tickets for reuse, which makes permits that allocate nothing.
// It does not say who may enter; the count in the state word has already been taken.
type ticketBook []ticket

const (
	minTickets = 64
	maxTickets = 4096 // 16 KiB
	probes     = 8
)

// newTicketBook has twice as many tickets as limit, so that a try finds a free one
// more often than not.
func newTicketBook(limit int) ticketBook {
	n := min(max(2*int64(limit), minTickets), maxTickets)
	return make(ticketBook, 1<<bits.Len64(uint64(n-1)))
}

// issue returns a permit for a slot that the caller has taken. The hint says where to
// look first. After that we try at random, since permits that are held long would
// otherwise stand in a row, to be searched by everybody. With the book full, as it may
// be after Resize, a ticket is allocated.
func (book ticketBook) issue(from interface{ release() }, hint uint32) Permit {
	for range probes {
		t := &book[hint&uint32(len(book)-1)]
		if turn := t.Load(); turn&1 == 0 && t.CompareAndSwap(turn, turn+1) {
			return Permit{from, t, turn + 1}
		}
		hint = rand.Uint32()
	}
	t := new(ticket)
	t.Store(1)
	return Permit{from, t, 1}
}

// hint leads a lone caller to the same ticket every time and concurrent ones to
// different cache lines: it is the number of calls in flight.
func (b *Bulkhead) hint() uint32 {
	return uint32(b.load().inFlight()) * 0x9E3779B1 // odd, so that small hints do not collide
}
