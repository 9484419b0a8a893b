package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mettle-go/mettle/examples/orders/internal/store"
)

const (
	maxLine     = 64 << 10 // bytes; a longer line is refused without being held in memory
	maxID       = 64
	maxCustomer = 100
	maxCents    = 100_000_000 // a million; a typing error is more likely than such an order
)

// errLine says what is wrong with one line. The lines after it are fine.
type errLine struct {
	number int
	reason string
}

func (e *errLine) Error() string { return fmt.Sprintf("line %d refused: %s", e.number, e.reason) }

// orderReader reads orders from JSON Lines.
type orderReader struct {
	r      *bufio.Reader
	number int // of the line read last, from 1
}

func newOrderReader(r io.Reader) *orderReader {
	return &orderReader{r: bufio.NewReaderSize(r, maxLine)}
}

// next returns the next order; an *errLine, after which there may be more; io.EOF; or
// the error of the reader.
func (r *orderReader) next() (store.Order, error) {
	for {
		line, err := r.line()
		if err != nil {
			return store.Order{}, err
		}
		line = bytes.TrimSpace(line)
		if r.number == 1 {
			line = bytes.TrimPrefix(line, []byte("\uFEFF"))
		}
		if len(line) == 0 {
			continue
		}
		o, err := parseOrder(line)
		if err != nil {
			return store.Order{}, &errLine{r.number, err.Error()}
		}
		return o, nil
	}
}

// line returns the next line, which is valid until the next call.
func (r *orderReader) line() ([]byte, error) {
	line, err := r.r.ReadSlice('\n')
	if len(line) > 0 {
		r.number++
	}
	if errors.Is(err, bufio.ErrBufferFull) {
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = r.r.ReadSlice('\n')
		}
		if err != nil && err != io.EOF {
			return nil, err
		}
		return nil, &errLine{r.number, fmt.Sprintf("it is longer than %d bytes", maxLine)}
	}
	if err == io.EOF && len(line) > 0 {
		return line, nil // the last line needs no newline
	}
	return line, err
}

func parseOrder(line []byte) (store.Order, error) {
	if !utf8.Valid(line) {
		return store.Order{}, errors.New("it is not UTF-8")
	}
	var in struct {
		ID       string
		Customer string
		Amount   json.RawMessage
		Currency string
	}
	if err := json.Unmarshal(line, &in); err != nil {
		return store.Order{}, fmt.Errorf("it is not an order in JSON: %.200s", printable(err.Error()))
	}
	if err := checkID(in.ID); err != nil {
		return store.Order{}, err
	}
	if in.Customer == "" || len(in.Customer) > maxCustomer || printable(in.Customer) != in.Customer {
		return store.Order{}, fmt.Errorf("customer is %.80q, must be 1 to %d printable bytes", in.Customer, maxCustomer)
	}
	cents, err := parseAmount(in.Amount)
	if err != nil {
		return store.Order{}, err
	}
	if len(in.Currency) != 3 || strings.Trim(in.Currency, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return store.Order{}, fmt.Errorf("currency is %.20q, must be a code such as EUR", in.Currency)
	}
	return store.Order{ID: in.ID, Customer: in.Customer, Cents: cents, Currency: in.Currency}, nil
}

// checkID keeps to what can stand in a header and in a file name.
func checkID(id string) error {
	bad := func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.:", c))
	}
	if id == "" || len(id) > maxID || strings.ContainsFunc(id, bad) {
		return fmt.Errorf("id is %.80q, must be 1 to %d letters, digits, dashes, dots, colons or underscores", id, maxID)
	}
	return nil
}

// parseAmount reads a decimal number of at most two places, exactly: money is not a
// binary fraction.
func parseAmount(raw json.RawMessage) (cents int64, err error) {
	text := string(raw)
	refuse := func(must string) (int64, error) {
		return 0, fmt.Errorf("amount is %.40s, must be %s", text, must)
	}
	switch {
	case text == "" || text == "null":
		return 0, errors.New("amount is missing")
	case text[0] == '"':
		return refuse("a number, without quotes")
	case text[0] == '-':
		return refuse("positive")
	}
	whole, fraction, _ := strings.Cut(text, ".")
	if len(fraction) > 2 || strings.Trim(whole+fraction, "0123456789") != "" {
		return refuse("a plain decimal number with at most two places, such as 12.50")
	}
	for _, digit := range whole + (fraction + "00")[:2] {
		cents = 10*cents + int64(digit-'0')
		if cents > maxCents {
			return refuse(fmt.Sprintf("at most %d", maxCents/100))
		}
	}
	if cents == 0 {
		return refuse("positive")
	}
	return cents, nil
}

// printable replaces what could play tricks on a terminal.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return '\uFFFD'
	}, s)
}
