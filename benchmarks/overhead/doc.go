// Package overhead has the benchmarks of what one call pays for being protected,
// beside other libraries that do the same. They are Go benchmarks like any others; the
// command in the folder above runs them as RESULTS.md wants them.
package overhead
