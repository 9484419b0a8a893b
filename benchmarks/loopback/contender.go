package loopback

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/cristalhq/hedgedhttp"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/adaptivethrottler"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafegrpc"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/failsafe-go/failsafe-go/hedgepolicy"
	fstimeout "github.com/failsafe-go/failsafe-go/timeout"
	"google.golang.org/grpc"
	pb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/benchmarks/scorecard"
	"github.com/mettle-go/mettle/benchmarks/sim"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/middleware/mettlegrpc"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// contender is one way to protect calls. Where a library brings no adapter for a
// protocol, its calls are made by the code that the simulation runs.
type contender struct {
	Name, What string

	hedges bool // takes part where answers are slow, and nowhere else
	byHand func(scorecard.Client) sim.Caller

	// Adapters, instead of byHand. Nil: it has none for the protocol.
	http func(scorecard.Client, http.RoundTripper) http.RoundTripper
	grpc func(scorecard.Client) grpc.UnaryClientInterceptor
	// total: the context of the call has its deadline. Who does not say so sees to it.
	total bool
}

func (k contender) speaks(proto string) bool {
	if proto == simulated {
		_, ok := inScorecard(k.Name)
		return ok
	}
	return k.byHand != nil || proto == overHTTP && k.http != nil || proto == overGRPC && k.grpc != nil
}

// contenders are all there are, in the order of the tables.
func contenders() []contender {
	all := []contender{
		{Name: "mettle", What: "mettlehttp and mettlegrpc with their standard pipeline, but for the two timeouts", http: mettleHTTP, grpc: mettleGRPC},
		asSimulated("gobreaker"),
		{Name: "failsafe", What: "failsafehttp and failsafegrpc with a retry policy, a circuit breaker that is told to count 5xx, and a timeout, as they come", http: failsafeHTTP, grpc: failsafeGRPC, total: true},
		{Name: "failsafe-throttler", What: "the same with an adaptive throttler in place of the breaker", http: throttlerHTTP, grpc: throttlerGRPC, total: true},
	}
	for _, name := range []string{"go-zero", "aegis", "none", "timeout", "naive", "jitter"} {
		all = append(all, asSimulated(name))
	}
	return append(all,
		contender{Name: "mettle-hedge", What: "a hedge as it comes, under a timeout, in mettlehttp and mettlegrpc", hedges: true, http: mettleHedgeHTTP, grpc: mettleHedgeGRPC},
		contender{Name: "failsafe-hedge", What: "a hedge policy of failsafe-go with the 95th percentile of the last 100 calls as its delay, in failsafehttp and failsafegrpc", hedges: true, http: failsafeHedgeHTTP, grpc: failsafeHedgeGRPC, total: true},
		contender{Name: "hedgedhttp", What: "cristalhq/hedgedhttp, 2 requests at most, told the 95th percentile beforehand; HTTP only", hedges: true, http: hedgedHTTP, total: true},
	)
}

func find(name string) (contender, bool) {
	all := contenders()
	i := slices.IndexFunc(all, func(k contender) bool { return k.Name == name })
	if i < 0 {
		return contender{}, false
	}
	return all[i], true
}

// asSimulated returns a contender of the scorecard, whose code makes attempts of any kind.
func asSimulated(name string) contender {
	k, _ := inScorecard(name)
	return contender{Name: k.Name, What: k.What, byHand: k.New}
}

// asItIs makes a call whose adapter does all that is to be done.
func asItIs(ctx context.Context, _ int, op func(context.Context) error) error { return op(ctx) }

// underDeadline is asItIs for adapters that are left to the context.
func underDeadline(d time.Duration) sim.Caller {
	return func(ctx context.Context, _ int, op func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, d)
		defer cancel()
		return op(ctx)
	}
}

// mettlePolicy is the standard pipeline of mettlehttp and mettlegrpc.
func mettlePolicy(c scorecard.Client) mettle.Policy {
	return mettle.Compose(
		timeout.New(timeout.Config{After: c.Deadline}),
		retry.New(retry.Config{}),
		breaker.New(breaker.Config{OnChange: func(change breaker.Change) {
			if change.To == breaker.Open {
				c.Opened()
			}
		}}),
		bulkhead.New(bulkhead.Config{}),
		timeout.New(timeout.Config{After: c.Attempt}),
	)
}

func mettleHTTP(c scorecard.Client, base http.RoundTripper) http.RoundTripper {
	return mettlehttp.NewTransport(base, mettlePolicy(c))
}

func mettleGRPC(c scorecard.Client) grpc.UnaryClientInterceptor {
	return mettlegrpc.UnaryClientInterceptor(mettlePolicy(c))
}

func mettleHedge(c scorecard.Client) mettle.Policy {
	return mettle.Compose(timeout.New(timeout.Config{After: c.Deadline}), hedge.New(hedge.Config{}))
}

func mettleHedgeHTTP(c scorecard.Client, base http.RoundTripper) http.RoundTripper {
	return mettlehttp.NewTransport(base, mettleHedge(c))
}

func mettleHedgeGRPC(c scorecard.Client) grpc.UnaryClientInterceptor {
	return mettlegrpc.UnaryClientInterceptor(mettleHedge(c))
}

// failed is what a policy of failsafe-go has to be told about HTTP: of itself it takes an
// answer of 503 for a success.
func failed(resp *http.Response, err error) bool {
	return err != nil || resp.StatusCode >= http.StatusInternalServerError
}

func failsafeHTTP(c scorecard.Client, base http.RoundTripper) http.RoundTripper {
	return failsafehttp.NewRoundTripper(base,
		failsafehttp.NewRetryPolicyBuilder().Build(),
		circuitbreaker.NewBuilder[*http.Response]().HandleIf(failed).OnOpen(opened(c)).Build(),
		fstimeout.New[*http.Response](c.Attempt))
}

func throttlerHTTP(c scorecard.Client, base http.RoundTripper) http.RoundTripper {
	return failsafehttp.NewRoundTripper(base,
		failsafehttp.NewRetryPolicyBuilder().Build(),
		adaptivethrottler.NewBuilder[*http.Response]().HandleIf(failed).Build(),
		fstimeout.New[*http.Response](c.Attempt))
}

func failsafeGRPC(c scorecard.Client) grpc.UnaryClientInterceptor {
	return overFailsafe(c, circuitbreaker.NewBuilder[*pb.SimpleResponse]().OnOpen(opened(c)).Build())
}

func throttlerGRPC(c scorecard.Client) grpc.UnaryClientInterceptor {
	return overFailsafe(c, adaptivethrottler.NewWithDefaults[*pb.SimpleResponse]())
}

func overFailsafe(c scorecard.Client, middle failsafe.Policy[*pb.SimpleResponse]) grpc.UnaryClientInterceptor {
	return failsafegrpc.NewUnaryClientInterceptor(
		failsafegrpc.NewRetryPolicyBuilder[*pb.SimpleResponse]().Build(),
		middle,
		fstimeout.New[*pb.SimpleResponse](c.Attempt))
}

func opened(c scorecard.Client) func(circuitbreaker.StateChangedEvent) {
	return func(circuitbreaker.StateChangedEvent) { c.Opened() }
}

func failsafeHedgeHTTP(_ scorecard.Client, base http.RoundTripper) http.RoundTripper {
	return failsafehttp.NewRoundTripper(base, hedgepolicy.NewWithDelayQuantile[*http.Response](0.95, 100, 20))
}

func failsafeHedgeGRPC(scorecard.Client) grpc.UnaryClientInterceptor {
	return failsafegrpc.NewUnaryClientInterceptor(hedgepolicy.NewWithDelayQuantile[*pb.SimpleResponse](0.95, 100, 20))
}

func hedgedHTTP(_ scorecard.Client, base http.RoundTripper) http.RoundTripper {
	// Nineteen of twenty service times of the slow tail, and what a call takes besides.
	const usual = 17 * time.Millisecond
	hedged, err := hedgedhttp.NewRoundTripper(usual, 2, base)
	if err != nil {
		panic(err) // of constants
	}
	return hedged
}
