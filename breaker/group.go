package breaker

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"log/slog"
	"maps"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/internal/clock"
	"github.com/mettle-go/mettle/internal/relay"
)

const (
	defaultMaxKeys = 10_000
	defaultMinKeys = 5
	// A shard's map is copied whole when a key is added, and looked through for one to
	// let go, so shards are kept small: that is what a flood of keys costs. Past
	// maxShards, it is the memory of a group with few keys that matters.
	keysPerShard = 8
	maxShards    = 4096
)

// GroupConfig configures a [Group]. The zero GroupConfig is valid and recommended.
type GroupConfig struct {
	// Config is that of every breaker in the group. A breaker's name is Config.Name
	// with the key in brackets, as fmt.Sprint prints it.
	Config Config
	// MaxKeys bounds how many breakers the group keeps. Zero: 10,000.
	MaxKeys int

	// Breadth opens the group as a whole when at least this share of its keys, and at
	// least MinKeys of them, hold calls back at the same time: then it is what the
	// keys have in common that is down. A probe of any key then finds out whether it
	// is back. The rule is for keys that share a dependency, such as the shards of one
	// database, and not for hosts that have nothing in common. At most 1.
	// Zero or negative: no such rule.
	Breadth float64
	// MinKeys is how many keys must hold calls back for Breadth. Zero: 5.
	MinKeys int
}

// Validate reports every field that [NewGroup] would refuse, or nil.
func (c GroupConfig) Validate() error {
	err := c.Config.Validate()
	bad := func(field string, value any, want string) {
		err = errors.Join(err, fmt.Errorf("breaker: %s is %v, must be %s", field, value, want))
	}
	if c.MaxKeys < 0 {
		bad("MaxKeys", c.MaxKeys, "positive, or zero for the default")
	}
	if math.IsNaN(c.Breadth) || math.IsInf(c.Breadth, -1) || c.Breadth > 1 {
		bad("Breadth", c.Breadth, "above 0 and at most 1, or zero or negative for no rule")
	}
	if c.MinKeys < 0 {
		bad("MinKeys", c.MinKeys, "positive, or zero for the default")
	}
	return err
}

// Group holds one breaker per key, such as a host or a tenant, under a bound. It
// is made by [NewGroup] and may be used from many goroutines at once. Finding the
// breaker of a known key takes no lock.
//
// When the bound is reached, a key that was not asked for lately makes room for a
// new one: one whose breaker is closed, without a recent failure if possible, and
// only where there is none such, one whose open delay is over and that nobody came
// to probe. Whatever keys an attacker chooses, memory is bounded, and a breaker that
// holds calls back stays.
type Group[K comparable] struct {
	set     *settings
	name    string
	seed    maphash.Seed
	maxKeys int64
	shards  []shard[K]

	size               atomic.Int64 // how many keys all shards hold, those being added included
	whole              *whole       // nil: no rule on Breadth
	evicted, untracked atomic.Uint64
	labels             *series

	goneMu sync.Mutex // held to let a key go, and to add up, so that nothing is in both or in neither
	gone   totals     // of the keys let go; guarded by goneMu
}

type shard[K comparable] struct {
	// keys is replaced, never changed, so that a look needs no lock. Nil: none yet.
	keys atomic.Pointer[map[K]*entry]
	mu   sync.Mutex // held to replace keys
}

// load returns the keys of s, which must not be changed.
func (s *shard[K]) load() map[K]*entry {
	if keys := s.keys.Load(); keys != nil {
		return *keys
	}
	return nil
}

type entry struct {
	breaker *Breaker
	asked   atomic.Bool // again, since somebody last looked for room
}

// NewGroup returns an empty group. It panics when [GroupConfig.Validate] finds fault.
func NewGroup[K comparable](c GroupConfig) *Group[K] {
	if err := c.Validate(); err != nil {
		panic(err.Error())
	}
	orDefault(&c.MaxKeys, defaultMaxKeys)
	shards := 1
	for shards < maxShards && c.MaxKeys/(2*shards) >= keysPerShard {
		shards *= 2
	}
	g := &Group[K]{
		set:     newSettings(c.Config),
		name:    c.Config.Name,
		seed:    maphash.MakeSeed(),
		maxKeys: int64(c.MaxKeys),
		shards:  make([]shard[K], shards),
		labels:  newSeries(c.Config.Name),
	}
	if c.Breadth > 0 {
		orDefault(&c.MinKeys, defaultMinKeys)
		g.whole = newWhole(c)
	}
	return g
}

// Get returns the breaker of key, a new one if the group has none. Ask anew for
// each call, and the breaker stays as long as it is used. When no key may be let go,
// or the key does not equal itself, as NaN, the breaker returned is not kept.
func (g *Group[K]) Get(key K) *Breaker {
	i := int(maphash.Comparable(g.seed, key) & uint64(len(g.shards)-1))
	e, ok := g.shards[i].load()[key]
	if !ok {
		return g.add(i, key)
	}
	if !e.asked.Load() { // read before write: every call for a busy key passes here
		e.asked.Store(true)
	}
	return e.breaker
}

// add makes the breaker of a key that shard i did not have.
func (g *Group[K]) add(i int, key K) *Breaker {
	fresh := newBreaker(g.set, fmt.Sprintf("%s[%v]", g.name, key)) // outside the lock: it may run the key's String
	if g.whole != nil {
		fresh.opened = &g.whole.opened
	}
	s := &g.shards[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.load()
	if e, ok := old[key]; ok {
		return e.breaker
	}
	if key != key {
		g.untracked.Add(1)
		return fresh
	}
	next := maps.Clone(old)
	if next == nil {
		next = map[K]*entry{}
	}
	// A newcomer has not been asked for again yet, so that a flood of keys that come
	// once washes out its own and not those in use.
	next[key] = &entry{breaker: fresh}
	if g.size.Add(1) <= g.maxKeys {
		s.keys.Store(&next)
	} else if victim, ok := leastMissed(old); ok {
		g.letGo(s, next, victim) // in one step: a flood of keys pays for one copy each
	} else if g.makeRoom(i) {
		s.keys.Store(&next)
	} else {
		g.size.Add(-1)
		g.untracked.Add(1)
	}
	return fresh
}

// letGo gives shard s, whose lock is held, the keys of next but for victim.
func (g *Group[K]) letGo(s *shard[K], next map[K]*entry, victim K) {
	b := next[victim].breaker
	delete(next, victim)
	g.goneMu.Lock()
	b.addTo(&g.gone)
	s.keys.Store(&next)
	g.goneMu.Unlock()
	g.evicted.Add(1)
	g.size.Add(-1)
}

// makeRoom lets one key go of a shard other than i that nobody is changing, and reports
// whether it found one.
func (g *Group[K]) makeRoom(i int) bool {
	for j := 1; j < len(g.shards); j++ {
		s := &g.shards[(i+j)&(len(g.shards)-1)]
		if !s.mu.TryLock() { // never waited for: two that wait for each other would be stuck
			continue
		}
		old := s.load()
		victim, ok := leastMissed(old)
		if ok {
			g.letGo(s, maps.Clone(old), victim)
		}
		s.mu.Unlock()
		if ok {
			return true
		}
	}
	return false
}

// leastMissed returns the key to let go, if there is one. It is the second chance of a
// clock, whose hand is the random order of the map: what a key gained by being asked
// for, a look that passes it by uses up.
func leastMissed[K comparable](keys map[K]*entry) (victim K, ok bool) {
	best := missed
	for k, e := range keys {
		asked := e.asked.Load()
		r := e.breaker.regret(asked)
		if r == idle {
			return k, true
		}
		if asked {
			e.asked.Store(false)
		}
		if r < best {
			victim, best = k, r
		}
	}
	return victim, best < missed
}

// regret says how much a breaker would be missed.
type regret uint8

const (
	idle   regret = iota // closed and well, and not asked for since the last look
	failed               // closed and not asked for, with a failure lately
	inUse                // closed
	due                  // open, its delay over, and nobody came to probe
	missed               // holds calls back, or is held by hand
)

// regret is asked of every key of a shard for each new one, in a flood of them: Stats
// would add up what nobody wants to know.
func (b *Breaker) regret(asked bool) regret {
	now, ph := b.clock.Now(), b.phase.Load()
	if ph.force != nil && now < ph.force.until {
		return missed
	}
	switch state, until := ph.machine(now); {
	case state == Closed && asked:
		return inUse
	case state == Closed && (ph.counts.run.Load() > 0 || ph.counts.failedLately(now)):
		return failed
	case state == Closed:
		return idle
	case state == Open && now >= until && !asked:
		return due
	default:
		return missed
	}
}

// failedLately reports whether a failure is in the window.
func (c *counts) failedLately(now int64) bool {
	if c.rate == nil || c.rate.Stale(now) {
		return false
	}
	_, bad, _ := c.rate.Sum(now)
	return bad > 0
}

// Len returns how many breakers the group keeps.
func (g *Group[K]) Len() int {
	n := 0
	for i := range g.shards {
		n += len(g.shards[i].load())
	}
	return n
}

// All returns the keys and breakers that the group keeps, in no order. What is
// added or let go meanwhile may or may not be among them.
func (g *Group[K]) All() iter.Seq2[K, *Breaker] {
	return func(yield func(K, *Breaker) bool) {
		for i := range g.shards {
			for k, e := range g.shards[i].load() {
				if !yield(k, e.breaker) {
					return
				}
			}
		}
	}
}

// Breakers returns the breakers of All, without their keys, and before them that of
// Whole if there is one.
func (g *Group[K]) Breakers() iter.Seq[*Breaker] {
	return func(yield func(*Breaker) bool) {
		if w := g.Whole(); w != nil && !yield(w) {
			return
		}
		for _, b := range g.All() {
			if !yield(b) {
				return
			}
		}
	}
}

// LogValue returns the configuration in force, as [Breaker.LogValue] does.
func (g *Group[K]) LogValue() slog.Value {
	attrs := append(g.set.attrs(), slog.Int64("MaxKeys", g.maxKeys))
	if w := g.whole; w != nil {
		attrs = append(attrs, slog.Float64("Breadth", w.breadth), slog.Int("MinKeys", w.minKeys))
	} else {
		attrs = append(attrs, slog.String("Breadth", "off"))
	}
	return slog.GroupValue(attrs...)
}

// By returns a policy that runs each call under the breaker of its key, which key
// finds in the call's context, and under the rule on Breadth if there is one, which
// costs a call one allocation. A panic in key goes to the caller, and no call is
// counted. The policy has the methods Observe, Breakers and LogValue of the group. A nil
// key panics.
func (g *Group[K]) By(key func(context.Context) K) mettle.Policy {
	if key == nil {
		panic("breaker: Group.By: key is nil")
	}
	return g.by(key, nil)
}

func (g *Group[K]) by(key func(context.Context) K, next relay.Policy) mettle.Policy {
	return &keyed[K]{g, key, next}
}

// keyed is a group with a way to find the key; next is nil until it is wrapped.
type keyed[K comparable] struct {
	g    *Group[K]
	key  func(context.Context) K
	next relay.Policy
}

func (p *keyed[K]) Do(ctx context.Context, op func(context.Context) error) error {
	if p.next == nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	_, err := p.DoAt(ctx, op, clock.Unknown)
	return err
}

// DoAt implements [relay.Policy].
func (p *keyed[K]) DoAt(ctx context.Context, op func(context.Context) error, _ clock.Instant) (clock.Instant, error) {
	// Before any breaker has let the call in: a panic in there is nobody's failure. It is a
	// function of the user's and may have taken time.
	key := p.key(ctx)
	if p.g.whole == nil {
		return p.do(ctx, key, op)
	}
	_, err := p.g.whole.breaker.run(ctx, &each[K]{p, key}, op, clock.Unknown)
	p.g.judge()
	return clock.Unknown, err
}

// do runs a call under the breaker of its key.
func (p *keyed[K]) do(ctx context.Context, key K, op func(context.Context) error) (clock.Instant, error) {
	b := p.g.Get(key)
	if p.next == nil {
		return clock.Unknown, b.do(ctx, op)
	}
	return b.run(ctx, p.next, op, clock.Unknown)
}

func (p *keyed[K]) Wrap(next mettle.Policy) mettle.Policy { return p.g.by(p.key, relay.To(next)) }

func (p *keyed[K]) Observe(yield func(mettle.Metric) bool) { p.g.Observe(yield) }
func (p *keyed[K]) Breakers() iter.Seq[*Breaker]           { return p.g.Breakers() }
func (p *keyed[K]) LogValue() slog.Value                   { return p.g.LogValue() }

// each is what the breaker of the whole encloses: one call, whose key is known.
type each[K comparable] struct {
	p   *keyed[K]
	key K
}

func (e *each[K]) DoAt(ctx context.Context, op func(context.Context) error, _ clock.Instant) (clock.Instant, error) {
	return e.p.do(ctx, e.key, op)
}

// whole is the rule on Breadth.
type whole struct {
	breaker *Breaker // around the breakers of all keys; it opens by this rule alone
	breadth float64
	minKeys int

	opened atomic.Uint64 // how often a breaker of a key has opened
	seen   atomic.Uint64 // what opened was when the keys were last counted
	next   atomic.Int64  // when they may be counted again
}

func newWhole(c GroupConfig) *whole {
	own := c.Config
	own.Name += "[*]"
	own.FailureRate, own.Consecutive, own.SlowCall = -1, -1, -1
	return &whole{breaker: New(own), breadth: c.Breadth, minKeys: c.MinKeys}
}

// Whole returns the breaker that [GroupConfig.Breadth] opens, nil without that rule.
// It has the delays of Config, and its name with "[*]" for all keys. It governs the policies of [Group.By];
// who asks [Group.Get] for a breaker asks this one himself.
func (g *Group[K]) Whole() *Breaker {
	if g.whole == nil {
		return nil
	}
	return g.whole.breaker
}

// judge opens the group as a whole if enough keys hold calls back. They are counted
// only when another one has opened, and not more often than now and then, because
// that takes time when they are many.
func (g *Group[K]) judge() {
	const pause = int64(20 * time.Millisecond)
	w := g.whole
	opened := w.opened.Load()
	if opened == w.seen.Load() || !w.breaker.phase.Load().plain {
		return
	}
	now, next := w.breaker.clock.Now(), w.next.Load()
	if now < next || !w.next.CompareAndSwap(next, now+pause) {
		return
	}
	w.seen.Store(opened)
	keys, bad := 0, 0
	for _, b := range g.All() {
		keys++
		// Not those whose delay is over: they are open because nobody has asked
		// since, which says nothing of now.
		if b.RemainingDelay() > 0 {
			bad++
		}
	}
	if bad >= w.minKeys && float64(bad) >= w.breadth*float64(keys) {
		w.breaker.trip(Change{Rule: RuleBreadth, Calls: keys, Bad: bad})
	}
}

// Observe yields metrics of the group as a whole, so that their number does not grow
// with the keys; see [mettle.Observable]. It yields the counters of
// [Breaker.Observe], summed over the keys, those let go included, and besides:
//
//	mettle.breaker.group.keys       {key}   keys with a breaker, by its state
//	mettle.breaker.group.evicted    {key}   keys that made room for others
//	mettle.breaker.group.untracked  {call}  calls whose key found no room
//
// With a rule on Breadth, the metrics of [Group.Whole] follow. A policy of
// [Group.By] yields the same: watch the group or the pipeline, not both. A breaker
// of [Group.All] yields its own.
func (g *Group[K]) Observe(yield func(mettle.Metric) bool) {
	sum, states := g.sum()
	if !sum.observe(g.labels, yield) {
		return
	}
	for state, n := range states {
		if !yield(mettle.Metric{
			Kind: mettle.Gauge, Name: "mettle.breaker.group.keys", Unit: "{key}",
			Help: "Keys with a breaker, by its state.", Labels: g.labels.states[state], Value: float64(n),
		}) {
			return
		}
	}
	more := yield(mettle.Metric{
		Kind: mettle.Counter, Name: "mettle.breaker.group.evicted", Unit: "{key}",
		Help: "Keys that made room for others.", Labels: g.labels.policy, Value: float64(g.evicted.Load()),
	}) && yield(mettle.Metric{
		Kind: mettle.Counter, Name: "mettle.breaker.group.untracked", Unit: "{call}",
		Help: "Calls whose key found no room.", Labels: g.labels.policy, Value: float64(g.untracked.Load()),
	})
	if more && g.whole != nil {
		g.whole.breaker.Observe(yield)
	}
}

// sum adds up all breakers, those let go included.
func (g *Group[K]) sum() (sum totals, states [3]int) {
	g.goneMu.Lock()
	defer g.goneMu.Unlock()
	sum = g.gone
	for _, b := range g.All() {
		b.addTo(&sum)
		states[b.State()]++
	}
	return sum, states
}
