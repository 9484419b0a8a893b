package clock

import (
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What all clocks count from has a reading of the monotonic clock, as [time.Time] prints
// it, and so its difference to any other time is one that no step of the wall clock changes.
//
// Spec: B16
func TestIsMonotonic(t *testing.T) {
	for _, at := range []time.Time{start, New().Time(0), Now().After(0)} {
		if s := at.String(); !strings.Contains(s, " m=") {
			t.Errorf("%s has no monotonic reading", s)
		}
	}
}

// A clock from outside a bubble is far off inside, and counts on all the same.
func TestDifferencesAreRight(t *testing.T) {
	outside := New()
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []Clock{New(), outside} {
			before, at := c.Now(), Now()
			time.Sleep(time.Minute)
			if got := time.Duration(c.Now() - before); got != time.Minute {
				t.Errorf("%v passed, want a minute", got)
			}
			if d := time.Since(c.Time(before)); d != time.Minute && c != outside {
				t.Errorf("a minute ago was %v ago", d)
			}
			if c.At(at) != before {
				t.Errorf("the clock read %d, and is said to have read %d", before, c.At(at))
			}
		}
	})
}

// After is exact on the monotonic clock, and right on the wall clock, however long the one
// before is ago and whichever bubble that was in.
//
// Spec: T1
func TestAfter(t *testing.T) {
	anchored.Store(nil)
	outside := func() {
		t.Helper()
		before, i, after := time.Now(), Now(), time.Now()
		for range 3 { // the second and the third look at no clock
			got := i.After(0)
			if got.Sub(before) < 0 || after.Sub(got) < 0 {
				t.Errorf("%v is not between %v and %v", got, before, after)
			}
			// Both clocks are not read at the same moment, hence the tolerance.
			if wall := got.Round(0); wall.Sub(before.Round(0)).Abs() > time.Minute {
				t.Errorf("the wall clock showed %v, want %v", wall, before)
			}
			i, after = i+Instant(time.Hour), after.Add(time.Hour)
			before = before.Add(time.Hour)
		}
	}
	outside()
	synctest.Test(t, func(t *testing.T) {
		for _, gap := range []time.Duration{0, 1, anchorAge, 1, anchorAge + 1, time.Hour, 1} {
			time.Sleep(gap)
			for _, d := range []time.Duration{0, 1, time.Hour, math.MaxInt64 - anchorAge, math.MaxInt64} {
				// What does not fit into a Duration is cut at the end.
				got, want := Now().After(d), time.Now().Add(d)
				if early := want.Sub(got); early < 0 || early > max(0, d-(math.MaxInt64-anchorAge)) {
					t.Errorf("got %v, want %v", got, want)
				}
			}
		}
	})
	outside()
}

// Between two looks at the wall clock nothing is allocated.
func TestAfterAllocations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_ = Now().After(0)
		if n := testing.AllocsPerRun(100, func() { _ = Now().OrNow().After(0) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

func TestOrNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if got := Unknown.OrNow(); got != Now() {
			t.Errorf("it is %d and not %d", Now(), got)
		}
		if got := Instant(7).OrNow(); got != 7 {
			t.Errorf("7 became %d", got)
		}
	})
}
