package faults

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the table of docs/faults.md")

// page is where the table stands, between begin and end.
const (
	page  = "../../docs/faults.md"
	begin = "<!-- The table: go test ./tests/faults -update -->\n"
	end   = "<!-- End of the table. -->\n"
)

// checkPage prints the rows and, if they are as they have to be, compares them with those
// of the page, or puts them there. Nothing in them depends on the machine.
func checkPage(t *testing.T, rows []*row) {
	table := render(rows)
	t.Logf("what came of it:\n%s", table)
	if t.Failed() {
		return
	}
	old, err := os.ReadFile(page)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(old), begin)
	require.True(t, ok, "%s: no line %q", page, begin)
	_, after, ok := strings.Cut(rest, end)
	require.True(t, ok, "%s: no line %q", page, end)
	fresh := before + begin + table + end + after
	if *update {
		require.NoError(t, os.WriteFile(page, []byte(fresh), 0o644))
		return
	}
	has, want := strings.Split(string(old), "\n"), strings.Split(fresh, "\n")
	for i := range min(len(has), len(want)) {
		require.Equal(t, want[i], has[i], "%s is not what the tests have seen; see go test ./tests/faults -update", page)
	}
	require.Len(t, has, len(want))
}

func render(rows []*row) string {
	var b strings.Builder
	b.WriteString("| fault | protocol | call | pipeline | outcome | attempts | arrivals | leaked connections | leaked goroutines |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %d | %d | %d | %d |\n", r.fault,
			r.protocol, r.call, r.pipeline, r.got.outcome, r.got.attempts, r.got.arrivals, r.leaked, r.unstopped)
	}
	return b.String()
}
