// The page of package dashboard. A snapshot comes about every second; what is a rate is
// the difference of two. Text from the server goes into text nodes and attributes only.

const kept = 61; // snapshots: a minute of them at the usual interval
const span = 5; // snapshots that a rate is taken over
const signs = {ok: "✓", warn: "!", bad: "✕", unknown: "·"};
const order = {bad: 0, warn: 1, unknown: 2, ok: 3};
const $ = id => document.getElementById(id);

// ---- numbers

const per = n => n === null ? "–" : (n >= 9.95 || n === 0 ? short(Math.round(n)) : n >= 0.05 ? n.toFixed(1) : "<0.1");
const short = n => n < 10000 ? String(n) : n < 1e6 ? (n / 1e3).toFixed(n < 1e5 ? 1 : 0) + "k" : (n / 1e6).toFixed(1) + "M";
const percent = s => s > 0 && s < 0.01 ? "<1%" : Math.round(100 * s) + "%";
const seconds = s => s >= 10 ? Math.round(s) + " s" : s >= 1 ? s.toFixed(1) + " s" : s >= 0.01 || s === 0 ? Math.round(s * 1e3) + " ms" : (s * 1e3).toFixed(2) + " ms";
const plural = (n, one) => n + " " + one + (n === 1 ? "" : "s");
const clock = ms => new Date(ms).toLocaleTimeString([], {hour12: false});

// Model is what is known of one card: the last snapshots of its metrics.
class Model {
	constructor() { this.past = []; this.trace = []; }
	take(card, at) {
		this.card = card;
		this.config = new Map(card.config || []);
		this.past.push({at, metrics: card.metrics || []});
		if (this.past.length > kept) this.past.shift();
	}
	// sum adds up a metric over all series that have the labels; null where there is none.
	sum(name, labels = {}, i = this.past.length - 1) {
		let sum = null;
		for (const m of this.past[i].metrics) {
			if (m.n === name && Object.entries(labels).every(([k, v]) => (m.l || {})[k] === v)) sum += m.v ?? 0;
		}
		return sum;
	}
	get(name, labels) { return this.sum(name, labels) ?? 0; }
	has(name) { return this.past.at(-1).metrics.some(m => m.n === name); }
	// rate is how much a counter has grown in a second; null while there is one snapshot.
	rate(name, labels, over = span) {
		const last = this.past.length - 1, first = Math.max(0, last - over);
		if (first === last) return null;
		const grown = this.get(name, labels) - (this.sum(name, labels, first) ?? 0);
		return Math.max(0, grown) / ((this.past[last].at - this.past[first].at) / 1e3);
	}
}

const add = (...rates) => rates.reduce((a, b) => a === null || b === null ? null : a + b);
const failures = (m, over) => add(...["failure", "overload", "timeout"].map(outcome => m.rate("calls", {outcome}, over)));
const rateFact = (label, r) => [label, r === null ? "–" : per(r) + "/s"];

// ---- what each kind of policy has to say
//
// level, word and why are its state. ring and share, disc (per second) and parts (class
// and size) are the dial, big and unit the text in it. facts stand beside it. trace is
// what the line shows: all, and what went wrong.

const kinds = {
	breaker(m) {
		if (!m.has("state")) return group(m);
		const state = ["open", "half-open", "closed"].find(state => m.get("state", {state}) > 0) || "closed";
		const good = m.rate("calls", {outcome: "success"}), failed = failures(m), refused = m.rate("rejected");
		const share = good + failed > 0 ? failed / (good + failed) : 0;
		const forced = m.card.override, last = (m.card.changes || [])[0];
		let why;
		if (forced) {
			why = override(forced);
		} else if (state === "open") {
			const left = m.get("remaining_delay");
			why = (last ? last.why.replace(/; for .*/, "") + "; " : "") + (left > 0 ? "probes in " + seconds(left) : "will probe with the next call");
		} else if (state === "half-open") {
			why = plural(m.get("probes"), "probe") + " in flight";
		} else {
			const calls = m.get("window.calls");
			why = calls > 0 ? m.get("window.failed") + " of " + plural(calls, "call") + " in the window failed" : "no calls in the window";
		}
		return {
			level: state === "open" ? "bad" : state === "half-open" || forced || share >= 0.1 ? "warn" : "ok",
			word: (forced ? "forced " : "") + state, why,
			ring: {open: "broken", "half-open": "dotted", closed: "whole"}[state],
			parts: [["good", good], ["fail", failed], ["refused", refused]],
			big: per(add(good, failed, refused)), unit: "calls/s",
			facts: [["fail", good === null ? "–" : percent(share)], rateFact("refused", refused)],
			trace: [add(m.rate("calls", {}, 1), m.rate("rejected", {}, 1)), add(failures(m, 1), m.rate("rejected", {}, 1))],
		};
	},

	budget, // a retry budget on its own, which several share

	retry(m) {
		const tries = m.rate("attempts"), first = m.rate("attempts", {attempt: "1"});
		const resent = tries === null ? null : tries - first;
		const won = m.rate("successes"), late = won === null ? null : won - m.rate("successes", {attempt: "1"});
		const denied = m.rate("stops", {reason: "budget"});
		const burst = Number(m.config.get("Budget.Burst")) || 0, tokens = m.sum("budget_tokens");
		const share = burst > 0 && tokens !== null ? tokens / burst : null;
		const level = denied > 0 ? "bad" : resent > 0.02 * first ? "warn" : "ok";
		const calm = tries - won >= 0.1 * tries && tries > 0 ? "no resends" : "calm"; // refusals are not resent
		return {
			level, word: {bad: "budget spent", warn: "resending", ok: calm}[level],
			why: denied > 0 ? per(denied) + " calls/s fail without a resend" : level === "warn" ? percent(late / resent) + " of the resends succeed" : calm === "calm" ? "nothing to resend" : "what fails is not resent",
			ring: share === null ? "whole" : "share", share,
			parts: [["good", won], ["fail", tries === null ? null : tries - won]],
			big: per(tries), unit: "attempts/s",
			facts: [["load", "×" + (m.get("amplification") || 1).toFixed(2)], rateFact("resends", resent),
				...(share === null ? [] : [["budget", Math.floor(tokens) + "/" + burst]])],
			trace: [m.rate("attempts", {}, 1), failedTries(m)],
		};
	},

	bulkhead(m) {
		if (!m.has("in_flight")) return other(m);
		const busy = m.get("in_flight"), limit = m.get("limit"), queued = m.get("queued"), room = m.get("max_queue");
		const refused = m.rate("rejected"), waits = m.rate("waits");
		const wait = waits > 0 ? m.rate("wait_time") / waits : null;
		const full = busy >= limit;
		return {
			level: refused > 0 ? "bad" : full || queued > 0 ? "warn" : "ok",
			word: refused > 0 ? "refusing" : queued > 0 ? "queueing" : full ? "full" : "has room",
			why: room > 0 ? queued + " of " + room + " places in the queue taken" : "nobody may wait",
			ring: "share", share: limit > 0 ? busy / limit : 0,
			parts: [["other", busy], ["refused", queued]],
			big: String(busy), unit: "of " + limit + " in flight",
			facts: [rateFact("refused", refused), ["mean wait", wait === null ? "none" : seconds(wait)]],
			trace: [busy + queued, queued],
		};
	},

	timeout(m) {
		const exceeded = m.rate("exceeded"), overdue = m.get("overdue"), late = m.rate("late");
		const q = Number(m.config.get("Quantile"));
		return {
			level: overdue > 0 ? "bad" : exceeded > 0 ? "warn" : "ok",
			word: overdue > 0 ? "calls hang" : exceeded > 0 ? "timing out" : "in time",
			why: overdue > 0 ? plural(overdue, "call") + " well past the deadline" : q > 0 ? "twice the " + 100 * q + "th percentile" : "",
			ring: "whole", parts: [["fail", exceeded], ["refused", late]],
			big: seconds(m.get("after")).replace(" ", "\u2009"), unit: "at most",
			facts: [rateFact("timed out", exceeded), rateFact("too late", late)],
			trace: [add(m.rate("exceeded", {}, 1), m.rate("late", {}, 1)), m.rate("exceeded", {}, 1)],
		};
	},

	hedge(m) {
		const sent = m.rate("hedges"), wins = m.rate("wins"), denied = m.rate("denied"), delay = m.get("delay");
		return {
			level: denied > 0 ? "warn" : "ok", word: denied > 0 ? "budget spent" : sent > 0 ? "hedging" : "calm",
			why: sent > 0 ? percent(wins / sent) + " of the hedges were quicker" : delay > 0 ? "" : "still learning how long calls take",
			ring: "whole", parts: [["good", wins], ["other", sent === null ? null : Math.max(0, sent - wins)]],
			big: delay > 0 ? seconds(delay).replace(" ", "\u2009") : "?", unit: "until a hedge",
			facts: [rateFact("sent", sent), rateFact("won", wins), rateFact("denied", denied)],
			trace: [m.rate("hedges", {}, 1), m.rate("denied", {}, 1)],
		};
	},

	fallback(m) {
		const fell = m.rate("fell_back"), failed = m.rate("failed");
		const level = failed > 0 ? "bad" : fell > 0 ? "warn" : "ok";
		return {
			level, word: {bad: "failing too", warn: "standing in", ok: "not needed"}[level],
			why: short(m.get("fell_back")) + " times in all",
			ring: level === "ok" ? "dotted" : "whole", parts: [["refused", fell === null ? null : Math.max(0, fell - failed)], ["fail", failed]],
			big: per(fell), unit: "stand-ins/s",
			facts: [rateFact("failed", failed)],
			trace: [m.rate("fell_back", {}, 1), m.rate("failed", {}, 1)],
		};
	},
};

const override = o => "by " + o.by + (o.for ? ", for " + o.for : ", until released") + ": " + o.reason;

const failedTries = m => {
	const tries = m.rate("attempts", {}, 1);
	return tries === null ? null : tries - m.rate("successes", {}, 1);
};

// group is a breaker for each key.
function group(m) {
	const good = m.rate("calls", {outcome: "success"}), failed = failures(m), refused = m.rate("rejected");
	const keys = m.get("group.keys"), open = m.get("group.keys", {state: "open"}), half = m.get("group.keys", {state: "half-open"});
	const share = good + failed > 0 ? failed / (good + failed) : 0;
	return {
		level: open > 0 && 2 * open >= keys ? "bad" : open + half > 0 || share >= 0.1 ? "warn" : "ok",
		word: open > 0 ? open + " of " + keys + " open" : half > 0 ? half + " half-open" : "all closed",
		why: plural(keys, "key") + ", each with a breaker",
		ring: open > 0 ? "broken" : half > 0 ? "dotted" : "whole",
		parts: [["good", good], ["fail", failed], ["refused", refused]],
		big: per(add(good, failed, refused)), unit: "calls/s",
		facts: [["fail", good === null ? "–" : percent(share)], rateFact("refused", refused)],
		trace: [add(m.rate("calls", {}, 1), m.rate("rejected", {}, 1)), add(failures(m, 1), m.rate("rejected", {}, 1))],
	};
}

function budget(m) {
	const denied = m.rate("budget_denials"), tokens = m.get("budget_tokens"), burst = Number(m.config.get("Burst")) || 0;
	return {
		level: denied > 0 ? "bad" : "ok", word: denied > 0 ? "budget spent" : "has tokens", why: "",
		ring: burst > 0 ? "share" : "whole", share: burst > 0 ? tokens / burst : 0, parts: [["refused", denied]],
		big: per(tokens), unit: "tokens", facts: [rateFact("denied", denied)],
		trace: [tokens, m.rate("budget_denials", {}, 1)],
	};
}

// other is a policy that the page knows nothing about: its numbers as they come.
function other(m) {
	const all = m.past.at(-1).metrics;
	const facts = all.slice(0, 6).map(x => {
		const label = [x.n.replaceAll("_", " "), ...Object.values(x.l || {})].join(" ");
		return x.c ? rateFact(label, m.rate(x.n, x.l)) : [label, x.v === null ? "–" : x.u === "s" ? seconds(x.v) : per(x.v)];
	});
	const count = all.find(x => x.c), rate = count ? m.rate(count.n) : null;
	return {
		level: "unknown", word: all.length ? "running" : "no metrics", why: "", ring: "whole",
		parts: [["other", rate]], big: count ? per(rate) : "", unit: count ? "per second" : "", facts,
		trace: [count ? m.rate(count.n, {}, 1) : null, null],
	};
}

// ---- drawing

const svg = "http://www.w3.org/2000/svg";
function make(tag, className, ...children) {
	const e = document.createElement(tag);
	if (className) e.className = className;
	e.append(...children);
	return e;
}
function draw(parent, tag, attributes) {
	const e = document.createElementNS(svg, tag);
	for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
	parent.append(e);
	return e;
}
function say(e, text) { if (e.textContent !== text) e.textContent = text; }
// signed is say with a sign before the text, which is for the eyes: a screen reader would read out its name.
function signed(e, level, text) {
	if (e.textContent === signs[level] + " " + text) return;
	const sign = make("span", "", signs[level] + " ");
	sign.setAttribute("aria-hidden", "true");
	e.replaceChildren(sign, text);
}
// list makes a list that stays one for screen readers though it has no bullets.
function list(className) {
	const e = make("ol", className);
	e.setAttribute("role", "list");
	return e;
}
function mark(e, level, base = "") { const c = (base + " " + level).trim(); if (e.getAttribute("class") !== c) e.setAttribute("class", c); }
// renew fills e with what fill returns, if what it depends on has changed.
function renew(e, depends, fill) {
	const key = JSON.stringify(depends);
	if (e.shown === key) return;
	e.shown = key;
	e.replaceChildren(...fill());
}

const around = 2 * Math.PI * 44;
const rings = {
	whole: () => "none", dotted: () => "5 9.1", broken: () => (around - 62) + " 62",
	share: s => Math.max(0.01, Math.min(1, s)) * around + " " + around,
};

function point(turn, r) { return (50 + r * Math.sin(2 * Math.PI * turn)).toFixed(2) + " " + (50 - r * Math.cos(2 * Math.PI * turn)).toFixed(2); }
function sector(from, to, r) {
	if (to - from > 0.999) return `M${point(0, r)}A${r} ${r} 0 1 1 ${point(0.5, r)}A${r} ${r} 0 1 1 ${point(0, r)}Z`;
	return `M50 50L${point(from, r)}A${r} ${r} 0 ${to - from > 0.5 ? 1 : 0} 1 ${point(to, r)}Z`;
}

// Card is one policy on the page.
class Card {
	constructor(kind, name) {
		this.model = new Model();
		this.kind = kind;
		this.name = name;
		this.shared = make("small", "shared");
		const title = make("h3", "", make("small", "", kind), " ", name, this.shared);
		this.title = (kind + " " + name).trim();
		this.word = make("p", "word");
		this.why = make("p", "why");
		this.face = make("div", "face");
		this.dial = draw(this.face, "svg", {class: "dial", viewBox: "0 0 100 100", role: "img"});
		draw(this.dial, "circle", {class: "track", cx: 50, cy: 50, r: 44});
		this.disc = draw(this.dial, "g", {});
		this.ring = draw(this.dial, "circle", {class: "ring", cx: 50, cy: 50, r: 44, transform: "rotate(-90 50 50)"});
		this.arm = draw(this.dial, "line", {class: "open-arm", x1: 47.7, y1: 6.1, x2: 74, y2: -6});
		this.big = draw(this.dial, "text", {x: 50, y: 54});
		this.unit = draw(this.dial, "text", {x: 50, y: 67, class: "unit"});
		this.facts = make("dl", "facts");
		this.face.append(this.facts);
		this.spark = document.createElementNS(svg, "svg");
		for (const [k, v] of Object.entries({class: "spark", viewBox: "0 0 60 20", preserveAspectRatio: "none", "aria-hidden": "true"})) this.spark.setAttribute(k, v);
		this.area = draw(this.spark, "path", {class: "area"});
		this.fails = draw(this.spark, "path", {class: "fails"});
		this.keys = list("keys");
		this.history = list("history");
		this.config = make("dl", "config");
		this.past = make("details", "", make("summary", "", "Last changes"), this.history);
		this.settings = make("details", "", make("summary", "", "Configuration"), this.config);
		this.past.open = true;
		this.settings.open = matchMedia("(min-width: 42rem)").matches;
		this.switches = new Map(["open", "closed", "release", "reset", "key"].map(action => [action, button(action, this)]));
		this.buttons = make("p", "buttons", ...this.switches.values());
		this.more = make("div", "more", this.keys, this.past, this.settings, this.buttons);
		this.element = make("li", "", this.article = make("article", "card unknown",
			title, this.word, this.why, this.face, this.spark, this.more));
		title.id = "title-" + Math.random().toString(36).slice(2);
		this.article.setAttribute("aria-labelledby", title.id);
	}

	// number sets what may be another after a deploy: the index of the layer, and the
	// other pipelines that have it.
	number(layer, others) {
		this.layer = layer;
		this.shared.hidden = others.length === 0;
		say(this.shared, others.length ? "also in " + others.join(", ") : "");
	}

	update(card, frame) {
		const m = this.model;
		m.take(card, frame.at);
		const v = this.view = (Object.hasOwn(kinds, card.kind) ? kinds[card.kind] : other)(m);
		mark(this.article, v.level, "card");
		signed(this.word, v.level, v.word);
		say(this.why, v.why);
		this.turn(v);
		renew(this.facts, v.facts, () => v.facts.map(([label, value]) => make("div", "", make("dt", "", label), make("dd", "", value))));
		m.trace.push(v.trace);
		if (m.trace.length > kept - 1) m.trace.shift();
		this.line(m.trace);
		this.lists(card, frame);
	}

	// turn sets the dial.
	turn(v) {
		const sizes = v.parts.map(([, size]) => size ?? 0), total = sizes.reduce((a, b) => a + b, 0);
		const r = total > 0 ? 9 + 27 * Math.min(1, Math.log10(1 + total) / 4) : 0;
		renew(this.disc, [v.parts, r], () => {
			let from = 0;
			const made = [];
			v.parts.forEach(([className], i) => {
				if (total === 0 || sizes[i] === 0) return;
				const to = from + sizes[i] / total, e = document.createElementNS(svg, "path");
				e.setAttribute("class", className);
				e.setAttribute("d", sector(from, to, +r.toFixed(2)));
				made.push(e);
				from = to;
			});
			return made;
		});
		this.ring.setAttribute("stroke-dasharray", rings[v.ring](v.share));
		this.ring.setAttribute("transform", v.ring === "broken" ? "rotate(-12 50 50)" : "rotate(-90 50 50)");
		this.arm.setAttribute("visibility", v.ring === "broken" ? "visible" : "hidden");
		say(this.big, v.big);
		this.big.setAttribute("font-size", v.big.length > 6 ? 14 : v.big.length > 4 ? 18 : 24);
		say(this.unit, v.unit);
		this.dial.setAttribute("aria-label", v.big + " " + v.unit);
	}

	line(trace) {
		const top = Math.max(1, ...trace.map(t => t[0] ?? 0));
		const at = (t, i, k) => (60 - trace.length + 1 + i) + " " + (20 - 19 * Math.min(1, (t[k] ?? 0) / top)).toFixed(1);
		this.area.setAttribute("d", "M" + (61 - trace.length) + " 20L" + trace.map((t, i) => at(t, i, 0)).join("L") + "L60 20Z");
		this.spark.toggleAttribute("hidden", !trace.some(t => t[0] > 0));
		this.fails.setAttribute("d", trace.some(t => t[1] > 0) ? "M" + trace.map((t, i) => at(t, i, 1)).join("L") : "");
	}

	lists(card, frame) {
		const level = {open: "bad", "half-open": "warn", closed: "ok"};
		const changes = card.changes || [], keys = card.keys || [], config = card.config || [];
		this.past.hidden = changes.length === 0;
		renew(this.history, changes, () => changes.slice(0, 5).map(c => make("li", level[c.to] || "unknown",
			make("time", "", clock(c.at)), " ", make("b", "", c.from + " → " + c.to), " " + c.why)));
		this.keys.hidden = keys.length === 0 && !card.moreKeys;
		this.names = keys.filter(k => k.forceable).map(k => k.name);
		renew(this.keys, [keys, card.moreKeys], () => [
			...keys.map(k => make("li", level[k.state] || "unknown", make("b", "", k.name),
				k.override ? " forced " + k.state + " " + override(k.override) : " " + k.state + ", " + k.failed + " of " + k.calls + " failed ",
				make("small", "", k.last && !k.override ? "(" + clock(k.last.at) + " " + k.last.from + " → " + k.last.to + ": " + k.last.why + ")" : ""))),
			...(card.moreKeys ? [make("li", "unknown", "and " + plural(card.moreKeys, "key") + (keys.length ? " in no worse state" : " without failures"))] : []),
		]);
		this.settings.hidden = config.length === 0;
		renew(this.config, config, () => config.flatMap(([k, v]) => [make("dt", "", k), make("dd", "", v)]));
		const keyed = !this.model.has("state"), focused = document.activeElement;
		this.buttons.hidden = !frame.overrides || !card.forceable;
		for (const [action, b] of this.switches) b.hidden = action === "key" ? !keyed : keyed || action === "release" && !card.override;
		if (focused.hidden && this.buttons.contains(focused)) this.switches.get("open").focus(); // rather than nowhere
	}
}

// button makes a switch of a card. Its name says of what, since there are several of a kind.
function button(action, card) {
	const b = make("button", "", actions[action].name);
	b.type = "button";
	b.setAttribute("aria-haspopup", "dialog");
	b.setAttribute("aria-label", actions[action].name + ": " + card.title);
	b.addEventListener("click", () => ask(action, card));
	return b;
}

// ---- overrides

const actions = {
	open: {name: "Force open", help: "Every call is refused, probes included, until the time is over or the breaker is released."},
	closed: {name: "Force closed", help: "Every call is let through, however many fail, until the time is over or the breaker is released."},
	release: {name: "Release", help: "The override ends, and the breaker's own state shows."},
	reset: {name: "Reset", help: "The breaker closes and forgets what it has counted. An override stays."},
	key: {name: "Override a key"},
};
let asked = null;

function ask(action, card) {
	const keyed = action === "key";
	asked = card;
	say($("dialog-title"), actions[action].name + ": " + card.title);
	say($("problem"), "");
	$("key-label").hidden = $("action-label").hidden = !keyed;
	$("key").required = keyed;
	$("key").value = $("reason").value = "";
	$("keys").replaceChildren(...(card.names || []).map(name => { const o = make("option"); o.value = name; return o; }));
	$("action").value = keyed ? "open" : action;
	fit();
	$("confirm").disabled = false;
	$("dialog").showModal();
}
// fit shows the fields that the action needs.
function fit() {
	const action = $("action").value, forced = action === "open" || action === "closed";
	say($("dialog-help"), actions[action].help);
	$("for-label").hidden = $("reason-label").hidden = !forced;
	$("reason").required = forced;
}
$("action").addEventListener("change", fit);
$("cancel").addEventListener("click", () => $("dialog").close());
$("form").addEventListener("submit", async e => {
	e.preventDefault();
	const body = new URLSearchParams({action: $("action").value, policy: asked.layer, kind: asked.kind, name: asked.name});
	if (!$("key-label").hidden) body.set("key", $("key").value);
	if (!$("reason-label").hidden) {
		body.set("for", $("for").value);
		body.set("reason", $("reason").value);
	}
	$("confirm").disabled = true;
	let problem = "";
	try {
		// Nothing but 204 is the breaker's: a login in between answers 200, or sends elsewhere.
		const answer = await fetch("override", {method: "POST", body, redirect: "error"});
		if (answer.ok && answer.status !== 204) problem = "It was not done: something else has answered. Load the page again.";
		else if (!answer.ok) problem = (await answer.text()).trim() || "It was not done.";
	} catch {
		problem = "The server does not answer, or sends elsewhere. Load the page again.";
	}
	$("confirm").disabled = false;
	if (problem) say($("problem"), problem); else $("dialog").close();
});

// ---- snapshots

let shape = "", cards = new Map(), sections = [];

// place says where a card is: a policy may be in a pipeline twice.
const place = (item, at, card) => JSON.stringify([item, at, card.kind, card.name]);

// build lays the page out anew, which is needed only when policies come or go.
function build(frame) {
	const old = cards;
	cards = new Map();
	const names = frame.layers.map((_, i) => frame.items.filter(it => it.layers.includes(i)).map(it => it.name));
	sections = frame.items.map((it, n) => {
		const flow = list("flow");
		for (const [at, i] of it.layers.entries()) {
			for (const c of frame.layers[i].cards) {
				const id = place(n, at, c);
				const card = old.get(id) || new Card(c.kind, c.name);
				card.number(i, names[i].filter(other => other !== it.name));
				cards.set(id, card);
				flow.append(card.element);
			}
		}
		const title = make("h2", "", it.name);
		const section = make("section", "pipeline", title, flow);
		section.setAttribute("aria-label", it.name);
		return section;
	});
	const focused = document.activeElement;
	$("main").replaceChildren(...sections);
	if (focused.isConnected) focused.focus();
}

function show(frame) {
	const now = JSON.stringify([frame.items, frame.layers.map(l => l.cards.map(c => [c.kind, c.name]))]);
	if (now !== shape) {
		shape = now;
		build(frame);
	}
	frame.items.forEach((it, n) => {
		for (const [at, i] of it.layers.entries()) {
			for (const c of frame.layers[i].cards) cards.get(place(n, at, c)).update(c, frame);
		}
	});
	// Breakers first: they are why the others are as they are.
	const seen = new Map();
	for (const c of cards.values()) seen.set(c.layer + c.title, c);
	const all = [...seen.values()].sort((a, b) => order[a.view.level] - order[b.view.level] || (b.title.startsWith("breaker") - a.title.startsWith("breaker")));
	const worst = all[0], level = worst && order[worst.view.level] < order.unknown ? worst.view.level : all.some(c => c.view.level === "ok") ? "ok" : "unknown";
	const troubled = all.filter(c => order[c.view.level] < order.unknown);
	mark($("top"), level);
	signed($("verdict"), level, troubled.length ? worst.title + ": " + worst.view.word : level === "ok" ? "all well" : "nothing known");
	say($("detail"), troubled.slice(1, 4).map(c => signs[c.view.level] + " " + c.title + ": " + c.view.word).join(" · ") +
		(troubled.length > 4 ? " · and " + (troubled.length - 4) + " more" : ""));
	say($("clock"), clock(frame.at));
	document.title = $("verdict").textContent + " · mettle";
}

let heard = performance.now(), interval = 1000, address = "events", latest;

function connect() {
	const source = new EventSource(address);
	// A proxy may hold back what has not ended: one snapshot at a time passes. The stream
	// comes to its end with each, and the browser asks again.
	let held;
	const expect = () => {
		clearTimeout(held);
		held = setTimeout(() => {
			address = "events?one";
			source.close();
			connect();
		}, 5000);
	};
	expect();
	source.addEventListener("open", expect);
	source.addEventListener("message", e => {
		clearTimeout(held);
		const frame = JSON.parse(e.data);
		heard = performance.now();
		interval = frame.interval;
		document.body.classList.remove("stale");
		$("lost").hidden = true;
		if (frame.at === latest) return; // asked for twice within an interval: no time has passed for a rate
		latest = frame.at;
		show(frame);
	});
	source.addEventListener("error", () => {
		clearTimeout(held);
		if (source.readyState === EventSource.CLOSED) setTimeout(connect, 3000); // else it tries by itself
	});
}

setInterval(() => {
	if (performance.now() - heard < 3 * interval + 2000 || !$("lost").hidden) return;
	document.body.classList.add("stale");
	say($("lost"), "✕ No news since " + ($("clock").textContent || "the beginning") + ". What you see is from then.");
	$("lost").hidden = false;
}, 1000);

connect();
