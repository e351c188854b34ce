package deletes

import (
	"context"
	"fmt"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"

	"concord/internal/entropy/fieldindex"
	"concord/internal/rpc"
	"concord/internal/seriesindex"
)

// keepSeries makes series anew that the engine lost because points of them were written while a delete ran. The points
// may be of other times than those that the delete is about, also in other shards: nobody would write them again, as
// rewrite does with what the delete covers. Also looks into the files of the shards: the points may have left the cache
// since.
func (d *Service) keepSeries(r *rpc.Delete, also bool) error {
	names, err := namesOf(r)
	if err != nil {
		return err
	}
	of := func(measurement []byte) bool { return true }
	if names != nil {
		wanted := make(map[string]bool, len(names))
		for _, name := range names {
			wanted[name] = true
		}
		of = func(measurement []byte) bool { return wanted[string(measurement)] }
	}
	d.deps.Memory.removals.of(r.Database).await()
	for _, sh := range d.deps.Store.Shards(d.deps.Store.ShardIDs()) {
		if sh.Database() != r.Database {
			continue
		}
		keys, err := seriesindex.Lost(sh, of, also)
		if err == nil && len(keys) > 0 {
			err = d.restore(sh, keys)
		}
		if err != nil {
			return fmt.Errorf("look for series of shard %d that were written beside the delete: %w", sh.ID(), err)
		}
	}
	return nil
}

// restore makes lost series of a shard anew, and the fields of measurements that had no other series.
func (d *Service) restore(sh *tsdb.Shard, keys [][]byte) error {
	if err := seriesindex.Restore(sh, keys); err != nil {
		return err
	}
	names := make(map[string]bool)
	for _, key := range keys {
		names[string(models.ParseName(key))] = true
	}
	hidden := make([]fieldindex.Hidden, 0, len(names))
	for name := range names {
		hidden = append(hidden, fieldindex.Hidden{Measurement: name})
	}
	ctx, cancel := context.WithTimeout(context.Background(), deleteTimeout)
	defer cancel()
	if _, _, err := fieldindex.Heal(ctx, sh, hidden); err != nil {
		return err
	}
	d.deps.Log.Info("Kept series that were written while a delete ran", zap.Uint64("db_shard_id", sh.ID()),
		zap.Int("series", len(keys)))
	return nil
}
