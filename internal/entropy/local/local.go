// Package local has this node's copies of shards, in its storage engine: what other nodes and its own anti-entropy
// service ask about them, and what is remembered of them on disk.
package local

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/drops"
	"concord/internal/entropy"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/fieldindex"
	"concord/internal/entropy/pace"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile"
	"concord/internal/entropy/reconcile/riblt"
)

// Deps is what the copies of a node need of it. All of it must be set, but for what has a remark.
type Deps struct {
	Store *drops.Store
	Key   func() uint64 // the cluster's ID, with which hashes are keyed
	Beginnings
	Shards     patch.Store // takes the points of repairs
	FilePoints int         // that a repair writes as a file of the engine; fewer take its write path; 0 for the default
	Order      Order       // of writes; nil when points have no versions
	Deletes    Deletes
	// Files makes a missing shard out of another node's files, as entropy.Restorer has it; nil when there is no way.
	Files func(ctx context.Context, shard cluster.Shard, from entropy.Source, progress func(done, total int64)) error
	// Hints lists the nodes for which hinted handoff has entries of a shard; nil when it is off.
	Hints func(shard uint64) []uint64
	// HoldWrites holds the writes to a shard back until release.
	HoldWrites func(shard uint64) (release func())
	Disk       Disk
	Pace       *pace.Pace // nil for none
	Limit      *pace.Limit
	Log        *zap.Logger
}

// Order is the order of writes on this node.
type Order interface {
	// Clock is the version of now.
	Clock() uint64
	// Versions returns with which versions points were written, as entropy.Points has it.
	Versions(shard uint64, points []patch.Region) (patch.PointVersions, error)
	// Keep reports whether this node knows all that was written after a clock of PointVersions. It does for a while
	// then.
	Keep(clock uint64) bool
	// LateWrites reports whether writes may still arrive that are more than some seconds old.
	LateWrites() bool
}

// Deletes is the order of deletes on this node.
type Deletes interface {
	// DeletesSeen changes with every delete in the shard's database that the node hears of.
	DeletesSeen(shard uint64) uint64
	// AwaitDeletes waits until those deletes in the shard's database have ended that may have run on some nodes and not on
	// others. It reports whether they have before ctx ends.
	AwaitDeletes(ctx context.Context, shard uint64) bool
	// HoldDeletes holds deletes back until release, unless one came since DeletesSeen gave seen.
	HoldDeletes(shard, seen uint64) (release func(), ok bool)
}

// Local is this node's copies of shards in its storage engine.
//
// The engine's last-modified time covers writes (time of the last append to the
// log), deletes (each touches the file store, and the log when the cache had
// the points) and file changes (a replaced set of files moves it by a
// nanosecond at least), but may be the same after files were changed
// while the engine was down; therefore the state includes the size on disk.
//
// It has many methods because it answers all that entropy.Replica asks.
type Local struct {
	Deps
	*Memory
	cache  func() (*digest.Cache, error) // opened with the first use
	fields fieldindex.Checker
}

var _ entropy.Replica = (*Local)(nil)

// New returns this node's copies. Their digests are kept in the folder of the memory.
func New(deps Deps) *Local {
	if deps.FilePoints == 0 {
		deps.FilePoints = patch.DefaultFilePoints
	}
	dir := filepath.Join(deps.Memory.dir, "digests")
	return &Local{
		Deps: deps, Memory: deps.Memory,
		cache: sync.OnceValues(func() (*digest.Cache, error) { return digest.OpenCache(dir) }),
	}
}

var errStarting = errors.New("this node has just started, and too few other data nodes have told it yet " +
	"what it missed: it waits for half a minute at most")

// States tells about shards; the map has an entry for each asked ID. It fails while this node does not know whether its
// copies can be trusted: their folders may have been rolled back, and hold points that were deleted since.
func (l *Local) States(_ context.Context, ids []uint64) (map[uint64]entropy.ShardState, error) {
	if !l.Copies.Ready() {
		return nil, errStarting
	}
	out := make(map[uint64]entropy.ShardState, len(ids))
	unopened, clock := l.unopened(), uint64(0)
	if l.Order != nil {
		clock = l.Order.Clock()
	}
	for _, id := range ids {
		lack, waiting := l.Copies.Lacks(id), l.Copies.Waiting(id)
		if message, ok := unopened[id]; ok {
			out[id] = entropy.ShardState{Corrupt: message, Lack: lack, Waiting: waiting}
			continue
		}
		v, err := version(l.Store.Shard(id))
		if err != nil { // of the other copies the node can tell
			closed := fmt.Sprintf("it cannot be read now: %v", err)
			out[id] = entropy.ShardState{Corrupt: closed, Lack: lack, Waiting: waiting}
			continue
		}
		st := entropy.ShardState{
			Version: v, Lack: lack, Waiting: waiting, Deletes: l.Deletes.DeletesSeen(id), Clock: clock,
		}
		if v.Exists {
			st.Beginning = l.began.of(id)
		}
		d, ok, err := l.damaged.of(id)
		if err != nil {
			return nil, err
		}
		if ok {
			st.Corrupt = d.Message
		}
		if l.Hints != nil {
			st.Hints = l.Hints(id)
		}
		out[id] = st
	}
	return out, nil
}

func version(sh *tsdb.Shard) (entropy.Version, error) {
	if sh == nil {
		return entropy.Version{}, nil
	}
	mod, err := sh.LastModifiedWithErr()
	if err != nil {
		return entropy.Version{}, err
	}
	size, err := sh.DiskSize()
	if err != nil {
		return entropy.Version{}, err
	}
	return entropy.Version{Exists: true, LastModified: mod.UnixNano(), Size: size}, nil
}

// Root is the sum over all windows that end at or before until.
func (l *Local) Root(ctx context.Context, shard cluster.Shard, until int64) (root digest.Sum, err error) {
	err = l.view(ctx, shard, func(v *digest.View) error {
		root = v.Root(until)
		return nil
	})
	return root, err
}

// Digested is when the digest of a copy was up to date last; zero for never.
func (l *Local) Digested(shard uint64) time.Time {
	cache, err := l.cache()
	if err != nil {
		return time.Time{} // whoever needs the digest says so
	}
	return cache.UpToDate(shard)
}

// Digests calls fn for each series-field with points in windows that end at or before until.
func (l *Local) Digests(
	ctx context.Context, shard cluster.Shard, until int64, fn func(*digest.SeriesField) error,
) error {
	return l.view(ctx, shard, func(v *digest.View) error { return v.Each(ctx, until, fn) })
}

// Summarize opens a summary of the windows that end at or before until.
func (l *Local) Summarize(
	ctx context.Context, shard cluster.Shard, until int64, key uint64,
) (reconcile.Summary, error) {
	ctx = pace.With(ctx, l.Pace)
	s, err := reconcile.NewSpool(ctx, l.dir, key, func(ctx context.Context, fn func(*digest.SeriesField) error) error {
		return l.Digests(ctx, shard, until, fn)
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// view calls fn with the digests of a shard, unless the node lacks it.
func (l *Local) view(ctx context.Context, shard cluster.Shard, fn func(*digest.View) error) error {
	ctx = pace.With(ctx, l.Pace)
	sh := l.Store.Shard(shard.ID)
	if sh == nil {
		return nil
	}
	cache, err := l.cache()
	if err != nil {
		return fmt.Errorf("open the digest cache: %w", err)
	}
	if err := l.checkFields(ctx, sh); err != nil {
		return err
	}
	v, err := cache.View(ctx, sh, l.Key(), digest.Range{Start: shard.Start, End: shard.End},
		func() (digest.Stamp, error) {
			v, err := version(sh)
			return digest.Stamp{LastModified: v.LastModified, Size: v.Size, Deletes: l.Deletes.DeletesSeen(shard.ID)}, err
		})
	if err != nil {
		return fmt.Errorf("digests of shard %d: %w", shard.ID, l.met(shard.ID, err))
	}
	defer v.Close()
	if v.Read > 0 {
		if err := cache.Keep(func(id uint64) bool { return l.Store.Shard(id) != nil }); err != nil {
			return fmt.Errorf("sweep the digests of shards that are gone, after shard %d was read: %w", shard.ID, err)
		}
	}
	return fn(v)
}

// deletesTime is how long a read waits for deletes that are under way.
const deletesTime = time.Second

// awaitDeletes waits for the deletes that are under way in a shard's database. Another owner may have run them already,
// and may never have heard that they are under way: it would take points from here that it must not have any more. A
// delete of which this node hears later runs on the other owner later, too. When they do not end, it is ErrOvertaken.
func (l *Local) awaitDeletes(ctx context.Context, shard uint64) error {
	ctx, cancel := context.WithTimeout(ctx, deletesTime)
	defer cancel()
	if !l.Deletes.AwaitDeletes(ctx, shard) {
		return entropy.ErrOvertaken
	}
	return nil
}

// Fetch calls fn with the points of regions in their order, within limits.
func (l *Local) Fetch(
	ctx context.Context, shard cluster.Shard, regions []patch.Region, limits patch.Limits, fn func(patch.Block) error,
) error {
	ctx = pace.With(ctx, l.Pace)
	sh := l.Store.Shard(shard.ID)
	if sh == nil {
		return nil
	}
	if err := l.awaitDeletes(ctx, shard.ID); err != nil {
		return err
	}
	return l.met(shard.ID, patch.Read(ctx, sh, regions, limits, fn))
}

// Symbols are the coded symbols [from, to) of the points of all regions.
func (l *Local) Symbols(
	ctx context.Context, shard cluster.Shard, regions []patch.Region, key uint64, from, to int,
) ([]riblt.Symbol, error) {
	ctx = pace.With(ctx, l.Pace)
	sh := l.Store.Shard(shard.ID)
	if sh == nil {
		return make([]riblt.Symbol, to-from), nil
	}
	if err := l.awaitDeletes(ctx, shard.ID); err != nil {
		return nil, err
	}
	symbols, err := patch.Symbols(ctx, sh, regions, key, from, to)
	return symbols, l.met(shard.ID, err)
}

// Slices are what the parts of each region hold.
func (l *Local) Slices(
	ctx context.Context, shard cluster.Shard, regions []patch.Region, key uint64,
) ([][patch.Slices]patch.Slice, error) {
	ctx = pace.With(ctx, l.Pace)
	sh := l.Store.Shard(shard.ID)
	if sh == nil {
		return make([][patch.Slices]patch.Slice, len(regions)), nil
	}
	sums, err := patch.SliceSums(ctx, sh, regions, key)
	return sums, l.met(shard.ID, err)
}

// Versions returns with which versions points were written.
func (l *Local) Versions(_ context.Context, sh cluster.Shard, points []patch.Region) (patch.PointVersions, error) {
	if l.Order == nil {
		return patch.PointVersions{}, entropy.ErrNoVersions
	}
	return l.Order.Versions(sh.ID, points)
}

// Fill makes a missing shard out of the files of another owner.
func (l *Local) Fill(
	ctx context.Context, shard cluster.Shard, from entropy.Source, progress func(done, total int64),
) error {
	if l.Files == nil {
		return entropy.ErrNoFiles
	}
	return l.Files(ctx, shard, from, progress)
}

// Apply writes points, creating the shard where it is missing.
func (l *Local) Apply(
	ctx context.Context, shard cluster.Shard, read entropy.ReadAt, blocks []patch.Block,
) (patch.Applied, error) {
	if err := ctx.Err(); err != nil {
		return patch.Applied{}, err
	}
	if shard.ID == 0 || shard.Database == "" || shard.RetentionPolicy == "" {
		return patch.Applied{}, errors.New("apply needs a shard id, a database and a retention policy")
	}
	size := int64(0)
	for _, b := range blocks {
		size += b.Size()
	}
	if err := l.Disk.Check(size); err != nil {
		return patch.Applied{}, err
	}
	missing := l.Store.Shard(shard.ID) == nil
	if missing || l.mayRevert(blocks) {
		if err := l.Copies.GotUnversioned(shard.ID); err != nil {
			return patch.Applied{}, err
		}
	}
	if missing {
		if err := l.Store.CreateShard(shard.Database, shard.RetentionPolicy, shard.ID, true); err != nil {
			return patch.Applied{}, fmt.Errorf("create shard %d: %w", shard.ID, err)
		}
	}
	if len(blocks) == 0 {
		return patch.Applied{}, nil
	}
	ctx = pace.With(ctx, l.Pace)
	store := l.Shards
	if read.Clock != 0 && l.Order != nil {
		keep := func() bool { return l.Order.Keep(read.Clock) }
		if !keep() {
			return patch.Applied{}, entropy.ErrOvertaken
		}
		if versions, ok := store.(patch.VersionStore); ok {
			store = leased{versions, keep}
		}
	}
	if read.Deletes != 0 {
		release, ok := l.Deletes.HoldDeletes(shard.ID, read.Deletes)
		if !ok {
			return patch.Applied{}, entropy.ErrOvertaken
		}
		defer release()
	}
	return patch.Apply(ctx, store, shard.Database, shard.RetentionPolicy, shard.ID, blocks, l.FilePoints)
}

// mayRevert reports whether a write may still arrive that is older than some of these points. As their versions are not
// known, it would replace them.
func (l *Local) mayRevert(blocks []patch.Block) bool {
	unversioned := func(b patch.Block) bool {
		return b.Versions == nil || b.Assumed || slices.Contains(b.Versions, 0)
	}
	return l.Order != nil && l.Order.LateWrites() && slices.ContainsFunc(blocks, unversioned)
}

// leased is a store that takes points while this node knows all that was written since they were read. Keep asks for
// that again before each write: many points may take longer than the versions are kept for one question.
type leased struct {
	patch.VersionStore
	keep func() bool
}

func (l leased) WriteToShard(ctx tsdb.WriteContext, shard uint64, points []models.Point) error {
	if !l.keep() {
		return entropy.ErrOvertaken
	}
	return l.VersionStore.WriteToShard(ctx, shard, points)
}

func (l leased) WriteVersion(ctx tsdb.WriteContext, shard, version uint64, points []models.Point) error {
	if !l.keep() {
		return entropy.ErrOvertaken
	}
	return l.VersionStore.WriteVersion(ctx, shard, version, points)
}
