package breaker

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/internal/window"
)

// The recommended values, which a zero field of [Config] stands for.
const (
	defaultWindow       = 10 * time.Second
	defaultFailureRate  = 0.8
	defaultMinCalls     = 100
	defaultConsecutive  = 10
	defaultSlowRate     = 0.5
	defaultOpenFor      = 50 * time.Millisecond
	defaultMaxOpenFor   = 30 // times OpenFor
	defaultProbes       = 1
	defaultSuccesses    = 2
	defaultProbeTimeout = 15 * time.Second
)

const (
	// fairTime is how long a call must have run for the caller's own deadline to
	// count against the dependency, where no SlowCall says what is slow.
	fairTime = 50 * time.Millisecond
	// retryAfterMin and retryAfterMax bound the opening that a dependency asks for by
	// a Retry-After, unless OpenFor is less or MaxOpenFor more.
	retryAfterMin = 100 * time.Millisecond
	retryAfterMax = time.Minute
	// jitter is how much longer than nominal an opening may last, so that clients
	// that opened together do not probe together.
	jitter = 0.2
	// openShare is the part of an outage for which the breaker may sleep through its
	// end. What is lost beyond the outage is half of that on average.
	openShare = 5
	// trialCalls is for how many calls after closing a timeout opens again. More of
	// them guard better against a dependency that comes back slowly, and open more often
	// for a timeout by chance.
	trialCalls = 10
	// byChance in the place of a number of failures in a row stands for as many as it
	// takes until the chance that they come in a row is at most chanceMax, and at least
	// defaultConsecutive, of which a timeout counts as two: it costs its caller more, and
	// more of them may be on their way. At a thousand calls a second that is one false
	// alarm in eleven days.
	byChance  = -1
	chanceMax = 1e-9
	// The share of failures is taken as if priorCalls had come before those in the window,
	// of which priorRate failed: a few calls that went well prove little. With no
	// other call it takes defaultConsecutive failures, since priorRate^10 is chanceMax.
	priorCalls = 5
	priorRate  = 0.125
	// rateUnit is the denominator that rates are compared with: whole numbers
	// decide, so that 57 of 100 reach a rate of 0.57.
	rateUnit = 1e9
)

// Config says when a breaker opens and how it closes again. The zero Config is
// valid and recommended; for the numbers, a zero field is the recommended value.
type Config struct {
	// Name appears in errors, metrics and changes. It may be empty.
	Name string

	// Window is the span of time over which rates are measured. Zero: 10 s. At
	// least 16 ms.
	Window time.Duration
	// FailureRate opens the breaker when at least this share of the calls in the
	// window failed, above 0 and at most 1, to a precision of 1e-9. It is judged when
	// a call fails, and when a call is the one that makes MinCalls whole. Zero: 0.8,
	// since an open breaker lets next to nothing succeed: below that, more calls get
	// through without it (measured, scenario S4 of the benchmarks). Negative: no rule on
	// the failure rate.
	FailureRate float64
	// MinCalls is how many calls the window must hold before a rate is judged. It
	// does not hold back Consecutive. Zero: 100. Of so few as 20, half fail by chance in
	// one window of twenty when three in ten do; of 100, in one of 50,000. At most one
	// million.
	MinCalls int
	// Consecutive opens the breaker at so many failures in a row, however far
	// apart. Negative: no rule on failures in a row.
	//
	// Zero: 10 or more, as many as do not come in a row by chance once in a billion
	// calls, by the share of calls that failed in the window before them; towards the 10
	// a timeout counts as two. That is 10, or 5 timeouts, for a dependency that was
	// healthy and busy, 18 for one of whose calls three in ten failed, and 10 when nothing
	// is known of it, or there is no rule on the failure rate.
	Consecutive int

	// SlowCall is the duration from which a call is slow, whether it succeeds or
	// not, and from which one that is still in flight counts as slow already, so that
	// a dependency that hangs is found out before its calls time out. What a bulkhead
	// inside notes as time in its queue is not the dependency's (but a call that is
	// still in that queue is in flight: let SlowCall be more than its MaxWait). The
	// rule costs a call a second clock read, and in a pipeline one allocation.
	// Zero or negative: no rule on slow calls, since only the caller knows what slow is.
	//
	// A call that the caller's own deadline ends counts only when it had at least
	// SlowCall, or 50 ms where that is off: a caller in a hurry proves nothing.
	SlowCall time.Duration
	// SlowRate opens the breaker when at least this share of the calls in the window
	// was slow, above 0 and at most 1. Zero: 0.5. Negative: no rule.
	SlowRate float64

	// OpenFor is how long the breaker stays open at first. Each opening lasts its
	// nominal delay times a random factor in [1, 1.2). The nominal delay is a fifth of
	// the time for which the breaker has not been closed, all openings taken together
	// since it last was for a whole Window, at least OpenFor and at most MaxOpenFor: the
	// end of an outage is noticed late by about a fifth of how long it was, or less. A
	// Retry-After on the failure that opens the breaker takes the place of the nominal
	// delay: at least 100 ms (or OpenFor, if that is less), at most a minute (or
	// MaxOpenFor, if that is more). Zero: 50 ms.
	OpenFor time.Duration
	// MaxOpenFor bounds the nominal delay. Zero: 30 times OpenFor. It must not be
	// less than OpenFor.
	MaxOpenFor time.Duration

	// Probes is how many calls may be in flight at once while half-open. Zero: 1.
	Probes int
	// Successes is how many probes must succeed to close, more than Probes if need
	// be. One failed probe opens again. Zero: 2.
	Successes int
	// ProbeTimeout is how long a probe may take. One that has not reported by then
	// counts as failed, and what it reports later is void. Zero: 15 s. Of an operation
	// that goes on after its answer, an adapter reports that with [Answered].
	ProbeTimeout time.Duration
	// Ramp is how long admission takes to rise to every call after the breaker has
	// closed again: from a tenth of the calls, linearly. Zero: all calls are admitted at
	// once.
	//
	// The first ten calls to end after closing are on trial, unless there is no rule on
	// the failure rate: one of them that times out or meets an overload, within a Window,
	// opens the breaker again as a failed probe would. It is for few callers, and for a
	// dependency that answers none: among many, those that are answered end first. What has come back, and cannot
	// yet do what it is asked, is not helped by being asked for more. Negative: no trial,
	// and all calls are admitted at once.
	Ramp time.Duration

	// Classify tells the outcome of a call. Nil: [mettle.Classify].
	Classify mettle.Classifier
	// OnChange is called after every change of the state that State shows: in order,
	// one at a time, with no lock held, on the goroutine of a call that happened to be
	// there. It may call the breaker. A hook that blocks holds up that one call and no
	// state; changes meanwhile queue up for it, so that one that never returns is told
	// of none of them, and keeps what it takes to hold them. A panic in the hook goes
	// to the caller.
	// Nil: nobody is told.
	OnChange func(Change)
}

// Validate reports every field that [New] would refuse, or nil.
func (c Config) Validate() error {
	var errs []error
	bad := func(field string, value any, want string) {
		errs = append(errs, fmt.Errorf("breaker: %s is %v, must be %s", field, value, want))
	}
	rate := func(field string, v float64) {
		if math.IsNaN(v) || math.IsInf(v, -1) || v > 1 || v > 0 && v < 1/rateUnit {
			bad(field, v, "above 0 and at most 1, zero for the default, or negative for no rule")
		}
	}
	atLeast := func(field string, v time.Duration) {
		if v < 0 {
			bad(field, v, "positive, or zero for the default")
		}
	}
	if c.Window < 0 || c.Window > 0 && c.Window < window.MinSpan {
		bad("Window", c.Window, fmt.Sprintf("at least %v, or zero for the default", window.MinSpan))
	}
	rate("FailureRate", c.FailureRate)
	rate("SlowRate", c.SlowRate)
	if c.MinCalls < 0 || c.MinCalls > 1e6 {
		bad("MinCalls", c.MinCalls, "between 1 and 1000000, or zero for the default")
	}
	atLeast("OpenFor", c.OpenFor)
	atLeast("MaxOpenFor", c.MaxOpenFor)
	atLeast("ProbeTimeout", c.ProbeTimeout)
	if open := c.OpenFor; c.MaxOpenFor > 0 {
		if open == 0 {
			open = defaultOpenFor
		}
		if c.MaxOpenFor < open {
			bad("MaxOpenFor", c.MaxOpenFor, fmt.Sprintf("at least OpenFor (%v)", open))
		}
	}
	if c.Probes < 0 {
		bad("Probes", c.Probes, "positive, or zero for the default")
	}
	if c.Successes < 0 {
		bad("Successes", c.Successes, "positive, or zero for the default")
	}
	return errors.Join(errs...)
}

// settings is a Config in the form that calls use, with the defaults filled in and
// the rules that are off zero. It is immutable, so that a call sees one whole
// configuration however often it is replaced.
type settings struct {
	name                    string
	window                  time.Duration
	failureUnits, slowUnits int64 // rates in parts of rateUnit
	minCalls                int
	consecutive             int // may be byChance
	slowCall                time.Duration
	openFor, maxOpenFor     time.Duration
	probes, successes       int
	probeTimeout, ramp      time.Duration
	trial                   bool              // the first calls after closing are
	classify                mettle.Classifier // nil: mettle.Classify
	onChange                func(Change)
}

func newSettings(c Config) *settings {
	orDefault(&c.Window, defaultWindow)
	orDefault(&c.FailureRate, defaultFailureRate)
	orDefault(&c.MinCalls, defaultMinCalls)
	orDefault(&c.SlowRate, defaultSlowRate)
	orDefault(&c.OpenFor, defaultOpenFor)
	orDefault(&c.MaxOpenFor, saturate(float64(c.OpenFor)*defaultMaxOpenFor))
	orDefault(&c.Probes, defaultProbes)
	orDefault(&c.Successes, defaultSuccesses)
	orDefault(&c.ProbeTimeout, defaultProbeTimeout)
	switch {
	case c.Consecutive < 0:
		c.Consecutive = 0
	case c.Consecutive == 0 && c.FailureRate > 0:
		c.Consecutive = byChance
	default:
		orDefault(&c.Consecutive, defaultConsecutive)
	}
	s := &settings{
		name:         c.Name,
		window:       c.Window,
		failureUnits: int64(math.Round(max(c.FailureRate, 0) * rateUnit)),
		minCalls:     c.MinCalls,
		consecutive:  c.Consecutive,
		openFor:      c.OpenFor,
		maxOpenFor:   c.MaxOpenFor,
		probes:       c.Probes,
		successes:    c.Successes,
		probeTimeout: c.ProbeTimeout,
		ramp:         max(c.Ramp, 0),
		trial:        c.Ramp >= 0 && c.FailureRate > 0,
		classify:     c.Classify,
		onChange:     c.OnChange,
	}
	if c.SlowCall > 0 && c.SlowRate > 0 {
		s.slowCall = c.SlowCall
		s.slowUnits = int64(math.Round(c.SlowRate * rateUnit))
	}
	return s
}

// lean reports whether a success needs neither a classifier nor its duration.
func (s *settings) lean() bool { return s.slowCall == 0 && s.classify == nil }

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// saturate turns nanoseconds into a Duration, the longest there is if need be.
func saturate(ns float64) time.Duration {
	if ns >= math.MaxInt64/2 {
		return math.MaxInt64 / 2 // leaves room to add it to a reading of the clock
	}
	return time.Duration(ns)
}

// openDelay returns the duration of an opening whose nominal delay is d, with the
// random factor in [0, 1) given.
func openDelay(d time.Duration, random float64) time.Duration {
	return max(d, saturate(float64(d)*(1+jitter*random)))
}

// LogValue returns the configuration in force, under the names of the fields of
// [Config] and with the defaults filled in; a rule that is off says so.
func (b *Breaker) LogValue() slog.Value {
	return slog.GroupValue(b.phase.Load().set.attrs()...)
}

func (s *settings) attrs() []slog.Attr {
	rate := func(field string, units int64) slog.Attr {
		if units == 0 {
			return slog.String(field, "off")
		}
		return slog.Float64(field, float64(units)/rateUnit)
	}
	consecutive := slog.Int("Consecutive", s.consecutive)
	switch s.consecutive {
	case 0:
		consecutive = slog.String("Consecutive", "off")
	case byChance:
		consecutive = slog.String("Consecutive", fmt.Sprintf("%d or more", defaultConsecutive))
	}
	ramp := slog.Duration("Ramp", s.ramp)
	if s.ramp == 0 && !s.trial && s.failureUnits > 0 {
		ramp = slog.String("Ramp", "off") // and no call is on trial
	}
	attrs := []slog.Attr{
		slog.String("Name", s.name),
		slog.Duration("Window", s.window),
		rate("FailureRate", s.failureUnits),
		slog.Int("MinCalls", s.minCalls),
		consecutive,
	}
	if s.slowCall > 0 {
		attrs = append(attrs, slog.Duration("SlowCall", s.slowCall), rate("SlowRate", s.slowUnits))
	} else {
		attrs = append(attrs, slog.String("SlowCall", "off"))
	}
	return append(attrs,
		slog.Duration("OpenFor", s.openFor),
		slog.Duration("MaxOpenFor", s.maxOpenFor),
		slog.Int("Probes", s.probes),
		slog.Int("Successes", s.successes),
		slog.Duration("ProbeTimeout", s.probeTimeout),
		ramp,
	)
}
