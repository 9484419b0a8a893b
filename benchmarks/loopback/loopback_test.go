package loopback

import (
	"bytes"
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mettle-go/mettle/benchmarks/scorecard"
)

func TestMain(m *testing.M) {
	Child()
	os.Exit(m.Run())
}

// short is a round of a cell that is over in a second or two. What is waited for is long
// enough for a busy machine.
func short(t *testing.T, cell string, who ...string) Round {
	t.Helper()
	rounds := Plan{Quick: true, Only: []string{cell}, Seeds: 1}.Rounds()
	require.Len(t, rounds, 1)
	r := rounds[0]
	r.who, r.Rate, r.Deadline, r.Attempt = who, 40, 20*time.Second, 10*time.Second
	return r
}

// Real processes make real calls: what clients count as sent is what servers count as
// seen, all of it is answered when nothing is wrong, and nobody is left afterwards.
func TestWhatIsCountedIsServed(t *testing.T) {
	for _, proto := range []string{overHTTP, overGRPC} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			r := short(t, "S4/p=0.3/proto="+proto, "mettle", "gobreaker")
			r.Fail, r.From, r.To, r.Until = 0, 0, time.Second, time.Second
			var set []*ensemble
			for _, name := range r.who {
				e := &ensemble{World: r.World, contender: name}
				set = append(set, e)
				require.NoError(t, e.prepare(t.Context()))
			}
			for _, e := range set {
				require.NoError(t, e.live(t.Context(), beginning{time.Now()}))
				require.NoError(t, e.end(t.Context()))
				assert.NotEmpty(t, e.report.Requests)
				assert.Len(t, e.report.Sent, e.served.Seen)
				assert.GreaterOrEqual(t, e.served.Seen, len(e.report.Requests))
				for _, q := range e.report.Requests {
					assert.True(t, q.OK && q.Took > 0, "%+v", q)
				}
				assertGone(t, e)
				assert.Positive(t, e.busy)
			}
			assert.Equal(t, set[0].report.Requests[0].At, set[1].report.Requests[0].At, "not the same arrivals")
		})
	}
}

// assertGone asserts that no process of e is left.
func assertGone(t *testing.T, e *ensemble) {
	t.Helper()
	for _, p := range []*process{e.server, e.client} {
		if runtime.GOOS != "windows" {
			assert.ErrorIs(t, p.Process.Signal(syscall.Signal(0)), os.ErrProcessDone, p.role)
		}
		assert.NotNil(t, p.ProcessState, p.role)
	}
}

// In an outage, calls fail as long as it lasts, at once or when their time is up, and
// succeed again after it.
func TestOutage(t *testing.T) {
	for _, cell := range []string{"S1/how=fast/proto=http", "S1/how=hang/proto=http", "S1/how=fast/proto=grpc", "S1/how=hang/proto=grpc"} {
		t.Run(cell, func(t *testing.T) {
			t.Parallel()
			r := short(t, cell, "timeout")
			r.From, r.To, r.Until, r.Deadline = 200*time.Millisecond, 2200*time.Millisecond, 3200*time.Millisecond, time.Second
			results, err := r.Do(t.Context())
			require.NoError(t, err)
			require.Len(t, results, 1)
			m := results[0].Measures
			// Not all: net/http sends a request again by itself whose connection has broken,
			// which helps the last that came, and a busy machine takes its time to connect again.
			assert.Less(t, m[During], 0.75)
			assert.Greater(t, m[After], 0.2)
			assert.InDelta(t, 1, m[Amplified], 0.15)
			assert.Less(t, m[Arrived], 1.0)
		})
	}
}

// A third of the attempts fails, and a retry makes more of them.
func TestPartOfAllFails(t *testing.T) {
	r := short(t, "S4/p=0.3/proto=http", "none", "naive")
	r.From, r.To, r.Until = 0, time.Second, time.Second
	results, err := r.Do(t.Context())
	require.NoError(t, err)
	none, naive := results[0].Measures, results[1].Measures
	assert.InDelta(t, 0.7, none[During], 0.25)
	assert.InDelta(t, none[During]/0.7, none[Possible], 1e-9)
	assert.Greater(t, naive[Amplified], 1.1)
	assert.Greater(t, naive[Arrived], none[Arrived])
}

// An interrupted round leaves nothing behind either, and says that it was interrupted.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(600*time.Millisecond, cancel)
	before := runtime.NumGoroutine()
	results, err := short(t, "S1/how=hang/proto=http", "mettle", "none").Do(ctx)
	assert.ErrorIs(t, err, context.Canceled)
	assert.Empty(t, results)
	for range 200 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}

// A process ends when nobody speaks to it any more, as when the one that has started it
// is killed.
func TestNobodySpeaks(t *testing.T) {
	r := short(t, "S1/how=hang/proto=http", "none")
	for _, told := range []int{0, 1, 2} {
		for _, role := range []string{serverRole, clientRole} {
			p, err := start(t.Context(), role)
			require.NoError(t, err)
			if told > 0 {
				if role == serverRole {
					require.NoError(t, errors.Join(p.tell(r.World), p.hear(&address{})))
				} else {
					require.NoError(t, errors.Join(p.tell(order{r.World, "none", "127.0.0.1:1"}), p.hear(&ready{})))
				}
			}
			if told > 1 {
				require.NoError(t, p.tell(beginning{time.Now()}))
			}
			_, err = p.end()
			assert.Equal(t, role == serverRole && told > 1, err == nil, "%s: %v", role, err)
			assert.NotNil(t, p.ProcessState)
		}
	}
}

// A child that cannot do what it is told says why.
func TestChildSaysWhy(t *testing.T) {
	r := short(t, "S4/p=0.3/proto=http", "nobody")
	_, err := r.Do(t.Context())
	assert.ErrorContains(t, err, `there is no contender "nobody"`)
}

// Cells have names of their own, and each contender speaks the protocols of its cells.
func TestCells(t *testing.T) {
	names := make(map[string]bool)
	var total time.Duration
	for _, r := range (Plan{Seeds: FullSeeds}).Rounds() {
		total += r.Lasts()
	}
	assert.Less(t, total, 8*time.Minute)
	for _, c := range cells(false) {
		assert.False(t, names[c.Name], c.Name)
		names[c.Name] = true
		assert.Contains(t, c.who, "timeout")
		for _, name := range c.who {
			k, ok := find(name)
			assert.True(t, ok && k.speaks(c.Proto), "%s %s", c.Name, name)
		}
	}
	assert.Len(t, Plan{Only: []string{"S1/how=fast"}, Seeds: 2}.Rounds(), 4)
	assert.Len(t, Plan{Only: []string{"S1/how=fast", "S4/p=0.3/proto=grpc"}}.Twins(), 2*twinSeeds)
	assert.NoError(t, Plan{Only: []string{"S11", "S4/p=0.3/proto=grpc"}}.Check())
	assert.Error(t, Plan{Only: []string{"S4/p=0.3/proto=simulated"}}.Check())
	assert.ErrorContains(t, Plan{Only: []string{"S5"}}.Check(), `"S5" is not run over loopback`)
}

// requests are due once in 10 ms, and good if of says so.
func requests(until time.Duration, of func(at time.Duration) bool) (all []Request) {
	for at := time.Duration(0); at < until; at += 10 * time.Millisecond {
		all = append(all, Request{At: at, Took: 20 * time.Millisecond, OK: of(at)})
	}
	return all
}

func TestMeasures(t *testing.T) {
	w := World{Deadline: 500 * time.Millisecond, From: time.Second, To: 2 * time.Second, Until: 8 * time.Second, Down: true}
	r := Report{Opens: 3, Requests: requests(w.Until, func(at time.Duration) bool {
		return at < w.From || at >= w.To+1500*time.Millisecond
	})}
	r.Requests[0].Took = w.Deadline + 1 // before the fault
	for range 350 {
		r.Sent = append(r.Sent, w.To)
	}
	m := measure(w, &r, 400)
	assert.Equal(t, 0.0, m[During])
	assert.Equal(t, 0.75, m[After])
	assert.Equal(t, 2.5, m[Lost])
	assert.Equal(t, 0.5, m[Amplified])
	assert.Equal(t, 0.5, m[Arrived])
	assert.InDelta(t, 1.5, m[Recover], 1e-9) // 0.95 of the second that begins 1.5 s after it
	assert.Equal(t, 3.0, m[Opens])
	assert.Equal(t, 0.02, m[P99])

	for i := range r.Requests {
		r.Requests[i].OK = r.Requests[i].OK && i%10 > 0
	}
	assert.Equal(t, never, measure(w, &r, 0)[Recover])

	assert.True(t, w.good(Request{Took: w.Deadline, OK: true}))
	assert.False(t, w.good(Request{Took: w.Deadline + 1, OK: true}))
	assert.False(t, w.good(Request{Took: -1, OK: true}))
	assert.False(t, w.good(Request{Took: 1}))
}

func TestBeside(t *testing.T) {
	results := []Result{
		{Contender: "timeout", Measures: Measures{P999: 0.15, Extra: 0}},
		{Contender: "mettle-hedge", Measures: Measures{P999: 0.03, Extra: 0.05}},
	}
	beside(results)
	assert.Equal(t, 1.0, results[0].Measures[Cut])
	assert.Equal(t, 5.0, results[1].Measures[Cut])
}

// What is written is read again, and judged in the same way.
func TestData(t *testing.T) {
	var results []Result
	for seed := range uint64(3) {
		for name, lost := range map[string]float64{"mettle": 1.1, "gobreaker": 2.6, "go-zero": 2} {
			results = append(results, Result{
				Cell: "S1/how=hang/proto=grpc", Contender: name, Seed: 3 - seed,
				Measures: Measures{Lost: lost + 0.01*float64(seed), During: 0, After: 0.9, Recover: never, Late: 0.002, Machine: 0.4},
			})
			if seed == 1 { // in the others nothing was answered, so that there is no telling how long it took
				results[len(results)-1].Measures[P99] = 0.05
			}
		}
	}
	d := Collect([][2]string{{"command", "none: at all"}, {"seeds", "3"}}, results)
	var text bytes.Buffer
	require.NoError(t, d.Write(&text))
	again, err := Read(bytes.NewReader(text.Bytes()))
	require.NoError(t, err)
	assert.Equal(t, d, again)

	page := again.Markdown()
	for _, want := range []string{
		"`none: at all`", "busy for 40 %", "within 2 ms of when they were due.\n",
		"| mettle | 1.11 ± 0.01 (1) |\n",
		"| gobreaker | 2.61 ± 0.01 (3) |\n",
		"| mettle | 0 | 0.9 | 1.11 ± 0.01 | 0 | – |",
	} {
		assert.Contains(t, page, want)
	}
	simulate := func(name string, lost float64) {
		again.add("S1/how=hang/proto=simulated", name, Lost, lost)
	}
	simulate("mettle", 1.2)
	simulate("gobreaker", 3)
	simulate("go-zero", 1.25)
	assert.Contains(t, again.Markdown(), "- gRPC: of 3 pairs, 2 differ in both, **all in the same order**.\n")
	simulate("go-zero", -0.25) // one time of two better than mettle, which tells nothing
	assert.Contains(t, again.Markdown(), "- gRPC: of 3 pairs, 2 differ in both, **all in the same order**.\n")
	again.Values[scorecard.Key{Cell: "S1/how=hang/proto=simulated", Contender: "go-zero", Measure: Lost}] = []float64{0.4, 0.6}
	page = again.Markdown()
	assert.Contains(t, page, "- gRPC: of 3 pairs, 3 differ in both, 2 in the same order. The other way round are: go-zero (better when simulated) and mettle.\n")
	assert.Contains(t, page, "| go-zero | 0.5 ± 0.1 (1) | 2.01 ± 0.01 (2) |\n")

	results[0].Measures[Late] = 0.021
	assert.Contains(t, Collect(nil, results).Markdown(), "**it was not idle enough")

	for _, bad := range []string{"BenchmarkS1/how=hang/proto=grpc/impl=mettle 1 2\n", "BenchmarkS1/impl=mettle 1 2 lost\n", "BenchmarkS4/p=0.3/proto=http/impl=mettle 1 two lost\n"} {
		_, err := Read(strings.NewReader(bad))
		assert.Error(t, err, bad)
	}
}
