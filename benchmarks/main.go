// Command benchmarks measures what a call pays for being protected, and what protection
// is worth in an outage, beside other libraries, and writes the figures into RESULTS.md.
// Start it with -h for its flags.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mettle-go/mettle/benchmarks/chart"
	"github.com/mettle-go/mettle/benchmarks/loopback"
	"github.com/mettle-go/mettle/benchmarks/scorecard"
)

const usage = `Usage: go run ./benchmarks [flags]

Measures in three parts, beside other libraries: overhead, what a call pays for being
protected; the scorecard, how many calls succeed through all sorts of trouble, which
is simulated; and loopback, some of that with real processes. All of it goes into benchmarks/data, with the tables made of it in
benchmarks/RESULTS.md. What is only a part of it, or was interrupted, goes into
benchmarks/out, and so does once a minute what there is so far. Progress goes to standard
error, the tables to standard output as well.

Overhead and loopback are worth something only if nothing else runs on the machine. The
scorecard does not depend on how fast the machine is, or how busy.

Examples:

  go run ./benchmarks                   everything, three quarters of an hour
  go run ./benchmarks -quick            a part of the scorecard, about two minutes
  go run ./benchmarks -only S4          all of one scenario
  go run ./benchmarks -only overhead    overhead, about ten minutes
  go run ./benchmarks -only loopback    real processes, about eight minutes; -quick: two
  go run ./benchmarks -table            only the tables, from the data

Flags:

`

const (
	defaultRounds = 20
	leastRounds   = 10 // to be written down
	// defaultBenchtime is short, so that those who are compared have their turns close
	// to each other: other users of the machine come and go within seconds.
	defaultBenchtime = 50 * time.Millisecond

	defaultSeeds = 30
	quickSeeds   = 2
)

type options struct {
	quick bool
	only  []string // nil: both parts
	seeds int
	loops int    // seeds of loopback
	out   string // folder; empty: as usage says

	rounds    int
	benchtime time.Duration
	dry       bool
	table     bool
}

// The parts, as -only has them.
const (
	overheadPart  = "overhead"
	scorecardPart = "scorecard"
	loopbackPart  = "loopback"
)

// takersPart is a place in RESULTS.md, and no part that can be run.
const takersPart = "takers"

// overhead reports whether that part is to be measured.
func (o options) overhead() bool {
	return slices.Contains(o.only, overheadPart) || len(o.only) == 0 && !o.quick
}

// plan returns what of the scorecard is to be run, and whether anything is.
func (o options) plan() (scorecard.Plan, bool) {
	plan := scorecard.Plan{Quick: o.quick, Seeds: o.seeds}
	if len(o.only) == 0 || slices.Contains(o.only, scorecardPart) {
		return plan, true
	}
	plan.Only = slices.DeleteFunc(slices.Clone(o.only), func(s string) bool {
		_, real := loopbackCell(s)
		return s == overheadPart || real
	})
	return plan, len(plan.Only) > 0
}

// loopbackCell returns what of loopback s stands for, nothing for all of it, and whether
// it does.
func loopbackCell(s string) (cell string, ok bool) {
	part, cell, _ := strings.Cut(s, "/")
	return cell, part == loopbackPart
}

// loopback returns what of that part is to be run, and whether anything is.
func (o options) loopback() (loopback.Plan, bool) {
	plan := loopback.Plan{Quick: o.quick, Seeds: o.loops}
	for _, s := range o.only {
		cell, ok := loopbackCell(s)
		if ok && s == loopbackPart {
			plan.Only = nil
			return plan, true
		}
		if ok {
			plan.Only = append(plan.Only, cell)
		}
	}
	return plan, len(plan.Only) > 0 || len(o.only) == 0 && !o.quick
}

// whole reports whether it is all of the scorecard that is to be run.
func (o options) whole() bool {
	plan, run := o.plan()
	return run && len(plan.Only) == 0 && !plan.Quick && plan.Seeds >= defaultSeeds
}

func main() {
	loopback.Child()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		os.Exit(2)
	}
	err = run(ctx, o, os.Args[1:])
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		os.Exit(1)
	}
}

// parse returns the options in args. It has told an error, or the help that was asked
// for, to w.
func parse(args []string, w io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("benchmarks", flag.ContinueOnError)
	flags.SetOutput(w)
	flags.Usage = func() {
		fmt.Fprint(w, usage)
		flags.PrintDefaults()
	}
	flags.BoolVar(&o.quick, "quick", false, "less of it: the cells of the scorecard that tell most, with few seeds, and without contenders that are no library as it comes")
	only := flags.String("only", "", "`parts` separated by commas: overhead, scorecard, scenarios of it such as S4, loopback, or scenarios of it such as loopback/S4")
	flags.IntVar(&o.seeds, "seeds", 0, fmt.Sprintf("with how many seeds each cell is run (default %d, %d with -quick; over loopback %d and %d)", defaultSeeds, quickSeeds, loopback.FullSeeds, loopback.QuickSeeds))
	flags.StringVar(&o.out, "out", "", "`folder` for the data; RESULTS.md stays as it is then")
	flags.IntVar(&o.rounds, "rounds", defaultRounds, "how often all of overhead is measured in turn; fewer than 10 only with -dry or -out")
	flags.DurationVar(&o.benchtime, "benchtime", defaultBenchtime, "how long each benchmark of overhead runs in a round")
	flags.BoolVar(&o.dry, "dry", false, "write no file")
	flags.BoolVar(&o.table, "table", false, "do not measure, make the tables again from the data")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	err = o.check(flags, *only)
	if err != nil {
		fmt.Fprintf(w, "benchmarks: %v; see -h\n", err)
	}
	return o, err
}

// check fills in what depends on several flags, and reports what is wrong with them.
func (o *options) check(flags *flag.FlagSet, only string) error {
	given := make(map[string]bool)
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if given["only"] {
		o.only = strings.Split(only, ",")
	}
	o.loops = o.seeds
	if !given["seeds"] {
		o.seeds, o.loops = defaultSeeds, loopback.FullSeeds
		if o.quick {
			o.seeds, o.loops = quickSeeds, loopback.QuickSeeds
		}
	}
	plan, _ := o.plan()
	loops, _ := o.loopback()
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("%q is no flag", flags.Arg(0))
	case o.rounds < 1:
		return fmt.Errorf("-rounds is %d, must be at least 1", o.rounds)
	case o.rounds < leastRounds && !o.dry && !o.table && o.out == "":
		return fmt.Errorf("-rounds is %d, must be at least %d to be written down, or used with -dry or -out", o.rounds, leastRounds)
	case o.benchtime <= 0:
		return fmt.Errorf("-benchtime is %v, must be positive", o.benchtime)
	case o.seeds < 1:
		return fmt.Errorf("-seeds is %d, must be at least 1", o.seeds)
	case given["out"] && o.out == "":
		return errors.New("-out is empty, must be a folder")
	case o.dry && o.out != "":
		return errors.New("-dry and -out exclude each other")
	case o.table && (o.quick || given["only"] || given["seeds"] || o.out != ""):
		return errors.New("-table measures nothing, so -quick, -only, -seeds and -out mean nothing beside it")
	}
	if err := errors.Join(plan.Check(), loops.Check()); err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	return nil
}

func run(ctx context.Context, o options, args []string) error {
	dir, err := folder(ctx)
	if err != nil {
		return err
	}
	command := strings.Join(append([]string{"go run ./benchmarks"}, args...), " ")
	if o.table || o.overhead() {
		if err := overhead(ctx, dir, command, o); err != nil {
			return err
		}
	}
	if plan, run := o.loopback(); o.table || run {
		if err := overLoopback(ctx, dir, command, o, plan); err != nil {
			return err
		}
	}
	if plan, run := o.plan(); o.table || run {
		return score(ctx, dir, command, o, plan)
	}
	return nil
}

// overhead measures that part and writes it down.
func overhead(ctx context.Context, dir, command string, o options) (err error) {
	data := filepath.Join(dir, dataFolder, overheadFile)
	var text []byte
	if o.table {
		if text, err = os.ReadFile(data); errors.Is(err, os.ErrNotExist) {
			return nil // nobody has measured yet
		}
	} else {
		text, err = measure(ctx, dir, command, o)
	}
	if err != nil {
		return err
	}
	figures, err := readFigures(string(text))
	if err != nil {
		return err
	}
	tables := figures.markdown()
	fmt.Print(tables)
	switch {
	case o.dry:
		return nil
	case o.out != "":
		return write(filepath.Join(o.out, overheadFile), text)
	case !o.table:
		if err := write(data, text); err != nil {
			return err
		}
	}
	return splice(filepath.Join(dir, resultsFile), overheadPart, tables)
}

// score runs the scorecard and writes it down. What there is when it fails or is
// interrupted is written as well, and once a minute what there is so far.
func score(ctx context.Context, dir, command string, o options, plan scorecard.Plan) error {
	data := filepath.Join(dir, dataFolder, scorecardFile)
	if o.table {
		if !o.dry {
			if err := takers(dir); err != nil {
				return err
			}
		}
		d, err := readScorecard(data)
		if d == nil || err != nil {
			return err
		}
		fmt.Print(d.BarTable())
		if o.dry {
			return nil
		}
		return page(dir, d)
	}
	part := filepath.Join(dir, partFolder, scorecardFile)
	if o.out != "" {
		part = filepath.Join(o.out, scorecardFile)
	}
	keep := func(d *scorecard.Data) error { return writeScorecard(part, d) }
	if o.dry {
		keep = func(*scorecard.Data) error { return nil }
	}
	d, failure := simulate(ctx, dir, command, plan, keep)
	if d == nil {
		return failure
	}
	fmt.Print(d.BarTable())
	switch {
	case o.dry:
		return failure
	case failure != nil || !o.whole() || o.out != "":
		if err := keep(d); err != nil {
			return errors.Join(failure, err)
		}
		fmt.Fprintln(os.Stderr, "figures are in", part)
		if failure == nil && o.whole() {
			return charts(o.out, d)
		}
		return failure
	}
	if err := writeScorecard(data, d); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "figures are in", data)
	// The page is made of what is written, which has fewer digits.
	d, err := readScorecard(data)
	if err != nil {
		return err
	}
	return page(dir, d)
}

// page puts the scorecard into RESULTS.md, and draws its charts.
func page(dir string, d *scorecard.Data) error {
	if err := charts(filepath.Join(dir, chartFolder), d); err != nil {
		return err
	}
	return errors.Join(splice(filepath.Join(dir, resultsFile), scorecardPart, d.Markdown()), takers(dir))
}

// takers puts into RESULTS.md who takes part in the scorecard.
func takers(dir string) error {
	return splice(filepath.Join(dir, resultsFile), takersPart, scorecard.Takers())
}

// readScorecard returns what writeScorecard wrote, nil if there is no such file.
func readScorecard(file string) (*scorecard.Data, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	d, err := scorecard.Read(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return d, nil
}

func writeScorecard(file string, d *scorecard.Data) error {
	var text bytes.Buffer
	if err := d.Write(&text); err != nil {
		return err
	}
	return write(file, text.Bytes())
}

// charts draws all charts of the page.
func charts(folder string, d *scorecard.Data) error {
	for _, c := range scorecard.Curves() {
		var svg bytes.Buffer
		if err := errors.Join(chart.Curve(&svg, d, c), write(filepath.Join(folder, c.File), svg.Bytes())); err != nil {
			return err
		}
	}
	for _, c := range scorecard.Plots() {
		var svg bytes.Buffer
		if err := errors.Join(chart.Dots(&svg, d, c), write(filepath.Join(folder, c.File), svg.Bytes())); err != nil {
			return err
		}
	}
	return nil
}

// write makes a file, with the folder that it is in.
func write(file string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o644)
}

// folder returns where the module of the benchmarks is.
func folder(ctx context.Context) (string, error) {
	const module = "github.com/mettle-go/mettle/benchmarks"
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("cannot find the folder of %s: %w; start from inside the repository", module, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Files and folders of the module, by their paths in it.
const (
	dataFolder    = "data"
	chartFolder   = "charts"
	partFolder    = "out" // for what is not all there is
	overheadFile  = "overhead.txt"
	scorecardFile = "scorecard.txt"
	loopbackFile  = "loopback.txt"
	resultsFile   = "RESULTS.md"
)

// splice puts the tables of a part into the place that is kept for them in a file.
func splice(file, part, tables string) error {
	page, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	fresh, err := spliced(string(page), part, tables)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, []byte(fresh), 0o644)
}

// spliced returns page with the tables of a part in the place that is kept for them.
func spliced(page, part, tables string) (string, error) {
	begin, end := marks(part)
	head, rest, ok := strings.Cut(page, begin)
	_, tail, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return "", fmt.Errorf("has no place for the tables: %q and %q", strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return head + begin + "\n" + tables + "\n" + end + tail, nil
}

// marks returns what the tables of a part stand between in RESULTS.md.
func marks(part string) (begin, end string) {
	return "<!-- begin: " + part + "; written by go run ./benchmarks, not by hand -->\n", "<!-- end: " + part + " -->\n"
}
