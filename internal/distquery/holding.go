package distquery

import (
	"math"
	"unsafe"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"

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
