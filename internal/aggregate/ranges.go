package aggregate

import (
	"math"
	"slices"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
)

// timeRange is a part of the time of a statement, inclusive.
type timeRange struct{ min, max int64 }

// How many windows a part may have, by the memory that there is. Fewer cost time: a block that lies on the edge of two
// parts is decoded twice.
const (
	minWindows = 256
	maxWindows = 8192
	shareParts = 16 // a part may take one of so many parts of the memory that is left
	maxRanges  = 1024
)

// ranges cuts the time of the statement where windows begin, in the order in which the statement wants its answer.
func ranges(p *plan, engine *tsm1.Engine, bounds Bounds) []timeRange {
	all := timeRange{p.opt.StartTime, p.opt.EndTime}
	if p.opt.Interval.IsZero() {
		return []timeRange{all}
	}
	return cut(p, filled(p, engine, bounds, all))
}

// cut makes ranges of those parts of the statement's time that the shard may have points in.
func cut(p *plan, r timeRange) []timeRange {
	all := timeRange{p.opt.StartTime, p.opt.EndTime}
	d, n := int64(p.opt.Interval.Duration), int64(maxWindows)
	if p.share != nil {
		n = min(max(p.share.Left()/shareParts/int64(len(p.columns))/sizeOfWindow, minWindows), maxWindows)
	}
	n = max(n, (r.max-r.min)/d/maxRanges+1) // windows of a nanosecond have points only here and there
	var list []timeRange
	for r.min < r.max && (r.max-r.min)/d >= n {
		next, _ := p.opt.Window(r.min + n*d)
		if next <= r.min {
			break
		}
		list = append(list, timeRange{all.min, next - 1})
		all.min, r.min = next, next
	}
	list = append(list, all)
	if !p.opt.Ascending {
		slices.Reverse(list)
	}
	return list
}

// filled is the part of a range in which the shard may have points, as far as that can be told.
func filled(p *plan, engine *tsm1.Engine, bounds Bounds, all timeRange) timeRange {
	r := timeRange{math.MaxInt64, math.MinInt64}
	for _, f := range engine.FileStore.Files() {
		from, to := f.TimeRange()
		r = timeRange{min(r.min, from), max(r.max, to)}
	}
	if engine.Cache.Size() > 0 && bounds != nil {
		if from, to, ok := bounds(p.shard.ID()); ok {
			r = timeRange{min(r.min, from), max(r.max, to)}
		}
	}
	return timeRange{max(r.min, all.min), min(r.max, all.max)}
}
