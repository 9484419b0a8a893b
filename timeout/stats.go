package timeout

import (
	"log/slog"
	"time"

	"github.com/mettle-go/mettle"
)

// Stats is a snapshot of what a [Timeout] has counted since it was made. Calls
// that ended in time are not counted, and neither are those whose caller's deadline
// came first or who were cancelled by their caller, once they have returned.
type Stats struct {
	// Exceeded is the number of calls that failed after their deadline.
	Exceeded uint64
	// Late is the number of calls that succeeded after their deadline.
	Late uint64
	// Abandoned is the number of calls, of those two, that came back only well
	// after the deadline: by more than a tenth of the time they had and more than
	// 10 ms. Their operation ignores its context, or was slow to return once it had
	// ended.
	Abandoned uint64
	// Overdue is the number of calls that have not come back yet, so long after their
	// deadline that they will count as Abandoned, or have been cancelled by their caller
	// and have not come back either. A call shows here up to a third of After late.
	Overdue uint64
	// After is what a call may take now: the After of the Config, or less with a
	// Quantile, as it was worked out for the last call.
	After time.Duration
}

// Stats returns the counts. They are read one after the other, so a call that
// ends meanwhile may be in one and not in another.
func (t *Timeout) Stats() Stats {
	s := Stats{
		Exceeded: t.exceeded.Load(), Late: t.late.Load(), Abandoned: t.abandoned.Load(),
		Overdue: t.flights.overdue(t.clock.Now()), After: t.fixed.after,
	}
	if t.adaptive != nil {
		if known := t.adaptive.current.Load(); known != nil {
			s.After = known.limit.after
		}
	}
	return s
}

// Observe yields the contents of [Stats] as these metrics, with the label policy, which
// is the Name:
//
//	mettle.timeout.exceeded   counter  {call}  failed after their deadline
//	mettle.timeout.late       counter  {call}  succeeded after their deadline
//	mettle.timeout.abandoned  counter  {call}  of these two, returned well after it
//	mettle.timeout.overdue    gauge    {call}  well after their deadline, still running
//	mettle.timeout.after      gauge    s       what a call may take now
func (t *Timeout) Observe(yield func(mettle.Metric) bool) {
	s := t.Stats()
	for _, m := range [...]mettle.Metric{
		{Name: "mettle.timeout.exceeded", Unit: "{call}", Help: "Calls that failed after their deadline.", Value: float64(s.Exceeded)},
		{Name: "mettle.timeout.late", Unit: "{call}", Help: "Calls that succeeded after their deadline.", Value: float64(s.Late)},
		{Name: "mettle.timeout.abandoned", Unit: "{call}", Help: "Calls that came back well after their deadline.", Value: float64(s.Abandoned)},
		{Kind: mettle.Gauge, Name: "mettle.timeout.overdue", Unit: "{call}", Help: "Calls that are still running well after their deadline.", Value: float64(s.Overdue)},
		{Kind: mettle.Gauge, Name: "mettle.timeout.after", Unit: "s", Help: "What a call may take now.", Value: s.After.Seconds()},
	} {
		m.Labels = t.labels
		if !yield(m) {
			return
		}
	}
}

// LogValue returns the configuration, under the names of the fields of [Config] and with
// the defaults filled in. What a Quantile has come to is in [Stats].
func (t *Timeout) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("Name", t.name), slog.Duration("After", t.fixed.after)}
	if a := t.adaptive; a != nil {
		attrs = append(attrs, slog.Float64("Quantile", a.quantile), slog.Duration("Floor", a.floor))
	}
	return slog.GroupValue(attrs...)
}
