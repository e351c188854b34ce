package distquery

import (
	"context"
	"fmt"
	"strings"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/budget"
)

// What a query takes from its share of the node's memory, in bytes. The figures are estimates, from the sizes of the
// engine's structures and rounded up. Those of columns, calls and fields were compared with heap profiles of statements
// over a measurement of 300,000 to 600,000 fields: they are right within a factor of two for what lives there at once.
// Garbage that is not collected yet comes on top of them.
const (
	costOfStream   = 32 << 10 // of another node's points: the messages that are on their way
	costOfSeries   = 2 << 10  // an iterator of one series of one shard
	costOfCursor   = 4 << 10  // and each of its fields
	costOfCall     = 2 << 10  // of an aggregate: its iterator, before it is opened
	costOfColumn   = 1 << 10  // of a compiled statement
	costOfCompiled = 4 << 10  // and when it is a call
	costOfField    = 256      // a field or tag of a measurement: its name and type, a few times
	costOfMaps     = 256      // and while they are collected
	costOfRow      = 64       // of the answer
	costOfValue    = 64       // in a row: boxed, and then as JSON
	costOfName     = 64       // a name or value of a schema answer, besides its letters
	costOfSample   = 64       // of an answer to Prometheus: decoded, encoded and compressed
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

// countedKeys is the engine's iterator of the fields of a shard. It holds those of one measurement at once.
type countedKeys struct {
	query.FloatIterator
	shard *tsdb.Shard
	share *budget.Share
	name  string // of the measurement
	taken int64  // for its fields
}

// Next is of query.FloatIterator.
func (k *countedKeys) Next() (*query.FloatPoint, error) {
	p, err := k.FloatIterator.Next()
	if p == nil || err != nil || p.Name == k.name {
		return p, err
	}
	before := k.taken
	k.name, k.taken = p.Name, costOfField*fieldsIn(k.shard, p.Name)
	return p, k.share.Grow(k.taken - before)
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
