package client

import (
	"context"
	"sync"
	"time"
)

const (
	refreshTimeout = 2 * time.Second       // for the leader's answer
	refreshEvery   = 25 * time.Millisecond // a flood of unknown names must not load the leader
)

// refresher joins callers of Refresh that come at the same time.
type refresher struct {
	copied  *stateCopy
	nodes   *metaNodes
	catchUp *catchUp

	mu    sync.Mutex
	next  *refresh  // has not begun: who comes now joins it
	began time.Time // the last one
}

// refresh is one question to the leader.
type refresh struct {
	done chan struct{}
	err  error // valid when done is closed
}

// Refresh makes the copy as new as the leader's state was when Refresh was called, or returns why it cannot. Callers
// that come at the same time share one question, and there are 40 of those in a second at most.
func (r *refresher) Refresh() error {
	if r.copied.member.NodeID() == 0 {
		return ErrNotJoined
	}
	r.mu.Lock()
	if joined := r.next; joined != nil {
		r.mu.Unlock()
		<-joined.done
		return joined.err
	}
	own := &refresh{done: make(chan struct{})}
	r.next = own
	pause := time.Until(r.began.Add(refreshEvery))
	r.mu.Unlock()
	defer close(own.done)

	time.Sleep(pause)
	ctx, cancel := context.WithTimeout(context.Background(), refreshTimeout)
	defer cancel()
	own.err = r.catchUp.ask(ctx, func(ctx context.Context, servers []string) ([]byte, error) {
		r.mu.Lock()
		r.next, r.began = nil, time.Now()
		r.mu.Unlock()
		return r.nodes.latest(ctx, servers, r.copied.State().Index)
	})
	r.mu.Lock()
	if r.next == own { // it did not begin
		r.next = nil
	}
	r.mu.Unlock()
	return own.err
}

// known looks something up, and once more after it asked the leader when the copy lacks it.
func known[T any](r *refresher, find func() *T) *T {
	if v := find(); v != nil || r.Refresh() != nil {
		return v
	}
	return find()
}
