package scorecard

// stories say of each scenario what happens in it, why, and what to set, in a sentence
// each. Figures are in the tables and charts beside them.
var stories = map[string]string{
	"S0": "Nothing is wrong but for a few calls that fail by themselves, so that whoever opens or refuses does harm for nothing. A breaker that counts one failure, " +
		"or few calls, takes chance for trouble, and at 0.9 of the capacity every attempt beyond the requests brings the queue nearer to the timeout. Nothing needs to be set: keep `MinCalls` of the breaker and the budget.",
	"S1": "The server is gone for 0.2 s to 30 s, with calls that fail at once or hang, and comes back. What is lost beyond the outage itself is lost by probing too late after it " +
		"and, where calls hang, by resending until a server that is back works for nobody but those who have hung up. Set `OpenFor` and `MaxOpenFor` of the breaker, 50 ms and 1.5 s as they come, by how late you can afford to notice, and keep the budget.",
	"S2": "The server is gone for ten minutes, in which every pause between probes has grown to its longest. The end is noticed after half of that on average, at a cost that is the inverse of it, " +
		"and the beginning after as many failures in a row as are beyond chance, which are ten when all was well before, or five timeouts. Set `MaxOpenFor`, and `SlowCall` where calls that hang are to be found out before they time out.",
	"S4": "A part of all calls fails whatever anybody does, and to resend is worth it as long as the server has room. A breaker that opens throws away what would have succeeded, which is why ours waits for eight in ten to fail; " +
		"and a budget gives up most of what resending could gain, the dotted lines, so as never to send much more than a tenth too much. Raise `Ratio` of the budget where the server has room to spare, and turn the rules of the breaker off where one answer in ten is better than none.",
	"S5": "One of ten shards is dead. A breaker for all of them sees a tenth of all calls fail, which is no reason to open, and one for each stops calling the dead one. Use a `breaker.Group`, or the pipeline that mettlehttp makes for each host.",
	"S6": "Each of three layers makes up to four attempts, so that one request can become 64 where nobody counts, and a stall of two seconds becomes an outage without end. Budgets bound that in each layer, with no word between them. Nothing needs to be set.",
	"S7": "The server slows down with every request under way, so that resending what timed out keeps it slow when the load that started it is long gone. Who does worse on the way down than on the way up would stay down, " +
		"which a budget makes rare and a bulkhead impossible. Set `Limit` of the bulkhead to what the server can have under way, divided by the number of clients.",
	"S8": "A thousand clients come back to a server that does 0.3 of what it did, and warms up in 20 s. At a quarter of the capacity all is well; at half of it they ask for more than there is for a second or so, since none of them knows of the others, until the timeouts among the calls on trial have opened the breakers again. Nothing needs to be set; the rest is for overload control.",
	"S9": "A hundred clients meet the same outage at the same moment. Those that wait for the same time come back together, again and again, where openings that begin short and are lengthened by chance spread them. Nothing needs to be set.",
	"S11": "One reply in a hundred takes ten times as long, and a request needs 1, 10 or 100 of them. A second call after the 95th percentile is answered soon, for a twentieth more calls, but no sooner than in about twice the usual time, a fifth of the slow one; " +
		"and where 100 are needed, both calls for one of them are slow often enough to be seen; when all replies are slow, hedges help nobody and become rare. Put a `hedge` around what may be done twice, with `Max` 2 where one request needs ten calls or so.",
	"S12": "One call in twenty hangs for 100 s, in a process that has a thousand threads. Without a timeout the threads are gone within seconds and four fifths of all requests with them; with one it is a matter of how many calls may be in flight, of which there are 115 on average, and a bulkhead as it comes has room for 200. " +
		"Set `Limit` by Little's law: calls a second times the seconds that one takes, and room for what hangs.",
	"S13": "The same load and the same share of failures come from one client or from a thousand, each of which sees a thousandth of them. Many clients are wrong in two ways: where three calls in ten fail, those that judge few calls open by chance, time and again and for nothing (opens/h, tripped); and where nine in ten fail, those that wait for many calls see too few of them to give up, as they do when they are ten clients (refused). " +
		"Set `MinCalls` of the breaker with the number of clients in mind; the budget of a new client holds little, so that many do not add up to much.",
	"S16": "Three servers in a row work under one deadline, and what is begun with less time left than it takes is work for nothing. A deadline that is handed on stops it at the next hop, but what was begun too late already is lost. Set the timeout of the call, and one for an attempt only where two of them fit into it; gRPC hands the deadline on by itself, and mettlehttp with `Propagate` on both sides.",
}

// behind says of each scenario in which a peer has more goodput somewhere why that is so,
// and what will be done. It is shown where the figures say that it is so.
var behind = map[string]string{
	"S0": "Whoever resends without a budget gets through what ours leaves when chance has emptied the budget. That is the price of never sending much more than a tenth too much, and nothing will be done about it.",
	"S1": "Who goes on calling is there when the server is back, be it a library that never stops or one that sees too few calls in each client to stop, and ours waits for its next probe. " +
		"Where calls hang and many are resent, going on is what keeps the server from coming back. A pause is a fifth of how long the outage has lasted, and shorter ones would send more to a server that is gone, so nothing will be done about what is left.",
	"S2": "Ours finds the end of the outage by a probe, at most `MaxOpenFor` and a fifth later, and one that does not stop calling finds it at once, at the price of a call for every request in the ten minutes. Nothing will be done about that.",
	"S4": "Those in front resend whatever fails, as often as three attempts allow, and here the server has the room for it. It is the same ones that keep a server down in S1, where calls hang, and in S7. " +
		"What a budget leaves is what keeps it from that, and it can be had by a higher `Ratio`. Where nine in ten fail, a breaker that opens lets next to nothing through, and who only thins out the calls more: " +
		"that will be looked at again with overload control, which can tell a server that fails from one that has too much to do.",
	"S5": "What is lost is the time until each of the breakers has found out about the dead shard. Nothing will be done about that.",
	"S6": "Who resends least has most when three layers resend. Nothing needs to be done as long as the budgets hold, which they do.",
	"S7": "On the way up ours opens when attempts run into their timeout, at a load that the server can hardly do. With a bulkhead that knows what the server can have under way (mettle-tuned) that does not happen; " +
		"one that finds its limit by itself will come with overload control.",
	"S8":  "A thousand budgets and breakers that know nothing of each other ask for more than a cold server can do. Overload control, with which it is the server that says what it can do, is what will help.",
	"S9":  "Calls fail at once here, so whoever goes on calling through the minute has the first answer, and ours waits for its next probe. It would be another matter if calls hung: that is S1.",
	"S12": "A resend after a timeout costs two tokens, so that one call in twenty that hangs takes all that the budget earns. Who resends without a budget gets through what is left; nothing will be done about that.",
	"S13": "As in S4: those in front resend whatever fails, and the server has the room for it. Where nine in ten fail, those are in front that do not notice.",
	"S16": "Who makes one attempt at each hop loses nothing to attempts that take the place of another. Ours leaves a resend for which less time is left than an attempt usually takes, " +
		"but one hop does not know what the next will need: a deadline that leaves each its share is what is to be tried next.",
}

// missed says of each scenario in which a bar is missed, other than that of the best peer,
// why that is so, and what will be done. It is shown where the figures say that it is so.
var missed = map[string]string{
	"S0": "At 0.9 of the capacity the queue is longer than the timeout of an attempt now and then, by chance alone, and the more often the more is resent: breakers open for that, and with cause. " +
		"Without resends there are no openings and less goodput. A limit on what is in flight that finds itself is to end the queue before the timeouts do, with overload control.",
	"S1": "An outage of 0.2 s is over before there is much to learn from it. By calls that hang, a probe sent just before the end hangs for its own 100 ms, and only the next one finds the server back. " +
		"To wait out a short refusal within the deadline of the call is what is to be tried next.",
	"S4": "Where nine in ten fail, a breaker whose threshold is eight in ten opens and stays open, which is what it is for; only the rules turned off get the tenth through, and a throttle that thins out the calls a part of it. " +
		"Where three or five in ten fail, clients open in the first second or two, when the window still holds the healthy time before and ten failures in a row look like more than chance; that costs little, since probes soon succeed. A rate of the newest buckets alone beside that of the window is to be tried.",
	"S8": "A thousand clients learn from their first success at once, and for a second ask for more than the cold server can do. None of them knows of the others, so it is for the server to say what it can do: overload control.",
	"S11": "A hedge is sent once a call takes longer than 19 in 20, after 16 ms here, and takes 10 ms more or less, so that a slow reply of 100 ms cannot be cut to a fifth for every request: no delay has both a fivefold cut and 5 % more calls. " +
		"Where a request needs 10 or 100 calls, two slow ones for the same call are frequent enough to be its 99.9th percentile; `Max` 2 helps with 10 (mettle-hedge-tuned), and costs next to nothing.",
	"S12": "A resend after a timeout costs two tokens, so that one call in twenty that hangs takes all that the budget earns. When more than usual hang, some are not resent; raise `Ratio` where calls that hang cost the server nothing.",
	"S13": "In some runs one client of many opens once in three minutes, when its window looks healthier by chance than its calls are.",
	"S16": "The timeout of an attempt is 400 ms of the 500: who is cut off by it has no time for another attempt, and might have been answered in the rest. With the timeout at the deadline half as much is in vain (NOTES.md), so set one only where two fit into the deadline. " +
		"What begins too late is a first attempt of a later hop, for which the hop before has left too little.",
}
