package page

import (
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"golang.org/x/crypto/bcrypt"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/entropy/entropytest"
	"concord/internal/entropy/transport"
	"concord/internal/entropy/view"
	"concord/internal/meta/wire"
	"concord/internal/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dataNode is a data node that others ask over gRPC. Its shards are only in the metadata.
type dataNode struct {
	rpc.UnimplementedOverviewServer
	control *entropytest.Control
	asked   atomic.Int64 // for reports

	mu     sync.Mutex
	report *rpc.ReportResponse
	killed []uint64
}

func (n *dataNode) Report(context.Context, *rpc.ReportRequest) (*rpc.ReportResponse, error) {
	n.asked.Add(1)
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.report, nil
}

func (n *dataNode) KillQuery(_ context.Context, r *rpc.KillQueryRequest) (*rpc.KillQueryResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.killed = append(n.killed, r.Id)
	return &rpc.KillQueryResponse{}, nil
}

// change changes what the node reports. What was sent is not changed.
func (n *dataNode) change(fn func(*rpc.ReportResponse)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := &rpc.ReportResponse{}
	old := n.report
	next.Version, next.Started, next.Process, next.Disks, next.Load = old.Version, old.Started, old.Process, old.Disks, old.Load
	next.Checked, next.Unchecked, next.Written = old.Checked, old.Unchecked, old.Written
	next.ShardBytes, next.ShardCount, next.Queries, next.Events = old.ShardBytes, old.ShardCount, old.Queries, old.Events
	fn(next)
	n.report = next
}

// fakeCluster is three data nodes and the metadata.
type fakeCluster struct {
	state atomic.Pointer[cluster.State]
	nodes []*dataNode
	pool  *rpc.Pool
	deps  Deps
}

// newCluster has shards of two databases, open and secret, in turn. The user root is an administrator, and paul may
// read open. The password of both is pw.
func newCluster(t testing.TB, shards int) *fakeCluster {
	t.Helper()
	c := &fakeCluster{pool: &rpc.Pool{}}
	t.Cleanup(func() { c.pool.Close() })
	st := cluster.NewState()
	st.Data.ClusterID = 7
	for i := range 3 {
		n := &dataNode{control: &entropytest.Control{Know: entropy.NodeStatus{Enabled: true}}, report: &rpc.ReportResponse{
			Version: "1", Started: time.Now().UnixNano(), Process: uint64(i + 1), ShardCount: int64(shards),
			Disks:   []*rpc.Disk{{Path: "/data", Free: 50 << 30, Total: 100 << 30}},
			Load:    []*rpc.Load{{Start: time.Now().UnixNano(), Seconds: 30}},
			Checked: time.Now().UnixNano(),
		}}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := rpc.NewServer()
		transport.NewServer(nil, n.control).Register(s)
		rpc.RegisterOverviewServer(s, n)
		var serving sync.WaitGroup
		serving.Go(func() { _ = s.Serve(ln) })
		t.Cleanup(func() { s.Stop(); serving.Wait() })
		c.nodes = append(c.nodes, n)
		st.DataNodes = append(st.DataNodes, cluster.Node{ID: uint64(i + 1), TCPAddr: ln.Addr().String(), HTTPAddr: "data:8086"})
	}
	st.MetaNodes = []cluster.Node{{ID: 9, TCPAddr: "meta:8089", HTTPAddr: "meta:8091"}}
	hash, err := bcrypt.GenerateFromPassword([]byte("pw"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	st.Data.Users = []emeta.UserInfo{
		{Name: "paul", Hash: string(hash), Privileges: map[string]influxql.Privilege{"open": influxql.ReadPrivilege}},
		{Name: "root", Hash: string(hash), Admin: true},
	}
	st.Data.Databases = []emeta.DatabaseInfo{database("open", 0, shards), database("secret", 1, shards)}
	c.state.Store(st)
	c.deps = Deps{
		Address: "data:8086", Kind: "data", Version: "1", State: c.state.Load, Pool: c.pool, Log: zap.NewNop(),
		View: &view.View{State: c.state.Load, Transport: transport.New(c.pool)},
		AskRaft: func(context.Context, time.Duration, func(string) (uint64, uint64)) []rpc.Answer[cluster.Node, wire.Raft] {
			return []rpc.Answer[cluster.Node, wire.Raft]{{Node: st.MetaNodes[0], Value: wire.Raft{State: "leader", Term: 3, Commit: 5, Applied: 5}}}
		},
	}
	return c
}

// database has every other one of the shards.
func database(name string, first, shards int) emeta.DatabaseInfo {
	rp := emeta.RetentionPolicyInfo{Name: "autogen", ReplicaN: 3, ShardGroupDuration: 24 * time.Hour}
	begin := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := first; i < shards; i += 2 {
		start := begin.Add(time.Duration(i) * 24 * time.Hour)
		rp.ShardGroups = append(rp.ShardGroups, emeta.ShardGroupInfo{
			ID: uint64(i + 1), StartTime: start, EndTime: start.Add(24 * time.Hour),
			Shards: []emeta.ShardInfo{{ID: uint64(i + 1), Owners: []emeta.ShardOwner{{NodeID: 1}, {NodeID: 2}, {NodeID: 3}}}},
		})
	}
	return emeta.DatabaseInfo{Name: name, DefaultRetentionPolicy: "autogen", RetentionPolicies: []emeta.RetentionPolicyInfo{rp}}
}

// user is one of the users, with its rights.
func (c *fakeCluster) user(name string) emeta.User { return c.state.Load().User(name) }

// setUsers replaces the users.
func (c *fakeCluster) setUsers(change func([]emeta.UserInfo) []emeta.UserInfo) {
	old := c.state.Load()
	next, data := *old, *old.Data
	data.Users = change(slices.Clone(data.Users))
	next.Data = &data
	c.state.Store(&next)
}
