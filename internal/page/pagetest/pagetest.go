// Package pagetest has a cluster for tests of its page: data nodes that answer over gRPC and have no shards on disk.
package pagetest

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
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/protobuf/proto"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/entropy/entropytest"
	"concord/internal/entropy/transport"
	"concord/internal/entropy/view"
	"concord/internal/meta/wire"
	"concord/internal/rpc"
)

// Node is a data node that others ask over gRPC. Its shards are only in the metadata.
type Node struct {
	rpc.UnimplementedOverviewServer
	Control *entropytest.Control
	Asked   atomic.Int64 // for reports

	mu     sync.Mutex
	report *rpc.ReportResponse
	killed []uint64
}

// Report is what was last set with Change.
func (n *Node) Report(context.Context, *rpc.ReportRequest) (*rpc.ReportResponse, error) {
	n.Asked.Add(1)
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.report, nil
}

// KillQuery notes which query is to end.
func (n *Node) KillQuery(_ context.Context, r *rpc.KillQueryRequest) (*rpc.KillQueryResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.killed = append(n.killed, r.Id)
	return &rpc.KillQueryResponse{}, nil
}

// Killed are the queries that were to end.
func (n *Node) Killed() []uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.killed)
}

// Change changes what the node reports. What was sent is not changed.
func (n *Node) Change(fn func(*rpc.ReportResponse)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := proto.Clone(n.report).(*rpc.ReportResponse)
	fn(next)
	n.report = next
}

// Cluster is data nodes and the metadata.
type Cluster struct {
	Nodes []*Node
	Pool  *rpc.Pool
	View  *view.View
	state atomic.Pointer[cluster.State]
}

// New has as many data nodes and shards, of which three nodes each are owners. The shards are of two databases,
// open and secret, in turn. The user root is an administrator, and paul may read open. The password of both is pw.
func New(t testing.TB, nodes, shards int) *Cluster {
	t.Helper()
	c := &Cluster{Pool: &rpc.Pool{}}
	t.Cleanup(func() { c.Pool.Close() })
	st := cluster.NewState()
	st.Data.ClusterID = 7
	for i := range nodes {
		n := &Node{Control: &entropytest.Control{Know: entropy.NodeStatus{Enabled: true}}, report: &rpc.ReportResponse{
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
		transport.NewServer(nil, n.Control).Register(s)
		rpc.RegisterOverviewServer(s, n)
		var serving sync.WaitGroup
		serving.Go(func() { _ = s.Serve(ln) })
		t.Cleanup(func() { s.Stop(); serving.Wait() })
		c.Nodes = append(c.Nodes, n)
		st.DataNodes = append(st.DataNodes, cluster.Node{
			ID: uint64(i + 1), TCPAddr: ln.Addr().String(), HTTPAddr: "data:8086",
		})
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
	st.Data.Databases = []emeta.DatabaseInfo{database("open", 0, nodes, shards), database("secret", 1, nodes, shards)}
	c.state.Store(st)
	c.View = &view.View{State: c.State, Transport: transport.New(c.Pool)}
	return c
}

// State is the metadata.
func (c *Cluster) State() *cluster.State { return c.state.Load() }

// AskRaft tells of one meta node, which leads.
func (c *Cluster) AskRaft(
	context.Context, time.Duration, func(addr string) (process, after uint64),
) []rpc.Answer[cluster.Node, wire.Raft] {
	return []rpc.Answer[cluster.Node, wire.Raft]{{
		Node: c.State().MetaNodes[0], Value: wire.Raft{State: "leader", Term: 3, Commit: 5, Applied: 5},
	}}
}

// database has every other one of the shards.
func database(name string, first, nodes, shards int) emeta.DatabaseInfo {
	rp := emeta.RetentionPolicyInfo{Name: "autogen", ReplicaN: 3, ShardGroupDuration: 24 * time.Hour}
	begin := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := first; i < shards; i += 2 {
		start := begin.Add(time.Duration(i) * 24 * time.Hour)
		rp.ShardGroups = append(rp.ShardGroups, emeta.ShardGroupInfo{
			ID: uint64(i + 1), StartTime: start, EndTime: start.Add(24 * time.Hour),
			Shards: []emeta.ShardInfo{{ID: uint64(i + 1), Owners: owners(i, nodes)}},
		})
	}
	return emeta.DatabaseInfo{
		Name: name, DefaultRetentionPolicy: "autogen", RetentionPolicies: []emeta.RetentionPolicyInfo{rp},
	}
}

// owners are three of the nodes: 1, 2 and 3 of the first shard.
func owners(shard, nodes int) (out []emeta.ShardOwner) {
	for k := range min(3, nodes) {
		out = append(out, emeta.ShardOwner{NodeID: uint64((shard/nodes*3+k)%nodes + 1)})
	}
	slices.SortFunc(out, func(a, b emeta.ShardOwner) int { return int(a.NodeID) - int(b.NodeID) })
	return out
}

// User is one of the users, with its rights.
func (c *Cluster) User(name string) emeta.User { return c.state.Load().User(name) }

// SetPassive makes a data node one that owns no shard.
func (c *Cluster) SetPassive(id uint64) { c.change(id, func(n *cluster.Node) { n.Passive = true }) }

// SetDraining makes a data node one whose shards are moved to others.
func (c *Cluster) SetDraining(id uint64) { c.change(id, func(n *cluster.Node) { n.Draining = true }) }

func (c *Cluster) change(id uint64, change func(*cluster.Node)) {
	next := c.state.Load().Clone()
	for i := range next.DataNodes {
		if n := &next.DataNodes[i]; n.ID == id {
			change(n)
		}
	}
	c.state.Store(next)
}

// SetUsers replaces the users.
func (c *Cluster) SetUsers(change func([]emeta.UserInfo) []emeta.UserInfo) {
	old := c.state.Load()
	next, data := *old, *old.Data
	data.Users = change(slices.Clone(data.Users))
	next.Data = &data
	c.state.Store(&next)
}
