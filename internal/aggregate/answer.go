package aggregate

import (
	"cmp"
	"math"
	"slices"

	"github.com/influxdata/influxdb/query"

	"concord/internal/entropy/scan"
)

// answer is points of one call.
type answer struct {
	points any     // a slice of the engine's points of one type; nil for none
	stamps []stamp // of each
}

// stamp is what points of one group are ordered by.
type stamp struct {
	window int64 // its start
	time   int64
	bucket int
}

// answer is of sink.
func (o *sinkOf[S, V]) answer(c callPlan, p prototype) answer {
	if c.edge {
		return o.edgeAnswer(c, p)
	}
	if needOfKeep[c.name] != 0 {
		return o.pointAnswer(c, p)
	}
	list := o.windows.sorted()
	at := func(i int) *window[V] {
		if !p.ascending {
			i = len(list) - 1 - i
		}
		return &list[i]
	}
	a := answer{stamps: make([]stamp, len(list))}
	switch c.name {
	case "count":
		a.points = pointsOf(len(list), p, func(i int) (int64, int64, int64) {
			w := at(i)
			a.stamps[i] = stamp{window: w.start, time: w.start}
			return w.start, w.n, w.n
		})
	case "mean":
		a.points = pointsOf(len(list), p, func(i int) (int64, float64, int64) {
			w := at(i)
			a.stamps[i] = stamp{window: w.start, time: w.start}
			return w.start, o.kind.mean(w), w.n
		})
	default:
		a.points = pointsOf(len(list), p, func(i int) (int64, V, int64) {
			w := at(i)
			s := selected[V]{w.start, w.sum}
			switch c.name {
			case "min":
				s = w.min
			case "max":
				s = w.max
			case "first":
				s = w.first
			case "last":
				s = w.last
			}
			a.stamps[i] = stamp{window: w.start, time: s.time}
			return s.time, s.value, w.n
		})
	}
	return a
}

// pointAnswer is the points that suffice for a function of the engine.
func (o *sinkOf[S, V]) pointAnswer(c callPlan, p prototype) answer {
	var all []selected[V]
	var a answer
	for _, w := range o.windows.sorted() {
		var list []selected[V]
		switch {
		case w.kept != nil:
			list = w.kept.points(o.kind.less)
		case w.min == w.max:
			list = []selected[V]{w.min}
		default:
			list = []selected[V]{w.min, w.max}
			if w.max.time < w.min.time {
				slices.Reverse(list)
			}
		}
		all = append(all, list...)
		for _, s := range list {
			a.stamps = append(a.stamps, stamp{window: w.start, time: s.time})
		}
	}
	if !p.ascending {
		slices.Reverse(all)
		slices.Reverse(a.stamps)
	}
	a.points = pointsOf(len(all), p, func(i int) (int64, V, int64) { return all[i].time, all[i].value, 0 })
	return a
}

// edgeAnswer is the answer of first or last by tag set.
func (o *sinkOf[S, V]) edgeAnswer(c callPlan, p prototype) answer {
	e, better := edges[V]{slices.Clone(o.firsts), func(a, b int64) bool { return a < b }}, o.kind.first
	if c.name == "last" {
		e, better = edges[V]{slices.Clone(o.lasts), func(a, b int64) bool { return a > b }}, o.kind.last
		slices.Reverse(e.list) // as the engine reverses the series
	}
	if len(e.list) == 0 {
		return answer{}
	}
	s := e.pick(better)
	return answer{
		points: pointsOf(1, p, func(int) (int64, V, int64) { return s.time, s.value, 0 }),
		stamps: []stamp{{time: s.time}},
	}
}

// aggregated is how many points one stands for, as far as the engine can say.
func aggregated(n int64) uint32 { return uint32(min(n, math.MaxUint32)) }

// pointsOf makes points of the type of their values: at returns time, value, and how many points one stands for.
func pointsOf[V scan.Value](n int, p prototype, at func(i int) (int64, V, int64)) any {
	switch at := any(at).(type) {
	case func(int) (int64, float64, int64):
		return build(n, at, func(t int64, v float64, n uint32) query.FloatPoint {
			return query.FloatPoint{Name: p.name, Tags: p.tags, Time: t, Value: v, Aggregated: n}
		})
	case func(int) (int64, int64, int64):
		return build(n, at, func(t int64, v int64, n uint32) query.IntegerPoint {
			return query.IntegerPoint{Name: p.name, Tags: p.tags, Time: t, Value: v, Aggregated: n}
		})
	case func(int) (int64, uint64, int64):
		return build(n, at, func(t int64, v uint64, n uint32) query.UnsignedPoint {
			return query.UnsignedPoint{Name: p.name, Tags: p.tags, Time: t, Value: v, Aggregated: n}
		})
	case func(int) (int64, bool, int64):
		return build(n, at, func(t int64, v bool, n uint32) query.BooleanPoint {
			return query.BooleanPoint{Name: p.name, Tags: p.tags, Time: t, Value: v, Aggregated: n}
		})
	case func(int) (int64, string, int64):
		return build(n, at, func(t int64, v string, n uint32) query.StringPoint {
			return query.StringPoint{Name: p.name, Tags: p.tags, Time: t, Value: v, Aggregated: n}
		})
	}
	return nil
}

func build[V scan.Value, P any](n int, at func(i int) (int64, V, int64), point func(t int64, v V, n uint32) P) []P {
	points := make([]P, n)
	for i := range points {
		t, v, n := at(i)
		points[i] = point(t, v, aggregated(n))
	}
	return points
}

// answer returns the points of a call in a group, in the order of the engine: by window, and within a window by the
// tags of the buckets, or first by time when the call selects points and the statement wants them in order.
func (p *part) answer(s *Scan, c callPlan) any {
	if c.column < 0 {
		return nil
	}
	byTags := slices.Clone(p.buckets)
	slices.SortFunc(byTags, func(a, b *bucket) int { return cmp.Compare(a.tags.ID(), b.tags.ID()) })
	var all answer
	for i, b := range byTags {
		a := b.columns[c.column].answer(c, prototype{s.name, b.tags, s.opt.Ascending})
		for j := range a.stamps {
			a.stamps[j].bucket = i
		}
		all.points = join(all.points, a.points)
		all.stamps = append(all.stamps, a.stamps...)
	}
	if len(byTags) < 2 {
		return all.points
	}
	order := make([]int, len(all.stamps))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int {
		a, b := all.stamps[i], all.stamps[j]
		if !s.opt.Ascending {
			a, b = b, a
		}
		if c := cmp.Compare(a.window, b.window); c != 0 {
			return c
		}
		if c := cmp.Compare(a.time, b.time); c != 0 && s.opt.Ordered {
			return c
		}
		return cmp.Compare(a.bucket, b.bucket)
	})
	return sorted(all.points, order)
}

// join appends points of the same type.
func join(a, b any) any {
	switch b := b.(type) {
	case []query.FloatPoint:
		return joinOf(a, b)
	case []query.IntegerPoint:
		return joinOf(a, b)
	case []query.UnsignedPoint:
		return joinOf(a, b)
	case []query.BooleanPoint:
		return joinOf(a, b)
	case []query.StringPoint:
		return joinOf(a, b)
	}
	return a
}

func joinOf[P any](a any, b []P) any {
	list, _ := a.([]P)
	if len(list) == 0 {
		return b
	}
	return append(list, b...)
}

// sorted returns points in another order.
func sorted(points any, order []int) any {
	switch p := points.(type) {
	case []query.FloatPoint:
		return sortedOf(p, order)
	case []query.IntegerPoint:
		return sortedOf(p, order)
	case []query.UnsignedPoint:
		return sortedOf(p, order)
	case []query.BooleanPoint:
		return sortedOf(p, order)
	case []query.StringPoint:
		return sortedOf(p, order)
	}
	return points
}

func sortedOf[P any](points []P, order []int) []P {
	out := make([]P, len(order))
	for to, from := range order {
		out[to] = points[from]
	}
	return out
}
