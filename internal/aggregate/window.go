package aggregate

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"

	"concord/internal/entropy/scan"
)

// needs says what a window keeps of its points.
type needs uint8

const (
	needCount needs = 1 << iota
	needSum
	needMean
	needMin
	needMax
	needFirst
	needLast
	needKept
)

// needOf is what each function needs.
var needOf = map[string]needs{
	"count": needCount, "sum": needSum, "mean": needMean, "min": needMin, "max": needMax,
	"first": needFirst, "last": needLast,
}

// selected is a point that a selector picked.
type selected[V scan.Value] struct {
	time  int64
	value V
}

// window is what is known of the points of one group in [start, start+interval).
type window[V scan.Value] struct {
	start                 int64
	n                     int64
	sum                   V
	total                 wide // the sum of integers, which may exceed 64 bits, for their mean
	min, max, first, last selected[V]
	kept                  *kept[V] // nil unless points are kept
}

// wide is an integer of 128 bits.
type wide struct {
	high int64
	low  uint64
}

func (w *wide) add(o wide) {
	var carry uint64
	w.low, carry = bits.Add64(w.low, o.low, 0)
	w.high += o.high + int64(carry)
}

func (w wide) float() float64 {
	switch w.high {
	case 0:
		return float64(w.low)
	case -1:
		return -float64(-w.low)
	}
	return float64(w.high)*(1<<64) + float64(w.low)
}

// kind is what can be done with the values of one type. What is nil cannot be done.
type kind[V scan.Value] struct {
	add         func(sum V, values []V) V
	plus        func(a, b V) V
	total       func(sum wide, values []V) wide
	mean        func(w *window[V]) float64
	least, most func(values []V) int // the index of the first smallest or greatest value
	less        func(a, b V) bool
	// Of two points of the same time, whether the engine's first() and last() take b rather than a.
	first, last func(a, b V) bool
	// own is a value without the block that it was decoded from, which it would keep in memory; nil where values have
	// none. letters is how many bytes such a value takes besides.
	own     func(V) V
	letters func(V) int
}

// sizeOf is what the values that a window has selected take besides it.
func (k *kind[V]) sizeOf(w *window[V]) int {
	if k.letters == nil {
		return 0
	}
	return k.letters(w.first.value) + k.letters(w.last.value)
}

// owned is a point that may be kept.
func (k *kind[V]) owned(s selected[V]) selected[V] {
	if k.own != nil {
		s.value = k.own(s.value)
	}
	return s
}

type number interface{ float64 | int64 | uint64 }

var (
	floats = kind[float64]{
		add: add[float64], plus: plus[float64], mean: func(w *window[float64]) float64 { return w.sum / float64(w.n) },
		least: least[float64], most: most[float64], less: cmp.Less[float64],
		first: cmp.Less[float64], last: cmp.Less[float64],
	}
	integers = kind[int64]{
		add: add[int64], plus: plus[int64], total: totalIntegers, mean: exactMean[int64],
		least: least[int64], most: most[int64], less: cmp.Less[int64],
		first: cmp.Less[int64], last: cmp.Less[int64],
	}
	unsigneds = kind[uint64]{
		add: add[uint64], plus: plus[uint64], total: totalUnsigneds, mean: exactMean[uint64],
		least: least[uint64], most: most[uint64], less: cmp.Less[uint64],
		first: cmp.Less[uint64], last: cmp.Less[uint64],
	}
	booleans = kind[bool]{
		least: func(v []bool) int { return max(slices.Index(v, false), 0) },
		most:  func(v []bool) int { return max(slices.Index(v, true), 0) },
		less:  func(a, b bool) bool { return !a && b },
		first: func(a, b bool) bool { return a && !b },
		last:  func(a, b bool) bool { return !a && b },
	}
	texts = kind[string]{
		less: cmp.Less[string], first: cmp.Less[string], last: cmp.Less[string],
		own: strings.Clone, letters: func(s string) int { return len(s) },
	}
)

// exactMean is the mean of integers.
func exactMean[V scan.Value](w *window[V]) float64 { return w.total.float() / float64(w.n) }

func add[V number](sum V, values []V) V {
	for _, v := range values {
		sum += v
	}
	return sum
}

func plus[V number](a, b V) V { return a + b }

func totalIntegers(sum wide, values []int64) wide {
	for _, v := range values {
		sum.add(wide{v >> 63, uint64(v)})
	}
	return sum
}

func totalUnsigneds(sum wide, values []uint64) wide {
	for _, v := range values {
		sum.add(wide{0, v})
	}
	return sum
}

func least[V number](values []V) int {
	at, smallest := 0, values[0]
	for i, v := range values {
		if v < smallest {
			at, smallest = i, v
		}
	}
	return at
}

func most[V number](values []V) int {
	at, greatest := 0, values[0]
	for i, v := range values {
		if v > greatest {
			at, greatest = i, v
		}
	}
	return at
}

// take adds points, ascending by time, to a window.
func (k *kind[V]) take(need needs, w *window[V], times []int64, values []V) {
	begun := w.n > 0
	w.n += int64(len(times))
	if need&needSum != 0 {
		w.sum = k.add(w.sum, values)
	}
	if need&needMean != 0 && k.total != nil {
		w.total = k.total(w.total, values)
	}
	if need&needMin != 0 {
		i := k.least(values)
		k.lower(begun, &w.min, selected[V]{times[i], values[i]})
	}
	if need&needMax != 0 {
		i := k.most(values)
		k.higher(begun, &w.max, selected[V]{times[i], values[i]})
	}
	if need&needFirst != 0 {
		k.earlier(begun, &w.first, selected[V]{times[0], values[0]})
	}
	if need&needLast != 0 {
		i := len(times) - 1
		k.later(begun, &w.last, selected[V]{times[i], values[i]})
	}
}

// join adds what another window of the same time knows.
func (k *kind[V]) join(need needs, w, o *window[V]) {
	begun := w.n > 0
	w.n += o.n
	if need&needSum != 0 {
		w.sum = k.plus(w.sum, o.sum)
	}
	if need&needMean != 0 {
		w.total.add(o.total)
	}
	if need&needMin != 0 {
		k.lower(begun, &w.min, o.min)
	}
	if need&needMax != 0 {
		k.higher(begun, &w.max, o.max)
	}
	if need&needFirst != 0 {
		k.earlier(begun, &w.first, o.first)
	}
	if need&needLast != 0 {
		k.later(begun, &w.last, o.last)
	}
}

// The four selectors, as the engine defines them: of equal values the earlier one.

func (k *kind[V]) lower(begun bool, s *selected[V], o selected[V]) {
	if !begun || k.less(o.value, s.value) || o.time < s.time && !k.less(s.value, o.value) {
		*s = o
	}
}

func (k *kind[V]) higher(begun bool, s *selected[V], o selected[V]) {
	if !begun || k.less(s.value, o.value) || o.time < s.time && !k.less(o.value, s.value) {
		*s = o
	}
}

func (k *kind[V]) earlier(begun bool, s *selected[V], o selected[V]) {
	if !begun || o.time < s.time || o.time == s.time && k.first(s.value, o.value) {
		*s = k.owned(o)
	}
}

func (k *kind[V]) later(begun bool, s *selected[V], o selected[V]) {
	if !begun || o.time > s.time || o.time == s.time && k.last(s.value, o.value) {
		*s = k.owned(o)
	}
}

// windows are those of one group that have points.
type windows[V scan.Value] struct {
	list []window[V]
	at   int           // of the last one that was found
	of   map[int64]int // index by start, once list is not in the order of time any more
}

// find returns the window that begins at start, a new one if need be. It is valid until the next call. Mostly it is the
// one after that of the last call: series of a group tend to have points in the same windows.
func (s *windows[V]) find(start int64) *window[V] {
	n := len(s.list)
	for _, i := range [2]int{s.at + 1, s.at} {
		if i < n && s.list[i].start == start {
			s.at = i
			return &s.list[i]
		}
	}
	if s.of == nil {
		i, found := n, false
		if n > 0 && start <= s.list[n-1].start {
			i, found = slices.BinarySearchFunc(s.list, start, func(w window[V], t int64) int {
				return cmp.Compare(w.start, t)
			})
		}
		if found {
			s.at = i
			return &s.list[i]
		}
		if i < n {
			s.of = make(map[int64]int, n+1)
			for j := range s.list {
				s.of[s.list[j].start] = j
			}
		}
	} else if i, found := s.of[start]; found {
		s.at = i
		return &s.list[i]
	}
	if s.of != nil {
		s.of[start] = n
	}
	s.at = n
	s.list = append(s.list, window[V]{start: start})
	return &s.list[n]
}

// sorted are the windows in the order of time.
func (s *windows[V]) sorted() []window[V] {
	if s.of != nil {
		slices.SortFunc(s.list, func(a, b window[V]) int { return cmp.Compare(a.start, b.start) })
		s.of, s.at = nil, 0
	}
	return s.list
}

// keep adds points to those that a window keeps, and returns how many more bytes it holds.
func (w *window[V]) keep(k *kind[V], of Keep, times []int64, values []V) (more int64) {
	if w.kept == nil {
		w.kept = k.newKept(of)
	}
	for i, v := range values {
		more += w.kept.add(selected[V]{times[i], v})
	}
	return more
}

// keepOf adds those of another window.
func (w *window[V]) keepOf(k *kind[V], of Keep, o *window[V]) (more int64) {
	if w.kept == nil {
		w.kept = k.newKept(of)
	}
	for _, p := range o.kept.points(k.less) {
		more += w.kept.add(p)
	}
	return more
}

// frame finds the window of a time as the engine does.
type frame struct {
	opt        query.IteratorOptions
	start, end int64 // of the last window that was found; the same at the beginning
}

// to moves to the window of a time.
func (f *frame) to(t int64) {
	if t >= f.start && t < f.end {
		return
	}
	// The next one, mostly. Time zones have windows of other lengths.
	if d := int64(f.opt.Interval.Duration); d > 0 && f.opt.Location == nil && f.start < f.end && t >= f.end &&
		t-f.end < d && f.end < influxql.MaxTime-d {
		f.start, f.end = f.end, f.end+d
		return
	}
	f.start, f.end = f.opt.Window(t)
}
