package seriesindex

import (
	"errors"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/index/inmem"
)

// Alone returns the series of a shard that none of others has.
func Alone(sh *tsdb.Shard, others []*tsdb.Shard) (*tsdb.SeriesIDSet, error) {
	index, err := sh.Index()
	if err != nil {
		return nil, err
	}
	alone := index.SeriesIDSet().Clone()
	for _, other := range others {
		index, err := other.Index()
		if err != nil {
			return nil, err
		}
		alone.Diff(index.SeriesIDSet())
	}
	return alone, nil
}

// reviveAtOnce is how many series are made at once.
const reviveAtOnce = 1000

// Revive makes series anew that shards have although the file of series does not have them any more. The series are
// Alone of a shard that the engine removed. It decides at the beginning of a removal which series nobody else has, and
// removes them at its end (engine v1.13.2, tsdb/store.go: DeleteShard). A write in between that brings one of them to
// another shard finds it, and its points would be invisible until the next write of the series, and with the index in
// memory until a restart. Revive returns how many series it made.
func Revive(series *tsdb.SeriesIDSet, shards []*tsdb.Shard) (n int, err error) {
	for _, sh := range shards {
		index, err := sh.Index()
		if err != nil {
			return n, err
		}
		file, err := sh.SeriesFile()
		if err != nil {
			return n, err
		}
		var keys, names [][]byte
		var tags []models.Tags
		create := func() error {
			err := index.CreateSeriesListIfNotExists(keys, names, tags, tsdb.NoopStatsTracker())
			if err == nil {
				n += len(keys)
			}
			keys, names, tags = nil, nil, nil
			return err
		}
		for _, id := range series.And(index.SeriesIDSet()).Slice() {
			key := file.SeriesKey(id)
			if key == nil || !file.IsDeleted(id) {
				continue
			}
			name, t := tsdb.ParseSeriesKey(key)
			key = models.MakeKey(name, t)
			if memory, ok := index.(*inmem.ShardIndex); ok { // it finds series by their keys, and would give the old one
				if err := errors.Join(memory.DropSeries(id, key, false), memory.DropSeriesGlobal(key)); err != nil {
					return n, err
				}
			}
			keys, names, tags = append(keys, key), append(names, name), append(tags, t)
			if len(keys) == reviveAtOnce {
				if err := create(); err != nil {
					return n, err
				}
			}
		}
		if len(keys) > 0 {
			if err := create(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}
