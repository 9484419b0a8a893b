package faults

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// The protocols.
const (
	http1      = "HTTP/1.1"
	http2      = "HTTP/2"
	http2Pings = "HTTP/2 with pings"
	grpcQuick  = "gRPC"
	grpcSlow   = "gRPC, own pause"
)

// The calls.
const (
	get        = "GET"
	getLong    = "GET of 256 KiB"
	getChunked = "GET of unknown length"
	post       = "POST"
	postKey    = "POST with a key"
	postLong   = "POST of 256 KiB"
	putLong    = "PUT of 256 KiB"
	unary      = "unary"
	unaryLong  = "unary of 256 KiB"
	unaryUp    = "unary with 256 KiB"
	unaryReady = "unary, WaitForReady"
	stream     = "stream of 256 KiB"
)

// The pipelines. What the short one allows is long for anything that works on a busy
// machine, and makes waiting for the rest bearable.
const (
	standard   = "standard"
	short      = "short"
	shortAny   = "short, resends DeadlineExceeded"
	shortNone  = "short, resends nothing"
	shortTotal = "short, StreamTotal"
	impatient  = "standard, caller's deadline"
	hedged     = "hedged"

	totalTimeout   = 8 * time.Second
	attemptTimeout = 2 * time.Second
	callerTimeout  = 1500 * time.Millisecond
	hedgeAfter     = 300 * time.Millisecond

	// gRPC fails calls for as long as it pauses after a failed connection. So that it is
	// known which attempt fails, and which finds a new connection, a pause is long for a call
	// to notice, and a backoff without jitter is long for a pause to be over.
	backoff   = 600 * time.Millisecond
	grpcPause = 150 * time.Millisecond
)

// policy returns the pipeline of that name, nil where the standard one is meant.
func policy(name string) mettle.Policy {
	switch name {
	case standard, impatient:
		return nil
	case hedged:
		return mettle.Compose(
			timeout.New(timeout.Config{After: totalTimeout}),
			hedge.New(hedge.Config{After: hedgeAfter}),
		)
	}
	return mettle.Compose(
		timeout.New(timeout.Config{After: totalTimeout}),
		// Its budget starts full: a new one would let a timeout be followed by one attempt.
		retry.New(retry.Config{MaxAttempts: 3, Backoff: retry.Constant(backoff), Budget: retry.NewBudget(retry.BudgetConfig{Start: 10})}),
		timeout.New(timeout.Config{After: attemptTimeout}),
	)
}

// allowed is how long a call may take, for all that the network does. The timeouts of a
// pipeline bound no stream; StreamTotal does.
func (c cell) allowed() time.Duration {
	switch {
	case c.pipeline == impatient:
		return callerTimeout
	case c.pipeline == standard || c.call == stream && c.pipeline != shortTotal:
		return 30 * time.Second
	default:
		return totalTimeout
	}
}

// late is how much later than that a busy machine may notice.
const late = 3 * time.Second

// peers are a client and a server on a wire.
type peers interface {
	wear(policy mettle.Policy, pipeline string) // makes the client
	warm()                                      // makes a call that does not count
	call(ctx context.Context, call string) string
	leave()                                 // gives up the connections that are idle
	observe(yield func(mettle.Metric) bool) // what the policies tell of themselves
}

// cell is a call in trouble, and what has to come of it.
type cell struct {
	protocol, call, pipeline string
	want                     result
}

// result is what has come of a call.
type result struct {
	outcome  string // what the caller sees
	attempts int    // of the policy
	arrivals int    // of the request, at the server's handler
}

// row is a line of the page.
type row struct {
	fault string
	cell
	got               result
	leaked, unstopped int // connections, goroutines
}

// TestFaults makes every call of the table under every fault that is listed for it, and
// compares what the caller sees, how often the server was asked, and what is left behind,
// with what is promised.
//
// Spec: W1 (part), W4 (part), W6 (part), W8 (part), W9 (part), W14 (part), W15 (part), W16 (part),
// G1 (part), G2 (part), G6 (part), G8 (part)
func TestFaults(t *testing.T) {
	var all []*row
	for _, f := range table {
		for _, c := range f.cells {
			all = append(all, &row{fault: f.fault.name, cell: c})
		}
	}
	ran := make([]bool, len(all))
	t.Run("table", func(t *testing.T) {
		// Not t.Parallel, which runs as many as there are processors: these mostly wait.
		var wait sync.WaitGroup
		defer wait.Wait()
		places := make(chan struct{}, 16)
		i := 0
		for _, f := range table {
			for range f.cells {
				r, done := all[i], &ran[i]
				i++
				places <- struct{}{}
				wait.Go(func() {
					defer func() { <-places }()
					t.Run(fmt.Sprintf("%s/%s/%s/%s", r.fault, r.protocol, r.call, r.pipeline), func(t *testing.T) {
						r.run(t, f.fault)
						*done = true
					})
				})
			}
		}
	})
	for _, done := range ran {
		if !done {
			return // a part was chosen with -run, or has failed
		}
	}
	checkPage(t, all)
}

// run makes the call and fills in what came of it.
func (r *row) run(t *testing.T, f fault) {
	w, a := newWire(t, f), &arrivals{}
	newPeers := newHTTPPeers
	if r.protocol == grpcQuick || r.protocol == grpcSlow {
		newPeers = newGRPCPeers
	}
	p := newPeers(t, w, r.protocol, a)
	if f.outage {
		stop := r.outage(t, w, a)
		defer stop()
	}
	var attempts atomic.Int64
	labelled(t.Name(), func(context.Context) {
		p.wear(policy(r.pipeline), r.pipeline)
		if f.live || f.hangUp {
			p.warm()
		}
	})
	if f.live {
		w.strike(t)
	}
	if f.hangUp {
		assert.True(t, soon(func() bool { return w.servers.closed.Load() > 0 }), "the server does not hang up")
	}
	var took time.Duration
	labelled(t.Name(), func(ctx context.Context) {
		if r.pipeline == impatient {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, callerTimeout)
			defer cancel()
		}
		count := func(mettle.TraceEvent) { attempts.Add(1) }
		ctx = mettle.WithTrace(ctx, &mettle.Trace{AttemptStart: count, Hedged: count})
		if r.pipeline == hedged {
			attempts.Add(1) // the first is not told
		}
		begun := time.Now()
		r.got.outcome = p.call(ctx, r.call)
		took = time.Since(begun)
	})
	where := r.settle(t, w, p)
	r.got.attempts, r.got.arrivals = int(attempts.Load()), int(a.n.Load())

	assert.Equal(t, r.want, r.got)
	assert.Less(t, took, r.allowed()+late, "the deadline is not kept")
	if r.got.attempts == 1 && (strings.HasPrefix(r.got.outcome, "OK") || strings.HasSuffix(r.got.outcome, "whole")) {
		assert.GreaterOrEqual(t, took, f.delay, "there was no fault")
	}
	assert.Zero(t, r.leaked, "connections are left: %d of the client's, %d of the server's", w.clients.open(), w.servers.open())
	assert.Zero(t, r.unstopped, "goroutines of the client are left:\n%s", where)
	r.checkOnce(t, a)
	p.observe(func(m mettle.Metric) bool {
		if m.Name == "mettle.bulkhead.in_flight" {
			assert.Zero(t, m.Value, "slots of the bulkhead are held")
		}
		return true
	})
}

// settle waits for connections and goroutines to end, with the server and the proxies
// still there: who leaves a connection open leaves it open to somebody. It fills in how
// many are left, and returns where the goroutines are.
func (r *row) settle(t *testing.T, w *wire, p peers) (stacks string) {
	soon(func() bool {
		// More than once, because net/http takes a stream of HTTP/2 off its connection only
		// after the call that it belonged to has returned (golang/go issue 50027).
		p.leave()
		if r.leaked = max(w.clients.open(), w.servers.open()); r.leaked > 0 {
			return false
		}
		r.unstopped, stacks = goroutines(t, t.Name())
		return r.unstopped == 0
	})
	return stacks
}

// checkOnce looks at what holds for every row, whatever the table says.
func (r *row) checkOnce(t *testing.T, a *arrivals) {
	assert.LessOrEqual(t, r.got.arrivals, r.got.attempts+1, "net/http has sent more than one attempt again")
	keys := 0
	a.keys.Range(func(any, any) bool { keys++; return true })
	assert.LessOrEqual(t, keys, 1, "attempts have different keys")
	assert.False(t, a.damaged.Load(), "a body arrived that is not the one that was sent")
	if r.call == post || r.call == postLong {
		assert.LessOrEqual(t, r.got.arrivals, 1, "done twice")
	}
}

// outage takes the wire down when the first request has arrived and brings it up again
// once a connection has been refused, or, if none is going to be, at once. The caller
// calls stop when the call has ended.
func (r *row) outage(t *testing.T, w *wire, a *arrivals) (stop func()) {
	arrived, over := make(chan struct{}), make(chan struct{})
	a.first = func(ctx context.Context) { close(arrived); <-ctx.Done() }
	var ended sync.WaitGroup
	ended.Go(func() {
		select {
		case <-arrived:
		case <-over:
			return
		}
		w.faulty.Stop()
		if r.want.attempts > 1 {
			assert.True(t, soon(func() bool { return w.refused.Load() > 0 }), "no attempt was made in the outage")
		}
		assert.NoError(t, w.faulty.Start())
	})
	return func() { close(over); ended.Wait() }
}
