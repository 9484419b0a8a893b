package loopback

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// The protocols.
const (
	overHTTP  = "http"
	overGRPC  = "grpc"
	simulated = "simulated" // none: the same in virtual time
)

// attempts is how many there are at most.
const attempts = 3

// scale is how large everything is, compared to the scorecard: workers, queue, clients and
// load, so that each client and each worker has as much to do as it would there. What
// bounds it is the machine, which has to be idle most of the time for ten servers and as
// many clients not to be in each other's way.
const scale = 0.3

const (
	workers = 10 * scale
	queue   = 1000 * scale
	clients = 10 * scale
)

// Cell is a kind of trouble over a protocol.
type Cell struct {
	Name string // as in S1/how=hang/proto=http
	World

	who []string // names of the contenders
}

// World is what the processes are told of a cell. Its clock begins at the same moment in
// all of them.
type World struct {
	Seed     uint64
	Proto    string
	Rate     float64 // of requests, per second
	Clients  int
	From, To time.Duration // of the fault
	Until    time.Duration // when the last request is sent
	Down     bool          // in an outage, and calls fail at once
	Hang     bool          // in an outage, and calls hear nothing
	Fail     float64       // share of the attempts that fail during the fault
	Slow     float64       // share of the answers that take ten times as long; 0: the server is the scorecard's plant

	Deadline time.Duration // after which an answer is of no use
	Attempt  time.Duration // what one attempt is given, where there may be several
}

// drain is how long calls in flight are waited for, after the last was sent.
func (w World) drain() time.Duration { return w.Deadline + 500*time.Millisecond }

// Plan says what is to be run.
type Plan struct {
	Quick bool     // shorter
	Only  []string // cells, or what their names begin with; nil: all
	Seeds int
}

// Round is a cell with a seed: all contenders, at the same time.
type Round struct{ Cell }

// String returns the name of the cell and the seed.
func (r Round) String() string { return fmt.Sprintf("%s seed %d", r.Name, r.Seed) }

// Lasts returns about how long the round takes.
func (r Round) Lasts() time.Duration { return r.Until + r.drain() + 500*time.Millisecond }

// cells are all there are. The aftermath of an outage is as long as it takes to tell those
// who recover from those who do not.
func cells(quick bool) (all []Cell) {
	long := func(full, short time.Duration) time.Duration {
		if quick {
			return short
		}
		return full
	}
	fault := func(w World, calm, length, after time.Duration) World {
		w.From, w.To = calm, calm+length
		w.Until = w.To + after
		return w
	}
	for _, hang := range []bool{false, true} {
		how := "fast"
		if hang {
			how = "hang"
		}
		w := fault(World{Rate: 800 * scale, Clients: clients, Down: !hang, Hang: hang},
			long(2*time.Second, time.Second), long(5*time.Second, 3*time.Second), long(8*time.Second, 4*time.Second))
		all = append(all, Cell{Name: "S1/how=" + how, World: w})
	}
	w := fault(World{Rate: 500 * scale, Clients: clients, Fail: 0.3}, time.Second, long(10*time.Second, 5*time.Second), 0)
	all = append(all, Cell{Name: "S4/p=0.3", World: w})
	// Fewer requests than elsewhere, and for longer: the one in a thousand that takes longest is
	// to be slow because of its server, and not because of the machine.
	w = fault(World{Rate: 200, Clients: 1, Slow: 0.01}, long(3*time.Second, time.Second), long(28*time.Second, 10*time.Second), 0)
	all = append(all, Cell{Name: "S11/slow=1%", World: w})

	var both []Cell
	for _, c := range all {
		for _, proto := range []string{simulated, overHTTP, overGRPC} {
			c := c
			c.Proto, c.Deadline, c.Attempt = proto, 500*time.Millisecond, 100*time.Millisecond
			c.Name += "/proto=" + proto
			for _, k := range contenders() {
				if k.hedges == (c.Slow > 0) && k.speaks(proto) || k.Name == "timeout" {
					c.who = append(c.who, k.Name)
				}
			}
			both = append(both, c)
		}
	}
	return both
}

// Rounds returns the rounds of the plan: all cells with the first seed, then with the
// next, so that what an interrupted run has is even.
func (p Plan) Rounds() []Round {
	return p.rounds(p.Seeds, func(c Cell) bool { return c.Proto != simulated })
}

// Twins returns what is simulated to compare the rounds with. That costs next to nothing,
// so there are more seeds of it.
func (p Plan) Twins() []Round {
	return p.rounds(twinSeeds, func(c Cell) bool { return c.Proto == simulated })
}

func (p Plan) rounds(seeds int, of func(Cell) bool) (rounds []Round) {
	for seed := 1; seed <= seeds; seed++ {
		for _, c := range cells(p.Quick) {
			if p.wants(c.Name) && of(c) {
				c.Seed = uint64(seed)
				rounds = append(rounds, Round{c})
			}
		}
	}
	return rounds
}

func (p Plan) wants(cell string) bool {
	return len(p.Only) == 0 || slices.ContainsFunc(p.Only, func(only string) bool {
		// What is simulated goes with any protocol.
		return only == cell || strings.HasPrefix(cell, only+"/") || strings.HasSuffix(cell, "/proto="+simulated) &&
			strings.HasPrefix(only, strings.TrimSuffix(cell, simulated))
	})
}

// Check reports what in the plan is no cell.
func (p Plan) Check() error {
	for _, only := range p.Only {
		if len((Plan{Only: []string{only}, Seeds: 1}).Rounds()) > 0 {
			continue
		}
		var known []string
		for _, r := range (Plan{Seeds: 1}).Rounds() {
			known = append(known, r.Name)
		}
		return fmt.Errorf("%q is not run over loopback, must be the beginning of one of %s", only, strings.Join(known, ", "))
	}
	return nil
}

// Whole reports whether it is all there is, with seeds enough for a median.
func (p Plan) Whole() bool { return !p.Quick && len(p.Only) == 0 && p.Seeds >= FullSeeds }

// How many seeds a run has, unless it is told.
const (
	FullSeeds  = 3
	QuickSeeds = 1
	twinSeeds  = 10
)
