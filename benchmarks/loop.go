package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/mettle-go/mettle/benchmarks/loopback"
	"github.com/mettle-go/mettle/benchmarks/scorecard"
)

// loop runs that part, round by round, and returns its figures: with an error those that
// it has by then, nil if there are none. A round in which the machine was not idle enough is
// run again, as long as that takes no more than a quarter of the time besides, and the one
// in which requests were sent closest to when they were due counts.
func loop(ctx context.Context, dir, command string, plan loopback.Plan) (*loopback.Data, error) {
	head, err := loopbackHead(ctx, dir, command, plan)
	if err != nil {
		return nil, err
	}
	p := newProgress(os.Stderr)
	defer p.clear()
	p.line("simulating")
	results, err := twins(ctx, dir, plan)
	if err != nil {
		return nil, err
	}
	rounds, left := plan.Rounds(), time.Duration(0)
	for _, r := range rounds {
		left += r.Lasts()
	}
	again := left / 4 // for rounds in which somebody else had the machine
	var failure error
	for i, r := range rounds {
		tell := func(what string) {
			p.line(fmt.Sprintf("round %d of %d, about %v to go: %v%s", i+1, len(rounds), left.Round(time.Second), r, what))
		}
		tell("")
		var best []loopback.Result
		if best, failure = r.Do(ctx); failure != nil {
			break
		}
		for n := 0; n < 2 && loopback.Lateness(best) > loopback.Quiet && again > r.Lasts(); n++ {
			again -= r.Lasts()
			tell(", again")
			some, err := r.Do(ctx)
			if err != nil {
				break // what there is counts; the next round fails if that was no accident
			}
			if loopback.Lateness(some) < loopback.Lateness(best) {
				best = some
			}
		}
		results = append(results, best...)
		left -= r.Lasts()
	}
	return loopback.Collect(head, results), failure
}

// twins simulates what the rounds of the plan are compared with.
func twins(ctx context.Context, dir string, plan loopback.Plan) (results []loopback.Result, err error) {
	tmp, err := os.MkdirTemp("", "loopback")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	binary := filepath.Join(tmp, "loopback.test")
	if _, err := output(ctx, dir, "go", "test", "-c", "-o", binary, "./loopback"); err != nil {
		return nil, err
	}
	order, err := json.Marshal(plan)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, binary, "-test.run=^TestTwin$", "-twin")
	cmd.Stdin = bytes.NewReader(order)
	text, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%v: %w\n%s", cmd.Args, err, text)
	}
	for line := range strings.Lines(string(text)) {
		if line, ok := strings.CutPrefix(line, scorecard.ResultMark); ok {
			var some []loopback.Result
			if err := json.Unmarshal([]byte(line), &some); err != nil {
				return nil, err
			}
			results = append(results, some...)
		}
	}
	return results, nil
}

// loopbackHead is what is true of all figures.
func loopbackHead(ctx context.Context, dir, command string, plan loopback.Plan) ([][2]string, error) {
	versions, err := output(ctx, dir, "go", append([]string{"list", "-m", "-f", "{{.Path}}@{{.Version}}"}, loopbackPeers...)...)
	if err != nil {
		return nil, err
	}
	revision, err := output(ctx, dir, "git", "describe", "--always", "--dirty")
	if err != nil {
		revision = "unknown" // not a clone
	}
	return [][2]string{
		{"command", command},
		{"seeds", strconv.Itoa(plan.Seeds)},
		{"revision", strings.TrimSpace(revision)},
		{"toolchain", runtime.Version()},
		{"processors", strconv.Itoa(runtime.NumCPU())},
		{"peers", strings.Join(strings.Fields(versions), " ")},
	}, nil
}

// loopbackPeers are the modules whose versions belong to the figures.
var loopbackPeers = append([]string{
	"github.com/Shopify/toxiproxy/v2",
	"github.com/cristalhq/hedgedhttp",
	"google.golang.org/grpc",
}, scorecardPeers...)

// overLoopback runs that part and writes it down. What there is when it fails or is
// interrupted is written as well.
func overLoopback(ctx context.Context, dir, command string, o options, plan loopback.Plan) error {
	data := filepath.Join(dir, dataFolder, loopbackFile)
	if o.table {
		tables, err := loopbackTables(dir)
		if err != nil || tables == "" {
			return err
		}
		fmt.Print(tables)
		if o.dry {
			return nil
		}
		return splice(filepath.Join(dir, resultsFile), loopbackPart, tables)
	}
	d, failure := loop(ctx, dir, command, plan)
	if d == nil {
		return failure
	}
	tables := d.Markdown()
	fmt.Print(tables)
	whole := failure == nil && plan.Whole() && o.out == ""
	switch {
	case o.dry:
		return failure
	case o.out != "":
		data = filepath.Join(o.out, loopbackFile)
	case !whole:
		data = filepath.Join(dir, partFolder, loopbackFile)
	}
	var text bytes.Buffer
	if err := errors.Join(d.Write(&text), write(data, text.Bytes())); err != nil {
		return errors.Join(failure, err)
	}
	fmt.Fprintln(os.Stderr, "figures are in", data)
	if !whole {
		return failure
	}
	return splice(filepath.Join(dir, resultsFile), loopbackPart, tables)
}

// loopbackTables returns what the page has of that part, by the data in dir: nothing if
// nobody has measured yet.
func loopbackTables(dir string) (string, error) {
	file := filepath.Join(dir, dataFolder, loopbackFile)
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	d, err := loopback.Read(bytes.NewReader(text))
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	return d.Markdown(), nil
}
