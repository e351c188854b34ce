package patch

import (
	"context"
	"errors"
	"fmt"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/digest"
	"concord/internal/entropy/scrub"
)

// Limits bound what Read returns: it stops after the block with which one of them is
// reached. 0 is no limit.
type Limits struct{ Bytes, Points int }

// Reached tells whether what was read, in bytes of blocks and points, reaches a limit.
func (l Limits) Reached(bytes, points int) bool {
	return l.Bytes > 0 && bytes >= l.Bytes || l.Points > 0 && points >= l.Points
}

// Read calls fn with the points of each region, in blocks of at most a
// thousand points, within limits. A region whose field has another type here, or no points,
// gives no block.
func Read(ctx context.Context, shard *tsdb.Shard, regions []Region, limits Limits, fn func(Block) error) error {
	var bytes, points int
	err := each(ctx, shard, regions, func(i int, cur tsdb.Cursor) error {
		return blocks(ctx, cur, regions[i], func(n int, b Block) error {
			if err := fn(b); err != nil {
				return err
			}
			bytes, points = bytes+len(b.Data), points+n
			if limits.Reached(bytes, points) {
				return errLimit
			}
			return nil
		})
	})
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

var errLimit = errors.New("limit reached")

// each calls fn with a cursor over each region that has points of its type.
func each(ctx context.Context, shard *tsdb.Shard, regions []Region, fn func(i int, cur tsdb.Cursor) error) error {
	cursors, err := shard.CreateCursorIterator(ctx)
	if err != nil {
		return fmt.Errorf("read shard %d: %w", shard.ID(), err)
	}
	blocks, err := scrub.NewChecker(shard)
	if err != nil {
		return fmt.Errorf("read shard %d: %w", shard.ID(), err)
	}
	defer blocks.Close()
	for i, r := range regions {
		name, tags := models.ParseKeyBytes(r.Series)
		fields := shard.MeasurementFields(name)
		if fields == nil {
			continue
		}
		f := fields.Field(r.Field)
		if f == nil {
			continue
		}
		if t, _ := digest.TypeOf(f.Type); t != r.Type {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := blocks.Check(r.Series, r.Field, r.Min, r.Max); err != nil {
			return fmt.Errorf("shard %d: %w", shard.ID(), err)
		}
		cur, err := cursors.Next(ctx, &tsdb.CursorRequest{
			Name: name, Tags: tags, Field: r.Field, Ascending: true, StartTime: r.Min, EndTime: r.Max,
		})
		if err == nil && cur != nil {
			if err = fn(i, cur); err == nil {
				err = cur.Err()
			}
			cur.Close()
		}
		if err != nil {
			return fmt.Errorf("shard %d: read %s of %s: %w", shard.ID(), r.Field, r.Series, err)
		}
	}
	if _, err := shard.Engine(); err != nil {
		return fmt.Errorf("read shard %d: %w", shard.ID(), err)
	}
	return nil
}

// blocks calls fn with the points of a cursor, in blocks of the engine's encoding.
func blocks(ctx context.Context, cur tsdb.Cursor, r Region, fn func(points int, b Block) error) error {
	emit := func(points int, data []byte, err error) error {
		if err != nil {
			return fmt.Errorf("encode %d points: %w", points, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return fn(points, Block{Series: r.Series, Field: r.Field, Data: data})
	}
	switch c := cur.(type) {
	case tsdb.FloatArrayCursor:
		return chunks(func() ([]int64, []float64) { a := c.Next(); return a.Timestamps, a.Values }, func(t []int64, v []float64) error {
			data, err := tsm1.EncodeFloatArrayBlock(&tsdb.FloatArray{Timestamps: t, Values: v}, nil)
			if err != nil { // it takes the infinities, when there are both, for NaN
				values := make(tsm1.Values, len(v))
				for i := range v {
					values[i] = tsm1.NewValue(t[i], v[i])
				}
				data, err = values.Encode(nil)
			}
			return emit(len(v), data, err)
		})
	case tsdb.IntegerArrayCursor:
		return chunks(func() ([]int64, []int64) { a := c.Next(); return a.Timestamps, a.Values }, func(t []int64, v []int64) error {
			data, err := tsm1.EncodeIntegerArrayBlock(&tsdb.IntegerArray{Timestamps: t, Values: v}, nil)
			return emit(len(v), data, err)
		})
	case tsdb.UnsignedArrayCursor:
		return chunks(func() ([]int64, []uint64) { a := c.Next(); return a.Timestamps, a.Values }, func(t []int64, v []uint64) error {
			data, err := tsm1.EncodeUnsignedArrayBlock(&tsdb.UnsignedArray{Timestamps: t, Values: v}, nil)
			return emit(len(v), data, err)
		})
	case tsdb.BooleanArrayCursor:
		return chunks(func() ([]int64, []bool) { a := c.Next(); return a.Timestamps, a.Values }, func(t []int64, v []bool) error {
			data, err := tsm1.EncodeBooleanArrayBlock(&tsdb.BooleanArray{Timestamps: t, Values: v}, nil)
			return emit(len(v), data, err)
		})
	case tsdb.StringArrayCursor:
		return chunks(func() ([]int64, []string) { a := c.Next(); return a.Timestamps, a.Values }, func(t []int64, v []string) error {
			data, err := tsm1.EncodeStringArrayBlock(&tsdb.StringArray{Timestamps: t, Values: v}, nil)
			return emit(len(v), data, err)
		})
	}
	return fmt.Errorf("unknown cursor %T", cur)
}

// chunks calls fn with blockPoints points at a time. The encoders change what they are given: it is fn's until it returns.
func chunks[V any](next func() ([]int64, []V), fn func([]int64, []V) error) error {
	times, values := make([]int64, 0, blockPoints), make([]V, 0, blockPoints)
	flush := func() error {
		if len(times) == 0 {
			return nil
		}
		err := fn(times, values)
		times, values = times[:0], values[:0]
		return err
	}
	for t, v := next(); len(t) > 0; t, v = next() {
		for len(t) > 0 {
			n := min(len(t), blockPoints-len(times))
			times, values = append(times, t[:n]...), append(values, v[:n]...)
			t, v = t[n:], v[n:]
			if len(times) == blockPoints {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}
