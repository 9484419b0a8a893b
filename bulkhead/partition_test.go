package bulkhead_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/mettletest"
)

// three is a partition as it is meant to be used: of 10 slots, the two lower pools
// lend 4 and keep 3.
func three(wait time.Duration) *bulkhead.Partition {
	return bulkhead.NewPartition(bulkhead.PartitionConfig{
		Name: "db",
		Pools: []bulkhead.PoolConfig{
			{Name: "critical", Limit: 3, MaxWait: wait},
			{Name: "normal", Limit: 4, Lend: 2, MaxWait: wait},
			{Name: "background", Limit: 3, Lend: 2, MaxWait: wait},
		},
	})
}

// inFlight lists what is in flight in the pools of three.
func inFlight(s *bulkhead.Partition) string {
	var n []int
	for _, name := range []string{"critical", "normal", "background"} {
		n = append(n, s.Pool(name).Stats().InFlight)
	}
	return fmt.Sprint(n)
}

// fill takes all the room that p can get, and returns how much that was.
func fill(p *bulkhead.Pool) (held []bulkhead.Permit) {
	for {
		permit, ok := p.TryAcquire()
		if !ok {
			return held
		}
		held = append(held, permit)
	}
}

func releaseAll(held ...bulkhead.Permit) {
	for _, p := range held {
		p.Release()
	}
}

// wantFree fails unless all room is free again and can be taken.
func wantFree(t testing.TB, s *bulkhead.Partition, total int, names ...string) {
	t.Helper()
	for _, name := range names {
		wantIdle(t, s.Pool(name))
	}
	var held []bulkhead.Permit
	for i := len(names) - 1; i >= 0; i-- {
		held = append(held, fill(s.Pool(names[i]))...)
	}
	if len(held) != total {
		t.Fatalf("%d slots can be taken, want %d", len(held), total)
	}
	releaseAll(held...)
}

// Spec: P10
func TestPartitionConfigIsValidatedWhole(t *testing.T) {
	type config = bulkhead.PartitionConfig
	type pools = []bulkhead.PoolConfig
	for _, c := range []config{
		{Pools: pools{{Name: "a"}}},
		{Name: "x", Pools: pools{{Name: "a", Limit: 1, MaxQueue: 1, MaxWait: 1, Order: bulkhead.LIFO}, {Name: "b", Limit: 2, Lend: 2}, {Name: "c", Lend: 200}}},
		{Pools: pools{{Name: "a", Limit: math.MaxInt32 - 1}, {Name: "b", Limit: 1}}},
	} {
		if err := c.Validate(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		bulkhead.NewPartition(c)
	}

	bad := config{Pools: pools{
		{Name: "a", Limit: -1, MaxQueue: -2, Lend: 1},
		{MaxWait: -3 * time.Second, Lend: 201},
		{Name: "a", Order: 7, Lend: -4, Limit: 9},
		{Name: "b", Limit: math.MaxInt32},
	}}
	err := bad.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	want := []string{
		`bulkhead: Pools[0].Limit is -1, must be between 1 and 2147483647, or zero for the default`,
		`bulkhead: Pools[0].MaxQueue is -2, must be between 1 and 2147483647, or zero for as many as Limit`,
		`bulkhead: Pools[0].Lend is 1, must be zero: the first pool has the highest priority and none to lend to`,
		`bulkhead: Pools[1].MaxWait is -3s, must be positive, or zero for no waiting`,
		`bulkhead: Pools[1].Name is empty, must be what the pool is known by`,
		`bulkhead: Pools[1].Lend is 201, must be between 0 and Limit, which is 200`,
		`bulkhead: Pools[2].Order is order(7), must be FIFO or LIFO`,
		`bulkhead: Pools[2].Lend is -4, must be between 0 and Limit, which is 9`,
		`bulkhead: Pools[2].Name is "a", must be different from that of Pools[0]`,
		`bulkhead: Pools have limits of 2147483856 together, must be at most 2147483647`,
	}
	if got := err.Error(); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	if got := mustPanic(t, func() { bulkhead.NewPartition(bad) }); got != err.Error() {
		t.Errorf("NewPartition panics with %v, want Validate's message", got)
	}
	if err := (config{}).Validate(); err == nil || err.Error() != "bulkhead: Pools is empty, must have a pool at least" {
		t.Errorf("no pools: got %v", err)
	}
}

func TestPoolOfNoSuchName(t *testing.T) {
	s := three(0)
	want := `bulkhead: Pool "critcal", must be one of "critical", "normal", "background"`
	if got := mustPanic(t, func() { s.Pool("critcal") }); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

type class struct{}

func withClass(name string) context.Context { return context.WithValue(bg, class{}, name) }

func classOf(ctx context.Context) string { name, _ := ctx.Value(class{}).(string); return name }

func TestByPicksThePool(t *testing.T) {
	s := three(0)
	by := s.By(classOf)
	for name, p := range map[string]mettle.Policy{"alone": by, "composed": mettle.Compose(by)} {
		for class, want := range map[string]string{
			"critical": "[1 0 0]", "normal": "[0 1 0]", "background": "[0 0 1]", "": "[0 0 1]", "Critical": "[0 0 1]",
		} {
			got := ""
			if err := p.Do(withClass(class), func(context.Context) error { got = inFlight(s); return nil }); err != nil || got != want {
				t.Errorf("%s, class %q: in flight %s, want %s; %v", name, class, got, want, err)
			}
		}
	}
	unknown := 0.0
	for m := range by.(mettle.Observable).Observe {
		if m.Name == "mettle.bulkhead.partition.unknown" {
			unknown = m.Value
		}
	}
	if unknown != 4 {
		t.Errorf("%v unknown names were counted, want 4", unknown)
	}

	if got, want := mustPanic(t, func() { s.By(nil) }), "bulkhead: Partition.By: pool is nil"; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	broken := s.By(func(context.Context) string { panic("class") })
	if got := mustPanic(t, func() { broken.Do(bg, noop) }); got != "class" {
		t.Errorf("got %v", got)
	}
	wantFree(t, s, 10, "critical", "normal", "background")
}

// The suite that all policies go through.
//
// Spec: P3, P4, P5, P6, P7, P8, P9, P11, P12
func TestPoolConforms(t *testing.T) {
	for name, newPolicy := range map[string]func() mettle.Policy{
		"a pool":               func() mettle.Policy { return three(0).Pool("critical") },
		"by name, with queues": func() mettle.Policy { return three(time.Second).By(classOf) },
	} {
		t.Run(name, func(t *testing.T) { mettletest.TestPolicy(t, newPolicy) })
	}
}

// Room goes up, never down, and what is kept stays.
//
// Spec: K1
func TestRoomIsLentUpwardsOnly(t *testing.T) {
	for _, tc := range []struct {
		order string // in which the pools take all that they can get
		want  string
	}{
		{"critical normal background", "[7 2 1]"}, // 2 and 2 lent; 2 and 1 kept
		{"critical background normal", "[7 2 1]"},
		{"normal critical background", "[3 6 1]"}, // normal has its 4 and 2 of background
		{"normal background critical", "[3 6 1]"},
		{"background critical normal", "[5 2 3]"}, // background lends nothing while it is busy
		{"background normal critical", "[3 4 3]"}, // everybody has what is his
	} {
		s := three(0)
		total := 0
		for _, name := range strings.Fields(tc.order) {
			total += len(fill(s.Pool(name)))
		}
		if got := inFlight(s); got != tc.want || total != 10 {
			t.Errorf("%s: %s in flight, want %s", tc.order, got, tc.want)
		}
	}
}

// The borrower is told apart by nothing but the number of its calls: the slot comes
// back with whichever of them ends first.
func TestLentRoomComesBackWithAnyCallThatEnds(t *testing.T) {
	s := three(0)
	critical, background := s.Pool("critical"), s.Pool("background")
	held := fill(critical)
	releaseAll(fill(background)...) // what it keeps
	own, borrowed := held[0], held[len(held)-1]
	for i, p := range []bulkhead.Permit{own, borrowed} {
		p.Release()
		got := fill(background)
		if want := 2 + i; len(got) != want {
			t.Errorf("after %d ended: background has %d, want %d", i+1, len(got), want)
		}
		releaseAll(got...)
	}
}

// The pool above has calls waiting without end, and gets none of the room that the
// lender waits for: each of its calls that ends brings back a slot.
//
// Spec: K2
func TestLenderGoesBeforeBorrowers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := three(time.Minute)
		critical, background := s.Pool("critical"), s.Pool("background")
		borrowers := fill(critical) // 7 of 10: 2 are the lender's
		fill(s.Pool("normal"))
		var greedy, lender []*attempt
		for range 3 { // these wait already
			greedy = append(greedy, acquire(bg, critical))
			synctest.Wait()
		}
		for range 3 {
			lender = append(lender, acquire(bg, background))
			synctest.Wait()
		}
		if !lender[0].isDone() || lender[1].isDone() {
			t.Fatalf("kept room is not the lender's: %s", inFlight(s))
		}
		if s := background.Stats(); s.InFlight >= s.Limit || s.Queued != 2 {
			t.Errorf("a lender that waits for its own is not seen: %+v", s)
		}
		for i := range 2 {
			borrowers[i].Release()
			synctest.Wait()
			if !lender[i+1].isDone() || greedy[0].isDone() {
				t.Fatalf("the slot went to who would borrow it: %s", inFlight(s))
			}
		}

		// It is all the lender's. What comes free now, normal has lent; it wants none.
		borrowers[2].Release()
		synctest.Wait()
		if got := inFlight(s); !greedy[0].isDone() || got != "[5 2 3]" {
			t.Errorf("in flight %s", got)
		}
		time.Sleep(2 * time.Minute) // let the others go
	})
}

// Many calls above, one after the other without a pause, and now and then one below:
// how long does it wait?
func TestLenderWaitsForNoLongerThanACallTakes(t *testing.T) {
	const took = 10 * time.Millisecond
	for _, names := range [][]string{{"high", "low"}, {"high", "middle", "low"}} {
		synctest.Test(t, func(t *testing.T) {
			var pools []bulkhead.PoolConfig
			for i, name := range names {
				pools = append(pools, bulkhead.PoolConfig{Name: name, Limit: 5, Lend: min(i, 1) * 5, MaxQueue: 1000, MaxWait: time.Minute})
			}
			s := bulkhead.NewPartition(bulkhead.PartitionConfig{Pools: pools})
			low := s.Pool("low")
			var all sync.WaitGroup
			for _, name := range names[:len(names)-1] {
				for i := range 500 {
					all.Go(func() {
						time.Sleep(time.Duration(i) * 7 * time.Microsecond)
						s.Pool(name).Do(bg, func(context.Context) error { time.Sleep(took); return nil })
					})
				}
			}
			time.Sleep(50 * time.Millisecond)
			longest := time.Duration(0)
			for range 20 {
				if s.Pool("high").Stats().Queued == 0 {
					t.Error("there is nobody to compete with")
				}
				start := time.Now()
				if err := low.Do(bg, noop); err != nil {
					t.Error(err)
				}
				longest = max(longest, time.Since(start))
			}
			if longest == 0 || longest > took {
				t.Errorf("%v: waited up to %v for calls of %v", names, longest, took)
			}
			all.Wait()
			wantFree(t, s, 5*len(names), names...)
		})
	}
}

// Of several that would borrow what comes free, the one of highest priority does.
func TestBorrowersGoByPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := three(time.Minute)
		held := fill(s.Pool("background"))
		fill(s.Pool("normal"))
		fill(s.Pool("critical"))
		normal := acquire(bg, s.Pool("normal")) // came first
		synctest.Wait()
		critical := acquire(bg, s.Pool("critical"))
		synctest.Wait()
		for i, want := range []string{"[4 4 2]", "[4 5 1]", "[4 5 0]"} {
			held[i].Release()
			synctest.Wait()
			if got := inFlight(s); got != want {
				t.Errorf("after %d ended: in flight %s, want %s", i+1, got, want)
			}
		}
		releaseAll(critical.permit, normal.permit)
	})
}

// Room that could be had only by who is above does not stop anybody below from
// waiting, and is not kept from who is above.
func TestRoomThatIsNotTheWaitersIsFreeForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := three(time.Minute)
		critical, background := s.Pool("critical"), s.Pool("background")
		fill(background)
		waiter := acquire(bg, background)
		synctest.Wait()
		if waiter.isDone() {
			t.Fatal("room was lent downwards")
		}
		permit, err := critical.Acquire(bg) // at once, with others waiting
		if err != nil {
			t.Fatal(err)
		}
		if got := len(fill(critical)); got != 4 {
			t.Errorf("critical has %d more, want 4", got)
		}
		permit.Release()
		synctest.Wait()
		if waiter.isDone() {
			t.Error("room went to who may not have it")
		}
		time.Sleep(2 * time.Minute)
	})
}

// Spec: K2, P7
func TestPoolRefusalNamesThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := three(50 * time.Millisecond)
		background := s.Pool("background")
		fill(s.Pool("critical"))
		fill(background)
		check := func(err error, want bulkhead.FullError, text string) {
			t.Helper()
			var full *bulkhead.FullError
			if !errors.Is(err, bulkhead.ErrFull) || !errors.Is(err, mettle.ErrRejected) || !errors.As(err, &full) || *full != want {
				t.Fatalf("got %#v, want %#v", err, want)
			}
			if err.Error() != text {
				t.Errorf("got %q, want %q", err, text)
			}
		}
		full := bulkhead.FullError{Name: "db[background]", Limit: 3, MaxQueue: 3, Lent: true}
		late := full
		late.Waited = 50 * time.Millisecond

		var waiters []*attempt
		for range 3 {
			waiters = append(waiters, acquire(bg, background))
		}
		synctest.Wait()
		check(background.Do(bg, noop), full, `bulkhead: "db[background]" full: 3 in flight or lent and 3 waiting`)
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
		for _, w := range waiters {
			check(w.err, late, `bulkhead: "db[background]" full: none of 3 slots came free within 50ms`)
		}
		if got := background.Stats(); got.Refused != 4 || got.Expired != 3 || got.Waits != 3 || got.Waited != 150*time.Millisecond {
			t.Errorf("got %+v", got)
		}

		// A partition without a name, room that is in use and not lent, nobody waits.
		alone := bulkhead.NewPartition(bulkhead.PartitionConfig{Pools: []bulkhead.PoolConfig{{Name: "a", Limit: 2, MaxQueue: 9}}})
		fill(alone.Pool("a"))
		check(alone.Pool("a").Do(bg, noop), bulkhead.FullError{Name: "a", Limit: 2}, `bulkhead: "a" full: 2 in flight`)
	})
}

// Spec: K2
func TestPoolOrderAndEndOfTheContext(t *testing.T) {
	for order, want := range map[bulkhead.Order]string{bulkhead.FIFO: "[0 2 3]", bulkhead.LIFO: "[3 2 0]"} {
		synctest.Test(t, func(t *testing.T) {
			s := bulkhead.NewPartition(bulkhead.PartitionConfig{Pools: []bulkhead.PoolConfig{
				{Name: "a", Limit: 1, MaxQueue: 4, MaxWait: time.Minute, Order: order},
				{Name: "b", Limit: 1},
			}})
			held := fill(s.Pool("a"))
			ctx, cancel := context.WithCancelCause(bg)
			cause := errors.New("cause")
			var got []int
			for i := range 4 {
				go func() {
					with := bg
					if i == 1 {
						with = ctx
					}
					err := s.Pool("a").Do(with, func(context.Context) error { got = append(got, i); return nil })
					if (i == 1) != errors.Is(err, cause) {
						t.Errorf("call %d: %v", i, err)
					}
					if i == 1 && mettle.Classify(with, err) != mettle.Ignored {
						t.Errorf("the end of a wait of ours is classified as %v", mettle.Classify(with, err))
					}
				}()
				synctest.Wait()
			}
			cancel(cause)
			synctest.Wait()
			releaseAll(held...)
			synctest.Wait()
			if fmt.Sprint(got) != want {
				t.Errorf("%v: got %v, want %v", order, got, want)
			}
			wantFree(t, s, 2, "a", "b")
		})
	}
}

// Spec: K3
func TestPoolCancelAtTheInstantOfTheGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bulkhead.NewPartition(bulkhead.PartitionConfig{Pools: []bulkhead.PoolConfig{
			{Name: "a", Limit: 1, MaxQueue: 2, MaxWait: time.Hour},
		}})
		granted := 0
		for i := range 300 {
			if cancelAtGrant(t, s.Pool("a"), i%3) {
				granted++
			}
		}
		t.Logf("granted before cancelled: %d of 300", granted)
	})
}

// A lender is about to get its room back and gives up at that instant: the slot goes
// to the pool above that would borrow it, and is lost to nobody.
//
// Spec: K3
func TestGrantPassesOnToAnotherPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bulkhead.NewPartition(bulkhead.PartitionConfig{Pools: []bulkhead.PoolConfig{
			{Name: "high", Limit: 1, MaxWait: time.Hour},
			{Name: "low", Limit: 1, Lend: 1, MaxWait: time.Hour},
		}})
		for i := range 300 {
			held := fill(s.Pool("high"))
			ctx, cancel := context.WithCancel(bg)
			defer cancel()
			lender, borrower := acquire(ctx, s.Pool("low")), acquire(bg, s.Pool("high"))
			synctest.Wait()
			switch i % 3 {
			case 0:
				go held[0].Release()
				cancel()
			case 1:
				cancel()
				held[0].Release()
			case 2:
				held[0].Release()
				cancel()
			}
			synctest.Wait()
			if !lender.isDone() || lender.err == nil == borrower.isDone() {
				t.Fatalf("round %d: one slot for two, or for none: %v, %v", i, lender.err, borrower.isDone())
			}
			lender.permit.Release()
			synctest.Wait()
			if !borrower.isDone() || borrower.err != nil {
				t.Fatalf("round %d: the slot was lost", i)
			}
			releaseAll(held[1], borrower.permit)
			wantFree(t, s, 2, "high", "low")
		}
	})
}

// Spec: K4, P5
func TestPoolGetsRoomBackHoweverOpEnds(t *testing.T) {
	failure := errors.New("failure")
	for name, op := range map[string]func(context.Context) error{
		"return": func(context.Context) error { return failure },
		"panic":  func(context.Context) error { panic(failure) },
		"Goexit": func(context.Context) error { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := three(time.Minute)
				for _, p := range []mettle.Policy{s.Pool("critical"), mettle.Compose(s.Pool("normal")), s.By(classOf), mettle.Compose(s.By(classOf))} {
					others := [][]bulkhead.Permit{fill(s.Pool("background")), fill(s.Pool("normal")), fill(s.Pool("critical"))}
					go func() {
						defer func() { recover() }()
						p.Do(bg, op)
					}()
					synctest.Wait() // the call waits, and ends as soon as it may begin
					for _, held := range others {
						releaseAll(held...)
					}
					synctest.Wait()
					wantFree(t, s, 10, "critical", "normal", "background")
				}
			})
		})
	}
}

// Spec: K4
func TestPoolPermitIsReleasedOnce(t *testing.T) {
	s := three(0)
	held := fill(s.Pool("critical"))
	p, copied := held[0], held[0]
	p.Release()
	p.Release()
	copied.Release()
	if got := inFlight(s); got != "[6 0 0]" {
		t.Fatalf("seven permits, one released three times: %s", got)
	}
	next, _ := s.Pool("normal").TryAcquire()
	copied.Release()
	if got := inFlight(s); got != "[6 1 0]" {
		t.Fatalf("a stale copy released the slot of another pool: %s", got)
	}
	releaseAll(append(held[1:], next)...)
	wantFree(t, s, 10, "critical", "normal", "background")

	// More permits than the pool has tickets, all of it borrowed.
	s = bulkhead.NewPartition(bulkhead.PartitionConfig{Pools: []bulkhead.PoolConfig{
		{Name: "high", Limit: 1}, {Name: "low", Limit: 10_000, Lend: 10_000},
	}})
	held = fill(s.Pool("high"))
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for j := range held {
				held[(j+i*777)%len(held)].Release()
			}
		})
	}
	all.Wait()
	wantFree(t, s, 10_001, "high", "low")
}

// Spec: K6
func TestBreakerAndPoolCostEachOtherNothing(t *testing.T) {
	s := three(0)
	g := &gate{probes: 1}
	for name, p := range map[string]mettle.Policy{
		"breaker outside": mettle.Compose(g, s.By(classOf)),
		"breaker inside":  mettle.Compose(s.By(classOf), g),
	} {
		*g = gate{probes: 1}
		held := fill(s.Pool("background"))
		for range 3 {
			if err := p.Do(bg, noop); !errors.Is(err, bulkhead.ErrFull) {
				t.Fatal(name, err)
			}
		}
		if g.probes != 1 || g.decided != 0 {
			t.Errorf("%s: a full pool cost a probe: %+v", name, g)
		}
		releaseAll(held...)

		g.probes = 0
		if err := p.Do(bg, noop); err != errShut {
			t.Fatal(name, err)
		}
		wantFree(t, s, 10, "critical", "normal", "background")
	}
}

// Spec: P6
func TestPoolTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := three(time.Second)
		background := s.Pool("background")
		fill(background)
		var got []string
		ctx := mettle.WithTrace(bg, &mettle.Trace{
			Wait: func(e mettle.TraceEvent) {
				got = append(got, fmt.Sprint("wait ", e.Policy, " ", e.Delay))
				background.Stats() // no lock is held
			},
			Rejected: func(e mettle.TraceEvent) {
				got = append(got, fmt.Sprint("rejected ", e.Policy, " ", e.Err))
				background.Stats()
			},
		})
		background.Do(ctx, noop)
		want := `[wait db[background] 1s rejected db[background] bulkhead: "db[background]" full: none of 3 slots came free within 1s]`
		if fmt.Sprint(got) != want {
			t.Errorf("got %v, want %v", got, want)
		}

		ctx = mettle.WithTrace(bg, &mettle.Trace{Wait: func(mettle.TraceEvent) { panic("wait") }})
		if got := mustPanic(t, func() { background.Do(ctx, noop) }); got != "wait" {
			t.Errorf("got %v", got)
		}
		if got := background.Stats(); got.InFlight != 3 || got.Queued != 0 {
			t.Errorf("got %+v", got)
		}
	})
}

func TestTimeInThePoolsQueueIsNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := three(time.Minute)
		held := fill(s.Pool("background"))
		time.AfterFunc(3*time.Second, held[0].Release)
		ctx := mettle.WithQueued(bg)
		if err := s.Pool("background").Do(ctx, noop); err != nil || mettle.Queued(ctx) != 3*time.Second {
			t.Errorf("noted %v, %v", mettle.Queued(ctx), err)
		}
	})
}

// Spec: K7, P12
func TestPartitionObserve(t *testing.T) {
	s := three(0)
	releaseAll(fill(s.Pool("background"))...)
	fill(s.Pool("critical"))
	s.Pool("critical").Do(bg, noop)
	s.By(classOf).Do(withClass("nonsense"), noop)

	var got []string
	for range 2 { // looking changes nothing
		got = nil
		for m := range s.Observe {
			if m.Value != 0 || m.Name == "mettle.bulkhead.in_flight" {
				got = append(got, fmt.Sprint(m.Kind, " ", m.Name, m.Labels, " ", m.Value, m.Unit))
			}
			if m.Help == "" {
				t.Errorf("%s has no help", m.Name)
			}
		}
	}
	want := []string{
		"gauge mettle.bulkhead.in_flight[{policy db[critical]}] 7{call}",
		"gauge mettle.bulkhead.limit[{policy db[critical]}] 3{call}",
		"counter mettle.bulkhead.rejected[{policy db[critical]} {reason full}] 1{call}",
		"gauge mettle.bulkhead.in_flight[{policy db[normal]}] 0{call}",
		"gauge mettle.bulkhead.limit[{policy db[normal]}] 4{call}",
		"gauge mettle.bulkhead.in_flight[{policy db[background]}] 0{call}",
		"gauge mettle.bulkhead.limit[{policy db[background]}] 3{call}",
		"counter mettle.bulkhead.partition.unknown[{policy db}] 1{call}",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for stop := range 25 {
		n := 0
		s.Observe(func(mettle.Metric) bool { n++; return n <= stop })
		if n != stop+1 {
			t.Errorf("yielded %d, told to stop at %d", n, stop+1)
		}
	}
}

// Spec: P13, P7, P12
func TestPoolAllocations(t *testing.T) {
	s := three(0)
	critical, normal := s.Pool("critical"), s.Pool("normal")
	fill(critical)
	by, n := mettle.Compose(s.By(classOf)), 0
	ctx := withClass("normal")
	refused := func(err error) {
		if !errors.Is(err, bulkhead.ErrFull) {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name string
		want float64
		call func()
	}{
		{"Do", 0, func() { normal.Do(bg, noop) }},
		{"By", 0, func() { by.Do(ctx, noop) }},
		{"By, with the caller's closure", 1, func() {
			i := n
			by.Do(ctx, func(context.Context) error { n = i + 1; return nil })
		}},
		{"Acquire and Release", 0, func() { p, _ := normal.Acquire(bg); p.Release() }},
		{"TryAcquire and Release", 0, func() { p, _ := normal.TryAcquire(); p.Release() }},
		{"refused", 0, func() { refused(critical.Do(bg, noop)) }},
		{"Acquire refused", 0, func() { _, err := critical.Acquire(bg); refused(err) }},
		{"Stats", 0, func() { n += normal.Stats().Limit }},
		{"Observe", 0, func() { s.Observe(func(mettle.Metric) bool { return true }) }},
	} {
		if got := testing.AllocsPerRun(100, tc.call); got != tc.want {
			t.Errorf("%s: %v allocations, want %v", tc.name, got, tc.want)
		}
	}
}

// Spec: P11
func TestPartitionIsCollectable(t *testing.T) {
	s := three(0)
	s.Pool("normal").Do(bg, noop)
	w := weak.Make(s)
	s = nil
	for range 10 {
		runtime.GC()
	}
	if w.Value() != nil {
		t.Error("an unreferenced partition is kept")
	}
}
