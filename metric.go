package mettle

import "strconv"

// Observable is one way out for every policy, ours or the user's: a pull of what
// the policy counts anyway. Adapters range over it when they are scraped, so that
// watching costs a call nothing.
//
// Observe yields one Metric after another until yield returns false. It is a pure
// read: it makes no transition and calls no hook. It may be called at any time and
// from many goroutines at once. Values are monotonic for a [Counter].
type Observable interface {
	Observe(yield func(Metric) bool)
}

// Kind tells how the values of a metric are to be read.
type Kind uint8

const (
	// Counter only grows, from zero at construction.
	Counter Kind = iota
	// Gauge goes up and down.
	Gauge
)

// String returns the kind's name in lower case.
func (k Kind) String() string {
	switch k {
	case Counter:
		return "counter"
	case Gauge:
		return "gauge"
	default:
		return "kind(" + strconv.Itoa(int(k)) + ")"
	}
}

// Label is one dimension of a metric.
type Label struct{ Key, Value string }

// Metric is one value at one moment. Names are dotted and start with "mettle.",
// units are those of UCUM ("s", "1", "{call}"), as in OpenTelemetry.
//
// Labels belong to the policy, which reuses them: read, do not change.
type Metric struct {
	Kind             Kind
	Name, Unit, Help string
	Labels           []Label
	Value            float64
}
