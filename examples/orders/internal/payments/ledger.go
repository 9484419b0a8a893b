package payments

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"github.com/mettle-go/mettle/examples/orders/internal/boltfile"
)

// Charge is money taken: the effect that must happen once per order.
type Charge struct {
	Number  uint64    `json:"number"`
	Key     string    `json:"key"` // the Idempotency-Key it was taken under
	Payment Payment   `json:"payment"`
	At      time.Time `json:"at"`
}

// Payment is the body of a POST /payments.
type Payment struct {
	Order    string `json:"order"`
	Customer string `json:"customer"`
	Cents    int64  `json:"cents"`
	Currency string `json:"currency"`
}

const (
	chargesBucket = "charges" // number → Charge: a plain journal, which by itself would take a charge twice
	keysBucket    = "keys"    // Idempotency-Key → number
)

// ledger is the service's own store. That a key is charged once is the work of one
// transaction: the charge and the key are written together or not at all.
type ledger struct{ file *boltfile.File }

func openLedger(path string) (*ledger, error) {
	file, err := boltfile.Open(path, chargesBucket, keysBucket)
	if err != nil {
		return nil, err
	}
	return &ledger{file}, nil
}

// charge takes the money unless it was taken under this key before, and returns the
// charge either way. The same key with another payment is a refusal.
func (l *ledger) charge(key string, p Payment) (c Charge, replayed bool, err error) {
	err = l.file.Update(func(tx *boltfile.Tx) error {
		c, replayed = Charge{}, false
		number, err := tx.Get(keysBucket, []byte(key))
		if err != nil {
			return err
		}
		if number != nil {
			replayed = true
			value, err := tx.Get(chargesBucket, number)
			if err != nil {
				return err
			}
			if err := json.Unmarshal(value, &c); err != nil {
				return err
			}
			if c.Payment != p {
				return &refusal{422, "the Idempotency-Key was used for another payment", 0}
			}
			return nil
		}
		c = Charge{Key: key, Payment: p, At: time.Now()}
		if c.Number, err = tx.Next(chargesBucket); err != nil {
			return err
		}
		value, err := json.Marshal(c)
		if err != nil {
			return err
		}
		number = binary.BigEndian.AppendUint64(nil, c.Number)
		if err := tx.Put(chargesBucket, number, value); err != nil {
			return err
		}
		return tx.Put(keysBucket, []byte(key), number)
	})
	return c, replayed, err
}

// taken reports whether money was taken under key.
func (l *ledger) taken(key string) (yes bool, err error) {
	err = l.file.View(func(tx *boltfile.Tx) error {
		number, err := tx.Get(keysBucket, []byte(key))
		yes = number != nil
		return err
	})
	return yes, err
}

// each calls fn for every charge, in the order in which they were taken.
func (l *ledger) each(fn func(Charge) error) error {
	return l.file.View(func(tx *boltfile.Tx) error {
		return tx.Each(chargesBucket, func(_, value []byte) error {
			var c Charge
			if err := json.Unmarshal(value, &c); err != nil {
				return fmt.Errorf("payments: a charge is unreadable: %w", err)
			}
			return fn(c)
		})
	})
}

// ReadCharges calls fn for every charge in the file of a service that does not run,
// in the order in which they were taken.
func ReadCharges(path string, fn func(Charge) error) error {
	l, err := openLedger(path)
	if err != nil {
		return err
	}
	defer l.file.Close()
	return l.each(fn)
}
