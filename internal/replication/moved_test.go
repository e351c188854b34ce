package replication

import (
	"errors"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/handoff"
	"concord/internal/replication/replicationtest"
	"concord/internal/rpc"
)

// A node to which a coordinator with old metadata sends a write does not begin a copy that nobody reads. It takes the
// write when its own metadata is the older one: it may have become an owner.
func TestNodeRefusesWritesToAShardThatWasMovedAway(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		relies uint64 // index of the metadata of the sender; this node has 5
		change func(*rpc.WriteShardRequest)
		code   codes.Code
	}{
		"older metadata":   {4, func(*rpc.WriteShardRequest) {}, codes.Aborted},
		"the same":         {5, func(*rpc.WriteShardRequest) {}, codes.Aborted},
		"none":             {0, func(*rpc.WriteShardRequest) {}, codes.Aborted},
		"newer metadata":   {6, func(*rpc.WriteShardRequest) {}, codes.OK},
		"a relayed write":  {4, func(r *rpc.WriteShardRequest) { r.Relayed = true }, codes.Aborted},
		"of hinted writes": {4, func(r *rpc.WriteShardRequest) { r.Hinted = true }, codes.Aborted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := mustStore(t)
			meta := &replicationtest.Meta{Nodes: []cluster.Node{{ID: 1}, {ID: 2}, {ID: 3}}, Owners: []uint64{3}, Changes: 5}
			if tt.code == codes.OK { // its copy was made before it is recorded as an owner
				if err := s.CreateShard(db, policy, shardID, true); err != nil {
					t.Fatal(err)
				}
			}
			w := mustOpen(t, newWriter(t, meta, s, nil, 2))
			addr := mustServe(t, NewServer(s, w, zap.NewNop()))
			pool := &rpc.Pool{Relies: func() rpc.Reliance { return rpc.Reliance{Index: tt.relies} }}
			defer pool.Close()
			conn, err := pool.Conn(addr)
			if err != nil {
				t.Fatal(err)
			}
			r := &rpc.WriteShardRequest{
				ShardId: shardID, Database: db, RetentionPolicy: policy, SenderNode: 1, Owners: []uint64{2},
				Version: uint64(w.Order.Clock.Next()), Points: [][]byte{rawPoint("cpu", "v=1", time.Unix(1, 0))},
			}
			tt.change(r)
			resp, err := rpc.NewReplicationClient(conn).WriteShard(t.Context(), r)
			if status.Code(err) != tt.code || resp.GetError() != "" {
				t.Errorf("%v, %v", resp, err)
			}
			if want := "this node does not own shard 7 any more"; err != nil && rpc.Message(err) != want {
				t.Errorf("it says %q, want %q", rpc.Message(err), want)
			}
			if (s.Shard(shardID) != nil) != (tt.code == codes.OK) {
				t.Error("it begins a copy that it does not own")
			}
		})
	}
}

// A coordinator that learns from the owner that it is none any more looks who owns the shard now. While it cannot find
// out, the client gets an error at each level: nothing is acknowledged for the node that was the owner, and nothing is
// kept for it.
func TestWriteToAShardThatWasMovedGoesToTheNewOwner(t *testing.T) {
	t.Parallel()
	for _, handoffEnabled := range []bool{false, true} {
		for _, level := range []models.ConsistencyLevel{models.ConsistencyLevelAny, models.ConsistencyLevelAll} {
			c := newTestCluster(t, "ok", "down", "down")
			was, is := mustStore(t), mustStore(t)
			moved := &replicationtest.Meta{Nodes: c.meta.Nodes, Owners: []uint64{3}, Changes: 9}
			for i, store := range map[int]*tsdb.Store{1: was, 2: is} {
				w := mustOpen(t, newWriter(t, moved, store, c.pool, uint64(i+1)))
				c.meta.Nodes[i].TCPAddr = mustServe(t, NewServer(store, w, zap.NewNop()))
			}
			c.meta.Owners = []uint64{2} // what the coordinator knows
			var w *Writer
			var hh *handoff.Service
			if handoffEnabled {
				w, hh = c.withHandoff(t, 30*time.Second)
			} else {
				w = c.writer(t)
			}
			c.meta.Update = func() error { return errors.New("no meta node answers") }
			write := func() error { return w.WritePoints(db, policy, level, nil, mustPoints(t, "cpu v=1 1")) }
			if err := write(); !isNotOwner(err) {
				t.Errorf("without meta nodes: %v", err)
			}
			if hh != nil && len(hh.Waiting()) > 0 {
				t.Error("hinted handoff keeps the write for a node that does not own the shard")
			}
			c.meta.Update = func() error { c.meta.Owners = []uint64{3}; return nil }
			if err := write(); err != nil || count(t, is, "cpu") != 1 || was.Shard(shardID) != nil {
				t.Errorf("with meta nodes: %v; the new owner has %d points", err, count(t, is, "cpu"))
			}
		}
	}
}

// The node's own copy is no other: its metadata may change between the mapping of a write and the write.
func TestOwnCopyOfAShardThatWasMovedTakesNothing(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "down")
	c.meta.Owners = []uint64{2}
	w := c.writer(t)
	d := w.lanes.begin([]uint64{1}, shardID, 0, time.Minute)[0]
	defer w.lanes.finish(d)
	a := &shardWrite{db: db, policy: policy, points: mustPoints(t, "cpu v=1 1")}
	if r := w.writeHere(a, d, false); !isNotOwner(r.err) || c.stores[0].Shard(shardID) != nil {
		t.Errorf("a write: %v", r.err)
	}
	// The check comes before the copy is removed, and the write after that.
	err := w.WriteAgain(shardID, db, policy, w.Order.Clock.Next(), mustPoints(t, "cpu v=1 1"))
	if !isNotOwner(err) || c.stores[0].Shard(shardID) != nil {
		t.Errorf("a write that was under way: %v", err)
	}
}
