package distquery

import (
	"math"
	"math/bits"
	"unsafe"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"
	"github.com/zeebo/xxh3"

	"concord/internal/budget"
)

// What the engine's functions keep of the points that they get. The engine does not count it, and builds these
// functions itself, so the points are counted on their way to them: as they leave the shards. Between the shards and a
// function that reads a subquery there may be more steps. Then this is what the function can get at most.

const pointSize = int64(unsafe.Sizeof(query.FloatPoint{}))

// reserves is what each function that reserves memory by its arguments takes, in bytes for each unit of them.
var reserves = map[string]int64{
	"top": pointSize, "bottom": pointSize, "sample": pointSize, "holt_winters": pointSize,
	"holt_winters_with_fit": pointSize, "moving_average": 8, "kaufmans_efficiency_ratio": 16,
	"kaufmans_adaptive_moving_average": 16, "chande_momentum_oscillator": 16,
}

// costOfState is what such a function takes for each tag set besides.
const costOfState = 512

// ofWindows are those of them that end with each window. The others keep all tag sets until the end.
var ofWindows = map[string]bool{
	"top": true, "bottom": true, "sample": true, "holt_winters": true, "holt_winters_with_fit": true,
}

// argumentCost is what functions of a statement reserve because their arguments say so, as the number of points of
// top() and the window of moving_average(). It is that of one tag set.
func argumentCost(stmt influxql.Node) int64 {
	var n int64
	influxql.WalkFunc(stmt, func(node influxql.Node) {
		if call, ok := node.(*influxql.Call); ok {
			n += callCost(call)
		}
	})
	return n
}

func callCost(call *influxql.Call) (n int64) {
	for _, arg := range call.Args {
		if i, ok := arg.(*influxql.IntegerLiteral); ok && i.Val > 0 {
			// Beyond any memory, and far from an overflow.
			n += reserves[call.Name] * min(i.Val, 1<<40)
		}
	}
	return n
}

// holding is what the functions of a statement keep.
type holding struct {
	leaf leafHolding // functions that read shards
	set  int64       // bytes for each tag set, until the end

	// Functions that read a subquery.
	all      bool            // keep all points of a window, until its end
	distinct bool            // keep one point of each value
	values   map[string]bool // what distinct() is about, with what it is made of
	interval query.Interval  // their windows; zero is all of the time
	keep, of int64           // of so many calls, each of which reads all of the subquery, so many keep points
	most     int64           // rows of the subquery in a group; 0 is no limit
}

// leafHolding is what functions keep of the points of shards.
type leafHolding struct {
	all      bool // all points of a window, until its end
	distinct bool // one point of each value
	other    bool // nothing, but a function above may keep what they make of each point
	calls    bool // what calls return, for all of the time
}

// holdingOf finds what a statement keeps.
func holdingOf(stmt influxql.Statement) (h holding) {
	if explain, ok := stmt.(*influxql.ExplainStatement); ok {
		stmt = explain.Statement
	}
	if sel, ok := stmt.(*influxql.SelectStatement); ok {
		h.add(sel)
	}
	return h
}

// below reports whether functions keep what a subquery returns.
func (h *holding) below() bool { return h.all || h.distinct }

// add adds a statement and its subqueries.
func (h *holding) add(stmt *influxql.SelectStatement) {
	below := false
	for _, src := range stmt.Sources {
		if sub, ok := src.(*influxql.SubQuery); ok {
			h.add(sub.Statement)
			below = true
		}
	}
	had := h.below()
	var keep, of int64
	influxql.WalkFunc(stmt.Fields, func(node influxql.Node) {
		call, ok := node.(*influxql.Call)
		if !ok {
			return
		}
		if n := callCost(call); n > 0 && !ofWindows[call.Name] {
			h.set += costOfState + n
		}
		of++
		switch call.Name {
		case "percentile", "median", "mode", "stddev", "holt_winters", "holt_winters_with_fit":
			keep++
			if !below {
				h.leaf.all = true
				h.leaf.calls = h.leaf.calls || ofWindows[call.Name]
			} else {
				h.all = true
			}
		case "distinct":
			keep++
			if !below {
				h.leaf.distinct = true
			} else {
				h.distinct = true
				for _, ref := range influxql.ExprNames(call) {
					h.note(ref.Val, stmt.Sources)
				}
			}
		case "count", "sum", "min", "max", "first", "last", "mean":
		default:
			h.leaf.other = h.leaf.other || !below
		}
	})
	if keep == 0 || !below {
		return
	}
	h.keep, h.of, h.most = keep, of, rowsOf(stmt.Sources)
	every, _ := stmt.GroupByInterval()
	offset, _ := stmt.GroupByOffset()
	if !had || every == 0 || h.interval.Duration > 0 && every > h.interval.Duration {
		h.interval = query.Interval{Duration: every, Offset: offset}
	}
}

// rowsOf is how many rows in a group subqueries have at most, 0 for no limit.
func rowsOf(sources influxql.Sources) (most int64) {
	for _, src := range sources {
		sub, ok := src.(*influxql.SubQuery)
		if !ok || sub.Statement.Limit <= 0 {
			return 0
		}
		most = max(most, int64(sub.Statement.Limit)+int64(max(0, sub.Statement.Offset)))
	}
	return most
}

// note adds what a field of subqueries is made of.
func (h *holding) note(name string, sources influxql.Sources) {
	if h.values == nil {
		h.values = make(map[string]bool)
	}
	h.values[name] = true
	for _, src := range sources {
		sub, ok := src.(*influxql.SubQuery)
		if !ok {
			continue
		}
		for _, f := range sub.Statement.Fields {
			if f.Name() != name {
				continue
			}
			for _, ref := range influxql.ExprNames(f.Expr) {
				if !h.values[ref.Val] {
					h.note(ref.Val, sub.Statement.Sources)
				}
			}
		}
	}
}

// count counts the points of an iterator that functions keep.
func (h *holding) count(itr query.Iterator, share *budget.Share, opt query.IteratorOptions) query.Iterator {
	of := held{
		share: share, opt: opt, set: h.set,
		size: 2 * (pointSize + 16*int64(len(opt.Aux))), // a list of points that grows has room for as many again
	}
	switch call := opt.Expr.(type) {
	case *influxql.VarRef:
		of.all = h.leaf.all || h.below() && (h.leaf.other || !h.leaf.distinct)
		of.distinct = h.leaf.distinct && !of.all
		of.value = of.distinct // of the field
	case *influxql.Call:
		if of.all = h.below() || h.leaf.calls; of.all && !h.below() {
			of.opt.Interval = query.Interval{}
		}
		of.fillCount = call.Name == "count" && !h.below()
	default:
		of.all, of.distinct = h.all, h.distinct && !h.all
	}
	if !of.all && !of.distinct && of.set == 0 {
		return itr
	}
	if h.below() && !of.value {
		of.opt.Interval = h.interval
		of.size, of.most = max(1, 2*pointSize*h.keep/h.of), h.most
	}
	if of.all && opt.Expr != nil && of.fills() {
		of.filled = int64(opt.Interval.Duration)
	}
	for i, ref := range opt.Aux {
		if of.all && ref.Type == influxql.String || of.distinct && h.values[ref.Val] {
			of.aux = append(of.aux, i)
		}
	}
	if of.set > 0 && len(opt.GetDimensions()) != len(opt.Dimensions) {
		of.sets = make(map[string]struct{})
	}
	switch itr := itr.(type) {
	case query.FloatIterator:
		return newHeld(itr, of, floatFields, func(p *query.FloatPoint) (uint64, string) {
			return math.Float64bits(p.Value), ""
		})
	case query.IntegerIterator:
		return newHeld(itr, of, integerFields, func(p *query.IntegerPoint) (uint64, string) {
			return uint64(p.Value), ""
		})
	case query.UnsignedIterator:
		return newHeld(itr, of, unsignedFields, func(p *query.UnsignedPoint) (uint64, string) { return p.Value, "" })
	case query.StringIterator:
		of.value = of.value || of.all
		return newHeld(itr, of, stringFields, func(p *query.StringPoint) (uint64, string) { return 0, p.Value })
	case query.BooleanIterator:
		return newHeld(itr, of, booleanFields, func(p *query.BooleanPoint) (uint64, string) {
			if p.Value {
				return 1, ""
			}
			return 0, ""
		})
	}
	return itr
}

// held is what functions keep of the points of an iterator. The points of a window are given back at its end.
type held struct {
	share     *budget.Share
	opt       query.IteratorOptions // with the windows of the function
	all       bool                  // all points are kept; else, with distinct, one of each value
	distinct  bool
	value     bool  // the value of a point is looked at
	aux       []int // and these of its further values
	size      int64 // of a kept point
	most      int64 // points of a series in a group that are kept; 0 is no limit
	filled    int64 // time between two points when the engine fills in what is missing; 0 when it does not
	fillCount bool  // of count(), which is 0 where nothing is
	set       int64 // bytes for each tag set

	name       string
	tags       string              // of the last point
	group      string              // that they are in
	start, end int64               // of the window
	begun      bool                // there was a point
	sets       map[string]struct{} // that were seen; nil where those of one set come together
	series     map[string]struct{} // of the window, of which the filled points are counted

	run    int64               // points of the tags
	n      int64               // points of the window
	bytes  int64               // of these, and of the long strings of distinct()
	short  int64               // bytes of all short strings of distinct()
	long   map[uint64]struct{} // hashes of its long strings
	values valueSketch         // what it gets, beyond few
	due    int64               // bytes that were not taken
	taken  int64
}

const (
	longString = 1 << 10 // bytes
	fewValues  = 1 << 10 // points of a window that are not told apart
)

// fills reports whether the engine adds points of windows that have none.
func (h *held) fills() bool {
	switch h.opt.Fill {
	case influxql.NumberFill, influxql.PreviousFill, influxql.LinearFill:
		return true
	case influxql.NullFill:
		return h.fillCount
	}
	return false
}

// next counts a point.
func (h *held) next(f fields, hash uint64, text string) error {
	if id := f.tags.ID(); !h.begun || id != h.tags || f.name != h.name || f.time < h.start || f.time >= h.end {
		if err := h.begin(f, id); err != nil {
			return err
		}
	}
	if h.run++; h.most > 0 && h.run > h.most || !h.all && !h.distinct {
		return nil
	}
	h.n++
	before := h.bytes
	if h.all {
		h.bytes += h.size + int64(len(text))
		for _, i := range h.aux {
			if i < len(*f.aux) {
				s, _ := (*f.aux)[i].(string)
				h.bytes += int64(len(s))
			}
		}
	} else {
		h.note(f, hash, text)
	}
	if h.due += h.bytes - before; h.due >= partStep || h.distinct && h.n%fewValues == 0 {
		h.due = 0
		return h.take(h.total())
	}
	return nil
}

// begin begins another window, or another series of a group.
func (h *held) begin(f fields, id string) error {
	group := h.group
	if !h.begun || id != h.tags {
		group = f.tags.Subset(h.opt.Dimensions).ID()
	}
	sameGroup := h.begun && group == h.group && f.name == h.name
	same := sameGroup && f.time >= h.start && f.time < h.end
	if id != h.tags || f.name != h.name {
		h.run = 0
	}
	h.begun, h.name, h.tags, h.group = true, f.name, id, group
	if h.set > 0 {
		n := h.set
		if h.sets == nil && sameGroup {
			n = 0
		} else if h.sets != nil {
			key := f.name + "\x00" + id
			if _, seen := h.sets[key]; seen {
				n = 0
			} else {
				h.sets[key] = struct{}{}
				n += costOfName + int64(len(key))
			}
		}
		if err := h.share.Grow(n); err != nil {
			return err
		}
	}
	if !same {
		if err := h.take(0); err != nil {
			return err
		}
		h.n, h.bytes, h.short, h.due, h.series, h.long = 0, 0, 0, 0, nil, nil
		h.values.clear()
		h.start, h.end = h.opt.Window(f.time)
	}
	if h.filled == 0 {
		return nil
	}
	if _, seen := h.series[id]; seen {
		return nil
	}
	if h.series == nil {
		h.series = make(map[string]struct{})
	}
	h.series[id] = struct{}{}
	h.bytes += h.size * h.windows(f.time)
	return h.take(h.total())
}

// windows is how many points the engine fills in for a series whose first one is at t, at most.
func (h *held) windows(t int64) int64 {
	from, to := max(h.start, h.opt.StartTime), min(h.end-1, h.opt.EndTime)
	if h.opt.StartTime == influxql.MinTime {
		from = t
	}
	if from > to {
		return 0
	}
	n := (to - from) / h.filled
	if h.most > 0 {
		n = min(n, h.most)
	}
	return min(n, 1<<40) // far from an overflow
}

// note notes what distinct() keeps of a point.
func (h *held) note(f fields, hash uint64, text string) {
	if h.value {
		hash = h.add(hash, text)
	} else {
		hash = 0
		for _, i := range h.aux {
			if i < len(*f.aux) {
				hash = h.addAny(hash, (*f.aux)[i])
			}
		}
		if len(h.aux) == 0 { // of tags, or of what a call returns
			hash = xxh3.HashString(h.tags)
		}
	}
	if h.n > fewValues {
		h.values.add(mix(hash))
	}
}

// add counts a text, and returns the hash of a value.
func (h *held) add(hash uint64, text string) uint64 {
	if text == "" {
		return hash
	}
	hash = xxh3.HashStringSeed(text, hash)
	if len(text) < longString {
		h.short += int64(len(text))
		return hash
	}
	if _, seen := h.long[hash]; !seen {
		if h.long == nil {
			h.long = make(map[uint64]struct{})
		}
		h.long[hash] = struct{}{}
		h.bytes += int64(len(text))
	}
	return hash
}

// addAny is add for a further value of a point.
func (h *held) addAny(hash uint64, v any) uint64 {
	switch v := v.(type) {
	case float64:
		return mix(hash ^ math.Float64bits(v))
	case int64:
		return mix(hash ^ uint64(v))
	case uint64:
		return mix(hash ^ v)
	case string:
		return h.add(mix(hash), v)
	case bool:
		if v {
			hash++
		}
		return mix(hash ^ 1)
	}
	return mix(hash)
}

// total is what the window holds.
func (h *held) total() int64 {
	if h.all || h.n == 0 {
		return h.bytes
	}
	values := min(h.n, fewValues) + h.values.count()
	return h.bytes + values*(h.size+h.short/h.n)
}

// take makes what was taken from the share this many bytes.
func (h *held) take(all int64) error {
	n := all - h.taken
	if n == 0 {
		return nil
	}
	h.taken = all
	return h.share.Grow(n)
}

// mix spreads the bits of a value over a hash.
func mix(v uint64) uint64 {
	v += 0x9e3779b97f4a7c15 // of splitmix64
	v = (v ^ v>>30) * 0xbf58476d1ce4e5b9
	v = (v ^ v>>27) * 0x94d049bb133111eb
	return v ^ v>>31
}

// valueSketch estimates how many different hashes there were: a HyperLogLog, off by some 3 %.
type valueSketch struct {
	ranks *[1024]uint8 // nil for none
}

func (s *valueSketch) clear() {
	if s.ranks != nil {
		clear(s.ranks[:])
	}
}

func (s *valueSketch) add(hash uint64) {
	if s.ranks == nil {
		s.ranks = new([1024]uint8)
	}
	if rank := uint8(1 + bits.LeadingZeros64(hash<<10|1<<9)); rank > s.ranks[hash>>54] {
		s.ranks[hash>>54] = rank
	}
}

func (s *valueSketch) count() int64 {
	if s.ranks == nil {
		return 0
	}
	const m = float64(len(s.ranks))
	sum, zeros := 0.0, 0.0
	for _, rank := range s.ranks {
		sum += math.Ldexp(1, -int(rank))
		if rank == 0 {
			zeros++
		}
	}
	n := 0.7213 / (1 + 1.079/m) * m * m / sum
	if n < 2.5*m && zeros > 0 {
		n = m * math.Log(m/zeros)
	}
	return int64(n)
}

// heldOf counts the points of an iterator.
type heldOf[P any] struct {
	points[P]
	held
	of   func(*P) fields
	look func(*P) (hash uint64, text string) // of the value
}

func newHeld[P any](
	itr points[P], h held, of func(*P) fields, look func(*P) (uint64, string),
) *heldOf[P] {
	return &heldOf[P]{points: itr, held: h, of: of, look: look}
}

// Next returns the next point, when it is counted.
func (h *heldOf[P]) Next() (*P, error) {
	p, err := h.points.Next()
	if p == nil || err != nil {
		return nil, err
	}
	var (
		hash uint64
		text string
	)
	if h.value {
		hash, text = h.look(p)
	}
	if err := h.next(h.of(p), hash, text); err != nil {
		return nil, err
	}
	return p, nil
}
