package hedge

import (
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/retry"
)

// counters count what is out of the ordinary only, so that healthy calls share nothing.
type counters struct{ hedges, wins, denied, abandoned atomic.Uint64 }

// Stats is what a [Hedge] has counted since [New]. The counts are read one after the
// other while calls go on, so that they may differ by those calls.
type Stats struct {
	// Hedges is how many runs beside the first were begun.
	Hedges uint64
	// Wins is how many calls were answered by one of these.
	Wins uint64
	// Denied is how many calls were sent again no more because of a budget.
	Denied uint64
	// Abandoned is how many runs that were of no use any more came back only well after
	// they were cancelled: by more than a tenth of the delay and more than 10 ms. Their
	// operation ignores its context, or was slow to return, and kept the caller waiting. A
	// run that has not returned yet is not counted yet.
	Abandoned uint64
	// Delay is how long a run has now until the next one is sent, 0 while a live delay has
	// too little to go by.
	Delay time.Duration
	// Tokens is how many hedges the hedge's own budget would allow now, +Inf with NoBudget.
	Tokens float64
}

// Stats returns the counts so far.
func (h *Hedge) Stats() Stats {
	c := &h.counters
	return Stats{
		Hedges:    c.hedges.Load(),
		Wins:      c.wins.Load(),
		Denied:    c.denied.Load(),
		Abandoned: c.abandoned.Load(),
		Delay:     h.delay(h.clock.Now()),
		Tokens:    h.own.Balance(),
	}
}

// Observe yields these metrics, with the label policy, which is the Name:
//
//	mettle.hedge.hedges     counter  {attempt}  runs beside the first of a call
//	mettle.hedge.wins       counter  {call}     answered by one of these
//	mettle.hedge.denied     counter  {call}     sent again no more because of a budget
//	mettle.hedge.abandoned  counter  {attempt}  that returned well after they had lost
//	mettle.hedge.delay      gauge    s          until the next run is sent, 0 while not known
//	mettle.hedge.tokens     gauge    {token}    hedges that its own budget would allow now;
//	                                            not with NoBudget
//
// The Budget in the Config is observed on its own.
func (h *Hedge) Observe(yield func(mettle.Metric) bool) {
	s := h.Stats()
	counter := func(name, unit, help string, n uint64) bool {
		return yield(mettle.Metric{
			Kind: mettle.Counter, Name: name, Unit: unit, Help: help, Labels: h.labels, Value: float64(n),
		})
	}
	gauge := func(name, unit, help string, value float64) bool {
		return yield(mettle.Metric{Kind: mettle.Gauge, Name: name, Unit: unit, Help: help, Labels: h.labels, Value: value})
	}
	_ = counter("mettle.hedge.hedges", "{attempt}", "Runs beside the first of a call.", s.Hedges) &&
		counter("mettle.hedge.wins", "{call}", "Calls that were answered by a further run.", s.Wins) &&
		counter("mettle.hedge.denied", "{call}", "Calls that a budget did not allow to be sent again.", s.Denied) &&
		counter("mettle.hedge.abandoned", "{attempt}", "Runs that returned well after they had lost.", s.Abandoned) &&
		gauge("mettle.hedge.delay", "s", "How long a run has until the next one is sent.", s.Delay.Seconds()) &&
		!math.IsInf(s.Tokens, 1) &&
		gauge("mettle.hedge.tokens", "{token}", "Hedges that the hedge's own budget would allow now.", s.Tokens)
}

// LogValue returns the configuration, under the names of the fields of [Config] and with
// the defaults filled in. What a Quantile has come to is in [Stats].
func (h *Hedge) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("Name", h.name), slog.Duration("After", h.after)}
	if h.live != nil {
		attrs = append(attrs, slog.Float64("Quantile", h.quantile))
	}
	attrs = append(attrs, slog.Int("Max", h.max))
	switch {
	case h.own == retry.NoBudget:
		attrs = append(attrs, slog.Attr{Key: "Budget", Value: retry.NoBudget.LogValue()})
	case h.shared != nil:
		attrs = append(attrs, slog.Attr{Key: "Budget", Value: h.shared.LogValue()})
	}
	return slog.GroupValue(attrs...)
}
