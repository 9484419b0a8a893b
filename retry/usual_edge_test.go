package retry_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/retry"
)

// A hook that takes its time after each attempt is not a part of the attempt. It was,
// and then nothing was resent within that time of a deadline.
//
// Spec: R5
func TestUsualLeavesOutTheHook(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		r := retry.New(retry.Config{Budget: retry.NoBudget})
		slow := mettle.WithTrace(bg, &mettle.Trace{AttemptDone: func(mettle.TraceEvent) { time.Sleep(time.Second) }})
		for range 30 {
			_ = r.Do(slow, takes(time.Millisecond, nil))
		}
		if usual := r.Stats().Usual; usual < time.Millisecond || usual > 2*time.Millisecond {
			t.Errorf("attempts of 1 ms usually take %v", usual)
		}
	})
}

// Who looks changes nothing: a look at what is usual, when too little was known for it,
// once kept the next call from knowing for a second.
//
// Spec: P12, R5
func TestLookingIsNotAsking(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		r := retry.New(retry.Config{Budget: retry.NoBudget, Backoff: retry.Constant(1), MaxAttempts: 2})
		for range 19 {
			_ = r.Do(bg, takes(100*time.Millisecond, nil))
		}
		if usual := r.Stats().Usual; usual != 0 {
			t.Errorf("%v is usual by 19 attempts", usual)
		}
		_ = r.Do(bg, takes(100*time.Millisecond, nil))
		if n, err := within(r, 50*time.Millisecond); n != 1 || !errors.Is(err, retry.ErrDeadline) {
			t.Errorf("%d attempts, %v; want one, since another takes longer than there is", n, err)
		}
	})
}

// overdue has a deadline that has passed, and has not ended.
type overdue struct {
	context.Context
	at time.Time
}

func (o overdue) Deadline() (time.Time, bool) { return o.at, true }

// The longest of all delays and a deadline in the past are further apart than a Duration
// can tell. A wait of 292 years was begun.
//
// Spec: R5, R8
func TestLongestDelayPastTheDeadline(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		r := retry.New(retry.Config{
			Backoff: func(int, time.Duration) time.Duration { return math.MaxInt64 },
			Budget:  retry.NoBudget,
			OnRetry: func(e retry.Event) { t.Errorf("a wait of %v is begun", e.Delay) },
		})
		live, cancel := context.WithTimeout(bg, time.Hour)
		defer cancel()
		err := r.Do(overdue{live, time.Now()}, takes(time.Millisecond, errDown))
		if !errors.Is(err, retry.ErrDeadline) {
			t.Error(err)
		}
	})
}
