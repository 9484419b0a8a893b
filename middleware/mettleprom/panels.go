package mettleprom

// rate is how often something happens a second, by the labels named.
func rate(metric, by string) string {
	return "sum by (" + by + ") (rate(" + metric + "[$__rate_interval]))"
}

// rows is all that a dashboard can have. A test sees to it that every metric of the root
// module is on it and no other.
var rows = []row{
	{"Breaker", []panel{
		{"State", "1 for the state that calls meet.", "short", "state-timeline", []query{
			{`max by (policy, state) (<mettle.breaker.state>)`, "{{policy}} {{state}}"}}},
		{"Calls by outcome", "Calls that the breaker admitted and that have ended.", "reqps", "", []query{
			{rate("<mettle.breaker.calls>", "policy, outcome"), "{{policy}} {{outcome}}"}}},
		{"Refused", "Calls kept out, by what kept them out.", "reqps", "", []query{
			{rate("<mettle.breaker.rejected>", "policy, reason"), "{{policy}} {{reason}}"}}},
		{"Changes of state", "By the rule that made them.", "short", "", []query{
			{`sum by (policy, from, to, rule) (increase(<mettle.breaker.transitions>[$__rate_interval]))`, "{{policy}} {{from}} to {{to}}: {{rule}}"}}},
		{"Share of bad calls in the window", "What the rules on rates look at, while closed.", "percentunit", "", []query{
			{`sum by (policy) (<mettle.breaker.window.failed>) / (sum by (policy) (<mettle.breaker.window.calls>) > 0)`, "{{policy}} failed"},
			{`sum by (policy) (<mettle.breaker.window.slow>) / (sum by (policy) (<mettle.breaker.window.calls>) > 0)`, "{{policy}} slow"}}},
		{"Time until the next probe", "The longest of all instances.", "s", "", []query{
			{`max by (policy) (<mettle.breaker.remaining_delay>)`, "{{policy}}"}}},
		{"Probes and overrides", "Probes in flight, and instances held open or closed by hand.", "short", "", []query{
			{`sum by (policy) (<mettle.breaker.probes>)`, "{{policy}} probes"},
			{`sum by (policy) (<mettle.breaker.forced>)`, "{{policy}} forced"}}},
		{"Stale results", "Calls that ended after the state that admitted them, and counted for nothing.", "reqps", "", []query{
			{rate("<mettle.breaker.stale>", "policy"), "{{policy}}"}}},
	}},
	{"Breakers by key", []panel{
		{"Keys by state", "", "short", "", []query{
			{`sum by (policy, state) (<mettle.breaker.group.keys>)`, "{{policy}} {{state}}"}}},
		{"Keys let go, and calls without one", "Either means that there are more keys than the group may keep.", "reqps", "", []query{
			{rate("<mettle.breaker.group.evicted>", "policy"), "{{policy}} evicted"},
			{rate("<mettle.breaker.group.untracked>", "policy"), "{{policy}} untracked"}}},
	}},
	{"Retry", []panel{
		{"Amplification", "Attempts for each call, over the last 10 s, of the instance with most.", "short", "", []query{
			{`max by (policy) (<mettle.retry.amplification>)`, "{{policy}}"}}},
		{"Attempts", "By their number in the call.", "reqps", "", []query{
			{rate("<mettle.retry.attempts>", "policy, attempt"), "{{policy}} attempt {{attempt}}"}}},
		{"What an attempt is worth", "The share of first, second and later attempts that succeeded.", "percentunit", "", []query{
			{rate("<mettle.retry.successes>", "policy, attempt") + " / (" + rate("<mettle.retry.attempts>", "policy, attempt") + " > 0)", "{{policy}} attempt {{attempt}}"}}},
		{"Calls that failed", "By why there was no further attempt.", "reqps", "", []query{
			{rate("<mettle.retry.stops>", "policy, reason"), "{{policy}} {{reason}}"}}},
		{"Budget", "Tokens left, of the instance with least.", "short", "", []query{
			{`min by (policy) (<mettle.retry.budget_tokens>)`, "{{policy}}"}}},
		{"Resends denied", "Resends that the budget did not allow.", "reqps", "", []query{
			{rate("<mettle.retry.budget_denials>", "policy"), "{{policy}}"}}},
		{"Left to another retry", "Calls inside an attempt of a retry further out.", "reqps", "", []query{
			{rate("<mettle.retry.passed_through>", "policy"), "{{policy}}"}}},
	}},
	{"Hedge", []panel{
		{"Hedges", "Runs beside the first, how many won, and how many were not allowed.", "reqps", "", []query{
			{rate("<mettle.hedge.hedges>", "policy"), "{{policy}} sent"},
			{rate("<mettle.hedge.wins>", "policy"), "{{policy}} won"},
			{rate("<mettle.hedge.denied>", "policy"), "{{policy}} denied"}}},
		{"Delay", "How long a run has until the next one is sent.", "s", "", []query{
			{`max by (policy) (<mettle.hedge.delay>)`, "{{policy}}"}}},
		{"Budget of its own", "", "short", "", []query{
			{`min by (policy) (<mettle.hedge.tokens>)`, "{{policy}}"}}},
	}},
	{"Bulkhead", []panel{
		{"In flight", "And the limit.", "short", "", []query{
			{`sum by (policy) (<mettle.bulkhead.in_flight>)`, "{{policy}}"},
			{`sum by (policy) (<mettle.bulkhead.limit>)`, "{{policy}} limit"}}},
		{"Queue", "Calls that wait, and the room for them.", "short", "", []query{
			{`sum by (policy) (<mettle.bulkhead.queued>)`, "{{policy}}"},
			{`sum by (policy) (<mettle.bulkhead.max_queue>)`, "{{policy}} room"}}},
		{"Mean wait", "Of the calls that had to.", "s", "", []query{
			{rate("<mettle.bulkhead.wait_time>", "policy") + " / (" + rate("<mettle.bulkhead.waits>", "policy") + " > 0)", "{{policy}}"}}},
		{"Refused", "At once (full) or after a wait (max_wait).", "reqps", "", []query{
			{rate("<mettle.bulkhead.rejected>", "policy, reason"), "{{policy}} {{reason}}"}}},
		{"Calls of unknown pools", "They ran in the last one.", "reqps", "", []query{
			{rate("<mettle.bulkhead.partition.unknown>", "policy"), "{{policy}}"}}},
	}},
	{"Timeout", []panel{
		{"After the deadline", "Calls that failed, or still succeeded.", "reqps", "", []query{
			{rate("<mettle.timeout.exceeded>", "policy"), "{{policy}} failed"},
			{rate("<mettle.timeout.late>", "policy"), "{{policy}} succeeded"}}},
		{"What a call may take", "The shortest and the longest of all instances.", "s", "", []query{
			{`min by (policy) (<mettle.timeout.after>)`, "{{policy}} least"},
			{`max by (policy) (<mettle.timeout.after>)`, "{{policy}} most"}}},
	}},
	{"Abandoned work", []panel{
		{"Still running", "Calls that run on well after their deadline.", "short", "", []query{
			{`sum by (policy) (<mettle.timeout.overdue>)`, "{{policy}}"}}},
		{"Came back late", "Calls that came back well after their deadline.", "reqps", "", []query{
			{rate("<mettle.timeout.abandoned>", "policy"), "{{policy}}"}}},
		{"Lost and late", "Runs of a hedge that returned well after they had lost.", "reqps", "", []query{
			{rate("<mettle.hedge.abandoned>", "policy"), "{{policy}}"}}},
	}},
	{"Fallback", []panel{
		{"Fallbacks", "How many were run, and how many of these failed as well.", "reqps", "", []query{
			{rate("<mettle.fallback.fell_back>", "policy"), "{{policy}} run"},
			{rate("<mettle.fallback.failed>", "policy"), "{{policy}} failed"}}},
	}},
}
