package aggregate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/budget"
)

// What a scan takes from the share of memory, in bytes.
const (
	costOfSeries = 64      // in the plan, besides its key
	costOfCall   = 2 << 10 // with its iterator
	costOfSink   = 1 << 10 // of a column in a part, besides its windows
)

// plan is what a scan reads.
type plan struct {
	ctx   context.Context
	shard *tsdb.Shard
	opt   query.IteratorOptions // that all calls have; but for Expr
	share *budget.Share

	name    string   // of the points
	keep    Keep     // of the one call, if it is about points
	dims    []string // that the points have, when these are more than those of the groups
	columns []*column
	byField map[columnKey]int // the columns: a statement may have hundreds of thousands
	calls   []callPlan
	groups  []group
	series  int         // of all groups
	ranges  []timeRange // into which each group is cut
}

func newPlan(ctx context.Context, shard *tsdb.Shard, mm *influxql.Measurement, opt query.IteratorOptions) *plan {
	p := &plan{ctx: ctx, shard: shard, opt: opt, share: budget.Of(ctx), name: mm.Name}
	if opt.StripName {
		p.name = ""
	}
	if dims := opt.GetDimensions(); len(dims) != len(opt.Dimensions) {
		p.dims = dims
	}
	return p
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

// columnKey is what a column is about.
type columnKey struct {
	field string
	asked influxql.DataType
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

// findFields finds the fields of the calls. It is false when the shard has none of them.
func (p *plan) findFields(fields *tsdb.MeasurementFields, exprs []influxql.Expr) bool {
	for _, e := range exprs {
		call := e.(*influxql.Call)
		ref := call.Args[0].(*influxql.VarRef)
		c := callPlan{name: call.Name, column: -1, edge: byTagSet(call.Name, p.opt)}
		if fields != nil {
			if f := fields.Field(ref.Val); f != nil && readable(f.Type, ref.Type) {
				c.column = p.column(ref.Val, f.Type, ref.Type)
				need := needOf[call.Name] | needOfKeep[call.Name]
				if call.Name == "mean" && ref.Type == influxql.Float {
					need |= needSum
				}
				if c.edge {
					p.columns[c.column].edges |= need
				} else {
					p.columns[c.column].need |= need
				}
			}
		}
		p.calls = append(p.calls, c)
	}
	return len(p.columns) > 0
}

// readable reports whether the engine reads values of one type as another.
func readable(stored, asked influxql.DataType) bool {
	return stored == asked || numeric(stored) && numeric(asked)
}

func numeric(t influxql.DataType) bool {
	return t == influxql.Float || t == influxql.Integer || t == influxql.Unsigned
}

func (p *plan) column(field string, stored, asked influxql.DataType) int {
	key := columnKey{field, asked}
	i, found := p.byField[key]
	if !found {
		i = len(p.columns)
		p.columns = append(p.columns, &column{field: field, stored: stored, asked: asked})
		if p.byField == nil {
			p.byField = make(map[columnKey]int)
		}
		p.byField[key] = i
	}
	return i
}

// findSeries finds the series, by tag set. covered is false when the condition needs fields.
func (p *plan) findSeries(name string) (covered bool, err error) {
	if p.share != nil {
		if most := p.share.Left() / costOfSeries; p.opt.MaxSeriesN == 0 || most < int64(p.opt.MaxSeriesN) {
			limited := p.opt
			limited.MaxSeriesN = int(max(most, 1))
			sets, err := p.tagSets(name, limited)
			if err != nil && strings.HasPrefix(err.Error(), "max-select-series") {
				return true, p.share.Grow(costOfSeries * (most + 1))
			}
			return p.take(sets, err)
		}
	}
	return p.take(p.tagSets(name, p.opt))
}

// take makes groups of tag sets.
func (p *plan) take(sets []*query.TagSet, err error) (covered bool, _ error) {
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
	for _, set := range query.LimitTagSets(sets, p.opt.SLimit, p.opt.SOffset) {
		if len(set.SeriesKeys) == 0 {
			continue
		}
		tags := tagsOf(set.SeriesKeys[0])
		// They are sorted. A series that is deleted and written again while the index is read comes twice, with two
		// IDs.
		keys := slices.Compact(set.SeriesKeys)
		p.groups = append(p.groups, group{tags: tags.Subset(p.opt.Dimensions), keys: keys})
		p.series += len(keys)
		for _, key := range keys {
			size += costOfSeries + int64(len(key))
		}
	}
	if p.opt.MaxSeriesN > 0 && p.series > p.opt.MaxSeriesN {
		return true, fmt.Errorf("max-select-series limit exceeded: (%d/%d)", p.series, p.opt.MaxSeriesN)
	}
	// The engine merges by what identifies tags, which sorts a little differently from the keys of tag sets.
	slices.SortStableFunc(p.groups, func(a, b group) int {
		if !p.opt.Ascending {
			a, b = b, a
		}
		return strings.Compare(a.tags.ID(), b.tags.ID())
	})
	return true, p.share.Grow(size)
}

func tagsOf(key string) query.Tags {
	_, tags := models.ParseKey([]byte(key))
	return query.NewTags(tags.Map())
}

// ended is the error of a scan that is to end.
func (p *plan) ended() error {
	select {
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	case <-p.opt.InterruptCh:
		return query.ErrQueryInterrupted
	default:
		return nil
	}
}
