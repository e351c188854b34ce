package digest

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/entropy/scrub"
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

// Compute calls fn with the digest of each series-field that has points in
// windows that end at or before until (math.MaxInt64: in all), in ascending
// order of (series, field). fn must not keep its argument. key is the
// cluster's id.
//
// Points are read through the engine's array cursors, which merge files and
// the cache, let the newest write win and leave out what was deleted.
func Compute(ctx context.Context, shard *tsdb.Shard, key uint64, rng Range, until int64, fn func(*SeriesField) error) error {
	cursors, err := shard.CreateCursorIterator(ctx)
	if err != nil {
		return fmt.Errorf("read shard %d: %w", shard.ID(), err)
	}
	blocks, err := scrub.NewChecker(shard)
	if err != nil {
		return fmt.Errorf("read shard %d: %w", shard.ID(), err)
	}
	defer blocks.Close()
	r := reader{shard: shard, cursors: cursors, blocks: blocks, key: key, rng: rng}
	err = EachSeries(ctx, shard, func(series []byte) error {
		return r.fields(ctx, series, func(field string, typ Type) error {
			if err := r.read(ctx, field, typ); err != nil {
				return err
			}
			if !r.sf.keep(rng, until) {
				return nil
			}
			return fn(&r.sf)
		})
	})
	if err != nil {
		return fmt.Errorf("digest of shard %d: %w", shard.ID(), err)
	}
	// An engine that was closed meanwhile gives empty cursors: that is no digest.
	if _, err := shard.Engine(); err != nil {
		return fmt.Errorf("read shard %d: %w", shard.ID(), err)
	}
	return nil
}

// reader digests series of one shard.
type reader struct {
	shard   *tsdb.Shard
	cursors tsdb.CursorIterator
	blocks  *scrub.Checker
	key     uint64
	rng     Range

	series, name []byte // of the last call of fields
	tags         models.Tags

	sf  SeriesField
	buf []byte
}

// fields calls fn with the fields that the measurement of a series has, in their order.
func (r *reader) fields(ctx context.Context, series []byte, fn func(field string, typ Type) error) error {
	r.series = series
	r.name, r.tags = models.ParseKeyBytes(series)
	fields := r.shard.MeasurementFields(r.name)
	if fields == nil {
		return nil
	}
	names := fields.FieldKeys()
	slices.Sort(names)
	for _, field := range names {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		f := fields.Field(field)
		if f == nil {
			continue
		}
		typ, ok := TypeOf(f.Type)
		if !ok {
			return fmt.Errorf("field %q of %q has the unknown type %v", field, r.name, f.Type)
		}
		if err := fn(field, typ); err != nil {
			return err
		}
	}
	return nil
}

// read fills sf with the digest of a field of the series, in all windows.
func (r *reader) read(ctx context.Context, field string, typ Type) error {
	r.sf = SeriesField{Series: r.series, Field: field, Type: typ}
	if err := r.blocks.Check(r.series, field, models.MinNanoTime, models.MaxNanoTime); err != nil {
		return err
	}
	cur, err := r.cursors.Next(ctx, &tsdb.CursorRequest{
		Name: r.name, Tags: r.tags, Field: field, Ascending: true,
		StartTime: models.MinNanoTime, EndTime: models.MaxNanoTime,
	})
	if err == nil && cur != nil {
		var s seed
		s, r.buf = newSeed(r.key, r.series, field, typ, r.buf)
		err = r.sf.add(cur, s, r.rng)
		cur.Close()
	}
	if err != nil {
		return fmt.Errorf("read %s of %s: %w", field, r.series, err)
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
			addRuns(f, rng, a.Timestamps, a.Values, s.floats)
		}
	case tsdb.IntegerArrayCursor:
		for a := c.Next(); a.Len() > 0; a = c.Next() {
			addRuns(f, rng, a.Timestamps, a.Values, s.integers)
		}
	case tsdb.UnsignedArrayCursor:
		for a := c.Next(); a.Len() > 0; a = c.Next() {
			addRuns(f, rng, a.Timestamps, a.Values, s.unsigned)
		}
	case tsdb.BooleanArrayCursor:
		for a := c.Next(); a.Len() > 0; a = c.Next() {
			addRuns(f, rng, a.Timestamps, a.Values, s.booleans)
		}
	case tsdb.StringArrayCursor:
		for a := c.Next(); a.Len() > 0; a = c.Next() {
			addRuns(f, rng, a.Timestamps, a.Values, s.strings)
		}
	default:
		return fmt.Errorf("unknown cursor %T", cur)
	}
	return cur.Err()
}

// addRuns adds ascending points, a run of those in one window at a time.
func addRuns[V any](f *SeriesField, rng Range, times []int64, values []V, sum func([]int64, []V) Sum) {
	for len(times) > 0 {
		w := rng.Window(times[0])
		_, last := rng.Bounds(w)
		n := len(times)
		if times[n-1] > last {
			n, _ = slices.BinarySearch(times, last+1)
		}
		f.Windows[w].Add(sum(times[:n], values[:n]))
		times, values = times[n:], values[n:]
	}
}
