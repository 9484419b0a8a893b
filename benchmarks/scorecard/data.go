package scorecard

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Result is what all contenders made of a cell with one seed.
type Result struct {
	Cell     string              // of which scenario, as in S4/p=0.3
	Seed     uint64              // from 1
	Measures map[string]Measures // by contender
	// Curves are goodput over time, by contender: answers in time in each second, by
	// the time at which the requests were meant to be sent. Few cells have them.
	Curves map[string][]float64 `json:",omitempty"`
}

// Stat is a measure over all seeds.
type Stat struct {
	Seeds int
	Mean  float64
	Half  float64 // of the width of the 95 % interval of the mean; 0 with one seed
}

// Key tells figures apart.
type Key struct{ Cell, Contender, Measure string }

// Data are the figures of a run of the scorecard.
type Data struct {
	Head  [][2]string // what is true of all of it, in order
	Stats map[Key]Stat
}

// Summarize makes figures of results, which may be incomplete. What several seeds gave
// does not depend on the order of the results.
func Summarize(head [][2]string, results []Result) *Data {
	results = slices.SortedFunc(slices.Values(results), func(a, b Result) int { return cmp.Compare(a.Seed, b.Seed) })
	values := make(map[Key][]float64)
	for _, r := range results {
		for contender, measures := range r.Measures {
			for name, v := range measures {
				k := Key{r.Cell, contender, name}
				values[k] = append(values[k], v)
			}
			for i, v := range r.Curves[contender] {
				k := Key{r.Cell, contender, curve(i)}
				values[k] = append(values[k], v)
			}
		}
	}
	d := &Data{Head: head, Stats: make(map[Key]Stat)}
	for k, v := range values {
		d.Stats[k] = summary(v)
	}
	return d
}

// curve names the measure that is the point of a curve in second i.
func curve(i int) string { return fmt.Sprintf("@%03d", i) }

// Curve returns the curve of a contender, nil if there is none.
func (d *Data) Curve(cell, contender string) (points []float64) {
	for i := 0; ; i++ {
		s, ok := d.Stats[Key{cell, contender, curve(i)}]
		if !ok {
			return points
		}
		points = append(points, s.Mean)
	}
}

// Contenders returns the names of those who have figures, in the order of the tables.
func (d *Data) Contenders() (names []string) {
	have := make(map[string]bool)
	for k := range d.Stats {
		have[k.Contender] = true
	}
	return slices.SortedFunc(maps.Keys(have), func(a, b string) int {
		return cmp.Or(cmp.Compare(place(a), place(b)), cmp.Compare(a, b))
	})
}

// Cells returns the cells that have figures, in the order of the scenarios.
func (d *Data) Cells() (cells []string) {
	have := make(map[string]bool)
	for k := range d.Stats {
		have[k.Cell] = true
	}
	for _, s := range Scenarios() {
		for _, c := range s.Cells {
			if name := s.ID + "/" + c.Name; have[name] {
				cells = append(cells, name)
			}
		}
	}
	return cells
}

func summary(values []float64) Stat {
	n := float64(len(values))
	mean, squares := 0.0, 0.0
	for _, v := range values {
		mean += v / n
	}
	for _, v := range values {
		squares += (v - mean) * (v - mean)
	}
	s := Stat{Seeds: len(values), Mean: mean}
	if n > 1 {
		s.Half = student(len(values)-1) * math.Sqrt(squares/(n-1)/n)
	}
	return s
}

// student returns the 0.975 quantile of Student's distribution.
func student(freedom int) float64 {
	table := []float64{12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
		2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
		2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042}
	if freedom <= len(table) {
		return table[freedom-1]
	}
	return 1.96 + 2.4/float64(freedom) // within 0.2 % from there on
}

// Write writes d as text that Read reads and benchstat can read: the Go benchmark
// format, the number of seeds in the place of that of the iterations. After each measure
// comes half the width of its interval.
func (d *Data) Write(w io.Writer) error {
	out := bufio.NewWriter(w)
	for _, line := range d.Head {
		fmt.Fprintf(out, "%s: %s\n", line[0], line[1])
	}
	type row struct{ cell, contender string }
	rows := make(map[row][]string)
	for k := range d.Stats {
		r := row{k.Cell, k.Contender}
		rows[r] = append(rows[r], k.Measure)
	}
	for _, cell := range d.Cells() {
		for _, c := range slices.SortedFunc(maps.Keys(rows), func(a, b row) int {
			return cmp.Or(cmp.Compare(place(a.contender), place(b.contender)), cmp.Compare(a.contender, b.contender))
		}) {
			if c.cell != cell {
				continue
			}
			measures := slices.Sorted(slices.Values(rows[c]))
			fmt.Fprintf(out, "Benchmark%s/impl=%s %d", cell, c.contender, d.Stats[Key{cell, c.contender, measures[0]}].Seeds)
			for _, m := range measures {
				s := d.Stats[Key{cell, c.contender, m}]
				fmt.Fprintf(out, " %s %s %s %s±", short(s.Mean), m, short(s.Half), m)
			}
			fmt.Fprintln(out)
		}
	}
	return out.Flush()
}

func short(v float64) string { return strconv.FormatFloat(v, 'g', 5, 64) }

// place is where a contender stands in tables.
func place(name string) int {
	return slices.IndexFunc(Contenders(), func(c Contender) bool { return c.Name == name }) // -1, the first, for extra ones of ours
}

// Read reads what Write wrote.
func Read(r io.Reader) (*Data, error) {
	d := &Data{Stats: make(map[Key]Stat)}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		name, ok := strings.CutPrefix(line, "Benchmark")
		if !ok {
			if key, value, ok := strings.Cut(line, ": "); ok {
				d.Head = append(d.Head, [2]string{key, value})
			}
			continue
		}
		if err := d.readRow(strings.Fields(name)); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	return d, lines.Err()
}

func (d *Data) readRow(fields []string) error {
	if len(fields) < 2 || len(fields)%4 != 2 {
		return fmt.Errorf("%d fields, must be a name, a number and groups of four", len(fields))
	}
	cell, contender, ok := strings.Cut(fields[0], "/impl=")
	seeds, err := strconv.Atoi(fields[1])
	if !ok || err != nil {
		return fmt.Errorf("%q %q is no name with impl= and a number of seeds", fields[0], fields[1])
	}
	for f := fields[2:]; len(f) > 0; f = f[4:] {
		mean, err1 := strconv.ParseFloat(f[0], 64)
		half, err2 := strconv.ParseFloat(f[2], 64)
		if err1 != nil || err2 != nil {
			return fmt.Errorf("%q is no figure", f[:4])
		}
		d.Stats[Key{cell, contender, f[1]}] = Stat{seeds, mean, half}
	}
	return nil
}
