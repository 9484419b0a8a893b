package retry

import (
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle/internal/quantile"
)

const (
	// usualWindow is for how long an attempt counts.
	usualWindow = time.Minute
	// usualGap is the least time between two attempts that do. It makes the clock be read
	// for one in a hundred calls, where there are ten thousand a second.
	usualGap = 10 * time.Millisecond
	// usualLeast is how many attempts there must be.
	usualLeast = 20
)

// usual knows how long an attempt that succeeds usually takes, so that none is begun for
// which the time does not suffice. Some attempts will do for that: the first that begins
// once the gap is over. To choose when they end would be to choose the short ones.
type usual struct {
	due    atomic.Int64 // from when on the next attempt counts
	sketch *quantile.Sketch
	median *quantile.Live
}

func (u *usual) begin(now int64) {
	u.due.Store(now)
	u.sketch = quantile.New(usualWindow)
	u.median = quantile.NewLive(u.sketch, 0.5, usualLeast, time.Duration(now))
}

// counts reports whether the attempt that begins now is to be added if it is a success.
// All that a healthy call pays for is mostly one load.
func (u *usual) counts(began int64) bool {
	due := u.due.Load()
	return began >= due && u.due.CompareAndSwap(due, began+int64(usualGap))
}

// add adds an attempt that was a success.
func (u *usual) add(began, ended int64) {
	u.sketch.Add(time.Duration(ended), time.Duration(ended-began))
}

// peek is at for those who only look: at remembers for a second that too little is known.
func (u *usual) peek(now int64) time.Duration {
	if d, n := u.sketch.Quantile(time.Duration(now), 0.5); n >= usualLeast {
		return d
	}
	return 0
}

// at returns the median, at most a sixteenth too long, or zero while it is not known.
func (u *usual) at(now int64) time.Duration { return u.median.Value(time.Duration(now)) }
