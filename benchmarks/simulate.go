package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mettle-go/mettle/benchmarks/scorecard"
)

// simulate runs the scorecard and returns its figures: with an error those that it has
// by then, nil if there are none. Now and then it hands over to keep what there is so far.
func simulate(ctx context.Context, dir, command string, plan scorecard.Plan, keep func(*scorecard.Data) error) (*scorecard.Data, error) {
	tmp, err := os.MkdirTemp("", "scorecard")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	p := newProgress(os.Stderr)
	defer p.clear()

	p.show("building")
	binary := filepath.Join(tmp, "scorecard.test")
	if _, err := output(ctx, dir, "go", "test", "-c", "-o", binary, "./scorecard"); err != nil {
		return nil, err
	}
	head, err := scorecardHead(ctx, dir, command, plan)
	if err != nil {
		return nil, err
	}
	kept := time.Now()
	results, failure := runJobs(ctx, binary, plan.Jobs(), p, func(results []scorecard.Result) error {
		if time.Since(kept) < time.Minute {
			return nil
		}
		kept = time.Now()
		return keep(scorecard.Summarize(head, results))
	})
	if len(results) == 0 {
		return nil, failure
	}
	return scorecard.Summarize(head, results), failure
}

// runJobs gives the jobs to as many workers as there are processors, in their order. It
// returns the results that there are when all is done or something failed, and hands over
// to each those that there are after every job.
func runJobs(ctx context.Context, binary string, jobs []scorecard.Job, p *progress, each func([]scorecard.Result) error) ([]scorecard.Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	queue, all := make(chan scorecard.Job), 0.0
	for _, job := range jobs {
		all += job.Cost
	}
	go func() {
		defer close(queue)
		for _, job := range jobs {
			select {
			case queue <- job:
			case <-ctx.Done():
				return
			}
		}
	}()
	var (
		mu      sync.Mutex
		results []scorecard.Result
		errs    []error
		done    float64 // of the cost of all
		workers sync.WaitGroup
	)
	begun := time.Now()
	for range runtime.NumCPU() {
		workers.Go(func() {
			err := runWorker(ctx, binary, queue, func(job scorecard.Job, r scorecard.Result) error {
				mu.Lock()
				defer mu.Unlock()
				results, done = append(results, r), done+job.Cost
				p.step(fmt.Sprintf("%d of %d runs, about %v to go", len(results), len(jobs), left(time.Since(begun), done, all)), r.Cell)
				return each(results)
			})
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
				cancel()
			}
		})
	}
	workers.Wait()
	if err := context.Cause(ctx); len(errs) == 0 && len(results) < len(jobs) {
		return results, err
	}
	return results, errors.Join(errs...)
}

// left is how long it takes to do the rest of all, when what is done took so long.
func left(took time.Duration, done, all float64) time.Duration {
	if done <= 0 {
		return 0
	}
	return time.Duration(float64(took) * (all - done) / done).Round(time.Second)
}

// runWorker runs jobs in a process of its own, one after the other.
func runWorker(ctx context.Context, binary string, jobs <-chan scorecard.Job, done func(scorecard.Job, scorecard.Result) error) error {
	cmd := exec.CommandContext(ctx, binary, "-test.run=^TestWorker$", "-test.timeout=24h", "-work")
	// One processor each: a bubble has hardly more than one goroutine that is awake. And
	// more garbage before it is collected, since there is little else than garbage.
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=1600", "GOMEMLIMIT=1GiB", "GODEBUG=")
	var stderr, other bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	failure := feed(in, lines, jobs, done, &other)
	in.Close()
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return nil // stopped, which is told once and elsewhere
	case err != nil:
		return fmt.Errorf("%v: %w\n%s%s", cmd.Args, err, other.String(), stderr.String())
	default:
		return failure
	}
}

// feed hands out jobs one by one and takes their results.
func feed(in io.Writer, lines *bufio.Scanner, jobs <-chan scorecard.Job, done func(scorecard.Job, scorecard.Result) error, other io.Writer) error {
	for job := range jobs {
		if _, err := fmt.Fprintln(in, job); err != nil {
			return err
		}
		for {
			if !lines.Scan() {
				return fmt.Errorf("%v: no result: %w", job, errors.Join(lines.Err(), io.ErrUnexpectedEOF))
			}
			text, ok := strings.CutPrefix(lines.Text(), scorecard.ResultMark)
			if !ok {
				fmt.Fprintln(other, lines.Text())
				continue
			}
			var r scorecard.Result
			if err := json.Unmarshal([]byte(text), &r); err != nil {
				return fmt.Errorf("%v: %w", job, err)
			}
			if err := done(job, r); err != nil {
				return err
			}
			break
		}
	}
	return nil
}

// scorecardHead is what is true of all figures.
func scorecardHead(ctx context.Context, dir, command string, plan scorecard.Plan) ([][2]string, error) {
	versions, err := output(ctx, dir, "go", append([]string{"list", "-m", "-f", "{{.Path}}@{{.Version}}"}, scorecardPeers...)...)
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
		{"peers", strings.Join(strings.Fields(versions), " ")},
	}, nil
}

// scorecardPeers are the modules whose versions belong to the figures.
var scorecardPeers = []string{
	"github.com/cenkalti/backoff/v5",
	"github.com/failsafe-go/failsafe-go",
	"github.com/go-kratos/aegis",
	"github.com/sony/gobreaker/v2",
	"github.com/zeromicro/go-zero",
}
