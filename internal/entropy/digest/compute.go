package digest

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
)

// Bounds are the first and the last nanosecond of a window. The first and the
// last window reach out to the ends of time, as Window counts every point.
func (r Range) Bounds(window int) (min, max int64) {
	w := r.width()
	min, max = models.MinNanoTime, models.MaxNanoTime
	if window > 0 {
		min = int64(uint64(r.Start) + uint64(window)*w)
	}
	if window < Windows-1 {
		max = int64(uint64(r.Start)+uint64(window+1)*w) - 1
	}
	return min, max
}

// Settled tells whether a window ends at or before until.
func (r Range) Settled(window int, until int64) bool {
	if until == math.MaxInt64 {
		return true
	}
	_, end := r.Bounds(window)
	if window == Windows-1 {
		end = r.End - 1
	}
	return end < until
}

// Sum is that of all windows.
func (f *SeriesField) Sum() Sum {
	var s Sum
	for i := range f.Windows {
		s.Add(f.Windows[i])
	}
	return s
}

// TypeOf is the type of an engine's field; ok is false for what no field has.
func TypeOf(t influxql.DataType) (typ Type, ok bool) {
	switch t {
	case influxql.Float:
		return Float, true
	case influxql.Integer:
		return Integer, true
	case influxql.Boolean:
		return Boolean, true
	case influxql.String:
		return String, true
	case influxql.Unsigned:
		return Unsigned, true
	}
	return 0, false
}

// String is the name that InfluxQL has for the type.
func (t Type) String() string {
	if n := [...]string{"", "float", "integer", "boolean", "string", "unsigned"}; int(t) < len(n) && t > 0 {
		return n[t]
	}
	return "unknown"
}

// SeriesKeys lists the keys of a shard's series, ascending. It holds all of
// them: the order over measurements is that of whole keys, which no index keeps.
func SeriesKeys(shard *tsdb.Shard) ([][]byte, error) {
	index, err := shard.Index()
	if err != nil {
		return nil, err
	}
	sfile, err := shard.SeriesFile()
	if err != nil {
		return nil, err
	}
	set := tsdb.IndexSet{Indexes: []tsdb.Index{index}, SeriesFile: sfile}
	var keys [][]byte
	err = shard.ForEachMeasurementName(func(name []byte) error {
		k, err := set.MeasurementSeriesKeysByExpr(name, nil)
		keys = append(keys, k...)
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(keys, bytes.Compare)
	return slices.CompactFunc(keys, bytes.Equal), nil
}

// Compute calls fn with the digest of each series-field that has points in
// windows that end at or before until (math.MaxInt64: in all), in ascending
// order of (series, field). fn must not keep its argument. key is the
// cluster's id.
//
// Points are read through the engine's array cursors, which merge files and
// the cache, let the newest write win and leave out what was deleted.
func Compute(ctx context.Context, shard *tsdb.Shard, key uint64, rng Range, until int64, fn func(*SeriesField) error) error {
	keys, err := SeriesKeys(shard)
	if err != nil {
		return fmt.Errorf("list the series of shard %d: %w", shard.ID(), err)
	}
	cursors, err := shard.CreateCursorIterator(ctx)
	if err != nil {
		return fmt.Errorf("read shard %d: %w", shard.ID(), err)
	}
	var (
		sf  SeriesField
		buf []byte
	)
	for _, series := range keys {
		name, tags := models.ParseKeyBytes(series)
		fields := shard.MeasurementFields(name)
		if fields == nil {
			continue
		}
		names := fields.FieldKeys()
		slices.Sort(names)
		for _, field := range names {
			if err := ctx.Err(); err != nil {
				return err
			}
			f := fields.Field(field)
			if f == nil {
				continue
			}
			typ, ok := TypeOf(f.Type)
			if !ok {
				return fmt.Errorf("shard %d: field %q of %q has the unknown type %v", shard.ID(), field, name, f.Type)
			}
			cur, err := cursors.Next(ctx, &tsdb.CursorRequest{
				Name: name, Tags: tags, Field: field, Ascending: true,
				StartTime: models.MinNanoTime, EndTime: models.MaxNanoTime,
			})
			if err != nil {
				return fmt.Errorf("shard %d: read %s of %s: %w", shard.ID(), field, series, err)
			}
			if cur == nil {
				continue
			}
			sf = SeriesField{Series: series, Field: field, Type: typ}
			var s seed
			s, buf = newSeed(key, series, field, typ, buf)
			err = sf.add(cur, s, rng)
			cur.Close()
			if err != nil {
				return fmt.Errorf("shard %d: read %s of %s: %w", shard.ID(), field, series, err)
			}
			if !sf.keep(rng, until) {
				continue
			}
			if err := fn(&sf); err != nil {
				return err
			}
		}
	}
	// An engine that was closed meanwhile gives empty cursors: that is no digest.
	if _, err := shard.Engine(); err != nil {
		return fmt.Errorf("read shard %d: %w", shard.ID(), err)
	}
	return nil
}

// Root is the sum over all series-fields that Compute gives.
func Root(ctx context.Context, shard *tsdb.Shard, key uint64, rng Range, until int64) (root Sum, err error) {
	err = Compute(ctx, shard, key, rng, until, func(f *SeriesField) error {
		root.Add(f.Sum())
		return nil
	})
	return root, err
}

// keep empties the windows that are not settled and tells whether points are left.
func (f *SeriesField) keep(rng Range, until int64) bool {
	any := false
	for i := range f.Windows {
		if f.Windows[i].Count == 0 {
			continue
		}
		if rng.Settled(i, until) {
			any = true
		} else {
			f.Windows[i] = Sum{}
		}
	}
	return any
}

// add reads a cursor to its end.
func (f *SeriesField) add(cur tsdb.Cursor, s seed, rng Range) error {
	switch c := cur.(type) {
	case tsdb.FloatArrayCursor:
		for a := c.Next(); a.Len() > 0; a = c.Next() {
			w := walk{rng: rng}
			for i, t := range a.Timestamps {
				f.at(&w, t).addPoint(s.fixed(t, math.Float64bits(a.Values[i])))
			}
		}
	case tsdb.IntegerArrayCursor:
		for a := c.Next(); a.Len() > 0; a = c.Next() {
			w := walk{rng: rng}
			for i, t := range a.Timestamps {
				f.at(&w, t).addPoint(s.fixed(t, uint64(a.Values[i])))
			}
		}
	case tsdb.UnsignedArrayCursor:
		for a := c.Next(); a.Len() > 0; a = c.Next() {
			w := walk{rng: rng}
			for i, t := range a.Timestamps {
				f.at(&w, t).addPoint(s.fixed(t, a.Values[i]))
			}
		}
	case tsdb.BooleanArrayCursor:
		for a := c.Next(); a.Len() > 0; a = c.Next() {
			w := walk{rng: rng}
			for i, t := range a.Timestamps {
				var v uint64
				if a.Values[i] {
					v = 1
				}
				f.at(&w, t).addPoint(s.fixed(t, v))
			}
		}
	case tsdb.StringArrayCursor:
		for a := c.Next(); a.Len() > 0; a = c.Next() {
			w := walk{rng: rng}
			for i, t := range a.Timestamps {
				f.at(&w, t).addPoint(s.text(t, a.Values[i]))
			}
		}
	default:
		return fmt.Errorf("unknown cursor %T", cur)
	}
	return cur.Err()
}

// walk remembers the window of the last point: most points are in the same.
type walk struct {
	rng      Range
	window   int
	min, max int64 // of the window; both 0 before the first point
}

func (f *SeriesField) at(w *walk, t int64) *Sum {
	if t < w.min || t > w.max || w.min == w.max {
		w.window = w.rng.Window(t)
		w.min, w.max = w.rng.Bounds(w.window)
	}
	return &f.Windows[w.window]
}
