package handoff

import (
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// deleteRoom is how many bytes deletes may take above max-size: a queue that is
// full of writes must not bring back what is deleted.
const deleteRoom = 16 << 20

// node is one node's queues, and the loop that sends them.
type node struct {
	id    uint64
	s     *Service
	dir   string
	wake  chan struct{} // holds one signal: there is something to send
	heard chan struct{} // holds one signal: the node may be back
	limit *rate.Limiter // nil for none

	mu     sync.Mutex
	queues map[uint64]*queue // by shard
	bytes  atomic.Int64      // on disk, of all queues

	stats struct {
		written, read, dropped, blocked, req, reqFail, reqPoints atomic.Int64 // as in Statistics
	}
}

func (n *node) append(shard uint64, size int64, entries []Entry) error {
	n.mu.Lock()
	q := n.queues[shard]
	grown := size
	if q == nil {
		var err error
		if q, _, err = openQueue(n.shardDir(shard)); err != nil {
			n.mu.Unlock()
			return err
		}
		grown += headerSize
	}
	limit := int64(n.s.cfg.MaxSize)
	if !slices.ContainsFunc(entries, func(e Entry) bool { return e.Kind != Delete }) {
		limit += deleteRoom
	}
	if n.bytes.Load()+grown > limit {
		n.mu.Unlock()
		return ErrQueueFull
	}
	// Under the lock, so that no two appends pass the limit together, and that
	// a queue that runs empty is not forgotten meanwhile.
	f, end, added, err := q.write(entries...)
	n.bytes.Add(added)
	if err == nil {
		n.queues[shard] = q
	}
	n.mu.Unlock()
	if err != nil {
		return err
	}
	n.stats.written.Add(size)
	return q.sync(f, end)
}

func (n *node) shardDir(shard uint64) string {
	return filepath.Join(n.dir, strconv.FormatUint(shard, 10))
}

type shardQueue struct {
	shard uint64
	q     *queue
}

func (n *node) all() []shardQueue {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]shardQueue, 0, len(n.queues))
	for shard, q := range n.queues {
		out = append(out, shardQueue{shard, q})
	}
	return out
}

// advance takes entries off a queue, and forgets the queue when it is empty.
func (n *node) advance(sq shardQueue, entries []Entry) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := sq.q.onDisk()
	err := sq.q.advance(entries)
	return errors.Join(err, n.settle(sq, before))
}

// settle counts what left a queue, and forgets an empty one; n.mu is held.
func (n *node) settle(sq shardQueue, before int64) error {
	n.bytes.Add(sq.q.onDisk() - before)
	if sq.q.pending() || n.queues[sq.shard] != sq.q {
		return nil
	}
	delete(n.queues, sq.shard)
	return sq.q.remove()
}

func (n *node) queued(shard uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.queues[shard] != nil
}

// expired counts the leading entries that are older than max-age. Deletes of a whole database do not age: a node that
// comes back without them would bring back what they removed.
func (n *node) expired(shard uint64, entries []Entry) int {
	if shard == WholeDatabase {
		return 0
	}
	oldest := n.s.deps.Now().Add(-time.Duration(n.s.cfg.MaxAge)).UnixNano()
	for i, e := range entries {
		if e.Time >= oldest {
			return i
		}
	}
	return len(entries)
}

func (n *node) drop(sq shardQueue, entries []Entry, reason string) error {
	points := 0
	for _, e := range entries {
		points += e.Points
	}
	n.stats.dropped.Add(int64(len(entries)))
	n.s.log.Warn("Dropped hinted handoff entries: anti-entropy has to repair the shard", zap.Uint64("node_id", n.id),
		zap.Uint64("db_shard_id", sq.shard), zap.Int("entries", len(entries)), zap.Int("points", points), zap.String("reason", reason))
	err := n.advance(sq, entries)
	n.s.deps.Dropped(n.id, sq.shard)
	return err
}

// skipDamage gives up a segment that cannot be read on.
func (n *node) skipDamage(sq shardQueue, err error) error {
	var bad *CorruptError
	if !errors.As(err, &bad) {
		return err
	}
	n.mu.Lock()
	before := sq.q.onDisk()
	lost, err := sq.q.skipSegment()
	err = errors.Join(err, n.settle(sq, before))
	n.mu.Unlock()
	n.stats.dropped.Add(1)
	n.s.log.Error("Gave up the rest of a damaged hinted handoff segment: anti-entropy has to repair the shard",
		zap.Uint64("node_id", n.id), zap.Uint64("db_shard_id", sq.shard), zap.Int64("bytes", lost), zap.Error(bad))
	n.s.deps.Dropped(n.id, sq.shard)
	return err
}

// forget removes the queue of a node or shard that is gone.
func (n *node) forget(sq shardQueue) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.queues[sq.shard] != sq.q {
		return nil
	}
	n.s.log.Info("Forgot hinted handoff entries: the node or the shard is gone", zap.Uint64("node_id", n.id), zap.Uint64("db_shard_id", sq.shard))
	n.bytes.Add(-sq.q.onDisk())
	delete(n.queues, sq.shard)
	return sq.q.remove()
}

// purge must not take entries that are being sent: it holds the queue's drain lock.
func (n *node) purge(sq shardQueue) error {
	sq.q.draining.Lock()
	defer sq.q.draining.Unlock()
	if !n.s.deps.Due(n.id, sq.shard) {
		return n.forget(sq)
	}
	for {
		entries, err := sq.q.peek(int64(n.s.cfg.BatchSize))
		if err != nil || len(entries) == 0 {
			return err // damage is met when it is sent
		}
		old := n.expired(sq.shard, entries)
		if old == 0 {
			return nil
		}
		if err := n.drop(sq, entries[:old], "older than max-age"); err != nil {
			return err
		}
	}
}
