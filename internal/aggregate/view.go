package aggregate

import (
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"
)

// view is the answer to one call of a scan.
type view struct {
	scan   *Scan
	call   callPlan
	lists  []any // of points, that are still to be returned
	closed bool
}

func newView(s *Scan, call int) *view { return &view{scan: s, call: s.calls[call]} }

// Iterator returns the answer to the call with this number; nil when the shard has nothing of it. Each call may be
// read at its own speed: what another one is ahead of it is kept. The scan ends when all its iterators are closed.
func (s *Scan) Iterator(call int) query.Iterator {
	v := s.views[call]
	if v.call.column < 0 {
		v.Close()
		return nil
	}
	typ := typeOf(v.call.name, s.columns[v.call.column].asked)
	switch typ {
	case influxql.Float:
		return &iterator[query.FloatPoint]{view: v}
	case influxql.Integer:
		return &iterator[query.IntegerPoint]{view: v}
	case influxql.Unsigned:
		return &iterator[query.UnsignedPoint]{view: v}
	case influxql.Boolean:
		return &iterator[query.BooleanPoint]{view: v}
	}
	return &iterator[query.StringPoint]{view: v}
}

// TypeOf is the type of the points of a call that Covers holds for.
func TypeOf(expr influxql.Expr) influxql.DataType {
	call, ref := callOf(query.IteratorOptions{Expr: expr})
	return typeOf(call.Name, ref.Type)
}

func typeOf(call string, field influxql.DataType) influxql.DataType {
	switch call {
	case "count":
		return influxql.Integer
	case "mean":
		return influxql.Float
	}
	return field
}

// iterator is the engine's iterator of one type of points.
type iterator[P any] struct {
	*view
	points []P
}

// Next returns the next point. It is valid for good.
func (i *iterator[P]) Next() (*P, error) {
	for len(i.points) == 0 {
		list, err := i.take()
		if list == nil || err != nil {
			return nil, err
		}
		i.points = list.([]P)
	}
	p := &i.points[0]
	i.points = i.points[1:]
	return p, nil
}

// take returns the next points of a view, nil at the end.
func (v *view) take() (any, error) {
	s := v.scan
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(v.lists) == 0 {
		if v.closed || s.err != nil {
			return nil, s.err
		}
		p, err := s.next()
		if s.err = err; p == nil || err != nil {
			return nil, err
		}
		if s.held != nil {
			s.grow(s.held, -s.held.size)
		}
		s.held = p
		for _, to := range s.views {
			if !to.closed {
				if list := p.answer(s, to.call); list != nil {
					to.lists = append(to.lists, list)
				}
			}
		}
	}
	list := v.lists[0]
	v.lists = v.lists[1:]
	return list, nil
}

// Stats counts the points that were read for the call.
func (v *view) Stats() query.IteratorStats {
	return query.IteratorStats{SeriesN: v.scan.series, PointN: int(v.scan.columns[v.call.column].points.Load())}
}

// Close ends the scan when it is the last one.
func (v *view) Close() error {
	s := v.scan
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.lists = nil; !v.closed {
		v.closed = true
		s.open--
	}
	if s.open > 0 {
		return nil
	}
	s.reading.cancel()
	s.reading.wg.Wait()
	s.traced()
	return nil
}
