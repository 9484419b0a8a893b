package breaker

import (
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"
)

// State is what a breaker does with calls.
type State uint8

const (
	// Closed admits calls and counts their outcomes.
	Closed State = iota
	// Open refuses every call.
	Open
	// HalfOpen admits a few calls, the probes, to learn whether to close.
	HalfOpen
)

var stateNames = [...]string{Closed: "closed", Open: "open", HalfOpen: "half-open"}

// String returns "closed", "open" or "half-open".
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "state(" + strconv.Itoa(int(s)) + ")"
}

// Rule names what made a breaker change its state.
type Rule string

const (
	RuleFailureRate    Rule = "failure-rate"     // FailureRate was reached
	RuleConsecutive    Rule = "consecutive"      // Consecutive was reached
	RuleSlowRate       Rule = "slow-rate"        // SlowRate was reached
	RuleRelapse        Rule = "relapse"          // a call timed out, or met an overload, soon after closing
	RuleProbeDue       Rule = "probe-due"        // the open delay is over and a call came
	RuleProbeSucceeded Rule = "probes-succeeded" // Successes probes did
	RuleProbeFailed    Rule = "probe-failed"     // a probe failed, or was slow
	RuleProbeTimeout   Rule = "probe-timeout"    // a probe did not report within ProbeTimeout
	RuleBreadth        Rule = "breadth"          // a group's Breadth was reached
	RuleTrip           Rule = "trip"             // Trip was called
	RuleReset          Rule = "reset"            // Reset was called
	RuleForced         Rule = "forced"           // an override began
	RuleReleased       Rule = "released"         // an override ended
)

// rules are all of them, for the metrics, which count the changes that each has made.
var rules = [...]Rule{
	RuleFailureRate, RuleConsecutive, RuleSlowRate, RuleRelapse, RuleProbeDue, RuleProbeSucceeded,
	RuleProbeFailed, RuleProbeTimeout, RuleBreadth, RuleTrip, RuleReset, RuleForced, RuleReleased,
}

// Change tells one change of a breaker's state, and why it came to it.
type Change struct {
	Name     string
	From, To State
	Rule     Rule
	At       time.Time // when it came to it; somebody may have noticed, and told, later
	// Calls, Bad and Window are the evidence of a rule on a rate: so many of the
	// calls in the window failed (or were slow). Of RuleConsecutive, Bad is the
	// number of failures in a row. Of RuleBreadth, both count keys. Of
	// RuleProbeSucceeded, Calls is the number of successes. Zero where the rule does
	// not count.
	Calls, Bad int
	Window     time.Duration
	// Hung is how many of the Bad ones of RuleSlowRate are still in flight.
	Hung int
	// Delay is how long the breaker will stay open, when To is Open and that is known.
	Delay time.Duration
	// Err is the failure that opened the breaker, nil if none did. It may hold
	// whatever the dependency's error holds.
	Err error
	// By and Reason are those of the Override, or the reason given to Trip.
	By, Reason string
}

// Rate returns the share of calls that were bad, 0 without calls.
func (c Change) Rate() float64 {
	if c.Calls == 0 {
		return 0
	}
	return float64(c.Bad) / float64(c.Calls)
}

// String tells the change in one line, without the error.
func (c Change) String() string {
	name := ""
	if c.Name != "" {
		name = strconv.Quote(c.Name) + " "
	}
	s := fmt.Sprintf("breaker %s%v -> %v: %s", name, c.From, c.To, c.why())
	if c.To == Open && c.Delay > 0 {
		s += fmt.Sprintf("; open for %v", c.Delay.Round(time.Millisecond))
	}
	return s
}

func (c Change) why() string {
	var s string
	switch c.Rule {
	case RuleFailureRate:
		s = fmt.Sprintf("%d of %d calls in %v failed", c.Bad, c.Calls, c.Window)
	case RuleSlowRate:
		s = fmt.Sprintf("%d of %d calls in %v were slow", c.Bad, c.Calls, c.Window)
		if c.Hung > 0 {
			s += fmt.Sprintf(", %d of them in flight", c.Hung)
		}
	case RuleConsecutive:
		s = fmt.Sprintf("%d failures in a row", c.Bad)
	case RuleRelapse:
		s = "no answer in time, or an overload, soon after closing"
	case RuleProbeDue:
		s = "the delay is over, probing"
	case RuleProbeSucceeded:
		s = fmt.Sprintf("%d probes succeeded", c.Calls)
	case RuleProbeFailed:
		s = "a probe failed"
	case RuleProbeTimeout:
		s = "a probe did not report in time"
	case RuleBreadth:
		s = fmt.Sprintf("%d of %d keys are open", c.Bad, c.Calls)
	case RuleTrip:
		s = "tripped by hand"
	case RuleReset:
		s = "reset"
	case RuleForced:
		s = "forced " + c.To.String()
	case RuleReleased:
		s = "override ended"
	default:
		s = string(c.Rule)
	}
	if c.By != "" {
		s += " by " + c.By
	}
	if c.Reason != "" {
		s += ": " + c.Reason
	}
	return s
}

// LogValue returns the change as a group, without the error, whose text is not
// ours to publish.
func (c Change) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("name", c.Name),
		slog.String("from", c.From.String()),
		slog.String("to", c.To.String()),
		slog.String("rule", string(c.Rule)),
		slog.String("why", c.why()),
		slog.Duration("delay", c.Delay),
	)
}

// keptChanges is how many changes a breaker remembers. It is a small number because a
// [Group] may have thousands of breakers that remember.
const keptChanges = 8

// remember notes c for Changes, without the error: what that holds on to is not ours to
// keep. Breaker.mu is held.
func (t *more) remember(c Change) {
	c.Err = nil
	if len(t.last) == keptChanges {
		t.last = append(t.last[:0], t.last[1:]...)
	}
	t.last = append(t.last, c)
}

// Changes returns the last changes of the state that State shows, the oldest first, and
// eight at most. They come without Err. It is a pure read, so that a change which time
// alone has brought about is among them only once a call has noticed it.
func (b *Breaker) Changes() []Change {
	m := b.more.Load()
	if m == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(m.last)
}

// event is a Change on its way to OnChange.
type event struct {
	change Change
	hook   func(Change)
}

// deliver tells the queued events, oldest first, unless another goroutine is at
// it, which then tells ours too. One deliverer at a time and one queue keep the
// events in order without a lock held over a hook.
func (b *Breaker) deliver() {
	m := b.more.Load()
	if m == nil {
		return // no event, ever
	}
	b.mu.Lock()
	if m.delivering || len(m.events) == 0 {
		b.mu.Unlock()
		return
	}
	m.delivering = true
	done := false
	defer func() {
		if done {
			return
		}
		// A hook panicked or called Goexit, and this goroutine unwinds. The events
		// after that one are not lost with it.
		b.mu.Lock()
		m.delivering = false
		b.mu.Unlock()
		b.deliver()
	}()
	for len(m.events) > 0 {
		e := m.events[0]
		m.events = m.events[1:]
		b.mu.Unlock()
		e.hook(e.change)
		b.mu.Lock()
	}
	m.events = nil
	m.delivering = false
	done = true
	b.mu.Unlock()
}
