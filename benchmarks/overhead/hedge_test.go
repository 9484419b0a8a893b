package overhead

import (
	"context"
	"testing"
	"time"

	"github.com/failsafe-go/failsafe-go/hedgepolicy"

	"github.com/mettle-go/mettle/hedge"
)

// hedges are about calls that are answered long before they would be sent again: all that
// a hedge costs most of the time.
func hedges() []entry {
	const delay = 10 * time.Second
	// One with no shortest delay would send all calls again, so it is never to have seen
	// enough to set one: it starts no timer, and mettle does.
	failsafeLive := fromFailsafe(hedgepolicy.NewBuilderWithDelayQuantile[any](0.95, 100, 1<<30).Build())
	failsafeLive.name = "failsafe-live"
	return []entry{
		fromPolicy("mettle", hedge.New(hedge.Config{After: delay})),
		fromPolicy("mettle-live", hedge.New(hedge.Config{Quantile: 0.95, After: delay})),
		{"by-hand", contender{call: func(ctx context.Context, n int) error { return hedgeByHand(ctx, n, delay) }}},
		fromFailsafe(hedgepolicy.NewWithDelay[any](delay)),
		failsafeLive,
	}
}

// hedgeByHand is what is written where there is no library. It does not wait for the loser.
func hedgeByHand(ctx context.Context, n int, delay time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan error, 2)
	send := func() { results <- work(ctx, n) }
	go send()
	timer := time.NewTimer(delay)
	defer timer.Stop()
	running := 1
	for {
		select {
		case err := <-results:
			if running--; err == nil || running == 0 {
				return err
			}
		case <-timer.C:
			running++
			go send()
		}
	}
}

func BenchmarkHedge(b *testing.B) { compare(b, "Hedge") }
