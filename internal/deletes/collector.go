package deletes

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/order"
)

// collector collects points of a shard that are newer than a delete, as one write for each version.
//
// A value and a version belong together when the version was the same before and after the value was read, and nothing
// of a greater version was under way. Points that are written meanwhile are read a second time, while writes wait.
type collector struct {
	shard      *tsdb.Shard
	journal    *order.Journal
	above      order.Version           // of the delete
	holdWrites func() (release func()) // lets those that are under way end, and begins no others until release
	fn         func([]acceptedWrite) error
	found      []found
	bytes      int
}

// found is a field of a point that may be newer than the delete. The value in p need not be that of its version.
type found struct {
	p     models.Point
	field string
	key   order.Key
}

// collectedBytes is how much is collected, as line protocol.
const collectedBytes = 4 << 20

func (b *collector) add(ctx context.Context, f found) error {
	b.found = append(b.found, f)
	if b.bytes += f.p.StringSize(); b.bytes > collectedBytes {
		return b.flush(ctx)
	}
	return nil
}

func (b *collector) flush(ctx context.Context) error {
	writes := make(map[order.Version]*acceptedWrite)
	changing, err := b.read(ctx, b.found, writes)
	if err == nil && len(changing) > 0 {
		release := b.holdWrites()
		_, err = b.read(ctx, changing, writes)
		release()
	}
	b.found, b.bytes = nil, 0
	if err != nil {
		return err
	}
	out := make([]acceptedWrite, 0, len(writes))
	for _, w := range writes {
		out = append(out, *w)
	}
	return b.fn(out)
}

// read adds to writes what the store has of some fields, with its versions. It returns the fields that were written
// meanwhile.
func (b *collector) read(
	ctx context.Context, fields []found, writes map[order.Version]*acceptedWrite,
) (changing []found, err error) {
	before := make([]order.Version, len(fields))
	for i, f := range fields {
		if before[i], err = b.certainVersion(f.key); err != nil {
			return nil, err
		}
	}
	values, err := b.values(ctx, fields)
	if err != nil {
		return nil, err
	}
	for i, f := range fields {
		v, err := b.certainVersion(f.key)
		switch {
		case err != nil:
			return nil, err
		case v != before[i] || v == order.Uncertain:
			changing = append(changing, f)
		case v > b.above && values[f.key] != nil: // else its last write failed, or it is gone
			w := writes[v]
			if w == nil {
				w = &acceptedWrite{shard: b.shard.ID(), policy: b.shard.RetentionPolicy(), version: v}
				writes[v] = w
			}
			w.points = append(w.points, values[f.key])
		}
	}
	return changing, nil
}

// certainVersion is the version of the value that the store has, Uncertain while a newer one is being written. A write
// that failed does not count: it comes again, or its client knows.
func (b *collector) certainVersion(key order.Key) (order.Version, error) {
	written, underWay, err := b.journal.Written(key)
	if underWay > written {
		return order.Uncertain, err
	}
	return written, err
}

// values returns the fields as the store has them, each as a point of its own.
func (b *collector) values(ctx context.Context, fields []found) (map[order.Key]models.Point, error) {
	type column struct{ series, field string }
	columns := make(map[column][]found)
	for _, f := range fields {
		c := column{string(f.p.Key()), f.field}
		columns[c] = append(columns[c], f)
	}
	cursors, err := b.shard.CreateCursorIterator(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[order.Key]models.Point, len(fields))
	for _, of := range columns {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		keys := make(map[int64]order.Key, len(of))
		from, to := of[0].p.UnixNano(), of[0].p.UnixNano()
		for _, f := range of {
			at := f.p.UnixNano()
			keys[at], from, to = f.key, min(from, at), max(to, at)
		}
		first := of[0]
		c, err := cursors.Next(ctx, &tsdb.CursorRequest{
			Name: first.p.Name(), Tags: first.p.Tags(), Field: first.field, Ascending: true,
			StartTime: from, EndTime: to,
		})
		if err == nil && c != nil {
			err = eachValue(c, func(at int64, value any) error {
				key, wanted := keys[at]
				if !wanted {
					return nil
				}
				p, err := models.NewPoint(
					string(first.p.Name()), first.p.Tags(), models.Fields{first.field: value}, time.Unix(0, at))
				out[key] = p
				return err
			})
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// eachValue calls fn with the values of a cursor, and closes it.
func eachValue(c tsdb.Cursor, fn func(at int64, value any) error) error {
	defer c.Close()
	var err error
	all := func(times []int64, value func(i int) any) bool {
		for i, at := range times {
			if err = fn(at, value(i)); err != nil {
				return false
			}
		}
		return len(times) > 0
	}
	switch c := c.(type) {
	case tsdb.FloatArrayCursor:
		for a := c.Next(); all(a.Timestamps, func(i int) any { return a.Values[i] }); a = c.Next() {
		}
	case tsdb.IntegerArrayCursor:
		for a := c.Next(); all(a.Timestamps, func(i int) any { return a.Values[i] }); a = c.Next() {
		}
	case tsdb.UnsignedArrayCursor:
		for a := c.Next(); all(a.Timestamps, func(i int) any { return a.Values[i] }); a = c.Next() {
		}
	case tsdb.StringArrayCursor: // its strings are parts of a buffer
		for a := c.Next(); all(a.Timestamps, func(i int) any { return strings.Clone(a.Values[i]) }); a = c.Next() {
		}
	case tsdb.BooleanArrayCursor:
		for a := c.Next(); all(a.Timestamps, func(i int) any { return a.Values[i] }); a = c.Next() {
		}
	default:
		return fmt.Errorf("unknown cursor %T", c)
	}
	if err != nil {
		return err
	}
	return c.Err()
}
