package mettlehttp

import (
	"context"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
)

// heldBody is the body of a failed answer while it may be followed by another. It is read
// into memory ahead of whoever wants it, because a backoff is long, and until the end has
// been read the connection is of no use to anybody.
type heldBody struct {
	a     *attempt
	rc    io.ReadCloser
	begun time.Time
	stop  atomic.Bool   // read no further
	done  chan struct{} // closed when the reading ahead has ended; what follows is set

	data []byte // not yet given to the reader
	err  error  // that followed; nil: rc has more
	once atomic.Bool
}

// readAhead takes the body off its connection, if it is no longer than drainBytes, while
// the policy makes up its mind. A body that is longer or has not ended yet stays readable,
// with what has come of it in front.
func (a *attempt) readAhead() {
	rc := a.resp.Body
	if rc == nil || rc == http.NoBody || a.resp.ContentLength > drainBytes || a.isTunnel() {
		return
	}
	b := &heldBody{a: a, rc: rc, begun: time.Now(), done: make(chan struct{})}
	a.resp.Body, a.ahead = b, b
	// A read cannot be left without cutting the connection; a goroutine can. It ends with
	// the body, or with the read that is under way when the caller gets it.
	go b.fill()
}

func (b *heldBody) fill() {
	defer close(b.done)
	for !b.stop.Load() && len(b.data) <= drainBytes {
		b.data = slices.Grow(b.data, 512)
		n, err := b.rc.Read(b.data[len(b.data):cap(b.data)])
		b.data, b.err = b.data[:len(b.data)+n], err
		if err != nil {
			b.release()
			return
		}
	}
}

// wait gives the reading ahead drainTime from when it began, and no more than ctx allows.
func (b *heldBody) wait(ctx context.Context) {
	timer := time.NewTimer(drainTime - time.Since(b.begun))
	defer timer.Stop()
	select {
	case <-b.done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (b *heldBody) Read(p []byte) (int, error) {
	<-b.done
	if len(b.data) > 0 {
		n := copy(p, b.data)
		b.data = b.data[n:]
		return n, nil
	}
	if b.err != nil {
		return 0, b.err
	}
	return b.rc.Read(p)
}

// Close ends a read that is still under way through its context, as every base should
// heed. The body of one that does not is closed under it.
func (b *heldBody) Close() error {
	select {
	case <-b.done:
	default:
		b.stop.Store(true)
		b.a.cancel(nil)
		deaf := time.NewTimer(drainTime)
		defer deaf.Stop()
		select {
		case <-b.done:
		case <-deaf.C:
		}
	}
	return b.release()
}

// release closes the body underneath once, whoever comes first.
func (b *heldBody) release() error {
	if b.once.Swap(true) {
		return nil
	}
	return b.rc.Close()
}
