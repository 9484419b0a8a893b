package loopback

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// roleVar tells a process what it is. Unset: none of ours.
const roleVar = "METTLE_LOOPBACK_ROLE"

// The roles.
const (
	serverRole = "server"
	clientRole = "client"
)

// life is the longest that a process of ours lives, whatever happens to the one that has
// started it.
const life = 2 * time.Minute

// Child does the work of a server or of a client, if this process has been started to be
// one, and ends it. The command and the tests, which start themselves again for that,
// call it first of all.
func Child() {
	role := os.Getenv(roleVar)
	if role == "" {
		return
	}
	time.AfterFunc(life, func() {
		fmt.Fprintln(os.Stderr, "nobody has ended this process in", life)
		os.Exit(3)
	})
	// To listen to standard input is to hear of the end of the parent.
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	var err error
	switch role {
	case serverRole:
		err = serve(in, out)
	case clientRole:
		err = call(in, out)
	default:
		err = fmt.Errorf("%s is %q, must be %s or %s", roleVar, role, serverRole, clientRole)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// process is a process that was started. It is spoken to in JSON.
type process struct {
	*exec.Cmd
	role   string
	in     io.WriteCloser
	out    *json.Decoder
	stderr bytes.Buffer

	ended sync.Once
	err   error // of its end
}

// start starts this program again. The process ends with ctx.
func start(ctx context.Context, role string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{Cmd: exec.CommandContext(ctx, self), role: role}
	p.Env = append(os.Environ(), roleVar+"="+role, "GODEBUG=", "GOGC=", "GOMEMLIMIT=", "GOMAXPROCS=1")
	p.Stderr = &p.stderr
	p.WaitDelay = time.Second
	if p.in, err = p.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = json.NewDecoder(out)
	if err := p.Start(); err != nil {
		return nil, err
	}
	return p, nil
}

// tell sends v.
func (p *process) tell(v any) error {
	if err := json.NewEncoder(p.in).Encode(v); err != nil {
		return p.failure(err)
	}
	return nil
}

// hear waits for v.
func (p *process) hear(v any) error {
	if err := p.out.Decode(v); err != nil {
		return p.failure(err)
	}
	return nil
}

// failure is what has become of a process that cannot be spoken to.
func (p *process) failure(err error) error {
	if _, why := p.end(); why != nil {
		return why
	}
	return fmt.Errorf("loopback: the %s does not answer: %w", p.role, err)
}

// end waits until the process has ended by itself, which it does when nobody speaks to it
// any more, and returns the time that it has had of the processors.
func (p *process) end() (busy time.Duration, err error) {
	p.ended.Do(func() {
		p.in.Close()
		if p.err = p.Wait(); p.err != nil {
			p.err = fmt.Errorf("loopback: the %s: %w: %s", p.role, p.err, strings.TrimSpace(p.stderr.String()))
		}
	})
	return p.ProcessState.UserTime() + p.ProcessState.SystemTime(), p.err
}

// beginning is what all processes are told: when the clock of the world begins.
type beginning struct{ At time.Time }

// clock returns the beginning on this process's clock, which no change of the wall clock
// moves later on.
func (b beginning) clock() time.Time {
	now := time.Now()
	return now.Add(b.At.Sub(now))
}

// hearEnd reads until nobody speaks any more.
func hearEnd(in *json.Decoder) error {
	var more json.RawMessage
	err := in.Decode(&more)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return errors.Join(err, fmt.Errorf("%q is not the end", more))
}
