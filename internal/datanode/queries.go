package datanode

import (
	"context"
	"time"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/monitor"
	"github.com/influxdata/influxdb/query"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"concord/internal/budget"
	"concord/internal/distquery"
	"concord/internal/restrict"
	"concord/internal/rpc"
)

// queries are what answers queries of clients.
type queries struct {
	executor *query.Executor
	store    httpStore        // the cluster, for the HTTP API
	budget   *budget.Budget   // what queries may hold in memory; nil for no limit
	requests budget.Requests  // of clients, that run now
	log      *queryLog        // nil for none
	vector   distquery.Vector // how aggregates are answered
	sketches *distquery.Sketches
	schema   *distquery.Schema
}

// openQueries makes the InfluxQL executor over the whole cluster.
func (n *Node) openQueries() (err error) {
	n.mon = n.newMonitor()
	if n.queries.budget, err = n.cfg.queryBudget(); err != nil {
		return err
	}
	n.queries.vector, n.queries.sketches = distquery.VectorOf(n.Meta.State), &distquery.Sketches{}
	n.queries.vector.On = n.cfg.Cluster.VectorAggregates
	if path := n.cfg.Data.QueryLogPath; path != "" {
		if n.queries.log, err = openQueryLog(path); err != nil {
			return err
		}
		n.onClose(n.queries.log.Close)
	}
	n.openExecutor(n.pool, n.mon)
	n.onClose(n.queries.executor.Close)
	n.reporters.add(n.queries.executor, n.Store, n.writer, n.sub, &n.served, n.pool, n.copies, n.clocks,
		n.queries.budget,
		n.disks())
	if n.handoff != nil {
		n.reporters.add(n.handoff)
	}
	return nil
}

// openExecutor makes the InfluxQL executor over the whole cluster.
func (n *Node) openExecutor(pool *rpc.Pool, mon *monitor.Monitor) {
	c := n.cfg.Cluster
	n.queries.store = n.newHTTPStore(pool)
	n.queries.executor = query.NewExecutor()
	mapper, schema := distquery.NewShardMapper(n.Meta, n.Store, pool), distquery.NewSchema(n.Meta, n.Store, pool)
	mapper.Whole, schema.Whole = n.whole(), n.whole()
	mapper.Vector, schema.Sketches = n.queries.vector, n.queries.sketches
	n.queries.schema = schema
	executor := &distquery.Executor{
		Base: coordinator.StatementExecutor{
			MetaClient:          n.Meta,
			TaskManager:         distquery.NewRunning(n.Meta, pool, n.queries.executor.TaskManager),
			Monitor:             mon,
			PointsWriter:        n.writer,
			MaxSelectPointN:     c.MaxSelectPointN,
			MaxSelectSeriesN:    c.MaxSelectSeriesN,
			MaxSelectBucketsN:   c.MaxSelectBucketsN,
			StrictErrorHandling: n.cfg.Data.StrictErrorHandling,
		},
		Mapper: mapper,
		Store: func(
			ctx context.Context, r *distquery.Report, share *budget.Share, user *restrict.User,
		) coordinator.TSDBStore {
			schema := schema.For(ctx, r, share, user)
			return clusterStore{Store: n.Store, Schema: schema, delete: n.deletes, user: user}
		},
		Strict:  c.IncompleteReads == failIncomplete,
		Refresh: n.Meta.Refresh,
		Change:  n.Meta.Execute,
		Log:     n.log,

		Budget: n.queries.budget, Requests: &n.queries.requests,
	}
	n.queries.executor.StatementExecutor = executor
	if c.LogTimedOutQueries { // and not LogTimedoutQueries of the engine: see LogTimeout
		executor.LogTimeout = time.Duration(c.QueryTimeout)
	}
	tm := n.queries.executor.TaskManager
	tm.QueryTimeout = time.Duration(c.QueryTimeout)
	tm.LogQueriesAfter = time.Duration(c.LogQueriesAfter)
	tm.MaxConcurrentQueries = c.MaxConcurrentQueries
	log := zapcore.NewNopCore()
	if n.cfg.Data.QueryLogEnabled {
		log = n.log.Core()
	}
	if n.queries.log != nil {
		log = zapcore.NewTee(log, n.queries.log.core())
	}
	n.queries.executor.WithLogger(zap.New(log))
	tm.Logger = distquery.QueryLog(n.log.With(zap.String("service", "query")), &n.queries.requests)
}

// database is that of a query that runs on this node.
func (q *queries) database(id uint64) (database string, ok bool) {
	for _, info := range q.executor.TaskManager.Queries() {
		if info.ID == id {
			return info.Database, true
		}
	}
	return "", false
}

// requests returns a function that tells how many writes and queries of clients this node has served. A call of
// another node may ask it while the node closes, so it has the parts of its own.
func (n *Node) requests() func() int64 {
	executor, writer, store := n.queries.executor, n.writer, n.queries.store
	return func() int64 {
		queries, _ := executor.Statistics(nil)[0].Values["queriesExecuted"].(int64)
		return n.served.Requests() + writer.Requests() + store.Requests() + queries
	}
}
