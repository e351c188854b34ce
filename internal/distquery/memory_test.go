package distquery

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/services/storage"
	"github.com/influxdata/influxdb/storage/reads/datatypes"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/anypb"

	"concord/internal/budget"
	"concord/internal/enginetest"
	"concord/internal/restrict"
	"concord/internal/rpc"
)

// limited is node 1 with a budget for the queries that it coordinates.
func (c *testCluster) limited(
	t testing.TB, pool *rpc.Pool, bytes int64, requests *budget.Requests,
) (*testNode, *budget.Budget) {
	t.Helper()
	return c.executing(t, c.nodes[0], pool, bytes, requests)
}

// executing is a node whose queries run through the Executor.
func (c *testCluster) executing(
	t testing.TB, of *testNode, pool *rpc.Pool, bytes int64, requests *budget.Requests,
) (*testNode, *budget.Budget) {
	t.Helper()
	n := *of
	b := budget.New(bytes)
	n.exec = query.NewExecutor()
	t.Cleanup(func() { n.exec.Close() })
	schema := NewSchema(c.deps(&n, pool))
	n.mapper = NewShardMapper(c.deps(&n, pool))
	n.exec.StatementExecutor = &Executor{
		Base: coordinator.StatementExecutor{MetaClient: c.meta, TaskManager: n.exec.TaskManager,
			PointsWriter: nowhere{}},
		Mapper: n.mapper,
		Store: func(ctx context.Context, r *Report, s *budget.Share, u *restrict.User) coordinator.TSDBStore {
			return schemaStore{n.store, schema.For(ctx, r, s, u)}
		},
		Log:    zap.NewNop(),
		Budget: b, Requests: requests,
	}
	return &n, b
}

func newPool(t testing.TB) *rpc.Pool {
	pool := &rpc.Pool{}
	t.Cleanup(func() { pool.Close() })
	return pool
}

// overMemory is how an answer says that the query needed too much.
const overMemory = "error: the query needs more memory than [cluster] max-query-memory"

func TestQueriesThatNeedTooMuchMemoryEnd(t *testing.T) {
	notWithRace(t)
	c := newTestCluster(t, testOptions{nodes: 2, replicas: 1})
	c.write(t, many())
	c.write(t, lines(40))
	var wide strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&wide, "%cf%d=1", " ,"[min(i, 1)], i)
	}
	c.write(t, "wide"+wide.String()+" 1")
	requests := &budget.Requests{}
	n, b := c.limited(t, newPool(t), 1<<20, requests)
	whole, streamed := &budget.Request{Share: b.Open()}, &budget.Request{Share: b.Open(), Streamed: true}
	defer whole.Close()
	defer streamed.Close()
	opt := query.ExecutionOptions{ChunkSize: 100}

	for _, text := range []string{
		"SELECT v FROM cpu",
		"SELECT max(v) FROM cpu WHERE time >= 0 AND time < 259200s GROUP BY time(1s) fill(0)",
		"SELECT percentile(v, 90) FROM cpu",
		"SELECT median(v), stddev(v) FROM cpu",
		"SELECT percentile(i, 90) FROM cpu GROUP BY time(2000000s)",
		"SELECT top(v, 1000000000) FROM cpu",
		"SELECT moving_average(v, 1000000000) FROM cpu",
		"SELECT x FROM (SELECT sample(v, 1000000000) AS x FROM cpu)",
		"SELECT * FROM wide",
		"SELECT f1 FROM wide",
		"SHOW FIELD KEYS FROM wide",
		strings.TrimSuffix(strings.Repeat("SELECT v FROM cpu LIMIT 1000;", 10), ";"),
	} {
		request := &budget.Request{Share: b.Open()}
		opt.NodeID = requests.Add(request)
		if got := n.run(t, text, opt); !strings.Contains(got, overMemory) {
			t.Errorf("%s\nanswers\n%.300s", text, got)
		}
		request.Close()
		if used := b.Used(); used != 0 {
			t.Errorf("%s: %d bytes are left in the budget", text, used)
		}
	}
	// What is handed on as it comes does not pile up, and windows that end are given back.
	for _, text := range []string{
		"SELECT v FROM cpu WHERE host = 'h1'",
		"SELECT max(v) FROM cpu WHERE time >= 0 AND time < 86400s GROUP BY time(1s) fill(0)",
		"SELECT percentile(v, 90) FROM cpu GROUP BY time(1000s), host fill(none)",
		"SELECT top(v, 100) FROM cpu",
		"SHOW TAG VALUES WITH KEY = host",
	} {
		opt.NodeID = requests.Add(streamed)
		if got, want := n.run(t, text, opt), c.plain.run(t, text, opt); got != want {
			t.Errorf("%s\nanswers\n%.300s\nwant\n%.300s", text, got, want)
		}
	}
}

// The fields of a measurement are collected in a map. They are counted before.
func TestFieldsAreCountedBeforeTheyAreCollected(t *testing.T) {
	t.Parallel()
	const fields = 2 * endedEvery
	store := enginetest.Store(t, tsdb.TSI1IndexName)
	if err := store.CreateShard(db, policy, 1, true); err != nil {
		t.Fatal(err)
	}
	var wide strings.Builder
	for i := range fields {
		fmt.Fprintf(&wide, "%cf%d=1", " ,"[min(i, 1)], i)
	}
	points, err := models.ParsePointsString("wide" + wide.String() + " 1")
	if err == nil {
		err = store.WriteToShard(tsdb.WriteContext{}, 1, points)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, mm := range []*influxql.Measurement{
		{Name: "wide"}, {Regex: &influxql.RegexLiteral{Val: regexp.MustCompile("w.*")}},
	} {
		for most, want := range map[int64]int{costOfMaps*fields - 1: 0, costOfMaps * fields: fields} {
			share := budget.New(most).Open()
			defer share.Close()
			got, _, err := dimensionsOf(budget.With(t.Context(), share), store, []uint64{1}, mm, nil)
			if len(got) != want || (err != nil) != (want == 0) {
				t.Errorf("%s: with %d bytes: %d fields, %v", mm, most, len(got), err)
			}
			if held := share.Held(); held != 0 && err == nil {
				t.Errorf("%s: with %d bytes: %d are still held", mm, most, held)
			}
		}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	_, _, err = dimensionsOf(ended, store, []uint64{1}, &influxql.Measurement{Name: "wide"}, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("for a statement that was ended: %v", err)
	}
}

func TestOwnersBoundTheMemoryOfQueries(t *testing.T) {
	var asked atomic.Int64
	count := func(id uint64, s *Server) rpc.QueryServer {
		return faulty{QueryServer: s, id: id, serve: func(context.Context, uint64) error { asked.Add(1); return nil }}
	}
	c := newTestCluster(t, testOptions{nodes: 4, replicas: 3, wrap: count})
	var b strings.Builder
	for i := range 500 {
		fmt.Fprintf(&b, "cpu,host=h%d v=1 %d\n", i, i)
	}
	c.write(t, b.String())
	for _, n := range c.nodes {
		n.server.budget = budget.New(1 << 20)
	}
	outside := c.nodes[3] // owns nothing of the first group
	if got := outside.run(
		t, "SELECT v FROM cpu", query.ExecutionOptions{},
	); !strings.Contains(got, "error: data node 127.0.0.1:") ||
		!strings.Contains(got, "the query needs more memory than [cluster] max-query-memory") || asked.Load() != 1 {
		t.Errorf("%d nodes were asked: %.300s", asked.Load(), got)
	}
	got := outside.run(t, "SHOW TAG VALUES WITH KEY = host", query.ExecutionOptions{})
	if strings.Contains(got, "error") {
		t.Errorf("%.300s", got)
	}
	b.Reset()
	for i := range 40 {
		fmt.Fprintf(&b, "texts s=\"%s%d\" %d\n", strings.Repeat("x", 50_000), i, i)
	}
	c.write(t, b.String())
	for _, text := range []string{ // whose owner decodes and keeps strings
		"SELECT count(s) FROM texts",
		"SELECT last(s) FROM texts WHERE time >= 0 AND time < 40ns GROUP BY time(1ns)",
	} {
		if got := outside.run(t, text, query.ExecutionOptions{}); !strings.Contains(got, "error: data node 127.0.0.1:") ||
			!strings.Contains(got, "the query needs more memory than [cluster] max-query-memory") {
			t.Errorf("%s\nanswers\n%.300s", text, got)
		}
	}
	c.compare(t, "SELECT v FROM cpu WHERE host = 'h7'", "SHOW SERIES CARDINALITY", "SELECT last(s) FROM texts")
	for _, n := range c.nodes {
		if used := n.server.budget.Used(); used != 0 {
			t.Errorf("node %d: %d bytes are left in the budget", n.id, used)
		}
	}
}

func TestReadsOfPrometheusTakeFromTheBudget(t *testing.T) {
	c := newTestCluster(t, testOptions{nodes: 2, replicas: 1})
	c.write(t, many())
	r := NewSeriesReader(c.deps(c.nodes[0], newPool(t)), ReadLimits{})
	r.budget = budget.New(512 << 10)
	source, err := anypb.New(&storage.ReadSource{Database: db, RetentionPolicy: policy})
	if err != nil {
		t.Fatal(err)
	}
	read := func(end int64) (n int, err error) {
		set, err := r.ReadFilter(t.Context(), &datatypes.ReadFilterRequest{
			ReadSource: source, Range: &datatypes.TimestampRange{End: end},
		})
		if err != nil {
			return 0, err
		}
		defer set.Close()
		for set.Next() {
			n++
		}
		return n, nil
	}
	if n, err := read(day); err == nil || !strings.Contains(err.Error(), "max-query-memory") {
		t.Errorf("%d series, %v", n, err)
	}
	if n, err := read(day / 1000); err != nil || n == 0 {
		t.Errorf("%d series, %v", n, err)
	}
	if used := r.budget.Used(); used != 0 {
		t.Errorf("%d bytes are left in the budget", used)
	}
}
