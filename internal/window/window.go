// Package window counts events over a sliding span of time without a lock.
package window

import (
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"
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

// A ring holds a bucket for each epoch of a window.
type ring [Buckets]atomic.Uint64

// Window counts events, and how many of them were bad. Its methods may be called
// concurrently.
type Window struct {
	width  int64        // nanoseconds a bucket
	newest atomic.Int64 // the newest epoch in which something was counted
	// More rings, for good events, once processors get into each other's way. Nil
	// until then: most windows never need them, and many are idle.
	stripes atomic.Pointer[[stripes]ring]
	main    ring

	// What has left the buckets, so that the sum of all events ever is kept at no
	// cost to an event. While more moves have begun than ended, some counts are in
	// neither place, and readers look again.
	begun, ended       atomic.Uint64
	goneTotal, goneBad atomic.Uint64

	// How often one goroutine met another in the newest bucket of main. With this field
	// a window is a whole number of cache lines, which it should be: every call writes here.
	clashes atomic.Uint64
}

const (
	// stripes is how many processors can count without meeting. A power of two, and
	// not more than needed for eight to be rarely in the same ring: each makes Sum, which
	// every bad event is followed by, read one ring more.
	stripes = 8
	// clashesMax is how many clashes within one bucket's time make it worth it.
	clashesMax = 16
)

// New returns an empty window of the given span, which must be at least [MinSpan],
// that takes now for the present.
func New(span time.Duration, now int64) *Window {
	w := &Window{width: int64(span) / Buckets}
	e := w.epoch(now)
	w.newest.Store(e)
	w.main.clear(e)
	return w
}

// clear makes all buckets ones of an epoch that has passed at e: empty, and replaced
// when touched.
func (r *ring) clear(e int64) {
	for i := range r {
		r[i].Store(pack(e-Buckets, 0, 0))
	}
}

// rings yields main and the stripes, if there are any.
func (w *Window) rings(yield func(*ring) bool) {
	if !yield(&w.main) {
		return
	}
	if s := w.stripes.Load(); s != nil {
		for i := range s {
			if !yield(&s[i]) {
				return
			}
		}
	}
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
	for {
		if in, ok := w.count(&w.main, e, one); ok {
			return in
		}
		e = w.newest.Load() // the window moved on while we were held up
	}
}

// count adds one to the bucket of epoch e in a ring and returns how many events the
// bucket then holds. If the bucket is of a later epoch by now, it does nothing and
// reports that.
func (w *Window) count(r *ring, e int64, one uint64) (in int, ok bool) {
	slot := &r[e&(Buckets-1)]
	for {
		old := slot.Load()
		switch a := age(e, old); {
		case a == 0 && old&countMax < countMax:
			if slot.CompareAndSwap(old, old+one) {
				return int(old&countMax) + 1, true
			}
			w.clash()
		case a == 0:
			w.halve(slot, old, e)
		case a > 0:
			if w.replace(slot, old, pack(e, 0, 0)|one) {
				return 1, true
			}
		default:
			return 0, false
		}
	}
}

// clash notes that another goroutine was in the way, and makes the stripes if that
// happens often.
func (w *Window) clash() {
	if !w.Striped() && w.clashes.Add(1) >= clashesMax {
		w.Stripe()
	}
}

// Stripe makes the stripes, if there are none. A window does so by itself once it is
// worth it; who calls it knows that it will be.
func (w *Window) Stripe() {
	s, e := new([stripes]ring), w.newest.Load()
	for i := range s {
		s[i].clear(e)
	}
	w.stripes.CompareAndSwap(nil, s)
}

// Striped reports whether good events are to be counted by [Window.AddStriped], and
// no longer by [Window.AddGood].
func (w *Window) Striped() bool { return w.stripes.Load() != nil }

// AddGood is Add of an event that is not bad, for the case that it falls into the
// newest bucket, which holds at least so many events already, and no other goroutine is
// in the way. It reports whether that was the case; if not, nothing is counted. At
// least must not be more than a bucket can hold, 2^20-1.
//
// It is every healthy call's, and written to be inlined, which it just is.
func (w *Window) AddGood(now int64, atLeast uint64) bool {
	e := w.newest.Load()
	slot := &w.main[e&(Buckets-1)]
	old := slot.Load()
	// The third holds where the count is at least atLeast and below the greatest: what is
	// less wraps.
	return uint64(now-e*w.width) < uint64(w.width) &&
		(old^uint64(e)<<(2*countBits))>>(2*countBits) == 0 &&
		old&countMax-atLeast < countMax-atLeast && slot.CompareAndSwap(old, old+1)
}

// AddStriped is AddGood for a window that is striped. The event is counted out of the
// way of most others, which costs a little more.
//
// That the bucket holds so many events already, main alone has to show. So what Add
// returns stays the place of an event within its bucket up to there.
func (w *Window) AddStriped(now int64, atLeast uint64) bool {
	e := w.newest.Load()
	word := w.main[e&(Buckets-1)].Load()
	if uint64(now-e*w.width) >= uint64(w.width) || age(e, word) != 0 || word&countMax < atLeast {
		return false
	}
	_, ok := w.count(&w.stripes.Load()[stripe()], e, 1)
	return ok
}

// stripe returns the number of a stripe that this goroutine shares with few others. There
// is no telling which processor we are on that would not cost more than it saves
// (a sync.Pool, which knows, takes 20 ns); but no two goroutines have the same stack, and
// one that has ended leaves its stack to the next of the same processor.
func stripe() uint64 {
	var here byte
	const smallest = 11 // stacks are apart by at least 2 KiB
	page := uint64(uintptr(unsafe.Pointer(&here)) >> smallest)
	return page * 0x9E3779B97F4A7C15 >> (64 - 3) // 2^64 divided by the golden ratio: spreads neighbours
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
			w.clashes.Store(0)
			w.sweep(e)
			return e
		}
	}
}

// sweep empties the buckets that have left the window at epoch e. A bucket that
// no event falls into would otherwise keep its old epoch until, 16 million epochs
// later, its low bits look new again.
func (w *Window) sweep(e int64) {
	for r := range w.rings {
		for i := range r {
			if old := r[i].Load(); age(e, old) >= Buckets {
				w.replace(&r[i], old, pack(e-Buckets, 0, 0))
			}
		}
	}
}

// halve makes room in a full bucket of epoch e: all counts of that epoch are halved, so
// that their ratio stands and no field ever carries into the next. Of many who find the
// bucket full, one halves.
func (w *Window) halve(full *atomic.Uint64, old uint64, e int64) {
	if !w.halveOne(full, old) {
		return
	}
	for r := range w.rings {
		slot := &r[e&(Buckets-1)]
		for slot != full {
			if old := slot.Load(); age(e, old) != 0 || w.halveOne(slot, old) {
				break
			}
		}
	}
}

func (w *Window) halveOne(slot *atomic.Uint64, old uint64) bool {
	_, bad, total := unpack(old)
	return w.take(bad/2, total/2, func() bool {
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
// bad, and how many are in the newest bucket, of those that Add has counted. With what
// Add returned, total-newest is the place of one event among all that the window holds,
// unless the newest bucket has changed in between.
func (w *Window) Sum(now int64) (total, bad, newest int) {
	// An event that another goroutine counted after now was read belongs in.
	e := max(w.epoch(now), w.newest.Load())
	total, bad, newest = w.main.sum(e)
	if s := w.stripes.Load(); s != nil {
		for i := range s {
			t, _, _ := s[i].sum(e)
			total += t
		}
	}
	return total, bad, newest
}

// sum returns what Sum does, for one ring at epoch e.
func (r *ring) sum(e int64) (total, bad, newest int) {
	for i := range r {
		word := r[i].Load()
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
		for r := range w.rings {
			for i := range r {
				_, b, t := unpack(r[i].Load())
				total += t
				bad += b
			}
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
	fresh := New(span, now)
	newest := w.newest.Load()
	old := max(w.epoch(now), newest)
	present := fresh.epoch(now)
	var moved, movedBad uint64
	for i := range w.main {
		// The rings together, so that what does not fit is halved together.
		var bad, total uint64
		var e int64
		for r := range w.rings {
			word := r[i].Load()
			a := age(newest, word)
			if a < 0 || old-(newest-a) >= Buckets {
				continue // what had left the old window stays outside
			}
			_, b, t := unpack(word)
			bad, total, e = bad+b, total+t, newest-a // the same in all rings: the window has one epoch for a slot
		}
		at := min(fresh.epoch(e*w.width+w.width/2), present)
		if total == 0 || present-at >= Buckets {
			continue
		}
		b, t := fresh.put(at, bad, total)
		moved, movedBad = moved+t, movedBad+b // may wrap on the way
	}
	total, bad := w.Lifetime()
	fresh.goneTotal.Store(total - min(moved, total))
	fresh.goneBad.Store(bad - min(movedBad, bad))
	return fresh
}

// put adds so many events to a bucket of a window that nobody else knows yet, and
// returns how many more it then holds: fewer than none, wrapped, if it had to be halved.
func (w *Window) put(e int64, bad, total uint64) (moreBad, more uint64) {
	slot := &w.main[e&(Buckets-1)]
	if age(e, slot.Load()) != 0 {
		slot.Store(pack(e, 0, 0))
	}
	_, wasBad, was := unpack(slot.Load())
	b, t := wasBad+bad, was+total
	for t > countMax {
		b, t = b/2, t/2
	}
	slot.Store(pack(e, b, t))
	return b - wasBad, t - was
}
