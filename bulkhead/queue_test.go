package bulkhead

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

func TestWordKeepsItsFieldsApart(t *testing.T) {
	for _, limit := range []int{1, 2, 100, math.MaxInt32} {
		for _, inFlight := range []int{0, 1, limit - 1, limit, math.MaxInt32} {
			for _, mark := range []word{0, waiting} {
				w := newWord(limit) + word(inFlight) | mark
				if w.limit() != limit || w.inFlight() != inFlight || w.waiting() != (mark != 0) || w.free() != (inFlight < limit) {
					t.Errorf("%d of %d, %v: got %x", inFlight, limit, mark != 0, uint64(w))
				}
				if got := w.withLimit(7); got.limit() != 7 || got.inFlight() != inFlight || got.waiting() != w.waiting() {
					t.Errorf("limit of %x changed: got %x", uint64(w), uint64(got))
				}
			}
		}
	}
}

// When the queue is gone, calls must find their way without the lock again.
func TestLockIsForTheQueueOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Config{Limit: 1, MaxWait: time.Second})
		leaves := func(release bool) {
			held, _ := b.TryAcquire()
			go b.Do(context.Background(), func(context.Context) error { return nil })
			synctest.Wait()
			if !b.load().waiting() {
				t.Error("a call waits, and the word does not say so")
			}
			if !release {
				time.Sleep(time.Second)
				synctest.Wait()
			}
			held.Release()
			synctest.Wait()
			if w := b.load(); w != newWord(1) {
				t.Errorf("idle again, but the word is %x", uint64(w))
			}
		}
		leaves(true)
		leaves(false)
	})
}

func TestTicketBookIsTwiceTheLimitWithinBounds(t *testing.T) {
	for limit, want := range map[int]int{1: 64, 32: 64, 33: 128, 100: 256, 2048: 4096, math.MaxInt32: 4096} {
		if got := len(newTicketBook(limit)); got != want {
			t.Errorf("limit %d: %d tickets, want %d", limit, got, want)
		}
	}
}
