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

func blocks(ctx context.Context, cur tsdb.Cursor, r Region, fn func(points int, b Block) error) error {
	var held tsm1.Values
	flush := func() error {
		if len(held) == 0 {
			return nil
		}
		b, err := NewBlock(r.Series, r.Field, held)
		if err != nil {
			return err
		}
		n := len(held)
		held = held[:0]
		if err := ctx.Err(); err != nil {
			return err
		}
		return fn(n, b)
	}
	add := func(n int, t []int64, v func(int) any) error {
		for i := range n {
			held = append(held, tsm1.NewValue(t[i], v(i)))
			if len(held) == blockPoints {
				if err := flush(); err != nil {
					return err
				}
			}
		}
		return nil
	}
	var err error
	switch c := cur.(type) {
	case tsdb.FloatArrayCursor:
		for a := c.Next(); a.Len() > 0 && err == nil; a = c.Next() {
			err = add(a.Len(), a.Timestamps, func(i int) any { return a.Values[i] })
		}
	case tsdb.IntegerArrayCursor:
		for a := c.Next(); a.Len() > 0 && err == nil; a = c.Next() {
			err = add(a.Len(), a.Timestamps, func(i int) any { return a.Values[i] })
		}
	case tsdb.UnsignedArrayCursor:
		for a := c.Next(); a.Len() > 0 && err == nil; a = c.Next() {
			err = add(a.Len(), a.Timestamps, func(i int) any { return a.Values[i] })
		}
	case tsdb.BooleanArrayCursor:
		for a := c.Next(); a.Len() > 0 && err == nil; a = c.Next() {
			err = add(a.Len(), a.Timestamps, func(i int) any { return a.Values[i] })
		}
	case tsdb.StringArrayCursor:
		for a := c.Next(); a.Len() > 0 && err == nil; a = c.Next() {
			err = add(a.Len(), a.Timestamps, func(i int) any { return a.Values[i] })
		}
	default:
		err = fmt.Errorf("unknown cursor %T", cur)
	}
	if err != nil {
		return err
	}
	return flush()
}
