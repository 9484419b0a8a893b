// Package store is what the order client knows: every order it accepted, the queue
// of those that could not be paid yet, and the dead letters. It is one file, and
// what a method has done is on the disk when the method returns.
//
// # Why no order is lost and none is paid twice
//
// An order is written down as Accepted before anything about it leaves the machine,
// and as Paid, Queued or Dead before anybody is told. A crash between the two leaves
// it Accepted: nobody knows whether the payment went through. [Open] puts such an
// order into the queue, from where it is sent again under the same idempotency key,
// so the payment service does the work at most once.
//
// # Order per customer
//
// Once an order of a customer is queued, later ones of that customer queue behind it
// ([Store.Accept]), and [Store.Lease] hands out a customer's oldest order only, one
// at a time.
package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/mettle-go/mettle/examples/orders/internal/boltfile"
)

// ErrFull is the refusal of an order when the queue has no room left for it. The
// order is not accepted and nothing is recorded; try again when [Store.Room] says so.
var ErrFull = errors.New("store: the queue is full, the order is not accepted")

// Order is what is to be paid.
type Order struct {
	ID       string `json:"id"`
	Customer string `json:"customer"`
	Cents    int64  `json:"cents"`
	Currency string `json:"currency"`
}

// Key is the idempotency key: the same for every attempt, in every run.
func (o Order) Key() string { return "order-" + o.ID }

// State is where an order stands.
type State string

const (
	Accepted State = "accepted" // written down; whether it is paid is not known yet
	Queued   State = "queued"   // to be paid later
	Paid     State = "paid"     // final
	Dead     State = "dead"     // final: it can never be paid, for the reason given
)

// Record is all that is known about one order.
type Record struct {
	Order  Order     `json:"order"`
	State  State     `json:"state"`
	Seq    uint64    `json:"seq"`              // its place in the order of acceptance
	Run    uint64    `json:"run"`              // the run that accepted it
	At     time.Time `json:"at"`               // when it was accepted
	Queue  bool      `json:"queue"`            // it went through the queue
	Reason string    `json:"reason,omitempty"` // why it was queued, last postponed, or is dead
	Faults int       `json:"faults,omitempty"` // replays whose answer blames the order
	Tries  int       `json:"-"`                // replays of this run that failed, for the backoff
	blamed int       // how many orders had been paid at the last fault
	Final  time.Time `json:"final,omitzero"` // when it became Paid or Dead
}

// Verdict is the answer of [Store.Accept].
type Verdict uint8

const (
	PayNow   Verdict = iota // accepted, and nothing stands before it
	Behind                  // accepted and queued, for an earlier order of this customer is queued
	Known                   // accepted before, by an earlier run
	Repeated                // accepted before, by this run
	Conflict                // accepted before with other content, which stands
)

// Counts is a summary of the store. Orders = Accepted + Direct + Replayed + Dead + Waiting.
type Counts struct {
	Orders   int // ever accepted
	Accepted int // on their way right now
	Direct   int // paid without the queue
	Queued   int // ever queued: Waiting + Replayed + Dead
	Waiting  int // in the queue now
	Replayed int // paid from the queue
	Dead     int
}

const (
	ordersBucket = "orders" // id → Record
	queueBucket  = "queue"  // Seq → id
	deadBucket   = "dead"   // id → Record, a copy, so that the dead letters are in one place
	runsBucket   = "runs"   // number → when it began
)

// Store is an open store. Its methods may be called from many goroutines at once,
// but [Store.Accept] from one at a time for the same customer.
type Store struct {
	file     *boltfile.File
	capacity int
	run      uint64
	inDoubt  int

	mu      sync.Mutex
	paid    int              // guarded by mu; orders paid in this run
	counts  Counts           // guarded by mu
	lanes   map[string]*lane // guarded by mu; customers with a queued order
	changed chan struct{}    // has an item when the queue has changed
	room    chan struct{}    // closed and replaced when room was made; guarded by mu
}

// lane is the queue of one customer.
type lane struct {
	waiting []Record // oldest first
	leased  bool     // the first is being replayed
	due     time.Time
}

// Open opens the store in the file at path, which is made when it does not exist.
// capacity bounds the orders that are queued or on their way. Orders of an earlier
// run that were on their way when it ended are put into the queue; [Store.InDoubt]
// tells how many.
//
// The errors of [boltfile.Open] come back as they are, and nothing has been changed then.
func Open(path string, capacity int) (*Store, error) {
	file, err := boltfile.Open(path, ordersBucket, queueBucket, deadBucket, runsBucket)
	if err != nil {
		return nil, err
	}
	s := &Store{
		file: file, capacity: capacity, lanes: map[string]*lane{},
		changed: make(chan struct{}, 1), room: make(chan struct{}),
	}
	if err := s.recover(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return s, nil
}

// recover begins a new run: it queues what is in doubt and loads the queue.
func (s *Store) recover() error {
	var doubtful []Record
	err := s.file.View(func(tx *boltfile.Tx) error {
		return tx.Each(ordersBucket, func(_, value []byte) error {
			var r Record
			if err := json.Unmarshal(value, &r); err != nil {
				return fmt.Errorf("store: an order is unreadable: %w", err)
			}
			if r.State == Accepted {
				doubtful = append(doubtful, r)
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	err = s.file.Update(func(tx *boltfile.Tx) error {
		var err error
		if s.run, err = tx.Next(runsBucket); err != nil {
			return err
		}
		if err := tx.Put(runsBucket, seqKey(s.run), []byte(time.Now().Format(time.RFC3339Nano))); err != nil {
			return err
		}
		for _, r := range doubtful {
			r.State, r.Queue = Queued, true
			r.Reason = "in doubt: the client stopped before it knew the answer"
			if err := errors.Join(putRecord(tx, r), tx.Put(queueBucket, seqKey(r.Seq), []byte(r.Order.ID))); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.inDoubt = len(doubtful)
	return s.load()
}

// load reads the counts and the queue, in the order of acceptance.
func (s *Store) load() error {
	return s.file.View(func(tx *boltfile.Tx) error {
		err := tx.Each(ordersBucket, func(_, value []byte) error {
			var r Record
			if err := json.Unmarshal(value, &r); err != nil {
				return fmt.Errorf("store: an order is unreadable: %w", err)
			}
			s.counts.add(r)
			return nil
		})
		if err != nil {
			return err
		}
		return tx.Each(queueBucket, func(_, id []byte) error {
			r, err := getRecord(tx, string(id))
			if err != nil {
				return err
			}
			if r.State != Queued {
				return fmt.Errorf("store: order %s is in the queue and %q", id, r.State)
			}
			s.lane(r.Order.Customer).waiting = append(s.lane(r.Order.Customer).waiting, r)
			return nil
		})
	})
}

// Close releases the file.
func (s *Store) Close() error { return s.file.Close() }

// Run returns the number of this run over the same file, from 1.
func (s *Store) Run() uint64 { return s.run }

// InDoubt returns how many orders were on their way when the last run ended.
func (s *Store) InDoubt() int { return s.inDoubt }

// Counts returns the summary as of now.
func (s *Store) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

// Accept writes the order down, unless it is known already or the queue is full.
// After PayNow the caller owes a call of [Store.Paid] or [Store.Enqueue].
func (s *Store) Accept(o Order) (Verdict, error) {
	if v, known, err := s.known(o); known || err != nil {
		return v, err
	}
	s.mu.Lock()
	if s.counts.Waiting+s.counts.Accepted >= s.capacity {
		s.mu.Unlock()
		return 0, ErrFull
	}
	// The place in the queue is taken here, for the case that the payment fails.
	s.counts.Accepted++
	behind := s.lanes[o.Customer] != nil
	s.mu.Unlock()

	r := Record{Order: o, State: Accepted, Run: s.run, At: time.Now()}
	if behind {
		r.State, r.Queue, r.Reason = Queued, true, "behind an earlier one of theirs"
	}
	known := false
	err := s.file.Update(func(tx *boltfile.Tx) error {
		known = false
		// Another customer's order may have come in under this id just now.
		if old, err := tx.Get(ordersBucket, []byte(o.ID)); err != nil || old != nil {
			known = old != nil
			return err
		}
		var err error
		if r.Seq, err = tx.Next(ordersBucket); err != nil {
			return err
		}
		if r.State == Queued {
			err = tx.Put(queueBucket, seqKey(r.Seq), []byte(o.ID))
		}
		return errors.Join(err, putRecord(tx, r))
	})

	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Accepted--
	if err != nil || known {
		s.madeRoom()
		return Conflict, err
	}
	s.counts.add(r)
	if behind {
		s.push(r)
		return Behind, nil
	}
	return PayNow, nil
}

// known looks whether an order was accepted before.
func (s *Store) known(o Order) (v Verdict, known bool, err error) {
	r, err := s.Get(o.ID)
	switch {
	case errors.Is(err, errUnknown):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	case r.Order != o:
		return Conflict, true, nil
	case r.Run == s.run:
		return Repeated, true, nil
	default:
		return Known, true, nil
	}
}

// Paid records that an order is paid. It is final, and on the disk.
func (s *Store) Paid(id string) (Record, error) {
	return s.change(id, func(r *Record) { r.State, r.Final, r.Reason = Paid, time.Now(), "" })
}

// Enqueue puts an accepted order into the queue. There is room: Accept took it.
func (s *Store) Enqueue(id, reason string) (Record, error) {
	return s.change(id, func(r *Record) { r.State, r.Queue, r.Reason = Queued, true, reason })
}

// Bury moves a leased order to the dead letters.
func (s *Store) Bury(id, reason string) (Record, error) {
	return s.change(id, func(r *Record) { r.State, r.Final, r.Reason = Dead, time.Now(), reason })
}

// Fault records that a leased order failed in a way that may be its own doing, and
// returns how often that has happened. It counts only when another order was paid
// since the last time: while nobody's is, the service is to blame. Where no other
// customer waits, nobody can tell, and it counts.
func (s *Store) Fault(r Record, reason string) (int, error) {
	s.mu.Lock()
	paid := s.paid
	alone := len(s.lanes) == 1 && s.counts.Accepted == 0
	s.mu.Unlock()
	if r.blamed == paid && !alone {
		return r.Faults, nil
	}
	after, err := s.change(r.Order.ID, func(r *Record) { r.Faults++; r.Reason, r.blamed = reason, paid })
	return after.Faults, err
}

// change rewrites one record, moves it in and out of the queue as its state says,
// and brings what is kept in memory up to date once all that is on the disk.
func (s *Store) change(id string, edit func(*Record)) (Record, error) {
	var before, after Record
	err := s.file.Update(func(tx *boltfile.Tx) error {
		var err error
		if before, err = getRecord(tx, id); err != nil {
			return err
		}
		if before.State == Paid || before.State == Dead {
			return fmt.Errorf("store: order %s is %s, which is final", id, before.State)
		}
		after = before
		edit(&after)
		switch {
		case after.State == Queued && before.State != Queued:
			err = tx.Put(queueBucket, seqKey(after.Seq), []byte(id))
		case after.State != Queued && before.State == Queued:
			err = tx.Delete(queueBucket, seqKey(after.Seq))
		}
		if err == nil && after.State == Dead {
			err = put(tx, deadBucket, after)
		}
		return errors.Join(err, putRecord(tx, after))
	})
	if err != nil {
		return Record{}, err
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.remove(before)
	s.counts.add(after)
	switch {
	case before.State == Accepted && after.State == Queued:
		s.push(after)
	case before.State == Queued && after.State == Queued:
		head := &s.lanes[after.Order.Customer].waiting[0]
		after.Tries = head.Tries
		*head = after
	case before.State == Queued:
		s.pop(after.Order.Customer)
	}
	if after.State == Paid {
		s.paid++
	}
	if after.State == Paid || after.State == Dead {
		s.madeRoom()
	}
	return after, nil
}

// Room returns a channel that is closed when there may be room for another order.
func (s *Store) Room() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts.Waiting+s.counts.Accepted < s.capacity {
		free := make(chan struct{})
		close(free)
		return free
	}
	return s.room
}

// madeRoom wakes those who wait for room. The caller holds mu.
func (s *Store) madeRoom() {
	close(s.room)
	s.room = make(chan struct{})
}

// Changed returns a channel that receives when a lease may have become possible.
// It has one receiver at a time.
func (s *Store) Changed() <-chan struct{} { return s.changed }

// Lease hands out a queued order that is due and first of its customer, if there is
// one: of those tried least often the oldest, so that one which always fails does not
// stand in the way of all others. The caller owes a call of [Store.Paid], [Store.Bury] or
// [Store.Postpone] for it. Otherwise Lease tells when the next one is due, if any.
//
// The queue is bounded, so a look at all customers is cheap.
func (s *Store) Lease(now time.Time) (r Record, ok bool, next time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var first *lane
	next = math.MaxInt64
	for _, l := range s.lanes {
		switch wait := l.due.Sub(now); {
		case l.leased:
		case wait > 0:
			next = min(next, wait)
		case first == nil || l.waiting[0].before(first.waiting[0]):
			first = l
		}
	}
	if first == nil {
		return Record{}, false, next
	}
	first.leased = true
	return first.waiting[0], true, 0
}

func (r Record) before(o Record) bool {
	if r.Tries != o.Tries {
		return r.Tries < o.Tries
	}
	return r.Seq < o.Seq
}

// Postpone gives a lease back: the customer's first order is due again after delay.
// failed says that it was tried, which shows in its Tries.
func (s *Store) Postpone(customer string, delay time.Duration, failed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lanes[customer]
	if failed {
		l.waiting[0].Tries++
	}
	l.leased, l.due = false, time.Now().Add(delay)
	s.signal()
}

// Get returns what is known about one order.
func (s *Store) Get(id string) (Record, error) {
	var r Record
	err := s.file.View(func(tx *boltfile.Tx) (err error) {
		r, err = getRecord(tx, id)
		return err
	})
	return r, err
}

// Each calls fn for every order, in the order of their ids.
func (s *Store) Each(fn func(Record) error) error { return s.each(ordersBucket, fn) }

// DeadLetters calls fn for every dead order, in the order of their ids.
func (s *Store) DeadLetters(fn func(Record) error) error { return s.each(deadBucket, fn) }

func (s *Store) each(bucket string, fn func(Record) error) error {
	return s.file.View(func(tx *boltfile.Tx) error {
		return tx.Each(bucket, func(_, value []byte) error {
			var r Record
			if err := json.Unmarshal(value, &r); err != nil {
				return err
			}
			return fn(r)
		})
	})
}

// lane returns the queue of a customer. The caller holds mu or is alone.
func (s *Store) lane(customer string) *lane {
	l := s.lanes[customer]
	if l == nil {
		l = new(lane)
		s.lanes[customer] = l
	}
	return l
}

// push appends to a customer's queue. The caller holds mu.
func (s *Store) push(r Record) {
	l := s.lane(r.Order.Customer)
	l.waiting = append(l.waiting, r)
	s.signal()
}

// pop removes the first of a customer's queue and ends its lease. The caller holds mu.
func (s *Store) pop(customer string) {
	l := s.lanes[customer]
	l.waiting = l.waiting[1:]
	l.leased, l.due = false, time.Time{}
	if len(l.waiting) == 0 {
		delete(s.lanes, customer)
	}
	s.signal()
}

func (s *Store) signal() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (c *Counts) add(r Record)    { c.move(r, 1) }
func (c *Counts) remove(r Record) { c.move(r, -1) }

func (c *Counts) move(r Record, by int) {
	c.Orders += by
	if r.Queue {
		c.Queued += by
	}
	switch {
	case r.State == Accepted:
		c.Accepted += by
	case r.State == Queued:
		c.Waiting += by
	case r.State == Dead:
		c.Dead += by
	case r.Queue:
		c.Replayed += by
	default:
		c.Direct += by
	}
}

var errUnknown = errors.New("no such order")

func getRecord(tx *boltfile.Tx, id string) (Record, error) {
	value, err := tx.Get(ordersBucket, []byte(id))
	if err != nil {
		return Record{}, err
	}
	if value == nil {
		return Record{}, fmt.Errorf("store: %s: %w", id, errUnknown)
	}
	var r Record
	if err := json.Unmarshal(value, &r); err != nil {
		return Record{}, fmt.Errorf("store: order %s is unreadable: %w", id, err)
	}
	return r, nil
}

func putRecord(tx *boltfile.Tx, r Record) error { return put(tx, ordersBucket, r) }

func put(tx *boltfile.Tx, bucket string, r Record) error {
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return tx.Put(bucket, []byte(r.Order.ID), value)
}

// seqKey sorts as the number does.
func seqKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
