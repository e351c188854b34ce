// Package writecache keeps points that were written in the write cache of the engine until they are in a file.
//
// The engine (v1.13.2) allocates the cache of a shard with its first write, and gives it back when the shard is cold.
// Neither waits for writes. A write that comes in between goes to a cache that keeps nothing: it succeeds, and is in
// the WAL alone. Queries do not see it, and the next snapshot of the cache removes it from the WAL, too. It happens to
// the second of two first writes of a shard, to a write that meets the first snapshot or delete, and to one that meets
// the engine's monitor, which looks for cold shards every ten seconds.
//
// So the store of this package allocates the cache before it writes, and frees cold shards while nothing writes to
// them. The engine's monitor has to be off. The store also says when the cache of a shard is written to a file, as
// WriteSnapshot has to be asked for it.
//
// The engine also loses points that are written beside a delete, although the delete is of other times. The cache has
// an entry for each field of a series. A delete that leaves nothing of an entry removes it (Cache.DeleteRange). A write
// that has found the entry just before adds its point to it all the same, and the point is in the WAL alone:
//
//	write   finds the entry                     adds a point of 10:00 to it
//	delete                    empties the entry                             removes it
//
// So a write looks for its points in the cache when a delete ran beside it (BeforeDelete), and writes them again when
// they are not there.
package writecache

import (
	"runtime"
	"sync"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"go.uber.org/zap"

	"concord/internal/compactions"
	"concord/internal/keylock"
	"concord/internal/seriesindex"
)

// Store is an engine's store to which writes are safe, as long as all go through it.
type Store struct {
	*tsdb.Store
	thresholds Thresholds
	log        *zap.Logger
	shards     keylock.Locks[uint64] // by ID; writes hold them for reading
	limit      chan struct{}         // of snapshots that are written at the same time
	failed     sync.Map              // when the last snapshot of a shard could not be written, by its ID
	looks      sync.Map              // of the monitor that are under way: nil by look
	done       chan struct{}
	stop       func() // closes done
	wg         sync.WaitGroup
}

// Wrap returns a store over an engine's that is open, and watches its shards until Close. The options of the engine are
// those that Prepare made, which also returns the thresholds.
func Wrap(store *tsdb.Store, thresholds Thresholds, log *zap.Logger) *Store {
	s := &Store{
		Store: store, thresholds: thresholds, log: log.With(zap.String("service", "store")),
		limit: make(chan struct{}, 4*runtime.GOMAXPROCS(0)), done: make(chan struct{}),
	}
	s.stop = sync.OnceFunc(func() { close(s.done) })
	s.wg.Add(1)
	go s.monitor()
	return s
}

// Close ends the watch. The engine's store stays open.
func (s *Store) Close() error {
	s.stop()
	s.wg.Wait()
	return nil
}

// Hold waits for the writes to a shard that are under way. Others wait until release.
func (s *Store) Hold(id uint64) (release func()) {
	l := s.shards.Of(id)
	l.Lock()
	return l.Unlock
}

// WriteToShard is the engine's.
func (s *Store) WriteToShard(ctx tsdb.WriteContext, id uint64, points []models.Point) error {
	l := s.shards.Of(id)
	l.RLock()
	defer l.RUnlock()
	sh := s.Shard(id)
	if sh == nil {
		return tsdb.ErrShardNotFound
	}
	write := func(points []models.Point) error { return s.Store.WriteToShard(ctx, id, points) }
	for {
		before, err := sh.Engine()
		if err != nil {
			return err
		}
		if e, ok := before.(*tsm1.Engine); ok {
			allocate(e.Cache)
			err = deletesOfShard(sh).writeBeside(e.Cache, points, write)
		} else {
			err = write(points)
		}
		if now, closed := sh.Engine(); closed != nil || now == before {
			return err
		}
		// The shard was opened anew meanwhile. The write is repeated, with the cache that it has now.
	}
}

// stuck is after how many looks a cache counts as one that nobody allocates.
const stuck = 100_000

// allocate returns when an empty cache keeps what is written to it.
//
// The engine marks a cache as allocated before it is, so that others may go on too early. They see that in the keys,
// which are nil. When a cache is freed and allocated at the same time, the mark can stay without the cache: then it is
// allocated anew.
func allocate(c *tsm1.Cache) {
	if c.Size() > 0 {
		return
	}
	c.WriteMulti(nil)
	for looks := 1; c.Keys() == nil; looks++ {
		if looks%stuck == 0 {
			allocateAnew(c)
		}
		runtime.Gosched()
	}
}

// allocating is held by who allocates a cache anew. Of two writers of one cache the second would otherwise free what
// the first wrote meanwhile.
var allocating sync.Mutex

// allocateAnew takes the mark off a cache that nobody allocates, and allocates it.
func allocateAnew(c *tsm1.Cache) {
	allocating.Lock()
	defer allocating.Unlock()
	if c.Keys() == nil {
		c.Free()
		c.WriteMulti(nil)
	}
}

// How often the monitor looks for caches that are due, for cold shards, and for tag keys with many values, as the
// engine does.
const (
	dueEvery  = time.Second
	coldEvery = 10 * time.Second
	tagsEvery = time.Minute
)

// monitor does what the engine's monitor would do, and writes snapshots of caches.
func (s *Store) monitor() {
	defer s.wg.Done()
	due, cold, tags := time.NewTicker(dueEvery), time.NewTicker(coldEvery), time.NewTicker(tagsEvery)
	defer due.Stop()
	defer cold.Stop()
	defer tags.Stop()
	for {
		select {
		case <-s.done:
			return
		case now := <-due.C:
			s.each("write", func(sh *tsdb.Shard) { s.writeDue(sh, now) })
		case <-cold.C:
			s.each("free", s.freeCold)
		case <-tags.C:
			s.each("tags", s.warnOfTags())
		}
	}
}

// look is what the monitor does with a shard.
type look struct {
	what  string
	shard *tsdb.Shard
}

// each begins to do something with each shard, except for those with which it is still being done. One shard that is
// opened or closed for a long time keeps no other waiting.
func (s *Store) each(what string, do func(*tsdb.Shard)) {
	for _, sh := range s.Shards(s.ShardIDs()) {
		l := look{what, sh}
		if _, ok := s.looks.LoadOrStore(l, nil); ok {
			continue
		}
		s.wg.Go(func() {
			defer s.looks.Delete(l)
			do(sh)
		})
	}
}

// freeCold gives back what a shard holds that nothing is written to, and lets any other one compact.
func (s *Store) freeCold(sh *tsdb.Shard) {
	if idle, _ := sh.IsIdle(); !idle {
		compactions.Allow(sh)
		return
	}
	l := s.shards.Of(sh.ID())
	if !l.TryLock() {
		return // it is written to
	}
	defer l.Unlock()
	d := deletesOfShard(sh)
	if !d.freeing.TryLock() {
		return // a delete runs
	}
	defer d.freeing.Unlock()
	if idle, _ := sh.IsIdle(); !idle {
		return
	}
	if err := sh.Free(); err != nil && s.Shard(sh.ID()) == sh {
		s.log.Warn("Cannot free what a cold shard holds", zap.Uint64("db_shard_id", sh.ID()), zap.Error(err))
	}
}

// warnOfTags returns what tells of tag keys that have nearly max-values-per-tag values. Each database with the index
// inmem has one index, and so one of its shards is enough.
func (s *Store) warnOfTags() func(*tsdb.Shard) {
	most := s.EngineOptions.Config.MaxValuesPerTag
	var seen sync.Map // databases
	return func(sh *tsdb.Shard) {
		if most == 0 || sh.IndexType() != tsdb.InmemIndexName {
			return
		}
		if _, ok := seen.LoadOrStore(sh.Database(), nil); ok {
			return
		}
		if err := s.warnOfTagsOf(sh, most); err != nil {
			s.log.Warn("Cannot count the values of tags", zap.String("database", sh.Database()), zap.Error(err))
		}
	}
}

func (s *Store) warnOfTagsOf(sh *tsdb.Shard, most int) error {
	set, err := seriesindex.SetOf(sh)
	if err != nil {
		return err
	}
	names, err := set.MeasurementNamesByExpr(nil, nil)
	if err != nil {
		return err
	}
	for _, name := range names {
		err := set.ForEachMeasurementTagKey(name, func(key []byte) error {
			n := sh.TagKeyCardinality(name, key)
			if n*10 < most*8 {
				return nil
			}
			s.log.Warn("A tag has nearly as many values as max-values-per-tag allows", zap.Int("n", n),
				zap.Int("max", most),
				zap.String("database", sh.Database()), zap.ByteString("measurement", name), zap.ByteString("tag", key))
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
