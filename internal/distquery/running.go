package distquery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// runningTimeout is how long a node may take to list its queries or to end one. A node that hangs must not hold up
// the answer of the others.
const runningTimeout = 3 * time.Second

// Nodes is what is known of the data nodes of the cluster.
type Nodes interface {
	NodeID() uint64
	State() *cluster.State
}

// Running runs SHOW QUERIES and KILL QUERY over all data nodes. It takes the place of the engine's list of queries,
// which knows those of one node alone. Other nodes are asked as the page of the cluster asks them.
type Running struct {
	nodes Nodes
	pool  *rpc.Pool
	own   *query.TaskManager
}

// NewRunning returns it for the node whose queries are own.
func NewRunning(nodes Nodes, pool *rpc.Pool, own *query.TaskManager) *Running {
	return &Running{nodes, pool, own}
}

// ExecuteStatement runs one of the two statements.
func (r *Running) ExecuteStatement(ctx *query.ExecutionContext, stmt influxql.Statement) error {
	switch stmt := stmt.(type) {
	case *influxql.ShowQueriesStatement:
		rows, messages := r.show(ctx, ctx.CoarseAuthorizer)
		return ctx.Send(&query.Result{Series: rows, Messages: messages})
	case *influxql.KillQueryStatement:
		if err := r.kill(ctx, stmt); err != nil {
			return err
		}
		var messages []*query.Message
		if ctx.ReadOnly {
			messages = append(messages, query.ReadOnlyWarning(stmt.String()))
		}
		return ctx.Send(&query.Result{Messages: messages})
	}
	return query.ErrInvalidQuery
}

var runningColumns = []string{"qid", "node_id", "tcp_host", "query", "database", "duration", "status", "user"}

// show lists the queries of all nodes, with a warning for each node that does not answer.
func (r *Running) show(ctx context.Context, may query.CoarseAuthorizer) (models.Rows, []*query.Message) {
	nodes, self := r.nodes.State().DataNodes, r.nodes.NodeID()
	if !slices.ContainsFunc(nodes, func(n cluster.Node) bool { return n.ID == self }) {
		nodes = append(slices.Clone(nodes), cluster.Node{ID: self}) // this node is in no cluster yet
	}
	answers := rpc.AskAll(ctx, nodes, runningTimeout,
		func(ctx context.Context, n cluster.Node) ([]query.QueryInfo, error) {
			if n.ID == self {
				return r.own.Queries(), nil
			}
			return r.queriesOf(ctx, n)
		})
	slices.SortFunc(answers, func(a, b rpc.Answer[cluster.Node, []query.QueryInfo]) int {
		return cmp.Compare(a.Node.ID, b.Node.ID)
	})
	row := &models.Row{Columns: runningColumns, Values: [][]any{}}
	var messages []*query.Message
	for _, a := range answers {
		if a.Err != nil {
			messages = append(messages, &query.Message{Level: query.WarningLevel, Text: fmt.Sprintf(
				"the queries of data node %s are not listed, because it does not answer: %s", a.Node.TCPAddr,
				rpc.Message(a.Err))})
			continue
		}
		slices.SortFunc(a.Value, func(x, y query.QueryInfo) int { return cmp.Compare(x.ID, y.ID) })
		for _, q := range a.Value {
			if may != nil && q.Database != "" && !may.AuthorizeDatabase(influxql.ReadPrivilege, q.Database) {
				continue
			}
			row.Values = append(row.Values, []any{
				q.ID, a.Node.ID, a.Node.TCPAddr, q.Query, q.Database, shortened(q.Duration).String(), q.Status.String(),
				q.User,
			})
		}
	}
	return models.Rows{row}, messages
}

// queriesOf asks another node. One of a former build sends a whole report, with the beginning of each text.
func (r *Running) queriesOf(ctx context.Context, n cluster.Node) (out []query.QueryInfo, err error) {
	conn, err := r.pool.Conn(n.TCPAddr)
	if err != nil {
		return nil, err
	}
	report, err := rpc.NewOverviewClient(conn).Report(ctx, &rpc.ReportRequest{Queries: true})
	if err != nil {
		return nil, err
	}
	for _, q := range report.Queries {
		info := query.QueryInfo{
			ID: q.Id, Query: string(q.Text), Database: string(q.Database), User: string(q.User),
			Duration: time.Duration(q.Duration),
			Status:   statusOf(q.Status),
		}
		if q.Duration == 0 {
			info.Duration = max(time.Since(time.Unix(0, q.Started)), 0)
		}
		out = append(out, info)
	}
	return out, nil
}

func statusOf(text string) query.TaskStatus {
	for _, s := range []query.TaskStatus{query.RunningTask, query.KilledTask} {
		if s.String() == text {
			return s
		}
	}
	return 0
}

// shortened leaves out of a duration what is less than the greatest unit of second, millisecond and microsecond that
// fits, as the engine does.
func shortened(d time.Duration) time.Duration {
	for _, unit := range []time.Duration{time.Second, time.Millisecond, time.Microsecond} {
		if d >= unit {
			return d.Truncate(unit)
		}
	}
	return d
}

// kill ends a query of the node that the statement names, or else of this one.
func (r *Running) kill(ctx context.Context, stmt *influxql.KillQueryStatement) error {
	nodes := r.nodes.State().DataNodes
	i := slices.IndexFunc(nodes, func(n cluster.Node) bool { return n.TCPAddr == stmt.Host })
	switch {
	case stmt.Host == "":
		return r.own.KillQuery(stmt.QueryID)
	case i < 0:
		return fmt.Errorf("%s is not a data node: give the tcp_host of SHOW QUERIES", influxql.QuoteIdent(stmt.Host))
	case nodes[i].ID == r.nodes.NodeID():
		return r.own.KillQuery(stmt.QueryID)
	}
	ctx, cancel := context.WithTimeout(ctx, runningTimeout)
	defer cancel()
	conn, err := r.pool.Conn(stmt.Host)
	if err == nil {
		_, err = rpc.NewOverviewClient(conn).KillQuery(ctx, &rpc.KillQueryRequest{Id: stmt.QueryID})
	}
	switch {
	case err == nil:
		return nil
	case status.Code(err) == codes.NotFound:
		return errors.New("data node " + stmt.Host + ": " + rpc.Message(err))
	}
	return fmt.Errorf("data node %s does not answer, so its query %d may still run: %s", stmt.Host, stmt.QueryID,
		rpc.Message(err))
}
