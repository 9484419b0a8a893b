package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/perf/benchfmt"
)

// figures are the results of all rounds.
type figures struct {
	config map[string]string // what is true of all
	keys   []key             // in the order in which they were measured first
	values map[key]map[string][]float64
}

// key tells benchmarks apart: the values of the pairs in their names.
type key struct {
	bench string // without Benchmark
	form  string // case=
	rule  string // rule=
	impl  string // impl=
	procs int    // GOMAXPROCS
}

// readFigures reads the Go benchmark format. The n-th result of a benchmark is that of
// the n-th round, and every benchmark has one in every round.
func readFigures(text string) (*figures, error) {
	f := &figures{config: make(map[string]string), values: make(map[key]map[string][]float64)}
	in := benchfmt.NewReader(strings.NewReader(text), "data")
	for in.Scan() {
		switch r := in.Result().(type) {
		case *benchfmt.SyntaxError:
			return nil, r
		case *benchfmt.Result:
			for _, c := range r.Config {
				f.config[c.Key] = string(c.Value)
			}
			f.add(r)
		}
	}
	if err := in.Err(); err != nil {
		return nil, err
	}
	rounds, err := strconv.Atoi(f.config["rounds"])
	if err != nil {
		return nil, fmt.Errorf("data: no number of rounds: %w", err)
	}
	for _, k := range f.keys {
		for unit, values := range f.values[k] {
			if len(values) != rounds {
				return nil, fmt.Errorf("data: %v: %d values of %s, must be one for each of %d rounds", k, len(values), unit, rounds)
			}
		}
	}
	return f, nil
}

func (f *figures) add(r *benchfmt.Result) {
	k := key{procs: 1}
	base, parts := r.Name.Parts()
	k.bench = string(base)
	for _, part := range parts {
		if procs, ok := strings.CutPrefix(string(part), "-"); ok {
			k.procs, _ = strconv.Atoi(procs)
			continue
		}
		name, value, _ := strings.Cut(strings.TrimPrefix(string(part), "/"), "=")
		switch name {
		case "case":
			k.form = value
		case "rule":
			k.rule = value
		case "impl":
			k.impl = value
		}
	}
	for _, v := range r.Values {
		value, unit := v.Value, v.Unit
		if v.OrigUnit != "" { // as it was printed: ns/op, not sec/op
			value, unit = v.OrigValue, v.OrigUnit
		}
		of := k
		if inTurn := strings.HasSuffix(k.bench, "InTurn"); inTurn {
			// One benchmark of all contenders, which reports a median for each.
			impl, ok := strings.CutSuffix(unit, "-ns")
			if !ok {
				continue
			}
			of.impl, unit = impl, "ns/op"
		}
		if f.values[of] == nil {
			f.values[of] = make(map[string][]float64)
			f.keys = append(f.keys, of)
		}
		f.values[of][unit] = append(f.values[of][unit], value)
	}
}

// quantity is one series of figures.
type quantity struct {
	key
	unit string
}

// of returns the figures of q, one for each round; nil if it was not measured.
func (f *figures) of(q quantity) []float64 { return f.values[q.key][q.unit] }

// ratios returns q divided by base, round by round: both were measured within seconds
// of each other, so that what else the machine did weighs on both.
func (f *figures) ratios(q, base quantity) []float64 {
	over, under := f.of(q), f.of(base)
	if over == nil || under == nil {
		return nil
	}
	ratios := make([]float64, len(over))
	for i := range over {
		ratios[i] = over[i] / under[i]
	}
	return ratios
}

// quantile returns the value below which the share p of values lies, between two of
// them if need be.
func quantile(values []float64, p float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	at := p * float64(len(sorted)-1)
	i := min(int(at), len(sorted)-1)
	next := min(i+1, len(sorted)-1)
	return sorted[i] + (at-float64(i))*(sorted[next]-sorted[i])
}

func median(values []float64) float64 { return quantile(values, 0.5) }
