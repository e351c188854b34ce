package distquery

import (
	"context"
	"slices"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/budget"
	"concord/internal/seriesindex"
)

// seriesList is the engine's list of series (SHOW SERIES) over shards of this node: by measurement, and within one in
// the order of the series keys, each once. The engine's own list sorts all series of a measurement, however few are
// asked for, does not end while it sorts, and points into files that may be closed before a slow client has read it.
type seriesList struct {
	ctx   context.Context
	opt   query.IteratorOptions
	set   tsdb.IndexSet
	names tsdb.MeasurementIterator
	most  int // series that are asked for; 0 is all

	keys  [][]byte // of the measurement that are still to be returned
	size  int64    // bytes of them that were taken from the share
	point query.FloatPoint
}

// openSeriesList returns nil when there are no shards.
func openSeriesList(ctx context.Context, shards tsdb.Shards, opt query.IteratorOptions) (query.Iterator, error) {
	l := &seriesList{ctx: ctx, opt: opt, point: query.FloatPoint{Aux: make([]any, len(opt.Aux))}}
	var err error
	if l.set, err = seriesindex.SetOf(shards...); err != nil || len(shards) == 0 {
		return nil, err
	}
	if opt.Limit > 0 && opt.Limit <= mostKept && opt.Offset <= mostKept {
		l.most = opt.Offset + opt.Limit
	}
	// The engine checks the condition.
	own, err := tsdb.NewSeriesPointIterator(l.set, opt)
	if err != nil {
		return nil, err
	}
	if err := own.Close(); err != nil {
		return nil, err
	}
	l.names, err = l.set.MeasurementIterator()
	return l, err
}

// Next returns a point that is valid until the next call.
func (l *seriesList) Next() (*query.FloatPoint, error) {
	for len(l.keys) == 0 {
		if err := l.ended(); l.names == nil || err != nil {
			return nil, err
		}
		name, err := l.names.Next()
		if name == nil || err != nil {
			return nil, err
		}
		if err := l.read(name); err != nil {
			return nil, err
		}
	}
	name, tags := tsdb.ParseSeriesKey(l.keys[0])
	l.keys = l.keys[1:]
	for i, ref := range l.opt.Aux {
		if ref.Val == "key" {
			l.point.Aux[i] = string(models.MakeKey(name, tags))
		}
	}
	return &l.point, nil
}

// read takes the series of a measurement, or the first of them when no more are asked for.
func (l *seriesList) read(name []byte) error {
	share := budget.Of(l.ctx)
	share.Grow(-l.size)
	l.keys, l.size = nil, 0
	series, err := l.set.MeasurementSeriesByExprIterator(name, l.opt.Condition)
	if err != nil || series == nil {
		return err
	}
	defer series.Close()
	defer l.set.SeriesFile.Retain()() // and not before: the index retains it too, and a delete may wait in between
	for n := 0; ; n++ {
		if n%endedEvery == 0 {
			if err := l.ended(); err != nil {
				return err
			}
		}
		e, err := series.Next()
		if err != nil {
			return err
		}
		if e.SeriesID == 0 {
			break
		}
		key := l.set.SeriesFile.SeriesKey(e.SeriesID)
		if len(key) == 0 {
			continue
		}
		if a := l.opt.Authorizer; a != nil {
			if name, tags := tsdb.ParseSeriesKey(key); !a.AuthorizeSeriesRead(l.set.Database(), name, tags) {
				continue
			}
		}
		// A key of the file is valid until it is let go.
		l.keys = append(l.keys, slices.Clone(key))
		cost := costOfName + int64(len(key))
		l.size += cost
		if err := share.Grow(cost); err != nil {
			return err
		}
		if l.most > 0 && len(l.keys) >= 2*l.most+endedEvery {
			l.sort()
		}
	}
	l.sort()
	return l.ended()
}

// mostKept is from which LIMIT or OFFSET on all series are kept: their sums must not overflow.
const mostKept = 1 << 30

// endedEvery is after how many series it is looked whether the statement has ended.
const endedEvery = 1024

// sort sorts the series, and drops those that are more than are asked for. When the statement ends meanwhile all
// series are alike, so that it ends at once.
func (l *seriesList) sort() {
	n, over := 0, false
	slices.SortFunc(l.keys, func(a, b []byte) int {
		if n++; n%endedEvery == 0 {
			over = l.ended() != nil
		}
		if over {
			return 0
		}
		return tsdb.CompareSeriesKeys(a, b)
	})
	if l.most > 0 && len(l.keys) > l.most {
		var dropped int64
		for _, key := range l.keys[l.most:] {
			dropped += costOfName + int64(len(key))
		}
		clear(l.keys[l.most:])
		l.keys = l.keys[:l.most]
		budget.Of(l.ctx).Grow(-dropped)
		l.size -= dropped
	}
}

// ended is the error of a statement that is to end.
func (l *seriesList) ended() error {
	select {
	case <-l.ctx.Done():
		return context.Cause(l.ctx)
	case <-l.opt.InterruptCh:
		return query.ErrQueryInterrupted
	default:
		return nil
	}
}

// Stats is of query.Iterator.
func (l *seriesList) Stats() query.IteratorStats { return query.IteratorStats{} }

// Close is of query.Iterator.
func (l *seriesList) Close() error {
	budget.Of(l.ctx).Grow(-l.size)
	l.keys, l.size = nil, 0
	if l.names == nil {
		return nil
	}
	names := l.names
	l.names = nil
	return names.Close()
}
