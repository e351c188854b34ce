package deletes

import (
	"context"
	"fmt"
	"slices"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"

	"concord/internal/entropy/fieldindex"
	"concord/internal/entropy/tsmfile"
	"concord/internal/rpc"
	"concord/internal/seriesindex"
)

// keepSeries makes series anew that the engine lost because points of them were written while a delete ran. The points
// may be of other times than those that the delete is about, also in other shards: nobody would write them again, as
// rewrite does with what the delete covers. With inFiles, it also looks into the files of the shards: the points may
// have left the cache since.
func (d *Service) keepSeries(r *rpc.Delete, inFiles bool) error {
	names, err := namesOf(r)
	if err != nil {
		return err
	}
	of := func(measurement []byte) bool { return names == nil || slices.Contains(names, string(measurement)) }
	d.deps.Memory.removals.of(r.Database).await()
	for _, sh := range d.deps.Store.Shards(d.deps.Store.ShardIDs()) {
		if sh.Database() != r.Database {
			continue
		}
		lost, err := seriesindex.Lost(sh, of, inFiles)
		if err == nil && len(lost) > 0 {
			err = d.restore(sh, lost)
		}
		if err != nil {
			return fmt.Errorf("look for series of shard %d that were written beside the delete: %w", sh.ID(), err)
		}
	}
	return nil
}

// restore makes lost series of a shard anew, and fields of measurements that had no other series.
func (d *Service) restore(sh *tsdb.Shard, lost map[string][]string) error {
	engine, err := tsmfile.EngineOf(sh)
	if err != nil {
		return err
	}
	if err := seriesindex.Restore(sh, lost); err != nil {
		return err
	}
	reasons := make(map[string]string) // by measurement
	for key, fields := range lost {
		name := string(models.ParseName([]byte(key)))
		known := engine.MeasurementFieldSet().FieldsByString(name)
		for _, field := range fields {
			if !known.HasField(field) {
				reasons[name] = fmt.Sprintf("a delete took its field %q", field)
			}
		}
	}
	d.deps.Log.Info("Kept series that were written while a delete ran", zap.Uint64("db_shard_id", sh.ID()),
		zap.Int("series", len(lost)), zap.Int("measurements_with_fields", len(reasons)))
	if len(reasons) == 0 {
		return nil
	}
	var hidden []fieldindex.Hidden
	for name, reason := range reasons {
		hidden = append(hidden, fieldindex.Hidden{Measurement: name, Reason: reason})
	}
	// The engine drops the fields of measurements without points, so that these are small.
	defer d.deps.Memory.removals.holdWrites(sh.Database())()
	ctx, cancel := context.WithTimeout(context.Background(), deleteTimeout)
	defer cancel()
	_, _, err = fieldindex.Heal(ctx, sh, hidden)
	return err
}
