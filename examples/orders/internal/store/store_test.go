package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mettle-go/mettle/examples/orders/internal/store"
)

func open(t *testing.T, path string, capacity int) *store.Store {
	t.Helper()
	s, err := store.Open(path, capacity)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func order(id, customer string) store.Order {
	return store.Order{ID: id, Customer: customer, Cents: 100, Currency: "EUR"}
}

func accept(t *testing.T, s *store.Store, o store.Order) store.Verdict {
	t.Helper()
	v, err := s.Accept(o)
	require.NoError(t, err)
	return v
}

// What was on its way when the process died is queued at the next start, before any
// later order of its customer.
//
// Spec: Q1, Q3
func TestInDoubtIsQueuedFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "client.db")
	s := open(t, path, 10)
	require.Equal(t, store.PayNow, accept(t, s, order("a", "c1")))
	require.Equal(t, store.PayNow, accept(t, s, order("b", "c2")))
	_, err := s.Paid("b")
	require.NoError(t, err)
	require.NoError(t, s.Close()) // as a crash would leave it: every method returns when it is on the disk

	s = open(t, path, 10)
	require.Equal(t, 1, s.InDoubt())
	require.Equal(t, store.Behind, accept(t, s, order("c", "c1")))
	r, ok, _ := s.Lease(time.Now())
	require.True(t, ok)
	require.Equal(t, "a", r.Order.ID)
	require.Contains(t, r.Reason, "in doubt")
	_, ok, _ = s.Lease(time.Now())
	require.False(t, ok, "the next order of a customer waits for the one before it")
	_, err = s.Paid("a")
	require.NoError(t, err)
	r, ok, _ = s.Lease(time.Now())
	require.True(t, ok)
	require.Equal(t, "c", r.Order.ID)
	require.Equal(t, store.Counts{Orders: 3, Direct: 1, Queued: 2, Waiting: 1, Replayed: 1}, s.Counts())
}

// Spec: Q4
func TestFullQueueRefuses(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "client.db"), 2)
	accept(t, s, order("a", "c1"))
	accept(t, s, order("b", "c2"))
	_, err := s.Enqueue("b", "down")
	require.NoError(t, err)

	_, err = s.Accept(order("c", "c3"))
	require.ErrorIs(t, err, store.ErrFull)
	_, err = s.Get("c")
	require.Error(t, err, "a refused order leaves no trace")
	require.Equal(t, store.Repeated, accept(t, s, order("a", "c1")), "an order that is known needs no room")

	// What was accepted always has a place, however full it is.
	_, err = s.Enqueue("a", "down")
	require.NoError(t, err)

	room := s.Room()
	select {
	case <-room:
		t.Fatal("room where there is none")
	default:
	}
	_, _, _ = s.Lease(time.Now())
	_, err = s.Paid("a")
	require.NoError(t, err)
	<-room
	require.Equal(t, store.PayNow, accept(t, s, order("c", "c3")))
}

func TestVerdicts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "client.db")
	s := open(t, path, 10)
	require.Equal(t, store.PayNow, accept(t, s, order("a", "c1")))
	require.Equal(t, store.Repeated, accept(t, s, order("a", "c1")))
	other := order("a", "c1")
	other.Cents++
	require.Equal(t, store.Conflict, accept(t, s, other))
	require.NoError(t, s.Close())
	s = open(t, path, 10)
	require.EqualValues(t, 2, s.Run())
	require.Equal(t, store.Known, accept(t, s, order("a", "c1")))
	require.Equal(t, 1, s.Counts().Orders)
}

func TestFinalIsFinal(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "client.db"), 10)
	accept(t, s, order("a", "c1"))
	_, err := s.Paid("a")
	require.NoError(t, err)
	for name, change := range map[string]func(string, string) (store.Record, error){"queue": s.Enqueue, "bury": s.Bury} {
		_, err := change("a", "no")
		require.ErrorContains(t, err, "final", name)
	}
	_, err = s.Paid("b")
	require.ErrorContains(t, err, "no such order")
}

// Spec: Q3
func TestDeadLettersKeepTheirReason(t *testing.T) {
	path := filepath.Join(t.TempDir(), "client.db")
	s := open(t, path, 10)
	accept(t, s, order("a", "c1"))
	_, err := s.Enqueue("a", "402")
	require.NoError(t, err)
	// A fault is the order's own only when others are paid meanwhile.
	leased, _, _ := s.Lease(time.Now())
	accept(t, s, order("b", "c2"))
	accept(t, s, order("c", "c3"))
	n, err := s.Fault(leased, "500")
	require.NoError(t, err)
	require.Equal(t, 0, n)
	_, err = s.Paid("b")
	require.NoError(t, err)
	for range 2 { // the second time nobody was paid in between
		n, err = s.Fault(leased, "500")
		require.NoError(t, err)
		require.Equal(t, 1, n)
		s.Postpone("c1", 0, true)
		leased, _, _ = s.Lease(time.Now().Add(time.Second))
	}
	// Alone there is nobody to compare with.
	_, err = s.Paid("c")
	require.NoError(t, err)
	for want := 2; want < 4; want++ {
		n, err = s.Fault(leased, "500")
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
	_, err = s.Bury("a", "402 declined")
	require.NoError(t, err)
	require.NoError(t, s.Close())

	s = open(t, path, 10)
	var letters []string
	require.NoError(t, s.DeadLetters(func(r store.Record) error {
		letters = append(letters, r.Order.ID+": "+r.Reason)
		return nil
	}))
	require.Equal(t, []string{"a: 402 declined"}, letters)
	require.Equal(t, store.Counts{Orders: 3, Direct: 2, Queued: 1, Dead: 1}, s.Counts())
}

func TestPostponedOrdersWaitTheirTime(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "client.db"), 10)
	accept(t, s, order("a", "c1"))
	_, err := s.Enqueue("a", "down")
	require.NoError(t, err)
	r, ok, _ := s.Lease(time.Now())
	require.True(t, ok)
	require.Zero(t, r.Tries)
	s.Postpone("c1", time.Hour, true)
	_, ok, next := s.Lease(time.Now())
	require.False(t, ok)
	require.InDelta(t, time.Hour, next, float64(time.Minute))
	r, ok, _ = s.Lease(time.Now().Add(time.Hour))
	require.True(t, ok)
	require.Equal(t, 1, r.Tries)
}

// Whatever is done in whatever order, with the store closed and opened in between,
// it agrees with a plain list of orders.
//
// Spec: Q1, Q3
func TestAgreesWithModel(t *testing.T) {
	const customers = 4
	path := filepath.Join(t.TempDir(), "client.db")
	rng := rand.New(rand.NewPCG(5, 6))
	s := open(t, path, 1000)
	var model []store.Record // in the order of acceptance
	leased := map[string]string{}
	find := func(customer string, states ...store.State) *store.Record {
		for i := range model {
			if model[i].Order.Customer == customer && slices.Contains(states, model[i].State) {
				return &model[i]
			}
		}
		return nil
	}
	for step := range 600 {
		customer := fmt.Sprint("c", rng.IntN(customers))
		switch rng.IntN(6) {
		case 0, 1: // a new order, unless one of the customer is on its way
			if find(customer, store.Accepted) != nil {
				continue
			}
			behind := find(customer, store.Queued) != nil
			o := order(fmt.Sprint("o", step), customer)
			want, state := store.PayNow, store.Accepted
			if behind {
				want, state = store.Behind, store.Queued
			}
			require.Equal(t, want, accept(t, s, o), "step %d", step)
			model = append(model, store.Record{Order: o, State: state, Queue: behind})
		case 2: // a direct payment ends
			if r := find(customer, store.Accepted); r != nil {
				if rng.IntN(2) == 0 {
					_, err := s.Paid(r.Order.ID)
					require.NoError(t, err)
					r.State = store.Paid
				} else {
					_, err := s.Enqueue(r.Order.ID, "down")
					require.NoError(t, err)
					r.State, r.Queue = store.Queued, true
				}
			}
		case 3: // a replay begins
			if got, ok, _ := s.Lease(time.Now().Add(time.Hour)); ok {
				want := find(got.Order.Customer, store.Queued)
				require.NotNil(t, want)
				require.Equal(t, want.Order, got.Order, "not the customer's oldest, step %d", step)
				require.NotContains(t, leased, got.Order.Customer)
				leased[got.Order.Customer] = got.Order.ID
			}
		case 4: // a replay ends
			if id, ok := leased[customer]; ok {
				delete(leased, customer)
				r := find(customer, store.Queued)
				var err error
				switch rng.IntN(3) {
				case 0:
					s.Postpone(customer, time.Minute, true)
				case 1:
					_, err = s.Bury(id, "402")
					r.State = store.Dead
				default:
					_, err = s.Paid(id)
					r.State = store.Paid
				}
				require.NoError(t, err)
			}
		case 5: // a crash
			if rng.IntN(10) > 0 {
				continue
			}
			require.NoError(t, s.Close())
			s = open(t, path, 1000)
			clear(leased)
			for i := range model {
				if model[i].State == store.Accepted {
					model[i].State, model[i].Queue = store.Queued, true
				}
			}
		}
		require.Equal(t, count(model), s.Counts(), "step %d", step)
	}
	require.Greater(t, s.Run(), uint64(2), "the crash was never tried")
}

func count(model []store.Record) (c store.Counts) {
	for _, r := range model {
		c.Orders++
		if r.Queue {
			c.Queued++
		}
		switch r.State {
		case store.Accepted:
			c.Accepted++
		case store.Queued:
			c.Waiting++
		case store.Dead:
			c.Dead++
		case store.Paid:
			if r.Queue {
				c.Replayed++
			} else {
				c.Direct++
			}
		}
	}
	return c
}

func TestTwoProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "client.db")
	open(t, path, 10)
	_, err := store.Open(path, 10)
	require.ErrorContains(t, err, "in use by another process")
	require.False(t, errors.Is(err, store.ErrFull))
}
