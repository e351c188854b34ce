package patch

import (
	"context"
	"errors"
	"fmt"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/digest"
	"concord/internal/entropy/scan"
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
	err := each(ctx, shard, regions, func(i int, r *scan.Reader) error {
		return blocks(ctx, r, regions[i], func(n int, b Block) error {
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

// each calls fn with a reader that is at each region that has points of its type.
func each(ctx context.Context, shard *tsdb.Shard, regions []Region, fn func(i int, r *scan.Reader) error) error {
	engine, err := shard.Engine() // while the files are held, a shard that is being closed does not answer
	if err != nil {
		return err
	}
	reader, err := scan.NewReader(ctx, shard)
	if err != nil {
		return err
	}
	defer reader.Close()
	for i, r := range regions {
		fields := engine.MeasurementFields(models.ParseName(r.Series))
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
		ok, err := reader.Seek(r.Series, r.Field)
		if ok && err == nil {
			err = fn(i, reader)
		}
		if err != nil {
			return fmt.Errorf("shard %d: read %s of %s: %w", shard.ID(), r.Field, r.Series, err)
		}
	}
	return reader.End()
}

// blocks calls fn with the points of a region, in blocks of the engine's encoding.
func blocks(ctx context.Context, in *scan.Reader, r Region, fn func(points int, b Block) error) error {
	emit := func(points int, data []byte, err error) error {
		if err != nil {
			return fmt.Errorf("encode %d points: %w", points, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return fn(points, Block{Series: r.Series, Field: r.Field, Data: data})
	}
	switch r.Type {
	case digest.Float:
		return chunks(in, r, func(t []int64, v []float64) error {
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
	case digest.Integer:
		return chunks(in, r, func(t []int64, v []int64) error {
			data, err := tsm1.EncodeIntegerArrayBlock(&tsdb.IntegerArray{Timestamps: t, Values: v}, nil)
			return emit(len(v), data, err)
		})
	case digest.Unsigned:
		return chunks(in, r, func(t []int64, v []uint64) error {
			data, err := tsm1.EncodeUnsignedArrayBlock(&tsdb.UnsignedArray{Timestamps: t, Values: v}, nil)
			return emit(len(v), data, err)
		})
	case digest.Boolean:
		return chunks(in, r, func(t []int64, v []bool) error {
			data, err := tsm1.EncodeBooleanArrayBlock(&tsdb.BooleanArray{Timestamps: t, Values: v}, nil)
			return emit(len(v), data, err)
		})
	case digest.String:
		return chunks(in, r, func(t []int64, v []string) error {
			data, err := tsm1.EncodeStringArrayBlock(&tsdb.StringArray{Timestamps: t, Values: v}, nil)
			return emit(len(v), data, err)
		})
	}
	return fmt.Errorf("unknown type %v", r.Type)
}

// chunks calls fn with blockPoints points of a region at a time. The encoders change what they are given: it is fn's
// until it returns.
func chunks[V scan.Value](in *scan.Reader, r Region, fn func([]int64, []V) error) error {
	times, values := make([]int64, 0, blockPoints), make([]V, 0, blockPoints)
	flush := func() error {
		if len(times) == 0 {
			return nil
		}
		err := fn(times, values)
		times, values = times[:0], values[:0]
		return err
	}
	err := scan.Each(in, r.Min, r.Max, func(t []int64, v []V) error {
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
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}
