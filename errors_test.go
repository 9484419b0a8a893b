package mettle_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"testing"
	"time"

	"github.com/mettle-go/mettle"
)

// permanent reports what a policy that resends looks for.
func permanent(err error) bool {
	var p interface{ Permanent() bool }
	return errors.As(err, &p) && p.Permanent()
}

// Spec: P14, R11
func TestPermanent(t *testing.T) {
	if err := mettle.Permanent(nil); err != nil {
		t.Errorf("Permanent(nil) is %v", err)
	}
	base := &fs.PathError{Op: "open", Path: "f", Err: io.EOF}
	err := mettle.Permanent(base)
	if err.Error() != base.Error() {
		t.Errorf("the text is %q, want that of the error, %q", err, base)
	}
	var path *fs.PathError
	if !errors.Is(err, io.EOF) || !errors.As(err, &path) || path != base {
		t.Errorf("what is marked is not found in %v", err)
	}
	for name, err := range map[string]error{
		"marked":        err,
		"wrapped":       fmt.Errorf("payment 7: %w", err),
		"wrapped twice": fmt.Errorf("x: %w", fmt.Errorf("y: %w", err)),
		"two %w":        fmt.Errorf("%w, %w", errBoom, err),
		"joined":        errors.Join(errBoom, err),
		"marked twice":  mettle.Permanent(err),
	} {
		if !permanent(err) {
			t.Errorf("%s: the mark is not found", name)
		}
		if got := mettle.Classify(bg, err); got != mettle.Failure {
			t.Errorf("%s: the mark has changed the outcome to %v", name, got)
		}
	}
	if got := fmt.Errorf("payment 7: %w", err).Error(); got != "payment 7: "+base.Error() {
		t.Errorf("the text is %q", got)
	}
	if permanent(base) || permanent(fmt.Errorf("x: %v", err)) {
		t.Error("the mark is found where there is none")
	}
}

// later suggests when to come back.
type later time.Duration

func (e later) Error() string             { return "come back later" }
func (e later) RetryAfter() time.Duration { return time.Duration(e) }

// laterButWrapped has a suggestion, and an error with one of its own inside.
type laterButWrapped struct {
	later
	err error
}

func (e laterButWrapped) Unwrap() error { return e.err }

// Spec: P7, R13
func TestRetryAfter(t *testing.T) {
	for _, test := range []struct {
		name  string
		err   error
		want  time.Duration
		found bool
	}{
		{"nil", nil, 0, false},
		{"none", errBoom, 0, false},
		{"one", later(time.Second), time.Second, true},
		{"at once", later(0), 0, true},
		{"negative", later(-time.Second), 0, false},
		{"wrapped", fmt.Errorf("x: %w", later(time.Second)), time.Second, true},
		{"two %w", fmt.Errorf("%w, %w", errBoom, later(time.Second)), time.Second, true},
		{"permanent", mettle.Permanent(later(time.Second)), time.Second, true},
		{"joined", errors.Join(errBoom, later(time.Second), io.EOF), time.Second, true},
		{"the longest, first", errors.Join(later(time.Minute), later(time.Second)), time.Minute, true},
		{"the longest, last", errors.Join(later(time.Second), later(time.Minute)), time.Minute, true},
		{"the longest, inside", laterButWrapped{later(time.Second), later(time.Minute)}, time.Minute, true},
		{"the longest, outside", laterButWrapped{later(time.Minute), later(time.Second)}, time.Minute, true},
		{"negative beside one", errors.Join(later(-1), later(time.Second)), time.Second, true},
		{"deep in a tree", errors.Join(errors.Join(errBoom), errors.Join(fmt.Errorf("x: %w", errors.Join(io.EOF, later(1))))), 1, true},
	} {
		got, found := mettle.RetryAfter(test.err)
		if got != test.want || found != test.found {
			t.Errorf("%s: got %v, %t; want %v, %t", test.name, got, found, test.want, test.found)
		}
	}
}

// Spec: P7
func TestRetryAfterAllocations(t *testing.T) {
	err := errors.Join(errBoom, fmt.Errorf("x: %w", later(time.Second)))
	if n := testing.AllocsPerRun(100, func() { mettle.RetryAfter(err) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
