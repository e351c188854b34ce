// Package retype gives a field of one copy of a shard another type. The values that have another type are set aside
// first.
package retype

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/influxdata/influxql"

	"concord/internal/compactions"
	"concord/internal/durable"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/fieldindex"
	"concord/internal/entropy/scan"
	"concord/internal/entropy/tsmfile"
	"concord/internal/writecache"
)

// Field is a field of a measurement, and the type that it is to have.
type Field struct {
	Measurement, Name string
	Type              digest.Type
}

// Kept is what was set aside.
type Kept struct {
	Path   string // of the file; empty when there was nothing
	Points int
}

// Copy is a copy of a shard.
//
// The steps of Run are in an order in which a crash between any two of them loses nothing, and after which the next
// Run finishes: the values are in a file that is on disk before the first of them is removed, and the field gets its
// type in the index when no value of another type is left.
type Copy struct {
	Shard *tsdb.Shard
	Dir   string // in which a folder is made for what is set aside
	// Alone runs something while nobody writes to the shard, deletes from it, or closes it.
	Alone func(ctx context.Context, run func() error) error

	step func(name string) error // seam: is called before each step
}

// TypeOf returns the type of a field in the index of a copy; 0 when it does not have the field. known tells whether
// it has the measurement.
func TypeOf(shard *tsdb.Shard, measurement, field string) (typ digest.Type, known bool, err error) {
	engine, err := tsmfile.EngineOf(shard)
	if err != nil {
		return 0, false, err
	}
	fields := engine.MeasurementFieldSet().FieldsByString(measurement)
	if fields == nil || fields.FieldN() == 0 {
		return 0, false, nil
	}
	f := fields.Field(field)
	if f == nil {
		return 0, true, nil
	}
	typ, ok := digest.TypeOf(f.Type)
	if !ok {
		return 0, true, fmt.Errorf("field %q of %q has the unknown type %v", field, measurement, f.Type)
	}
	return typ, true, nil
}

// Run sets the values of other types aside, removes them, and gives the field its type in the index. It changes
// nothing where no value has another type, and the field has its type or is not there. It may be repeated.
func (c *Copy) Run(ctx context.Context, f Field) (kept Kept, err error) {
	if c.step == nil {
		c.step = func(string) error { return nil }
	}
	err = c.Alone(ctx, func() error {
		kept, err = c.run(ctx, f)
		return err
	})
	return kept, err
}

func (c *Copy) run(ctx context.Context, f Field) (Kept, error) {
	engine, err := tsmfile.EngineOf(c.Shard)
	if err != nil {
		return Kept{}, err
	}
	// All values in files: what is in the write cache could become a file while it is removed.
	if err := flush(ctx, c.Shard, engine); err != nil {
		return Kept{}, fmt.Errorf("write the cache of shard %d to disk: %w", c.Shard.ID(), err)
	}
	compact, err := compactions.Hold(c.Shard) // they would write removed values into a new file
	if err != nil {
		return Kept{}, err
	}
	defer compact()
	keys := c.others(engine, f)
	var kept Kept
	if len(keys) > 0 {
		if err := c.step("set aside"); err != nil {
			return Kept{}, err
		}
		if kept, err = c.setAside(ctx, f, keys); err != nil {
			return Kept{}, fmt.Errorf("set values of field %q of %q in shard %d aside: %w",
				f.Name, f.Measurement, c.Shard.ID(), err)
		}
		if err := c.step("remove"); err != nil {
			return kept, err
		}
		if err := remove(engine, keys, f.Name); err != nil {
			return kept, fmt.Errorf("remove values of field %q of %q from shard %d: %w",
				f.Name, f.Measurement, c.Shard.ID(), err)
		}
		if err := tsmfile.CheckTombstones(engine); err != nil {
			return kept, fmt.Errorf("look for the tombstones of shard %d: %w", c.Shard.ID(), err)
		}
	}
	if err := c.step("index"); err != nil {
		return kept, err
	}
	return kept, c.index(engine, f)
}

// flush writes the cache to a file.
func flush(ctx context.Context, sh *tsdb.Shard, engine *tsm1.Engine) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := writecache.WriteSnapshot(sh)
		if err == nil && engine.Cache.Size() == 0 {
			if !engine.WALEnabled {
				return nil
			}
			return durable.SyncDir(engine.WAL.Path()) // a segment that comes back would bring removed values back
		}
		if err != nil && !errors.Is(err, tsm1.ErrSnapshotInProgress) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// otherKey is a series that has the field in another type.
type otherKey struct {
	series []byte
	typ    digest.Type
}

// others returns the series that have the field in another type, ascending.
func (c *Copy) others(engine *tsm1.Engine, f Field) []otherKey {
	found := make(map[string]digest.Type)
	prefix := models.EscapeMeasurement([]byte(f.Measurement))
	for _, file := range engine.FileStore.Files() {
		file.Ref()
		for i := file.Seek(prefix); i < file.KeyCount(); i++ {
			key, typ := file.KeyAt(i)
			if !bytes.HasPrefix(key, prefix) {
				break
			}
			series, field := tsm1.SeriesAndFieldFromCompositeKey(key)
			if string(field) == f.Name && string(models.ParseName(series)) == f.Measurement &&
				digest.Type(typ+1) != f.Type {
				found[string(series)] = digest.Type(typ + 1)
			}
		}
		file.Unref()
	}
	keys := make([]otherKey, 0, len(found))
	for series, typ := range found {
		keys = append(keys, otherKey{[]byte(series), typ})
	}
	slices.SortFunc(keys, func(a, b otherKey) int { return bytes.Compare(a.series, b.series) })
	return keys
}

// remove removes a field of series from all files. FileStore.Delete would end the process where a tombstone cannot be
// written (v1.13.2).
func remove(engine *tsm1.Engine, series []otherKey, field string) error {
	keys := make([][]byte, len(series))
	for i, s := range series {
		keys[i] = tsm1.SeriesFieldKeyBytes(string(s.series), field)
	}
	slices.SortFunc(keys, bytes.Compare)
	return engine.FileStore.Apply(func(file tsm1.TSMFile) error {
		return file.DeleteRange(keys, math.MinInt64, math.MaxInt64)
	})
}

// FileName is that of a file with values that were set aside.
const FileName = "values.lp"

// setAside writes the values of series to a file of line protocol, durably. The file begins as `influx -import` wants
// it.
func (c *Copy) setAside(ctx context.Context, f Field, keys []otherKey) (kept Kept, err error) {
	dir := filepath.Join(c.Dir, fmt.Sprintf("%d-%s", c.Shard.ID(),
		time.Now().UTC().Format("20060102T150405.000000000Z")))
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return kept, err
	}
	kept.Path = filepath.Join(dir, FileName)
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir)) // nothing was removed from the copy
		}
	}()
	err = durable.Replace(kept.Path, kept.Path+".tmp", 0o640, func(out *os.File) error {
		w := &lines{Writer: bufio.NewWriterSize(out, 1<<16), field: f.Name}
		fmt.Fprintf(w, "# Values of field %q of measurement %q in shard %d that were not %s.\n"+
			"# DML\n# CONTEXT-DATABASE: %s\n# CONTEXT-RETENTION-POLICY: %s\n",
			f.Name, f.Measurement, c.Shard.ID(), f.Type, c.Shard.Database(), c.Shard.RetentionPolicy())
		if err := w.all(ctx, c.Shard, keys); err != nil {
			return err
		}
		kept.Points = w.points
		return w.Flush()
	})
	if err != nil {
		return kept, err
	}
	return kept, errors.Join(durable.SyncDir(c.Dir), durable.SyncDir(filepath.Dir(c.Dir)))
}

// lines writes values as line protocol.
type lines struct {
	*bufio.Writer
	field  string
	points int
	buf    []byte
}

func (w *lines) all(ctx context.Context, shard *tsdb.Shard, keys []otherKey) error {
	r, err := scan.NewReader(ctx, shard)
	if err != nil {
		return err
	}
	defer r.Close()
	for _, k := range keys {
		ok, err := r.Seek(k.series, w.field)
		if err == nil && ok {
			switch k.typ {
			case digest.Float:
				err = values[float64](w, r, k.series)
			case digest.Integer:
				err = values[int64](w, r, k.series)
			case digest.Unsigned:
				err = values[uint64](w, r, k.series)
			case digest.Boolean:
				err = values[bool](w, r, k.series)
			case digest.String:
				err = values[string](w, r, k.series)
			default:
				err = fmt.Errorf("unknown type %v", k.typ)
			}
		}
		if err != nil {
			return fmt.Errorf("series %q: %w", k.series, err)
		}
	}
	return r.End()
}

func values[V scan.Value](w *lines, r *scan.Reader, series []byte) error {
	return scan.Each(r, models.MinNanoTime, models.MaxNanoTime, func(times []int64, values []V) error {
		for i, v := range values {
			w.buf = append(append(append(w.buf[:0], series...), ' '), models.Fields{w.field: v}.MarshalBinary()...)
			w.buf = append(strconv.AppendInt(append(w.buf, ' '), times[i], 10), '\n')
			if _, err := w.Write(w.buf); err != nil {
				return err
			}
			w.points++
		}
		return nil
	})
}

// index gives the field its type in the index of the copy, on disk, too. The engine has no way to change a type: all
// fields of the measurement are made anew, while the copy answers nobody.
func (c *Copy) index(engine *tsm1.Engine, f Field) error {
	typ, known, err := TypeOf(c.Shard, f.Measurement, f.Name)
	if err != nil || !known {
		return err
	}
	if typ == f.Type {
		return fieldindex.FlushUnflushed(c.Shard) // an earlier run may have failed to write it
	}
	set := engine.MeasurementFieldSet()
	fields := set.FieldsByString(f.Measurement).FieldSet()
	fields[f.Name] = engineType(f.Type)
	defer fieldindex.HoldIndexes(c.Shard)()
	c.Shard.SetEnabled(false)
	set.Delete(f.Measurement)
	anew := set.CreateFieldsIfNotExists([]byte(f.Measurement))
	for name, typ := range fields {
		if _, _, e := anew.CreateFieldIfNotExists(name, typ); e != nil {
			err = errors.Join(err, fmt.Errorf("make field %q of %q anew: %w", name, f.Measurement, e))
		}
	}
	c.Shard.SetEnabled(true)
	if e := c.step("write index"); e == nil {
		err = errors.Join(err, fieldindex.FlushHeld(c.Shard))
	} else {
		err = errors.Join(err, e)
	}
	if err != nil {
		return fmt.Errorf("write the field index of shard %d: %w", c.Shard.ID(), err)
	}
	return nil
}

func engineType(t digest.Type) influxql.DataType {
	switch t {
	case digest.Float:
		return influxql.Float
	case digest.Integer:
		return influxql.Integer
	case digest.Unsigned:
		return influxql.Unsigned
	case digest.Boolean:
		return influxql.Boolean
	case digest.String:
		return influxql.String
	}
	return influxql.Unknown
}
