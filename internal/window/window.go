// Package window counts events over a sliding span of time without a lock.
package window

import (
	"runtime"
	"sync/atomic"
	"time"
)

// Buckets is how many buckets a window has. A window sees between 15/16 and the
// whole of its span, depending on how far the newest bucket has come. A power of
// two, so that the slot of an epoch is a mask, right for negative epochs too.
const Buckets = 16

// MinSpan is the shortest span that has buckets: under a millisecond each, the
// scheduler's own noise decides which bucket an event falls into.
const MinSpan = Buckets * time.Millisecond

// A bucket is one word, so that rolling it and counting in it are one CAS, and
// nothing is ever cleared after a reader may have seen it:
//
//	epoch 24 bits │ bad 20 bits │ total 20 bits
const (
	countBits = 20
	countMax  = 1<<countBits - 1
	epochMask = 1<<(64-2*countBits) - 1
	// Epochs are compared by their low bits. Past this many without an event the
	// comparison would become ambiguous, and the window is Stale instead.
	maxGap = (epochMask + 1) / 4
)

// Window counts events, and how many of them were bad. Its methods may be called
// concurrently.
type Window struct {
	width   int64        // nanoseconds a bucket
	newest  atomic.Int64 // the newest epoch in which something was counted
	buckets [Buckets]atomic.Uint64

	// What has left the buckets, so that the sum of all events ever is kept at no
	// cost to an event. While more moves have begun than ended, some counts are in
	// neither place, and readers look again.
	begun, ended       atomic.Uint64
	goneTotal, goneBad atomic.Uint64

	_ [16]byte // to a whole number of cache lines: every call writes here
}

// New returns an empty window of the given span, which must be at least [MinSpan],
// that takes now for the present.
func New(span time.Duration, now int64) *Window {
	w := &Window{width: int64(span) / Buckets}
	e := w.epoch(now)
	w.newest.Store(e)
	for i := range w.buckets {
		// A bucket of an epoch that has passed: empty, and replaced when touched.
		w.buckets[i].Store(pack(e-Buckets, 0, 0))
	}
	return w
}

func pack(epoch int64, bad, total uint64) uint64 {
	return uint64(epoch)&epochMask<<(2*countBits) | bad<<countBits | total
}

func unpack(word uint64) (epoch, bad, total uint64) {
	return word >> (2 * countBits), word >> countBits & countMax, word & countMax
}

// age returns how many epochs a bucket's word is behind epoch e; negative when it
// is ahead.
func age(e int64, word uint64) int64 {
	// The shift up and back sign-extends the difference of the low bits.
	const shift = 2 * countBits
	return int64((uint64(e)-word>>(2*countBits))<<shift) >> shift
}

func (w *Window) epoch(now int64) int64 {
	e := now / w.width
	if now%w.width < 0 {
		e-- // round down, not towards zero
	}
	return e
}

// Stale reports whether so much time has passed without an event that old buckets
// could be taken for new ones: four million buckets, 18 hours at the shortest span and
// a month at ten seconds. The caller then starts a new window.
func (w *Window) Stale(now int64) bool {
	e := w.newest.Load()
	if d := now - e*w.width; uint64(d) < uint64(w.width) {
		return false
	}
	return w.epoch(now)-e > maxGap
}

// Add counts one event at time now and returns how many events its bucket then
// holds. An event from before the newest bucket, of a goroutine that was held up
// after reading the clock, counts in the newest. Add must not be called on a
// window that is [Window.Stale].
func (w *Window) Add(now int64, bad bool) (inBucket int) {
	e := w.newest.Load()
	// A multiplication tells whether the newest epoch still is the present one;
	// the division is for the first event of each bucket.
	if d := now - e*w.width; uint64(d) >= uint64(w.width) {
		e = w.advance(w.epoch(now))
	}
	var one uint64 = 1
	if bad {
		one |= 1 << countBits
	}
	slot := &w.buckets[e&(Buckets-1)]
	for {
		old := slot.Load()
		switch a := age(e, old); {
		case a == 0 && old&countMax < countMax:
			if slot.CompareAndSwap(old, old+one) {
				return int(old&countMax) + 1
			}
		case a == 0:
			w.halve(slot, old)
		case a > 0:
			if w.replace(slot, old, pack(e, 0, 0)|one) {
				return 1
			}
		default: // the window moved on while we were held up
			e = w.newest.Load()
			slot = &w.buckets[e&(Buckets-1)]
		}
	}
}

// AddGood is Add of an event that is not bad, for the case that it falls into the
// newest bucket, which holds more than least events already, and no other goroutine
// is in the way. It reports whether that was the case; if not, nothing is counted.
func (w *Window) AddGood(now int64, least int) bool {
	e := w.newest.Load()
	if d := now - e*w.width; uint64(d) >= uint64(w.width) {
		return false
	}
	slot := &w.buckets[e&(Buckets-1)]
	old := slot.Load()
	in := old & countMax
	return old>>(2*countBits) == uint64(e)&epochMask && in > uint64(least) && in < countMax &&
		slot.CompareAndSwap(old, old+1)
}

// advance moves the newest epoch up to e, unless it is further already, and
// returns it.
func (w *Window) advance(e int64) int64 {
	for {
		newest := w.newest.Load()
		if newest >= e {
			return newest
		}
		if w.newest.CompareAndSwap(newest, e) {
			w.sweep(e)
			return e
		}
	}
}

// sweep empties the buckets that have left the window at epoch e. A bucket that
// no event falls into would otherwise keep its old epoch until, 16 million epochs
// later, its low bits look new again.
func (w *Window) sweep(e int64) {
	for i := range w.buckets {
		if old := w.buckets[i].Load(); age(e, old) >= Buckets {
			w.replace(&w.buckets[i], old, pack(e-Buckets, 0, 0))
		}
	}
}

// halve makes room in a full bucket: both counts are halved, so that their ratio
// stands and no field ever carries into the next.
func (w *Window) halve(slot *atomic.Uint64, old uint64) {
	_, bad, total := unpack(old)
	w.take(bad/2, total/2, func() bool {
		return slot.CompareAndSwap(old, old-(bad/2)<<countBits-total/2)
	})
}

// replace puts a new word into a slot whose epoch has passed.
func (w *Window) replace(slot *atomic.Uint64, old, fresh uint64) bool {
	_, bad, total := unpack(old)
	if total == 0 {
		return slot.CompareAndSwap(old, fresh)
	}
	return w.take(bad, total, func() bool { return slot.CompareAndSwap(old, fresh) })
}

// take moves counts out of a bucket, which swap does, to where Lifetime finds them.
func (w *Window) take(bad, total uint64, swap func() bool) bool {
	w.begun.Add(1)
	ok := swap()
	if ok {
		w.goneBad.Add(bad)
		w.goneTotal.Add(total)
	}
	w.ended.Add(1)
	return ok
}

// Sum returns how many events the window holds at time now, how many of them were
// bad, and how many are in the newest bucket. With what Add returned, total-newest
// is the place of one event among all that the window holds, unless the newest
// bucket has changed in between.
func (w *Window) Sum(now int64) (total, bad, newest int) {
	// An event that another goroutine counted after now was read belongs in.
	e := max(w.epoch(now), w.newest.Load())
	for i := range w.buckets {
		word := w.buckets[i].Load()
		if a := age(e, word); a >= 0 && a < Buckets {
			_, b, t := unpack(word)
			total += int(t)
			bad += int(b)
			if a == 0 {
				newest = int(t)
			}
		}
	}
	return total, bad, newest
}

// Lifetime returns how many events were ever counted, and how many of them were
// bad, in this window and those it was resized from. Both never decrease from one
// call to the next.
func (w *Window) Lifetime() (total, bad uint64) {
	for {
		// In this order: ended never passes begun, so that when they are equal no
		// move was under way at the second load.
		ended := w.ended.Load()
		begun := w.begun.Load()
		total, bad = w.goneTotal.Load(), w.goneBad.Load()
		for i := range w.buckets {
			_, b, t := unpack(w.buckets[i].Load())
			total += t
			bad += b
		}
		if begun == ended && w.begun.Load() == begun {
			return total, bad
		}
		runtime.Gosched() // let the goroutine that moves finish
	}
}

// Resize returns a window of another span that holds what this one does, each
// bucket's events at the middle of the bucket's time. Events that are counted
// here meanwhile may be missing there.
func (w *Window) Resize(span time.Duration, now int64) *Window {
	r := New(span, now)
	newest := w.newest.Load()
	old := max(w.epoch(now), newest)
	present := r.epoch(now)
	var moved, movedBad uint64
	for i := range w.buckets {
		word := w.buckets[i].Load()
		a := age(newest, word)
		_, bad, total := unpack(word)
		if total == 0 || a < 0 || old-(newest-a) >= Buckets {
			continue // what had left the old window stays outside
		}
		e := min(r.epoch((newest-a)*w.width+w.width/2), present)
		if present-e >= Buckets {
			continue
		}
		slot := &r.buckets[e&(Buckets-1)]
		if age(e, slot.Load()) != 0 {
			slot.Store(pack(e, 0, 0))
		}
		_, was, wasTotal := unpack(slot.Load())
		b, t := was+bad, wasTotal+total
		for t > countMax {
			b, t = b/2, t/2
		}
		slot.Store(pack(e, b, t))
		moved, movedBad = moved+t-wasTotal, movedBad+b-was // may wrap on the way
	}
	total, bad := w.Lifetime()
	r.goneTotal.Store(total - min(moved, total))
	r.goneBad.Store(bad - min(movedBad, bad))
	return r
}
