package dashboard

import (
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/retry"
)

// What a snapshot holds at most, however many there are of each, so that neither a
// policy of the user's own nor the keys of a group can make it grow.
const (
	maxCards    = 32  // for each layer
	maxMetrics  = 200 // for each layer
	maxSettings = 64  // for each layer
	maxKeys     = 12  // for each group
	maxText     = 200 // bytes
)

// item is an [Item] in parts.
type item struct {
	name   string
	layers []int // indices in page.layers, outermost first
}

// add takes an item apart. Pipelines within pipelines come out flat, since that is how
// they run.
func (p *page) add(it Item) {
	flat := item{name: it.Name, layers: []int{}} // not null in JSON
	var walk func(of any)
	walk = func(of any) {
		if c, ok := of.(interface{ Policies() []mettle.Policy }); ok {
			for _, policy := range c.Policies() {
				if !isNil(policy) {
					walk(policy)
				}
			}
			return
		}
		flat.layers = append(flat.layers, p.layer(of))
	}
	walk(it.Of)
	p.items = append(p.items, flat)
}

// layer returns the index of what is one thing, however many items have it.
func (p *page) layer(of any) int {
	i := -1
	if reflect.ValueOf(of).Comparable() { // a func is not
		i = slices.IndexFunc(p.layers, func(have any) bool {
			return reflect.ValueOf(have).Comparable() && have == of
		})
	}
	if i < 0 {
		i = len(p.layers)
		p.layers = append(p.layers, of)
	}
	return i
}

// The snapshot as the page reads it. The names are short because they are sent with
// every event.
type (
	snapshot struct {
		At        int64       `json:"at"` // milliseconds since 1970
		Tick      int64       `json:"tick"`
		Interval  int64       `json:"interval"` // milliseconds
		Overrides bool        `json:"overrides"`
		Items     []itemView  `json:"items"`
		Layers    []layerView `json:"layers"`
	}
	itemView struct {
		Name   string `json:"name"`
		Layers []int  `json:"layers"`
	}
	layerView struct {
		Cards []*cardView `json:"cards"` // one at least
	}
	// cardView is all that a layer tells under one name.
	cardView struct {
		Kind      string       `json:"kind"` // breaker, retry …: the second element of a metric's name
		Name      string       `json:"name"`
		Metrics   []metricView `json:"metrics,omitempty"`
		Config    [][2]string  `json:"config,omitempty"`
		Changes   []changeView `json:"changes,omitempty"` // the last one first
		Override  *forceView   `json:"override,omitempty"`
		Keys      []keyView    `json:"keys,omitempty"`
		MoreKeys  int          `json:"moreKeys,omitempty"`
		Forceable bool         `json:"forceable,omitempty"`
	}
	metricView struct {
		Name   string            `json:"n"` // what follows the kind
		Unit   string            `json:"u"`
		Count  bool              `json:"c,omitempty"` // it only grows
		Labels map[string]string `json:"l,omitempty"` // but for policy
		Value  *float64          `json:"v"`           // null: not a finite number
	}
	changeView struct {
		At   int64  `json:"at"`
		From string `json:"from"`
		To   string `json:"to"`
		Why  string `json:"why"`
	}
	forceView struct {
		By     string `json:"by"`
		Reason string `json:"reason"`
		For    string `json:"for"` // "": until it is released
	}
	keyView struct {
		Name     string      `json:"name"`
		State    string      `json:"state"`
		Calls    int         `json:"calls"`
		Failed   int         `json:"failed"`
		Last     *changeView `json:"last,omitempty"`
		Override *forceView  `json:"override,omitempty"`
		// Forceable says that Name is the whole name, by which the key is found again.
		Forceable bool `json:"forceable,omitempty"`
	}
)

// snapshot returns how things are as an event. It is called with mu held, and calls what
// is not ours: a policy's Observe and LogValue, which must be pure.
func (p *page) snapshot(tick int64) []byte {
	s := snapshot{
		At: time.Now().UnixMilli(), Tick: tick, Interval: p.interval.Milliseconds(), Overrides: p.authorize != nil,
		Items: []itemView{}, Layers: []layerView{},
	}
	for _, it := range p.items {
		s.Items = append(s.Items, itemView{text(it.name), it.layers})
	}
	for _, of := range p.layers {
		s.Layers = append(s.Layers, view(of))
	}
	data, err := json.Marshal(s) // of one line, and with no "<"
	if err != nil {
		panic("dashboard: " + err.Error()) // there is nothing in it that cannot be encoded
	}
	return append(append([]byte("data: "), data...), "\n\n"...)
}

func view(of any) layerView {
	cards := titled(of)
	configure(of, cards)
	switch of := of.(type) {
	case *retry.Budget:
		cards[0].Kind = "budget" // its metrics are those that a retry has of it
	case *breaker.Breaker:
		cards[0].Forceable = true
		describe(of, cards[0])
	case keyed:
		cards[0].Forceable = true
		worst(of.Breakers(), cards[0])
	}
	return layerView{cards}
}

// titled returns the cards of a layer, one at least, with their metrics.
func titled(of any) []*cardView {
	if cards := metrics(of); len(cards) > 0 {
		return cards
	}
	return []*cardView{{Kind: "policy", Name: text(fmt.Sprintf("%T", of))}}
}

// metrics returns a card for each kind and name among the metrics of a layer.
func metrics(of any) (cards []*cardView) {
	o, ok := of.(mettle.Observable)
	if !ok {
		return nil
	}
	n := 0
	o.Observe(func(m mettle.Metric) bool {
		if n++; n > maxMetrics {
			return false
		}
		kind, name, ok := strings.Cut(strings.TrimPrefix(m.Name, "mettle."), ".")
		if !ok {
			kind, name = "policy", m.Name
		}
		v := metricView{Name: text(name), Unit: text(m.Unit), Count: m.Kind == mettle.Counter}
		if !math.IsNaN(m.Value) && !math.IsInf(m.Value, 0) {
			v.Value = &m.Value
		}
		policy := ""
		for _, l := range m.Labels {
			if l.Key == "policy" {
				policy = text(l.Value)
				continue
			}
			if v.Labels == nil {
				v.Labels = make(map[string]string)
			}
			v.Labels[text(l.Key)] = text(l.Value)
		}
		kind = text(kind)
		i := slices.IndexFunc(cards, func(c *cardView) bool { return c.Kind == kind && c.Name == policy })
		if i < 0 {
			if len(cards) == maxCards {
				return true
			}
			i, cards = len(cards), append(cards, &cardView{Kind: kind, Name: policy})
		}
		cards[i].Metrics = append(cards[i].Metrics, v)
		return true
	})
	return cards
}

// configure gives the cards what the layer tells of its configuration: a group of
// settings to the card that it names, the others to the first.
func configure(of any, cards []*cardView) {
	l, ok := of.(slog.LogValuer)
	if !ok {
		return
	}
	v := slog.AnyValue(l).Resolve()
	if v.Kind() != slog.KindGroup {
		return
	}
	for _, a := range v.Group() {
		name, group := named(a.Value)
		i := slices.IndexFunc(cards, func(c *cardView) bool { return c.Name == name })
		if name == "" || i < 0 {
			cards[0].set("", a)
			continue
		}
		for _, inner := range group {
			cards[i].set("", inner)
		}
	}
}

// named returns what a group of settings has under Name, as text, and the group. The name
// is empty where there is none, or no group.
func named(v slog.Value) (string, []slog.Attr) {
	if v = v.Resolve(); v.Kind() != slog.KindGroup {
		return "", nil
	}
	return text(nameIn(v.Group())), v.Group()
}

func nameIn(settings []slog.Attr) string {
	for _, a := range settings {
		if a.Key == "Name" {
			return a.Value.String()
		}
	}
	return ""
}

// nameOf returns the whole name of a breaker.
func nameOf(b *breaker.Breaker) string { return nameIn(b.LogValue().Group()) }

// set adds a setting, and those of a group one by one.
func (c *cardView) set(prefix string, a slog.Attr) {
	v := a.Value.Resolve()
	switch {
	case len(c.Config) == maxSettings:
	case v.Kind() == slog.KindGroup:
		for _, inner := range v.Group() {
			c.set(prefix+a.Key+".", inner)
		}
	case prefix == "" && a.Key == "Name": // it is the title
	default:
		c.Config = append(c.Config, [2]string{text(prefix + a.Key), text(v.String())})
	}
}

// describe adds what only a breaker has.
func describe(b *breaker.Breaker, c *cardView) {
	for _, change := range slices.Backward(b.Changes()) {
		c.Changes = append(c.Changes, told(change))
	}
	c.Override = forced(b.Stats())
}

func forced(s breaker.Stats) *forceView {
	if !s.Overridden {
		return nil
	}
	v := &forceView{By: text(s.Override.By), Reason: text(s.Override.Reason)}
	if s.Override.For > 0 {
		v.For = s.Override.For.String()
	}
	return v
}

func told(c breaker.Change) changeView {
	v := changeView{At: c.At.UnixMilli(), From: c.From.String(), To: c.To.String()}
	for _, a := range c.LogValue().Group() {
		switch {
		case a.Key == "why":
			v.Why = text(a.Value.String())
		case a.Key == "delay" && a.Value.Duration() > 0:
			v.Why += "; for " + a.Value.Duration().Round(time.Millisecond).String()
		}
	}
	return v
}

// worst adds the breakers of a group that are in the worst state, which is what somebody
// who looks at thousands wants to see.
func worst(all iter.Seq[*breaker.Breaker], c *cardView) {
	type ranked struct {
		b    *breaker.Breaker
		s    breaker.Stats
		rank int
	}
	var top []ranked // the worst first
	n := 0
	for b := range all {
		n++
		s := b.Stats()
		r := ranked{b, s, s.Failed}
		switch {
		case s.State != breaker.Closed || s.Overridden:
			r.rank = math.MaxInt
		case s.Failed == 0:
			continue
		}
		at, _ := slices.BinarySearchFunc(top, r.rank, func(have ranked, rank int) int {
			if have.rank >= rank {
				return -1
			}
			return 1
		})
		if at == maxKeys {
			continue
		}
		if len(top) == maxKeys {
			top = top[:maxKeys-1]
		}
		top = slices.Insert(top, at, r)
	}
	for _, r := range top {
		name := nameOf(r.b)
		k := keyView{Name: text(name), State: r.s.State.String(), Calls: r.s.Calls, Failed: r.s.Failed, Override: forced(r.s)}
		k.Forceable = k.Name == name && utf8.ValidString(name)
		if changes := r.b.Changes(); len(changes) > 0 {
			last := told(changes[len(changes)-1])
			k.Last = &last
		}
		c.Keys = append(c.Keys, k)
	}
	c.MoreKeys = n - len(top)
}

// text bounds what is not ours. It cuts between runes.
func text(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "…"
}

// isNil reports whether v, or the pointer in it, is nil.
func isNil(v any) bool {
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Invalid:
		return true
	case reflect.Pointer, reflect.Func, reflect.Map, reflect.Chan, reflect.Slice:
		return r.IsNil()
	default:
		return false
	}
}
