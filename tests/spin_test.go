package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// need skips a test whose tools the machine lacks, and says how to get them. With
// METTLE_REQUIRE_SERVICES=1, as in CI, it fails instead, so that nothing is skipped
// there unnoticed.
func need(t *testing.T, install string, tools ...string) {
	t.Helper()
	if testing.Short() || raceEnabled { // what the tools do is not raced
		t.Skipf("runs %s", strings.Join(tools, ", "))
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err == nil {
			continue
		}
		if os.Getenv("METTLE_REQUIRE_SERVICES") == "1" {
			t.Fatalf("%s is not installed: %s", tool, install)
		}
		t.Skipf("%s is not installed: %s", tool, install)
	}
}

// search has spin search the breaker's model, made with the given flags, for what it
// must not do, and returns what was printed. Of a model of liveness the search is for
// runs without end, and for them alone.
func search(t *testing.T, optimize string, flags ...string) string {
	t.Helper()
	model, err := filepath.Abs("../breaker/model/breaker.pml")
	require.NoError(t, err)
	dir := t.TempDir()
	compile, pan := []string{optimize, "-w", "-o", "pan", "pan.c"}, []string{"-m500000"}
	if slices.Contains(flags, "-DLIVE") {
		pan = append(pan, "-a", "-f", "-A")
	} else {
		compile = append(compile, "-DSAFETY")
	}
	output(t, dir, nil, "spin", append(flags, "-a", model)...)
	output(t, dir, nil, "gcc", compile...)
	begun := time.Now()
	out := output(t, dir, nil, "./pan", pan...)
	require.NotContains(t, out, "max search depth too small")
	t.Logf("spin %s: %s states in %v", strings.Join(flags, " "), find(out, `(\d+) states, stored`), time.Since(begun).Round(time.Millisecond))
	return out
}

// find returns the first group of the pattern's match in text, "" without one.
func find(text, pattern string) string {
	if m := regexp.MustCompile(pattern).FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}

// The model of admission, leases, generations, overrides and hooks has no state and no
// run that breaks a promise. What it says is in breaker/model/README.md.
//
// Spec: B31, B6 (part), B10 (part), B11 (part), B13 (part), B23 (part), B24 (part)
func TestSpinFindsNothing(t *testing.T) {
	need(t, "apt-get install spin gcc", "spin", "gcc")
	for name, flags := range map[string][]string{
		"safety":   {},
		"hooks":    {"-DHOOKS", "-DCALLERS=2", "-DPROBES=1"},
		"liveness": {"-DLIVE", "-DCALLERS=2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := search(t, "-O1", flags...)
			assert.Equal(t, "0", find(out, `errors: (\d+)`), out)
			assert.NotContains(t, out, "Search not completed")
			if name == "hooks" { // the run in which all of the model is alive
				unreached := regexp.MustCompile(`(?m)^\s.*pml:.*$`).FindAllString(out, -1)
				for _, statement := range unreached {
					assert.Contains(t, statement, `"-end-"`, "a statement that no run comes to")
				}
			}
		})
	}
}

// A search that can find nothing proves nothing: each fault planted in the model is
// found, by the assertion that is there for it.
//
// Spec: B31
func TestSpinFindsPlantedFaults(t *testing.T) {
	need(t, "apt-get install spin gcc", "spin", "gcc")
	for name, fault := range map[string]struct {
		flags []string
		found string
	}{
		"one probe too many":    {[]string{"-DFAULT_LEASE"}, "assertion violated (flying<=2)"},
		"stale result":          {[]string{"-DFAULT_GENERATION"}, "assertion violated current["},
		"endless lease":         {[]string{"-DFAULT_FORFEIT"}, "(first<=2)"},
		"endless lease, stuck":  {[]string{"-DFAULT_FORFEIT", "-DLIVE", "-DCALLERS=2"}, "acceptance cycle"},
		"probe under override":  {[]string{"-DFAULT_FORCED", "-DCALLERS=2"}, "(forceUntil>0)"},
		"one success too few":   {[]string{"-DFAULT_SUCCESSES"}, "assertion violated (won>=2)"},
		"two tellers of events": {[]string{"-DFAULT_ORDER", "-DHOOKS", "-DCALLERS=2"}, "assertion violated  !(telling)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := search(t, "-O0", fault.flags...)
			assert.Equal(t, "1", find(out, `errors: (\d+)`), out)
			assert.Contains(t, out, fault.found)
			assert.Contains(t, out, "wrote breaker.pml.trail")
		})
	}
}
