package scorecard

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/benchmarks/sim"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// shards is S5: one of ten parts of a dependency is gone. In the cells keys=known there
// is protection for each part, in the others one for all of them.
func shards() Scenario {
	const parts, dead, length = 10, 3, 30 * time.Second
	s := Scenario{ID: "S5", Title: "one of ten shards is dead"}
	for _, known := range []bool{true, false} {
		for _, hang := range []bool{false, true} {
			c := Cell{
				Name:  fmt.Sprintf("keys=%s/how=%s", map[bool]string{true: "known", false: "unknown"}[known], how(hang)),
				Quick: true, Others: 5, hang: hang,
				setting: setting{
					rate: sim.Constant(0.8 * capacity), keys: parts,
					from: warmup, to: warmup + length, until: warmup + length + 20*time.Second,
				},
				measure: func(t, best *trial) Measures {
					m := t.whole(best, t.from, t.to)
					offered, good := 0, 0
					for key, n := range t.Keys {
						if key != dead {
							offered, good = offered+n.Offered, good+n.Good
						}
					}
					m[Others] = over(good, offered)
					return m
				},
			}
			c.setting.plants = func() (servers []*sim.Server) {
				for key := range parts {
					// Twice the capacity of the plant, all together.
					server := &sim.Server{Workers: 2, Queue: 200, Service: 0.010, CV: 1, Refusal: 0.1}
					if key == dead {
						server.Down = []sim.Outage{{At: warmup, For: length, Hang: hang}}
					}
					servers = append(servers, server)
				}
				return servers
			}
			if known {
				c.setting.callers = (*trial).keyed
				c.Extra = []Contender{{"mettle-group", "as mettle, but with a breaker.Group and all else shared by the shards", Ours, false, mettleGroup}}
			}
			s.Cells = append(s.Cells, c)
		}
	}
	s.Bars = []Bar{{Text: "success on the other nine", Measure: Others, Limit: at(0.99), AtLeast: true}}
	return s
}

// keyed gives each client one caller for each key, but for those who tell keys apart
// themselves.
func (t *trial) keyed() (callers []sim.Caller) {
	for id := range t.clients {
		if t.contender.Name == "mettle-group" {
			callers = append(callers, t.contender.New(t.client(id)))
			continue
		}
		byKey := make([]sim.Caller, t.keys)
		for key := range byKey {
			c := t.client(id)
			c.Rate /= float64(t.keys)
			byKey[key] = t.contender.New(c)
		}
		callers = append(callers, func(ctx context.Context, key int, op func(context.Context) error) error {
			return byKey[key](ctx, key, op)
		})
	}
	return callers
}

type keyOf struct{}

func mettleGroup(c Client) sim.Caller {
	group := breaker.NewGroup[int](breaker.GroupConfig{Config: breaker.Config{}})
	p := mettle.Compose(
		timeout.New(timeout.Config{After: c.Deadline}),
		retry.New(retry.Config{Rand: c.source()}),
		group.By(func(ctx context.Context) int { return ctx.Value(keyOf{}).(int) }),
		bulkhead.New(bulkhead.Config{}),
		timeout.New(timeout.Config{After: c.Attempt}),
	)
	return func(ctx context.Context, key int, op func(context.Context) error) error {
		return p.Do(context.WithValue(ctx, keyOf{}, key), op)
	}
}

// hanging is S12: a process with a thousand threads makes a thousand calls a second, and
// one in twenty of them hangs.
func hanging() Scenario {
	const threads, rate = 1000, 1000.0
	s := Scenario{ID: "S12", Title: "5 % of all calls hang"}
	for _, sized := range []bool{false, true} {
		c := Cell{
			Name:  "bulkhead=default",
			Quick: true, Seeds: 10, Others: 3,
			setting: setting{
				rate: sim.Constant(rate), clients: 1, until: 4 * time.Minute,
				deadline: time.Second, attempt: 400 * time.Millisecond,
				work:    slowWork,
				callers: func(t *trial) []sim.Caller { return []sim.Caller{threaded(t, threads)} },
			},
			measure: func(t, best *trial) Measures {
				from := 2 * time.Minute // threads that hang take that long to be all there are
				m := t.whole(best, from, t.until)
				m[Errors] = 1 - over(sim.Sum(t.Good, from, t.until), sim.Sum(t.Offered, from, t.until))
				return m
			},
		}
		if sized {
			c.Name, c.Ours = "bulkhead=sized", "mettle-sized"
			c.Only = []string{"mettle-sized"}
			c.Extra = []Contender{{"mettle-sized", "as mettle, with a bulkhead for twice the calls that are in flight by Little's law", Ours, false, mettleSized}}
		}
		s.Cells = append(s.Cells, c)
	}
	s.Bars = []Bar{{Text: "errors", Measure: Errors, Limit: at(0.06)}}
	return s
}

// slowWork takes 100 ms, or 100 s.
func slowWork(*trial) func(*sim.World, context.Context, *sim.Request) error {
	return func(w *sim.World, ctx context.Context, r *sim.Request) error {
		d := r.Draw(w.Seed, int(r.Sends.Add(1)))
		d.Purpose = sim.ForFailure
		took := 100 * time.Second
		if d.Uniform() >= 0.05 {
			d.Purpose = sim.ForService
			took = time.Duration(d.Lognormal(0.3) * 0.1 * 1e9)
		}
		w.Sent(r, sim.Reply{Work: took.Seconds()})
		if err := w.Wait(ctx, w.Now()+took); err != nil {
			return err
		}
		w.Won(r, took.Seconds())
		return nil
	}
}

// threaded has only so many threads to make calls with.
func threaded(t *trial, threads int64) sim.Caller {
	inner := t.contender.New(t.client(0))
	var busy atomic.Int64
	return func(ctx context.Context, key int, op func(context.Context) error) error {
		if busy.Add(1) > threads {
			busy.Add(-1)
			return sim.ErrRefused
		}
		defer busy.Add(-1)
		return inner(ctx, key, op)
	}
}

func mettleSized(c Client) sim.Caller {
	// 1000 a second for 0.95·0.1 + 0.05·0.4 s each.
	return mettleOf(c, breaker.Config{}, retry.Config{}, bulkhead.Config{Limit: 230})
}

// manyClients is S13: the same calls, a part of which fails, from more and more clients.
// Who counts in each client sees less and less of it, and can be wrong in two ways (M.
// Brooker, Will circuit breakers solve my problems?, 2022): at 5 % and 30 %, where nobody
// should open, and at 90 %, where everybody should.
func manyClients() Scenario {
	s := Scenario{ID: "S13", Title: "many clients, each with few calls"}
	for _, p := range []float64{0.05, 0.3, 0.9} {
		for _, clients := range []int{1, 10, 100, 1000} {
			if p > threshold && clients != 10 && clients != 1000 {
				continue
			}
			server := sim.NewPlant()
			server.Fail = sim.Constant(p)
			s.Cells = append(s.Cells, Cell{
				Name:  fmt.Sprintf("p=%g/clients=%d", p, clients),
				Quick: p == 0.3 && clients == 1000, Seeds: 10, Others: 3, Plain: p < 0.3, p: p,
				setting: setting{rate: sim.Constant(0.5 * capacity), clients: clients, server: server, until: 3 * time.Minute},
				measure: func(t, best *trial) Measures {
					m := t.whole(best, 0, t.until)
					m[Hourly] = m[Opens] / t.until.Hours()
					m[Tripped] = t.tripped()
					return m
				},
			})
		}
	}
	few := func(c Cell) bool { return c.p < threshold }
	s.Bars = []Bar{
		{Text: belowThreshold, Measure: Opens, Limit: at(0), Cells: few},
		{Text: "attempts over requests", Measure: Amplified, Limit: at(1.1), Cells: few},
	}
	return s
}

// sweep is S7: a server that slows down under load, and more and more of it, and then
// less and less. Where it does worse on the way down than on the way up, a short trouble
// would have lasted.
func sweep() Scenario {
	const (
		low, high, step = 10, 74, 2
		stay            = 30 * time.Second
		possible        = 64.3 // a second, by its timeout
	)
	var rate sim.Profile
	stop := time.Duration(0)
	for r := low; r <= high; r += step {
		rate, stop = append(rate, sim.Step{At: stop, Value: float64(r)}), stop+stay
	}
	for r := high; r >= low; r -= step {
		rate, stop = append(rate, sim.Step{At: stop, Value: float64(r)}), stop+stay
	}
	s := Scenario{ID: "S7", Title: "load up, and down again"}
	for _, clients := range []int{1, 10} {
		s.Cells = append(s.Cells, Cell{
			Name:  fmt.Sprintf("clients=%d", clients),
			Quick: true, Others: 5,
			setting: setting{
				rate: rate, clients: clients, until: stop, deadline: 9 * time.Second,
				attempt: 3 * time.Second, once: 3 * time.Second,
				most: 40, // and 5 calls more for each client are fewer than 180 under way
				work: func(*trial) func(*sim.World, context.Context, *sim.Request) error {
					return new(sim.Collapse).Call
				},
			},
			measure: func(t, best *trial) Measures {
				m := t.whole(best, 0, t.until)
				share := func(at time.Duration) float64 { // without the first third, of what was before
					return over(sim.Sum(t.Good, at+stay/3, at+stay), sim.Sum(t.Offered, at+stay/3, at+stay))
				}
				lost := 0
				for i := range (high-low)/step + 1 {
					up := share(time.Duration(i) * stay)
					if down := share(stop - time.Duration(i+1)*stay); up > 0.5 && down < 0.5*up {
						lost += step
					}
				}
				m[Width] = float64(lost) / possible
				return m
			},
		})
	}
	s.Bars = []Bar{{Text: "rates at which it would stay down, over those possible", Measure: Width, Limit: at(0.09)}}
	return s
}

// coldStart is S8: a thousand clients come back to a server that has just been started.
func coldStart() Scenario {
	const length, warming = 30 * time.Second, 20
	server := sim.NewPlant()
	server.Down = []sim.Outage{{At: warmup, For: length}}
	server.Speed = sim.Profile{{At: 0, Value: 1}}
	for i := range warming {
		server.Speed = append(server.Speed, sim.Step{At: warmup + length + time.Duration(i)*time.Second, Value: 0.3 + 0.7*float64(i)/warming})
	}
	server.Speed = append(server.Speed, sim.Step{At: warmup + length + warming*time.Second, Value: 1})
	s := Scenario{ID: "S8", Title: "back to a cold server"}
	for _, load := range []float64{0.25, 0.5} {
		s.Cells = append(s.Cells, Cell{
			Name:  fmt.Sprintf("load=%g/clients=1000", load),
			Quick: true,
			setting: setting{
				rate: sim.Constant(load * capacity), clients: 1000, server: server, cold: true,
				from: warmup, to: warmup + length, until: warmup + length + aftermath,
			},
			measure: func(t, best *trial) Measures {
				m := t.fault(best)
				peak := 0.0
				for at := t.to; at < t.to+(warming+5)*time.Second; at += time.Second {
					now := t.server.Capacity() * t.server.Speed.At(at)
					peak = max(peak, float64(sim.Sum(t.Sent, at, at+time.Second))/now)
				}
				m[Peak] = peak
				again := 0
				for at := t.to + 2*time.Second; at < t.until-time.Second; at += time.Second {
					if 2*sim.Sum(t.Good, at, at+time.Second) < sim.Sum(best.Good, at, at+time.Second) {
						again++
					}
				}
				m[Again] = float64(again)
				return m
			},
		})
	}
	s.Bars = []Bar{
		{Text: "attempts in a second over capacity by then", Measure: Peak, Limit: at(1.2)},
		{Text: "seconds in a second collapse", Measure: Again, Limit: at(0)},
	}
	return s
}

// correlated is S9: clients that meet the same outage at the same moment should not come
// back at the same moment.
func correlated() Scenario {
	const length = time.Minute
	server := sim.NewPlant()
	server.Down = []sim.Outage{{At: warmup, For: length}}
	s := Scenario{ID: "S9", Title: "clients that fail together"}
	s.Cells = []Cell{{
		Name:  "clients=100",
		Quick: true,
		setting: setting{
			rate: sim.Constant(0.8 * capacity), clients: 100, server: server,
			from: warmup, to: warmup + length, until: warmup + length + 10*time.Second,
		},
		measure: func(t, best *trial) Measures {
			m := t.fault(best)
			from, most := t.from+10*time.Second, 0
			for at := from; at+time.Second <= t.to; at += sim.Bin {
				most = max(most, sim.Sum(t.Sent, at, at+time.Second))
			}
			// Who hardly sends anything has a peak that says nothing.
			if mean := float64(sim.Sum(t.Sent, from, t.to)) / (t.to - from).Seconds(); mean >= 2 {
				m[Peak] = float64(most) / mean
			}
			return m
		},
	}}
	s.Bars = []Bar{{Text: "peak over mean of the attempts after the first burst", Measure: Peak, Limit: at(1.5)}}
	return s
}

// layers is S6: three layers that each resend, above a server that stalls.
func layers() Scenario {
	const length = 2 * time.Second
	server := sim.NewPlant()
	server.Speed = sim.Pulse(1, 0, warmup, length)
	s := Scenario{ID: "S6", Title: "three layers that resend"}
	s.Cells = []Cell{{
		Name:  "attempts=4",
		Quick: true, Others: 3, Curve: true, layers: 3,
		setting: setting{
			rate: sim.Constant(0.8 * capacity), server: server, attempts: 4,
			from: warmup, to: warmup + length, until: warmup + length + aftermath,
			work: func(t *trial) func(*sim.World, context.Context, *sim.Request) error {
				middle := sync.OnceValue(func() sim.Caller { return t.contender.New(t.client(100)) })
				last := sync.OnceValue(func() sim.Caller { return t.contender.New(t.client(101)) })
				return func(w *sim.World, ctx context.Context, r *sim.Request) error {
					return w.Serve(ctx, func() error {
						return middle()(context.Background(), 0, func(ctx context.Context) error {
							return w.Serve(ctx, func() error {
								return last()(context.Background(), 0, func(ctx context.Context) error {
									return w.Call(ctx, r, w.Server)
								})
							})
						})
					})
				}
			},
		},
		measure: func(t, best *trial) Measures { return t.fault(best) },
	}}
	s.Bars = []Bar{
		{Text: "attempts over requests, end to end", Measure: Amplified, Limit: at(1.1)},
		{Text: "healed, seconds after the stall", Measure: Recover, Limit: at(30)},
	}
	return s
}

// hops is S16: each of three servers does its work and then calls the next, under one
// deadline that all of them know.
func hops() Scenario {
	s := Scenario{ID: "S16", Title: "three hops under one deadline"}
	s.Cells = []Cell{{
		Name:  "deadline=500ms",
		Quick: true, Others: 5, layers: 3,
		setting: setting{
			rate: sim.Constant(500), until: time.Minute, attempt: 400 * time.Millisecond,
			plants: func() (servers []*sim.Server) {
				for range 3 {
					servers = append(servers, &sim.Server{Workers: 50, Queue: 1000, Service: 0.050, CV: 1, Refusal: 0.1})
				}
				return servers
			},
			work: func(t *trial) func(*sim.World, context.Context, *sim.Request) error {
				second := sync.OnceValue(func() sim.Caller { return t.contender.New(t.client(100)) })
				third := sync.OnceValue(func() sim.Caller { return t.contender.New(t.client(101)) })
				return func(w *sim.World, ctx context.Context, r *sim.Request) error {
					return t.hop(ctx, r, 0, func(ctx context.Context) error {
						return second()(ctx, 0, func(ctx context.Context) error {
							return t.hop(ctx, r, 1, func(ctx context.Context) error {
								return third()(ctx, 0, func(ctx context.Context) error {
									return t.hop(ctx, r, 2, func(context.Context) error { return nil })
								})
							})
						})
					})
				}
			},
		},
		measure: func(t, best *trial) Measures {
			m := t.whole(best, 0, t.until)
			m[Hopeless] = float64(t.hopeless) / float64(max(sim.Sum(t.Sent, 0, t.until), 1))
			return m
		},
	}}
	s.Bars = []Bar{
		{Text: "share of the work in vain", Measure: Wasted, Limit: at(0.05)},
		{Text: "attempts begun with less time left than their median", Measure: Hopeless, Limit: at(0)},
	}
	return s
}

// hop is an attempt at server n, which works and then does the rest. What it knows of
// its caller is the deadline.
func (t *trial) hop(ctx context.Context, r *sim.Request, n int, rest func(context.Context) error) error {
	w := t.world
	if d, ok := ctx.Deadline(); ok && time.Until(d) < medianHop {
		w.Lock()
		t.hopeless++
		w.Unlock()
	}
	return w.Serve(ctx, func() error {
		served := context.Background()
		if d, ok := ctx.Deadline(); ok {
			var cancel context.CancelFunc
			served, cancel = context.WithDeadline(served, d)
			defer cancel()
		}
		if err := w.Call(served, r, t.plants[n]); err != nil {
			return err
		}
		if served.Err() != nil {
			return served.Err()
		}
		return rest(served)
	})
}

// medianHop is the median of the service time of one of the hops, and two messages.
const medianHop = 37 * time.Millisecond
