package timeout

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// slots is how many moments are told apart at which calls become overdue. A power of
// two, so that the slot of an epoch is a mask, right for negative epochs too.
const slots = 16

// flights counts the calls in flight by when they become overdue, in epochs of equal
// width, without a lock. A slot is one word, which an epoch takes over by one CAS:
//
//	epoch 40 bits │ calls in flight 24 bits
//
// An epoch takes over the slot of the one 16 before it, when the calls of that one,
// 8 epochs ahead at most when they began, have long been overdue. Those that are still
// in flight then are counted in stuck from there on.
type flights struct {
	shift uint // an epoch is 2^shift ns: a division would be half of the cost
	slots [slots]atomic.Uint64
	stuck atomic.Int64 // for a moment below zero: a call ends while it is moved here
}

const (
	flightBits = 24
	flightMax  = 1<<flightBits - 1
	epochShift = flightBits // sign-extends the difference of two epochs' low bits
)

// init prepares for calls that become overdue at most after+grace after they begin.
func (f *flights) init(after, grace time.Duration) {
	const finest = int64(time.Millisecond) // below it the scheduler's own noise is counted
	f.shift = uint(bits.Len64(uint64(max(finest, int64(after)/(slots/2)+int64(grace)/(slots/2)))))
}

// epoch rounds down, not towards zero, as a shift does.
func (f *flights) epoch(at int64) int64 { return at >> f.shift }

// due returns now+after+grace, at most the end of time.
func due(now int64, l *limit) int64 {
	d := now + int64(l.after) // as time.Time.Add saturates, so does this
	if d < now {
		return math.MaxInt64
	}
	if d+int64(l.grace) < d {
		return math.MaxInt64
	}
	return d + int64(l.grace)
}

// begin notes a call that becomes overdue at time due, and returns what end wants to
// know. It also reports whether it is the first of its epoch.
func (f *flights) begin(due int64) (epoch int64, first bool) {
	epoch = f.epoch(due)
	slot := &f.slots[epoch&(slots-1)]
	for {
		old := slot.Load()
		n := old & flightMax
		switch ahead := int64((uint64(epoch)-old>>flightBits)<<epochShift) >> epochShift; {
		case ahead == 0 && n < flightMax:
			if slot.CompareAndSwap(old, old+1) {
				return epoch, false
			}
		case ahead > 0 || n == 0:
			if slot.CompareAndSwap(old, uint64(epoch)<<flightBits|1) {
				if n > 0 {
					f.stuck.Add(int64(n))
				}
				return epoch, true
			}
		default: // held up for so long that it is overdue before it begins
			f.stuck.Add(1)
			return epoch, false
		}
	}
}

// end notes that a call has ended for which begin returned epoch.
func (f *flights) end(epoch int64) {
	slot := &f.slots[epoch&(slots-1)]
	for {
		old := slot.Load()
		if old>>flightBits != uint64(epoch)<<flightBits>>flightBits || old&flightMax == 0 {
			f.stuck.Add(-1)
			return
		}
		if slot.CompareAndSwap(old, old-1) {
			return
		}
	}
}

// overdue returns how many calls are in flight at time now that became overdue at
// least an epoch's width ago, and some of those that became so since.
func (f *flights) overdue(now int64) uint64 {
	n := f.stuck.Load()
	present := f.epoch(now)
	for i := range f.slots {
		word := f.slots[i].Load()
		if int64((uint64(present)-word>>flightBits)<<epochShift)>>epochShift > 0 {
			n += int64(word & flightMax)
		}
	}
	return uint64(max(n, 0))
}
