package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// A pass is one run of the test binary. A round has all of them.
type pass struct {
	bench string
	cpu   string        // values of GOMAXPROCS
	least time.Duration // the benchtime, if that is less
}

var passes = []pass{
	// One processor: no work that a call causes, such as collecting its garbage, is
	// done unseen on another.
	{"^(BenchmarkFloor|BenchmarkBreaker|BenchmarkBulkhead|BenchmarkRetry|BenchmarkPipeline|BenchmarkTraceInTurn)$", "1", 0},
	{"^(BenchmarkFloorShared|BenchmarkBreakerShared|BenchmarkBulkheadShared|BenchmarkRetryShared)$", "1,2", 0},
	// By itself, since the memory that it takes changes when garbage is collected.
	{"^BenchmarkBreakerIdle$", "1", 0},
	{"^BenchmarkTimeout$", "1", 0},
	// Long enough for a scrape a second to come twice.
	{"^BenchmarkObserveRatio$", "2", 1200 * time.Millisecond},
	// Client and server, as many processors as there are in most of the rest.
	{"^(BenchmarkHTTPInTurn|BenchmarkGRPCInTurn)$", "2", 0},
}

// peers are the modules whose versions belong to the figures.
var peers = []string{
	"github.com/afex/hystrix-go",
	"github.com/avast/retry-go/v5",
	"github.com/cenkalti/backoff/v5",
	"github.com/eapache/go-resiliency",
	"github.com/failsafe-go/failsafe-go",
	"github.com/go-kratos/aegis",
	"github.com/sethvargo/go-retry",
	"github.com/sony/gobreaker/v2",
	"github.com/zeromicro/go-zero",
	"golang.org/x/sync",
	"google.golang.org/grpc",
}

// measure runs all benchmarks, round by round, and returns what they printed, in the
// Go benchmark format: first what is true of all of it, then the results.
func measure(ctx context.Context, dir, command string, o options) ([]byte, error) {
	tmp, err := os.MkdirTemp("", "benchmarks")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	p := newProgress(os.Stderr)
	defer p.clear()

	p.show("building")
	binary := filepath.Join(tmp, "overhead.test")
	if _, err := output(ctx, dir, "go", "test", "-c", "-o", binary, "./overhead"); err != nil {
		return nil, err
	}
	var results bytes.Buffer
	load, begun := 0.0, time.Now()
	for round := range o.rounds {
		title := fmt.Sprintf("round %d of %d", round+1, o.rounds)
		if round > 0 {
			left := time.Since(begun) / time.Duration(round) * time.Duration(o.rounds-round)
			title += fmt.Sprintf(", about %v to go", left.Round(time.Second))
		}
		p.line(title)
		for _, pass := range passes {
			if err := runPass(ctx, &results, binary, pass, o, p); err != nil {
				return nil, err
			}
		}
		load = max(load, loadAverage())
	}
	head, err := describe(ctx, dir, command, o, load)
	if err != nil {
		return nil, err
	}
	return append([]byte(head), results.Bytes()...), nil
}

// runPass appends the results of a pass to w.
func runPass(ctx context.Context, w *bytes.Buffer, binary string, run pass, o options, p *progress) error {
	cmd := exec.CommandContext(ctx, binary, "-test.run=^$", "-test.bench="+run.bench,
		"-test.cpu="+run.cpu, "-test.benchtime="+max(o.benchtime, run.least).String(), "-test.benchmem", "-test.timeout=1h")
	// The garbage collector as it is, whatever the caller's shell says.
	cmd.Env = append(os.Environ(), "GOGC=", "GOMEMLIMIT=", "GODEBUG=", "GOMAXPROCS=")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	first := w.Len() == 0
	var other strings.Builder // what is no result: the reason, if it fails
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := lines.Text()
		fields := strings.Fields(line)
		switch {
		case len(fields) >= 4 && strings.HasPrefix(line, "Benchmark"):
			p.show(fields[0])
			fmt.Fprintln(w, line)
		case first && len(fields) > 0 && strings.Contains("goos: goarch: pkg: cpu: ", fields[0]+" "):
			fmt.Fprintln(w, line)
		default:
			fmt.Fprintln(&other, line)
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%v: %w\n%s%s", cmd.Args, err, other.String(), stderr.String())
	}
	return nil
}

// describe returns what is true of all results, as lines of the benchmark format.
func describe(ctx context.Context, dir, command string, o options, load float64) (string, error) {
	versions, err := output(ctx, dir, "go", append([]string{"list", "-m", "-f", "{{.Path}}@{{.Version}}"}, peers...)...)
	if err != nil {
		return "", err
	}
	revision, err := output(ctx, dir, "git", "describe", "--always", "--dirty")
	if err != nil {
		revision = "unknown" // not a clone
	}
	var head strings.Builder
	for _, line := range [][2]string{
		{"command", command},
		{"rounds", strconv.Itoa(o.rounds)},
		{"revision", strings.TrimSpace(revision)},
		{"toolchain", runtime.Version()},
		{"processors", strconv.Itoa(runtime.NumCPU())},
		{"load", strconv.FormatFloat(load, 'f', 2, 64)},
		{"peers", strings.Join(strings.Fields(versions), " ")},
	} {
		fmt.Fprintf(&head, "%s: %s\n", line[0], line[1])
	}
	return head.String(), nil
}

// output runs a command in the folder of the benchmarks. The workspace is left out of
// it, since it may have other versions of the peers than go.mod.
func output(ctx context.Context, dir string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%v: %w\n%s", cmd.Args, err, stderr.String())
	}
	return string(out), nil
}

// loadAverage returns the load of the last minute, 0 where it cannot be told.
func loadAverage() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), " ")
	load, _ := strconv.ParseFloat(first, 64)
	return load
}

// progress tells how far we are: in one line that changes on a terminal, and in a line
// for each round elsewhere.
type progress struct {
	w        *os.File
	terminal bool
	title    string
	told     time.Time // when step has written last
}

func newProgress(w *os.File) *progress {
	info, err := w.Stat()
	return &progress{w: w, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

func (p *progress) line(title string) {
	p.title = title
	if p.terminal {
		p.show("")
	} else {
		fmt.Fprintf(p.w, "%s, load %.2f\n", title, loadAverage())
	}
}

func (p *progress) show(detail string) {
	if p.terminal {
		fmt.Fprintf(p.w, "\r\033[K%s  load %.2f  %s", p.title, loadAverage(), strings.TrimPrefix(detail, "Benchmark"))
	}
}

// step tells that something is done. Elsewhere than on a terminal it has a line for each,
// but for no more than one in ten seconds.
func (p *progress) step(title, detail string) {
	p.title = title
	if p.terminal {
		p.show(detail)
	} else if now := time.Now(); now.Sub(p.told) > 10*time.Second {
		p.told = now
		fmt.Fprintf(p.w, "%s  %s\n", title, detail)
	}
}

func (p *progress) clear() {
	if p.terminal {
		fmt.Fprint(p.w, "\r\033[K")
	}
}
