package distquery

import (
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
)

// seriesMerge joins the nodes' answers to SHOW SERIES: each is in the engine's
// order of series, and so is the whole, every series once. The engine's own
// merge would go by the text of the keys, where escapes sort differently.
type seriesMerge struct {
	inputs []*seriesInput
}

type seriesInput struct {
	query.FloatIterator
	ended bool
	head  *query.FloatPoint
	key   []byte // of head, in the engine's comparable form
}

func newSeriesMerge(list []query.Iterator) query.Iterator {
	m := &seriesMerge{}
	for _, itr := range list {
		if f, ok := itr.(query.FloatIterator); ok {
			m.inputs = append(m.inputs, &seriesInput{FloatIterator: f})
		} else {
			itr.Close() // nothing else lists series
		}
	}
	return m
}

// fill reads the next head where there is none.
func (in *seriesInput) fill() error {
	if in.head != nil || in.ended {
		return nil
	}
	p, err := in.Next()
	if p == nil || err != nil {
		in.ended = true
		return err
	}
	in.head = p.Clone()
	in.key = in.key[:0]
	for _, aux := range p.Aux {
		if text, ok := aux.(string); ok {
			name, tags := models.ParseKeyBytes([]byte(text))
			in.key = tsdb.AppendSeriesKey(in.key, name, tags)
			break
		}
	}
	return nil
}

func (m *seriesMerge) Next() (*query.FloatPoint, error) {
	var first *seriesInput
	for _, in := range m.inputs {
		if err := in.fill(); err != nil {
			return nil, err
		}
		if in.head != nil && (first == nil || tsdb.CompareSeriesKeys(in.key, first.key) < 0) {
			first = in
		}
	}
	if first == nil {
		return nil, nil
	}
	p := first.head
	for _, in := range m.inputs {
		if in != first && in.head != nil && tsdb.CompareSeriesKeys(in.key, first.key) == 0 {
			in.head = nil
		}
	}
	first.head = nil
	return p, nil
}

func (m *seriesMerge) Stats() query.IteratorStats {
	var s query.IteratorStats
	for _, in := range m.inputs {
		s.Add(in.Stats())
	}
	return s
}

func (m *seriesMerge) Close() error {
	var err error
	for _, in := range m.inputs {
		if e := in.FloatIterator.Close(); err == nil {
			err = e
		}
	}
	return err
}

// firstSeries ends the list of series where LIMIT ends the answer. The engine would read on, in search of another
// group of points, and there is only one.
func firstSeries(itr query.Iterator, mm *influxql.Measurement, opt query.IteratorOptions) query.Iterator {
	list, ok := itr.(query.FloatIterator)
	if !ok || mm.SystemIterator != "_series" || opt.Limit <= 0 {
		return itr
	}
	return &seriesLimit{FloatIterator: list, left: opt.Offset + opt.Limit}
}

type seriesLimit struct {
	query.FloatIterator
	left int
}

func (l *seriesLimit) Next() (*query.FloatPoint, error) {
	if l.left == 0 {
		return nil, nil
	}
	l.left--
	return l.FloatIterator.Next()
}
