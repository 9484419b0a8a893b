// Package faults has no code of its own. Its tests put real clients and real servers on
// either side of a network that is in trouble, as the proxies of toxiproxy make it, and
// write down what came of it: docs/faults.md is the page that they print.
package faults
