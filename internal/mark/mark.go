// Package mark finds what errors say about themselves.
package mark

// Walk visits the tree of err, depth first as package errors does, until visit returns
// true, and reports whether it did. It stands in for errors.As with an interface as its
// target, which allocates and stops at the first error that has the method, whatever that
// one says.
func Walk(err error, visit func(error) bool) bool {
	for err != nil {
		if visit(err) {
			return true
		}
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			err = e.Unwrap()
		case interface{ Unwrap() []error }:
			for _, branch := range e.Unwrap() {
				if Walk(branch, visit) {
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

// Permanent reports whether an error in err's tree has a method Permanent() bool
// that returns true.
func Permanent(err error) bool { return Walk(err, isPermanent) }

func isPermanent(err error) bool {
	p, ok := err.(interface{ Permanent() bool })
	return ok && p.Permanent()
}
