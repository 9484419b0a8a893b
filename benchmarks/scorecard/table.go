package scorecard

import (
	"fmt"
	"slices"
	"strings"
)

// view is what the table of a scenario shows.
type view struct {
	cell     string
	measures []string
}

// views are the tables of the page, by scenario.
var views = map[string][]view{
	"S0":  {{"load=0.9/p=0.01", []string{Goodput, Share, Amplified, P50, P99, P999, Opens, Refusals}}},
	"S1":  {{"for=30s/how=hang/clients=10", []string{Goodput, Share, Lost, Amplified, Worst, Wasted, Detect, Recover}}, {"for=1s/how=fast/clients=10", []string{Goodput, Share, Lost, Amplified, Worst, Wasted, Detect, Recover}}},
	"S2":  {{"how=fast", []string{Share, Lost, Amplified, Probes, Detect, Recover}}, {"how=hang", []string{Share, Lost, Amplified, Probes, Detect, Recover}}},
	"S4":  {{"p=0.3", []string{Goodput, Possible, Share, Amplified, Wasted, P99, Opens}}, {"p=0.5", []string{Goodput, Possible, Share, Amplified, Wasted, P99, Opens}}},
	"S5":  {{"keys=known/how=hang", []string{Others, Share, Amplified}}, {"keys=unknown/how=hang", []string{Others, Share, Amplified}}},
	"S6":  {{"attempts=4", []string{Share, Lost, Amplified, Worst, Wasted, Recover}}},
	"S7":  {{"clients=10", []string{Width, Goodput, Share, Amplified}}},
	"S8":  {{"load=0.5/clients=1000", []string{Share, Lost, Peak, Again, Recover}}},
	"S9":  {{"clients=100", []string{Peak, Amplified, Share, Recover}}},
	"S11": {{"slow=1%/fan-out=1", []string{Cut, Extra, P50, P99, P999}}, {"slow=1%/fan-out=100", []string{Cut, Extra, P50, P99, P999}}, {"slow=all/fan-out=1", []string{Extra, P99}}},
	"S12": {{"bulkhead=default", []string{Errors, Goodput, Amplified, P99}}},
	"S13": {
		{"p=0.3/clients=10", []string{Hourly, Tripped, Refusals, Share, Amplified}},
		{"p=0.3/clients=1000", []string{Hourly, Tripped, Refusals, Share, Amplified}},
		{"p=0.9/clients=10", []string{Hourly, Tripped, Refusals, Share, Amplified}},
		{"p=0.9/clients=1000", []string{Hourly, Tripped, Refusals, Share, Amplified}},
	},
	"S16": {{"deadline=500ms", []string{Share, Wasted, Hopeless, Amplified, P99}}},
}

// Markdown returns what the page of results has of the scorecard: the chart that matters,
// the bars, how ours stands beside the peers, and then the scenarios one by one.
func (d *Data) Markdown() string {
	var b strings.Builder
	first := Curves()[0]
	fmt.Fprintf(&b, "![%s](charts/%s)\n\n", first.Title, first.File)
	command, revision := "", ""
	for _, line := range d.Head {
		switch line[0] {
		case "command":
			command = line[1]
		case "revision":
			revision = line[1]
		}
	}
	b.WriteString(wrapped(fmt.Sprintf("All figures and charts of the scorecard are made by `%s`, here at revision %s; "+
		"`-only S4` makes the figures of one scenario, in benchmarks/out. Figures are means over the seeds, ± is half the width of the 95 %% interval. "+
		"How many seeds ours and the oracle have, and after the stroke the others: %s.", command, revision, d.seeds())))
	b.WriteString("\n\n### Bars\n\n")
	b.WriteString(d.BarTable())
	explain(&b, d.Missed(), missed)
	b.WriteString("\n### Goodput beside the best peer, cell by cell\n\n")
	b.WriteString(d.BesideTable())
	explain(&b, d.Behind(), behind)
	b.WriteString("\n## Scenario by scenario\n")
	for _, s := range Scenarios() {
		if len(views[s.ID]) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n### %s: %s\n\n%s\n", s.ID, s.Title, wrapped(stories[s.ID]))
		for _, c := range Curves()[1:] {
			if strings.HasPrefix(c.Cell, s.ID+"/") {
				fmt.Fprintf(&b, "\n![%s](charts/%s)\n", c.Title, c.File)
			}
		}
		for _, c := range Plots() {
			if strings.HasPrefix(c.Cells[0], s.ID+"/") {
				fmt.Fprintf(&b, "\n![%s](charts/%s)\n", c.Title, c.File)
			}
		}
		for _, v := range views[s.ID] {
			b.WriteString(d.table(s, v))
		}
	}
	return b.String()
}

// explain adds a paragraph for each of the scenarios.
func explain(b *strings.Builder, ids []string, why map[string]string) {
	for _, id := range ids {
		fmt.Fprintf(b, "\n%s\n", wrapped("**"+id+".** "+why[id]))
	}
}

// seeds says how many seeds each scenario has, of ours and of the others, as in S1 30/4–8.
func (d *Data) seeds() string {
	var all []string
	for _, s := range Scenarios() {
		var own, others []int
		for _, c := range s.Cells {
			for k, stat := range d.Stats {
				switch {
				case k.Cell != s.ID+"/"+c.Name:
				case k.Contender == c.ours():
					own = append(own, stat.Seeds)
				case k.Contender != "oracle":
					others = append(others, stat.Seeds)
				}
			}
		}
		if len(own) > 0 && len(others) > 0 {
			all = append(all, fmt.Sprintf("%s %s/%s", s.ID, span(own), span(others)))
		}
	}
	return strings.Join(all, ", ")
}

// span says from where to where numbers go.
func span(n []int) string {
	low, high := slices.Min(n), slices.Max(n)
	if low == high {
		return fmt.Sprint(low)
	}
	return fmt.Sprintf("%d–%d", low, high)
}

// Takers says who takes part, and how each is set up.
func Takers() string {
	var b strings.Builder
	for _, k := range everybody() {
		fmt.Fprintf(&b, "%s\n", indented(wrapped(fmt.Sprintf("- **%s**: %s.", k.Name, k.What))))
	}
	return b.String()
}

func indented(lines string) string { return strings.ReplaceAll(lines, "\n", "\n  ") }

// everybody returns the contenders, and those that only some cells have.
func everybody() []Contender {
	all := Contenders()
	for _, s := range Scenarios() {
		for _, c := range s.Cells {
			for _, k := range c.Extra {
				if !slices.ContainsFunc(all, func(known Contender) bool { return known.Name == k.Name }) {
					all = append(all, k)
				}
			}
		}
	}
	return all
}

// wrapped breaks text into lines.
func wrapped(text string) string {
	var b strings.Builder
	column := 0
	for i, word := range strings.Fields(text) {
		switch {
		case i > 0 && column+len(word) > 108:
			b.WriteString("\n")
			column = 0
		case i > 0:
			b.WriteString(" ")
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}

// table returns the table of a cell, nothing if it has no figures.
func (d *Data) table(s Scenario, v view) string {
	cell := s.ID + "/" + v.cell
	if !slices.Contains(d.Cells(), cell) {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s:\n\n| |", strings.ReplaceAll(v.cell, "/", ", "))
	for _, m := range v.measures {
		fmt.Fprintf(&b, " %s |", m)
	}
	b.WriteString("\n|---|" + strings.Repeat("--:|", len(v.measures)) + "\n")
	for _, name := range d.Contenders() {
		if _, ok := d.Stats[Key{cell, name, v.measures[0]}]; !ok {
			continue
		}
		fmt.Fprintf(&b, "| %s |", name)
		for _, m := range v.measures {
			fmt.Fprintf(&b, " %s |", d.figure(Key{cell, name, m}))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// figure returns a figure with its interval, or a dash.
func (d *Data) figure(k Key) string {
	s, ok := d.Stats[k]
	switch {
	case !ok, k.Measure == Recover && s.Mean >= never:
		return "–"
	case s.Half == 0:
		return fmt.Sprintf("%.4g", s.Mean)
	default:
		return fmt.Sprintf("%.4g ± %.1g", s.Mean, s.Half)
	}
}
