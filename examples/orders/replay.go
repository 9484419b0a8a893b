package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/examples/orders/internal/store"
	"github.com/mettle-go/mettle/retry"
)

const (
	// replayWidth is how many customers are replayed at once while all is well.
	replayWidth = 4

	// maxFaults is how many answers such as 500, which may mean this order or the
	// whole service, make an order poison. Refused connections, 503 and silence are
	// about the service and never count.
	maxFaults = 8
)

// replayer pays what is in the queue.
type replayer struct {
	store    *store.Store
	pipeline *pipeline
	report   *report
	backoff  retry.Backoff
}

// run replays until ctx ends, and returns when no replay is under way any more. The
// error is of the store.
func (r *replayer) run(ctx context.Context) error {
	var busy int
	done := make(chan error, replayWidth)
	wake := time.NewTimer(0)
	defer wake.Stop()
	for {
		next := r.pipeline.breaker.RemainingDelay()
		for busy < r.width() {
			rec, ok, due := r.store.Lease(time.Now())
			if !ok {
				next = max(next, due)
				break
			}
			busy++
			go func() { done <- r.replay(ctx, rec) }()
		}
		wake.Reset(max(next, time.Millisecond))

		var err error
		select {
		case err = <-done:
			busy--
		case <-r.store.Changed():
		case <-wake.C:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			for ; busy > 0; busy-- {
				err = errors.Join(err, <-done)
			}
			return err
		}
	}
}

// width is how many replays the breaker would let through: none while it is open, one
// to see how things are, and all of them once it has closed.
func (r *replayer) width() int {
	switch {
	case r.pipeline.breaker.State() == breaker.Closed:
		return replayWidth
	case r.pipeline.breaker.RemainingDelay() > 0:
		return 0
	default:
		return 1
	}
}

// replay sends one order and settles what becomes of it.
func (r *replayer) replay(ctx context.Context, rec store.Record) error {
	o := rec.Order
	// The call is not cut short when the program stops: it has its own timeout, and
	// half a payment is only more doubt.
	ctx = context.WithoutCancel(ctx)
	again, err := r.pipeline.replay(ctx, o)
	var status *statusError
	switch {
	case err == nil:
		rec, err := r.store.Paid(o.ID)
		if err == nil {
			r.report.replayed(rec, again)
		}
		return err
	case errors.Is(err, mettle.ErrRejected) && mettle.Classify(ctx, err) == mettle.Ignored:
		// Not sent, so not tried. ErrRejected alone would not say so: with a retry in the
		// pipeline, an order may be refused after it was sent. It is due when the breaker
		// lets somebody through.
		r.store.Postpone(o.Customer, r.pipeline.breaker.RemainingDelay()+5*time.Millisecond, false)
		return nil
	case errors.As(err, &status) && status.never():
		return r.bury(o, why(err))
	case errors.As(err, &status) && status.suspect():
		faults, failure := r.store.Fault(o.ID, why(err))
		if failure != nil {
			return failure
		}
		if faults >= maxFaults {
			return r.bury(o, fmt.Sprintf("answered %d times with %s", faults, why(err)))
		}
	}
	r.store.Postpone(o.Customer, r.backoff(min(rec.Tries, math.MaxInt32-1)+1, 0), true)
	return nil
}

func (r *replayer) bury(o store.Order, reason string) error {
	rec, err := r.store.Bury(o.ID, reason)
	if err == nil {
		r.report.buried(rec)
	}
	return err
}
