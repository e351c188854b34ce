package distquery

import (
	"testing"
	"time"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"concord/internal/budget"
)

// waiting is a statement executor whose statements run until they are ended.
type waiting struct{ requests *budget.Requests }

func (w waiting) ExecuteStatement(ctx *query.ExecutionContext, _ influxql.Statement) error {
	if r := w.requests.Get(ctx.NodeID); r != nil {
		r.Query.Store(ctx.QueryID)
	}
	<-ctx.Done()
	return ctx.Err()
}

func TestTheLogOfSlowQueriesNamesTheRequest(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.DebugLevel)
	requests := &budget.Requests{}
	e := query.NewExecutor()
	e.StatementExecutor = waiting{requests}
	e.TaskManager.LogQueriesAfter = 50 * time.Millisecond
	e.TaskManager.Logger = QueryLog(zap.New(core).With(zap.String("service", "query")), requests)
	var b *budget.Budget
	// The second query says the same as the first one does in the log, and more.
	texts := []string{"SELECT a FROM m", `SELECT b FROM "m (qid: 1, database: db, user: , threshold: 50ms)"`}
	warned := func() []observer.LoggedEntry {
		return logs.Filter(func(e observer.LoggedEntry) bool { return e.Level == zap.WarnLevel }).All()
	}
	closing := make(chan struct{})
	for i, text := range texts {
		q, err := influxql.ParseQuery(text)
		if err != nil {
			t.Fatal(err)
		}
		id := requests.Add(&budget.Request{Share: b.Open(), ID: "request " + string(rune('1'+i))})
		results := e.ExecuteQuery(q, query.ExecutionOptions{Database: "db", NodeID: id, Host: "client"}, closing)
		go func() {
			for range results {
			}
		}()
		// One after the other: the engine reads its list of queries without a lock before it logs one.
		for deadline := time.After(30 * time.Second); len(warned()) <= i; {
			select {
			case <-time.After(time.Millisecond):
			case <-deadline:
				t.Fatalf("the log has %v", logs.All())
			}
		}
	}
	close(closing)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	said := make(map[any]any)
	for _, entry := range warned() {
		fields := entry.ContextMap()
		if fields["service"] != "query" {
			t.Errorf("%s: %v", entry.Message, fields)
		}
		said[fields["query_id"]] = fields["request_id"]
	}
	if len(said) != 2 || said[uint64(1)] != "request 1" || said[uint64(2)] != "request 2" {
		t.Errorf("requests by query: %v", said)
	}
}
