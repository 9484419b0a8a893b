package retry_test

import (
	"testing"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/mettletest"
	"github.com/mettle-go/mettle/retry"
)

// Spec: P2, P3, P4, P5, P7, P8, P9, P12
func TestConformance(t *testing.T) {
	policies := map[string]retry.Config{
		"zero config": {},
		"eager": {
			MaxAttempts: 5, Backoff: retry.Decorrelated(time.Millisecond, time.Second), MaxElapsed: time.Minute,
			Budget: retry.NoBudget, Nested: true, RetryIf: func(error) bool { return true },
		},
	}
	for name, c := range policies {
		t.Run(name, func(t *testing.T) {
			mettletest.TestPolicy(t, func() mettle.Policy { return retry.New(c) })
		})
	}
}
