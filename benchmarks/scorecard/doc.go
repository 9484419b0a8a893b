// Package scorecard tells what protection is worth: how much good work gets through a bad
// hour, what that costs the dependency, and how soon it is over. It lets this library,
// its peers, what people write by hand and somebody who knows everything live through the
// same trouble, in the worlds of package sim, and holds the results against bars that
// were set before.
package scorecard
