package fieldindex

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/influxdata/influxql"
)

// types are the types that the values of a shard's fields have: by measurement, field and type, the time of the
// newest value.
type types map[string]map[string]map[influxql.DataType]int64

func (t types) add(measurement, field string, typ influxql.DataType, newest int64) {
	fields := t[measurement]
	if fields == nil {
		fields = make(map[string]map[influxql.DataType]int64)
		t[measurement] = fields
	}
	have := fields[field]
	if have == nil {
		have = make(map[influxql.DataType]int64)
		fields[field] = have
	}
	if at, ok := have[typ]; !ok || newest > at {
		have[typ] = newest
	}
}

// newest is the type with the newest value. Of types that are equally new it is the lowest, so that all owners decide
// alike.
func newest(have map[influxql.DataType]int64) influxql.DataType {
	best := influxql.Unknown
	for _, typ := range slices.Sorted(maps.Keys(have)) {
		if best == influxql.Unknown || have[typ] > have[best] {
			best = typ
		}
	}
	return best
}

// conflicts lists the fields with values of several types, as text.
func (t types) conflicts() (out []string) {
	for _, m := range slices.Sorted(maps.Keys(t)) {
		for _, f := range slices.Sorted(maps.Keys(t[m])) {
			if have := t[m][f]; len(have) > 1 {
				var names []string
				for _, typ := range slices.Sorted(maps.Keys(have)) {
					names = append(names, typ.String())
				}
				out = append(out, fmt.Sprintf("field %q of %q has values of the types %s, and is now %s",
					f, m, strings.Join(names, " and "), newest(have)))
			}
		}
	}
	return out
}

// splitKey returns the series and the field of an engine's key, and the measurement of the series.
func splitKey(key []byte) (series []byte, measurement, field string, ok bool) {
	series, f := tsm1.SeriesAndFieldFromCompositeKey(key)
	if len(series) == 0 || len(f) == 0 {
		return nil, "", "", false
	}
	name := models.ParseName(series)
	return series, string(name), string(f), len(name) > 0
}

// DataTypeOf is the type of an engine's value, Unknown for what no value has.
func DataTypeOf(t models.FieldType) influxql.DataType {
	switch t {
	case models.Float:
		return influxql.Float
	case models.Integer:
		return influxql.Integer
	case models.Unsigned:
		return influxql.Unsigned
	case models.Boolean:
		return influxql.Boolean
	case models.String:
		return influxql.String
	}
	return influxql.Unknown
}

// closedShard is the files of a shard that no engine has open.
type closedShard struct {
	dir, walDir string
}

// inmem reports whether the engine opens the shard with the index inmem.
func (s closedShard) inmem() bool {
	_, err := os.Stat(filepath.Join(s.dir, "index"))
	return os.IsNotExist(err)
}

func (s closedShard) tsmFiles() ([]string, error) {
	return names(s.dir, func(n string) bool { return filepath.Ext(n) == "."+tsm1.TSMFileExtension })
}

func (s closedShard) walFiles() ([]string, error) {
	return names(s.walDir, func(n string) bool {
		return strings.HasPrefix(n, tsm1.WALFilePrefix) && filepath.Ext(n) == "."+tsm1.WALFileExtension
	})
}

// names are the paths of a folder's files that match, in their order. A folder that is not there has none.
func names(dir string, match func(string) bool) (out []string, err error) {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	for _, e := range entries {
		if match(e.Name()) {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out, err
}

// eachTSM opens the TSM files one after the other with their tombstones. A file that the engine cannot open has to be
// renamed before.
func (s closedShard) eachTSM(fn func(*tsm1.TSMReader) error) error {
	files, err := s.tsmFiles()
	if err != nil {
		return err
	}
	for _, path := range files {
		if err := withTSM(path, fn); err != nil {
			return fmt.Errorf("read %s: %w", filepath.Base(path), err)
		}
	}
	return nil
}

func withTSM(path string, fn func(*tsm1.TSMReader) error) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // the disk may not be able to read it
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	r, err := tsm1.NewTSMReader(f)
	if err != nil {
		f.Close()
		return err
	}
	defer r.Close()
	return fn(r)
}

// cache returns what the engine's cache is after it read the log of writes, or nil when there is no such log. Like
// the engine it cuts off what is torn at the end of a file.
func (s closedShard) cache() (*tsm1.Cache, error) {
	files, err := s.walFiles()
	if err != nil || len(files) == 0 {
		return nil, err
	}
	c := tsm1.NewCache(0)
	if err := tsm1.NewCacheLoader(files).Load(c); err != nil {
		return nil, fmt.Errorf("read the log of writes in %s: %w", s.walDir, err)
	}
	return c, nil
}

// types reads the types of all fields from the data files.
func (s closedShard) types() (types, error) {
	out := make(types)
	err := s.eachTSM(func(r *tsm1.TSMReader) error {
		var entries []tsm1.IndexEntry
		for i, n := 0, r.KeyCount(); i < n; i++ {
			key, block := r.KeyAt(i)
			typ := tsm1.BlockTypeToInfluxQLDataType(block)
			_, m, f, ok := splitKey(key)
			if !ok || typ == influxql.Unknown {
				continue // of a damaged index: a scrub finds it
			}
			last := int64(math.MinInt64)
			entries = r.ReadEntries(key, &entries)
			for _, e := range entries {
				last = max(last, e.MaxTime)
			}
			out.add(m, f, typ, last)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	cache, err := s.cache()
	if err != nil || cache == nil {
		return out, err
	}
	for _, key := range cache.Keys() {
		_, m, f, ok := splitKey(key)
		values := cache.Values(key)
		typ := cachedType(cache, key)
		if !ok || len(values) == 0 || typ == influxql.Unknown {
			continue
		}
		out.add(m, f, typ, values[len(values)-1].UnixNano())
	}
	return out, nil
}

func cachedType(c *tsm1.Cache, key []byte) influxql.DataType {
	t, err := c.Type(key)
	if err != nil {
		return influxql.Unknown
	}
	return DataTypeOf(t)
}

// others calls fn with the keys whose values are not of the type that their field gets.
func (t types) others(keys func(yield func(key []byte, typ influxql.DataType)), fn func(key []byte)) {
	keys(func(key []byte, typ influxql.DataType) {
		_, m, f, ok := splitKey(key)
		if have := t[m][f]; ok && len(have) > 1 && typ != newest(have) {
			fn(bytes.Clone(key))
		}
	})
}
