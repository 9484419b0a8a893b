package bulkhead

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

const (
	// A thousand calls a second of 100 ms are 100 in flight, and more while some hang
	// until their timeout: twice that refuses none of them (measured, scenario S12 of the
	// benchmarks, where 100 refuses a fifth). To have more than that in flight to one
	// dependency should be somebody's decision.
	defaultLimit = 200

	// maxCalls bounds Limit and MaxQueue, so that two counts fit into one word.
	maxCalls = math.MaxInt32
)

// Config says how many calls may be in flight and who may wait. The zero Config is
// valid and recommended: 200 calls in flight, and nobody waits.
type Config struct {
	// Name is what refusals, metrics and traces call the bulkhead. It may be empty.
	Name string

	// Limit is how many calls may be in flight at once, at most 2^31-1. Zero: 200.
	//
	// By Little's law the calls in flight are the calls per second times the seconds
	// that one takes. Set Limit to what the peak rate and a slow but acceptable call
	// give, not to what an outage would like to have.
	Limit int

	// MaxQueue is how many calls may wait for a slot at once, at most 2^31-1. Zero: as
	// many as Limit, and Resize changes both. There is no unbounded queue: one that can
	// grow turns an overload into calls that are all answered too late. MaxQueue
	// means nothing while MaxWait is zero.
	MaxQueue int

	// MaxWait is how long a call may wait for a slot. Zero: nobody waits, a call that
	// finds the bulkhead full is refused at once. A context that ends earlier ends the
	// wait earlier.
	MaxWait time.Duration

	// Order tells which of the waiting calls gets the next slot. Zero: FIFO.
	Order Order
}

// Validate reports every field that [New] would refuse, or nil.
func (c Config) Validate() error { return errors.Join(c.faults("")...) }

// faults is Validate where the fields are to be called by a longer name.
func (c Config) faults(prefix string) (errs []error) {
	bad := func(field string, value any, want string) {
		errs = append(errs, fmt.Errorf("bulkhead: %s%s is %v, must be %s", prefix, field, value, want))
	}
	if c.Limit < 0 || c.Limit > maxCalls {
		bad("Limit", c.Limit, fmt.Sprintf("between 1 and %d, or zero for the default", maxCalls))
	}
	if c.MaxQueue < 0 || c.MaxQueue > maxCalls {
		bad("MaxQueue", c.MaxQueue, fmt.Sprintf("between 1 and %d, or zero for as many as Limit", maxCalls))
	}
	if c.MaxWait < 0 {
		bad("MaxWait", c.MaxWait, "positive, or zero for no waiting")
	}
	if c.Order > LIFO {
		bad("Order", c.Order, "FIFO or LIFO")
	}
	return errs
}

// Order is the order in which waiting calls get the slots that come free. Whatever
// the order, a call that arrives while others wait takes no slot before them, and
// one that finds the queue full is refused.
type Order uint8

const (
	// FIFO serves the call that has waited longest.
	FIFO Order = iota
	// LIFO serves the call that came last. In an overload it answers some calls in good
	// time and lets the others expire, where FIFO answers all of them late, when their
	// callers may have gone (B. Maurer, Fail at Scale, ACM Queue 13/8, 2015).
	LIFO
)

// String returns "fifo" or "lifo".
func (o Order) String() string {
	switch o {
	case FIFO:
		return "fifo"
	case LIFO:
		return "lifo"
	default:
		return "order(" + strconv.Itoa(int(o)) + ")"
	}
}
