package retry

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
)

// A success while the budget is full must not write: all processors share the word.
//
// Spec: R16
func TestDepositWritesNothingWhenFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(BudgetConfig{Burst: 3, Start: 3})
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

		// What time has earned in all has no part in how much is missing.
		time.Sleep(24 * time.Hour)
		b.Withdraw(mettle.Failure)
		deposit(10)
	})
}

// Of two withdrawals, the one that read the clock first may be the last to look at
// the level, or a Balance may come between: neither shows less than nothing.
//
// Spec: R16
func TestBalanceIsNeverNegative(t *testing.T) {
	b := NewBudget(BudgetConfig{MinPerSecond: -1})
	b.level.Store(-1) // as a withdrawal leaves it that counted a microtoken earned since
	if got := b.Balance(); got != 0 {
		t.Errorf("balance %v", got)
	}
	if b.Withdraw(mettle.Failure) {
		t.Error("granted out of nothing")
	}
}
