package faults

import (
	"testing"

	"go.uber.org/goleak"
)

// A link of toxiproxy's that a toxic has closed is read no further, so that what copies into
// it waits for ever, when there was more to come. Nothing that is exported ends those
// goroutines. They hold memory and no connection, which the tests have counted.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"),
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).read"))
}
