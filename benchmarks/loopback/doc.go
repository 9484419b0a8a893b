// Package loopback lets libraries live through some of the trouble of package scorecard
// for real: server and clients are processes of their own, calls are HTTP/1.1 and gRPC
// over 127.0.0.1, and a proxy between them is what goes wrong. It is there to find out
// whether what is simulated comes in the same order in the world.
package loopback
