package scorecard

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/hedgepolicy"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/benchmarks/sim"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/timeout"
)

// slowTail is S11: one reply in a hundred takes ten times as long, and a request needs
// the answers to one call, to ten, or to a hundred. In one of the cells, all replies do
// in the last ten seconds: what would be a second call for each, were it not bounded.
func slowTail() Scenario {
	const half = time.Minute
	s := Scenario{ID: "S11", Title: "a slow tail, and hedges"}
	for _, c := range []struct {
		fan  int
		rate float64
		slow bool
	}{{1, 400, false}, {10, 80, false}, {100, 10, false}, {1, 400, true}} {
		name, from, until := fmt.Sprintf("slow=1%%/fan-out=%d", c.fan), half/2, 2*half
		p := sim.Constant(0.01)
		if c.slow {
			name, from, until = "slow=all/fan-out=1", half, half+10*time.Second
			p = sim.Profile{{At: 0, Value: 0.01}, {At: half, Value: 1}}
		}
		s.Cells = append(s.Cells, Cell{
			Name:  name,
			Quick: c.fan < 100, Ours: "mettle-hedge", slow: c.slow, fan: c.fan,
			Only: []string{"mettle-hedge", "mettle-hedge-tuned", "failsafe-hedge", "timeout"},
			Extra: []Contender{
				{"mettle-hedge", "a hedge as it comes, under a timeout", Ours, true, mettleHedge},
				{"mettle-hedge-tuned", "two hedges at most, under a timeout", Tuned, true, mettleHedgeTuned},
				{"failsafe-hedge", "failsafe-go: a hedge policy with the 95th percentile of the last 100 calls as its delay", Tuned, true, failsafeHedge},
			},
			setting: setting{
				rate: sim.Constant(c.rate), until: until, from: from, to: until, clients: 1, deadline: 2 * time.Second,
				callers: func(t *trial) []sim.Caller { return []sim.Caller{fanOut(t.contender.New(t.client(0)), c.fan)} },
				work:    func(*trial) func(*sim.World, context.Context, *sim.Request) error { return tailed(p) },
			},
			measure: func(t, best *trial) Measures {
				m := t.whole(best, from, t.until)
				m[Extra] = m[Amplified]/float64(c.fan) - 1
				delete(m, Amplified)
				m[Cut] = sim.Quantile(best.Latency, 0.999) / max(m[P999], 1e-9)
				return m
			},
		})
	}
	s.Bars = []Bar{
		{Text: "p99.9 without hedges over that with them", Measure: Cut, Limit: at(5), AtLeast: true, Cells: func(c Cell) bool { return !c.slow }},
		{Text: "more calls", Measure: Extra, Limit: at(0.05), Cells: func(c Cell) bool { return !c.slow }},
		{Text: "more calls, when all are slow", Measure: Extra, Limit: at(0.01), Cells: func(c Cell) bool { return c.slow }},
	}
	return s
}

// tailed answers after 10 ms on average, and with probability p after ten times as long.
func tailed(p sim.Profile) func(*sim.World, context.Context, *sim.Request) error {
	return func(w *sim.World, ctx context.Context, r *sim.Request) error {
		d := r.Draw(w.Seed, int(r.Sends.Add(1)))
		d.Purpose = sim.ForService
		took := 0.010 * d.Lognormal(0.3)
		d.Purpose = sim.ForSpare
		if d.Uniform() < p.At(w.Now()) {
			took *= 10
		}
		w.Sent(r, sim.Reply{Work: took})
		if err := w.Wait(ctx, w.Now()+time.Duration(took*1e9)); err != nil {
			return err
		}
		w.Won(r, took)
		return nil
	}
}

// fanOut makes n calls at once and has succeeded when all have.
func fanOut(call sim.Caller, n int) sim.Caller {
	if n == 1 {
		return call
	}
	return func(ctx context.Context, key int, op func(context.Context) error) error {
		var wait sync.WaitGroup
		errs := make([]error, n)
		for i := range n {
			wait.Go(func() { errs[i] = call(ctx, key, op) })
		}
		wait.Wait()
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
		return nil
	}
}

func mettleHedge(c Client) sim.Caller { return hedged(c, hedge.Config{}) }

// mettleHedgeTuned is for requests that need many calls: both runs of one of them are slow
// often enough to be seen.
func mettleHedgeTuned(c Client) sim.Caller { return hedged(c, hedge.Config{Max: 2}) }

func hedged(c Client, h hedge.Config) sim.Caller {
	p := mettle.Compose(timeout.New(timeout.Config{After: c.Deadline}), hedge.New(h))
	return func(ctx context.Context, _ int, op func(context.Context) error) error { return p.Do(ctx, op) }
}

func failsafeHedge(c Client) sim.Caller {
	executor := failsafe.With[any](hedgepolicy.NewWithDelayQuantile[any](0.95, 100, 20))
	return func(ctx context.Context, _ int, op func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, c.Deadline)
		defer cancel()
		return executor.WithContext(ctx).RunWithExecution(func(e failsafe.Execution[any]) error { return op(e.Context()) })
	}
}
