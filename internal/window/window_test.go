package window

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// naive is a window that keeps every event: slow, and plainly right.
type naive struct {
	width  int64
	events []event
}

type event struct {
	at  int64
	bad bool
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func (n *naive) add(at int64, bad bool) { n.events = append(n.events, event{at, bad}) }

func (n *naive) sum(now int64) (total, bad int) {
	for _, e := range n.events {
		if floorDiv(now, n.width)-floorDiv(e.at, n.width) < Buckets {
			total++
			if e.bad {
				bad++
			}
		}
	}
	return total, bad
}

func (n *naive) lifetime() (total, bad uint64) {
	for _, e := range n.events {
		total++
		if e.bad {
			bad++
		}
	}
	return total, bad
}

// check compares a window with the naive one.
func check(t *testing.T, w *Window, n *naive, now int64) {
	t.Helper()
	total, bad, _ := w.Sum(now)
	if wantTotal, wantBad := n.sum(now); total != wantTotal || bad != wantBad {
		t.Fatalf("at %d: Sum = %d, %d; want %d, %d", now, total, bad, wantTotal, wantBad)
	}
	allTotal, allBad := w.Lifetime()
	if wantTotal, wantBad := n.lifetime(); allTotal != wantTotal || allBad != wantBad {
		t.Fatalf("at %d: Lifetime = %d, %d; want %d, %d", now, allTotal, allBad, wantTotal, wantBad)
	}
}

// A window agrees with one that keeps every event, whatever the gaps between
// events, from a start before and after the clock's zero.
//
// Spec: B8, B9
func TestAgreesWithNaive(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		span := MinSpan + time.Duration(r.Int64N(int64(time.Minute)))
		now := r.Int64N(1e12) - 5e11
		w, n := New(span, now), &naive{width: int64(span) / Buckets}
		for range 500 {
			switch r.IntN(4) {
			case 0: // a burst: no time passes
			case 1:
				now += r.Int64N(n.width)
			case 2:
				now += r.Int64N(3 * n.width)
			case 3:
				now += r.Int64N(40 * n.width)
			}
			bad := r.IntN(3) == 0
			w.Add(now, bad)
			n.add(now, bad)
			check(t, w, n, now)
			if r.IntN(8) == 0 { // looking moves nothing
				check(t, w, n, now+r.Int64N(20*n.width))
			}
		}
	}
}

func FuzzAgreesWithNaive(f *testing.F) {
	f.Add(int64(time.Second), int64(0), []byte("\x00\x01\xff\x80\x7f\x10\x11\x12"))
	f.Add(int64(MinSpan), int64(-1), []byte{255, 255, 255, 0, 0, 0})
	f.Fuzz(func(t *testing.T, span, start int64, steps []byte) {
		if span < int64(MinSpan) || span > int64(time.Hour) || start > 1<<60 || start < -1<<60 {
			t.Skip()
		}
		now := start
		w, n := New(time.Duration(span), now), &naive{width: span / Buckets}
		for _, b := range steps {
			now += int64(b>>1) * n.width / 4
			w.Add(now, b&1 == 1)
			n.add(now, b&1 == 1)
			check(t, w, n, now)
			check(t, w, n, now+int64(b>>1)*n.width/4)
		}
	})
}

// player does everything that can be done to a window, and to the naive one beside it.
type player struct {
	t      *testing.T
	w      *Window
	n      *naive
	now    int64
	newest int64 // epoch
	lost   [2]uint64
}

func (p *player) begin(span time.Duration) {
	p.n = &naive{width: int64(span) / Buckets}
	p.newest = floorDiv(p.now, p.n.width)
}

// add counts an event at the given time in one of the ways there are, with stripes aside.
func (p *player) add(at int64, bad bool, atLeast uint64) {
	_, _, in := p.w.Sum(p.newest * p.n.width)
	short := false
	if !bad {
		add := p.w.AddGood
		if p.w.Striped() {
			add = p.w.AddStriped
		}
		short = add(at, atLeast)
		if want := floorDiv(at, p.n.width) == p.newest && uint64(in) >= atLeast; short != want {
			p.t.Fatalf("at %d, with %d in the newest bucket and at least %d asked for: counted is %v", at, in, atLeast, short)
		}
	}
	if !short {
		if p.newest < floorDiv(at, p.n.width) {
			p.newest, in = floorDiv(at, p.n.width), 0
		}
		if got := p.w.Add(at, bad); got != in+1 {
			p.t.Fatalf("at %d: Add = %d, want %d", at, got, in+1)
		}
	}
	p.n.add(max(at, p.newest*p.n.width), bad) // who is late counts in the newest bucket
}

// forget lets go of what is outside the window, but for the sum of all.
func (p *player) forget(all bool) {
	p.n.events = slices.DeleteFunc(p.n.events, func(e event) bool {
		gone := all || max(floorDiv(p.now, p.n.width), p.newest)-floorDiv(e.at, p.n.width) >= Buckets
		if gone {
			p.lost[0]++
			if e.bad {
				p.lost[1]++
			}
		}
		return gone
	})
}

// resize moves what is in the window to one of another span.
func (p *player) resize(span time.Duration) {
	p.forget(false)
	p.w = p.w.Resize(span, p.now)
	events, width := p.n.events, p.n.width
	p.begin(span)
	for _, e := range events {
		e.at = min(floorDiv(e.at, width)*width+width/2, p.now)
		p.n.events = append(p.n.events, e)
	}
}

func (p *player) check(at int64) {
	total, bad, _ := p.w.Sum(at)
	if wantTotal, wantBad := p.n.sum(max(at, p.newest*p.n.width)); total != wantTotal || bad != wantBad {
		p.t.Fatalf("at %d: Sum = %d, %d; want %d, %d", at, total, bad, wantTotal, wantBad)
	}
	all, allBad := p.w.Lifetime()
	want, wantBad := p.n.lifetime()
	if all != want+p.lost[0] || allBad != wantBad+p.lost[1] {
		p.t.Fatalf("at %d: Lifetime = %d, %d; want %d, %d", at, all, allBad, want+p.lost[0], wantBad+p.lost[1])
	}
}

// step does what two bytes say.
func (p *player) step(op, arg byte) {
	width := p.n.width
	switch op % 8 {
	case 0, 1:
		p.now += int64(arg) * width / 8
	case 2: // far, so that what is old looks new, or the window is stale
		p.now += int64(arg) * width * maxGap / 16
	case 3:
		p.add(p.now-int64(arg)*width/8, arg&1 == 0, 1) // held up after reading the clock
	case 4:
		p.w.Stripe()
	case 5:
		p.resize(MinSpan + time.Duration(arg)*37*time.Millisecond)
	default:
		p.add(p.now, op&8 == 0, 1+uint64(arg%8))
	}
	if stale := floorDiv(p.now, p.n.width)-p.newest > maxGap; p.w.Stale(p.now) != stale {
		p.t.Fatalf("at %d: Stale is %v", p.now, !stale)
	} else if stale {
		p.forget(true)
		span := time.Duration(p.n.width * Buckets)
		p.w, p.lost = New(span, p.now), [2]uint64{}
		p.begin(span)
	}
}

// Whatever is done to a window in whatever order, it agrees with the naive one: events in
// time and late, by the short way, aside or not, moved to other spans, at any distance.
func FuzzOperationsAgreeWithNaive(f *testing.F) {
	f.Add(int64(time.Second), int64(0), []byte{6, 0, 6, 0, 14, 0, 14, 1, 0, 8, 14, 0, 3, 9, 0, 255, 6, 0})     // short ways, late
	f.Add(int64(time.Second), int64(-1e15), []byte{4, 0, 6, 0, 14, 0, 14, 0, 5, 99, 14, 0, 0, 40, 5, 1, 6, 1}) // stripes, other spans
	f.Add(int64(MinSpan), int64(1e15), []byte{6, 0, 2, 15, 6, 0, 2, 16, 6, 0, 2, 17, 6, 0, 2, 64, 14, 0})      // far
	for seed := range uint64(20) {
		r, steps := rand.New(rand.NewPCG(seed, 4)), make([]byte, 600)
		for i := range steps {
			if steps[i] = byte(r.Uint32()); i%2 == 0 && steps[i]%8 == 2 && r.IntN(4) > 0 {
				steps[i]++ // seldom far
			}
		}
		f.Add(int64(MinSpan)+r.Int64N(int64(time.Minute)), r.Int64N(1e15)-5e14, steps)
	}
	f.Fuzz(func(t *testing.T, span, start int64, steps []byte) {
		if span < int64(MinSpan) || span > int64(time.Minute) || start > 1<<60 || start < -1<<60 || len(steps) > 1000 {
			t.Skip()
		}
		p := &player{t: t, now: start, w: New(time.Duration(span), start)}
		p.begin(time.Duration(span))
		for ; len(steps) > 1 && p.now < 1<<61; steps = steps[2:] {
			p.step(steps[0], steps[1])
			p.check(p.now)
			p.check(p.now + int64(steps[1])*p.n.width/8)
			p.check(p.now - int64(steps[1])*p.n.width/8)
		}
	})
}

// Old buckets do not come back to life when their epochs' low bits come round: a
// slot that no event fell into for 16 million buckets was once taken for new.
//
// Spec: B8, B27
func TestEpochsDoNotComeRound(t *testing.T) {
	const round = epochMask + 1
	w := New(Buckets*time.Second, 0)
	w.Add(3*int64(time.Second), true) // slot 3
	// One event every 16 buckets, all in slot 0, until slot 3 would look new.
	for e := int64(16); e < round+16; e += maxGap / 2 / 16 * 16 {
		w.Add(e*int64(time.Second), false)
	}
	now := (round + 3) * int64(time.Second)
	if _, bad, _ := w.Sum(now); bad != 0 {
		t.Errorf("an event from %d buckets ago is in the window", round)
	}
}

// A window that idled for so long that its epochs are ambiguous says so.
//
// Spec: B27
func TestStale(t *testing.T) {
	w := New(Buckets*time.Second, 0)
	w.Add(0, true)
	for _, v := range []struct {
		idle time.Duration
		want bool
	}{{0, false}, {time.Hour, false}, {maxGap * time.Second, false}, {(maxGap + 1) * time.Second, true}, {292 * 365 * 24 * time.Hour, true}} {
		if got := w.Stale(int64(v.idle)); got != v.want {
			t.Errorf("idle for %v: Stale = %v", v.idle, got)
		}
	}
}

// A full bucket halves both counts and keeps their ratio; nothing carries from one
// field to the next, and the sum of all events stays exact.
//
// Spec: B27
func TestFullBucketKeepsRatio(t *testing.T) {
	w := New(time.Second, 0)
	const n = 3*countMax + 7
	for i := range n {
		w.Add(0, i%4 == 0)
	}
	total, bad, _ := w.Sum(0)
	if total > countMax || bad > total {
		t.Fatalf("Sum = %d, %d: out of the fields' bounds", total, bad)
	}
	if r := float64(bad) / float64(total); r < 0.2499 || r > 0.2501 {
		t.Errorf("the ratio became %v, want 0.25", r)
	}
	if all, allBad := w.Lifetime(); all != n || allBad != (n+3)/4 {
		t.Errorf("Lifetime = %d, %d; want %d, %d", all, allBad, n, (n+3)/4)
	}
}

// Many goroutines that meet at the roll of a bucket lose no event between them, and
// Lifetime never runs backwards while they do.
//
// Spec: B8, B9
func TestConcurrentRollsLoseNothing(t *testing.T) {
	const goroutines, rounds = 64, 200
	w := New(Buckets*time.Second, 0)
	for round := range int64(rounds) {
		now := round * 20 * int64(time.Second) // past the whole window each time
		var wg sync.WaitGroup
		for g := range goroutines {
			wg.Go(func() { w.Add(now, g%2 == 0) })
		}
		var last uint64
		for range 20 {
			all, _ := w.Lifetime()
			if all < last {
				t.Fatalf("Lifetime fell from %d to %d", last, all)
			}
			last = all
		}
		wg.Wait()
		if total, bad, _ := w.Sum(now); total != goroutines || bad != goroutines/2 {
			t.Fatalf("round %d: Sum = %d, %d; want %d, %d", round, total, bad, goroutines, goroutines/2)
		}
	}
	if all, _ := w.Lifetime(); all != goroutines*rounds {
		t.Errorf("Lifetime = %d, want %d", all, goroutines*rounds)
	}
}

// While counts are on their way out of a bucket, and in neither place, Lifetime waits:
// it would run backwards.
//
// Spec: B9
func TestLifetimeWaitsForAMove(t *testing.T) {
	w := New(Buckets*time.Second, 0)
	for range 5 {
		w.Add(0, true)
	}
	got := make(chan uint64, 1)
	w.take(5, 5, func() bool {
		w.main[0].Store(pack(0, 0, 0))
		go func() { total, _ := w.Lifetime(); got <- total }()
		for range 1000 {
			runtime.Gosched() // the other goroutine has its chance to be too early
		}
		return true
	})
	if total := <-got; total != 5 {
		t.Errorf("Lifetime = %d, want 5", total)
	}
}

// An event of a goroutine that read the clock long ago counts in the newest bucket.
//
// Spec: B9
func TestLateEventCounts(t *testing.T) {
	w := New(Buckets*time.Second, 0)
	w.Add(100*int64(time.Second), false)
	w.Add(1, true)
	if total, bad, _ := w.Sum(100 * int64(time.Second)); total != 2 || bad != 1 {
		t.Errorf("Sum = %d, %d; want 2, 1", total, bad)
	}
}

// What another goroutine counted after now was read is in the sum, and what that
// event moved out of the window is not.
//
// Spec: B9
func TestSumSeesLaterEvents(t *testing.T) {
	w := New(Buckets*time.Second, 0)
	w.Add(0, true)
	w.Add(Buckets*int64(time.Second), false)
	if total, bad, newest := w.Sum(Buckets*int64(time.Second) - 1); total != 1 || bad != 0 || newest != 1 {
		t.Errorf("Sum = %d, %d, %d in the newest; want 1, 0, 1", total, bad, newest)
	}
}

// AddGood counts where all there is to do is to add one to the newest bucket, and
// leaves the rest to Add.
//
// Spec: B27, B9
func TestAddGood(t *testing.T) {
	const second = int64(time.Second)
	for _, v := range []struct {
		name string
		set  func(w *Window)
		now  int64
		want bool
	}{
		{"enough", func(w *Window) { w.main[0].Store(pack(0, 1, 3)) }, 0, true},
		{"end of the bucket", func(w *Window) { w.main[0].Store(pack(0, 1, 3)) }, second - 1, true},
		{"too few", func(w *Window) { w.main[0].Store(pack(0, 1, 2)) }, 0, false},
		{"room for one", func(w *Window) { w.main[0].Store(pack(0, 1, countMax-1)) }, 0, true},
		{"full", func(w *Window) { w.main[0].Store(pack(0, 1, countMax)) }, 0, false},
		{"next bucket", func(w *Window) { w.main[0].Store(pack(0, 1, 3)) }, second, false},
		{"held up", func(w *Window) { w.Add(second, false); w.main[0].Store(pack(0, 1, 3)) }, 0, false},
		// Between the steps in which another goroutine moves the window on, the newest
		// epoch's slot holds an older bucket.
		{"old bucket", func(w *Window) { w.main[0].Store(pack(0, 1, 3)); w.newest.Store(Buckets) }, Buckets * second, false},
	} {
		t.Run(v.name, func(t *testing.T) {
			w := New(Buckets*time.Second, 0)
			v.set(w)
			before := w.main[0].Load()
			if got := w.AddGood(v.now, 3); got != v.want {
				t.Errorf("AddGood = %v", got)
			}
			var one uint64
			if v.want {
				one = 1
			}
			if got := w.main[0].Load(); got != before+one {
				t.Errorf("the bucket went from %#x to %#x", before, got)
			}
		})
	}
}

func striped(span time.Duration, now int64) *Window {
	w := New(span, now)
	w.Stripe()
	return w
}

// Stripes come after many clashes within one bucket's time, not after the same number
// over a long time: they are for those who clash all the time.
//
// Spec: B32
func TestStripesComeWithClashes(t *testing.T) {
	w := New(Buckets*time.Second, 0)
	for e := range int64(100) {
		w.Add(e*int64(time.Second), false)
		for range clashesMax - 1 {
			w.clash()
		}
	}
	if w.Striped() {
		t.Fatal("there are stripes already")
	}
	w.clash()
	if !w.Striped() {
		t.Fatal("there are no stripes yet")
	}
	s := w.stripes.Load()
	if w.clash(); w.stripes.Load() != s {
		t.Error("there are other stripes")
	}
	if w.Stripe(); w.stripes.Load() != s {
		t.Error("Stripe replaces those that there are")
	}
}

// A window with stripes agrees with one that keeps every event, from New on and over
// Resize, and good events are in the stripes as soon as main has enough.
//
// Spec: B8, B9, B25, B32
func TestStripesAgreeWithNaive(t *testing.T) {
	const enough = 3
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 2))
		span := MinSpan + time.Duration(r.Int64N(int64(time.Minute)))
		now := r.Int64N(1e12) - 5e11
		w, n := striped(span, now), &naive{width: int64(span) / Buckets}
		aside := 0
		for range 500 {
			switch r.IntN(8) {
			case 0:
				now += r.Int64N(n.width)
			case 1:
				now += r.Int64N(3 * n.width)
			case 2:
				now += r.Int64N(40*n.width) * int64(r.IntN(2))
			}
			bad := r.IntN(8) == 0
			if !bad && w.AddStriped(now, enough) {
				aside++
			} else {
				w.Add(now, bad)
			}
			n.add(now, bad)
			check(t, w, n, now)
		}
		if aside < 100 {
			t.Fatalf("seed %d: %d events are in the stripes", seed, aside)
		}
		// A window of the same span keeps what is in this one; it has no stripes.
		total, bad, _ := w.Sum(now)
		fresh := w.Resize(span, now)
		if gotTotal, gotBad, _ := fresh.Sum(now); gotTotal != total || gotBad != bad {
			t.Fatalf("seed %d: resized Sum = %d, %d; want %d, %d", seed, gotTotal, gotBad, total, bad)
		}
		if all, _ := fresh.Lifetime(); all != uint64(len(n.events)) {
			t.Fatalf("seed %d: resized Lifetime = %d, want %d", seed, all, len(n.events))
		}
	}
}

// AddStriped counts what AddGood would count.
//
// Spec: B27, B32
func TestAddStriped(t *testing.T) {
	const second = int64(time.Second)
	for _, v := range []struct {
		name string
		main uint64 // the newest bucket
		now  int64
		want bool
	}{
		{"enough", pack(0, 1, 3), 0, true},
		{"end of the bucket", pack(0, 1, 3), second - 1, true},
		{"too few", pack(0, 1, 2), 0, false},
		{"next bucket", pack(0, 1, 3), second, false},
		{"before the bucket", pack(0, 1, 3), -1, false},
		{"old bucket", pack(-Buckets, 1, 3), 0, false},
	} {
		t.Run(v.name, func(t *testing.T) {
			w := striped(Buckets*time.Second, 0)
			w.main[0].Store(v.main)
			before, _ := w.Lifetime()
			if got := w.AddStriped(v.now, 3); got != v.want {
				t.Errorf("AddStriped = %v", got)
			}
			if v.want {
				before++
			}
			if all, _ := w.Lifetime(); all != before {
				t.Errorf("Lifetime = %d, want %d", all, before)
			}
			if got := w.main[0].Load(); got != v.main {
				t.Errorf("main went from %#x to %#x", v.main, got)
			}
		})
	}
}

// One that is held up between its look at main and its count finds its bucket gone. It
// leaves the event to Add, which finds the right one.
//
// Spec: B9
func TestCountLeavesALaterBucketAlone(t *testing.T) {
	w := striped(Buckets*time.Second, 0)
	r := &w.stripes.Load()[0]
	r[0].Store(pack(Buckets, 0, 7))
	if _, ok := w.count(r, 0, 1); ok {
		t.Error("counted an event of epoch 0 in a bucket of epoch 16")
	}
	if got := r[0].Load(); got != pack(Buckets, 0, 7) {
		t.Errorf("the bucket became %#x", got)
	}
}

// Whichever ring is full, the counts of its epoch are halved in all, and only those: the
// ratio stands, and every event stays in the sum of all.
//
// Spec: B27
func TestFullStripeKeepsRatio(t *testing.T) {
	for _, full := range []string{"stripe", "main"} {
		t.Run(full, func(t *testing.T) {
			w := striped(Buckets*time.Second, 0)
			s := w.stripes.Load()
			set := func(slot int, main, stripe uint64) {
				w.main[slot].Store(pack(int64(slot), main/2, main))
				for i := range s {
					s[i][slot].Store(pack(int64(slot), 0, stripe))
				}
			}
			const old, oldBad = 1000 + stripes*8000, 500
			set(0, 1000, 8000) // an older bucket
			w.newest.Store(1)
			now := int64(time.Second)
			bad := full == "main"
			if bad {
				set(1, countMax, 1<<18)
			} else {
				set(1, 1<<18, countMax)
			}
			total, failed, _ := w.Sum(now)
			all, _ := w.Lifetime()
			if bad {
				w.Add(now, true)
			} else if !w.AddStriped(now, 3) {
				t.Fatal("not counted")
			}
			after, failedAfter, _ := w.Sum(now)
			total, failed, after, failedAfter = total-old, failed-oldBad, after-old, failedAfter-oldBad
			if after < total/2 || after > total/2+2+stripes { // halves are rounded up
				t.Errorf("the events of the bucket went from %d to %d", total, after)
			}
			if was, is := float64(failed)/float64(total), float64(failedAfter)/float64(after); is < was-0.001 || is > was+0.001 {
				t.Errorf("the ratio went from %v to %v", was, is)
			}
			if now, _ := w.Lifetime(); now != all+1 {
				t.Errorf("Lifetime went from %d to %d", all, now)
			}
		})
	}
}

// Goroutines that count in stripes, while buckets roll and others look, lose nothing.
//
// Spec: B9, B32
func TestConcurrentStripesLoseNothing(t *testing.T) {
	const goroutines, rounds, events = 16, 50, 100
	w := striped(Buckets*time.Second, 0)
	for round := range int64(rounds) {
		now := round * 5 * int64(time.Second)
		var wg sync.WaitGroup
		for g := range goroutines {
			wg.Go(func() {
				for i := range events {
					if bad := (g+i)%10 == 0; bad || !w.AddStriped(now, 3) {
						w.Add(now, bad)
					}
				}
			})
		}
		var last uint64
		for range 20 {
			all, _ := w.Lifetime()
			if all < last {
				t.Fatalf("Lifetime fell from %d to %d", last, all)
			}
			last = all
		}
		wg.Wait()
		// Buckets of this round and of up to three before it are in the window.
		want := int(min(round+1, 4)) * goroutines * events
		if total, bad, _ := w.Sum(now); total != want || bad != want/10 {
			t.Fatalf("round %d: Sum = %d, %d; want %d, %d", round, total, bad, want, want/10)
		}
	}
	if all, _ := w.Lifetime(); all != goroutines*rounds*events {
		t.Errorf("Lifetime = %d, want %d", all, goroutines*rounds*events)
	}
}

// Goroutines are spread over the stripes.
//
// Spec: B32
func TestStripesAreSpread(t *testing.T) {
	var counts [stripes]int
	const goroutines = 1000
	got := make(chan uint64, goroutines)
	release := make(chan struct{})
	for range goroutines { // all at once, or they would have the same stack one after the other
		go func() { got <- stripe(); <-release }()
	}
	for range goroutines {
		counts[<-got]++
	}
	close(release)
	for i, n := range counts {
		if n < goroutines/stripes/4 || n > goroutines/stripes*4 {
			t.Errorf("%d of %d goroutines have stripe %d", n, goroutines, i)
		}
	}
}

// Resize moves what is still inside to a window of another span.
//
// Spec: B25
func TestResize(t *testing.T) {
	const s = int64(time.Second)
	for _, v := range []struct {
		span time.Duration
		want int
	}{{16 * time.Second, 16}, {64 * time.Second, 16}, {4 * time.Second, 4}} {
		t.Run(fmt.Sprint(v.span), func(t *testing.T) {
			w := New(16*time.Second, 0)
			for i := range int64(16) {
				w.Add(i*s, i%2 == 0)
			}
			r := w.Resize(v.span, 15*s+s/2)
			total, bad, _ := r.Sum(15*s + s/2)
			if total < v.want-1 || total > v.want || bad < total/2-1 || bad > total/2+1 {
				t.Errorf("Sum = %d, %d; want about %d, half of them", total, bad, v.want)
			}
			if all, _ := r.Lifetime(); all != 16 {
				t.Errorf("Lifetime = %d, want 16", all)
			}
		})
	}
}

// Full buckets that fall into one are halved until they fit: the ratio stands and no
// field carries into the next.
//
// Spec: B25, B27
func TestResizeFullBuckets(t *testing.T) {
	w := New(Buckets*time.Second, 0)
	for e := range int64(8) {
		w.main[e].Store(pack(e, countMax/4, countMax))
	}
	w.newest.Store(7)
	now := 7 * int64(time.Second)
	total, bad, newest := w.Resize(8*Buckets*time.Second, now).Sum(now)
	if total > countMax || total < countMax/4 || newest != total {
		t.Errorf("Sum = %d, %d in the newest; out of bounds", total, newest)
	}
	if r := float64(bad) / float64(total); r < 0.2499 || r > 0.2501 {
		t.Errorf("the ratio became %v, want 0.25", r)
	}
}

// Buckets that fall into one are moved once each. They were once counted anew with each
// that joined them, and Lifetime fell.
//
// Spec: B25
func TestResizeForgetsNothing(t *testing.T) {
	for _, span := range []time.Duration{Buckets * time.Second, 3 * Buckets * time.Second, time.Hour, 4 * time.Second} {
		w := New(Buckets*time.Second, 0)
		now := int64(0)
		for i := range int64(100) {
			now = i * int64(time.Second)
			w.Add(now, i%4 == 0)
		}
		for range 3 {
			w = w.Resize(span, now)
			if total, bad := w.Lifetime(); total != 100 || bad != 25 {
				t.Fatalf("%v: Lifetime = %d, %d; want 100, 25", span, total, bad)
			}
		}
	}
}

// What had left the window does not come back in a longer one.
//
// Spec: B25
func TestResizeRevivesNothing(t *testing.T) {
	w := New(time.Second, 0)
	w.Add(0, true)
	now := int64(30 * time.Second)
	r := w.Resize(time.Minute, now)
	if total, _, _ := r.Sum(now); total != 0 {
		t.Errorf("Sum = %d, want 0", total)
	}
	if total, bad := r.Lifetime(); total != 1 || bad != 1 {
		t.Errorf("Lifetime = %d, %d; want 1, 1", total, bad)
	}
}

func BenchmarkAdd(b *testing.B) {
	w := New(10*time.Second, 0)
	for b.Loop() {
		w.Add(5, false)
	}
}

func BenchmarkSum(b *testing.B) {
	w := New(10*time.Second, 0)
	for b.Loop() {
		w.Sum(5)
	}
}

// BenchmarkSumStriped is what every failure costs in a window that is striped.
func BenchmarkSumStriped(b *testing.B) {
	w := striped(10*time.Second, 0)
	for b.Loop() {
		w.Sum(5)
	}
}
