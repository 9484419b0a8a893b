package main

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mettle-go/mettle/examples/orders/internal/payments"
)

// build makes the program.
func build(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "orders")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// The client is killed at 20 random moments, in and out of an outage, over one data
// directory, against a service that lives on. After one more run nothing is lost and
// nothing was charged twice.
//
// Spec: Q1, Q2, Q3
func TestKilledTwentyTimes(t *testing.T) {
	t.Parallel()
	program := build(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))

	// Weather that changes faster than the client is killed, for as long as the kills
	// may take.
	var script payments.Script
	for range 6 {
		for _, p := range []payments.Phase{
			{Kind: "healthy", Latency: 10 * time.Millisecond},
			{Kind: "brownout", Latency: 20 * time.Millisecond, Errors: 0.5},
			{Kind: "hang"},
			{Kind: "refused"},
			{Kind: "storm"},
		} {
			p.For = time.Duration(100+rng.IntN(200)) * time.Millisecond
			script = append(script, p)
		}
	}
	script = append(script, payments.Phase{Kind: "recovery"})
	serviceFile := filepath.Join(t.TempDir(), paymentsFile)
	service, err := payments.Start(payments.Config{Path: serviceFile, Script: script, Seed: seed})
	require.NoError(t, err)
	defer service.Close()

	data := t.TempDir()
	var stdout, stderr bytes.Buffer
	command := func(args ...string) *exec.Cmd {
		stdout.Reset()
		stderr.Reset()
		cmd := exec.Command(program, append(args, "-data", data, "-payment-url", service.URL())...)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		return cmd
	}
	lines := bytes.SplitAfter(defaultOrders, []byte("\n"))
	killed, doubtful := 0, 0
	for i := range 20 {
		// Each run gets some orders of the one before and some new ones; those that
		// it is killed too early to see are left for the last run.
		part := bytes.Join(lines[max(0, 20*i-10):20*(i+1)], nil)
		cmd := command("-rate", "80", "-orders", write(t, "part", string(part)))
		require.NoError(t, cmd.Start())
		time.Sleep(time.Duration(20+rng.IntN(400)) * time.Millisecond)
		require.NoError(t, cmd.Process.Kill())
		err := cmd.Wait()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled() {
			killed++
		} else {
			require.NoError(t, err, "a start after a kill must work: %s%s", &stdout, &stderr)
		}
		if strings.Contains(stdout.String(), "on their way") && !strings.Contains(stdout.String(), "which 0 were") {
			doubtful++
		}
	}
	t.Logf("killed %d times; %d runs found orders whose payment was in doubt", killed, doubtful)
	require.GreaterOrEqual(t, killed, 10, "the client was done before it was killed")

	cmd := command("-rate", "0")
	err = cmd.Run()
	require.NoError(t, err, "%s%s", &stdout, &stderr)
	r := parse(t, cmd.ProcessState.ExitCode(), stdout.String(), stderr.String())
	r.settled(t, 400, 8)
	t.Log(r.last)

	require.NoError(t, service.Close())
	verify(t, filepath.Join(data, ledgerFile), serviceFile, 400, 8)
}

// An interrupt is answered with what remains and how to go on.
func TestSignal(t *testing.T) {
	t.Parallel()
	program := build(t)
	data := t.TempDir()
	var stdout bytes.Buffer
	cmd := exec.Command(program, "-data", data, "-rate", "100", "-faults", write(t, "faults", "healthy 200ms\nrefused"))
	cmd.Stdout, cmd.Stderr = &stdout, os.Stderr
	require.NoError(t, cmd.Start())
	time.Sleep(time.Second)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	err := cmd.Wait()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "%s", &stdout)
	require.Equal(t, exitWaiting, exit.ExitCode(), "%s", &stdout)
	r := parse(t, exit.ExitCode(), stdout.String(), "")
	require.Contains(t, r.stdout, "stopping: interrupted")
	require.Contains(t, r.stdout, "to go on: the same command with -data "+data)
	require.Zero(t, r.n["lost"]+r.n["duplicated"])
	require.Positive(t, r.n["queued"]-r.n["replayed"])
}
