package main

import (
	"fmt"

	"github.com/mettle-go/mettle/examples/orders/internal/payments"
	"github.com/mettle-go/mettle/examples/orders/internal/store"
)

// charges goes through every charge in the payment service's own store.
type charges func(func(payments.Charge) error) error

// audit holds what the client believes against what the payment service has done. An
// order is lost when the two do not agree on its end: paid here and not charged
// there, or with another amount; dead here and charged there. It is duplicated when
// it was charged more than once; each charge too many counts.
func audit(s *store.Store, each charges) (f findings, err error) {
	type sum struct {
		times int
		first payments.Payment
	}
	charged := map[string]sum{}
	err = each(func(c payments.Charge) error {
		at := charged[c.Payment.Order]
		if at.times == 0 {
			at.first = c.Payment
		}
		at.times++
		charged[c.Payment.Order] = at
		return nil
	})
	if err != nil {
		return findings{}, fmt.Errorf("the payment service's store cannot be read: %w", err)
	}
	err = s.Each(func(r store.Record) error {
		at := charged[r.Order.ID]
		want := payments.Payment{Order: r.Order.ID, Customer: r.Order.Customer, Cents: r.Order.Cents, Currency: r.Order.Currency}
		finding := ""
		switch {
		case r.State == store.Paid && at.times > 0 && at.first == want:
			f.both++
		case r.State == store.Paid && at.times == 0:
			finding = "is paid by the ledger, and was never charged"
		case r.State == store.Dead && at.times > 0:
			finding = "is a dead letter, and was charged"
		case at.times > 0 && at.first != want:
			finding = "was charged as another payment"
		}
		if finding != "" {
			f.lost++
			f.lines = append(f.lines, "order "+r.Order.ID+" "+finding)
		}
		if at.times > 1 {
			f.duplicated += at.times - 1
			f.lines = append(f.lines, fmt.Sprintf("order %s was charged %d times", r.Order.ID, at.times))
		}
		return nil
	})
	return f, err
}

// findings is what audit has found.
type findings struct {
	both             int // orders that are paid by the ledger and were charged
	lost, duplicated int
	lines            []string // one for each order that is lost or duplicated
}
