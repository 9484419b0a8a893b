package tests

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/dashboard"
	"github.com/mettle-go/mettle/fallback"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/mettletest"
	"github.com/mettle-go/mettle/middleware/mettlegrpc"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// What the README shows compiles, because it stands in this file word for word.
func TestReadmeSnippetsCompile(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("readme_test.go")
	require.NoError(t, err)
	compiled := unindent(string(source))
	snippets := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	require.NotEmpty(t, snippets)
	for _, snippet := range snippets {
		assert.Contains(t, compiled, "\n"+unindent(snippet[1]), "README.md has code that tests/readme_test.go has not")
	}
}

// The policy of one's own that the README shows keeps the contract, with no more code.
func TestReadmePolicyKeepsTheContract(t *testing.T) {
	before := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	defer slog.SetDefault(before)
	t.Run("alone", func(t *testing.T) {
		mettletest.TestPolicy(t, func() mettle.Policy {
			logged, _ := ownPolicy(mettle.Compose())
			return logged
		})
	})
	t.Run("composed", func(t *testing.T) {
		mettletest.TestPolicy(t, func() mettle.Policy {
			_, p := ownPolicy(payments())
			return p
		})
	})
}

func unindent(text string) string {
	return regexp.MustCompile(`(?m)^\t+`).ReplaceAllString(strings.TrimLeft(text, "\n"), "")
}

// The bodies of the functions below are the snippets. All are compiled, and those that
// make a policy are run above.

var (
	_ = []any{oneLine, pipeline, value, hedged, learning, page, httpClient, httpServer, tenants, fallBack, sharedBudget,
		grpcClient, ownPolicy, whatFailed}

	ctx   = context.Background()
	creds credentials.TransportCredentials
	order string
)

func charge(context.Context, string) error { return nil }

func exchangeRate(context.Context, string, string) (float64, error) { return 1, nil }

func currentRate(context.Context) (float64, error) { return 1, nil }

func lastKnownRate(context.Context, error) (float64, error) { return 1, nil }

func oneLine(client *http.Client) {
	client.Transport = mettlehttp.NewTransport(nil, nil)
}

func payments() mettle.Policy {
	p, _ := pipeline()
	return p
}

func pipeline() (mettle.Policy, error) {
	payments := mettle.Compose(
		timeout.New(timeout.Config{Name: "payments", After: 2 * time.Second}), // all attempts together
		retry.New(retry.Config{Name: "payments"}),
		breaker.New(breaker.Config{Name: "payments"}), // sees every single attempt
		bulkhead.New(bulkhead.Config{Name: "payments", Limit: 20}),
	)
	err := payments.Do(ctx, func(ctx context.Context) error { return charge(ctx, order) })
	return payments, err
}

func value(payments mettle.Policy) (float64, error) {
	rate, err := mettle.Get(ctx, payments, func(ctx context.Context) (float64, error) {
		return exchangeRate(ctx, "EUR", "USD")
	})
	return rate, err
}

func documents(context.Context, string) ([]string, error) { return []string{"mettle"}, nil }

func hedged() ([]string, error) {
	search := mettle.Compose(
		timeout.New(timeout.Config{Name: "search"}),
		hedge.New(hedge.Config{Name: "search"}),
		bulkhead.New(bulkhead.Config{Name: "search"}),
	)
	hits, err := mettle.Get(ctx, search, func(ctx context.Context) ([]string, error) {
		return documents(ctx, "mettle")
	})
	return hits, err
}

func learning() mettle.Policy {
	attempt := timeout.New(timeout.Config{Name: "attempt", After: 2 * time.Second, Quantile: 0.99})
	return attempt
}

func httpClient(payments mettle.Policy, url string) (*http.Response, error) {
	client := &http.Client{Transport: mettlehttp.NewTransport(http.DefaultTransport, payments)}
	resp, err := client.Get(url)
	return resp, err
}

func page(payments *mettle.Pipeline) {
	http.Handle("/debug/mettle/", dashboard.Handler(payments))
}

func httpServer(mux http.Handler) http.Handler {
	slots := bulkhead.New(bulkhead.Config{Name: "server", Limit: 200})
	handler := mettlehttp.NewHandler(mux, slots)
	return handler
}

func tenants(tenantOf func(context.Context) string) mettle.Policy {
	tenants := breaker.NewGroup[string](breaker.GroupConfig{Config: breaker.Config{Name: "tenants"}})
	queries := mettle.Compose(retry.New(retry.Config{Name: "queries"}), tenants.By(tenantOf))
	return queries
}

func fallBack(payments mettle.Policy) (float64, error) {
	rate, err := fallback.Get(ctx, payments, currentRate, lastKnownRate)
	return rate, err
}

func sharedBudget() (mettle.Policy, mettle.Policy) {
	budget := retry.NewBudget(retry.BudgetConfig{Name: "payments"})
	charges := retry.New(retry.Config{Name: "charges", Budget: budget})
	refunds := retry.New(retry.Config{Name: "refunds", Budget: budget})
	return charges, refunds
}

func grpcClient(target string) (*grpc.ClientConn, error) {
	orders := mettlegrpc.Standard("orders") // or a pipeline of yours
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds),
		grpc.WithUnaryInterceptor(mettlegrpc.UnaryClientInterceptor(orders)),
		grpc.WithStreamInterceptor(mettlegrpc.StreamClientInterceptor(orders)),
		grpc.WithDisableRetry())
	return conn, err
}

func ownPolicy(payments mettle.Policy) (alone, composed mettle.Policy) {
	logged := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		begun := time.Now()
		err := op(ctx)
		slog.InfoContext(ctx, "charge", "took", time.Since(begun), "outcome", mettle.Classify(ctx, err).String())
		return err
	})
	p := mettle.Compose(logged, payments)
	return logged, p
}

func whatFailed(err error) {
	var failed *retry.Error
	switch {
	case errors.As(err, &failed): // failed.Attempts were made; failed.Last is the last real error
	case errors.Is(err, breaker.ErrOpen), errors.Is(err, bulkhead.ErrFull): // not sent; both Is mettle.ErrRejected
	case errors.Is(err, timeout.ErrExceeded): // a timeout of ours, not the caller's deadline
	}
}
