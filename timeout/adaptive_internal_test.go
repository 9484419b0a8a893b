package timeout

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A slow call that explores and succeeds counts for all that were cut off since the last
// of its kind, but for no more than a minute has had; one that fails shows that they would
// have failed as well.
//
// Spec: T7 (part)
func TestWhatCutOffCallsCountFor(t *testing.T) {
	const usual, cut = time.Second, 1000
	failed := errors.New("failed")
	for name, test := range map[string]struct {
		after, failsAfter time.Duration // of the last one, and of one before it
		want              uint64
	}{
		"at once":                           {after: 2 * usual, want: 1 + cut},
		"within a minute":                   {after: time.Minute, want: 1 + cut},
		"later":                             {after: 10 * time.Minute, want: 1 + cut/10},
		"after a failure":                   {after: time.Minute, failsAfter: 30 * time.Second, want: 1},
		"after a failure that came in time": {after: time.Minute, failsAfter: usual / 2, want: 1 + cut},
	} {
		t.Run(name, func(t *testing.T) {
			to := New(Config{Quantile: 0.9})
			a := to.adaptive
			end := func(explores bool, took, now time.Duration, err error) {
				a.end(&trial{ctx: context.Background(), began: now - took, usual: usual, explores: explores}, now, err)
			}
			for range cut {
				end(false, usual, 0, failed)
			}
			if test.failsAfter > 0 {
				end(true, test.failsAfter, test.failsAfter, failed)
			}
			end(true, 2*usual, test.after, nil)
			if _, n := a.sketch.Quantile(test.after, 0.5); n != test.want {
				t.Errorf("counts for %d, want %d", n, test.want)
			}
			end(true, 2*usual, test.after, nil)
			if _, n := a.sketch.Quantile(test.after, 0.5); n != test.want+1 {
				t.Errorf("the next one counts for %d, want 1", n-test.want)
			}
		})
	}
}

// What was known before an outage is kept while it goes on, and not when the calls have
// stopped for a minute.
//
// Spec: T7 (part)
func TestOutageThenSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := New(Config{Quantile: 0.9})
		a := to.adaptive
		now := func() time.Duration { return time.Duration(to.clock.Now()) }
		a.sketch.AddN(now(), time.Second, 1000)
		time.Sleep(time.Second)
		learnt := a.usual(to, now()).after
		if learnt >= to.fixed.after {
			t.Fatalf("nothing is learnt: %v", learnt)
		}
		for range 5 {
			time.Sleep(50 * time.Second)
			a.end(&trial{ctx: t.Context(), began: now() - learnt, usual: learnt, explores: true}, now(), context.DeadlineExceeded)
			if got := a.usual(to, now()).after; got != learnt {
				t.Fatalf("in the outage calls may take %v, want %v", got, learnt)
			}
		}
		time.Sleep(3 * time.Hour)
		if got := a.usual(to, now()).after; got != to.fixed.after {
			t.Errorf("hours after the outage calls may take %v, want After", got)
		}
	})
}

// One success ends the outage: that too little is known then is due to few calls.
//
// Spec: T7 (part)
func TestOutageEndsWithASuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := New(Config{Quantile: 0.9})
		a := to.adaptive
		now := func() time.Duration { return time.Duration(to.clock.Now()) }
		a.sketch.AddN(now(), time.Second, 1000)
		time.Sleep(time.Second)
		learnt := a.usual(to, now()).after
		time.Sleep(2 * time.Minute)
		a.end(&trial{ctx: t.Context(), began: now() - learnt, usual: learnt, explores: true}, now(), context.DeadlineExceeded)
		a.end(&trial{ctx: t.Context(), began: now(), usual: learnt}, now(), nil)
		if got := a.usual(to, now()).after; got != to.fixed.after {
			t.Errorf("calls may take %v, want After", got)
		}
	})
}
