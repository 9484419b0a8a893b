package mettlehttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
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
	plain  struct{ http.ResponseWriter }
	sender struct { // has a fast path from a file
		plain
		sent []string
	}
	wrapper struct{ http.ResponseWriter } // of some other middleware
)

func (p *pusher) Push(target string, _ *http.PushOptions) error {
	p.pushed = append(p.pushed, target)
	return nil
}

func (s *sender) ReadFrom(r io.Reader) (int64, error) {
	s.sent = append(s.sent, fmt.Sprintf("%T", r))
	return io.Copy(s.plain, r)
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

	// A file reaches the writer itself, as it must for the kernel to send it.
	to := &sender{plain: plain{httptest.NewRecorder()}}
	mettlehttp.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		file, err := os.Open("doc.go")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if n, err := io.Copy(w, file); n == 0 || err != nil {
			t.Errorf("copied %d bytes, %v", n, err)
		}
	}), nil).ServeHTTP(to, httptest.NewRequest("GET", "/", nil))
	if len(to.sent) != 1 || !strings.Contains(to.sent[0], "os.") {
		t.Errorf("the writer was sent %q, want the file", to.sent)
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
