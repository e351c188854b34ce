package replication

import (
	"context"
	"slices"
	"sync"
	"time"

	"concord/internal/order"
)

// maxPendingBytes bounds what writes under way to one node hold in memory.
const maxPendingBytes = 64 << 20

// lanes are the writes that are under way to each owner's copy of each shard. A node with too many of them counts as
// slow: all of them are cancelled, which sends them to its hinted handoff queues.
type lanes struct {
	maxPending int          // writes under way to one node; 0 for no limit
	clock      *order.Clock // gives each write its version

	mu     sync.Mutex
	write  uint64                    // grows with every write
	writes map[uint64]map[uint64]int // by shard: writes, and how many owners they are under way to
	lanes  map[lane]map[*delivery]struct{}
	nodes  map[uint64]*underWay
}

type lane struct{ node, shard uint64 }

type underWay struct {
	writes int
	bytes  int
}

// delivery is one write on its way to one owner.
type delivery struct {
	lane
	write    uint64   // the same for all owners
	owners   []uint64 // of the shard
	began    time.Time
	version  order.Version // the same for all owners
	size     int
	answered bool     // its client has the answer; guarded by lanes.mu
	verdict  *verdict // of the write, for all owners
	done     chan struct{}
	ctx      context.Context
	cancel   context.CancelFunc
}

// begin registers a write of size bytes to each owner. They end by finish.
func (l *lanes) begin(owners []uint64, shard uint64, size int, timeout time.Duration) []*delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lanes == nil {
		l.lanes, l.nodes = make(map[lane]map[*delivery]struct{}), make(map[uint64]*underWay)
		l.writes = make(map[uint64]map[uint64]int)
	}
	l.write++
	if l.writes[shard] == nil {
		l.writes[shard] = make(map[uint64]int)
	}
	l.writes[shard][l.write] = len(owners)
	version := l.clock.Next() // with mu held, for oldest
	out := make([]*delivery, len(owners))
	v := newVerdict()
	now := time.Now()
	for i, owner := range owners {
		d := &delivery{
			lane: lane{owner, shard}, write: l.write, owners: owners, version: version,
			began: now, size: size, verdict: v, done: make(chan struct{}),
		}
		d.ctx, d.cancel = context.WithTimeout(context.Background(), timeout)
		set := l.lanes[d.lane]
		if set == nil {
			set = make(map[*delivery]struct{})
			l.lanes[d.lane] = set
		}
		set[d] = struct{}{}
		n := l.nodes[owner]
		if n == nil {
			n = &underWay{}
			l.nodes[owner] = n
		}
		n.writes++
		n.bytes += size
		if l.maxPending > 0 && (n.writes > l.maxPending || n.bytes > maxPendingBytes) {
			l.cancelNode(owner)
		}
		out[i] = d
	}
	return out
}

// oldest returns a version such that no delivery under way, and none that begins later, has a smaller one.
func (l *lanes) oldest() order.Version {
	l.mu.Lock()
	defer l.mu.Unlock()
	oldest := l.clock.Now()
	for _, set := range l.lanes {
		for d := range set {
			oldest = min(oldest, d.version)
		}
	}
	return oldest
}

// cancelNode cancels what is under way to a node. l.mu must be held.
func (l *lanes) cancelNode(node uint64) {
	for ln, set := range l.lanes {
		if ln.node == node {
			for d := range set {
				d.cancel()
			}
		}
	}
}

// answer marks deliveries whose client has its answer.
func (l *lanes) answer(ds []*delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range ds {
		d.answered = true
	}
}

// slow lists the lanes, shards by node, in which an acknowledged write has been under way for longer than limit.
func (l *lanes) slow(limit time.Duration) map[uint64][]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out map[uint64][]uint64
	for ln, set := range l.lanes {
		for d := range set {
			if time.Since(d.began) > limit && d.verdict.acknowledged() {
				if out == nil {
					out = make(map[uint64][]uint64)
				}
				out[ln.node] = append(out[ln.node], ln.shard)
				break
			}
		}
	}
	return out
}

// settle waits until the writes whose clients have their answer have reached a node's copies of shards, and returns
// those of which some have not by the end of ctx.
func (l *lanes) settle(ctx context.Context, node uint64, shards []uint64) (late []uint64) {
	var waits []*delivery
	l.mu.Lock()
	if len(l.lanes) > 0 {
		for _, id := range shards {
			for d := range l.lanes[lane{node, id}] {
				if d.answered {
					waits = append(waits, d)
				}
			}
		}
	}
	l.mu.Unlock()
	for _, d := range waits {
		select {
		case <-d.done:
			continue
		default:
		}
		select {
		case <-d.done:
		case <-ctx.Done():
			if !slices.Contains(late, d.shard) {
				late = append(late, d.shard)
			}
		}
	}
	return late
}

// finish ends a delivery: the owner has the write, or its queue, or neither.
func (l *lanes) finish(d *delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d.cancel()
	set := l.lanes[d.lane]
	delete(set, d)
	if len(set) == 0 {
		delete(l.lanes, d.lane)
	}
	if l.writes[d.shard][d.write]--; l.writes[d.shard][d.write] == 0 {
		if delete(l.writes[d.shard], d.write); len(l.writes[d.shard]) == 0 {
			delete(l.writes, d.shard)
		}
	}
	if n := l.nodes[d.node]; n != nil {
		n.writes--
		n.bytes -= d.size
		if n.writes == 0 {
			delete(l.nodes, d.node)
		}
	}
	close(d.done)
}

// noneBelow returns a number such that no write to the shard with a smaller one is under way to any owner.
func (l *lanes) noneBelow(shard uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	least := l.write + 1
	for w := range l.writes[shard] {
		least = min(least, w)
	}
	return least
}
