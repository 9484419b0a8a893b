package hedge_test

import (
	"context"
	"runtime"

	"github.com/mettle-go/mettle"
)

// direct runs op as it is.
type direct struct{ next mettle.Policy }

func (d direct) Do(ctx context.Context, op func(context.Context) error) error {
	if d.next != nil {
		return d.next.Do(ctx, op)
	}
	return op(ctx)
}

func (d direct) Wrap(next mettle.Policy) mettle.Policy { return direct{next} }

//go:noinline
func exit() { runtime.Goexit() }

// crash runs f on a goroutine of its own and returns how it ended, if badly.
func crash(f func()) (value any, exited bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		returned := false
		defer func() {
			if !returned {
				value = recover()
				exited = value == nil
			}
		}()
		f()
		returned = true
	}()
	<-done
	return value, exited
}
