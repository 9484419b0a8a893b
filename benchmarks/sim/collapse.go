package sim

import (
	"container/heap"
	"context"
	"time"
)

// Collapse is a server that has no queue: the more requests are under way in it, the
// longer each takes, whoever still waits for it. It is that of M. Brooker's simulation of
// metastable failures: a request takes a second and a hundredth more for each that is
// under way when it arrives, and a message takes an exponential time of mean 100 ms. At
// 100 requests a second under way it does as many as it will ever do.
type Collapse struct {
	busy ends
}

// Call makes one attempt of a request.
func (s *Collapse) Call(w *World, ctx context.Context, r *Request) error {
	const (
		alone    = time.Second
		each     = time.Second / 100
		distance = 0.1 // seconds
	)
	n := int(r.Sends.Add(1))
	d := r.Draw(w.Seed, n)
	d.Purpose = ForNetwork
	there := time.Duration(distance * d.Exp() * 1e9)
	d.Purpose = ForSpare
	back := time.Duration(distance * d.Exp() * 1e9)

	w.Sent(r, Reply{})
	time.Sleep(there) // the request arrives even when its client has hung up

	w.mu.Lock()
	now := w.Now()
	for len(s.busy) > 0 && s.busy[0] <= now {
		heap.Pop(&s.busy)
	}
	took := alone + time.Duration(len(s.busy))*each
	heap.Push(&s.busy, now+took)
	w.Record.Work += took.Seconds()
	w.mu.Unlock()

	if err := w.Wait(ctx, now+took+back); err != nil {
		return err
	}
	w.Won(r, took.Seconds())
	return nil
}

// ends is a heap of times.
type ends []time.Duration

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i] < e[j] }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(time.Duration)) }
func (e *ends) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}
