package replication

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"concord/internal/handoff"
	"concord/internal/order"
	"concord/internal/replication/replicationtest"
	"concord/internal/rpc"
)

// While something waits for a node, be it a write or a delete, what the node is told of the order of writes stands
// still: something as old may still arrive there.
func TestFloorStandsStillWhileSomethingWaits(t *testing.T) {
	t.Parallel()
	for _, shard := range []uint64{shardID, handoff.WholeDatabase} {
		c, g := newGatedCluster(t)
		w, hh := c.withHandoff(t, 30*time.Second)
		_, before, _ := w.Says(2)
		if _, later, _ := w.Says(2); later < before {
			t.Errorf("the floor fell from %d to %d", before, later)
		}
		g.away.Store(true)
		e, m := handoff.Entry{Kind: handoff.Write},
			proto.Message(&rpc.WriteShardRequest{ShardId: shardID, Database: db})
		if shard == handoff.WholeDatabase {
			e.Kind = handoff.Delete
			m = &rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: "1"}
		}
		var err error
		if e.Data, err = proto.Marshal(m); err != nil {
			t.Fatal(err)
		}
		_, before, _ = w.Says(2)
		if err := hh.Append(2, shard, e); err != nil {
			t.Fatal(err)
		}
		w.Order.Clock.Next()
		if _, now, _ := w.Says(2); now != before {
			t.Errorf("shard %d: the floor went from %d to %d while something waits", shard, before, now)
		}
		if _, other, _ := w.Says(1); other <= before {
			t.Errorf("shard %d: the floor of a node for which nothing waits stands still", shard)
		}
	}
}

// What another node tells is only noted: its exchange with this node waits for no disk.
func TestToldDoesNotWaitForTheJournal(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "down")
	w := c.newWriter(t, 1)
	w.lanes.clock = w.Order.Clock
	journal := w.Order.Journal
	w.Order.Journal = nil
	w.Told(Said{Node: 2, Clock: uint64(w.Order.Clock.Now()), Floor: uint64(w.Order.Clock.Now())})
	w.Order.Journal = journal
	if floor, kept := w.floors.lowestFloor(time.Now()); floor == 0 || kept != floor {
		t.Errorf("the floor is %d, and what is below %d is forgotten", floor, kept)
	}
}

// Repairs are told that older writes may still arrive until all nodes have said that none of theirs will.
func TestLateWritesMayArriveUntilAllNodesSaidThatNoneWill(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "down")
	w := c.newWriter(t, 1)
	late := func(want bool, when string) {
		t.Helper()
		if got := w.Repairs().LateWrites(); got != want {
			t.Errorf("%s: late writes may arrive: %v", when, got)
		}
	}
	late(true, "after the start")
	w.floors.forget()
	late(true, "before the other node has said something")
	tell := func(floor time.Time) {
		w.Told(Said{Node: 2, Clock: uint64(w.Order.Clock.Now()), Floor: uint64(order.AtTime(floor))})
		w.floors.forget()
	}
	tell(time.Now())
	late(false, "when it keeps nothing")
	w.Order.Clock.Heard(order.AtTime(time.Now().Add(time.Minute)))
	tell(time.Now())
	late(true, "when it keeps writes for a minute")
	// Repairs go past a node that is away for five seconds.
	w.Order.Clock.Heard(order.AtTime(time.Now().Add(2 * time.Minute)))
	tell(w.Order.Clock.Now().Time().Add(-4 * time.Second))
	late(true, "when it keeps writes for four seconds")
}

// What waits for the node itself has the versions that it had when a delete came in between. Until it has arrived, the
// node forgets nothing.
func TestNothingIsForgottenWhileSomethingWaitsForTheNodeItself(t *testing.T) {
	t.Parallel()
	c, g := newGatedCluster(t)
	w, hh := c.withHandoff(t, 30*time.Second)
	w.Told(Said{Node: 2, Floor: uint64(w.Order.Clock.Now())})
	if _, kept := w.floors.lowestFloor(time.Now()); kept == 0 {
		t.Error("a node for which nothing waits forgets nothing")
	}
	g.away.Store(true)
	data, err := proto.Marshal(&rpc.WriteShardRequest{ShardId: shardID, Database: db})
	if err != nil {
		t.Fatal(err)
	}
	if err := hh.Append(1, shardID, handoff.Entry{Kind: handoff.Write, Data: data}); err != nil {
		t.Fatal(err)
	}
	if floor, kept := w.floors.lowestFloor(time.Now()); kept != 0 || floor == 0 {
		t.Errorf("the floor is %d, and what is below %d is forgotten, want nothing", floor, kept)
	}
}

// While copies lack something, nothing is forgotten, for an hour. A copy that lacks something for longer does not use
// up the hour of another one.
func TestNothingIsForgottenForAnHourAfterSomethingWasMissed(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "down", "down")
	w := c.newWriter(t, 1)
	tell := func(node, lacks uint64) {
		w.Told(Said{Node: node, Floor: uint64(w.Order.Clock.Now()), Lacks: lacks})
	}
	tell(2, 0)
	now := time.Now()
	for _, tt := range []struct {
		what    string
		node    uint64
		lacks   uint64
		after   time.Duration
		forgets bool
	}{
		{"nothing is missed", 3, 0, 0, true},
		{"a copy of node 2 misses something", 2, 7, time.Second, false},
		{"it does for almost an hour", 2, 7, time.Hour, false},
		{"it does for longer", 2, 7, time.Hour + 2*time.Second, true},
		{"then a copy of node 3 misses something", 3, 1, 2 * time.Hour, false},
		{"it is repaired", 3, 0, 2*time.Hour + time.Minute, false},
		{"an hour has passed", 3, 0, 3*time.Hour + time.Second, true},
		{"the copy of node 2 misses more", 2, 8, 4 * time.Hour, false},
		{"all are repaired", 2, 0, 4*time.Hour + time.Minute, true},
	} {
		tell(tt.node, tt.lacks)
		if _, kept := w.floors.lowestFloor(now.Add(tt.after)); kept != 0 != tt.forgets {
			t.Errorf("%s: what is below %d is forgotten", tt.what, kept)
		}
	}
}

// The floor of a node that left the cluster counts for a while: owners send each other what it wrote.
func TestFloorOfANodeThatLeftCountsForAWhile(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "down")
	w := c.newWriter(t, 1)
	w.lanes.clock = w.Order.Clock
	left := w.Order.Clock.Next()
	w.Told(Said{Node: 2, Floor: uint64(left)})
	w.Order.Clock.Next()
	c.meta.Nodes = c.meta.Nodes[:1]
	now := time.Now()
	if _, kept := w.floors.lowestFloor(now); kept != left {
		t.Errorf("what is below %d is forgotten, want %d", kept, left)
	}
	if _, kept := w.floors.lowestFloor(now.Add(w.WriteTimeout)); kept <= left {
		t.Errorf("what is below %d is forgotten, want all", kept)
	}
}

// A node alone in its cluster forgets, too. The journal ends with the writer.
func TestWriterForgetsUntilItCloses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var forgotten atomic.Int32
		deps := newDeps(t, &replicationtest.Meta{}, nil, nil, 1)
		deps.Deletes, deps.ForgetEvery = forgets{n: &forgotten}, time.Second
		journal := deps.Order.Journal
		w := NewWriter(deps)
		w.Open()
		time.Sleep(3*w.ForgetEvery + w.ForgetEvery/2) // of the clock of the test
		if n := forgotten.Load(); n != 3 {
			t.Errorf("it forgot %d times, want 3", n)
		}
		if err := errors.Join(w.Close(), journal.Close()); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * w.ForgetEvery)
		if n := forgotten.Load(); n != 3 {
			t.Errorf("it forgot %d times, the last ones after it closed", n)
		}
	})
}

// forgets counts calls of Forget.
type forgets struct {
	Deletes
	n *atomic.Int32
}

func (f forgets) Forget(order.Version) { f.n.Add(1) }

func (forgets) Floor() order.Version { return ^order.Version(0) }
func (forgets) Keeps() order.Version { return ^order.Version(0) }
