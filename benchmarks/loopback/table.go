package loopback

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// verdict says how cells are held against their twin.
type verdict struct {
	cells   string // what their names begin with
	title   string
	measure string
	low     bool    // is better
	tie     float64 // what differs by less is the same, as far as can be told
	text    string  // what the columns show
	note    string  // why the world differs, where it is known to
}

var verdicts = []verdict{
	{
		"S1/how=fast", "S1: an outage in which calls fail at once", Lost, true, 0.1, "requests lost over those during the outage",
		"Over gRPC, failsafe-go's retry policy takes a refusal by its own throttler for the end, after which it makes another attempt over HTTP and in the simulation. " +
			"Simulated like that, it loses 1.8 here, 1.6 where calls hang, and has 1.1 in S4. Whoever resends without a budget stays down after an outage or recovers by chance: hence the width of naive and jitter.",
	},
	{
		"S1/how=hang", "S1: an outage in which calls hang", Lost, true, 0.1, "requests lost over those during the outage",
		"What is said above of failsafe-go's throttler, and of chance, holds here too.",
	},
	{
		"S4/p=0.3", "S4: three in ten attempts fail", Possible, false, 0.03, "goodput over λ(1-p)",
		"gobreaker opens after six failures in a row, which come once in 2000 calls, and then for a minute: in ten seconds they come to some of three clients or to none, by chance.",
	},
	{
		"S11/slow=1%", "S11: one answer in a hundred takes ten times as long", Cut, false, 0.5, "p99.9 without hedges over that with them",
		"A call takes its own time besides that of the answer, and so does a hedge. Less is to be gained than when simulated, where calls take none.",
	},
}

// views are the measures that the table of a cell has.
var views = map[string][]string{
	"S1":  {During, After, Lost, Amplified, Recover, Opens, P99},
	"S4":  {During, Possible, Amplified, Opens, P50, P99},
	"S11": {Cut, Extra, P50, P99, P999},
}

// Markdown returns what the page of results has of d.
func (d *Data) Markdown() string {
	var b strings.Builder
	head := make(map[string]string)
	for _, line := range d.Head {
		head[line[0]] = line[1]
	}
	fmt.Fprintf(&b, "`%s`, at revision %s: medians over %s seeds, and over %d where it is simulated, ± half the distance of the best and the worst; %s on %s processors.\n",
		head["command"], head["revision"], head["seeds"], twinSeeds, head["toolchain"], head["processors"])
	late := d.worst(Late)
	b.WriteString("In the worst round ")
	if busy := d.worst(Machine); busy > 0 { // else it cannot be known here
		fmt.Fprintf(&b, "the machine was busy for %.0f %% of its time, and ", 100*busy)
	}
	fmt.Fprintf(&b, "99 %% of the requests were sent within %.2g ms of when they were due", 1000*late)
	if late > Quiet {
		fmt.Fprintf(&b, ":\n**it was not idle enough, and what is fine in these figures is chance** (it takes %.0f ms or less).\n", 1000*Quiet)
	} else {
		b.WriteString(".\n")
	}
	for _, v := range verdicts {
		b.WriteString(d.order(v))
	}
	for _, c := range cells(false) {
		b.WriteString(d.table(c))
	}
	b.WriteString("\n#### Who takes part\n\n")
	for _, k := range contenders() {
		fmt.Fprintf(&b, "- **%s**: %s.\n", k.Name, k.What)
	}
	return b.String()
}

// column is one order of the contenders.
type column struct {
	name   string
	values map[string]stat
}

// order compares what was simulated with what was measured.
func (d *Data) order(v verdict) string {
	var columns []column
	var who []string
	for _, c := range cells(false) {
		if !strings.HasPrefix(c.Name, v.cells+"/") {
			continue
		}
		col := column{c.Proto, make(map[string]stat)}
		for _, name := range c.who {
			if s, ok := d.of(c.Name, name, v.measure); ok {
				col.values[name] = s
				if !slices.Contains(who, name) {
					who = append(who, name)
				}
			}
		}
		if len(col.values) > 0 {
			columns = append(columns, col)
		}
	}
	if len(who) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n#### %s\n\nAs %s, and in brackets the place by that. It is shared by what differs by less than %g, or not with every seed.\n\n| |", v.title, v.text, v.tie)
	for _, c := range columns {
		fmt.Fprintf(&b, " %s |", protocols[c.name])
	}
	b.WriteString("\n|---|" + strings.Repeat("--:|", len(columns)) + "\n")
	slices.SortFunc(who, func(x, y string) int { return rank(x) - rank(y) })
	for _, name := range who {
		fmt.Fprintf(&b, "| %s |", name)
		for _, c := range columns {
			if s, ok := c.values[name]; ok {
				fmt.Fprintf(&b, " %s (%d) |", figure(s), c.place(name, v))
			} else {
				b.WriteString(" – |")
			}
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	for _, c := range columns[1:] {
		if columns[0].name == simulated {
			b.WriteString(agreement(columns[0], c, who, v))
		}
	}
	return b.String() + "\n" + v.note + "\n"
}

var protocols = map[string]string{simulated: "simulated", overHTTP: "HTTP/1.1", overGRPC: "gRPC"}

// better reports whether x has done better than y: with every seed better than y with
// any, and by more than a tie in the middle.
func (c column) better(x, y string, v verdict) bool {
	up, down := c.values[x], c.values[y]
	if v.low {
		up, down = down, up
	}
	return up.median-down.median > v.tie && up.low > down.high
}

// place returns one more than the number of those who have done better.
func (c column) place(name string, v verdict) int {
	n := 1
	for other := range c.values {
		if c.better(other, name, v) {
			n++
		}
	}
	return n
}

// agreement tells of how many pairs both tell who is better, and which they tell
// differently.
func agreement(twin, real column, who []string, v verdict) string {
	pairs, told := 0, 0
	var against []string
	for i, x := range who {
		for _, y := range who[i+1:] {
			_, ok := real.values[x]
			_, also := real.values[y]
			_, sx := twin.values[x]
			_, sy := twin.values[y]
			if !ok || !also || !sx || !sy {
				continue
			}
			pairs++
			sim, own := twin.sign(x, y, v), real.sign(x, y, v)
			if sim == 0 || own == 0 {
				continue
			}
			told++
			if sim != own {
				first, second := x, y
				if sim < 0 {
					first, second = y, x
				}
				against = append(against, fmt.Sprintf("%s (better when simulated) and %s", first, second))
			}
		}
	}
	if pairs == 0 {
		return ""
	}
	if len(against) == 0 {
		return fmt.Sprintf("- %s: of %d pairs, %d differ in both, **all in the same order**.\n", protocols[real.name], pairs, told)
	}
	return fmt.Sprintf("- %s: of %d pairs, %d differ in both, %d in the same order. The other way round are: %s.\n",
		protocols[real.name], pairs, told, told-len(against), strings.Join(against, "; "))
}

// sign returns 1 if x is better than y, -1 if y is, 0 if that cannot be told.
func (c column) sign(x, y string, v verdict) int {
	switch {
	case c.better(x, y, v):
		return 1
	case c.better(y, x, v):
		return -1
	}
	return 0
}

// table returns the table of a cell, nothing if it has no figures.
func (d *Data) table(c Cell) string {
	id, _, _ := strings.Cut(c.Name, "/")
	var b strings.Builder
	for _, name := range c.who {
		if _, ok := d.of(c.Name, name, views[id][0]); !ok {
			continue
		}
		if b.Len() == 0 {
			fmt.Fprintf(&b, "\n%s:\n\n| |", strings.ReplaceAll(c.Name, "/", ", "))
			for _, m := range views[id] {
				fmt.Fprintf(&b, " %s |", m)
			}
			b.WriteString("\n|---|" + strings.Repeat("--:|", len(views[id])) + "\n")
		}
		fmt.Fprintf(&b, "| %s |", name)
		for _, m := range views[id] {
			s, _ := d.of(c.Name, name, m)
			if m == Recover && s.median >= never || (m == P50 || m == P99 || m == P999) && s.median == 0 {
				b.WriteString(" – |")
			} else {
				fmt.Fprintf(&b, " %s |", figure(s))
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

// figure prints a median with half its range, as exactly as that allows.
func figure(s stat) string {
	text := fmt.Sprintf("%.3g", s.median)
	if math.Abs(s.median) < 1e-9 {
		text = "0"
	}
	if s.half() == 0 {
		return text
	}
	return fmt.Sprintf("%s ± %.1g", text, s.half())
}
