package aggregate

import (
	"cmp"
	"container/heap"
	"context"
	"slices"
	"strings"
	"unsafe"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/entropy/scan"
)

// Keep says which points of a window suffice for a function that the engine computes from all of them. The engine gets
// fewer points then, and its answer is the same:
//
//   - top, bottom: the N greatest or smallest values, of equal ones the earlier
//   - distinct: the first point of each value, or the last one when the statement goes back in time
//   - spread: the smallest and the greatest value
//
// The zero value keeps all.
type Keep struct {
	Name string
	N    int
	back bool // the statement goes back in time
}

// maxKept bounds N: a heap of more points is no help.
const maxKept = 1 << 16

// KeepOf tells which points of each field suffice for a statement. A field that it does not name is needed whole.
func KeepOf(stmt *influxql.SelectStatement) map[string]Keep {
	if stmt.Target != nil { // then top and bottom write the tags of each point
		return nil
	}
	for _, s := range stmt.Sources {
		if _, ok := s.(*influxql.Measurement); !ok {
			return nil
		}
	}
	keeps := make(map[string]Keep)
	influxql.WalkFunc(stmt.Fields, func(n influxql.Node) {
		call, ok := n.(*influxql.Call)
		if !ok || len(call.Args) == 0 {
			return
		}
		ref, ok := call.Args[0].(*influxql.VarRef)
		if !ok || needOf[call.Name] != 0 {
			return
		}
		k := keepOf(call)
		if had, twice := keeps[ref.Val]; twice && had != k {
			k = Keep{}
		}
		keeps[ref.Val] = k
	})
	return keeps
}

func keepOf(call *influxql.Call) Keep {
	switch call.Name {
	case "top", "bottom":
		if len(call.Args) == 2 {
			if n, ok := call.Args[1].(*influxql.IntegerLiteral); ok && n.Val > 0 && n.Val <= maxKept {
				return Keep{Name: call.Name, N: int(n.Val)}
			}
		}
	case "distinct", "spread":
		if len(call.Args) == 1 {
			return Keep{Name: call.Name}
		}
	}
	return Keep{}
}

// needOfKeep is what a window needs.
var needOfKeep = map[string]needs{
	"top": needKept, "bottom": needKept, "distinct": needKept, "spread": needMin | needMax,
}

// CoversPoints reports whether an iterator is asked for points of which some suffice.
func CoversPoints(mm *influxql.Measurement, opt query.IteratorOptions, k Keep) bool {
	ref, ok := opt.Expr.(*influxql.VarRef)
	if !ok || mm.SystemIterator != "" || mm.Regex != nil || strings.HasPrefix(ref.Val, "_") || len(opt.Aux) > 0 ||
		opt.Limit != 0 || opt.Offset != 0 || len(opt.GetDimensions()) != len(opt.Dimensions) || fieldIn(opt.Condition) {
		return false
	}
	switch k.Name {
	case "top", "bottom":
		return numeric(ref.Type) && k.N > 0 && k.N <= maxKept
	case "spread":
		return numeric(ref.Type)
	case "distinct":
		return numeric(ref.Type) || ref.Type == influxql.Boolean || ref.Type == influxql.String
	}
	return false
}

// OpenPoints returns those points of a field that suffice, in the order of the engine. It is as Open.
func OpenPoints(
	ctx context.Context, shard *tsdb.Shard, bounds Bounds, mm *influxql.Measurement, opt query.IteratorOptions, k Keep,
) (itr query.Iterator, covered bool, err error) {
	k.back = !opt.Ascending
	call := &influxql.Call{Name: k.Name, Args: []influxql.Expr{opt.Expr}}
	s, covered, err := open(ctx, shard, bounds, mm, opt, k, call)
	if s == nil || err != nil {
		return nil, covered, err
	}
	return s.Iterator(0), true, nil
}

// kept are the points of a window that suffice for top, bottom or distinct.
type kept[V scan.Value] struct {
	kind  *kind[V]
	n     int
	back  bool
	worse func(a, b selected[V]) bool // of top and bottom; nil for distinct
	list  []selected[V]               // of top and bottom: a heap, the worst point first
	first map[V]int64                 // of distinct: when each value came first, or last
}

func (k *kind[V]) newKept(of Keep) *kept[V] {
	s := &kept[V]{kind: k, n: of.N, back: of.back}
	switch of.Name {
	case "distinct":
		s.first = make(map[V]int64)
	case "top":
		s.worse = func(a, b selected[V]) bool {
			return k.less(a.value, b.value) || !k.less(b.value, a.value) && a.time > b.time
		}
	case "bottom":
		s.worse = func(a, b selected[V]) bool {
			return k.less(b.value, a.value) || !k.less(a.value, b.value) && a.time > b.time
		}
	}
	return s
}

// add adds a point, and returns how many bytes more are held.
func (s *kept[V]) add(p selected[V]) int64 {
	switch {
	case s.worse == nil:
		t, ok := s.first[p.value]
		if !ok {
			p = s.kind.owned(p)
			s.first[p.value] = p.time
			if s.kind.letters != nil {
				return sizeOfKept + int64(s.kind.letters(p.value))
			}
			return sizeOfKept
		}
		if p.time < t && !s.back || p.time > t && s.back {
			s.first[p.value] = p.time
		}
	case len(s.list) < s.n:
		heap.Push(s, p)
		return sizeOfKept
	case s.worse(s.list[0], p):
		s.list[0] = p
		heap.Fix(s, 0)
	}
	return 0
}

// points are those that were kept, ascending by time. Of the same time, the smaller values come first.
func (s *kept[V]) points(less func(a, b V) bool) []selected[V] {
	list := slices.Clone(s.list)
	for v, t := range s.first {
		list = append(list, selected[V]{t, v})
	}
	slices.SortFunc(list, func(a, b selected[V]) int {
		if c := cmp.Compare(a.time, b.time); c != 0 {
			return c
		}
		switch {
		case less(a.value, b.value):
			return -1
		case less(b.value, a.value):
			return 1
		}
		return 0
	})
	return list
}

// sizeOfKept is what a kept point takes, with its place in a map.
const sizeOfKept = 2 * int64(unsafe.Sizeof(selected[string]{}))

func (s *kept[V]) Len() int           { return len(s.list) }
func (s *kept[V]) Less(i, j int) bool { return s.worse(s.list[i], s.list[j]) }
func (s *kept[V]) Swap(i, j int)      { s.list[i], s.list[j] = s.list[j], s.list[i] }
func (s *kept[V]) Push(x any)         { s.list = append(s.list, x.(selected[V])) }
func (s *kept[V]) Pop() any {
	n := len(s.list) - 1
	last := s.list[n]
	s.list = s.list[:n]
	return last
}
