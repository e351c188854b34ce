package seriesindex

import (
	"errors"
	"slices"

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

// Revive makes series anew that shards have although the file of series does not have them any more. The series are
// Alone of a shard that the engine removed. It decides at the beginning of a removal which series nobody else has, and
// removes them at its end (engine v1.13.2, tsdb/store.go: DeleteShard). A write in between that brings one of them to
// another shard finds it, and its points would be invisible until the next write of the series, and with the index in
// memory until a restart. Revive returns how many series it made. Writes that are under way may leave more: call it
// until it returns 0.
func Revive(series *tsdb.SeriesIDSet, shards []*tsdb.Shard) (n int, err error) {
	var errs []error
	for _, sh := range shards {
		made, err := reviveIn(sh, series)
		n += made
		errs = append(errs, err)
	}
	return n, errors.Join(errs...)
}

func reviveIn(sh *tsdb.Shard, series *tsdb.SeriesIDSet) (n int, err error) {
	index, err := sh.Index()
	if err != nil {
		return 0, err
	}
	file, err := sh.SeriesFile()
	if err != nil {
		return 0, err
	}
	ids := series.And(index.SeriesIDSet()).Slice()
	for some := range slices.Chunk(ids, reviveAtOnce) {
		dead := dead{index: index}
		for _, id := range some {
			if key := file.SeriesKey(id); key != nil && file.IsDeleted(id) {
				dead.add(id, key)
			}
		}
		if err := dead.revive(); err != nil {
			return n, err
		}
		n += len(dead.ids)
	}
	return n, nil
}

// reviveAtOnce is how many series are looked at, and made, at once.
const reviveAtOnce = 1000

// dead is series of an index that the file of series does not have.
type dead struct {
	index tsdb.Index
	ids   []uint64
	keys  [][]byte // as points have them
	names [][]byte
	tags  []models.Tags
}

// add adds a series with its key in the file of series.
func (d *dead) add(id uint64, key []byte) {
	name, tags := tsdb.ParseSeriesKey(key)
	d.ids, d.keys = append(d.ids, id), append(d.keys, models.MakeKey(name, tags))
	d.names, d.tags = append(d.names, name), append(d.tags, tags)
}

// revive gives the series new IDs.
func (d *dead) revive() error {
	if len(d.ids) == 0 {
		return nil
	}
	create := func() error {
		return d.index.CreateSeriesListIfNotExists(d.keys, d.names, d.tags, tsdb.NoopStatsTracker())
	}
	if err := d.index.DropSeriesList(d.ids, d.keys, false); err != nil {
		return err
	}
	// The index in memory finds series by their keys, and would give the old ID again.
	if memory, ok := d.index.(*inmem.ShardIndex); ok {
		for i, key := range d.keys {
			if known, _ := memory.Series(key); known != nil && known.ID == d.ids[i] {
				memory.DropSeriesGlobal(key)
			}
		}
		create = func() error { return memory.InitializeSeries(d.keys, d.names, d.tags) } // the limits do not matter
	}
	return create()
}
