package mettlehttp_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/bulkhead"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
)

// urgencyOf returns what a handler is told of a request with these Priority headers.
func urgencyOf(lines ...string) (u int) {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header["Priority"] = lines
	h := mettlehttp.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u = mettlehttp.Urgency(r.Context())
	}), nil)
	h.ServeHTTP(httptest.NewRecorder(), r)
	return u
}

// TestUrgency reads the examples of RFC 9218 and what is next to them.
//
// Spec: W20
func TestUrgency(t *testing.T) {
	for line, want := range map[string]int{
		"": 3, "u=0": 0, "u=7": 7, "u=5, i": 5, "i, u=1": 1, "i": 3, "u=3": 3, " u=2 ": 2, "u=1;x=2": 1, "u=007": 7, "u=-0": 0,
		"u=8": 3, "u=-1": 3, "u=99999999999999999999": 3, "u=1.0": 3, `u="1"`: 3, "u=one": 3, "u": 3, "u=?1": 3, "u=(1)": 3,
		"u=1, u=2": 2, "u=1, u=9": 3, "u=1 ,\t i": 1, `a="b,u=0", u=6`: 6, "a=:AAAA:, b=(1 2;x \"y\");z, c=*t/x:y, u=4": 4,
		"u=1,": 3, ",u=1": 3, "u =1": 3, "u= 1": 3, "U=1": 3, "u=1;": 3, "u=1 i": 3, "u=1, (": 3, "u=1, a=\"": 3, "u=1, a=:=": 3,
		"u=1\x00": 3, "u=1, \xff": 3, "u=1, a=1.": 3, "u=1, a=-": 3, "u=1, a=(1\"x\")": 3, `u=1, a="\x"`: 3, "u=1, a=@1": 3,
		"u=1, a=" + strings.Repeat("x", 249): 1, "u=1, a=" + strings.Repeat("x", 250): 3,
	} {
		if got := urgencyOf(line); got != want {
			t.Errorf("Priority %q: %d, want %d", line, got, want)
		}
	}
	if got := urgencyOf("u=1, i", "u=2"); got != 2 {
		t.Errorf("two lines: %d, want that of the last, 2", got)
	}
	if got := urgencyOf(strings.Repeat("u=1,", 50), strings.Repeat("i,", 50)+"i"); got != 3 {
		t.Errorf("two lines that are too long together: %d, want 3", got)
	}
	if got := mettlehttp.Urgency(t.Context()); got != 3 {
		t.Errorf("outside a handler: %d, want 3", got)
	}
}

// TestUrgencyInAPolicy sends requests of two classes to a handler, over both protocols,
// whose background class is full.
//
// Spec: W19, W20
func TestUrgencyInAPolicy(t *testing.T) {
	release, begun := make(chan struct{}), make(chan struct{}, 1)
	pools := bulkhead.NewPartition(bulkhead.PartitionConfig{Pools: []bulkhead.PoolConfig{
		{Name: "interactive", Limit: 1}, {Name: "background", Limit: 1}}})
	class := func(ctx context.Context) string {
		if mettlehttp.Urgency(ctx) > 3 {
			return "background"
		}
		return "interactive"
	}
	type otherKey struct{}
	same := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
		return op(context.WithValue(ctx, otherKey{}, 1))
	})
	both(t, mettlehttp.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			begun <- struct{}{}
			<-release
		}
		fmt.Fprint(w, class(r.Context()))
	}), mettle.Compose(same, pools.By(class))).ServeHTTP, func(t *testing.T, w *wire, _ *http.Client) {
		client := &http.Client{Transport: w.base}
		slow := make(chan *http.Response)
		go func() { slow <- do(t, client, "GET", w.url+"/slow", nil, "Priority", "u=6, i") }()
		<-begun
		for _, test := range []struct {
			priority string
			code     int
			body     string
		}{
			{"u=5", 503, "Service Unavailable\n"},
			{"u=1", 200, "interactive"},
			{"u=5, u=", 200, "interactive"}, // nonsense is nobody's background
		} {
			resp := do(t, client, "GET", w.url, nil, "Priority", test.priority)
			if got := readAll(t, resp); resp.StatusCode != test.code || got != test.body {
				t.Errorf("Priority %q: got %d %q, want %d %q", test.priority, resp.StatusCode, got, test.code, test.body)
			}
		}
		release <- struct{}{}
		if got := readAll(t, <-slow); got != "background" {
			t.Errorf("the slow one was %q", got)
		}
	})
}

// The grammar of RFC 8941 for a dictionary as one regular expression.
var dictionary, memberOf = func() (whole, one *regexp.Regexp) {
	const (
		key  = `[a-z*][a-z0-9_.*-]*`
		bare = `(?:-?[0-9]{1,12}\.[0-9]{1,3}|-?[0-9]{1,15}|"(?:[ !#-\[\]-~]|\\["\\])*"|[A-Za-z*][A-Za-z0-9!#$%&'*+.^_|~:/` + "`" + `-]*|:[A-Za-z0-9+/=]*:|\?[01])`
		par  = `(?:; *` + key + `(?:=` + bare + `)?)*`
		list = `\( *(?:` + bare + par + `(?: +` + bare + par + `)* *)?\)`
		mem  = key + `(?:=(?:` + bare + `|` + list + `))?` + par
	)
	return regexp.MustCompile(`^ *` + mem + `(?:[ \t]*,[ \t]*` + mem + `)* *$`),
		regexp.MustCompile(`(?:^ *|,[ \t]*)(` + key + `)(?:=(` + bare + `|` + list + `))?` + par + `[ \t]*`)
}()

func naiveUrgency(s string) int {
	if len(s) > 256 || !dictionary.MatchString(s) {
		return 3
	}
	u := 3
	for _, m := range memberOf.FindAllStringSubmatch(s, -1) {
		if m[1] != "u" {
			continue
		}
		u = 3
		if n, err := strconv.Atoi(m[2]); err == nil && n >= 0 && n <= 7 {
			u = n
		}
	}
	return u
}

// FuzzUrgency sends a handler any bytes as the priority, and holds what comes of them
// against the grammar.
//
// Spec: W20
func FuzzUrgency(f *testing.F) {
	for _, s := range []string{
		"", "u=0", "u=7, i", "i;x=1, u=2;y", "u=8", "u=-1", "u=1.5", `u="1"`, "u=?1", "u=(1 2)", "a=:aGk=:, u=4", "u=1,u=2", "u=1,", "\xff",
		`a="\"u=1", u=6`, "u=1;a=\"b;c\";d=*x/y, i=(\"a b\";c 1.2 ?0);e", "u=1\t,\tu=2", " u=1 ", "a=(1,u=2)", "u=000000000000001",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := urgencyOf(s), naiveUrgency(s); got != want {
			t.Errorf("Priority %q: %d, want %d", s, got, want)
		}
	})
}

func ExampleUrgency() {
	pools := bulkhead.NewPartition(bulkhead.PartitionConfig{Pools: []bulkhead.PoolConfig{
		{Name: "interactive", Limit: 60}, {Name: "background", Limit: 40, Lend: 20}}})
	class := func(ctx context.Context) string {
		if mettlehttp.Urgency(ctx) > 3 {
			return "background"
		}
		return "interactive"
	}
	handler := mettlehttp.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(class(r.Context()))
	}), pools.By(class))

	for _, priority := range []string{"u=1", "u=5, i", ""} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Priority", priority)
		handler.ServeHTTP(httptest.NewRecorder(), r)
	}
	// Output:
	// interactive
	// background
	// interactive
}
