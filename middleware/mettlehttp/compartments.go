package mettlehttp

import (
	"context"
	"fmt"
	"sync"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/bulkhead"
)

// maxHosts is how many hosts have a bulkhead of their own, unless more of them than that
// are in use at once.
const maxHosts = 1024

// compartments is a bulkhead for each host. One for all hosts would let a host that hangs
// fill it, and so stop all the others.
//
// An idle bulkhead has nothing to remember but its counts, so idle ones make room for
// new hosts. A call that found one just before it was let go is not in the count of the
// one that follows.
type compartments struct {
	name   string
	limit  int // hosts
	mu     sync.RWMutex
	hosts  map[string]*bulkhead.Bulkhead
	rest   *bulkhead.Bulkhead // for hosts that find no room
	retire []float64          // counters of those let go, as Observe yields them
}

func newCompartments(name string, limit int) *compartments {
	return &compartments{
		name:  name,
		limit: limit,
		hosts: make(map[string]*bulkhead.Bulkhead),
		rest:  bulkhead.New(bulkhead.Config{Name: name}),
	}
}

// Do runs op in the bulkhead of its host.
func (c *compartments) Do(ctx context.Context, op func(context.Context) error) error {
	return c.get(Host(ctx)).Do(ctx, op)
}

// Wrap binds next. See [mettle.Wrapper].
func (c *compartments) Wrap(next mettle.Policy) mettle.Policy { return &compartment{c, next} }

type compartment struct {
	*compartments
	next mettle.Policy
}

func (c *compartment) Do(ctx context.Context, op func(context.Context) error) error {
	permit, err := c.get(Host(ctx)).Acquire(ctx)
	if err != nil {
		return err
	}
	defer permit.Release()
	return c.next.Do(ctx, op)
}

func (c *compartments) get(host string) *bulkhead.Bulkhead {
	c.mu.RLock()
	b, ok := c.hosts[host]
	c.mu.RUnlock()
	if ok {
		return b
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if b, ok := c.hosts[host]; ok {
		return b
	}
	if len(c.hosts) >= c.limit {
		c.makeRoomLocked()
	}
	if len(c.hosts) >= c.limit {
		return c.rest
	}
	b = bulkhead.New(bulkhead.Config{Name: fmt.Sprintf("%s[%s]", c.name, host)})
	c.hosts[host] = b
	return b
}

// makeRoomLocked lets all go that are idle. It is called once in as many new hosts.
func (c *compartments) makeRoomLocked() {
	for host, b := range c.hosts {
		if b.Stats().InFlight > 0 {
			continue
		}
		delete(c.hosts, host)
		i := 0
		b.Observe(func(m mettle.Metric) bool {
			if i == len(c.retire) {
				c.retire = append(c.retire, 0)
			}
			if m.Kind == mettle.Counter {
				c.retire[i] += m.Value
			}
			i++
			return true
		})
	}
}

// Observe yields the metrics of a bulkhead, summed over all hosts. Their number does not
// grow with the hosts.
func (c *compartments) Observe(yield func(mettle.Metric) bool) {
	c.mu.RLock()
	var sums []mettle.Metric
	c.rest.Observe(func(m mettle.Metric) bool {
		if i := len(sums); i < len(c.retire) {
			m.Value += c.retire[i]
		}
		sums = append(sums, m)
		return true
	})
	for _, b := range c.hosts {
		i := 0
		b.Observe(func(m mettle.Metric) bool {
			sums[i].Value += m.Value
			i++
			return true
		})
	}
	c.mu.RUnlock() // before yield, which is not ours
	for _, m := range sums {
		if !yield(m) {
			return
		}
	}
}
