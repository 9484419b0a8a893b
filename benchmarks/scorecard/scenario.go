package scorecard

import "time"

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
	// Others is how many of them those have whom no bar is about. Zero: othersSeeds.
	Others int
	// Plain is with ours, peers as they come and the oracle alone: for cells that are there
	// for a bar, and have little to tell of the others.
	Plain bool
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
	slow    bool // everything is, in the end
	fan     int  // calls that a request needs
	layers  int  // that a call goes through; zero: one
	setting setting
	measure func(t, best *trial) Measures
}

func (c Cell) ours() string {
	if c.Ours != "" {
		return c.Ours
	}
	return "mettle"
}

// others returns how many seeds those have at most whom no bar is about.
func (c Cell) others() int {
	if c.Others > 0 {
		return c.Others
	}
	return othersSeeds
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
		longOutage(),
		{ID: "S3", Title: "a brownout without errors", Waiting: overload},
		partial(),
		shards(),
		layers(),
		sweep(),
		coldStart(),
		correlated(),
		{ID: "S10", Title: "a surge of requests", Waiting: overload},
		slowTail(),
		hanging(),
		manyClients(),
		{ID: "S14", Title: "classes of requests in an overload", Waiting: overload},
		{ID: "S15", Title: "a capacity that changes", Waiting: overload},
		hops(),
	}
}
