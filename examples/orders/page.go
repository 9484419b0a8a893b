package main

import (
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/mettle-go/mettle/dashboard"
)

// page serves the page with the policies, if it is wanted, and returns how to end that.
// Anybody who can connect may look; nobody may change anything.
func (c *client) page() (hide func(), err error) {
	if c.http == "" {
		return func() {}, nil
	}
	l, err := net.Listen("tcp", c.http)
	if err != nil {
		return nil, fmt.Errorf("-http: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/debug/mettle/", dashboard.New(dashboard.Config{Show: c.pipeline.shown}))
	mux.Handle("/{$}", http.RedirectHandler("/debug/mettle/", http.StatusFound))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(l) // until it is closed
	}()
	until := "until the run is over"
	if c.stay {
		until = "until you interrupt it, also when the run is over"
	}
	c.report.event("client", "a live page is at http://%s/debug/mettle/, %s", l.Addr(), until)
	return func() {
		_ = server.Close()
		<-ended
	}, nil
}
