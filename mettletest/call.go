package mettletest

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/mettle-go/mettle"
)

// call is one call of a policy under watch: it sees every run of op and how Do
// ended. Whatever holds for every call in every situation is checked here, so
// that the checks only have to make situations.
type call struct {
	s   *suite
	ctx context.Context
	fn  func(context.Context) error

	mu        sync.Mutex
	runs      int       // of op, begun
	running   int       // of op, at this moment
	succeeded bool      // a run did
	last      error     // of the last run to fail
	panicking bool      // a run of op, or a hook, panicked or exited
	ended     time.Time // when ctx did; zero: not yet, or before Do
	barred    bool      // ctx is known to have ended before op could begin
	returned  bool      // Do has

	// How Do ended; valid once do has returned.
	err   error
	value any    // recovered from a panic
	stack []byte // of that panic
	exit  bool   // the goroutine was ended by runtime.Goexit
}

// do calls p.Do and waits for it to end, in whatever way.
func (s *suite) do(ctx context.Context, p mettle.Policy, fn func(context.Context) error) *call {
	c := &call{s: s, ctx: ctx, fn: fn}
	c.do(p)
	return c
}

func (c *call) do(p mettle.Policy) {
	doneOnEntry := c.ctx.Err() != nil
	// Within one instant of the bubble's time it is hard to say whether op began or
	// ctx ended first (see bar). An op that begins at a later instant is wrong.
	stop := context.AfterFunc(c.ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ended = time.Now()
	})
	done := make(chan struct{})
	go func() { // op may end the goroutine
		defer close(done)
		defer stop()
		normal := false
		defer func() {
			c.leave()
			if normal {
				return
			}
			if c.value = recover(); c.value != nil {
				c.stack = debug.Stack()
			} else {
				c.exit = true
			}
		}()
		c.err = p.Do(c.ctx, c.op)
		normal = true
	}()
	<-done
	c.judge(doneOnEntry)
}

// op is what the policy is given to run.
func (c *call) op(ctx context.Context) error {
	c.enter(ctx)
	normal := false
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.running--
		c.panicking = c.panicking || !normal
	}()
	err := c.fn(ctx)
	normal = true
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.succeeded = true
	} else {
		c.last = err
	}
	// What the policy does from here on, it does under a context that is done.
	c.barred = c.barred || c.ctx.Err() != nil && !c.s.overlap
	return err
}

// bar notes that the context is about to end, at a moment at which all goroutines
// in the bubble wait for something: a run of op that begins now begins too late.
func (c *call) bar() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.barred = true
}

// waits reports whether the policy has the call, and op does not.
func (c *call) waits() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running == 0 && !c.returned
}

// enter notes that a run of op begins, and whether it should.
func (c *call) enter(ctx context.Context) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runs++
	c.running++
	if c.returned {
		c.s.Errorf("op ran after Do had returned")
	}
	if c.running > 1 && !c.s.overlap {
		c.s.Errorf("%d runs of op at a time; a policy whose documentation allows it is tested with MayOverlap", c.running)
	}
	if c.barred || !c.ended.IsZero() && now.After(c.ended) {
		c.s.Errorf("op began after the caller's context had ended")
	}
	if d, ok := ctx.Deadline(); ok && now.After(d) {
		c.s.Errorf("op began %v after the deadline of the context it was given", now.Sub(d))
	}
}

// leave is called on the goroutine of Do when it has ended.
func (c *call) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.returned = true
	if c.running > 0 {
		c.s.Errorf("Do returned while op was running")
	}
}

// interrupted notes that a hook is about to panic.
func (c *call) interrupted() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.panicking = true
}

// judge checks what must hold for every call. Of the runs of op the last failure is
// the one that must come back: a policy that resends may drop those before it.
func (c *call) judge(doneOnEntry bool) {
	c.mu.Lock() // a faulty policy may still be running op
	defer c.mu.Unlock()
	switch {
	case c.value != nil && !c.panicking:
		c.s.Errorf("Do panicked by itself: %v\n%s", c.value, c.stack)
	case c.exit && !c.panicking:
		c.s.Errorf("Do ended the goroutine by itself")
	case c.value != nil || c.exit:
		// As it should; testPanic and testGoexit look closer.
	case c.panicking:
		c.s.Errorf("a panic or Goexit was swallowed: Do returned %s", text(c.err))
	case doneOnEntry:
		if c.runs > 0 {
			c.s.Errorf("op ran although the context was done on entry")
		}
		c.wantCause("with a context done on entry")
	case c.runs == 0 && c.err == nil:
		// Unusual, but op runs zero or more times: a cache may answer by itself.
	case c.runs == 0 && c.ctx.Err() != nil && !is(c.err, mettle.ErrRejected):
		c.wantCause("with a context that ended before op ran")
	case c.runs == 0:
		c.judgeRefusal()
	case c.succeeded && c.err != nil:
		c.s.Errorf("op succeeded, Do returned %s", text(c.err))
	case !c.succeeded && c.err == nil:
		c.s.Errorf("op failed with %q, Do returned nil", c.last)
	case c.err != nil && !is(c.err, c.last):
		c.s.Errorf("errors.Is does not find op's error %q in %s", c.last, text(c.err))
	}
}

func (c *call) wantCause(when string) {
	if cause := context.Cause(c.ctx); !is(c.err, cause) {
		c.s.Errorf("%s, the error must be its cause, %q; got %s", when, cause, text(c.err))
	}
}

// refused reports whether the policy turned the call away.
func (c *call) refused() bool {
	return c.runs == 0 && c.value == nil && !c.exit && is(c.err, mettle.ErrRejected)
}

func (c *call) judgeRefusal() {
	if !is(c.err, mettle.ErrRejected) {
		c.s.Errorf("op did not run, so the call was refused; a refusal must be ErrRejected, got %s", text(c.err))
		return
	}
	defer func() {
		if v := recover(); v != nil {
			c.s.Errorf("the Error method of the refusal, a %T, panics: %v", c.err, v)
		}
	}()
	if c.err.Error() == "" {
		c.s.Errorf("the refusal, a %T, has no text", c.err)
	}
}

// is is errors.Is for errors that may be nil pointers in disguise.
func is(err, target error) (found bool) {
	defer func() {
		if recover() != nil {
			found = false
		}
	}()
	return errors.Is(err, target)
}

// text describes err, whatever its methods do: a refusal that is a nil pointer is
// one of the faults looked for.
func text(err error) string {
	if err == nil {
		return "nil"
	}
	return fmt.Sprintf("%T: %v", err, err) // fmt survives an Error that panics
}

// opError is an error of op's, told apart from all others.
type opError struct{ text string }

func (e *opError) Error() string { return e.text }

// newError returns a new error each time: that a call gets the error of its own op
// back shows only when no two are alike.
func newError() error { return &opError{"the operation failed"} }

func succeed(context.Context) error { return nil }

func fail(err error) func(context.Context) error {
	return func(context.Context) error { return err }
}

// settle lets all that the current instant brings about happen.
func settle() { time.Sleep(time.Nanosecond) }

// admits reports whether p lets a call through, now or when left alone.
func (s *suite) admits(p mettle.Policy) bool {
	for range int(leaveAlone / time.Hour) {
		if s.do(context.Background(), p, succeed).runs > 0 {
			return true
		}
		time.Sleep(time.Hour)
	}
	return false
}
