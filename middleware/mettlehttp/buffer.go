package mettlehttp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

// buffer is a request body of the caller's that is read into memory once, for all
// attempts.
type buffer struct {
	body   io.ReadCloser
	size   int64
	closed atomic.Bool   // body
	done   chan struct{} // closed when fill has ended; what follows is set

	data []byte
	err  error
}

// fill reads the body and closes it. It has a goroutine of its own, because a read that
// waits for the caller cannot be left.
func (b *buffer) fill() {
	defer close(b.done)
	b.data, b.err = readExactly(b.body, b.size)
	if err := b.close(); b.err == nil {
		b.err = err
	}
}

// readExactly reads a body whose length has been announced. net/http fails as well where
// that is wrong, rather than send what is cut short.
func readExactly(body io.Reader, size int64) ([]byte, error) {
	data := make([]byte, size)
	if _, err := io.ReadFull(body, data); err != nil {
		return nil, err
	}
	switch n, err := io.ReadFull(body, make([]byte, 1)); {
	case n > 0:
		return nil, errors.New("it is longer than ContentLength")
	case err != io.EOF:
		return nil, err
	}
	return data, nil
}

// close closes the body once, and under a read if there is one, as net/http does with the
// body of a request that it gives up.
func (b *buffer) close() error {
	if b.closed.Swap(true) {
		return nil
	}
	return b.body.Close()
}

// wait returns a copy to send, or the cause when ctx ends before there is one.
func (b *buffer) wait(ctx context.Context) (io.ReadCloser, error) {
	select {
	case <-b.done:
		if b.err != nil {
			return nil, fmt.Errorf("mettlehttp: buffering the request body: %w", b.err)
		}
		return b.reader()
	case <-ctx.Done():
		return nil, fmt.Errorf("mettlehttp: buffering the request body: %w", context.Cause(ctx))
	}
}

func (b *buffer) reader() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(b.data)), nil
}
