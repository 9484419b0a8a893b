package loopback

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mettle-go/mettle/benchmarks/scorecard"
)

var twin = flag.Bool("twin", false, "simulate the plan on standard input, and print the results in JSON")

// TestTwin is how the command simulates: testing/synctest is for tests.
func TestTwin(t *testing.T) {
	if !*twin {
		t.Skip("not asked to")
	}
	var p Plan
	if err := json.NewDecoder(os.Stdin).Decode(&p); err != nil {
		t.Fatal(err)
	}
	for _, r := range p.Twins() {
		fmt.Print(scorecard.ResultMark)
		if err := json.NewEncoder(os.Stdout).Encode(r.Simulate(bubble(t))); err != nil {
			t.Fatal(err)
		}
	}
}

// bubble runs functions in bubbles of their own.
func bubble(t *testing.T) func(func()) {
	return func(f func()) { synctest.Test(t, func(*testing.T) { f() }) }
}

// The world that is simulated is the one that the processes live in: the same requests of
// the same clients at the same moments, the same answers, and the same measures.
func TestSimulated(t *testing.T) {
	r := short(t, "S4/p=0.3/proto=http", "none")
	r.From, r.To, r.Until = 0, time.Second, time.Second
	e := &ensemble{World: r.World, contender: "none"}
	require.NoError(t, e.prepare(t.Context()))
	require.NoError(t, e.live(t.Context(), beginning{time.Now()}))
	require.NoError(t, e.end(t.Context()))
	k, _ := inScorecard("none")
	var virtual *Report
	bubble(t)(func() { virtual = r.simulate(k) })
	require.Len(t, virtual.Requests, len(e.report.Requests))
	for i, q := range virtual.Requests {
		// A busy machine may send one later than the next, and what fails is drawn by request.
		assert.Equal(t, e.report.Requests[i].At, q.At)
		assert.Equal(t, e.report.Requests[i].OK, q.OK, "request %d", i)
	}
	assert.Len(t, virtual.Sent, len(virtual.Requests))
}

// What an outage costs is known where nothing is done about it, and where nobody comes
// back after it.
func TestSimulatedOutage(t *testing.T) {
	for _, r := range (Plan{Only: []string{"S1"}}).Twins()[:2] {
		r.who = []string{"timeout", "gobreaker", "mettle"}
		results := r.Simulate(bubble(t))
		assert.InDelta(t, 1, results[0].Measures[Lost], 0.01, r.Name)
		assert.Equal(t, 0.0, results[1].Measures[After], r.Name)
		assert.Less(t, results[2].Measures[Lost], 1.4, r.Name)
		assert.Less(t, results[2].Measures[Recover], 2.0, r.Name)
	}
	r := Plan{Only: []string{"S11"}}.Twins()[0]
	for _, result := range r.Simulate(bubble(t)) {
		if result.Contender != "timeout" {
			assert.Greater(t, result.Measures[Cut], 2.0, result.Contender)
			assert.Less(t, result.Measures[Extra], 0.1, result.Contender)
		}
	}
}
