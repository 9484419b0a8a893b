package mettle_test

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The rules of the repository that a machine can keep. They look at the whole tree,
// nested modules included, and are skipped where those are not: in a module cache.

var update = flag.Bool("update", false, "rewrite the tables of docs/spec.md and docs/metrics.md")

const module = "github.com/mettle-go/mettle"

func needRepository(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("tools/go.mod"); err != nil {
		t.Skip("only the root module is here")
	}
}

// files returns the slash-separated paths of all files whose name ends in suffix.
func files(t *testing.T, suffix string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch name := d.Name(); {
		case d.IsDir() && (name == "testdata" || name != "." && name[0] == '.'):
			return filepath.SkipDir
		case !d.IsDir() && strings.HasSuffix(name, suffix):
			found = append(found, filepath.ToSlash(p))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// source is one Go file of the tree.
type source struct {
	*ast.File
	path string
	dir  string // of the package, relative to the root; "." is the root itself
	test bool
}

func sources(t *testing.T) (fset *token.FileSet, all []source) {
	t.Helper()
	fset = token.NewFileSet()
	for _, p := range files(t, ".go") {
		f, err := parser.ParseFile(fset, p, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Error(err)
			continue
		}
		all = append(all, source{f, p, path.Dir(p), strings.HasSuffix(p, "_test.go")})
	}
	return fset, all
}

// directives returns the lines of a go.mod or go.work by their verb, blocks undone and
// comments gone: "require" -> {"golang.org/x/sync v0.24.0", ...}.
func directives(text string) map[string][]string {
	found := make(map[string][]string)
	block := ""
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "//")
		verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case verb == "":
		case verb == ")":
			block = ""
		case block != "":
			found[block] = append(found[block], strings.TrimSpace(line))
		case strings.TrimSpace(rest) == "(":
			block = verb
		default:
			found[verb] = append(found[verb], strings.TrimSpace(rest))
		}
	}
	return found
}

// A user of the root module gets nothing else with it.
func TestRootRequiresNothing(t *testing.T) {
	mod := directives(read(t, "go.mod"))
	for _, verb := range []string{"require", "replace", "exclude", "tool", "toolchain"} {
		if len(mod[verb]) > 0 {
			t.Errorf("go.mod: %s %q, must have none", verb, mod[verb])
		}
	}
	if want := []string{"1.25.0"}; !slices.Equal(mod["go"], want) {
		t.Errorf("go.mod: go %q, must be %q", mod["go"], want)
	}
}

// Every module is in go.work and named after its folder; it replaces our own
// modules, by their folders, and no others.
func TestModules(t *testing.T) {
	needRepository(t)
	var used []string
	for _, use := range directives(read(t, "go.work"))["use"] {
		used = append(used, path.Join(use, "go.mod"))
	}
	mods := files(t, "go.mod")
	for _, p := range mods {
		if !slices.Contains(used, p) {
			t.Errorf("%s is not in go.work", p)
		}
		dir := path.Dir(p)
		mod := directives(read(t, p))
		if want := path.Join(module, dir); !slices.Equal(mod["module"], []string{want}) {
			t.Errorf("%s: module %q, must be %s", p, mod["module"], want)
		}
		if dir != "tools" && len(mod["tool"]) > 0 {
			t.Errorf("%s: tool %q, must be in tools/go.mod", p, mod["tool"])
		}
		for _, r := range mod["replace"] {
			what, by, _ := strings.Cut(r, " => ")
			rel, ours := strings.CutPrefix(what, module)
			if !ours || path.Join(dir, by) != path.Join(".", rel) {
				t.Errorf("%s: replace %s, must be one of our own modules by its folder", p, r)
			}
		}
		for _, r := range mod["require"] {
			what, _, _ := strings.Cut(r, " ")
			if strings.HasPrefix(what, module) && !slices.ContainsFunc(mod["replace"], func(r string) bool {
				return strings.HasPrefix(r, what+" => ")
			}) {
				t.Errorf("%s: requires %s without replacing it by its folder", p, what)
			}
		}
	}
	for _, p := range used {
		if !slices.Contains(mods, p) {
			t.Errorf("go.work: uses %s, which is not there", p)
		}
	}
}

var leaves = []string{"breaker", "bulkhead", "fallback", "hedge", "retry", "timeout"}

// mayImport is the direction of imports between our packages, as folders: what is
// further out knows what is further in, and never the other way round.
func mayImport(from, to string) bool {
	leaf := slices.Contains(leaves, to)
	internal := strings.HasPrefix(to, "internal/")
	switch {
	case from == ".":
		return false
	case strings.HasPrefix(from, "internal/"):
		return internal
	case slices.Contains(leaves, from):
		return to == "." || internal || from == "hedge" && to == "retry" // for retry.Budget
	case from == "mettletest":
		return to == "." || internal
	case from == "middleware/mettlehttp", from == "dashboard":
		return to == "." || internal || leaf
	case strings.HasPrefix(from, "middleware/"):
		return to == "." || leaf // internal is another module's
	default: // examples, benchmarks, tests: what any user may
		top, _, _ := strings.Cut(from, "/")
		return !internal || strings.HasPrefix(to, top+"/")
	}
}

func TestImportDirection(t *testing.T) {
	needRepository(t)
	nested := make(map[string]bool)
	for _, p := range files(t, "go.mod") {
		nested[path.Dir(p)] = p != "go.mod"
	}
	inRoot := func(dir string) bool {
		for ; dir != "."; dir = path.Dir(dir) {
			if nested[dir] {
				return false
			}
		}
		return true
	}
	fset, all := sources(t)
	for _, src := range all {
		for _, spec := range src.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			at := fset.Position(spec.Pos())
			rel, ours := strings.CutPrefix(imported, module)
			to := path.Join(".", rel)
			first, _, _ := strings.Cut(imported, "/")
			switch {
			case !ours && inRoot(src.dir) && strings.Contains(first, "."):
				t.Errorf("%s: the root module imports %s, must import the standard library only", at, imported)
			case !ours:
			case inRoot(src.dir) && !inRoot(to):
				t.Errorf("%s: the root module imports %s of a nested module", at, imported)
			case !src.test && !mayImport(src.dir, to):
				t.Errorf("%s: %s may not import %s", at, src.dir, to)
			}
		}
	}
}

// Every package says what it is for, and every exported name what it promises.
func TestDocumented(t *testing.T) {
	fset, all := sources(t)
	documented := make(map[string]bool)
	for _, src := range all {
		if src.test {
			continue
		}
		documented[src.dir] = documented[src.dir] || src.Doc != nil
		if src.Name.Name == "main" || ast.IsGenerated(src.File) {
			continue
		}
		for _, decl := range src.Decls {
			for name, pos := range undocumented(decl) {
				t.Errorf("%s: %s has no comment", fset.Position(pos), name)
			}
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(documented)) {
		if !documented[dir] {
			t.Errorf("package %s has no comment", dir)
		}
	}
}

func undocumented(decl ast.Decl) map[string]token.Pos {
	found := make(map[string]token.Pos)
	switch d := decl.(type) {
	case *ast.FuncDecl:
		receiver := ""
		if d.Recv != nil {
			receiver = receiverType(d.Recv.List[0].Type)
		}
		ofErrors := d.Recv != nil && (d.Name.Name == "Error" || d.Name.Name == "Unwrap") // package errors has their contract
		if d.Doc == nil && d.Name.IsExported() && !ofErrors && (d.Recv == nil || ast.IsExported(receiver)) {
			found[strings.TrimPrefix(receiver+"."+d.Name.Name, ".")] = d.Pos()
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.ValueSpec:
				for _, name := range s.Names {
					if name.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
						found[name.Name] = name.Pos()
					}
				}
			case *ast.TypeSpec:
				if !s.Name.IsExported() {
					continue
				}
				if d.Doc == nil && s.Doc == nil {
					found[s.Name.Name] = s.Pos()
				}
				// Of a config, what zero means is to be said field by field.
				if st, ok := s.Type.(*ast.StructType); ok && strings.HasSuffix(s.Name.Name, "Config") {
					for _, field := range st.Fields.List {
						if field.Doc == nil && field.Comment == nil && len(field.Names) > 0 {
							found[s.Name.Name+"."+field.Names[0].Name] = field.Pos()
						}
					}
				}
			}
		}
	}
	return found
}

func receiverType(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiverType(e.X)
	case *ast.IndexExpr:
		return receiverType(e.X)
	case *ast.IndexListExpr:
		return receiverType(e.X)
	case *ast.Ident:
		return e.Name
	default:
		return ""
	}
}

// Every error type that a caller can meet is logged by its fields, and not as a line of
// text that somebody has to take apart.
//
// Spec: O4
func TestErrorsHaveLogValues(t *testing.T) {
	fset, all := sources(t)
	found := make(map[string]token.Pos) // folder.Type of errors
	has := make(map[string]bool)        // of those with LogValue
	embeds := make(map[string]string)
	for _, src := range all {
		ours := src.dir == "." || slices.Contains(leaves, src.dir) || strings.HasPrefix(src.dir, "middleware/")
		if src.test || !ours {
			continue
		}
		for _, decl := range src.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					continue
				}
				name := src.dir + "." + receiverType(d.Recv.List[0].Type)
				switch d.Name.Name {
				case "Error":
					found[name] = d.Pos()
				case "LogValue":
					has[name] = true
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					s, ok := spec.(*ast.TypeSpec)
					if !ok {
						continue
					}
					if st, ok := s.Type.(*ast.StructType); ok {
						for _, field := range st.Fields.List {
							if len(field.Names) == 0 {
								embeds[src.dir+"."+s.Name.Name] = src.dir + "." + receiverType(field.Type)
							}
						}
					}
				}
			}
		}
	}
	for name, of := range embeds { // what embeds an error is one
		if strings.HasSuffix(of, ".error") {
			found[name] = token.NoPos
		}
	}
	delete(found, "hedge.elsewhere") // is panicked with, for its text, and never returned
	for name, pos := range found {
		if !has[name] {
			t.Errorf("%s: %s has no LogValue", fset.Position(pos), name)
		}
	}
	if len(found) < 15 {
		t.Errorf("found %d errors only", len(found))
	}
}

// claim is one test that says to hold a line of docs/spec.md.
type claim struct {
	test string // folder.Function
	part bool   // only some of what the line says
}

var (
	specComment = regexp.MustCompile(`(?s)(?:^|\n)Spec:(.*?)(?:\n\n|$)`)
	specID      = regexp.MustCompile(`([A-Z]\d+)( \(part\))?`)
	specRest    = regexp.MustCompile(`^(?:[A-Z]\d+(?: \(part\))?[,;.\s]*)+$`)
	specRow     = regexp.MustCompile(`^\| ([A-Z]\d+) \| (.*) \| (\w+) \| ?(.*?) ?\|$`)
)

// claims gathers the `Spec:` paragraphs of the doc comments of all tests, by line.
func claims(t *testing.T) map[string][]claim {
	fset, all := sources(t)
	found := make(map[string][]claim)
	for _, src := range all {
		if !src.test {
			continue
		}
		docs := make(map[*ast.CommentGroup]bool)
		for _, decl := range src.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Doc == nil || !isTest(f) {
				continue
			}
			docs[f.Doc] = true
			for _, m := range specComment.FindAllStringSubmatch(f.Doc.Text(), -1) {
				text := strings.Join(strings.Fields(m[1]), " ")
				if !specRest.MatchString(text) {
					t.Errorf("%s: Spec: %q, must be lines such as B12, B13 (part)", fset.Position(f.Pos()), text)
				}
				for _, id := range specID.FindAllStringSubmatch(text, -1) {
					name := path.Join(src.dir) + "." + f.Name.Name
					if src.dir == "." {
						name = "mettle." + f.Name.Name
					}
					found[id[1]] = append(found[id[1]], claim{name, id[2] != ""})
				}
			}
		}
		for _, group := range src.Comments {
			if !docs[group] && strings.Contains("\n"+group.Text(), "\nSpec: ") {
				t.Errorf("%s: Spec: must be in the doc comment of a test", fset.Position(group.Pos()))
			}
		}
	}
	return found
}

func isTest(f *ast.FuncDecl) bool {
	for _, prefix := range []string{"Test", "Fuzz", "Benchmark", "Example"} {
		if strings.HasPrefix(f.Name.Name, prefix) {
			return f.Recv == nil
		}
	}
	return false
}

// docs/spec.md says of every promise which tests hold it, and the tests say the same.
// A line that tests hold only in part is marked so in a test's comment, or by hand in
// the table, where the mark stays.
func TestSpecTable(t *testing.T) {
	needRepository(t)
	const name = "docs/spec.md"
	old := read(t, name)
	held := claims(t)
	count := make(map[string]int) // lines of a section so far
	var fresh strings.Builder
	for line := range strings.Lines(old) {
		row := specRow.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if row == nil {
			if strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| line |") {
				t.Errorf("%s: not a row: %s", name, line)
			}
			fresh.WriteString(line)
			continue
		}
		id, promise, status := row[1], row[2], row[3]
		count[id[:1]]++
		if want := id[:1] + strconv.Itoa(count[id[:1]]); id != want {
			t.Errorf("%s: line %s, must be %s", name, id, want)
		}
		tests := held[id]
		delete(held, id)
		row[3], row[4] = statusOf(status, tests), testNames(tests)
		fmt.Fprintf(&fresh, "| %s | %s | %s | %s |\n", id, promise, row[3], row[4])
	}
	for id, tests := range held {
		t.Errorf("%s has no line %s, which is held by %s", name, id, testNames(tests))
	}
	switch {
	case fresh.String() == old:
	case *update:
		if err := os.WriteFile(name, []byte(fresh.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s and the tests disagree; see go test . -run TestSpecTable -update\n%s",
			name, firstDifference(old, fresh.String()))
	}
}

func statusOf(old string, tests []claim) string {
	switch {
	case len(tests) == 0:
		return "planned"
	case old == "part" || !slices.ContainsFunc(tests, func(c claim) bool { return !c.part }):
		return "part"
	default:
		return "done"
	}
}

func testNames(tests []claim) string {
	slices.SortFunc(tests, func(a, b claim) int { return cmp.Compare(a.test, b.test) })
	names := make([]string, len(tests))
	for i, c := range tests {
		names[i] = c.test
	}
	return strings.Join(slices.Compact(names), ", ")
}

func firstDifference(a, b string) string {
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(as), len(bs)) {
		if as[i] != bs[i] {
			return "has  " + as[i] + "\nwant " + bs[i]
		}
	}
	return ""
}

// What a page links to inside the repository is there.
func TestLinks(t *testing.T) {
	needRepository(t)
	link := regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)\s]*)?\)`)
	for _, page := range files(t, ".md") {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			if _, err := os.Stat(path.Join(path.Dir(page), m[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", page, m[1])
			}
		}
	}
}

// The README's table of defaults has every number that may be zero, and says what the
// field's own comment says.
func TestDefaultsTable(t *testing.T) {
	_, all := sources(t)
	zero := regexp.MustCompile(`(?:Zero|Nil)(?: or negative)?(?:: | means |, )(.*)`)
	row := regexp.MustCompile(`(?m)^\| (\w+)(?:, (\w+))? \| (\w+) \| (.*) \|$`)
	stated := make(map[string]string) // package.Type.Field -> value
	for _, m := range row.FindAllStringSubmatch(read(t, "README.md"), -1) {
		typ := strings.ToUpper(m[2][:min(1, len(m[2]))]) + m[2][min(1, len(m[2])):] + "Config"
		stated[m[1]+"."+typ+"."+m[3]] = m[4]
	}
	delete(stated, "package.Config.field") // the head of the table
	for _, src := range all {
		if src.test || !slices.Contains(leaves, src.dir) {
			continue
		}
		for name, comment := range numbers(src.File) {
			name = src.dir + "." + name
			value, ok := stated[name]
			delete(stated, name)
			m := zero.FindStringSubmatch(strings.Join(strings.Fields(comment), " "))
			switch {
			case m == nil:
				t.Errorf("%s: the comment does not say what zero means", name)
			case !ok:
				t.Errorf("README.md: the table of defaults lacks %s, where zero means %s", name, m[1])
			case !regexp.MustCompile(`^` + regexp.QuoteMeta(value) + `[.,;]?( |$)`).MatchString(m[1]):
				t.Errorf("README.md: %s is %q in the table and in its comment %q", name, value, m[1])
			}
		}
	}
	for name := range stated {
		t.Errorf("README.md: the table of defaults has %s, which does not exist", name)
	}
}

// numbers returns the comments of the fields of config types in f that have a default
// worth a place in a table: numbers, durations, and retry's Backoff. The key is
// Type.Field.
func numbers(f *ast.File) map[string]string {
	found := make(map[string]string)
	for _, decl := range f.Decls {
		d, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range d.Specs {
			s, ok := spec.(*ast.TypeSpec)
			if !ok || !s.Name.IsExported() || !strings.HasSuffix(s.Name.Name, "Config") {
				continue
			}
			st, ok := s.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, field := range st.Fields.List {
				switch types.ExprString(field.Type) {
				case "int", "float64", "time.Duration", "Backoff":
					for _, name := range field.Names {
						found[s.Name.Name+"."+name.Name] = field.Doc.Text() + field.Comment.Text()
					}
				}
			}
		}
	}
	return found
}
