package mettlehttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/mettletest"
	"github.com/mettle-go/mettle/retry"
)

func hostContext(ctx context.Context, host string) context.Context {
	return &call{Context: ctx, host: host}
}

func pass(context.Context) error { return nil }

func observe(o mettle.Observable) map[string]float64 {
	sums := map[string]float64{}
	o.Observe(func(m mettle.Metric) bool { sums[m.Name] += m.Value; return true })
	return sums
}

// TestCompartments fills one host's bulkhead and uses another's.
//
// Spec: W17
func TestCompartments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newStandard("http", 3)
		release := make(chan struct{})
		hang := func(context.Context) error { <-release; return nil }
		bad := hostContext(t.Context(), "bad")
		for range 200 {
			go p.Do(bad, hang)
		}
		synctest.Wait()
		err := p.Do(bad, pass)
		var full *bulkhead.FullError
		if !errors.As(err, &full) || full.Name != "http host[bad]" {
			t.Errorf("host 201 times in flight: %v", err)
		}
		// Many hosts, one after the other, are never more than the bound.
		for i := range 100 {
			if err := p.Do(hostContext(t.Context(), fmt.Sprint("good", i)), pass); err != nil {
				t.Fatal(err)
			}
			if len(p.hosts) > 3 || p.hosts["bad"] == nil {
				t.Fatalf("%d hosts, bad %v", len(p.hosts), p.hosts["bad"])
			}
		}
		// Hosts beyond the bound share what is left.
		for i := range 4 {
			go p.Do(hostContext(t.Context(), fmt.Sprint("busy", i)), hang)
		}
		synctest.Wait()
		if n := p.rest.bulkhead.Stats().InFlight; n != 2 {
			t.Errorf("%d in the bulkhead of the rest, want 2", n)
		}
		metrics := observe(p)
		if metrics["mettle.bulkhead.in_flight"] != 204 || metrics["mettle.bulkhead.rejected"] != 1 {
			t.Errorf("metrics: %v", metrics)
		}
		close(release)
		synctest.Wait()
		time.Sleep(lookPause)
		// The counts of those let go are kept.
		for i := range 4 {
			p.Do(hostContext(t.Context(), fmt.Sprint("new", i)), pass)
		}
		metrics = observe(p)
		if p.hosts["bad"] != nil || metrics["mettle.bulkhead.in_flight"] != 0 ||
			metrics["mettle.bulkhead.rejected"] != 1 || metrics["mettle.retry.attempts"] != 200+1+100+4+4 {
			t.Errorf("metrics: %v", metrics)
		}
	})
}

// TestRatiosAreNotSums has two hosts whose calls are sent three times: together that is
// three attempts for each call, and not six.
func TestRatiosAreNotSums(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newStandard("http", 3)
		for _, host := range []string{"a", "b"} {
			err := p.Do(hostContext(t.Context(), host), func(context.Context) error { return errors.New("down") })
			if err == nil {
				t.Error("no error")
			}
		}
		if a := observe(p)["mettle.retry.amplification"]; a != 3 {
			t.Errorf("amplification %v, want 3", a)
		}
	})
}

// TestBudgetPerHost has one host down until its budget is spent, and then another fail
// once: that one is asked again all the same.
//
// Spec: R17, W17
func TestBudgetPerHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newStandard("http", 2)
		// Resending after a timeout costs double, so that the budget is spent before
		// the breaker opens: from then on refused resends would be refunded.
		down := context.DeadlineExceeded
		a, b := hostContext(t.Context(), "a"), hostContext(t.Context(), "b")
		for i := 0; !errors.Is(p.Do(a, func(context.Context) error { return down }), retry.ErrBudget); i++ {
			if i == 10 {
				t.Fatal("the budget is not spent")
			}
		}
		n := 0
		err := p.Do(b, func(context.Context) error {
			if n++; n < 2 {
				return down
			}
			return nil
		})
		if err != nil || n != 2 {
			t.Errorf("the other host: %v after %d attempts", err, n)
		}
		if m := observe(p); m["mettle.retry.budget_denials"] != 1 {
			t.Errorf("metrics: %v", m)
		}

		// Nobody calls a, but its budget is not forgotten for the sake of new hosts.
		p.Do(hostContext(t.Context(), "c"), pass)
		if p.hosts["a"] == nil || p.hosts["a"].budget.Balance() > 0.1 {
			t.Errorf("budget of a: %v", p.hosts["a"])
		}
		time.Sleep(12 * time.Minute) // by then it is as good as new
		p.Do(hostContext(t.Context(), "d"), pass)
		if p.hosts["a"] != nil || p.hosts["d"] == nil {
			t.Errorf("hosts: %v", p.hosts)
		}
	})
}

// TestGauges counts what there is: nothing before the first host, and no spare bulkhead
// before it is used.
func TestGauges(t *testing.T) {
	p := newStandard("http", 1)
	busy := hostContext(t.Context(), "a")
	for i, do := range []func(){
		func() {},
		func() { p.Do(busy, pass) },
		func() { p.Do(hostContext(t.Context(), "b"), pass) }, // instead of a
		func() {
			p.Do(busy, func(context.Context) error { return p.Do(hostContext(t.Context(), "b"), pass) })
		},
	} {
		do()
		m := observe(p)
		want := []float64{0, 200, 200, 400}[i]
		tokens := []float64{0, 2.1, 2.1, 4.2}[i] // a call has succeeded
		if m["mettle.bulkhead.limit"] != want || math.Abs(m["mettle.retry.budget_tokens"]-tokens) > 0.01 {
			t.Errorf("step %d: limit %v, tokens %v; want %v and %v",
				i, m["mettle.bulkhead.limit"], m["mettle.retry.budget_tokens"], want, tokens)
		}
	}
}

// TestLetGo comes back to the host asked last after it was let go. It was found by the
// short cut that there is for that host, and what it counted from then on was lost.
func TestLetGo(t *testing.T) {
	p := newStandard("http", 1)
	for i, host := range []string{"a", "a", "b", "a", "b", "b", "a"} {
		p.Do(hostContext(t.Context(), host), pass)
		if m := observe(p); m["mettle.retry.attempts"] != float64(i+1) || len(p.hosts) != 1 || p.hosts[host] == nil {
			t.Errorf("call %d: %v attempts counted, hosts %v", i+1, m["mettle.retry.attempts"], p.hosts)
		}
	}
}

// TestLetGoUnderway has hosts push one another out while they are called: no call is lost.
func TestLetGoUnderway(t *testing.T) {
	p := newStandard("http", 2)
	const callers, calls = 8, 300
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range calls {
				if i%100 == 0 {
					p.mu.Lock()
					p.nextLook = time.Time{} // as if the pause were over
					p.mu.Unlock()
				}
				p.Do(hostContext(t.Context(), fmt.Sprint((c+i/10)%4)), pass)
			}
		})
	}
	wg.Wait()
	if m := observe(p); m["mettle.retry.attempts"] != callers*calls || m["mettle.bulkhead.in_flight"] != 0 {
		t.Errorf("%v attempts counted, want %d; %v in flight", m["mettle.retry.attempts"], callers*calls, m["mettle.bulkhead.in_flight"])
	}
	for key, h := range p.hosts {
		if n := h.calls.Load(); n != 0 {
			t.Errorf("host %s: %d calls under way", key, n)
		}
	}
}

// TestShown takes a Transport apart as a page does that shows it.
func TestShown(t *testing.T) {
	transport := NewTransport(nil, nil)
	first, second := transport.Policies(), transport.Policies()
	if !slices.Equal(first, second) {
		t.Error("the policies are others each time")
	}
	var kinds []string
	n := 0
	for _, p := range first {
		p.(mettle.Observable).Observe(func(m mettle.Metric) bool {
			n++
			kind := strings.Split(m.Name, ".")[1]
			if len(kinds) == 0 || kinds[len(kinds)-1] != kind {
				kinds = append(kinds, kind)
			}
			return true
		})
		if v := p.(slog.LogValuer).LogValue(); v.Kind() != slog.KindGroup || len(v.Group()) == 0 {
			t.Errorf("%T has no configuration to show: %v", p, v)
		}
	}
	if want := []string{"timeout", "retry", "breaker", "bulkhead", "timeout"}; !slices.Equal(kinds, want) {
		t.Errorf("the policies are %q, want %q", kinds, want)
	}
	transport.Observe(func(mettle.Metric) bool { n--; return true })
	if n != 0 {
		t.Errorf("the policies yield %d metrics more than the Transport", n)
	}
	if _, ok := first[2].(interface {
		Breakers() iter.Seq[*breaker.Breaker]
	}); !ok {
		t.Errorf("%T does not show its breakers", first[2])
	}

	own := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error { return op(ctx) })
	composed := mettle.Compose(first[0], first[4])
	if got := NewTransport(nil, composed).Policies(); !slices.Equal(got, composed.Policies()) {
		t.Errorf("of a pipeline: %v", got)
	}
	if got := NewTransport(nil, own).Policies(); len(got) != 1 {
		t.Errorf("of a policy: %v", got)
	}
	limit := NewHandler(http.NotFoundHandler(), nil).(interface{ Policies() []mettle.Policy }).Policies()
	if _, ok := limit[0].(*bulkhead.Bulkhead); len(limit) != 1 || !ok {
		t.Errorf("of a handler: %v", limit)
	}
}

// series returns the series of o, and fails the test when one comes twice.
func series(t *testing.T, o mettle.Observable, into map[string]bool) {
	t.Helper()
	o.Observe(func(m mettle.Metric) bool {
		key := fmt.Sprint(m.Name, m.Labels)
		if into[key] {
			t.Errorf("%s comes twice", key)
		}
		into[key] = true
		return true
	})
}

// TestNamed watches two standard pipelines and two handlers side by side. Their
// policies used to be called the same, and Prometheus refuses a series that comes twice.
func TestNamed(t *testing.T) {
	all := map[string]bool{}
	for _, opts := range [][]Option{nil, {Named("payments")}} {
		transport := NewTransport(nil, nil, opts...)
		if err := transport.policy.Do(hostContext(t.Context(), "host"), pass); err != nil {
			t.Error(err)
		}
		series(t, transport, all)
		series(t, NewHandler(http.NotFoundHandler(), nil, opts...).(mettle.Observable), all)
	}
	if !all["mettle.timeout.exceeded[{policy payments total}]"] {
		t.Errorf("series: %v", all)
	}
	// Whoever has seen enough is asked no more.
	for n := range len(all) / 2 {
		yielded := 0
		NewTransport(nil, nil).Observe(func(mettle.Metric) bool { yielded++; return yielded <= n })
		if yielded > n+1 {
			t.Errorf("%d metrics for a reader of %d", yielded, n)
		}
	}
}

// TestNamedErrors reads the name of the host in the errors of the policies.
func TestNamedErrors(t *testing.T) {
	base := roundTripper(func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF })
	for want, transport := range map[string]*Transport{
		`breaker: "http host[http://127.0.0.1:1]" is open`:     NewTransport(base, nil),
		`breaker: "payments host[http://127.0.0.1:1]" is open`: NewTransport(base, nil, Named("payments")),
	} {
		req, _ := http.NewRequest("POST", "http://127.0.0.1:1/", nil)
		var err error
		for range 11 {
			_, err = transport.RoundTrip(req)
		}
		if !errors.Is(err, breaker.ErrOpen) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// TestRefusedAtConstruction makes what could only crash at the first request.
//
// Spec: P10
func TestRefusedAtConstruction(t *testing.T) {
	next := http.NotFoundHandler()
	for want, make := range map[string]func(){
		"policy 1 of 1 is nil":                  func() { NewTransport(nil, (*mettle.Pipeline)(nil)) },
		"Compose: policy 1 of 1":                func() { NewHandler(next, mettle.PolicyFunc(nil)) },
		"name is empty":                         func() { Named("") },
		`NewTransport: Named("a") beside a pol`: func() { NewTransport(nil, mettle.Compose(), Named("a")) },
		`NewHandler: Named("a") beside a polic`: func() { NewHandler(next, mettle.Compose(), Named("a")) },
	} {
		func() {
			defer func() {
				if text := fmt.Sprint(recover()); !strings.Contains(text, want) {
					t.Errorf("got %s, want %s", text, want)
				}
			}()
			make()
		}()
	}
}

// TestPolicies holds the standard pipeline against the contract of mettle.Policy.
//
// Spec: P4, P5, W17
func TestPolicies(t *testing.T) {
	mettletest.TestPolicy(t, func() mettle.Policy { return newStandard("http", maxHosts) })
	// What is shown keeps it as well, together and alone.
	mettletest.TestPolicy(t, func() mettle.Policy { return newStandard("http", maxHosts).shown })
	for _, i := range []int{1, 3} {
		mettletest.TestPolicy(t, func() mettle.Policy { return newStandard("http", maxHosts).Policies()[i] })
	}
}
