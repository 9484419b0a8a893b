// Package mettle keeps calls to things that can fail under control.
//
// A [Policy] runs an operation under a rule. The policies are in packages of their
// own, one noun each: breaker, retry, hedge, bulkhead, timeout, fallback. [Compose]
// makes one policy of several:
//
//	p := mettle.Compose(
//		timeout.New(timeout.Config{After: 2 * time.Second}),
//		retry.New(retry.Config{}),
//		breaker.New(breaker.Config{Name: "payments"}),
//	)
//	err := p.Do(ctx, func(ctx context.Context) error { return charge(ctx, order) })
//
// The first policy is the outermost. Every call goes through the layers from left
// to right, and its result comes back from right to left:
//
//	        timeout     retry      breaker
//	      ┌──────────┬──────────┬──────────┐
//	call ─┼─▶        ┼─▶ ⟲      ┼─▶        ┼─▶ op
//	      │          │          │          │    │
//	 err ◀┼─        ◀┼─        ◀┼─        ◀┼────┘
//	      └──────────┴──────────┴──────────┘
//
// Here the timeout bounds all attempts together, the retry runs the breaker anew
// for each attempt, and the breaker sees every single one.
//
// # Three outcomes
//
// A call ends in success, in failure, or it is ignored: the caller gave up, or a
// policy of ours refused. Ignored outcomes count neither for nor against the
// dependency. A failure has a reason: transient, overload or timeout. [Classify] has
// the rules.
//
// # Errors
//
// Throughout this documentation, "x Is y" means that errors.Is(x, y) is true.
//
// The operation's own error always comes back, wrapped at most, so [errors.Is] and
// [errors.As] find it. Every refusal Is [ErrRejected].
//
// # Hedges
//
// A hedge runs an operation a second time before the first run has ended, and takes the
// answer that comes first. It is the one policy of ours under which runs of an operation
// overlap: what they share has to be safe for that. [Get] returns the value of one of
// them.
package mettle
