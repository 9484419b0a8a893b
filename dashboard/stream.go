package dashboard

import (
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	maxStreams = 64
	// lifetime bounds how long a client that has vanished without a word is written to,
	// which the buffers of the system may take for a long time. A page that is still there connects
	// again by itself.
	lifetime = 10 * time.Minute
)

// events streams snapshots as server-sent events, one for each tick, or a single one if
// the query says "one": what a proxy waits for the end of then comes through.
func (p *page) events(w http.ResponseWriter, r *http.Request, closing <-chan struct{}) {
	if !p.enter() {
		w.Header().Set("Retry-After", "5")
		http.Error(w, "too many pages are open", http.StatusServiceUnavailable)
		return
	}
	defer p.leave()
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")                 // nginx holds back what it proxies otherwise
	h.Set("Cache-Control", "no-store, no-transform") // what compresses holds back as well
	if r.Method == http.MethodHead {
		return
	}
	one := r.URL.Query().Has("one")
	to := http.NewResponseController(w)
	ended := time.After(lifetime)
	if _, err := io.WriteString(w, "retry: 1000\n\n"); err != nil {
		return
	}
	for {
		event, next := p.event()
		// Covers the pause as well: HTTP/2 ends a stream whose deadline passes. Without
		// deadlines, behind a ResponseWriter that has no Unwrap, or without Flush, the
		// client gets one snapshot at a time, and asks again.
		unbounded := to.SetWriteDeadline(time.Now().Add(p.interval + p.patience))
		if _, err := w.Write(event); err != nil || unbounded != nil || one || to.Flush() != nil {
			return
		}
		select {
		case <-time.After(next):
		case <-r.Context().Done():
			return
		case <-closing:
			return
		case <-ended:
			return
		}
	}
}

// event returns the snapshot of this tick as an event, and how long it is until the next
// one is due.
func (p *page) event() (event []byte, next time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	elapsed := time.Since(p.base)
	if tick := int64(elapsed / p.interval); p.last == nil || tick != p.tick {
		p.tick, p.last = tick, p.snapshot(tick)
	}
	return p.last, p.interval - elapsed%p.interval
}

func (p *page) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams >= maxStreams {
		return false
	}
	p.streams++
	return true
}

func (p *page) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.streams--
}

// closing returns a channel that is closed when the server of r begins to shut down. A
// Shutdown waits for requests under way, and a stream would never end. A channel stays once it is
// closed: the hook of a server that is shutting down would not be called for another.
func (p *page) closing(r *http.Request) <-chan struct{} {
	server, ok := r.Context().Value(http.ServerContextKey).(*http.Server)
	if !ok {
		return nil
	}
	if c, ok := p.servers.Load(server); ok {
		return c.(chan struct{})
	}
	have, ok := p.servers.LoadOrStore(server, make(chan struct{}))
	c := have.(chan struct{})
	if !ok {
		server.RegisterOnShutdown(sync.OnceFunc(func() { close(c) })) // Shutdown may be called twice
	}
	return c
}
