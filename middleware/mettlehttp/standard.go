package mettlehttp

import (
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/retry"
	"github.com/mettle-go/mettle/timeout"
)

// What the standard pipeline allows. A person waits no longer than the first; the second
// leaves room for a second and third attempt within it.
const (
	totalTimeout   = 30 * time.Second
	attemptTimeout = 10 * time.Second
)

// standard returns a new pipeline of the kind that the package documentation shows.
func standard() mettle.Policy {
	breakers := breaker.NewGroup[string](breaker.GroupConfig{Config: breaker.Config{Name: "http"}})
	return mettle.Compose(
		timeout.New(timeout.Config{Name: "http total", After: totalTimeout}),
		retry.New(retry.Config{Name: "http"}),
		breakers.By(Host),
		newCompartments("http", maxHosts),
		timeout.New(timeout.Config{Name: "http attempt", After: attemptTimeout}),
	)
}
