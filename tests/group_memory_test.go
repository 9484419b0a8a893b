package tests

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/mettle-go/mettle/breaker"
)

// heap returns how many bytes are reachable.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A million keys that somebody makes up, a fifth of them with failures, pass through a
// group that keeps ten thousand: memory is at each of ten looks what it was once the group
// was full. What is held open or in use all the while stays.
//
// Spec: B29
func TestMillionKeysInBoundedMemory(t *testing.T) {
	const looks = 10
	keys, bound := 1_000_000, 10_000
	if testing.Short() || raceEnabled {
		keys, bound = keys/50, bound/10
	}
	g := breaker.NewGroup[uint64](breaker.GroupConfig{Config: breaker.Config{Name: "tenant"}, MaxKeys: bound})
	open, used := g.Get(0), g.Get(1)
	open.ForceOpen(breaker.Override{By: "ops"})
	r, down, lost := rand.New(rand.NewPCG(1, 2)), errors.New("down"), 0
	flood := func(n int) {
		for i := range n {
			var err error
			if i%5 == 0 {
				err = down
			}
			_ = g.Get(r.Uint64()).Do(context.Background(), func(context.Context) error { return err })
			if g.Get(1) != used {
				lost++
			}
		}
	}
	flood(10 * bound) // by then the keys that failed have washed out the others
	before := heap()
	for look := range looks {
		flood(keys / looks)
		now := heap()
		assert.Less(t, now, before+before/10, "look %d: bytes reachable, of %d before", look, before)
		assert.LessOrEqual(t, g.Len(), bound, "look %d", look)
		assert.Greater(t, g.Len(), bound*9/10, "look %d: the group makes too little use of its room", look)
		t.Logf("%d keys: %d kept, %.1f MB reachable, %.1f before", (look+1)*keys/looks, g.Len(), float64(now)/1e6, float64(before)/1e6)
	}
	assert.Zero(t, lost, "a key in use was let go")
	assert.True(t, g.Get(0) == open, "a breaker that is held open was let go")
}
