// Orders is a client that pays orders at a service which has a bad quarter of an
// hour, and loses none. See ../README.md, and orders -help.
package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/mettle-go/mettle/examples/orders/internal/boltfile"
	"github.com/mettle-go/mettle/examples/orders/internal/payments"
)

//go:embed orders.jsonl
var defaultOrders []byte

//go:embed faults.txt
var defaultFaults []byte

// The exit statuses.
const (
	exitOK      = 0
	exitLost    = 1 // an order is lost or duplicated, or nobody can tell
	exitUsage   = 2 // a flag, a file or the data directory is not usable; what was saved is as it was
	exitWaiting = 3 // stopped with orders in the queue; the same -data goes on with them
)

const (
	ledgerFile   = "client.db"   // what the client knows
	paymentsFile = "payments.db" // what the built-in payment service knows
)

const usage = `Orders pays orders at a payment service that fails, and loses none.

Usage: orders [flags]

Without flags it plays the default: 400 orders against a payment service of its own
that is healthy, browns out, answers 503, refuses connections, hangs and recovers, in
about 12 seconds.

Flags:
`

const usageEnd = `
Orders are JSON Lines, with an amount of at most two decimal places:
  {"id": "o-1", "customer": "c-7", "amount": 12.50, "currency": "EUR"}

Faults are one phase a line, of the kinds healthy, brownout, storm, refused, hang and
recovery; the last one lasts on:
  brownout 2s latency=150ms errors=0.4
  storm 2s retry-after=1s
  recovery

Examples:
  orders                                      the default
  orders -transport grpc                      the same over gRPC
  orders -orders my.jsonl -faults none        my orders, a healthy service
  generate | orders -orders - -rate 0         from a pipe, as fast as it goes
  orders -data ./d                            keep the state in ./d; the same command
                                              again goes on where it stopped
  orders -http 127.0.0.1:8080 -stay           a live page, also when the run is over, at
                                              http://127.0.0.1:8080/debug/mettle/
  orders -otlp http://127.0.0.1:4318          spans and metrics to a collector or Jaeger
  orders -serve 127.0.0.1:8080 -data ./p      run only the payment service, and
  orders -payment-url http://127.0.0.1:8080   pay there, in another process

A service at -payment-url takes POST /payments with an Idempotency-Key and lists what
it charged at GET /payments, and at GET /payments/KEY whether it was (2xx or 404), as the
built-in one does; with -transport grpc it is what payments.proto says.

The last line of the output is
  orders=N paid=N direct=N queued=N replayed=N dead=N lost=N duplicated=N
counted over the whole data directory, not only this run. An order that was not paid at
the first go is queued, whatever the reason; only the replay decides that it is dead.
So paid = direct + replayed, and replayed = queued - dead once the queue is empty. lost
and duplicated come from a comparison with the payment service's own store.

Exit status: 0 all well; 1 an order was lost or duplicated, or that could not be told;
2 a flag, a file or the data directory is not usable, and what was saved is as it was;
3 stopped while orders were waiting: the same -data goes on with them.
`

// The bounds of -rate keep the pause between two orders within what a Duration holds.
const minRate, maxRate = 1e-6, 1e6

type options struct {
	orders, data, paymentURL, transport, faults, serve, otlp, http string
	stay                                                           bool
	rate                                                           float64
	seed                                                           uint64
	queue                                                          int
	patience                                                       time.Duration
}

func parseFlags(args []string, stdout io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("orders", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // a mistake is reported once, by the caller
	fs.StringVar(&o.orders, "orders", "", "`FILE` with the orders, - for standard input (default: 400 orders built in)")
	fs.StringVar(&o.data, "data", "", "`DIR` with all that is saved (default: a new temporary one, which is named and kept)")
	fs.StringVar(&o.paymentURL, "payment-url", "", "`URL` of a payment service to use instead of the built-in one")
	fs.StringVar(&o.transport, "transport", "http", "pay over http or grpc")
	fs.StringVar(&o.faults, "faults", "", "`FILE` with the faults of the built-in service, or none (default: built in)")
	fs.Float64Var(&o.rate, "rate", 36, "`N` orders per second; 0 is as fast as they can be paid")
	fs.Uint64Var(&o.seed, "seed", 1, "`N` decides which requests fail and how long backoffs are")
	fs.IntVar(&o.queue, "queue", 1000, "`N` orders may be unsettled before no more are accepted")
	fs.DurationVar(&o.patience, "patience", time.Minute, "stop when nothing has moved for this `TIME`")
	fs.StringVar(&o.otlp, "otlp", "", "`URL` of an OpenTelemetry collector, such as http://127.0.0.1:4318, for spans and metrics")
	fs.StringVar(&o.serve, "serve", "", "run only the payment service, at `ADDR`, until interrupted")
	fs.StringVar(&o.http, "http", "", "serve a live page with the policies at `ADDR`, such as 127.0.0.1:8080; it is for you, not for the public")
	fs.BoolVar(&o.stay, "stay", false, "serve the page also when the run is over, until interrupted")
	fs.Usage = func() {}
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		fmt.Fprint(stdout, usageEnd)
	}
	if err != nil {
		return o, err
	}
	return o, o.validate(fs.Args())
}

func (o options) validate(rest []string) error {
	var errs []error
	if len(rest) > 0 {
		errs = append(errs, fmt.Errorf("%q is not a flag; orders are read from -orders", rest[0]))
	}
	if !(o.rate == 0 || o.rate >= minRate && o.rate <= maxRate) {
		errs = append(errs, fmt.Errorf("-rate is %v, must be between %v and %v, or 0 for no limit", o.rate, minRate, maxRate))
	}
	if o.queue < 1 {
		errs = append(errs, fmt.Errorf("-queue is %d, must be at least 1", o.queue))
	}
	if o.patience <= 0 {
		errs = append(errs, fmt.Errorf("-patience is %v, must be positive", o.patience))
	}
	if o.transport != "http" && o.transport != "grpc" {
		errs = append(errs, fmt.Errorf("-transport is %q, must be http or grpc", o.transport))
	}
	if o.stay && o.http == "" {
		errs = append(errs, errors.New("-stay is for the page, which needs -http"))
	}
	if o.http != "" && o.serve != "" {
		errs = append(errs, errors.New("-http shows the client's policies, and -serve runs none"))
	}
	if o.otlp != "" && !isURL(o.otlp) {
		errs = append(errs, errors.New("-otlp is not an http or https URL"))
	}
	if o.paymentURL != "" {
		if !isURL(o.paymentURL) {
			errs = append(errs, errors.New("-payment-url is not an http or https URL"))
		}
		if o.faults != "" && o.faults != "none" {
			errs = append(errs, errors.New("-faults is for the built-in service, not for one at -payment-url"))
		}
	}
	return errors.Join(errs...)
}

func isURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

func main() {
	// The first interrupt asks for an orderly end; the second one ends the program.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	o, err := parseFlags(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintln(stderr, "orders:", err)
		fmt.Fprintln(stderr, "orders: -help shows the flags")
		return exitUsage
	}
	if o.serve != "" {
		err = serve(ctx, o, stdout)
	} else {
		var code int
		if code, err = pay(ctx, o, stdin, stdout); err == nil {
			return code
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, "orders:", err)
		var damage *boltfile.DamageError
		if errors.As(err, &damage) {
			fmt.Fprintln(stderr, "orders: nothing was changed. Put back a copy of the file, or use another -data;")
			fmt.Fprintln(stderr, "orders: sending an order again is safe, the payment service charges an id once.")
		}
		return exitUsage
	}
	return exitOK
}

// script returns the faults to play.
func (o options) script() (payments.Script, error) {
	if o.faults == "none" {
		return nil, nil
	}
	text, name := defaultFaults, "the default faults"
	if o.faults != "" {
		var err error
		if text, err = os.ReadFile(o.faults); err != nil {
			return nil, fmt.Errorf("-faults: %w", err)
		}
		name = o.faults
	}
	script, err := payments.ParseScript(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("-faults: %s: %w", name, err)
	}
	return script, nil
}

// dataDir returns the directory for all that is saved, whole as far as can be told.
func (o options) dataDir() (string, error) {
	if o.data == "" {
		return os.MkdirTemp("", "mettle-orders-")
	}
	if err := makeDir(o.data); err != nil {
		return "", fmt.Errorf("-data: %w", err)
	}
	// All files are looked at before the first is opened for writing.
	var errs []error
	for _, name := range []string{ledgerFile, paymentsFile} {
		errs = append(errs, boltfile.Check(filepath.Join(o.data, name)))
	}
	if err := errors.Join(errs...); err != nil {
		return "", fmt.Errorf("-data: %w", err)
	}
	return o.data, nil
}

// makeDir makes a directory and those above it that are missing, each on the disk
// before anything is kept below it.
func makeDir(path string) error {
	switch info, err := os.Stat(path); {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("%s is not a directory", path)
	}
	parent := filepath.Dir(filepath.Clean(path))
	if parent != path {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	dir, err := os.Open(parent)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// input returns the orders to read.
func (o options) input(stdin io.Reader) (io.ReadCloser, error) {
	switch o.orders {
	case "":
		return io.NopCloser(bytes.NewReader(defaultOrders)), nil
	case "-":
		return io.NopCloser(stdin), nil
	}
	f, err := os.Open(o.orders)
	if err != nil {
		return nil, fmt.Errorf("-orders: %w", err)
	}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		f.Close()
		return nil, fmt.Errorf("-orders: %s is a directory", o.orders)
	}
	return f, nil
}

// serve runs the payment service alone.
func serve(ctx context.Context, o options, stdout io.Writer) error {
	script, err := o.script()
	if err != nil {
		return err
	}
	dir, err := o.dataDir()
	if err != nil {
		return err
	}
	r := newReport(stdout, false)
	service, err := payments.Start(payments.Config{
		Addr: o.serve, Path: filepath.Join(dir, paymentsFile), Script: script, Seed: o.seed, Phase: r.phase,
	})
	if err != nil {
		return err
	}
	r.plain("payment service at %s, its store in %s", service.URL(), dir)
	<-ctx.Done()
	return service.Close()
}
