// Package relay spares the policies of a pipeline reading the clock one after the other:
// who has read it hands the time on, inwards with the call and outwards with its result.
// A read costs as much as all else that a policy does for a healthy call.
package relay

import (
	"context"

	"github.com/mettle-go/mettle/internal/clock"
)

// Policy is a policy, bound to what it encloses, that takes part.
type Policy interface {
	// DoAt is Do of a call that enters at now, and returns when it left. Either is
	// [clock.Unknown] where nobody has read the clock, or something may have taken time
	// since: a wait, a hook or another function of the user's, anything that failed. So
	// whoever takes part hands on what it was handed only if it has done nothing of the kind.
	DoAt(ctx context.Context, op func(context.Context) error, now clock.Instant) (left clock.Instant, err error)
}

// Doer is the part of mettle.Policy that matters here.
type Doer interface {
	Do(ctx context.Context, op func(context.Context) error) error
}

// To returns next as a Policy, if need be as one that knows no time.
func To(next Doer) Policy {
	if p, ok := next.(Policy); ok {
		return p
	}
	return deaf{next}
}

// deaf is the end of the operation's side of a chain, or a policy that does not take part.
type deaf struct{ Doer }

func (d deaf) DoAt(ctx context.Context, op func(context.Context) error, _ clock.Instant) (clock.Instant, error) {
	return clock.Unknown, d.Do(ctx, op)
}
