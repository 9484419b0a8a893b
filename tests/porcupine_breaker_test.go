package tests

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/assert"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
)

const (
	modelProbes    = 2
	modelSuccesses = 3
)

// deed is one operation on a breaker: of the permit with the given number, if it is one.
type deed struct {
	name   string
	permit uint
	result mettle.Outcome
}

// machine is a breaker while no time passes, to which one thing happens at a time.
type machine struct {
	state       breaker.State
	due         bool // open, and the delay is over
	leases      set  // permits of probes in flight
	live        set  // permits of this closed generation
	row, good   int
	forced      bool
	force       breaker.State
	consecutive int
}

// enter begins a generation: permits of the one before mean nothing any more.
func (m machine) enter(s breaker.State) machine {
	return machine{state: s, forced: m.forced, force: m.force, consecutive: m.consecutive}
}

func (m machine) acquire(id uint, admitted bool) (bool, machine) {
	switch {
	case m.forced && m.force == breaker.Open:
		return !admitted, m
	case m.state == breaker.Closed:
		m.live = m.live.with(id)
		return admitted, m
	case m.state == breaker.HalfOpen && m.leases.len() < modelProbes:
		m.leases = m.leases.with(id)
		return admitted, m
	case m.state == breaker.Open && m.due:
		return false, m // it is half-open first
	default:
		return admitted == m.forced, m
	}
}

func (m machine) done(id uint, o mettle.Outcome) machine {
	switch {
	case m.leases.has(id):
		m.leases = m.leases.without(id)
		switch {
		case o.Failed():
			return m.enter(breaker.Open)
		case o == mettle.Success:
			if m.good++; m.good == modelSuccesses {
				return m.enter(breaker.Closed)
			}
		}
	case m.live.has(id):
		m.live = m.live.without(id)
		switch {
		case o.Failed():
			if m.row++; m.row == m.consecutive {
				return m.enter(breaker.Open)
			}
		case o == mettle.Success:
			m.row = 0
		}
	}
	return m
}

// step reports whether the model can answer as the breaker did, and what becomes of it.
func (m machine) step(d deed, output any) (bool, machine) {
	switch d.name {
	case "acquire":
		return m.acquire(d.permit, output.(bool))
	case "done":
		return true, m.done(d.permit, d.result)
	case "state":
		shown := m.state
		if m.forced {
			shown = m.force
		}
		return output == shown, m
	case "force open", "force closed":
		m.forced, m.force = true, breaker.Closed
		if d.name == "force open" {
			m.force = breaker.Open
		}
		return true, m
	case "release":
		m.forced, m.force = false, 0
		return true, m
	case "trip":
		if m.state == breaker.Open {
			return true, m
		}
		return true, m.enter(breaker.Open)
	case "reset":
		return true, m.enter(breaker.Closed)
	default:
		panic(d.name)
	}
}

// machineModel begins in the given state. When the delay is over, a call that comes makes
// the breaker half-open, and then takes its slot: hooks run in between, and who looks sees
// a breaker that is half-open without a probe. So that step comes by itself in the model.
func machineModel(m machine) porcupine.Model {
	return (&porcupine.NondeterministicModel{
		Init: func() []any { return []any{m} },
		Step: func(state, input, output any) (next []any) {
			m, d := state.(machine), input.(deed)
			before := []machine{m}
			if m.state == breaker.Open && m.due {
				before = append(before, m.enter(breaker.HalfOpen))
			}
			for _, m := range before {
				if ok, after := m.step(d, output); ok {
					next = append(next, after)
				}
			}
			return next
		},
	}).ToModel()
}

// begin returns a breaker in the given state, and the model's.
func begin(from machine, plant func(sound) subject) subject {
	b := plant(sound{breaker.New(breaker.Config{
		Consecutive: from.consecutive, FailureRate: -1, Probes: modelProbes, Successes: modelSuccesses,
		// Who changes the state is held up for a moment, in which others see it.
		OnChange: func(breaker.Change) { runtime.Gosched() },
	})})
	if from.state == breaker.Open {
		b.Trip("test")
	}
	if from.due {
		time.Sleep(b.RemainingDelay())
	}
	return b
}

var errs = map[mettle.Outcome]error{mettle.Failure: errors.New("down"), mettle.Ignored: mettle.ErrRejected}

// play has goroutines do all kinds of things to b, and returns what they saw.
func play(b subject, seed uint64, outcomes []mettle.Outcome) *history {
	h, permits := &history{}, &held[permit]{}
	atOnce(seed, 4, 10, func(client int, r *rand.Rand) {
		d := deed{name: []string{
			"acquire", "acquire", "acquire", "acquire", "acquire", "done", "done", "done", "done", "state", "state",
			"force open", "force closed", "release", "trip", "reset",
		}[r.IntN(16)]}
		var p permit
		switch d.name {
		case "acquire":
			d.permit = permits.next()
		case "done":
			var ok bool
			if d.permit, p, ok = permits.take(r); !ok {
				return
			}
			d.result = outcomes[r.IntN(len(outcomes))]
		}
		h.do(client, d, func() any {
			switch d.name {
			case "acquire":
				var err error
				if p, err = b.acquire(); err == nil {
					permits.put(d.permit, p)
				}
				return err == nil
			case "done":
				p.Done(errs[d.result])
			case "state":
				return b.State()
			case "force open":
				b.ForceOpen(breaker.Override{})
			case "force closed":
				b.ForceClosed(breaker.Override{})
			case "release":
				b.Release()
			case "trip":
				b.Trip("test")
			case "reset":
				b.Reset()
			}
			return nil
		})
	})
	return h
}

// beginning is where a history begins, and what calls report in it.
type beginning struct {
	machine
	outcomes []mettle.Outcome
}

// With several failures in a row to count, calls report no success. The failure that
// makes the row whole is counted, and opens the breaker a moment later, so that no call
// pays for a lock; a success between the one and the other came too late to count, and
// too early to see the breaker open. That is in no order, and no harm.
var beginnings = func() map[string]beginning {
	all := []mettle.Outcome{mettle.Success, mettle.Success, mettle.Success, mettle.Failure, mettle.Ignored}
	bad := []mettle.Outcome{mettle.Failure, mettle.Failure, mettle.Ignored}
	return map[string]beginning{
		"closed":                  {machine{consecutive: 1}, all},
		"open":                    {machine{consecutive: 1, state: breaker.Open}, all},
		"delay over":              {machine{consecutive: 1, state: breaker.Open, due: true}, all},
		"several in a row":        {machine{consecutive: 3}, bad},
		"several, and delay over": {machine{consecutive: 3, state: breaker.Open, due: true}, bad},
	}
}()

// Whatever goroutines do to a breaker at once, they see what they could have seen had
// they done it one after the other: no probe too many, no result of an earlier
// generation, no call let through once ForceOpen has returned.
//
// Spec: B4, B6, B7, B10, B11, B14, B23
func TestBreakerIsLinearizable(t *testing.T) {
	for name, from := range beginnings {
		t.Run(name, func(t *testing.T) {
			linearizable(t, 1000, machineModel(from.machine), func(seed uint64) *history {
				return play(begin(from.machine, func(b sound) subject { return b }), seed, from.outcomes)
			})
		})
	}
}

// hasty lets ForceOpen return before it has taken effect, as it would if it were told
// to another goroutine.
type hasty struct {
	sound
	later chan func()
}

func newHasty(b sound) subject { return &hasty{b, make(chan func(), 100)} }

func (h *hasty) ForceOpen(o breaker.Override) { h.later <- func() { h.sound.ForceOpen(o) } }

func (h *hasty) acquire() (permit, error) {
	p, err := h.sound.acquire()
	select {
	case f := <-h.later:
		f()
	default:
	}
	return p, err
}

// crowded finds out whether there is room for a probe, and then takes it: two that find
// room at once both do.
type crowded struct {
	sound
	second *sound // where those go who found room, and found it taken
}

func newCrowded(b sound) subject {
	return &crowded{sound: b, second: &sound{breaker.New(breaker.Config{})}}
}

func (c *crowded) acquire() (permit, error) {
	room := c.State() == breaker.HalfOpen && c.Stats().Probes < modelProbes
	runtime.Gosched()
	p, err := c.sound.acquire()
	if err != nil && room && c.State() == breaker.HalfOpen {
		return c.second.acquire()
	}
	return p, err
}

// A check that accepts everything proves nothing: breakers that are right for one
// goroutine and wrong for several are found out.
//
// Spec: B10, B23
func TestBreakersThatAreNotLinearizable(t *testing.T) {
	for name, v := range map[string]struct {
		plant func(sound) subject
		from  beginning
	}{
		"ForceOpen takes effect late":     {newHasty, beginnings["closed"]},
		"a slot is looked at, then taken": {newCrowded, beginnings["delay over"]},
	} {
		t.Run(name, func(t *testing.T) {
			notLinearizable(t, machineModel(v.from.machine), func(seed uint64) *history {
				return play(begin(v.from.machine, v.plant), seed, v.from.outcomes)
			})
		})
	}
}

// Histories that no breaker may have, each beside one that it may: the same answers to
// operations that overlapped.
//
// Spec: B6, B7, B10, B14, B23
func TestImpossibleHistoriesOfABreaker(t *testing.T) {
	acquire := func(id uint) deed { return deed{name: "acquire", permit: id} }
	done := func(id uint, o mettle.Outcome) deed { return deed{name: "done", permit: id, result: o} }
	closed, delayOver := machine{consecutive: 1}, machine{consecutive: 1, state: breaker.Open, due: true}
	for name, v := range map[string]struct {
		from    machine
		deeds   []deed
		answers []any
		overlap []int // which operations last to the end for the history to be possible
	}{
		"admitted after ForceOpen": {closed, []deed{{name: "force open"}, acquire(0)}, []any{nil, true}, []int{0}},
		"one probe too many": {delayOver, []deed{acquire(0), acquire(1), acquire(2), done(0, mettle.Ignored)},
			[]any{true, true, true, nil}, []int{2}},
		"opened by a result of an earlier generation": {closed, []deed{acquire(0), {name: "reset"}, done(0, mettle.Failure), {name: "state"}},
			[]any{true, nil, nil, breaker.Open}, []int{1}},
		"refused after Reset":                     {closed, []deed{{name: "trip"}, {name: "reset"}, acquire(0)}, []any{nil, nil, false}, []int{1}},
		"closed after Trip":                       {closed, []deed{{name: "trip"}, {name: "state"}}, []any{nil, breaker.Closed}, []int{0}},
		"a failed probe that does not open again": {delayOver, []deed{acquire(0), done(0, mettle.Failure), {name: "state"}}, []any{true, nil, breaker.HalfOpen}, []int{1}},
		"a slot that did not come back":           {delayOver, []deed{acquire(0), acquire(1), done(0, mettle.Success), acquire(2)}, []any{true, true, nil, false}, []int{2}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, overlap := range []bool{false, true} {
				var ops []porcupine.Operation
				for i, d := range v.deeds {
					op := porcupine.Operation{ClientId: i, Input: d, Call: int64(2 * i), Output: v.answers[i], Return: int64(2*i + 1)}
					if overlap && slices.Contains(v.overlap, i) {
						op.Return = 1000
					}
					ops = append(ops, op)
				}
				assert.Equal(t, overlap, porcupine.CheckOperations(machineModel(v.from), ops), "overlapping: %v", overlap)
			}
		})
	}
}
