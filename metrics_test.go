package mettle_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/fallback"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// observables returns one of each thing that has metrics, used so that every metric and
// every value of its labels is there.
func observables() []mettle.Observable {
	b := breaker.New(breaker.Config{})
	b.Trip("test")
	b.Reset()
	b.ForceOpen(breaker.Override{})
	b.Release()
	g := breaker.NewGroup[int](breaker.GroupConfig{Breadth: 1, MinKeys: 1})
	g.Get(1).Trip("test")
	_ = g.By(func(context.Context) int { return 1 }).Do(context.Background(), func(context.Context) error { return nil })
	part := bulkhead.NewPartition(bulkhead.PartitionConfig{Pools: []bulkhead.PoolConfig{{Name: "all"}}})
	return []mettle.Observable{
		b, g, part,
		bulkhead.New(bulkhead.Config{}),
		fallback.New(fallback.Config{Run: func(_ context.Context, err error) error { return err }}),
		hedge.New(hedge.Config{}),
		retry.New(retry.Config{}),
		timeout.New(timeout.Config{}),
	}
}

// family is all that the metrics of one name have in common.
type family struct {
	mettle.Metric
	keys   []string
	values map[string][]string // of a label that is not the user's to name
}

func families(t *testing.T) map[string]*family {
	all := make(map[string]*family)
	for _, o := range observables() {
		for m := range o.Observe {
			f := all[m.Name]
			if f == nil {
				f = &family{Metric: m, values: make(map[string][]string)}
				all[m.Name] = f
			}
			if m.Kind != f.Kind || m.Unit != f.Unit || m.Help != f.Help {
				t.Errorf("%s is %v in %s, %q, and %v in %s, %q", m.Name, f.Kind, f.Unit, f.Help, m.Kind, m.Unit, m.Help)
			}
			keys := make([]string, len(m.Labels))
			for i, l := range m.Labels {
				keys[i] = l.Key
				if l.Key != "policy" && !slices.Contains(f.values[l.Key], l.Value) {
					f.values[l.Key] = append(f.values[l.Key], l.Value)
				}
			}
			if f.keys != nil && !slices.Equal(keys, f.keys) {
				t.Errorf("%s has the labels %v and %v, must always have the same", m.Name, f.keys, keys)
			}
			f.keys = keys
		}
	}
	return all
}

func (f *family) row() string {
	labels := make([]string, len(f.keys))
	for i, key := range f.keys {
		labels[i] = "`" + key + "`"
		if values := f.values[key]; len(values) > 0 {
			labels[i] += " (" + strings.Join(values, ", ") + ")"
		}
	}
	return fmt.Sprintf("| `%s` | %v | `%s` | %s | %s |", f.Name, f.Kind, f.Unit, strings.Join(labels, ", "), f.Help)
}

// docs/metrics.md lists every metric of every policy as the code yields it, and the
// code has no other names.
//
// Spec: O1 (part)
func TestMetricsTable(t *testing.T) {
	needRepository(t)
	all := families(t)
	rows := make([]string, 0, len(all))
	for _, f := range all {
		rows = append(rows, f.row())
	}
	slices.Sort(rows)
	const name, head = "docs/metrics.md", "|---|---|---|---|---|\n"
	old := read(t, name)
	before, rest, ok := strings.Cut(old, head)
	if !ok {
		t.Fatalf("%s has no table", name)
	}
	after := ""
	for line := range strings.Lines(rest) {
		if after != "" || !strings.HasPrefix(line, "| ") {
			after += line
		}
	}
	fresh := before + head + strings.Join(rows, "\n") + "\n" + after
	switch {
	case fresh == old:
	case *update:
		if err := os.WriteFile(name, []byte(fresh), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s and the code disagree; see go test . -run TestMetricsTable -update\n%s", name, firstDifference(old, fresh))
	}

	literal := regexp.MustCompile(`^mettle\.[a-z_]+\.[a-z_.]+$`)
	fset, sources := sources(t)
	for _, src := range sources {
		if src.test || !slices.Contains(leaves, src.dir) {
			continue
		}
		ast.Inspect(src.File, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if s, err := strconv.Unquote(lit.Value); err == nil && literal.MatchString(s) && all[s] == nil {
					t.Errorf("%s: %s is not yielded by anything in observables", fset.Position(lit.Pos()), s)
				}
			}
			return true
		})
	}
}

// What names a series comes from the policy's Name and from lists of ours: no error, key
// or request of a caller's makes a new one.
//
// Spec: O5
func TestSeriesAreBounded(t *testing.T) {
	g := breaker.NewGroup[string](breaker.GroupConfig{Config: breaker.Config{Name: "keys"}, Breadth: 1})
	key := ""
	p := mettle.Compose(
		fallback.New(fallback.Config{Run: func(_ context.Context, err error) error { return err }}),
		retry.New(retry.Config{Backoff: retry.Constant(0), MaxAttempts: 100, Budget: retry.NoBudget}),
		hedge.New(hedge.Config{After: time.Hour}),
		g.By(func(context.Context) string { return key }).(mettle.Wrapper),
		bulkhead.New(bulkhead.Config{}),
		timeout.New(timeout.Config{}),
	)
	series := func() (n int) {
		for m := range p.Observe {
			for _, l := range m.Labels {
				if l.Key == "policy" && l.Value != "" && l.Value != "keys" && l.Value != "keys[*]" {
					t.Fatalf("%s has the label %v", m.Name, l)
				}
			}
			n++
		}
		return n
	}
	before := series()
	for i := range 200 {
		key = "made up by a caller: " + strconv.Itoa(i)
		_ = p.Do(context.Background(), func(context.Context) error { return errors.New(key) })
	}
	// Of the changes of state, those that a caller can bring about are always there, but
	// for the one of the rule on Breadth.
	if after := series(); after > before+1 {
		t.Errorf("%d series after calls with 200 keys and errors, and %d before", after, before)
	}
}
