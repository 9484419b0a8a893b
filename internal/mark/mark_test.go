package mark

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

type marked struct {
	permanent bool
	inner     error
}

func (e marked) Error() string   { return fmt.Sprint("permanent: ", e.permanent) }
func (e marked) Permanent() bool { return e.permanent }
func (e marked) Unwrap() error   { return e.inner }

// several may have branches that are nil, as [errors.Join] has not.
type several []error

func (e several) Error() string   { return "several" }
func (e several) Unwrap() []error { return e }

var (
	errLeft, errRight, errLast = errors.New("left"), errors.New("right"), errors.New("last")
	errPair                    = fmt.Errorf("pair: %w, %w", errLeft, errRight)
	tree                       = several{nil, errPair, nil, errLast}
)

// The order is that of package errors: an error before what it wraps, and branches from
// first to last. Nothing is visited after the one at which visit is content.
func TestWalk(t *testing.T) {
	whole := []error{tree, errPair, errLeft, errRight, errLast}
	for n := 0; n <= len(whole); n++ {
		var seen []error
		found := Walk(tree, func(err error) bool {
			seen = append(seen, err)
			return len(seen) == n
		})
		want := whole[:n]
		if n == 0 {
			want = whole
		}
		same := slices.EqualFunc(seen, want, func(a, b error) bool { return a.Error() == b.Error() })
		if found != (n > 0) || !same {
			t.Errorf("told to stop at error %d: visited %v, found %v", n, seen, found)
		}
	}
	if Walk(nil, func(error) bool { return true }) {
		t.Error("there is something in nil")
	}
}

// An error that says no does not hide one inside that says yes, nor one beside it.
//
// Spec: R11
func TestPermanent(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errLast, false},
		{marked{permanent: true}, true},
		{marked{permanent: false}, false},
		{marked{permanent: false, inner: marked{permanent: true}}, true},
		{fmt.Errorf("wrapped: %w", marked{permanent: true}), true},
		{several{nil, errLast, marked{}, marked{permanent: true}}, true},
		{errors.Join(errLeft, several{errRight, fmt.Errorf("deep: %w", marked{permanent: true})}), true},
		{several{}, false},
	} {
		if got := Permanent(c.err); got != c.want {
			t.Errorf("Permanent(%v) = %v", c.err, got)
		}
	}
}
