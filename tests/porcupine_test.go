package tests

import (
	"cmp"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/anishathalye/porcupine"
)

// A concurrent object is right if each of its operations seems to happen at one moment
// between its call and its return. Porcupine looks for such moments: an order of the
// operations that did not overlap in another one, and in which each answers as the model
// does, to which they happen one after the other. The order in time is that of a counter,
// since in a bubble the clock stands still while goroutines run.

// history is what several goroutines did.
type history struct {
	clock atomic.Int64
	mu    sync.Mutex
	ops   []porcupine.Operation
}

// do does something and notes when, and what came of it.
func (h *history) do(client int, input any, f func() (output any)) {
	called := h.clock.Add(1)
	output := f()
	returned := h.clock.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: input, Call: called, Output: output, Return: returned})
}

// overlaps returns how many operations began before one that was called sooner was over.
func (h *history) overlaps() (n int) {
	slices.SortFunc(h.ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	last := int64(0)
	for _, op := range h.ops {
		if op.Call < last {
			n++
		}
		last = max(last, op.Return)
	}
	return n
}

func (h *history) String() string {
	var s strings.Builder
	for _, op := range h.ops {
		fmt.Fprintf(&s, "%4d to %4d, goroutine %d: %+v -> %v\n", op.Call, op.Return, op.ClientId, op.Input, op.Output)
	}
	return s.String()
}

// held are things that one goroutine took and any may give back, once.
type held[T any] struct {
	mu    sync.Mutex
	given uint
	ids   []uint
	items map[uint]T
}

// next returns a number for what is about to be taken. There are 64.
func (h *held[T]) next() uint {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.given++
	return h.given - 1
}

func (h *held[T]) put(id uint, item T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.items == nil {
		h.items = map[uint]T{}
	}
	h.ids = append(h.ids, id)
	h.items[id] = item
}

// take returns something that is held, if there is anything.
func (h *held[T]) take(r *rand.Rand) (id uint, item T, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.ids) == 0 {
		return 0, item, false
	}
	i := r.IntN(len(h.ids))
	id = h.ids[i]
	h.ids = slices.Delete(h.ids, i, i+1)
	return id, h.items[id], true
}

// atOnce has goroutines do the given number of things each, as many at once as can be.
func atOnce(seed uint64, goroutines, each int, do func(client int, r *rand.Rand)) {
	var ready atomic.Int32
	var all sync.WaitGroup
	for client := range goroutines {
		all.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(client)))
			// Not by a channel: the first to be woken would be done before the last is.
			for ready.Add(1); ready.Load() < int32(goroutines); {
				runtime.Gosched()
			}
			for range each {
				do(client, r)
				if r.IntN(3) == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	all.Wait()
}

// linearizable checks many short histories, which play makes, against the model. Short
// ones are quickly checked, and what can go wrong goes wrong among few.
func linearizable(t *testing.T, histories int, model porcupine.Model, play func(seed uint64) *history) {
	t.Helper()
	if testing.Short() || raceEnabled {
		histories /= 5
	}
	var all []*history
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(histories) {
			all = append(all, play(seed))
		}
	})
	ops, overlaps := 0, 0
	for seed, h := range all {
		ops, overlaps = ops+len(h.ops), overlaps+h.overlaps()
		if !porcupine.CheckOperations(model, h.ops) {
			t.Fatalf("history %d is in no order that the model allows:\n%v", seed, h)
		}
	}
	t.Logf("%d histories of %d operations, %d of which overlapped", len(all), ops, overlaps)
}

// notLinearizable checks histories until it has found one that the model does not allow.
func notLinearizable(t *testing.T, model porcupine.Model, play func(seed uint64) *history) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(10_000) {
			if h := play(seed); !porcupine.CheckOperations(model, h.ops) {
				t.Logf("history %d is in no order", seed)
				return
			}
		}
		t.Error("every history is in order")
	})
}

// set is a set of numbers below 64.
type set uint64

func (s set) with(id uint) set    { return s | 1<<id }
func (s set) without(id uint) set { return s &^ (1 << id) }
func (s set) has(id uint) bool    { return s&(1<<id) != 0 }
func (s set) len() int            { return bits.OnesCount64(uint64(s)) }
