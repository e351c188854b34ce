package distquery

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/influxdata/influxql"

	"concord/internal/budget"
	"concord/internal/entropy/tsmfile"
	"concord/internal/restrict"
	"concord/internal/seriesindex"
)

// A user with restrictions sees a measurement as if it had the allowed series alone. The engine checks series where it
// makes iterators and lists of tags. What it knows by measurement is here: fields, tag keys, and that there is one.

// oneShard is a shard as this file asks it.
type oneShard struct {
	*tsdb.Shard
	index tsdb.IndexSet
	auth  query.FineAuthorizer
}

func newOneShard(sh *tsdb.Shard, auth query.FineAuthorizer) (*oneShard, error) {
	set, err := seriesindex.SetOf(sh)
	if err != nil {
		return nil, err
	}
	return &oneShard{sh, set, auth}, nil
}

// each calls see for all series of a measurement until it returns false. Tags are valid during the call.
func (o *oneShard) each(ctx context.Context, name []byte, see func(tags models.Tags, allowed bool) bool) error {
	itr, err := o.index.MeasurementSeriesByExprIterator(name, nil)
	if err != nil || itr == nil {
		return err
	}
	defer itr.Close()
	defer o.index.SeriesFile.Retain()() // and not before: the index retains it too, and a delete may wait in between
	var tags models.Tags
	for n := 0; ; n++ {
		if n%endedEvery == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		e, err := itr.Next()
		if err != nil || e.SeriesID == 0 {
			return err
		}
		key := o.index.SeriesFile.SeriesKey(e.SeriesID)
		if len(key) == 0 {
			continue
		}
		_, tags = tsdb.ParseSeriesKeyInto(key, tags)
		if !see(tags, o.auth.AuthorizeSeriesRead(o.Database(), name, tags)) {
			return nil
		}
	}
}

// exists reports whether an allowed series of a measurement exists.
func (o *oneShard) exists(ctx context.Context, name []byte) (found bool, err error) {
	err = o.each(ctx, name, func(_ models.Tags, allowed bool) bool {
		found = allowed
		return !found
	})
	return found, err
}

// dimensions are the fields and tag keys that allowed series of a measurement have.
func (o *oneShard) dimensions(
	ctx context.Context, name []byte,
) (fields map[string]influxql.DataType, dims map[string]struct{}, err error) {
	share, size := budget.Of(ctx), int64(0)
	defer func() { share.Grow(-size) }()
	var (
		keys   []string // of allowed series
		hidden bool     // there are others
		over   error
	)
	dims = make(map[string]struct{})
	err = o.each(ctx, name, func(tags models.Tags, allowed bool) bool {
		if !allowed {
			hidden = true
			return true
		}
		for _, t := range tags {
			if _, known := dims[string(t.Key)]; !known {
				dims[string(t.Key)] = struct{}{}
			}
		}
		key := string(models.MakeKey(name, tags))
		keys = append(keys, key)
		cost := costOfName + int64(len(key))
		size += cost
		over = share.Grow(cost)
		return over == nil
	})
	if err == nil {
		err = over
	}
	if err != nil || len(keys) == 0 {
		return nil, nil, err
	}
	mf := o.MeasurementFields(name)
	if mf == nil {
		return nil, dims, nil
	}
	fields = mf.FieldSet() // a copy
	if !hidden {
		return fields, dims, nil
	}
	engine, err := tsmfile.EngineOf(o.Shard)
	if err != nil {
		return nil, nil, err
	}
	for field := range fields {
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		if !slices.ContainsFunc(keys, func(key string) bool { return hasField(engine, key, field) }) {
			delete(fields, field)
		}
	}
	return fields, dims, nil
}

// hasField reports whether a series has points of a field. What is not in the cache was in a file before it left it.
func hasField(engine *tsm1.Engine, series, field string) bool {
	key := tsm1.SeriesFieldKeyBytes(series, field)
	if _, err := engine.Cache.Type(key); err == nil {
		return true
	}
	_, err := engine.FileStore.Type(key)
	return err == nil
}

// namesOf are the measurements that a source is about.
func namesOf(sh *tsdb.Shard, mm *influxql.Measurement) []string {
	if mm.Regex != nil {
		return tsdb.Shards{sh}.MeasurementsByRegex(mm.Regex.Val)
	}
	return []string{mm.Name}
}

// mostFields is how many fields a measurement has in one of the shards at most, or all measurements of a regular
// expression together.
func mostFields(store *tsdb.Store, ids []uint64, mm *influxql.Measurement) (most int64) {
	for _, sh := range store.Shards(ids) {
		var n int64
		for _, name := range namesOf(sh, mm) {
			n += fieldsIn(sh, name)
		}
		most = max(most, n)
	}
	return most
}

// fieldsIn is how many fields a measurement has in a shard. It is 0 for a shard that is not open: who reads it says so.
// The shard's MeasurementFields would make a measurement that is not there.
func fieldsIn(sh *tsdb.Shard, name string) int64 {
	engine, err := sh.Engine()
	if err != nil {
		return 0
	}
	if fields := engine.MeasurementFieldSet().FieldsByString(name); fields != nil {
		return int64(fields.FieldN())
	}
	return 0
}

// dimensionsOf are the fields and tags of a measurement in shards of this node that the user may see.
func dimensionsOf(
	ctx context.Context, store *tsdb.Store, ids []uint64, mm *influxql.Measurement, allowed *restrict.Filter,
) (map[string]influxql.DataType, map[string]struct{}, error) {
	share, most := budget.Of(ctx), mostFields(store, ids, mm)
	size := costOfMaps * most
	defer share.Grow(-size)
	if err := share.Grow(size); err != nil {
		return nil, nil, overBudget(err)
	}
	if mm.SystemIterator != "" {
		return localShards(store, ids, mm).FieldDimensions(mm)
	}
	fields, dims := make(map[string]influxql.DataType, most), make(map[string]struct{})
	for _, sh := range store.Shards(ids) {
		if allowed == nil {
			if err := addDimensions(ctx, sh, namesOf(sh, mm), fields, dims); err != nil {
				return nil, nil, err
			}
			continue
		}
		o, err := newOneShard(sh, allowed)
		if err != nil {
			return nil, nil, err
		}
		for _, name := range namesOf(sh, mm) {
			more, tags, err := o.dimensions(ctx, []byte(name))
			if err != nil {
				return nil, nil, err
			}
			addTypes(fields, more)
			maps.Copy(dims, tags)
		}
	}
	return fields, dims, nil
}

func addTypes(fields, more map[string]influxql.DataType) {
	for field, typ := range more {
		if fields[field].LessThan(typ) {
			fields[field] = typ
		}
	}
}

// addDimensions adds what the engine's Shard.FieldDimensions returns. The engine copies the fields of a measurement
// four times, and cannot be interrupted: a million of them took a minute on a node that had little memory left.
func addDimensions(
	ctx context.Context, sh *tsdb.Shard, names []string, fields map[string]influxql.DataType, dims map[string]struct{},
) error {
	engine, err := sh.Engine()
	if err != nil {
		return err
	}
	set, err := seriesindex.SetOf(sh)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, "_") { // the engine has names of its own
			more, tags, err := sh.FieldDimensions([]string{name})
			if err != nil {
				return err
			}
			addTypes(fields, more)
			maps.Copy(dims, tags)
			continue
		}
		if exists, err := engine.MeasurementExists([]byte(name)); err != nil {
			return err
		} else if !exists {
			continue
		}
		if mf := engine.MeasurementFieldSet().FieldsByString(name); mf != nil {
			n, ended := 0, false
			mf.ForEachField(func(field string, typ influxql.DataType) bool {
				if fields[field].LessThan(typ) {
					fields[field] = typ
				}
				n++
				ended = n%endedEvery == 0 && ctx.Err() != nil
				return !ended
			})
			if ended {
				return context.Cause(ctx)
			}
		}
		if err := set.ForEachMeasurementTagKey([]byte(name), func(key []byte) error {
			dims[string(key)] = struct{}{}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// costOf is the cost of an iterator over shards of this node. A measurement without an allowed series costs nothing, as
// one that does not exist.
func costOf(
	ctx context.Context, store *tsdb.Store, ids []uint64, mm *influxql.Measurement, opt query.IteratorOptions,
	allowed *restrict.Filter,
) (cost query.IteratorCost, err error) {
	if allowed == nil || mm.SystemIterator != "" {
		return localShards(store, ids, mm).IteratorCost(mm, opt)
	}
	for _, sh := range store.Shards(ids) {
		o, err := newOneShard(sh, allowed)
		if err != nil {
			return cost, err
		}
		for _, name := range namesOf(sh, mm) {
			exists, err := o.exists(ctx, []byte(name))
			if err != nil {
				return cost, err
			}
			if !exists {
				continue
			}
			one := mm.Clone()
			one.Name, one.Regex = name, nil
			c, err := localShards(store, []uint64{sh.ID()}, one).IteratorCost(one, opt)
			if err != nil {
				return cost, err
			}
			cost = cost.Combine(c)
		}
	}
	return cost, nil
}

// fieldKeys lists the fields of measurements, as the engine's list of a shard does.
type fieldKeys struct {
	points []query.FloatPoint
}

// openFieldKeys lists the fields that allowed series have in a shard.
func openFieldKeys(ctx context.Context, part tsdb.Shards, opt query.IteratorOptions) (query.Iterator, error) {
	list := &fieldKeys{}
	for _, sh := range part {
		o, err := newOneShard(sh, opt.Authorizer)
		if err != nil {
			return nil, err
		}
		names, err := o.index.MeasurementNamesByExpr(opt.Authorizer, opt.Condition)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			fields, _, err := o.dimensions(ctx, name)
			if err != nil {
				return nil, err
			}
			if err := budget.Of(ctx).Grow(costOfField * int64(len(fields))); err != nil {
				return nil, err
			}
			sorted := make([]string, 0, len(fields))
			for field := range fields {
				sorted = append(sorted, field)
			}
			slices.Sort(sorted)
			for _, field := range sorted {
				list.points = append(list.points, query.FloatPoint{
					Name: string(name), Aux: []any{field, fields[field].String()},
				})
			}
		}
	}
	return list, nil
}

// Next is of query.FloatIterator.
func (k *fieldKeys) Next() (*query.FloatPoint, error) {
	if len(k.points) == 0 {
		return nil, nil
	}
	p := &k.points[0]
	k.points = k.points[1:]
	return p, nil
}

// Stats is of query.Iterator.
func (k *fieldKeys) Stats() query.IteratorStats { return query.IteratorStats{} }

// Close is of query.Iterator.
func (k *fieldKeys) Close() error { return nil }

// allowedSeries are those of some series that the user may see.
func allowedSeries(file *tsdb.SeriesFile, all *tsdb.SeriesIDSet, allowed *restrict.Filter) *tsdb.SeriesIDSet {
	if allowed == nil {
		return all
	}
	defer file.Retain()()
	some := tsdb.NewSeriesIDSet()
	var tags models.Tags
	for _, id := range all.Slice() {
		key := file.SeriesKey(id)
		if len(key) == 0 {
			continue
		}
		var name []byte
		if name, tags = tsdb.ParseSeriesKeyInto(key, tags); allowed.Allows(name, tags) {
			some.Add(id)
		}
	}
	return some
}
