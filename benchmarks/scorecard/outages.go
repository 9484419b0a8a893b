package scorecard

import (
	"fmt"
	"time"

	"github.com/mettle-go/mettle/benchmarks/sim"
)

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
				Quick: load == 0.9 && p == 0.01, load: load, p: p,
				Others: 2, Plain: load != 0.9 || p < 0.01, // an hour for ours, in all seeds
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
				others := 0
				if clients != 10 {
					others = 3
				}
				s.Cells = append(s.Cells, Cell{
					Name:  fmt.Sprintf("for=%v/how=%s/clients=%d", length, how(hang), clients),
					Quick: clients == 10, length: length, hang: hang,
					Others: others, Plain: clients != 10,
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

// longOutage is S2: the server is gone for ten minutes.
func longOutage() Scenario {
	const load, length = 400.0, 10 * time.Minute
	s := Scenario{ID: "S2", Title: "a long outage"}
	for _, hang := range []bool{false, true} {
		server := sim.NewPlant()
		server.Down = []sim.Outage{{At: warmup, For: length, Hang: hang}}
		s.Cells = append(s.Cells, Cell{
			Name:  "how=" + how(hang),
			Quick: hang, Seeds: 5, Others: 2, hang: hang,
			Only: append(breaking(), "timeout"),
			setting: setting{
				rate: sim.Constant(load), server: server,
				from: warmup, to: warmup + length, until: warmup + length + 20*time.Second,
			},
			measure: func(t, best *trial) Measures {
				m := t.fault(best)
				settled := t.from + 10*time.Second
				m[Probes] = float64(sim.Sum(t.Sent, settled, t.to)) / (t.to - settled).Seconds() / float64(t.clients)
				return m
			},
		})
	}
	s.Bars = []Bar{
		{Text: "detected, seconds for 5 calls and a timeout", Measure: Detect, Limit: at(5/(load/10) + attempt.Seconds())},
		{Text: "attempts in a second and per client, while it lasts", Measure: Probes, Limit: at(1)},
		{Text: "recovered, seconds after it", Measure: Recover, Limit: at(3)},
	}
	return s
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
		{Text: belowThreshold, Measure: Opens, Limit: at(0), Cells: func(c Cell) bool { return c.p < threshold }},
		{Text: "attempts over requests", Measure: Amplified, Limit: at(1.1)},
	}
	return s
}

// threshold is the share of failures at which a breaker without settings says that it
// opens. Below it, it should not.
const (
	threshold      = 0.8
	belowThreshold = "openings though fewer fail than its threshold, 0.8"
)
