package handoff

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// deleteRoom is how many bytes deletes may take above max-size: a queue that is full of writes must not refuse them.
// A delete that fits on no node even so is refused before it runs anywhere: without a limit, the deletes for a node
// that never comes back would fill the disks.
const deleteRoom = 16 << 20

// nodeQueues are the queues for one node: what goes into them, and what is dropped of them. It has many
// methods because each is a short one under the same lock.
type nodeQueues struct {
	id  uint64
	s   *Service
	dir string

	progress atomic.Int64 // entries taken off the queues

	mu     sync.Mutex
	queues map[uint64]*queue // by shard
	closed bool              // no appends any more
	bytes  atomic.Int64      // on disk, of all queues

	stats counts // of all queues
	parts parts  // of each queue
}

// load opens the queues that are on disk, and returns the shards of those whose end was cut off.
func (n *nodeQueues) load() (cut []uint64, err error) {
	shards, err := numbered(n.dir)
	if err != nil {
		return nil, err
	}
	for _, shard := range shards {
		q, lost, err := openQueue(n.dir, shard, n.s.disk)
		if err != nil {
			return nil, fmt.Errorf("hinted handoff queue of node %d, shard %d: %w", n.id, shard, err)
		}
		if lost > 0 {
			cut = append(cut, shard)
			n.s.log.Warn("Cut the end off a hinted handoff queue, torn by a crash or damaged: "+
				"anti-entropy has to repair the shard",
				zap.Uint64("node_id", n.id), zap.Uint64("db_shard_id", shard), zap.Int64("bytes", lost))
		}
		if !q.pending() {
			q.remove()
			continue
		}
		n.queues[shard] = q
		n.bytes.Add(q.files.bytes)
	}
	return cut, nil
}

// append queues entries as one, and returns when they are on disk.
func (n *nodeQueues) append(shard uint64, entries []Entry) error {
	size, _ := measure(entries)
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return ErrClosed
	}
	q := n.queues[shard]
	grown, begun := size, q == nil
	if q == nil {
		var err error
		if q, _, err = openQueue(n.dir, shard, n.s.disk); err != nil {
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
	a, err := q.write(entries...)
	n.bytes.Add(a.grown)
	if q.pending() {
		n.queues[shard] = q
	}
	if err != nil && begun && q.pending() { // of a segment without an entry
		err = errors.Join(err, n.remove(shardQueue{shard, q}))
	}
	n.mu.Unlock()
	if err != nil {
		return err
	}
	_, points := measure(entries)
	n.tally(shard, func(c *counts) {
		c.written.Add(size)
		c.shardReq.Add(1)
		c.shardPoints.Add(int64(points))
	})
	return q.sync(a)
}

// close ends appends; what is queued stays on disk.
func (n *nodeQueues) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	var errs []error
	for _, q := range n.queues {
		errs = append(errs, q.close())
	}
	return errors.Join(errs...)
}

// shardQueue is a queue as it was listed: it may have been forgotten since.
type shardQueue struct {
	shard uint64
	q     *queue
}

func (n *nodeQueues) all() []shardQueue {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]shardQueue, 0, len(n.queues))
	for shard, q := range n.queues {
		out = append(out, shardQueue{shard, q})
	}
	return out
}

// oldest is when the first of the entries was queued: of all queues, and of the deletes that concern a whole database.
// It is zero when there is none, or it cannot be read.
func (n *nodeQueues) oldest() (all, deletes time.Time) {
	for _, sq := range n.all() {
		ns := sq.q.oldest()
		if ns == 0 {
			continue
		}
		at := time.Unix(0, ns)
		if all.IsZero() || at.Before(all) {
			all = at
		}
		if sq.shard == WholeDatabase {
			deletes = at
		}
	}
	return all, deletes
}

// queued tells whether one of the shards has entries.
func (n *nodeQueues) queued(shards ...uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(shards, func(shard uint64) bool { return n.queues[shard] != nil })
}

// owe makes everything count as acknowledged that waits for a shard.
func (n *nodeQueues) owe(shard uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if q := n.queues[shard]; q != nil {
		q.owe()
	}
}

// advance takes entries off a queue.
func (n *nodeQueues) advance(sq shardQueue, entries []Entry) error {
	return n.take(sq, func() error { return sq.q.advance(entries) })
}

// take runs what takes entries off a queue, counts the room that it made, and removes the queue when it is empty.
func (n *nodeQueues) take(sq shardQueue, off func() error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := sq.q.onDisk()
	err := off()
	n.bytes.Add(sq.q.onDisk() - before)
	if err == nil && !sq.q.pending() && n.queues[sq.shard] == sq.q {
		err = n.remove(sq)
	}
	if err == nil {
		sq.q.rest.recovered()
		n.progress.Add(1)
	}
	return err
}

// remove removes a queue. n.mu must be held. A queue that cannot be removed stays: later writes go behind it, since
// what is left of it on disk would be sent over them after a restart.
func (n *nodeQueues) remove(sq shardQueue) error {
	before := sq.q.onDisk()
	if err := sq.q.remove(); err != nil {
		return err
	}
	n.bytes.Add(-before)
	delete(n.queues, sq.shard)
	return nil
}

// expired counts the leading entries that are older than max-age. Deletes of a whole database do not age: a node that
// comes back without them would bring back what they removed.
func (n *nodeQueues) expired(shard uint64, entries []Entry) int {
	if shard == WholeDatabase {
		return 0
	}
	now, _ := n.s.deps.Now()
	oldest := now.Add(-time.Duration(n.s.cfg.MaxAge)).UnixNano()
	for i, e := range entries {
		if e.Time >= oldest {
			return i
		}
	}
	return len(entries)
}

// dropExpired drops the leading entries that are older than max-age, and returns how many those were.
func (n *nodeQueues) dropExpired(sq shardQueue, entries []Entry) (int, error) {
	old := n.expired(sq.shard, entries)
	if old == 0 {
		return 0, nil
	}
	return old, n.drop(sq, entries[:old], "older than max-age")
}

// drop gives entries at the head up.
func (n *nodeQueues) drop(sq shardQueue, entries []Entry, reason string) error {
	_, points := measure(entries)
	n.tally(sq.shard, func(c *counts) { c.dropped.Add(int64(len(entries))) })
	n.s.log.Warn("Dropped hinted handoff entries: anti-entropy has to repair the shard", zap.Uint64("node_id", n.id),
		zap.Uint64("db_shard_id", sq.shard), zap.Int("entries", len(entries)), zap.Int("points", points),
		zap.String("reason", reason))
	err := n.advance(sq, entries)
	n.s.deps.Dropped(n.id, sq.shard)
	return err
}

// readTries is how often a segment is read in vain before it counts as damaged, with a pause after each that grows from
// retry-interval: with the defaults that is two minutes.
const readTries = 8

// unreadable is called when a segment cannot be read on. Damage is given up at once; what may pass is an error until it
// was tried often enough.
func (n *nodeQueues) unreadable(sq shardQueue, err error) error {
	var at *segmentError
	if !errors.As(err, &at) {
		return err
	}
	var bad *CorruptError
	if !errors.As(err, &bad) {
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM) {
			return err // says nothing of the file
		}
		if sq.q.tries++; sq.q.tries < readTries {
			return err
		}
	}
	sq.q.tries = 0
	return n.giveUp(sq, at)
}

// giveUp sets a damaged segment aside, and what is before it.
func (n *nodeQueues) giveUp(sq shardQueue, at *segmentError) error {
	var lost int64
	var files []string
	err := n.take(sq, func() (err error) { lost, files, err = sq.q.setAside(at.id); return err })
	if lost == 0 && len(files) == 0 {
		return err
	}
	n.tally(sq.shard, func(c *counts) { c.dropped.Add(1) })
	n.s.log.Error("Gave up what is left of a damaged hinted handoff queue: anti-entropy has to repair the shard",
		zap.Uint64("node_id", n.id), zap.Uint64("db_shard_id", sq.shard), zap.Int64("bytes", lost),
		zap.Strings("kept", files), zap.Error(at))
	n.s.deps.Dropped(n.id, sq.shard)
	return err
}

// setAside gives a queue up, and keeps its files.
func (n *nodeQueues) setAside(sq shardQueue) error {
	sq.q.draining.Lock()
	defer sq.q.draining.Unlock()
	var files []string
	err := n.take(sq, func() (err error) { _, files, err = sq.q.setAside(math.MaxUint64); return err })
	n.s.log.Warn("Set a hinted handoff queue aside", zap.Uint64("node_id", n.id), zap.Uint64("db_shard_id", sq.shard),
		zap.Strings("kept", files), zap.Error(err))
	return err
}

// forget removes a queue that nobody is to get any more.
func (n *nodeQueues) forget(sq shardQueue, reason string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.queues[sq.shard] != sq.q {
		return nil
	}
	n.s.log.Info("Forgot hinted handoff entries", zap.Uint64("node_id", n.id), zap.Uint64("db_shard_id", sq.shard),
		zap.String("reason", reason))
	return n.remove(sq)
}

// over tells whether a queue needs no more attention: it is forgotten when its node or shard is gone. The error is
// errNoMetadata while nobody knows.
func (n *nodeQueues) over(sq shardQueue) (bool, error) {
	due, known := n.s.deps.Due(n.id, sq.shard)
	switch {
	case !known:
		return false, errNoMetadata
	case due:
		return false, nil
	}
	return true, n.forget(sq, "the node or the shard is gone")
}

// purge drops what is older than max-age, and the queue of a node or shard that is gone. It must not take entries that
// are being sent: it holds the queue's drain lock.
func (n *nodeQueues) purge(sq shardQueue) error {
	sq.q.draining.Lock()
	defer sq.q.draining.Unlock()
	for {
		if over, err := n.over(sq); over || err != nil {
			return err
		}
		if sq.q.delivered() {
			return n.take(sq, sq.q.dropDelivered)
		}
		entries, err := sq.q.peek(int64(n.s.cfg.BatchSize))
		if err != nil {
			// Not only when it is sent: a node may be away for longer than max-age.
			if err := n.unreadable(sq, err); err != nil {
				return err
			}
			continue
		}
		if old, err := n.dropExpired(sq, entries); err != nil || old == 0 {
			return err
		}
	}
}

// setback lets a queue rest that cannot get on, for its files or its shard and not for its node. The others go on
// meanwhile.
func (n *nodeQueues) setback(sq shardQueue, err error) {
	var own *ownError
	file := errors.As(err, &own)
	pause := sq.q.rest.setback(time.Duration(n.s.cfg.RetryInterval), time.Duration(n.s.cfg.RetryMaxInterval), file)
	say := n.s.log.Debug
	if file && sq.q.rest.firstReport() {
		say = n.s.log.Error
	}
	say("A hinted handoff queue does not get on, and is tried again: the others go on", zap.Uint64("node_id", n.id),
		zap.Uint64("db_shard_id", sq.shard), zap.Duration("pause", pause), zap.Error(err))
}

// ready lists the queues to send now: that of deletes for the whole database alone, and first. Without one,
// rest is how long the first of those that rest does so, 0 when there are none.
func (n *nodeQueues) ready() (ready []shardQueue, rest time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	queues := n.queues
	if q := queues[WholeDatabase]; q != nil {
		queues = map[uint64]*queue{WholeDatabase: q}
	}
	for shard, q := range queues {
		wait := q.rest.left()
		if wait <= 0 {
			ready = append(ready, shardQueue{shard, q})
		} else if rest == 0 || wait < rest {
			rest = wait
		}
	}
	return ready, rest
}
