package timeout

import (
	"fmt"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxSamples = 8           // calls that are kept
	sampleGap  = time.Second // between two that are looked at
	// suspicion is for how long after abandoned work has been seen single calls are
	// watched from their beginning.
	suspicion = time.Minute
	maxFrames = 32
)

// Abandoned is a call that was, or is, still running well after its deadline: what
// [Stats] counts as Abandoned or as Overdue.
type Abandoned struct {
	// Op is the name of the function that ignores its context, or of the one that
	// stands for it in an adapter.
	Op string
	// Stack is where the call was made, one function a line, innermost first, down to
	// 32. It does not show where op hangs: that is known to no other goroutine short of
	// stopping the world, but a dump of all goroutines shows this stack with it.
	Stack string
	// After is the time that the call was given.
	After time.Duration
	// Over is by how much it has exceeded that, so far if it is Running.
	Over time.Duration
	// Running tells that the call has not come back yet.
	Running bool
}

// String returns all that is known, in several lines.
func (a Abandoned) String() string {
	verb := "returned"
	if a.Running {
		verb = "runs"
	}
	return fmt.Sprintf("%s %s %v after a deadline of %v\n%s", a.Op, verb, a.Over, a.After, a.Stack)
}

// Abandoned returns a sample of the calls that [Stats] counts as Abandoned or
// Overdue: the last 8, newest first, of not more than one a second. A call that is still
// running can be among them if it began within a minute after other abandoned work was
// seen, for a healthy call does not note where it was made.
func (t *Timeout) Abandoned() []Abandoned {
	now := t.clock.Now()
	s := &t.samples
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Abandoned
	if w := s.watched; w != nil && now > w.due {
		all = append(all, w.tell(now))
	}
	for _, kept := range s.kept {
		all = append(all, kept.tell(now))
	}
	return all[:min(len(all), maxSamples)]
}

// samples keeps some of the calls that turn out to be abandoned.
type samples struct {
	suspectUntil atomic.Int64 // read by every call, written when abandoned work is seen
	next         atomic.Int64 // no sample is taken before

	mu      sync.Mutex
	kept    []*sample // newest first
	watched *sample   // a call in flight that has noted where it was made
}

// sample is one call. What is not told to be otherwise is set once.
type sample struct {
	op     uintptr
	pcs    [maxFrames]uintptr
	frames int
	after  time.Duration
	grace  time.Duration
	due    int64

	ctx  *lazyCtx      // while it is watched or kept as running. Under samples.mu.
	over time.Duration // 0: still running. Under samples.mu.
}

func (s *samples) init() {
	s.suspectUntil.Store(math.MinInt64)
	s.next.Store(math.MinInt64)
}

// take returns a sample of the call that asks, unless one was taken a moment ago.
func (s *samples) take(k *call, now int64) *sample {
	next := s.next.Load()
	if now < next || !s.next.CompareAndSwap(next, now+int64(sampleGap)) {
		return nil
	}
	x := &sample{op: reflect.ValueOf(k.op).Pointer(), after: k.l.after, grace: k.l.grace, due: due(now, k.l)}
	x.frames = runtime.Callers(2, x.pcs[:])
	return x
}

// keep puts x first and forgets the oldest. s.mu is held.
func (s *samples) keep(x *sample) {
	if len(s.kept) < maxSamples {
		s.kept = append(s.kept, nil)
	}
	copy(s.kept[1:], s.kept)
	s.kept[0] = x
}

// watch notes where k was made, if it is its turn.
func (s *samples) watch(k *call, now int64) {
	x := s.take(k, now)
	if x == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.watched; w != nil {
		if now <= w.due {
			return // one at a time
		}
		s.keep(w)
	}
	x.ctx = k.c
	s.watched, k.sample = x, x
}

// returned notes that k came back by so much after its deadline, which is more than
// its grace.
func (s *samples) returned(k *call, over time.Duration, now int64) {
	s.suspectUntil.Store(now + int64(suspicion))
	x := k.sample
	if x == nil {
		if x = s.take(k, now); x == nil {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		x.over = over
		s.keep(x)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	x.over, x.ctx = over, nil
	if s.watched == x {
		s.watched = nil
		s.keep(x)
	}
}

// dismiss forgets the call of c, which has ended, unless it is known to have been late:
// one that has panicked, or that its caller had left, is not.
func (s *samples) dismiss(c *lazyCtx) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watched != nil && s.watched.ctx == c {
		s.watched = nil
	}
	s.kept = slices.DeleteFunc(s.kept, func(x *sample) bool { return x.ctx == c })
}

// tell returns what is known of x. samples.mu is held.
func (x *sample) tell(now int64) Abandoned {
	a := Abandoned{Op: "?", After: x.after, Over: x.over, Running: x.over == 0}
	if f := runtime.FuncForPC(x.op); f != nil {
		a.Op = f.Name()
	}
	if a.Running {
		a.Over = time.Duration(now-x.due) + x.grace
	}
	var stack strings.Builder
	frames := runtime.CallersFrames(x.pcs[:x.frames])
	for entered := false; ; {
		f, more := frames.Next()
		// From the entry into this package outwards.
		ours := strings.HasPrefix(f.Function, "github.com/mettle-go/mettle/timeout.(*")
		entered = entered || !ours
		if entered {
			fmt.Fprintf(&stack, "%s\n\t%s:%d\n", f.Function, f.File, f.Line)
		}
		if !more {
			break
		}
	}
	a.Stack = stack.String()
	return a
}
