package loopback

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/mettle-go/mettle/benchmarks/scorecard"
)

// Data are the figures of a run.
type Data struct {
	Head   [][2]string                 // what is true of all of it, in order
	Values map[scorecard.Key][]float64 // of all seeds
}

// Collect makes figures of results, which may be incomplete.
func Collect(head [][2]string, results []Result) *Data {
	d := &Data{Head: head, Values: make(map[scorecard.Key][]float64)}
	for _, r := range slices.SortedStableFunc(slices.Values(results), func(a, b Result) int { return cmp.Compare(a.Seed, b.Seed) }) {
		for name, v := range r.Measures {
			d.add(r.Cell, r.Contender, name, v)
		}
	}
	return d
}

func (d *Data) add(cell, contender, measure string, v float64) {
	k := scorecard.Key{Cell: cell, Contender: contender, Measure: measure}
	d.Values[k] = append(d.Values[k], v)
}

// stat is a measure over all seeds.
type stat struct{ median, low, high float64 }

// half is half the distance of the best and the worst.
func (s stat) half() float64 { return (s.high - s.low) / 2 }

// of returns the figure of a contender, false if there is none.
func (d *Data) of(cell, contender, measure string) (s stat, ok bool) {
	values := slices.Sorted(slices.Values(d.Values[scorecard.Key{Cell: cell, Contender: contender, Measure: measure}]))
	n := len(values)
	if n == 0 {
		return s, false
	}
	return stat{(values[(n-1)/2] + values[n/2]) / 2, values[0], values[n-1]}, true
}

// worst returns the highest value of a measure.
func (d *Data) worst(measure string) (most float64) {
	for k, values := range d.Values {
		if k.Measure == measure {
			most = max(most, slices.Max(values))
		}
	}
	return most
}

// Write writes d as text that Read reads and benchstat can read: the Go benchmark format,
// with a line for each seed. A measure that not every seed has, such as how long answers
// took where there were none, is in the first of the lines.
func (d *Data) Write(w io.Writer) error {
	out := bufio.NewWriter(w)
	for _, line := range d.Head {
		fmt.Fprintf(out, "%s: %s\n", line[0], line[1])
	}
	type row struct{ cell, contender string }
	measures := make(map[row][]string)
	for k := range d.Values {
		r := row{k.Cell, k.Contender}
		measures[r] = append(measures[r], k.Measure)
	}
	for _, r := range slices.SortedFunc(maps.Keys(measures), func(a, b row) int {
		return cmp.Or(cmp.Compare(place(a.cell), place(b.cell)), cmp.Compare(rank(a.contender), rank(b.contender)))
	}) {
		names := slices.Sorted(slices.Values(measures[r]))
		values := func(m string) []float64 {
			return d.Values[scorecard.Key{Cell: r.cell, Contender: r.contender, Measure: m}]
		}
		seeds := 0
		for _, m := range names {
			seeds = max(seeds, len(values(m)))
		}
		for i := range seeds {
			fmt.Fprintf(out, "Benchmark%s/impl=%s 1", r.cell, r.contender)
			for _, m := range names {
				if v := values(m); i < len(v) {
					fmt.Fprintf(out, " %s %s", strconv.FormatFloat(v[i], 'g', 5, 64), m)
				}
			}
			fmt.Fprintln(out)
		}
	}
	return out.Flush()
}

// place is where a cell stands in tables.
func place(cell string) int {
	return slices.IndexFunc(cells(false), func(c Cell) bool { return c.Name == cell })
}

// rank is where a contender does.
func rank(name string) int {
	return slices.IndexFunc(contenders(), func(k contender) bool { return k.Name == name })
}

// Read reads what Write wrote.
func Read(r io.Reader) (*Data, error) {
	d := &Data{Values: make(map[scorecard.Key][]float64)}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text, ok := strings.CutPrefix(lines.Text(), "Benchmark")
		if !ok {
			if key, value, ok := strings.Cut(text, ": "); ok {
				d.Head = append(d.Head, [2]string{key, value})
			}
			continue
		}
		fields := strings.Fields(text)
		if len(fields) < 4 || len(fields)%2 != 0 {
			return nil, fmt.Errorf("line %d: %d fields, must be a name, a number and pairs", n, len(fields))
		}
		cell, contender, ok := strings.Cut(fields[0], "/impl=")
		if !ok || place(cell) < 0 || rank(contender) < 0 {
			return nil, fmt.Errorf("line %d: %q is no cell with a contender", n, fields[0])
		}
		for f := fields[2:]; len(f) > 0; f = f[2:] {
			v, err := strconv.ParseFloat(f[0], 64)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			d.add(cell, contender, f[1], v)
		}
	}
	return d, lines.Err()
}
