package replication

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"concord/internal/handoff"
	"concord/internal/rpc"
)

// While something waits for a node, be it a write or a delete, what the node is told of the order of writes stands
// still: something as old may still arrive there.
func TestFloorStandsStillWhileSomethingWaits(t *testing.T) {
	t.Parallel()
	for _, shard := range []uint64{shardID, handoff.WholeDatabase} {
		c, g := newGatedCluster(t)
		w, hh := c.withHandoff(t, 5*time.Second)
		_, before := w.Floor(2)
		if _, later := w.Floor(2); later < before {
			t.Errorf("the floor fell from %d to %d", before, later)
		}
		g.away.Store(true)
		e, m := handoff.Entry{Kind: handoff.Write}, proto.Message(&rpc.WriteShardRequest{ShardId: shardID, Database: db})
		if shard == handoff.WholeDatabase {
			e.Kind = handoff.Delete
			m = &rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: "1"}
		}
		var err error
		if e.Data, err = proto.Marshal(m); err != nil {
			t.Fatal(err)
		}
		_, before = w.Floor(2)
		if err := hh.Append(2, shard, e); err != nil {
			t.Fatal(err)
		}
		w.Order.Clock.Next()
		if _, now := w.Floor(2); now != before {
			t.Errorf("shard %d: the floor went from %d to %d while something waits", shard, before, now)
		}
		if _, other := w.Floor(1); other <= before {
			t.Errorf("shard %d: the floor of a node for which nothing waits stands still", shard)
		}
	}
}
