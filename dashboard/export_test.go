package dashboard

import (
	"net/http"
	"time"
)

// SetPatience sets how long clients of a handler of ours may let a write wait.
func SetPatience(h http.Handler, d time.Duration) { h.(*page).patience = d }

// Streams tells how many streams a handler of ours has.
func Streams(h http.Handler) int {
	p := h.(*page)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.streams
}

// PageCSS is what the colours of the page come from.
func PageCSS() string {
	css, err := static.ReadFile("static/page.css")
	if err != nil {
		panic(err)
	}
	return string(css)
}
