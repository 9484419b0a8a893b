package timeout

import (
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// flights agree with a list of all calls in flight, whatever the gaps between them, and
// forget none that is still there.
//
// Spec: T6
func TestFlightsAgreeWithNaive(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		after := time.Duration(1 + r.Int64N(int64(time.Minute)))
		l := (&Timeout{}).newLimit(after)
		var f flights
		f.init(l.after, l.grace)
		width := int64(1) << f.shift
		now := r.Int64N(1e12) - 5e11
		type flight struct{ due, epoch int64 }
		var inFlight []flight
		for range 300 {
			switch r.IntN(6) {
			case 0:
				now += r.Int64N(int64(after)/4 + 1)
			case 1:
				if r.IntN(10) == 0 {
					now += r.Int64N(40 * (int64(after) + 1))
				}
			case 2, 3:
				own := l
				own.after = 1 + time.Duration(r.Int64N(int64(after))) // as an adaptive one gives
				d := due(now, &own)
				epoch, _ := f.begin(d)
				inFlight = append(inFlight, flight{d, epoch})
			default:
				if n := len(inFlight); n > 0 {
					i := r.IntN(n)
					f.end(inFlight[i].epoch)
					inFlight[i] = inFlight[n-1]
					inFlight = inFlight[:n-1]
				}
			}
			var least, most uint64
			for _, x := range inFlight {
				if x.due <= now {
					most++
				}
				if x.due <= now-width {
					least++
				}
			}
			if got := f.overdue(now); got < least || got > most {
				t.Fatalf("seed %d: %d overdue, want %d to %d", seed, got, least, most)
			}
		}
	}
}

// Calls that began before and after ages of silence, at the ends of time, and in a clock
// that is negative.
//
// Spec: T6, B27
func TestFlightsOddTimes(t *testing.T) {
	for _, after := range []time.Duration{1, time.Second, math.MaxInt64} {
		l := (&Timeout{}).newLimit(after)
		var f flights
		f.init(l.after, l.grace)
		var epochs []int64
		for _, now := range []int64{-1 << 62, -1, 0, 1, 1 << 40, 1 << 60, math.MaxInt64 - 1} {
			d := due(now, &l)
			if d < now {
				t.Fatalf("After %v: a call at %d is overdue at %d", after, now, d)
			}
			e, _ := f.begin(d)
			epochs = append(epochs, e)
		}
		for _, e := range epochs {
			f.end(e)
		}
		if n := f.overdue(math.MaxInt64); n != 0 {
			t.Errorf("After %v: %d calls are left", after, n)
		}
	}
}

// A slot has room for 16 million; what does not fit is counted elsewhere, and is not
// carried into the epoch.
//
// Spec: T6, B27
func TestFlightsFull(t *testing.T) {
	l := (&Timeout{}).newLimit(time.Second)
	var f flights
	f.init(l.after, l.grace)
	width := int64(1) << f.shift
	e, _ := f.begin(0)
	f.slots[e&(slots-1)].Store(uint64(e)<<flightBits | flightMax - 1)
	for range 3 {
		if got, _ := f.begin(0); got != e {
			t.Fatalf("epoch %d, want %d", got, e)
		}
	}
	if n := f.overdue(10 * width); n != flightMax+2 {
		t.Errorf("%d overdue, want %d", n, flightMax+2)
	}
}

// Goroutines that meet at the turn of an epoch lose no call between them.
//
// Spec: T6
func TestFlightsConcurrently(t *testing.T) {
	l := (&Timeout{}).newLimit(time.Second)
	var f flights
	f.init(l.after, l.grace)
	width := int64(1) << f.shift
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for i := range 500 {
				now := int64(i) * width / 10
				e, _ := f.begin(now + r.Int64N(8*width))
				if i%50 == 0 {
					defer f.end(e) // long overdue
					continue
				}
				f.overdue(now)
				f.end(e)
			}
		})
	}
	wg.Wait()
	if n := f.overdue(math.MaxInt64 / 2); n != 0 || f.stuck.Load() != 0 {
		t.Errorf("%d calls are left, %d of them stuck", n, f.stuck.Load())
	}
}
