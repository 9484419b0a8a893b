// Package sim is a small world of requests, clients and servers that runs in the
// virtual time of a testing/synctest bubble, so that resilience libraries meet hours of
// trouble, unmodified, in seconds.
//
// Requests arrive on their own schedule (a Poisson process, whatever became of those
// before), and are timed from the moment at which they were meant to be sent: a client
// that is slow to send cannot hide it. Every random number that the world draws belongs
// to a seed, a request and an attempt, not to the order of events. So all libraries meet
// the same arrivals, the same service times and the same bad luck, and differ only in
// what they make of them.
//
// Nothing here uses a socket, and nobody waits for time with a lock held: neither works
// in a bubble.
package sim
