package mettlehttp

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/timeout"
)

// errBodyTimeout is what a read ends with after the timeout of the call as a whole.
var errBodyTimeout error = bodyTimeout{}

type bodyTimeout struct{}

func (bodyTimeout) Error() string {
	return "mettlehttp: total timeout exceeded while reading the response body"
}
func (bodyTimeout) Timeout() bool           { return true }
func (bodyTimeout) Temporary() bool         { return true }
func (bodyTimeout) Outcome() mettle.Outcome { return mettle.Timeout }
func (bodyTimeout) Is(target error) bool {
	return target == context.DeadlineExceeded || target == timeout.ErrExceeded
}

// responseBody is the body that the caller reads. It ends the attempt when it has been
// read to the end, when a read fails, and when it is closed, whichever is first.
type responseBody struct{ a *attempt }

func (b responseBody) Read(p []byte) (int, error) {
	if b.a.late.Load() {
		return 0, errBodyTimeout
	}
	b.a.reading.Store(true)
	n, err := b.a.rc.Read(p)
	b.a.reading.Store(false)
	if err != nil {
		if err != io.EOF && b.a.late.Load() {
			err = errBodyTimeout
		}
		b.a.end()
	}
	return n, err
}

func (b responseBody) Close() error {
	defer b.a.end()
	return b.a.closeBody()
}

// tunnelBody is the body of an answer that gave the connection away (101, or 2xx to a
// CONNECT). It passes reads, and writes if there are any, through, and ends the attempt
// when it is closed.
func tunnelBody(a *attempt) io.ReadCloser {
	if w, ok := a.rc.(io.Writer); ok {
		return writableTunnel{tunnelReader: tunnelReader{a}, Writer: w}
	}
	return tunnelReader{a}
}

type tunnelReader struct{ a *attempt }

func (t tunnelReader) Read(p []byte) (int, error) { return t.a.rc.Read(p) }

func (t tunnelReader) Close() error {
	defer t.a.end()
	return t.a.closeBody()
}

type writableTunnel struct {
	tunnelReader
	io.Writer
}

// CloseWrite is how httputil.ReverseProxy passes on that one side has no more to say.
func (t writableTunnel) CloseWrite() error {
	if c, ok := t.Writer.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return http.ErrNotSupported
}

// uploadBody is a request body of the caller's. It is closed once, however often the base
// does so, and tells the attempt if it was the caller's reader that failed.
type uploadBody struct {
	io.ReadCloser
	failed *atomic.Bool
	closed atomic.Bool
}

// upload returns what the base is to send of body.
func (a *attempt) upload(body io.ReadCloser) io.ReadCloser {
	if body == nil || body == http.NoBody || inMemory(body) {
		return body // as it is: net/http has fast paths for the types it knows
	}
	return &uploadBody{ReadCloser: body, failed: &a.uploadFailed}
}

// replay wraps getBody, for the replays of net/http's own.
func (a *attempt) replay(getBody func() (io.ReadCloser, error)) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		body, err := getBody()
		return a.upload(body), err
	}
}

// noClose is what [io.NopCloser] returns for an [io.WriterTo], as readers from memory are.
var noClose = reflect.TypeOf(io.NopCloser(strings.NewReader("")))

// inMemory reports whether body is what [http.NewRequest] makes of a reader from memory,
// which cannot fail and need not be closed.
func inMemory(body io.ReadCloser) bool {
	if reflect.TypeOf(body) != noClose {
		return false
	}
	switch reflect.ValueOf(body).Field(0).Interface().(type) {
	case *bytes.Reader, *bytes.Buffer, *strings.Reader:
		return true
	}
	return false
}

func (b *uploadBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF && !b.closed.Load() {
		b.failed.Store(true)
	}
	return n, err
}

func (b *uploadBody) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	return b.ReadCloser.Close()
}
