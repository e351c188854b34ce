package meta

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"concord/internal/cluster"
	"concord/internal/meta/metaconfig"
)

// quickRaft makes elections quick and snapshots frequent.
func quickRaft(c *raft.Config) {
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = 500*time.Millisecond, 500*time.Millisecond, 400*time.Millisecond
	c.CommitTimeout = 5 * time.Millisecond
	c.SnapshotThreshold, c.TrailingLogs, c.SnapshotInterval = 20, 5, 50*time.Millisecond
}

// newMetas returns n meta nodes in one cluster.
func newMetas(t *testing.T, n int) []*testMeta {
	t.Helper()
	var out []*testMeta
	for range n {
		m := &testMeta{cfg: metaconfig.New(), tune: quickRaft}
		m.cfg.Meta.Dir = t.TempDir()
		m.cfg.Meta.BindAddress, m.cfg.Meta.HTTPBindAddress = "127.0.0.1:0", "127.0.0.1:0"
		m.start(t)
		t.Cleanup(func() { m.Close() })
		out = append(out, m)
	}
	for _, m := range out {
		var code int
		var body string
		if err := until(testContext(t), func() bool { // on a busy machine the leader may change meanwhile
			code, body = call(t, "POST", "http://"+out[0].HTTPAddr()+"/add-meta?addr="+m.HTTPAddr())
			return code == 200
		}); err != nil {
			t.Fatalf("add-meta %s: %d %s", m.HTTPAddr(), code, body)
		}
	}
	return out
}

func leaderOf(t *testing.T, nodes []*testMeta) *testMeta {
	t.Helper()
	var leader *testMeta
	if err := until(testContext(t), func() bool {
		leader = nil
		for _, m := range nodes {
			if m.http != nil && m.Leads() {
				leader = m
			}
		}
		return leader != nil
	}); err != nil {
		t.Fatal("no leader")
	}
	return leader
}

func others(nodes []*testMeta, not *testMeta) (out []*testMeta) {
	for _, m := range nodes {
		if m != not {
			out = append(out, m)
		}
	}
	return out
}

// await waits until all nodes that run have the same state.
func awaitSame(t *testing.T, nodes []*testMeta, ok func(*cluster.State) bool) {
	t.Helper()
	if err := until(testContext(t), func() bool {
		for _, m := range nodes {
			if m.http != nil && !ok(m.State()) {
				return false
			}
		}
		return true
	}); err != nil {
		t.Fatal("the meta nodes do not agree")
	}
}

func hasDatabase(name string) func(*cluster.State) bool {
	return func(s *cluster.State) bool { return s.Data.Database(name) != nil }
}

func TestChangesGoOnWithoutTheLeader(t *testing.T) {
	t.Parallel()
	nodes := newMetas(t, 3)
	d := newData(t)
	follower := others(nodes, leaderOf(t, nodes))[0]
	// A follower sends the caller to the leader.
	var code int
	var body string
	if err := until(testContext(t), func() bool { // on a busy machine the leader may just have changed
		code, body = call(t, "POST", "http://"+follower.HTTPAddr()+"/add-data?addr="+d.addr)
		return code != http.StatusServiceUnavailable
	}); err != nil || code != 200 {
		t.Fatalf("add-data at a follower: %d %s", code, body)
	}
	if _, err := d.CreateDatabase("before"); err != nil {
		t.Fatal(err)
	}
	if got := len(d.MetaServers()); got != 3 {
		t.Errorf("the data node follows %d meta nodes, want 3", got)
	}
	leader := leaderOf(t, nodes)
	leader.Close()
	if _, err := d.CreateDatabase("after"); err != nil {
		t.Fatalf("with the leader away: %v", err)
	}
	awaitSame(t, nodes, hasDatabase("after"))

	// Back after a month: what it missed is in a snapshot.
	for i := range 60 {
		if _, err := d.CreateDatabase(fmt.Sprintf("db%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	leader.start(t)
	awaitSame(t, nodes, hasDatabase("db59"))
	if diff := cmp.Diff(nodes[0].State().MetaNodes, nodes[2].State().MetaNodes); diff != "" || len(nodes[0].State().MetaNodes) != 3 {
		t.Error(diff)
	}
}

func TestMinorityAnswersReadsAndRefusesWrites(t *testing.T) {
	t.Parallel()
	nodes := newMetas(t, 3)
	leader := leaderOf(t, nodes)
	if _, err := leader.Execute(cluster.CreateDatabase{Name: "db"}); err != nil {
		t.Fatal(err)
	}
	awaitSame(t, nodes, hasDatabase("db"))
	rest := others(nodes, leader)
	rest[0].Close()
	leader.Close()
	last := rest[1]
	check := func(when string) {
		t.Helper()
		if code, body := call(t, "GET", "http://"+last.HTTPAddr()+"/show-cluster"); code != 200 || strings.Count(body, "tcpAddr") != 3 {
			t.Errorf("%s: show-cluster: %d %s", when, code, body)
		}
		if !hasDatabase("db")(last.State()) {
			t.Errorf("%s: the state is lost", when)
		}
		code, body := 0, ""
		until(testContext(t), func() bool {
			// Until it notices, it sends the caller to the leader that is gone.
			code, body = callOnly(t, "POST", "http://"+last.HTTPAddr()+"/truncate-shards?delay=1m")
			return code == http.StatusServiceUnavailable
		})
		if code != 503 || !strings.Contains(body, "no leader") {
			t.Errorf("%s: a write: %d %s", when, code, body)
		}
	}
	check("alone")
	last.Close()
	last.start(t)
	check("alone after a restart")
}

func TestRemovedMetaNodeForgetsAndCanComeBack(t *testing.T) {
	t.Parallel()
	nodes := newMetas(t, 3)
	leader := leaderOf(t, nodes)
	remove := func(at, what *testMeta) {
		t.Helper()
		if code, body := call(t, "POST", "http://"+at.HTTPAddr()+"/remove-meta?addr="+what.HTTPAddr()); code != 200 {
			t.Fatalf("remove-meta: %d %s", code, body)
		}
		if what.State().Data.ClusterID != 0 || what.st().initialised() {
			t.Error("the removed node has not forgotten its cluster")
		}
	}
	gone := others(nodes, leader)[0]
	remove(leader, gone)
	awaitSame(t, others(nodes, gone), func(s *cluster.State) bool { return len(s.MetaNodes) == 2 })
	if code, body := call(t, "POST", "http://"+leader.HTTPAddr()+"/add-meta?addr="+gone.HTTPAddr()); code != 200 {
		t.Fatalf("add it again: %d %s", code, body)
	}
	awaitSame(t, nodes, func(s *cluster.State) bool { return len(s.MetaNodes) == 3 })
	// The leader itself.
	leader = leaderOf(t, nodes)
	remove(leader, leader)
	left := others(nodes, leader)
	awaitSame(t, left, func(s *cluster.State) bool { return len(s.MetaNodes) == 2 })
	last := leaderOf(t, left)
	remove(last, others(left, last)[0])
	if code, body := call(t, "POST", "http://"+last.HTTPAddr()+"/remove-meta?addr="+last.HTTPAddr()); code != 400 || !strings.Contains(body, "last meta node") {
		t.Errorf("the last one: %d %s", code, body)
	}
}

func TestAddMetaRefusesWithAReason(t *testing.T) {
	t.Parallel()
	a, b := newMeta(t, true), newMeta(t, true)
	for addr, want := range map[string]string{
		b.HTTPAddr():  "belongs to another cluster",
		"127.0.0.1:1": "unreachable",
		"nonsense":    "give host:8091",
	} {
		if code, body := call(t, "POST", "http://"+a.HTTPAddr()+"/add-meta?addr="+addr); code != 400 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s, want %s", addr, code, body, want)
		}
	}
}

func TestOneDataNodeHasTheLease(t *testing.T) {
	t.Parallel()
	m := newMeta(t, true)
	d1, d2 := newData(t), newData(t)
	for _, d := range []*dataNode{d1, d2} {
		if _, err := m.AddData(context.Background(), d.addr); err != nil {
			t.Fatal(err)
		}
	}
	l, err := d1.AcquireLease("continuous_querier")
	if err != nil || l.Owner != d1.NodeID() || time.Until(l.Expiration) < 50*time.Second {
		t.Fatalf("%+v, %v", l, err)
	}
	if _, err := d1.AcquireLease("continuous_querier"); err != nil {
		t.Errorf("the holder asks again: %v", err)
	}
	if l, err := d2.AcquireLease("continuous_querier"); err == nil {
		t.Errorf("two nodes have the lease: %+v", l)
	}
	if _, err := d2.AcquireLease("other"); err != nil {
		t.Errorf("another lease: %v", err)
	}
	base := "http://" + m.HTTPAddr() + "/lease?name=continuous_querier&node_id="
	for id, want := range map[uint64]int{d1.NodeID(): 200, d2.NodeID(): 409} {
		if code, body := call(t, "GET", base+fmt.Sprint(id)); code != want {
			t.Errorf("node %d: %d %s, want %d", id, code, body, want)
		}
	}
}

func TestNewAddressTakesOverADataNode(t *testing.T) {
	t.Parallel()
	m := newMeta(t, true)
	old, fresh, other := newData(t), newData(t), newData(t)
	for _, d := range []*dataNode{old, other} {
		if _, err := m.AddData(context.Background(), d.addr); err != nil {
			t.Fatal(err)
		}
	}
	update := func(from, to string) (int, string) {
		return call(t, "POST", "http://"+m.HTTPAddr()+"/update-data?old="+from+"&new="+to)
	}
	for _, tt := range []struct{ from, to, want string }{
		{old.addr, other.addr, "of this cluster already"},
		{"127.0.0.1:1", fresh.addr, "does not exist"},
		{old.addr, "127.0.0.1:1", "unreachable"},
		{old.addr, "nonsense", "give host:8088"},
	} {
		if code, body := update(tt.from, tt.to); code != 400 || !strings.Contains(body, tt.want) {
			t.Errorf("%s to %s: %d %s, want %s", tt.from, tt.to, code, body, tt.want)
		}
	}
	id := old.NodeID()
	if code, body := update(old.addr, fresh.addr); code != 200 || fresh.NodeID() != id {
		t.Fatalf("%d %s; the new node is %d, want %d", code, body, fresh.NodeID(), id)
	}
	if n, ok := m.State().DataNode(id); !ok || n.TCPAddr != fresh.addr {
		t.Errorf("data node %d is %+v", id, n)
	}
	// The same address, and a node behind it that forgot everything.
	if err := fresh.Client.Leave(); err != nil {
		t.Fatal(err)
	}
	if code, body := update(fresh.addr, fresh.addr); code != 200 || fresh.NodeID() != id {
		t.Errorf("same address: %d %s", code, body)
	}
}

func TestNodeLabels(t *testing.T) {
	t.Parallel()
	m := newMeta(t, true)
	d := newData(t)
	n, err := m.AddData(context.Background(), d.addr)
	if err != nil {
		t.Fatal(err)
	}
	if n, err = m.labelNode(d.addr, map[string]string{"az": "a", "rack": "1"}, nil); err != nil {
		t.Fatal(err)
	}
	if n, err = m.labelNode(fmt.Sprint(n.ID), map[string]string{"az": "b"}, []string{"rack"}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"az": "b"}, n.Labels); diff != "" {
		t.Error(diff)
	}
	if _, err := m.labelNode("nobody:1", nil, nil); err == nil {
		t.Error("an unknown node is no error")
	}
}
