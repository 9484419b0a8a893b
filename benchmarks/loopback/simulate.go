package loopback

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/mettle-go/mettle/benchmarks/scorecard"
	"github.com/mettle-go/mettle/benchmarks/sim"
)

// networkTime is what a message takes in the simulation.
const networkTime = time.Millisecond

// age is how long a bubble has lived when its world begins, as in the scorecard: a
// library that takes the time when its package is loaded must not find that in its future.
const age = 100 * 365 * 24 * time.Hour

// Simulate is Do in virtual time: the same world and the same measures, simulated. The
// bubble runs a function in a testing/synctest bubble of its own.
func (r Round) Simulate(bubble func(func())) (results []Result) {
	for _, name := range r.who {
		k, _ := inScorecard(name)
		var report *Report
		bubble(func() { report = r.simulate(k) })
		m := measure(r.World, report, len(report.Sent))
		results = append(results, Result{Cell: r.Name, Contender: name, Seed: r.Seed, Measures: m})
	}
	beside(results)
	return results
}

// inScorecard returns the contender of that name as the scorecard has it, among the usual
// ones or those that only some cells have.
func inScorecard(name string) (scorecard.Contender, bool) {
	all := scorecard.Contenders()
	for _, s := range scorecard.Scenarios() {
		for _, c := range s.Cells {
			all = append(all, c.Extra...)
		}
	}
	i := slices.IndexFunc(all, func(k scorecard.Contender) bool { return k.Name == name })
	if i < 0 {
		return scorecard.Contender{}, false
	}
	return all[i], true
}

// simulate lets a contender live through the world, in a bubble.
func (w World) simulate(k scorecard.Contender) *Report {
	time.Sleep(age + time.Duration(w.Seed)*time.Millisecond) // some seed their randomness with the time
	c := sim.Config{
		Seed: w.Seed, Arrivals: sim.Constant(w.Rate), Until: w.Until, From: w.From, To: w.To,
		Deadline: w.Deadline, Network: networkTime, Server: w.plant(), Cancels: k.Cancels, Drain: 2 * time.Second,
		Client: func(d sim.Draw) int { return d.Below(w.Clients) },
	}
	if w.Down || w.Hang {
		c.Server.Down = []sim.Outage{{At: w.From, For: w.To - w.From, Hang: w.Hang}}
	}
	if w.Slow > 0 {
		c.Work = w.slowly
	}
	world := sim.New(c)
	l := &log{world: world}
	var callers []sim.Caller
	for id := range w.Clients {
		callers = append(callers, l.around(k.New(scorecard.Client{
			ID: id, Seed: w.Seed, World: world, Servers: []*sim.Server{c.Server},
			Deadline: w.Deadline, Attempt: w.Attempt, Once: w.Deadline, Attempts: attempts,
			Opened: l.opened,
		})))
	}
	world.Run(callers)
	slices.SortStableFunc(l.Requests, func(a, b Request) int { return int(a.At - b.At) })
	return &l.Report
}

// slowly is an attempt where a part of the answers is slow.
func (w World) slowly(world *sim.World, ctx context.Context, r *sim.Request) error {
	took := w.tail(r.Draw(w.Seed, int(r.Sends.Add(1))))
	return world.Wait(ctx, world.Now()+took)
}

// log writes down what a client process would report.
type log struct {
	world *sim.World
	mu    sync.Mutex // never held while time passes
	Report
}

func (l *log) around(call sim.Caller) sim.Caller {
	return func(ctx context.Context, key int, op func(context.Context) error) error {
		at := l.world.Now() // nobody is late here
		err := call(ctx, key, func(ctx context.Context) error {
			l.sent()
			return op(ctx)
		})
		l.mu.Lock()
		defer l.mu.Unlock()
		l.Requests = append(l.Requests, Request{At: at, Took: l.world.Now() - at, OK: err == nil})
		return err
	}
}

func (l *log) sent() {
	now := l.world.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Sent = append(l.Sent, now)
}

func (l *log) opened() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Opens++
}
