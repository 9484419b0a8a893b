package scorecard

import (
	"fmt"
	"time"

	"github.com/mettle-go/mettle/benchmarks/sim"
)

// Scenario is one kind of trouble.
type Scenario struct {
	ID    string
	Title string
	Cells []Cell
	Bars  []Bar
	// Waiting says what is missing for the scenario to be run. Empty: nothing.
	Waiting string
}

// Cell is a scenario with all its parameters.
type Cell struct {
	Name  string // parameters, as in for=30s/how=hang
	Quick bool   // belongs to the quick run as well
	// Seeds is how many there are at most, for cells that are long. Zero: no limit.
	Seeds int
	// Ours is the contender that the bars are about. Empty: mettle, without settings.
	Ours string
	// Extra are contenders besides the usual ones.
	Extra []Contender
	// Only are the names of the contenders that take part. Nil: the usual ones.
	Only  []string
	Curve bool // goodput over time is kept

	load    float64       // λ over capacity, where that says something to a bar
	p       float64       // that a call fails
	length  time.Duration // of the fault
	hang    bool
	setting setting
	measure func(t, best *trial) Measures
}

func (c Cell) ours() string {
	if c.Ours != "" {
		return c.Ours
	}
	return "mettle"
}

// at is a limit that is the same in all cells.
func at(limit float64) func(Cell) float64 { return func(Cell) float64 { return limit } }

// overload is what some scenarios wait for.
const overload = "overload control"

// Scenarios are all there are, in order.
func Scenarios() []Scenario {
	return []Scenario{
		steady(),
		outage(),
		{ID: "S3", Title: "a brownout without errors", Waiting: overload},
		partial(),
		{ID: "S10", Title: "a surge of requests", Waiting: overload},
		{ID: "S11", Title: "a slow tail, and hedges", Waiting: "hedging"},
		{ID: "S14", Title: "classes of requests in an overload", Waiting: overload},
		{ID: "S15", Title: "a capacity that changes", Waiting: overload},
	}
}

// steady is S0: nothing happens, or nothing worth opening for.
func steady() Scenario {
	s := Scenario{ID: "S0", Title: "a steady hour"}
	const span = 2 * time.Minute
	for _, load := range []float64{0.5, 0.7, 0.9} {
		for _, p := range []float64{0, 0.001, 0.01, 0.05} {
			server := sim.NewPlant()
			server.Fail = sim.Constant(p)
			s.Cells = append(s.Cells, Cell{
				Name:  fmt.Sprintf("load=%g/p=%g", load, p),
				Quick: load == 0.9, load: load, p: p,
				setting: setting{rate: sim.Constant(load * capacity), until: span, server: server},
				measure: func(t, best *trial) Measures { return t.whole(best, 0, t.until) },
			})
		}
	}
	s.Bars = []Bar{
		{Text: "openings", Measure: Opens, Limit: at(0)},
		{Text: "share refused at p ≤ 1 %", Measure: Refusals, Limit: at(1e-6), Cells: func(c Cell) bool { return c.p <= 0.01 }},
	}
	return s
}

// outage is S1: the server is gone for a while.
func outage() Scenario {
	s := Scenario{ID: "S1", Title: "an outage, and after it"}
	for _, length := range []time.Duration{200 * time.Millisecond, time.Second, 5 * time.Second, 30 * time.Second} {
		for _, hang := range []bool{false, true} {
			for _, clients := range []int{1, 10, 100, 1000} {
				if clients != 10 && length != 30*time.Second {
					continue
				}
				server := sim.NewPlant()
				server.Down = []sim.Outage{{At: warmup, For: length, Hang: hang}}
				s.Cells = append(s.Cells, Cell{
					Name:  fmt.Sprintf("for=%v/how=%s/clients=%d", length, how(hang), clients),
					Quick: clients == 10, length: length, hang: hang,
					Curve: clients == 10 && length == 30*time.Second,
					setting: setting{
						rate: sim.Constant(0.8 * capacity), clients: clients, server: server,
						from: warmup, to: warmup + length, until: warmup + length + aftermath,
					},
					measure: func(t, best *trial) Measures { return t.fault(best) },
				})
			}
		}
	}
	s.Bars = []Bar{
		{Text: "attempts over requests", Measure: Amplified, Limit: at(1.1)},
		{Text: "requests lost over those during the outage", Measure: Lost, Limit: at(1.2)},
		{Text: "recovered, seconds after a short outage", Measure: Recover, Limit: at(1), Cells: func(c Cell) bool { return c.length < 30*time.Second }},
		{Text: "recovered, seconds after 30 s", Measure: Recover, Limit: at(2), Cells: func(c Cell) bool { return c.length == 30*time.Second }},
	}
	return s
}

func how(hang bool) string {
	if hang {
		return "hang"
	}
	return "fast"
}

// partial is S4: some requests fail, and the others do not.
func partial() Scenario {
	s := Scenario{ID: "S4", Title: "a part of all calls fails"}
	for _, p := range []float64{0.1, 0.3, 0.5, 0.9} {
		server := sim.NewPlant()
		server.Fail = sim.Pulse(0, p, warmup, time.Minute)
		s.Cells = append(s.Cells, Cell{
			Name:  fmt.Sprintf("p=%g", p),
			Quick: true, p: p,
			setting: setting{
				rate: sim.Constant(0.5 * capacity), server: server,
				from: warmup, to: warmup + time.Minute, until: warmup + 2*time.Minute,
			},
			measure: func(t, best *trial) Measures {
				m := t.whole(best, t.from, t.to)
				m[Possible] = m[Goodput] / (0.5 * capacity * (1 - p))
				m[Recover] = t.recovered(best)
				return m
			},
		})
	}
	s.Bars = []Bar{
		{Text: "goodput over λ(1-p)", Measure: Possible, Limit: at(0.98), AtLeast: true},
		{Text: "openings below the threshold of 0.5", Measure: Opens, Limit: at(0), Cells: func(c Cell) bool { return c.p < 0.5 }},
		{Text: "attempts over requests", Measure: Amplified, Limit: at(1.1)},
	}
	return s
}
