package payments_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mettle-go/mettle/examples/orders/internal/payments"
)

func start(t *testing.T, script string) *payments.Service {
	t.Helper()
	parsed, err := payments.ParseScript(strings.NewReader(script))
	require.NoError(t, err)
	s, err := payments.Start(payments.Config{Path: filepath.Join(t.TempDir(), "payments.db"), Script: parsed, Seed: 1})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

type answer struct {
	status int
	header http.Header
	body   string
}

func post(t *testing.T, s *payments.Service, key, body string) (answer, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL()+"/payments", strings.NewReader(body))
	require.NoError(t, err)
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b)}, err
}

func charged(t *testing.T, s *payments.Service) map[string]int {
	t.Helper()
	got := map[string]int{}
	require.NoError(t, s.Charges(func(c payments.Charge) error { got[c.Payment.Order]++; return nil }))
	return got
}

const good = `{"order":"o1","customer":"c1","cents":100,"currency":"EUR"}`

// Spec: Q2
func TestOneKeyOneCharge(t *testing.T) {
	s := start(t, "healthy")
	var wait sync.WaitGroup
	answers := make([]answer, 20)
	for i := range answers {
		wait.Go(func() { answers[i], _ = post(t, s, "k1", good) })
	}
	wait.Wait()
	first := 0
	for _, a := range answers {
		require.Equal(t, 201, a.status)
		require.Equal(t, answers[0].body, a.body, "every answer tells of the same charge")
		if a.header.Get("Idempotent-Replayed") == "" {
			first++
		}
	}
	require.Equal(t, 1, first)
	require.Equal(t, map[string]int{"o1": 1}, charged(t, s))

	a, err := post(t, s, "k1", strings.Replace(good, "100", "200", 1))
	require.NoError(t, err)
	require.Equal(t, 422, a.status, "a key is for one payment")
	// The journal itself would take a charge twice, so that a client without keys
	// shows in the audit.
	_, err = post(t, s, "k2", good)
	require.NoError(t, err)
	require.Equal(t, map[string]int{"o1": 2}, charged(t, s))
}

func TestRefusals(t *testing.T) {
	s := start(t, "healthy 1h latency=0s")
	for body, status := range map[string]int{
		good: 201,
		`{`:  400,
		`{"order":"","customer":"c","cents":1,"currency":"EUR"}`:        422,
		`{"order":"o2","customer":"c","cents":-1,"currency":"EUR"}`:     422,
		`{"order":"o3","customer":"gone-1","cents":1,"currency":"EUR"}`: 403,
		`{"order":"o4","customer":"c","cents":500001,"currency":"EUR"}`: 402,
		`{"order":"o5","customer":"c","cents":1,"currency":"XTS"}`:      422,
		`{"order":"o6","customer":"c","cents":66666,"currency":"EUR"}`:  500,
	} {
		a, err := post(t, s, "key of "+body[:min(20, len(body))], body)
		require.NoError(t, err)
		require.Equal(t, status, a.status, body)
	}
	a, err := post(t, s, "", good)
	require.NoError(t, err)
	require.Equal(t, 400, a.status)
	require.Equal(t, map[string]int{"o1": 1}, charged(t, s))
}

func TestPhases(t *testing.T) {
	s := start(t, "storm 300ms retry-after=1500ms\nrefused 300ms\nhang 300ms\nrecovery")
	a, err := post(t, s, "k", good)
	require.NoError(t, err)
	require.Equal(t, 503, a.status)
	require.Equal(t, "2", a.header.Get("Retry-After"), "rounded up")
	require.Empty(t, charged(t, s))

	require.Eventually(t, func() bool {
		_, err := post(t, s, "k", good)
		return err != nil && strings.Contains(err.Error(), syscall.ECONNREFUSED.Error())
	}, 3*time.Second, 10*time.Millisecond, "the listener is really closed")

	require.Eventually(t, func() bool {
		a, err := post(t, s, "k", good)
		return err == nil && a.status == 201
	}, 5*time.Second, 10*time.Millisecond, "it comes back at the same address")
	require.Equal(t, map[string]int{"o1": 1}, charged(t, s))
}

// A brownout loses answers after the work was done, or else idempotency would have
// nothing to do.
func TestBrownoutLosesAnswers(t *testing.T) {
	s := start(t, "brownout 1h latency=0s errors=1")
	for i := range 20 {
		body := strings.Replace(good, "o1", "o"+string(rune('a'+i)), 1)
		a, err := post(t, s, "k"+string(rune('a'+i)), body)
		require.NoError(t, err)
		require.Equal(t, 500, a.status)
	}
	n := len(charged(t, s))
	require.Greater(t, n, 3)
	require.Less(t, n, 17)
}

func TestList(t *testing.T) {
	s := start(t, "healthy")
	_, err := post(t, s, "k1", good)
	require.NoError(t, err)
	resp, err := http.Get(s.URL() + "/payments")
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, 1, bytes.Count(body, []byte("\n")))
	require.Contains(t, string(body), `"key":"k1"`)
}

func TestParseScript(t *testing.T) {
	script, err := payments.ParseScript(strings.NewReader("# why\nbrownout 2s latency=1ms errors=0.25 # here\n\nrecovery\n"))
	require.NoError(t, err)
	require.Equal(t, payments.Script{
		{Kind: "brownout", For: 2 * time.Second, Latency: time.Millisecond, Errors: 0.25},
		{Kind: "recovery", Latency: 10 * time.Millisecond},
	}, script)

	_, err = payments.ParseScript(strings.NewReader("outage 1s\nhang\nstorm 1s errors=NaN\nhang -1s\nhang 1s for=2\nhang 2h\nhang 0s\n"))
	for _, says := range []string{
		`line 1: "outage" is no phase`, "line 2: has no duration", "line 3: errors is NaN", `line 4: "-1s" is no duration`,
		`line 5: "for=2" is no setting`, `line 6: "2h" is no duration`, "line 7: a phase of no length",
	} {
		require.ErrorContains(t, err, says)
	}
}
