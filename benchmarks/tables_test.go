package main

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mettle-go/mettle/benchmarks/scorecard"
)

// The tables in RESULTS.md are those that the data give. Before anything was measured
// there are none.
func TestResultsAreThoseOfTheData(t *testing.T) {
	page, err := os.ReadFile(resultsFile)
	require.NoError(t, err)
	written := func(part, want string) {
		spliced, err := spliced(string(page), part, want)
		require.NoError(t, err)
		assert.Equal(t, spliced, string(page), "the tables are not those of the data: go run ./benchmarks -table")
	}
	text, err := os.ReadFile(filepath.Join(dataFolder, overheadFile))
	if !errors.Is(err, fs.ErrNotExist) {
		require.NoError(t, err)
		f, err := readFigures(string(text))
		require.NoError(t, err)
		written(overheadPart, f.markdown())
	} else {
		written(overheadPart, "")
	}
	d, err := readScorecard(filepath.Join(dataFolder, scorecardFile))
	require.NoError(t, err)
	if d != nil {
		written(scorecardPart, d.Markdown())
	} else {
		written(scorecardPart, "")
	}
	written(takersPart, scorecard.Takers())
	tables, err := loopbackTables(".")
	require.NoError(t, err)
	written(loopbackPart, tables)
}

// The charts that the page shows are those that the data give as well.
func TestChartsAreThoseOfTheData(t *testing.T) {
	d, err := readScorecard(filepath.Join(dataFolder, scorecardFile))
	require.NoError(t, err)
	if d == nil {
		t.Skip("nobody has measured yet, see go run ./benchmarks -only scorecard")
	}
	fresh := t.TempDir()
	require.NoError(t, charts(fresh, d))
	for _, c := range scorecard.Curves() {
		sameFile(t, filepath.Join(fresh, c.File), filepath.Join(chartFolder, c.File))
	}
	for _, c := range scorecard.Plots() {
		sameFile(t, filepath.Join(fresh, c.File), filepath.Join(chartFolder, c.File))
	}
}

func sameFile(t *testing.T, want, file string) {
	t.Helper()
	wanted, err := os.ReadFile(want)
	require.NoError(t, err)
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(wanted, got), "%s is not that of the data: go run ./benchmarks -table", file)
}

// Where a bar is missed or a peer gets more through, the page says why, and what will be
// done.
func TestWhatIsMissedIsExplained(t *testing.T) {
	d, err := readScorecard(filepath.Join(dataFolder, scorecardFile))
	require.NoError(t, err)
	if d == nil {
		t.Skip("nobody has measured yet, see go run ./benchmarks -only scorecard")
	}
	page, beside, found := strings.Cut(d.Markdown(), "\n### Goodput beside")
	require.True(t, found)
	for _, id := range d.Missed() {
		assert.Regexp(t, `\*\*`+id+`\.\*\* \w`, page, "story.go has to say why a bar is missed")
	}
	for _, id := range d.Behind() {
		assert.Regexp(t, `\*\*`+id+`\.\*\* \w`, beside, "story.go has to say why a peer is ahead")
	}
}

// What the figures that were measured last say of the promises that only a measurement
// can tell of: medians over the rounds, each round's ratio from within seconds.
//
// Spec: B28, B32, O3
func TestPromisesAreKept(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(dataFolder, overheadFile))
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("nobody has measured yet, see go run ./benchmarks -only overhead")
	}
	require.NoError(t, err)
	f, err := readFigures(string(text))
	require.NoError(t, err)
	for _, b := range bars() {
		if b.spec == "" {
			continue
		}
		values := f.against(b)
		if assert.NotEmpty(t, values, "%s: %s was not measured", b.spec, b.what) {
			assert.True(t, b.keeps(values), "%s: %s: the median is %v, the limit %v", b.spec, b.what, median(values), b.limit)
		}
	}
}

const sample = `rounds: 3
command: go run ./benchmarks -rounds 3
peers: example.com/a@v1.0.0
goos: plan9
goarch: mips
cpu: abacus
BenchmarkFloor/impl=time.Since                                   100 20.0 ns/op 0 B/op 0 allocs/op
BenchmarkBreaker/case=closed/rule=rate/impl=mettle               100 32.0 ns/op 0 B/op 0 allocs/op
BenchmarkBreaker/case=closed/rule=rate/impl=gobreaker-rolling    100 90.0 ns/op 0 B/op 0 allocs/op
BenchmarkBreaker/case=open/rule=rate/impl=mettle                 100 40.0 ns/op 8 B/op 1 allocs/op
BenchmarkBreakerShared/case=closed/rule=rate/impl=mettle         100 30.0 ns/op
BenchmarkBreakerShared/case=closed/rule=rate/impl=mettle-2       100 31.0 ns/op
BenchmarkBreakerIdle/case=idle/rule=rate/impl=mettle             100 512.0 B/breaker 0 goroutines/breaker
BenchmarkObserveRatio/case=retry-2                               40 612345 ns/op 41.20 scrape-µs 0.99 watched/unwatched
BenchmarkFloor/impl=time.Since                                   100 200 ns/op 0 B/op 0 allocs/op
BenchmarkBreaker/case=closed/rule=rate/impl=mettle               100 320 ns/op 0 B/op 0 allocs/op
BenchmarkBreaker/case=closed/rule=rate/impl=gobreaker-rolling    100 900 ns/op 0 B/op 0 allocs/op
BenchmarkBreaker/case=open/rule=rate/impl=mettle                 100 400 ns/op 8 B/op 1 allocs/op
BenchmarkBreakerShared/case=closed/rule=rate/impl=mettle         100 30.0 ns/op
BenchmarkBreakerShared/case=closed/rule=rate/impl=mettle-2       100 29.0 ns/op
BenchmarkBreakerIdle/case=idle/rule=rate/impl=mettle             100 512.0 B/breaker 0 goroutines/breaker
BenchmarkObserveRatio/case=retry-2                               40 612345 ns/op 41.20 scrape-µs 1.03 watched/unwatched
BenchmarkFloor/impl=time.Since                                   100 20.0 ns/op 0 B/op 0 allocs/op
BenchmarkBreaker/case=closed/rule=rate/impl=mettle               100 36.0 ns/op 0 B/op 0 allocs/op
BenchmarkBreaker/case=closed/rule=rate/impl=gobreaker-rolling    100 120 ns/op 0 B/op 0 allocs/op
BenchmarkBreaker/case=open/rule=rate/impl=mettle                 100 52.0 ns/op 8 B/op 1 allocs/op
BenchmarkBreakerShared/case=closed/rule=rate/impl=mettle         100 30.0 ns/op
BenchmarkBreakerShared/case=closed/rule=rate/impl=mettle-2       100 31.5 ns/op
BenchmarkBreakerIdle/case=idle/rule=rate/impl=mettle             100 512.0 B/breaker 0 goroutines/breaker
BenchmarkObserveRatio/case=retry-2                               40 612345 ns/op 41.20 scrape-µs 1.01 watched/unwatched
`

// The second round of the sample is ten times slower, which medians of ratios within a
// round do not notice.
func TestVerdicts(t *testing.T) {
	f, err := readFigures(sample)
	require.NoError(t, err)
	verdicts := f.verdicts()
	for _, want := range []string{
		"| breaker closed, over `time.Since` | ≤ 1.60 | 1.60 | 1.60 to 1.70 | pass |",
		"| breaker closed, over gobreaker with its rolling window | ≤ 0.333 | 0.356 | 0.328 to 0.356 | **fail** |",
		"| breaker open, over `time.Since` | ≤ 2.50 | 2.00 | 2.00 to 2.30 | pass |",
		"| breaker open, allocations | ≤ 0 | 1 | 1 to 1 | **fail** |",
		"| breaker shared, a call on 2 processors over one on 1 | ≤ 1.00 | 1.03 | 1.00 to 1.04 | **fail** |",
		"| breaker idle, bytes | < 512 | 512 | 512 to 512 | **fail** |",
		"| breaker idle, goroutines | ≤ 0 | 0 | 0 to 0 | pass |",
		"| bulkhead free, over `semaphore.Weighted` with TryAcquire | ≤ 1.30 | – | – | not measured |",
		"| retry, watched over unwatched | ≤ 1.02 | 1.01 | 1.00 to 1.02 | pass |",
	} {
		assert.Contains(t, verdicts, want)
	}
	assert.Equal(t, len(bars())+2, strings.Count(verdicts, "\n"))
}

func TestTable(t *testing.T) {
	f, err := readFigures(sample)
	require.NoError(t, err)
	tables := f.markdown()
	assert.Contains(t, tables, "| | closed | with a closure | with a deadline | some fail | open | idle, bytes |\n|---|--:|")
	for _, want := range []string{
		"`go run ./benchmarks -rounds 3`",
		"on plan9/mips (abacus,",
		"- example.com/a@v1.0.0\n",
		"| mettle | 36.0 | – | – | – | 52.0 | 512 |\n",
		"| gobreaker-rolling | 120 (2.81×) | – | – | – | – | – |\n",
		"| mettle | 30.0 | 31.0 | – | – | – | – |\n",
		"| mettle | 0 | – | – | – | 1 |\n",
		"| time.Since | 20.0 | – | – |\n",
	} {
		assert.Equal(t, 1, strings.Count(tables, want), want)
	}
}

func TestReadFiguresRefusesWhatIsIncomplete(t *testing.T) {
	lines := strings.SplitAfter(sample, "\n")
	for name, text := range map[string]string{
		"a result is missing":   strings.Join(lines[:len(lines)-2], ""),
		"no rounds":             strings.Join(lines[1:], ""),
		"a result is malformed": sample + "BenchmarkFloor/impl=cas 100 x ns/op\n",
	} {
		_, err := readFigures(text)
		assert.Error(t, err, name)
	}
}

func TestQuantile(t *testing.T) {
	assert.Equal(t, 7.0, median([]float64{7}))
	assert.Equal(t, 2.0, median([]float64{3, 1, 2}))
	assert.Equal(t, 2.5, median([]float64{4, 1, 3, 2}))
	assert.Equal(t, 1.0, quantile([]float64{4, 1, 3, 2}, 0))
	assert.Equal(t, 4.0, quantile([]float64{4, 1, 3, 2}, 1))
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0.00", 1: "1.00", 512: "512", 0.3333: "0.333", 0.0278: "0.028", 1.604: "1.60",
		2.5: "2.50", 38.48: "38.5", 487.6: "488", 7062.4: "7062",
	} {
		assert.Equal(t, want, number(v, "ns/op"))
	}
	assert.Equal(t, "496", number(496.04, "B/breaker"))
	assert.Equal(t, "1.02", number(1.0204, "watched/unwatched"))
}

func TestSplice(t *testing.T) {
	begin, end := marks("part")
	page, err := spliced("before\n"+begin+"old\n"+end+"after\n", "part", "new\n")
	assert.NoError(t, err)
	assert.Equal(t, "before\n"+begin+"\nnew\n\n"+end+"after\n", page)
	for _, page := range []string{"", begin, end, end + begin} {
		_, err := spliced(page, "part", "new\n")
		assert.Error(t, err, page)
	}
}

func TestFlags(t *testing.T) {
	for args, want := range map[string]string{
		"":                        "",
		"-dry -rounds 1":          "",
		"-table -rounds 1":        "",
		"-rounds 10":              "",
		"-rounds 9":               "-rounds is 9",
		"-rounds 0 -dry":          "-rounds is 0",
		"-benchtime 0s":           "-benchtime is 0s",
		"-benchtime x":            "invalid value",
		"-rounds 10 quick":        `"quick" is no flag`,
		"-no-such-flag":           "not defined",
		"-h":                      "Examples:",
		"-quick":                  "",
		"-only S4,overhead":       "",
		"-only S4/p=0.3 -seeds 3": "",
		"-only S99":               `"S99" is no scenario`,
		"-only S4,":               `"" is no scenario`,
		"-only S3":                "waits for",
		"-only loopback -quick":   "",
		"-only loopback/S4,S4":    "",
		"-only loopback/S5":       `"S5" is not run over loopback`,
		"-only loopback/":         `"" is not run over loopback`,
		"-seeds 0":                "-seeds is 0",
		"-out=":                   "-out is empty",
		"-out x -rounds 2":        "",
		"-out x -dry":             "exclude each other",
		"-table -quick":           "-table measures nothing",
		"-benchtime 1s -rounds 5": "-rounds is 5",
	} {
		var told strings.Builder
		_, err := parse(strings.Fields(args), &told)
		assert.Equal(t, want != "", err != nil, args)
		assert.Contains(t, told.String(), want, args)
	}
	_, err := parse([]string{"-rounds", "12"}, io.Discard)
	assert.NoError(t, err)
}
