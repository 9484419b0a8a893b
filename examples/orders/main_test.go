package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/mettle-go/mettle/examples/orders/internal/payments"
	"github.com/mettle-go/mettle/examples/orders/internal/store"
)

// quick is the default script, twice as fast.
const quick = `
healthy  0.3s
brownout 1s   latency=60ms errors=0.5
storm    0.7s retry-after=1s
refused  0.7s
hang     0.7s
recovery
`

type result struct {
	code           int
	stdout, stderr string
	last           string
	n              map[string]int // the last line
}

var lastLine = regexp.MustCompile(`^orders=\d+ paid=\d+ direct=\d+ queued=\d+ replayed=\d+ dead=\d+ lost=\d+ duplicated=\d+$`)

// orders runs the program in this process.
func orders(t *testing.T, ctx context.Context, stdin string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(ctx, args, strings.NewReader(stdin), &stdout, &stderr)
	return parse(t, code, stdout.String(), stderr.String())
}

func parse(t *testing.T, code int, stdout, stderr string) result {
	t.Helper()
	r := result{code: code, stdout: stdout, stderr: stderr, n: map[string]int{}}
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	r.last = lines[len(lines)-1]
	if lastLine.MatchString(r.last) {
		for _, field := range strings.Fields(r.last) {
			var n int
			name, value, _ := strings.Cut(field, "=")
			_, err := fmt.Sscan(value, &n)
			require.NoError(t, err)
			r.n[name] = n
		}
		require.Equal(t, 1, strings.Count(stdout, "orders="), "exactly one such line")
		require.Equal(t, r.n["paid"], r.n["direct"]+r.n["replayed"], r.last)
	}
	return r
}

// settled checks a run that came to its end.
func (r result) settled(t *testing.T, orders, dead int) {
	t.Helper()
	require.Equal(t, exitOK, r.code, "%s%s", r.stdout, r.stderr)
	require.Regexp(t, lastLine, r.last)
	require.Equal(t, orders, r.n["orders"], r.last)
	require.Equal(t, dead, r.n["dead"], r.last)
	require.Equal(t, orders-dead, r.n["paid"], r.last)
	require.Equal(t, r.n["queued"]-r.n["dead"], r.n["replayed"], r.last)
	require.Zero(t, r.n["lost"], r.last)
	require.Zero(t, r.n["duplicated"], r.last)
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// some returns n orders of ten customers.
func some(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"id":"o-%d","customer":"c-%d","amount":%d.50,"currency":"EUR"}`+"\n", i, i%10, 1+i%90)
	}
	return b.String()
}

// verify compares the two stores by itself, with nothing of the program's audit: every
// order is paid once or dead and never paid, and what each customer was charged is in
// the order in which the orders were accepted.
func verify(t *testing.T, ledger, service string, orders, dead int) {
	t.Helper()
	times := map[string]int{}
	var sequence []string
	require.NoError(t, payments.ReadCharges(service, func(c payments.Charge) error {
		times[c.Payment.Order]++
		sequence = append(sequence, c.Payment.Order)
		return nil
	}))
	s, err := store.Open(ledger, 1)
	require.NoError(t, err)
	defer s.Close()
	seen, buried := 0, 0
	accepted := map[string]store.Record{}
	require.NoError(t, s.Each(func(r store.Record) error {
		seen++
		accepted[r.Order.ID] = r
		switch r.State {
		case store.Paid:
			require.Equal(t, 1, times[r.Order.ID], "order %s", r.Order.ID)
		case store.Dead:
			buried++
			require.Equal(t, 0, times[r.Order.ID], "order %s", r.Order.ID)
		default:
			t.Errorf("order %s is %s at the end", r.Order.ID, r.State)
		}
		return nil
	}))
	require.Equal(t, orders, seen)
	require.Equal(t, dead, buried)
	require.Len(t, times, orders-dead)
	last := map[string]uint64{}
	for _, id := range sequence {
		r := accepted[id]
		require.Greater(t, r.Seq, last[r.Order.Customer], "order %s was charged before an earlier one of %s", id, r.Order.Customer)
		last[r.Order.Customer] = r.Seq
	}
}

// The default orders through a bad quarter of an hour, and the same again over what
// that left.
//
// Spec: Q1, Q2, Q3
func TestBadQuarterOfAnHour(t *testing.T) {
	t.Parallel()
	t.Run("http", func(t *testing.T) {
		badQuarterOfAnHour(t, "http", "402 the card was declined", "failed 8 times with 500")
	})
	t.Run("grpc", func(t *testing.T) {
		badQuarterOfAnHour(t, "grpc", "FAILED_PRECONDITION the card was declined", "failed 8 times with INTERNAL")
	})
}

func badQuarterOfAnHour(t *testing.T, transport string, dead ...string) {
	t.Parallel()
	data := t.TempDir()
	args := []string{"-data", data, "-faults", write(t, "faults", quick), "-rate", "110", "-transport", transport}
	r := orders(t, t.Context(), "", args...)
	r.settled(t, 400, 8)
	require.Positive(t, r.n["queued"]-r.n["dead"])
	for _, says := range append(dead,
		"storm: every answer is 503", "closed → open", "→ half-open → closed", "is queued to be tried again:", "empty: replayed",
	) {
		require.Contains(t, r.stdout, says)
	}
	require.NotContains(t, r.stdout, "\x1b", "no terminal, no escapes")
	require.Contains(t, r.stdout, "ledgers compared, the client's and the service's: 392 payments in both\norders=")
	require.NotContains(t, r.stdout, "rm -r", "the directory was named, so it is the user's")
	var fellBack, behind int
	at := strings.Index(r.stdout, "the fallback queued")
	_, err := fmt.Sscanf(r.stdout[at:], "the fallback queued %d orders; %d more", &fellBack, &behind)
	require.NoError(t, err)
	require.Equal(t, r.n["queued"], fellBack+behind, "all that were queued are told of")
	for line := range strings.Lines(r.stdout) {
		require.LessOrEqual(t, utf8.RuneCountInString(line), 200, line)
	}

	again := orders(t, t.Context(), "", append(args[:2:2], "-faults", "none", "-rate", "0")...)
	again.settled(t, 400, 8)
	require.Equal(t, r.last, again.last, "an order counts once, however often it is sent")
	require.Contains(t, again.stdout, "400 orders were known from an earlier run")
	verify(t, filepath.Join(data, ledgerFile), filepath.Join(data, paymentsFile), 400, 8)
}

// A service in another process is paid, asked and audited over gRPC as well, and one that
// is not there loses nothing.
func TestRemoteServiceOverGRPC(t *testing.T) {
	t.Parallel()
	script, err := payments.ParseScript(strings.NewReader("brownout 500ms latency=5ms errors=0.5\nrecovery"))
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), paymentsFile)
	service, err := payments.Start(payments.Config{Path: path, Script: script, Seed: 1})
	require.NoError(t, err)
	data := t.TempDir()
	args := []string{"-transport", "grpc", "-payment-url", service.URL(), "-rate", "0", "-data", data, "-orders", "-"}
	// The amount meets a bug in the service, so in the end the client asks about the order.
	cursed := `{"id":"cursed","customer":"c-0","amount":666.66,"currency":"EUR"}` + "\n"
	r := orders(t, t.Context(), some(40)+cursed, args...)
	r.settled(t, 41, 1)
	require.Contains(t, r.stdout, "over grpc")
	require.Contains(t, r.stdout, "order cursed of c-0 can never be paid: failed 8 times with INTERNAL")
	require.NoError(t, service.Close())
	verify(t, filepath.Join(data, ledgerFile), path, 41, 1)

	r = orders(t, t.Context(), `{"id":"late","customer":"c-1","amount":1,"currency":"EUR"}`, append(args[:len(args):len(args)], "-patience", "300ms")...)
	require.NotEqual(t, exitOK, r.code, "nobody is there to compare with")
	require.Zero(t, r.n["lost"])
}

// Spec: Q4
func TestFullQueueHoldsTheIntake(t *testing.T) {
	t.Parallel()
	r := orders(t, t.Context(), some(100), "-data", t.TempDir(), "-orders", "-", "-rate", "0", "-queue", "15",
		"-faults", write(t, "faults", "refused 1s\nrecovery"))
	r.settled(t, 100, 0)
	require.Contains(t, r.stdout, "full: 15 orders are not settled, so no more are accepted")
}

func TestBadLines(t *testing.T) {
	t.Parallel()
	lines := []string{
		"\uFEFF" + `{"id":"ok-1","customer":"c","amount":1,"currency":"EUR"}` + "\r",
		``,
		`{"id":"x","customer":"c"`,
		`{"id":"x","customer":"c","amount":NaN,"currency":"EUR"}`,
		`{"id":"x","customer":"c","amount":"NaN","currency":"EUR"}`,
		`{"id":"x","customer":"c","amount":-5,"currency":"EUR"}`,
		`{"id":"x","customer":"c","amount":0.00,"currency":"EUR"}`,
		`{"id":"x","customer":"c","amount":1e300,"currency":"EUR"}`,
		`{"id":"x","customer":"c","amount":99999999999999999999999,"currency":"EUR"}`,
		`{"id":"x","customer":"c","amount":1.005,"currency":"EUR"}`,
		`{"id":"x","customer":"c","currency":"EUR"}`,
		`{"id":"x y","customer":"c","amount":1,"currency":"EUR"}`,
		`{"id":"","customer":"c","amount":1,"currency":"EUR"}`,
		`{"id":"x","customer":"\u001b[2J","amount":1,"currency":"EUR"}`,
		`{"id":"x","customer":"c","amount":1,"currency":"euro"}`,
		`[1,2]`,
		`{"id":"x","customer":"c","amount":1,"currency":"EUR"} trailing`,
		"{\"id\":\"\xff\",\"customer\":\"c\",\"amount\":1,\"currency\":\"EUR\"}",
		`{"id":"x","customer":"` + strings.Repeat("y", 3*maxLine) + `","amount":1,"currency":"EUR"}`,
		`{"id":"ok-1","customer":"c","amount":1,"currency":"EUR"}`,
		`{"id":"ok-1","customer":"c","amount":2,"currency":"EUR"}`,
		`{"id":"ok-2","customer":"c","amount":12.5,"currency":"EUR"}`, // and no newline
	}
	r := orders(t, t.Context(), strings.Join(lines, "\n"), "-orders", "-", "-data", t.TempDir(), "-faults", "none", "-rate", "0")
	r.settled(t, 2, 0)
	for line, reason := range map[int]string{
		3: "not an order in JSON", 4: "not an order in JSON", 5: "without quotes", 6: "amount is -5, must be positive",
		7: "amount is 0.00, must be positive", 8: "plain decimal number", 9: "at most 1000000", 10: "at most two places",
		11: "amount is missing", 12: `id is "x y"`, 13: `id is ""`, 14: "customer is", 15: `currency is "euro"`,
		16: "not an order in JSON", 17: "not an order in JSON", 18: "not UTF-8", 19: "longer than 65536 bytes",
	} {
		require.Regexp(t, fmt.Sprintf(`line %d refused: .*%s`, line, regexp.QuoteMeta(reason)), r.stdout)
	}
	require.Contains(t, r.stdout, "17 lines were refused")
	require.Contains(t, r.stdout, "order ok-1 came again, and counts once")
	require.Contains(t, r.stdout, "order ok-1 came again with other content")
	require.NotContains(t, r.stdout, "\x1b")
}

func hashes(t *testing.T, dir string) map[string]string {
	t.Helper()
	sums := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		sums[path] = fmt.Sprintf("%x", sha256.Sum256(b))
		return err
	}))
	return sums
}

// Spec: Q5
func TestDamagedDataIsLeftAlone(t *testing.T) {
	t.Parallel()
	sound := t.TempDir()
	orders(t, t.Context(), some(60), "-orders", "-", "-data", sound, "-faults", "none", "-rate", "0").settled(t, 60, 0)
	damage := map[string]func([]byte) []byte{
		"cut in half":  func(b []byte) []byte { return b[:len(b)/2] },
		"cut to none":  func(b []byte) []byte { return nil },
		"cut a little": func(b []byte) []byte { return b[:len(b)-100] },
		"garbage":      func(b []byte) []byte { return bytes.Repeat([]byte("garbage "), 4096) },
		"a lost root":  func(b []byte) []byte { b[16+4096] ^= 1; return b },
		"a flipped record": func(b []byte) []byte {
			i := bytes.LastIndex(b, []byte(`"currency":"EUR"`)) // old copies come first
			for ; i >= 0; i = bytes.LastIndex(b[:i], []byte(`"currency":"EUR"`)) {
				b[i+12] ^= 1 // every copy, as one cannot tell which is live
			}
			return b
		},
	}
	for _, file := range []string{ledgerFile, paymentsFile} {
		for name, damage := range damage {
			t.Run(file+" "+name, func(t *testing.T) {
				data := t.TempDir()
				for _, f := range []string{ledgerFile, paymentsFile} {
					b, err := os.ReadFile(filepath.Join(sound, f))
					require.NoError(t, err)
					if f == file {
						b = damage(b)
					}
					require.NoError(t, os.WriteFile(filepath.Join(data, f), b, 0o600))
				}
				before := hashes(t, data)
				r := orders(t, t.Context(), "", "-data", data, "-faults", "none", "-rate", "0")
				require.Equal(t, exitUsage, r.code)
				require.Empty(t, r.stdout)
				require.Contains(t, r.stderr, "is damaged: ")
				require.Contains(t, r.stderr, file)
				require.Contains(t, r.stderr, "nothing was changed")
				require.Equal(t, before, hashes(t, data))
			})
		}
	}
}

func TestUnusableData(t *testing.T) {
	t.Parallel()
	t.Run("a file", func(t *testing.T) {
		r := orders(t, t.Context(), "", "-data", write(t, "file", "x"))
		require.Equal(t, exitUsage, r.code)
		require.Contains(t, r.stderr, "not a directory")
	})
	t.Run("in use", func(t *testing.T) {
		data := t.TempDir()
		s, err := store.Open(filepath.Join(data, ledgerFile), 10)
		require.NoError(t, err)
		defer s.Close()
		before := hashes(t, data)
		r := orders(t, t.Context(), "", "-data", data)
		require.Equal(t, exitUsage, r.code)
		require.Contains(t, r.stderr, "in use by another process")
		require.Equal(t, before, hashes(t, data))
	})
	t.Run("no permission", func(t *testing.T) {
		if os.Geteuid() == 0 {
			t.Skip("root may read everything")
		}
		data := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(data, ledgerFile), []byte("x"), 0o000))
		r := orders(t, t.Context(), "", "-data", data)
		require.Equal(t, exitUsage, r.code)
		require.Contains(t, r.stderr, "permission denied")
	})
}

func TestFlags(t *testing.T) {
	t.Parallel()
	for args, says := range map[string]string{
		"-rate NaN":                       "-rate is NaN",
		"-rate -1":                        "-rate is -1",
		"-queue 0":                        "-queue is 0",
		"-transport carrier-pigeon":       `-transport is "carrier-pigeon"`,
		"-patience 0s":                    "-patience is 0s",
		"-seed -1":                        "invalid value",
		"-payment-url ftp://x":            "not an http or https URL",
		"-payment-url http://x -faults a": "-faults is for the built-in service",
		"-stay":                           "-stay is for the page",
		"-http x -serve y":                "-serve runs none",
		"-orders /no/such/file":           "no such file",
		"-orders /":                       "is a directory",
		"-faults /no/such/file":           "no such file",
		"orders.jsonl":                    `"orders.jsonl" is not a flag`,
		"-nonsense":                       "not defined",
	} {
		t.Run(args, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "d")
			r := orders(t, t.Context(), "", append(strings.Fields(args), "-data", data)...)
			if args == "orders.jsonl" {
				r = orders(t, t.Context(), "", "-data", data, args)
			}
			require.Equal(t, exitUsage, r.code)
			require.Contains(t, r.stderr, says)
			require.NoDirExists(t, data)
		})
	}
	r := orders(t, t.Context(), "", "-help")
	require.Equal(t, exitOK, r.code)
	require.Contains(t, r.stdout, "Examples:")
	require.Empty(t, r.stderr)
}

// A service that never comes back ends the run, with everything kept for the next.
//
// Spec: Q1
func TestPatience(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	r := orders(t, t.Context(), some(20), "-orders", "-", "-data", data, "-rate", "0", "-patience", "500ms",
		"-faults", write(t, "faults", "refused"))
	require.Equal(t, exitWaiting, r.code, r.stdout)
	require.Contains(t, r.stdout, "still waiting, safe in "+data+": 20 orders;")
	require.Equal(t, "orders=20 paid=0 direct=0 queued=20 replayed=0 dead=0 lost=0 duplicated=0", r.last)

	r = orders(t, t.Context(), "", "-orders", "-", "-data", data, "-rate", "0", "-faults", "none")
	r.settled(t, 20, 0)
	require.Equal(t, 20, r.n["replayed"])
}

func TestInterrupt(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(400*time.Millisecond, cancel)
	r := orders(t, ctx, some(200), "-orders", "-", "-data", data, "-rate", "100", "-faults", "none")
	require.Equal(t, exitWaiting, r.code, r.stdout)
	require.Contains(t, r.stdout, "stopping: interrupted")
	require.Contains(t, r.stdout, "not all orders were taken in")
	require.Zero(t, r.n["lost"]+r.n["duplicated"])
	require.Less(t, r.n["orders"], 200)

	orders(t, t.Context(), some(200), "-orders", "-", "-data", data, "-rate", "0", "-faults", "none").settled(t, 200, 0)
	verify(t, filepath.Join(data, ledgerFile), filepath.Join(data, paymentsFile), 200, 0)
}

// An outage in which every answer is a 500 buries nobody. The oldest order was the
// probe each time, and after eight probes it was declared dead, though half of those
// answers had taken the money.
//
// Spec: Q1, Q3
func TestOutageBuriesNobody(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	orders(t, t.Context(), some(30), "-orders", "-", "-data", data, "-rate", "0",
		"-faults", write(t, "faults", "brownout 8s latency=5ms errors=1\nrecovery")).settled(t, 30, 0)
	verify(t, filepath.Join(data, ledgerFile), filepath.Join(data, paymentsFile), 30, 0)
}

// An order whose connection is always cut is tried behind the others, which get paid,
// and is parked in the end: but not before the service has said that it never charged
// it. Until then its customer's other orders wait; afterwards they are paid too.
//
// Spec: Q3
func TestCutOrderStarvesNobody(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var charges []payments.Charge
	mux := http.NewServeMux()
	mux.HandleFunc("POST /payments", func(w http.ResponseWriter, r *http.Request) {
		var p payments.Payment
		if err := json.NewDecoder(r.Body).Decode(&p); err != nil || p.Order == "o-0" {
			panic(http.ErrAbortHandler)
		}
		mu.Lock()
		defer mu.Unlock()
		charges = append(charges, payments.Charge{Key: r.Header.Get("Idempotency-Key"), Payment: p})
		w.WriteHeader(http.StatusCreated)
	})
	mux.HandleFunc("GET /payments/{key}", func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, "order-o-0", r.PathValue("key"))
		w.WriteHeader(http.StatusNotFound)
	})
	mux.HandleFunc("GET /payments", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range charges {
			json.NewEncoder(w).Encode(c)
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	r := orders(t, t.Context(), some(30), "-orders", "-", "-data", t.TempDir(), "-rate", "0", "-payment-url", server.URL)
	r.settled(t, 30, 1)
	require.Contains(t, r.stdout, "order o-0 of c-0 can never be paid: failed 8 times with connection cut")
}

// broken is a payment service with a bug, which the audit must find.
func broken(t *testing.T, charge func(p payments.Payment, record func(payments.Payment))) string {
	t.Helper()
	var mu sync.Mutex
	var charges []payments.Charge
	mux := http.NewServeMux()
	mux.HandleFunc("POST /payments", func(w http.ResponseWriter, r *http.Request) {
		var p payments.Payment
		json.NewDecoder(r.Body).Decode(&p)
		mu.Lock()
		defer mu.Unlock()
		charge(p, func(p payments.Payment) { charges = append(charges, payments.Charge{Payment: p}) })
		w.WriteHeader(http.StatusCreated)
	})
	mux.HandleFunc("GET /payments", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range charges {
			json.NewEncoder(w).Encode(c)
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

func TestAuditFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		charge func(p payments.Payment, record func(payments.Payment))
		last   string
		says   string
	}{
		"nothing": {
			func(p payments.Payment, record func(payments.Payment)) { record(p) },
			"lost=0 duplicated=0", "",
		},
		"twice": {
			func(p payments.Payment, record func(payments.Payment)) {
				record(p)
				if p.Order == "o-3" {
					record(p)
				}
			},
			"lost=0 duplicated=1", "order o-3 was charged 2 times",
		},
		"never": {
			func(p payments.Payment, record func(payments.Payment)) {
				if p.Order != "o-4" {
					record(p)
				}
			},
			"lost=1 duplicated=0", "order o-4 is paid by the ledger, and was never charged",
		},
		"too much": {
			func(p payments.Payment, record func(payments.Payment)) {
				if p.Order == "o-5" {
					p.Cents++
				}
				record(p)
			},
			"lost=1 duplicated=0", "order o-5 was charged as another payment",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := orders(t, t.Context(), some(10), "-orders", "-", "-data", t.TempDir(), "-rate", "0",
				"-payment-url", broken(t, tt.charge))
			want := exitLost
			if tt.says == "" {
				want = exitOK
			}
			require.Equal(t, want, r.code, r.stdout)
			require.True(t, strings.HasSuffix(r.last, tt.last), r.last)
			require.Contains(t, r.stdout, tt.says)
		})
	}
}

// Without the service's list nothing is known, and nothing is claimed.
func TestServiceWithoutList(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			http.NotFound(w, r)
			return
		}
		w.WriteHeader(http.StatusCreated)
	}))
	defer server.Close()
	url := strings.Replace(server.URL, "http://", "http://user:secret@", 1)
	r := orders(t, t.Context(), some(3), "-orders", "-", "-data", t.TempDir(), "-rate", "0", "-payment-url", url)
	require.Equal(t, exitLost, r.code)
	require.Contains(t, r.last, "lost=unknown duplicated=unknown")
	require.NotContains(t, r.stdout+r.stderr, "secret")
}

// The progress line of a terminal is taken away before anything else is printed.
func TestTerminal(t *testing.T) {
	var out bytes.Buffer
	r := newReport(&out, true)
	r.tick()
	r.event("who", "what")
	r.tick()
	r.plain("end")
	screen := out.String()
	for _, line := range strings.Split(screen, "\n") {
		if i := strings.LastIndex(line, "\x1b[K"); i >= 0 {
			line = line[i+3:]
		}
		require.NotContains(t, line, "breaker closed")
	}
	require.Equal(t, 4, strings.Count(screen, "\r\x1b[K"))
}

// The page is there while the run goes on, and with -stay when it is over.
func TestPage(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()

	// The address is taken: that is said before any order is.
	data := t.TempDir()
	r := orders(t, t.Context(), some(5), "-orders", "-", "-data", data, "-http", addr)
	require.Equal(t, exitUsage, r.code)
	require.Contains(t, r.stderr, "-http: ")
	require.NoError(t, l.Close())

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan result, 1)
	go func() {
		done <- orders(t, ctx, some(20), "-orders", "-", "-data", data, "-rate", "0", "-faults", "none", "-http", addr, "-stay")
	}()
	settled := `"n":"successes","u":"{call}","c":true,"l":{"attempt":"1"},"v":20`
	require.Eventually(t, func() bool {
		resp, err := http.Get("http://" + addr + "/debug/mettle/events")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				return strings.Contains(data, settled)
			}
		}
		return false
	}, 30*time.Second, 50*time.Millisecond)
	select {
	case <-done:
		t.Fatal("the program ended without being told to")
	default:
	}
	cancel()
	r = <-done
	require.Contains(t, r.stdout, "http://"+addr+"/debug/mettle/")
	r.settled(t, 20, 0)
}
