package distquery

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"github.com/zeebo/xxh3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"concord/internal/cluster"
	"concord/internal/copystate"
	"concord/internal/enginetest"
	"concord/internal/restrict"
	"concord/internal/rpc"
)

const (
	db     = "db0"
	policy = "rp0"
	day    = int64(24 * time.Hour)
	groups = 3 // shard groups of a day, from the epoch on
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testNode is one data node: a real store behind a real server.
type testNode struct {
	id     uint64
	store  *tsdb.Store
	exec   *query.Executor
	server *Server
	mapper *ShardMapper
	rpc    *grpc.Server
}

// testCluster is data nodes with the metadata of one database, and a single
// node of the plain engine with the same data.
type testCluster struct {
	meta  *emeta.Client
	state *cluster.State
	nodes []*testNode
	plain *testNode
	user  *restrict.User

	Blocked map[string]bool // addresses that no node can call
	behind  error           // what nodes know of their metadata
}

// view is the metadata as one node sees it.
type view struct {
	*emeta.Client
	c  *testCluster
	id uint64
}

func (v view) NodeID() uint64        { return v.id }
func (v view) State() *cluster.State { return v.c.state }

func (v view) CatchUpWithOthers(context.Context) error { return v.c.behind }

type testOptions struct {
	nodes, replicas int
	index           string                                     // tsi1 unless set
	wrap            func(id uint64, s *Server) rpc.QueryServer // what a node serves
	limits          func(*coordinator.StatementExecutor)
	silence         time.Duration
	idle            int                 // further nodes, which own nothing
	serving         []grpc.ServerOption // of all nodes
	delay           time.Duration       // of what is sent to a node
	user            *restrict.User      // who asks the nodes; the plain one has what it may see alone
	former          bool                // the nodes know no restrictions
	heard           func(node uint64) copystate.Sign
}

// deps is what answers questions on a node.
func (c *testCluster) deps(n *testNode, pool *rpc.Pool) Deps {
	v := view{c.meta, c, n.id}
	return Deps{
		Meta: v, Store: n.store, Pool: pool, Vector: VectorOf(v.State, true), Sketches: &Sketches{}, Log: zap.NewNop(),
	}
}

// notWithRace leaves out a test that does many things, or large ones, one after the other. The race detector is slow
// with these, and sees in them what it sees in the others. It runs with -short.
func notWithRace(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: the race detector is slow with it")
	}
}

func newTestCluster(t testing.TB, o testOptions) *testCluster {
	t.Helper()
	if o.index == "" {
		o.index = tsdb.TSI1IndexName
	}
	c := &testCluster{user: o.user, state: cluster.NewState(), Blocked: make(map[string]bool)}
	cfg := emeta.NewConfig()
	cfg.Dir = t.TempDir()
	c.meta = emeta.NewClient(cfg)
	pool := &rpc.Pool{Blocked: func(addr string) bool { return c.Blocked[addr] }}
	t.Cleanup(func() { pool.Close() })
	for i := range o.nodes + o.idle {
		n := &testNode{id: uint64(i + 1), store: enginetest.Store(t, o.index)}
		deps := c.deps(n, pool)
		n.server = NewServer(deps)
		n.server.chunk = 1 << 10 // so that few points need several
		n.server.beat = 20 * time.Millisecond
		var srv rpc.QueryServer = n.server
		if o.wrap != nil {
			srv = o.wrap(n.id, n.server)
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if o.delay > 0 {
			ln = farListener{ln, o.delay}
		}
		n.rpc = rpc.NewServer(o.serving...)
		rpc.RegisterQueryServer(n.rpc, srv)
		if !o.former {
			n.rpc.RegisterService(&rpc.RestrictedQuery_ServiceDesc, srv)
		}
		done := make(chan struct{})
		go func() { defer close(done); n.rpc.Serve(ln) }()
		t.Cleanup(func() { n.rpc.Stop(); <-done })
		c.state.DataNodes = append(c.state.DataNodes, cluster.Node{ID: n.id, TCPAddr: ln.Addr().String()})

		deps.Whole.Heard = o.heard
		mapper, schema := NewShardMapper(deps), NewSchema(deps)
		n.mapper = mapper
		if o.silence > 0 {
			mapper.silence = o.silence
		}
		n.exec = c.executor(t, schemaStore{n.store, schema.For(t.Context(), nil, nil, o.user)},
			mapper, o.limits)
		c.nodes = append(c.nodes, n)
	}
	c.plain = &testNode{store: enginetest.Store(t, o.index)}
	c.plain.exec = c.executor(t, c.plain.store, &coordinator.LocalShardMapper{
		MetaClient: plainMeta{c.meta}, TSDBStore: coordinator.LocalTSDBStore{Store: c.plain.store},
	}, o.limits)
	c.place(t, o.nodes, o.replicas)
	return c
}

// schemaStore is a store whose schema is that of the cluster.
type schemaStore struct {
	*tsdb.Store
	*Schema
}

func (s schemaStore) MeasurementNames(ctx context.Context, auth query.FineAuthorizer, db, rp string,
	cond influxql.Expr) ([][]byte, error) {
	return s.Schema.MeasurementNames(ctx, auth, db, rp, cond)
}

func (s schemaStore) TagKeys(ctx context.Context, auth query.FineAuthorizer, ids []uint64,
	cond influxql.Expr) ([]tsdb.TagKeys, error) {
	return s.Schema.TagKeys(ctx, auth, ids, cond)
}

func (s schemaStore) TagValues(ctx context.Context, auth query.FineAuthorizer, ids []uint64,
	cond influxql.Expr) ([]tsdb.TagValues, error) {
	return s.Schema.TagValues(ctx, auth, ids, cond)
}

func (s schemaStore) SeriesCardinality(ctx context.Context, db string) (int64, error) {
	return s.Schema.SeriesCardinality(ctx, db)
}

func (s schemaStore) MeasurementsCardinality(ctx context.Context, db string) (int64, error) {
	return s.Schema.MeasurementsCardinality(ctx, db)
}

// plainMeta sees one shard for each group, with the ID of the group's first.
type plainMeta struct{ *emeta.Client }

func (p plainMeta) ShardGroupsByTimeRange(database, policy string, min, max time.Time) ([]emeta.ShardGroupInfo, error) {
	a, err := p.Client.ShardGroupsByTimeRange(database, policy, min, max)
	for i := range a {
		a[i].Shards = a[i].Shards[:1]
	}
	return a, err
}

func (c *testCluster) executor(t testing.TB, store coordinator.TSDBStore, mapper query.ShardMapper,
	limits func(*coordinator.StatementExecutor)) *query.Executor {
	e := query.NewExecutor()
	se := &coordinator.StatementExecutor{
		MetaClient: c.meta, TaskManager: e.TaskManager, TSDBStore: store, ShardMapper: mapper, PointsWriter: nowhere{},
	}
	if limits != nil {
		limits(se)
	}
	e.StatementExecutor = se
	t.Cleanup(func() { e.Close() })
	return e
}

// nowhere takes the points of SELECT INTO.
type nowhere struct{}

func (nowhere) WritePointsInto(*coordinator.IntoWriteRequest) error { return nil }

// place makes the shard groups and their shards on the first n nodes.
func (c *testCluster) place(t testing.TB, n, replicas int) {
	t.Helper()
	d := c.state.Data
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(d.CreateDatabase(db))
	rpi := emeta.NewRetentionPolicyInfo(policy)
	rpi.ShardGroupDuration, rpi.ReplicaN = time.Duration(day), replicas
	must(d.CreateRetentionPolicy(db, rpi, true))
	rpi, err := d.RetentionPolicy(db, policy)
	must(err)
	next := 0
	for g := range groups {
		info := emeta.ShardGroupInfo{ID: uint64(g + 1), StartTime: time.Unix(0, int64(g)*day).UTC(),
			EndTime: time.Unix(0, int64(g+1)*day).UTC()}
		for range max(1, n/replicas) {
			d.MaxShardID++
			sh := emeta.ShardInfo{ID: d.MaxShardID}
			for range replicas {
				sh.Owners = append(sh.Owners, emeta.ShardOwner{NodeID: c.nodes[next%n].id})
				next++
			}
			info.Shards = append(info.Shards, sh)
		}
		rpi.ShardGroups = append(rpi.ShardGroups, info)
	}
	must(c.meta.SetData(d))
}

func (c *testCluster) shardGroups(t testing.TB) []emeta.ShardGroupInfo {
	t.Helper()
	rpi, err := c.state.Data.RetentionPolicy(db, policy)
	if err != nil {
		t.Fatal(err)
	}
	return rpi.ShardGroups
}

// write puts points on all owners, and on the plain node.
func (c *testCluster) write(t testing.TB, lines string) {
	t.Helper()
	points := enginetest.Points(t, lines)
	type to struct {
		store *tsdb.Store
		shard uint64
	}
	parts := make(map[to][]models.Point)
	all := c.shardGroups(t)
	for _, p := range points {
		g := all[p.UnixNano()/day]
		sh := g.Shards[xxh3.Hash(p.Key())%uint64(len(g.Shards))]
		for _, o := range sh.Owners {
			k := to{c.nodes[o.NodeID-1].store, sh.ID}
			parts[k] = append(parts[k], p)
		}
		if !c.user.Reads(db).Allows(p.Name(), p.Tags()) {
			continue
		}
		k := to{c.plain.store, g.Shards[0].ID}
		parts[k] = append(parts[k], p)
	}
	for k, points := range parts {
		if k.store.Shard(k.shard) == nil {
			if err := k.store.CreateShard(db, policy, k.shard, true); err != nil {
				t.Fatal(err)
			}
		}
		enginetest.WritePoints(t, k.store, k.shard, points...)
	}
}

// run runs statements on a node and prints all results.
func (n *testNode) run(t testing.TB, text string, opt query.ExecutionOptions) string {
	t.Helper()
	q, err := influxql.ParseQuery(text)
	if err != nil {
		t.Fatal(err)
	}
	if opt.Database == "" {
		opt.Database = db
	}
	var b strings.Builder
	for r := range n.exec.ExecuteQuery(q, opt, nil) {
		if r.Err != nil {
			fmt.Fprintf(&b, "error: %v\n", r.Err)
		}
		for _, s := range r.Series {
			fmt.Fprintf(&b, "%s %v %v\n", s.Name, s.Tags, s.Columns)
			for _, v := range s.Values {
				for i, x := range v {
					if at, ok := x.(time.Time); ok {
						v[i] = at.UnixNano()
					}
				}
				fmt.Fprintf(&b, "  %#v\n", v)
			}
		}
	}
	return b.String()
}

// compare runs statements on every node: each must answer as the plain one.
func (c *testCluster) compare(t *testing.T, statements ...string) {
	t.Helper()
	for _, q := range statements {
		want := c.plain.run(t, q, query.ExecutionOptions{})
		for _, n := range c.nodes {
			opt := query.ExecutionOptions{}
			if c.user != nil {
				opt.Authorizer = c.user
			}
			if got := n.run(t, q, opt); got != want {
				t.Errorf("%s\nnode %d answers\n%swant\n%s", q, n.id, got, want)
				break
			}
		}
	}
}

// lines are points of n hosts in every shard group, at times of their own.
func lines(hosts int) string {
	var b strings.Builder
	for g := range groups {
		for h := range hosts {
			for i := range 4 {
				at := int64(g)*day + int64(i*hosts+h)*int64(time.Minute)
				fmt.Fprintf(&b, "cpu,host=h%02d,region=r%d v=%d,i=%di,s=\"s%d\",b=%t %d\n", h, h%3, h*10+i, h*100+i, h,
					i%2 == 0, at)
			}
		}
	}
	return b.String()
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatal("in vain: ", what)
		case <-tick.C:
		}
	}
}

// owner returns a node that has a shard with data, other than those given.
func (c *testCluster) owner(t testing.TB, shard uint64, not ...uint64) *testNode {
	t.Helper()
	for _, g := range c.shardGroups(t) {
		for _, sh := range g.Shards {
			for _, o := range sh.Owners {
				if sh.ID == shard && !slices.Contains(not, o.NodeID) {
					return c.nodes[o.NodeID-1]
				}
			}
		}
	}
	t.Fatalf("shard %d has no other owner", shard)
	return nil
}
