package faults

import (
	"bytes"
	"context"
	"fmt"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A goroutine has the labels of the one that started it, so those of a client can be
// told from those of all other clients, servers and proxies, which run at the same time.

// labelled runs f so that every goroutine it starts, directly or not, counts as name's.
func labelled(name string, f func(ctx context.Context)) {
	pprof.Do(context.Background(), pprof.Labels("client", name), f)
}

// goroutines returns how many of name's there are, and where they are.
func goroutines(t *testing.T, name string) (n int, stacks string) {
	var profile bytes.Buffer
	require.NoError(t, pprof.Lookup("goroutine").WriteTo(&profile, 1))
	label := fmt.Sprintf("\n# labels: {%q:%q}\n", "client", name)
	_, all, _ := strings.Cut(profile.String(), "\n") // in the first line is their number
	for stack := range strings.SplitSeq(all, "\n\n") {
		if !strings.Contains(stack, label) {
			continue
		}
		number, _, _ := strings.Cut(stack, " @ ") // of goroutines at this place
		alike, err := strconv.Atoi(strings.TrimSpace(number))
		require.NoError(t, err, stack)
		n, stacks = n+alike, stacks+stack+"\n\n"
	}
	return n, stacks
}

// soon reports whether done holds within a time that is long for what is done already.
func soon(done func() bool) bool {
	pause := 5 * time.Millisecond
	for end := time.Now().Add(10 * time.Second); !done(); pause = min(2*pause, 100*time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
		time.Sleep(pause)
	}
	return true
}

// A count that finds nothing must be one that can find something.
func TestGoroutinesAreFound(t *testing.T) {
	count := func(want int) func() bool {
		return func() bool { n, _ := goroutines(t, t.Name()); return n == want }
	}
	stop := make(chan struct{})
	labelled(t.Name(), func(context.Context) {
		for range 3 {
			go func() {
				go func() { <-stop }()
				<-stop
			}()
		}
	})
	assert.True(t, soon(count(6)))
	n, stacks := goroutines(t, t.Name()+" of another")
	assert.Zero(t, n, stacks)
	close(stop)
	assert.True(t, soon(count(0)))
}
