package datanode

import (
	"context"
	"time"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/query"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"concord/internal/budget"
	"concord/internal/distquery"
	"concord/internal/restrict"
)

// queries are what answers queries of clients.
type queries struct {
	executor *query.Executor
	store    httpStore       // the cluster, for the HTTP API
	budget   *budget.Budget  // what queries may hold in memory; nil for no limit
	requests budget.Requests // of clients, that run now
	log      *queryLog       // nil for none
	deps     distquery.Deps  // what answers them
	schema   *distquery.Schema
}

// openQueries makes the InfluxQL executor over the whole cluster.
func (n *Node) openQueries() (err error) {
	n.mon = n.newMonitor()
	if n.queries.budget, err = n.cfg.queryBudget(); err != nil {
		return err
	}
	n.queries.deps = distquery.Deps{
		Meta: n.Meta, Store: n.Store, Pool: n.pool, Whole: n.whole(),
		Vector:   distquery.VectorOf(n.Meta.State, n.cfg.Cluster.VectorAggregates),
		Sketches: &distquery.Sketches{}, Budget: n.queries.budget, Log: n.log,
	}
	if path := n.cfg.Data.QueryLogPath; path != "" {
		if n.queries.log, err = openQueryLog(path); err != nil {
			return err
		}
		n.onClose(n.queries.log.Close)
	}
	n.openExecutor()
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
func (n *Node) openExecutor() {
	c := n.cfg.Cluster
	n.queries.store = n.newHTTPStore()
	n.queries.executor = query.NewExecutor()
	schema := distquery.NewSchema(n.queries.deps)
	n.queries.schema = schema
	executor := &distquery.Executor{
		Base: coordinator.StatementExecutor{
			MetaClient:          n.Meta,
			TaskManager:         distquery.NewRunning(n.Meta, n.pool, n.queries.executor.TaskManager),
			Monitor:             n.mon,
			PointsWriter:        n.writer,
			MaxSelectPointN:     c.MaxSelectPointN,
			MaxSelectSeriesN:    c.MaxSelectSeriesN,
			MaxSelectBucketsN:   c.MaxSelectBucketsN,
			StrictErrorHandling: n.cfg.Data.StrictErrorHandling,
		},
		Mapper: distquery.NewShardMapper(n.queries.deps),
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
