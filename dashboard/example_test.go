package dashboard_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"time"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/breaker"
	"github.com/mettle-go/mettle/dashboard"
	"github.com/mettle-go/mettle/retry"
)

func ExampleHandler() {
	payments := mettle.Compose(retry.New(retry.Config{Name: "payments"}), breaker.New(breaker.Config{Name: "payments"}))

	mux := http.NewServeMux()
	mux.Handle("/debug/mettle/", dashboard.Handler(payments))
	server := httptest.NewServer(mux) // for operators only
	defer server.Close()

	resp, err := http.Get(server.URL + "/debug/mettle/")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status, resp.Header.Get("Content-Type"))
	// Output: 200 OK text/html; charset=utf-8
}

func ExampleNew() {
	guard := breaker.New(breaker.Config{Name: "payments"})
	page := dashboard.New(dashboard.Config{
		Show:     []dashboard.Item{{Name: "checkout", Of: mettle.Compose(guard)}},
		Interval: 2 * time.Second,
		Authorize: func(r *http.Request) (string, error) {
			user, password, ok := r.BasicAuth()
			if !ok || password != "of an operator" { // look it up where yours are kept
				return "", errors.New("not an operator")
			}
			return user, nil
		},
	})
	server := httptest.NewServer(page)
	defer server.Close()

	form := url.Values{"policy": {"0"}, "kind": {"breaker"}, "name": {"payments"}, "action": {"open"}, "for": {"15m"}, "reason": {"the provider is migrating"}}
	u, _ := url.Parse(server.URL + "/override")
	u.User = url.UserPassword("ann", "of an operator")
	resp, err := http.PostForm(u.String(), form)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	fmt.Println(resp.StatusCode, guard.State(), guard.Stats().Override.By)
	// Output: 204 open ann
}
