package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// column is a column of a table: which benchmark, and what of it.
type column struct {
	title string
	key   // without rule and impl, which are the row's
	unit  string
	plain bool // no ratio
}

// A table has a row for each contender. The figures in it are medians over the rounds,
// and in brackets the median of the ratios to the first row.
type table struct {
	title   string
	columns []column
	rule    string // of the rows
}

func at(bench, form string, procs int) key { return key{bench: bench, form: form, procs: procs} }

// tables are those that RESULTS.md has, time first.
func tables() []table {
	ns := func(title, bench, form string, procs int) column {
		return column{title: title, key: at(bench, form, procs), unit: "ns/op"}
	}
	breaker := []column{
		ns("closed", "Breaker", "closed", 1),
		ns("with a closure", "Breaker", "closure", 1),
		ns("with a deadline", "Breaker", "deadline", 1),
		ns("some fail", "Breaker", "failing", 1),
		ns("open", "Breaker", "open", 1),
		{title: "idle, bytes", key: at("BreakerIdle", "idle", 1), unit: "B/breaker"},
	}
	breakerShared := []column{
		ns("closed, 1 processor", "BreakerShared", "closed", 1), ns("2 processors", "BreakerShared", "closed", 2),
		ns("some fail, 1 processor", "BreakerShared", "failing", 1), ns("2 processors", "BreakerShared", "failing", 2),
		ns("open, 1 processor", "BreakerShared", "open", 1), ns("2 processors", "BreakerShared", "open", 2),
	}
	bulkhead := []column{
		ns("free", "Bulkhead", "free", 1),
		ns("with a closure", "Bulkhead", "closure", 1),
		ns("full", "Bulkhead", "full", 1),
	}
	bulkheadShared := []column{
		ns("free, 1 processor", "BulkheadShared", "free", 1), ns("2 processors", "BulkheadShared", "free", 2),
		ns("full, 1 processor", "BulkheadShared", "full", 1), ns("2 processors", "BulkheadShared", "full", 2),
	}
	retry := []column{
		ns("at the first try", "Retry", "success", 1),
		ns("with a closure", "Retry", "closure", 1),
		ns("shared, 1 processor", "RetryShared", "shared", 1), ns("2 processors", "RetryShared", "shared", 2),
	}
	pipeline := []column{ns("with a closure", "Pipeline", "closure", 1)}
	trace := []column{ns("with a closure", "TraceInTurn", "", 1)}
	timeout := []column{
		ns("quick", "Timeout", "quick", 1),
		ns("asks", "Timeout", "asks", 1),
		ns("derives", "Timeout", "derives", 1),
	}
	http := []column{ns("a GET of 200 bytes", "HTTPInTurn", "", 2)}
	grpc := []column{ns("a unary call", "GRPCInTurn", "", 2)}
	floor := []column{
		ns("once", "Floor", "", 1),
		ns("shared, 1 processor", "FloorShared", "", 1), ns("2 processors", "FloorShared", "", 2),
	}
	for i := range floor {
		floor[i].plain = true
	}
	return []table{
		{"Breakers with a rule on the rate of failures: nanoseconds a call", breaker, "rate"},
		{"Breakers that count failures in a row: nanoseconds a call", breaker, "consecutive"},
		{"Breakers with a rule on the rate of failures, shared: nanoseconds a call", breakerShared, "rate"},
		{"Breakers that count failures in a row, shared: nanoseconds a call", breakerShared, "consecutive"},
		{"Bulkheads: nanoseconds a call", bulkhead, ""},
		{"Bulkheads, shared: nanoseconds a call", bulkheadShared, ""},
		{"Retries that are not needed: nanoseconds a call", retry, ""},
		{"Timeouts: nanoseconds a call", timeout, ""},
		{"Five policies, one inside the other: nanoseconds a call", pipeline, ""},
		{"Five policies, traced: nanoseconds a call", trace, ""},
		{"HTTP over loopback: nanoseconds a request", http, ""},
		{"gRPC over loopback: nanoseconds a call", grpc, ""},
		{"Floors: nanoseconds", floor, ""},
		{"Breakers: allocations a call", allocations(breaker[:5]), "rate"},
		{"Breakers that count failures in a row: allocations a call", allocations(breaker[:5]), "consecutive"},
		{"Bulkheads: allocations a call", allocations(bulkhead), ""},
		{"Retries that are not needed: allocations a call", allocations(retry[:2]), ""},
		{"Timeouts: allocations a call", allocations(timeout), ""},
		{"Five policies, one inside the other: allocations a call", allocations(pipeline), ""},
	}
}

func allocations(columns []column) []column {
	columns = slices.Clone(columns)
	for i := range columns {
		columns[i].unit, columns[i].plain = "allocs/op", true
	}
	return columns
}

// markdown returns all tables.
func (f *figures) markdown() string {
	var w strings.Builder
	fmt.Fprintf(&w, "`%s`, at revision %s:\n%s rounds with %s on %s/%s (%s, %s processors), load average at most %s.\n\n",
		f.config["command"], f.config["revision"], f.config["rounds"], f.config["toolchain"],
		f.config["goos"], f.config["goarch"], f.config["cpu"], f.config["processors"], f.config["load"])
	for peer := range strings.FieldsSeq(f.config["peers"]) {
		fmt.Fprintf(&w, "- %s\n", peer)
	}
	w.WriteString("\n### What was to be reached\n\n" + f.verdicts())
	for _, t := range tables() {
		fmt.Fprintf(&w, "\n### %s\n\n%s", t.title, f.table(t))
	}
	return w.String()
}

func (f *figures) table(t table) string {
	var w strings.Builder
	w.WriteString("| |")
	for _, c := range t.columns {
		w.WriteString(" " + c.title + " |")
	}
	w.WriteString("\n|---|" + strings.Repeat("--:|", len(t.columns)) + "\n")
	rows := f.rows(t)
	for _, impl := range rows {
		w.WriteString("| " + impl + " |")
		for _, c := range t.columns {
			c.rule, c.impl = t.rule, impl
			base := c
			base.impl = rows[0]
			w.WriteString(" " + f.cell(c, base) + " |")
		}
		w.WriteString("\n")
	}
	return w.String()
}

// rows returns who is in a table, in the order of the benchmarks.
func (f *figures) rows(t table) (impls []string) {
	for _, k := range f.keys {
		if first := t.columns[0]; k == (key{first.bench, first.form, t.rule, k.impl, first.procs}) {
			impls = append(impls, k.impl)
		}
	}
	return impls
}

func (f *figures) cell(c, base column) string {
	q := quantity{c.key, c.unit}
	values := f.of(q)
	if values == nil {
		return "–"
	}
	text := number(median(values), c.unit)
	if !c.plain && c.impl != base.impl {
		text += " (" + digits(median(f.ratios(q, quantity{base.key, base.unit}))) + "×)"
	}
	return text
}

// digits returns v with as many digits as mean something: three, or all of those before
// the point.
func digits(v float64) string {
	places := 2
	if v != 0 {
		places -= int(math.Floor(math.Log10(math.Abs(v))))
	}
	return strconv.FormatFloat(v, 'f', min(max(places, 0), 3), 64)
}

// watchedUnit is a ratio that a benchmark reports itself, since the two that are compared
// take turns in it.
const watchedUnit = "watched/unwatched"

// number is digits of what was measured in unit. Bytes and allocations are whole.
func number(v float64, unit string) string {
	if unit != "ns/op" && unit != watchedUnit {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return digits(v)
}

// bar is a limit that a figure of ours, or its ratio to another, is to keep.
type bar struct {
	what  string
	q     quantity
	base  quantity // zero: q itself is measured
	limit float64
	below bool   // the limit itself is too much
	spec  string // the promise in docs/spec.md that it is; else it is an aim
}

// against returns what is to keep the limit, for each round; nil if it was not measured.
func (f *figures) against(b bar) []float64 {
	if b.base == (quantity{}) {
		return f.of(b.q)
	}
	return f.ratios(b.q, b.base)
}

// keeps reports whether the median of values does.
func (b bar) keeps(values []float64) bool {
	m := median(values)
	return m < b.limit || m == b.limit && !b.below
}

func bars() []bar {
	in := func(unit, bench, form, rule, impl string, procs int) quantity {
		return quantity{key{bench, form, rule, impl, procs}, unit}
	}
	breaker := func(form, rule, impl string) quantity { return in("ns/op", "Breaker", form, rule, impl, 1) }
	shared := func(procs int) quantity { return in("ns/op", "BreakerShared", "closed", "rate", "mettle", procs) }
	bulkhead := func(impl string) quantity { return in("ns/op", "Bulkhead", "free", "", impl, 1) }
	retry := func(impl string) quantity { return in("ns/op", "Retry", "closure", "", impl, 1) }
	pipeline := func(unit, impl string) quantity { return in(unit, "Pipeline", "closure", "", impl, 1) }
	timeout := func(unit, form, impl string) quantity { return in(unit, "Timeout", form, "", impl, 1) }
	http := func(impl string) quantity { return in("ns/op", "HTTPInTurn", "", "", impl, 2) }
	grpc := func(impl string) quantity { return in("ns/op", "GRPCInTurn", "", "", impl, 2) }
	watched := func(policy string) quantity { return in(watchedUnit, "ObserveRatio", policy, "", "", 2) }
	clock := in("ns/op", "Floor", "", "", "time.Since", 1)
	return []bar{
		{"breaker closed, over `time.Since`", breaker("closed", "rate", "mettle"), clock, 1.6, false, ""},
		{"breaker closed, over gobreaker with its rolling window",
			breaker("closed", "rate", "mettle"), breaker("closed", "rate", "gobreaker-rolling"), 1.0 / 3, false, ""},
		{"breaker closed, failures in a row only, over `time.Since`",
			breaker("closed", "consecutive", "mettle-consecutive"), clock, 1, true, ""},
		{"breaker open, over `time.Since`", breaker("open", "rate", "mettle"), clock, 2.5, false, ""},
		{"breaker open, allocations", in("allocs/op", "Breaker", "open", "rate", "mettle", 1), quantity{}, 0, false, "P7"},
		{"breaker shared, a call on 2 processors over one on 1", shared(2), shared(1), 1, false, "B32"},
		{"breaker idle, bytes", in("B/breaker", "BreakerIdle", "idle", "rate", "mettle", 1), quantity{}, 512, true, "B28"},
		{"breaker idle, goroutines", in("goroutines/breaker", "BreakerIdle", "idle", "rate", "mettle", 1), quantity{}, 0, false, "B28"},
		{"bulkhead free, over `semaphore.Weighted` with TryAcquire", bulkhead("mettle"), bulkhead("semaphore"), 1.3, false, ""},
		{"bulkhead's permit, over `semaphore.Weighted` with Acquire", bulkhead("mettle-permit"), bulkhead("semaphore-acquire"), 1.3, false, ""},
		{"retry, a success at the first try, over cenkalti/backoff", retry("mettle"), retry("backoff"), 1, false, ""},
		{"retry, a success at the first try, over avast/retry-go with the context of the call",
			retry("mettle"), retry("avast"), 1, false, ""},
		{"retry, a success at the first try, over avast/retry-go without it",
			retry("mettle"), retry("avast-no-context"), 1, false, ""},
		{"retry, a success at the first try, allocations", in("allocs/op", "Retry", "closure", "", "mettle", 1), quantity{}, 1, false, "R7"},
		{"timeout of a call that asks for no Done, over `context.WithTimeout`",
			timeout("ns/op", "quick", "mettle"), timeout("ns/op", "quick", "context"), 0.5, false, ""},
		{"timeout of a call that asks for Done, over `context.WithTimeout`",
			timeout("ns/op", "asks", "mettle"), timeout("ns/op", "asks", "context"), 1.15, false, ""},
		{"timeout of a call that asks for no Done, allocations", timeout("allocs/op", "quick", "mettle"), quantity{}, 1, false, "P13"},
		{"five policies, over failsafe-go's", pipeline("ns/op", "mettle"), pipeline("ns/op", "failsafe"), 1.0 / 8, false, ""},
		{"five policies, over a stack made by hand", pipeline("ns/op", "mettle"), pipeline("ns/op", "by-hand"), 1.0 / 4, false, ""},
		{"five policies, allocations", pipeline("allocs/op", "mettle"), quantity{}, 4, false, "P13"},
		{"HTTP, the standard pipeline over the bare transport", http("mettle"), http("bare"), 1.15, false, ""},
		{"HTTP, the standard pipeline over failsafehttp's", http("mettle"), http("failsafe"), 1, false, ""},
		{"gRPC, the standard pipeline over a bare call", grpc("mettle"), grpc("bare"), 1.15, false, ""},
		{"gRPC, the standard pipeline over failsafegrpc's", grpc("mettle"), grpc("failsafe"), 1, false, ""},
		{"breaker, watched over unwatched", watched("breaker"), quantity{}, 1.02, false, "O3"},
		{"retry, watched over unwatched", watched("retry"), quantity{}, 1.02, false, "O3"},
		{"bulkhead, watched over unwatched", watched("bulkhead"), quantity{}, 1.02, false, "O3"},
		{"five policies, watched over unwatched", watched("pipeline"), quantity{}, 1.02, false, "O3"},
	}
}

// verdicts returns the table of bars: the median over the rounds decides.
func (f *figures) verdicts() string {
	var w strings.Builder
	w.WriteString("| | limit | median | middle half of the rounds | |\n|---|--:|--:|--:|---|\n")
	for _, b := range bars() {
		values, unit := f.against(b), b.q.unit
		if b.base != (quantity{}) {
			unit = "ns/op" // a ratio is as exact as a time
		}
		sign := "≤ "
		if b.below {
			sign = "< "
		}
		fmt.Fprintf(&w, "| %s | %s%s |", b.what, sign, number(b.limit, unit))
		if values == nil {
			w.WriteString(" – | – | not measured |\n")
			continue
		}
		verdict := "pass"
		if !b.keeps(values) {
			verdict = "**fail**"
		}
		fmt.Fprintf(&w, " %s | %s to %s | %s |\n", number(median(values), unit),
			number(quantile(values, 0.25), unit), number(quantile(values, 0.75), unit), verdict)
	}
	return w.String()
}
