package tests

import (
	"archive/zip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	root    = "github.com/mettle-go/mettle"
	version = "v0.1.0"
)

// Inside the repository, replace directives and the workspace hide what a user would
// stumble over: a package that is not in its module, a module that needs a newer root
// than it requires, a dependency that comes along. So the modules are built here
// from outside, with neither, from a module proxy cut from the work tree.
//
// The go command does not see what these tests read: run them with -count=1.

func TestConsumerOfRoot(t *testing.T) {
	c := newConsumer(t, root)
	c.write("main.go", `package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
)

func main() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
	}))
	defer server.Close()
	client := http.Client{Transport: mettlehttp.NewTransport(nil, nil)}
	resp, err := client.Get(server.URL)
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	_, isWrapper := any(mettle.Compose()).(mettle.Wrapper)
	fmt.Println(resp.StatusCode, isWrapper)
}
`)
	c.run("go", "get", root+"@"+version)
	assert.Equal(t, "418 true\n", c.run("go", "run", "."))

	// Nothing comes along, and the root's own tests pass where nested modules are not.
	assert.Equal(t, "consumer.example\n"+root+" "+version+"\n", c.run("go", "list", "-m", "all"))
	c.run("go", "test", "-short", root)
}

// Each nested module that has packages for others and depends on the root.
func TestConsumerOfNestedModules(t *testing.T) {
	for _, m := range repositoryModules(t) {
		if m.path == root || !m.requiresRoot || !m.hasPackages {
			continue
		}
		t.Run(strings.TrimPrefix(m.path, root+"/"), func(t *testing.T) {
			c := newConsumer(t, m.path)
			c.run("go", "get", m.path+"@"+version)
			c.run("go", "build", m.path+"/...")
		})
	}
}

// consumer is a module outside the repository.
type consumer struct {
	t   *testing.T
	dir string
	env []string
}

// newConsumer returns an empty module that can get ours from a proxy of its own. The
// machine's module cache, and then its usual proxy, have the modules of others.
func newConsumer(t *testing.T, what string) *consumer {
	if testing.Short() || raceEnabled { // what is built here is not raced
		t.Skipf("builds %s and all it depends on anew", what)
	}
	proxy, dir := t.TempDir(), t.TempDir()
	for _, m := range repositoryModules(t) {
		m.publish(t, proxy)
	}
	goenv := strings.Split(strings.TrimSpace(output(t, ".", nil, "go", "env", "GOMODCACHE", "GOPROXY")), "\n")
	require.Len(t, goenv, 2)
	c := &consumer{t: t, dir: dir, env: append(os.Environ(),
		"GOWORK=off",
		"GOPROXY=file://"+filepath.ToSlash(proxy)+",file://"+filepath.ToSlash(goenv[0])+"/cache/download,"+goenv[1],
		"GOSUMDB=off", // our version is known to nobody
		"GOPRIVATE=", "GONOPROXY=", "GONOSUMDB=",
		"GOMODCACHE="+t.TempDir(), // another's could serve an older cut of the same version
		// -trimpath, so that what has been built for one cache is found again from the next.
		"GOFLAGS=-modcacherw -trimpath -mod=mod",
	)}
	c.write("go.mod", "module consumer.example\n\ngo 1.25.0\n")
	return c
}

func (c *consumer) write(name, text string) {
	c.t.Helper()
	require.NoError(c.t, os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o644))
}

func (c *consumer) run(name string, args ...string) string {
	c.t.Helper()
	return output(c.t, c.dir, c.env, name, args...)
}

func output(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, env
	out, err := cmd.Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		t.Fatalf("%s: %v\n%s%s", cmd, err, out, failed.Stderr)
	}
	require.NoError(t, err)
	return string(out)
}

// repoModule is one module of the repository, as it would be published.
type repoModule struct {
	path         string
	dir          string   // slash-separated, from the root
	files        []string // likewise, without those of modules further in
	requiresRoot bool
	hasPackages  bool
}

func repositoryModules(t *testing.T) (modules []repoModule) {
	t.Helper()
	// Tracked or about to be, so that what lies about in a work tree is not published.
	listed := output(t, "..", nil, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	files := strings.Split(strings.Trim(listed, "\x00"), "\x00")
	files = slices.DeleteFunc(files, func(p string) bool { // deleted, and not yet committed so
		_, err := os.Stat(filepath.Join("..", p))
		return errors.Is(err, fs.ErrNotExist)
	})
	for _, p := range files {
		if path.Base(p) == "go.mod" {
			modules = append(modules, repoModule{dir: path.Dir(p)})
		}
	}
	for i := range modules {
		m := &modules[i]
		m.path = path.Join(root, m.dir)
		m.files = slices.DeleteFunc(slices.Clone(files), func(p string) bool { return owner(modules, p) != m.dir })
		m.hasPackages = slices.ContainsFunc(m.files, func(p string) bool {
			return strings.HasSuffix(p, ".go") && !strings.HasSuffix(p, "_test.go")
		})
		var mod struct{ Require []struct{ Path string } }
		require.NoError(t, json.Unmarshal([]byte(output(t, "..", nil, "go", "mod", "edit", "-json", path.Join(m.dir, "go.mod"))), &mod))
		for _, r := range mod.Require {
			m.requiresRoot = m.requiresRoot || r.Path == root
		}
	}
	return modules
}

// owner returns the folder of the innermost module that the file belongs to.
func owner(modules []repoModule, file string) string {
	for dir := path.Dir(file); ; dir = path.Dir(dir) {
		if dir == "." || slices.ContainsFunc(modules, func(m repoModule) bool { return m.dir == dir }) {
			return dir
		}
	}
}

// publish writes m to where a GOPROXY has it: https://go.dev/ref/mod#goproxy-protocol.
func (m *repoModule) publish(t *testing.T, proxy string) {
	t.Helper()
	dir := filepath.Join(proxy, filepath.FromSlash(m.path), "@v")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	mod, err := os.ReadFile(filepath.Join("..", m.dir, "go.mod"))
	require.NoError(t, err)
	for name, text := range map[string]string{
		"list":            version + "\n",
		version + ".info": fmt.Sprintf(`{"Version":%q,"Time":"2020-01-01T00:00:00Z"}`, version),
		version + ".mod":  string(mod),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	archive, err := os.Create(filepath.Join(dir, version+".zip"))
	require.NoError(t, err)
	defer archive.Close()
	z := zip.NewWriter(archive)
	for _, p := range m.files {
		rel, err := filepath.Rel(m.dir, p)
		require.NoError(t, err)
		to, err := z.Create(m.path + "@" + version + "/" + filepath.ToSlash(rel))
		require.NoError(t, err)
		from, err := os.Open(filepath.Join("..", p))
		require.NoError(t, err)
		_, err = io.Copy(to, from)
		require.NoError(t, errors.Join(err, from.Close()))
	}
	require.NoError(t, z.Close())
}
