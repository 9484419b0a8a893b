package scorecard

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mettle-go/mettle/benchmarks/sim"
)

// Job is a cell to be run with one seed by all who take part.
type Job struct {
	Cell string // of which scenario, as in S4/p=0.3
	Seed uint64 // from 1
	Who  Who
	// Cost is what the job takes, beside others: who is to run jobs need not know.
	Cost float64
}

// Who says who takes part besides the oracle.
type Who uint8

// Who may take part.
const (
	Everybody Who = iota
	Judged        // ours, and the peers as they come: those whom bars are about
	OursAlone     // the one contender that the bars of the cell are about
)

// takes reports whether k takes part in c.
func (w Who) takes(c Cell, k Contender) bool {
	switch {
	case k.Kind == Best:
		return true
	case c.Only != nil && !slices.Contains(c.Only, k.Name):
		return false
	case w == OursAlone:
		return k.Name == c.ours()
	case w == Judged, c.Plain:
		return k.Kind == Ours || k.Kind == Peer
	default:
		return true
	}
}

// String returns the job as ParseJob reads it.
func (j Job) String() string { return fmt.Sprintf("%s %d %d", j.Cell, j.Seed, j.Who) }

// ParseJob reads what String returns.
func ParseJob(text string) (j Job, err error) {
	_, err = fmt.Sscanf(text, "%s %d %d", &j.Cell, &j.Seed, &j.Who)
	return j, err
}

// Plan says what is to be run.
type Plan struct {
	Quick bool     // only the cells of the quick run, and only those who are judged
	Only  []string // scenarios or cells, such as S4 or S4/p=0.3; nil: all
	Seeds int      // at most
}

// How many seeds those have at most whom no bar is about: their figures are there to
// compare with, and most of them differ from ours by far more than their intervals.
const (
	othersSeeds = 6 // unless the cell says otherwise
	othersQuick = 1
)

// Jobs returns the jobs of the plan: all cells with the first seed, then with the next,
// so that what an interrupted run has is even. Among those of a seed the longest come
// first, so that nobody begins one when all others are about to end.
func (p Plan) Jobs() (jobs []Job) {
	for seed := 1; seed <= p.Seeds; seed++ {
		first := len(jobs)
		for _, s := range Scenarios() {
			for _, c := range s.Cells {
				name := s.ID + "/" + c.Name
				if p.Quick && !c.Quick || c.Seeds > 0 && seed > c.Seeds || !p.wants(s.ID, name) {
					continue
				}
				who := p.who(c, seed)
				jobs = append(jobs, Job{name, uint64(seed), who, c.cost(who)})
			}
		}
		slices.SortStableFunc(jobs[first:], func(a, b Job) int { return cmp.Compare(b.Cost, a.Cost) })
	}
	return jobs
}

// who returns who takes part in a cell with a seed.
func (p Plan) who(c Cell, seed int) Who {
	switch {
	case seed > c.others(), p.Quick && seed > othersQuick:
		return OursAlone
	case p.Quick:
		return Judged
	default:
		return Everybody
	}
}

// cost is about how many microseconds of a processor a run of the cell takes.
func (c Cell) cost(who Who) (sum float64) {
	calls := c.setting.rate.Integral(0, c.setting.until) * float64(max(c.fan, 1)*max(c.layers, 1))
	for _, k := range c.contenders(who) {
		each := 4.0
		if strings.HasPrefix(k.Name, "failsafe") {
			each = 9 // it makes goroutines and many objects
		}
		sum += each * calls
	}
	return sum
}

func (p Plan) wants(id, cell string) bool {
	return len(p.Only) == 0 || slices.ContainsFunc(p.Only, func(only string) bool {
		return only == id || only == cell || strings.HasPrefix(cell, only+"/")
	})
}

// Check reports what in the plan is no scenario and no cell.
func (p Plan) Check() error {
	for _, only := range p.Only {
		if len((Plan{Only: []string{only}, Seeds: 1}).Jobs()) > 0 {
			continue
		}
		var known []string
		for _, s := range Scenarios() {
			if s.ID == only {
				return fmt.Errorf("%s cannot be run yet: it waits for %s", only, s.Waiting)
			}
			if s.Waiting == "" {
				known = append(known, s.ID)
			}
		}
		return fmt.Errorf("%q is no scenario, must be one of %s, or a cell of one", only, strings.Join(known, ", "))
	}
	return nil
}

// find returns the cell of that name.
func find(name string) (Cell, error) {
	for _, s := range Scenarios() {
		for _, c := range s.Cells {
			if s.ID+"/"+c.Name == name {
				return c, nil
			}
		}
	}
	return Cell{}, fmt.Errorf("scorecard: no cell %q", name)
}

// contenders returns who takes part in the cell, the oracle first.
func (c Cell) contenders(who Who) (all []Contender) {
	for _, k := range append(Contenders(), c.Extra...) {
		switch {
		case !who.takes(c, k):
		case k.Kind == Best:
			all = slices.Insert(all, 0, k)
		default:
			all = append(all, k)
		}
	}
	return all
}

// Do runs the job. The bubble runs a function in a testing/synctest bubble of its own.
func (j Job) Do(bubble func(func())) (Result, error) {
	c, err := find(j.Cell)
	if err != nil {
		return Result{}, err
	}
	r := Result{Cell: j.Cell, Seed: j.Seed, Measures: make(map[string]Measures)}
	if c.Curve {
		r.Curves = make(map[string][]float64)
	}
	var best *trial
	for _, k := range c.contenders(j.Who) {
		var t *trial
		bubble(func() { t = run(c.setting, k, j.Seed) })
		if k.Kind == Best {
			best = t
		}
		r.Measures[k.Name] = c.measure(t, best)
		if c.Curve {
			r.Curves[k.Name] = t.curve()
		}
	}
	own := r.Measures[c.ours()][Goodput]
	for _, k := range c.contenders(j.Who) {
		if k.Kind == Peer {
			r.Measures[k.Name][Ahead] = own / max(r.Measures[k.Name][Goodput], 1)
		}
	}
	return r, nil
}

// curve returns goodput in each second.
func (t *trial) curve() (points []float64) {
	for at := time.Duration(0); at+time.Second <= t.until; at += time.Second {
		points = append(points, float64(sim.Sum(t.Good, at, at+time.Second)))
	}
	return points
}

// ResultMark begins the lines in which a worker prints results: those whose work it is
// print lines of their own.
const ResultMark = "\x1eresult "
