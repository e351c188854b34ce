package distquery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"

	"concord/internal/aggregate"
	"concord/internal/budget"
	"concord/internal/cluster"
	"concord/internal/restrict"
)

// Between two attempts at a statement that stores its answer, and for how long it is tried.
const (
	intoPause    = 200 * time.Millisecond
	maxIntoPause = 2 * time.Second
	intoWait     = 5 * time.Minute
)

// Executor runs the engine's statements over the cluster. Each answer is complete, or says that it is not: it carries
// a warning that names the shards of which no whole copy could be read, or fails.
type Executor struct {
	Base   coordinator.StatementExecutor // without ShardMapper and TSDBStore
	Mapper *ShardMapper
	// Store answers schema questions and runs deletes, as far as the user may. What it holds is taken from the share.
	// The engine gives its questions a context that never ends: they are to end with the one given here.
	Store  func(context.Context, *Report, *budget.Share, *restrict.User) coordinator.TSDBStore
	Strict bool // an incomplete answer is an error
	// Refresh makes the node's metadata as new as the leader's, for statements that decide by it what they change.
	Refresh func() error
	// Change changes the state of the cluster.
	Change func(cluster.Op) error
	Log    *zap.Logger
	// LogTimeout is the query-timeout when each query that it ends is to be logged, else 0. The engine's own log of
	// that reads the list of running queries without its lock, which can crash the node.
	LogTimeout time.Duration
	// Budget is the memory of this node for queries; nil is no limit.
	Budget *budget.Budget
	// Requests finds the request of a client that a statement belongs to.
	Requests *budget.Requests
}

// ExecuteStatement runs a statement. One that stores its answer, SELECT INTO and so every continuous query, never
// stores an incomplete one: it waits until whole copies can be read, for five minutes at most.
func (e *Executor) ExecuteStatement(ctx *query.ExecutionContext, stmt influxql.Statement) error {
	err := e.executeAny(ctx, stmt)
	if err != nil {
		text := err.Error()
		if why := interrupted(ctx); why != nil && errors.Is(err, query.ErrQueryInterrupted) {
			text = why.Error()
		}
		e.Requests.Get(ctx.NodeID).Note("error", text)
	}
	return err
}

func (e *Executor) executeAny(ctx *query.ExecutionContext, stmt influxql.Statement) error {
	if sel, ok := stmt.(*influxql.SelectStatement); ok && sel.Target != nil {
		return e.executeInto(ctx, sel)
	}
	switch stmt.(type) {
	case *influxql.DropDatabaseStatement, *influxql.DropRetentionPolicyStatement, *influxql.DropShardStatement,
		*influxql.RevokeStatement:
		// Without a leader the change itself fails with an error that says so.
		_ = e.Refresh()
	}
	defer e.limitList(ctx, stmt)()
	if err := e.execute(ctx, stmt, e.Strict); err != nil {
		return err
	}
	if revoke, ok := stmt.(*influxql.RevokeStatement); ok && revoke.Privilege == influxql.AllPrivileges {
		// The engine knows of reading and writing alone.
		all := cluster.Grants{revoke.On: cluster.AllPermissions}
		return e.Change(cluster.ChangeGrants{User: revoke.User, Remove: all})
	}
	return nil
}

// NormalizeStatement fills in the database and policy where a statement does not name them.
func (e *Executor) NormalizeStatement(stmt influxql.Statement, database, policy string) error {
	return e.Base.NormalizeStatement(stmt, database, policy)
}

var (
	_ query.StatementExecutor   = (*Executor)(nil)
	_ query.StatementNormalizer = (*Executor)(nil)
)

func (e *Executor) executeInto(ctx *query.ExecutionContext, stmt *influxql.SelectStatement) error {
	limit, pause := time.Now().Add(intoWait), intoPause
	for first := true; ; first = false {
		one := stmt.Clone() // the engine rewrites what it runs
		err := e.execute(ctx, one, true)
		if !errors.Is(err, ErrIncomplete) || time.Now().After(limit) {
			return err
		}
		if first {
			e.Log.Warn("A statement that stores its answer waits for whole copies",
				zap.Stringer("statement", stmt), zap.Error(err))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("%w; ended while it waited: %w", err, ctx.Err())
		}
		pause = min(2*pause, maxIntoPause)
	}
}

func (e *Executor) execute(ctx *query.ExecutionContext, stmt influxql.Statement, strict bool) error {
	share := e.Budget.Open()
	defer share.Close()
	answer := e.countOf(ctx, share)
	for _, s := range []*budget.Share{share, answer.share} {
		defer s.OnEnd(func(err error) {
			if m := query.MonitorFromContext(ctx); m != nil {
				m.Monitor(func(<-chan struct{}) error { return err })
			}
		})()
	}
	if err := share.Grow(argumentCost(stmt)); err != nil {
		return err
	}
	user, err := restrict.From(ctx.Authorizer)
	if err != nil {
		return err
	}
	report := &Report{strict: strict, state: e.Mapper.meta.State}
	if readsShards(stmt) {
		if report, err = newReport(ctx, strict, e.Mapper.meta); err != nil {
			return err
		}
	}
	ending, end := context.WithCancel(ctx)
	defer end()
	defer e.logTimeout(ending, ctx, stmt.String())()
	mapper := e.mapperOf(stmt, report, share)
	mapper.ending, mapper.handed = ending, &handedOut{}
	base := e.Base
	base.ShardMapper = mapper
	base.TSDBStore = e.Store(ending, report, share, user)
	part := newPartCount(answer.share)
	list := newListing(ctx, stmt, base.TSDBStore, part)
	if list != nil {
		base.TSDBStore = list
	}
	if user != nil {
		if err := mayCreate(user, stmt); err != nil {
			return err
		}
	}
	base.PointsWriter = intoWriter{base.PointsWriter, ctx, user}
	results := &passing{
		ctx: ctx, stmt: stmt, report: report, answer: answer, paths: mapper.paths, lists: list != nil, out: ctx.Results,
		asks: e.Requests.Get(ctx.NodeID),
	}
	ended := results.begin()
	switch s := stmt.(type) {
	case *influxql.SelectStatement:
		err = selectRows(ctx, &base, s, part)
	case *influxql.ExplainStatement:
		rows := ctx.ChunkSize
		ctx.ChunkSize = analyzedRows
		err = base.ExecuteStatement(ctx, stmt)
		ctx.ChunkSize = rows
	default:
		err = base.ExecuteStatement(ctx, stmt)
	}
	ended()
	if err != nil {
		mapper.handed.close()
	}
	if over := cmp.Or(share.Err(), answer.share.Err()); over != nil {
		return over
	}
	if err == nil && results.lost {
		err = interrupted(ctx)
	}
	// What came to light after the last result.
	if late := results.warn(); err == nil && late != nil {
		return ctx.Send(&query.Result{Messages: late})
	}
	return err
}

// readsShards reports whether the answer of a statement is made of what shards have.
func readsShards(stmt influxql.Statement) bool {
	switch stmt.(type) {
	case *influxql.SelectStatement, *influxql.ExplainStatement,
		*influxql.ShowFieldKeysStatement, *influxql.ShowFieldKeyCardinalityStatement,
		*influxql.ShowMeasurementsStatement, *influxql.ShowMeasurementCardinalityStatement,
		*influxql.ShowSeriesStatement, *influxql.ShowSeriesCardinalityStatement,
		*influxql.ShowTagKeysStatement, *influxql.ShowTagKeyCardinalityStatement,
		*influxql.ShowTagValuesStatement, *influxql.ShowTagValuesCardinalityStatement:
		return true
	}
	return false
}

// countOf counts the answer against the share of the request, where it is held in memory until it is whole.
func (e *Executor) countOf(ctx *query.ExecutionContext, share *budget.Share) *answerCount {
	answer := &answerCount{share: share}
	if r := e.Requests.Get(ctx.NodeID); r != nil {
		r.Query.Store(ctx.QueryID)
		if !r.Streamed {
			answer.share, answer.keep = r.Share, true
		}
	}
	return answer
}

// mapperOf returns the mapper for a statement.
func (e *Executor) mapperOf(stmt influxql.Statement, report *Report, share *budget.Share) *ShardMapper {
	mapper := e.Mapper.For(report)
	mapper.share, mapper.holds = share, holdingOf(stmt)
	sel, _ := stmt.(*influxql.SelectStatement)
	if sel != nil && mapper.vector.On {
		mapper.statement = textAhead(sel)
	}
	if explain, ok := stmt.(*influxql.ExplainStatement); ok {
		if sel = explain.Statement; !explain.Analyze {
			mapper.paths = &paths{}
		}
	}
	if mapper.compiles = sel; sel != nil {
		mapper.keeps = aggregate.KeepOf(sel)
		if listsSeries(sel) {
			sel.Dedupe = false
		}
	}
	return mapper
}

// passing passes the results of a statement on, with what is to be said about them.
type passing struct {
	ctx    *query.ExecutionContext
	stmt   influxql.Statement
	report *Report
	answer *answerCount
	paths  *paths
	lists  bool // a listing sends the rows, and the engine knows of none
	out    chan *query.Result
	asks   *budget.Request // nil for none
	lost   bool            // the statement ended before all of its results were taken; for after the end
}

// begin takes the results of the statement, until end is called.
func (p *passing) begin() (end func()) {
	results, ended := make(chan *query.Result), make(chan struct{})
	p.ctx.Results = results
	go func() {
		defer close(ended)
		sent := false // rows
		for r := range results {
			if p.lists && sent && empty(r) {
				continue // the engine ends an answer of which it knows no rows
			}
			sent = sent || len(r.Series) > 0
			p.asks.Rows(len(r.Series))
			r.Messages = append(r.Messages, p.warn()...)
			listedRows(p.ctx, p.stmt, r)
			p.paths.add(r)
			if p.answer.add(r) != nil {
				continue // the statement ends
			}
			select {
			case p.out <- r:
			case <-p.ctx.Done(): // nobody takes it
				p.lost = true
			}
		}
	}()
	return func() {
		close(results)
		<-ended
		p.ctx.Results = p.out
	}
}

// warn is what there is to say since the last warning.
func (p *passing) warn() []*query.Message {
	all := p.report.warning()
	for _, m := range all {
		p.asks.Note("warning", m.Text)
	}
	return all
}

// logTimeout logs when query-timeout ends a statement, until stop is called.
func (e *Executor) logTimeout(ending context.Context, ctx *query.ExecutionContext, text string) (stop func()) {
	if e.LogTimeout == 0 {
		return func() {}
	}
	fields := []zap.Field{
		zap.String("query", text), zap.String("database", ctx.Database), zap.String("user", ctx.UserID),
		zap.Stringer("timeout", e.LogTimeout), zap.Uint64("query_id", ctx.QueryID),
	}
	if r := e.Requests.Get(ctx.NodeID); r != nil {
		fields = append(fields, zap.String("request_id", r.ID))
	}
	say := func() {
		if errors.Is(ending.Err(), query.ErrQueryTimeoutLimitExceeded) {
			e.Log.Warn("query killed for exceeding timeout limit", fields...)
		}
	}
	cancel := context.AfterFunc(ending, say)
	return func() {
		if cancel() {
			say() // the statement was faster to hear of its end
		}
	}
}

// listsSeries reports whether a statement is SHOW SERIES of one database. It gets each series once, whereas the engine
// would hold all of them in memory to see to that.
func listsSeries(stmt *influxql.SelectStatement) bool {
	if len(stmt.Sources) != 1 {
		return false
	}
	mm, ok := stmt.Sources[0].(*influxql.Measurement)
	return ok && mm.SystemIterator == "_series"
}

// answerCount takes the memory of an answer from a share.
type answerCount struct {
	share *budget.Share
	keep  bool  // the whole answer is held until its end, and not one part after the other
	last  int64 // bytes of the last part
}

func (c *answerCount) add(r *query.Result) error {
	n := answerSize(r)
	if !c.keep {
		n, c.last = n-c.last, n
	}
	return c.share.Grow(n)
}
