package hedge_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/hedge"
	"github.com/mettle-go/mettle/retry"
)

// kind is how a run of the operation ends, when it is left alone.
type kind int

const (
	succeeds kind = iota
	answers       // with an error about the request
	fails
	timesOut
	overloaded
	permanent
	waits // suggests to
	refused
	panics
	exits
	kinds
)

func (k kind) String() string {
	return [...]string{"succeeds", "answers", "fails", "times out", "overloaded", "permanent", "waits", "refused", "panics", "exits"}[k]
}

// fate is what becomes of one run.
type fate struct {
	kind  kind
	takes time.Duration
	deaf  bool // does not look at its context
}

// schedule is one call: its Hedge, what becomes of each run, and of the caller.
type schedule struct {
	after  time.Duration
	max    int
	burst  int // of the shared budget; 0: none
	spent  int // of it, before the call
	fates  []fate
	cancel time.Duration // when the caller gives up; 0: never
}

func (s schedule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "after %v, max %d, budget %d of %d, cancel %v", s.after, s.max, s.burst-s.spent, s.burst, s.cancel)
	for i, f := range s.fates {
		fmt.Fprintf(&b, "\n\t%d: %v after %v, deaf %t", i, f.kind, f.takes, f.deaf)
	}
	return b.String()
}

// verdict is what came, or must come, of a schedule.
type verdict struct {
	begun             []time.Duration // when each run did
	lost              []bool          // whether its context ended with ErrLost while it ran
	winner            int             // -1: none
	errs              []int           // the runs whose errors came back, sorted
	crash             int             // the run whose panic or Goexit came through; -1: none
	took              time.Duration
	denied, abandoned uint64
	tokens            float64
}

const never = time.Duration(math.MaxInt64)

// simulated is one run on its way through simulate.
type simulated struct {
	fate
	end    time.Duration
	ended  bool
	price  float64
	gaveUp bool // it ended because the caller did
}

// simulate works out what must come of s, one event after the other.
func simulate(s schedule) verdict {
	v := verdict{winner: -1, crash: -1, tokens: float64(s.burst - s.spent)}
	var runs []*simulated
	now, timer, decided := time.Duration(0), s.after, never
	closed, cancelled := false, false
	begin := func(price float64) {
		f := s.fates[len(runs)]
		runs = append(runs, &simulated{fate: f, end: now + f.takes, price: price})
		v.begun, v.lost = append(v.begun, now), append(v.lost, false)
	}
	send := func(price float64) {
		if closed || len(runs) > s.max {
			return
		}
		price = min(price, float64(s.burst))
		switch {
		case cancelled:
			closed = true
			return
		case s.burst > 0 && v.tokens < price:
			v.denied++
			closed = true
			return
		}
		v.tokens -= price
		timer = never
		begin(price)
		if len(runs) <= s.max {
			timer = now + s.after
		}
	}
	decide := func(by int) {
		decided, closed = now, true
		for i, r := range runs {
			if i == by || r.ended {
				continue
			}
			v.lost[i] = !cancelled // the caller came first
			r.ended = !r.deaf
		}
	}
	end := func(i int) {
		r := runs[i]
		r.ended = true
		if r.kind == refused && !r.gaveUp {
			v.tokens += r.price // it was never sent
		}
		if decided != never {
			switch {
			case r.kind != panics && r.kind != exits:
				if now-decided > max(s.after/10, 10*time.Millisecond) {
					v.abandoned++
				}
			case v.crash < 0:
				v.crash = i
			}
			return
		}
		if r.gaveUp {
			v.errs = append(v.errs, i)
			closed = true
			return
		}
		switch r.kind {
		case panics, exits:
			v.crash = i
			decide(i)
		case succeeds, answers:
			v.winner = i
			decide(i)
		case fails:
			v.errs = append(v.errs, i)
			send(1)
		case timesOut:
			v.errs = append(v.errs, i)
			send(2)
		default:
			v.errs = append(v.errs, i)
			closed = true
		}
	}

	begin(0)
	for {
		next, at := -1, never
		for i, r := range runs {
			if !r.ended && r.end < at {
				next, at = i, r.end
			}
		}
		if next < 0 {
			break
		}
		switch {
		case s.cancel > 0 && !cancelled && s.cancel < at && s.cancel < timer:
			now, cancelled = s.cancel, true
			for i, r := range runs {
				if !r.ended && !r.deaf {
					r.gaveUp = true
					end(i)
				}
			}
		case timer < at:
			now, timer = timer, never
			send(1)
		default:
			now = at
			end(next)
		}
	}
	v.took = now
	if v.winner >= 0 && s.burst > 0 && v.crash < 0 {
		v.tokens = min(float64(s.burst), v.tokens+0.1)
	}
	slices.Sort(v.errs)
	return v
}

func randomSchedule(r *rand.Rand) schedule {
	// No two events at one moment, or their order would be anybody's guess.
	moment := func(most time.Duration) time.Duration { return 1 + time.Duration(r.Int64N(int64(most))) }
	s := schedule{after: moment(100 * time.Millisecond), max: 1 + r.IntN(4)}
	if r.IntN(3) == 0 {
		s.burst = 1 + r.IntN(4)
		s.spent = r.IntN(s.burst + 1)
	}
	if r.IntN(4) == 0 {
		s.cancel = moment(300 * time.Millisecond)
	}
	for range s.max + 1 {
		s.fates = append(s.fates, fate{kind: kind(r.IntN(int(kinds))), takes: moment(300 * time.Millisecond), deaf: r.IntN(3) == 0})
	}
	return s
}

type cause struct{ error }

func (c cause) Unwrap() error { return c.error }

type overload struct{ cause }

func (overload) Outcome() mettle.Outcome { return mettle.Overload }

type answer struct{ cause }

func (answer) Outcome() mettle.Outcome { return mettle.Success }

type late struct{ cause }

func (late) Timeout() bool { return true }

type later struct{ cause }

func (later) RetryAfter() time.Duration { return time.Second }

// perform runs s and reports what came of it.
func perform(t *testing.T, s schedule, bind func(*hedge.Hedge) mettle.Policy) verdict {
	v := verdict{winner: -1, crash: -1}
	config := hedge.Config{After: s.after, Max: s.max}
	if s.burst > 0 {
		config.Budget = retry.NewBudget(retry.BudgetConfig{Burst: s.burst, Start: s.burst, MinPerSecond: -1})
		for range s.spent {
			config.Budget.Withdraw(mettle.Failure)
		}
	}
	h := hedge.New(config)
	p := bind(h)

	names := make([]error, len(s.fates)) // each error Is that of its run
	errs := make([]error, len(s.fates))
	for i, f := range s.fates {
		name := fmt.Errorf("run %d", i)
		names[i], errs[i] = name, name
		switch f.kind {
		case answers:
			errs[i] = answer{cause{name}}
		case timesOut:
			errs[i] = late{cause{name}}
		case overloaded:
			errs[i] = overload{cause{name}}
		case permanent:
			errs[i] = mettle.Permanent(name)
		case waits:
			errs[i] = later{cause{name}}
		case refused:
			errs[i] = fmt.Errorf("%w: %w", name, mettle.ErrRejected)
		}
	}
	gaveUp := errors.New("the caller gave up")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	if s.cancel > 0 {
		defer time.AfterFunc(s.cancel, func() { cancel(gaveUp) }).Stop()
	}

	var mu sync.Mutex
	start := time.Now()
	op := func(ctx context.Context) (int, error) {
		i := mettle.Attempt(ctx) - 1
		mu.Lock()
		if i != len(v.begun) {
			t.Errorf("run %d is number %d", len(v.begun), i)
		}
		v.begun, v.lost = append(v.begun, time.Since(start)), append(v.lost, false)
		mu.Unlock()
		f := s.fates[i]
		defer func() {
			mu.Lock()
			defer mu.Unlock()
			v.lost[i] = context.Cause(ctx) == hedge.ErrLost
		}()
		if f.deaf {
			time.Sleep(f.takes)
		} else {
			select {
			case <-time.After(f.takes):
			case <-ctx.Done():
				return -1, fmt.Errorf("%w: %w", names[i], context.Cause(ctx))
			}
		}
		switch f.kind {
		case succeeds:
			return i, nil
		case panics:
			panic(errs[i])
		case exits:
			exit()
		}
		return -1, errs[i]
	}
	var got int
	var err error
	value, exited := crash(func() { got, err = mettle.Get(ctx, p, op) })
	v.took = time.Since(start)

	switch {
	case exited:
		v.crash = slices.IndexFunc(s.fates, func(f fate) bool { return f.kind == exits })
	case value != nil:
		v.crash = slices.Index(errs, value.(error))
	case err == nil:
		v.winner = got
	default:
		var e *hedge.Error
		several := errors.As(err, &e)
		for i := range v.begun {
			if !errors.Is(err, names[i]) {
				continue
			}
			if s.fates[i].kind == answers && !several && !errors.Is(err, gaveUp) {
				v.winner = i
				continue
			}
			v.errs = append(v.errs, i)
		}
		if several != (len(v.errs) > 1) {
			t.Errorf("%d errors, and the error is %T", len(v.errs), err)
		}
	}
	stats := h.Stats()
	v.denied, v.abandoned = stats.Denied, stats.Abandoned
	if int(stats.Hedges) != len(v.begun)-1 {
		t.Errorf("%d hedges counted, %d runs begun", stats.Hedges, len(v.begun))
	}
	if wins := map[bool]uint64{v.winner > 0: 1}[true]; stats.Wins != wins {
		t.Errorf("%d wins counted, and run %d won", stats.Wins, v.winner)
	}
	if s.burst > 0 {
		v.tokens = config.Budget.Balance()
	}
	return v
}

// Random schedules end as the simulation says, in every form that the policy has.
//
// Spec: H1, H2, H3, P3, P5
func TestAgreesWithSimulation(t *testing.T) {
	seeds := uint64(4000)
	if testing.Short() {
		seeds = 400
	}
	ways := []func(*hedge.Hedge) mettle.Policy{
		func(h *hedge.Hedge) mettle.Policy { return h },
		func(h *hedge.Hedge) mettle.Policy { return mettle.Compose(h) },
		func(h *hedge.Hedge) mettle.Policy { return mettle.Compose(direct{}, h, direct{}) },
	}
	seen := make(map[string]int)
	for seed := range seeds {
		r := rand.New(rand.NewPCG(seed, 0))
		s := randomSchedule(r)
		want := simulate(s)
		synctest.Test(t, func(t *testing.T) {
			if got := perform(t, s, ways[seed%3]); !same(s, got, want) {
				t.Fatalf("seed %d: %v\ngot  %+v\nwant %+v", seed, s, got, want)
			}
		})
		// The schedules are worth something when they come to every kind of end.
		for what, is := range map[string]bool{
			"won by the first": want.winner == 0, "won by a hedge": want.winner > 0, "a run lost": slices.Contains(want.lost, true),
			"one failed": len(want.errs) == 1 && want.winner < 0, "several failed": len(want.errs) > 1 && want.winner < 0 && want.crash < 0,
			"crashed": want.crash >= 0, "denied": want.denied > 0, "abandoned": want.abandoned > 0, "three runs": len(want.begun) > 2,
		} {
			if is {
				seen[what]++
			}
		}
	}
	for what, n := range seen {
		if n < int(seeds)/100 {
			t.Errorf("%q came of %d schedules of %d", what, n, seeds)
		}
	}
	if len(seen) != 9 {
		t.Errorf("of nine kinds of end only %v came", seen)
	}
}

// same compares what came with what had to.
func same(s schedule, got, want verdict) bool {
	switch {
	case want.crash >= 0:
		got.winner, got.errs, want.winner, want.errs = 0, nil, 0, nil
		if s.fates[want.crash].kind == exits && got.crash >= 0 && s.fates[got.crash].kind == exits {
			got.crash = want.crash // one Goexit looks like another
		}
	case want.winner >= 0:
		got.errs, want.errs = nil, nil
	}
	return slices.Equal(got.begun, want.begun) && slices.Equal(got.lost, want.lost) && got.winner == want.winner &&
		slices.Equal(got.errs, want.errs) && got.crash == want.crash && got.took == want.took &&
		got.denied == want.denied && got.abandoned == want.abandoned &&
		(s.burst == 0 || math.Abs(got.tokens-want.tokens) < 1e-9)
}
