package bulkhead

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/mettle-go/mettle"
)

// ErrFull is what every refusal of a bulkhead Is. Each refusal is a [*FullError] and
// Is [mettle.ErrRejected] too.
var ErrFull = errors.New("bulkhead: full")

// FullError is the refusal of a full bulkhead. It carries no RetryAfter, because a
// bulkhead does not know when a slot comes free.
//
// All refusals of one kind share one value: read it, do not change it.
type FullError struct {
	Name     string        // Name of the bulkhead's Config; of a pool as in "payments[critical]"
	Limit    int           // calls in flight at once
	MaxQueue int           // calls waiting at once; zero where nobody may wait
	Lent     bool          // a pool had fewer in flight than Limit and the rest lent to pools above
	Waited   time.Duration // MaxWait, if the call waited so long in vain; zero if it was refused at once
}

// Error names the bulkhead and says which of its bounds was reached.
func (e *FullError) Error() string {
	name := ""
	if e.Name != "" {
		name = fmt.Sprintf("%q ", e.Name)
	}
	inFlight := "in flight"
	if e.Lent {
		inFlight = "in flight or lent"
	}
	switch {
	case e.Waited > 0:
		return fmt.Sprintf("bulkhead: %sfull: none of %d slots came free within %v", name, e.Limit, e.Waited)
	case e.MaxQueue > 0:
		return fmt.Sprintf("bulkhead: %sfull: %d %s and %d waiting", name, e.Limit, inFlight, e.MaxQueue)
	default:
		return fmt.Sprintf("bulkhead: %sfull: %d %s", name, e.Limit, inFlight)
	}
}

// LogValue returns the name, where there is one, and the bounds as a group, with the time
// waited if it was refused after that.
func (e *FullError) LogValue() slog.Value {
	attrs := make([]slog.Attr, 0, 5)
	if e.Name != "" {
		attrs = append(attrs, slog.String("policy", e.Name))
	}
	attrs = append(attrs, slog.Int("limit", e.Limit), slog.Int("max_queue", e.MaxQueue))
	if e.Lent {
		attrs = append(attrs, slog.Bool("lent", true))
	}
	if e.Waited > 0 {
		attrs = append(attrs, slog.Duration("waited", e.Waited))
	}
	return slog.GroupValue(attrs...)
}

// Is reports whether target is [ErrFull] or [mettle.ErrRejected].
func (e *FullError) Is(target error) bool {
	return target == ErrFull || target == mettle.ErrRejected
}

// endedError is the end of a wait by its context. That may have been a deadline, which
// [mettle.Classify] would take for the slowness of a dependency that has not been asked:
// a breaker outside would open because our own queue is long.
type endedError struct {
	name  string // of the bulkhead
	cause error
}

func (e *endedError) Error() string {
	name := ""
	if e.name != "" {
		name = fmt.Sprintf("%q: ", e.name)
	}
	return fmt.Sprintf("bulkhead: %sno slot before the context ended: %v", name, e.cause)
}

// LogValue returns the name, where there is one, and the cause as a group.
func (e *endedError) LogValue() slog.Value {
	cause := slog.Any("no_slot_before", e.cause)
	if e.name == "" {
		return slog.GroupValue(cause)
	}
	return slog.GroupValue(slog.String("policy", e.name), cause)
}

func (e *endedError) Unwrap() error         { return e.cause }
func (*endedError) Outcome() mettle.Outcome { return mettle.Ignored }

// refusals holds the errors for one Limit, made ahead so that a refusal allocates
// nothing.
type refusals struct {
	full FullError // there was no slot and no room to wait
	late FullError // there was no slot within MaxWait
}

func (b *Bulkhead) newRefusals(limit int) *refusals {
	r := &refusals{full: FullError{Name: b.name, Limit: limit}}
	if b.maxWait > 0 {
		r.full.MaxQueue = b.room(limit)
	}
	r.late = r.full
	r.late.Waited = b.maxWait
	return r
}
