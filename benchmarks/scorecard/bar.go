package scorecard

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Bar is what a scenario must show of one contender: that a measure is within a limit in
// every cell that the bar is about.
type Bar struct {
	Text    string
	Measure string
	Limit   func(Cell) float64
	AtLeast bool            // the limit is a least value, not a most
	Cells   func(Cell) bool // which the bar is about; nil: all
}

// Verdict is what became of a bar in one cell.
type Verdict struct {
	Scenario, Cell string
	Bar            string
	Figure         Stat
	Limit          float64
	AtLeast        bool
	Peer           string // of a bar that compares: who is best
}

// Held reports whether the figure is within the limit.
func (v Verdict) Held() bool {
	if v.AtLeast {
		return v.Figure.Mean >= v.Limit
	}
	return v.Figure.Mean <= v.Limit
}

// Name tells the bar and the cell from all others.
func (v Verdict) Name() string { return v.Cell + ": " + v.Bar }

// gap is how far the figure is on the wrong side, in parts of the limit.
func (v Verdict) gap() float64 {
	gap := v.Figure.Mean - v.Limit
	if v.AtLeast {
		gap = -gap
	}
	return gap / max(math.Abs(v.Limit), 1e-9)
}

// Verdicts judges all bars on the figures that there are.
func (d *Data) Verdicts() (all []Verdict) {
	for _, s := range Scenarios() {
		for _, bar := range s.Bars {
			for _, c := range s.Cells {
				if bar.Cells != nil && !bar.Cells(c) {
					continue
				}
				cell := s.ID + "/" + c.Name
				if figure, ok := d.Stats[Key{cell, c.ours(), bar.Measure}]; ok {
					all = append(all, Verdict{Scenario: s.ID, Cell: cell, Bar: bar.Text, Figure: figure, Limit: bar.Limit(c), AtLeast: bar.AtLeast})
				}
			}
		}
		for _, c := range s.Cells {
			if v, ok := d.beside(s, c); ok {
				all = append(all, v)
			}
		}
	}
	return all
}

// Beside is the bar that every scenario has.
const Beside = "goodput beside the best peer without settings"

// beside compares goodput with that of the best peer as it comes, over the seeds that
// both have. What two runs with the same arrivals differ by within their common noise is
// no difference: the bar is at 0.995 of the peer's.
func (d *Data) beside(s Scenario, c Cell) (v Verdict, ok bool) {
	v = Verdict{Scenario: s.ID, Cell: s.ID + "/" + c.Name, Bar: Beside, Limit: 0.995, AtLeast: true}
	for _, k := range Contenders() {
		if ahead, has := d.Stats[Key{v.Cell, k.Name, Ahead}]; has && (!ok || ahead.Mean < v.Figure.Mean) {
			v.Figure, v.Peer, ok = ahead, k.Name, true
		}
	}
	return v, ok
}

// BesideTable returns how goodput compares with that of the best peer in every cell.
func (d *Data) BesideTable() string {
	var b strings.Builder
	b.WriteString("| cell | goodput | best peer | its goodput | ours over it | ± | |\n|---|--:|---|--:|--:|--:|---|\n")
	for _, s := range Scenarios() {
		for _, c := range s.Cells {
			v, ok := d.beside(s, c)
			if !ok {
				continue
			}
			verdict := "pass"
			if !v.Held() {
				verdict = "**fail**"
			}
			fmt.Fprintf(&b, "| %s | %.4g | %s | %.4g | %.4g | %.1g | %s |\n", v.Cell, d.Stats[Key{v.Cell, c.ours(), Goodput}].Mean,
				v.Peer, d.Stats[Key{v.Cell, v.Peer, Goodput}].Mean, v.Figure.Mean, v.Figure.Half, verdict)
		}
	}
	return b.String()
}

// Behind returns the scenarios in which a peer has more goodput in some cell.
func (d *Data) Behind() (ids []string) {
	for _, s := range Scenarios() {
		if slices.ContainsFunc(s.Cells, func(c Cell) bool {
			v, ok := d.beside(s, c)
			return ok && !v.Held()
		}) {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

// Missed returns the scenarios in which a bar of their own is missed in some cell.
func (d *Data) Missed() (ids []string) {
	for _, v := range d.Verdicts() {
		if v.Bar != Beside && !v.Held() {
			ids = append(ids, v.Scenario)
		}
	}
	return slices.Compact(ids)
}

// BarTable returns the table of bars: the worst cell of each.
func (d *Data) BarTable() string {
	type row struct {
		worst      Verdict
		held, all  int
		name, text string
	}
	var rows []*row
	byName := make(map[string]*row)
	for _, v := range d.Verdicts() {
		name := v.Scenario + v.Bar
		r := byName[name]
		if r == nil {
			r = &row{worst: v, name: v.Scenario, text: v.Bar}
			byName[name] = r
			rows = append(rows, r)
		}
		if v.gap() > r.worst.gap() {
			r.worst = v
		}
		r.all++
		if v.Held() {
			r.held++
		}
	}
	var b strings.Builder
	b.WriteString("| | bar | limit | worst | ± | where | cells within | |\n|---|---|--:|--:|--:|---|--:|---|\n")
	waiting := Scenarios()
	for len(waiting) > 0 || len(rows) > 0 {
		if len(waiting) > 0 && (len(rows) == 0 || rows[0].name != waiting[0].ID) {
			if s := waiting[0]; s.Waiting != "" {
				fmt.Fprintf(&b, "| %s | %s | – | – | – | – | – | waits for %s |\n", s.ID, s.Title, s.Waiting)
			}
			waiting = waiting[1:]
			continue
		}
		r := rows[0]
		rows = rows[1:]
		sign, verdict := "≤", "pass"
		if r.worst.AtLeast {
			sign = "≥"
		}
		if r.held < r.all {
			verdict = "**fail**"
		}
		where := strings.TrimPrefix(r.worst.Cell, r.name+"/")
		if r.worst.Peer != "" {
			where += ", " + r.worst.Peer
		}
		fmt.Fprintf(&b, "| %s | %s | %s %.4g | %.4g | %.2g | %s | %d of %d | %s |\n", r.name, r.text, sign,
			r.worst.Limit, r.worst.Figure.Mean, r.worst.Figure.Half, where, r.held, r.all, verdict)
	}
	return b.String()
}
