package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/dashboard"
	"github.com/mettle-go/mettle/examples/orders/internal/payments"
	"github.com/mettle-go/mettle/examples/orders/internal/store"
	"github.com/mettle-go/mettle/fallback"
	"github.com/mettle-go/mettle/middleware/mettleotel"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// pipeline is how an order gets paid, directly or from the queue.
type pipeline struct {
	order   mettle.Policy      // around direct: the span of an order, and orQueue
	orQueue *fallback.Fallback // around direct
	breaker *breaker.Breaker   // in both, so that either learns from the other
	direct  payer
	replays payer
	asks    payer // for charged: past the breaker, which the order in question may keep open
	resend  *retry.Retrier
	attempt *timeout.Timeout

	watched []mettle.Observable // each policy once
	shown   []dashboard.Item    // on the page
}

// payer is a client of the payment service that wears some of the policies. Its errors are
// answers, of type *answerError, or tell that there is none.
type payer interface {
	// pay sends a payment. again means that the service had made the charge before.
	pay(ctx context.Context, o store.Order) (again bool, err error)
	// charged asks whether an order was charged.
	charged(ctx context.Context, o store.Order) (bool, error)
	// charges reads the list of all charges.
	charges(fn func(payments.Charge) error) error
	close()
}

// newPipeline puts it together. A direct payment goes from the top to the bottom, a
// replay enters at the breaker: the queue is its retry, with a backoff of its own.
//
//	span             one for each order, and for each replay
//	fallback         an order that cannot be paid now goes into the queue
//	total timeout    bounds all that follows, waits and resends included
//	retry            resends what may pass, within a budget
//	breaker          refuses while the service is down
//	bulkhead         bounds the calls in flight
//	attempt timeout  bounds one call
//
// The times are those of a demonstration that must be over in seconds. For a real
// service, begin with the defaults and change what you have measured.
func newPipeline(wear func(mettle.Policy) payer, tracer trace.Tracer, seed uint64, toQueue func(store.Order, error) error, onChange func(breaker.Change)) *pipeline {
	dice := &lockedSource{src: rand.NewPCG(seed, 1)}

	orQueue := fallback.New(fallback.Config{
		Name: "to-queue",
		Run: func(ctx context.Context, err error) error {
			return toQueue(ctx.Value(orderKey{}).(store.Order), err)
		},
	})
	total := timeout.New(timeout.Config{Name: "total", After: 1200 * time.Millisecond})
	budget := retry.NewBudget(retry.BudgetConfig{Name: "payments", Ratio: 0.1, Burst: 10})
	resend := retry.New(retry.Config{
		Name:        "payments",
		MaxAttempts: 3,
		Backoff:     retry.Jitter{Rand: dice}.Full(50*time.Millisecond, 400*time.Millisecond),
		Budget:      budget,
		Rand:        dice,
	})
	guard := breaker.New(breaker.Config{
		Name:        "payments",
		Window:      2 * time.Second,
		FailureRate: 0.5,
		MinCalls:    20,
		Consecutive: 5,
		OpenFor:     300 * time.Millisecond,
		MaxOpenFor:  time.Second,
		OnChange:    onChange,
	})
	slots := bulkhead.New(bulkhead.Config{Name: "payments", Limit: 16, MaxWait: 50 * time.Millisecond})
	attempt := timeout.New(timeout.Config{Name: "attempt", After: 400 * time.Millisecond})

	direct := mettle.Compose(total, resend, guard, slots, attempt)
	replay := mettle.Compose(guard, slots, attempt)
	return &pipeline{
		order:   mettle.Compose(mettleotel.CallSpan(tracer, "pay order"), orQueue),
		orQueue: orQueue,
		breaker: guard,
		direct:  wear(direct),
		replays: wear(mettle.Compose(mettleotel.CallSpan(tracer, "replay order"), replay)),
		asks:    wear(mettle.Compose(slots, attempt)),
		resend:  resend,
		attempt: attempt,
		watched: []mettle.Observable{orQueue, direct, budget},
		shown: []dashboard.Item{
			{Name: "paying an order", Of: mettle.Compose(orQueue, direct)},
			{Name: "replaying one from the queue", Of: replay},
			{Name: "what resends may cost", Of: budget},
		},
	}
}

// summary says what the policies have done in this run, a line for each kind of trouble.
// behind is how many orders never came to the fallback.
func (p *pipeline) summary(behind int) []string {
	resends, guard := p.resend.Stats(), p.breaker.Stats()
	return []string{
		fmt.Sprintf("the retry resent %s, which paid %s; its budget refused to resend %d more",
			plural(int(resends.Retries), "call"), plural(int(resends.Successes[1]+resends.Successes[2]), "order"), resends.Budget),
		fmt.Sprintf("the breaker refused %s; %s ran out of time",
			plural(int(guard.Rejected), "call"), plural(int(p.attempt.Stats().Exceeded), "attempt")),
		fmt.Sprintf("the fallback queued %s; %d more waited behind an earlier order of theirs",
			plural(int(p.orQueue.Stats().FellBack), "order"), behind),
	}
}

func (p *pipeline) close() {
	for _, c := range []payer{p.direct, p.replays, p.asks} {
		c.close()
	}
}

type orderKey struct{}

// pay pays an order directly, or puts it into the queue. When the error is nil, one of
// the two has happened, and paid tells which.
func (p *pipeline) pay(ctx context.Context, o store.Order) (paid bool, err error) {
	ctx = context.WithValue(ctx, orderKey{}, o)
	err = p.order.Do(ctx, func(ctx context.Context) error {
		_, err := p.direct.pay(ctx, o)
		paid = err == nil
		return err
	})
	return paid, err
}

// replay sends an order from the queue once. again means that the service had made
// the charge before, at an attempt whose answer never came.
func (p *pipeline) replay(ctx context.Context, o store.Order) (again bool, err error) {
	return p.replays.pay(ctx, o)
}

// charged asks the service whether an order was charged.
func (p *pipeline) charged(ctx context.Context, o store.Order) (bool, error) {
	return p.asks.charged(ctx, o)
}

// lockedSource makes a source of chance safe for the many goroutines that retry.
type lockedSource struct {
	mu  sync.Mutex
	src rand.Source
}

func (s *lockedSource) Uint64() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.src.Uint64()
}
