package seriesindex

import (
	"errors"
	"slices"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/index/inmem"
	"github.com/influxdata/influxdb/tsdb/index/tsi1"
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
	l, err := newLost(sh)
	if err != nil {
		return 0, err
	}
	ids := series.And(l.index.SeriesIDSet()).Slice()
	for some := range slices.Chunk(ids, restoreAtOnce) {
		l := lost{index: l.index, file: l.file}
		for _, id := range some {
			if key := l.file.SeriesKey(id); key != nil && l.file.IsDeleted(id) {
				name, tags := tsdb.ParseSeriesKey(key)
				l.add(models.MakeKey(name, tags), name, tags)
				l.drop(id, l.keys[len(l.keys)-1])
			}
		}
		if err := l.restore(); err != nil {
			return n, err
		}
		n += len(l.keys)
	}
	return n, nil
}

// Lists tells which series the index of a shard lists for its measurements.
type Lists struct {
	index   tsdb.Index
	dropped map[*tsi1.LogFile]map[string]bool // the measurements that each log of the index tsi1 says were dropped
}

// ListsOf returns the lists of the index of a shard.
func ListsOf(sh *tsdb.Shard) (*Lists, error) {
	index, err := Of(sh)
	return &Lists{index: index, dropped: make(map[*tsi1.LogFile]map[string]bool)}, err
}

// Of returns the IDs of the series that are listed for a measurement. The index in memory also lists those of other
// shards. Queries find the ones that are also in the set of the shard's index and in the file of series.
func (l *Lists) Of(measurement []byte) (*tsdb.SeriesIDSet, error) {
	ids := tsdb.NewSeriesIDSet()
	if onDisk, ok := l.index.(*tsi1.Index); ok {
		for i := range int(onDisk.PartitionN) {
			some, err := l.inPartition(onDisk.PartitionAt(i), measurement)
			if err != nil {
				return nil, err
			}
			ids.Merge(some)
		}
		return ids, nil
	}
	itr, err := l.index.MeasurementSeriesIDIterator(measurement)
	if err != nil || itr == nil {
		return ids, err
	}
	return ids, addAll(ids, itr)
}

// inPartition is Of in a part of the index tsi1. The engine also lists series that were dropped, as long as an older
// file has them. Queries by tags do not find these, nor do queries that first ask whether the measurement exists.
func (l *Lists) inPartition(partition *tsi1.Partition, measurement []byte) (*tsdb.SeriesIDSet, error) {
	files, err := partition.RetainFileSet()
	if err != nil {
		return nil, err
	}
	defer files.Release()
	ids := tsdb.NewSeriesIDSet()
	for _, f := range slices.Backward(files.Files()) { // the oldest first
		if itr := f.MeasurementSeriesIDIterator(measurement); itr != nil {
			if err := addAll(ids, itr); err != nil {
				return nil, err
			}
		}
		if ids.Cardinality() == 0 {
			continue
		}
		if l.drops(f, measurement) {
			ids = tsdb.NewSeriesIDSet()
			continue
		}
		// Also of this file's own list: a compaction keeps dropped series in it.
		dropped, err := f.TombstoneSeriesIDSet()
		if err != nil {
			return nil, err
		}
		ids.Diff(dropped)
	}
	return ids, nil
}

// drops reports whether a file of the index says that a measurement was dropped. Writes change that in a log, so it is
// read from a copy of all measurements there, once.
func (l *Lists) drops(f tsi1.File, measurement []byte) bool {
	log, isLog := f.(*tsi1.LogFile)
	if !isLog {
		m := f.Measurement(measurement)
		return m != nil && m.Deleted()
	}
	names, ok := l.dropped[log]
	if !ok {
		names = make(map[string]bool)
		itr := log.MeasurementIterator()
		for m := itr.Next(); m != nil; m = itr.Next() {
			if m.Deleted() {
				names[string(m.Name())] = true
			}
		}
		l.dropped[log] = names
	}
	return names[string(measurement)]
}

// addAll adds to a set what an iterator has, and closes that.
func addAll(ids *tsdb.SeriesIDSet, itr tsdb.SeriesIDIterator) error {
	for {
		elem, err := itr.Next()
		if err != nil || elem.SeriesID == 0 {
			return errors.Join(err, itr.Close())
		}
		ids.AddNoLock(elem.SeriesID)
	}
}

// Dead returns the IDs that the index of a shard has for some series, and the file of series does not have any more, by
// key. It looks at all series of the shard.
func Dead(sh *tsdb.Shard, of func(key string) bool) (map[string]uint64, error) {
	set, err := SetOf(sh)
	if err != nil {
		return nil, err
	}
	dead := make(map[string]uint64)
	for _, id := range set.Indexes[0].SeriesIDSet().Slice() {
		if !set.SeriesFile.IsDeleted(id) {
			continue
		}
		if b := set.SeriesFile.SeriesKey(id); b != nil {
			if key := string(models.MakeKey(tsdb.ParseSeriesKey(b))); of(key) {
				dead[key] = id
			}
		}
	}
	return dead, nil
}

// Restore makes series anew of which a shard has points, and which queries do not find there. Dead is of these series.
// Clients must not write to the shard meanwhile.
func Restore(sh *tsdb.Shard, keys [][]byte, dead map[string]uint64) error {
	l, err := newLost(sh)
	if err != nil {
		return err
	}
	has := l.index.SeriesIDSet()
	for some := range slices.Chunk(keys, restoreAtOnce) {
		l := lost{index: l.index, file: l.file}
		for _, key := range some {
			name, tags := models.ParseKeyBytes(key)
			l.add(key, name, tags)
			if id, ok := dead[string(key)]; ok {
				l.drop(id, key) // the dead ID would keep the measurement in the index for ever
			}
			if id := l.file.SeriesID(name, tags, nil); id != 0 && has.Contains(id) {
				l.drop(id, key) // the set has it, and so it would not be listed again
			}
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

	stale     []uint64 // what the index has of these series
	staleKeys [][]byte
}

// newLost returns none of the series of a shard.
func newLost(sh *tsdb.Shard) (l lost, err error) {
	if l.index, err = sh.Index(); err != nil {
		return l, err
	}
	l.file, err = sh.SeriesFile()
	return l, err
}

func (l *lost) add(key, name []byte, tags models.Tags) {
	l.keys, l.names, l.tags = append(l.keys, key), append(l.names, name), append(l.tags, tags)
}

func (l *lost) drop(id uint64, key []byte) {
	l.stale, l.staleKeys = append(l.stale, id), append(l.staleKeys, key)
}

// restore gives the series new IDs, where the file of series does not have them, and puts them into the index.
func (l *lost) restore() error {
	if len(l.keys) == 0 {
		return nil
	}
	if len(l.stale) > 0 {
		if err := l.index.DropSeriesList(l.stale, l.staleKeys, false); err != nil {
			return err
		}
	}
	if memory, ok := l.index.(*inmem.ShardIndex); ok {
		for i, key := range l.keys {
			l.forget(memory, l.names[i], key)
		}
		return memory.InitializeSeries(l.keys, l.names, l.tags) // the limits do not matter
	}
	return l.index.CreateSeriesListIfNotExists(l.keys, l.names, l.tags, tsdb.NoopStatsTracker())
}

// forget prepares the index in memory for a series that is made anew. It finds series by their keys. So a series with
// a dead ID must go from it, or the series would get that ID again.
//
// Before that, the series is put into the measurement that the index uses. The engine replaces measurements when it
// drops series. A write may get hold of a measurement before that, and add its series afterwards (engine v1.13.2,
// tsdb/index/inmem/inmem.go: Rebuild, CreateSeriesListIfNotExists).
func (l *lost) forget(memory *inmem.ShardIndex, name, key []byte) {
	known, _ := memory.Series(key)
	if known == nil {
		return
	}
	live := memory.CreateMeasurementIndexIfNotExists(name)
	live.AddSeries(known) // does nothing when live has the series
	if known.Measurement != live {
		known.Measurement = live
	}
	if l.file.IsDeleted(known.ID) {
		memory.DropSeriesGlobal(key)
	}
}
