package deletes

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"concord/internal/cluster"
	"concord/internal/handoff"
	"concord/internal/rpc"
)

func TestDeleteGoesThroughTheQueueInOrder(t *testing.T) {
	t.Parallel()
	c, g := newGatedCluster(t)
	w, hh := c.withHandoff(t, 30*time.Second)
	d := w.deletes
	write := func(lines string) {
		t.Helper()
		if err := w.WritePoints(db, policy, one, nil, mustPoints(t, lines)); err != nil {
			t.Fatal(err)
		}
	}
	write("cpu v=1 1000\ncpu v=1 2000\nmem v=1 1000\ngone v=1 1")
	await(t, "both have it", func() bool { return count(t, c.stores[1], "cpu") == 2 })
	g.away.Store(true)
	write("cpu v=2 3000") // queued before the delete
	for _, text := range []string{"DELETE FROM cpu WHERE time >= 2000"} {
		if err := deleteOf(text)(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.DeleteMeasurement(db, "gone"); err != nil {
		t.Fatal(err)
	}
	write("cpu v=3 4000\ngone v=2 5") // after it
	w.Close()                         // waits for what is under way
	g.away.Store(false)
	await(t, "all is delivered", func() bool { return !hh.Pending(2, shardID) })
	for i, s := range c.stores {
		if got := values(t, s, "cpu"); !slices.Equal(got, []float64{1, 3}) {
			t.Errorf("node %d: cpu is %v", i+1, got)
		}
		if got := values(t, s, "gone"); !slices.Equal(got, []float64{2}) {
			t.Errorf("node %d: gone is %v", i+1, got)
		}
		if n := count(t, s, "mem"); n != 1 {
			t.Errorf("node %d: mem has %d points", i+1, n)
		}
	}
}

// A write that is under way to a slow owner when a delete comes must not bring back what that removes.
func TestWriteUnderWayDoesNotOutliveADelete(t *testing.T) {
	t.Parallel()
	c, g := newGatedCluster(t)
	w, hh := c.withHandoff(t, 5*time.Second) // waited out
	d := w.deletes
	g.hang.Store(true)
	if err := w.WritePoints(db, policy, one, nil, mustPoints(t, "m v=1 1")); err != nil {
		t.Fatal(err)
	}
	if err := d.DeleteMeasurement(db, "m"); err != nil {
		t.Fatal(err)
	}
	g.hang.Store(false)
	w.Close()
	await(t, "all is delivered", func() bool { return len(hh.Waiting()) == 0 })
	if n := count(t, c.stores[1], "m"); n > 0 {
		t.Errorf("%d points are back", n)
	}
}

func TestDeliverDropsWhatIsMalformed(t *testing.T) {
	t.Parallel()
	c, _ := newGatedCluster(t)
	w, _ := c.withHandoff(t, 30*time.Second)
	for _, e := range []handoff.Entry{
		{Kind: handoff.Write, Data: []byte("\xff\xff")},
		{Kind: handoff.Delete, Data: []byte("\xff\xff")},
		{Kind: handoff.Delete},
		{Kind: handoff.Write}, // no shard
	} {
		n, err := w.deletes.Deliver(context.Background(), 2, shardID, []handoff.Entry{e, e}, nil)
		var never *handoff.PermanentError
		if n != 0 || !errors.As(err, &never) {
			t.Errorf("%v: %d, %v", e, n, err)
		}
	}
}

// A delete is kept when one of the nodes that know of it can keep it. It counts as lost when none can.
func TestDeleteIsKeptByOneNodeThatCan(t *testing.T) {
	t.Parallel()
	for _, others := range []bool{true, false} {
		c := newTestCluster(t, "ok", "ok", "down")
		w, hh := c.withHandoff(t, 30*time.Second)
		cfg := handoff.NewConfig()
		cfg.Dir = t.TempDir()
		var lost []uint64
		w.deletes.deps.Lost = func(node uint64) { lost = append(lost, node) }
		second := handoff.New(cfg, handoff.Deps{
			Due: func(uint64, uint64) (bool, bool) { return true, true }, Dropped: func(uint64, uint64) {},
		})
		n := mustOpen(t, newNode(newDeps(t, c.meta, c.stores[1], c.pool, 2), second))
		if others {
			if err := second.Open(n.deletes.Deliver); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { second.Close() })
		}
		c.meta.SetAddr(1, mustServe(t, n.server()))
		if err := hh.Close(); err != nil { // it keeps nothing more
			t.Fatal(err)
		}
		nodes, err := w.deletes.others()
		if err != nil {
			t.Fatal(err)
		}
		r := &rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: "x", Version: 7}
		err = w.deletes.keep(r, missedNodes{{Node: nodes[1]}}, nodes[:1])
		if (err == nil) != others || second.Pending(3, handoff.WholeDatabase) != others {
			t.Errorf("the other node keeps deletes: %t; it keeps this one: %t; error %v", others,
				second.Pending(3, handoff.WholeDatabase), err)
		}
		if others {
			continue
		}
		if err := w.deletes.DeleteMeasurement(db, "m"); err == nil || len(lost) != 0 {
			t.Errorf("a delete that cannot be kept and does not run: lost for nodes %v, error %v", lost, err)
		}
		c.meta.Change(func(nodes []cluster.Node) []cluster.Node { return nodes[:2] })
		w.deletes.deps.Ready = func(string) error { return errors.New("the disk is full") }
		if err := w.deletes.DeleteMeasurement(db, "m"); err == nil || !slices.Equal(lost, []uint64{1}) {
			t.Errorf("a delete that the other node ran and nobody keeps for this one: lost for nodes %v, error %v", lost, err)
		}
	}
}

// A node that has not heard of a delete may send what is from before it: it gets the delete first.
func TestWritesOfANodeThatMissesADeleteWait(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "down")
	c.meta.Add(cluster.Node{ID: 3})
	w, _ := c.withHandoff(t, 30*time.Second)
	s := w.server()
	drop := &rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: "x"}
	if err := w.deletes.hint(drop, []uint64{2}); err != nil {
		t.Fatal(err)
	}
	r := writeRequest(t, "m v=1 1")
	for node, want := range map[uint64]codes.Code{2: codes.FailedPrecondition, 3: codes.OK} {
		r.SenderNode = node
		if _, err := s.WriteShard(context.Background(), r); status.Code(err) != want {
			t.Errorf("a write of node %d: %v, want %v", node, err, want)
		}
	}
}

// A queue from before writes had versions has deletes among its writes, which take points out of those before them.
func TestDeletesInOldQueuesAreKept(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "ok")
	w := c.node(t)
	entry := func(kind handoff.Kind, points int, m proto.Message) handoff.Entry {
		t.Helper()
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return handoff.Entry{Kind: kind, Points: points, Data: b}
	}
	write := func(line string) handoff.Entry {
		t.Helper()
		return entry(handoff.Write, 1, writeRequest(t, line))
	}
	drop := func(name string) handoff.Entry {
		t.Helper()
		return entry(handoff.Delete, 0, &rpc.ExecuteRequest{ // as it was kept then
			Kind: rpc.ExecuteRequest_DROP_MEASUREMENT, Database: db, Name: name, ShardId: shardID,
			Bounds: &rpc.DeleteBounds{RetentionPolicy: policy, Start: 0, End: 1e18},
		})
	}
	entries := []handoff.Entry{
		write("m v=1 1"), write("gone v=1 1"), drop("gone"), write("gone v=2 2"), drop("other"), write("later v=1 1"),
	}
	n, err := w.deletes.Deliver(t.Context(), 2, shardID, entries, []handoff.Entry{drop("later")})
	if n != len(entries) || err != nil {
		t.Errorf("%d entries of %d are delivered: %v", n, len(entries), err)
	}
	for name, want := range map[string][]float64{"m": {1}, "gone": {2}} {
		if got := values(t, c.stores[1], name); !slices.Equal(got, want) {
			t.Errorf("%s has %v, want %v", name, got, want)
		}
	}
	if n := count(t, c.stores[1], "later"); n > 0 {
		t.Errorf("%d points are there that a delete behind them removes", n)
	}
}
