package retry_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mettle-go/mettle/retry"
)

// ours are the backoffs that promise delays in [0, max].
func ours(base, limit time.Duration) map[string]retry.Backoff {
	j := retry.Jitter{Rand: rand.NewPCG(1, 2)}
	return map[string]retry.Backoff{
		"Constant":     retry.Constant(min(base, limit)),
		"Linear":       retry.Linear(base, limit),
		"Exponential":  retry.Exponential(base, limit),
		"FullJitter":   j.Full(base, limit),
		"EqualJitter":  j.Equal(base, limit),
		"Decorrelated": j.Decorrelated(base, limit),
	}
}

func checkRange(t *testing.T, base, limit time.Duration, attempt int, prev time.Duration) {
	t.Helper()
	for name, backoff := range ours(base, limit) {
		if d := backoff(attempt, prev); d < 0 || d > max(limit, 0) {
			t.Errorf("%s(%d, %d)(%d, %d) = %d, not in [0, max]", name, base, limit, attempt, prev, d)
		}
	}
}

// Spec: R8
func TestBackoffStaysInRange(t *testing.T) {
	durations := []time.Duration{
		math.MinInt64, -1, 0, 1, 2, 3, time.Second, 1 << 62, math.MaxInt64/3 - 1, math.MaxInt64 / 3,
		math.MaxInt64/3 + 1, math.MaxInt64 - 1, math.MaxInt64,
	}
	attempts := []int{math.MinInt, -1, 0, 1, 2, 31, 32, 33, 61, 62, 63, 64, 65, 1000, 1_000_000, math.MaxInt}
	for _, base := range durations {
		for _, limit := range durations {
			for _, attempt := range attempts {
				for _, prev := range durations {
					checkRange(t, base, limit, attempt, prev)
				}
			}
		}
	}
}

// Spec: R8
func FuzzBackoffStaysInRange(f *testing.F) {
	f.Add(int64(time.Second), int64(time.Minute), 1, int64(0))
	f.Add(int64(0), int64(0), 1_000_000, int64(math.MaxInt64))
	f.Add(int64(math.MaxInt64), int64(math.MaxInt64), 64, int64(math.MaxInt64/3))
	f.Fuzz(func(t *testing.T, base, limit int64, attempt int, prev int64) {
		checkRange(t, time.Duration(base), time.Duration(limit), attempt, time.Duration(prev))
	})
}

// Spec: R8, R10
func TestBackoffWithoutJitter(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name    string
		backoff retry.Backoff
		want    []time.Duration
	}{
		{"constant", retry.Constant(7 * ms), []time.Duration{7 * ms, 7 * ms, 7 * ms}},
		{"constant negative", retry.Constant(-1), []time.Duration{0, 0}},
		{"linear", retry.Linear(2*ms, 7*ms), []time.Duration{2 * ms, 4 * ms, 6 * ms, 7 * ms, 7 * ms}},
		{"linear hits max", retry.Linear(2*ms, 4*ms), []time.Duration{2 * ms, 4 * ms, 4 * ms}},
		{"exponential", retry.Exponential(2*ms, 15*ms), []time.Duration{2 * ms, 4 * ms, 8 * ms, 15 * ms, 15 * ms}},
		{"exponential hits max", retry.Exponential(2*ms, 8*ms), []time.Duration{2 * ms, 4 * ms, 8 * ms, 8 * ms}},
		{"max below base", retry.Exponential(5*ms, 3*ms), []time.Duration{3 * ms, 3 * ms}},
		{"base zero", retry.Exponential(0, 3*ms), []time.Duration{0, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := make([]time.Duration, len(tt.want))
			for i := range slices.Backward(got) { // pure: the order of calls is nothing to it
				got[i] = tt.backoff(i+1, 0)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if got := tt.backoff(0, 0); got != tt.want[0] {
				t.Errorf("attempt 0: %v, want that of attempt 1, %v", got, tt.want[0])
			}
		})
	}
}

// Every delay of the range comes, none besides, and none is rarer than chance has it.
//
// Spec: R9
func TestJitterIsUniform(t *testing.T) {
	j := retry.Jitter{Rand: rand.NewPCG(7, 11)}
	for _, tt := range []struct {
		name      string
		backoff   retry.Backoff
		attempt   int
		prev      time.Duration
		low, high time.Duration // ends included
		cut       bool          // the range goes on, and high stands for the rest
	}{
		{"full, first", j.Full(5, 100), 1, 0, 0, 4, false},
		{"full, third", j.Full(2, 100), 3, 0, 0, 7, false},
		{"full, at max", j.Full(5, 6), 9, 0, 0, 5, false},
		{"equal, first", j.Equal(6, 100), 1, 0, 3, 6, false},
		{"equal, odd", j.Equal(5, 100), 1, 0, 2, 5, false},
		{"equal, third", j.Equal(2, 100), 3, 0, 4, 8, false},
		{"decorrelated, first", j.Decorrelated(3, 100), 1, 0, 3, 9, false},
		{"decorrelated, later", j.Decorrelated(3, 100), 8, 4, 3, 12, false},
		{"decorrelated, below base", j.Decorrelated(3, 100), 8, 1, 3, 9, false},
		{"decorrelated, cut", j.Decorrelated(3, 8), 2, 4, 3, 8, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const each = 2000
			values := int(tt.high-tt.low) + 1
			count := make(map[time.Duration]int)
			for range each * values {
				count[tt.backoff(tt.attempt, tt.prev)]++
			}
			for d := range count {
				if d < tt.low || d > tt.high {
					t.Errorf("delay %d, want [%d, %d]", d, tt.low, tt.high)
				}
			}
			if tt.cut {
				if count[tt.high] < each*values/3 {
					t.Errorf("max came %d times of %d: not cut but drawn below it", count[tt.high], each*values)
				}
				return
			}
			for d := tt.low; d <= tt.high; d++ {
				if n := count[d]; n < each*8/10 || n > each*12/10 {
					t.Errorf("delay %d came %d times, want about %d", d, n, each)
				}
			}
		})
	}
}

// Spec: R9
func TestJitterFixedSource(t *testing.T) {
	kinds := map[string]func(retry.Jitter) retry.Backoff{
		"full":         func(j retry.Jitter) retry.Backoff { return j.Full(time.Second, time.Minute) },
		"equal":        func(j retry.Jitter) retry.Backoff { return j.Equal(time.Second, time.Minute) },
		"decorrelated": func(j retry.Jitter) retry.Backoff { return j.Decorrelated(time.Second, time.Minute) },
	}
	sequence := func(b retry.Backoff) (delays []time.Duration) {
		var prev time.Duration
		for attempt := range 50 {
			prev = b(attempt+1, prev)
			delays = append(delays, prev)
		}
		return delays
	}
	for name, kind := range kinds {
		seed := func(n uint64) retry.Jitter { return retry.Jitter{Rand: rand.NewPCG(n, n)} }
		one, again, other := sequence(kind(seed(1))), sequence(kind(seed(1))), sequence(kind(seed(2)))
		if !slices.Equal(one, again) {
			t.Errorf("%s: one seed gave two sequences:\n%v\n%v", name, one, again)
		}
		if slices.Equal(one, other) {
			t.Errorf("%s: two seeds gave one sequence", name)
		}
		if free := sequence(kind(retry.Jitter{})); slices.Equal(one, free) {
			t.Errorf("%s: without a source the sequence is that of seed 1", name)
		}
	}
}

// Spec: R10
func TestBackoffIsShareable(t *testing.T) {
	for name, backoff := range map[string]retry.Backoff{
		"Exponential":  retry.Exponential(time.Millisecond, time.Second),
		"FullJitter":   retry.FullJitter(time.Millisecond, time.Second),
		"EqualJitter":  retry.EqualJitter(time.Millisecond, time.Second),
		"Decorrelated": retry.Decorrelated(time.Millisecond, time.Second),
	} {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				var prev time.Duration
				for attempt := range 200 {
					if prev = backoff(attempt+1, prev); prev < 0 || prev > time.Second {
						t.Errorf("%s: %v", name, prev)
					}
				}
			})
		}
		all.Wait()
	}
}
