package scorecard

// stories say of each scenario what happens in it, why, and what to set. Figures are in
// the tables and charts beside them.
var stories = map[string]string{
	"S0": "Nothing is wrong but for a few calls that fail by themselves. Whoever opens or refuses here does harm for nothing: a breaker that counts one failure, " +
		"or few calls, takes chance for trouble. At 0.9 of the capacity every attempt more brings the queue nearer to the timeout, so a budget for resending decides whether it stays a steady hour.",
	"S1": "The server is gone, with calls that fail at once or hang, and comes back. What is lost beyond the outage itself is lost by probing too seldom after it, " +
		"and, where calls hang, by resending until the server cannot come back at all. Set `OpenFor` and `MaxOpenFor` of the breaker by how late you can afford to notice, and keep the budget.",
	"S2": "Ten minutes are long enough to forget that there was a server. How soon the end is noticed is the longest pause between probes, and what that costs is its inverse. Set `MaxOpenFor`.",
	"S4": "A part of all calls fails whatever anybody does, and to resend is worth it as long as the server has room. A breaker that opens throws away the part that would have succeeded; " +
		"a budget gives up some of it, and in return never sends more than a tenth too much. Raise `Ratio` of the budget where the server has room to spare, and `FailureRate` of the breaker where half an answer rate is better than none.",
	"S5": "One of ten shards is dead. A breaker for all of them sees a tenth of all calls fail, which is no reason to open, and one for each stops calling the dead one. Use a `breaker.Group`, or the pipeline that mettlehttp makes for each host.",
	"S6": "Each of three layers makes four attempts, so that one request can become 64 where nobody counts, and a stall of two seconds becomes an outage without end. Budgets bound that in each layer, with no word between them. Nothing needs to be set.",
	"S7": "The server slows down with every request under way, so that resending what timed out keeps it slow: the load that started it is long gone. Where a contender does worse on the way down than on the way up, it would stay down. " +
		"A budget makes that range narrow and a bulkhead makes it vanish: set `Limit` to what the server can have under way, divided by the number of clients.",
	"S8": "A thousand clients come back to a server that does 0.3 of what it did, and warms up in 20 s. At a quarter of the capacity all is well; at half of it they ask for more than there is, until it is warm. Set `Ramp` of the breaker, and wait for overload control.",
	"S9": "A hundred clients meet the same outage at the same moment. If they wait for the same time they come back together, again and again. Short openings and jitter keep them apart.",
	"S11": "One reply in a hundred takes ten times as long. A second call after the 95th percentile is answered soon, for a twentieth more calls; the gain has a bound, since the hedge itself cannot be answered before about twice the usual time, a fifth of the slow one. " +
		"With a fan-out of 100 both calls are slow often enough to be seen. Put a `hedge` around what may be done twice.",
	"S12": "One call in twenty hangs for 100 s, in a process that has a thousand threads. Without a timeout the threads are gone within seconds and four fifths of all requests with them; with one, it is a matter of how many calls may be in flight. " +
		"Set `Limit` of the bulkhead by Little's law: calls a second times the seconds that one takes, and room for what hangs.",
	"S13": "The same load and the same failures from one client or from a thousand. Each of many clients sees too few calls to tell chance from trouble, and the first tokens of all budgets together are more than the budgets promise. Set `MinCalls` of the breaker and `Burst` of the budget with the number of clients in mind.",
	"S16": "Three servers in a row work under one deadline. What is begun with less time left than it takes is work for nothing. A deadline that is handed on stops it at the next hop; what was begun too late already is lost.",
}
