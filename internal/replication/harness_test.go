package replication

import (
	"testing"
	"time"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"concord/internal/cluster"
	"concord/internal/deletes"
	"concord/internal/enginetest"
	"concord/internal/replication/replicationtest"
	"concord/internal/rpc"
)

const (
	db      = replicationtest.DB
	policy  = replicationtest.Policy
	shardID = replicationtest.Shard
)

var (
	mustStore  = replicationtest.Store
	mustPoints = enginetest.Points
	count      = replicationtest.Count
	values     = replicationtest.Values
	await      = replicationtest.Await
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mustServe(t testing.TB, srv rpc.ReplicationServer, opts ...grpc.ServerOption) string {
	t.Helper()
	return replicationtest.Serve(t, func(s grpc.ServiceRegistrar) { rpc.RegisterReplicationServer(s, srv) }, opts...)
}

// testCluster has a node for each state: "ok", "down" (nothing listens) or
// "hung". The first is this node; its state must be "ok".
type testCluster struct {
	meta   *replicationtest.Meta
	stores []*tsdb.Store // by node ID - 1; nil unless ok
	pool   *rpc.Pool
	served rpc.Served // by all that are ok, together
}

func newTestCluster(t testing.TB, states ...string) *testCluster {
	t.Helper()
	c := &testCluster{meta: &replicationtest.Meta{}, pool: &rpc.Pool{}}
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
			n.TCPAddr = mustServe(t, replicationtest.Hung{})
		case "down":
			n.TCPAddr = replicationtest.Down
		}
		c.stores = append(c.stores, s)
		c.meta.Nodes = append(c.meta.Nodes, n)
		c.meta.Owners = append(c.meta.Owners, n.ID)
	}
	return c
}

func (c *testCluster) writer(t testing.TB) *Writer {
	t.Helper()
	w := c.newWriter(t, 1)
	w.WriteTimeout = 30 * time.Second
	return mustOpen(t, w)
}

// newWriter returns a writer of a node that is not open yet.
func (c *testCluster) newWriter(t testing.TB, node uint64) *Writer {
	t.Helper()
	return newWriter(t, c.meta, c.stores[node-1], c.pool, node)
}

func newWriter(t testing.TB, meta *replicationtest.Meta, s *tsdb.Store, pool *rpc.Pool, node uint64) *Writer {
	t.Helper()
	return NewWriter(newDeps(t, meta, s, pool, node))
}

// newDeps is what the writer of a node needs. It has no hinted handoff.
func newDeps(t testing.TB, meta *replicationtest.Meta, s *tsdb.Store, pool *rpc.Pool, node uint64) Deps {
	t.Helper()
	clock, journal := replicationtest.Order(t, node)
	return Deps{
		Meta: replicationtest.Member{Meta: meta, Node: node}, Store: s, Shards: s, Subscriber: replicationtest.NoSubscriber{},
		Pool: pool, Order: &Order{Clock: clock, Journal: journal}, Deletes: deletes.NewMemory(meta),
		Copies: replicationtest.NoCopies{}, WriteTimeout: coordinator.DefaultWriteTimeout, Log: zap.NewNop(),
		ForgetEvery: time.Hour, // tests change the metadata
	}
}

func mustOpen(t testing.TB, w *Writer) *Writer {
	t.Helper()
	w.Open()
	t.Cleanup(func() { w.Close() })
	return w
}

// serverOf is the server of a node alone, over a store.
func serverOf(t testing.TB, s *tsdb.Store) *Server {
	t.Helper()
	meta := &replicationtest.Meta{Nodes: []cluster.Node{{ID: 1}, {ID: 2}}}
	return NewServer(s, mustOpen(t, newWriter(t, meta, s, nil, 2)), zap.NewNop())
}
