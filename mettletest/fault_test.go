package mettletest_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/mettletest"
)

var (
	bg     = context.Background()
	errOut = errors.New("out of order")
)

func succeed(context.Context) error { return nil }

// fates makes n calls of p, one a second, and returns a letter for each: '.' for
// a success, 'e' for an error, 'p' for a panic.
func fates(p mettle.Policy, n int) string {
	var b strings.Builder
	for range n {
		b.WriteByte(fate(p))
		time.Sleep(time.Second)
	}
	return b.String()
}

func fate(p mettle.Policy) (letter byte) {
	defer func() {
		if recover() != nil {
			letter = 'p'
		}
	}()
	if p.Do(bg, succeed) != nil {
		return 'e'
	}
	return '.'
}

func TestFaultSchedule(t *testing.T) {
	for _, test := range []struct {
		name  string
		rules []mettletest.FaultRule
		want  string
	}{
		{"none", nil, "........"},
		{"all", []mettletest.FaultRule{{Err: errOut}}, "eeeeeeee"},
		{"from", []mettletest.FaultRule{{From: 6, Err: errOut}}, ".....eee"},
		{"to", []mettletest.FaultRule{{To: 2, Err: errOut}}, "ee......"},
		{"one", []mettletest.FaultRule{{From: 3, To: 3, Err: errOut}}, "..e....."},
		{"after", []mettletest.FaultRule{{After: 5 * time.Second, Err: errOut}}, ".....eee"},
		{"until", []mettletest.FaultRule{{Until: 2 * time.Second, Err: errOut}}, "ee......"},
		{"both", []mettletest.FaultRule{{From: 3, Until: 5 * time.Second, Err: errOut}}, "..eee..."},
		{"first decides", []mettletest.FaultRule{{From: 3, To: 4, Panic: "x"}, {From: 2, To: 5, Err: errOut}}, ".eppe..."},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := mettletest.NewFault(mettletest.FaultConfig{Rules: test.rules})
				if got := fates(f, len(test.want)); got != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
			})
		})
	}
}

func TestFaultRate(t *testing.T) {
	const calls = 100_000
	f := mettletest.NewFault(mettletest.FaultConfig{Seed: 7, Rules: []mettletest.FaultRule{
		{Rate: 0.2, Err: errOut},
		{Rate: 0.5, Panic: "x"},
	}})
	for range calls {
		fate(f)
	}
	// Half of what the first rule left. Four standard deviations are 0.006.
	s := f.Stats()
	if got := float64(s.Failed) / calls; math.Abs(got-0.2) > 0.006 {
		t.Errorf("%v of the calls failed, want 0.2", got)
	}
	if got := float64(s.Panicked) / calls; math.Abs(got-0.4) > 0.006 {
		t.Errorf("%v of the calls panicked, want 0.4", got)
	}
	if s.Calls != calls {
		t.Errorf("Stats has %d calls, want %d", s.Calls, calls)
	}
}

// TestFaultIsDeterministic wants the same calls hit by number, however goroutines
// interleave and whatever other rules had their turn.
func TestFaultIsDeterministic(t *testing.T) {
	const calls = 1000
	config := func(seed uint64) mettletest.FaultConfig {
		return mettletest.FaultConfig{Seed: seed, Rules: []mettletest.FaultRule{{Rate: 0.3, Err: errOut}}}
	}
	inOrder := func(f *mettletest.Fault) string {
		var b strings.Builder
		for range calls {
			b.WriteByte(fate(f))
		}
		return b.String()
	}
	first := inOrder(mettletest.NewFault(config(1)))
	if inOrder(mettletest.NewFault(config(1))) != first {
		t.Error("the same seed hits other calls")
	}
	if inOrder(mettletest.NewFault(config(2))) == first {
		t.Error("another seed hits the same calls")
	}
	f := mettletest.NewFault(config(1))
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			for range calls / 10 {
				fate(f)
			}
		})
	}
	all.Wait()
	if got, want := f.Stats().Failed, int64(strings.Count(first, "e")); got != want {
		t.Errorf("%d calls hit from many goroutines, %d from one", got, want)
	}
	split := config(1)
	split.Rules = append(split.Rules, mettletest.FaultRule{From: 1, To: 500, Rate: 0.5, Err: errOut})
	for i, letter := range inOrder(mettletest.NewFault(split)) {
		if letter != rune(first[i]) && (letter != 'e' || i >= 500) {
			t.Fatalf("call %d: a rule changed what another one hits", i+1)
		}
	}
}

func TestFaultLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := mettletest.NewFault(mettletest.FaultConfig{Rules: []mettletest.FaultRule{
			{To: 1, Latency: time.Minute},
			{To: 2, Latency: time.Hour, Err: errOut},
			{Latency: time.Hour},
		}})
		begun := time.Now()
		if err := f.Do(bg, succeed); err != nil || time.Since(begun) != time.Minute {
			t.Errorf("error %v after %v, want none after a minute", err, time.Since(begun))
		}
		begun = time.Now()
		if err := f.Do(bg, succeed); err != errOut || time.Since(begun) != time.Hour {
			t.Errorf("error %v after %v, want %v after an hour", err, time.Since(begun), errOut)
		}
		begun = time.Now()
		cause := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(bg, time.Second, cause)
		defer cancel()
		err := f.Do(ctx, func(context.Context) error {
			t.Error("op ran under a context that had ended")
			return nil
		})
		if err != cause || time.Since(begun) != time.Second {
			t.Errorf("error %v after %v, want %v after a second", err, time.Since(begun), cause)
		}
		if got, want := f.Stats(), (mettletest.FaultStats{Calls: 3, Delayed: 3, Failed: 1}); got != want {
			t.Errorf("Stats are %+v, want %+v", got, want)
		}
	})
}

func TestFaultHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := mettletest.NewFault(mettletest.FaultConfig{Rules: []mettletest.FaultRule{{Hang: true}}})
		begun := time.Now()
		ctx, cancel := context.WithTimeout(bg, time.Hour)
		defer cancel()
		if err := f.Do(ctx, succeed); err != context.DeadlineExceeded || time.Since(begun) != time.Hour {
			t.Errorf("error %v after %v, want that of the deadline after an hour", err, time.Since(begun))
		}
		if err := f.Do(ctx, succeed); err != context.DeadlineExceeded || f.Stats().Calls != 1 {
			t.Errorf("error %v, calls %d: a call whose context is done on entry is none", err, f.Stats().Calls)
		}
	})
}

func TestFaultWrapped(t *testing.T) {
	f := mettletest.NewFault(mettletest.FaultConfig{Rules: []mettletest.FaultRule{{From: 2, To: 2, Err: errOut}}})
	one, two := mettle.Compose(f), mettle.Compose(f)
	if err := one.Do(bg, succeed); err != nil {
		t.Errorf("call 1: %v", err)
	}
	if err := two.Do(bg, succeed); err != errOut {
		t.Errorf("call 2: %v, want %v; calls are counted over all pipelines", err, errOut)
	}
}

// Spec: P10
func TestFaultConfigValidate(t *testing.T) {
	if err := (mettletest.FaultConfig{}).Validate(); err != nil {
		t.Errorf("the zero FaultConfig: %v", err)
	}
	bad := mettletest.FaultConfig{Rules: []mettletest.FaultRule{
		{From: -1, Err: errOut},
		{From: 3, To: 2, Err: errOut},
		{After: -time.Second, Err: errOut},
		{After: time.Second, Until: time.Second, Err: errOut},
		{Rate: math.NaN(), Err: errOut},
		{Rate: 1.1, Err: errOut},
		{Rate: -0.1, Err: errOut},
		{Latency: -1, Err: errOut},
		{Err: errOut, Hang: true},
		{From: 7},
	}}
	err := bad.Validate()
	for _, want := range []string{
		"mettletest: Rules[0].From is -1, must",
		"mettletest: Rules[1].To is 2, must",
		"mettletest: Rules[2].After is -1s, must",
		"mettletest: Rules[3].Until is 1s, must",
		"mettletest: Rules[4].Rate is NaN, must",
		"mettletest: Rules[5].Rate is 1.1, must",
		"mettletest: Rules[6].Rate is -0.1, must",
		"mettletest: Rules[7].Latency is -1ns, must",
		"mettletest: Rules[8].Err, Panic and Hang: 2 are set",
		"mettletest: Rules[9].Latency, Err, Panic and Hang: none is set",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate does not say %q: %v", want, err)
		}
	}
	defer func() {
		if got := recover(); got != err.Error() {
			t.Errorf("NewFault panics with %v, want the message of Validate", got)
		}
	}()
	mettletest.NewFault(bad)
}

// Spec: P13
func TestFaultAllocates(t *testing.T) {
	for name, rules := range map[string][]mettletest.FaultRule{
		"no rule": nil,
		"rules":   {{Rate: 0.5, Err: errOut}, {To: 1, Panic: "x"}},
	} {
		f := mettletest.NewFault(mettletest.FaultConfig{Rules: rules})
		_ = fate(f)
		if n := testing.AllocsPerRun(100, func() { _ = f.Do(bg, succeed) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
