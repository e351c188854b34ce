package distquery

import (
	"cmp"
	"container/heap"
	"slices"
	"strings"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"

	"concord/internal/budget"
)

// The order of points that the engine regards as equal.
//
// The engine orders points by measurement, group and time. Its merges leave
// the order of ties to the shape of a heap, so it depends on which iterators
// there are, and in which order they were opened. On a single node that is
// always the same. In a cluster it depends on where the shards are and on who
// answers first. Here ties come in the order of their shards, and within a
// shard as the engine has them. That is the same on every node: a node sends
// the points of several shards in this order, with the shard of each.
//
// An aggregate over ties or over floating-point numbers depends on the order,
// too. So the parts of the shards are joined by the node that was asked, in
// the same order. Where the order does not matter, as for count(), each node
// joins the parts of its own shards.

// orderMatters reports whether the answer depends on the order in which the points of shards are joined.
func orderMatters(opt query.IteratorOptions) bool {
	call, ok := opt.Expr.(*influxql.Call)
	if !ok {
		return true
	}
	switch call.Name {
	case "count", "sum_hll", "merge_hll":
		return false
	case "min", "max", "first", "last": // of equal values the earlier, of equal times the greater
		return len(opt.Aux) > 0
	case "sum":
		ref, ok := call.Args[0].(*influxql.VarRef)
		return !ok || (ref.Type != influxql.Integer && ref.Type != influxql.Unsigned)
	}
	return true
}

// sharded is an iterator over the points of several shards.
type sharded interface {
	// shard returns the shard of the point that was returned last.
	shard() uint64
}

// opened is an iterator over shards of one node.
type opened struct {
	query.Iterator
	lowest uint64 // of its shards
	only   bool   // there is no other shard; else Iterator is sharded
	remote bool
}

// fields are what the order of points depends on.
type fields struct {
	name string
	tags query.Tags
	time int64
	aux  *[]any
}

func floatFields(p *query.FloatPoint) fields       { return fields{p.Name, p.Tags, p.Time, &p.Aux} }
func integerFields(p *query.IntegerPoint) fields   { return fields{p.Name, p.Tags, p.Time, &p.Aux} }
func unsignedFields(p *query.UnsignedPoint) fields { return fields{p.Name, p.Tags, p.Time, &p.Aux} }
func stringFields(p *query.StringPoint) fields     { return fields{p.Name, p.Tags, p.Time, &p.Aux} }
func booleanFields(p *query.BooleanPoint) fields   { return fields{p.Name, p.Tags, p.Time, &p.Aux} }

// byShard merges iterators into one that is sharded. With textFirst, points
// that differ in nothing but text are then ordered by it, as byText does.
func byShard(list []opened, opt query.IteratorOptions, textFirst bool, share *budget.Share) query.Iterator {
	if len(list) == 0 {
		return nil
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b opened) int { return cmp.Compare(a.lowest, b.lowest) })
	switch list[0].Iterator.(type) { // decides, as in the engine's merges
	case query.FloatIterator:
		return byShardOf(list, opt, textFirst, share, floatFields)
	case query.IntegerIterator:
		return byShardOf(list, opt, textFirst, share, integerFields)
	case query.UnsignedIterator:
		return byShardOf(list, opt, textFirst, share, unsignedFields)
	case query.StringIterator:
		return byShardOf(list, opt, textFirst, share, stringFields)
	default:
		return byShardOf(list, opt, textFirst, share, booleanFields)
	}
}

func byShardOf[P any](
	list []opened, opt query.IteratorOptions, textFirst bool, share *budget.Share, of func(*P) fields,
) query.Iterator {
	_, call := opt.Expr.(*influxql.Call)
	m := &shardMerge[P]{opt: opt, windows: call || !opt.MergeSorted(), of: of}
	for _, l := range list {
		itr, ok := l.Iterator.(points[P])
		if !ok {
			l.Close()
			continue
		}
		in := &shardInput[P]{points: itr, n: len(m.inputs), remote: l.remote}
		in.key.shard = l.lowest
		if !l.only {
			in.from, _ = l.Iterator.(sharded)
		}
		m.inputs = append(m.inputs, in)
	}
	if textFirst && !m.windows && mayBeText(opt.Aux) {
		return &textOrder[P]{shardMerge: m, share: share}
	}
	return m
}

// pointKey is the place of a point in the order. Two points of different inputs never have equal places.
type pointKey struct {
	name, tags string
	at         int64 // its time, or the start of its window where the engine orders by windows
	shard      uint64
}

// sameTime reports whether the engine regards two points as equal.
func (k *pointKey) sameTime(o *pointKey) bool {
	return k.at == o.at && k.tags == o.tags && k.name == o.name
}

type shardInput[P any] struct {
	points[P]
	n      int     // of this input; measurements of one shard may lose their names
	from   sharded // nil when all points are of one shard
	remote bool
	head   *P
	key    pointKey // of head

	// The last tags and the group that they are in. Most points have the tags of the point before.
	tags, group string
	grouped     bool
}

// shardMerge merges shards in the order of pointKey. It neither copies points
// nor compares those of one series with others more often than it must.
type shardMerge[P any] struct {
	opt     query.IteratorOptions
	windows bool
	of      func(*P) fields
	inputs  []*shardInput[P]
	heap    []*shardInput[P] // the first has the point that was returned last
	begun   bool
}

// advance reads the next head of an input. There is none at the end.
func (m *shardMerge[P]) advance(in *shardInput[P]) (err error) {
	if in.head, err = in.Next(); in.head == nil || err != nil {
		return err
	}
	f := m.of(in.head)
	if id := f.tags.ID(); !in.grouped || id != in.tags {
		group := f.tags.Subset(m.opt.Dimensions)
		in.tags, in.group, in.grouped = id, group.ID(), true
	}
	in.key.name, in.key.tags, in.key.at = f.name, in.group, f.time
	if m.windows {
		in.key.at, _ = m.opt.Window(f.time)
	}
	if in.from != nil {
		in.key.shard = in.from.shard()
	}
	return nil
}

// begin reads the first points: this node's while other nodes compute.
func (m *shardMerge[P]) begin() error {
	m.begun = true
	for _, remote := range []bool{false, true} {
		for _, in := range m.inputs {
			if in.remote != remote {
				continue
			}
			if err := m.advance(in); err != nil {
				return err
			}
			if in.head != nil {
				m.heap = append(m.heap, in)
			}
		}
	}
	heap.Init(m)
	return nil
}

// Next returns a point that is valid until the next call.
func (m *shardMerge[P]) Next() (*P, error) {
	if !m.begun {
		if err := m.begin(); err != nil {
			return nil, err
		}
	} else if len(m.heap) > 0 {
		in := m.heap[0]
		before := in.key
		if err := m.advance(in); err != nil {
			return nil, err
		}
		if in.head == nil {
			heap.Pop(m)
		} else if before.shard != in.key.shard || !before.sameTime(&in.key) {
			heap.Fix(m, 0)
		}
	}
	if len(m.heap) == 0 {
		return nil, nil
	}
	return m.heap[0].head, nil
}

func (m *shardMerge[P]) shard() uint64 { return m.heap[0].key.shard }

func (m *shardMerge[P]) Len() int      { return len(m.heap) }
func (m *shardMerge[P]) Swap(i, j int) { m.heap[i], m.heap[j] = m.heap[j], m.heap[i] }
func (m *shardMerge[P]) Push(x any)    { m.heap = append(m.heap, x.(*shardInput[P])) }
func (m *shardMerge[P]) Pop() any {
	last := m.heap[len(m.heap)-1]
	m.heap = m.heap[:len(m.heap)-1]
	return last
}

// Less is of heap.Interface. Backwards in time the engine turns everything around.
func (m *shardMerge[P]) Less(i, j int) bool {
	a, b := m.heap[i], m.heap[j]
	if !m.opt.Ascending {
		a, b = b, a
	}
	if x, y := &a.key, &b.key; x.name != y.name {
		return x.name < y.name
	} else if x.tags != y.tags {
		return x.tags < y.tags
	} else if x.at != y.at {
		return x.at < y.at
	} else if x.shard != y.shard {
		return x.shard < y.shard
	}
	return a.n < b.n
}

func (m *shardMerge[P]) Stats() query.IteratorStats {
	var s query.IteratorStats
	for _, in := range m.inputs {
		s.Add(in.Stats())
	}
	return s
}

func (m *shardMerge[P]) Close() error {
	var err error
	for _, in := range m.inputs {
		err = cmp.Or(err, in.points.Close())
	}
	return err
}

// mayBeText reports whether the engine orders points of one time by text: by
// their auxiliary values as far as these are strings.
func mayBeText(aux []influxql.VarRef) bool {
	if len(aux) == 0 {
		return false
	}
	switch aux[0].Type {
	case influxql.Float, influxql.Integer, influxql.Unsigned, influxql.Boolean:
		return false
	}
	return true
}

// textOrder orders points of one time by their text where they are of several
// shards, as the engine orders those of one shard. It holds the points of one
// time in memory, at most one of each series.
type textOrder[P any] struct {
	*shardMerge[P]
	run   []P  // points of one time, with memory for more
	order []*P // those of run that are still to be returned
	ahead *P   // the first point of the next run

	share *budget.Share
	size  int64 // of the run, in bytes
	taken int64 // from the share: the memory of the largest run is used again
}

func (t *textOrder[P]) Next() (*P, error) {
	if len(t.order) == 0 {
		if err := t.fill(); err != nil || len(t.order) == 0 {
			return nil, err
		}
	}
	p := t.order[0]
	t.order = t.order[1:]
	return p, nil
}

// fill reads the next run.
func (t *textOrder[P]) fill() (err error) {
	t.run, t.size = t.run[:0], 0
	if t.ahead == nil {
		if t.ahead, err = t.shardMerge.Next(); t.ahead == nil || err != nil {
			return err
		}
	}
	first := t.heap[0].key
	several := false
	for t.ahead != nil && first.sameTime(&t.heap[0].key) {
		several = several || t.shard() != first.shard
		if err := t.keep(t.ahead); err != nil {
			return err
		}
		if t.ahead, err = t.shardMerge.Next(); err != nil {
			return err
		}
	}
	t.order = slices.Grow(t.order[:0], len(t.run))
	for i := range t.run {
		t.order = append(t.order, &t.run[i])
	}
	if several {
		slices.SortStableFunc(t.order, func(a, b *P) int {
			c := compareText(*t.of(a).aux, *t.of(b).aux)
			if !t.opt.Ascending {
				return -c
			}
			return c
		})
	}
	return nil
}

// keep copies a point into the run: the engine uses the memory of its points again.
func (t *textOrder[P]) keep(p *P) error {
	if len(t.run) < cap(t.run) {
		t.run = t.run[:len(t.run)+1]
	} else {
		t.run = append(t.run, *new(P))
	}
	to := &t.run[len(t.run)-1]
	room := (*t.of(to).aux)[:0]
	*to = *p
	aux := t.of(to).aux
	*aux = append(room, *aux...)
	t.size += 2*pointSize + auxSize(*aux)
	if n := t.size - t.taken; n >= partStep {
		t.taken = t.size
		return t.share.Grow(n)
	}
	return nil
}

// auxSize is what the further values of a point take.
func auxSize(aux []any) int64 {
	n := int64(0)
	for _, v := range aux {
		n += 32
		if s, ok := v.(string); ok {
			n += int64(len(s))
		}
	}
	return n
}

// compareText compares auxiliary values as far as they are strings. One that
// is missing comes first; the engine has no rule for it.
func compareText(a, b []any) int {
	for i := range min(len(a), len(b)) {
		x, xok := a[i].(string)
		y, yok := b[i].(string)
		switch {
		case !xok && !yok:
			return 0
		case !xok:
			return -1
		case !yok:
			return 1
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	return 0
}
