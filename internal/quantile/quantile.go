// Package quantile estimates how long something usually takes, from a stream of
// durations, in bounded memory and without a lock.
package quantile

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// The buckets are log-linear, as those of an HDR histogram: each doubling of the
// duration is divided into 16 of equal width, so a bucket is never wider than a
// sixteenth of what falls into it. Below 16 units the width is one unit.
const (
	subBits  = 4
	sub      = 1 << subBits
	unitBits = 8   // 256 ns: nothing that one waits for is faster
	buckets  = 512 // 2 KB a generation
)

// Max is the longest duration that is told from longer ones: 2^43 ns, some 2.4 h.
const Max = time.Duration(1<<43 - 1)

// Sketch holds the durations of the last window of time as counts. It sees between
// half the window and the whole of it: what is older than that has left no trace.
// A Sketch in use holds 4 KB, and one that nothing was added to nothing. Its methods
// may be called from many goroutines at once.
type Sketch struct {
	half   time.Duration
	recent atomic.Pointer[generations] // nil until something is added
}

// generations are the counts of the present half of the window and of the one before
// it. They are replaced whole, so that nothing is cleared that a reader may look at.
type generations struct {
	start   time.Duration // when the present half began, a multiple of half
	present *counts
	past    *counts // nil when nothing was added in that half
}

type counts [buckets]atomic.Uint32

// countMax is where a count stays, so that the sum of two is a uint32. It leaves room
// for 64 goroutines that add the most at once between the look at the count and its
// increment, and for a billion that add one.
const (
	countMax = math.MaxInt32 - 64*atOnce
	atOnce   = 1 << 24
)

// New returns an empty Sketch of the given window, of which less than 2 ns counts as
// 2 ns.
func New(window time.Duration) *Sketch { return &Sketch{half: max(window/2, 1)} }

// bucket returns the place of d, which saturates at either end.
func bucket(d time.Duration) int {
	v := uint64(max(d, 0)) >> unitBits
	if v < 2*sub {
		return int(v)
	}
	shift := bits.Len64(v) - 1 - subBits
	return min(shift<<subBits+int(v>>shift), buckets-1)
}

// upper returns the longest duration that falls into bucket i, but for the last one,
// into which all that is longer falls too.
func upper(i int) time.Duration {
	if i < 2*sub {
		return time.Duration(i+1)<<unitBits - 1
	}
	shift := i>>subBits - 1
	return time.Duration(i&(sub-1)+sub+1)<<(shift+unitBits) - 1
}

// Add counts d, which ended at time now. A negative d counts as zero and one above
// [Max] as Max. Times are readings of any one monotonic clock, such as the time since
// a base; one that lies before the present half of the window, of a goroutine that was
// held up after reading the clock, counts in the present half.
//
// Add allocates twice in each half of the window and not otherwise.
func (s *Sketch) Add(now, d time.Duration) { s.AddN(now, d, 1) }

// AddN is Add n times. No more than 16 million are counted at once.
func (s *Sketch) AddN(now, d time.Duration, n uint32) {
	g := s.recent.Load()
	if g == nil || now-g.start >= s.half {
		g = s.advance(now)
	}
	if c := &g.present[bucket(d)]; c.Load() < countMax {
		c.Add(min(n, atOnce))
	}
}

// advance begins the half of the window that now lies in, unless another goroutine
// has done so, and returns the present one.
func (s *Sketch) advance(now time.Duration) *generations {
	start := now - now%s.half
	if now < start {
		start -= s.half // round down, not towards zero
	}
	for {
		g := s.recent.Load()
		if g != nil && start <= g.start {
			return g
		}
		next := &generations{start: start, present: new(counts)}
		if g != nil && start-g.start == s.half {
			next.past = g.present
		}
		if s.recent.CompareAndSwap(g, next) {
			return next
		}
	}
}

// Quantile returns an upper estimate of the q-quantile of the durations that the
// window holds at time now, and how many there are. The exact value is the smallest
// duration that at least q of them do not exceed, so that for q of 1 it is the longest
// and for q of 0 the shortest. The estimate is never less than that, up to [Max], and
// exceeds it by less than a sixteenth of it or by less than 256 ns, whichever is more.
// It is 0 when there are none. A q outside [0, 1] is taken for the nearer end, and
// NaN for 1.
//
// Quantile changes nothing. It reads a thousand counts: those who want to know often
// ask a [Live].
func (s *Sketch) Quantile(now time.Duration, q float64) (d time.Duration, n uint64) {
	present, past := s.at(now)
	// One look at each count: with a second look the rank would be that of a moment
	// ago among what has been added since.
	var c [buckets]uint32
	for i := range c {
		c[i] = sum(present, past, i)
		n += uint64(c[i])
	}
	if n == 0 {
		return 0, 0
	}
	rank := uint64(1) // of the duration sought, from the shortest
	switch {
	case q > 0 && q < 1:
		rank = min(max(uint64(math.Ceil(q*float64(n))), 1), n)
	case q >= 1 || q != q:
		rank = n
	}
	i := -1
	for seen := uint64(0); seen < rank; {
		i++
		seen += uint64(c[i])
	}
	return upper(i), n
}

// at returns the counts that are in the window at time now. Both may be nil.
func (s *Sketch) at(now time.Duration) (present, past *counts) {
	g := s.recent.Load()
	switch {
	case g == nil:
		return nil, nil
	case now < g.start || now-g.start < s.half: // the former: another goroutine is ahead
		return g.present, g.past
	case now-g.start-s.half < s.half:
		return nil, g.present
	default:
		return nil, nil
	}
}

func sum(a, b *counts, i int) (n uint32) {
	if a != nil {
		n = a[i].Load()
	}
	if b != nil {
		n += b[i].Load()
	}
	return n
}
