package mettletest

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
)

// TestPolicy checks that the policies made by newPolicy keep the contract of
// [mettle.Policy], and those of [mettle.Wrapper] and [mettle.Observable] if they
// have these methods. Each promise is a subtest, tried on the policy alone and
// between others in a pipeline. Run it with the race detector.
//
// The policy is held to no rule of its own, so TestPolicy needs to know none; it
// asks five things of what it is given:
//
//   - newPolicy returns a new policy each time, which shares nothing with those
//     before it and lets its first call through. It is called inside a
//     testing/synctest bubble, so whatever reads the clock is to be made in it.
//   - The policy makes no success of a failure. A fallback, say, is given a Run
//     that fails too.
//   - It may refuse calls, but left alone for a day it admits one again. A call
//     that it keeps waiting is admitted or refused within a day.
//   - Its waits are such that a bubble can tell: a call blocked on a [sync.Mutex]
//     while another call's op runs hangs the test. Of a call that hangs otherwise, the
//     report shows where; the checks after that are skipped.
//   - Its capacity, if it has one, is at most 200 calls, those that wait included.
//     A leak shows only when all of it has leaked.
func TestPolicy(t *testing.T, newPolicy func() mettle.Policy, opts ...Option) {
	t.Helper()
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	hung := ""
	for _, sh := range shapes {
		t.Run(sh.name, func(t *testing.T) {
			if hung != "" {
				t.Skipf("not tried: a call hangs in %q", hung)
			}
			for _, c := range checks {
				if c.alone && sh.compose != nil {
					continue
				}
				t.Run(c.name, func(t *testing.T) {
					if hung != "" {
						t.Skipf("not tried: a call hangs in %q", hung)
					}
					if c.run(t, t, sh.make(newPolicy), o) {
						hung = sh.name + "/" + c.name
					}
				})
			}
		})
	}
}

// Option changes what [TestPolicy] demands.
type Option func(*options)

type options struct{ overlap bool }

// MayOverlap allows the policy to run op more than once at a time, as a hedge
// does. Since op may then run on a goroutine of the policy's own, a panic is only
// held to keep its value, not its stack.
func MayOverlap() Option { return func(o *options) { o.overlap = true } }

// leaveAlone is how long a policy has to recover from anything. In a bubble a day
// costs nothing.
const leaveAlone = 24 * time.Hour

// hammer is how many calls go wrong in a row before the policy must still work: more
// than the capacity that TestPolicy asks for, or a leak would not empty it.
const hammer = 250

// reporter is as much of a [testing.T] as a check needs. The tests of the suite
// stand in for it, since they want checks to fail.
type reporter interface {
	Errorf(format string, args ...any)
}

// first reports the first few failures of a check, which may try hundreds of calls.
type first struct {
	reporter
	n atomic.Int32
}

func (f *first) Errorf(format string, args ...any) {
	const few = 10
	switch n := f.n.Add(1); {
	case n <= few:
		f.reporter.Errorf(format, args...)
	case n == few+1:
		f.reporter.Errorf("and more of the kind")
	}
}

// check is one promise of the contract. It goes on after a failure where that
// makes sense, and returns where it does not.
type check struct {
	name  string
	alone bool // not tried in pipelines
	leave bool // end the bubble at once, so that what a call left behind shows
	test  func(*suite)
}

// checks is the contract, in the order in which a failure is best read: later
// checks rely on what earlier ones establish.
var checks = []check{
	{name: "runs op", test: testRunsOp},
	{name: "returns op's error", test: testError},
	{name: "hands on the context", test: testContext},
	{name: "context done on entry", test: testDoneOnEntry},
	{name: "context done while waiting", test: testDoneWhileWaiting},
	{name: "success after the context ended", test: testLateSuccess},
	{name: "op ends before Do returns", test: testOpEnds},
	{name: "panic passes through", test: testPanic},
	{name: "Goexit passes through", test: testGoexit},
	{name: "gives everything back", test: testGivesBack},
	{name: "refuses properly", test: testRefusal},
	{name: "ignores what is no outcome", test: testIgnored},
	{name: "hooks call back in", test: testHooks},
	{name: "concurrent use", test: testConcurrent},
	{name: "Wrap binds the policy", alone: true, test: testWrap},
	{name: "Wrap shares the state", alone: true, test: testWrapShares},
	{name: "Observe only reads", test: testObserve},
	{name: "leaves no goroutine", leave: true, test: testLeavesNothing},
}

// run runs the check in a bubble of its own and reports to r. It returns whether the
// bubble came to a deadlock: what hangs once would hang in most of the other checks.
func (c check) run(t *testing.T, r reporter, newPolicy func() mettle.Policy, o options) (hung bool) {
	var bubble []byte
	defer func() {
		// A deadlock of the bubble, which would end the whole test binary.
		if dead := recover(); dead != nil {
			hung = true
			r.Errorf("%v; a call hangs, or has left a goroutine behind:\n%s", dead, stacks(bubble))
		}
	}()
	synctest.Test(t, func(*testing.T) {
		bubble = ownBubble()
		c.test(&suite{reporter: &first{reporter: r}, options: o, newPolicy: newPolicy})
		if !c.leave {
			time.Sleep(leaveAlone) // whatever runs too late runs now
		}
	})
	return false
}

// ownBubble returns how a stack trace names the bubble that it is called in.
func ownBubble() []byte {
	head := make([]byte, 100)
	head = head[:runtime.Stack(head, false)]
	head, _, _ = bytes.Cut(head, []byte("]:\n"))
	if i := bytes.Index(head, []byte("synctest bubble ")); i >= 0 {
		return append(head[i:], ']') // so that 1 is not taken for 11
	}
	return []byte("synctest bubble")
}

// stacks returns where the goroutines of the bubble are: a few that differ, and none of
// the suite's own where others are left, since all that those do is wait for them.
func stacks(bubble []byte) []byte {
	all := make([]byte, 1<<20)
	for {
		n := runtime.Stack(all, true)
		if n < len(all) || n >= 1<<26 {
			all = all[:n]
			break
		}
		all = make([]byte, 2*len(all))
	}
	var ours, theirs [][]byte
	seen, total := map[string]bool{}, 0
	for g := range bytes.SplitSeq(bytes.TrimSpace(all), []byte("\n\n")) {
		head, frames, _ := bytes.Cut(g, []byte("\n"))
		if !bytes.Contains(head, bubble) {
			continue
		}
		total++
		waiting := bytes.Contains(frames, []byte("mettletest.(*call).do(")) || bytes.Contains(frames, []byte("testing/synctest.testing"))
		switch place := lines(frames); {
		case seen[place]:
		case waiting:
			seen[place], ours = true, append(ours, g)
		default:
			seen[place], theirs = true, append(theirs, g)
		}
	}
	const few = 3
	show := theirs
	if len(show) == 0 {
		show = ours
	}
	show = show[:min(few, len(show))]
	if more := total - len(show); more > 0 {
		show = append(show, fmt.Appendf(nil, "… and %d more", more))
	}
	return bytes.Join(show, []byte("\n\n"))
}

// lines returns where the frames of a stack are, without their arguments, which differ
// between goroutines that are stuck at the same place.
func lines(frames []byte) string {
	var b strings.Builder
	for line := range bytes.SplitSeq(frames, []byte("\n")) {
		if bytes.HasPrefix(line, []byte("\t")) {
			b.Write(line)
		}
	}
	return b.String()
}

// suite is what one check works with.
type suite struct {
	reporter
	options
	newPolicy func() mettle.Policy
}

// shape is a place in which a policy may stand. One that is right by itself can be
// wrong when it is bound, since Do and what Wrap returns are two ways in.
type shape struct {
	name    string
	compose func(mettle.Policy) mettle.Policy // nil: the policy as it is
}

var shapes = []shape{
	{"alone", nil},
	{"outside a PolicyFunc", func(p mettle.Policy) mettle.Policy {
		return mettle.Compose(pass{}, p, mettle.PolicyFunc(handOn))
	}},
	{"inside a PolicyFunc", func(p mettle.Policy) mettle.Policy {
		return mettle.Compose(mettle.PolicyFunc(handOn), p, pass{})
	}},
}

func (sh shape) make(newPolicy func() mettle.Policy) func() mettle.Policy {
	if sh.compose == nil {
		return newPolicy
	}
	return func() mettle.Policy { return sh.compose(newPolicy()) }
}

// handOn is the least a policy can do.
func handOn(ctx context.Context, op func(context.Context) error) error { return op(ctx) }

// pass is handOn as a Wrapper.
type pass struct{ next mettle.Policy }

func (p pass) Wrap(next mettle.Policy) mettle.Policy { return pass{next} }

func (p pass) Do(ctx context.Context, op func(context.Context) error) error {
	if p.next == nil {
		return op(ctx)
	}
	return p.next.Do(ctx, op)
}
