package loopback

import (
	"context"
	"fmt"
	"strings"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// network is what is between a client and a server.
type network struct{ proxy *toxiproxy.Proxy }

// toxics is what proxies need of toxiproxy's own server, which is not started.
var toxics = toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())

// hole swallows what is sent, for ever. A connection that has a part of what was said
// missing is of no use any more.
const hole = `{"type": "timeout", "stream": %q, "attributes": {"timeout": 0}}`

// newNetwork returns a sound way to addr. The caller stops it.
func newNetwork(addr string) (*network, error) {
	n := &network{toxiproxy.NewProxy(toxics, addr, "127.0.0.1:0", addr)}
	return n, n.proxy.Start()
}

func (n *network) addr() string { return n.proxy.Listen }

func (n *network) stop() { n.proxy.Stop() }

// fail lives through the fault of w, whose clock began at begin. Where it ends with ctx,
// the fault stays.
func (n *network) fail(ctx context.Context, w World, begin time.Time) error {
	if !w.Down && !w.Hang {
		return nil
	}
	if err := sleep(ctx, time.Until(begin.Add(w.From))); err != nil {
		return err
	}
	if w.Down {
		n.stop()
	}
	if w.Hang {
		for _, direction := range []string{"upstream", "downstream"} {
			if _, err := n.proxy.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(hole, direction))); err != nil {
				return err
			}
		}
	}
	if err := sleep(ctx, time.Until(begin.Add(w.To))); err != nil {
		return err
	}
	// A new one without the toxics, at the same address. To take them off the old one is a
	// data race in toxiproxy.
	n.stop()
	n.proxy = toxiproxy.NewProxy(toxics, n.proxy.Name, n.proxy.Listen, n.proxy.Upstream)
	return n.start(ctx)
}

// start listens again, at the same address. Somebody else's connection may have been given
// the port meanwhile, for a moment.
func (n *network) start(ctx context.Context) (err error) {
	for range 50 {
		if err = n.proxy.Start(); err == nil {
			return nil
		}
		if sleep(ctx, 10*time.Millisecond) != nil {
			break
		}
	}
	return fmt.Errorf("loopback: the network does not come back: %w", err)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
