package replication

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"
)

// missedLog says once, and then every ten seconds, what a node misses.
type missedLog struct {
	mu    sync.Mutex
	nodes map[string]*missedBy
}

type missedBy struct {
	last   time.Time
	points int
}

func (m *missedLog) note(log *zap.Logger, addr string, points int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.nodes == nil {
		m.nodes = make(map[string]*missedBy)
	}
	by := m.nodes[addr]
	if by == nil {
		by = &missedBy{}
		m.nodes[addr] = by
	}
	by.points += points
	if time.Since(by.last) < 10*time.Second {
		return
	}
	log.Warn("A data node misses writes; anti-entropy will repair it",
		zap.String("node", addr), zap.Int("points", by.points), zap.Error(err))
	by.last, by.points = time.Now(), 0
}

// slowAfter is how long a write may be under way before it counts as missing where it is to arrive.
const slowAfter = 500 * time.Millisecond

// Slow lists the shards, by node, of acknowledged writes that have been under way to the node for a while.
func (o *outgoing) Slow() map[uint64][]uint64 { return o.lanes.slow(slowAfter) }

// AwaitWrites waits until the writes that this node acknowledged have arrived at a node's copies of shards, and returns
// the shards of which some have not by the end of ctx.
func (o *outgoing) AwaitWrites(ctx context.Context, node uint64, shards []uint64) []uint64 {
	return o.lanes.settle(ctx, node, shards)
}
