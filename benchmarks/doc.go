// Package benchmarks compares this module with others that do the same. README.md
// says how to run it and what it does not tell.
package benchmarks
