// Package mark finds what errors say about themselves.
package mark

// Permanent reports whether an error in err's tree has a method Permanent() bool
// that returns true. Not errors.As, which would stop at the first that has the
// method, whatever that one says.
func Permanent(err error) bool {
	for err != nil {
		if p, ok := err.(interface{ Permanent() bool }); ok && p.Permanent() {
			return true
		}
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			err = e.Unwrap()
		case interface{ Unwrap() []error }:
			for _, branch := range e.Unwrap() {
				if Permanent(branch) {
					return true
				}
			}
			return false
		default:
			return false
		}
	}
	return false
}
