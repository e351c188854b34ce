package datanode

import (
	"fmt"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"

	"concord/internal/drops"
	"concord/internal/entropy/fieldindex"
	"concord/internal/entropy/local"
	"concord/internal/entropy/scrub"
	"concord/internal/entropy/tsmfile"
	"concord/internal/fulldisk"
	"concord/internal/seriesindex"
	"concord/internal/writecache"
)

// openStore opens the storage engine, and what stands before it: damaged files are known before it compacts them.
func (n *Node) openStore() error {
	n.Store = tsdb.NewStore(n.cfg.Data.Dir)
	n.Store.EngineOptions.Config = n.cfg.engine()
	n.Store.EngineOptions.EngineVersion = n.cfg.Data.Engine
	n.Store.EngineOptions.IndexVersion = n.cfg.Data.Index
	thresholds := writecache.Prepare(&n.Store.EngineOptions)
	n.Store.WithLogger(n.log)
	n.memory = local.NewMemory(n.Store, n.cfg.entropyDir(), n.log)
	gate := scrub.NewGate(n.cfg.Data.Config, n.foundByGate) // the engine may compact as soon as it opens
	n.onClose(gate.Close)
	n.Store.EngineOptions.CompactionPlannerCreator = gate.Planner
	damaged, err := scrub.BeforeOpen(n.cfg.Data.Dir)
	if err != nil {
		return fmt.Errorf("look for files in %s that cannot be opened: %w", n.cfg.Data.Dir, err)
	}
	fields, err := fieldindex.BeforeOpen(n.fieldFolders())
	if err != nil {
		return fmt.Errorf("look for indexes of fields in %s that cannot be loaded: %w", n.cfg.Data.Dir, err)
	}
	if n.cfg.Data.Index == tsdb.TSI1IndexName {
		made, err := seriesindex.BeforeOpen(n.cfg.Data.Dir, n.cfg.Data.WALDir)
		if err != nil { // a shard more or less without its index keeps no node from starting
			n.log.Error("Cannot finish to make shards: deletes may fail in their databases", zap.Error(err))
		}
		for _, shard := range made {
			n.log.Info("Finished to make a shard", zap.String("path", shard))
		}
	}
	if err := n.Store.Open(); err != nil {
		return fmt.Errorf("open the storage engine in %s: %w", n.cfg.Data.Dir, err)
	}
	n.cache = writecache.Wrap(n.Store, thresholds, n.log)
	n.drops = drops.New(n.Store, n.cache.Hold)
	n.onClose(n.drops.Close)
	n.onClose(n.cache.Close)
	n.stopped = written(n.Store) // before anything is written
	fields.AfterOpen(n.Store)
	if err := n.fieldsRebuilt(fields.Rebuilt); err != nil {
		return err
	}
	for shard, found := range damaged {
		if err := n.memory.Found(shard, found...); err != nil {
			return err
		}
	}
	n.disk = fulldisk.New(n.cache, n.drops, []string{n.cfg.Data.Dir, n.cfg.Data.WALDir}, n.seams.Free, n.log)
	n.onClose(n.disk.Close)
	return nil
}

// written tells when each shard of a store was last written to.
func written(store *tsdb.Store) map[uint64]time.Time {
	out := make(map[uint64]time.Time)
	for _, sh := range store.Shards(store.ShardIDs()) {
		if at, err := sh.LastModifiedWithErr(); err == nil {
			out[sh.ID()] = at
		}
	}
	return out
}

// foundByGate notes damage that a compaction would have met, and has it healed.
func (n *Node) foundByGate(shard uint64, found []*tsmfile.Damage) {
	if err := n.memory.Found(shard, found...); err != nil {
		n.log.Error("Cannot store that a file of a shard is damaged", zap.Uint64("db_shard_id", shard), zap.Error(err))
	}
	if e := n.suspects.Load(); e != nil {
		e.Suspect(shard)
	}
}
