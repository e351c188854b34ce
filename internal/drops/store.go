package drops

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"

	"concord/internal/entropy/fieldindex"
	"concord/internal/keylock"
	"concord/internal/seriesindex"
	"concord/internal/writecache"
)

// Store is an engine's store of which several parts of a node remove shards. All of them remove through it, so that
// nothing uses a shard while it goes: see the comment of the package. It has many methods because each method of the
// engine that removes or closes shards is one here, and so is each step that several of these share.
//
// Locks are taken in this order: a gate, that of the writes to a shard (hold), databases, one, making, and those of
// writecache, compactions and fieldindex. Readers are waited for before databases. A delete takes the locks of
// fieldindex at its end, and may wait for writes, while it is in a gate.
type Store struct {
	*tsdb.Store

	hold      func(shard uint64) (release func())
	gates     sync.Map              // *gate by database
	databases sync.RWMutex          // held for reading while something of a database is removed
	one       keylock.Locks[string] // by database, while something of it is removed
	making    keylock.Locks[string] // by database, while it or a policy is removed; for reading while a shard is made
	removing  sync.Map              // the IDs of shards that are removed: none of them is made meanwhile
	blocked   sync.Map              // what lets deletes run again when readers of a shard are not blocked: func() by ID
	partly    sync.Map              // why shards were closed only in part: error by *tsdb.Shard

	readersEnd time.Duration // how long the queries that read shards are waited for, before these are closed
}

// New returns the store of a node. There is one for each engine's store. hold waits for the writes to a shard that are
// under way, and has others wait until release; nil is for a store to which nothing is written meanwhile.
func New(store *tsdb.Store, hold func(shard uint64) (release func())) *Store {
	return &Store{Store: store, hold: hold, readersEnd: time.Minute}
}

// Close is that of the engine. With a shard that was closed in part, the store is left as at the end of a process.
func (s *Store) Close() error {
	if err := s.partlyClosed(func(*tsdb.Shard) bool { return true }); err != nil {
		return err
	}
	return s.Store.Close()
}

// partlyClosed is an error when the engine closed one of some shards only in part.
func (s *Store) partlyClosed(of func(*tsdb.Shard) bool) (err error) {
	s.partly.Range(func(k, why any) bool {
		if sh := k.(*tsdb.Shard); of(sh) {
			err = fmt.Errorf("shard %d could not be closed: restart this node: %w", sh.ID(), why.(error))
		}
		return err == nil
	})
	return err
}

// CreateShard is that of the engine.
func (s *Store) CreateShard(db, policy string, id uint64, enabled bool) error {
	making := s.making.Of(db)
	making.RLock()
	defer making.RUnlock()
	if _, ok := s.removing.Load(id); ok {
		return tsdb.ErrShardDeletion
	}
	return s.Store.CreateShard(db, policy, id, enabled)
}

// DeleteShard is that of the engine.
func (s *Store) DeleteShard(id uint64) error { return s.deleteShard(id, s.hold) }

// DeleteHeldShard is DeleteShard for one who holds the writes to the shard.
func (s *Store) DeleteHeldShard(id uint64) error { return s.deleteShard(id, nil) }

func (s *Store) deleteShard(id uint64, hold func(shard uint64) (release func())) error {
	sh := s.Shard(id)
	if sh == nil {
		return s.Store.DeleteShard(id)
	}
	db := sh.Database()
	var alone *tsdb.SeriesIDSet
	if hold != nil {
		defer func() { s.reviveLate(sh, alone, hold) }() // at the very end
	}
	// No delete runs in a shard that is closed. But whoever closed it may open it again first, unless the caller keeps
	// it closed.
	if hold != nil || isOpen(sh) {
		ctx, cancel := context.WithTimeout(context.Background(), deletesEnd)
		defer cancel()
		endClose, err := s.BeginClose(ctx, db)
		if err != nil {
			return err
		}
		defer endClose()
	}
	only := func() []*tsdb.Shard { return []*tsdb.Shard{sh} }
	unlock, quiet, err := s.quietLocked(only, func() func() {
		release := func() {}
		if hold != nil {
			release = s.holdUntilGone(sh, hold)
		}
		unlock := s.lock(db)
		return func() { unlock(); release() }
	})
	if err != nil {
		return err
	}
	defer unlock()
	defer s.markRemoving(db, id)()
	err = s.remove(db, only(), quiet, func() error {
		if s.Shard(id) != sh {
			return tsdb.ErrShardNotFound
		}
		alone, err = s.deleteAndRevive(sh)
		return err
	})
	if err != nil && !errors.Is(err, tsdb.ErrShardNotFound) && s.Shard(id) != sh {
		return s.finish(sh, err)
	}
	return err
}

// reviveTimes bounds how often series are looked for that writes brought to other shards while one was removed.
const reviveTimes = 5

// othersOf are the other shards of the database of a shard.
func (s *Store) othersOf(sh *tsdb.Shard) []*tsdb.Shard {
	return s.shards(func(other *tsdb.Shard) bool { return other != sh && other.Database() == sh.Database() })
}

// deleteAndRevive has the engine remove a shard. Series that a write brings to another shard meanwhile stay. It returns
// the series that the engine may have removed.
func (s *Store) deleteAndRevive(sh *tsdb.Shard) (alone *tsdb.SeriesIDSet, err error) {
	alone, unknown := seriesindex.Alone(sh, s.othersOf(sh)) // unknown to the engine, too: it removes no series then
	if err := s.Store.DeleteShard(sh.ID()); err != nil || unknown != nil {
		return nil, err
	}
	s.revive(sh, alone)
	return alone, nil
}

// reviveLate is for writes that were under way when a shard was removed. It waits for them, so nothing may be held.
func (s *Store) reviveLate(sh *tsdb.Shard, alone *tsdb.SeriesIDSet, hold func(shard uint64) (release func())) {
	if alone == nil || alone.Cardinality() == 0 {
		return
	}
	for _, other := range s.othersOf(sh) {
		hold(other.ID())()
	}
	s.revive(sh, alone)
}

func (s *Store) revive(sh *tsdb.Shard, alone *tsdb.SeriesIDSet) {
	var n int
	var err error
	for range reviveTimes {
		var more int
		if more, err = seriesindex.Revive(alone, s.othersOf(sh)); more == 0 || err != nil {
			break
		}
		n += more
	}
	if err != nil {
		s.Logger.Error("Series that were written while a shard was removed may be invisible until the next write",
			zap.Uint64("db_shard_id", sh.ID()), zap.Error(err))
	} else if n > 0 {
		s.Logger.Info("Kept series that were written while a shard was removed", zap.Uint64("db_shard_id", sh.ID()),
			zap.Int("series", n))
	}
}

// holdUntilGone holds the writes to a shard until the engine has begun to remove it, or until release. Later writes are
// to fail: one that waited for the end would make the shard anew.
func (s *Store) holdUntilGone(sh *tsdb.Shard, hold func(shard uint64) (release func())) (release func()) {
	let := sync.OnceFunc(hold(sh.ID()))
	ended, released := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(released)
		s.awaitGone(sh, ended)
		let()
		if s.Shard(sh.ID()) != sh {
			s.readersBack(sh.ID())
		}
	}()
	return func() { close(ended); <-released }
}

// awaitGone returns when the engine has begun to remove a shard: it does not find it any more.
func (s *Store) awaitGone(sh *tsdb.Shard, ended <-chan struct{}) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for s.Shard(sh.ID()) == sh {
		select {
		case <-tick.C:
		case <-ended:
			return
		}
	}
}

// markRemoving keeps a shard from being made until done. The engine forgets that it removes one when that fails.
func (s *Store) markRemoving(db string, id uint64) (done func()) {
	making := s.making.Of(db)
	making.Lock() // until those end who began before the mark
	defer making.Unlock()
	s.removing.Store(id, nil)
	return func() { s.removing.Delete(id) }
}

// finish removes a shard that DeleteShard took out of the store and left as it was. The engine does so when another
// shard of the database is closed or disabled, or this one is, for it cannot tell then which series nobody has any
// more. They stay known to the file of series. The engine does not remove them with a policy either.
func (s *Store) finish(sh *tsdb.Shard, why error) error {
	defer writecache.BeforeClose(sh)()
	defer fieldindex.BeforeDrop(sh)()
	sh.SetEnabled(false) // whoever has it still is not to use it
	var unclosed error
	if !closedInPart(sh) { // or the engine would end the process
		unclosed = sh.Close()
	}
	id := strconv.FormatUint(sh.ID(), 10)
	for _, dir := range []string{
		sh.Path(), filepath.Join(s.EngineOptions.Config.WALDir, sh.Database(), sh.RetentionPolicy(), id),
	} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("shard %s is not used any more, but its files cannot be removed: %w", id, err)
		}
	}
	s.Logger.Warn("Removed a shard. Its series stay in the file of series, also those that no other shard has",
		zap.Uint64("db_shard_id", sh.ID()), zap.NamedError("reason", why), zap.Error(unclosed))
	return nil
}

// closedInPart reports whether the engine of a shard could not be closed, and its index was.
func closedInPart(sh *tsdb.Shard) bool { return isOpen(sh) && sh.IndexType() == "" }

// DeleteRetentionPolicy removes a policy as it was before the cluster made the shard next; 0 removes it as it is. A
// request may come late, when a policy of this name was made again. Shards from next on are of that one, and stay.
func (s *Store) DeleteRetentionPolicy(db, name string, next uint64) error {
	of := func(sh *tsdb.Shard) bool { return sh.Database() == db && sh.RetentionPolicy() == name }
	later, err := s.removeWhole(db, next, of, func() func() { return s.lock(db) }, func() error {
		return s.Store.DeleteRetentionPolicy(db, name)
	})
	if later {
		return s.deleteBefore(next, of)
	}
	return err
}

// DeleteDatabase removes a database as it was before the cluster made the shard next, as DeleteRetentionPolicy does.
func (s *Store) DeleteDatabase(name string, next uint64) error {
	of := func(sh *tsdb.Shard) bool { return sh.Database() == name }
	lock := func() func() { s.databases.Lock(); return s.databases.Unlock }
	later, err := s.removeWhole(name, next, of, lock, func() error {
		return s.Store.DeleteDatabase(name)
	})
	if later {
		return s.deleteBefore(next, of)
	}
	return err
}

// removeWhole removes a database or a policy with its folders, once no delete runs there. Later reports that it has
// shards from next on: then nothing is removed.
func (s *Store) removeWhole(
	db string, next uint64, of func(*tsdb.Shard) bool, lock func() (unlock func()), removal func() error,
) (later bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), deletesEnd)
	defer cancel()
	endClose, err := s.BeginClose(ctx, db)
	if err != nil {
		return false, err
	}
	defer endClose()
	if s.madeLater(next, of) {
		return true, nil
	}
	unlock, quiet, err := s.quietLocked(func() []*tsdb.Shard { return s.shards(of) }, func() func() {
		unlock := lock()
		making := s.making.Of(db)
		making.Lock()
		return func() { making.Unlock(); unlock() }
	})
	if err != nil {
		return false, err
	}
	defer unlock()
	if s.madeLater(next, of) {
		for _, q := range quiet {
			q.release()
		}
		return true, nil
	}
	return false, s.remove(db, s.shards(of), quiet, removal)
}

// madeLater reports whether there are shards from next on.
func (s *Store) madeLater(next uint64, of func(*tsdb.Shard) bool) bool {
	return next != 0 && slices.ContainsFunc(s.shards(of), func(sh *tsdb.Shard) bool { return sh.ID() >= next })
}

// deleteBefore removes the shards before next.
func (s *Store) deleteBefore(next uint64, of func(*tsdb.Shard) bool) error {
	var errs []error
	for _, sh := range s.shards(of) {
		if sh.ID() >= next {
			continue
		}
		if err := s.DeleteShard(sh.ID()); !errors.Is(err, tsdb.ErrShardNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (s *Store) shards(of func(*tsdb.Shard) bool) []*tsdb.Shard {
	return slices.DeleteFunc(s.Shards(s.ShardIDs()), func(sh *tsdb.Shard) bool { return !of(sh) })
}

// remove has the engine remove shards of a database. A shard that the engine closed only in part, as it could not write
// all of it, is not used any more and not closed again. The engine looks at it when it removes others of the database,
// so nothing of that is removed until the node is started again. Those of quiet that stay can be read again.
func (s *Store) remove(db string, shards []*tsdb.Shard, quiet []quieted, removal func() error) error {
	defer func() {
		for _, q := range quiet {
			if s.Shard(q.shard.ID()) == q.shard {
				q.release()
			}
			q.compact() // of a shard that is gone, nothing is compacted
		}
	}()
	if err := s.partlyClosed(func(sh *tsdb.Shard) bool { return sh.Database() == db }); err != nil {
		return err
	}
	defer writecache.BeforeClose(shards...)()
	defer fieldindex.BeforeDrop(shards...)()
	defer func() {
		for _, sh := range shards {
			if s.Shard(sh.ID()) != sh {
				s.readersBack(sh.ID())
			}
		}
	}()
	err := removal()
	if err == nil {
		return nil
	}
	for _, sh := range shards {
		if closedInPart(sh) && s.Shard(sh.ID()) == sh {
			sh.SetEnabled(false)
			s.partly.Store(sh, err)
		}
	}
	return err
}

// lock waits until nothing else is removed of a database. Who holds writes takes it after them.
func (s *Store) lock(db string) (unlock func()) {
	s.databases.RLock()
	one := s.one.Of(db)
	one.Lock()
	return func() {
		one.Unlock()
		s.databases.RUnlock()
	}
}
