package payments

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Phase is a stretch of time in which the service behaves in one way.
type Phase struct {
	Kind       string        // healthy, brownout, storm, refused, hang or recovery
	For        time.Duration // the last phase of a script lasts on
	Latency    time.Duration // mean of the time that an answer takes on top of the work
	Errors     float64       // share of requests answered 500, half of them after the charge was made
	RetryAfter time.Duration // of a storm; sent in whole seconds, rounded up
}

// Script is what goes wrong and when. An empty one is a healthy service.
type Script []Phase

// kinds has what a phase does unless the script says otherwise.
var kinds = map[string]Phase{
	"healthy":  {Latency: 5 * time.Millisecond},
	"brownout": {Latency: 150 * time.Millisecond, Errors: 0.4},
	"storm":    {RetryAfter: time.Second},
	"refused":  {},
	"hang":     {},
	"recovery": {Latency: 10 * time.Millisecond},
}

// maxPhase keeps a typing error from making a script that never ends.
const maxPhase = time.Hour

// String says in words what the phase does.
func (p Phase) String() string {
	switch p.Kind {
	case "brownout":
		return fmt.Sprintf("brownout: answers take about %v, %.0f %% are 500", p.Latency, 100*p.Errors)
	case "storm":
		return fmt.Sprintf("storm: every answer is 503, Retry-After: %d", seconds(p.RetryAfter))
	case "refused":
		return "refused: the listener is closed"
	case "hang":
		return "hang: requests are taken and not answered"
	default:
		return p.Kind + ": all is well"
	}
}

// seconds rounds up, for Retry-After knows no fractions and too early is no good.
func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// ParseScript reads a script: one phase a line, as in
//
//	brownout 2s latency=150ms errors=0.4
//	recovery
//
// with # comments. The duration may be left out on the last line only. All mistakes
// are reported, each with its line.
func ParseScript(r io.Reader) (Script, error) {
	var script Script
	var mistakes []error
	open := 0 // line of a phase without end
	lines := bufio.NewScanner(r)
	n := 0
	for lines.Scan() {
		n++
		text, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) == 0 {
			continue
		}
		if open > 0 {
			mistakes = append(mistakes, fmt.Errorf("line %d: has no duration, which only the last phase may leave out", open))
			open = 0
		}
		p, err := parsePhase(fields)
		if err != nil {
			mistakes = append(mistakes, fmt.Errorf("line %d: %w", n, err))
			continue
		}
		if p.For == 0 {
			open = n
		}
		script = append(script, p)
	}
	if err := lines.Err(); err != nil {
		mistakes = append(mistakes, fmt.Errorf("line %d: %w", n+1, err))
	}
	if len(mistakes) > 0 {
		return nil, errors.Join(mistakes...)
	}
	return script, nil
}

func parsePhase(fields []string) (Phase, error) {
	p, ok := kinds[fields[0]]
	if !ok {
		return Phase{}, fmt.Errorf("%q is no phase: healthy, brownout, storm, refused, hang or recovery", fields[0])
	}
	p.Kind = fields[0]
	for i, field := range fields[1:] {
		key, value, isSetting := strings.Cut(field, "=")
		var err error
		switch {
		case i == 0 && !isSetting:
			p.For, err = duration(field)
			if err == nil && p.For == 0 {
				err = errors.New("a phase of no length")
			}
		case key == "latency":
			p.Latency, err = duration(value)
		case key == "retry-after":
			p.RetryAfter, err = duration(value)
		case key == "errors":
			p.Errors, err = strconv.ParseFloat(value, 64)
			if err != nil || !(p.Errors >= 0 && p.Errors <= 1) {
				err = fmt.Errorf("errors is %s, must be a share from 0 to 1", value)
			}
		default:
			err = fmt.Errorf("%q is no setting: latency=, errors= or retry-after=", field)
		}
		if err != nil {
			return Phase{}, err
		}
	}
	return p, nil
}

func duration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > maxPhase {
		return 0, fmt.Errorf("%q is no duration from 0 to %v, such as 1.5s", s, maxPhase)
	}
	return d, nil
}
