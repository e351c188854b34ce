package deletes

import (
	"errors"
	"strings"
	"testing"
	"time"

	"concord/internal/cluster"
	"concord/internal/order"
	"concord/internal/replication/replicationtest"
	"concord/internal/rpc"
)

// The node that remembers a delete is replaced. Then a node whose disk is older than it was hears of the delete from
// the new one.
func TestNewNodeTellsOfDeletesThatRanBeforeIt(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	behind := c.newNode(t, 1)
	if err := withLog(t, behind).HasLearned(); err != nil { // long ago
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
		l := withLog(t, n)
		return n, l, mustServe(t, n.server())
	}
	old, log, addr := node(2)
	mustOpen(t, old)
	for _, err := range []error{log.Record(drop("cpu")), log.Record(drop("mem"), "cpu")} { // cpu is in the past
		if err != nil {
			t.Fatal(err)
		}
	}
	c.meta.Add(cluster.Node{ID: 2, TCPAddr: addr})

	fresh, learned, freshAddr := node(3)
	c.meta.Add(cluster.Node{ID: 3, TCPAddr: freshAddr})
	if err := behind.deletes.CatchUp(t.Context(), since); err == nil || !strings.Contains(err.Error(), freshAddr) {
		t.Errorf("%v, want an error that names the node which has not heard yet what others remember", err)
	}
	c.meta.Add(cluster.Node{ID: 4, TCPAddr: replicationtest.Down})
	told := make(map[uint64]bool)
	if err := fresh.deletes.learn(t.Context(), told); err == nil || learned.Learned() {
		t.Error("it has learned all, and a node has not answered:", err)
	}
	c.meta.Change(func(nodes []cluster.Node) []cluster.Node { // 2 and 4 are gone
		return append(nodes[:1:1], cluster.Node{ID: 3, TCPAddr: freshAddr})
	})
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

// The clock of a node was minutes ahead, so that deletes of long ago have versions that are minutes ahead. A node whose
// disk is new does not run them: it has got points since that are newer.
func TestNewNodeRunsNoDeletesFromBeforeIt(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	old := newNode(newDeps(t, c.meta, mustStore(t), c.pool, 2), nil)
	log := withLog(t, old)
	drop := &rpc.Delete{
		Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "cpu", Id: "1", Nodes: []uint64{1, 2},
		Version: uint64(order.AtTime(time.Now().Add(10 * time.Minute))),
	}
	if err := errors.Join(log.HasLearned(), log.Record(drop)); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, old)
	c.meta.Add(cluster.Node{ID: 2, TCPAddr: mustServe(t, old.server())})

	fresh := c.newNode(t, 1)
	learned := withLog(t, fresh)
	c.meta.SetAddr(0, mustServe(t, fresh.server()))
	mustOpen(t, fresh)
	if err := fresh.WritePoints(db, policy, one, nil, mustPoints(t, "cpu v=1 1")); err != nil {
		t.Fatal(err)
	}
	runsNone := func(when string) {
		t.Helper()
		_ = fresh.deletes.finish(t.Context(), nil)
		_, _ = fresh.deletes.RunMissed(t.Context(), func(cluster.Node) bool { return false })
		if got := count(t, fresh.store, "cpu"); got != 1 || fresh.deletes.ran("1") {
			t.Errorf("%s: %d points are left, and the old delete ran: %t", when, got, fresh.deletes.ran("1"))
		}
	}
	members := c.meta.DataNodes()
	c.meta.Change(func([]cluster.Node) []cluster.Node { return nil }) // it has joined, and its metadata is on its way
	if err := fresh.deletes.learn(t.Context(), make(map[uint64]bool)); err == nil || learned.Learned() {
		t.Error("a node without metadata has learned all:", err)
	}
	runsNone("without metadata")
	c.meta.Change(func([]cluster.Node) []cluster.Node { return members })
	runsNone("before it has heard what others remember")
	if err := fresh.deletes.learn(t.Context(), make(map[uint64]bool)); err != nil || !learned.Learned() {
		t.Fatal("it has not learned all:", err)
	}
	runsNone("after that")
	complete, err := fresh.deletes.RunMissed(t.Context(), func(cluster.Node) bool { return false })
	if !complete || err != nil {
		t.Errorf("it lacks deletes: %v", err)
	}
}

// A write waits in hinted handoff, and a delete of its points runs on all nodes. Then the node for which it waits gets
// a new disk. The write does not bring the points back.
func TestNewNodeTakesNoWritesThatAreOlderThanDeletesBeforeIt(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	other := newNode(newDeps(t, c.meta, mustStore(t), c.pool, 2), nil)
	log := withLog(t, other)
	version := func(ago time.Duration) uint64 { return uint64(order.AtTime(time.Now().Add(-ago))) }
	drop := &rpc.Delete{
		Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "cpu", Id: "1", Version: version(time.Minute),
	}
	if err := errors.Join(log.HasLearned(), log.Record(drop)); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, other)
	c.meta.Add(cluster.Node{ID: 2, TCPAddr: mustServe(t, other.server())})
	third := newNode(newDeps(t, c.meta, mustStore(t), c.pool, 3), nil)
	withLog(t, third)
	c.meta.Add(cluster.Node{ID: 3, TCPAddr: mustServe(t, mustOpen(t, third).server())})
	c.meta.Add(cluster.Node{ID: 4, TCPAddr: replicationtest.Down})

	fresh := c.newNode(t, 1)
	learned := withLog(t, fresh)
	c.meta.SetAddr(0, mustServe(t, fresh.server()))
	learned.beginsAt(t, order.Version(version(2*time.Hour))) // it was started long before it joined
	if err := fresh.deletes.Load(); err != nil {
		t.Fatal(err)
	}
	hint := func() (temporary bool) {
		t.Helper()
		p, err := mustPoints(t, "cpu v=1 1")[0].MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		resp, err := fresh.server().WriteShard(t.Context(), &rpc.WriteShardRequest{
			ShardId: shardID, Database: db, RetentionPolicy: policy, Points: [][]byte{p}, Hinted: true,
			Version: version(time.Hour),
		})
		if err != nil {
			t.Fatal(err)
		}
		return resp.Temporary
	}
	if !hint() {
		t.Error("it takes an old write before it has heard of deletes")
	}
	if err := fresh.deletes.learn(t.Context(), make(map[uint64]bool)); err == nil || learned.Learned() {
		t.Error("it has learned all, and a node has not answered:", err)
	}
	for _, when := range []string{"when most nodes have told it", "after a restart"} {
		if hint() {
			t.Errorf("%s, it takes no old writes", when)
		}
		if got := count(t, fresh.store, "cpu"); got > 0 {
			t.Errorf("%s, %d deleted points are back", when, got)
		}
		memory := NewMemory(c.meta)
		fresh.Memory, fresh.deletes.deps.Memory = memory, memory
		fresh.Writer.Deletes = memory
		if err := learned.HasLearned(); err != nil {
			t.Fatal(err)
		}
		if err := fresh.deletes.Load(); err != nil {
			t.Fatal(err)
		}
	}
}

// When too few nodes answer, late writes wait for half a minute and no longer.
func TestLateWritesDoNotWaitForNodesThatDoNotAnswer(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "down", "down")
	n := c.newNode(t, 1)
	withLog(t, n)
	if err := n.deletes.Load(); err != nil {
		t.Fatal(err)
	}
	l, begin := learning{told: make(map[uint64]bool)}, time.Now()
	old := order.AtTime(begin.Add(-time.Hour))
	for _, tc := range []struct {
		after time.Duration
		waits bool
	}{{0, true}, {learnWait, true}, {learnWait + time.Second, false}, {time.Hour, false}} {
		n.deletes.goOnLearning(t.Context(), &l, begin.Add(tc.after))
		if got := n.Memory.Lacks(old); got != tc.waits {
			t.Errorf("after %v, a late write waits: %v", tc.after, got)
		}
	}
	if n.deletes.deps.Ran.Learned() {
		t.Error("it has learned all, and no node has answered")
	}
}

// Another cluster has the same numbers of nodes, and may have the same databases.
func TestNodeThatLeavesItsClusterTellsNobodyOfItsDeletes(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	n := c.newNode(t, 1)
	log := withLog(t, n)
	before := log.Began()
	first, second := &rpc.Delete{Id: "1", Version: 1 << 40}, &rpc.Delete{Id: "2", Version: 2 << 40}
	learned := &rpc.Delete{Id: "3", Version: uint64(order.AtTime(time.Now()))}
	if err := errors.Join(
		log.Record(first), log.Record(second, first.Id), log.Learn([]*rpc.Delete{learned}), log.HasLearned(), log.Forget(),
	); err != nil {
		t.Fatal(err)
	}
	if err := log.remembered(0, func(r *rpc.Delete) error { return errors.New(r.Id) }); err != nil {
		t.Errorf("delete %v is told", err)
	}
	if log.Ran("1") || log.Learned() || log.Began() < before {
		t.Errorf("ran %v, learned %v, began %v before %v", log.Ran("1"), log.Learned(), log.Began(), before)
	}
}
