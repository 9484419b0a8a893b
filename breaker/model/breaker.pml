/*
 * The breaker's admission, results, probes' leases, generations, overrides and hooks,
 * as the Go code has them, for the model checker spin. README.md says what is checked,
 * what is left out, and how to run it. Names are those of the code.
 *
 * A process is in a step between two accesses to what others can see: a look at the
 * phase, a count, or a turn, which is all that is done while Breaker.mu is held.
 */

#ifndef CALLERS
#define CALLERS 3
#endif
#ifndef PROBES
#define PROBES 2
#endif
#define SUCCESSES 2
#define CONSECUTIVE 2

/* Spans of time, in ticks. */
#define OPEN_FOR 1
#define PROBE_TIMEOUT 2
#define HOLD 1                 /* of an override that ends by itself */

/*
 * Moments are counted from the present, so that they stay small: a tick moves all of
 * them down by one, and what is past for everybody stays at FLOOR. A reading of the
 * clock may be LAG ticks old when it is used, and is chosen anew for each use.
 */
#define LAG 1
#define FLOOR (-LAG)
#define FOREVER 20

mtype = { Closed, Open, HalfOpen, None };    /* states; None: no override */
mtype = { Ask, Admit, Pass, Refuse };        /* verdicts, as in phase.go */
mtype = { Success, Failure, Ignored, Lost }; /* outcomes; Lost: never reported */
mtype = { Idle, Enter, Operate, Report, Trip, Deliver, Hook }; /* steps, by what comes next */

/* The phase in force. */
mtype state = Closed;
mtype force = None;
short until = FLOOR;                  /* open: when a probe is due */
short forceUntil = FLOOR;

/*
 * Generations are numbered without end, but all that is ever asked of a number is
 * whether it is that of the phase in force. So the answer is kept instead, for the
 * phase that a caller has loaded last, which is that of its permit.
 */
bool current[CALLERS];
byte lease[CALLERS];           /* of the permit: a slot and one; 0: none */
mtype outcome[CALLERS];        /* of the call */

byte inRow;                    /* the closed state's failures in a row */

/*
 * Half-open: the probes' leases. A slot stands for an id: neither is given twice while
 * its holder may report, and both begin anew with each generation. There is a slot
 * too many, for a fault to take.
 */
#define SLOTS (PROBES + 1)
bool leased[SLOTS];
short end[SLOTS] = FLOOR;
byte good;
short first = FOREVER;         /* the copies for those who only look */
bool taken;                    /* full, which is a word of Promela's */

/* Changes on their way to OnChange. */
#define TURN 3                 /* so many at most come of one turn; an assertion holds it */
chan events = [TURN] of { mtype, mtype };
bool delivering;

/* What the properties are stated in. Nothing that the code does depends on it. */
byte flying;                   /* leases of this generation that nobody has reported on */
byte won;                      /* operations that succeeded as probes of this generation */
mtype told = Closed;           /* what the change told last led to */
bool telling;                  /* a hook runs */
byte owing;                    /* processes that made changes and have not left deliver yet */

byte age;                      /* of the reading of the clock, within one step */
hidden byte i;                 /* scratch, within one d_step */
hidden short at;
hidden mtype from, to;

#define passed(moment) (moment <= -age)
#define holds(how) (force == how && forceUntil > 0) /* an override, however old the reading */
#define shown (force != None -> force : state)
#define atLeast(x, least) (x < least -> least : x)
#define saturate(x, most) x = (x < most -> x + 1 : x)
#define tick(moment) moment = (moment == FOREVER || moment == FLOOR -> moment : moment - 1)

#if PROBES == 1
#define leases (leased[0] + leased[1])
#else
#define leases (leased[0] + leased[1] + leased[2])
#endif

/* Planted faults. For each of them spin must find a trail. */
#ifdef FAULT_LEASE /* a slip in the count of leases */
#define LESS <=
#else
#define LESS <
#endif
#ifdef FAULT_GENERATION /* a result whose generation is looked at before the lock alone */
#define STALE false
#else
#define STALE !current[me]
#endif
#ifdef FAULT_FORFEIT /* a lease without an end */
#define LEASE_END FOREVER
#else
#define LEASE_END (PROBE_TIMEOUT - age)
#endif
#ifdef FAULT_FORCED /* an override that is looked at before the lock alone */
#define ALLOWED true
#else
#define ALLOWED (force != Open)
#endif
#ifdef FAULT_SUCCESSES
#define ENOUGH (SUCCESSES - 1)
#else
#define ENOUGH SUCCESSES
#endif
#ifdef FAULT_ORDER /* two goroutines that tell changes */
#define ANOTHER_TELLS false
#else
#define ANOTHER_TELLS delivering
#endif

inline readClock() { if :: age = 0 :: age = LAG fi }

/* Nobody is stuck: as long as calls come, one is admitted, or refused by an override. */
#ifdef LIVE
bool served;                   /* since the last tick; or the operator acted */
ltl unstuck { [] <> served }
#define SERVED served = true
#define NOT_SERVED served = false
#else
#define SERVED skip
#define NOT_SERVED skip
#endif

/* ---- Turns. All of this is used in atomic sequences. ---- */

/* begin waits until the queue is empty, so that one turn's changes queue up at most. */
inline begin() {
	empty(events);
	readClock();
	advance()
}

/* publish ends a change of the phase: from is what was shown before. */
#ifdef HOOKS
inline publish() {
	if
	:: from != shown ->
		assert(nfull(events));
		events!from,shown;
		if
		:: !changed -> changed = true; owing++
		:: else
		fi
	:: else
	fi
}
#else
inline publish() {
	if
	:: from != shown -> to = shown; toldOf()
	:: else
	fi
}
#endif

/* toldOf is what OnChange finds in its Change. */
inline toldOf() {
	assert(from == told && from != to); /* old and new alternate */
	told = to
}

inline nextGeneration(next) {
	for (i : 0 .. CALLERS - 1) {
		current[i] = false;
		/* What the permit says no longer matters. */
		lease[i] = (lease[i] > 0 -> 1 : 0); outcome[i] = (outcome[i] > 0 -> Failure : 0)
	}
	for (i : 0 .. SLOTS - 1) { leased[i] = false; end[i] = FLOOR }
	first = FOREVER; taken = false; good = 0; inRow = 0; until = FLOOR;
	flying = 0; won = 0;
	state = next
}

inline toOpen(moment) {
	d_step {
		from = shown; at = atLeast(moment + OPEN_FOR, FLOOR);
		nextGeneration(Open);
		until = at;
		publish()
	}
}

inline toHalfOpen() { d_step { from = shown; nextGeneration(HalfOpen); publish() } }

inline toClosed() { d_step { from = shown; nextGeneration(Closed); publish() } }

inline override(how, moment) {
	d_step { from = shown; force = how; forceUntil = moment; publish() }
}

inline release() { override(None, FLOOR) }

/* advance does what time alone brings about, in the order in which it came. */
inline advance() {
	if
	:: state == HalfOpen && passed(first) ->
		if
		:: force != None && forceUntil < first -> release()
		:: else
		fi;
		toOpen(first)
	:: else
	fi;
	if
	:: force != None && passed(forceUntil) -> release()
	:: else
	fi
}

/* tellLookers copies what the probes are up to for those who only look. */
inline tellLookers() {
	first = FOREVER;
	for (i : 0 .. SLOTS - 1) {
		if
		:: leased[i] && end[i] < first -> first = end[i]
		:: else
		fi
	}
	taken = leases >= PROBES
}

/* ---- Hooks: deliver in change.go, in steps. ---- */

/* endTurn leaves the process to tell the changes of its turn, if there are any. */
inline endTurn(next) {
	age = 0;
	if
	:: changed -> step = Deliver; then = next
	:: else -> step = next
	fi
}

inline deliver() {
	changed = false;
	if
	:: ANOTHER_TELLS -> leave()
	:: !ANOTHER_TELLS && empty(events) -> leave()
	:: !ANOTHER_TELLS && nempty(events) -> delivering = true; tell()
	fi
}

inline hookReturns() {
	telling = false;
	if
	:: empty(events) -> delivering = false; leave()
	:: nempty(events) -> tell()
	fi
}

inline leave() { owing--; step = then; then = 0 }

inline tell() {
	d_step {
		assert(!telling);                   /* one at a time */
		telling = true;
		events?from,to;
		toldOf();
		step = Hook
	}
}

/* ---- Calls. ---- */

/*
 * look is phase.look. That the code loads the phase, full and first one after the other
 * makes a difference to refusals, which change nothing, and to who asks, which callers
 * here do whenever they like.
 */
inline look() {
	current[me] = true;
	forced = force != None;
	if
	:: forced && passed(forceUntil) -> verdict = Ask
	:: forced && !passed(forceUntil) && force == Open -> verdict = Refuse
	:: else ->
		if
		:: state == Open && !passed(until) || state == HalfOpen && taken && !passed(first) ->
			verdict = (forced -> Pass : Refuse)
		:: state == Open && passed(until) || state == HalfOpen && (!taken || passed(first)) ->
			verdict = Ask
		:: state == Closed -> verdict = Admit
		fi
	fi;
	assert(!holds(Open) || verdict == Refuse);
	assert(!holds(Closed) || verdict != Refuse)
}

/* ask begins to probe if that is due; once hooks have run, enter follows. */
inline ask() {
	begin();
	if
	:: state == Open && passed(until) && force != Open -> toHalfOpen()
	:: else
	fi;
	endTurn(Enter);
	if
	:: step == Enter -> enter()
	:: else
	fi
}

/* enter admits a probe if there is room for one. */
inline enter() {
	readClock();
	d_step {
		if
		:: state == HalfOpen && !passed(first) && leases LESS PROBES && ALLOWED ->
			verdict = Admit; current[me] = true;
			do
			:: leased[lease[me]] -> lease[me]++
			:: else -> break
			od;
			leased[lease[me]] = true; end[lease[me]] = LEASE_END;
			lease[me]++; /* the slot and one */
			flying++;
			assert(flying <= PROBES);
			assert(!holds(Open));
			tellLookers()
		:: else ->
			look();
			/* The half-open machine refuses for a reason, which is over soon. */
			assert(state != HalfOpen || verdict != Refuse || forced ||
				flying == PROBES && first <= PROBE_TIMEOUT)
		fi
	}
	act()
}

/* act does as the verdict says. */
inline act() {
	age = 0;
	if
	:: verdict == Admit -> step = Operate; SERVED
	:: verdict == Refuse && forced -> done(); SERVED /* as the override wants it */
	:: verdict == Refuse && !forced || verdict == Ask || verdict == Pass -> done()
	fi;
	verdict = 0; forced = false
}

inline done() {
	step = Idle; lease[me] = 0; outcome[me] = 0; current[me] = false
}

/* operate is the operation, which ends somehow, and the look with which settle begins. */
inline operate() {
	if
	:: outcome[me] = Success
	:: outcome[me] = Failure
	:: outcome[me] = Ignored
	:: outcome[me] = Lost
	fi;
	if
	:: outcome[me] == Lost || !current[me] || outcome[me] == Ignored && lease[me] == 0 -> done()
	:: else ->
		step = Report;
		if
		:: outcome[me] == Success && lease[me] > 0 -> saturate(won, SUCCESSES)
		:: else
		fi
	fi
}

/* settleProbe gives the slot back and counts the outcome. */
inline settleProbe() {
	begin();
	if
	:: STALE
	:: else ->
		d_step {
			assert(current[me]); /* or it would move another generation */
			assert(leased[lease[me] - 1]);
			leased[lease[me] - 1] = false; end[lease[me] - 1] = FLOOR;
			flying--;
			tellLookers()
		}
		if
		:: outcome[me] == Failure -> toOpen(-age)
		:: outcome[me] == Success && good + 1 >= ENOUGH -> assert(won >= SUCCESSES); toClosed()
		:: outcome[me] == Success && good + 1 < ENOUGH -> good++
		:: outcome[me] == Ignored
		fi
	fi;
	done();
	endTurn(Idle)
}

/*
 * count counts a call of the closed state. If another generation has come since the
 * permit was looked at, it does so in counts of any content that nobody judges.
 */
inline count() {
	if
	:: outcome[me] == Success && current[me] -> inRow = 0; done()
	:: outcome[me] == Failure && current[me] ->
		saturate(inRow, CONSECUTIVE);
		if
		:: inRow >= CONSECUTIVE -> step = Trip
		:: else -> done()
		fi
	:: !current[me] -> done()
	:: outcome[me] == Failure && !current[me] -> step = Trip
	fi
}

/* trip opens the breaker for a rule that held. */
inline trip() {
	begin();
	if
	:: STALE
	:: else ->
		assert(current[me]); /* or it would move another generation */
		toOpen(-age)
	fi;
	done();
	endTurn(Idle)
}

proctype Caller(byte me) {
	mtype step = Idle, then, verdict;
	bool forced, changed;

	do
	:: atomic { step == Idle && state == Closed && force == None -> current[me] = true; step = Operate; SERVED }
	:: atomic { step == Idle -> readClock(); look();
			if
			:: verdict == Ask -> verdict = 0; forced = false; ask()
			:: else -> act()
			fi
		}
	:: atomic { step == Idle -> ask() }
	:: atomic { step == Enter -> enter() }
	:: atomic { step == Operate -> operate() }
	:: atomic { step == Report && lease[me] > 0 -> settleProbe() }
	:: atomic { step == Report && lease[me] == 0 -> count() }
	:: atomic { step == Trip -> trip() }
	:: atomic { step == Deliver -> deliver() }
	:: atomic { step == Hook -> hookReturns() }
	od
}

/* ---- The operator, and time. ---- */

proctype Operator() {
	mtype step = Idle, then;
	bool changed;

	do
	:: step == Idle -> break /* leaves the breaker alone from now on */
	:: atomic { step == Idle ->
			begin();
			if
			:: override(Open, FOREVER)
			:: override(Open, HOLD - age)
			:: override(Closed, FOREVER)
			:: override(Closed, HOLD - age)
			:: force != None -> release()
			:: state != Open -> toOpen(-age) /* Trip */
			:: toClosed()                    /* Reset */
			fi;
			SERVED; endTurn(Idle)
		}
	:: atomic { step == Deliver -> deliver() }
	:: atomic { step == Hook -> hookReturns() }
	od
}

proctype Clock() {
	do
	:: d_step {
			tick(until); tick(forceUntil); tick(first);
			for (i : 0 .. SLOTS - 1) { tick(end[i]) }
			NOT_SERVED;
			assert(owing > 0 || empty(events)) /* none is left untold */
		}
	od
}

init {
	atomic {
		for (i : 0 .. CALLERS - 1) { run Caller(i) }
		run Operator();
		run Clock()
	}
}
