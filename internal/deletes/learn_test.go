package deletes

import (
	"path/filepath"
	"testing"

	"concord/internal/cluster"
	"concord/internal/replication/replicationtest"
	"concord/internal/rpc"
)

// The node that remembers a delete is replaced. Then a node whose disk is older than it was hears of the delete from
// the new one.
func TestNewNodeTellsOfDeletesThatRanBeforeIt(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	behind := c.newNode(t, 1)
	logOf := func(n *node) *RanLog {
		l, err := OpenRanLog(filepath.Join(t.TempDir(), "deletes.db"), hour)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		n.deletes.deps.Ran = l
		return l
	}
	if err := logOf(behind).HasLearned(); err != nil { // long ago
		t.Fatal(err)
	}
	mustOpen(t, behind)
	if err := behind.WritePoints(db, policy, one, nil, mustPoints(t, "cpu v=1 1\nmem v=1 1")); err != nil {
		t.Fatal(err)
	}
	since := behind.Order.Clock.Now()
	drop := func(name string) *rpc.Delete {
		return &rpc.Delete{
			Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: name, Id: name, Version: uint64(behind.Order.Clock.Next()),
		}
	}
	node := func(id uint64) (*node, *RanLog, string) {
		n := newNode(newDeps(t, c.meta, mustStore(t), c.pool, id), nil)
		l := logOf(n)
		return n, l, mustServe(t, n.server())
	}
	old, log, addr := node(2)
	mustOpen(t, old)
	for _, err := range []error{log.Record(drop("cpu")), log.Record(drop("mem"), "cpu")} { // cpu is in the past
		if err != nil {
			t.Fatal(err)
		}
	}
	c.meta.Nodes = append(c.meta.Nodes, cluster.Node{ID: 2, TCPAddr: addr})

	fresh, learned, freshAddr := node(3)
	c.meta.Nodes = append(c.meta.Nodes, cluster.Node{ID: 4, TCPAddr: replicationtest.Down(t)})
	told := make(map[uint64]bool)
	if err := fresh.deletes.learn(t.Context(), told); err == nil || learned.Learned() {
		t.Error("it has learned all, and a node has not answered:", err)
	}
	c.meta.Nodes = append(c.meta.Nodes[:1:1], cluster.Node{ID: 3, TCPAddr: freshAddr}) // 2 and 4 are gone
	if err := fresh.deletes.learn(t.Context(), told); err != nil || !learned.Learned() {
		t.Error("it has not learned all:", err)
	}
	if learned.Ran("cpu") || learned.Ran("mem") {
		t.Error("deletes of another node count as run here")
	}
	mustOpen(t, fresh)
	if err := behind.deletes.CatchUp(t.Context(), since); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cpu", "mem"} {
		if got := count(t, behind.store, name); got != 0 || !behind.deletes.ran(name) {
			t.Errorf("%d points are left of %s, which was dropped", got, name)
		}
	}
}
