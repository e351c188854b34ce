package drops

import (
	"context"
	"fmt"
	"time"

	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/entropy/fieldindex"
	"concord/internal/writecache"
)

// deletesEnd is how long the deletes that run in a database are waited for, before shards of it are closed.
const deletesEnd = 10 * time.Minute

func (s *Store) gate(db string) *gate {
	if g, ok := s.gates.Load(db); ok {
		return g.(*gate)
	}
	g, _ := s.gates.LoadOrStore(db, new(gate))
	return g.(*gate)
}

// BeginDelete is called before the engine deletes points of a database, and end after that. It waits while shards of
// the database are closed or their readers are blocked, and fails when ctx ends.
func (s *Store) BeginDelete(ctx context.Context, db string) (end func(), err error) {
	end, err = s.gate(db).beginDelete(ctx)
	if err != nil {
		return nil, fmt.Errorf("no delete can run in database %q while a shard of it is closed, as for a drop, a "+
			"restore or a full disk: run the delete again: %w", db, err)
	}
	return end, nil
}

// BeginClose waits for the deletes that run in a database. Others wait until release. Whoever closes a shard or
// blocks its readers is to call it before. It fails when ctx ends.
func (s *Store) BeginClose(ctx context.Context, db string) (release func(), err error) {
	release, err = s.gate(db).holdDeletes(ctx)
	if err != nil {
		return nil, fmt.Errorf("shards of database %q cannot be closed while deletes run there, and these do not end: "+
			"try again later: %w", db, err)
	}
	return release, nil
}

// BetweenRemovals runs something while no shard of a database is removed. It fails when the shard was removed before.
func (s *Store) BetweenRemovals(sh *tsdb.Shard, run func() error) error {
	defer s.lock(sh.Database())()
	if s.Shard(sh.ID()) != sh {
		return tsdb.ErrShardNotFound
	}
	return run()
}

// Alone runs something while nobody else writes to a shard, reads it, deletes from its database, or closes or removes
// the shard. It may close the shard (CloseShard) and open it again. It fails when ctx ends before it has begun, or when
// deletes or readers do not end.
func (s *Store) Alone(ctx context.Context, sh *tsdb.Shard, run func() error) error {
	ctx, cancel := context.WithTimeout(ctx, deletesEnd)
	defer cancel()
	release, err := s.BeginClose(ctx, sh.Database())
	if err != nil {
		return err
	}
	defer release()
	if s.hold != nil {
		defer s.hold(sh.ID())() // whoever else is to be Alone with the shard waits here, too
	}
	_, readers, err := s.awaitReaders(ctx, sh)
	if err != nil {
		return err
	}
	defer readers()
	return s.BetweenRemovals(sh, run)
}

// BetweenDeletes runs something while nobody deletes from the database of a shard, or closes or removes the shard.
func (s *Store) BetweenDeletes(ctx context.Context, sh *tsdb.Shard, run func() error) error {
	release, err := s.BeginClose(ctx, sh.Database())
	if err != nil {
		return err
	}
	defer release()
	return s.BetweenRemovals(sh, run)
}

// CloseShard closes a shard for a caller that is Alone with it. What the engine would write to the folder of the shard
// later is written before.
func (s *Store) CloseShard(sh *tsdb.Shard) error {
	if _, err := sh.Engine(); err != nil {
		return fmt.Errorf("close shard %d: %w", sh.ID(), err) // it is closed, or answers nobody for another reason
	}
	if err := closeShard(sh); err != nil {
		if closedInPart(sh) {
			s.partly.Store(sh, err)
		}
		return fmt.Errorf("close shard %d: %w", sh.ID(), err)
	}
	return nil
}

func closeShard(sh *tsdb.Shard) error {
	defer writecache.BeforeClose(sh)()
	release, err := fieldindex.BeforeClose(sh)
	if err != nil {
		return err
	}
	defer release()
	return sh.Close()
}

// SetShardNewReadersBlocked is that of the engine. Deletes of the database wait while readers are blocked and the store
// has the shard. Retention calls it before it removes a shard. A shard that is closed has no readers.
func (s *Store) SetShardNewReadersBlocked(id uint64, blocked bool) error {
	sh := s.Shard(id)
	if sh == nil {
		return fmt.Errorf("block or let in readers of shard %d: %w", id, tsdb.ErrShardNotFound)
	}
	set := func() error {
		if !isOpen(sh) { // the engine would end the process
			return nil
		}
		return sh.SetNewReadersBlocked(blocked)
	}
	if !blocked {
		defer s.readersBack(id)
		return s.BetweenRemovals(sh, set)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deletesEnd)
	defer cancel()
	release, err := s.BeginClose(ctx, sh.Database())
	if err != nil {
		return err
	}
	err = s.BetweenRemovals(sh, func() error { // whoever removes the shard then sees that deletes wait for it
		if err := set(); err != nil {
			return err
		}
		if before, ok := s.blocked.Swap(id, release); ok {
			before.(func())()
		}
		return nil
	})
	if err != nil {
		release()
	}
	return err
}

// readersBack lets deletes run that waited because the readers of a shard were blocked.
func (s *Store) readersBack(id uint64) {
	if release, ok := s.blocked.LoadAndDelete(id); ok {
		release.(func())()
	}
}

// ShardInUse is that of the engine.
func (s *Store) ShardInUse(id uint64) (used bool, err error) {
	sh := s.Shard(id)
	if sh == nil {
		return false, fmt.Errorf("look for readers of shard %d: %w", id, tsdb.ErrShardNotFound)
	}
	err = s.BetweenRemovals(sh, func() error {
		if isOpen(sh) { // the engine would end the process
			used, err = sh.InUse()
		}
		return err
	})
	return used, err
}

// isOpen reports whether a shard has an engine, also when it is disabled.
func isOpen(sh *tsdb.Shard) bool {
	_, err := sh.DiskSize()
	return err == nil
}
