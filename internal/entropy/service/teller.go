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
	calls  sync.WaitGroup
}

// tell tells the first owners of a shard of this node, or of all for 0. It does not wait for them.
func (t *teller) tell(id uint64) {
	self := t.cluster.Self()
	first := make(map[uint64]bool)
	for _, sh := range t.cluster.Live() {
		if (id == 0 || sh.ID == id) && sh.Owned(self) && sh.Owners[0] != self {
			first[sh.Owners[0]] = true
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for node := range first {
		n, err := t.cluster.Node(node)
		if err != nil || t.closed {
			continue
		}
		t.calls.Go(func() {
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
