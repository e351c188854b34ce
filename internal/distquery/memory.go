package distquery

import (
	"context"
	"fmt"
	"strings"
	"unsafe"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/budget"
)

// What a query takes from its share of the node's memory, in bytes. The figures are estimates, from the sizes of the
// engine's structures and rounded up. Garbage that is not collected yet comes on top of them.
const (
	costOfStream = 32 << 10 // of another node's points: the messages that are on their way
	costOfSeries = 2 << 10  // an iterator of one series of one shard
	costOfCursor = 4 << 10  // and each of its fields
	costOfCall   = 2 << 10  // of an aggregate: its iterator, before it is opened
	costOfField  = 256      // a field or tag of a measurement: its name and type, a few times
	costOfRow    = 64       // of the answer
	costOfValue  = 64       // in a row: boxed, and then as JSON
	costOfName   = 64       // a name or value of a schema answer, besides its letters
	costOfSample = 64       // of an answer to Prometheus: decoded, encoded and compressed
)

// seriesCost is what the iterator of one series of one shard takes.
func seriesCost(opt query.IteratorOptions) int64 {
	fields := len(opt.Aux)
	if opt.Expr != nil {
		fields++
	}
	return costOfSeries + costOfCursor*int64(fields)
}

// openCounted opens the iterator of shards on this node. The engine itself counts the series before it opens them, so
// that one query which has too many for the node's memory ends before it takes it.
func openCounted(
	ctx context.Context, shards tsdb.Shards, mm *influxql.Measurement, opt query.IteratorOptions,
) (query.Iterator, error) {
	share := budget.Of(ctx)
	if share == nil || mm.SystemIterator != "" {
		return shards.CreateIterator(ctx, mm, opt)
	}
	cost := seriesCost(opt)
	most := share.Left() / cost
	if most == 0 {
		return nil, share.Grow(cost)
	}
	limited := opt
	if opt.MaxSeriesN == 0 || most < int64(opt.MaxSeriesN) {
		limited.MaxSeriesN = int(most)
	}
	itr, err := shards.CreateIterator(ctx, mm, limited)
	if err != nil && limited.MaxSeriesN != opt.MaxSeriesN && strings.HasPrefix(err.Error(), "max-select-series") {
		return nil, share.Grow(cost * (most + 1))
	} else if itr == nil || err != nil {
		return itr, err
	}
	if err := share.Grow(cost * int64(itr.Stats().SeriesN)); err != nil {
		itr.Close()
		return nil, err
	}
	return itr, nil
}

// answerSize is what a part of an answer takes until the client has it.
func answerSize(r *query.Result) int64 {
	n := int64(costOfRow)
	for _, series := range r.Series {
		n += costOfRow
		for k, v := range series.Tags {
			n += costOfName + int64(len(k)+len(v))
		}
		for _, c := range series.Columns {
			n += costOfName/4 + int64(len(c))
		}
		for _, row := range series.Values {
			n += rowSize(row)
		}
	}
	return n
}

// argumentCost is what functions of a statement reserve because their arguments say so, as the number of points of
// top() and the window of moving_average().
func argumentCost(stmt influxql.Statement) int64 {
	var n int64
	influxql.WalkFunc(stmt, func(node influxql.Node) {
		call, ok := node.(*influxql.Call)
		if !ok {
			return
		}
		for _, arg := range call.Args {
			if i, ok := arg.(*influxql.IntegerLiteral); ok && i.Val > 0 && reserves[call.Name] {
				// Beyond any memory, and far from an overflow.
				n += pointSize * min(i.Val, 1<<40)
			}
		}
	})
	return n
}

const pointSize = int64(unsafe.Sizeof(query.FloatPoint{}))

// reserves are the functions of the engine that reserve memory by their arguments.
var reserves = map[string]bool{
	"top": true, "bottom": true, "sample": true, "moving_average": true, "holt_winters": true,
	"holt_winters_with_fit": true, "kaufmans_efficiency_ratio": true, "kaufmans_adaptive_moving_average": true,
	"chande_momentum_oscillator": true, "exponential_moving_average": true, "double_exponential_moving_average": true,
	"triple_exponential_moving_average": true, "relative_strength_index": true, "triple_exponential_derivative": true,
}

// holdsPoints reports whether a function of a statement keeps all points of a window until its end.
func holdsPoints(stmt influxql.Statement) bool {
	holds := false
	influxql.WalkFunc(stmt, func(node influxql.Node) {
		if call, ok := node.(*influxql.Call); ok {
			switch call.Name {
			case "percentile", "median", "mode", "stddev":
				holds = true
			}
		}
	})
	return holds
}

// countHeld counts the points of an iterator that such a function keeps.
func countHeld(itr query.Iterator, share *budget.Share, opt query.IteratorOptions) query.Iterator {
	switch itr := itr.(type) {
	case query.FloatIterator:
		return newHeld(itr, share, opt, floatFields)
	case query.IntegerIterator:
		return newHeld(itr, share, opt, integerFields)
	case query.UnsignedIterator:
		return newHeld(itr, share, opt, unsignedFields)
	case query.StringIterator:
		return newHeld(itr, share, opt, stringFields)
	case query.BooleanIterator:
		return newHeld(itr, share, opt, booleanFields)
	}
	return itr
}

// held counts points until the window or the group ends, as the engine's functions do.
type held[P any] struct {
	points[P]
	share *budget.Share
	opt   query.IteratorOptions
	of    func(*P) fields
	size  int64 // of a point; a list of them that grows has room for as many again

	n          int64 // points of the window
	taken      int64 // bytes
	name       string
	tags       string // of the last point
	group      string // that they are in
	start, end int64  // of the window
}

// heldBatch is how many points are counted at once.
const heldBatch = 1024

func newHeld[P any](itr points[P], share *budget.Share, opt query.IteratorOptions, of func(*P) fields) *held[P] {
	return &held[P]{points: itr, share: share, opt: opt, of: of, size: 2 * (pointSize + 16*int64(len(opt.Aux)))}
}

func (h *held[P]) Next() (*P, error) {
	p, err := h.points.Next()
	if p == nil || err != nil {
		return p, err
	}
	f := h.of(p)
	if id := f.tags.ID(); id != h.tags || f.name != h.name || f.time < h.start || f.time >= h.end {
		h.begin(f, id)
	}
	if h.n++; h.n%heldBatch == 0 {
		h.taken += heldBatch * h.size
		if err := h.share.Grow(heldBatch * h.size); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// begin begins another window, unless a point is only of another series of the group.
func (h *held[P]) begin(f fields, id string) {
	group := f.tags.Subset(h.opt.Dimensions).ID()
	same := group == h.group && f.name == h.name && f.time >= h.start && f.time < h.end
	h.tags, h.group = id, group
	if same {
		return
	}
	h.share.Grow(-h.taken)
	h.n, h.taken, h.name = 0, 0, f.name
	h.start, h.end = h.opt.Window(f.time)
}

// overBudget is the error of a node that ended a query because of its memory: no other owner needs less.
func overBudget(err error) error {
	return status.Error(codes.InvalidArgument, err.Error())
}

// named says on which node a query exceeded its memory.
func named(node, message string) string {
	if strings.Contains(message, budget.ErrExceeded.Error()) {
		return fmt.Sprintf("data node %s: %s", node, message)
	}
	return message
}
