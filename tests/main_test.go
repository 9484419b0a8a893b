package tests

import (
	"fmt"
	"net/http"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// When the tests have ended, so have all goroutines. This is the place to look, and not
// in a bubble, which has goroutines of its own and fails by itself where one of the
// test's is left.
//
// A test that leaves one because it has to says so here, with the function that the
// goroutine is in and why nobody can end it. There is none such so far: servers, clients
// and processes are closed by the tests that start them.
func TestMain(m *testing.M) {
	code := m.Run()
	// Connections that the default client keeps for next time have two goroutines each.
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "goroutines that no test has ended:", err)
		code = 1
	}
	os.Exit(code)
}
