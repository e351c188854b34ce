package distquery

import (
	"context"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/services/httpd"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
)

// listing is the store of a statement that lists tag values or the measurements of one database. It sends the rows
// while the nodes still list them, and returns nothing to the engine, which would hold all of them twice before the
// first row. The engine does all the rest: which shards are asked, and what is wrong with the statement.
type listing struct {
	coordinator.TSDBStore
	schema        schemaLister
	rows          rowSender
	limit, offset int
	columns       []string // of measurements
	more          []any    // what follows each of them
}

// schemaLister is Schema, as a part of a store.
type schemaLister interface {
	eachMeasurement(
		ctx context.Context, auth query.FineAuthorizer, db, rp string, cond influxql.Expr, most int,
		see func(name string) error,
	) error
	eachTagValue(
		ctx context.Context, auth query.FineAuthorizer, ids []uint64, cond influxql.Expr, most int,
		see func(measurement string, kv tsdb.KeyValue) error,
	) error
}

// newListing returns nil for other statements. The measurements of several databases or policies are one list that the
// engine joins.
func newListing(
	ctx *query.ExecutionContext, stmt influxql.Statement, store coordinator.TSDBStore, part *partCount,
) *listing {
	l := &listing{TSDBStore: store, rows: rowSender{ctx: ctx, part: part}}
	if ctx.ChunkSize > 0 {
		// As for all statements, but not smaller: the engine has one chunk for all values of a measurement, and clients
		// get the same as long as these are not very many.
		l.rows.size = max(ctx.ChunkSize, httpd.DefaultChunkSize)
	}
	switch s := stmt.(type) {
	case *influxql.ShowTagValuesStatement:
		l.limit, l.offset = s.Limit, s.Offset
	case *influxql.ShowMeasurementsStatement:
		if s.WildcardDatabase || s.WildcardRetentionPolicy {
			return nil
		}
		l.limit, l.offset, l.columns = s.Limit, s.Offset, []string{"name"}
		if s.RetentionPolicy != "" {
			l.columns, l.more = append(l.columns, "database", "retention policy"), []any{s.Database, s.RetentionPolicy}
		}
	default:
		return nil
	}
	var ok bool
	l.schema, ok = store.(schemaLister)
	if !ok {
		return nil
	}
	return l
}

// most is how many rows are asked for of a list; 0 is all.
func (l *listing) most() int {
	if l.limit <= 0 || l.limit > mostKept || l.offset > mostKept {
		return 0
	}
	return l.offset + l.limit
}

// shows reports whether the nth row of a list is one that is asked for; n begins with 1.
func (l *listing) shows(n int) bool {
	return n > l.offset && (l.limit <= 0 || n-l.offset <= l.limit)
}

// MeasurementNames sends the measurements as rows.
func (l *listing) MeasurementNames(
	ctx context.Context, auth query.FineAuthorizer, db, rp string, cond influxql.Expr,
) ([][]byte, error) {
	n := 0
	l.rows.begin("measurements", l.columns)
	err := l.schema.eachMeasurement(ctx, auth, db, rp, cond, l.most(), func(name string) error {
		if n++; l.shows(n) {
			if err := l.rows.add(append([]any{name}, l.more...)); err != nil {
				return err
			}
		}
		if n == l.most() {
			return errEnough
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return nil, l.rows.end()
}

// TagValues sends the values as rows.
func (l *listing) TagValues(
	ctx context.Context, auth query.FineAuthorizer, ids []uint64, cond influxql.Expr,
) ([]tsdb.TagValues, error) {
	n, of := 0, ""
	err := l.schema.eachTagValue(ctx, auth, ids, cond, l.most(), func(measurement string, kv tsdb.KeyValue) error {
		if n == 0 || measurement != of {
			if err := l.rows.end(); err != nil {
				return err
			}
			l.rows.begin(measurement, []string{"key", "value"})
			n, of = 0, measurement
		}
		if n++; !l.shows(n) {
			return nil
		}
		return l.rows.add([]any{kv.Key, kv.Value})
	})
	if err != nil {
		return nil, err
	}
	return nil, l.rows.end()
}

// rowSender sends rows of an answer, many in a result.
type rowSender struct {
	ctx  *query.ExecutionContext
	size int // rows of a result; 0 is all
	part *partCount

	row *models.Row
}

func (s *rowSender) begin(name string, columns []string) {
	s.row = &models.Row{Name: name, Columns: columns}
}

func (s *rowSender) add(values []any) error {
	if s.size > 0 && len(s.row.Values) == s.size || s.part.full() {
		rest := &models.Row{Name: s.row.Name, Columns: s.row.Columns}
		s.row.Partial = true
		if err := s.send(); err != nil {
			return err
		}
		s.row = rest
	}
	s.row.Values = append(s.row.Values, values)
	return s.part.add(values)
}

// end sends what is left of the rows that begin began.
func (s *rowSender) end() error {
	if s.row == nil || len(s.row.Values) == 0 {
		return nil
	}
	return s.send()
}

func (s *rowSender) send() error {
	row := s.row
	s.row = nil
	s.part.end()
	return s.ctx.Send(&query.Result{Series: models.Rows{row}, Partial: row.Partial})
}

// empty reports whether a result says nothing.
func empty(r *query.Result) bool { return len(r.Series) == 0 && len(r.Messages) == 0 && r.Err == nil }
