package retry

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// span is the time that the amplification is told of.
	span = 10 * time.Second
	// markGap is the least time between two marks.
	markGap = time.Second
	// marksKept is enough for the span, one mark before it, and one to spare.
	marksKept = int(span/markGap) + 2
)

// recent knows what a [Retrier] has counted, and when: a mark is noted when an attempt
// ends that is not the healthy first one, at most once a second. So a resend is always
// within a second of a mark, and how many calls there were between two marks that are
// far apart is taken to be in proportion to the time.
type recent struct {
	next atomic.Int64 // when the next mark is due

	mu    sync.Mutex
	marks [marksKept]counted // guarded by mu; a ring
	n     int                // how many were ever noted; guarded by mu
}

// counted is a mark: what had been counted at a moment.
type counted struct {
	at             int64
	calls, resends uint64
}

func (r *recent) begin(now int64) {
	r.note(counted{at: now})
	r.next.Store(now)
}

// due reports whether the caller is to note a mark.
func (r *recent) due(now int64) bool {
	next := r.next.Load()
	return now >= next && r.next.CompareAndSwap(next, now+int64(markGap))
}

func (r *recent) note(m counted) {
	r.mu.Lock()
	r.marks[r.n%marksKept] = m
	r.n++
	r.mu.Unlock()
}

// amplification returns the attempts for each call in the span before now, until which so
// many calls and resends were counted.
func (r *recent) amplification(now int64, calls, resends uint64) float64 {
	begin := now - int64(span)
	r.mu.Lock()
	// The marks on both sides of the moment at which the span begins; the right one may
	// be the present.
	left, right := counted{at: math.MinInt64}, counted{now, calls, resends}
	for i := max(0, r.n-marksKept); i < r.n; i++ {
		switch m := r.marks[i%marksKept]; {
		case m.at <= begin && m.at >= left.at:
			left = m
		case m.at > begin && m.at < right.at:
			right = m
		}
	}
	r.mu.Unlock()
	if left.at == math.MinInt64 {
		left, begin = right, right.at // there was nothing before
	}
	// In how far what was counted between left and right was before the span. The resends
	// were in the second that follows left, or there would be a mark between.
	calls -= min(calls, left.calls+part(right.calls, left.calls, begin-left.at, right.at-left.at))
	resends -= min(resends, left.resends+part(right.resends, left.resends, begin-left.at, min(right.at-left.at, int64(markGap))))
	return 1 + float64(resends)/float64(max(calls, 1))
}

// part returns the share of a-b that has come about after t of the time in all.
func part(a, b uint64, t, all int64) uint64 {
	if t <= 0 || a <= b { // counts are read one after the other
		return 0
	}
	return uint64(float64(a-b) * min(1, float64(t)/float64(all)))
}
