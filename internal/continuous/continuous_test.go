package continuous

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/services/continuous_querier"
	emeta "github.com/influxdata/influxdb/services/meta"
	itoml "github.com/influxdata/influxdb/toml"
	"github.com/influxdata/influxql"

	"concord/internal/cluster"
	"concord/internal/distquery"
)

// fakeMeta is the metadata with one clock, and one node that has the lease.
type fakeMeta struct {
	state *cluster.State
	now   time.Time
	held  *Service // who may run; nil for nobody
}

func newFakeMeta(t *testing.T) *fakeMeta {
	t.Helper()
	m := &fakeMeta{state: cluster.NewState(), now: time.Unix(1_700_000_000, 0).UTC()}
	m.state.DataNodes = []cluster.Node{{ID: 1, TCPAddr: "a:1"}}
	m.must(t, cluster.CreateDatabase{Name: "db"})
	m.must(t, cluster.CreateContinuousQuery{
		Database: "db", Name: "cq",
		Query: "CREATE CONTINUOUS QUERY cq ON db BEGIN SELECT mean(v) INTO out FROM cpu GROUP BY time(10s) END",
	})
	return m
}

func (m *fakeMeta) must(t *testing.T, op cluster.Op) {
	t.Helper()
	if err := m.Execute(op); err != nil {
		t.Fatal(err)
	}
}

func (m *fakeMeta) Execute(op cluster.Op) error {
	c, err := cluster.NewCommand(op)
	if err == nil {
		_, err = m.state.Apply(m.state.Index+1, c)
	}
	return err
}

func (m *fakeMeta) Databases() []emeta.DatabaseInfo { return m.state.Data.Databases }
func (m *fakeMeta) State() *cluster.State           { return m.state }
func (m *fakeMeta) Refresh() error                  { return nil }
func (m *fakeMeta) Now() (time.Time, bool)          { return m.now, true }

// node is the metadata as one node asks for it.
type node struct {
	*fakeMeta
	self **Service
}

func (n node) AcquireLease(string) (*emeta.Lease, error) {
	if n.held != *n.self {
		return nil, errors.New("another node has the lease")
	}
	return &emeta.Lease{}, nil
}

// windows counts how often each window of ten seconds was computed.
type windows map[int64]int

func (w windows) ExecuteStatement(ctx *query.ExecutionContext, stmt influxql.Statement) error {
	_, times, err := influxql.ConditionExpr(stmt.(*influxql.SelectStatement).Condition, nil)
	if err != nil {
		return err
	}
	for at := times.Min; !at.After(times.Max); at = at.Add(10 * time.Second) {
		w[at.Unix()]++
	}
	return ctx.Send(&query.Result{})
}

// newNode is a node that runs continuous queries when it has the lease. What it computes is added to w.
func (m *fakeMeta) newNode(w windows) *Service {
	var s *Service
	executor := query.NewExecutor()
	executor.StatementExecutor = w
	cfg := continuous_querier.NewConfig()
	cfg.LogEnabled = false
	s = New(cfg, node{m, &s}, executor, nil)
	return s
}

// pass lets time pass, in which the nodes look every second for what is due.
func (m *fakeMeta) pass(d time.Duration, nodes ...*Service) {
	for end := m.now.Add(d); m.now.Before(end); m.now = m.now.Add(time.Second) {
		for _, s := range nodes {
			s.run()
		}
	}
}

// check is that each window that ended was computed since the first one was.
func (m *fakeMeta) check(t *testing.T, w windows, from time.Time) {
	t.Helper()
	for at := from; !at.Add(10 * time.Second).After(m.now.Add(-time.Second)); at = at.Add(10 * time.Second) {
		if w[at.Unix()] == 0 {
			t.Errorf("the window of %s was never computed", at.Format(time.TimeOnly))
		}
	}
}

// When the node that runs continuous queries dies, no window is missing: the next one goes on from the last one that
// was finished.
func TestNoWindowIsMissingWhenTheNodeDies(t *testing.T) {
	t.Parallel()
	for _, life := range []time.Duration{25 * time.Second, 95 * time.Second, 10 * time.Minute} {
		t.Run(fmt.Sprint(life), func(t *testing.T) {
			t.Parallel()
			m, w := newFakeMeta(t), windows{}
			a, b := m.newNode(w), m.newNode(w)
			first := m.now
			m.held = a
			m.pass(life, a, b)
			m.held = nil
			m.pass(emeta.DefaultLeaseDuration, b) // until the lease ends
			m.held = b
			m.pass(time.Minute, b)
			m.check(t, w, first)
			// A node whose lease ended, and which has it again, does not begin where it stopped.
			m.held = nil
			m.pass(time.Minute, a, b)
			m.held = a
			before := len(w)
			m.pass(time.Minute, a, b)
			m.check(t, w, first)
			if again := w[first.Unix()]; again > 3 || len(w) > before+13 {
				t.Errorf("the first window was computed %d times", again)
			}
		})
	}
}

// What a query of the same name did before it was dropped is nothing to go on from, and neither is a time to come.
func TestNewQueryBeginsAnew(t *testing.T) {
	t.Parallel()
	m, w := newFakeMeta(t), windows{}
	a := m.newNode(w)
	m.held = a
	m.pass(time.Minute, a)
	cq := m.state.Data.Database("db").ContinuousQueries[0]
	m.must(t, cluster.DropContinuousQuery{Database: "db", Name: "cq"})
	m.now = m.now.Add(time.Hour)
	m.must(t, cluster.CreateContinuousQuery{Database: "db", Name: "cq", Query: cq.Query})
	clear(w)
	b := m.newNode(w)
	m.held = b
	m.pass(time.Second, b)
	if len(w) != 1 {
		t.Errorf("a new query computed %d windows at first, want 1", len(w))
	}
	m.must(t, cluster.NoteContinuousQueries{Runs: []cluster.ContinuousRun{
		{ContinuousQuery: cluster.ContinuousQuery{Database: "db", Name: "cq"}, Until: m.now.Add(100 * time.Hour)},
	}})
	c := m.newNode(w)
	m.held = c
	first := m.now.Truncate(10 * time.Second)
	m.pass(time.Minute, c)
	m.check(t, w, first)
}

// endless is a query that waits for what does not come, as for whole copies.
type endless struct{ began chan struct{} }

func (e endless) ExecuteStatement(ctx *query.ExecutionContext, _ influxql.Statement) error {
	e.began <- struct{}{}
	<-ctx.Done()
	return ctx.Err()
}

// A node that stops does not wait for a query that does not end, and begins no other one.
func TestQueryThatDoesNotEndIsEnded(t *testing.T) {
	t.Parallel()
	m := newFakeMeta(t)
	m.must(t, cluster.CreateContinuousQuery{
		Database: "db", Name: "another",
		Query: "CREATE CONTINUOUS QUERY another ON db BEGIN SELECT max(v) INTO out FROM cpu GROUP BY time(10s) END",
	})
	began := make(chan struct{}, 10)
	executor := query.NewExecutor()
	executor.StatementExecutor = endless{began}
	cfg := continuous_querier.NewConfig()
	cfg.RunInterval, cfg.LogEnabled = itoml.Duration(time.Millisecond), false
	var s *Service
	s = New(cfg, node{m, &s}, executor, nil)
	s.patience = 0
	m.held = s
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	<-began
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		if err != nil || len(began) != 0 {
			t.Errorf("%v, and %d queries began meanwhile", err, len(began))
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for the query")
	}
}

// endsOwners is a cluster that no run of a query leaves as it was.
type endsOwners struct{ runs int }

func (e *endsOwners) ExecuteStatement(*query.ExecutionContext, influxql.Statement) error {
	e.runs++
	return fmt.Errorf("no other one is asked, for %w", distquery.ErrOwnerEnded)
}

// A query is run every ten seconds, and each run ends a data node.
func TestQueryThatMayHaveEndedANodeRests(t *testing.T) {
	m := newFakeMeta(t)
	ends := &endsOwners{}
	s := m.newNode(nil)
	s.executor.StatementExecutor = ends
	m.held = s
	m.pass(9*time.Minute, s)
	if ends.runs != 1 {
		t.Errorf("%d runs in nine minutes", ends.runs)
	}
	m.pass(71*time.Minute, s) // it rests for 10, 20, 40 and 80 minutes
	if ends.runs != 4 {
		t.Errorf("%d runs in 80 minutes", ends.runs)
	}
	// Another query of that name does not rest, and one that ran begins anew.
	m.must(t, cluster.DropContinuousQuery{Database: "db", Name: "cq"})
	m.must(t, cluster.CreateContinuousQuery{Database: "db", Name: "cq",
		Query: "CREATE CONTINUOUS QUERY cq ON db BEGIN SELECT max(v) INTO out FROM cpu GROUP BY time(10s) END"})
	m.pass(time.Minute, s)
	if ends.runs != 5 {
		t.Errorf("another query does not run: %d runs", ends.runs)
	}
}
