package main

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/examples/orders/internal/payments"
	"github.com/mettle-go/mettle/examples/orders/internal/store"
	"github.com/mettle-go/mettle/retry"
)

// workers is how many orders are paid directly at once.
const workers = 12

// laneRoom is how many orders may stand before one worker, so that one slow payment
// does not hold up the reading of all. They are not accepted yet, only read.
const laneRoom = 8

// The reasons for a client to stop, but for a failure of its store.
var (
	errFinished  = errors.New("every order is settled")
	errImpatient = errors.New("nothing was settled for too long")
	errStopped   = errors.New("interrupted")
)

// client is one run: it takes orders in, pays them, and replays the queue.
type client struct {
	options
	store     *store.Store
	pipeline  *pipeline
	report    *report
	telemetry *telemetry

	read     bool         // all orders were read; set before the workers end
	left     atomic.Bool  // some of those were not accepted, because the run was to end
	refused  int          // lines
	repeated atomic.Int64 // orders that this run had accepted before
	known    atomic.Int64 // orders that an earlier run had accepted
	behind   atomic.Int64 // orders queued because one of the same customer was

	temporary bool // data was made for this run, and nobody has named it
}

// pay is the program without -serve. It returns the exit status; an error means that
// the run could not begin or that the store failed.
func pay(ctx context.Context, o options, stdin io.Reader, stdout io.Writer) (code int, err error) {
	script, err := o.script()
	if err != nil {
		return 0, err
	}
	input, err := o.input(stdin)
	if err != nil {
		return 0, err
	}
	defer input.Close()
	temporary := o.data == ""
	if o.data, err = o.dataDir(); err != nil {
		return 0, err
	}
	c := &client{options: o, temporary: temporary}
	f, ok := stdout.(*os.File)
	c.report = newReport(stdout, ok && isTerminal(f))
	if c.store, err = store.Open(filepath.Join(o.data, ledgerFile), o.queue); err != nil {
		return 0, fmt.Errorf("-data: %w", err)
	}
	defer func() { err = errors.Join(err, c.store.Close()) }()

	if c.telemetry, err = newTelemetry(ctx, o.otlp); err != nil {
		return 0, fmt.Errorf("-otlp: %w", err)
	}
	defer func() { _ = c.telemetry.close() }() // for the ways out below, which have an error of their own

	c.greet()
	service, list, err := c.service(script)
	if err != nil {
		return 0, err
	}
	defer service()
	wear, err := c.wearer()
	if err != nil {
		return 0, err
	}
	c.pipeline = newPipeline(wear, c.telemetry.tracer, o.seed, c.toQueue, c.report.change)
	defer c.pipeline.close()
	if err := c.telemetry.watch(c.pipeline.watched...); err != nil {
		return 0, err
	}
	hide, err := c.page()
	if err != nil {
		return 0, err
	}
	defer hide()
	c.report.watch(c.store, c.pipeline)
	if err := c.run(ctx, input); err != nil {
		return 0, err
	}
	if err := c.telemetry.close(); err != nil {
		c.report.event("client", "%v", err)
	}
	if code, err = c.sum(list); err == nil && c.stay {
		<-ctx.Done()
	}
	return code, err
}

// service starts the built-in payment service, unless there is another, and returns
// how to close it and how to read its store.
func (c *client) service(script payments.Script) (stop func() error, list charges, err error) {
	if c.paymentURL != "" {
		wear, err := c.wearer()
		if err != nil {
			return nil, nil, err
		}
		remote := wear(nil) // with the standard pipeline
		return func() error { remote.close(); return nil }, remote.charges, nil
	}
	service, err := payments.Start(payments.Config{
		Path: filepath.Join(c.data, paymentsFile), Script: script, Seed: c.seed, Phase: c.report.phase,
	})
	if err != nil {
		return nil, nil, err
	}
	c.paymentURL = service.URL()
	return service.Close, service.Charges, nil
}

// wearer returns how to make a client of the payment service that wears a policy.
func (c *client) wearer() (func(mettle.Policy) payer, error) {
	if c.transport == "http" {
		return func(p mettle.Policy) payer { return newHTTP(c.paymentURL, c.telemetry.tracer, p) }, nil
	}
	to, err := grpcTarget(c.paymentURL)
	if err != nil {
		return nil, err
	}
	return func(p mettle.Policy) payer { return newGRPC(to, c.telemetry.tracer, p) }, nil
}

func (c *client) greet() {
	to := "a service of its own"
	if c.paymentURL != "" {
		to = redacted(c.paymentURL)
	}
	if c.transport != "http" {
		to += " over " + c.transport
	}
	c.report.event("client", "run %d over %s, payments to %s", c.store.Run(), c.data, to)
	if n := c.store.Counts(); n.Orders > 0 {
		c.report.event("client", "found %s: %d paid, %d dead, %d waiting, of these %d on their way when the last run ended",
			plural(n.Orders, "order"), n.Direct+n.Replayed, n.Dead, n.Waiting, c.store.InDoubt())
	}
}

// redacted returns a URL without its password.
func redacted(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "an unreadable URL"
	}
	return u.Redacted()
}

// run takes the orders in and replays the queue until all is settled, ctx ends, or
// nothing moves any more. The error is of the store.
func (c *client) run(ctx context.Context, input io.Reader) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var wait sync.WaitGroup
	defer wait.Wait()

	quiet := make(chan struct{})
	wait.Go(func() { c.report.progress(quiet) })
	defer close(quiet)

	replays := &replayer{
		store: c.store, pipeline: c.pipeline, report: c.report,
		backoff: retry.Jitter{Rand: &lockedSource{src: rand.NewPCG(c.seed, 2)}}.Full(80*time.Millisecond, 600*time.Millisecond),
	}
	taken, replayed := make(chan error, 1), make(chan error, 1)
	go func() { taken <- c.take(ctx, input) }()
	go func() { replayed <- replays.run(ctx) }()

	err := c.supervise(ctx, end, taken)
	return errors.Join(err, c.failure(<-replayed))
}

// supervise ends the run when it is time to, and returns when the intake has ended.
func (c *client) supervise(ctx context.Context, end context.CancelCauseFunc, taken <-chan error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var failed error
	last, at := c.store.Counts(), time.Now()
	for {
		select {
		case err := <-taken:
			taken = nil
			if failed = c.failure(err); failed != nil {
				end(failed)
			}
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, errFinished) {
				c.report.event("client", "stopping: %v; payments under way are waited for", stopReason(cause))
			}
			if taken != nil {
				failed = errors.Join(failed, c.failure(<-taken))
			}
			return failed
		case <-tick.C:
		}
		n := c.store.Counts()
		if n != last {
			last, at = n, time.Now()
		}
		switch {
		case taken == nil && n.Waiting == 0:
			end(errFinished)
		case time.Since(at) > c.patience && n.Waiting > 0:
			end(errImpatient)
		}
	}
}

func stopReason(cause error) error {
	if errors.Is(cause, context.Canceled) {
		return errStopped
	}
	return cause
}

// failure returns what is a failure, and not a reason to end.
func (c *client) failure(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, errFinished) || errors.Is(err, errImpatient) {
		return nil
	}
	return err
}

// take reads orders and hands each to a worker, all of one customer to the same one,
// so that a customer's orders are taken one after the other. It returns when the
// workers have ended.
func (c *client) take(ctx context.Context, input io.Reader) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var wait sync.WaitGroup
	lanes := make([]chan store.Order, workers)
	for i := range lanes {
		lanes[i] = make(chan store.Order, laneRoom)
		wait.Go(func() {
			for o := range lanes[i] {
				if err := c.order(ctx, o); err != nil {
					fail(err)
				}
			}
		})
	}
	err := c.readAll(ctx, input, lanes)
	for _, lane := range lanes {
		close(lane)
	}
	wait.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// readAll reads the orders at the rate that was asked for.
func (c *client) readAll(ctx context.Context, input io.Reader, lanes []chan store.Order) error {
	seed := maphash.MakeSeed()
	start := time.Now()
	items := c.readAhead(ctx, input)
	for n := 0; ; n++ {
		if c.rate > 0 && !sleepUntil(ctx, start.Add(time.Duration(float64(n)/c.rate*float64(time.Second)))) {
			return context.Cause(ctx)
		}
		var it item
		select {
		case it = <-items:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		var line *errLine
		switch {
		case it.err == io.EOF:
			c.read = true
			return nil
		case errors.As(it.err, &line):
			c.refused++
			c.report.event("intake", "%v", line)
			continue
		case it.err != nil:
			c.report.event("intake", "reading stopped: %v", it.err)
			return nil
		}
		select {
		case lanes[maphash.String(seed, it.order.Customer)%workers] <- it.order:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

type item struct {
	order store.Order
	err   error
}

// readAhead reads in a goroutine of its own, since a read of standard input cannot be
// interrupted: at the end of the program it may be left behind.
func (c *client) readAhead(ctx context.Context, input io.Reader) <-chan item {
	items := make(chan item)
	go func() {
		r := newOrderReader(input)
		for {
			o, err := r.next()
			select {
			case items <- item{o, err}:
			case <-ctx.Done():
				return
			}
			var line *errLine
			if err != nil && !errors.As(err, &line) {
				return
			}
		}
	}()
	return items
}

// order takes in one order: it is written down, and then paid or queued.
func (c *client) order(ctx context.Context, o store.Order) error {
	if ctx.Err() != nil {
		c.left.Store(true)
		return nil
	}
	verdict, err := c.store.Accept(o)
	for errors.Is(err, store.ErrFull) {
		c.report.blocked(c.queue)
		select {
		case <-c.store.Room():
		case <-ctx.Done():
			c.left.Store(true) // not accepted; the next run reads it again
			return nil
		}
		verdict, err = c.store.Accept(o)
	}
	switch {
	case err != nil:
		return err
	case verdict == store.PayNow:
		return c.payNow(ctx, o)
	case verdict == store.Behind:
		c.behind.Add(1)
		rec, err := c.store.Get(o.ID)
		c.report.queued(rec)
		return err
	case verdict == store.Known:
		c.known.Add(1)
	case verdict == store.Repeated:
		c.repeated.Add(1)
		c.report.event("intake", "order %s came again, and counts once", o.ID)
	case verdict == store.Conflict:
		c.report.event("intake", "order %s came again with other content; the first one stands", o.ID)
	}
	return nil
}

func (c *client) payNow(ctx context.Context, o store.Order) error {
	// A payment is not cut short when the program stops: it has its own timeout.
	paid, err := c.pipeline.pay(context.WithoutCancel(ctx), o)
	if err == nil && paid {
		_, err = c.store.Paid(o.ID)
	}
	return err
}

// toQueue is what the fallback of the pipeline does.
func (c *client) toQueue(o store.Order, cause error) error {
	rec, err := c.store.Enqueue(o.ID, why(cause))
	if err == nil {
		c.report.queued(rec)
	}
	return err
}

// complete reports whether every order that was sent to us has been taken in.
func (c *client) complete() bool { return c.read && !c.left.Load() }

// sum prints what has become of the orders and returns the exit status.
func (c *client) sum(list charges) (int, error) {
	found, err := audit(c.store, list)
	n := c.store.Counts()
	for _, line := range c.pipeline.summary(int(c.behind.Load())) {
		c.report.event("pipeline", "%s", line)
	}
	if again := c.report.again; again > 0 {
		c.report.event("client", "%s charged already, at an attempt whose answer was lost: a key kept each from being paid twice",
			were(again, "replayed order"))
	}
	if k := int(c.known.Load()); k > 0 {
		c.report.event("client", "%s known from an earlier run", were(k, "order"))
	}
	if c.refused > 0 {
		c.report.event("intake", "%s refused", were(c.refused, "line"))
	}
	if !c.complete() {
		c.report.event("intake", "not all orders were taken in")
	}
	if n.Waiting > 0 {
		c.report.event("client", "still waiting, safe in %s: %s; to go on: the same command with -data %s", c.data, plural(n.Waiting, "order"), c.data)
	} else if c.temporary {
		c.report.event("client", "both ledgers stay in %s; to remove them: rm -r %s", c.data, c.data)
	}
	verdict := fmt.Sprintf("lost=%d duplicated=%d", found.lost, found.duplicated)
	if err != nil {
		c.report.event("audit", "%v", err)
		verdict = "lost=unknown duplicated=unknown"
	} else {
		for _, line := range found.lines {
			c.report.event("audit", "%s", line)
		}
		c.report.event("audit", "ledgers compared, the client's and the service's: %s in both", plural(found.both, "payment"))
	}
	c.report.plain("orders=%d paid=%d direct=%d queued=%d replayed=%d dead=%d %s",
		n.Orders, n.Direct+n.Replayed, n.Direct, n.Queued, n.Replayed, n.Dead, verdict)
	switch {
	case err != nil || found.lost > 0 || found.duplicated > 0:
		return exitLost, nil
	case n.Waiting > 0 || !c.complete():
		return exitWaiting, nil
	}
	return exitOK, nil
}

// sleepUntil reports false when ctx ended first.
func sleepUntil(ctx context.Context, t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
