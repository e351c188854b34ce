package distquery

import (
	"github.com/influxdata/influxql"

	"concord/internal/budget"
)

// The engine turns each * and each regular expression of a statement into one column for each field of the measurement,
// and one call has a goroutine and several iterators. It can neither be interrupted while it does so nor says what it
// takes. So what a statement becomes is counted before.

// columnsOf is how many columns a statement has at most, when the measurement has so many fields and tags. Subqueries
// do not count.
func columnsOf(stmt *influxql.SelectStatement, fields int) (n int64) {
	for _, f := range stmt.Fields {
		if wild(f.Expr) {
			n += int64(fields)
		} else {
			n++
		}
	}
	return n
}

// wild reports whether the engine makes several columns of an expression.
func wild(e influxql.Expr) (is bool) {
	influxql.WalkFunc(e, func(n influxql.Node) {
		switch n.(type) {
		case *influxql.Wildcard, *influxql.RegexLiteral:
			is = true
		}
	})
	return is
}

// compiled is what a statement and its subqueries become.
type compiled struct {
	columns int64 // of all
	calls   int64 // of these
}

// cost is what it takes in memory, in bytes.
func (c compiled) cost() int64 { return costOfColumn*c.columns + costOfCompiled*c.calls }

// add adds a statement, and returns how many columns it has itself. fields is how many fields and tags a measurement
// has.
func (c *compiled) add(stmt *influxql.SelectStatement, fields func(*influxql.Measurement) int) int {
	below := 0
	for _, src := range stmt.Sources {
		switch src := src.(type) {
		case *influxql.Measurement:
			below += fields(src)
		case *influxql.SubQuery:
			below += c.add(src.Statement, fields)
		}
	}
	n := columnsOf(stmt, below)
	c.columns += n
	for _, f := range stmt.Fields {
		if _, ok := f.Expr.(*influxql.Call); ok && wild(f.Expr) {
			c.calls += int64(below)
		}
	}
	return int(min(n, 1<<40))
}

// countCompiled takes what a statement becomes from the share, before the engine begins with it.
func (m *mapping) countCompiled(stmt *influxql.SelectStatement, share *budget.Share) error {
	if stmt == nil || share == nil {
		return nil
	}
	var c compiled
	c.add(stmt, func(mm *influxql.Measurement) int {
		src := m.source(mm)
		if src == nil || mm.SystemIterator != "" {
			return 0
		}
		return m.schemas.get(mm, src).size()
	})
	return share.Grow(c.cost())
}
