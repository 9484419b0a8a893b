package scorecard

import "time"

// Curve says what a chart of goodput over time shows.
type Curve struct {
	File, Title string
	Cell        string
	Contenders  []string
	Fault       string  // what is wrong, and from when to when
	From, To    float64 // seconds
	Until       float64
	Most        float64 // that is possible: the lesser of arrivals and capacity
}

// Dots says what a chart of one measure shows.
type Dots struct {
	File, Title string
	Measure     string
	Label       string // of the measure
	Cells       []string
	Names       []string // of the cells
	Limit       float64  // a bar; 0: none
	LimitName   string
	Least       float64 // makes the axis a logarithmic one that begins there; 0: a linear one from 0

	Bounds    []Bound
	BoundName string
	// Pauses draws for everybody half the mean pause between probes, the inverse of
	// this measure: how long it takes on average until one finds the server there.
	Pauses string
}

// Bound is what nobody can be beyond, whatever is done.
type Bound struct {
	At   float64
	Cell string // of which; empty: all
}

// resent returns the bound of goodput over λ(1-p) where failures have nothing to do with
// each other and a request is sent three times at most.
func resent(p float64) float64 { return (1 - p*p*p) / (1 - p) }

// soonest returns the bound of detection, in seconds: Wald's sequential test needs two
// failures to tell that a healthy server is gone, which have to come, and to fail.
func soonest(rate float64, fails time.Duration) float64 { return 2/rate + fails.Seconds() }

var beOracle = []Bound{{At: 1}}

// Curves are the charts over time. The first is the one that matters.
func Curves() []Curve {
	peers := []string{"mettle", "gobreaker", "failsafe", "failsafe-throttler", "go-zero", "aegis", "naive", "oracle"}
	return []Curve{
		{
			File: "outage.svg", Title: "An outage in which calls hang, and after it", Cell: "S1/for=30s/how=hang/clients=10",
			Contenders: peers, Fault: "outage", From: 10, To: 40, Until: 100, Most: 800,
		},
		{
			File: "layers.svg", Title: "Three layers that resend, above a stall of 2 s", Cell: "S6/attempts=4",
			Contenders: peers, Fault: "stall", From: 10, To: 12, Until: 72, Most: 800,
		},
	}
}

// Plots are the charts of one measure.
func Plots() []Dots {
	return []Dots{
		{
			File: "s0.svg", Title: "S0: a steady load of 0.9 C", Measure: Share, Label: "goodput over that of the oracle",
			Cells: []string{"S0/load=0.9/p=0", "S0/load=0.9/p=0.01", "S0/load=0.9/p=0.05"}, Names: []string{"p = 0", "p = 1 %", "p = 5 %"},
			Bounds: beOracle, BoundName: "all there is",
		},
		{
			File: "s1.svg", Title: "S1: an outage, by calls that fail at once", Measure: Lost, Label: "requests lost over those that came during the outage",
			Cells: []string{"S1/for=200ms/how=fast/clients=10", "S1/for=1s/how=fast/clients=10", "S1/for=5s/how=fast/clients=10", "S1/for=30s/how=fast/clients=10"},
			Names: []string{"0.2 s", "1 s", "5 s", "30 s"}, Limit: 1.2, LimitName: "bar",
			Bounds: []Bound{{At: 1}}, BoundName: "the outage itself", Least: 0.1,
		},
		{
			File: "s2.svg", Title: "S2: the end of an outage of ten minutes", Measure: Recover, Label: "seconds until recovered; 60 where that did not come",
			Cells: []string{"S2/how=fast", "S2/how=hang"}, Names: []string{"calls fail at once", "calls hang"}, Limit: 3, LimitName: "bar",
			Pauses: Probes, BoundName: "half a pause of its probes", Least: 0.1,
		},
		{
			File: "s2-detect.svg", Title: "S2: its beginning", Measure: Detect, Label: "seconds until a breaker opens, mean over the clients",
			Cells: []string{"S2/how=fast", "S2/how=hang"}, Names: []string{"calls fail at once", "calls hang"},
			Bounds: []Bound{{soonest(40, 2*network), "S2/how=fast"}, {soonest(40, attempt), "S2/how=hang"}}, BoundName: "2/λ and one failure", Least: 0.01,
		},
		{
			File: "s4.svg", Title: "S4: a part of all calls fails", Measure: Possible, Label: "goodput over λ(1-p)",
			Cells: []string{"S4/p=0.1", "S4/p=0.3", "S4/p=0.5", "S4/p=0.9"}, Names: []string{"10 %", "30 %", "50 %", "90 %"}, Limit: 0.98, LimitName: "bar",
			Bounds: []Bound{{resent(0.1), "S4/p=0.1"}, {resent(0.3), "S4/p=0.3"}, {resent(0.5), "S4/p=0.5"}, {resent(0.9), "S4/p=0.9"}}, BoundName: "λ(1-p³)",
		},
		{
			File: "s5.svg", Title: "S5: one of ten shards is dead, with protection for each or for all", Measure: Others, Label: "success on the other nine",
			Cells: []string{"S5/keys=known/how=hang", "S5/keys=unknown/how=hang"}, Names: []string{"one for each", "one for all"}, Limit: 0.99, LimitName: "bar",
		},
		{
			File: "s7.svg", Title: "S7: load up, and down again", Measure: Width, Label: "rates at which the server stays down, over those possible",
			Cells: []string{"S7/clients=1", "S7/clients=10"}, Names: []string{"1 client", "10 clients"}, Limit: 0.09, LimitName: "bar",
		},
		{
			File: "s8.svg", Title: "S8: 1000 clients return to a cold server", Measure: Share, Label: "goodput over that of the oracle",
			Cells: []string{"S8/load=0.25/clients=1000", "S8/load=0.5/clients=1000"}, Names: []string{"λ = 0.25 C", "λ = 0.5 C"},
			Bounds: beOracle, BoundName: "all there is",
		},
		{
			File: "s9.svg", Title: "S9: clients that fail together", Measure: Peak, Label: "peak over mean of the attempts",
			Cells: []string{"S9/clients=100"}, Names: []string{"100 clients"}, Limit: 1.5, LimitName: "bar",
		},
		{
			File: "s11.svg", Title: "S11: a slow tail, and hedges", Measure: Cut, Label: "p99.9 without hedges over that with them",
			Cells: []string{"S11/slow=1%/fan-out=1", "S11/slow=1%/fan-out=10", "S11/slow=1%/fan-out=100"}, Names: []string{"fan-out 1", "10", "100"}, Limit: 5, LimitName: "bar",
		},
		{
			File: "s12.svg", Title: "S12: 5 % of all calls hang", Measure: Errors, Label: "share of requests without an answer in time",
			Cells: []string{"S12/bulkhead=default", "S12/bulkhead=sized"}, Names: []string{"as they come", "with a bulkhead to size"}, Limit: 0.06, LimitName: "bar",
		},
		{
			File: "s13.svg", Title: "S13: who gives up on calls of which a part fails", Measure: Refusals, Label: "share of requests refused without an attempt",
			Cells: []string{"S13/p=0.3/clients=10", "S13/p=0.3/clients=1000", "S13/p=0.9/clients=10", "S13/p=0.9/clients=1000"},
			Names: []string{"30 %, 10 clients", "30 %, 1000", "90 %, 10", "90 %, 1000"},
		},
		{
			File: "s16.svg", Title: "S16: three hops under one deadline", Measure: Wasted, Label: "share of the work in vain",
			Cells: []string{"S16/deadline=500ms"}, Names: []string{"500 ms"}, Limit: 0.05, LimitName: "bar",
		},
	}
}
