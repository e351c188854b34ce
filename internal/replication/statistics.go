package replication

import (
	"errors"
	"sync/atomic"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/batch"
)

// written counts points, and their fields, of which a client hears that they were written.
type written struct{ points, values atomic.Int64 }

func (w *written) add(more *written) {
	w.points.Add(more.points.Load())
	w.values.Add(more.values.Load())
}

func (w *written) reset() {
	w.points.Store(0)
	w.values.Store(0)
}

// count takes the result of a write of points with values fields. Which points a partial write left out is not known
// any more: it has written their share of the fields.
func (w *written) count(points, values int, err error) {
	var partial tsdb.PartialWriteError
	left := 0
	switch {
	case err == nil:
		left = points
	case errors.As(err, &partial):
		left = max(points-partial.Dropped, 0)
	}
	if left == 0 {
		return
	}
	w.points.Add(int64(left))
	w.values.Add(int64(values) * int64(left) / int64(points))
}

// valuesOf counts the fields of points. Read is the batch of them, or nil.
func valuesOf(read *batch.Batch, points []models.Point) (n int) {
	if read != nil {
		return read.Values()
	}
	for _, p := range points {
		for f := p.FieldIterator(); f.Next(); n++ {
		}
	}
	return n
}

// Statistics are the engine's of writes, with where the points went.
func (w *Writer) Statistics(tags map[string]string) []models.Statistic {
	s, points := &w.stats, &w.outgoing.points
	values := map[string]any{
		"req": s.req.Load(), "pointReq": s.points.Load(),
		"pointReqLocal": points.local.Load(), "pointReqRemote": points.remote.Load(),
		"pointReqHH": points.hinted.Load(), "writeOk": s.ok.Load(), "writeDrop": s.dropped.Load(),
		"writeTimeout": s.timeout.Load(), "writeError": s.failed.Load(), "writePartial": s.partial.Load(),
		"subWriteOk": s.sub.Load(), "subWriteDrop": int64(0),
		"pointsWrittenOK": s.wrote.points.Load(), "valuesWrittenOK": s.wrote.values.Load(),
	}
	if w.NotSent != nil {
		values["subWriteDrop"] = w.NotSent()
	}
	return []models.Statistic{{Name: "write", Tags: tags, Values: values}}
}
