package deletes

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	itoml "github.com/influxdata/influxdb/toml"
	"github.com/influxdata/influxdb/tsdb"
	"go.etcd.io/bbolt"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/drops"
	"concord/internal/enginetest"
	"concord/internal/handoff"
	"concord/internal/order"
	"concord/internal/replication"
	"concord/internal/replication/replicationtest"
	"concord/internal/rpc"
	"concord/internal/writecache"
)

const (
	db      = replicationtest.DB
	policy  = replicationtest.Policy
	shardID = replicationtest.Shard

	anyLevel = models.ConsistencyLevelAny
	one      = models.ConsistencyLevelOne
	all      = models.ConsistencyLevelAll
)

var (
	mustStore  = replicationtest.Store
	mustPoints = enginetest.Points
	count      = replicationtest.Count
	values     = replicationtest.Values
	await      = replicationtest.Await
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is what writes and deletes on a data node.
type node struct {
	*replication.Writer
	*Memory
	deletes *Service
	store   *tsdb.Store
}

// newDeps is what the writer of a node needs. It has no hinted handoff.
func newDeps(t testing.TB, meta *replicationtest.Meta, s *tsdb.Store, pool *rpc.Pool, id uint64) replication.Deps {
	t.Helper()
	clock, journal := replicationtest.Order(t, id)
	cache := writecache.Wrap(s, writecache.Thresholds{Size: math.MaxUint64, Cold: math.MaxInt64}, zap.NewNop())
	t.Cleanup(func() { cache.Close() })
	return replication.Deps{
		Meta: replicationtest.Member{Meta: meta, Node: id}, Store: s, Shards: cache,
		Subscriber: replicationtest.NoSubscriber{}, Pool: pool, Order: &replication.Order{Clock: clock, Journal: journal}, Deletes: NewMemory(meta),
		Copies: replicationtest.NoCopies{}, WriteTimeout: 30 * time.Second, Log: zap.NewNop(),
		ForgetEvery: time.Hour, // tests change the metadata
	}
}

// newNode returns a node that is not open yet. It has no hinted handoff when hh is nil.
func newNode(writes replication.Deps, hh *handoff.Service) *node {
	memory := writes.Deletes.(*Memory)
	deps := Deps{
		Meta: writes.Meta.(Metadata), Store: drops.New(writes.Store, nil), Pool: writes.Pool, Memory: memory, Clock: writes.Order.Clock,
		Journal: writes.Order.Journal, Timeout: writes.WriteTimeout, Missed: func(uint64, uint64) {}, Lost: func(uint64) {},
		LastUnversioned: func(uint64) order.Version { return 0 },
		Mark:            func() *rpc.DiskMark { return nil }, HearMark: func(*rpc.DiskMark) {},
		Lacks: func(uint64, string) {}, Failed: func(string, error) {}, Ready: func(string) error { return nil },
		Log: zap.NewNop(),
	}
	if hh != nil {
		deps.Handoff, writes.Handoff = hh, hh
	}
	w := replication.NewWriter(writes)
	deps.Writes = w
	return &node{Writer: w, Memory: memory, deletes: New(deps), store: writes.Store}
}

// withLog gives a node that is not open yet a log of deletes.
func withLog(t testing.TB, n *node) *RanLog {
	t.Helper()
	l, err := OpenRanLog(filepath.Join(t.TempDir(), "deletes.db"), hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	n.deletes.deps.Ran = l
	return l
}

// beginsAt makes a log one that has every delete with a version above v.
func (l *RanLog) beginsAt(t testing.TB, v order.Version) {
	t.Helper()
	if err := l.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(logBucket).Put(beganKey, binary.BigEndian.AppendUint64(nil, uint64(v)))
	}); err != nil {
		t.Fatal(err)
	}
}

func (n *node) Open() error {
	n.Writer.Open()
	return n.deletes.Open()
}

func (n *node) Close() error { return errors.Join(n.Writer.Close(), n.deletes.Close()) }

func (n *node) server() server {
	writes := replication.NewServer(n.store, n.Writer, zap.NewNop())
	return server{oldServer{writes, n.deletes.OldServer()}, n.deletes.Server()}
}

// server answers other nodes.
type server struct {
	oldServer
	*Server
}

// oldServer is a node of the version before service Deletes.
type oldServer struct {
	*replication.Server
	OldServer
}

func mustOpen(t testing.TB, n *node) *node {
	t.Helper()
	if err := n.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func mustServe(t testing.TB, srv rpc.ReplicationServer) string {
	t.Helper()
	return replicationtest.Serve(t, func(s grpc.ServiceRegistrar) {
		rpc.RegisterReplicationServer(s, srv)
		if d, ok := srv.(rpc.DeletesServer); ok {
			rpc.RegisterDeletesServer(s, d)
		}
	})
}

// testCluster has a node for each state: "ok" or "down" (nothing listens). The first is this node; its state must be
// "ok".
type testCluster struct {
	meta   *replicationtest.Meta
	stores []*tsdb.Store // by node ID - 1; nil unless ok
	pool   *rpc.Pool
}

func newTestCluster(t testing.TB, states ...string) *testCluster {
	t.Helper()
	c := &testCluster{meta: &replicationtest.Meta{}, pool: &rpc.Pool{}}
	t.Cleanup(func() { c.pool.Close() })
	for i, state := range states {
		n := cluster.Node{ID: uint64(i + 1), TCPAddr: replicationtest.Down}
		var s *tsdb.Store
		if state == "ok" {
			s = mustStore(t)
			n.TCPAddr = mustServe(t, mustOpen(t, newNode(newDeps(t, c.meta, s, c.pool, n.ID), nil)).server())
		}
		c.stores = append(c.stores, s)
		c.meta.Nodes = append(c.meta.Nodes, n)
		c.meta.Owners = append(c.meta.Owners, n.ID)
	}
	return c
}

// newNode returns one of the nodes, which is not open yet.
func (c *testCluster) newNode(t testing.TB, id uint64) *node {
	t.Helper()
	return newNode(newDeps(t, c.meta, c.stores[id-1], c.pool, id), nil)
}

// node is the first one, without hinted handoff.
func (c *testCluster) node(t testing.TB) *node {
	t.Helper()
	return mustOpen(t, c.newNode(t, 1))
}

// withHandoff is the first node with hinted handoff. Timeout is that of a write.
func (c *testCluster) withHandoff(t testing.TB, timeout time.Duration) (*node, *handoff.Service) {
	t.Helper()
	return c.withQueues(t, timeout, func(*handoff.Config) {})
}

// withQueues is withHandoff with another configuration.
func (c *testCluster) withQueues(
	t testing.TB, timeout time.Duration, change func(*handoff.Config),
) (*node, *handoff.Service) {
	t.Helper()
	cfg := handoff.NewConfig()
	cfg.Dir = t.TempDir()
	cfg.RetryInterval, cfg.RetryMaxInterval = itoml.Duration(5*time.Millisecond), itoml.Duration(20*time.Millisecond)
	change(&cfg)
	return c.openQueues(t, timeout, cfg)
}

// openQueues opens the first node with hinted handoff.
func (c *testCluster) openQueues(t testing.TB, timeout time.Duration, cfg handoff.Config) (*node, *handoff.Service) {
	t.Helper()
	hh := handoff.New(cfg, handoff.Deps{
		Due: func(uint64, uint64) (bool, bool) { return true, true }, Dropped: func(uint64, uint64) {},
	})
	deps := newDeps(t, c.meta, c.stores[0], c.pool, 1)
	deps.WriteTimeout, deps.MaxPending = timeout, cfg.MaxWritesPending
	n := newNode(deps, hh)
	if err := errors.Join(hh.Open(n.deletes.Deliver), n.Open()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close(); hh.Close() })
	return n, hh
}

// serverOf is the server of a node alone, over a store.
func serverOf(t testing.TB, s *tsdb.Store) server {
	t.Helper()
	return mustOpen(t, newNode(newDeps(t, &replicationtest.Meta{}, s, nil, 2), nil)).server()
}

// gate is a node that can be away, or hang.
type gate struct {
	server
	away, hang atomic.Bool
}

func (g *gate) WriteShard(ctx context.Context, r *rpc.WriteShardRequest) (*rpc.WriteShardResponse, error) {
	if err := g.gone(); err != nil {
		return nil, err
	}
	if g.hang.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return g.server.WriteShard(ctx, r)
}

func (g *gate) WriteBatch(ctx context.Context, r *rpc.WriteBatchRequest) (*rpc.WriteShardResponse, error) {
	if err := g.gone(); err != nil {
		return nil, err
	}
	if g.hang.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return g.server.WriteBatch(ctx, r)
}

func (g *gate) gone() error {
	if g.away.Load() {
		return status.Error(codes.Unavailable, "error while dialing: away")
	}
	return nil
}

func (g *gate) AnnounceDelete(
	ctx context.Context, r *rpc.AnnounceDeleteRequest,
) (*rpc.AnnounceDeleteResponse, error) {
	if err := g.gone(); err != nil {
		return nil, err
	}
	return g.server.AnnounceDelete(ctx, r)
}

func (g *gate) RunDelete(ctx context.Context, r *rpc.RunDeleteRequest) (*rpc.RunDeleteResponse, error) {
	if err := g.gone(); err != nil {
		return nil, err
	}
	return g.server.RunDelete(ctx, r)
}

func (g *gate) EndDelete(ctx context.Context, r *rpc.EndDeleteRequest) (*rpc.EndDeleteResponse, error) {
	if err := g.gone(); err != nil {
		return nil, err
	}
	return g.server.EndDelete(ctx, r)
}

func (g *gate) EndDeletesBefore(
	ctx context.Context, r *rpc.EndDeletesBeforeRequest,
) (*rpc.EndDeletesBeforeResponse, error) {
	if err := g.gone(); err != nil {
		return nil, err
	}
	return g.server.EndDeletesBefore(ctx, r)
}

// newGatedCluster has this node and a second one behind a gate.
func newGatedCluster(t *testing.T) (*testCluster, *gate) {
	t.Helper()
	c := newTestCluster(t, "ok", "down")
	c.stores[1] = mustStore(t)
	g := &gate{server: mustOpen(t, c.newNode(t, 2)).server()}
	c.meta.SetAddr(1, mustServe(t, g))
	return c, g
}

// writeRequest is a message with points.
func writeRequest(t testing.TB, lines string) *rpc.WriteShardRequest {
	t.Helper()
	r := &rpc.WriteShardRequest{ShardId: shardID, Database: db, RetentionPolicy: policy}
	for _, p := range mustPoints(t, lines) {
		b, err := p.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		r.Points = append(r.Points, b)
	}
	return r
}

// mustWrite writes points to the shard in a store, and creates it where it is missing.
func mustWrite(t testing.TB, s *tsdb.Store, lines string) {
	t.Helper()
	if s.Shard(shardID) == nil {
		if err := s.CreateShard(db, policy, shardID, true); err != nil {
			t.Fatal(err)
		}
	}
	enginetest.Write(t, s, shardID, lines)
}

// nothing is lost of a store to which nobody writes while a delete runs.
func nothing(map[*tsdb.Shard]bool) (int, error) { return 0, nil }
