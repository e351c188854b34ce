// Package fulldisk keeps the storage engine whole when the disk is full. After one write that failed for lack of
// space, the engine refuses all later ones to the shard, and once the shard is opened again it may lose writes that
// follow. So Store stands before the engine. It refuses writes while there is still a little space. A shard that met
// the end of the disk all the same takes no writes. When there is space again, Store closes the shard and opens it
// anew, and writes go on by themselves.
package fulldisk

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"concord/internal/drops"
	"concord/internal/writecache"
)

// ErrFull says that a write was not begun, or that its shard waits for space. The same write may succeed later.
var ErrFull = errors.New("the disk is full: make space, writes go on by themselves")

const (
	reserve     = 64 << 20    // bytes that writes leave free, so that the engine meets its end of the disk seldom
	reservePart = 100         // and of a small disk this part
	retry       = time.Second // between attempts to open a shard anew
	deletesEnd  = time.Minute // how long the deletes in its database are waited for
)

// Store is an engine's store whose shards survive a full disk.
//
// The engine (v1.13.2) does not: after one failed write its log writers answer every later one with the
// same error, for ever; what it added to a shard's index in memory is not in the index's log; and when
// a torn WAL segment is opened again, it goes on where the torn end was, behind a hole at which
// the next start cuts off all that followed. So writes are refused before the disk is full; a shard that met its
// end all the same takes none until there is space and it was opened anew, from its files alone; and
// no WAL segment from before an opening is appended to.
type Store struct {
	*writecache.Store
	drops *drops.Store
	log   *zap.Logger
	dirs  []string // of the data and of the WAL
	free  func(dir string) (free, total uint64, err error)
	ctx   context.Context
	stop  context.CancelFunc
	wg    sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	stalled map[uint64]bool        // shards that wait to be opened anew
	shut    map[uint64]*tsdb.Shard // those of them that are closed
}

// New returns a store over an engine's store that is open. Shards are made through dropping, and not closed while it
// removes them. The function free is Free, or what a test has for it.
func New(
	store *writecache.Store, dropping *drops.Store, dirs []string, free func(dir string) (free, total uint64, err error),
	log *zap.Logger,
) *Store {
	s := &Store{
		Store: store, drops: dropping, dirs: dirs, log: log.With(zap.String("service", "store")), free: free,
		stalled: make(map[uint64]bool), shut: make(map[uint64]*tsdb.Shard),
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	for _, sh := range store.Shards(store.ShardIDs()) {
		if err := newSegment(sh); full(err) {
			s.Stall(sh.ID(), err)
		} else if err != nil {
			s.log.Warn("Cannot begin a WAL segment: writes to the shard go on in the last one, and where the end "+
				"of that is damaged, the next start loses them", zap.Uint64("db_shard_id", sh.ID()), zap.Error(err))
		}
	}
	for id, err := range store.GetBadShardList() {
		s.Stall(id, err)
	}
	return s
}

// Close ends what waits for space. The store below stays open.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.wg.Wait()
	return nil
}

// WriteToShard is the engine's, or fails with ErrFull before it begins.
func (s *Store) WriteToShard(ctx tsdb.WriteContext, id uint64, points []models.Point) error {
	s.mu.Lock()
	stalled := s.stalled[id]
	s.mu.Unlock()
	if stalled {
		return fmt.Errorf("shard %d: %w", id, ErrFull)
	}
	if err := s.room(); err != nil {
		return err
	}
	err := s.Store.WriteToShard(ctx, id, points)
	s.Stall(id, err)
	return err
}

// CreateShard is the engine's, or fails with ErrFull before it begins.
func (s *Store) CreateShard(database, policy string, id uint64, enabled bool) error {
	if err := s.room(); err != nil {
		return err
	}
	err := s.drops.CreateShard(database, policy, id, enabled)
	if full(err) {
		s.ClearBadShardList() // or the engine tries no second time
	}
	return err
}

// room is an error when writes may not go on.
func (s *Store) room() error {
	for _, dir := range s.dirs {
		free, total, err := s.free(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue // the engine makes it with the first shard
		} else if err != nil {
			return err
		}
		if free < min(reserve, total/reservePart) {
			return fmt.Errorf("%s: %w", dir, ErrFull)
		}
	}
	return nil
}

// Free tells the bytes that are free for unprivileged users, and all bytes, of the file system of dir.
func Free(dir string) (free, total uint64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return fs.Bavail * uint64(fs.Bsize), fs.Blocks * uint64(fs.Bsize), nil
}

// full tells whether an error is a full disk's. The engine wraps some of them as text.
func full(err error) bool {
	return err != nil && !errors.Is(err, ErrFull) &&
		(errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), syscall.ENOSPC.Error()))
}

// Stall makes a shard take no writes until it was opened anew, if err is that of a full disk.
func (s *Store) Stall(id uint64, err error) {
	if !full(err) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.stalled[id] {
		return
	}
	s.log.Error("The disk is full: a shard takes no writes until there is space",
		zap.Uint64("db_shard_id", id), zap.Error(err))
	s.stalled[id] = true
	s.wg.Add(1)
	go func() { defer s.wg.Done(); s.await(id) }()
}

// StallAll stalls all shards of a database.
func (s *Store) StallAll(db string, err error) {
	if !full(err) {
		return
	}
	for _, sh := range s.Shards(s.ShardIDs()) {
		if sh.Database() == db {
			s.Stall(sh.ID(), err)
		}
	}
}

// Ready returns ErrFull while a shard of a database waits to be opened anew. What the engine has of it in memory is not
// what is in its files: a delete would find nothing there, and its points would come back with the files.
func (s *Store) Ready(db string) error {
	s.mu.Lock()
	waiting := slices.Collect(maps.Keys(s.stalled))
	s.mu.Unlock()
	for _, id := range waiting {
		if sh := s.Shard(id); sh == nil || sh.Database() == db { // the database of one that could not be opened is not known
			return fmt.Errorf("shard %d: %w", id, ErrFull)
		}
	}
	return nil
}

// await opens a shard anew as soon as there is space.
func (s *Store) await(id uint64) {
	t := time.NewTicker(retry)
	defer t.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-t.C:
		}
		if s.room() != nil {
			continue
		}
		if err := s.reopen(id); err != nil {
			s.log.Warn("Cannot open a shard anew: it takes no writes until it was opened. It is tried again",
				zap.Uint64("db_shard_id", id), zap.Error(err))
			continue
		}
		s.mu.Lock()
		delete(s.stalled, id)
		s.mu.Unlock()
		s.log.Info("There is space again: a shard takes writes", zap.Uint64("db_shard_id", id))
		return
	}
}

// reopen closes a shard and opens it from its files, while nobody else does anything with it.
func (s *Store) reopen(id uint64) error {
	sh := s.Shard(id)
	if sh == nil {
		return s.open(id)
	}
	ctx, cancel := context.WithTimeout(s.ctx, deletesEnd)
	defer cancel()
	return s.drops.Alone(ctx, sh, func() error {
		if !s.isShut(sh) {
			if err := s.drops.CloseShard(sh); err != nil {
				return err
			}
			s.setShut(sh, true)
		}
		if err := sh.Open(); err != nil {
			return fmt.Errorf("open: %w", err)
		}
		s.setShut(sh, false)
		sh.SetEnabled(true)
		return newSegment(sh)
	})
}

// isShut reports whether this store has closed a shard: what the engine does with such a shard can end the process.
func (s *Store) isShut(sh *tsdb.Shard) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shut[sh.ID()] == sh
}

func (s *Store) setShut(sh *tsdb.Shard, shut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if shut {
		s.shut[sh.ID()] = sh
	} else {
		delete(s.shut, sh.ID())
	}
}

// open opens a shard that could not be opened at the start. One that has no folder was dropped.
func (s *Store) open(id uint64) error {
	found, err := filepath.Glob(filepath.Join(s.Path(), "*", "*", strconv.FormatUint(id, 10)))
	if err != nil || len(found) != 1 {
		return err
	}
	policy := filepath.Dir(found[0])
	s.ClearBadShardList() // or the engine tries no second time
	if err := s.drops.CreateShard(filepath.Base(filepath.Dir(policy)), filepath.Base(policy), id, true); err != nil {
		return err
	}
	return newSegment(s.Shard(id))
}

// newSegment makes a shard's next writes go to a WAL segment of their own.
func newSegment(sh *tsdb.Shard) error {
	e, err := sh.Engine()
	if err != nil {
		return nil // closed, and so without writes
	}
	engine, ok := e.(*tsm1.Engine)
	if !ok || !engine.WALEnabled {
		return nil
	}
	old, err := filepath.Glob(filepath.Join(engine.WAL.Path(), "*."+tsm1.WALFileExtension))
	if err != nil {
		return err
	}
	for _, path := range old {
		if info, err := os.Stat(path); err == nil && info.Size() > 0 {
			return engine.WAL.CloseSegment()
		}
	}
	return nil
}
