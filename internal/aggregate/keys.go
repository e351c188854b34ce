package aggregate

import (
	"context"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
)

// CoversKeys reports whether an iterator is asked for nothing but the keys of series, as exact cardinality asks.
func CoversKeys(mm *influxql.Measurement, opt query.IteratorOptions) bool {
	ref, ok := opt.Expr.(*influxql.VarRef)
	return ok && ref.Val == "_seriesKey" && mm.SystemIterator == "" && mm.Regex == nil && len(opt.Aux) == 0 &&
		opt.Limit == 0 && opt.Offset == 0 && len(opt.GetDimensions()) == len(opt.Dimensions) &&
		!fieldIn(opt.Condition) &&
		opt.StartTime <= keyTime && opt.EndTime >= keyTime
}

// keyTime is the time that the engine gives the keys of series.
const keyTime = 0

// OpenKeys returns the keys of the series of a shard, by group: a loop over the index, where the engine has an iterator
// for each series. It is nil when there are none. covered is as in Open.
func OpenKeys(
	ctx context.Context, shard *tsdb.Shard, mm *influxql.Measurement, opt query.IteratorOptions,
) (itr query.StringIterator, covered bool, err error) {
	p := newPlan(ctx, shard, mm, opt)
	covered, err = p.findSeries(mm.Name)
	if err != nil || !covered || p.series == 0 {
		return nil, covered, err
	}
	return &keys{plan: p}, true, nil
}

// keys are the series of a plan.
type keys struct {
	plan      *plan
	group, at int
	point     query.StringPoint
}

// Next returns a point that is valid until the next call.
func (k *keys) Next() (*query.StringPoint, error) {
	if k.at%endedEvery == 0 {
		if err := k.plan.ended(); err != nil {
			return nil, err
		}
	}
	for k.group < len(k.plan.groups) {
		g := k.plan.groups[k.group]
		if k.at < len(g.keys) {
			k.at++
			k.point = query.StringPoint{Name: k.plan.name, Tags: g.tags, Time: keyTime, Value: g.keys[k.at-1]}
			return &k.point, nil
		}
		k.group, k.at = k.group+1, 0
	}
	return nil, nil
}

// endedEvery is after how many keys it is looked whether the statement has ended.
const endedEvery = 1024

// Stats is of query.Iterator.
func (k *keys) Stats() query.IteratorStats {
	return query.IteratorStats{SeriesN: k.plan.series, PointN: k.plan.series}
}

// Close has nothing to free.
func (k *keys) Close() error { return nil }
