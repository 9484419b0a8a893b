package scorecard

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write down which bars hold")

// heldFile has a line for each bar and cell that a change must not break.
const heldFile = "held.txt"

// Bars that have held once hold. The library and the oracle alone run, with one seed: who
// wants to know more uses the command. The list has what holds with each of three seeds.
func TestBarsThatHeld(t *testing.T) {
	notUnderRace(t)
	if *update {
		var all []Verdict
		for seed := range uint64(3) {
			all = append(all, verdicts(t, seed+1)...)
		}
		require.NoError(t, os.WriteFile(heldFile, []byte(strings.Join(held(all), "\n")+"\n"), 0o644))
		return
	}
	text, err := os.ReadFile(heldFile)
	require.NoError(t, err)
	now := make(map[string]Verdict)
	for _, v := range verdicts(t, 1) {
		now[v.Name()] = v
	}
	for _, name := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		v, ok := now[name]
		if !ok {
			t.Errorf("%s: there is no such bar or cell any more; -update writes the list again", name)
		} else if !v.Held() {
			t.Errorf("%s: is %.4g, must be %.4g; it has held before", name, v.Figure.Mean, v.Limit)
		}
		delete(now, name)
	}
	for name, v := range now {
		if !v.Held() {
			t.Logf("missed as ever: %s: is %.4g, must be %.4g", name, v.Figure.Mean, v.Limit)
		}
	}
}

// held returns the names of the bars that hold in all verdicts on them.
func held(all []Verdict) (names []string) {
	missed := make(map[string]bool)
	for _, v := range all {
		if !v.Held() {
			missed[v.Name()] = true
		}
	}
	for _, v := range all {
		if !missed[v.Name()] {
			names = append(names, v.Name())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// verdicts runs the quick cells with a seed, as many at once as there are processors.
func verdicts(t *testing.T, seed uint64) []Verdict {
	var (
		mu      sync.Mutex
		results []Result
	)
	t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
		turns := make(chan struct{}, runtime.GOMAXPROCS(0))
		for _, job := range (Plan{Quick: true, Seeds: 1}).Jobs() {
			t.Run(job.Cell, func(t *testing.T) {
				t.Parallel()
				turns <- struct{}{}
				defer func() { <-turns }()
				r, err := Job{Cell: job.Cell, Seed: seed, Who: OursAlone}.Do(bubble(t))
				require.NoError(t, err)
				mu.Lock()
				defer mu.Unlock()
				results = append(results, r)
			})
		}
	})
	return Summarize(nil, results).Verdicts()
}

// notUnderRace skips what would take ten times as long under the race detector, and has
// nothing to show it that the tests of the simulator and of the libraries have not.
func notUnderRace(t *testing.T) {
	if raceEnabled {
		t.Skip("long under the race detector")
	}
}

// What is written is read again, and judged in the same way.
func TestDataRoundTrip(t *testing.T) {
	results := []Result{
		{Cell: "S4/p=0.3", Seed: 2, Measures: map[string]Measures{"mettle": {Possible: 1, Goodput: 400, Opens: 0}, "gobreaker": {Goodput: 500, Ahead: 0.8}, "oracle": {Goodput: 600}}},
		{Cell: "S4/p=0.3", Seed: 1, Measures: map[string]Measures{"mettle": {Possible: 0.9, Goodput: 300, Opens: 0}, "gobreaker": {Goodput: 400, Ahead: 0.75}, "oracle": {Goodput: 600}}},
		{Cell: "S1/for=30s/how=fast/clients=10", Seed: 1, Measures: map[string]Measures{"mettle": {Recover: 2.5}}, Curves: map[string][]float64{"mettle": {3, 2, 1}}},
	}
	d := Summarize([][2]string{{"command", "none: at all"}}, results)
	assert.Equal(t, []string{"S1/for=30s/how=fast/clients=10", "S4/p=0.3"}, d.Cells())
	possible := d.Stats[Key{"S4/p=0.3", "mettle", Possible}]
	assert.InDelta(t, 0.95, possible.Mean, 1e-9)
	assert.InDelta(t, 0.05*12.706, possible.Half, 1e-3) // of two: s/√2 is half their distance
	assert.Equal(t, 2, possible.Seeds)

	var text bytes.Buffer
	require.NoError(t, d.Write(&text))
	again, err := Read(bytes.NewReader(text.Bytes()))
	require.NoError(t, err)
	assert.Equal(t, d.Head, again.Head)
	assert.Equal(t, []float64{3, 2, 1}, again.Curve("S1/for=30s/how=fast/clients=10", "mettle"))
	assert.Equal(t, d.BarTable(), again.BarTable())
	for _, want := range []string{
		"| S1 | recovered, seconds after 30 s | ≤ 2 | 2.5 | 0 | for=30s/how=fast/clients=10 | 0 of 1 | **fail** |",
		"| S4 | openings though fewer fail than its threshold, 0.8 | ≤ 0 | 0 | 0 | p=0.3 | 1 of 1 | pass |",
		"| p=0.3, gobreaker | 0 of 1 | **fail** |",
	} {
		assert.Contains(t, again.BarTable(), want)
	}
	page := again.Markdown()
	assert.Equal(t, page, d.Markdown())
	for _, want := range []string{"](charts/outage.svg)", "](charts/s4.svg)", "`none: at all`", "\n| mettle | 350 ± 6e+02 | 0.95 ± 0.6 | – |"} {
		assert.Contains(t, page, want)
	}
	for _, bad := range []string{"BenchmarkS4/p=0.3 1 2 a 0 a±\n", "BenchmarkS4/impl=x 1 2\n", "BenchmarkS4/impl=x 1 two a 0 a±\n"} {
		_, err := Read(strings.NewReader(bad))
		assert.Error(t, err, bad)
	}
}

// Cells have names of their own, and who is to be judged takes part.
func TestScenarios(t *testing.T) {
	names := make(map[string]bool)
	for _, s := range Scenarios() {
		assert.Equal(t, s.Waiting == "", len(s.Cells) > 0, s.ID)
		assert.Equal(t, s.Waiting == "", stories[s.ID] != "", s.ID)
		if s.Waiting == "" {
			assert.Len(t, regexp.MustCompile(`[.] [A-Z]`).Split(stories[s.ID], -1), 3, "%s: what happened, why, what to set", s.ID)
		}
		for _, v := range views[s.ID] {
			_, err := find(s.ID + "/" + v.cell)
			assert.NoError(t, err)
		}
		for _, c := range s.Cells {
			name := s.ID + "/" + c.Name
			assert.False(t, names[name], name)
			names[name] = true
			who := c.contenders(Everybody)
			assert.Equal(t, Best, who[0].Kind, name)
			assert.True(t, slices.ContainsFunc(who, func(k Contender) bool { return k.Name == c.ours() }), name)
			job, err := ParseJob(Job{Cell: name, Seed: 7, Who: Judged}.String())
			require.NoError(t, err)
			assert.Equal(t, Job{Cell: name, Seed: 7, Who: Judged}, job)
		}
	}
}

// All cells have their turn with one seed before the next, the longest first. Ours has all
// seeds in the cells where that was promised, and others have some.
func TestPlan(t *testing.T) {
	for _, plan := range []Plan{{Seeds: 30}, {Seeds: 3, Quick: true}, {Only: []string{"S4"}, Seeds: 10}} {
		seeds := make(map[string]int)
		jobs := plan.Jobs()
		for i, job := range jobs {
			seeds[job.Cell]++
			assert.Equal(t, seeds[job.Cell], int(job.Seed), job)
			assert.Positive(t, job.Cost, job)
			if i > 0 && jobs[i-1].Seed == job.Seed {
				assert.GreaterOrEqual(t, jobs[i-1].Cost, job.Cost, job)
			} else if i > 0 {
				assert.Equal(t, jobs[i-1].Seed+1, job.Seed, job)
			}
		}
		for cell, n := range seeds {
			if c, err := find(cell); c.Seeds > 0 {
				require.NoError(t, err)
				assert.Equal(t, min(c.Seeds, plan.Seeds), n, cell)
				id, _, _ := strings.Cut(cell, "/")
				assert.NotContains(t, []string{"S0", "S1", "S4", "S6", "S9"}, id)
			} else {
				assert.Equal(t, plan.Seeds, n, cell)
			}
		}
	}
	who := make(map[Who]int)
	for _, job := range (Plan{Only: []string{"S4/p=0.1"}, Seeds: 30}).Jobs() {
		who[job.Who]++
	}
	assert.Equal(t, map[Who]int{Everybody: othersSeeds, OursAlone: 30 - othersSeeds}, who)
	assert.Equal(t, Judged, Plan{Quick: true, Seeds: 2}.Jobs()[0].Who)
}
