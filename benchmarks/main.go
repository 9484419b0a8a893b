// Command benchmarks measures what a call pays for being protected, beside other
// libraries that do the same, and writes the figures into RESULTS.md. Start it with -h
// for its flags.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"
)

const usage = `Usage: go run ./benchmarks [flags]

Measures what a call pays for being protected, and writes what it measured into
benchmarks/data/overhead.txt and the tables made of it into benchmarks/RESULTS.md.
Progress goes to standard error, the tables to standard output as well. Nothing is
written before the last round is over.

Figures are worth something only if nothing else runs on the machine.

Examples:

  go run ./benchmarks                                  everything, about four minutes
  go run ./benchmarks -rounds 50                       the same, for longer
  go run ./benchmarks -dry -rounds 2 -benchtime 20ms   a quick look, writes nothing
  go run ./benchmarks -table                           only the tables, from the data

Flags:

`

const (
	defaultRounds = 20
	leastRounds   = 10 // to be written down
	// defaultBenchtime is short, so that those who are compared have their turns close
	// to each other: other users of the machine come and go within seconds.
	defaultBenchtime = 50 * time.Millisecond
)

type options struct {
	rounds    int
	benchtime time.Duration
	dry       bool
	table     bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
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
		err = errors.New("interrupted, nothing written")
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
	flags.IntVar(&o.rounds, "rounds", defaultRounds, "how often everything is measured in turn; fewer than 10 only with -dry")
	flags.DurationVar(&o.benchtime, "benchtime", defaultBenchtime, "how long each benchmark runs in a round")
	flags.BoolVar(&o.dry, "dry", false, "write no file")
	flags.BoolVar(&o.table, "table", false, "do not measure, make the tables again from the data")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		err = fmt.Errorf("%q is no flag", flags.Arg(0))
	case o.rounds < 1:
		err = fmt.Errorf("-rounds is %d, must be at least 1", o.rounds)
	case o.rounds < leastRounds && !o.dry && !o.table:
		err = fmt.Errorf("-rounds is %d, must be at least %d to be written down, or used with -dry", o.rounds, leastRounds)
	case o.benchtime <= 0:
		err = fmt.Errorf("-benchtime is %v, must be positive", o.benchtime)
	}
	if err != nil {
		fmt.Fprintf(w, "benchmarks: %v; see -h\n", err)
	}
	return o, err
}

func run(ctx context.Context, o options, args []string) error {
	dir, err := folder(ctx)
	if err != nil {
		return err
	}
	data, results := filepath.Join(dir, dataFile), filepath.Join(dir, resultsFile)
	var text []byte
	if o.table {
		text, err = os.ReadFile(data)
	} else {
		command := strings.Join(append([]string{"go run ./benchmarks"}, args...), " ")
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
	if o.dry {
		return nil
	}
	old, err := os.ReadFile(results)
	if err != nil {
		return err
	}
	fresh, err := splice(string(old), tables)
	if err != nil {
		return fmt.Errorf("%s: %w", results, err)
	}
	if !o.table {
		if err := errors.Join(os.MkdirAll(filepath.Dir(data), 0o755), os.WriteFile(data, text, 0o644)); err != nil {
			return err
		}
	}
	return os.WriteFile(results, []byte(fresh), 0o644)
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

// Files of the module, by their paths in it.
const (
	dataFile    = "data/overhead.txt"
	resultsFile = "RESULTS.md"
)

// The tables stand between these in RESULTS.md.
const (
	begin = "<!-- begin: overhead; written by go run ./benchmarks, not by hand -->\n"
	end   = "<!-- end: overhead -->\n"
)

// splice returns page with tables in the place that is kept for them.
func splice(page, tables string) (string, error) {
	head, rest, ok := strings.Cut(page, begin)
	_, tail, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return "", fmt.Errorf("has no place for the tables: %q and %q", strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return head + begin + "\n" + tables + "\n" + end + tail, nil
}
