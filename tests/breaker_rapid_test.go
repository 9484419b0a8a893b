package tests

import (
	"context"
	"errors"
	"flag"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
)

// tb hides from rapid that the test is a testing.T, whose deadline is none of the
// bubble's time and asking for it there panics.
type tb struct{ testing.TB }

// explore has check check a property with random sequences of about 200 steps, in
// virtual time, of which shrink is for making a sequence that fails shorter. The
// sequences are the same in each run, for what runs before a change goes in should fail
// for the change alone; -rapid.seed and what else stands on the command line goes before.
func explore(t *testing.T, seed int, shrink time.Duration, check func(testing.TB)) {
	t.Helper()
	given := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for name, value := range map[string]string{
		"rapid.checks": "200", "rapid.steps": "200", "rapid.seed": strconv.Itoa(seed),
		"rapid.shrinktime": shrink.String(),
		"rapid.nofailfile": "true", // the log has the sequence
	} {
		if f := flag.Lookup(name); !given[name] {
			before := f.Value.String()
			require.NoError(t, f.Value.Set(value))
			defer func() { require.NoError(t, f.Value.Set(before)) }()
		}
	}
	synctest.Test(t, func(t *testing.T) { check(tb{t}) })
}

// overloaded is the error of a dependency that says when to come back.
type overloaded time.Duration

func (overloaded) Error() string               { return "come back later" }
func (overloaded) Outcome() mettle.Outcome     { return mettle.Overload }
func (e overloaded) RetryAfter() time.Duration { return time.Duration(e) }

// result is a way for an operation to end.
type result struct {
	err     error
	outcome mettle.Outcome
	hint    time.Duration
}

// results has the likelier ones more than once.
var results = []result{
	{nil, mettle.Success, 0},
	{nil, mettle.Success, 0},
	{nil, mettle.Success, 0},
	{errors.New("down"), mettle.Failure, 0},
	{errors.New("down again"), mettle.Failure, 0},
	{context.DeadlineExceeded, mettle.Timeout, 0},
	{overloaded(3 * time.Second), mettle.Overload, 3 * time.Second},
	{overloaded(time.Millisecond), mettle.Overload, time.Millisecond},
	{mettle.ErrRejected, mettle.Ignored, 0},
}

// subject is a breaker, or one with a fault planted.
type subject interface {
	mettle.Policy
	acquire() (permit, error)
	State() breaker.State
	RemainingDelay() time.Duration
	Stats() breaker.Stats
	ForceOpen(breaker.Override)
	ForceClosed(breaker.Override)
	Release()
	Trip(reason string)
	Reset()
	Reconfigure(breaker.Config) error
}

type permit interface{ Done(error) }

type sound struct{ *breaker.Breaker }

func (s sound) acquire() (permit, error) {
	p, err := s.Acquire(context.Background())
	return &p, err
}

// world is a breaker together with its reference, and the calls in flight.
type world struct {
	b       subject
	r       *reference
	told    []breaker.Change
	permits []permit
	tickets []*ticket
	looked  bool // the last step made the breaker look at the time
	steps   *int
}

func newWorld(t *rapid.T, steps *int, with fault) *world {
	w := &world{steps: steps}
	tell := func(c breaker.Change) { w.told = append(w.told, c) }
	if with.tell != nil {
		tell = with.tell(tell)
	}
	c := drawConfig(t, breaker.Config{
		Name:        "db",
		Window:      time.Duration(rapid.IntRange(1, 20).Draw(t, "window")) * time.Second,
		FailureRate: rapid.SampledFrom([]float64{-1, 0.3, 0.5, 1}).Draw(t, "failure rate"),
		Consecutive: rapid.SampledFrom([]int{-1, 3, 6}).Draw(t, "consecutive"),
		SlowCall:    rapid.SampledFrom([]time.Duration{-1, 2 * time.Second}).Draw(t, "slow call"),
		OnChange:    tell,
	})
	w.b, w.r = with.plant(c), newReference(c)
	return w
}

// drawConfig returns c with everything redrawn but for what the documentation does
// not say about the past: the window, and which rules there are.
func drawConfig(t *rapid.T, c breaker.Config) breaker.Config {
	seconds := func(from, to int, what string) time.Duration {
		return time.Duration(rapid.IntRange(from, to).Draw(t, what)) * time.Second
	}
	if c.FailureRate > 0 {
		c.FailureRate = rapid.SampledFrom([]float64{0.3, 0.5, 1}).Draw(t, "rate")
	}
	if c.Consecutive > 0 {
		c.Consecutive = rapid.IntRange(1, 6).Draw(t, "in a row")
	}
	c.SlowRate = rapid.SampledFrom([]float64{0.4, 0.6}).Draw(t, "slow rate")
	c.MinCalls = rapid.IntRange(1, 12).Draw(t, "min calls")
	c.OpenFor = seconds(1, 2, "open for")
	c.MaxOpenFor = seconds(2, 6, "max open for")
	c.Probes = rapid.IntRange(1, 3).Draw(t, "probes")
	c.Successes = rapid.IntRange(1, 4).Draw(t, "successes")
	c.ProbeTimeout = seconds(1, 5, "probe timeout")
	c.Ramp = rapid.SampledFrom([]time.Duration{-1, time.Second, 5 * time.Second}).Draw(t, "ramp")
	return c
}

func (w *world) check(t *rapid.T) {
	if err := w.r.compare(w.b); err != nil {
		t.Fatalf("the breaker %v", err)
	}
	if err := w.r.compareTold(w.told, w.looked); err != nil {
		t.Fatalf("the breaker %v", err)
	}
	*w.steps++
}

func (w *world) see(admitted bool) seen { return seen{admitted, w.b.Stats().Machine} }

// admitted compares an answer of the breaker to a call with that of the reference.
func (w *world) admitted(t *rapid.T, err error) *ticket {
	if err != nil {
		var open *breaker.OpenError
		if !errors.As(err, &open) || !errors.Is(err, breaker.ErrOpen) || !errors.Is(err, mettle.ErrRejected) {
			t.Fatalf("Acquire: %v", err)
		}
		// A delay that is told is one during which the breaker refuses every call; none is
		// told when nobody knows it.
		d, s := open.RetryAfter(), w.b.Stats()
		if known := s.State == breaker.Open && s.RemainingDelay < forever; known && d != s.RemainingDelay || !known && d > 0 {
			t.Fatalf("refused for %v, with %v left", d, s.RemainingDelay)
		}
	}
	ticket, differs := w.r.acquire(w.see(err == nil))
	if differs != nil {
		t.Fatalf("the breaker %v", differs)
	}
	return ticket
}

func (w *world) acquire(t *rapid.T) {
	w.looked = true
	permit, err := w.b.acquire()
	if ticket := w.admitted(t, err); ticket != nil {
		w.permits, w.tickets = append(w.permits, permit), append(w.tickets, ticket)
	}
}

// do is a call that takes no time, or crashes.
func (w *world) do(t *rapid.T) {
	w.looked = true
	e := rapid.SampledFrom(results).Draw(t, "result")
	crash := rapid.IntRange(0, 9).Draw(t, "crash") == 0
	var ticket *ticket
	err, crashed := errors.New("did not return"), false
	func() {
		defer func() {
			if p := recover(); p == "crash" {
				crashed = true
			} else if p != nil {
				panic(p)
			}
		}()
		err = w.b.Do(context.Background(), func(context.Context) error {
			if ticket = w.admitted(t, nil); crash {
				panic("crash")
			}
			return e.err
		})
	}()
	switch {
	case ticket == nil:
		w.admitted(t, err)
	case crashed:
		w.reported(t, ticket, result{errCrash, mettle.Failure, 0})
	case err != e.err:
		t.Fatalf("Do: %v, want %v", err, e.err)
	default:
		w.reported(t, ticket, e)
	}
}

func (w *world) done(t *rapid.T) {
	if len(w.permits) == 0 {
		t.Skip("no calls in flight")
	}
	w.looked = false
	i := rapid.IntRange(0, len(w.permits)-1).Draw(t, "call")
	e := rapid.SampledFrom(results).Draw(t, "result")
	permit, ticket := w.permits[i], w.tickets[i]
	w.permits = append(w.permits[:i:i], w.permits[i+1:]...)
	w.tickets = append(w.tickets[:i:i], w.tickets[i+1:]...)
	permit.Done(e.err)
	w.reported(t, ticket, e)
	permit.Done(e.err) // without effect
}

func (w *world) reported(t *rapid.T, ticket *ticket, e result) {
	if differs := w.r.done(ticket, e, w.see(true)); differs != nil {
		t.Fatalf("the breaker %v", differs)
	}
}

// cancelled asks with a context that is done, and reports on nothing.
func (w *world) cancelled(t *rapid.T) {
	w.looked = false
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	ran := false
	if err := w.b.Do(ctx, func(context.Context) error { ran = true; return nil }); err != context.Canceled || ran {
		t.Fatalf("Do: %v, want %v; the operation ran: %v", err, context.Canceled, ran)
	}
}

// sleep lets time pass: any, or as much as brings something about, or a little less.
func (w *world) sleep(t *rapid.T) {
	w.looked = false
	var d time.Duration
	switch rapid.SampledFrom([]string{"any", "any", "seconds", "delay"}).Draw(t, "how long") {
	case "any":
		d = time.Duration(rapid.IntRange(0, 3000).Draw(t, "milliseconds")) * time.Millisecond
	case "seconds":
		d = time.Duration(rapid.IntRange(1, 5).Draw(t, "seconds")) * time.Second
	case "delay":
		d = min(w.b.RemainingDelay(), time.Minute)
	}
	if short := rapid.IntRange(0, 3).Draw(t, "a little less") == 0; short && d > 0 {
		d--
	}
	time.Sleep(d)
}

func (w *world) force(t *rapid.T) {
	w.looked = true
	o := breaker.Override{
		For: time.Duration(rapid.IntRange(0, 2).Draw(t, "for")) * time.Second,
		By:  rapid.SampledFrom([]string{"", "ops"}).Draw(t, "by"),
	}
	if rapid.Bool().Draw(t, "open") {
		w.b.ForceOpen(o)
		w.r.force(breaker.Open, o)
	} else {
		w.b.ForceClosed(o)
		w.r.force(breaker.Closed, o)
	}
}

func (w *world) intervene(t *rapid.T) {
	w.looked = true
	switch rapid.SampledFrom([]string{"release", "trip", "reset", "reconfigure", "mistake"}).Draw(t, "how") {
	case "release":
		w.b.Release()
		w.r.Release()
	case "trip":
		w.b.Trip("by hand")
		w.r.Trip("by hand")
	case "reset":
		w.b.Reset()
		w.r.Reset()
	case "reconfigure":
		c := drawConfig(t, w.r.c)
		if err := w.b.Reconfigure(c); err != nil {
			t.Fatalf("Reconfigure: %v", err)
		}
		w.r.Reconfigure(c)
	case "mistake":
		w.looked = false
		c := w.r.c
		c.Probes = -1
		if w.b.Reconfigure(c) == nil {
			t.Fatalf("Reconfigure accepts -1 probes")
		}
	}
}

// walk takes a random sequence of everything that can be done to a breaker, and
// compares it with its reference after each step.
func walk(t *rapid.T, steps *int, with fault) {
	w := newWorld(t, steps, with)
	t.Repeat(map[string]func(*rapid.T){
		"":  w.check,
		"a": w.acquire, "b": w.acquire, "c": w.acquire, "d": w.do,
		"e": w.done, "f": w.done, "g": w.done, "h": w.cancelled,
		"i": w.sleep, "j": w.sleep, "k": w.force, "l": w.intervene,
	})
}

// Random sequences of everything that can be done to a breaker, until there were a
// hundred thousand steps: after each, it shows what the reference shows, and it has
// told the same changes, for the same reasons.
//
// Spec: B30, B3, B6, B14, B15, B16, B18, B23, B25, B33
func TestBreakerAgreesWithReference(t *testing.T) {
	steps, need := 0, 100_000
	if testing.Short() {
		need = 10_000
	}
	for seed := 1; steps < need; seed++ {
		explore(t, seed, 20*time.Hour, func(t testing.TB) {
			rapid.Check(t, func(t *rapid.T) { walk(t, &steps, fault{}) })
		})
	}
	assert.GreaterOrEqual(t, steps, need)
	t.Logf("%d operations", steps)
}
