package aggregate

import (
	"container/heap"
	"slices"
	"unsafe"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"

	"concord/internal/entropy/scan"
)

// part is the windows of some series of one group, in some time.
type part struct {
	span
	buckets []*bucket
	of      map[string]*bucket // by what identifies their tags
	size    int64              // bytes that were taken from the share for it
}

// bucket is the part of a group whose points have the same tags in the answer. Only subqueries have several: they group
// by more tags than their outer statement.
type bucket struct {
	tags    query.Tags
	columns []sink // of the scan
}

// sink is the windows of one column.
type sink interface {
	// read adds the points of a series.
	read(r *scan.Reader, key []byte) error
	// join adds another sink of the same column, of series that come later.
	join(sink) error
	// answer returns the points of a call, which have its type, in the order of time.
	answer(c callPlan, p prototype) answer
}

// prototype is what all points of a bucket have.
type prototype struct {
	name      string
	tags      query.Tags
	ascending bool
}

// newSink makes the sink of a column, by what the shard has and what is asked for.
func (s *Scan) newSink(c *column, p *part) sink {
	switch c.stored {
	case influxql.Float:
		return newNumberSink(s, c, p, &floats)
	case influxql.Integer:
		return newNumberSink(s, c, p, &integers)
	case influxql.Unsigned:
		return newNumberSink(s, c, p, &unsigneds)
	case influxql.Boolean:
		return newSinkOf(s, c, p, &booleans, same[bool])
	}
	return newSinkOf(s, c, p, &texts, same[string])
}

// newNumberSink makes the sink of a column that the shard has as S, and gives the numbers in the type that is asked
// for.
func newNumberSink[S number](s *Scan, c *column, p *part, stored *kind[S]) sink {
	if c.asked != c.stored {
		switch c.asked {
		case influxql.Float:
			return newSinkOf(s, c, p, &floats, convert[S, float64])
		case influxql.Integer:
			return newSinkOf(s, c, p, &integers, convert[S, int64])
		case influxql.Unsigned:
			return newSinkOf(s, c, p, &unsigneds, convert[S, uint64])
		}
	}
	return newSinkOf(s, c, p, stored, same[S])
}

func same[V scan.Value](values, _ []V) []V { return values }

func convert[From, To number](values []From, buf []To) []To {
	buf = slices.Grow(buf[:0], len(values))
	for _, v := range values {
		buf = append(buf, To(v))
	}
	return buf
}

// sinkOf reads values of type S as V.
type sinkOf[S, V scan.Value] struct {
	scan   *Scan
	column *column
	part   *part
	kind   *kind[V]
	as     func(values []S, buf []V) []V

	frame   frame
	windows windows[V]
	window  *window[V] // of the frame; nil before the first point of a series
	counted int        // windows that were taken from the share
	held    int64      // bytes of kept points and strings that were not
	block   int64      // bytes of the strings that were decoded last
	buf     []V
	add     func(times []int64, values []S) error

	firsts, lasts []selected[V] // of each series that has one
}

func newSinkOf[S, V scan.Value](s *Scan, c *column, p *part, k *kind[V], as func([]S, []V) []V) *sinkOf[S, V] {
	o := &sinkOf[S, V]{scan: s, column: c, part: p, kind: k, as: as, frame: frame{opt: s.opt}}
	o.add = o.take // once, and not for each series
	return o
}

// read is of sink.
func (o *sinkOf[S, V]) read(r *scan.Reader, key []byte) error {
	if ok, err := r.Seek(key, o.column.field); err != nil || !ok {
		return err
	}
	from, to := o.part.min, o.part.max
	if o.column.need != 0 {
		o.window = nil
		if err := scan.Each(r, from, to, o.add); err != nil {
			return err
		}
		if err := o.countBlock(nil); err != nil {
			return err
		}
	}
	if o.column.edges&needFirst != 0 {
		if err := o.edge(&o.firsts, r, scan.First[S]); err != nil {
			return err
		}
	}
	if o.column.edges&needLast != 0 {
		return o.edge(&o.lasts, r, scan.Last[S])
	}
	return nil
}

// edge adds the first or the last point of a series.
func (o *sinkOf[S, V]) edge(
	to *[]selected[V], r *scan.Reader, find func(r *scan.Reader, min, max int64) (int64, S, bool, error),
) error {
	t, v, ok, err := find(r, o.part.min, o.part.max)
	if err != nil || !ok {
		return err
	}
	o.column.points.Add(1)
	o.buf = o.as([]S{v}, o.buf)
	one := o.kind.owned(selected[V]{t, o.buf[0]})
	*to = append(*to, one)
	n := int64(unsafe.Sizeof(one))
	if o.kind.letters != nil {
		n += int64(o.kind.letters(one.value))
	}
	return o.scan.grow(o.part, n)
}

// take adds points of a series, which ascend by time.
func (o *sinkOf[S, V]) take(times []int64, stored []S) error {
	if err := o.scan.ended(); err != nil {
		return err
	}
	o.column.points.Add(int64(len(times)))
	values := o.as(stored, o.buf)
	if err := o.countBlock(values); err != nil {
		return err
	}
	if o.column.stored != o.column.asked {
		o.buf = values // a copy, whose memory is used again
	}
	for len(times) > 0 {
		if o.window == nil || times[0] < o.frame.start || times[0] >= o.frame.end {
			o.frame.to(times[0])
			o.window = o.windows.find(o.frame.start)
		}
		n := until(times, o.frame.end)
		had := o.kind.sizeOf(o.window)
		o.kind.take(o.column.need, o.window, times[:n], values[:n])
		o.held += int64(o.kind.sizeOf(o.window) - had)
		if o.column.need&needKept != 0 {
			o.held += o.window.keep(o.kind, o.scan.keep, times[:n], values[:n])
		}
		times, values = times[n:], values[n:]
	}
	return o.count()
}

// countBlock takes the letters of decoded strings in place of those of the block before: a thousand of them may be a
// gigabyte.
func (o *sinkOf[S, V]) countBlock(values []V) error {
	if o.kind.letters == nil {
		return nil
	}
	n := int64(0)
	for _, v := range values {
		n += int64(o.kind.letters(v))
	}
	before := o.block
	o.block = n
	return o.scan.grow(o.part, n-before)
}

// until is how many of the times, which ascend, are before end; the first one is.
func until(times []int64, end int64) int {
	n := len(times)
	if times[n-1] < end {
		return n
	}
	const near = 16
	for i := 1; i < min(n, near); i++ {
		if times[i] >= end {
			return i
		}
	}
	n, _ = slices.BinarySearch(times, end)
	return n
}

// sizeOfWindow is what a window takes, in bytes: that of strings is the largest.
const sizeOfWindow = int64(unsafe.Sizeof(window[string]{}))

// count takes the windows that came since from the share of memory.
func (o *sinkOf[S, V]) count() error {
	n, held := len(o.windows.list)-o.counted, o.held
	if n == 0 && held == 0 {
		return nil
	}
	o.counted, o.held = o.counted+n, 0
	return o.scan.grow(o.part, int64(n)*sizeOfWindow+held)
}

// join is of sink.
func (o *sinkOf[S, V]) join(other sink) error {
	x := other.(*sinkOf[S, V])
	for _, w := range x.windows.sorted() {
		to := o.windows.find(w.start)
		had := o.kind.sizeOf(to)
		o.kind.join(o.column.need, to, &w)
		o.held += int64(o.kind.sizeOf(to) - had)
		if o.column.need&needKept != 0 {
			o.held += to.keepOf(o.kind, o.scan.keep, &w)
		}
	}
	o.firsts = append(o.firsts, x.firsts...)
	o.lasts = append(o.lasts, x.lasts...)
	return o.count()
}

// edges are the first or last points of series that have one, in the order of the series.
type edges[V scan.Value] struct {
	list   []selected[V]
	before func(a, b int64) bool
}

// pick returns the point that the engine picks: the one that comes first, by before. Of several at the same time, the
// engine compares the first two that its merge of the series returns (it limits each group to one point, and passes on
// two). Which two these are depends on how container/heap, which the merge uses, arranges equal elements.
func (e *edges[V]) pick(better func(a, b V) bool) selected[V] {
	heap.Init(e)
	best := heap.Pop(e).(selected[V])
	if len(e.list) > 0 && e.list[0].time == best.time && better(best.value, e.list[0].value) {
		return e.list[0]
	}
	return best
}

func (e *edges[V]) Len() int           { return len(e.list) }
func (e *edges[V]) Less(i, j int) bool { return e.before(e.list[i].time, e.list[j].time) }
func (e *edges[V]) Swap(i, j int)      { e.list[i], e.list[j] = e.list[j], e.list[i] }
func (e *edges[V]) Push(x any)         { e.list = append(e.list, x.(selected[V])) }
func (e *edges[V]) Pop() any {
	n := len(e.list) - 1
	last := e.list[n]
	e.list = e.list[:n]
	return last
}
