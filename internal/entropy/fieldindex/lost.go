package fieldindex

import (
	"bytes"
	"fmt"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/influxdata/influxql"

	"concord/internal/entropy/tsmfile"
	"concord/internal/seriesindex"
)

// Lost is series with points in a shard that queries do not find there, or do not find with all fields.
//
// When a delete has taken the last point of a series in a shard, the engine removes the series from the index of the
// shard, and from the file of series when no other shard has it. It removes the fields of a measurement that has no
// series any more. A write may come between each decision and the removal (engine v1.13.2, tsdb/engine/tsm1/engine.go:
// deleteSeriesRange).
type Lost struct {
	shard  *tsdb.Shard
	engine *tsm1.Engine
	file   *tsdb.SeriesFile
	set    *tsdb.SeriesIDSet                       // of the index
	lists  *seriesindex.Lists                      // of the index
	series map[string]bool                         // the lost ones, by key
	dead   map[string]uint64                       // as seriesindex.Dead has them
	fields map[string]map[string]influxql.DataType // of these series, by measurement

	// Of the last key that was looked at.
	key    []byte // of the series
	name   string // of the measurement; empty when it is not looked at
	listed *tsdb.SeriesIDSet
	isLost bool

	tags models.Tags // memory that is used again
	buf  []byte
}

// FindLost looks for lost series of some measurements: in the cache of a shard, and in its files when inFiles is true.
// Writes of these that were under way beside a delete must have ended.
func FindLost(sh *tsdb.Shard, of func(measurement string) bool, inFiles bool) (*Lost, error) {
	engine, err := tsmfile.EngineOf(sh)
	if err != nil {
		return nil, err
	}
	index, err := seriesindex.SetOf(sh)
	if err != nil {
		return nil, err
	}
	lists, err := seriesindex.ListsOf(sh)
	if err != nil {
		return nil, err
	}
	// The cache comes before the set: a write puts a series into the index first, and then its points into the cache.
	cached := engine.Cache.Keys()
	l := &Lost{
		shard: sh, engine: engine, file: index.SeriesFile, set: index.Indexes[0].SeriesIDSet(), lists: lists,
		series: make(map[string]bool), fields: make(map[string]map[string]influxql.DataType),
		buf: make([]byte, 0, 1024),
	}
	for _, key := range cached {
		if err := l.look(key, of, func() influxql.DataType { return cachedType(engine.Cache, key) }); err != nil {
			return nil, err
		}
	}
	if inFiles {
		err = l.lookAtFiles(of)
	}
	if err == nil && len(l.series) > 0 {
		l.dead, err = seriesindex.Dead(sh, func(key string) bool { return l.series[key] })
	}
	return l, err
}

// lookAtFiles looks at the keys of all files. One that is compacted away meanwhile is in a file that is new then.
func (l *Lost) lookAtFiles(of func(measurement string) bool) error {
	seen := make(map[string]bool) // by path
	for found := true; found; {
		found = false
		for _, f := range l.engine.FileStore.Files() {
			path := f.Path()
			if seen[path] {
				continue
			}
			seen[path], found = true, true
			err := eachKey(l.engine, path, func(key []byte, typ influxql.DataType) error {
				return l.look(key, of, func() influxql.DataType { return typ })
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// look looks at a key. Most keys of a measurement come one after the other, so that what is listed is read once.
func (l *Lost) look(key []byte, of func(string) bool, typ func() influxql.DataType) error {
	series, field := tsm1.SeriesAndFieldFromCompositeKey(key)
	if !bytes.Equal(series, l.key) {
		if err := l.lookAtSeries(series, of); err != nil {
			return err
		}
	}
	if l.name == "" || !l.isLost && l.engine.MeasurementFieldSet().FieldsByString(l.name).HasField(string(field)) {
		return nil
	}
	t := typ()
	if t == influxql.Unknown {
		return nil
	}
	l.series[string(series)] = true
	if l.fields[l.name] == nil {
		l.fields[l.name] = make(map[string]influxql.DataType)
	}
	l.fields[l.name][string(field)] = t
	return nil
}

func (l *Lost) lookAtSeries(series []byte, of func(string) bool) (err error) {
	l.key = append(l.key[:0], series...)
	var name []byte
	name, l.tags = models.ParseKeyBytesWithTags(series, l.tags)
	if l.name != string(name) {
		if l.name = ""; !of(string(name)) {
			return nil
		}
		l.name = string(name)
		if l.listed, err = l.lists.Of(name); err != nil {
			return err
		}
	}
	id := l.file.SeriesID(name, l.tags, l.buf)
	l.isLost = id == 0 || !l.set.Contains(id) || !l.listed.ContainsNoLock(id)
	return nil
}

// Len is how many series are lost.
func (l *Lost) Len() int { return len(l.series) }

// Restore makes queries find the series with their fields. Clients must not write to the shard meanwhile.
func (l *Lost) Restore() error {
	keys := make([][]byte, 0, len(l.series))
	for key := range l.series {
		keys = append(keys, []byte(key))
	}
	if err := seriesindex.Restore(l.shard, keys, l.dead); err != nil {
		return fmt.Errorf("restore series of shard %d: %w", l.shard.ID(), err)
	}
	index, err := l.shard.Index()
	if err != nil {
		return err
	}
	set, missing := l.engine.MeasurementFieldSet(), false
	for name, fields := range l.fields {
		mf := set.CreateFieldsIfNotExists([]byte(name))
		for field, typ := range fields {
			index.SetFieldName([]byte(name), field)
			if mf.HasField(field) { // perhaps with another type, in a write that came since
				continue
			}
			if err := create(mf, name, field, typ); err != nil {
				return err
			}
			missing = true
		}
	}
	if !missing {
		return nil
	}
	return Flush(l.shard)
}
