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

	// maxFaults is how many failures that may be this order's doing, while others are
	// paid, make it poison. Refused connections, 503 and 429 are about the service and
	// never count.
	maxFaults = 8

	// maxAsked is the longest wait that the service may ask for.
	maxAsked = time.Minute
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
	var answer *answerError
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
	case errors.As(err, &answer) && answer.never():
		return r.bury(o, why(err))
	case suspect(err):
		faults, failure := r.store.Fault(rec, why(err))
		if failure != nil {
			return failure
		}
		if faults >= maxFaults {
			return r.park(ctx, rec, fmt.Sprintf("failed %d times with %s", faults, why(err)))
		}
	}
	r.postpone(rec, err)
	return nil
}

// postpone makes an order wait for its next try: as long as the backoff says, and no
// less than the service has asked for.
func (r *replayer) postpone(rec store.Record, err error) {
	delay := r.backoff(min(rec.Tries, math.MaxInt32-1)+1, 0)
	if asked, ok := mettle.RetryAfter(err); ok {
		delay = max(delay, min(asked, maxAsked))
	}
	r.store.Postpone(rec.Order.Customer, delay, true)
}

// park ends an order that fails while others are paid. What failed may have been done
// all the same, so the service is asked before the order is called dead: a dead
// letter must never have been charged.
func (r *replayer) park(ctx context.Context, rec store.Record, reason string) error {
	charged, err := r.pipeline.charged(ctx, rec.Order)
	switch {
	case err != nil: // still in doubt: try again later
		r.postpone(rec, err)
		return nil
	case charged:
		paid, err := r.store.Paid(rec.Order.ID)
		if err == nil {
			r.report.replayed(paid, true)
		}
		return err
	default:
		return r.bury(rec.Order, reason)
	}
}

func (r *replayer) bury(o store.Order, reason string) error {
	rec, err := r.store.Bury(o.ID, reason)
	if err == nil {
		r.report.buried(rec)
	}
	return err
}
