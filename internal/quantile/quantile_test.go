package quantile

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"
)

// naive keeps every duration with the half of the window it was added in: slow, and
// plainly right.
type naive struct {
	half  time.Duration
	added []sample
}

type sample struct {
	half int64 // the number of the half, from the clock's zero
	d    time.Duration
}

func (n *naive) number(now time.Duration) int64 {
	return int64(math.Floor(float64(now) / float64(n.half)))
}

func (n *naive) add(now, d time.Duration) {
	half := n.number(now)
	for _, s := range n.added {
		half = max(half, s.half) // a late one counts in the present
	}
	n.added = append(n.added, sample{half, d})
}

// quantile returns the exact quantile of what the window holds, sorted.
func (n *naive) quantile(now time.Duration, q float64) (time.Duration, uint64) {
	half := n.number(now)
	var in []time.Duration
	for _, s := range n.added {
		if half-s.half < 2 {
			in = append(in, min(max(s.d, 0), Max))
		}
	}
	if len(in) == 0 {
		return 0, 0
	}
	slices.Sort(in)
	rank := int(math.Ceil(q * float64(len(in))))
	return in[min(max(rank, 1), len(in))-1], uint64(len(in))
}

// check compares an estimate with the exact value, for the promised error.
func check(t *testing.T, s *Sketch, n *naive, now time.Duration, q float64) {
	t.Helper()
	got, count := s.Quantile(now, q)
	want, wantCount := n.quantile(now, q)
	if count != wantCount {
		t.Fatalf("at %v: %d durations, want %d", now, count, wantCount)
	}
	if got < want || got-want >= max(want/sub, 1<<unitBits) && count > 0 {
		t.Fatalf("at %v: Quantile(%v) = %v of %d, want %v", now, q, got, count, want)
	}
}

var qs = []float64{0, 0.001, 0.5, 0.9, 0.95, 0.99, 0.999, 1}

// duration returns one of any order of magnitude.
func duration(r *rand.Rand) time.Duration {
	return time.Duration(r.Uint64() >> (1 + r.IntN(63)))
}

func TestAgreesWithNaive(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		half := time.Duration(1 + r.Int64N(int64(time.Minute)))
		now := time.Duration(r.Int64N(1e12) - 5e11)
		s, n := New(2*half), &naive{half: half}
		narrow := r.IntN(2) == 0
		center := time.Duration(1 + r.Int64N(int64(time.Second)))
		for range 150 {
			switch r.IntN(8) {
			case 0:
				now += time.Duration(r.Int64N(int64(half)))
			case 1:
				if r.IntN(8) == 0 {
					now += time.Duration(r.Int64N(int64(4 * half)))
				}
			}
			d := duration(r)
			if narrow {
				d = time.Duration(float64(center) * math.Exp(r.NormFloat64()/2))
			}
			s.Add(now, d)
			n.add(now, d)
			check(t, s, n, now, qs[r.IntN(len(qs))])
			check(t, s, n, now+time.Duration(r.Int64N(int64(3*half))), r.Float64()) // looking moves nothing
		}
	}
}

func FuzzAgreesWithNaive(f *testing.F) {
	f.Add(int64(time.Second), int64(0), 0.5, []byte("\x00\x00\x00\x00\x00\x00\x00\x01\x02 a seed of some length"))
	f.Add(int64(1), int64(-1), 0.999, []byte{255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 0, 0, 0, 0, 0, 0, 128, 3})
	f.Add(int64(time.Minute), int64(-1e12), 1.0, make([]byte, 90))
	f.Fuzz(func(t *testing.T, half, start int64, q float64, steps []byte) {
		if half < 1 || half > int64(time.Hour) || start > 1<<50 || start < -1<<50 || !(q >= 0 && q <= 1) || len(steps) > 9*200 {
			t.Skip()
		}
		now := time.Duration(start)
		s, n := New(time.Duration(2*half)), &naive{half: time.Duration(half)}
		for ; len(steps) >= 9; steps = steps[9:] {
			now += time.Duration(half) * time.Duration(steps[8]) / 100
			d := time.Duration(binary.BigEndian.Uint64(steps))
			s.Add(now, d)
			n.add(now, d)
			check(t, s, n, now, q)
			check(t, s, n, now+time.Duration(half), q)
			check(t, s, n, now+time.Duration(2*half), q)
		}
	})
}

// Every bucket ends where the next one begins, and holds its own ends: there is no
// duration that falls between two, and none is rounded down.
func TestBuckets(t *testing.T) {
	var lower time.Duration
	for i := range buckets {
		if got := bucket(lower); got != i {
			t.Fatalf("%v falls into bucket %d, want %d", lower, got, i)
		}
		if got := bucket(upper(i)); got != i {
			t.Fatalf("%v, where bucket %d ends, falls into bucket %d", upper(i), i, got)
		}
		if width := upper(i) - lower; width >= max(lower/sub, 1<<unitBits) {
			t.Fatalf("bucket %d is %v wide at %v", i, width, lower)
		}
		lower = upper(i) + 1
	}
	if upper(buckets-1) != Max {
		t.Errorf("the last bucket ends at %v, want %v", upper(buckets-1), Max)
	}
	for d, want := range map[time.Duration]int{math.MinInt64: 0, -1: 0, Max + 1: buckets - 1, math.MaxInt64: buckets - 1} {
		if got := bucket(d); got != want {
			t.Errorf("%v falls into bucket %d, want %d", d, got, want)
		}
	}
}

func TestOddArguments(t *testing.T) {
	s := New(time.Minute)
	for _, q := range append(qs, math.NaN()) {
		if d, n := s.Quantile(0, q); d != 0 || n != 0 {
			t.Errorf("an empty Sketch has a Quantile(%v) of %v from %d", q, d, n)
		}
	}
	s.Add(0, time.Millisecond)
	s.Add(0, time.Second)
	shortest, _ := s.Quantile(0, 0)
	longest, _ := s.Quantile(0, 1)
	for q, want := range map[float64]time.Duration{
		-1: shortest, math.Inf(-1): shortest, math.SmallestNonzeroFloat64: shortest, 0.5: shortest,
		0.5000001: longest, math.Nextafter(1, 0): longest, 2: longest, math.Inf(1): longest, math.NaN(): longest,
	} {
		if d, n := s.Quantile(0, q); d != want || n != 2 {
			t.Errorf("Quantile(%v) = %v from %d, want %v from 2", q, d, n, want)
		}
	}
	for _, window := range []time.Duration{math.MinInt64, 0, 1, 2, math.MaxInt64} {
		for _, now := range []time.Duration{-1 << 62, -1, 0, 1 << 62} {
			s := New(window)
			s.Add(now, time.Second)
			if _, n := s.Quantile(now, 0.5); n != 1 {
				t.Errorf("a window of %v at %v holds %d, want what was added just now", window, now, n)
			}
		}
	}
}

// What is older than the window is forgotten, what is younger than half of it is not,
// and nothing comes back.
func TestFades(t *testing.T) {
	const window = time.Minute
	s := New(window)
	for range 100 {
		s.Add(0, time.Hour)
	}
	for _, test := range []struct {
		now  time.Duration
		want uint64
	}{{0, 100}, {window/2 - 1, 100}, {window / 2, 100}, {window - 1, 100}, {window, 0}, {100 * window, 0}, {0, 100}} {
		if _, n := s.Quantile(test.now, 0.5); n != test.want {
			t.Errorf("at %v: %d, want %d", test.now, n, test.want)
		}
	}
	s.Add(window/2, time.Millisecond)
	if d, n := s.Quantile(window/2, 0.5); n != 101 || d < time.Hour {
		t.Errorf("with the next half begun: %v of %d", d, n)
	}
	s.Add(window, time.Millisecond)
	if d, n := s.Quantile(window, 1); n != 2 || d > 2*time.Millisecond {
		t.Errorf("a window later: %v of %d", d, n)
	}
	s.Add(3*window, time.Millisecond)
	if _, n := s.Quantile(3*window, 0.5); n != 1 {
		t.Errorf("after a silence: %d, want 1", n)
	}
}

// A full count stays full, and does not begin anew.
//
// Spec: B27
func TestCountsSaturate(t *testing.T) {
	s := New(time.Minute)
	s.Add(0, time.Second)
	c := &s.recent.Load().present[bucket(time.Second)]
	c.Store(countMax - 1)
	for range 3 {
		s.Add(0, time.Second)
	}
	if got := c.Load(); got != countMax {
		t.Errorf("the count is %d, want %d", got, countMax)
	}
	s.AddN(0, time.Second, math.MaxUint32)
	if d, n := s.Quantile(0, 1); n != countMax || d < time.Second {
		t.Errorf("Quantile = %v of %d", d, n)
	}
}

func TestAddN(t *testing.T) {
	s := New(time.Minute)
	s.AddN(0, time.Millisecond, 0)
	s.AddN(0, time.Millisecond, 98)
	s.AddN(0, time.Second, 2)
	if d, n := s.Quantile(0, 0.98); n != 100 || d > 2*time.Millisecond {
		t.Errorf("Quantile(0.98) = %v of %d", d, n)
	}
	if d, _ := s.Quantile(0, 0.99); d < time.Second {
		t.Errorf("Quantile(0.99) = %v", d)
	}
	for range 300 {
		s.AddN(0, time.Second, math.MaxUint32)
	}
	if d, n := s.Quantile(0, 0.5); n > math.MaxInt32+98 || d < time.Second {
		t.Errorf("the count has begun anew: %d, %v", n, d)
	}
}

// Goroutines that meet at the turn of a half, and readers between them: within one
// window nothing is lost.
func TestConcurrentTurns(t *testing.T) {
	const goroutines, each = 16, 300
	for range 5 {
		s := New(2 * time.Second)
		var wg sync.WaitGroup
		for g := range goroutines {
			wg.Go(func() {
				for i := range each {
					now := time.Duration(i) * 2 * time.Second / each // one turn on the way
					s.Add(now, time.Duration(1+g)*time.Millisecond)
					if i%16 != 0 {
						continue
					}
					if d, _ := s.Quantile(now, 1); d < time.Duration(1+g)*time.Millisecond || d > 2*goroutines*time.Millisecond {
						t.Errorf("Quantile(1) = %v", d)
					}
				}
			})
		}
		wg.Wait()
		if _, n := s.Quantile(2*time.Second-1, 0.5); n != goroutines*each {
			t.Fatalf("%d of %d are left", n, goroutines*each)
		}
	}
}

func TestMemory(t *testing.T) {
	if size := unsafe.Sizeof(Sketch{}) + 2*unsafe.Sizeof(counts{}) + unsafe.Sizeof(generations{}); size > 4<<10+64 {
		t.Errorf("a Sketch takes %d bytes", size)
	}
	s := New(time.Minute)
	s.Add(0, 1)
	l := NewLive(s, 0.99, 1, 0)
	if n := testing.AllocsPerRun(100, func() { s.Add(1, time.Second); s.Quantile(1, 0.99); l.Value(1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestLive(t *testing.T) {
	const window = 64 * time.Second // looked at each second
	s := New(window)
	l := NewLive(s, 0.5, 10, 0)
	want := func(now, want time.Duration) {
		t.Helper()
		if got := l.Value(now); got < want || got > want+want/sub {
			t.Errorf("at %v: %v, want %v", now, got, want)
		}
	}
	for range 9 {
		s.Add(0, time.Millisecond)
	}
	want(0, 0)
	want(1*time.Second, 0) // one too few
	s.Add(1*time.Second, time.Millisecond)
	want(2*time.Second-1, 0) // not due
	want(2*time.Second, time.Millisecond)
	for range 100 {
		s.Add(2*time.Second, time.Second)
	}
	want(3*time.Second-1, time.Millisecond)
	want(3*time.Second, time.Second)
	want(0, time.Second) // held up after reading the clock
	want(100*time.Second, 0)
	if got := l.Value(100*time.Second + 1); got != 0 {
		t.Errorf("after a silence: %v", got)
	}
}

// A Live is asked by many while the durations change, and tells one that has been.
func TestLiveConcurrent(t *testing.T) {
	s := New(64 * time.Microsecond)
	l := NewLive(s, 1, 1, 0)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for now := range time.Duration(2000) {
				s.Add(now, time.Millisecond+now)
				if d := l.Value(now); d != 0 && (d < time.Millisecond || d > 2*time.Millisecond) {
					t.Errorf("Value = %v", d)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkAdd(b *testing.B) {
	s := New(time.Minute)
	for b.Loop() {
		s.Add(5, 3*time.Millisecond)
	}
}

func BenchmarkAddParallel(b *testing.B) {
	s := New(time.Minute)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			s.Add(5, 3*time.Millisecond)
		}
	})
}

func BenchmarkQuantile(b *testing.B) {
	s := New(time.Minute)
	s.Add(5, 3*time.Millisecond)
	for b.Loop() {
		s.Quantile(5, 0.99)
	}
}

func BenchmarkLive(b *testing.B) {
	s := New(time.Minute)
	l := NewLive(s, 0.99, 1, 0)
	for b.Loop() {
		l.Value(5)
	}
}
