package distquery

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"concord/internal/budget"
	"concord/internal/rpc"
)

// hanging is a node that answers no question for the schema until the question ends.
type hanging struct {
	rpc.QueryServer
	asked *atomic.Int64 // questions that hang
}

func (h hanging) wait(ctx context.Context) error {
	h.asked.Add(1)
	defer h.asked.Add(-1)
	<-ctx.Done()
	return ctx.Err()
}

func (h hanging) MeasurementNames(ctx context.Context, _ *rpc.SchemaRequest) (*rpc.MeasurementNamesResponse, error) {
	return nil, h.wait(ctx)
}

func (h hanging) Measurements(_ *rpc.SchemaRequest, out rpc.Query_MeasurementsServer) error {
	return h.wait(out.Context())
}

func (h hanging) TagKeys(ctx context.Context, _ *rpc.SchemaRequest) (*rpc.TagKeysResponse, error) {
	return nil, h.wait(ctx)
}

func (h hanging) TagValues(_ *rpc.SchemaRequest, out rpc.Query_TagValuesServer) error {
	return h.wait(out.Context())
}

func (h hanging) SeriesSketch(ctx context.Context, _ *rpc.SchemaRequest) (*rpc.SeriesSketchResponse, error) {
	return nil, h.wait(ctx)
}

func (h hanging) CreateIterator(_ *rpc.IteratorRequest, out rpc.Query_CreateIteratorServer) error {
	return h.wait(out.Context())
}

func (h hanging) Select(_ *rpc.SelectRequest, out rpc.Query_SelectServer) error {
	return h.wait(out.Context())
}

func TestEndedShowStatementsFreeTheOtherNodes(t *testing.T) {
	t.Parallel()
	asked := new(atomic.Int64)
	c := newTestCluster(t, testOptions{nodes: 2, replicas: 1, wrap: func(_ uint64, s *Server) rpc.QueryServer {
		return hanging{s, asked}
	}})
	c.write(t, lines(9))
	n, _ := c.limited(t, newPool(t), 1<<30, &budget.Requests{})
	tm := n.exec.TaskManager
	for how, end := range map[string]func(abort func()){
		"killed": func(func()) {
			if err := tm.KillQuery(tm.Queries()[0].ID); err != nil {
				t.Fatal(err)
			}
		},
		"left by its client": func(abort func()) { abort() },
	} {
		for _, text := range []string{
			`SHOW TAG VALUES WITH KEY = host`, `SHOW TAG KEYS`, `SHOW MEASUREMENTS`, `SHOW SERIES`,
			`SHOW SERIES CARDINALITY`,
			`SHOW FIELD KEYS`, `SHOW MEASUREMENT CARDINALITY`, `SHOW SERIES EXACT CARDINALITY`, `SELECT v FROM cpu`,
		} {
			abort, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				n.run(t, text, query.ExecutionOptions{AbortCh: abort})
			}()
			eventually(t, text+" asks the other node", func() bool { return asked.Load() > 0 })
			end(sync.OnceFunc(func() { close(abort) }))
			eventually(t, text+" that was "+how+" ends on the other node", func() bool { return asked.Load() == 0 })
			<-done
			eventually(t, "no query runs", func() bool { return len(tm.Queries()) == 0 })
		}
	}
}

// TestTheLogOfTimedOutQueriesIsSafe has queries come and go while others time out. The engine's own log of these reads
// its list of queries without the lock.
func TestTheLogOfTimedOutQueriesIsSafe(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.WarnLevel)
	e := query.NewExecutor()
	x := &Executor{Log: zap.New(core), LogTimeout: time.Millisecond, Requests: &budget.Requests{}}
	e.StatementExecutor = timing{x}
	e.TaskManager.QueryTimeout = x.LogTimeout
	q, err := influxql.ParseQuery("SELECT a FROM m")
	if err != nil {
		t.Fatal(err)
	}
	const clients, each = 8, 25
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for range each {
				for r := range e.ExecuteQuery(q, query.ExecutionOptions{Database: "db", UserID: "ann"}, nil) {
					if r.Err != query.ErrQueryTimeoutLimitExceeded {
						t.Errorf("a query ends with %v", r.Err)
					}
				}
			}
		})
	}
	wg.Wait()
	eventually(t, "each query is in the log", func() bool { return logs.Len() == clients*each })
	for _, entry := range logs.All() {
		f := entry.ContextMap()
		if entry.Message != "query killed for exceeding timeout limit" || f["database"] != "db" || f["user"] != "ann" ||
			!strings.Contains(f["query"].(string), "SELECT a FROM m") {
			t.Errorf("the log says %s %v", entry.Message, f)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// timing runs statements until they are ended, as the Executor watches them.
type timing struct{ x *Executor }

func (w timing) ExecuteStatement(ctx *query.ExecutionContext, stmt influxql.Statement) error {
	ending, end := context.WithCancel(ctx)
	defer end()
	defer w.x.logTimeout(ending, ctx, stmt.String())()
	<-ending.Done()
	return ending.Err()
}

// A statement that ends before all of its results were taken fails: its last rows are lost.
func TestResultThatNobodyTakesIsAnError(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	p := &passing{
		ctx: &query.ExecutionContext{Context: ctx}, stmt: &influxql.ShowDatabasesStatement{}, report: &Report{},
		answer: &answerCount{share: (*budget.Budget)(nil).Open()}, out: make(chan *query.Result),
	}
	end := p.begin()
	p.ctx.Results <- &query.Result{}
	cancel()
	end()
	if !p.lost {
		t.Error("the loss is not noticed")
	}
}
