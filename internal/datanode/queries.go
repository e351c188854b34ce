package datanode

import (
	"time"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/monitor"
	"github.com/influxdata/influxdb/query"
	"go.uber.org/zap"

	"concord/internal/budget"
	"concord/internal/distquery"
	"concord/internal/rpc"
)

// openQueries makes the InfluxQL executor over the whole cluster.
func (n *Node) openQueries() (err error) {
	n.mon = n.newMonitor()
	if n.queries, err = n.cfg.queryBudget(); err != nil {
		return err
	}
	n.vector, n.sketches = distquery.VectorOf(n.Meta.State), &distquery.Sketches{}
	n.vector.On = n.cfg.Cluster.VectorAggregates
	n.openExecutor(n.pool, n.mon)
	n.onClose(n.executor.Close)
	n.reporters.add(n.executor, n.Store, n.writer, n.sub, &n.served, n.copies, n.clocks, n.queries, n.disks())
	if n.handoff != nil {
		n.reporters.add(n.handoff)
	}
	return nil
}

// openExecutor makes the InfluxQL executor over the whole cluster.
func (n *Node) openExecutor(pool *rpc.Pool, mon *monitor.Monitor) {
	c := n.cfg.Cluster
	n.http = n.newHTTPStore(pool)
	n.executor = query.NewExecutor()
	mapper, schema := distquery.NewShardMapper(n.Meta, n.Store, pool), distquery.NewSchema(n.Meta, n.Store, pool)
	mapper.Whole, schema.Whole = n.whole(), n.whole()
	mapper.Vector, schema.Sketches = n.vector, n.sketches
	n.executor.StatementExecutor = &distquery.Executor{
		Base: coordinator.StatementExecutor{
			MetaClient:          n.Meta,
			TaskManager:         n.executor.TaskManager,
			Monitor:             mon,
			PointsWriter:        n.writer,
			MaxSelectPointN:     c.MaxSelectPointN,
			MaxSelectSeriesN:    c.MaxSelectSeriesN,
			MaxSelectBucketsN:   c.MaxSelectBucketsN,
			StrictErrorHandling: n.cfg.Data.StrictErrorHandling,
		},
		Mapper: mapper,
		Store: func(r *distquery.Report, share *budget.Share) coordinator.TSDBStore {
			return clusterStore{Store: n.Store, Schema: schema.For(r, share), delete: n.deletes}
		},
		Strict:  c.IncompleteReads == failIncomplete,
		State:   n.Meta.State,
		Refresh: n.Meta.Refresh,
		Log:     n.log,

		Budget: n.queries, Requests: &n.asked,
	}
	tm := n.executor.TaskManager
	tm.QueryTimeout = time.Duration(c.QueryTimeout)
	tm.LogQueriesAfter = time.Duration(c.LogQueriesAfter)
	tm.MaxConcurrentQueries = c.MaxConcurrentQueries
	tm.LogTimedoutQueries = c.LogTimedOutQueries
	if n.cfg.Data.QueryLogEnabled {
		n.executor.WithLogger(n.log)
	}
	tm.Logger = distquery.QueryLog(n.log.With(zap.String("service", "query")), tm, &n.asked)
}

// requests returns a function that tells how many writes and queries of clients this node has served. A call of
// another node may ask it while the node closes, so it has the parts of its own.
func (n *Node) requests() func() int64 {
	executor, writer, store := n.executor, n.writer, n.http
	return func() int64 {
		queries, _ := executor.Statistics(nil)[0].Values["queriesExecuted"].(int64)
		return n.served.Requests() + writer.Requests() + store.Requests() + queries
	}
}
