package tests

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
)

// fault makes a breaker misbehave in one way that can be seen from outside; the zero
// fault does not.
type fault struct {
	config func(*breaker.Config)                           // what it goes by instead of what it is told
	wrap   func(sound) subject                             // what it does instead
	tell   func(func(breaker.Change)) func(breaker.Change) // how it tells of changes
}

// plant returns a breaker with the fault.
func (f fault) plant(c breaker.Config) subject {
	if f.config == nil {
		f.config = func(*breaker.Config) {}
	}
	f.config(&c)
	b := sound{breaker.New(c)}
	if f.wrap != nil {
		return f.wrap(b)
	}
	return misled{b, f.config}
}

// misled goes by another configuration than it is told.
type misled struct {
	sound
	config func(*breaker.Config)
}

func (m misled) Reconfigure(c breaker.Config) error {
	m.config(&c)
	return m.sound.Reconfigure(c)
}

// permitFunc is a permit that is done as the function says.
type permitFunc func(error)

func (f permitFunc) Done(err error) { f(err) }

// meddler changes what happens to permits.
type meddler struct {
	sound
	done func(b sound, gen uint64, p permit, err error)
}

func (m meddler) acquire() (permit, error) {
	p, err := m.sound.acquire()
	if err != nil {
		return p, err
	}
	gen := m.Stats().Generation
	return permitFunc(func(err error) { m.done(m.sound, gen, p, err) }), nil
}

// liar changes what is shown.
type liar struct {
	sound
	stats func(*breaker.Stats)
}

func (l liar) Stats() breaker.Stats {
	s := l.sound.Stats()
	l.stats(&s)
	return s
}

func (l liar) RemainingDelay() time.Duration { return l.Stats().RemainingDelay }

func configured(f func(*breaker.Config)) fault { return fault{config: f} }

func meddled(done func(b sound, gen uint64, p permit, err error)) fault {
	return fault{wrap: func(b sound) subject { return meddler{b, done} }}
}

func lied(stats func(*breaker.Stats)) fault {
	return fault{wrap: func(b sound) subject { return liar{b, stats} }}
}

// Breakers that do one thing differently, as they would after a slip of the pen.
var faults = map[string]fault{
	// An off-by-one in what a rule counts or how long something lasts.
	"one failure more in a row": configured(func(c *breaker.Config) {
		if c.Consecutive > 0 {
			c.Consecutive++
		}
	}),
	"one success too few":         configured(func(c *breaker.Config) { c.Successes = max(1, c.Successes-1) }),
	"one success too many":        configured(func(c *breaker.Config) { c.Successes++ }),
	"one probe too many":          configured(func(c *breaker.Config) { c.Probes++ }),
	"one call more than MinCalls": configured(func(c *breaker.Config) { c.MinCalls++ }),
	"above the rate, not at it": configured(func(c *breaker.Config) {
		if c.FailureRate > 0 && c.FailureRate < 1 {
			c.FailureRate += 1e-9
		}
	}),
	"slow above SlowCall, not at it": configured(func(c *breaker.Config) { c.SlowCall++ }),
	"a lease of a nanosecond more":   configured(func(c *breaker.Config) { c.ProbeTimeout++ }),
	"a window of a tenth more":       configured(func(c *breaker.Config) { c.Window += c.Window / 10 }),
	"a ramp of half as much again": configured(func(c *breaker.Config) {
		if c.Ramp > 0 {
			c.Ramp += c.Ramp / 2
		}
	}),
	"a delay below OpenFor":       configured(func(c *breaker.Config) { c.OpenFor = c.OpenFor * 9 / 10 }),
	"a delay that grows too much": configured(func(c *breaker.Config) { c.MaxOpenFor *= 2 }),
	"a delay of a nanosecond more": lied(func(s *breaker.Stats) {
		if s.RemainingDelay > 0 && s.RemainingDelay < forever {
			s.RemainingDelay++
		}
	}),

	// What calls report.
	"a result that is lost": meddled(func(_ sound, gen uint64, p permit, err error) {
		if gen%3 != 2 {
			p.Done(err)
		}
	}),
	"a result that counts twice": meddled(func(b sound, gen uint64, p permit, err error) {
		p.Done(err)
		if again, refused := b.acquire(); refused == nil {
			again.Done(err)
		}
	}),
	"a stale result that counts": meddled(func(b sound, gen uint64, p permit, err error) {
		if b.Stats().Generation != gen {
			if now, refused := b.acquire(); refused == nil {
				p = now
			}
		}
		p.Done(err)
	}),
	"an ignored result that is a success": meddled(func(_ sound, _ uint64, p permit, err error) {
		if err == mettle.ErrRejected {
			err = nil
		}
		p.Done(err)
	}),
	"a Retry-After that is ignored": meddled(func(_ sound, _ uint64, p permit, err error) {
		if e, ok := err.(overloaded); ok {
			err = marked{e}
		}
		p.Done(err)
	}),
	"a crash that is ignored": {wrap: func(b sound) subject { return forgiving{b} }},

	// Overrides, and what is done by hand.
	"an override without an end":   {wrap: func(b sound) subject { return stubborn{b} }},
	"a probe under ForceOpen":      {wrap: func(b sound) subject { return leaky{b} }},
	"a Reset that only trips":      {wrap: func(b sound) subject { return contrary{b} }},
	"a Reconfigure without effect": {wrap: func(b sound) subject { return deaf{b} }},

	// What is shown and told.
	"a refusal that is not counted":              lied(func(s *breaker.Stats) { s.Rejected -= s.Rejected / 20 }),
	"the machine's state, not the effective one": lied(func(s *breaker.Stats) { s.State = s.Machine }),
	"a change that is not told": {tell: func(tell func(breaker.Change)) func(breaker.Change) {
		n := 0
		return func(c breaker.Change) {
			if n++; n%10 != 0 {
				tell(c)
			}
		}
	}},
	"a change that is told twice": {tell: func(tell func(breaker.Change)) func(breaker.Change) {
		return func(c breaker.Change) {
			if tell(c); c.Rule == breaker.RuleProbeTimeout {
				tell(c)
			}
		}
	}},
	"two changes told in the wrong order": {tell: func(tell func(breaker.Change)) func(breaker.Change) {
		var held *breaker.Change
		return func(c breaker.Change) {
			if held == nil && c.Rule == breaker.RuleReleased {
				held = &c
				return
			}
			if tell(c); held != nil {
				tell(*held)
				held = nil
			}
		}
	}},
	"a count that is told wrong": {tell: func(tell func(breaker.Change)) func(breaker.Change) {
		return func(c breaker.Change) {
			if c.Rule == breaker.RuleFailureRate {
				c.Calls++
			}
			tell(c)
		}
	}},
}

// marked is an overload that does not say when to come back.
type marked struct{ error }

func (marked) Outcome() mettle.Outcome { return mettle.Overload }

type forgiving struct{ sound }

func (b forgiving) Do(ctx context.Context, op func(context.Context) error) (err error) {
	var crash any
	err = b.sound.Do(ctx, func(ctx context.Context) (err error) {
		defer func() {
			if crash = recover(); crash != nil {
				err = mettle.ErrRejected
			}
		}()
		return op(ctx)
	})
	if crash != nil {
		panic(crash)
	}
	return err
}

type stubborn struct{ sound }

func (b stubborn) ForceClosed(o breaker.Override) { b.sound.ForceClosed(breaker.Override{By: o.By}) }

type leaky struct{ sound }

func (b leaky) acquire() (permit, error) {
	s := b.Stats()
	if s.State != breaker.Open || s.Machine != breaker.HalfOpen {
		return b.sound.acquire()
	}
	b.Release()
	defer b.ForceOpen(s.Override)
	return b.sound.acquire()
}

type contrary struct{ sound }

func (b contrary) Reset() { b.Trip("by hand") }

type deaf struct{ sound }

func (b deaf) Reconfigure(c breaker.Config) error { return c.Validate() }

// verdict takes what rapid says of a property, in place of the test.
type verdict struct {
	testing.TB
	found bool
}

type stop struct{}

func (v *verdict) Errorf(string, ...any) { v.found = true }
func (v *verdict) Logf(string, ...any)   {}
func (v *verdict) Log(...any)            {}
func (v *verdict) Failed() bool          { return v.found }
func (v *verdict) FailNow()              { panic(stop{}) }

// A comparison that can find nothing proves nothing: each of the faults is found, in no
// more operations than it takes to believe a breaker without one.
//
// Spec: B30
func TestReferenceFindsPlantedFaults(t *testing.T) {
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			v, steps := &verdict{}, 0
			for seed := 1; !v.found && steps < 100_000; seed++ {
				explore(t, seed, 0, func(t testing.TB) {
					defer func() {
						if r := recover(); r != nil && r != any(stop{}) {
							panic(r)
						}
					}()
					v.TB = t
					rapid.Check(v, func(t *rapid.T) { walk(t, &steps, f) })
				})
			}
			assert.True(t, v.found, "not found in %d operations", steps)
			t.Logf("found after about %d operations", steps) // some of them to make sure
		})
	}
}
