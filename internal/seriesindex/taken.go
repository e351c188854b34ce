package seriesindex

import (
	"bytes"
	"errors"
	"maps"
	"slices"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/influxdata/influxdb/tsdb/index/inmem"

	"concord/internal/entropy/tsmfile"
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
	for some := range slices.Chunk(ids, restoreAtOnce) {
		l := lost{index: index, file: file}
		for _, id := range some {
			if key := file.SeriesKey(id); key != nil && file.IsDeleted(id) {
				name, tags := tsdb.ParseSeriesKey(key)
				l.add(models.MakeKey(name, tags), name, tags)
				l.dead = append(l.dead, id)
			}
		}
		if err := l.restore(); err != nil {
			return n, err
		}
		n += len(l.dead)
	}
	return n, nil
}

// Lost returns the series of some measurements of which a shard has points in its cache, and which queries do not find:
// its index or the file of series does not have them, or the index of fields does not have a field. It returns the
// fields by the keys of the series. When a delete has taken the last point of a series in a shard, the engine removes
// the series from both, and then the fields of a measurement that has no other series. A write may come between the
// decision and the removal (engine v1.13.2, tsdb/engine/tsm1/engine.go: deleteSeriesRange). Writes that were under way
// beside the delete must have ended. With inFiles, Lost also looks into the files of the shard, which may have what was
// in the cache.
func Lost(sh *tsdb.Shard, of func(measurement []byte) bool, inFiles bool) (fields map[string][]string, err error) {
	engine, err := tsmfile.EngineOf(sh)
	if err != nil {
		return nil, err
	}
	index, err := sh.Index()
	if err != nil {
		return nil, err
	}
	file, err := sh.SeriesFile()
	if err != nil {
		return nil, err
	}
	cached := engine.Cache.Keys() // before the set: it has what these keys are of, unless it was lost
	set := index.SeriesIDSet()
	fields = make(map[string][]string)
	var buf, last []byte
	var wanted, isLost bool // last is
	var known *tsdb.MeasurementFields
	look := func(key []byte, _ byte) error {
		series, field := tsm1.SeriesAndFieldFromCompositeKey(key)
		if !bytes.Equal(series, last) {
			last = append(last[:0], series...)
			wanted, isLost = of(models.ParseName(series)), false
			if wanted {
				name, tags := models.ParseKeyBytes(series)
				id := file.SeriesID(name, tags, buf)
				isLost = id == 0 || !set.Contains(id)
				known = engine.MeasurementFieldSet().Fields(name)
			}
		}
		if wanted && (isLost || !known.HasField(string(field))) {
			fields[string(series)] = append(fields[string(series)], string(field))
		}
		return nil
	}
	for _, key := range cached {
		look(key, 0)
	}
	if inFiles {
		err = engine.FileStore.WalkKeys(nil, look)
	}
	return fields, err
}

// Restore makes Lost series of a shard anew. Their fields are not looked at.
func Restore(sh *tsdb.Shard, fields map[string][]string) error {
	index, err := sh.Index()
	if err != nil {
		return err
	}
	file, err := sh.SeriesFile()
	if err != nil {
		return err
	}
	for some := range slices.Chunk(slices.Collect(maps.Keys(fields)), restoreAtOnce) {
		l := lost{index: index, file: file}
		for _, key := range some {
			name, tags := models.ParseKeyBytes([]byte(key))
			l.add([]byte(key), name, tags)
		}
		if err := l.restore(); err != nil {
			return err
		}
	}
	return nil
}

// restoreAtOnce is how many series are looked at, and made, at once.
const restoreAtOnce = 1000

// lost is series that queries do not find in a shard.
type lost struct {
	index tsdb.Index
	file  *tsdb.SeriesFile
	keys  [][]byte // as points have them
	names [][]byte
	tags  []models.Tags
	dead  []uint64 // the IDs that the index has for keys and the file of series does not; empty for none
}

func (l *lost) add(key, name []byte, tags models.Tags) {
	l.keys, l.names, l.tags = append(l.keys, key), append(l.names, name), append(l.tags, tags)
}

// restore gives the series new IDs, unless the file of series has them.
func (l *lost) restore() error {
	if len(l.keys) == 0 {
		return nil
	}
	create := func() error {
		return l.index.CreateSeriesListIfNotExists(l.keys, l.names, l.tags, tsdb.NoopStatsTracker())
	}
	if len(l.dead) > 0 {
		if err := l.index.DropSeriesList(l.dead, l.keys, false); err != nil {
			return err
		}
	}
	// The index in memory finds series by their keys, and would give the old ID again.
	if memory, ok := l.index.(*inmem.ShardIndex); ok {
		for _, key := range l.keys {
			if known, _ := memory.Series(key); known != nil && l.file.IsDeleted(known.ID) {
				memory.DropSeriesGlobal(key)
			}
		}
		create = func() error { return memory.InitializeSeries(l.keys, l.names, l.tags) } // the limits do not matter
	}
	return create()
}
