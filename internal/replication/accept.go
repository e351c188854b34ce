package replication

import (
	"errors"
	"slices"
	"sync"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"golang.org/x/sync/errgroup"

	"concord/internal/keylock"
	"concord/internal/order"
	"concord/internal/rpc"
)

// Order says which of two operations on a point is the later one.
type Order struct {
	Clock   *order.Clock
	Journal *order.Journal
}

// errBehind says that this node's copy has something newer than a write. With a greater version the write is the
// newest.
var errBehind = errors.New("the owner has newer values of some of the points")

// errDeletesUnknown is for a late write that a delete may have removed of which this node does not know yet. The sender
// tries again.
var errDeletesUnknown = errors.New("the disk of this node is new, and not enough nodes have told it yet which deletes " +
	"they remember")

// ownCopies takes writes to this node's copies of shards: those of its clients, of other nodes and of repairs.
type ownCopies struct {
	Deps
	writing  keylock.Locks[uint64] // by shard; held for reading while points are accepted, and for writing by a repair
	creating keylock.Locks[uint64] // by shard; held while a write creates a copy
	newest   newestVersions
}

// accept writes points of version v to this node's copy of a shard. Some of the points may have a greater version
// there, or be removed by a delete with a greater version. A late write is written without these, whether it comes out
// of hinted handoff or its client has its answer already. Of any other write nothing is written then, and the error is
// errBehind.
//
// A write without a version, which is 0, is of a node from before there were versions. A late one is older than all
// others, and one that is not late is the newest.
func (c *ownCopies) accept(
	ctx tsdb.WriteContext, shard uint64, db, policy string, v order.Version, late bool, points []models.Point,
) (err error) {
	if v == 0 && late {
		v = order.BeforeVersions
	}
	if v == 0 {
		return c.writeStore(ctx, shard, db, policy, points)
	}
	if err := c.Order.Clock.Heard(v); err != nil {
		return err
	}
	l := c.writing.Of(shard)
	l.RLock()
	defer l.RUnlock()
	left, ended := c.Deletes.BeginWrite(shard, db, policy, v, points)
	var written []models.Point
	defer func() {
		if failed := ended(written); failed != nil {
			err = failed
		}
	}()
	if len(left) < len(points) && !late {
		return errBehind
	}
	kept, write, err := c.Order.Journal.Begin(shard, v, left, late)
	if errors.Is(err, order.ErrBehind) {
		return errBehind
	} else if err != nil {
		return err
	}
	if len(kept) > 0 {
		err = c.writeStore(ctx, shard, db, policy, kept)
	}
	known := false
	if written, known = end(write, kept, err); !known {
		return err
	}
	c.newest.note(shard, v)
	if failed := write.Sync(); failed != nil {
		return failed
	}
	return err
}

// end tells the journal what the engine made of points: it has those that end returns. It is false when the engine may
// have any of them or none.
func end(write *order.Write, points []models.Point, err error) (written []models.Point, known bool) {
	var partial tsdb.PartialWriteError
	switch {
	case err == nil:
		write.Done()
		return points, true
	case errors.As(err, &partial):
		written = taken(points, partial)
		write.Failed(written)
		return written, true
	}
	write.Failed(nil)
	return nil, false
}

// taken returns the points of a partial write that the engine has. The engine moves them to the front of the slice.
func taken(points []models.Point, partial tsdb.PartialWriteError) []models.Point {
	return points[:max(0, len(points)-partial.Dropped)]
}

// newestVersions are the greatest versions that shards got since this process started.
type newestVersions struct {
	mu sync.Mutex
	m  map[uint64]newestVersion
}

type newestVersion struct {
	version order.Version
	writes  int // so far
}

func (n *newestVersions) note(shard uint64, v order.Version) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.m == nil {
		n.m = make(map[uint64]newestVersion)
	}
	before := n.m[shard]
	n.m[shard] = newestVersion{max(before.version, v), before.writes + 1}
}

func (n *newestVersions) of(shard uint64) newestVersion {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.m[shard]
}

// WriteAgain writes points to this node's copy of a shard with the version that they had: those that a delete removed
// and that are newer than it. Where the copy has got something newer, it stays.
func (c *ownCopies) WriteAgain(shard uint64, db, policy string, v order.Version, points []models.Point) error {
	return c.accept(tsdb.WriteContext{UserId: tsdb.UnknownUser}, shard, db, policy, v, true, points)
}

// MayHaveNewer reports whether this node's copy of a shard may have points with a version above v.
func (c *ownCopies) MayHaveNewer(shard uint64, v order.Version) bool {
	return c.newest.of(shard).version > v || c.Order.Journal.Loaded() > v
}

// beginOld is called before a late write of version v is accepted. The journal may not reach back as far: it was
// full, or the copy has got points of others since, without versions. Then a newer value may be forgotten, and the
// write takes its place. So this node's copy is not whole until it was compared with the others. It is noted before
// the write, for queries. It is noted again when written is called, because a repair in between may have called the
// copy whole. The journal may also have got full meanwhile.
//
// Writes without versions do not count. They are of nodes of an earlier build, and arrive in no order anyway. Neither
// do those of repairs, which compare the copies.
func (c *ownCopies) beginOld(shard uint64, v order.Version) (written func()) {
	if v == 0 {
		return func() {}
	}
	note := func() {
		if v < max(c.Order.Journal.Since(), order.Version(c.Copies.LastUnversioned(shard))) {
			c.Copies.Lacks(shard, "a write came so late that its node has forgotten which versions the points had, "+
				"and may have undone a newer one")
		}
	}
	note()
	return note
}

// acceptSpans writes what another node sent. Writes out of hinted handoff come as one, with the version of each. They
// are written at the same time: their versions order them.
func (c *ownCopies) acceptSpans(r *rpc.WriteShardRequest, points []models.Point) error {
	ctx := tsdb.WriteContext{UserId: r.UserId}
	if len(r.Spans) == 0 {
		v, late := order.Version(r.Version), r.Hinted || r.Yields
		if late && c.Deletes.Lacks(v) {
			return errDeletesUnknown
		}
		if late {
			defer c.beginOld(r.ShardId, v)()
		}
		return c.accept(ctx, r.ShardId, r.Database, r.RetentionPolicy, v, late, points)
	}
	if c.Deletes.Lacks(oldestOf(r.Spans)) {
		return errDeletesUnknown
	}
	defer c.beginOld(r.ShardId, oldestOf(r.Spans))()
	var (
		writes  errgroup.Group
		mu      sync.Mutex
		partial *tsdb.PartialWriteError
	)
	writes.SetLimit(maxSpans)
	if slices.ContainsFunc(r.Spans, func(s *rpc.VersionSpan) bool { return s.Version == 0 }) {
		writes.SetLimit(1) // their order is all that they have
	}
	for _, s := range r.Spans {
		some := points[:s.Points]
		points = points[s.Points:]
		writes.Go(func() error {
			v := order.Version(s.Version)
			err := c.accept(ctx, r.ShardId, r.Database, r.RetentionPolicy, v, true, some)
			var p tsdb.PartialWriteError
			if !errors.As(err, &p) {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			partial = merge(partial, p)
			return nil
		})
	}
	if err := writes.Wait(); err != nil || partial == nil {
		return err
	}
	return *partial
}

// oldestOf is the smallest version of some writes, 0 when none has one.
func oldestOf(spans []*rpc.VersionSpan) (oldest order.Version) {
	for _, s := range spans {
		if v := order.Version(s.Version); v != 0 && (oldest == 0 || v < oldest) {
			oldest = v
		}
	}
	return oldest
}

// maxSpans is how many writes out of hinted handoff run at the same time for one message.
const maxSpans = 16

// clock is this node's.
func (c *ownCopies) clock() uint64 {
	return uint64(c.Order.Clock.Now())
}

// heard moves the clock of this node past that of another one. A clock that is far ahead is not believed.
func (c *ownCopies) heard(clock uint64) { c.Order.Clock.Heard(order.Version(clock)) }
