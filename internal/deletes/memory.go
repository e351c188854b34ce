package deletes

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/influxdata/influxdb/models"

	"concord/internal/cluster"
	"concord/internal/order"
	"concord/internal/rpc"
)

// Memory is what this node knows of deletes: which points they removed that may still arrive, and which deletes are
// under way. Writes and repairs ask it. It needs no other part of this package, so that the writer can be made before
// the Service, which needs the writer.
type Memory struct {
	shards   Shards
	removals removals
	counts   *deleteCounts
	halfRun  halfRun
	lacking  atomic.Uint64 // deletes up to this version may be missing: see Lacks

	mu        sync.Mutex
	forgotten []string // IDs of deletes that are still on disk
}

// Shards knows the database of each shard.
type Shards interface {
	Shard(id uint64) (cluster.Shard, bool)
}

// NewMemory returns the memory of a node that knows of no delete. Its counts begin elsewhere after each restart.
func NewMemory(shards Shards) *Memory {
	return &Memory{shards: shards, counts: newDeleteCounts(rand.Uint64()>>1 | 1)}
}

// BeginWrite begins to write points of one version to a shard. It returns those that no newer delete removes. A delete
// that runs here waits until end was called, with the points that were written: those that are newer than the delete
// are written again after it. When end fails, a crash may lose them.
func (m *Memory) BeginWrite(
	shard uint64, db, policy string, v order.Version, points []models.Point,
) (left []models.Point, end func(wrote []models.Point) error) {
	of := m.removals.of(db)
	ended := of.writing.begin()
	return of.without(policy, v, points), func(wrote []models.Point) error {
		defer ended()
		if len(wrote) == 0 {
			return nil
		}
		return of.wrote(acceptedWrite{shard, policy, v, wrote})
	}
}

// Lacks reports whether this node may not know a delete that is newer than v. Its disk is new then, and the other nodes
// have not told it yet which deletes they remember. What is older than these must wait.
func (m *Memory) Lacks(v order.Version) bool {
	upTo := m.lacking.Load()
	return upTo != 0 && uint64(v) <= upTo
}

// lacks notes up to which version deletes may be missing; 0 is for none.
func (m *Memory) lacks(upTo order.Version) { m.lacking.Store(uint64(upTo)) }

// Add remembers a delete that ran here, or is about to. Writes that may not know of it have ended when it returns.
func (m *Memory) Add(r *rpc.Delete) { m.removals.add(r) }

// Forget forgets the deletes with a version below floor: nothing as old arrives any more.
func (m *Memory) Forget(floor order.Version) {
	ids := m.removals.forget(floor)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forgotten = append(m.forgotten, ids...)
}

// Remembered is how many deletes are compared with what arrives.
func (m *Memory) Remembered() int { return m.removals.count() }

// takeForgotten returns the IDs of the deletes that were forgotten since the last time.
func (m *Memory) takeForgotten() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := m.forgotten
	m.forgotten = nil
	return ids
}

// announce notes that a delete is about to run.
func (m *Memory) announce(r *rpc.Delete, by announcer) {
	if m.counts.begin(r.Database, r.Id, by) {
		m.removals.announce(r, time.Now())
	}
}

// end notes that a delete has run wherever it can, or will not run.
func (m *Memory) end(db, id string) {
	m.counts.end(db, id, time.Now())
	m.removals.end(db, id)
}

// runs notes that a delete runs here, until done is called. It may run without an announcement.
func (m *Memory) runs(db, id string) (done func()) {
	key := runsKey(id)
	m.counts.begin(db, key, announcer{at: time.Now(), runs: true})
	return func() { m.counts.endRun(db, key) }
}

// endBefore ends the deletes that a node announced before a process of it was started, and returns after as
// deleteCounts.endBefore does. These deletes may be half run.
func (m *Memory) endBefore(node uint64, s start) (after uint64) {
	ended, after := m.counts.endBefore(node, s, time.Now())
	for db, ids := range ended {
		for _, id := range ids {
			m.removals.end(db, id)
		}
	}
	return after
}

// Seen returns a number for a database. It changes with every delete that this node hears of or runs, and with every
// call while a delete is under way.
func (m *Memory) Seen(db string) uint64 { return m.counts.seen(db) }

// DeletesSeen is Seen of a shard's database; 0 for an unknown shard.
func (m *Memory) DeletesSeen(shard uint64) uint64 {
	sh, ok := m.shards.Shard(shard)
	if !ok {
		return 0
	}
	return m.counts.seen(sh.Database)
}

// DeleteUnderWay reports whether a delete of a shard's database runs here, or was announced and has not ended.
func (m *Memory) DeleteUnderWay(shard uint64) bool {
	sh, ok := m.shards.Shard(shard)
	if !ok {
		return false
	}
	return len(m.counts.idsUnderWay(sh.Database, time.Now())) > 0
}

// AwaitDeletes waits until the deletes of a shard's database that are under way now have ended. It reports whether
// they have before ctx ends. It does not wait for later ones, so that it ends although there are always some.
func (m *Memory) AwaitDeletes(ctx context.Context, shard uint64) bool {
	sh, ok := m.shards.Shard(shard)
	if !ok {
		return true
	}
	return m.counts.await(ctx, sh.Database, m.counts.idsUnderWay(sh.Database, time.Now()))
}

// HoldDeletes keeps deletes of a shard's database from being announced or run here until release is called. When one
// was since DeletesSeen returned seen, is under way, or waits, ok is false: what was read elsewhere since then may have
// been deleted, or be about to be. It does not wait itself, so the caller may have locks.
func (m *Memory) HoldDeletes(shard, seen uint64) (release func(), ok bool) {
	sh, known := m.shards.Shard(shard)
	if !known {
		return nil, false
	}
	return m.counts.hold(sh.Database, seen)
}
