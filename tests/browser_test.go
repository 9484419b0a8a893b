package tests

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// browser is a headless Chromium with one page, driven by the DevTools protocol over a
// pair of pipes: no port, no further program.
type browser struct {
	t       *testing.T
	in      *os.File
	session string

	mu       sync.Mutex
	last     int
	waiting  map[int]chan reply // guarded by mu; nil: the browser has gone
	troubles []string           // what came up on the console; guarded by mu
}

type reply struct {
	ID     int
	Method string
	Params json.RawMessage
	Result json.RawMessage
	Error  *struct{ Message string }
}

// openBrowser skips the test where there is no Chromium.
func openBrowser(t *testing.T) *browser {
	t.Helper()
	need(t, "apt-get install --no-install-recommends chromium", "chromium")
	theirs, in, err := os.Pipe()
	require.NoError(t, err)
	out, theirsToo, err := os.Pipe()
	require.NoError(t, err)
	cmd := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--hide-scrollbars", "--remote-debugging-pipe", "--user-data-dir="+filepath.Join(t.TempDir(), "profile"), "about:blank")
	cmd.ExtraFiles = []*os.File{theirs, theirsToo} // 3 and 4, where it looks
	require.NoError(t, cmd.Start())
	require.NoError(t, theirs.Close())
	require.NoError(t, theirsToo.Close())

	b := &browser{t: t, in: in, waiting: map[int]chan reply{}}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		b.read(out)
	}()
	t.Cleanup(func() {
		_ = in.Close() // it ends by itself then
		kill := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
		<-gone
		_ = out.Close()
	})

	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		b.call(domain+".enable", nil, nil)
	}
	return b
}

// read hands on what the browser says, until it has gone.
func (b *browser) read(out *os.File) {
	r := bufio.NewReader(out)
	for {
		data, err := r.ReadBytes(0)
		b.mu.Lock()
		if err != nil {
			for _, c := range b.waiting {
				close(c)
			}
			b.waiting = nil
			b.mu.Unlock()
			return
		}
		var m reply
		if err := json.Unmarshal(data[:len(data)-1], &m); err != nil {
			m.Method, m.Params = "unreadable", data
		}
		if c, ok := b.waiting[m.ID]; ok {
			delete(b.waiting, m.ID)
			c <- m
		}
		switch m.Method {
		case "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "unreadable":
			b.troubles = append(b.troubles, m.Method+": "+string(m.Params))
		}
		b.mu.Unlock()
	}
}

// call has the browser do something, and fails the test where it does not.
func (b *browser) call(method string, params, result any) {
	b.t.Helper()
	c := make(chan reply, 1)
	b.mu.Lock()
	require.NotNil(b.t, b.waiting, "the browser has gone")
	b.last++
	b.waiting[b.last] = c
	m := map[string]any{"id": b.last, "method": method}
	b.mu.Unlock()
	if b.session != "" {
		m["sessionId"] = b.session
	}
	if params != nil {
		m["params"] = params
	}
	data, err := json.Marshal(m)
	require.NoError(b.t, err)
	_, err = b.in.Write(append(data, 0))
	require.NoError(b.t, err)
	select {
	case r, ok := <-c:
		require.True(b.t, ok, "%s: the browser has gone", method)
		require.Nil(b.t, r.Error, "%s: %v", method, r.Error)
		if result != nil {
			require.NoError(b.t, json.Unmarshal(r.Result, result))
		}
	case <-time.After(time.Minute):
		b.t.Fatalf("%s: the browser does not answer", method)
	}
}

// eval runs JavaScript in the page and stores what it comes to in result.
func (b *browser) eval(result any, js string, args ...any) {
	b.t.Helper()
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Exception struct{ Description string }
		}
	}
	b.call("Runtime.evaluate", map[string]any{
		"expression": fmt.Sprintf(js, args...), "returnByValue": true, "awaitPromise": true, "userGesture": true,
	}, &r)
	require.Nil(b.t, r.ExceptionDetails, "%s: %v", js, r.ExceptionDetails)
	if result != nil {
		require.NoError(b.t, json.Unmarshal(r.Result.Value, result), "%s is %s", js, r.Result.Value)
	}
}

// until waits for JavaScript to come to true.
func (b *browser) until(js string, args ...any) {
	b.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		var holds bool
		b.eval(&holds, js, args...)
		if holds {
			return
		}
		if time.Now().After(deadline) {
			var text string
			b.eval(&text, "document.body.innerText")
			b.t.Fatalf("never: %s\nthe page says:\n%s", fmt.Sprintf(js, args...), text)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// window sets the size of the page and the colours that its reader prefers.
func (b *browser) window(width, height int, scheme string) {
	b.t.Helper()
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{
		"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
	}, nil)
	b.call("Emulation.setEmulatedMedia", map[string]any{
		"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}},
	}, nil)
}

// node is one thing that a screen reader finds in the page.
type node struct {
	Role, Name, Live string
	Focusable        bool
}

// tree returns what a screen reader finds, in its order.
func (b *browser) tree() (nodes []node) {
	b.t.Helper()
	type value struct{ Value any }
	var full struct {
		Nodes []struct {
			Ignored    bool
			Role, Name value
			Properties []struct {
				Name  string
				Value value
			}
		}
	}
	b.call("Accessibility.getFullAXTree", nil, &full)
	for _, n := range full.Nodes {
		if n.Ignored {
			continue
		}
		one := node{Role: fmt.Sprint(n.Role.Value)}
		one.Name, _ = n.Name.Value.(string)
		for _, p := range n.Properties {
			switch p.Name {
			case "focusable":
				one.Focusable = p.Value.Value == true
			case "live":
				one.Live, _ = p.Value.Value.(string)
			}
		}
		nodes = append(nodes, one)
	}
	return nodes
}

// press presses a key.
func (b *browser) press(key string, code int) {
	b.t.Helper()
	for _, kind := range []string{"rawKeyDown", "keyUp"} {
		b.call("Input.dispatchKeyEvent", map[string]any{"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}, nil)
	}
}

// screenshot keeps a picture of what the window shows in the directory that
// METTLE_SCREENSHOTS names, if it does.
func (b *browser) screenshot(name string) {
	b.t.Helper()
	var shot struct{ Data []byte }
	b.call("Page.captureScreenshot", map[string]any{"format": "png", "optimizeForSpeed": false}, &shot)
	require.NotEmpty(b.t, shot.Data)
	if dir := os.Getenv("METTLE_SCREENSHOTS"); dir != "" {
		require.NoError(b.t, os.WriteFile(filepath.Join(dir, name), shot.Data, 0o644))
	}
}

// quiet fails the test if anything came up on the console.
func (b *browser) quiet() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Empty(b.t, b.troubles)
}
