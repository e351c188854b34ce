package digest

import (
	"context"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/entropy/scan"
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
func Compute(
	ctx context.Context, shard *tsdb.Shard, key uint64, rng Range, until int64, fn func(*SeriesField) error,
) error {
	open, err := opened(shard)
	if err != nil {
		return err
	}
	points, err := scan.NewReader(ctx, shard)
	if err != nil {
		return err
	}
	defer points.Close()
	r := reader{open: open, points: points, key: key, rng: rng}
	err = open.eachSeries(ctx, runBytes, func(series []byte) error {
		return r.fields(ctx, series, func(field string, typ Type) error {
			if ok, err := points.Seek(series, field); err != nil || !ok {
				return err
			}
			r.sf = SeriesField{Series: series, Field: field, Type: typ}
			if err := r.read(allWindows); err != nil {
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
	return points.End()
}

// reader digests series of one shard.
type reader struct {
	open   openShard
	points *scan.Reader
	key    uint64
	rng    Range

	sf  SeriesField
	buf []byte
}

// fields calls fn with the fields that the measurement of a series has, in their order.
func (r *reader) fields(ctx context.Context, series []byte, fn func(field string, typ Type) error) error {
	name := models.ParseName(series)
	fields := r.open.engine.MeasurementFields(name)
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
			return fmt.Errorf("field %q of %q has the unknown type %v", field, name, f.Type)
		}
		if err := fn(field, typ); err != nil {
			return err
		}
	}
	return nil
}

// windows is a set of windows, one bit each.
type windows uint64

const allWindows = ^windows(0)

func (w windows) has(window int) bool { return w>>window&1 != 0 }

// add adds those that [min, max] touches.
func (w *windows) add(rng Range, min, max int64) {
	from, to := rng.Window(min), rng.Window(max)
	*w |= allWindows << from & (allWindows >> (Windows - 1 - to))
}

// read makes the digests in sf of some windows those of the points that the reader is at.
func (r *reader) read(which windows) error {
	var s seed
	s, r.buf = newSeed(r.key, r.sf.Series, r.sf.Field, r.sf.Type, r.buf)
	for which != 0 {
		from := bits.TrailingZeros64(uint64(which))
		n := bits.TrailingZeros64(^uint64(which >> from))
		clear(r.sf.Windows[from : from+n])
		which &^= allWindows >> (Windows - n) << from
		first, _ := r.rng.Bounds(from)
		_, last := r.rng.Bounds(from + n - 1)
		if err := r.add(s, first, last); err != nil {
			return fmt.Errorf("read %s of %s: %w", r.sf.Field, r.sf.Series, err)
		}
	}
	return nil
}

// add adds the points in [first, last] to sf.
func (r *reader) add(s seed, first, last int64) error {
	switch r.sf.Type {
	case Float:
		return addRuns(r, first, last, s.floats)
	case Integer:
		return addRuns(r, first, last, s.integers)
	case Unsigned:
		return addRuns(r, first, last, s.unsigned)
	case Boolean:
		return addRuns(r, first, last, s.booleans)
	case String:
		return addRuns(r, first, last, s.strings)
	}
	return fmt.Errorf("unknown type %v", r.sf.Type)
}

// addRuns adds points, a run of those in one window at a time.
func addRuns[V scan.Value](r *reader, first, last int64, sum func([]int64, []V) Sum) error {
	return scan.Each(r.points, first, last, func(times []int64, values []V) error {
		for len(times) > 0 {
			w := r.rng.Window(times[0])
			_, end := r.rng.Bounds(w)
			n := len(times)
			if times[n-1] > end {
				n, _ = slices.BinarySearch(times, end+1)
			}
			r.sf.Windows[w].Add(sum(times[:n], values[:n]))
			times, values = times[n:], values[n:]
		}
		return nil
	})
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
