package server_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"concord/internal/cluster"
	"concord/internal/meta/metatest"
)

func TestChangesGoOnWithoutTheLeader(t *testing.T) {
	t.Parallel()
	nodes := metatest.NewCluster(t, 3)
	d := metatest.NewData(t)
	follower := metatest.Others(nodes, metatest.LeaderOf(t, nodes))[0]
	// A follower sends the caller to the leader.
	var code int
	var body string
	if !metatest.Until(t, func() bool { // on a busy machine the leader may just have changed
		code, body = metatest.Call(t, "POST", "http://"+follower.HTTPAddr()+"/add-data?addr="+d.Addr)
		return code == http.StatusOK
	}) {
		t.Fatalf("add-data at a follower: %d %s", code, body)
	}
	create := func(name string) {
		t.Helper()
		var err error
		if !metatest.Until(t, func() bool { // on a busy machine an election may take longer than one attempt
			_, err = d.CreateDatabase(name)
			return err == nil
		}) {
			t.Fatalf("create %s: %v", name, err)
		}
	}
	create("before")
	if got := len(d.MetaServers()); got != 3 {
		t.Errorf("the data node follows %d meta nodes, want 3", got)
	}
	leader := metatest.LeaderOf(t, nodes)
	leader.Stop()
	create("after")
	metatest.Await(t, nodes, metatest.HasDatabase("after"))

	// Back after a month: what it missed is in a snapshot.
	for i := range 60 {
		create(fmt.Sprintf("db%d", i))
	}
	leader.Start(t)
	metatest.Await(t, nodes, metatest.HasDatabase("db59"))
	if diff := cmp.Diff(nodes[0].State().MetaNodes, nodes[2].State().MetaNodes); diff != "" ||
		len(nodes[0].State().MetaNodes) != 3 {
		t.Error(diff)
	}
}

func TestMinorityAnswersReadsAndRefusesWrites(t *testing.T) {
	t.Parallel()
	nodes := metatest.NewCluster(t, 3)
	leader := metatest.LeaderOf(t, nodes)
	metatest.MustExecute(t, nodes, cluster.CreateDatabase{Name: "db"})
	metatest.Await(t, nodes, metatest.HasDatabase("db"))
	rest := metatest.Others(nodes, leader)
	rest[0].Stop()
	leader.Stop()
	last := rest[1]
	check := func(when string) {
		t.Helper()
		if code, body := metatest.Call(t, "GET", "http://"+last.HTTPAddr()+"/show-cluster"); code != 200 ||
			strings.Count(body, "tcpAddr") != 3 {
			t.Errorf("%s: show-cluster: %d %s", when, code, body)
		}
		if !metatest.HasDatabase("db")(last.State()) {
			t.Errorf("%s: the state is lost", when)
		}
		code, body := 0, ""
		metatest.Until(t, func() bool {
			// Until it notices, it sends the caller to the leader that is gone.
			code, body = metatest.CallOnly(t, "POST", "http://"+last.HTTPAddr()+"/truncate-shards?delay=1m")
			return code == http.StatusServiceUnavailable
		})
		if code != 503 || !strings.Contains(body, "no leader") {
			t.Errorf("%s: a write: %d %s", when, code, body)
		}
	}
	check("alone")
	last.Stop()
	last.Start(t)
	check("alone after a restart")
}

// A leader that is replaced while it adds or removes a meta node leaves it half done. The same call ends it.
func TestChangesOfMetaNodesThatLostTheirLeaderCanBeRepeated(t *testing.T) {
	t.Parallel()
	nodes := metatest.NewCluster(t, 3)
	leader := metatest.LeaderOf(t, nodes)
	rest := metatest.Others(nodes, leader)
	half, gone := rest[0], rest[1]
	call := func(path string) {
		t.Helper()
		var body string
		if !metatest.Until(t, func() (ok bool) { // on a busy machine the leader may change
			var code int
			code, body = metatest.Call(t, "POST", metatest.LeaderOf(t, nodes).URL(path))
			return code == http.StatusOK
		}) {
			t.Fatalf("%s: %s", path, body)
		}
	}

	if !metatest.Until(t, func() bool { return metatest.LeaderOf(t, nodes).TakeVote(half.RaftAddr()) == nil }) {
		t.Fatal("a member keeps its vote")
	}
	call("/add-meta?addr=" + half.HTTPAddr())
	gone.Stop()
	metatest.MustExecute(t, nodes, cluster.CreateDatabase{Name: "with a majority"})
	gone.Start(t)

	for _, n := range leader.State().MetaNodes {
		if n.HTTPAddr == gone.HTTPAddr() && !metatest.Until(t, func() bool {
			return metatest.LeaderOf(t, nodes).RemoveUntold(n) == nil
		}) {
			t.Fatal("it is not removed")
		}
	}
	if !gone.Initialised() {
		t.Fatal("the node knows already that it was removed")
	}
	call("/remove-meta?addr=" + gone.HTTPAddr())
	if gone.Initialised() {
		t.Error("the removed node has not forgotten its cluster")
	}
	call("/add-meta?addr=" + gone.HTTPAddr())
	metatest.Await(t, nodes, func(s *cluster.State) bool { return len(s.MetaNodes) == 3 })
}

func TestRemovedMetaNodeForgetsAndCanComeBack(t *testing.T) {
	t.Parallel()
	nodes := metatest.NewCluster(t, 3)
	leader := metatest.LeaderOf(t, nodes)
	var code int
	var body string
	// On a busy machine there may be no leader for a moment: the call is made until ok.
	call := func(at *metatest.Meta, path string, ok func() bool) {
		t.Helper()
		if !metatest.Until(t, func() bool {
			code, body = metatest.Call(t, "POST", at.URL(path))
			return ok()
		}) {
			t.Fatalf("%s: %d %s", path, code, body)
		}
	}
	remove := func(at, what *metatest.Meta) {
		t.Helper()
		call(at, "/remove-meta?addr="+what.HTTPAddr(), func() bool {
			return code == 200 || !what.Initialised() // an earlier call may have removed it, and lost its leader
		})
		if what.State().Data.ClusterID != 0 || what.Initialised() {
			t.Error("the removed node has not forgotten its cluster")
		}
	}
	gone := metatest.Others(nodes, leader)[0]
	remove(leader, gone)
	metatest.Await(t, metatest.Others(nodes, gone), func(s *cluster.State) bool { return len(s.MetaNodes) == 2 })
	call(leader, "/add-meta?addr="+gone.HTTPAddr(), func() bool { return code == 200 })
	metatest.Await(t, nodes, func(s *cluster.State) bool { return len(s.MetaNodes) == 3 })
	// The leader itself.
	leader = metatest.LeaderOf(t, nodes)
	remove(leader, leader)
	left := metatest.Others(nodes, leader)
	metatest.Await(t, left, func(s *cluster.State) bool { return len(s.MetaNodes) == 2 })
	last := metatest.LeaderOf(t, left)
	remove(last, metatest.Others(left, last)[0])
	call(last, "/remove-meta?addr="+last.HTTPAddr(), func() bool { return code != 503 })
	if code != 400 || !strings.Contains(body, "last meta node") {
		t.Errorf("the last one: %d %s", code, body)
	}
}

func TestAddMetaRefusesWithAReason(t *testing.T) {
	t.Parallel()
	a, b := metatest.New(t, true), metatest.New(t, true)
	for addr, want := range map[string]string{
		b.HTTPAddr():  "belongs to another cluster",
		"127.0.0.1:1": "unreachable",
		"nonsense":    "give host:8091",
	} {
		if code, body := metatest.Call(t, "POST", "http://"+a.HTTPAddr()+"/add-meta?addr="+addr); code != 400 ||
			!strings.Contains(body, want) {
			t.Errorf("%s: %d %s, want %s", addr, code, body, want)
		}
	}
}

func TestOneDataNodeHasTheLease(t *testing.T) {
	t.Parallel()
	m := metatest.New(t, true)
	d1, d2 := metatest.NewData(t), metatest.NewData(t)
	for _, d := range []*metatest.DataNode{d1, d2} {
		if _, err := m.AddData(context.Background(), d.Addr); err != nil {
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
		if code, body := metatest.Call(t, "GET", base+fmt.Sprint(id)); code != want {
			t.Errorf("node %d: %d %s, want %d", id, code, body, want)
		}
	}
}

// A meta node that has lost the others does not say that nothing changed.
func TestMetaNodeWithoutALeaderIsNotFollowed(t *testing.T) {
	t.Parallel()
	nodes := metatest.NewCluster(t, 3)
	last := nodes[0]
	for _, m := range nodes[1:] {
		m.Stop()
	}
	if !metatest.Until(t, func() bool {
		code, _ := metatest.Call(t, "GET", "http://"+last.HTTPAddr()+"/state?wait=10ms&index="+fmt.Sprint(last.State().Index))
		return code == http.StatusServiceUnavailable
	}) {
		t.Error("it still says that nothing changed")
	}
}
