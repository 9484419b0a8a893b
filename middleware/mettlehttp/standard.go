package mettlehttp

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// What the standard pipeline allows. A person waits no longer than the first; the second
// leaves room for a second and third attempt within it.
const (
	totalTimeout   = 30 * time.Second
	attemptTimeout = 10 * time.Second
)

const (
	// maxHosts is how many hosts have a budget and a bulkhead of their own, unless more
	// of them than that are in use at once.
	maxHosts = 1024
	// lookPause is how long after a vain search for a host to let go the next one is
	// made, since it takes time and a lock.
	lookPause = 100 * time.Millisecond
)

// standard is the pipeline that the package documentation shows. All hosts share its
// timeouts and its group of breakers. Each has a retry, with its budget, and a bulkhead
// of its own: one budget for all would be spent by the host that is down, and one
// bulkhead filled by the host that hangs, at the cost of all the others.
//
// An idle host whose budget has no less than that of a new one has nothing to remember
// but its counts, so such hosts make room for new ones.
type standard struct {
	name           string
	total, attempt *timeout.Timeout
	breakers       *breaker.Group[string]
	byHost         mettle.Policy    // breakers, by Host
	shown          *mettle.Pipeline // the same for all hosts, for those who look at it

	limit    int // hosts
	mu       sync.RWMutex
	last     atomic.Pointer[host] // of those in hosts, the one asked for last; it may have been let go since
	hosts    map[string]*host     // guarded by mu, as all below
	rest     *host                // for hosts that find no room
	restUsed bool
	retired  []float64 // counters of those let go, as sums has them
	nextLook time.Time // when a host to let go may be looked for again
}

// host is what the standard pipeline keeps for one host.
type host struct {
	key      string
	pipeline *mettle.Pipeline
	retrier  *retry.Retrier
	budget   *retry.Budget
	fresh    float64 // the balance of a new budget
	bulkhead *bulkhead.Bulkhead
	calls    atomic.Int64 // under way; far below zero once it has been let go
}

// gone is what calls is set to when nobody is to enter any more.
const gone = math.MinInt64 / 2

func newStandard(name string, limit int) *standard {
	s := &standard{
		name:     name,
		total:    timeout.New(timeout.Config{Name: name + " total", After: totalTimeout}),
		attempt:  timeout.New(timeout.Config{Name: name + " attempt", After: attemptTimeout}),
		breakers: breaker.NewGroup[string](breaker.GroupConfig{Config: breaker.Config{Name: name + " host"}}),
		limit:    limit,
		hosts:    make(map[string]*host),
	}
	s.byHost = s.breakers.By(Host)
	s.rest = s.newHost(name + " host")
	s.shown = mettle.Compose(s.total,
		&perHost{s, func(h *host) hostPolicy { return h.retrier }, func() []mettle.Metric { resends, _ := s.sums(); return resends }},
		s.byHost,
		&perHost{s, func(h *host) hostPolicy { return h.bulkhead }, func() []mettle.Metric { _, slots := s.sums(); return slots }},
		s.attempt)
	return s
}

// newHost returns the pipeline for one host, with the name for its bulkhead.
func (s *standard) newHost(name string) *host {
	h := &host{
		budget:   retry.NewBudget(retry.BudgetConfig{Name: s.name}),
		bulkhead: bulkhead.New(bulkhead.Config{Name: name}),
	}
	h.fresh = h.budget.Balance()
	h.retrier = retry.New(retry.Config{Name: s.name, Budget: h.budget})
	h.pipeline = mettle.Compose(s.total, h.retrier, s.byHost, h.bulkhead, s.attempt)
	return h
}

// Do runs op under the pipeline of its host.
func (s *standard) Do(ctx context.Context, op func(context.Context) error) error {
	h := s.enter(Host(ctx))
	defer h.calls.Add(-1)
	return h.pipeline.Do(ctx, op)
}

// perHost is a policy of which each host has one of its own.
type perHost struct {
	s    *standard
	of   func(*host) hostPolicy
	sums func() []mettle.Metric
}

type hostPolicy interface {
	mettle.Policy
	slog.LogValuer
}

// Do runs op under the policy of its host alone.
func (p *perHost) Do(ctx context.Context, op func(context.Context) error) error {
	h := p.s.enter(Host(ctx))
	defer h.calls.Add(-1)
	return p.of(h).Do(ctx, op)
}

// Observe yields the sums over the hosts, as standard does.
func (p *perHost) Observe(yield func(mettle.Metric) bool) {
	for _, m := range p.sums() { // complete before yield, which is not ours, runs
		if !yield(m) {
			return
		}
	}
}

// LogValue returns the configuration in force, which is the same for all hosts.
func (p *perHost) LogValue() slog.Value { return p.of(p.s.rest).LogValue() }

// enter returns what is kept for key, for a call that takes itself off calls when it
// has ended.
func (s *standard) enter(key string) *host {
	// Most clients talk to one host, and need neither lock nor map to find it.
	if h := s.last.Load(); h != nil && h.key == key {
		if h.calls.Add(1) > 0 {
			return h
		}
		h.calls.Add(-1)
	}
	s.mu.RLock()
	h, ok := s.hosts[key]
	if ok {
		h.calls.Add(1) // who lets it go has the lock
		s.last.Store(h)
	}
	s.mu.RUnlock()
	if ok {
		return h
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok = s.hosts[key]
	switch {
	case ok:
	case len(s.hosts) < s.limit || s.makeRoomLocked():
		h = s.newHost(fmt.Sprintf("%s host[%s]", s.name, key))
		h.key = key
		s.hosts[key] = h
	default:
		h, s.restUsed = s.rest, true
	}
	h.calls.Add(1)
	return h
}

// makeRoomLocked lets all hosts go that have nothing to remember, and reports whether
// there were any. It is called once in as many new hosts.
func (s *standard) makeRoomLocked() bool {
	now := time.Now()
	if now.Before(s.nextLook) {
		return false
	}
	for key, h := range s.hosts {
		if !h.calls.CompareAndSwap(0, gone) {
			continue
		}
		if h.budget.Balance() < h.fresh {
			h.calls.Add(-gone)
			continue
		}
		delete(s.hosts, key)
		i := 0
		h.observe(func(m mettle.Metric) bool {
			if i == len(s.retired) {
				s.retired = append(s.retired, 0)
			}
			if m.Kind == mettle.Counter {
				s.retired[i] += m.Value
			}
			i++
			return true
		})
	}
	if len(s.hosts) < s.limit {
		return true
	}
	s.nextLook = now.Add(lookPause)
	return false
}

// observe yields the metrics of what is kept for one host, the same ones for each.
func (h *host) observe(yield func(mettle.Metric) bool) {
	h.observeResends(yield)
	h.bulkhead.Observe(yield)
}

func (h *host) observeResends(yield func(mettle.Metric) bool) {
	h.retrier.Observe(yield)
	h.budget.Observe(yield)
}

// Observe yields the metrics of the pipeline. What there is once for each host comes as
// a sum over the hosts, so that the number of metrics does not grow with them, and of a
// ratio as that of the host where it is highest.
func (s *standard) Observe(yield func(mettle.Metric) bool) {
	s.shown.Observe(yield)
}

// Policies returns the policies, each for all hosts.
func (s *standard) Policies() []mettle.Policy { return s.shown.Policies() }

// sums returns the metrics of the retries with their budgets, and of the bulkheads.
func (s *standard) sums() (resends, slots []mettle.Metric) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var sums []mettle.Metric
	add := func(m mettle.Metric) bool {
		if m.Kind == mettle.Gauge && !s.restUsed {
			m.Value = 0
		}
		if i := len(sums); i < len(s.retired) {
			m.Value += s.retired[i]
		}
		sums = append(sums, m)
		return true
	}
	// The rest is always there, and so are the series, before the first host is.
	s.rest.observeResends(add)
	n := len(sums)
	s.rest.bulkhead.Observe(add)
	for _, h := range s.hosts {
		i := 0
		h.observe(func(m mettle.Metric) bool {
			if m.Kind == mettle.Gauge && m.Unit == "1" {
				sums[i].Value = max(sums[i].Value, m.Value)
			} else {
				sums[i].Value += m.Value
			}
			i++
			return true
		})
	}
	return sums[:n], sums[n:]
}
