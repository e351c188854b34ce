package drops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/compactions"
)

// errReaders is for a shard that cannot be closed.
var errReaders = errors.New("it is read for too long: SHOW QUERIES lists queries, KILL QUERY ends them. " +
	"Comparisons, copies and compactions end by themselves. Try again")

// quieted is an open shard that nobody begins to read.
type quieted struct {
	shard   *tsdb.Shard
	engine  tsdb.Engine
	compact func() // lets it compact its files again
}

// release lets readers in again. Nobody needs to call it for a shard that was closed.
func (q quieted) release() {
	q.engine.SetNewReadersBlocked(false)
	q.compact()
}

// isClosed reports whether the shard was closed since.
func (q quieted) isClosed() bool {
	now, err := q.shard.Engine()
	return err != nil || now != q.engine
}

// awaitReaders lets nobody begin to read those of some shards that are open, and waits for those who read them, for
// readersEnd at most. Whoever closes a shard calls it before: the engine waits for readers while it holds the lock of
// the shard, and they may need that lock before they end. No delete may run, for it finds nothing in such a shard: see
// BeginClose. Compactions read, too: they are ended.
func (s *Store) awaitReaders(ctx context.Context, shards ...*tsdb.Shard) (quiet []quieted, release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, s.readersEnd)
	defer cancel()
	release = func() {
		for _, q := range quiet {
			q.release()
		}
	}
	for _, sh := range shards {
		engine, err := sh.Engine()
		if err != nil {
			continue // it is closed, or answers nobody
		}
		if err := engine.SetNewReadersBlocked(true); err != nil {
			release()
			return nil, nil, fmt.Errorf("close shard %d: %w", sh.ID(), err)
		}
		quiet = append(quiet, quieted{sh, engine, compactions.Interrupt(sh)})
	}
	for _, q := range quiet {
		if err := q.await(ctx); err != nil {
			release()
			return nil, nil, fmt.Errorf("shard %d cannot be closed: %w", q.shard.ID(), err)
		}
	}
	return quiet, release, nil
}

func (q quieted) await(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if used, err := q.engine.InUse(); err != nil || !used {
			return err
		}
		select {
		case <-ctx.Done():
			return errReaders
		case <-tick.C:
		}
	}
}

// quietLocked is awaitReaders, and returns with a lock under which none of these shards is made, or opened anew. Most
// readers end before it takes the lock.
func (s *Store) quietLocked(
	shards func() []*tsdb.Shard, lock func() (unlock func()),
) (unlock func(), quiet []quieted, err error) {
	quiet, release, err := s.awaitReaders(context.Background(), shards()...)
	if err != nil {
		return nil, nil, err
	}
	unlock = lock()
	isQuiet := func(sh *tsdb.Shard) bool {
		return slices.ContainsFunc(quiet, func(q quieted) bool { return q.shard == sh && !q.isClosed() })
	}
	late, _, err := s.awaitReaders(context.Background(), slices.DeleteFunc(shards(), isQuiet)...)
	if err != nil {
		unlock()
		release()
		return nil, nil, err
	}
	return unlock, append(quiet, late...), nil
}
