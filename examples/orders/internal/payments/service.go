// Package payments is a payment service that can be told to fail.
//
//	POST /payments   takes a payment, once per Idempotency-Key
//	GET  /payments   lists the charges made, as JSON Lines
//
// The same is to be had over gRPC, at the same port: package paymentspb.
//
// The charge is on the service's disk before the answer is sent. The failures come
// from a [Script] and are those of real services: answers that are slow, that are
// lost after the work was done, that say to come back later, and none at all.
package payments

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxBody = 16 << 10
	maxKey  = 255

	// cardLimit and the closed accounts are why some payments can never succeed.
	cardLimit     = 500_000
	closedAccount = "gone-"
	// cursedAmount meets a bug in the service: always 500. Such a payment is poison:
	// it cannot be told from a passing failure by its answer.
	cursedAmount = 66_666
)

// Config says how to start a [Service].
type Config struct {
	Addr   string      // "" is a free port on loopback
	Path   string      // the service's own store; made when it does not exist
	Script Script      // nil: healthy
	Seed   uint64      // decides which requests of a brownout fail
	Phase  func(Phase) // told when a phase begins; nil: nobody is
}

// Service is a running payment service.
type Service struct {
	ledger *ledger
	seed   uint64
	addr   string

	stop context.CancelFunc
	done chan struct{} // closed when the script has ended

	closing sync.Once
	closed  error // what closing came to

	mu     sync.Mutex
	phase  Phase          // guarded by mu
	over   chan struct{}  // closed when phase ends; guarded by mu
	server *http.Server   // nil while connections are refused; guarded by mu
	tries  map[string]int // requests seen per key, so that chance is the same in every run; guarded by mu
}

// Start starts a service and begins its script.
func Start(cfg Config) (*Service, error) {
	l, err := openLedger(cfg.Path)
	if err != nil {
		return nil, err
	}
	addr := cfg.Addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, errors.Join(err, l.file.Close())
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Service{
		ledger: l, seed: cfg.Seed, addr: listener.Addr().String(),
		stop: stop, done: make(chan struct{}), over: make(chan struct{}), tries: map[string]int{},
	}
	script := cfg.Script
	if len(script) == 0 {
		script = Script{{Kind: "healthy"}}
	}
	notify := cfg.Phase
	if notify == nil {
		notify = func(Phase) {}
	}
	s.serve(listener)
	go func() {
		defer close(s.done)
		s.play(ctx, script, notify)
	}()
	return s, nil
}

// URL returns where the service is reached.
func (s *Service) URL() string { return "http://" + s.addr }

// Close stops the service, cutting off the requests it has not answered. Only the
// first call does anything.
func (s *Service) Close() error {
	s.stop()
	<-s.done
	s.closing.Do(func() {
		s.mu.Lock()
		close(s.over)
		s.mu.Unlock()
		s.unserve()
		s.closed = s.ledger.file.Close()
	})
	return s.closed
}

// Charges calls fn for every charge in the service's store.
func (s *Service) Charges(fn func(Charge) error) error { return s.ledger.each(fn) }

// play goes through the script.
func (s *Service) play(ctx context.Context, script Script, notify func(Phase)) {
	for i, p := range script {
		s.begin(ctx, p)
		notify(p)
		if i == len(script)-1 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(p.For):
		}
	}
}

// begin makes p the phase, and closes or reopens the listener accordingly.
func (s *Service) begin(ctx context.Context, p Phase) {
	s.mu.Lock()
	close(s.over) // lets hanging requests go
	s.over = make(chan struct{})
	s.phase = p
	up := s.server != nil
	s.mu.Unlock()
	switch {
	case p.Kind == "refused":
		s.unserve()
	case !up:
		s.reopen(ctx)
	}
}

// serve answers on the listener until unserve.
func (s *Service) serve(listener net.Listener) {
	calls := newGRPC(s)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /payments", s.pay)
	mux.HandleFunc("GET /payments", s.list)
	mux.HandleFunc("GET /payments/{key}", s.find)
	// gRPC is HTTP/2 without TLS from the first byte, and shares the port.
	var both http.Protocols
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second, Protocols: &both}
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			calls.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
	s.mu.Lock()
	s.server = server
	s.mu.Unlock()
	go server.Serve(listener)
}

// unserve closes the listener and every connection, as a killed process would.
func (s *Service) unserve() {
	s.mu.Lock()
	server := s.server
	s.server = nil
	s.mu.Unlock()
	if server != nil {
		server.Close()
	}
}

// reopen listens on the same port again. Somebody's outgoing connection may have been
// given the port meanwhile, so it is tried until it works.
func (s *Service) reopen(ctx context.Context) {
	for {
		listener, err := net.Listen("tcp", s.addr)
		if err == nil {
			s.serve(listener)
			return
		}
		if !sleep(ctx, 20*time.Millisecond) {
			return
		}
	}
}

// pay handles POST /payments.
func (s *Service) pay(w http.ResponseWriter, r *http.Request) {
	p, key, err := readPayment(r)
	if err != nil {
		answer(w, err)
		return
	}
	charge, again, err := s.take(r.Context(), key, p)
	switch {
	case err == errCut:
		panic(http.ErrAbortHandler)
	case err != nil:
		answer(w, err)
		return
	}
	if again {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(charge)
}

// errCut is the end of a request that is not answered.
var errCut = errors.New("payments: the connection is cut")

// take takes a payment under the phase of the script. It fails with a refusal, or errCut.
func (s *Service) take(ctx context.Context, key string, p Payment) (c Charge, again bool, err error) {
	phase, over, dice := s.chance(key)
	switch phase.Kind {
	case "storm":
		return c, false, &refusal{http.StatusServiceUnavailable, "overloaded", phase.RetryAfter}
	case "hang":
		s.maybeCharge(dice, key, p)
		select {
		case <-over:
		case <-ctx.Done():
		}
		return c, false, errCut
	}
	if !sleep(ctx, time.Duration(2*dice.Float64()*float64(phase.Latency))) {
		return c, false, errCut
	}
	if dice.Float64() < phase.Errors {
		s.maybeCharge(dice, key, p)
		return c, false, &refusal{http.StatusInternalServerError, "internal error", 0}
	}
	if err := p.check(); err != nil {
		return c, false, err
	}
	return s.ledger.charge(key, p)
}

// maybeCharge does the work of half the requests that will not be told about it:
// the failure that makes a client pay twice unless it sends a key.
func (s *Service) maybeCharge(dice *rand.Rand, key string, p Payment) {
	if dice.IntN(2) == 0 && p.check() == nil {
		s.ledger.charge(key, p)
	}
}

// chance returns the phase of now, what ends it, and the dice for this request. They
// depend on the seed, the key and how often the key was seen, not on timing.
func (s *Service) chance(key string) (Phase, <-chan struct{}, *rand.Rand) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tries[key]++
	h := fnv.New64a()
	fmt.Fprint(h, key, s.tries[key])
	return s.phase, s.over, rand.New(rand.NewPCG(s.seed, h.Sum64()))
}

// list handles GET /payments.
func (s *Service) list(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/jsonl")
	enc := json.NewEncoder(w)
	if err := s.ledger.each(func(c Charge) error { return enc.Encode(c) }); err != nil {
		panic(http.ErrAbortHandler) // a list cut short must not look complete
	}
}

// find handles GET /payments/{key}: 204 when money was taken under the key, 404 when
// not. It is how a client ends its doubt about an answer that it did not get.
func (s *Service) find(w http.ResponseWriter, r *http.Request) {
	switch taken, err := s.ledger.taken(r.PathValue("key")); {
	case err != nil:
		answer(w, err)
	case taken:
		w.WriteHeader(http.StatusNoContent)
	default:
		answer(w, &refusal{http.StatusNotFound, "no charge under this key", 0})
	}
}

func readPayment(r *http.Request) (p Payment, key string, err error) {
	key = r.Header.Get("Idempotency-Key")
	if !validKey(key) {
		return p, "", &refusal{http.StatusBadRequest, "an Idempotency-Key is needed", 0}
	}
	dec := json.NewDecoder(io.LimitReader(r.Body, maxBody))
	if err := dec.Decode(&p); err != nil {
		return p, "", &refusal{http.StatusBadRequest, "the body is not a payment", 0}
	}
	return p, key, nil
}

func validKey(key string) bool { return key != "" && len(key) <= maxKey }

// check refuses what can never be paid.
func (p Payment) check() error {
	switch {
	case p.Order == "" || p.Cents <= 0:
		return &refusal{http.StatusUnprocessableEntity, "order and a positive amount are needed", 0}
	case len(p.Customer) > len(closedAccount) && p.Customer[:len(closedAccount)] == closedAccount:
		return &refusal{http.StatusForbidden, "the account is closed", 0}
	case p.Cents > cardLimit:
		return &refusal{http.StatusPaymentRequired, "the card was declined: over its limit", 0}
	case p.Cents == cursedAmount:
		return &refusal{http.StatusInternalServerError, "internal error", 0}
	}
	switch p.Currency {
	case "EUR", "USD", "GBP", "CHF":
		return nil
	}
	return &refusal{http.StatusUnprocessableEntity, "the currency is not accepted", 0}
}

// refusal is an answer that is not a charge.
type refusal struct {
	status int
	text   string
	after  time.Duration // when to come back; zero: nothing is said
}

func (e *refusal) Error() string { return "payments: " + e.text }

func answer(w http.ResponseWriter, err error) {
	var no *refusal
	if !errors.As(err, &no) {
		no = &refusal{http.StatusInternalServerError, "the store failed", 0}
	}
	if no.after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(seconds(no.after)))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(no.status)
	json.NewEncoder(w).Encode(map[string]string{"error": no.text})
}

// sleep waits for d unless ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
