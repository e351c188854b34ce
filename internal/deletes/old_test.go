package deletes

import (
	"path/filepath"
	"testing"
	"time"

	"concord/internal/order"
	"concord/internal/rpc"
)

// A delete runs on a node of the version before service Deletes, and is kept by it, announced to it and ended there.
func TestDeletesReachNodesOfTheVersionBefore(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "down", "down")
	c.stores[1] = mustStore(t)
	other := mustOpen(t, c.newNode(t, 2))
	c.meta.SetAddr(1, mustServe(t, other.server().oldServer))
	c.meta.Owners = []uint64{1, 2}
	w, _ := c.withHandoff(t, 30*time.Second)
	if err := w.WritePoints(db, policy, all, nil, mustPoints(t, "m v=1 1\nleft v=1 1")); err != nil {
		t.Fatal(err)
	}
	seen := other.DeletesSeen(shardID)
	if err := w.deletes.DeleteMeasurement(db, "m"); err != nil {
		t.Fatal(err)
	}
	if n, left := count(t, c.stores[1], "m"), count(t, c.stores[1], "left"); n != 0 || left != 1 {
		t.Errorf("the node has %d points of the measurement, want none, and %d others, want 1", n, left)
	}
	if other.DeletesSeen(shardID) == seen {
		t.Error("the node heard of no delete")
	}
	release, ok := other.HoldDeletes(shardID, other.DeletesSeen(shardID))
	if !ok {
		t.Fatal("the delete has not ended for the node")
	}
	release()
	if err := w.deletes.DeleteDatabase(db); err != nil {
		t.Fatal(err)
	}
	if n := count(t, c.stores[1], "left"); n != -1 {
		t.Errorf("the node still has the shard, with %d points", n)
	}
}

// A node of the version before sends all by one call, with flags.
func TestNodesOfTheVersionBeforeDelete(t *testing.T) {
	t.Parallel()
	s := mustStore(t)
	mustWrite(t, s, "m v=1 1")
	c := newTestCluster(t, "ok")
	c.stores[0] = s
	n := c.node(t)
	execute := func(r *rpc.ExecuteRequest) *rpc.ExecuteResponse {
		t.Helper()
		resp, err := n.server().Execute(t.Context(), r)
		if err != nil || resp.Error != "" {
			t.Fatalf("%v: %v, %v", r, resp, err)
		}
		return resp
	}
	free := func() bool {
		release, ok := n.HoldDeletes(shardID, n.DeletesSeen(shardID))
		if ok {
			release()
		}
		return ok
	}
	drop := func(id string) *rpc.ExecuteRequest {
		return &rpc.ExecuteRequest{Kind: rpc.ExecuteRequest_DROP_MEASUREMENT, Database: db, Name: "m", Id: id}
	}
	first := drop("1")
	first.AnnounceOnly, first.SenderNode, first.Started = true, 2, 5
	if resp := execute(first); resp.Clock == 0 || free() {
		t.Error("the node does not answer an announcement with its clock, or the delete is not under way")
	}
	run := drop("1")
	run.Version = uint64(n.Order.Clock.Next())
	if execute(run); count(t, s, "m") != 0 {
		t.Error("the delete did not run")
	}
	last := drop("1")
	last.AnnounceOnly, last.Ended = true, true
	if execute(last); !free() {
		t.Error("the delete has not ended")
	}
	first.Id = "2"
	execute(first)
	execute(&rpc.ExecuteRequest{
		Kind: rpc.ExecuteRequest_DELETE_SERIES, AnnounceOnly: true, Ended: true, SenderNode: 2, Started: 6,
	})
	if !free() {
		t.Error("a delete of a node that started anew has not ended")
	}
	execute(&rpc.ExecuteRequest{Kind: rpc.ExecuteRequest_DROP_SHARD, ShardId: shardID})
	if s.Shard(shardID) != nil {
		t.Error("the shard was not dropped")
	}
}

// The deletes of a node without IDs are remembered, each with its version.
func TestDeletesWithoutIDsAreRemembered(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w := c.node(t)
	first := w.Order.Clock.Next()
	between, second := w.Order.Clock.Next(), w.Order.Clock.Next()
	for _, v := range []order.Version{first, second} {
		r := &rpc.ExecuteRequest{
			Kind: rpc.ExecuteRequest_DROP_MEASUREMENT, Database: db, Name: "m", Version: uint64(v),
		}
		if resp, err := w.server().Execute(t.Context(), r); err != nil || resp.Error != "" {
			t.Fatal(resp, err)
		}
	}
	left, end := w.BeginWrite(shardID, db, policy, between, mustPoints(t, "m v=1 1"))
	if err := end(nil); err != nil || len(left) > 0 {
		t.Errorf("%d points are written that the second delete removes: %v", len(left), err)
	}
}

// A queue from before writes had versions was cleared of what the deletes behind it remove. So what comes out of it
// after such a delete was written after the delete, and stays, also when the node is restarted in between. All that has
// a version, and all deletes that have one, are in the order of versions.
func TestWritesBehindDeletesOfAnOldQueueStay(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w := c.node(t)
	log, err := OpenRanLog(filepath.Join(t.TempDir(), "deletes.db"), hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	before := w.Order.Clock.Next()
	run := func(r *rpc.ExecuteRequest) {
		t.Helper()
		r.Kind, r.Database, r.Name = rpc.ExecuteRequest_DROP_MEASUREMENT, db, "m"
		if resp, err := w.server().Execute(t.Context(), r); err != nil || resp.Error != "" {
			t.Fatal(resp, err)
		}
	}
	written := func(m *Memory, v order.Version) int {
		t.Helper()
		left, end := m.BeginWrite(shardID, db, policy, v, mustPoints(t, "m v=1 1"))
		if err := end(nil); err != nil {
			t.Fatal(err)
		}
		return len(left)
	}
	run(&rpc.ExecuteRequest{Id: "old", Hinted: true})
	old := w.deletes.deps.Memory.removals.of(db).byID["old"].req
	if err := log.Record(old); err != nil {
		t.Fatal(err)
	}
	restarted := NewMemory(nil)
	if err := log.Each(restarted.Add); err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]*Memory{"at once": w.deletes.deps.Memory, "after a restart": restarted} {
		if written(m, order.BeforeVersions) != 1 {
			t.Errorf("%s, a write behind the delete is left out", name)
		}
		if written(m, before) != 0 {
			t.Errorf("%s, a write with an older version is not left out", name)
		}
	}
	run(&rpc.ExecuteRequest{Id: "new", Version: uint64(w.Order.Clock.Next())})
	if written(w.deletes.deps.Memory, order.BeforeVersions) != 0 {
		t.Error("a write without a version is newer than a delete with one")
	}
}
