package drops

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/influxdata/influxdb/tsdb"
)

// errReaders is for a shard that cannot be closed.
var errReaders = errors.New("queries that read it do not end: SHOW QUERIES lists them, KILL QUERY ends them")

// Readers are those of a shard, or those of its engine.
type Readers interface {
	SetNewReadersBlocked(blocked bool) error
	InUse() (bool, error)
}

// AwaitReaders lets nobody begin to read a shard until release, and waits for those who read it. It fails when ctx
// ends. Whoever closes a shard calls it before: the engine waits for readers while it holds the lock of the shard, and
// they may need that lock before they end. A shard that was closed needs no release. No delete may run, for it finds
// nothing in such a shard: see BeginClose.
func AwaitReaders(ctx context.Context, of Readers) (release func(), err error) {
	if err := of.SetNewReadersBlocked(true); err != nil {
		return nil, err
	}
	release = func() { of.SetNewReadersBlocked(false) }
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		used, err := of.InUse()
		if err == nil && !used {
			return release, nil
		}
		if err == nil {
			select {
			case <-ctx.Done():
				err = errReaders
			case <-tick.C:
				continue
			}
		}
		release()
		return nil, err
	}
}

// awaitReaders is AwaitReaders for all of some shards that are open. Nobody else may close them.
func (s *Store) awaitReaders(shards []*tsdb.Shard) (release func(), err error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.readersEnd)
	defer cancel()
	var releases []func()
	release = func() {
		for _, r := range releases {
			r()
		}
	}
	for _, sh := range shards {
		if !isOpen(sh) { // the engine would end the process
			continue
		}
		r, err := AwaitReaders(ctx, sh)
		if err != nil {
			release()
			return nil, fmt.Errorf("shard %d cannot be closed: %w", sh.ID(), err)
		}
		releases = append(releases, func() {
			if s.Shard(sh.ID()) == sh && isOpen(sh) {
				r()
			}
		})
	}
	return release, nil
}
