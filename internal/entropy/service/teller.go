package service

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"concord/internal/entropy"
	"concord/internal/entropy/copies"
)

// tellTimeout bounds how long another owner is told that a copy lacks something.
const tellTimeout = 5 * time.Second

// teller tells other nodes that copies of this node lack something.
type teller struct {
	cluster copies.Cluster
	report  *entropy.Report

	mu     sync.Mutex
	closed bool
	again  map[uint64]bool // by shard that others are being told of: whether to tell them once more
	calls  sync.WaitGroup
}

// tell tells the first owners of a shard of this node, or of all for 0. It does not wait for them. While they are being
// told of the same shard, all further calls are one: a queue of old writes makes one with each message.
func (t *teller) tell(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	if _, telling := t.again[id]; telling {
		t.again[id] = true
		return
	}
	if t.again == nil {
		t.again = make(map[uint64]bool)
	}
	t.again[id] = false
	t.calls.Go(func() {
		for more := true; more; more = t.more(id) {
			t.tellOnce(id)
		}
	})
}

// more reports whether a shard is to be told of once more. Otherwise the next call of tell begins anew.
func (t *teller) more(id uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.again[id] && !t.closed {
		t.again[id] = false
		return true
	}
	delete(t.again, id)
	return false
}

func (t *teller) tellOnce(id uint64) {
	self := t.cluster.Self()
	first := make(map[uint64]bool)
	for _, sh := range t.cluster.Live() {
		if (id == 0 || sh.ID == id) && sh.Owned(self) && sh.Owners[0] != self {
			first[sh.Owners[0]] = true
		}
	}
	var calls sync.WaitGroup
	defer calls.Wait()
	for node := range first {
		n, err := t.cluster.Node(node)
		if err != nil {
			continue
		}
		calls.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), tellTimeout)
			defer cancel()
			if err := t.cluster.Transport.Control(n).Check(ctx, id); err != nil {
				t.report.Log.Debug("Cannot tell the first owner that a copy lacks something: its next check finds out",
					zap.String("node", n.TCPAddr), zap.Error(err))
			}
		})
	}
}

func (t *teller) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.calls.Wait()
}
