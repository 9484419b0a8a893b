package scorecard

import (
	"context"
	"time"

	"github.com/mettle-go/mettle/benchmarks/sim"
)

// What all scenarios have in common, unless they say otherwise.
const (
	deadline = 500 * time.Millisecond
	attempt  = 100 * time.Millisecond
	attempts = 3
	network  = time.Millisecond
	capacity = 1000.0           // of the plant, in requests a second
	warmup   = 10 * time.Second // before anything goes wrong
	drain    = 2 * time.Second
)

// setting is a world to be, without a contender.
type setting struct {
	rate     sim.Profile
	clients  int           // zero: 10
	until    time.Duration // the last arrival
	from, to time.Duration // of the fault
	server   *sim.Server   // a template, copied for each run; nil: the plant

	deadline, attempt time.Duration // zero: as above
	attempts          int           // zero: as above
	once              time.Duration // of those who make one attempt; zero: the deadline
	keys              int           // zero: one
	most              float64       // requests a second that those who tune count with; zero: all that come
	cold              bool          // the server comes back slower than it was

	// plants makes a server for each key, or for each hop; nil: there is one.
	plants func() []*sim.Server
	// callers makes the clients of a trial; nil: one of the contender's for each.
	callers func(*trial) []sim.Caller
	// work makes one attempt of a trial; nil: a call of its server.
	work func(*trial) func(*sim.World, context.Context, *sim.Request) error
}

// trial is a run of a setting by a contender.
type trial struct {
	setting
	contender Contender
	seed      uint64
	world     *sim.World
	plant     *sim.Server
	*sim.Record

	plants   []*sim.Server
	opened   []opening // of breakers
	hopeless int       // attempts that began with too little time
}

// opening is a breaker that opens.
type opening struct {
	client int
	at     time.Duration
}

// age is how long a bubble has lived when its world begins. Bubbles begin in the year
// 2000, and a library that takes the time when its package is loaded must not find that
// in its future.
const age = 100 * 365 * 24 * time.Hour

// run lets a contender live through a setting. It must be called in a bubble of its own.
func run(s setting, c Contender, seed uint64) *trial {
	// Some libraries seed their randomness with the time.
	time.Sleep(age + time.Duration(seed)*time.Millisecond)
	t := &trial{setting: s, contender: c, seed: seed}
	t.defaults()
	plant := *t.server
	t.plant = &plant
	if s.plants != nil {
		t.plants = s.plants()
	}
	config := sim.Config{
		Seed: seed, Arrivals: t.rate, Until: t.until, From: t.from, To: t.to,
		Deadline: t.deadline, Network: network, Server: t.plant,
		Cancels: c.Cancels, Drain: drain,
		Client: func(d sim.Draw) int { return d.Below(t.clients) },
		Key:    func(d sim.Draw) int { return d.Below(t.keys) },
	}
	switch {
	case t.work != nil:
		config.Work = t.work(t)
	case t.plants != nil:
		config.Work = func(w *sim.World, ctx context.Context, r *sim.Request) error {
			return w.Call(ctx, r, t.plants[r.Key])
		}
	}
	t.world = sim.New(config)
	var callers []sim.Caller
	if s.callers != nil {
		callers = s.callers(t)
	} else {
		for id := range t.clients {
			callers = append(callers, c.New(t.client(id)))
		}
	}
	t.Record = t.world.Run(callers)
	return t
}

func (t *trial) defaults() {
	orElse(&t.clients, 10)
	orElse(&t.keys, 1)
	orElse(&t.deadline, deadline)
	orElse(&t.attempt, attempt)
	orElse(&t.attempts, attempts)
	orElse(&t.once, t.deadline)
	orElse(&t.most, t.rate.Most())
	if t.server == nil {
		t.server = sim.NewPlant()
	}
}

func orElse[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// client returns what a contender is told of a client: of one that makes requests, or by a
// higher number of one that is a server itself and calls another for all of them.
func (t *trial) client(id int) Client {
	rate := t.most
	if id < t.clients {
		rate /= float64(t.clients)
	}
	servers := t.plants
	if servers == nil {
		servers = []*sim.Server{t.plant}
	}
	return Client{
		ID: id, Seed: t.seed, World: t.world, Servers: servers,
		Deadline: t.deadline, Attempt: t.attempt, Once: t.once, Attempts: t.attempts,
		Rate: rate, Cold: t.cold,
		Opened: func() { t.note(opening{id, t.world.Now()}) },
	}
}

func (t *trial) note(o opening) {
	t.world.Lock()
	defer t.world.Unlock()
	t.opened = append(t.opened, o)
}
