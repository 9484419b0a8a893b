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

// Stripe makes a closed breaker with a rule on rates count as it does when its callers
// get into each other's way, which a test cannot bring about at will.
func Stripe(b *Breaker) { b.phase.Load().counts.rate.Stripe() }
