package overhead

import (
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkFloor is what the others are compared with: the cheapest things out of
// which something could be made that knows the time, or counts.
func BenchmarkFloor(b *testing.B) {
	b.Run("impl=time.Since", func(b *testing.B) {
		start := time.Now()
		for b.Loop() {
			_ = time.Since(start)
		}
	})
	b.Run("impl=atomic-add", func(b *testing.B) {
		var n atomic.Int64
		for b.Loop() {
			n.Add(1)
		}
	})
	b.Run("impl=cas", func(b *testing.B) {
		var n atomic.Int64
		for b.Loop() {
			old := n.Load()
			n.CompareAndSwap(old, old+1)
		}
	})
}

// BenchmarkFloorShared is for -cpu=1,2. Reading the clock shows how much of a second
// processor there is to be had; whoever counts in one word has the rest against him.
func BenchmarkFloorShared(b *testing.B) {
	b.Run("impl=time.Since", func(b *testing.B) {
		start := time.Now()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				_ = time.Since(start)
			}
		})
	})
	b.Run("impl=atomic-add", func(b *testing.B) {
		var n atomic.Int64
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				n.Add(1)
			}
		})
	})
	b.Run("impl=cas", func(b *testing.B) {
		var n atomic.Int64
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				for old := n.Load(); !n.CompareAndSwap(old, old+1); old = n.Load() {
				}
			}
		})
	})
}
