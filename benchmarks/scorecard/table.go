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
	"S2":  {{"how=hang", []string{Share, Lost, Amplified, Probes, Detect, Recover}}},
	"S4":  {{"p=0.3", []string{Goodput, Possible, Share, Amplified, Wasted, P99, Opens}}, {"p=0.5", []string{Goodput, Possible, Share, Amplified, Wasted, P99, Opens}}},
	"S5":  {{"keys=known/how=hang", []string{Others, Share, Amplified}}, {"keys=unknown/how=hang", []string{Others, Share, Amplified}}},
	"S6":  {{"attempts=4", []string{Share, Lost, Amplified, Worst, Wasted, Recover}}},
	"S7":  {{"clients=10", []string{Width, Goodput, Share, Amplified}}},
	"S8":  {{"load=0.5/clients=1000", []string{Share, Lost, Peak, Again, Recover}}},
	"S9":  {{"clients=100", []string{Peak, Amplified, Share, Recover}}},
	"S12": {{"bulkhead=default", []string{Errors, Goodput, Amplified, P99}}},
	"S13": {{"p=0.3/clients=1000", []string{Share, Amplified, Opens, Wasted}}},
	"S16": {{"deadline=500ms", []string{Share, Wasted, Hopeless, Amplified, P99}}},
}

// Markdown returns the tables of the page of results.
func (d *Data) Markdown() string {
	var b strings.Builder
	for _, line := range d.Head {
		if line[0] == "command" {
			fmt.Fprintf(&b, "Figures by `%s`.\n\n", line[1])
		}
	}
	b.WriteString(d.BarTable())
	for _, s := range Scenarios() {
		for _, v := range views[s.ID] {
			b.WriteString(d.table(s, v))
		}
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
	fmt.Fprintf(&b, "\n**%s: %s** (%s)\n\n| |", s.ID, s.Title, strings.ReplaceAll(v.cell, "/", ", "))
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
