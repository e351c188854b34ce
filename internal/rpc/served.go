package rpc

import (
	"context"
	"sync/atomic"

	"github.com/influxdata/influxdb/models"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
)

// Served counts what other nodes ask of this one: the statistic `cluster`. It
// watches the server's calls and connections, so that the parts that answer
// them need not count.
type Served struct {
	connections                         atomic.Int64
	writes, writePoints, writesFailed   atomic.Int64
	iterators, costs, dimensions, names atomic.Int64
	copies, removals                    atomic.Int64
}

// requests is the counter of a method, nil for those that are not counted.
func (s *Served) requests(method string) *atomic.Int64 {
	switch asQuery(method) {
	case Replication_WriteShard_FullMethodName, Replication_WriteBatch_FullMethodName:
		return &s.writes
	case Query_CreateIterator_FullMethodName, Query_Select_FullMethodName, Query_ReadSeries_FullMethodName:
		return &s.iterators
	case Query_IteratorCost_FullMethodName:
		return &s.costs
	case Query_FieldDimensions_FullMethodName:
		return &s.dimensions
	case Query_MeasurementNames_FullMethodName, Query_Measurements_FullMethodName:
		return &s.names
	case Shards_Copy_FullMethodName:
		return &s.copies
	case Shards_Remove_FullMethodName:
		return &s.removals
	}
	return nil
}

// Option makes a server count here.
func (s *Served) Option() grpc.ServerOption { return grpc.StatsHandler(counting{s}) }

// Requests is how many writes and queries of clients other nodes sent here.
func (s *Served) Requests() int64 { return s.writes.Load() + s.iterators.Load() }

// Statistics is `cluster` with the names of InfluxDB Enterprise.
func (s *Served) Statistics(tags map[string]string) []models.Statistic {
	return []models.Statistic{{
		Name: "cluster", Tags: models.StatisticTags{}.Merge(tags),
		Values: map[string]any{
			"openConnections":     s.connections.Load(),
			"writeShardReq":       s.writes.Load(),
			"writeShardPointsReq": s.writePoints.Load(),
			"writeShardFail":      s.writesFailed.Load(),
			"createIteratorReq":   s.iterators.Load(),
			"iteratorCostReq":     s.costs.Load(),
			"fieldDimensionsReq":  s.dimensions.Load(),
			"expandSourcesReq":    s.names.Load(),
			"copyShardReq":        s.copies.Load(),
			"removeShardReq":      s.removals.Load(),
		},
	}}
}

// counting is Served as gRPC calls it.
type counting struct{ *Served }

type isWrite struct{}

func (c counting) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (c counting) HandleConn(_ context.Context, s stats.ConnStats) {
	switch s.(type) {
	case *stats.ConnBegin:
		c.connections.Add(1)
	case *stats.ConnEnd:
		c.connections.Add(-1)
	}
}

func (c counting) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	n := c.requests(info.FullMethodName)
	if n == nil {
		return ctx
	}
	n.Add(1)
	if asQuery(info.FullMethodName) == Query_Select_FullMethodName { // both in one
		c.dimensions.Add(1)
	}
	if n == &c.writes {
		return context.WithValue(ctx, isWrite{}, true)
	}
	return ctx
}

func (c counting) HandleRPC(ctx context.Context, s stats.RPCStats) {
	switch s := s.(type) {
	case *stats.InPayload:
		switch r := s.Payload.(type) {
		case *WriteShardRequest:
			c.writePoints.Add(int64(len(r.Points)))
		case *WriteBatchRequest:
			c.writePoints.Add(int64(r.Points))
		}
	case *stats.OutPayload:
		// A partial write has written the other points.
		if r, ok := s.Payload.(*WriteShardResponse); ok && r.Error != "" && !r.Partial {
			c.writesFailed.Add(1)
		}
	case *stats.End:
		if s.Error != nil && ctx.Value(isWrite{}) != nil {
			c.writesFailed.Add(1)
		}
	}
}
