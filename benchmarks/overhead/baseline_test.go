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
