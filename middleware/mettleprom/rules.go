package mettleprom

import (
	"fmt"
	"io"
	"strings"

	"github.com/mettle-go/mettle"
)

// WriteRules writes alerting rules for Prometheus, as a file for its rule_files, about
// the metrics of the observables given under the names that a collector of this package
// gives them. Rules about what they do not yield are left out. The file rules.yaml beside
// this one has all policies of the root module.
//
// Each alert has the labels of the series that it is about, among them policy, a severity
// of "page" or "ticket", and a summary. The thresholds are for services of any size:
// they are about shares and about what should not be at all. A nil observable panics. The
// error is that of w.
func WriteRules(w io.Writer, observables ...mettle.Observable) error {
	names := namesOf(observables)
	var b strings.Builder
	b.WriteString("groups:\n  - name: mettle\n    rules:\n")
	for _, a := range alerts {
		if (panel{queries: []query{{expr: a.expr}}}).known(names) {
			// A JSON string is a YAML string, and %q makes one of what is printable ASCII.
			fmt.Fprintf(&b, "      - alert: %s\n        expr: %q\n", a.name, translate(a.expr, names))
			if a.lasts != "" {
				fmt.Fprintf(&b, "        for: %s\n", a.lasts)
			}
			fmt.Fprintf(&b, "        labels:\n          severity: %s\n        annotations:\n          summary: %q\n", a.severity, a.summary)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

type alert struct {
	name, expr string
	lasts      string // how long the expression must hold; "": not at all
	severity   string
	summary    string
}

var alerts = []alert{
	{"MettleBreakerNotClosed", `<mettle.breaker.state state="closed"> == 0`, "1m", "page",
		"The breaker {{ $labels.policy }} of {{ $labels.instance }} has not been closed for a minute."},
	{"MettleBreakerFlaps", `sum without (rule) (increase(<mettle.breaker.transitions from="closed",to="open">[10m])) > 5`, "", "ticket",
		"The breaker {{ $labels.policy }} of {{ $labels.instance }} opened {{ $value | humanize }} times in ten minutes."},
	{"MettleBreakerForced", `<mettle.breaker.forced> == 1`, "1h", "ticket",
		"The breaker {{ $labels.policy }} of {{ $labels.instance }} has been held by hand for an hour. Is it forgotten?"},
	{"MettleGroupTooSmall", `rate(<mettle.breaker.group.untracked>[5m]) > 0`, "5m", "ticket",
		"The group {{ $labels.policy }} of {{ $labels.instance }} has more keys that hold calls back than it may keep."},
	{"MettleAmplification", `<mettle.retry.amplification> > 1.25`, "2m", "page",
		"The retry {{ $labels.policy }} of {{ $labels.instance }} makes {{ $value | humanize }} attempts of each call."},
	{"MettleBudgetSpent", `rate(<mettle.retry.budget_denials>[5m]) > 0`, "5m", "ticket",
		"The budget of {{ $labels.policy }} on {{ $labels.instance }} has denied resends for five minutes."},
	{"MettleResendsUseless", `sum without (attempt) (rate(<mettle.retry.successes attempt!="1">[10m]))` +
		` < 0.1 * sum without (attempt) (rate(<mettle.retry.attempts attempt!="1">[10m]))`, "10m", "ticket",
		"Fewer than a tenth of the resends of {{ $labels.policy }} on {{ $labels.instance }} succeed. They are load without worth."},
	{"MettleHedgesUseless", `rate(<mettle.hedge.wins>[10m]) < 0.1 * rate(<mettle.hedge.hedges>[10m])`, "10m", "ticket",
		"Fewer than a tenth of the hedges of {{ $labels.policy }} on {{ $labels.instance }} win. They are load without worth."},
	{"MettleBulkheadRefuses", `sum without (reason) (rate(<mettle.bulkhead.rejected>[5m])) > 0`, "5m", "page",
		"The bulkhead {{ $labels.policy }} of {{ $labels.instance }} has refused calls for five minutes."},
	{"MettleBulkheadNearlyFull", `<mettle.bulkhead.in_flight> > 0.9 * <mettle.bulkhead.limit>`, "5m", "ticket",
		"The bulkhead {{ $labels.policy }} of {{ $labels.instance }} has been nine tenths full for five minutes."},
	{"MettleAbandonedWork", `<mettle.timeout.overdue> > 0`, "5m", "ticket",
		"{{ $value }} calls under the timeout {{ $labels.policy }} of {{ $labels.instance }} run on past their deadline."},
	{"MettleFallbackFails", `rate(<mettle.fallback.failed>[5m]) > 0`, "", "page",
		"The fallback {{ $labels.policy }} of {{ $labels.instance }} fails: calls are neither answered nor stood in for."},
	{"MettleMetricsDropped", `<mettle.dropped_metrics> > 0`, "5m", "ticket",
		"{{ $labels.instance }} leaves out {{ $labels.metric }}: {{ $labels.reason }}. Do two policies have the same name?"},
}
