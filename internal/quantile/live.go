package quantile

import (
	"sync/atomic"
	"time"
)

// refreshes is how often in a window a [Live] looks at what has been added.
const refreshes = 64

// Live is one quantile of a [Sketch], for those who ask for it on each call: it is
// worked out 64 times in a window, and asking costs two loads at other times.
// Its methods may be called from many goroutines at once.
type Live struct {
	s     *Sketch
	q     float64
	least uint64
	every time.Duration

	due   atomic.Int64 // when the value is worked out again
	value atomic.Int64 // 0: too few samples
}

// NewLive returns the q-quantile of what will be added to s, which has no value until
// the window holds least durations.
func NewLive(s *Sketch, q float64, least int, now time.Duration) *Live {
	l := &Live{s: s, q: q, least: uint64(max(least, 1)), every: max(s.half/(refreshes/2), 1)}
	l.due.Store(int64(now))
	return l
}

// Value returns the estimate of [Sketch.Quantile] as it was at most 1/64 of the
// window before now, or zero when the window held too few durations then. It is
// never zero otherwise.
func (l *Live) Value(now time.Duration) time.Duration {
	if due := l.due.Load(); int64(now) >= due && l.due.CompareAndSwap(due, int64(now+l.every)) {
		d, n := l.s.Quantile(now, l.q)
		if n < l.least {
			d = 0
		}
		l.value.Store(int64(d))
	}
	return time.Duration(l.value.Load())
}
