package writecache

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/influxdata/influxdb/toml"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"go.uber.org/zap"

	"concord/internal/compactions"
	"concord/internal/durable"
	"concord/internal/entropy/tsmfile"
	"concord/internal/keylock"
)

// snapshots are held while the cache of a shard is written to a file, by the shard's folder.
var snapshots keylock.Locks[string]

// WriteSnapshot writes what is in the write cache of a shard to a file, and removes it from the WAL. It fails with
// tsm1.ErrSnapshotInProgress while somebody else does, or closes the shard. All snapshots have to be written by it.
//
// When a snapshot could not be written, the engine (v1.13.2) writes the same one at the next attempt, without what was
// written to the cache since. But then it removes all closed segments of the WAL. What was written since is in
// memory alone, and the next stop of the process loses it.
func WriteSnapshot(sh *tsdb.Shard) error {
	l := snapshots.Of(sh.Path())
	if !l.TryLock() {
		return tsm1.ErrSnapshotInProgress
	}
	defer l.Unlock()
	engine, err := tsmfile.EngineOf(sh)
	if err != nil {
		return err
	}
	if engine.Cache.Size() > 0 {
		compactions.Allow(sh) // or it fails for a shard that was idle until now
	}
	if failedBefore(engine) {
		return writeAgain(engine)
	}
	return engine.WriteSnapshot()
}

// BeforeClose is to be called before the engine closes shards, and release after it. It ends the snapshots of their
// caches that are being written, and lets none begin. The engine waits for its own snapshots and not for these: one
// that ends later would put a file in the folder of a shard that is open anew, under a name that may be taken.
func BeforeClose(shards ...*tsdb.Shard) (release func()) {
	shards = slices.Clone(shards)
	byPath := func(a, b *tsdb.Shard) int { return cmp.Compare(a.Path(), b.Path()) }
	slices.SortFunc(shards, byPath) // so that nobody waits for one who waits for them
	var releases []func()
	for _, sh := range shards {
		sh.SetCompactionsEnabled(false) // a snapshot that is being written ends soon
		l := snapshots.Of(sh.Path())
		l.Lock()
		releases = append(releases, l.Unlock, compactions.BeforeClose(sh))
	}
	return func() {
		for _, r := range slices.Backward(releases) {
			r()
		}
	}
}

// failedBefore reports whether the cache has a snapshot that could not be written. None may be under way.
func failedBefore(engine *tsm1.Engine) bool {
	for _, s := range engine.Cache.Statistics(nil) {
		if n, ok := s.Values["snapshotCount"].(int64); ok {
			return n > 0
		}
	}
	return false
}

// writeAgain writes a snapshot that could not be written, with what is in the cache since.
func writeAgain(engine *tsm1.Engine) (err error) {
	snapshot, err := engine.Cache.Snapshot()
	if err != nil {
		return err
	}
	defer func() { engine.Cache.ClearSnapshot(err == nil) }()
	segments, err := closeSegments(engine)
	if err != nil {
		return err
	}
	all, err := collect(engine.Cache, slices.Concat(snapshot.Keys(), engine.Cache.Keys()))
	if err != nil {
		return err
	}
	files, err := engine.Compactor.WriteSnapshot(all, zap.NewNop())
	if err == nil {
		err = engine.FileStore.Replace(nil, files)
	}
	if err != nil {
		for _, f := range files {
			err = errors.Join(err, os.Remove(f))
		}
		return err
	}
	if !engine.WALEnabled {
		return nil
	}
	// First the WAL: a delete runs as soon as there is no snapshot, and segments would bring its points back.
	return errors.Join(engine.WAL.Remove(segments), durable.SyncDir(engine.WAL.Path()))
}

// collect returns a cache with all values of some keys, of the snapshot and of what was written since. A write is in
// the cache before it is in the WAL, so that nothing is missing of what closed segments have. What was written since
// stays in the cache, and is in the next snapshot, too.
func collect(cache *tsm1.Cache, keys [][]byte) (*tsm1.Cache, error) {
	slices.SortFunc(keys, bytes.Compare)
	all := tsm1.NewCache(0)
	for _, key := range slices.CompactFunc(keys, bytes.Equal) {
		values := cache.Values(key)
		if len(values) == 0 {
			continue // deleted meanwhile
		}
		if err := all.Write(key, values); err != nil {
			return nil, fmt.Errorf("collect the cache of a shard: %w", err)
		}
	}
	return all, nil
}

// closeSegments closes the segment of the WAL that is written to, and lists all that are closed.
func closeSegments(engine *tsm1.Engine) ([]string, error) {
	if !engine.WALEnabled {
		return nil, nil
	}
	if err := engine.WAL.CloseSegment(); err != nil {
		return nil, err
	}
	return engine.WAL.ClosedSegments()
}

// Thresholds say when the cache of a shard is written to a file.
type Thresholds struct {
	Size uint64        // bytes that it has more than
	Cold time.Duration // that nothing was written to it
}

// Prepare makes the options of an engine that is not open yet those of one that Wrap is called with. It returns the
// thresholds that they had: the engine itself writes no snapshots.
func Prepare(options *tsdb.EngineOptions) Thresholds {
	options.MonitorDisabled = true
	c := &options.Config
	t := Thresholds{uint64(c.CacheSnapshotMemorySize), time.Duration(c.CacheSnapshotWriteColdDuration)}
	c.CacheSnapshotMemorySize, c.CacheSnapshotWriteColdDuration = math.MaxUint64, toml.Duration(math.MaxInt64)
	return t
}

// due reports whether the cache of a shard is to be written to a file.
func (t Thresholds) due(cache *tsm1.Cache, now time.Time) bool {
	size := cache.Size()
	return size > t.Size || size > 0 && now.Sub(cache.LastWriteTime()) > t.Cold
}

// retryAfter is the time after which a snapshot is tried again that could not be written.
const retryAfter = 5 * time.Second

// writeDue writes the cache of a shard if that is due, once limit has a place.
func (s *Store) writeDue(sh *tsdb.Shard, now time.Time) {
	engine, err := tsmfile.EngineOf(sh)
	if err != nil || !s.thresholds.due(engine.Cache, now) {
		s.failed.Delete(sh.ID()) // it is closed, or somebody else has written it
		return
	}
	if failed, ok := s.failed.Load(sh.ID()); ok && now.Sub(failed.(time.Time)) < retryAfter {
		return
	}
	select {
	case s.limit <- struct{}{}:
		defer func() { <-s.limit }()
		s.writeSnapshot(sh, engine.Stats)
	case <-s.done:
	}
}

func (s *Store) writeSnapshot(sh *tsdb.Shard, stats *tsm1.EngineStatistics) {
	began := time.Now()
	err := WriteSnapshot(sh)
	if errors.Is(err, tsm1.ErrSnapshotInProgress) {
		return
	}
	atomic.AddInt64(&stats.CacheCompactionDuration, time.Since(began).Nanoseconds())
	if err == nil {
		s.failed.Delete(sh.ID())
		atomic.AddInt64(&stats.CacheCompactions, 1)
		return
	}
	atomic.AddInt64(&stats.CacheCompactionErrors, 1)
	if _, before := s.failed.Swap(sh.ID(), time.Now()); !before && s.Shard(sh.ID()) == sh {
		s.log.Warn("The cache of a shard cannot be written to a file. It stays in memory and in the WAL, and this is "+
			"tried again. See whether the disk is full", zap.Uint64("db_shard_id", sh.ID()), zap.Error(err))
	}
}
