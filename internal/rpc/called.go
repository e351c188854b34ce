package rpc

import (
	"context"
	"sync/atomic"

	"github.com/influxdata/influxdb/models"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// called counts what this node asks of other data nodes: the statistic `rpc`, with the names of InfluxDB Enterprise.
// gRPC opens a stream for each call, so no stream is ever idle.
type called struct {
	connections, live        atomic.Int64 // of the pool
	single, singleOpen       atomic.Int64 // connections of Own
	streams, liveStreams     atomic.Int64
	calls, failures, retries atomic.Int64
	bytesRead, bytesWritten  atomic.Int64
}

// Statistics is `rpc`.
func (p *Pool) Statistics(tags map[string]string) []models.Statistic {
	c := &p.called
	return []models.Statistic{{
		Name: "rpc", Tags: models.StatisticTags{}.Merge(tags),
		Values: map[string]any{
			"idleStreams":      int64(0),
			"liveConnections":  c.live.Load(),
			"liveStreams":      c.liveStreams.Load(),
			"rpcCalls":         c.calls.Load(),
			"rpcFailures":      c.failures.Load(),
			"rpcReadBytes":     c.bytesRead.Load(),
			"rpcRetries":       c.retries.Load(),
			"rpcWriteBytes":    c.bytesWritten.Load(),
			"singleUse":        c.single.Load(),
			"singleUseOpen":    c.singleOpen.Load(),
			"totalConnections": c.connections.Load(),
			"totalStreams":     c.streams.Load(),
		},
	}}
}

// option makes a connection count. Single is whether it is one of Own.
func (c *called) option(single bool) grpc.DialOption {
	total, open := &c.connections, &c.live
	if single {
		total, open = &c.single, &c.singleOpen
	}
	return grpc.WithStatsHandler(&calling{called: c, total: total, open: open})
}

// calling is called as gRPC calls it, for one connection.
type calling struct {
	*called
	total, open *atomic.Int64
}

// attempt is one attempt at a call. gRPC calls the handler for it from several goroutines.
type attempt struct{ streaming atomic.Bool }

type attemptKey struct{}

func (c *calling) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (c *calling) HandleConn(_ context.Context, s stats.ConnStats) {
	switch s.(type) {
	case *stats.ConnBegin:
		c.total.Add(1)
		c.open.Add(1)
	case *stats.ConnEnd:
		c.open.Add(-1)
	}
}

func (c *calling) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, attemptKey{}, &attempt{})
}

func (c *calling) HandleRPC(ctx context.Context, s stats.RPCStats) {
	switch s := s.(type) {
	case *stats.Begin:
		if s.IsTransparentRetryAttempt {
			c.retries.Add(1)
		} else {
			c.calls.Add(1)
		}
	case *stats.OutHeader: // the stream is open
		if a, ok := ctx.Value(attemptKey{}).(*attempt); ok && !a.streaming.Swap(true) {
			c.streams.Add(1)
			c.liveStreams.Add(1)
		}
	case *stats.InPayload:
		c.bytesRead.Add(int64(s.WireLength))
	case *stats.OutPayload:
		c.bytesWritten.Add(int64(s.WireLength))
	case *stats.End:
		if a, ok := ctx.Value(attemptKey{}).(*attempt); ok && a.streaming.Swap(false) {
			c.liveStreams.Add(-1)
		}
		// A call that this node ended itself has not failed.
		if s.Error != nil && status.Code(s.Error) != codes.Canceled {
			c.failures.Add(1)
		}
	}
}
