package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"concord/internal/cluster"
	"concord/internal/meta/metatest"
	"concord/internal/meta/server"
)

func TestClusterStartsThroughTheAPI(t *testing.T) {
	t.Parallel()
	m, d := metatest.New(t, false), metatest.NewData(t)
	base := "http://" + m.HTTPAddr()
	if code, body := metatest.Call(t, "GET", base+"/status"); code != 200 || !strings.Contains(body, `"leader":""`) {
		t.Fatalf("status before joining: %d %s", code, body)
	}
	if code, body := metatest.Call(t, "POST", base+"/add-data?addr="+d.Addr); code != 503 ||
		!strings.Contains(body, server.ErrNotInitialised.Error()) {
		t.Fatalf("add-data before add-meta: %d %s", code, body)
	}
	if code, body := metatest.Call(t, "POST", base+"/add-meta?addr=192.0.2.1:8091"); code != 400 ||
		!strings.Contains(body, "is in no cluster yet") {
		t.Fatalf("add-meta of another node: %d %s", code, body)
	}
	var first, again cluster.Node
	for _, n := range []*cluster.Node{&first, &again} {
		code, body := metatest.Call(t, "POST", base+"/add-meta?addr="+m.HTTPAddr())
		if code != 200 || json.Unmarshal([]byte(body), n) != nil {
			t.Fatalf("add-meta: %d %s", code, body)
		}
	}
	if first.ID != again.ID || first.HTTPAddr != m.HTTPAddr() || first.TCPAddr != m.RaftAddr() {
		t.Errorf("add-meta gave %+v, then %+v", first, again)
	}
	for range 2 {
		code, body := metatest.Call(t, "POST", base+"/add-data?addr="+d.Addr)
		var n cluster.Node
		if code != 200 || json.Unmarshal([]byte(body), &n) != nil || n.ID != d.NodeID() {
			t.Fatalf("add-data: %d %s", code, body)
		}
	}
	_, err := d.CreateDatabase("db")
	metatest.OK(t, err)
	_, err = d.CreateShardGroup("db", "autogen", time.Unix(0, 0))
	metatest.OK(t, err)
	for path, want := range map[string]string{
		"/show-cluster": d.Addr, "/show-shards": `"owners":[{"id":2,"tcpAddr":"` + d.Addr,
		"/status": `"leader":"` + m.RaftAddr(),
	} {
		if code, body := metatest.Call(t, "GET", base+path); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if code, _ := metatest.Call(t, "GET", base+"/ping"); code != 204 {
		t.Errorf("ping: %d", code)
	}
	if code, body := metatest.Call(t, "POST", base+"/remove-data?addr="+d.Addr); code != 200 || d.NodeID() != 0 {
		t.Errorf("remove-data: %d %s, node is still %d", code, body, d.NodeID())
	}
}

func TestAddDataRefusesWithAReason(t *testing.T) {
	t.Parallel()
	m, other := metatest.New(t, true), metatest.New(t, true)
	d := metatest.Joined(t, other)
	for addr, want := range map[string]string{
		d.Addr: "belongs to another cluster", "127.0.0.1:1": "is unreachable", "data1": "give host:8088",
	} {
		if _, err := m.AddData(metatest.Context(t), addr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", addr, err, want)
		}
	}
	if n := len(m.State().DataNodes); n != 0 {
		t.Errorf("%d data nodes were added", n)
	}
}

func TestUnreachableDataNodeIsRemovedOnlyByForce(t *testing.T) {
	t.Parallel()
	m := metatest.New(t, true)
	m.AddNode(t, "127.0.0.1:1")
	if _, err := m.RemoveData(metatest.Context(t), "127.0.0.1:1", false); err == nil || len(m.State().DataNodes) != 1 {
		t.Errorf("removed without force: %v", err)
	}
	if _, err := m.RemoveData(metatest.Context(t), "127.0.0.1:1", true); err != nil || len(m.State().DataNodes) != 0 {
		t.Errorf("not removed with force: %v", err)
	}
}

func TestNewAddressTakesOverADataNode(t *testing.T) {
	t.Parallel()
	m := metatest.New(t, true)
	old, fresh, other := metatest.NewData(t), metatest.NewData(t), metatest.NewData(t)
	for _, d := range []*metatest.DataNode{old, other} {
		if _, err := m.AddData(context.Background(), d.Addr); err != nil {
			t.Fatal(err)
		}
	}
	update := func(from, to string) (int, string) {
		return metatest.Call(t, "POST", "http://"+m.HTTPAddr()+"/update-data?old="+from+"&new="+to)
	}
	for _, tt := range []struct{ from, to, want string }{
		{old.Addr, other.Addr, "of this cluster already"},
		{"127.0.0.1:1", fresh.Addr, "does not exist"},
		{old.Addr, "127.0.0.1:1", "unreachable"},
		{old.Addr, "nonsense", "give host:8088"},
	} {
		if code, body := update(tt.from, tt.to); code != 400 || !strings.Contains(body, tt.want) {
			t.Errorf("%s to %s: %d %s, want %s", tt.from, tt.to, code, body, tt.want)
		}
	}
	id := old.NodeID()
	if code, body := update(old.Addr, fresh.Addr); code != 200 || fresh.NodeID() != id {
		t.Fatalf("%d %s; the new node is %d, want %d", code, body, fresh.NodeID(), id)
	}
	if n, ok := m.State().DataNode(id); !ok || n.TCPAddr != fresh.Addr {
		t.Errorf("data node %d is %+v", id, n)
	}
	// The same address, and a node behind it that forgot everything.
	if err := fresh.Client.Leave(); err != nil {
		t.Fatal(err)
	}
	if code, body := update(fresh.Addr, fresh.Addr); code != 200 || fresh.NodeID() != id {
		t.Errorf("same address: %d %s", code, body)
	}
}

func TestNodeLabels(t *testing.T) {
	t.Parallel()
	m := metatest.New(t, true)
	d := metatest.NewData(t)
	n, err := m.AddData(context.Background(), d.Addr)
	if err != nil {
		t.Fatal(err)
	}
	if n, err = server.LabelNode(m.Server, d.Addr, map[string]string{"az": "a", "rack": "1"}, nil); err != nil {
		t.Fatal(err)
	}
	if n, err = server.LabelNode(m.Server, fmt.Sprint(n.ID), map[string]string{"az": "b"}, []string{"rack"}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"az": "b"}, n.Labels); diff != "" {
		t.Error(diff)
	}
	if _, err := server.LabelNode(m.Server, "nobody:1", nil, nil); err == nil {
		t.Error("an unknown node is no error")
	}
}

// A data node that hangs holds up one change, and the next one that it may hear of in time.
func TestDataNodeThatHangsIsWaitedForOnce(t *testing.T) {
	t.Parallel()
	m := metatest.New(t, true)
	a := metatest.Joined(t, m)
	m.AddNode(t, metatest.MustHang(t))
	start := time.Now()
	for i := range 5 {
		_, err := a.CreateDatabase(fmt.Sprint("db", i))
		metatest.OK(t, err)
	}
	if took := time.Since(start); took > 4*server.SpreadTimeout {
		t.Errorf("five changes took %s", took)
	}
}

func TestPassiveDataNode(t *testing.T) {
	t.Parallel()
	m := metatest.New(t, true)
	active, passive := metatest.Joined(t, m), metatest.NewData(t)
	post := func(path string) (int, string) {
		return metatest.Call(t, "POST", "http://"+m.HTTPAddr()+path)
	}
	isPassive := func() bool {
		n, _ := m.State().DataNodeByAddr(passive.Addr)
		return n.Passive
	}
	if code, body := post("/add-data?addr=" + passive.Addr + "&passive=perhaps"); code != 400 || passive.NodeID() != 0 {
		t.Errorf("a wrong value: %d %s", code, body)
	}
	for _, again := range []string{"&passive=true", "", "&passive=false"} {
		code, body := post("/add-data?addr=" + passive.Addr + again)
		if code != 200 || !strings.Contains(body, `"passive":true`) || !isPassive() || passive.NodeID() == 0 {
			t.Fatalf("add-data%s: %d %s", again, code, body)
		}
	}
	if _, body := metatest.Call(t, "GET", "http://"+m.HTTPAddr()+"/show-cluster"); strings.Count(body, `"passive":true`) != 1 {
		t.Errorf("show-cluster: %s", body)
	}
	if code, body := post("/activate-data?addr=" + passive.Addr); code != 200 || isPassive() {
		t.Errorf("activate-data: %d %s", code, body)
	}
	for addr, want := range map[string]string{active.Addr: "is active already", "nobody:8088": "does not exist"} {
		if code, body := post("/activate-data?addr=" + addr); code != 400 || !strings.Contains(body, want) {
			t.Errorf("activate-data %s: %d %s, want %s", addr, code, body, want)
		}
	}
}
