package loopback

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Result is what a contender made of a round.
type Result struct {
	Cell, Contender string
	Seed            uint64
	Measures        Measures
}

// Do runs all contenders of the round at the same time, each with a server, a client and
// a network of its own, so that whatever else the machine does meets all of them. When it
// returns, none of their processes is left.
func (r Round) Do(ctx context.Context) ([]Result, error) {
	// One that is missing is no comparison, so the first to fail ends it for all.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var set []*ensemble
	for _, name := range r.who {
		set = append(set, &ensemble{World: r.World, contender: name})
	}
	together := func(f func(*ensemble) error) {
		var wait sync.WaitGroup
		for _, e := range set {
			wait.Go(func() {
				if err := f(e); err != nil {
					cancel(fmt.Errorf("%s: %w", e.contender, err))
				}
			})
		}
		wait.Wait()
	}
	busy, begun := machine(), time.Now()
	together(func(e *ensemble) error { return e.prepare(ctx) })
	if ctx.Err() == nil {
		b := beginning{time.Now().Add(200 * time.Millisecond)}
		together(func(e *ensemble) error { return e.live(ctx, b) })
	}
	together(func(e *ensemble) error { return e.end(ctx) })
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	share := machine().since(busy)
	var results []Result
	for _, e := range set {
		m := measure(e.World, &e.report, e.served.Seen)
		m[Machine] = share
		m[Processors] = e.busy.Seconds() / time.Since(begun).Seconds() / float64(runtime.NumCPU())
		results = append(results, Result{Cell: r.Name, Contender: e.contender, Seed: r.Seed, Measures: m})
	}
	beside(results)
	return results, nil
}

// ensemble is a contender with what it needs.
type ensemble struct {
	World
	contender string

	server, client *process // nil: not started
	network        *network

	report Report
	served served
	busy   time.Duration // time of the processors
}

// prepare starts the processes and waits until they are ready.
func (e *ensemble) prepare(ctx context.Context) (err error) {
	if e.server, err = start(ctx, serverRole); err != nil {
		return err
	}
	var at address
	if err := errors.Join(e.server.tell(e.World), e.server.hear(&at)); err != nil {
		return err
	}
	if e.network, err = newNetwork(at.Addr); err != nil {
		return err
	}
	if e.client, err = start(ctx, clientRole); err != nil {
		return err
	}
	return errors.Join(e.client.tell(order{e.World, e.contender, e.network.addr()}), e.client.hear(&ready{}))
}

// live lets it happen.
func (e *ensemble) live(ctx context.Context, b beginning) error {
	if err := errors.Join(e.server.tell(b), e.client.tell(b)); err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- e.network.fail(ctx, e.World, b.clock()) }()
	err := e.client.hear(&e.report)
	if err := <-failed; err != nil {
		return err
	}
	return err
}

// end ends what has been started, by force if ctx has ended.
func (e *ensemble) end(ctx context.Context) error {
	var errs []error
	if e.client != nil {
		busy, err := e.client.end()
		e.busy += busy
		errs = append(errs, err)
	}
	if e.network != nil {
		e.network.stop()
	}
	if e.server != nil {
		e.server.in.Close()
		if ctx.Err() == nil {
			errs = append(errs, e.server.hear(&e.served))
		}
		busy, err := e.server.end()
		e.busy += busy
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// ticks is what the processors of the machine have done so far.
type ticks struct{ busy, all float64 }

// machine reads them, nothing where that cannot be known.
func machine() (t ticks) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return t
	}
	line, _, _ := strings.Cut(string(text), "\n")
	var user, nice, system, idle, iowait, irq, softirq, steal float64
	if _, err := fmt.Sscanf(line, "cpu %g %g %g %g %g %g %g %g", &user, &nice, &system, &idle, &iowait, &irq, &softirq, &steal); err != nil {
		return t
	}
	t.busy = user + nice + system + irq + softirq + steal
	return ticks{t.busy, t.busy + idle + iowait}
}

// since returns the share of their time that the processors were busy, 0 if unknown.
func (t ticks) since(before ticks) float64 {
	if t.all <= before.all {
		return 0
	}
	return (t.busy - before.busy) / (t.all - before.all)
}
