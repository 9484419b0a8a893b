package mettlehttp

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/mettletest"
)

func hostContext(ctx context.Context, host string) context.Context {
	return &call{Context: ctx, host: host}
}

// TestCompartments fills one host's bulkhead and uses another's.
//
// Spec: W17
func TestCompartments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCompartments("http", 3)
		p := mettle.Compose(c)
		release := make(chan struct{})
		hang := func(context.Context) error { <-release; return nil }
		pass := func(context.Context) error { return nil }
		bad := hostContext(t.Context(), "bad")
		for range 100 {
			go p.Do(bad, hang)
		}
		synctest.Wait()
		err := p.Do(bad, pass)
		var full *bulkhead.FullError
		if !errors.As(err, &full) || full.Name != "http[bad]" {
			t.Errorf("host 101 times in flight: %v", err)
		}
		if err := c.Do(bad, pass); !errors.Is(err, bulkhead.ErrFull) {
			t.Errorf("not wrapped: %v", err)
		}
		// Many hosts, one after the other, are never more than the bound.
		for i := range 100 {
			if err := p.Do(hostContext(t.Context(), fmt.Sprint("good", i)), pass); err != nil {
				t.Fatal(err)
			}
			if len(c.hosts) > 3 || c.hosts["bad"] == nil {
				t.Fatalf("%d hosts, bad %v", len(c.hosts), c.hosts["bad"])
			}
		}
		// Hosts beyond the bound share what is left.
		for i := range 4 {
			go p.Do(hostContext(t.Context(), fmt.Sprint("busy", i)), hang)
		}
		synctest.Wait()
		if n := c.rest.Stats().InFlight; n != 2 {
			t.Errorf("%d in the bulkhead of the rest, want 2", n)
		}
		metrics := observe(c)
		if metrics["mettle.bulkhead.in_flight"] != 104 || metrics["mettle.bulkhead.refused"] != 2 {
			t.Errorf("metrics: %v", metrics)
		}
		close(release)
		synctest.Wait()
		// The counts of those let go are kept.
		for i := range 4 {
			p.Do(hostContext(t.Context(), fmt.Sprint("new", i)), pass)
		}
		metrics = observe(c)
		if c.hosts["bad"] != nil || metrics["mettle.bulkhead.in_flight"] != 0 || metrics["mettle.bulkhead.refused"] != 2 {
			t.Errorf("metrics: %v", metrics)
		}
		c.Observe(func(mettle.Metric) bool { return false })
	})
}

func observe(o mettle.Observable) map[string]float64 {
	sums := map[string]float64{}
	o.Observe(func(m mettle.Metric) bool { sums[m.Name] += m.Value; return true })
	return sums
}

// TestPolicies holds what the standard pipeline is made of here, and itself, against the
// contract of mettle.Policy.
//
// Spec: P4, P5, W17
func TestPolicies(t *testing.T) {
	t.Run("compartments", func(t *testing.T) {
		mettletest.TestPolicy(t, func() mettle.Policy { return newCompartments("http", maxHosts) })
	})
	t.Run("standard", func(t *testing.T) { mettletest.TestPolicy(t, standard) })
}
