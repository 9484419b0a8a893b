package faults

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
)

// fault is what is wrong with a network.
type fault struct {
	name string

	toxic, stream, attributes string // in toxiproxy's words; no stream: downstream

	// delay is how long an answer takes at least that comes through in spite of it.
	delay time.Duration
	// live: the fault strikes a connection that has carried a call already, so that it is
	// the next call that is hit and not the making of the connection.
	live bool
	// every: it is so with every connection; else with the first, and all others are sound.
	every bool
	down  bool // nobody listens
	// outage: the network goes down under the first request that has arrived, and comes
	// back once a connection has been refused.
	outage bool
	// hangUp: the server closes the connection because it has been idle.
	hangUp bool
}

// ends counts the connections at one end of a wire.
type ends struct{ opened, closed atomic.Int64 }

func (e *ends) open() int { return int(e.opened.Load() - e.closed.Load()) }

func (e *ends) count(c net.Conn) net.Conn {
	e.opened.Add(1)
	return &countedConn{Conn: c, ends: e}
}

type countedConn struct {
	net.Conn
	ends *ends
	once sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.ends.closed.Add(1) })
	return c.Conn.Close()
}

type countedListener struct {
	net.Listener
	ends *ends
}

func (l countedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.ends.count(c), nil
}

// wire is the network between one client and one server. There are two ways through it:
// the one with the fault, and a sound one.
type wire struct {
	fault
	listener         net.Listener // the server's
	faulty, sound    *toxiproxy.Proxy
	faultyAt         string
	dials, refused   atomic.Int64 // of the client; dials that were refused are in both
	clients, servers ends
}

// toxics is what proxies need of toxiproxy's own server, which is not started.
var toxics = toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())

func newWire(t *testing.T, f fault) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &wire{fault: f}
	w.listener = countedListener{listener, &w.servers}
	w.faulty, w.sound = w.proxy(t), w.proxy(t)
	w.faultyAt = w.faulty.Listen
	switch {
	case f.down:
		w.faulty.Stop()
	case f.toxic != "":
		// One that is not effective yet is there all the same, because toxiproxy sees to it
		// that a connection can be reset when it is made, and not later.
		toxicity := 1
		if f.live {
			toxicity = 0
		}
		_, err := w.faulty.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(
			`{"name": "fault", "type": %q, "stream": %q, "toxicity": %d, "attributes": {%s}}`,
			f.toxic, cmp.Or(f.stream, "downstream"), toxicity, f.attributes)))
		require.NoError(t, err)
	}
	return w
}

func (w *wire) proxy(t *testing.T) *toxiproxy.Proxy {
	p := toxiproxy.NewProxy(toxics, t.Name(), "127.0.0.1:0", w.listener.Addr().String())
	require.NoError(t, p.Start())
	t.Cleanup(p.Stop)
	return p
}

// strike makes a fault effective on connections that there are.
func (w *wire) strike(t *testing.T) {
	_, err := w.faulty.Toxics.UpdateToxicJson("fault", strings.NewReader(`{"toxicity": 1}`))
	require.NoError(t, err)
}

// dial is how the client gets its connections, wherever it believes that it dials.
func (w *wire) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	to := w.sound.Listen
	if w.dials.Add(1) == 1 || w.every {
		to = w.faultyAt
	}
	c, err := new(net.Dialer).DialContext(ctx, "tcp", to)
	if err != nil {
		w.refused.Add(1)
		return nil, err
	}
	return w.clients.count(c), nil
}
