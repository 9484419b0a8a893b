package mettletest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/mettletest"
)

// A Throttle of one's own, held to the contract of a policy. The function is
// TestThrottle in a test file.
func ExampleTestPolicy() {
	testThrottle := func(t *testing.T) {
		mettletest.TestPolicy(t, func() mettle.Policy { return NewThrottle(10) })
	}
	_ = testThrottle
}

// Throttle lets n calls through at a time.
type Throttle chan struct{}

func NewThrottle(n int) Throttle { return make(Throttle, n) }

func (th Throttle) Do(ctx context.Context, op func(context.Context) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case th <- struct{}{}:
	default:
		return mettle.ErrRejected
	}
	defer func() { <-th }()
	return op(ctx)
}

func TestThrottle(t *testing.T) {
	mettletest.TestPolicy(t, func() mettle.Policy { return NewThrottle(10) })
}

// A dependency that is down from its third call to its fifth.
func ExampleNewFault() {
	down := mettletest.NewFault(mettletest.FaultConfig{
		Rules: []mettletest.FaultRule{
			{From: 3, To: 5, Err: errors.New("connection refused")},
		},
	})
	for call := range 6 {
		err := down.Do(context.Background(), func(context.Context) error { return nil })
		fmt.Println(call+1, err)
	}
	// Output:
	// 1 <nil>
	// 2 <nil>
	// 3 connection refused
	// 4 connection refused
	// 5 connection refused
	// 6 <nil>
}

// Rules are checked before they do harm, all of them at once.
func ExampleFaultConfig_Validate() {
	err := mettletest.FaultConfig{
		Rules: []mettletest.FaultRule{
			{Rate: 1.5, Latency: time.Second},
			{From: 10, To: 5, Hang: true},
		},
	}.Validate()
	fmt.Println(err)
	// Output:
	// mettletest: Rules[0].Rate is 1.5, must be from 0 to 1
	// mettletest: Rules[1].To is 5, must be 0 or at least From, 10
}

// What was done can be counted, to be set against what came of it.
func ExampleFault_Stats() {
	fault := mettletest.NewFault(mettletest.FaultConfig{
		Seed:  1,
		Rules: []mettletest.FaultRule{{Rate: 0.3, Err: errors.New("unavailable")}},
	})
	for range 1000 {
		_ = fault.Do(context.Background(), func(context.Context) error { return nil })
	}
	s := fault.Stats()
	fmt.Println(s.Calls, s.Failed)
	// Output: 1000 312
}
