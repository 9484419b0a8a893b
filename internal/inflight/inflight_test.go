package inflight

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// Ages agrees with a plain list of the calls in flight, within what it promises: no
// call counts before its age, and each does from one width later until it is
// forgotten.
//
// Spec: B21
func TestAgreesWithNaive(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		slow := time.Duration(1 + r.Int64N(int64(3*time.Second)))
		memory := time.Duration(1 + r.Int64N(int64(20*time.Second)))
		a := New(slow, memory)
		now := r.Int64N(1e12) - 5e11
		var flying []int64
		for range 500 {
			switch r.IntN(4) {
			case 0, 1:
				a.Begin(now)
				flying = append(flying, now)
			case 2:
				if len(flying) > 0 {
					i := r.IntN(len(flying))
					a.End(flying[i])
					flying = append(flying[:i], flying[i+1:]...)
				}
			default:
				now += r.Int64N(int64(slow))
			}
			least, most := 0, 0
			for _, at := range flying {
				age := now - at
				if age >= int64(slow) && age < int64(memory) {
					most++
				}
				if age >= int64(slow)+a.width && age < int64(memory)-a.width {
					least++
				}
			}
			if n := a.Older(now, slow, memory); n < least || n > most {
				t.Fatalf("seed %d: %d calls are older than %v, want %d to %d", seed, n, slow, least, most)
			}
		}
	}
}

// A call that was never reported to have ended is forgotten, and when it ends at last
// it takes nothing from the calls of a later epoch in the same slot.
//
// Spec: B15
func TestForgets(t *testing.T) {
	a := New(time.Second, 10*time.Second)
	a.Begin(0)
	if n := a.Older(int64(5*time.Second), time.Second, 10*time.Second); n != 1 {
		t.Errorf("Older = %d, want 1", n)
	}
	if n := a.Older(int64(10*time.Second), time.Second, 10*time.Second); n != 0 {
		t.Errorf("Older = %d after its time, want 0", n)
	}
	again := slots * a.width
	a.Begin(again)
	a.End(0)
	if n := a.Older(again+int64(2*time.Second), time.Second, 10*time.Second); n != 1 {
		t.Errorf("Older = %d, want 1: the lost call took another with it", n)
	}
}

// Nothing is lost between goroutines.
func TestConcurrently(t *testing.T) {
	a := New(time.Second, 10*time.Second)
	var wg sync.WaitGroup
	for g := range int64(8) {
		wg.Go(func() {
			for i := range int64(5000) {
				a.Begin(i * g)
				a.End(i * g)
			}
			a.Begin(0)
		})
	}
	wg.Wait()
	if n := a.Older(int64(2*time.Second), time.Second, 10*time.Second); n != 8 {
		t.Errorf("Older = %d, want 8", n)
	}
}
