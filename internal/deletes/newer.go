package deletes

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"

	"concord/internal/order"
	"concord/internal/rpc"
)

// newerInStore returns the points that a delete covers and that this node has with greater versions. A node that was
// away gets the delete late, and has writes by then that came after it.
func (d *Service) newerInStore(r *rpc.Delete) (out []acceptedWrite, err error) {
	of := &removal{version: order.Version(r.Version), req: r}
	type write struct {
		shard   uint64
		version order.Version
	}
	at, n := make(map[write]int), 0 // the place of each write in out
	for _, sh := range d.deps.Store.Shards(d.deps.Store.ShardIDs()) {
		if sh.Database() != r.Database || !d.deps.Writes.MayHaveNewer(sh.ID(), of.version) {
			continue
		}
		var failed error
		err := eachPoint(sh, of, func(p models.Point, key order.Key) {
			v, err := d.deps.Journal.Version(key)
			if err != nil {
				failed = err
			}
			if v <= of.version {
				return
			}
			if n++; n > maxAccepted {
				return
			}
			i, ok := at[write{sh.ID(), v}]
			if !ok {
				i = len(out)
				at[write{sh.ID(), v}] = i
				out = append(out, acceptedWrite{shard: sh.ID(), policy: sh.RetentionPolicy(), version: v})
			}
			out[i].points = append(out[i].points, p)
		})
		if err = cmp.Or(err, failed); err != nil {
			return nil, fmt.Errorf("look for points of shard %d that are newer than the delete: %w", sh.ID(), err)
		}
	}
	if n > maxAccepted {
		d.deps.Log.Warn("A delete removes some points that are newer: anti-entropy brings them back",
			zap.String("database", r.Database), zap.Int("points", n-maxAccepted))
	}
	return out, nil
}

// eachPoint calls fn with each field of the points that a delete covers, as a point of its own.
func eachPoint(sh *tsdb.Shard, d *removal, fn func(models.Point, order.Key)) error {
	c, err := newCovering(d.req, sh.RetentionPolicy())
	if err != nil {
		return err
	}
	names, err := sh.MeasurementNamesByRegex(everyName)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !c.names[string(name)] && !c.all && len(c.regexps) == 0 {
			continue
		}
		fields, tags, err := sh.FieldDimensions([]string{string(name)})
		if err != nil {
			return err
		}
		opt := query.IteratorOptions{StartTime: c.min, EndTime: c.max, Ascending: true}
		for tag := range tags {
			opt.Dimensions = append(opt.Dimensions, tag)
		}
		for field, typ := range fields {
			opt.Expr = &influxql.VarRef{Val: field, Type: typ}
			itr, err := sh.CreateIterator(context.Background(), &influxql.Measurement{Name: string(name)}, opt)
			if err != nil {
				return err
			}
			if itr == nil {
				continue
			}
			err = eachOf(itr, field, func(p models.Point) {
				if d.covers(sh.RetentionPolicy(), p) {
					fn(p, order.KeyOf(sh.ID(), p.Key(), field, p.UnixNano()))
				}
			})
			itr.Close()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// eachOf calls fn with the values of an iterator, as points with one field.
func eachOf(itr query.Iterator, field string, fn func(models.Point)) error {
	emit := func(name string, tags query.Tags, at int64, value any) error {
		kept := tags.KeyValues()
		for k, v := range kept {
			if v == "" { // the series has no such tag
				delete(kept, k)
			}
		}
		p, err := models.NewPoint(name, models.NewTags(kept), models.Fields{field: value}, time.Unix(0, at))
		if err == nil {
			fn(p)
		}
		return err
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
