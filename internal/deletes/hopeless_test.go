package deletes

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	itoml "github.com/influxdata/influxdb/toml"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"concord/internal/cluster"
	"concord/internal/handoff"
	"concord/internal/replication/replicationtest"
	"concord/internal/rpc"
)

// A delete that no store can carry out must not be kept for a node that is away: its queue would stand still.
func TestDeleteThatCannotRunIsNotKept(t *testing.T) {
	t.Parallel()
	c, g := newGatedCluster(t)
	w, hh := c.withHandoff(t, 30*time.Second)
	d := w.deletes
	g.away.Store(true)
	if err := w.WritePoints(db, policy, one, nil, mustPoints(t, "m v=1 1")); err != nil {
		t.Fatal(err)
	}
	await(t, "the write is queued", func() bool { return hh.Pending(2, shardID) })
	for _, text := range []string{`DELETE FROM m WHERE time = 'abc'`, `DELETE FROM rp0.m, rp1.m`} {
		if err := deleteOf(text)(d); err == nil {
			t.Errorf("%s ran", text)
		}
		if hh.Pending(2, 999) {
			t.Errorf("%s is kept", text)
		}
	}
	g.away.Store(false)
	hh.Heard(2)
	await(t, "the queue is empty", func() bool { return !hh.Pending(2, shardID) })
	if n := count(t, c.stores[1], "m"); n != 1 {
		t.Errorf("the node has %d points, want 1", n)
	}
}

// Whether a condition names a field only a store with the field knows.
func TestDeleteByAFieldDoesNotStopTheQueue(t *testing.T) {
	t.Parallel()
	c, g := newGatedCluster(t)
	w, hh := c.withHandoff(t, 30*time.Second)
	d := w.deletes
	if err := w.WritePoints(db, policy, all, nil, mustPoints(t, "m v=1 1")); err != nil {
		t.Fatal(err)
	}
	g.away.Store(true)
	if err := deleteOf(`DELETE FROM m WHERE v > 5`)(d); err == nil ||
		!strings.Contains(err.Error(), "fields not supported in WHERE clause during deletion") {
		t.Fatal(err)
	}
	if err := w.WritePoints(db, policy, one, nil, mustPoints(t, "m v=2 2")); err != nil {
		t.Fatal(err)
	}
	await(t, "the write is queued", func() bool { // the delete is, too
		return slices.Contains(hh.Waiting(), handoff.Waiting{Node: 2, Shard: shardID})
	})
	g.away.Store(false)
	hh.Heard(2)
	await(t, "the queue is empty", func() bool { return !hh.Pending(2, shardID) })
	if n := count(t, c.stores[1], "m"); n != 2 {
		t.Errorf("the node has %d points, want 2", n)
	}
	// What reaches a node directly says the same.
	_, err := g.server.RunDelete(t.Context(), &rpc.RunDeleteRequest{Delete: &rpc.Delete{
		Kind: rpc.Delete_DELETE_SERIES, Database: db, Statement: `DELETE FROM m WHERE v > 5`, Id: "x",
	}})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a node answers %v", err)
	}
}

// A delete that the engine refuses never runs: not when another node says later that it ran there, and the engine would
// take it by then.
func TestDeleteThatIsRefusedNeverRuns(t *testing.T) {
	t.Parallel()
	s := mustStore(t)
	meta := &replicationtest.Meta{Nodes: []cluster.Node{{ID: 1}}, Owners: []uint64{1}}
	n := newNode(newDeps(t, meta, s, &rpc.Pool{}, 1), nil)
	withLog(t, n)
	if err := n.Open(); err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	drop := func() error {
		return n.deletes.runOnce(&rpc.Delete{
			Kind: rpc.Delete_DELETE_SERIES, Database: db, Statement: `DELETE FROM m WHERE status != 'ok'`, Id: "refused",
			Version: uint64(n.deletes.deps.Clock.Next()),
		}, true)
	}
	mustWrite(t, s, `m,host=a status="ok" 1`)
	if err := drop(); !neverRuns(err) {
		t.Fatal(err)
	}
	if c := n.Memory.Remembered(); c != 0 {
		t.Errorf("%d deletes are compared with what arrives", c)
	}
	if err := s.DeleteMeasurement(db, "m"); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, s, "m,host=a v=1 2") // status is no field of it any more
	if err := drop(); err != nil {
		t.Error(err)
	}
	if c := count(t, s, "m"); c != 1 {
		t.Errorf("%d points are left, want 1", c)
	}
}

// A queue that is full of writes takes the delete of their points all the same.
func TestDeleteGoesIntoAFullQueue(t *testing.T) {
	t.Parallel()
	c, g := newGatedCluster(t)
	g.away.Store(true)
	b, err := proto.Marshal(writeRequest(t, "m v=1 1"))
	if err != nil {
		t.Fatal(err)
	}
	w, hh := c.withQueues(t, 30*time.Second, func(cfg *handoff.Config) {
		cfg.MaxSize = itoml.Size(8 + 21 + len(b)) // one entry
	})
	if err := hh.Append(2, shardID, handoff.Entry{Kind: handoff.Write, Points: 1, Data: b}); err != nil {
		t.Fatal(err)
	}
	if err := hh.Append(2, shardID,
		handoff.Entry{Kind: handoff.Write, Points: 1, Data: b}); !errors.Is(err, handoff.ErrQueueFull) {
		t.Fatalf("the queue is not full: %v", err)
	}
	if err := w.deletes.DeleteMeasurement(db, "m"); err != nil {
		t.Fatal(err)
	}
	g.away.Store(false)
	hh.Heard(2)
	await(t, "the queue is empty", func() bool { return !hh.Pending(2, shardID) })
	if n := count(t, c.stores[1], "m"); n > 0 {
		t.Errorf("%d deleted points came back", n)
	}
}
