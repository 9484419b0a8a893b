package mettleprom

import (
	"encoding/json"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/mettle-go/mettle"
)

// WriteDashboard writes a dashboard for Grafana, as JSON to be imported there, that shows
// the metrics of the observables given under the names that a collector of this package
// gives them. What they do not yield is not on it: without a hedge, there is no row for
// hedges. The file dashboard.json beside this one has all policies of the root module.
//
// On the dashboard one chooses the data source, the jobs and the policies, which are the
// values of the label policy. A nil observable panics. The error is that of w.
func WriteDashboard(w io.Writer, observables ...mettle.Observable) error {
	board := boardJSON{
		Title: "mettle", UID: "mettle", Tags: []string{"mettle"}, SchemaVersion: 39, Editable: true,
		Refresh: "10s", Time: map[string]string{"from": "now-30m", "to": "now"},
	}
	board.Templating.List = []variable{
		{Name: "datasource", Label: "Data source", Type: "datasource", Query: "prometheus"},
		labelVariable("job"), labelVariable("policy"),
	}
	names := namesOf(observables)
	y := 0
	for _, r := range rows {
		panels := slices.Clone(r.panels)
		panels = slices.DeleteFunc(panels, func(p panel) bool { return !p.known(names) })
		if len(panels) == 0 {
			continue
		}
		board.add(panelJSON{Title: r.title, Type: "row", Grid: grid{W: 24, H: 1, Y: y}})
		y++
		for i, p := range panels {
			board.add(p.json(names, grid{W: 8, H: 8, X: i % 3 * 8, Y: y + i/3*8}))
		}
		y += (len(panels) + 2) / 3 * 8
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(board)
}

// namesOf returns what the metrics of the observables are called in Prometheus, by what
// we call them.
func namesOf(observables []mettle.Observable) map[string]string {
	names := map[string]string{"mettle.dropped_metrics": reportName}
	for _, o := range observables {
		if o == nil {
			panic("mettleprom: nil Observable")
		}
		for m := range o.Observe {
			if name, ok := metricName(m, units[m.Unit].suffix); ok {
				names[m.Name] = name
			}
		}
	}
	return names
}

// placeholder is a metric in an expression of ours: <mettle.breaker.state> or, with
// matchers, <mettle.breaker.state state="open">.
var placeholder = regexp.MustCompile(`<(mettle[a-z_.]+)(?: ([^>]*))?>`)

// metricsIn returns the metrics that an expression asks for.
func metricsIn(expr string) (names []string) {
	for _, m := range placeholder.FindAllStringSubmatch(expr, -1) {
		names = append(names, m[1])
	}
	return names
}

// translate puts the names and matchers of Prometheus into an expression of ours. The
// matchers given are added to each metric.
func translate(expr string, names map[string]string, matchers ...string) string {
	return placeholder.ReplaceAllStringFunc(expr, func(s string) string {
		m := placeholder.FindStringSubmatch(s)
		all := slices.Clone(matchers)
		if m[2] != "" {
			all = append(all, m[2])
		}
		if len(all) == 0 {
			return names[m[1]]
		}
		return names[m[1]] + "{" + strings.Join(all, ",") + "}"
	})
}

// row is one of the dashboard's rows: a heading, and panels below.
type row struct {
	title  string
	panels []panel
}

type panel struct {
	title, help string
	unit        string // of Grafana: "reqps", "s", "short", "percentunit"
	form        string // "" for lines
	queries     []query
}

// query is an expression and what its lines are called: the labels named in by.
type query struct{ expr, legend string }

func (p panel) known(names map[string]string) bool {
	for _, q := range p.queries {
		for _, m := range metricsIn(q.expr) {
			if names[m] == "" {
				return false
			}
		}
	}
	return true
}

func (p panel) json(names map[string]string, at grid) panelJSON {
	source := map[string]string{"type": "prometheus", "uid": "${datasource}"}
	j := panelJSON{Title: p.title, Description: p.help, Type: "timeseries", Grid: at, Source: source, Field: &fieldConfig{}}
	if p.form != "" {
		j.Type = p.form
	}
	j.Field.Defaults.Unit = p.unit
	j.Field.Defaults.Min = new(float64)
	for i, q := range p.queries {
		j.Targets = append(j.Targets, target{
			Source: source, RefID: string(rune('A' + i)), Legend: q.legend,
			Expr: translate(q.expr, names, `job=~"$job"`, `policy=~"$policy"`),
		})
	}
	return j
}

// What follows is as much of Grafana's format as we need.

type boardJSON struct {
	UID           string            `json:"uid"`
	Title         string            `json:"title"`
	Tags          []string          `json:"tags"`
	SchemaVersion int               `json:"schemaVersion"`
	Editable      bool              `json:"editable"`
	Refresh       string            `json:"refresh"`
	Time          map[string]string `json:"time"`
	Templating    struct {
		List []variable `json:"list"`
	} `json:"templating"`
	Panels []panelJSON `json:"panels"`
}

func (b *boardJSON) add(p panelJSON) {
	p.ID = len(b.Panels) + 1
	b.Panels = append(b.Panels, p)
}

type variable struct {
	Name       string            `json:"name"`
	Label      string            `json:"label"`
	Type       string            `json:"type"`
	Query      string            `json:"query"`
	Source     map[string]string `json:"datasource,omitempty"`
	Multi      bool              `json:"multi,omitempty"`
	IncludeAll bool              `json:"includeAll,omitempty"`
	AllValue   string            `json:"allValue,omitempty"`
	Refresh    int               `json:"refresh,omitempty"`
}

// labelVariable lets one choose among the values of a label of our metrics.
func labelVariable(label string) variable {
	return variable{
		Name: label, Label: strings.ToUpper(label[:1]) + label[1:], Type: "query",
		Query:  `label_values({__name__=~"mettle_.+"}, ` + label + `)`,
		Source: map[string]string{"type": "prometheus", "uid": "${datasource}"},
		Multi:  true, IncludeAll: true, AllValue: ".*", Refresh: 2, // when the time range changes
	}
}

type panelJSON struct {
	ID          int               `json:"id"`
	Title       string            `json:"title"`
	Description string            `json:"description,omitempty"`
	Type        string            `json:"type"`
	Grid        grid              `json:"gridPos"`
	Source      map[string]string `json:"datasource,omitempty"`
	Field       *fieldConfig      `json:"fieldConfig,omitempty"`
	Targets     []target          `json:"targets,omitempty"`
}

type grid struct {
	H int `json:"h"`
	W int `json:"w"`
	X int `json:"x"`
	Y int `json:"y"`
}

type fieldConfig struct {
	Defaults struct {
		Unit string   `json:"unit,omitempty"`
		Min  *float64 `json:"min,omitempty"`
	} `json:"defaults"`
	Overrides []struct{} `json:"overrides"`
}

type target struct {
	Source map[string]string `json:"datasource"`
	RefID  string            `json:"refId"`
	Expr   string            `json:"expr"`
	Legend string            `json:"legendFormat"`
}
