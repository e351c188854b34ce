package deletes

import (
	"context"
	"fmt"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/order"
	"concord/internal/rpc"
)

// eachNewer calls fn with the points that a delete covers and that this node has with greater versions, some at a time.
// A node that was away gets the delete late, and has writes by then that came after it.
//
// The scan finds which points these are. It does not say which values they have: a point may be overwritten between
// the moment of which the scan is and the look into the journal. The older value would then get the version of the
// newer one, and take its place for ever. So collector reads the values once more, together with their versions.
func (d *Service) eachNewer(r *rpc.Delete, fn func([]acceptedWrite) error) error {
	ctx, cancel := context.WithTimeout(d.open, deleteTimeout)
	defer cancel()
	end, err := d.deps.Store.BeginDelete(ctx, r.Database) // nothing is found in a shard that is being closed
	if err != nil {
		return err
	}
	defer end()
	removed := &removal{version: order.Version(r.Version), req: r}
	for _, sh := range d.deps.Store.Shards(d.deps.Store.ShardIDs()) {
		if sh.Database() != r.Database || !d.deps.Writes.MayHaveNewer(sh.ID(), removed.version) {
			continue
		}
		b := collector{
			shard: sh, journal: d.deps.Journal, above: removed.version, fn: fn,
			holdWrites: func() (release func()) { return d.deps.Memory.removals.holdWrites(r.Database) },
		}
		err := eachPoint(ctx, sh, removed, func(p models.Point, field string) error {
			key := order.KeyOf(sh.ID(), p.Key(), field, p.UnixNano())
			v, err := d.deps.Journal.Version(key)
			if err == nil && v > removed.version {
				err = b.add(ctx, found{p, field, key})
			}
			return err
		})
		if err == nil {
			err = b.flush(ctx)
		}
		if err != nil {
			return fmt.Errorf("look for points of shard %d that are newer than the delete: %w", sh.ID(), err)
		}
	}
	return nil
}

// eachPoint calls fn with each field of the points that a delete covers, as a point of its own.
func eachPoint(
	ctx context.Context, sh *tsdb.Shard, d *removal, fn func(p models.Point, field string) error,
) error {
	c, err := newCovering(d.req, sh.RetentionPolicy())
	if err != nil {
		return err
	}
	names, err := sh.MeasurementNamesByRegex(everyName)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !c.coversName(string(name)) {
			continue
		}
		fields, tags, err := sh.FieldDimensions([]string{string(name)})
		if err != nil {
			return err
		}
		opt := query.IteratorOptions{StartTime: c.min, EndTime: c.max, Condition: c.tags, Ascending: true}
		for tag := range tags {
			opt.Dimensions = append(opt.Dimensions, tag)
		}
		for field, typ := range fields {
			opt.Expr = &influxql.VarRef{Val: field, Type: typ}
			err := eachOfField(ctx, sh, string(name), field, opt, func(p models.Point) error {
				if err := ctx.Err(); err != nil || !d.covers(sh.RetentionPolicy(), p) {
					return err
				}
				return fn(p, field)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// eachOfField calls fn with the values of one field of a measurement.
func eachOfField(
	ctx context.Context, sh *tsdb.Shard, name, field string, opt query.IteratorOptions, fn func(models.Point) error,
) error {
	itr, err := sh.CreateIterator(ctx, &influxql.Measurement{Name: name}, opt)
	if err != nil || itr == nil {
		return err
	}
	defer itr.Close()
	return eachOf(itr, field, fn)
}

// eachOf calls fn with the values of an iterator, as points with one field.
func eachOf(itr query.Iterator, field string, fn func(models.Point) error) error {
	emit := func(name string, tags query.Tags, at int64, value any) error {
		kept := tags.KeyValues()
		for k, v := range kept {
			if v == "" { // the series has no such tag
				delete(kept, k)
			}
		}
		p, err := models.NewPoint(name, models.NewTags(kept), models.Fields{field: value}, time.Unix(0, at))
		if err != nil {
			return err
		}
		return fn(p)
	}
	switch itr := itr.(type) {
	case query.FloatIterator:
		return drain(itr.Next, func(p *query.FloatPoint) error { return emit(p.Name, p.Tags, p.Time, p.Value) })
	case query.IntegerIterator:
		return drain(itr.Next, func(p *query.IntegerPoint) error { return emit(p.Name, p.Tags, p.Time, p.Value) })
	case query.UnsignedIterator:
		return drain(itr.Next, func(p *query.UnsignedPoint) error { return emit(p.Name, p.Tags, p.Time, p.Value) })
	case query.StringIterator:
		return drain(itr.Next, func(p *query.StringPoint) error { return emit(p.Name, p.Tags, p.Time, p.Value) })
	case query.BooleanIterator:
		return drain(itr.Next, func(p *query.BooleanPoint) error { return emit(p.Name, p.Tags, p.Time, p.Value) })
	}
	return fmt.Errorf("unknown iterator %T", itr)
}

// drain calls fn with each point until next has no more.
func drain[P any](next func() (*P, error), fn func(*P) error) error {
	for {
		p, err := next()
		if p == nil || err != nil {
			return err
		}
		if err := fn(p); err != nil {
			return err
		}
	}
}
