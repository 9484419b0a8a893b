// Package mettletest tests policies, and tests with them.
//
// [TestPolicy] is the conformance suite of [mettle.Policy]. Every policy of this
// module passes it, and a policy of your own should:
//
//	func TestThrottle(t *testing.T) {
//		mettletest.TestPolicy(t, func() mettle.Policy { return NewThrottle(10) })
//	}
//
// [Fault] is a policy that does harm on purpose: latency, errors, panics and hangs,
// by rate and by schedule, the same in every run.
package mettletest
