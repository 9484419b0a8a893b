package mettlehttp_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettlehttp"
)

// pusher is a ResponseWriter of HTTP/2, and plain one that can do nothing but write.
type (
	pusher struct {
		http.ResponseWriter
		pushed []string
	}
	plain   struct{ http.ResponseWriter }
	wrapper struct{ http.ResponseWriter } // of some other middleware
)

func (p *pusher) Push(target string, _ *http.PushOptions) error {
	p.pushed = append(p.pushed, target)
	return nil
}

func (w wrapper) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// TestHandlerWriterOfOthers asks writers for what they can do, through other middleware
// too, and for what they cannot, which must be told and is no answer.
//
// Spec: W19
func TestHandlerWriterOfOthers(t *testing.T) {
	p := &pusher{ResponseWriter: httptest.NewRecorder()}
	for w, want := range map[http.ResponseWriter]error{
		p:                               nil,
		wrapper{p}:                      nil,
		plain{httptest.NewRecorder()}:   http.ErrNotSupported,
		wrapper{httptest.NewRecorder()}: http.ErrNotSupported,
	} {
		mettlehttp.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := w.(http.Pusher).Push("/style.css", nil); !errors.Is(err, want) {
				t.Errorf("Push: %v, want %v", err, want)
			}
		}), nil).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	}
	if len(p.pushed) != 2 {
		t.Errorf("pushed %q", p.pushed)
	}

	for name, touch := range map[string]func(http.ResponseWriter){
		"flush":     func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
		"hijack":    func(w http.ResponseWriter) { http.NewResponseController(w).Hijack() },
		"copy none": func(w http.ResponseWriter) { io.Copy(w, strings.NewReader("")) },
		"hint":      func(w http.ResponseWriter) { w.WriteHeader(http.StatusEarlyHints) },
	} {
		var class mettle.Outcome
		watch := mettle.PolicyFunc(func(ctx context.Context, op func(context.Context) error) error {
			err := op(ctx)
			class = mettle.Classify(ctx, err)
			return err
		})
		mettlehttp.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			touch(w)
			w.WriteHeader(http.StatusInternalServerError)
		}), watch).ServeHTTP(plain{httptest.NewRecorder()}, httptest.NewRequest("GET", "/", nil))
		if class != mettle.Failure {
			t.Errorf("%s: taken for an answer: class %v", name, class)
		}
	}
}
