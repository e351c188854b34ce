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

// Lost is series of a shard of which it has points, and which queries do not find there or not with all fields.
//
// When a delete has taken the last point of a series in a shard, the engine removes the series from the index of the
// shard, and from the file of series when no other shard has it. It removes the fields of a measurement that has no
// series any more. A write may come between each decision and the removal (engine v1.13.2, tsdb/engine/tsm1/engine.go:
// deleteSeriesRange).
type Lost struct {
	shard  *tsdb.Shard
	engine *tsm1.Engine
	file   *tsdb.SeriesFile
	series map[string]bool                         // by key
	fields map[string]map[string]influxql.DataType // of these series, by measurement

	// Of the last key that was looked at.
	key    []byte // of the series
	name   string // of the measurement; empty when it is not looked at
	listed *tsdb.SeriesIDSet
	isLost bool
}

// FindLost looks for lost series of some measurements: in the cache of a shard, and in its files when inFiles is true.
// Writes of these that were under way beside a delete must have ended.
func FindLost(sh *tsdb.Shard, of func(measurement string) bool, inFiles bool) (*Lost, error) {
	engine, err := tsmfile.EngineOf(sh)
	if err != nil {
		return nil, err
	}
	file, err := sh.SeriesFile()
	if err != nil {
		return nil, err
	}
	l := &Lost{
		shard: sh, engine: engine, file: file,
		series: make(map[string]bool), fields: make(map[string]map[string]influxql.DataType),
	}
	for _, key := range engine.Cache.Keys() {
		if err := l.look(key, of, func() influxql.DataType { return cachedType(engine.Cache, key) }); err != nil {
			return nil, err
		}
	}
	if !inFiles {
		return l, nil
	}
	for _, f := range engine.FileStore.Files() {
		err := eachKey(engine, f.Path(), func(key []byte, typ influxql.DataType) error {
			return l.look(key, of, func() influxql.DataType { return typ })
		})
		if err != nil {
			return nil, err
		}
	}
	return l, nil
}

// look looks at a key. Those of a measurement come one after the other, mostly.
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
	name, tags := models.ParseKeyBytes(series)
	if !of(string(name)) {
		l.name = ""
		return nil
	}
	if l.name != string(name) {
		l.name = string(name)
		if l.listed, err = seriesindex.Listed(l.shard, name); err != nil {
			return err
		}
	}
	id := l.file.SeriesID(name, tags, nil)
	l.isLost = id == 0 || !l.listed.ContainsNoLock(id)
	return nil
}

// Len is how many series are lost.
func (l *Lost) Len() int { return len(l.series) }

// Restore makes queries find the series with their fields. Nobody may write to the shard meanwhile.
func (l *Lost) Restore() error {
	keys := make([][]byte, 0, len(l.series))
	for key := range l.series {
		keys = append(keys, []byte(key))
	}
	if err := seriesindex.Restore(l.shard, keys); err != nil {
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
