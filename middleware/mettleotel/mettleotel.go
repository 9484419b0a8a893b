// Package mettleotel shows the metrics of policies to OpenTelemetry, and calls as spans.
//
// # Metrics
//
// Policies count what they do in any case, and asynchronous instruments read the counts
// when a reader collects, so that watching a policy costs its calls nothing:
//
//	registration, err := mettleotel.Register(provider.Meter("payments"), payments, search)
//
// Names and units stay as they are, since the policies follow OpenTelemetry's
// conventions. The package uses the API alone and never the SDK.
//
// # What cannot be shown
//
// An error in the collection would keep a periodic reader from exporting anything,
// and two values of one series would be added up. A metric that is not in order is
// therefore left out, and reported as the gauge mettle.dropped_metrics, by reason
// and by the name of the metric:
//
//   - "name": no instrument may have this name.
//   - "label": a label key is empty or occurs twice.
//   - "value": not a number, or a counter that is negative or infinite.
//   - "kind": neither a counter nor a gauge, or both under one name.
//   - "duplicate": the same name and labels have been seen in this collection. Two
//     policies of one kind have the same Name, or none, or the same policy was given
//     twice.
//   - "late": the name was not there when Register was called.
//
// Label values may come from outside, such as the key in the name of a breaker of a group.
// They are cut after 200 bytes, and what is not UTF-8 in them is replaced. How many series
// there may be is for the SDK to bound, which has a limit for each instrument.
//
// # Spans
//
// [CallSpan] records one span for a call with all its attempts, [AttemptSpan] one for each
// attempt, and [NewTransport] one for each HTTP request that an attempt sends. Names are
// those of the semantic conventions where there are any: error.type, and for HTTP
// http.request.method, http.request.method_original, http.request.resend_count,
// http.response.status_code, network.protocol.version, server.address, server.port and
// url.full. These have none:
//
//	mettle.attempt       span, event  the number of an attempt or run, from 1
//	mettle.attempts      span         how many a call made; the highest number of any
//	mettle.outcome       span         of what ended with an error: failure, overload, timeout, ignored, success
//	mettle.policy        event        the Name of the policy
//	mettle.delay         event        in seconds
//	mettle.breaker.from  event        the states of a breaker
//	mettle.breaker.to    event
//
// The events, of the span of a call, are mettle.wait, mettle.rejected, mettle.hedged,
// mettle.fell_back and mettle.breaker.changed. An error.type is what the error says itself by a method ErrorType() string, which is
// the status of HTTP and of gRPC, a type of Go, or one of timeout, breaker_open,
// bulkhead_full, rejected, canceled, deadline_exceeded and panic.
//
// # Logs
//
// What [mettle.LogTrace] logs comes with the context of the event, so that a handler which
// adds the span of its context, such as that of otelslog, adds the one that this package has
// opened.
package mettleotel

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/mettle-go/mettle"
)

// Register makes an asynchronous instrument of meter for each metric of the
// observables and has them observed whenever a reader collects. An observable is a
// policy, a pipeline with all its policies, or anything of the user's.
//
// OpenTelemetry needs the instruments in advance, so Register observes once: a metric
// whose name is not yielded then is reported as "late" afterwards, while labels may
// come and go. Prefer one Register for all policies of a meter: only within one is a
// series that appears twice noticed and left out, and the counts of two are added up.
// Unregister of the returned Registration ends the observation; until then the
// meter keeps the observables reachable.
//
// A nil meter or observable panics. The error is that of the meter, and then
// nothing has been registered for observation.
func Register(meter metric.Meter, observables ...mettle.Observable) (metric.Registration, error) {
	if meter == nil {
		panic("mettleotel: Register: nil Meter")
	}
	for _, o := range observables {
		if o == nil {
			panic("mettleotel: Register: nil Observable")
		}
	}
	r, err := newRegistry(meter, slices.Clone(observables))
	if err != nil {
		return nil, fmt.Errorf("mettleotel: Register: %w", err)
	}
	registration, err := meter.RegisterCallback(r.collect, r.all...)
	if err != nil {
		return nil, fmt.Errorf("mettleotel: Register: %w", err)
	}
	return registration, nil
}

// registry is immutable once made, so that readers may collect concurrently.
type registry struct {
	observables []mettle.Observable
	instruments map[string]instrument
	report      metric.Int64ObservableGauge
	all         []metric.Observable
}

type instrument struct {
	observable metric.Float64Observable
	kind       mettle.Kind
}

const reportName = "mettle.dropped_metrics"

func newRegistry(meter metric.Meter, observables []mettle.Observable) (*registry, error) {
	report, err := meter.Int64ObservableGauge(reportName, metric.WithUnit("{metric}"),
		metric.WithDescription("Metrics left out of this collection because they were not valid."))
	errs := []error{err}
	r := &registry{
		observables: observables,
		instruments: make(map[string]instrument),
		report:      report,
		all:         []metric.Observable{report},
	}
	r.observe(func(m mettle.Metric) {
		if _, known := r.instruments[m.Name]; known || !validName(m.Name) {
			return
		}
		inst := instrument{kind: m.Kind}
		var err error
		switch m.Kind {
		case mettle.Counter:
			inst.observable, err = meter.Float64ObservableCounter(m.Name,
				metric.WithUnit(m.Unit), metric.WithDescription(m.Help))
		case mettle.Gauge:
			inst.observable, err = meter.Float64ObservableGauge(m.Name,
				metric.WithUnit(m.Unit), metric.WithDescription(m.Help))
		default:
			return
		}
		if err != nil {
			errs = append(errs, err)
			return
		}
		r.instruments[m.Name] = inst
		r.all = append(r.all, inst.observable)
	})
	return r, errors.Join(errs...)
}

func (r *registry) observe(each func(mettle.Metric)) {
	for _, o := range r.observables {
		o.Observe(func(m mettle.Metric) bool {
			each(m)
			return true
		})
	}
}

// collect is the callback. It returns no error, see the package's comment.
func (r *registry) collect(_ context.Context, to metric.Observer) error {
	seen := make(map[series]struct{})
	dropped := make(map[drop]int64)
	r.observe(func(m mettle.Metric) {
		if reason := r.observeOne(to, m, seen); reason != "" {
			d := drop{reason, bounded(m.Name)}
			if _, ok := dropped[d]; !ok && len(dropped) >= maxDrops {
				d.metric = "" // all the others together
			}
			dropped[d]++
		}
	})
	for d, n := range dropped {
		to.ObserveInt64(r.report, n, metric.WithAttributes(
			attribute.String("reason", d.reason), attribute.String("metric", d.metric)))
	}
	return nil
}

// maxDrops bounds the series of the report, whatever an observable yields.
const maxDrops = 32

type drop struct{ reason, metric string }

type series struct {
	name   string
	labels attribute.Distinct
}

// observeOne hands m on, or returns the reason why not.
func (r *registry) observeOne(to metric.Observer, m mettle.Metric, seen map[series]struct{}) (reason string) {
	if !validName(m.Name) {
		return "name"
	}
	if m.Kind != mettle.Counter && m.Kind != mettle.Gauge {
		return "kind"
	}
	inst, ok := r.instruments[m.Name]
	if !ok {
		return "late"
	}
	if inst.kind != m.Kind {
		return "kind"
	}
	if math.IsNaN(m.Value) || m.Kind == mettle.Counter && (m.Value < 0 || math.IsInf(m.Value, 0)) {
		return "value"
	}
	set, ok := attributes(m.Labels)
	if !ok {
		return "label"
	}
	key := series{m.Name, set.Equivalent()}
	if _, dup := seen[key]; dup {
		return "duplicate"
	}
	seen[key] = struct{}{}
	to.ObserveFloat64(inst.observable, m.Value, metric.WithAttributeSet(set))
	return ""
}

func attributes(labels []mettle.Label) (attribute.Set, bool) {
	kvs := make([]attribute.KeyValue, len(labels))
	for i, l := range labels {
		if l.Key == "" {
			return attribute.Set{}, false
		}
		kvs[i] = attribute.String(l.Key, bounded(l.Value))
	}
	set := attribute.NewSet(kvs...) // keeps the last of equal keys
	return set, set.Len() == len(labels)
}

// maxValue bounds a label value, in bytes. No name that somebody chose is so long.
const maxValue = 200

// bounded returns a label value that is valid and not too long.
func bounded(s string) string {
	if len(s) > maxValue {
		s = s[:maxValue] + "…" // a rune that is cut in two is not valid, and replaced
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// validName has the rule of OpenTelemetry's metrics API: a letter and then at most
// 254 letters, digits, underscores, dots, minuses or slashes. The report's own name
// is reserved.
func validName(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		case i > 0 && (c >= '0' && c <= '9' || c == '_' || c == '.' || c == '-' || c == '/'):
		default:
			return false
		}
	}
	return s != "" && len(s) <= 255 && !strings.EqualFold(s, reportName)
}
