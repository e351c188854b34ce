package replication

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
	_ "github.com/influxdata/influxdb/tsdb/engine"
	_ "github.com/influxdata/influxdb/tsdb/index"
	"github.com/influxdata/influxql"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"concord/internal/cluster"
	"concord/internal/order"
	"concord/internal/rpc"
)

const (
	db      = "db0"
	policy  = "rp0"
	shardID = 7
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeMeta is the metadata of one database with one shard.
type fakeMeta struct {
	nodes    []cluster.Node
	owners   []uint64
	duration time.Duration
	lost     bool // no node and no shard is known
}

func (m *fakeMeta) Database(name string) *emeta.DatabaseInfo {
	if name != db {
		return nil
	}
	return &emeta.DatabaseInfo{Name: db, DefaultRetentionPolicy: policy}
}

func (m *fakeMeta) RetentionPolicy(string, string) (*emeta.RetentionPolicyInfo, error) {
	return &emeta.RetentionPolicyInfo{Name: policy, Duration: m.duration}, nil
}

func (m *fakeMeta) CreateShardGroup(_, _ string, t time.Time) (*emeta.ShardGroupInfo, error) {
	sh := emeta.ShardInfo{ID: shardID}
	for _, id := range m.owners {
		sh.Owners = append(sh.Owners, emeta.ShardOwner{NodeID: id})
	}
	return &emeta.ShardGroupInfo{ID: 1, StartTime: t.Add(-time.Hour * 1e5), EndTime: t.Add(time.Hour * 1e5), Shards: []emeta.ShardInfo{sh}}, nil
}

func (m *fakeMeta) DataNodes() []cluster.Node {
	if m.lost {
		return nil
	}
	return m.nodes
}
func (m *fakeMeta) DataNode(id uint64) (cluster.Node, bool) {
	for _, n := range m.DataNodes() {
		if n.ID == id {
			return n, true
		}
	}
	return cluster.Node{}, false
}

func (m *fakeMeta) Shard(id uint64) (cluster.Shard, bool) {
	sh := cluster.Shard{ID: shardID, Database: db, RetentionPolicy: policy, Owners: m.owners, Start: -1e18, End: 1e18, GroupEnd: 1e18}
	return sh, id == shardID && !m.lost
}

// hung is a node that takes requests and never answers them.
type hung struct {
	rpc.UnimplementedReplicationServer
}

func (hung) WriteShard(ctx context.Context, _ *rpc.WriteShardRequest) (*rpc.WriteShardResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (hung) Execute(ctx context.Context, _ *rpc.ExecuteRequest) (*rpc.ExecuteResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func mustStore(t testing.TB) *tsdb.Store {
	t.Helper()
	dir := t.TempDir()
	s := tsdb.NewStore(filepath.Join(dir, "data"))
	s.EngineOptions.Config = tsdb.NewConfig()
	s.EngineOptions.Config.WALDir = filepath.Join(dir, "wal")
	s.EngineOptions.IndexVersion = tsdb.InmemIndexName // deletes race with reads in the other one
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func mustServe(t testing.TB, srv rpc.ReplicationServer, opts ...grpc.ServerOption) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := rpc.NewServer(opts...)
	rpc.RegisterReplicationServer(s, srv)
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ln) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return ln.Addr().String()
}

// testCluster has a node for each state: "ok", "down" (nothing listens) or
// "hung". The first is this node; its state must be "ok".
type testCluster struct {
	meta   *fakeMeta
	stores []*tsdb.Store // by node ID - 1; nil unless ok
	pool   *rpc.Pool
	served rpc.Served // by all that are ok, together
}

func newTestCluster(t testing.TB, states ...string) *testCluster {
	t.Helper()
	c := &testCluster{meta: &fakeMeta{}, pool: &rpc.Pool{}}
	t.Cleanup(func() { c.pool.Close() })
	for i, state := range states {
		n := cluster.Node{ID: uint64(i + 1)}
		var s *tsdb.Store
		switch state {
		case "ok":
			s = mustStore(t)
			w := mustOpen(t, newWriter(t, c.meta, s, c.pool, n.ID))
			n.TCPAddr = mustServe(t, NewServer(s, w, zap.NewNop()), c.served.Option())
		case "hung":
			n.TCPAddr = mustServe(t, hung{})
		case "down":
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			n.TCPAddr = ln.Addr().String()
			ln.Close()
		}
		c.stores = append(c.stores, s)
		c.meta.nodes = append(c.meta.nodes, n)
		c.meta.owners = append(c.meta.owners, n.ID)
	}
	return c
}

func (c *testCluster) writer(t testing.TB) *Writer {
	t.Helper()
	w := c.newWriter(t, 1)
	w.WriteTimeout = 5 * time.Second
	return mustOpen(t, w)
}

// newWriter returns a writer of a node that is not open yet.
func (c *testCluster) newWriter(t testing.TB, node uint64) *Writer {
	t.Helper()
	return newWriter(t, c.meta, c.stores[node-1], c.pool, node)
}

func newWriter(t testing.TB, meta *fakeMeta, s *tsdb.Store, pool *rpc.Pool, node uint64) *Writer {
	t.Helper()
	w := NewWriter(member{meta, node}, s, noSubscriber{}, pool)
	dir := t.TempDir()
	clock, err := order.OpenClock(filepath.Join(dir, "clock"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { clock.Close() })
	clock.SetNode(node)
	journal, err := order.OpenJournal(order.JournalConfig{Dir: filepath.Join(dir, "journal"), Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { journal.Close() })
	w.Order = &Order{Clock: clock, Journal: journal}
	return w
}

func mustOpen(t testing.TB, w *Writer) *Writer {
	t.Helper()
	if err := w.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// serverOf is the server of a node alone, over a store.
func serverOf(t testing.TB, s *tsdb.Store) *Server {
	t.Helper()
	return NewServer(s, mustOpen(t, newWriter(t, &fakeMeta{}, s, nil, 2)), zap.NewNop())
}

// member is the metadata as one node has it.
type member struct {
	*fakeMeta
	node uint64
}

func (m member) NodeID() uint64 { return m.node }

func (c *testCluster) deletes(t testing.TB) *Deletes {
	return NewDeletes(member{c.meta, 1}, c.stores[0], c.pool, c.writer(t), zap.NewNop())
}

type noSubscriber struct{}

func (noSubscriber) Send(*coordinator.WritePointsRequest) {}

func mustPoints(t testing.TB, lines string) []models.Point {
	t.Helper()
	ps, err := models.ParsePointsString(lines)
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

// count is how many values of the float field v a store has, -1 without the shard.
func count(t testing.TB, s *tsdb.Store, measurement string) int {
	t.Helper()
	sh := s.Shard(shardID)
	if sh == nil {
		return -1
	}
	itr, err := sh.CreateIterator(context.Background(), &influxql.Measurement{Name: measurement}, query.IteratorOptions{
		Expr: &influxql.VarRef{Val: "v"}, StartTime: influxql.MinTime, EndTime: influxql.MaxTime, Ascending: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if itr == nil {
		return 0
	}
	defer itr.Close()
	fi, ok := itr.(query.FloatIterator)
	if !ok {
		return 0
	}
	for n := 0; ; n++ {
		p, err := fi.Next()
		if err != nil {
			t.Fatal(err)
		}
		if p == nil {
			return n
		}
	}
}

// values are those of the float field v in time order.
func values(t testing.TB, s *tsdb.Store, measurement string) (out []float64) {
	t.Helper()
	sh := s.Shard(shardID)
	if sh == nil {
		return nil
	}
	itr, err := sh.CreateIterator(context.Background(), &influxql.Measurement{Name: measurement}, query.IteratorOptions{
		Expr: &influxql.VarRef{Val: "v"}, StartTime: influxql.MinTime, EndTime: influxql.MaxTime, Ascending: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	fi, ok := itr.(query.FloatIterator)
	if !ok {
		return nil
	}
	defer fi.Close()
	for {
		p, err := fi.Next()
		if err != nil {
			t.Fatal(err)
		}
		if p == nil {
			return out
		}
		out = append(out, p.Value)
	}
}
