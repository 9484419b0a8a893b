package tests

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/dashboard"
	"github.com/mettle-go/mettle/fallback"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

const scriptName = `<img src=x onerror="hacked=1"><script>hacked=1</script>`

// busy is a pipeline with traffic, whose dependency can be made to fail.
type busy struct {
	guard  *breaker.Breaker
	hosts  *breaker.Group[string]
	show   []dashboard.Item
	broken atomic.Bool
}

func newBusy(t *testing.T) *busy {
	s := &busy{guard: breaker.New(breaker.Config{
		Name: "payments", Consecutive: 5, OpenFor: 700 * time.Millisecond, MaxOpenFor: 700 * time.Millisecond,
	})}
	slots := bulkhead.New(bulkhead.Config{Name: "payments", Limit: 16, MaxWait: 50 * time.Millisecond})
	attempt := timeout.New(timeout.Config{Name: "attempt", After: 400 * time.Millisecond})
	direct := mettle.Compose(
		fallback.New(fallback.Config{Name: "to-queue", Run: func(context.Context, error) error { return nil }}),
		timeout.New(timeout.Config{Name: "total", After: 1200 * time.Millisecond}),
		retry.New(retry.Config{Name: "payments"}),
		s.guard, slots, attempt,
	)
	s.hosts = breaker.NewGroup[string](breaker.GroupConfig{Config: breaker.Config{Name: "hosts", Window: time.Hour}})
	byHost := s.hosts.By(func(context.Context) string { return scriptName })
	_ = byHost.Do(context.Background(), func(context.Context) error { return errors.New("down") })
	s.show = []dashboard.Item{
		{Name: "checkout", Of: direct},
		{Name: "replay", Of: mettle.Compose(s.guard, slots, attempt)},
		{Name: scriptName, Of: mettle.Compose(byHost)},
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for ctx.Err() == nil {
				_ = direct.Do(ctx, func(context.Context) error {
					time.Sleep(time.Duration(5+rand.IntN(60)) * time.Millisecond)
					if s.broken.Load() {
						return errors.New("down")
					}
					return nil
				})
				time.Sleep(time.Duration(rand.IntN(80)) * time.Millisecond)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		wait.Wait()
	})
	return s
}

// A person sees the breaker open and close, on any screen, and can work it.
func TestDashboardInBrowser(t *testing.T) {
	b := openBrowser(t)
	s := newBusy(t)
	server := httptest.NewServer(dashboard.New(dashboard.Config{
		Show: s.show, Interval: 200 * time.Millisecond,
		Authorize: func(*http.Request) (string, error) { return "ann", nil },
	}))
	t.Cleanup(func() {
		server.CloseClientConnections() // the stream of events, which Close would wait for
		server.Close()
	})

	b.window(1440, 760, "dark")
	b.call("Page.navigate", map[string]any{"url": server.URL + "/debug/mettle/"}, nil)
	b.until(`document.readyState === "complete" && document.querySelectorAll("article.card").length === 10`)
	b.eval(nil, `card = kind => [...document.querySelectorAll("article.card")].find(c => c.querySelector("h3").textContent.startsWith(kind));
		word = kind => card(kind).querySelector(".word").textContent; said = [];
		new MutationObserver(() => said.push(document.querySelector("#verdict").textContent))
			.observe(document.querySelector("#verdict"), {childList: true, characterData: true, subtree: true});
		past = card("breaker payments").querySelector(".history"); told = "";
		new MutationObserver(() => told += past.textContent).observe(past, {childList: true}); 0`)

	// The order is that of the pipeline.
	var kinds []string
	b.eval(&kinds, `[...document.querySelector("section").querySelectorAll("h3 small:first-child")].map(e => e.textContent)`)
	require.Equal(t, []string{"fallback", "timeout", "retry", "breaker", "bulkhead", "timeout"}, kinds)
	b.until(`word("breaker payments") === "✓ closed" && /^[1-9]/.test(card("breaker payments").querySelector("svg text").textContent)`)
	b.until(`card("retry").querySelector("dl.config").innerText.includes("MaxAttempts")`)
	time.Sleep(3 * time.Second) // for a line worth looking at

	s.broken.Store(true)
	b.until(`word("breaker payments") === "✕ open" && document.title.startsWith("✕ breaker payments: open") && document.querySelector("#top").className === "bad"`)
	b.until(`told.includes("closed → open 5 failures in a row")`) // it is among the last for a few seconds only
	b.until(`word("fallback") === "! standing in" && word("breaker payments") === "✕ open"`)
	time.Sleep(1500 * time.Millisecond)
	b.until(`word("breaker payments") === "✕ open"`)
	b.screenshot("dashboard-dark.png")
	b.window(1440, 760, "light")
	b.until(`word("breaker payments") === "✕ open"`)
	b.screenshot("dashboard-light.png")
	b.window(390, 780, "light")
	b.until(`word("breaker payments") === "✕ open"`)
	b.eval(nil, `card("breaker payments").scrollIntoView(); window.scrollBy(0, -110); 0`)
	b.screenshot("dashboard-phone.png")

	s.broken.Store(false)
	b.until(`word("breaker payments") === "✓ closed" && card("breaker payments").querySelector(".history").textContent.includes("half-open → closed 2 probes succeeded")`)
	var said []string
	b.eval(&said, `said`)
	require.Contains(t, said, "✕ breaker payments: open", "a screen reader is told of what it says")
	require.Less(t, len(said), 40, "and not of every number")

	fits(t, b)
	switches(t, b, s.guard)
	forcesKey(t, b, s.hosts)
	heard(t, b)

	// What names contain is text.
	var hacked bool
	b.eval(&hacked, `typeof window.hacked !== "undefined" || document.images.length > 0 || document.scripts.length !== 1`)
	require.False(t, hacked, "a name has become markup")
	b.until(`document.body.innerText.includes(%q)`, "hosts["+scriptName+"]")
	b.quiet()

	// From here on the browser has something to complain about.
	b.eval(nil, `card("breaker hosts").querySelector("button:not([hidden])").click();
		document.querySelector("#key").value = "nobody"; document.querySelector("#reason").value = "x"; document.querySelector("#confirm").click(); 0`)
	b.until(`document.querySelector("#problem").textContent.startsWith("there is no such key")`)
	server.CloseClientConnections()
	server.Close()
	b.until(`!document.querySelector("#lost").hidden && document.querySelector("#lost").textContent.includes("No news since")`)
}

// fits looks at narrow and wide windows, dark and light: nothing is cut off, and what is
// written can be read (WCAG 2.2, 1.4.3, asks for a contrast of 4.5).
func fits(t *testing.T, b *browser) {
	t.Helper()
	for _, scheme := range []string{"dark", "light"} {
		for _, width := range []int{320, 390, 768, 1440, 2560} {
			b.window(width, 800, scheme)
			var wide int
			b.eval(&wide, `document.documentElement.scrollWidth`)
			require.LessOrEqual(t, wide, width, "the page is wider than its window")
		}
		var low []string
		b.eval(&low, `(() => {
			const lum = c => c.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
			const rgb = s => s.match(/[\d.]+/g).map(Number);
			const ground = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
			const low = new Set();
			for (const level of ["ok", "warn", "bad", "unknown"]) {
				const probes = [document.querySelector("#top"), card("breaker")];
				const kept = probes.map(e => e.getAttribute("class"));
				probes[0].setAttribute("class", level); probes[1].setAttribute("class", "card " + level);
				for (const e of document.querySelectorAll("#verdict, #detail, article.card:first-child *, .card *, footer summary")) {
					if (e.closest("svg") || !e.textContent) continue;
					const [a, z] = [lum(rgb(getComputedStyle(e).color)), lum(ground(e))].sort((x, y) => y - x);
					const ratio = (a + .05) / (z + .05);
					if (ratio < 4.5) low.add(level + " " + e.tagName + "." + e.className + " " + ratio.toFixed(2));
				}
				probes.forEach((e, i) => e.setAttribute("class", kept[i]));
			}
			return [...low];
		})()`)
		require.Empty(t, low, scheme)
	}
	b.window(1440, 760, "light")
}

// forcesKey forces one key of a group, whose name is whatever a caller has made it.
func forcesKey(t *testing.T, b *browser, hosts *breaker.Group[string]) {
	t.Helper()
	b.eval(nil, `[...card("breaker hosts").querySelectorAll("button")].filter(b => !b.hidden).map(b => b.click()); 0`)
	b.until(`document.querySelector("dialog").open && document.activeElement.id === "key" && document.querySelector("#keys").options.length === 1`)
	b.eval(nil, `document.querySelector("#key").value = document.querySelector("#keys").options[0].value;
		document.querySelector("#reason").value = "a drill"; document.querySelector("#confirm").click(); 0`)
	b.until(`!document.querySelector("dialog").open`)
	b.until(`card("breaker hosts").querySelector(".keys").textContent === %q`, "hosts["+scriptName+"] forced open by ann, for 5m0s: a drill")
	require.Equal(t, breaker.Override{For: 5 * time.Minute, By: "ann", Reason: "a drill"}, hosts.Get(scriptName).Stats().Override)

	b.eval(nil, `card("breaker hosts").querySelector("button:not([hidden])").click();
		document.querySelector("#key").value = document.querySelector("#keys").options[0].value; document.querySelector("#action").value = "release";
		document.querySelector("#action").dispatchEvent(new Event("change")); document.querySelector("#confirm").click(); 0`)
	b.until(`!document.querySelector("dialog").open`)
	require.False(t, hosts.Get(scriptName).Stats().Overridden)
}

// heard looks at what a screen reader gets of the page, and what moves on it.
func heard(t *testing.T, b *browser) {
	t.Helper()
	nodes := b.tree()
	names := map[string][]string{} // by role
	for _, n := range nodes {
		names[n.Role] = append(names[n.Role], n.Name)
		if n.Focusable && n.Role != "main" && n.Role != "RootWebArea" {
			require.NotEmpty(t, n.Name, "what can have the focus has no name: %+v", n)
		}
		if n.Live != "" {
			require.Equal(t, "polite", n.Live, "%+v interrupts", n)
		}
	}
	for _, role := range []string{"banner", "main", "contentinfo", "status"} {
		require.Len(t, names[role], 1, role)
	}
	require.Equal(t, []string{"checkout", "replay", scriptName}, names["region"])
	require.Equal(t, []string{"mettle", "checkout"}, names["heading"][:2])
	require.Contains(t, names["article"], "breaker payments also in replay")
	require.Len(t, names["article"], 10)
	require.Contains(t, names["link"], "to the pipelines")
	images := 0
	for _, n := range names["image"] {
		require.NotEmpty(t, n)
		images++
	}
	require.Equal(t, 10, images, "dials")
	require.ElementsMatch(t, []string{
		"Force open: breaker payments", "Force closed: breaker payments", "Reset: breaker payments",
		"Force open: breaker payments", "Force closed: breaker payments", "Reset: breaker payments", // in the other pipeline
		"Override a key: breaker hosts",
	}, names["button"])
	for _, said := range names["status"] {
		require.NotContains(t, said, "✓", "a sign is read out by its name")
	}

	// The order of focus is that of the page, and nothing moves, whatever one prefers.
	var odd int
	b.eval(&odd, `[...document.querySelectorAll("[tabindex]")].filter(e => e.tabIndex > 0).length + document.getAnimations().length`)
	require.Zero(t, odd)
}

// switches forces the breaker open and lets go of it, first with the keyboard.
func switches(t *testing.T, b *browser, guard *breaker.Breaker) {
	t.Helper()
	const tab, escape = 9, 27
	b.eval(nil, `document.activeElement.blur(); window.scrollTo(0, 0); 0`)
	b.press("Tab", tab)
	b.until(`document.activeElement.className === "skip"`)
	for i := 0; ; i++ {
		var there bool
		b.eval(&there, `document.activeElement.textContent === "Force open"`)
		if there {
			break
		}
		require.Less(t, i, 50, "Tab does not lead to the switch")
		b.press("Tab", tab)
	}
	b.eval(nil, `document.activeElement.click(); 0`)
	b.until(`document.querySelector("dialog").open`)
	b.press("Escape", escape)
	b.until(`!document.querySelector("dialog").open && document.activeElement.textContent === "Force open"`)
	require.False(t, guard.Stats().Overridden)

	b.eval(nil, `document.activeElement.click(); document.querySelector("#reason").value = "a drill"; document.querySelector("#confirm").click(); 0`)
	b.until(`word("breaker payments") === "✕ forced open" && card("breaker payments").querySelector(".why").textContent === "by ann, for 5m0s: a drill"`)
	require.Equal(t, breaker.Override{For: 5 * time.Minute, By: "ann", Reason: "a drill"}, guard.Stats().Override)
	b.until(`!document.querySelector("dialog").open`)

	b.eval(nil, `[...card("breaker payments").querySelectorAll("button")].find(b => b.textContent === "Release").click(); document.querySelector("#confirm").click(); 0`)
	b.until(`word("breaker payments") === "✓ closed"`)
	require.False(t, guard.Stats().Overridden)
}

// withheld is the answer of a proxy that passes on only what has ended.
type withheld struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (w *withheld) WriteHeader(status int)           { w.status = status }
func (w *withheld) Write(p []byte) (int, error)      { return w.body.Write(p) }
func (w *withheld) FlushError() error                { return nil }
func (w *withheld) SetWriteDeadline(time.Time) error { return nil }

// Behind a proxy that holds back what has not ended, the page is live all the same.
func TestDashboardThroughAProxyThatHoldsBack(t *testing.T) {
	b := openBrowser(t)
	page := dashboard.Handler(mettle.Compose(breaker.New(breaker.Config{Name: "b"})))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		held := &withheld{ResponseWriter: w, status: http.StatusOK}
		page.ServeHTTP(held, r)
		w.WriteHeader(held.status)
		_, _ = w.Write(held.body.Bytes())
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	b.call("Page.navigate", map[string]any{"url": server.URL + "/"}, nil)
	b.until(`document.querySelectorAll("article.card").length === 1`)
	b.eval(nil, `first = document.querySelector("#clock").textContent; 0`)
	b.until(`document.querySelector("#clock").textContent !== first && document.querySelector("#lost").hidden`)
	b.quiet()
}

// unknown is a policy whose metrics are named as what every object of JavaScript has.
type unknown struct{}

func (unknown) Observe(yield func(mettle.Metric) bool) {
	yield(mettle.Metric{Name: "mettle.constructor.calls", Kind: mettle.Counter})
}

// A page stays open while the service is deployed again with one more pipeline: its buttons
// forced the breaker that now has the number of the one beside them. And what a login in
// between answers was taken for success.
func TestDashboardAfterADeploy(t *testing.T) {
	b := openBrowser(t)
	payments, search, ledger := breaker.New(breaker.Config{Name: "payments"}), breaker.New(breaker.Config{Name: "search"}), breaker.New(breaker.Config{Name: "ledger"})
	serve := func(first ...mettle.Policy) http.Handler {
		return dashboard.New(dashboard.Config{
			Show:      []dashboard.Item{{Of: mettle.Compose(first...)}, {Of: mettle.Compose(ledger)}, {Of: unknown{}}},
			Authorize: func(*http.Request) (string, error) { return "ann", nil },
			Interval:  100 * time.Millisecond,
		})
	}
	var page atomic.Pointer[http.Handler]
	deploy := func(h http.Handler) { page.Store(&h) }
	deploy(serve(payments))
	var login atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status := int(login.Load()); status != 0 && r.Method == http.MethodPost {
			w.Header().Set("Location", "/")
			w.WriteHeader(status)
			return
		}
		(*page.Load()).ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	b.call("Page.navigate", map[string]any{"url": server.URL + "/"}, nil)
	b.until(`document.querySelectorAll("article.card").length === 3`)
	deploy(serve(payments, search))
	server.CloseClientConnections()
	b.until(`document.querySelectorAll("article.card").length === 4`)

	const force = `[...document.querySelectorAll("button")].find(b => b.getAttribute("aria-label") === "Force open: breaker ledger").click();
		document.querySelector("#reason").value = "a drill"; document.querySelector("#confirm").click(); 0`
	for _, status := range []int{http.StatusOK, http.StatusSeeOther} {
		login.Store(int64(status))
		b.eval(nil, force)
		b.until(`document.querySelector("#problem").textContent.endsWith("Load the page again.") && document.querySelector("dialog").open`)
		b.eval(nil, `document.querySelector("#cancel").click(); 0`)
	}
	login.Store(0)
	b.eval(nil, force)
	b.until(`!document.querySelector("dialog").open`)
	require.False(t, search.Stats().Overridden, "the breaker that has the number now")
	require.True(t, ledger.Stats().Overridden, "the one beside the button")
}

// Behind a proxy that holds streams back the page asks more often than there are snapshots:
// with the same one again and again no time passed, each rate was 0/0, and a breaker that
// refused calls was green.
func TestDashboardIgnoresASnapshotItHas(t *testing.T) {
	b := openBrowser(t)
	guard := breaker.New(breaker.Config{Name: "b"})
	guard.ForceOpen(breaker.Override{By: "ann", Reason: "a drill"})
	page := dashboard.New(dashboard.Config{Show: []dashboard.Item{{Of: guard}}, Interval: time.Hour})
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page.ServeHTTP(w, r)
		if r.URL.Path == "/events" {
			asked.Add(1)
		}
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	b.call("Page.navigate", map[string]any{"url": server.URL + "/"}, nil)
	b.until(`document.querySelectorAll("article.card").length === 1`)
	require.Eventually(t, func() bool { // the browser asks again, and gets what it has
		server.CloseClientConnections()
		return asked.Load() > 2
	}, 20*time.Second, 1500*time.Millisecond)
	var facts string
	b.eval(&facts, `document.querySelector("article dl.facts").textContent`)
	require.Equal(t, "fail–refused–", facts, "one snapshot makes no rate")
}
