package main

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
		return feed(&in, bufio.NewScanner(strings.NewReader(out)), jobs(n), func(r scorecard.Result) { got = append(got, r.Seed) }, &other)
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
	quiet, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer quiet.Close()
	two := []scorecard.Job{{Cell: "S4/p=0.3", Seed: 1}, {Cell: "S4/p=0.3", Seed: 2}, {Cell: "S4/p=0.3", Seed: 3}}
	_, err = runJobs(t.Context(), script(t, "read job; echo out of luck; exit 3\n"), two, newProgress(quiet))
	assert.ErrorContains(t, err, "exit status 3")
	assert.ErrorContains(t, err, "out of luck")

	mark := strings.TrimSpace(scorecard.ResultMark)
	obedient := script(t, `while read cell seed who; do echo "`+mark+` {\"Cell\":\"$cell\",\"Seed\":$seed}"; done`+"\n")
	results, err := runJobs(t.Context(), obedient, two, newProgress(quiet))
	require.NoError(t, err)
	assert.Len(t, results, 3)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	results, err = runJobs(ctx, obedient, two, newProgress(quiet))
	assert.ErrorIs(t, err, context.Canceled)
	assert.Less(t, len(results), 3)
}
