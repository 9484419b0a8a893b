package breaker_test

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
)

type tenantKey struct{}

func tenant(ctx context.Context) string { s, _ := ctx.Value(tenantKey{}).(string); return s }

func as(name string) context.Context { return context.WithValue(ctx, tenantKey{}, name) }

// Each key has a breaker of its own: one that opens does not stop the others.
//
// Spec: B29, W17
func TestGroupKeepsKeysApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := breaker.NewGroup[string](breaker.GroupConfig{Config: breaker.Config{Name: "api", Consecutive: 2}})
		for name, p := range map[string]mettle.Policy{"alone": g.By(tenant), "composed": mettle.Compose(g.By(tenant), mettle.Compose())} {
			bad, good := as(name+" bad"), as(name+" good")
			_ = p.Do(bad, fail)
			_ = p.Do(bad, fail)
			if err := p.Do(bad, succeed); err == nil || !strings.Contains(err.Error(), `"api[`+name+` bad]" is open`) {
				t.Errorf("the bad key is answered %v", err)
			}
			if err := p.Do(good, succeed); err != nil {
				t.Errorf("the good key is refused: %v", err)
			}
			done, cancel := context.WithCancel(good)
			cancel()
			if err := p.Do(done, fail); err != context.Canceled {
				t.Errorf("a done context is answered %v", err)
			}
		}
		states := map[breaker.State]int{}
		for key, b := range g.All() {
			if b != g.Get(key) {
				t.Errorf("another breaker for %q", key)
			}
			states[b.State()]++
		}
		if states[breaker.Open] != 2 || states[breaker.Closed] != 2 || g.Len() != 4 {
			t.Errorf("states are %v of %d keys", states, g.Len())
		}
	})
}

// Whatever keys come, the group stays within its bound, and keeps what is open.
//
// Spec: B29
func TestGroupIsBounded(t *testing.T) {
	const bound = 2_000 // the campaign in tests has more keys, and time
	g := breaker.NewGroup[int](breaker.GroupConfig{MaxKeys: bound})
	open := g.Get(-1)
	open.Trip("test")
	fill := func(from, n int) {
		for i := range n {
			calls(g.Get(from+i), 1, nil)
		}
	}
	size := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	fill(0, 2*bound)
	before := size()
	fill(2*bound, 20_000)
	if after := size(); after > before+before/4+1<<20 {
		t.Errorf("memory grew from %d to %d bytes", before, after)
	}
	if n := g.Len(); n > bound || n < bound/2 {
		t.Errorf("the group holds %d keys under a bound of %d", n, bound)
	}
	if g.Get(-1) != open {
		t.Error("an open breaker was let go")
	}
}

// A key in use stays while others come and go, and so does one that failed lately.
//
// Spec: B29
func TestGroupKeepsWhatIsUsed(t *testing.T) {
	g := breaker.NewGroup[string](breaker.GroupConfig{MaxKeys: 8})
	used, failing := g.Get("used"), g.Get("failing")
	calls(failing, 1, errDown)
	for i := range 1000 {
		g.Get(fmt.Sprint("passer-by ", i))
		if g.Get("used") != used {
			t.Fatalf("a key in use was let go after %d others", i)
		}
	}
	for i := range 3 {
		g.Get(fmt.Sprint("late ", i))
	}
	if g.Get("failing") != failing {
		t.Error("a key that failed lately was let go, and not one that is well")
	}
	if g.Len() > 8 {
		t.Errorf("the group holds %d keys", g.Len())
	}
}

// When no breaker may be let go, a new key gets one that is not kept, and works.
//
// Spec: B29
func TestGroupFullOfOpenBreakers(t *testing.T) {
	g := breaker.NewGroup[int](breaker.GroupConfig{MaxKeys: 4})
	for i := range 4 {
		g.Get(i).Trip("test")
	}
	if got := calls(g.Get(99), 1, nil); got != 1 {
		t.Error("a new key was refused")
	}
	if g.Len() != 4 {
		t.Errorf("the group holds %d keys", g.Len())
	}
	seen := map[string]float64{}
	g.Observe(func(m mettle.Metric) bool { seen[fmt.Sprint(m.Name, m.Labels)] = m.Value; return true })
	if seen["mettle.breaker.group.keys[{policy } {state open}]"] != 4 || seen["mettle.breaker.group.untracked[{policy }]"] != 1 {
		t.Errorf("observed %v", seen)
	}
}

// Many goroutines that ask for one key get one breaker.
//
// Spec: P11
func TestGroupConcurrently(t *testing.T) {
	g := breaker.NewGroup[int](breaker.GroupConfig{})
	for round := range 200 {
		got := make([]*breaker.Breaker, 8)
		var wg sync.WaitGroup
		for i := range got {
			wg.Go(func() { got[i] = g.Get(round) })
		}
		wg.Wait()
		for _, b := range got {
			if b != got[0] {
				t.Fatal("two breakers for one key")
			}
		}
	}
}

// A key function that panics does so before anything is held.
//
// Spec: P6
func TestGroupKeyPanics(t *testing.T) {
	g := breaker.NewGroup[string](breaker.GroupConfig{})
	p := g.By(func(context.Context) string { panic("no key") })
	func() {
		defer func() {
			if r := recover(); r != "no key" {
				t.Errorf("recovered %v", r)
			}
		}()
		_ = p.Do(ctx, succeed)
	}()
	if g.Len() != 0 {
		t.Error("a breaker was made")
	}
}

// Finding a known key allocates nothing.
//
// Spec: P13
func TestGroupAllocations(t *testing.T) {
	g := breaker.NewGroup[string](breaker.GroupConfig{})
	g.Get("host")
	if n := testing.AllocsPerRun(1000, func() { g.Get("host") }); n != 0 {
		t.Errorf("Get allocates %v times", n)
	}
}

// Spec: P10
func TestGroupValidate(t *testing.T) {
	for _, breadth := range []float64{1.5, math.NaN(), math.Inf(1), math.Inf(-1)} {
		err := breaker.GroupConfig{MaxKeys: -1, MinKeys: -2, Breadth: breadth, Config: breaker.Config{Probes: -1, Window: 1}}.Validate()
		if err == nil {
			t.Fatalf("a Breadth of %v is accepted", breadth)
		}
		for _, want := range []string{
			"Window is 1ns, must be at least 16ms, or zero for the default",
			"Probes is -1, must be positive, or zero for the default",
			"MaxKeys is -1, must be positive, or zero for the default",
			fmt.Sprintf("Breadth is %v, must be above 0 and at most 1, or zero or negative for no rule", breadth),
			"MinKeys is -2, must be positive, or zero for the default",
		} {
			if !slices.Contains(strings.Split(err.Error(), "\n"), "breaker: "+want) {
				t.Errorf("missing %q in\n%v", want, err)
			}
		}
	}
	for _, c := range []breaker.GroupConfig{{}, {Breadth: -1}, {Breadth: 1, MinKeys: 1, MaxKeys: 1}} {
		if err := c.Validate(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for name, f := range map[string]func(){
		"config": func() { breaker.NewGroup[int](breaker.GroupConfig{MaxKeys: -1}) },
		"key":    func() { breaker.NewGroup[int](breaker.GroupConfig{}).By(nil) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a bad %s did not panic", name)
				}
			}()
			f()
		}()
	}
}

// The group's counters are sums over its keys, and go on where a key was let go.
//
// Spec: B29, P12
func TestGroupObserve(t *testing.T) {
	g := breaker.NewGroup[int](breaker.GroupConfig{Config: breaker.Config{Name: "api"}, MaxKeys: 4, Breadth: 1})
	open := g.Get(-1)
	open.Trip("test")
	calls(open, 3, nil)
	const keys = 100
	for i := range keys {
		calls(g.Get(i), 2, nil)
	}
	seen := map[string]float64{}
	g.By(func(context.Context) int { return 0 }).(mettle.Observable).Observe(func(m mettle.Metric) bool {
		key := fmt.Sprint(m.Name, m.Labels)
		if _, dup := seen[key]; dup {
			t.Errorf("%s comes twice", key)
		}
		seen[key] = m.Value
		return true
	})
	for key, want := range map[string]float64{
		"mettle.breaker.calls[{policy api} {outcome success}]":                         2 * keys,
		"mettle.breaker.rejected[{policy api} {reason open}]":                          3,
		"mettle.breaker.transitions[{policy api} {from closed} {to open} {rule trip}]": 1,
		"mettle.breaker.group.keys[{policy api} {state open}]":                         1,
		"mettle.breaker.state[{policy api[*]} {state closed}]":                         1,
	} {
		if seen[key] != want {
			t.Errorf("%s is %v, want %v", key, seen[key], want)
		}
	}
	if n := seen["mettle.breaker.group.evicted[{policy api}]"]; n < keys-4 {
		t.Errorf("%v keys were let go, of %d", n, keys)
	}
}
