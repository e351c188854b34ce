package distquery

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"github.com/zeebo/xxh3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/budget"
	"concord/internal/entropy/tsmfile"
	"concord/internal/rpc"
)

// faulty is a node whose iterators fail as a test says.
type faulty struct {
	rpc.QueryServer
	id     uint64
	chunks func(node uint64, n int, c *rpc.IteratorChunk) error // before chunk n of a stream is sent
	// the chunk before which a stream waits for its end; 0 is none
	hang  int
	open  *atomic.Int64                                // streams being served
	serve func(ctx context.Context, node uint64) error // before anything
}

type faultyStream struct {
	rpc.Query_CreateIteratorServer
	f faulty
	n int
}

func (f faulty) CreateIterator(r *rpc.IteratorRequest, out rpc.Query_CreateIteratorServer) error {
	if f.open != nil {
		f.open.Add(1)
		defer f.open.Add(-1)
	}
	if f.serve != nil {
		if err := f.serve(out.Context(), f.id); err != nil {
			return err
		}
	}
	return f.QueryServer.CreateIterator(r, &faultyStream{Query_CreateIteratorServer: out, f: f})
}

func (s *faultyStream) Send(c *rpc.IteratorChunk) error {
	if !c.Open && len(c.Points) == 0 { // a sign of life
		return s.Query_CreateIteratorServer.Send(c)
	}
	if s.f.chunks != nil {
		if err := s.f.chunks(s.f.id, s.n, c); err != nil {
			return err
		}
	}
	if s.f.hang > 0 && s.n >= s.f.hang {
		<-s.Context().Done()
		return s.Context().Err()
	}
	s.n++
	return s.Query_CreateIteratorServer.Send(c)
}

// many are so many points that they need several chunks.
func many() string {
	var b strings.Builder
	for h := range 3 {
		for i := range 6000 {
			fmt.Fprintf(&b, "cpu,host=h%d v=%d,i=%di %d\n", h, i, i, int64(i*3+h)*int64(time.Second))
		}
	}
	return b.String()
}

func TestIteratorThatFailsBeforeItsFirstPointMovesToAnotherOwner(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(node uint64, n int, c *rpc.IteratorChunk) error{
		"at its opening":    func(_ uint64, n int, _ *rpc.IteratorChunk) error { return errors.New("disk on fire") },
		"after its opening": func(_ uint64, n int, _ *rpc.IteratorChunk) error { return errAt(n, 1) },
		"as a lost node": func(_ uint64, n int, _ *rpc.IteratorChunk) error {
			return status.Error(codes.Unavailable, "gone")
		},
		"with a panic there": func(_ uint64, n int, _ *rpc.IteratorChunk) error { panic("nil map") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			failed := make(map[uint64]bool) // the first of each shard's owners to be asked fails, once
			c := newTestCluster(t, testOptions{nodes: 4, replicas: 2, wrap: func(id uint64, s *Server) rpc.QueryServer {
				return faulty{QueryServer: s, id: id, chunks: func(node uint64, n int, c *rpc.IteratorChunk) error {
					mu.Lock()
					defer mu.Unlock()
					err := func() (err error) {
						defer func() {
							if r := recover(); r != nil {
								err = fmt.Errorf("%v", r)
							}
						}()
						return fail(node, n, c)
					}()
					if err == nil || (len(failed) > 0 && !failed[node]) {
						return nil
					}
					failed[node] = true
					return err
				}}
			}})
			c.write(t, lines(9))
			c.compare(t, `SELECT v, host FROM cpu`,
				`SELECT sum(i), max(v) FROM cpu GROUP BY host`, `SELECT first(s) FROM cpu`,
				`SELECT i::unsigned FROM cpu`)
			if len(failed) == 0 {
				t.Error("no iterator failed")
			}
		})
	}
}

func errAt(n, at int) error {
	if n >= at {
		return errors.New("disk on fire")
	}
	return nil
}

func TestIteratorThatFailsForGoodIsAClearError(t *testing.T) {
	t.Parallel()
	for _, at := range []int{1, 3} { // before and after the first point
		t.Run(fmt.Sprintf("chunk %d", at), func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, testOptions{nodes: 2, replicas: 1, wrap: func(id uint64, s *Server) rpc.QueryServer {
				return faulty{
					QueryServer: s, id: id, chunks: func(_ uint64, n int, _ *rpc.IteratorChunk) error {
						return errAt(n, at)
					},
				}
			}})
			c.write(t, many())
			for _, n := range c.nodes {
				if n.store.ShardN() == 0 {
					t.Fatal("not every node has points")
				}
				addr := c.state.DataNodes[2-n.id].TCPAddr
				want := "data node " + addr + " failed during the query: disk on fire\n"
				if at == 1 {
					want = addr + ": " + want
				}
				for _, q := range []string{
					`SELECT v FROM cpu`, `SELECT v FROM cpu ORDER BY time DESC`, `SELECT * FROM cpu GROUP BY *`,
					`SELECT v FROM cpu, /c.u/`,
					`SELECT sum(v) FROM cpu WHERE time >= 0 AND time < 6h GROUP BY time(1s), host`,
					`SELECT v FROM (SELECT v, i FROM cpu)`, `SELECT elapsed(v) FROM cpu`,
					`SELECT top(v, 100000) FROM cpu`,
					`SELECT v INTO copy FROM cpu`, `EXPLAIN ANALYZE SELECT v FROM cpu`,
				} {
					got := n.run(t, q, query.ExecutionOptions{})
					i := strings.Index(got, "error: ")
					if i < 0 || !strings.HasSuffix(got, want) || strings.Count(got[i:], "\n") != 1 {
						t.Errorf("node %d: %s ends with %q, want %q", n.id, q, got[max(i, len(got)-200, 0):], want)
					}
				}
			}
		})
	}
}

func TestNoOwnerIsAClearError(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 2, replicas: 1})
	c.write(t, lines(4))
	away := c.state.DataNodes[1].TCPAddr
	c.Blocked[away] = true
	for _, q := range []string{
		`SELECT v FROM cpu`, `SELECT * FROM cpu`, `SELECT sum(v) FROM cpu GROUP BY host SLIMIT 1`,
		`SHOW TAG VALUES WITH KEY = host`, `SHOW TAG KEYS`, `SHOW MEASUREMENTS`, `SHOW SERIES`,
		`SHOW SERIES CARDINALITY`,
		`SHOW FIELD KEYS`, `EXPLAIN SELECT v FROM cpu`,
	} {
		got := c.nodes[0].run(t, q, query.ExecutionOptions{})
		if !strings.Contains(got, "no owner of shard ") || !strings.Contains(got, away+": link to "+away+" is cut") ||
			strings.Count(got, "\n") != 1 {
			t.Errorf("%s: %s", q, got)
		}
	}
}

// A query of some shards does not fail because no owner of another shard can say which tags that one has. It says so.
func TestShardThatIsAwayDoesNotFailQueriesOfOthers(t *testing.T) {
	t.Parallel()
	for _, strict := range []bool{false, true} {
		c := newTestCluster(t, testOptions{nodes: 3, replicas: 2, index: "inmem"}) // each node owns two of three
		c.write(t, lines(4))
		requests := &budget.Requests{}
		pool := newPool(t)
		pool.Blocked = func(addr string) bool { return c.Blocked[addr] }
		n, _ := c.executing(t, c.owner(t, c.shardGroups(t)[0].Shards[0].ID), pool, 1<<30, requests)
		n.exec.StatementExecutor.(*Executor).Strict = strict
		q := fmt.Sprintf(`SELECT sum(v) FROM cpu WHERE time >= 0 AND time < %dns GROUP BY host`, day)
		want := c.plain.run(t, q, query.ExecutionOptions{})
		for _, other := range c.state.DataNodes {
			c.Blocked[other.TCPAddr] = other.ID != n.id
		}
		request := &budget.Request{Share: n.exec.StatementExecutor.(*Executor).Budget.Open()}
		got := n.run(t, q, query.ExecutionOptions{NodeID: requests.Add(request)})
		notes, _ := request.Notes()
		if len(notes) != 1 || !strings.Contains(notes[0].Text, "no whole copy can be read of shard ") {
			t.Errorf("strict %t: noted is %v", strict, notes)
		}
		if (got == want) == strict {
			t.Errorf("strict %t: the answer is %s", strict, got)
		}
		request.Close()
	}
}

func TestNodeThatFallsSilentIsPassedOver(t *testing.T) {
	t.Parallel()
	hang := func(ctx context.Context, node uint64) error {
		if node != 2 {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}
	c := newTestCluster(t, testOptions{nodes: 3, replicas: 2, silence: 10 * time.Second, // others may be late
		wrap: func(id uint64, s *Server) rpc.QueryServer {
			return faulty{QueryServer: s, id: id, serve: hang}
		}})
	c.write(t, lines(5))
	c.compare(t, `SELECT v, host FROM cpu`, `SELECT sum(i) FROM cpu GROUP BY host`)
}

func TestShardThatAnOwnerLostIsReadFromAnother(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	c := newTestCluster(t, testOptions{nodes: 4, replicas: 2})
	c.write(t, lines(9)+odd)
	// Each node loses another shard; every shard keeps one owner.
	for i, g := range c.shardGroups(t) {
		sh := g.Shards[0]
		if err := c.nodes[sh.Owners[i%2].NodeID-1].store.DeleteShard(sh.ID); err != nil {
			t.Fatal(err)
		}
	}
	c.compare(t, statements...)
	c.compare(t, `SELECT sum(v) FROM cpu GROUP BY host SLIMIT 2 SOFFSET 1`)
}

// removing calls remove when it is asked for fields: the query has its shards, and has not opened them.
type removing struct {
	rpc.QueryServer
	remove func()
}

func (s removing) Select(r *rpc.SelectRequest, out rpc.Query_SelectServer) error {
	s.remove()
	return s.QueryServer.Select(r, out)
}

func (s removing) FieldDimensions(
	ctx context.Context, r *rpc.FieldDimensionsRequest,
) (*rpc.FieldDimensionsResponse, error) {
	s.remove()
	return s.QueryServer.FieldDimensions(ctx, r)
}

// A copy that is removed while a query is about to read it, or that takes no readers because it waits for its closing,
// is read from another owner.
func TestCopyThatIsRemovedMeanwhileIsReadFromAnother(t *testing.T) {
	t.Parallel()
	remove := func(s *tsdb.Store, id uint64) error { return s.DeleteShard(id) }
	block := func(s *tsdb.Store, id uint64) error {
		engine, err := tsmfile.EngineOf(s.Shard(id))
		if err != nil {
			return err
		}
		return errors.Join(engine.WriteSnapshot(), engine.SetNewReadersBlocked(true))
	}
	for _, tt := range []struct {
		statement string
		close     func(*tsdb.Store, uint64) error
	}{
		{`SELECT v FROM cpu`, remove},
		{`SELECT count(v) FROM cpu GROUP BY host SLIMIT 2`, remove},
		{`SELECT v FROM cpu`, block},
		{`SELECT percentile(v, 50) FROM cpu`, block},
	} {
		statement := tt.statement
		t.Run(statement, func(t *testing.T) {
			t.Parallel()
			remove := func() {}
			c := newTestCluster(t, testOptions{nodes: 4, replicas: 2,
				wrap: func(_ uint64, s *Server) rpc.QueryServer {
					return removing{s, func() { remove() }}
				}})
			c.write(t, lines(9))
			shard := c.shardGroups(t)[0].Shards[0]
			n := c.nodes[shard.Owners[0].NodeID-1]
			removed := false
			var once sync.Once
			remove = func() {
				once.Do(func() {
					if err := tt.close(n.store, shard.ID); err != nil {
						t.Error(err)
					}
					removed = true
				})
			}
			want := c.plain.run(t, statement, query.ExecutionOptions{})
			if got := n.run(t, statement, query.ExecutionOptions{}); got != want || !removed {
				t.Errorf("the node answers %s, want %s (removed: %t)", got, want, removed)
			}
		})
	}
}

func TestShardThatIsNotOpenIsReadFromAnother(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 4, replicas: 2})
	c.write(t, lines(9))
	g := c.shardGroups(t)[0]
	c.owner(t, g.Shards[0].ID).store.Shard(g.Shards[0].ID).SetEnabled(false)
	want := c.plain.run(t, `SELECT v FROM cpu`, query.ExecutionOptions{})
	for _, n := range c.nodes {
		if n == c.owner(t, g.Shards[0].ID) {
			continue
		}
		if got := n.run(t, `SELECT v FROM cpu`, query.ExecutionOptions{}); got != want {
			t.Errorf("node %d answers %s", n.id, got)
		}
	}
}

// slow makes a query on node 1 hang on another node's iterator, and returns
// the number of iterators that are served.
func slow(t *testing.T, limits func(*coordinator.StatementExecutor)) (*testCluster, *atomic.Int64) {
	t.Helper()
	open := new(atomic.Int64)
	c := newTestCluster(t, testOptions{nodes: 2, replicas: 1, limits: limits,
		wrap: func(id uint64, s *Server) rpc.QueryServer {
			return faulty{QueryServer: s, id: id, open: open, hang: 3}
		}})
	c.write(t, many())
	return c, open
}

// start runs a statement whose results are not read until the returned function.
func (n *testNode) start(t *testing.T, text string, opt query.ExecutionOptions) (finish func() error) {
	t.Helper()
	q, err := influxql.ParseQuery(text)
	if err != nil {
		t.Fatal(err)
	}
	opt.Database, opt.ChunkSize = db, 10
	results := n.exec.ExecuteQuery(q, opt, nil)
	first := <-results
	return func() (err error) {
		err = first.Err
		for r := range results {
			if r.Err != nil {
				err = r.Err
			}
		}
		return err
	}
}

func TestEndedQueriesFreeTheOtherNodes(t *testing.T) {
	t.Parallel()
	const q = `SELECT v FROM cpu`
	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		c, open := slow(t, nil)
		finish := c.nodes[0].start(t, q, query.ExecutionOptions{})
		if open.Load() == 0 {
			t.Fatal("no iterator is open on the other node")
		}
		tm := c.nodes[0].exec.TaskManager
		if err := tm.KillQuery(tm.Queries()[0].ID); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the other node's iterator ends", func() bool { return open.Load() == 0 })
		if err := finish(); !errors.Is(err, query.ErrQueryInterrupted) {
			t.Errorf("the killed query ends with %v", err)
		}
	})
	t.Run("timed out", func(t *testing.T) {
		t.Parallel()
		c, open := slow(t, nil)
		c.nodes[0].exec.TaskManager.QueryTimeout = 50 * time.Millisecond
		finish := c.nodes[0].start(t, q, query.ExecutionOptions{})
		eventually(t, "the other node's iterator ends", func() bool { return open.Load() == 0 })
		if err := finish(); !errors.Is(err, query.ErrQueryTimeoutLimitExceeded) {
			t.Errorf("the query ends with %v", err)
		}
	})
	t.Run("aborted by the client", func(t *testing.T) {
		t.Parallel()
		c, open := slow(t, nil)
		abort := make(chan struct{})
		finish := c.nodes[0].start(t, q, query.ExecutionOptions{AbortCh: abort})
		close(abort)
		eventually(t, "the other node's iterator ends", func() bool { return open.Load() == 0 })
		finish()
	})
	t.Run("satisfied early", func(t *testing.T) {
		t.Parallel()
		c, open := slow(t, nil)
		c.nodes[0].run(t, q+` LIMIT 1`, query.ExecutionOptions{})
		eventually(t, "the other node's iterator ends", func() bool { return open.Load() == 0 })
	})
	t.Run("killed while the other node computes", func(t *testing.T) {
		t.Parallel()
		open := new(atomic.Int64)
		c := newTestCluster(t, testOptions{nodes: 2, replicas: 1, wrap: func(id uint64, s *Server) rpc.QueryServer {
			return faulty{QueryServer: s, id: id, open: open, serve: func(ctx context.Context, _ uint64) error {
				<-ctx.Done()
				return ctx.Err()
			}}
		}})
		c.write(t, lines(3))
		tm := c.nodes[0].exec.TaskManager
		done := make(chan string)
		go func() { done <- c.nodes[0].run(t, `SELECT count(v) FROM cpu`, query.ExecutionOptions{}) }()
		eventually(t, "the query asks the other node", func() bool { return open.Load() > 0 })
		if err := tm.KillQuery(tm.Queries()[0].ID); err != nil {
			t.Fatal(err)
		}
		if got := <-done; got != "error: query interrupted\n" {
			t.Errorf("the killed query answers %q", got)
		}
		eventually(t, "the other node's iterator ends", func() bool { return open.Load() == 0 })
	})
}

func TestLimitsHoldOverAllNodes(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 3, replicas: 1, limits: func(e *coordinator.StatementExecutor) {
		e.MaxSelectSeriesN, e.MaxSelectBucketsN = 5, 4
	}})
	c.write(t, lines(6)) // six series, at most some on each node; in all groups the same
	for _, q := range []string{
		`SELECT v FROM cpu`, `SELECT sum(v) FROM cpu GROUP BY host`, `SELECT sum(v) FROM /cpu/`,
		`SELECT count(v) FROM (SELECT v FROM cpu)`,
	} {
		for _, n := range c.nodes {
			if got := n.run(t, q, query.ExecutionOptions{}); !strings.HasPrefix(got,
				"error: max-select-series limit exceeded: (6/5)") {
				t.Errorf("node %d: %s: %s", n.id, q, got)
			}
		}
	}
	c.compare(t,
		`SELECT v FROM cpu WHERE host != 'h03'`, // five in each of three groups
		`SELECT sum(v) FROM cpu WHERE host != 'h03' AND time < 3d AND time >= 0 GROUP BY time(1d)`,
		`SELECT sum(v) FROM cpu WHERE host != 'h03' AND time < 3d AND time >= 0 GROUP BY time(12h)`, // six buckets
	)
}

// tireless is a node that reads and reads, and has no point to show for it.
type tireless struct{ rpc.QueryServer }

func (f tireless) CreateIterator(r *rpc.IteratorRequest, out rpc.Query_CreateIteratorServer) error {
	err := out.Send(&rpc.IteratorChunk{Open: true, DataType: int32(influxql.Integer)})
	for n := int64(1000); err == nil; n += 1000 {
		select {
		case <-time.After(10 * time.Millisecond):
			err = out.Send(&rpc.IteratorChunk{PointN: n})
		case <-out.Context().Done():
			return nil
		}
	}
	return err
}

func TestPointLimitCountsWhatOtherNodesRead(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 2, replicas: 1,
		limits: func(e *coordinator.StatementExecutor) { e.MaxSelectPointN = 5000 },
		wrap:   func(_ uint64, s *Server) rpc.QueryServer { return tireless{s} },
	})
	c.write(t, lines(6))
	got := c.nodes[0].run(t, `SELECT count(v) FROM cpu`, query.ExecutionOptions{})
	if !strings.HasPrefix(got, "error: max-select-point limit exce") {
		t.Errorf("a node that reads on and on: %s", got)
	}
}

func TestNodesTellWhatTheyRead(t *testing.T) {
	t.Parallel()
	var read atomic.Int64
	c := newTestCluster(t, testOptions{nodes: 2, replicas: 1, wrap: func(id uint64, s *Server) rpc.QueryServer {
		return faulty{QueryServer: s, id: id, chunks: func(_ uint64, n int, c *rpc.IteratorChunk) error {
			if len(c.Points) > 0 {
				read.Store(c.PointN)
			}
			return nil
		}}
	}})
	c.write(t, many())
	for _, n := range c.nodes {
		read.Store(0)
		n.run(t, `SELECT count(v) FROM cpu GROUP BY host`, query.ExecutionOptions{})
		if got := read.Load(); got < 6000 || got >= 18000 { // the points of one or two of three hosts
			t.Errorf("node %d: the other node tells that it read %d points", n.id, got)
		}
	}
}

// reader may read some series only.
type reader struct{ query.FineAuthorizer }

func (reader) AuthorizeSeriesRead(string, []byte, models.Tags) bool { return false }
func (reader) IsOpen() bool                                         { return false }

func TestAuthorizerThatCannotBeSentIsRefused(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 2, replicas: 1})
	c.write(t, lines(3))
	for _, q := range []string{
		`SELECT v FROM cpu`, `SHOW TAG VALUES WITH KEY = host`, `SHOW TAG KEYS`, `SHOW MEASUREMENTS`, `SHOW SERIES`,
	} {
		got := c.nodes[0].run(t, q, query.ExecutionOptions{Authorizer: reader{query.OpenAuthorizer}})
		if !strings.Contains(got, "not supported across data nodes") || strings.Contains(got, "h0") {
			t.Errorf("%s: %s", q, got)
		}
	}
}

func TestExplainSeesAllNodes(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 3, replicas: 1})
	c.write(t, lines(9))
	for _, n := range c.nodes {
		got := n.run(t, `EXPLAIN SELECT sum(v) FROM cpu GROUP BY host`, query.ExecutionOptions{})
		if !strings.Contains(got, "NUMBER OF SHARDS: 9") || !strings.Contains(got, "NUMBER OF SERIES: 27") {
			t.Errorf("node %d: EXPLAIN: %s", n.id, got)
		}
		got = n.run(t, `EXPLAIN ANALYZE SELECT sum(v) FROM cpu GROUP BY host`, query.ExecutionOptions{})
		if strings.Count(got, "remote_iterator") != 2 || strings.Count(got, "shard_id: ") != 9 {
			t.Errorf("node %d: EXPLAIN ANALYZE: %s", n.id, got)
		}
	}
}

func TestConditionsArriveAsTheyWere(t *testing.T) {
	t.Parallel()
	ref := func(name string) influxql.Expr {
		return &influxql.BinaryExpr{Op: influxql.EQ, LHS: &influxql.VarRef{Val: name},
			RHS: &influxql.IntegerLiteral{Val: 1}}
	}
	bin := func(op influxql.Token, l, r influxql.Expr) influxql.Expr {
		return &influxql.BinaryExpr{Op: op, LHS: l, RHS: r}
	}
	plain := func(e influxql.Expr) string { // with every operation in parentheses
		return influxql.RewriteExpr(influxql.CloneExpr(e), func(e influxql.Expr) influxql.Expr {
			if p, ok := e.(*influxql.ParenExpr); ok {
				return p.Expr
			}
			return e
		}).String() + " " + shape(e)
	}
	num := func(v float64) influxql.Expr { return &influxql.NumberLiteral{Val: v} }
	for _, e := range []influxql.Expr{
		bin(influxql.AND, bin(influxql.OR, ref("a"), ref("b")), ref("c")),
		bin(influxql.AND, ref("a"), bin(influxql.OR, ref("b"), ref("c"))),
		bin(influxql.AND, ref("a"), bin(influxql.AND, ref("b"), ref("c"))),
		bin(influxql.GT, bin(influxql.MUL, bin(influxql.ADD, num(0.00001), num(1e20)), num(-3)),
			bin(influxql.SUB, num(1), bin(influxql.SUB, num(2), num(3.0)))),
		bin(influxql.EQ, &influxql.VarRef{
			Val: `a "b" \ c`, Type: influxql.Unsigned,
		}, &influxql.StringLiteral{Val: "it's \\ \n ü"}),
		bin(influxql.EQ, &influxql.VarRef{Val: "i"}, &influxql.IntegerLiteral{Val: -1 << 63}),
		bin(influxql.EQ, &influxql.VarRef{Val: "i"}, &influxql.UnsignedLiteral{Val: 1<<64 - 1}),
	} {
		got, err := decodeCondition(encodeCondition(e))
		if err != nil {
			t.Errorf("%s: %v", encodeCondition(e), err)
		} else if plain(got) != plain(e) {
			t.Errorf("%s arrives as %s", plain(e), plain(got))
		}
		b, err := encodeOptions(&influxql.Measurement{Name: "m"}, query.IteratorOptions{Condition: e})
		if err != nil {
			t.Fatal(err)
		}
		if _, opt, err := decodeOptions(b); err != nil {
			t.Errorf("%s: %v", plain(e), err)
		} else if plain(opt.Condition) != plain(e) {
			t.Errorf("%s arrives in options as %s", plain(e), plain(opt.Condition))
		}
	}
}

// shape prints a tree with its types and without its parentheses.
func shape(e influxql.Expr) string {
	switch e := e.(type) {
	case *influxql.ParenExpr:
		return shape(e.Expr)
	case *influxql.BinaryExpr:
		return "(" + shape(e.LHS) + e.Op.String() + shape(e.RHS) + ")"
	}
	return fmt.Sprintf("%T %s", e, e)
}

// stored counts what SELECT INTO stores.
type stored struct{ points int }

func (s *stored) WritePointsInto(r *coordinator.IntoWriteRequest) error {
	s.points += len(r.Points)
	return nil
}

// endsBadly is a node whose iterators fail after their last point.
type endsBadly struct {
	rpc.QueryServer
	on *atomic.Bool
}

func (e endsBadly) CreateIterator(r *rpc.IteratorRequest, out rpc.Query_CreateIteratorServer) error {
	if err := e.QueryServer.CreateIterator(r, out); err != nil || !e.on.Load() {
		return err
	}
	return status.Error(codes.Unavailable, "the node ends")
}

// When an input of SELECT INTO fails, the engine goes on with some hundred points of the others. It stores points
// whenever it has 10,000.
func TestNothingIsStoredAfterAnInputFailed(t *testing.T) {
	t.Parallel()
	fails := new(atomic.Bool)
	c := newTestCluster(t, testOptions{nodes: 2, replicas: 1, wrap: func(_ uint64, s *Server) rpc.QueryServer {
		return endsBadly{s, fails}
	}})
	host := make(map[uint64]string) // one for each node
	for i := 0; len(host) < 2; i++ {
		name := fmt.Sprint("h", i)
		sh := c.shardGroups(t)[0].Shards[xxh3.Hash([]byte("cpu,host="+name))%2] // as write does
		host[sh.Owners[0].NodeID] = name
	}
	const there, here = 9_990, 20_000 // the engine looks after each 256 points whether it is to end
	var b strings.Builder
	for i := range there {
		fmt.Fprintf(&b, "cpu,host=%s v=%d %d\n", host[2], i, int64(i)*int64(time.Second))
	}
	for i := range here {
		fmt.Fprintf(&b, "mem v=%d %d\n", i, int64(i)*int64(time.Second))
	}
	c.write(t, b.String())
	node, _ := c.limited(t, newPool(t), 1<<30, &budget.Requests{})
	into := func() (n int, err error) {
		to := &stored{}
		node.exec.StatementExecutor.(*Executor).Base.PointsWriter = to
		node.results(t, `SELECT v INTO copy FROM cpu, mem`, query.ExecutionOptions{ChunkSize: 10}, func(r *query.Result) {
			err = errors.Join(err, r.Err)
		})
		return to.points, err
	}
	if n, err := into(); err != nil || n != there+here {
		t.Fatalf("%d points are stored, %v", n, err)
	}
	fails.Store(true)
	if n, err := into(); err == nil || n != 0 {
		t.Errorf("%d points are stored when an input failed before the 10,000th, %v", n, err)
	}
}
