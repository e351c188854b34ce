package entropy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/cluster"
	"concord/internal/copystate"
	"concord/internal/durable"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/fieldindex"
	"concord/internal/entropy/pace"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile"
	"concord/internal/entropy/reconcile/riblt"
	"concord/internal/entropy/retype"
	"concord/internal/entropy/tsmfile"
	"concord/internal/fulldisk"
)

// Local is this node's copies of shards in its storage engine.
//
// The engine's last-modified time covers writes (time of the last append to the
// log), deletes (each touches the file store, and the log when the cache had
// the points) and file changes (a replaced set of files moves it by a
// nanosecond at least), but may be the same after files were changed
// while the engine was down; therefore the state includes the size on disk.
type Local struct {
	// Pending lists the nodes for which hinted handoff has entries of a shard; nil for none.
	Pending func(shard uint64) []uint64
	// Deletes orders what a repair writes and deletes; nil for none.
	Deletes Deletes
	// Copies remembers what copies lack; nil for none.
	Copies Copies
	// Shards takes the points of repairs; NewLocal sets the store.
	Shards patch.Store

	// Pace is that of this node's background work; nil for none.
	Pace *pace.Pace

	FilePoints int // that a repair writes as a file of the engine; fewer take its write path
	// DiskFree tells how much of the file system of a folder is free.
	DiskFree func(dir string) (free, total uint64, err error)
	// PointVersions tells with which versions points were written, as Points has it; nil for none.
	PointVersions func(shard uint64, points []patch.Region) (versions []uint64, since uint64, err error)
	// Files makes a missing shard out of another node's files, as Restorer has it; nil when there is no way.
	Files func(ctx context.Context, shard cluster.Shard, from Source, progress func(done, total int64)) error

	store *tsdb.Store
	key   func() uint64
	began beginnings
	dir   string // of this package's files

	damaged  damagedShards
	throttle func(context.Context, int) error // is called before each read that is no answer
	// OnDamage, when set, is told of damage that a read or a scrub found. Set it before the first use.
	OnDamage func(shard uint64, d *tsmfile.Damage)
	// HoldWrites holds the writes to a shard back until release; nil for none. Set it before the first use.
	HoldWrites func(shard uint64) (release func())
	// OnRetype, when set, is told of values that were set aside because their field has another type. Set it before
	// the first use.
	OnRetype func(shard uint64, kept retype.Kept)
	// OnAside, when set, is told of the folder in which damaged files are kept. Set it before the first use.
	OnAside func(shard uint64, dir string)

	cache func() (*digest.Cache, error) // opened with the first use

	fields fieldindex.Checker
	// OnHidden, when set, is told of measurements that queries did not see, and see again. Set it before the first use.
	OnHidden func(shard uint64, measurements []fieldindex.Hidden, conflicts []string)
}

// Deletes is the order of deletes on this node.
type Deletes interface {
	// DeletesSeen changes with every delete in the shard's database that the node hears of.
	DeletesSeen(shard uint64) uint64
	// HoldDeletes holds deletes back until release, unless one came since DeletesSeen gave seen.
	HoldDeletes(shard, seen uint64) (release func(), ok bool)
}

// NewLocal returns the replica over store. Key returns the cluster's ID, with which hashes are keyed.
// In dir it keeps how copies began, and the digests of shards.
func NewLocal(store *tsdb.Store, key func() uint64, dir string) *Local {
	return &Local{
		FilePoints: patch.DefaultFilePoints, DiskFree: fulldisk.Free,
		throttle: func(ctx context.Context, _ int) error { return ctx.Err() },
		Shards:   store, store: store, key: key, dir: dir, began: beginnings{dir: filepath.Join(dir, "begun")}, damaged: damagedShards{dir: filepath.Join(dir, "damaged")},
		cache: sync.OnceValues(func() (*digest.Cache, error) { return digest.OpenCache(filepath.Join(dir, "digests")) }),
	}
}

// Copies remembers, durably, which of this node's copies lack something.
type Copies interface {
	Begin(shard uint64) error
	Copied(shard uint64) error
	Whole(shard, gen uint64) error
	Lacks(shard uint64) copystate.Lack
	Waiting(shard uint64) []uint64
	Discarded(shard, gen uint64) error
}

// Begin notes, durably, that a write begins this node's copy of a shard.
func (l *Local) Begin(id uint64) error {
	if l.Copies != nil {
		if err := l.Copies.Begin(id); err != nil {
			return err
		}
	}
	return l.began.note(id, copystate.BegunAt(time.Now()))
}

// Copied notes, durably, that this node's copy of a shard was made from another owner's files. The other owner may have
// got writes in the meantime.
func (l *Local) Copied(id uint64) error {
	if l.Copies != nil {
		if err := l.Copies.Copied(id); err != nil {
			return err
		}
	}
	return l.began.note(id, copystate.FromFiles)
}

// Whole notes that the copy was found equal to the others. What the copy lacks stays noted when it is not what it lacked
// before the comparison.
func (l *Local) Whole(_ context.Context, id, gen uint64) error {
	if l.Copies != nil {
		if err := l.Copies.Whole(id, gen); err != nil {
			return err
		}
	}
	return l.began.forget(id)
}

// Discard removes a copy that may hold deleted points, so that it is made anew of another one. Its files are kept
// aside: a write that reached no other copy would be lost with them.
func (l *Local) Discard(_ context.Context, id, gen uint64) error {
	if l.Copies == nil || l.Copies.Lacks(id).Kind != copystate.Stale || l.Copies.Lacks(id).Gen != gen {
		return errors.New("the copy is not one that has to be made anew")
	}
	if l.store.Shard(id) == nil {
		return nil
	}
	kept, err := l.keepFiles(id)
	if err != nil {
		return fmt.Errorf("keep the files of shard %d: %w", id, err)
	}
	if l.OnAside != nil {
		l.OnAside(id, kept)
	}
	if err := l.store.DeleteShard(id); err != nil && !errors.Is(err, tsdb.ErrShardNotFound) {
		return err
	}
	return l.Copies.Discarded(id, gen)
}

// keepFiles moves a snapshot of a shard's files aside.
func (l *Local) keepFiles(id uint64) (kept string, err error) {
	dir, err := l.store.CreateShardSnapshot(id, false)
	if err != nil {
		return "", err
	}
	kept = filepath.Join(l.Aside(), fmt.Sprintf("%d-%s", id, time.Now().UTC().Format("20060102T150405.000000000Z")))
	if err := os.MkdirAll(l.Aside(), 0o750); err != nil {
		return "", err
	}
	if err := os.Rename(dir, kept); err != nil { // another file system
		if err := errors.Join(os.CopyFS(kept, os.DirFS(dir)), os.RemoveAll(dir)); err != nil {
			return "", err
		}
	}
	return kept, durable.SyncDir(l.Aside())
}

// Damage says what is damaged in this node's copy of a shard, empty for nothing, and whether the copy can be read all
// the same.
func (l *Local) Damage(id uint64) (reason string, readable bool) {
	d, ok, err := l.damaged.of(id)
	switch {
	case err != nil:
		return err.Error(), true
	case ok:
		return "it is damaged: " + d.Message, true
	case l.store.Shard(id) != nil:
		return "", true
	}
	return l.unopened()[id], false
}

// Has reports whether there is a copy on disk, be it one that cannot be opened.
func (l *Local) Has(id uint64) bool { return l.store.Shard(id) != nil || l.unopened()[id] != "" }

var _ Replica = (*Local)(nil)

// States tells about shards; the map has an entry for each asked ID.
func (l *Local) States(_ context.Context, ids []uint64) (map[uint64]ShardState, error) {
	out := make(map[uint64]ShardState, len(ids))
	unopened := l.unopened()
	for _, id := range ids {
		var lack copystate.Lack
		var waiting []uint64
		if l.Copies != nil {
			lack, waiting = l.Copies.Lacks(id), l.Copies.Waiting(id)
		}
		if message, ok := unopened[id]; ok {
			out[id] = ShardState{Corrupt: message, Lack: lack, Waiting: waiting}
			continue
		}
		v, err := version(l.store.Shard(id))
		if err != nil {
			return nil, fmt.Errorf("state of shard %d: %w", id, err)
		}
		st := ShardState{Version: v, Lack: lack, Waiting: waiting}
		if v.Exists {
			st.Beginning = l.began.of(id)
		}
		if l.Deletes != nil {
			st.Deletes = l.Deletes.DeletesSeen(id)
		}
		d, ok, err := l.damaged.of(id)
		if err != nil {
			return nil, err
		}
		if ok {
			st.Corrupt = d.Message
		}
		if l.Pending != nil {
			st.Hints = l.Pending(id)
		}
		out[id] = st
	}
	return out, nil
}

func version(sh *tsdb.Shard) (Version, error) {
	if sh == nil {
		return Version{}, nil
	}
	mod, err := sh.LastModifiedWithErr()
	if err != nil {
		return Version{}, err
	}
	size, err := sh.DiskSize()
	if err != nil {
		return Version{}, err
	}
	return Version{Exists: true, LastModified: mod.UnixNano(), Size: size}, nil
}

// Root is the sum over all windows that end at or before until.
func (l *Local) Root(ctx context.Context, shard cluster.Shard, until int64) (root digest.Sum, err error) {
	err = l.view(ctx, shard, func(v *digest.View) error {
		root = v.Root(until)
		return nil
	})
	return root, err
}

// Digests calls fn for each series-field with points in windows that end at or before until.
func (l *Local) Digests(ctx context.Context, shard cluster.Shard, until int64, fn func(*digest.SeriesField) error) error {
	return l.view(ctx, shard, func(v *digest.View) error { return v.Each(ctx, until, fn) })
}

// Summarize opens a summary of the windows that end at or before until.
func (l *Local) Summarize(ctx context.Context, shard cluster.Shard, until int64, key uint64) (reconcile.Summary, error) {
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
	sh := l.store.Shard(shard.ID)
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
	v, err := cache.View(ctx, sh, l.key(), digest.Range{Start: shard.Start, End: shard.End}, func() (digest.Stamp, error) {
		v, err := version(sh)
		stamp := digest.Stamp{LastModified: v.LastModified, Size: v.Size}
		if l.Deletes != nil {
			stamp.Deletes = l.Deletes.DeletesSeen(shard.ID)
		}
		return stamp, err
	})
	if err != nil {
		return fmt.Errorf("digests of shard %d: %w", shard.ID, l.met(shard.ID, err))
	}
	defer v.Close()
	if v.Read > 0 {
		if err := cache.Keep(func(id uint64) bool { return l.store.Shard(id) != nil }); err != nil {
			return fmt.Errorf("digest cache: %w", err)
		}
	}
	return fn(v)
}

// Fetch calls fn with the points of regions in their order, within limits.
func (l *Local) Fetch(ctx context.Context, shard cluster.Shard, regions []patch.Region, limits patch.Limits, fn func(patch.Block) error) error {
	ctx = pace.With(ctx, l.Pace)
	sh := l.store.Shard(shard.ID)
	if sh == nil {
		return nil
	}
	return l.met(shard.ID, patch.Read(ctx, sh, regions, limits, fn))
}

// Symbols are the coded symbols [from, to) of the points of all regions.
func (l *Local) Symbols(ctx context.Context, shard cluster.Shard, regions []patch.Region, key uint64, from, to int) ([]riblt.Symbol, error) {
	ctx = pace.With(ctx, l.Pace)
	sh := l.store.Shard(shard.ID)
	if sh == nil {
		return make([]riblt.Symbol, to-from), nil
	}
	symbols, err := patch.Symbols(ctx, sh, regions, key, from, to)
	return symbols, l.met(shard.ID, err)
}

// Slices are what the parts of each region hold.
func (l *Local) Slices(ctx context.Context, shard cluster.Shard, regions []patch.Region, key uint64) ([][patch.Slices]patch.Slice, error) {
	ctx = pace.With(ctx, l.Pace)
	sh := l.store.Shard(shard.ID)
	if sh == nil {
		return make([][patch.Slices]patch.Slice, len(regions)), nil
	}
	sums, err := patch.SliceSums(ctx, sh, regions, key)
	return sums, l.met(shard.ID, err)
}

// Versions returns with which versions points were written.
func (l *Local) Versions(_ context.Context, sh cluster.Shard, points []patch.Region) ([]uint64, uint64, error) {
	if l.PointVersions == nil {
		return nil, 0, ErrNoVersions
	}
	return l.PointVersions(sh.ID, points)
}

// Fill makes a missing shard out of the files of another owner.
func (l *Local) Fill(ctx context.Context, shard cluster.Shard, from Source, progress func(done, total int64)) error {
	if l.Files == nil {
		return ErrNoFiles
	}
	return l.Files(ctx, shard, from, progress)
}

// CheckDisk refuses to write so many bytes to a disk that would be full then.
func (l *Local) CheckDisk(bytes int64) error {
	free, total, err := l.DiskFree(l.store.Path())
	if err != nil {
		return err
	}
	if free < total/minFree || free-total/minFree < uint64(bytes) {
		return fmt.Errorf("less than 5 %% of the disk of %s would be free: make space, the repair goes on by itself", l.store.Path())
	}
	return nil
}

// minFree is the part of the disk that must be free: 1/20.
const minFree = 20

// Apply writes points, creating the shard where it is missing.
func (l *Local) Apply(ctx context.Context, shard cluster.Shard, deletes uint64, blocks []patch.Block) (patch.Applied, error) {
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
	if err := l.CheckDisk(size); err != nil {
		return patch.Applied{}, err
	}
	if l.store.Shard(shard.ID) == nil {
		if err := l.store.CreateShard(shard.Database, shard.RetentionPolicy, shard.ID, true); err != nil {
			return patch.Applied{}, fmt.Errorf("create shard %d: %w", shard.ID, err)
		}
	}
	if len(blocks) == 0 {
		return patch.Applied{}, nil
	}
	ctx = pace.With(ctx, l.Pace)
	if l.Deletes != nil && deletes != 0 {
		release, ok := l.Deletes.HoldDeletes(shard.ID, deletes)
		if !ok {
			return patch.Applied{}, ErrOvertaken
		}
		defer release()
	}
	return patch.Apply(ctx, l.Shards, shard.Database, shard.RetentionPolicy, shard.ID, blocks, l.FilePoints)
}
