package distquery

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/budget"
	"concord/internal/restrict"
)

// tagCondition is the condition of SHOW TAG VALUES, taken apart as the engine does it. Each part may be nil.
type tagCondition struct {
	measurements influxql.Expr // of FROM
	keys         influxql.Expr // of WITH KEY
	values       influxql.Expr // the conditions on the values themselves
	series       influxql.Expr // the rest: which series have the values
}

// newTagCondition takes a condition apart. The errors are those of the engine.
func newTagCondition(cond influxql.Expr) (c tagCondition, err error) {
	if cond == nil {
		return c, errors.New("a condition is required")
	}
	var rest influxql.Expr
	c.measurements, rest, err = influxql.PartitionExpr(influxql.CloneExpr(cond), comparisonOf("_name"))
	if err != nil {
		return c, err
	}
	if c.keys, rest, err = influxql.PartitionExpr(rest, isOfKeys); err != nil {
		return c, err
	}
	if err := comparesTags(rest); err != nil {
		return c, err
	}
	if rest == nil {
		return c, nil
	}
	c.values, c.series, err = influxql.PartitionExpr(influxql.CloneExpr(rest), comparisonOf("value"))
	if c.series == nil {
		c.series = &influxql.BooleanLiteral{Val: true}
	}
	return c, err
}

// isComparison reports whether an expression compares a tag.
func isComparison(e influxql.Expr, tag string) bool {
	b, ok := e.(*influxql.BinaryExpr)
	if !ok {
		return false
	}
	switch b.Op {
	case influxql.EQ, influxql.NEQ, influxql.EQREGEX, influxql.NEQREGEX:
		ref, ok := b.LHS.(*influxql.VarRef)
		return ok && ref.Val == tag
	}
	return false
}

func comparisonOf(tag string) func(influxql.Expr) (bool, error) {
	return func(e influxql.Expr) (bool, error) { return isComparison(e, tag), nil }
}

// isOfKeys reports whether an expression is about the keys of tags alone.
func isOfKeys(e influxql.Expr) (bool, error) {
	switch e := e.(type) {
	case *influxql.BinaryExpr:
		if e.Op != influxql.OR && e.Op != influxql.AND {
			return isComparison(e, "_tagKey"), nil
		}
		left, err := isOfKeys(e.LHS)
		if err != nil || !left {
			return false, err
		}
		return isOfKeys(e.RHS)
	case *influxql.ParenExpr:
		return isOfKeys(e.Expr)
	}
	return false, nil
}

// comparesTags returns an error when a condition compares two tags, as one with a value in double quotes does.
func comparesTags(e influxql.Expr) error {
	switch e := e.(type) {
	case *influxql.BinaryExpr:
		switch e.Op {
		case influxql.EQ, influxql.NEQ:
			_, left := e.LHS.(*influxql.VarRef)
			if _, right := e.RHS.(*influxql.VarRef); left && right {
				return fmt.Errorf("bad WHERE clause for metaquery; one term must be a string literal tag value "+
					"within single quotes: %s", e)
			}
		case influxql.OR, influxql.AND:
			if err := comparesTags(e.LHS); err != nil {
				return err
			}
			return comparesTags(e.RHS)
		}
	case *influxql.ParenExpr:
		return comparesTags(e.Expr)
	}
	return nil
}

// tagValueLister lists the tag values of shards on this node, as the engine does. The engine gathers all of them first.
type tagValueLister struct {
	tagCondition
	ctx     context.Context
	set     tsdb.IndexSet
	allowed *restrict.Filter
	most    int // values of each measurement; 0 is all
	part    int // how many values are held at most
	emit    func(entry) error
}

// partLen is how many values of selected series are held at most.
const partLen = 1 << 18

// listTagValues lists the tag values of shards on this node that the user may see, of each measurement the first most;
// 0 is all.
func listTagValues(
	ctx context.Context, store *tsdb.Store, allowed *restrict.Filter, ids []uint64, cond influxql.Expr, most int,
) schemaList {
	return listOf(func(emit func(entry) error) error {
		c, err := newTagCondition(cond)
		if err != nil {
			return err
		}
		set, err := indexesOf(store, ids)
		if err != nil {
			return err
		}
		l := &tagValueLister{
			tagCondition: c, ctx: ctx, set: set, allowed: allowed, most: most, part: partLen, emit: emit,
		}
		return l.run()
	})
}

func (l *tagValueLister) run() error {
	return eachWindow(l.ctx, l.set, func(names [][]byte, of tsdb.IndexSet) (err error) {
		if l.measurements != nil {
			if names, err = of.MeasurementNamesByExpr(nil, l.measurements); err != nil {
				return err
			}
		}
		for _, name := range names {
			if err := l.measurement(name); err != nil {
				return err
			}
		}
		return nil
	})
}

// errMeasurementEnds is that no more values of a measurement are asked for.
var errMeasurementEnds = errors.New("no more values of this measurement")

func (l *tagValueLister) measurement(name []byte) error {
	if l.ctx.Err() != nil {
		return context.Cause(l.ctx)
	}
	found, err := l.set.MeasurementTagKeysByExpr(name, l.keys)
	if err != nil || len(found) == 0 {
		return err
	}
	keys, n := slices.Sorted(maps.Keys(found)), 0
	measurement := string(name)
	emit := func(kv tsdb.KeyValue) error {
		if err := l.emit(entry{measurement: measurement, KeyValue: kv}); err != nil {
			return err
		}
		if n++; n == l.most {
			return errMeasurementEnds
		}
		return nil
	}
	if l.series == nil {
		err = l.byIndex(name, keys, emit)
	} else {
		err = l.bySeries(name, keys, emit)
	}
	if err == errMeasurementEnds {
		return nil
	}
	return err
}

// byIndex lists all values of keys: the index has them in order. Its files stay open while the list is read.
func (l *tagValueLister) byIndex(name []byte, keys []string, emit func(tsdb.KeyValue) error) error {
	for _, key := range keys {
		more, err := l.valuesOf(name, key, emit)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// valuesOf lists the values of one key. more is false where the engine ends the list, too: it has no such key any more.
func (l *tagValueLister) valuesOf(name []byte, key string, emit func(tsdb.KeyValue) error) (more bool, err error) {
	values, err := l.set.TagValueIterator(name, []byte(key))
	if err != nil || values == nil {
		return false, err
	}
	defer func() {
		if e := values.Close(); err == nil {
			err = e
		}
	}()
	for n := 0; ; n++ {
		if n%endedEvery == 0 && l.ctx.Err() != nil {
			return false, context.Cause(l.ctx)
		}
		value, err := values.Next()
		if err != nil || value == nil {
			return true, err
		}
		if l.allowed != nil {
			if may, err := l.allows(name, []byte(key), value); err != nil || !may {
				if err != nil {
					return false, err
				}
				continue
			}
		}
		if err := emit(tsdb.KeyValue{Key: key, Value: string(value)}); err != nil {
			return false, err
		}
	}
}

// allows reports whether the user may see one of the series with a value.
func (l *tagValueLister) allows(name, key, value []byte) (may bool, err error) {
	series, err := l.set.TagValueSeriesIDIterator(name, key, value)
	if err != nil || series == nil {
		return false, err
	}
	defer func() {
		if e := series.Close(); err == nil {
			err = e
		}
	}()
	defer l.set.SeriesFile.Retain()()
	series = tsdb.FilterUndeletedSeriesIDIterator(l.set.SeriesFile, series)
	for {
		e, err := series.Next()
		if err != nil || e.SeriesID == 0 {
			return false, err
		}
		if l.allowed.Allows(l.set.SeriesFile.Series(e.SeriesID)) {
			return true, nil
		}
	}
}

// bySeries lists the values of keys that selected series have. Series have no order that helps, so that the values are
// gathered and sorted. When they are too many to be held, the series are read again for each part of them.
func (l *tagValueLister) bySeries(name []byte, keys []string, emit func(tsdb.KeyValue) error) error {
	part := &valuePart{keys: make(map[string]bool, len(keys)), last: keys[len(keys)-1], len: l.part}
	for _, key := range keys {
		part.keys[key] = true
	}
	share := budget.Of(l.ctx)
	defer func() { share.Grow(-part.taken) }()
	left := l.most
	for {
		if l.most > 0 {
			part.len = min(l.part, left)
		}
		if err := l.gather(name, part); err != nil {
			return err
		}
		values, whole := part.sorted()
		for _, kv := range values {
			if err := emit(kv); err != nil {
				return err
			}
		}
		if whole {
			return nil
		}
		left -= len(values)
		part.next(values[len(values)-1])
	}
}

// gather adds the values of all selected series to a part.
func (l *tagValueLister) gather(name []byte, part *valuePart) (err error) {
	series, err := l.set.MeasurementSeriesByExprIterator(name, l.series)
	if err != nil || series == nil {
		return err
	}
	defer func() {
		if e := series.Close(); err == nil {
			err = e
		}
	}()
	defer l.set.SeriesFile.Retain()()
	var tags models.Tags
	for n := 0; ; n++ {
		if n%endedEvery == 0 {
			if l.ctx.Err() != nil {
				return context.Cause(l.ctx)
			}
			more := part.size - part.taken
			part.taken = part.size
			if err := budget.Of(l.ctx).Grow(more); err != nil {
				return overBudget(err)
			}
		}
		e, err := series.Next()
		if err != nil || e.SeriesID == 0 {
			return err
		}
		if selected, err := decided(e.Expr); err != nil || !selected {
			if err != nil {
				return err
			}
			continue
		}
		key := l.set.SeriesFile.SeriesKey(e.SeriesID)
		if len(key) == 0 {
			continue
		}
		if _, tags = tsdb.ParseSeriesKeyInto(key, tags); l.allowed.Allows(name, tags) {
			part.add(tags, l.values)
		}
	}
}

// decided reports whether a series is selected, of which the index leaves an expression. The error is the engine's.
func decided(rest influxql.Expr) (bool, error) {
	if rest == nil {
		return true, nil
	}
	if is, ok := rest.(*influxql.BooleanLiteral); ok {
		return is.Val, nil
	}
	return false, fmt.Errorf("Expression too complex for metaquery: %v",
		rest) //lint:ignore ST1005 as the engine says it
}

// valuePart is a part of the values of a measurement: the smallest that come after those of the parts before.
type valuePart struct {
	keys map[string]bool
	last string // of the keys
	len  int    // how many values it has at most

	after *tsdb.KeyValue // the last value of the part before; nil for the first part
	found map[tsdb.KeyValue]bool
	limit *tsdb.KeyValue // a greater one is not in this part; nil for not known
	more  bool           // there is one
	size  int64          // bytes of those that were found
	taken int64          // bytes that were taken from the share of the statement
}

// add adds the values of a series that fulfill a condition, which is nil for all.
func (p *valuePart) add(tags models.Tags, cond influxql.Expr) {
	for _, t := range tags {
		if string(t.Key) > p.last {
			return
		}
		if !p.keys[string(t.Key)] {
			continue
		}
		kv := tsdb.KeyValue{Key: string(t.Key), Value: string(t.Value)}
		if cond != nil && !influxql.EvalBool(cond, map[string]any{"value": kv.Value}) {
			continue
		}
		if p.after != nil && compareTags(kv, *p.after) <= 0 || p.found[kv] {
			continue
		}
		if p.limit != nil && compareTags(kv, *p.limit) > 0 {
			p.more = true
			continue
		}
		if p.found == nil {
			p.found = make(map[tsdb.KeyValue]bool)
		}
		p.found[kv] = true
		p.size += costOfName + int64(len(kv.Key)+len(kv.Value))
		if len(p.found) >= 2*p.len+endedEvery {
			p.cut()
		}
	}
}

// cut leaves only the values that can be in the part, and returns them sorted.
func (p *valuePart) cut() []tsdb.KeyValue {
	values := slices.SortedFunc(maps.Keys(p.found), compareTags)
	if len(values) <= p.len {
		return values
	}
	for _, kv := range values[p.len:] {
		delete(p.found, kv)
		p.size -= costOfName + int64(len(kv.Key)+len(kv.Value))
	}
	values = values[:p.len]
	p.limit, p.more = &values[p.len-1], true
	return values
}

// sorted returns the values when all series were seen. whole says that no other part follows.
func (p *valuePart) sorted() (values []tsdb.KeyValue, whole bool) {
	values = p.cut()
	return values, !p.more
}

// next begins the part that follows a value.
func (p *valuePart) next(after tsdb.KeyValue) {
	p.after, p.found, p.limit, p.more, p.size = &after, nil, nil, false, 0
}
