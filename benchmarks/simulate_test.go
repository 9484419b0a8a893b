package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mettle-go/mettle/benchmarks/scorecard"
)

func jobs(n int) <-chan scorecard.Job {
	queue := make(chan scorecard.Job, n)
	for i := range n {
		queue <- scorecard.Job{Cell: "S4/p=0.3", Seed: uint64(i + 1)}
	}
	close(queue)
	return queue
}

// A worker is handed one job at a time, and what it prints besides results is kept for the
// case that it fails.
func TestFeed(t *testing.T) {
	var in, other bytes.Buffer
	var got []uint64
	out := "some library's greeting\n" +
		scorecard.ResultMark + `{"Cell":"S4/p=0.3","Seed":1}` + "\n" +
		scorecard.ResultMark + `{"Cell":"S4/p=0.3","Seed":2}` + "\n"
	feeding := func(n int, out string) error {
		return feed(&in, bufio.NewScanner(strings.NewReader(out)), jobs(n), func(job scorecard.Job, r scorecard.Result) error {
			assert.Equal(t, job.Seed, r.Seed)
			got = append(got, r.Seed)
			return nil
		}, &other)
	}
	require.NoError(t, feeding(2, out))
	assert.Equal(t, []uint64{1, 2}, got)
	assert.Equal(t, "S4/p=0.3 1 0\nS4/p=0.3 2 0\n", in.String())
	assert.Equal(t, "some library's greeting\n", other.String())

	assert.ErrorContains(t, feeding(3, out), "S4/p=0.3 3 0: no result")
	assert.ErrorContains(t, feeding(1, scorecard.ResultMark+"{\n"), "S4/p=0.3 1 0: ")
}

// script is a stand-in for the test binary, which does as the shell says.
func script(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "worker")
	require.NoError(t, os.WriteFile(file, []byte("#!/bin/sh\n"+text), 0o755))
	return file
}

// A worker that dies takes the others with it, and tells what it said.
func TestRunJobsTellsWhyAWorkerDied(t *testing.T) {
	_, err := runJobs(t.Context(), script(t, "read job; echo out of luck; exit 3\n"), three, silent(t), nobody)
	assert.ErrorContains(t, err, "exit status 3")
	assert.ErrorContains(t, err, "out of luck")
}

var three = []scorecard.Job{{Cell: "S4/p=0.3", Seed: 1}, {Cell: "S4/p=0.3", Seed: 2}, {Cell: "S4/p=0.3", Seed: 3}}

// silent tells nobody how far it is.
func silent(t *testing.T) *progress {
	quiet, err := os.Open(os.DevNull)
	require.NoError(t, err)
	t.Cleanup(func() { quiet.Close() })
	return newProgress(quiet)
}

func nobody([]scorecard.Result) error { return nil }

// obedient is a worker that has a result for every job.
func obedient(t *testing.T, then string) string {
	mark := strings.TrimSpace(scorecard.ResultMark)
	return script(t, `while read cell seed who; do echo "`+mark+` {\"Cell\":\"$cell\",\"Seed\":$seed}"; `+then+` done`+"\n")
}

func TestRunJobs(t *testing.T) {
	most := 0
	results, err := runJobs(t.Context(), obedient(t, ""), three, silent(t), func(so []scorecard.Result) error {
		most = max(most, len(so))
		return nil
	})
	require.NoError(t, err)
	assert.Len(t, results, 3)
	assert.Equal(t, 3, most)
}

// Whoever interrupts a run has what was done by then, and the workers are gone. So it is
// when what there is cannot be kept, and when workers are interrupted before the command.
func TestRunJobsKeepsWhatItHas(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var has int
	many := slices.Repeat(three, 1000)
	results, err := runJobs(ctx, obedient(t, ""), many, silent(t), func(so []scorecard.Result) error {
		if has = len(so); has == 2 {
			cancel()
		}
		return nil
	})
	assert.ErrorIs(t, err, context.Canceled)
	assert.Len(t, results, has)
	assert.GreaterOrEqual(t, has, 2)

	full := errors.New("disk full")
	results, err = runJobs(t.Context(), obedient(t, ""), three, silent(t), func([]scorecard.Result) error { return full })
	assert.ErrorIs(t, err, full)
	assert.NotEmpty(t, results)

	results, err = runJobs(t.Context(), obedient(t, `[ $seed != 2 ] || kill -INT $$;`), three, silent(t), nobody)
	assert.ErrorContains(t, err, "signal: interrupt")
	assert.NotEmpty(t, results)
}

func TestLeft(t *testing.T) {
	assert.Equal(t, 30*time.Second, left(10*time.Second, 1, 4))
	assert.Zero(t, left(time.Second, 0, 4))
	assert.Zero(t, left(time.Second, 4, 4))
}
