package aggregate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/pkg/tracing"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/influxdata/influxql"

	"concord/internal/budget"
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

// What a scan takes from the share of memory, in bytes.
const (
	costOfSeries = 64      // in the plan, besides its key
	costOfCall   = 2 << 10 // with its iterator
	costOfSink   = 1 << 10 // of a column in a part, besides its windows
)

// Bounds tells the range of time, inclusive, of the group that a shard belongs to; ok is false when it does not know.
// A nil one knows nothing.
type Bounds func(shard uint64) (min, max int64, ok bool)

// Scan reads one measurement of one shard for some calls.
type Scan struct {
	ctx    context.Context
	shard  *tsdb.Shard
	engine *tsm1.Engine
	bounds Bounds
	opt    query.IteratorOptions // that all calls have; but for Expr
	share  *budget.Share

	name    string // of the points
	columns []*column
	calls   []callPlan
	groups  []group
	series  int

	dims []string // that the points have, when these are more than those of the groups

	reading *reading

	mu    sync.Mutex
	left  []*part // of the last task
	views []*view
	held  *part // whose points the views have
	err   error

	span   *tracing.Span            // of EXPLAIN ANALYZE, nil mostly
	blocks [scan.Types]atomic.Int64 // that were decoded
}

// column is a field that calls are about.
type column struct {
	field  string
	stored influxql.DataType // the type that the shard has
	asked  influxql.DataType // the type that the calls want
	need   needs
	edges  needs        // needFirst and needLast of calls by tag set
	points atomic.Int64 // that were read
}

// callPlan is a call.
type callPlan struct {
	name   string
	column int // -1 when the shard does not have the field, or it cannot be read as the type that is asked for
	edge   bool
}

// group is the series of one tag set.
type group struct {
	tags query.Tags
	keys []string
}

// Open begins to read one shard for calls, which are of the same statement and differ in nothing but Expr. Covers
// must hold for each. covered is false when the engine must answer them after all, which takes no time to find out,
// or nearly none. The scan is nil when the shard has nothing of what is asked. Close ends it.
func Open(
	ctx context.Context, shard *tsdb.Shard, bounds Bounds,
	mm *influxql.Measurement, opt query.IteratorOptions, exprs ...influxql.Expr,
) (s *Scan, covered bool, err error) {
	engine, err := tsmfile.EngineOf(shard)
	if err != nil {
		return nil, true, err
	}
	s = &Scan{ctx: ctx, shard: shard, engine: engine, bounds: bounds, opt: opt, share: budget.Of(ctx), name: mm.Name}
	if opt.StripName {
		s.name = ""
	}
	if dims := opt.GetDimensions(); len(dims) != len(opt.Dimensions) {
		s.dims = dims
	}
	if !s.plan(mm.Name, exprs) {
		return nil, true, nil
	}
	if err := s.share.Grow(costOfCall * int64(len(exprs))); err != nil {
		return nil, true, err
	}
	covered, err = s.group(mm.Name)
	if err != nil || !covered || s.series == 0 {
		return nil, covered, err
	}
	s.start()
	return s, true, nil
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

// plan finds the fields of the calls. It is false when the shard has none of them.
func (s *Scan) plan(name string, exprs []influxql.Expr) bool {
	fields := s.engine.MeasurementFieldSet().FieldsByString(name)
	for _, e := range exprs {
		opt := s.opt
		opt.Expr = e
		call, ref := callOf(opt)
		c := callPlan{name: call.Name, column: -1, edge: byTagSet(call.Name, opt)}
		if fields != nil {
			if f := fields.Field(ref.Val); f != nil && readable(f.Type, ref.Type) {
				c.column = s.column(ref.Val, f.Type, ref.Type)
				need := needOf[call.Name]
				if call.Name == "mean" && ref.Type == influxql.Float {
					need |= needSum
				}
				if c.edge {
					s.columns[c.column].edges |= need
				} else {
					s.columns[c.column].need |= need
				}
			}
		}
		s.calls = append(s.calls, c)
	}
	return len(s.columns) > 0
}

// readable reports whether the engine reads values of one type as another.
func readable(stored, asked influxql.DataType) bool {
	return stored == asked || numeric(stored) && numeric(asked)
}

func numeric(t influxql.DataType) bool {
	return t == influxql.Float || t == influxql.Integer || t == influxql.Unsigned
}

func (s *Scan) column(field string, stored, asked influxql.DataType) int {
	i := slices.IndexFunc(s.columns, func(c *column) bool { return c.field == field && c.asked == asked })
	if i < 0 {
		i = len(s.columns)
		s.columns = append(s.columns, &column{field: field, stored: stored, asked: asked})
	}
	return i
}

// group finds the series, by tag set. covered is false when the condition needs fields.
func (s *Scan) group(name string) (covered bool, err error) {
	if s.share != nil {
		if most := s.share.Left() / costOfSeries; s.opt.MaxSeriesN == 0 || most < int64(s.opt.MaxSeriesN) {
			limited := s.opt
			limited.MaxSeriesN = int(max(most, 1))
			sets, err := tagSets(s.shard, name, limited)
			if err != nil && strings.HasPrefix(err.Error(), "max-select-series") {
				return true, s.share.Grow(costOfSeries * (most + 1))
			}
			return s.take(sets, err)
		}
	}
	return s.take(tagSets(s.shard, name, s.opt))
}

// tagSets returns the series that a statement reads, in the order of the engine.
func tagSets(shard *tsdb.Shard, name string, opt query.IteratorOptions) ([]*query.TagSet, error) {
	index, err := shard.Index()
	if err != nil {
		return nil, err
	}
	if own, ok := index.(interface {
		TagSets(name []byte, opt query.IteratorOptions) ([]*query.TagSet, error)
	}); ok { // the index in memory, which tells the shard's series from the database's
		return own.TagSets([]byte(name), opt)
	}
	file, err := shard.SeriesFile()
	if err != nil {
		return nil, err
	}
	return tsdb.IndexSet{Indexes: []tsdb.Index{index}, SeriesFile: file}.TagSets(file, []byte(name), opt)
}

// take makes groups of tag sets.
func (s *Scan) take(sets []*query.TagSet, err error) (covered bool, _ error) {
	if err != nil {
		return true, err
	}
	for _, set := range sets {
		for _, filter := range set.Filters {
			if b, ok := filter.(*influxql.BooleanLiteral); filter != nil && (!ok || !b.Val) {
				return false, nil
			}
		}
	}
	var size int64
	for _, set := range query.LimitTagSets(sets, s.opt.SLimit, s.opt.SOffset) {
		if len(set.SeriesKeys) == 0 {
			continue
		}
		tags := tagsOf(set.SeriesKeys[0])
		s.groups = append(s.groups, group{tags: tags.Subset(s.opt.Dimensions), keys: set.SeriesKeys})
		s.series += len(set.SeriesKeys)
		for _, key := range set.SeriesKeys {
			size += costOfSeries + int64(len(key))
		}
	}
	if s.opt.MaxSeriesN > 0 && s.series > s.opt.MaxSeriesN {
		return true, fmt.Errorf("max-select-series limit exceeded: (%d/%d)", s.series, s.opt.MaxSeriesN)
	}
	// The engine merges by what identifies tags, which sorts a little differently from the keys of tag sets.
	slices.SortStableFunc(s.groups, func(a, b group) int {
		if !s.opt.Ascending {
			a, b = b, a
		}
		return strings.Compare(a.tags.ID(), b.tags.ID())
	})
	return true, s.share.Grow(size)
}

func tagsOf(key string) query.Tags {
	_, tags := models.ParseKey([]byte(key))
	return query.NewTags(tags.Map())
}
