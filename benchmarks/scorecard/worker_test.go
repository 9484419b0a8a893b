package scorecard

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
)

var work = flag.Bool("work", false, "run the jobs on standard input, a line each, and print their results in JSON")

// TestWorker is how the command runs jobs: testing/synctest is for tests, and one that
// is a process of its own has a processor to itself.
func TestWorker(t *testing.T) {
	if !*work {
		t.Skip("not asked to")
	}
	out := json.NewEncoder(os.Stdout)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		job, err := ParseJob(lines.Text())
		if err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		result, err := job.Do(bubble(t))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Print(ResultMark)
		if err := out.Encode(result); err != nil {
			t.Fatal(err)
		}
	}
}

// bubble runs functions in bubbles of their own.
func bubble(t *testing.T) func(func()) {
	return func(f func()) { synctest.Test(t, func(*testing.T) { f() }) }
}
