package dashboard

import (
	"net/http"
	"time"
)

// SetPatience sets how long clients of a handler of ours may let a write wait.
func SetPatience(h http.Handler, d time.Duration) { h.(*page).patience = d }
