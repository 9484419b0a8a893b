package relay

import (
	"context"
	"errors"
	"testing"

	"github.com/mettle-go/mettle/internal/clock"
)

type doer func(ctx context.Context, op func(context.Context) error) error

func (d doer) Do(ctx context.Context, op func(context.Context) error) error { return d(ctx, op) }

type hearing struct{ doer }

func (h hearing) DoAt(ctx context.Context, op func(context.Context) error, now clock.Instant) (clock.Instant, error) {
	return now + 1, h.Do(ctx, op)
}

// Who takes part is handed the time, and whoever does not is none the wiser and hands none on.
func TestTo(t *testing.T) {
	down := errors.New("down")
	next := doer(func(ctx context.Context, op func(context.Context) error) error { return op(ctx) })
	for _, test := range []struct {
		name string
		next Doer
		want clock.Instant
	}{
		{"takes part", hearing{next}, 8},
		{"does not", next, clock.Unknown},
	} {
		left, err := To(test.next).DoAt(t.Context(), func(context.Context) error { return down }, 7)
		if left != test.want || err != down {
			t.Errorf("%s: left at %d with %v, want %d with op's error", test.name, left, err, test.want)
		}
	}
}
