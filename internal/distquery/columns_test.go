package distquery

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"

	"concord/internal/budget"
	"concord/internal/rpc"
)

func wide(fields int) string {
	var b strings.Builder
	for i := range fields {
		fmt.Fprintf(&b, "%cf%d=1", " ,"[min(i, 1)], i)
	}
	return "wide" + b.String() + " 1"
}

func TestStatementsAreCountedBeforeTheyAreCompiled(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	var asked atomic.Int64
	count := func(id uint64, s *Server) rpc.QueryServer {
		return faulty{QueryServer: s, id: id, serve: func(context.Context, uint64) error { asked.Add(1); return nil }}
	}
	c := newTestCluster(t, testOptions{nodes: 1, replicas: 1, idle: 1, wrap: count})
	c.write(t, wide(1000))
	requests := &budget.Requests{}
	n, b := c.executing(t, c.nodes[1], newPool(t), 16<<20, requests)
	answer := func(text string) (string, int64) {
		request := &budget.Request{Share: b.Open(), Streamed: true}
		defer request.Close()
		before := asked.Load()
		got := n.run(t, text, query.ExecutionOptions{ChunkSize: 100, NodeID: requests.Add(request)})
		return got, asked.Load() - before
	}
	for _, text := range []string{
		"SELECT max(*), min(*), count(*), sum(*) FROM wide",
		"SELECT " + strings.TrimSuffix(strings.Repeat("*, ", 20), ", ") + " FROM wide",
		"SELECT f1 FROM (SELECT " + strings.TrimSuffix(strings.Repeat("/f/, ", 20), ", ") + " FROM wide)",
		"EXPLAIN SELECT max(*), min(*), count(*), sum(*) FROM wide",
	} {
		if got, n := answer(text); !strings.Contains(got, overMemory) || n > 1 {
			t.Errorf("%.60s: %d questions, %.200s", text, n, got)
		}
	}
	if got, _ := answer("SELECT max(*) FROM wide"); strings.Contains(got, "error") {
		t.Errorf("%.200s", got)
	}
}

// An owner answers with the schema at once, when to plan the statement would take long.
func TestOwnersDoNotPlanWideStatements(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 1, replicas: 1})
	c.write(t, wide(5000))
	s := c.nodes[0].server
	known := newSchema()
	for i := range 5000 {
		known.fields[fmt.Sprintf("f%d", i)] = influxql.Float
	}
	for text, want := range map[string]bool{
		"SELECT max(f1) FROM db0.rp0.wide": true, "SELECT max(*) FROM db0.rp0.wide": false,
		"SELECT * FROM db0.rp0.wide": false,
	} {
		r := &rpc.SelectRequest{ShardIds: []uint64{1}, Statement: []byte(text), MaxTime: day}
		if got := s.plan(t.Context(), r, &rpc.FieldDimensionsResponse{}, known); (got != nil) != want {
			t.Errorf("%s is planned: %t", text, got != nil)
		}
	}
}

func TestStreamOfManyCallsEndsInLinearTime(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	s := &stream{ctx: ctx, cancel: cancel, calls: make([]streamedCall, 600_000)}
	began := time.Now()
	for i := range s.calls {
		if ctx.Err() != nil {
			t.Fatalf("it ended with call %d", i)
		}
		s.end(i)
		s.end(i)
	}
	if took := time.Since(began); took > 20*time.Second || ctx.Err() == nil {
		t.Errorf("it took %s, and ended with %v", took, ctx.Err())
	}
}

func TestFieldKeysAreCounted(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 1, replicas: 1, idle: 1})
	c.write(t, wide(5000))
	requests := &budget.Requests{}
	n, b := c.executing(t, c.nodes[1], newPool(t), 1<<20, requests)
	answer := func() string {
		request := &budget.Request{Share: b.Open(), Streamed: true}
		defer request.Close()
		return n.run(t, "SHOW FIELD KEYS", query.ExecutionOptions{ChunkSize: 10, NodeID: requests.Add(request)})
	}
	if got := answer(); !strings.Contains(got, overMemory) {
		t.Errorf("all keys are put in order: %.100s", got)
	}
	n, b = c.executing(t, c.nodes[1], newPool(t), 64<<20, requests)
	c.nodes[0].server.budget = budget.New(1 << 20)
	if got := answer(); !strings.Contains(got, "error: data node 127.0.0.1:") {
		t.Errorf("the owner holds the keys of a measurement: %.100s", got)
	}
}
