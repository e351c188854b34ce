package deletes

import (
	"errors"
	"fmt"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/tsmfile"
	"concord/internal/writecache"
)

const (
	snapshotWait = time.Minute // for a cache snapshot to end
	snapshotPoll = 5 * time.Millisecond
	maxReruns    = 20 // of a delete that a snapshot began under
)

// betweenSnapshots runs a delete while no cache snapshot of the database's shards is being written. The engine removes
// points from its TSM files and from the live cache. It misses those in a snapshot, which is on its way from the cache
// to a file: they would be back as soon as the file is there.
//
// When a snapshot begins while the delete runs, the delete runs again. That removes no write which follows the delete,
// for its client has no answer yet. Run gets the shards of which a snapshot began under one of its earlier calls.
func betweenSnapshots(store *tsdb.Store, db string, run func(flushed map[*tsdb.Shard]bool) error) error {
	flushed := make(map[*tsdb.Shard]bool)
	for range maxReruns {
		caches, err := cachesOf(store, db)
		if err != nil {
			return err
		}
		if err := run(flushed); err != nil {
			return err
		}
		again := false
		for _, c := range caches {
			if c.snapshotBytes() != c.before {
				again, flushed[c.shard] = true, true
			}
		}
		if !again {
			return checkTombstones(caches)
		}
	}
	return errors.New("a cache snapshot began each time the delete ran: run it again when fewer writes come in")
}

func checkTombstones(caches []shardCache) error {
	for _, c := range caches {
		if err := tsmfile.CheckTombstones(c.engine); err != nil {
			return fmt.Errorf("look for the tombstones of a delete: %w", err)
		}
	}
	return nil
}

// shardCache is the cache of a shard.
type shardCache struct {
	shard  *tsdb.Shard
	engine *tsm1.Engine
	before int64 // snapshotBytes when no snapshot was being written
}

// snapshotBytes grows when a snapshot begins.
func (c shardCache) snapshotBytes() int64 { return c.stat("cachedBytes") }

// snapshotting reports whether a snapshot is being written, or waits to be tried again.
func (c shardCache) snapshotting() bool { return c.stat("snapshotCount") > 0 }

func (c shardCache) stat(name string) int64 {
	for _, s := range c.engine.Cache.Statistics(nil) {
		if n, ok := s.Values[name].(int64); ok {
			return n
		}
	}
	return 0
}

// cachesOf returns the caches of a database's open shards, once no snapshot of them is being written. The WAL segments
// of the last snapshot may still be there: the delete itself waits for their removal, as it takes the engine's lock.
func cachesOf(store *tsdb.Store, db string) ([]shardCache, error) {
	var out []shardCache
	for _, sh := range store.Shards(store.ShardIDs()) {
		if sh.Database() != db {
			continue
		}
		e, err := sh.Engine()
		if err != nil {
			continue // it is closed or disabled, and the delete will fail
		}
		engine, ok := e.(*tsm1.Engine)
		if !ok {
			continue
		}
		c := shardCache{shard: sh, engine: engine}
		if err := c.finishSnapshot(); err != nil {
			return nil, fmt.Errorf("shard %d: %w", sh.ID(), err)
		}
		out = append(out, c)
	}
	return out, nil
}

// finishSnapshot waits for the end of a snapshot. One that failed is written now.
func (c *shardCache) finishSnapshot() error {
	for end := time.Now().Add(snapshotWait); ; {
		c.before = c.snapshotBytes()
		if !c.snapshotting() {
			return nil
		}
		err := writecache.WriteSnapshot(c.shard)
		switch {
		case err == nil:
		case time.Now().After(end):
			return fmt.Errorf("a delete cannot run while a cache snapshot is written, and this one does not end: %w", err)
		default:
			time.Sleep(snapshotPoll)
		}
	}
}
