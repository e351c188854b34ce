// Package replicationtest has what tests of writes and of deletes share: the metadata of one shard, stores of the
// engine, and servers.
package replicationtest

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/query"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"concord/internal/cluster"
	"concord/internal/enginetest"
	"concord/internal/order"
	"concord/internal/rpc"
)

// The database, its retention policy, and its shard.
const (
	DB     = "db0"
	Policy = "rp0"
	Shard  = 7
)

// Meta is the metadata of one database with one shard.
type Meta struct {
	mu sync.Mutex // guards Nodes where Change is used

	Nodes    []cluster.Node
	Owners   []uint64
	Duration time.Duration
	Lost     bool      // no node and no shard is known
	Leader   time.Time // what time it is for the leader of the meta nodes; zero for that of this machine

	Changes uint64                         // as Index
	Dropped func(shard, index uint64) bool // as Deleted of the metadata; nil when no shard was
	Update  func() error                   // as Refresh; nil when nothing is new
	Behind  error                          // why this is not as new as what others have; nil when it is
}

// CatchUpWithOthers returns Behind.
func (m *Meta) CatchUpWithOthers(context.Context) error { return m.Behind }

// Deleted asks Dropped.
func (m *Meta) Deleted(shard, index uint64) bool { return m.Dropped != nil && m.Dropped(shard, index) }

// Index is Changes.
func (m *Meta) Index() uint64 { return m.Changes }

// OwnersOf is Owners.
func (m *Meta) OwnersOf(uint64) []uint64 { return m.Owners }

// Refresh runs Update.
func (m *Meta) Refresh() error {
	if m.Update == nil {
		return nil
	}
	return m.Update()
}

// Now is Leader.
func (m *Meta) Now() (now time.Time, known bool) {
	if m.Leader.IsZero() {
		return time.Now(), true
	}
	return m.Leader, true
}

// Database knows DB.
func (m *Meta) Database(name string) *emeta.DatabaseInfo {
	if name != DB {
		return nil
	}
	return &emeta.DatabaseInfo{Name: DB, DefaultRetentionPolicy: Policy}
}

// RetentionPolicy is always Policy.
func (m *Meta) RetentionPolicy(string, string) (*emeta.RetentionPolicyInfo, error) {
	return &emeta.RetentionPolicyInfo{Name: Policy, Duration: m.Duration, ShardGroupDuration: 7 * 24 * time.Hour}, nil
}

// CreateShardGroup returns a group with Shard that t is in.
func (m *Meta) CreateShardGroup(_, _ string, t time.Time) (*emeta.ShardGroupInfo, error) {
	sh := emeta.ShardInfo{ID: Shard}
	for _, id := range m.Owners {
		sh.Owners = append(sh.Owners, emeta.ShardOwner{NodeID: id})
	}
	return &emeta.ShardGroupInfo{
		ID: 1, StartTime: t.Add(-time.Hour * 1e5), EndTime: t.Add(time.Hour * 1e5), Shards: []emeta.ShardInfo{sh},
	}, nil
}

// DataNodes are all nodes.
func (m *Meta) DataNodes() []cluster.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Lost {
		return nil
	}
	return m.Nodes
}

// Change changes Nodes while parts of a node that is open may ask for them.
func (m *Meta) Change(fn func([]cluster.Node) []cluster.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.Nodes = fn(slices.Clone(m.Nodes))
}

// Add adds a node, as Change does.
func (m *Meta) Add(n cluster.Node) {
	m.Change(func(nodes []cluster.Node) []cluster.Node { return append(nodes, n) })
}

// SetAddr gives the node at a place of Nodes another address, as Change does.
func (m *Meta) SetAddr(at int, addr string) {
	m.Change(func(nodes []cluster.Node) []cluster.Node {
		nodes[at].TCPAddr = addr
		return nodes
	})
}

// DataNode is one of them.
func (m *Meta) DataNode(id uint64) (cluster.Node, bool) {
	for _, n := range m.DataNodes() {
		if n.ID == id {
			return n, true
		}
	}
	return cluster.Node{}, false
}

// Shard knows Shard.
func (m *Meta) Shard(id uint64) (cluster.Shard, bool) {
	sh := cluster.Shard{
		ID: Shard, Database: DB, RetentionPolicy: Policy, Owners: m.Owners, Start: -1e18, End: 1e18, GroupEnd: 1e18,
	}
	return sh, id == Shard && !m.Lost
}

// State has Shard as the newest shard, and nothing else.
func (m *Meta) State() *cluster.State {
	s := cluster.NewState()
	s.Data.MaxShardID = Shard
	return s
}

// Member is the metadata as one node has it.
type Member struct {
	*Meta
	Node uint64
}

// NodeID is the node's.
func (m Member) NodeID() uint64 { return m.Node }

// Hung is a node that takes requests and never answers them.
type Hung struct {
	rpc.UnimplementedReplicationServer
}

// WriteShard waits until the caller gives up.
func (Hung) WriteShard(ctx context.Context, _ *rpc.WriteShardRequest) (*rpc.WriteShardResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// WriteBatch waits, too.
func (Hung) WriteBatch(ctx context.Context, _ *rpc.WriteBatchRequest) (*rpc.WriteShardResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// NoCopies is what is known of copies that lack nothing. Tests replace what they are about.
type NoCopies struct{}

// Begin has nothing to note.
func (NoCopies) Begin(uint64) error { return nil }

// Missed has nothing to note.
func (NoCopies) Missed(_, _ uint64, _ bool) {}

// Lacks has nothing to note.
func (NoCopies) Lacks(uint64, string) {}

// Lacking is 0.
func (NoCopies) Lacking() uint64 { return 0 }

// LastUnversioned is never.
func (NoCopies) LastUnversioned(uint64) uint64 { return 0 }

// Admit lets all in.
func (NoCopies) Admit(context.Context) {}

// NotWhole is false.
func (NoCopies) NotWhole(context.Context, uint64) bool { return false }

// NoSubscriber takes no copies of writes.
type NoSubscriber struct{}

// Send does nothing.
func (NoSubscriber) Send(*coordinator.WritePointsRequest) {}

// Store opens an empty store for the time of the test.
func Store(t testing.TB) *tsdb.Store {
	t.Helper()
	return enginetest.Store(t, tsdb.InmemIndexName) // deletes race with reads in the other one
}

// Serve serves other nodes for the time of the test, and returns the address.
func Serve(t testing.TB, register func(grpc.ServiceRegistrar), opts ...grpc.ServerOption) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := rpc.NewServer(opts...)
	register(s)
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ln) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return ln.Addr().String()
}

// Down is an address at which nothing listens. A free port would not do: a test that runs beside may get it.
const Down = "127.0.0.1:1"

// Order opens the clock and the journal of a node for the time of the test.
func Order(t testing.TB, node uint64) (*order.Clock, *order.Journal) {
	t.Helper()
	dir := t.TempDir()
	clock, err := order.OpenClock(filepath.Join(dir, "clock"), time.Now, zap.NewNop())
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
	return clock, journal
}

// Count is how many values of the float field v Shard has in a store, -1 without the shard.
func Count(t testing.TB, s *tsdb.Store, measurement string) int {
	t.Helper()
	if s.Shard(Shard) == nil {
		return -1
	}
	return len(Values(t, s, measurement))
}

// Values are those of the float field v in time order.
func Values(t testing.TB, s *tsdb.Store, measurement string) (out []float64) {
	t.Helper()
	if sh := s.Shard(Shard); sh != nil {
		return ValuesOf(t, sh, measurement)
	}
	return nil
}

// ValuesOf are those of the float field v of a shard, in time order.
func ValuesOf(t testing.TB, sh *tsdb.Shard, measurement string) (out []float64) {
	t.Helper()
	itr, err := sh.CreateIterator(context.Background(), &influxql.Measurement{Name: measurement}, query.IteratorOptions{
		Expr: &influxql.VarRef{Val: "v"}, StartTime: influxql.MinTime, EndTime: influxql.MaxTime, Ascending: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if itr == nil {
		return nil
	}
	defer itr.Close()
	fi, ok := itr.(query.FloatIterator)
	if !ok {
		return nil
	}
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

// Cached are all values that the write cache of Shard has.
func Cached(t testing.TB, s *tsdb.Store) (out []string) {
	t.Helper()
	cache := enginetest.Engine(t, s.Shard(Shard)).Cache
	for _, key := range cache.Keys() {
		for _, v := range cache.Values(key) {
			out = append(out, fmt.Sprintf("%s %v", key, v))
		}
	}
	slices.Sort(out)
	return out
}

// Await returns when ok holds, and fails the test when it does not within a minute.
func Await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(time.Minute)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("never: %s", what)
		}
	}
}
