package dashboard_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/dashboard"
	"github.com/mettle-go/mettle/fallback"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// frame is a snapshot as a client reads it.
type frame struct {
	At, Tick, Interval int64
	Overrides          bool
	Items              []struct {
		Name   string
		Layers []int
	}
	Layers []struct{ Cards []card }
}

type card struct {
	Kind, Name string
	Metrics    []struct {
		N, U string
		C    bool
		L    map[string]string
		V    *float64
	}
	Config   [][2]string
	Changes  []change
	Override *struct{ By, Reason, For string }
	Keys     []struct {
		Name, State string
		Failed      int
		Last        *change
		Override    *struct{ By, Reason, For string }
		Forceable   bool
	}
	MoreKeys  int
	Forceable bool
}

type change struct {
	At            int64
	From, To, Why string
}

// setting returns the value of a setting, "" where there is none.
func (c card) setting(name string) string {
	for _, s := range c.Config {
		if s[0] == name {
			return s[1]
		}
	}
	return ""
}

// stream is a client of the events, over no socket.
type stream struct {
	io.Reader
	cancel context.CancelFunc
	ended  chan struct{}
}

// pipeWriter is a ResponseWriter with deadlines, which a ResponseRecorder has not.
type pipeWriter struct {
	*io.PipeWriter
	header http.Header
	status int
}

func (w *pipeWriter) Header() http.Header              { return w.header }
func (w *pipeWriter) WriteHeader(status int)           { w.status = status }
func (w *pipeWriter) Flush()                           {}
func (w *pipeWriter) SetWriteDeadline(time.Time) error { return nil }

func open(h http.Handler) *stream {
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	s := &stream{bufio.NewReader(r), cancel, make(chan struct{})}
	go func() {
		defer close(s.ended)
		defer w.Close()
		h.ServeHTTP(&pipeWriter{PipeWriter: w, header: http.Header{}}, httptest.NewRequestWithContext(ctx, "GET", "/debug/mettle/events", nil))
	}()
	return s
}

// next reads the next event, to the letter.
func (s *stream) next(t *testing.T) frame {
	t.Helper()
	var f frame
	line, err := s.Reader.(*bufio.Reader).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if line == "retry: 1000\n" {
		s.blank(t)
		line, _ = s.Reader.(*bufio.Reader).ReadString('\n')
	}
	data, ok := strings.CutPrefix(line, "data: ")
	if !ok {
		t.Fatalf("an event begins with %.60q", line)
	}
	if strings.ContainsAny(data, "<>&") {
		t.Errorf("markup goes over the wire as it is: %s", data)
	}
	s.blank(t)
	if err := json.Unmarshal([]byte(data), &f); err != nil {
		t.Fatal(err)
	}
	return f
}

func (s *stream) blank(t *testing.T) {
	t.Helper()
	if line, err := s.Reader.(*bufio.Reader).ReadString('\n'); line != "\n" || err != nil {
		t.Fatalf("an event ends with %q, %v", line, err)
	}
}

// snapshot returns what a handler tells now.
func snapshot(t *testing.T, h http.Handler) frame {
	t.Helper()
	w := httptest.NewRecorder() // has no deadlines, and so gets one event
	h.ServeHTTP(w, httptest.NewRequest("GET", "/events", nil))
	if got := w.Header().Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("events are of type %q", got)
	}
	return (&stream{Reader: bufio.NewReader(w.Body)}).next(t)
}

func pass(ctx context.Context, op func(context.Context) error) error { return op(ctx) }

// The layers are those of the pipelines, outermost first; one that several have is there
// once, a pipeline within a pipeline comes apart, and a policy of the user's own is there as well.
func TestPipelinesAreDrawnAsComposed(t *testing.T) {
	guard := breaker.New(breaker.Config{Name: "b", OpenFor: 2 * time.Second})
	inner := mettle.Compose(guard, bulkhead.New(bulkhead.Config{Name: "s", Limit: 7}))
	outer := mettle.Compose(timeout.New(timeout.Config{Name: "t", After: 3 * time.Second}),
		retry.New(retry.Config{Name: "r"}), mettle.PolicyFunc(pass), mettle.PolicyFunc(pass), inner)
	f := snapshot(t, dashboard.Handler(outer, inner, new(mettle.Pipeline)))

	if len(f.Items) != 3 || f.Items[0].Name != "pipeline 1" || f.Items[1].Name != "pipeline 2" {
		t.Fatalf("items are %v", f.Items)
	}
	if got := f.Items[0].Layers; !slices.Equal(got, []int{0, 1, 2, 3, 4, 5}) {
		t.Errorf("the first pipeline has the layers %v", got)
	}
	if got := f.Items[1].Layers; !slices.Equal(got, []int{4, 5}) {
		t.Errorf("the second pipeline has the layers %v, want those it shares with the first", got)
	}
	if got := f.Items[2].Layers; got == nil || len(got) != 0 {
		t.Errorf("an empty pipeline has the layers %v, want an empty list", got)
	}
	var kinds []string
	for _, l := range f.Layers {
		if len(l.Cards) != 1 {
			t.Fatalf("a policy has %d cards", len(l.Cards))
		}
		kinds = append(kinds, l.Cards[0].Kind+" "+l.Cards[0].Name)
	}
	want := []string{"timeout t", "retry r", "policy mettle.PolicyFunc", "policy mettle.PolicyFunc", "breaker b", "bulkhead s"}
	if !slices.Equal(kinds, want) {
		t.Errorf("cards are %q, want %q", kinds, want)
	}
	for _, s := range []struct {
		layer       int
		name, value string
	}{{0, "After", "3s"}, {1, "MaxAttempts", "3"}, {1, "Budget.Ratio", "0.1"}, {4, "OpenFor", "2s"}, {4, "SlowCall", "off"}, {5, "Limit", "7"}} {
		if got := f.Layers[s.layer].Cards[0].setting(s.name); got != s.value {
			t.Errorf("%s says %s is %q, want %q", kinds[s.layer], s.name, got, s.value)
		}
	}
	if f.Overrides {
		t.Error("a page without Authorize offers overrides")
	}

	// What changes while it runs is shown as it is then.
	if err := guard.Reconfigure(breaker.Config{OpenFor: 4 * time.Second}); err != nil {
		t.Fatal(err)
	}
	if got := snapshot(t, dashboard.Handler(inner)).Layers[0].Cards[0].setting("OpenFor"); got != "4s" {
		t.Errorf("after Reconfigure, OpenFor is shown as %q", got)
	}
}

// wearer is an adapter that tells which policies it wears, and has no others.
type wearer struct {
	mettle.Observable
	policies []mettle.Policy
}

func (w wearer) Policies() []mettle.Policy { return w.policies }

// What says which policies it has is drawn as these, a pipeline among them as its own.
func TestWearersAreDrawnAsTheirPolicies(t *testing.T) {
	guard := breaker.New(breaker.Config{Name: "b"})
	p := mettle.Compose(timeout.New(timeout.Config{Name: "t"}), guard)
	f := snapshot(t, dashboard.New(dashboard.Config{Show: []dashboard.Item{
		{Of: wearer{p, []mettle.Policy{p, nil, retry.New(retry.Config{Name: "r"}), guard}}},
	}}))
	if got := f.Items[0].Layers; !slices.Equal(got, []int{0, 1, 2, 1}) {
		t.Errorf("the layers are %v", got)
	}
	if c := f.Layers[2].Cards[0]; c.Kind != "retry" || c.Name != "r" {
		t.Errorf("the third card is %+v", c)
	}
}

func TestPartsHaveCardsOfTheirOwn(t *testing.T) {
	part := bulkhead.NewPartition(bulkhead.PartitionConfig{Name: "db", Pools: []bulkhead.PoolConfig{{Name: "a", Limit: 3}, {Name: "b", Limit: 4}}})
	f := snapshot(t, dashboard.New(dashboard.Config{Show: []dashboard.Item{
		{Name: "db", Of: mettle.Compose(part.By(func(context.Context) string { return "a" }))},
		{Name: "client", Of: mettlehttp.NewTransport(nil, nil)},
	}}))
	got := map[string]string{}
	for _, c := range f.Layers[0].Cards {
		got[c.Name] = c.setting("Limit")
	}
	if got["db[a]"] != "3" || got["db[b]"] != "4" {
		t.Errorf("the pools have the limits %v", got)
	}
	n := 0
	for _, i := range f.Items[1].Layers {
		n += len(f.Layers[i].Cards)
	}
	if n < 4 {
		t.Errorf("the standard pipeline has %d cards", n)
	}
}

// A Transport is drawn as the pipeline it runs, with the breakers of its hosts.
func TestTransportIsDrawnAsItsPipeline(t *testing.T) {
	down := errors.New("down")
	transport := mettlehttp.NewTransport(roundTripper(func(*http.Request) (*http.Response, error) { return nil, down }), nil)
	req := httptest.NewRequest(http.MethodPost, "http://down.test/", nil)
	if _, err := transport.RoundTrip(req); !errors.Is(err, down) {
		t.Fatal(err)
	}
	f := snapshot(t, dashboard.New(dashboard.Config{Show: []dashboard.Item{{Name: "client", Of: transport}}}))
	var kinds []string
	for _, i := range f.Items[0].Layers {
		c := f.Layers[i].Cards[0]
		kinds = append(kinds, c.Kind)
		if c.Kind == "breaker" && (len(c.Keys) != 1 || !strings.Contains(c.Keys[0].Name, "http://down.test:80") || c.Keys[0].Failed != 1) {
			t.Errorf("the breakers are shown as %+v", c.Keys)
		}
		if len(c.Config) == 0 {
			t.Errorf("%s is shown without its configuration", c.Kind)
		}
	}
	if want := []string{"timeout", "retry", "breaker", "bulkhead", "timeout"}; !slices.Equal(kinds, want) {
		t.Errorf("the pipeline is drawn as %q, want %q", kinds, want)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// A budget that several policies share is one thing on its own, and not another retry.
func TestBudgetIsNoRetry(t *testing.T) {
	shared := retry.NewBudget(retry.BudgetConfig{Name: "payments"})
	f := snapshot(t, dashboard.New(dashboard.Config{Show: []dashboard.Item{
		{Of: mettle.Compose(retry.New(retry.Config{Name: "payments", Budget: shared}))}, {Of: shared},
	}}))
	if a, b := f.Layers[0].Cards[0], f.Layers[1].Cards[0]; a.Kind != "retry" || b.Kind != "budget" || b.Name != "payments" {
		t.Errorf("the cards are %s %s and %s %s", a.Kind, a.Name, b.Kind, b.Name)
	}
	if got := f.Layers[1].Cards[0].setting("Burst"); got != "10" {
		t.Errorf("the budget says that Burst is %q", got)
	}
}

func TestChangesAndOverridesAreTold(t *testing.T) {
	b := breaker.New(breaker.Config{Name: "b", Consecutive: 3, OpenFor: time.Minute})
	h := dashboard.Handler(mettle.Compose(b))
	for range 3 {
		_ = b.Do(context.Background(), func(context.Context) error { return errors.New("password=secret") })
	}
	b.ForceClosed(breaker.Override{For: time.Hour, By: "ann", Reason: "a drill"})
	c := snapshot(t, h).Layers[0].Cards[0]
	if len(c.Changes) != 2 || c.Changes[0].To != "closed" || c.Changes[0].Why != "forced closed by ann: a drill" {
		t.Errorf("changes are %+v", c.Changes)
	}
	if first := c.Changes[1]; first.From != "closed" || first.To != "open" || !strings.HasPrefix(first.Why, "3 failures in a row; for 1m") {
		t.Errorf("the first change is %+v", first)
	}
	if ago := time.Since(time.UnixMilli(c.Changes[1].At)); ago < 0 || ago > time.Minute {
		t.Errorf("the first change was %v ago", ago)
	}
	if o := c.Override; o == nil || o.By != "ann" || o.Reason != "a drill" || o.For != "1h0m0s" {
		t.Errorf("the override is %+v", o)
	}
	if data, _ := json.Marshal(c); strings.Contains(string(data), "secret") {
		t.Error("the text of an error of the dependency is shown")
	}
}

// hostile is a policy that tells as much as it can.
type hostile struct{ mettle.Policy }

const markup = "</script><img src=x onerror=alert(1)>\r\n\r\ndata: {}\u2028"

func (hostile) Observe(yield func(mettle.Metric) bool) {
	long := strings.Repeat(markup, 1000)
	for i := range 100_000 {
		if !yield(mettle.Metric{Name: fmt.Sprintf("mettle.%s.%d", markup, i), Unit: long, Labels: []mettle.Label{
			{Key: "policy", Value: fmt.Sprint(i, "\xff", long)}, {Key: long, Value: long}}, Value: math.Inf(1)}) {
			return
		}
	}
}

// Names come through as text, in one event, and no policy makes it grow without bound.
//
// Spec: O5 (part)
func TestNamesAreEscapedAndBounded(t *testing.T) {
	h := dashboard.New(dashboard.Config{Show: []dashboard.Item{
		{Name: strings.Repeat(markup, 100), Of: mettle.Compose(hostile{mettle.PolicyFunc(pass)}, breaker.New(breaker.Config{Name: markup}))}}})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/events", nil))
	if n := w.Body.Len(); n > 1<<20 {
		t.Errorf("an event has %d bytes", n)
	}
	f := (&stream{Reader: bufio.NewReader(w.Body)}).next(t)
	if got := f.Layers[1].Cards[0].Name; got != markup {
		t.Errorf("a name comes through as %q", got)
	}
	if n := len(f.Layers[0].Cards); n > 32 {
		t.Errorf("a policy has %d cards", n)
	}
	if v := f.Layers[0].Cards[0].Metrics[0].V; v != nil {
		t.Errorf("infinity is told as %v", *v)
	}
}

// Of many keys, the worst are shown, and the others counted.
func TestGroupsAreBounded(t *testing.T) {
	g := breaker.NewGroup[string](breaker.GroupConfig{Config: breaker.Config{Name: "hosts", Consecutive: -1}})
	for i := range 1000 {
		b := g.Get(fmt.Sprint(i))
		for range i % 7 {
			_ = b.Do(context.Background(), func(context.Context) error { return errors.New("down") })
		}
	}
	g.Get("500").Trip("by hand")
	g.Get("501").ForceClosed(breaker.Override{})
	c := snapshot(t, dashboard.Handler(mettle.Compose(g.By(func(context.Context) string { return "" })))).Layers[0].Cards[0]
	if len(c.Keys) != 12 || c.MoreKeys != 988 {
		t.Fatalf("%d keys are shown and %d more, want 12 and 988", len(c.Keys), c.MoreKeys)
	}
	first := []string{c.Keys[0].Name, c.Keys[1].Name}
	slices.Sort(first)
	if !slices.Equal(first, []string{"hosts[500]", "hosts[501]"}) {
		t.Errorf("the first keys are %v, want the one that is open and the one that is forced", first)
	}
	for _, k := range c.Keys[2:] {
		if k.Failed != 6 {
			t.Errorf("%s has %d failures, want those with 6", k.Name, k.Failed)
		}
	}
	for _, k := range c.Keys[:2] {
		if k.Name == "hosts[500]" && (k.State != "open" || k.Last == nil || !strings.Contains(k.Last.Why, "by hand")) {
			t.Errorf("the key that was tripped is %+v", k)
		}
	}
}

// counting counts how often it is looked at.
type counting struct {
	mettle.Policy
	looks *atomic.Int64
}

func (c counting) Observe(yield func(mettle.Metric) bool) {
	c.looks.Add(1)
	yield(mettle.Metric{Name: "mettle.own.calls", Value: 1})
}

// However many pages are open, a policy is looked at once in each interval, and not at
// all when the last one has gone.
//
// Spec: O3 (part)
func TestSnapshotsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int64
		h := dashboard.New(dashboard.Config{Interval: 500 * time.Millisecond,
			Show: []dashboard.Item{{Of: mettle.Compose(counting{mettle.PolicyFunc(pass), &looks})}}})
		time.Sleep(time.Hour)
		if n := looks.Load(); n != 0 {
			t.Fatalf("with nobody there, it was looked at %d times", n)
		}
		time.Sleep(123 * time.Millisecond)
		streams := make([]*stream, 20)
		for i := range streams {
			streams[i] = open(h)
		}
		var last int64
		for n := range 10 {
			for i, s := range streams {
				f := s.next(t)
				if i == 0 && n > 0 && f.Tick != last+1 {
					t.Fatalf("tick %d follows %d", f.Tick, last)
				}
				if i > 0 && f.Tick != last {
					t.Fatalf("streams are at the ticks %d and %d", last, f.Tick)
				}
				last = f.Tick
			}
		}
		if n := looks.Load(); n != 10 {
			t.Errorf("20 pages looked %d times at 10 snapshots", n)
		}
		for _, s := range streams {
			s.cancel()
		}
		synctest.Wait()
		before := looks.Load()
		time.Sleep(time.Minute)
		if n := looks.Load(); n != before {
			t.Errorf("it was looked at %d times after all had gone", n-before)
		}
	})
}

// There are as many streams as there may be, each for ten minutes at most; what ends
// makes room.
func TestStreamsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := dashboard.Handler(mettle.Compose())
		var streams []*stream
		for range 64 {
			s := open(h)
			go io.Copy(io.Discard, s)
			streams = append(streams, s)
		}
		synctest.Wait()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/events", nil))
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("one stream too many gets %d and %v", w.Code, w.Header())
		}
		streams[0].cancel()
		<-streams[0].ended
		snapshot(t, h)
		begun := time.Now()
		for _, s := range streams {
			<-s.ended
		}
		if took := time.Since(begun); took < 9*time.Minute || took > 10*time.Minute {
			t.Errorf("streams lasted for %v", took)
		}
	})
}

// verbose is a policy that tells much, and takes no time for it.
type verbose struct{ mettle.Policy }

var manyLabels = func() (all [][]mettle.Label) {
	for i := range 200 {
		all = append(all, []mettle.Label{{Key: "at", Value: fmt.Sprint(i, strings.Repeat("x", 190))}})
	}
	return all
}()

func (*verbose) Observe(yield func(mettle.Metric) bool) {
	for _, labels := range manyLabels {
		if !yield(mettle.Metric{Name: "mettle.own.number", Labels: labels}) {
			return
		}
	}
}

// Clients that never read, that vanish in the middle of an event and that leave are all let
// go, over real sockets, where there is an end to what the system buffers. Afterwards there
// are as many goroutines as before, and as much memory in use.
func TestSlowAndVanishedClientsHoldNothing(t *testing.T) {
	// Events large enough to fill the buffers soon.
	h := dashboard.New(dashboard.Config{Interval: 100 * time.Millisecond, Show: []dashboard.Item{{Of: mettle.Compose(
		&verbose{}, &verbose{}, &verbose{}, &verbose{})}}})
	dashboard.SetPatience(h, 50*time.Millisecond)
	server := httptest.NewUnstartedServer(h)
	server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		_ = c.(*net.TCPConn).SetWriteBuffer(4 << 10)
		return ctx
	}
	server.Start()
	defer server.Close()
	visit := func() *net.TCPConn {
		c, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		fmt.Fprint(c, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, err := io.ReadFull(c, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		return c.(*net.TCPConn)
	}
	within := func(what string, holds func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !holds(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				buf := make([]byte, 1<<16)
				t.Fatalf("%s\n%s", what, buf[:runtime.Stack(buf, true)])
			}
		}
	}
	inUse := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	visit().Close() // what the first visit makes stays
	within("the first stream goes on", func() bool { return dashboard.Streams(h) == 0 })
	goroutines, memory := runtime.NumGoroutine(), inUse()

	for i := range 60 {
		c := visit()
		switch i % 3 {
		case 0: // never reads
			defer c.Close()
		case 1: // vanishes: the other end learns of it when it writes
			_ = c.SetLinger(0)
			c.Close()
		case 2: // leaves
			c.Close()
		}
	}
	within("streams of clients that are not there go on", func() bool { return dashboard.Streams(h) == 0 })
	within("goroutines stay", func() bool { return runtime.NumGoroutine() <= goroutines })
	if now := inUse(); now > memory+4<<20 {
		t.Errorf("%d kB are in use, and %d kB before", now>>10, memory>>10)
	}
}

// Every event is whole, so that who comes back with a Last-Event-ID gets what others get,
// and at once; "one" is for proxies that pass on only what has ended.
func TestEventsAreWhole(t *testing.T) {
	h := dashboard.New(dashboard.Config{Interval: time.Hour, Show: []dashboard.Item{{Of: mettle.Compose(breaker.New(breaker.Config{Name: "b"}))}}})
	server := httptest.NewServer(h)
	defer server.Close()
	for _, query := range []string{"", "?one"} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/events"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Last-Event-ID", "-1\xff")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		s := &stream{Reader: bufio.NewReader(resp.Body)}
		if f := s.next(t); f.Layers[0].Cards[0].Name != "b" {
			t.Errorf("%q: the first event is %+v", query, f)
		}
		if h := resp.Header; h.Get("X-Accel-Buffering") != "no" || !strings.Contains(h.Get("Cache-Control"), "no-transform") {
			t.Errorf("%q: the headers are %v", query, h)
		}
		if query == "?one" {
			if rest, err := io.ReadAll(s); err != nil || len(rest) > 0 {
				t.Errorf("after the one event come %q, %v", rest, err)
			}
		}
	}
}

// An open page does not hold up a Shutdown, over HTTP/1.1 and over HTTP/2.
func TestShutdownEndsStreams(t *testing.T) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			h := dashboard.New(dashboard.Config{Interval: time.Hour, Show: []dashboard.Item{{Of: mettle.Compose()}}})
			server := httptest.NewUnstartedServer(h)
			server.EnableHTTP2 = proto == "HTTP/2.0"
			server.StartTLS()
			defer server.Close()
			resp, err := server.Client().Get(server.URL + "/debug/mettle/events")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.Proto != proto {
				t.Fatalf("it is %s", resp.Proto)
			}
			s := &stream{Reader: bufio.NewReader(resp.Body)}
			s.next(t)
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			if err := server.Config.Shutdown(ctx); err != nil {
				t.Errorf("with a page open, Shutdown returns %v", err)
			}
			if rest, err := io.ReadAll(s); err != nil || len(rest) > 0 {
				t.Errorf("the stream ends with %q, %v", rest, err)
			}
		})
	}
}

// A page asks for events while Shutdown is under way, on a connection whose request had to wait for
// what is in front of the handler. The stream held Shutdown up for ten minutes, since the server
// calls what is registered by then and nothing else.
func TestShutdownEndsLateStreams(t *testing.T) {
	for _, path := range []string{"/", "/events?one"} { // what the server has been asked before
		h := dashboard.New(dashboard.Config{Interval: time.Hour, Show: []dashboard.Item{{Of: mettle.Compose()}}})
		arrived, late := make(chan struct{}), make(chan struct{})
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Late") != "" {
				close(arrived)
				<-late
			}
			h.ServeHTTP(w, r)
		}))
		defer server.Close()
		resp, err := server.Client().Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /events HTTP/1.1\r\nHost: x\r\nLate: 1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		<-arrived
		server.Config.RegisterOnShutdown(sync.OnceFunc(func() { close(late) }))
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := server.Config.Shutdown(ctx); err != nil {
			t.Errorf("after %s, with a late stream, Shutdown returns %v", path, err)
		}
		// Whoever shuts down twice is none the worse for it.
		if err := server.Config.Shutdown(ctx); err != nil {
			t.Errorf("a second Shutdown returns %v", err)
		}
	}
}

func TestFiles(t *testing.T) {
	h := dashboard.Handler(mettle.Compose())
	for path, want := range map[string]string{
		"/": "text/html; charset=utf-8", "/debug/mettle/": "text/html; charset=utf-8",
		"/debug/mettle/page.css": "text/css; charset=utf-8", "/debug/mettle/page.js": "text/javascript; charset=utf-8",
		"/debug/mettle/icon.svg": "image/svg+xml",
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != 200 || w.Header().Get("Content-Type") != want || w.Body.Len() == 0 {
			t.Errorf("%s: %d, %q, %d bytes", path, w.Code, w.Header().Get("Content-Type"), w.Body.Len())
		}
		body := w.Body.String()
		if csp := w.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: the policy is %q", path, csp)
		}
		if w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: types are guessed", path)
		}
		// Nothing that could turn text into markup, and nothing from elsewhere.
		for _, never := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style=\"", "https://", " onclick="} {
			if strings.Contains(body, never) {
				t.Errorf("%s has %s", path, never)
			}
		}
	}
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/debug/mettle/none", 404}, {"GET", "/debug/mettle", 404}, {"POST", "/debug/mettle/", 405},
		{"DELETE", "/events", 405}, {"GET", "/override", 405}, {"HEAD", "/", 200}, {"HEAD", "/events", 200},
		{"GET", "/static/../dashboard.go", 404},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, w.Code, c.want)
		}
	}
}

func TestConfigIsRefused(t *testing.T) {
	var none *mettle.Pipeline
	err := dashboard.Config{Show: []dashboard.Item{{}, {Of: none}}, Interval: time.Millisecond}.Validate()
	for _, want := range []string{"Show[0].Of is nil", "Show[1].Of is nil", "Interval is 1ms, must be at least 100ms"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say that %s", err, want)
		}
	}
	if err := (dashboard.Config{}).Validate(); err != nil {
		t.Errorf("the zero Config is refused: %v", err)
	}
	defer func() {
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "Show[0].Of") {
			t.Errorf("Handler(nil) panics with %v", r)
		}
	}()
	dashboard.Handler(none)
}

// override is one attempt at a switch.
type override struct {
	name   string
	header http.Header
	form   url.Values
	body   string // in place of form
	want   int
}

func (o override) send(t *testing.T, h http.Handler) *httptest.ResponseRecorder {
	t.Helper()
	body := o.body
	if o.form != nil {
		// As the page does, from what it was told last.
		layers := snapshot(t, h).Layers
		if i, err := strconv.Atoi(o.form.Get("policy")); err == nil && i >= 0 && i < len(layers) && !o.form.Has("kind") {
			o.form.Set("kind", layers[i].Cards[0].Kind)
			o.form.Set("name", layers[i].Cards[0].Name)
		}
		body = o.form.Encode()
	}
	r := httptest.NewRequest("POST", "http://ops.example/debug/mettle/override?action=reset&policy=0", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for k, v := range o.header {
		r.Header[k] = v
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func force(action, policy, d, reason string) url.Values {
	return url.Values{"action": {action}, "policy": {policy}, "for": {d}, "reason": {reason}}
}

func TestOverrides(t *testing.T) {
	b := breaker.New(breaker.Config{Name: "b"})
	asked := 0
	config := dashboard.Config{
		Show: []dashboard.Item{{Of: mettle.Compose(timeout.New(timeout.Config{}), b)}},
		Authorize: func(r *http.Request) (string, error) {
			asked++
			if r.PostForm.Get("action") == "reset" {
				return "", errors.New("only the night shift may")
			}
			by, _, ok := r.BasicAuth()
			if !ok {
				return "", nil
			}
			return by, nil
		},
	}
	h := dashboard.New(config)
	ann := http.Header{"Authorization": {"Basic YW5uOng="}}
	good := force("open", "1", "5m", "a drill")
	with := func(k, v string) http.Header { h := ann.Clone(); h.Set(k, v); return h }
	for _, o := range []override{
		{"another site, by Sec-Fetch-Site", with("Sec-Fetch-Site", "cross-site"), good, "", 403},
		{"a sister site", with("Sec-Fetch-Site", "same-site"), good, "", 403},
		{"another site, by Origin", with("Origin", "http://evil.example"), good, "", 403},
		{"not a form", with("Content-Type", "text/plain"), nil, good.Encode(), 415},
		{"JSON", with("Content-Type", "application/json"), nil, "{}", 415},
		{"a file form", with("Content-Type", "multipart/form-data; boundary=x"), nil, good.Encode(), 415},
		{"too long", ann, nil, good.Encode() + "&x=" + strings.Repeat("x", 5000), 400},
		{"garbage", ann, nil, "%zz", 400},
		{"nothing, and a query", ann, url.Values{}, "", 400},
		{"no such policy", ann, force("open", "2", "5m", "x"), "", 400},
		{"a negative policy", ann, force("open", "-1", "5m", "x"), "", 400},
		{"not a breaker", ann, force("open", "0", "5m", "x"), "", 400},
		{"no such action", ann, force("trip", "1", "5m", "x"), "", 400},
		{"no time", ann, force("open", "1", "", "x"), "", 400},
		{"no time to speak of", ann, force("open", "1", "1ms", "x"), "", 400},
		{"too long a time", ann, force("closed", "1", "25h", "x"), "", 400},
		{"a negative time", ann, force("closed", "1", "-5m", "x"), "", 400},
		{"no reason", ann, force("open", "1", "5m", " "), "", 400},
		{"a long reason", ann, force("open", "1", "5m", strings.Repeat("x", 201)), "", 400},
		{"two lines", ann, force("open", "1", "5m", "a\nb"), "", 400},
		{"not UTF-8", ann, force("open", "1", "5m", "\xff"), "", 400},
	} {
		if w := o.send(t, h); w.Code != o.want {
			t.Errorf("%s: %d %s, want %d", o.name, w.Code, w.Body, o.want)
		}
	}
	if asked != 0 {
		t.Errorf("Authorize was asked %d times about what is not allowed to anybody", asked)
	}
	for _, o := range []override{
		{"nobody", nil, good, "", 403},
		{"not allowed", ann, url.Values{"action": {"reset"}, "policy": {"1"}}, "", 403},
	} {
		if w := o.send(t, h); w.Code != o.want || strings.Contains(w.Body.String(), "night shift") {
			t.Errorf("%s: %d %s, want %d", o.name, w.Code, w.Body, o.want)
		}
	}
	if n := len(b.Changes()); n != 0 {
		t.Fatalf("what was refused has changed the breaker %d times", n)
	}

	// From the page itself, and from what is not a browser.
	for _, header := range []http.Header{with("Sec-Fetch-Site", "same-origin"), with("Origin", "http://ops.example"), ann} {
		if w := (override{"", header, good, "", 204}).send(t, h); w.Code != 204 {
			t.Fatalf("%v: %d %s", header, w.Code, w.Body)
		}
	}
	s := b.Stats()
	if s.State != breaker.Open || s.Override != (breaker.Override{For: 5 * time.Minute, By: "ann", Reason: "a drill"}) {
		t.Errorf("the breaker is %v under %+v", s.State, s.Override)
	}
	override{"", ann, force("closed", "1", "1h", "another"), "", 204}.send(t, h)
	if s := b.Stats(); s.State != breaker.Closed || !s.Overridden {
		t.Errorf("the breaker is %v, overridden: %v", s.State, s.Overridden)
	}
	override{"", ann, url.Values{"action": {"release"}, "policy": {"1"}}, "", 204}.send(t, h)
	if b.Stats().Overridden {
		t.Error("the breaker was not released")
	}
	config.Authorize = func(*http.Request) (string, error) { return "ann", nil }
	b.Trip("for reset")
	if w := (override{"", nil, url.Values{"action": {"reset"}, "policy": {"1"}}, "", 204}).send(t, dashboard.New(config)); w.Code != 204 || b.State() != breaker.Closed {
		t.Errorf("reset: %d, and the breaker is %v", w.Code, b.State())
	}
	config.Authorize = nil
	if w := (override{"", ann, good, "", 403}).send(t, dashboard.New(config)); w.Code != 403 {
		t.Errorf("a read-only page answers %d", w.Code)
	}
	if !snapshot(t, h).Overrides {
		t.Error("a page with Authorize offers no overrides")
	}
}

// One key of a group can be forced, by the name that the page shows, for a time and with a
// reason, by those who are allowed to; the other keys go on as they are.
func TestOverridesOfAKey(t *testing.T) {
	g := breaker.NewGroup[any](breaker.GroupConfig{Config: breaker.Config{Name: "hosts"}, MaxKeys: 5})
	long := strings.Repeat("x", 300)
	for _, key := range []any{"db-7", "db-8", 1, "1", long} {
		g.Get(key).Trip("test")
	}
	var asked []string
	config := dashboard.Config{
		Show: []dashboard.Item{{Of: mettle.Compose(g.By(func(context.Context) any { return "db-7" }), breaker.New(breaker.Config{Name: "b"}))}},
		Authorize: func(r *http.Request) (string, error) {
			if asked = append(asked, r.PostForm.Get("key")); r.PostForm.Get("key") == "hosts[db-8]" {
				return "", errors.New("not this one")
			}
			return "ann", nil
		},
	}
	h := dashboard.New(config)
	of := func(key string, form url.Values) url.Values { form.Set("key", key); return form }
	for _, o := range []override{
		{"no key", nil, force("open", "0", "5m", "x"), "", 400},
		{"a key of what has none", nil, of("b", force("open", "1", "5m", "x")), "", 400},
		{"no reason", nil, of("hosts[db-7]", force("open", "0", "5m", "")), "", 400},
		{"not allowed", nil, of("hosts[db-8]", force("open", "0", "5m", "x")), "", 403},
		{"no such key", nil, of("hosts[db-9]", force("open", "0", "5m", "x")), "", 409},
		{"not its whole name", nil, of("db-7", force("open", "0", "5m", "x")), "", 409},
		{"a name that two have", nil, of("hosts[1]", force("open", "0", "5m", "x")), "", 409},
	} {
		if w := o.send(t, h); w.Code != o.want {
			t.Errorf("%s: %d %s, want %d", o.name, w.Code, w.Body, o.want)
		}
	}
	if want := []string{"hosts[db-8]", "hosts[db-9]", "db-7", "hosts[1]"}; !slices.Equal(asked, want) {
		t.Errorf("Authorize was asked about %q, want %q", asked, want)
	}
	for b := range g.Breakers() {
		if b.Stats().Overridden {
			t.Errorf("what was refused has forced %v", b.LogValue())
		}
	}

	if w := (override{"", nil, of("hosts[db-7]", force("closed", "0", "5m", "a drill")), "", 204}).send(t, h); w.Code != 204 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if s := g.Get("db-7").Stats(); s.Override != (breaker.Override{For: 5 * time.Minute, By: "ann", Reason: "a drill"}) {
		t.Errorf("the key is under %+v", s.Override)
	}
	seen := map[string]bool{}
	for _, k := range snapshot(t, dashboard.New(config)).Layers[0].Cards[0].Keys { // h has a snapshot for this second
		seen[k.Name] = k.Forceable
		if o := k.Override; (o != nil) != (k.Name == "hosts[db-7]") || o != nil && (o.By != "ann" || o.Reason != "a drill" || o.For != "5m0s") {
			t.Errorf("%s is shown under %+v", k.Name, o)
		}
	}
	if !seen["hosts[db-7]"] || len(seen) != 4 {
		t.Errorf("the keys are %v", seen)
	}
	for name, forceable := range seen {
		if strings.Contains(name, "xxx") && forceable {
			t.Error("a name that is cut off is offered as if it were whole")
		}
	}
	// What the page cannot show whole can be named all the same.
	for action, state := range map[string]breaker.State{"release": breaker.Open, "reset": breaker.Closed} {
		form := url.Values{"action": {action}, "policy": {"0"}, "key": {"hosts[" + long + "]"}}
		if w := (override{"", nil, form, "", 204}).send(t, h); w.Code != 204 || action == "reset" && g.Get(long).State() != state {
			t.Errorf("%s: %d %s, and the key is %v", action, w.Code, w.Body, g.Get(long).State())
		}
	}
	config.Authorize = nil
	if w := (override{"", nil, of("hosts[db-7]", force("open", "0", "5m", "x")), "", 403}).send(t, dashboard.New(config)); w.Code != 403 {
		t.Errorf("a read-only page answers %d", w.Code)
	}
}

// A page that is open while the program is deployed again, or that has two versions behind
// one balancer, knows a policy by a number that is another's: it forced the wrong breaker.
func TestOverrideOfAPageOfAnotherVersion(t *testing.T) {
	odd := "\xff" + strings.Repeat("n", 300) // which a page shows otherwise
	payments, search, ledger := breaker.New(breaker.Config{Name: "payments"}), breaker.New(breaker.Config{Name: "search"}), breaker.New(breaker.Config{Name: odd})
	var asked []string
	serve := func(of ...mettle.Policy) http.Handler {
		return dashboard.New(dashboard.Config{
			Show: []dashboard.Item{{Of: mettle.Compose(of...)}},
			Authorize: func(r *http.Request) (string, error) {
				asked = append(asked, r.PostForm.Get("kind")+" "+r.PostForm.Get("name"))
				return "ann", nil
			},
		})
	}
	before, after := serve(payments, ledger), serve(payments, search, ledger)
	form := force("open", "1", "5m", "a drill")
	shown := snapshot(t, before).Layers[1].Cards[0]
	form.Set("kind", shown.Kind)
	form.Set("name", shown.Name)
	bare := force("open", "1", "5m", "a drill")
	for name, o := range map[string]override{
		"the number is another breaker's": {form: form}, "a number alone": {body: bare.Encode()},
	} {
		w := o.send(t, after)
		if w.Code != 409 || !strings.Contains(w.Body.String(), "load the page again") || search.Stats().Overridden {
			t.Errorf("%s: %d %s, and the breaker is forced: %v", name, w.Code, w.Body, search.Stats().Overridden)
		}
	}
	if asked != nil {
		t.Errorf("Authorize was asked about %q", asked)
	}
	if w := (override{form: form}).send(t, before); w.Code != 204 || !ledger.Stats().Overridden {
		t.Errorf("what the page shows cannot be forced: %d %s", w.Code, w.Body)
	}
	if want := []string{"breaker " + shown.Name}; !slices.Equal(asked, want) {
		t.Errorf("Authorize was asked about %q, want %q", asked, want)
	}
}

// leaving is a group that has let its key go by the time it is looked at again.
type leaving struct {
	*breaker.Breaker
	looked *int
}

func (l leaving) Breakers() iter.Seq[*breaker.Breaker] {
	return func(yield func(*breaker.Breaker) bool) {
		if *l.looked++; *l.looked == 1 {
			yield(l.Breaker)
		}
	}
}

// A force of a key that the group has let go is not in force, and says so. A release or a
// reset has nothing that could be lost: that it worked was told as if it had not.
func TestKeyThatIsLetGo(t *testing.T) {
	for action, want := range map[string]int{"open": 409, "closed": 409, "release": 204, "reset": 204} {
		looked := 0
		l := leaving{breaker.New(breaker.Config{Name: "hosts[a]"}), &looked}
		h := dashboard.New(dashboard.Config{
			Show:      []dashboard.Item{{Of: l}},
			Authorize: func(*http.Request) (string, error) { looked = 0; return "ann", nil },
		})
		form := force(action, "0", "5m", "a drill")
		form.Set("key", "hosts[a]")
		if w := (override{form: form}).send(t, h); w.Code != want {
			t.Errorf("%s: %d %s, want %d", action, w.Code, w.Body, want)
		}
	}
}

// luminance is that of a colour such as #1d7a46 or #fff, by WCAG 2.2.
func luminance(t *testing.T, colour string) (l float64) {
	t.Helper()
	if len(colour) == 4 {
		colour = string([]byte{'#', colour[1], colour[1], colour[2], colour[2], colour[3], colour[3]})
	}
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		n, err := strconv.ParseUint(colour[1+2*i:3+2*i], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		c := float64(n) / 255
		if c <= 0.04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		l += weight * c
	}
	return l
}

// In light and in dark, text has a contrast of 4.5 to what it is on, and what has to be
// seen of a drawing 3, as WCAG 2.2 asks for in 1.4.3 and 1.4.11. Nothing moves by itself.
func TestContrast(t *testing.T) {
	css := dashboard.PageCSS()
	schemes := regexp.MustCompile(`:root \{([^}]*)\}`).FindAllStringSubmatch(css, -1)
	if len(schemes) != 2 {
		t.Fatalf("%d colour schemes", len(schemes))
	}
	for i, scheme := range schemes {
		colours := map[string]string{}
		for _, m := range regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]+);`).FindAllStringSubmatch(scheme[1], -1) {
			colours[m[1]] = m[2]
		}
		contrast := func(over, under string, least float64) {
			a, b := luminance(t, colours[over]), luminance(t, colours[under])
			if c := (max(a, b) + 0.05) / (min(a, b) + 0.05); c < least {
				t.Errorf("scheme %d: the contrast of %s on %s is %.2f, want %v", i, over, under, c, least)
			}
		}
		for _, ground := range []string{"ground", "card"} {
			for _, text := range []string{"ink", "faint", "ok", "warn", "bad", "unknown"} {
				contrast(text, ground, 4.5)
			}
		}
		for _, level := range []string{"ok", "warn", "bad", "unknown"} {
			contrast("on", level, 4.5)
			contrast(level, "line", 1.6) // the part of a ring that is there, to the part that is not
		}
		for _, sector := range []string{"good-area", "bad-area", "refused-area", "other-area"} {
			contrast("ink", sector, 3) // numbers in the dial are large, and have an outline besides
		}
	}
	for _, moving := range []string{"transition", "animation", "@keyframes"} {
		if strings.Contains(css, moving) {
			t.Errorf("there is %s, which those who ask for less motion have to be spared", moving)
		}
	}
}

// A page looks and does nothing else: no state changes by it.
func TestLookingIsPure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(breaker.Config{ProbeTimeout: time.Second})
		f := fallback.New(fallback.Config{Run: func(context.Context, error) error { return nil }})
		h := dashboard.Handler(mettle.Compose(f, b))
		b.Trip("test")
		time.Sleep(time.Hour)
		before, changes := b.Stats(), len(b.Changes())
		for range 100 {
			snapshot(t, h)
			time.Sleep(time.Second)
		}
		if after := b.Stats(); after != before || len(b.Changes()) != changes {
			t.Errorf("looking made %+v of %+v", after, before)
		}
	})
}
