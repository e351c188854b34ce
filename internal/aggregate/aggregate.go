package aggregate

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/influxdata/influxdb/pkg/tracing"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/entropy/scan"
	"concord/internal/entropy/tsmfile"
)

// Covers reports whether this package may answer a call. Open has the last word: it knows what of a condition is a
// field.
func Covers(mm *influxql.Measurement, opt query.IteratorOptions) bool {
	call, ref := callOf(opt)
	switch {
	case ref == nil || mm.SystemIterator != "" || mm.Regex != nil || strings.HasPrefix(ref.Val, "_"):
		return false
	case len(opt.Aux) > 0 || opt.Limit != 0 || opt.Offset != 0:
		return false
	case byTagSet(call.Name, opt) && len(opt.GroupBy) != len(opt.Dimensions):
		return false
	case fieldIn(opt.Condition):
		return false
	}
	switch ref.Type {
	case influxql.Float, influxql.Integer, influxql.Unsigned:
		return true
	case influxql.Boolean:
		return call.Name != "sum" && call.Name != "mean"
	case influxql.String:
		return call.Name == "count" || call.Name == "first" || call.Name == "last"
	}
	return false
}

// callOf returns the call that an iterator is asked for, and its field; nil when it is another one.
func callOf(opt query.IteratorOptions) (*influxql.Call, *influxql.VarRef) {
	call, ok := opt.Expr.(*influxql.Call)
	if !ok || needOf[call.Name] == 0 || len(call.Args) != 1 {
		return nil, nil
	}
	ref, _ := call.Args[0].(*influxql.VarRef)
	return call, ref
}

// byTagSet reports whether the engine answers a call from the first or last point of each series. Of points of the same
// time it then takes that of one series, whatever the values are.
func byTagSet(call string, opt query.IteratorOptions) bool {
	return opt.Interval.IsZero() && (call == "first" || call == "last")
}

// fieldIn reports whether a condition is about a field.
func fieldIn(condition influxql.Expr) (is bool) {
	influxql.WalkFunc(condition, func(n influxql.Node) {
		if ref, ok := n.(*influxql.VarRef); ok {
			switch ref.Type {
			case influxql.Tag, influxql.Unknown:
			default:
				is = true
			}
		}
	})
	return is
}

// Bounds tells the range of time, inclusive, of the group that a shard belongs to; ok is false when it does not know.
// A nil one knows nothing.
type Bounds func(shard uint64) (min, max int64, ok bool)

// Scan reads one measurement of one shard for some calls. It ends when the iterators of all calls are closed.
type Scan struct {
	*plan
	reading *reading

	mu    sync.Mutex
	left  []*part // of the last task
	views []*view // of the calls
	open  int     // views that are not closed
	held  *part   // whose points the views have
	err   error

	span   *tracing.Span            // of EXPLAIN ANALYZE, nil mostly
	blocks [scan.Types]atomic.Int64 // that were decoded
}

// Open begins to read one shard for calls, which are of the same statement and differ in nothing but Expr. Covers must
// hold for each. covered is false when the engine must answer them after all, which takes no time to find out, or
// nearly none. The scan is nil when the shard has nothing of what is asked.
func Open(
	ctx context.Context, shard *tsdb.Shard, bounds Bounds,
	mm *influxql.Measurement, opt query.IteratorOptions, exprs ...influxql.Expr,
) (s *Scan, covered bool, err error) {
	return open(ctx, shard, bounds, mm, opt, Keep{}, exprs...)
}

// open is Open. With keep, the one call is its name, and the answer is points of the field.
func open(
	ctx context.Context, shard *tsdb.Shard, bounds Bounds,
	mm *influxql.Measurement, opt query.IteratorOptions, keep Keep, exprs ...influxql.Expr,
) (s *Scan, covered bool, err error) {
	engine, err := tsmfile.EngineOf(shard)
	if err != nil {
		return nil, true, err
	}
	p := newPlan(ctx, shard, mm, opt)
	p.keep = keep
	if !p.findFields(engine.MeasurementFieldSet().FieldsByString(mm.Name), exprs) {
		return nil, true, nil
	}
	if err := p.share.Grow(costOfCall * int64(len(exprs))); err != nil {
		return nil, true, err
	}
	if covered, err = p.findSeries(mm.Name); err != nil || !covered || p.series == 0 {
		return nil, covered, err
	}
	p.ranges = ranges(p, engine, bounds)
	s = &Scan{plan: p}
	s.start()
	return s, true, nil
}
