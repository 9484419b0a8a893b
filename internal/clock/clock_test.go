package clock

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The base has a reading of the monotonic clock, as [time.Time] prints it, and so its
// difference to any other time is one that no step of the wall clock changes.
//
// Spec: B16
func TestIsMonotonic(t *testing.T) {
	if s := New().base.String(); !strings.Contains(s, " m=") {
		t.Errorf("the base is %s, without a monotonic reading", s)
	}
}

// A clock from outside a bubble is far off inside, and counts on all the same.
func TestDifferencesAreRight(t *testing.T) {
	outside := New()
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []Clock{New(), outside} {
			before := c.Now()
			time.Sleep(time.Minute)
			if got := time.Duration(c.Now() - before); got != time.Minute {
				t.Errorf("%v passed, want a minute", got)
			}
			if d := c.At(time.Now().Add(time.Second)) - c.Now(); d != int64(time.Second) {
				t.Errorf("a second from now is %v away", time.Duration(d))
			}
		}
	})
}
