package distquery

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"

	"concord/internal/budget"
)

// The engine counts the rows of one part of an answer, and not their bytes: 10,000 rows of a megabyte each are one
// part, and a client may ask for parts of any number of rows. Here rows are counted one by one as they come, and a part
// that has too many bytes is passed on before it has all the rows that were asked for.

const (
	maxPart      = 16 << 20 // bytes of one part of an answer
	partStep     = 64 << 10 // bytes of rows that are counted at once
	intoPoints   = 10_000   // of a SELECT INTO that are written at once, at most; as the engine
	analyzedRows = 16       // that EXPLAIN ANALYZE holds at once: nobody sees them
)

// partCount counts the rows of a part of an answer that is still made. A nil one counts nothing.
type partCount struct {
	share *budget.Share
	most  int64 // bytes of a part
	size  int64 // of the rows, in bytes
	taken int64 // of these, what was taken from the share
}

// newPartCount returns the count of the parts of an answer. The part before, which the client does not have yet, and
// other statements need memory, too.
func newPartCount(share *budget.Share) *partCount {
	return &partCount{share: share, most: min(maxPart, share.Left()/8)}
}

// add counts a row.
func (p *partCount) add(row []any) error {
	if p == nil {
		return nil
	}
	p.size += rowSize(row)
	if p.size-p.taken < partStep {
		return nil
	}
	n := p.size - p.taken
	p.taken += n
	return p.share.Grow(n)
}

// full reports whether the part has as many bytes as one may have.
func (p *partCount) full() bool { return p != nil && p.size > 0 && p.size >= p.most }

// end gives back what was taken: the part is complete, and counted as a whole from then on.
func (p *partCount) end() {
	if p == nil {
		return
	}
	p.share.Grow(-p.taken)
	p.size, p.taken = 0, 0
}

// rowSize is what a row takes until the client has it.
func rowSize(row []any) int64 {
	n := costOfRow + costOfValue*int64(len(row))
	for _, v := range row {
		if s, ok := v.(string); ok {
			n += 3 * int64(len(s))
		}
	}
	return n
}

// emitter makes rows of what a cursor returns. It does what the engine's Emitter does, and counts the rows.
type emitter struct {
	query.Cursor
	size    int // rows of a part; 0 is all
	part    *partCount
	columns []string

	row    *models.Row // that is made
	series query.Series
}

func newEmitter(cur query.Cursor, size int, part *partCount) *emitter {
	e := &emitter{Cursor: cur, size: size, part: part}
	for _, c := range cur.Columns() {
		e.columns = append(e.columns, c.Val)
	}
	return e
}

// yieldEvery is after how many rows a statement lets others run. The runtime lets it keep its processor for 10 ms,
// which a small request beside it would wait for at each of its steps.
const yieldEvery = 64

// next returns the next part of a series, nil at the end. partial is whether there are more parts of the answer.
func (e *emitter) next() (done *models.Row, partial bool, err error) {
	for n := 1; ; n++ {
		if n%yieldEvery == 0 {
			runtime.Gosched()
		}
		var row query.Row
		if !e.Scan(&row) {
			done, e.row = e.row, nil
			e.part.end()
			return done, false, e.Err()
		}
		same := e.row != nil && e.series.SameSeries(row.Series)
		if same && (e.size <= 0 || len(e.row.Values) < e.size) && !e.part.full() {
			e.row.Values = append(e.row.Values, row.Values)
		} else {
			if done = e.row; done != nil {
				done.Partial = same
				e.part.end()
			}
			e.series = row.Series
			e.row = &models.Row{Name: row.Series.Name, Tags: row.Series.Tags.KeyValues(), Columns: e.columns,
				Values: [][]any{row.Values}}
		}
		if err := e.part.add(row.Values); err != nil || done != nil {
			return done, true, err
		}
	}
}

// selectRows runs a SELECT as the engine's StatementExecutor does.
func selectRows(
	ctx *query.ExecutionContext, base *coordinator.StatementExecutor, stmt *influxql.SelectStatement, part *partCount,
) error {
	cur, err := query.Select(ctx, stmt, base.ShardMapper, query.SelectOptions{
		NodeID: ctx.NodeID, Authorizer: ctx.Authorizer, MaxSeriesN: base.MaxSelectSeriesN,
		MaxPointN: base.MaxSelectPointN, MaxBucketsN: base.MaxSelectBucketsN,
	})
	if err != nil {
		return err
	}
	em := newEmitter(cur, ctx.ChunkSize, part)
	defer em.Close()
	if stmt.Target != nil {
		return selectInto(ctx, base, stmt, em)
	}
	for sent := false; ; sent = true {
		row, partial, err := em.next()
		if err != nil {
			return err
		}
		if row == nil {
			if err := interrupted(ctx); err != nil || sent {
				return err
			}
			return ctx.Send(&query.Result{Series: make([]*models.Row, 0)}) // an answer has one result at least
		}
		if err := ctx.Send(&query.Result{Series: []*models.Row{row}, Partial: partial}); err != nil {
			return err
		}
	}
}

// interrupted is why a statement was ended: an interrupted cursor ends as one that has no more rows. The engine's
// context sets its error without a lock, so that it is read after the end only.
func interrupted(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	default:
		return nil
	}
}

// selectInto writes rows as points. They are written when they are as many as the engine writes at once, or as many
// bytes as one part of an answer may have.
func selectInto(
	ctx *query.ExecutionContext, base *coordinator.StatementExecutor, stmt *influxql.SelectStatement, em *emitter,
) error {
	to := stmt.Target.Measurement
	if em.size <= 0 || em.size > intoPoints {
		em.size = intoPoints
	}
	var (
		written int64
		points  []models.Point
		part    = newPartCount(em.part.share) // of the points; em has that of the rows
	)
	flush := func() error {
		if len(points) == 0 {
			return nil
		}
		err := base.PointsWriter.WritePointsInto(&coordinator.IntoWriteRequest{
			Database: to.Database, RetentionPolicy: to.RetentionPolicy, Points: points,
		})
		points = nil
		part.end()
		return err
	}
	for {
		row, _, err := em.next()
		if err != nil {
			return err
		}
		if row == nil {
			break
		}
		if to.Database == "" {
			return errors.New("no database in target")
		}
		if len(points)+len(row.Values) > intoPoints || part.full() {
			if err := flush(); err != nil {
				return err
			}
		}
		for _, values := range row.Values {
			if err := part.add(values); err != nil {
				return err
			}
		}
		list, err := pointsOf(cmp.Or(to.Name, row.Name), row, base.StrictErrorHandling)
		if err != nil {
			return err
		}
		written += int64(len(list))
		points = append(points, list...)
	}
	if err := interrupted(ctx); err != nil {
		return err
	}
	if err := flush(); err != nil {
		return err
	}
	var messages []*query.Message
	if ctx.ReadOnly {
		messages = append(messages, query.ReadOnlyWarning(stmt.String()))
	}
	return ctx.Send(&query.Result{Messages: messages, Series: []*models.Row{{
		Name: "result", Columns: []string{"time", "written"}, Values: [][]any{{time.Unix(0, 0).UTC(), written}},
	}}})
}

// pointsOf makes points of the rows of a SELECT INTO, as the engine does.
func pointsOf(name string, row *models.Row, strict bool) ([]models.Point, error) {
	at, fields := -1, make(map[string]int)
	for i, c := range row.Columns {
		if c == "time" {
			at = i
		} else {
			fields[c] = i
		}
	}
	if at < 0 {
		return nil, errors.New("error finding time index in result")
	}
	list := make([]models.Point, 0, len(row.Values))
	for _, values := range row.Values {
		of := make(models.Fields, len(fields))
		for name, i := range fields {
			// A number that is none is not nil, and cannot be written.
			if v := values[i]; v != nil && v != query.NullFloat {
				of[name] = v
			}
		}
		p, err := models.NewPoint(name, models.NewTags(row.Tags), of, values[at].(time.Time))
		if err != nil {
			if strict {
				return nil, err
			}
			continue // such as a point without fields
		}
		list = append(list, p)
	}
	return list, nil
}
