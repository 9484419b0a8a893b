package retry

import (
	"testing"

	"github.com/mettle-go/mettle"
)

// A success while the budget is full must not write: all processors share the word.
//
// Spec: R16
func TestDepositWritesNothingWhenFull(t *testing.T) {
	b := NewBudget(BudgetConfig{Burst: 3, MinPerSecond: -1})
	deposit := func(want int) {
		t.Helper()
		writes := 0
		for range 1000 {
			before := b.level.Load()
			b.Deposit()
			if b.level.Load() != before {
				writes++
			}
		}
		if writes != want {
			t.Errorf("1000 deposits wrote %d times, want %d", writes, want)
		}
	}
	deposit(0)
	b.Withdraw(mettle.Failure)
	deposit(10)
	b.Withdraw(mettle.Timeout)
	b.Refund(mettle.Timeout)
	deposit(0)
}
