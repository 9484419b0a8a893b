package hedge_test

import (
	"testing"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/mettletest"
	"github.com/mettle-go/mettle/retry"
)

// Spec: P2, P3, P4, P5, P7, P8, P9, P12
func TestConformance(t *testing.T) {
	policies := map[string]hedge.Config{
		"zero config": {},
		"eager": {
			After: time.Millisecond, Max: 5, Budget: retry.NoBudget,
		},
		"fixed delay": {After: 20 * time.Millisecond, Max: 2},
	}
	for name, c := range policies {
		t.Run(name, func(t *testing.T) {
			mettletest.TestPolicy(t, func() mettle.Policy { return hedge.New(c) }, mettletest.MayOverlap())
		})
	}
}
