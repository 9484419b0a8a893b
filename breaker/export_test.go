package breaker

// Locked reports whether somebody holds the breaker's lock: a test that would find
// out by calling would hang.
func Locked(b *Breaker) bool {
	if !b.mu.TryLock() {
		return true
	}
	b.mu.Unlock()
	return false
}
