package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/replication/replicationtest"
	"concord/internal/rpc"
)

func rawPoint(key, fields string, t time.Time) []byte {
	tb, _ := t.MarshalBinary()
	b := binary.BigEndian.AppendUint32(nil, uint32(len(key)))
	b = append(b, key...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(fields)))
	return append(append(b, fields...), tb...)
}

// spans are versions of as many points each.
func spans(points ...uint32) (out []*rpc.VersionSpan) {
	for i, n := range points {
		out = append(out, &rpc.VersionSpan{Version: uint64(i + 1), Points: n})
	}
	return out
}

func TestMalformedRequestsHaveNoEffect(t *testing.T) {
	s := mustStore(t)
	srv := serverOf(t, s)
	now := time.Unix(1, 0)
	good := rawPoint("cpu", "v=1", now)
	for name, p := range map[string][]byte{
		"empty": nil, "cut": good[:9], "huge length": {0xff, 0xff, 0xff, 0xff, 1},
		"no field": rawPoint("cpu", "", now), "bare quote": rawPoint("cpu", `v="`, now),
		"open string": rawPoint("cpu", `v="a`, now),
		"no value":    rawPoint("cpu", "v=", now), "no equals": rawPoint("cpu", "v", now),
		"bad integer":    rawPoint("cpu", "v=1x2i", now),
		"no measurement": rawPoint("", "v=1", now), "only tags": rawPoint(",a=b", "v=1", now),
		"out of time": rawPoint("cpu", "v=1", time.Unix(1<<40, 0)),
		"long key":    rawPoint(string(make([]byte, 70000)), "v=1", now),
	} {
		_, err := srv.WriteShard(context.Background(), &rpc.WriteShardRequest{
			ShardId: shardID, Database: db, RetentionPolicy: policy, Points: [][]byte{good, p},
		})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("point %s: %v", name, err)
		}
	}
	for _, req := range []*rpc.WriteShardRequest{
		{Database: db, RetentionPolicy: policy}, {ShardId: 1, RetentionPolicy: policy},
		{ShardId: 1, Database: "../x", RetentionPolicy: policy},
		{ShardId: 1, Database: db, RetentionPolicy: ".."},
		{ShardId: 1, Database: db, RetentionPolicy: policy, Points: [][]byte{good, good}, Spans: spans(1)},
		{ShardId: 1, Database: db, RetentionPolicy: policy, Points: [][]byte{good, good}, Spans: spans(1, 2)},
		{ShardId: 1, Database: db, RetentionPolicy: policy, Points: [][]byte{good}, Spans: spans(1<<32-1, 2)},
	} {
		if _, err := srv.WriteShard(context.Background(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", req, err)
		}
	}
	if n := s.ShardN(); n != 0 {
		t.Errorf("%d shards were created", n)
	}
}

func TestErrorsOfTheStoreAreData(t *testing.T) {
	s := mustStore(t)
	srv := serverOf(t, s)
	req := &rpc.WriteShardRequest{
		ShardId: shardID, Database: db, RetentionPolicy: policy,
		Points: [][]byte{rawPoint("cpu", "v=1", time.Unix(1, 0))},
	}
	if resp, err := srv.WriteShard(context.Background(), req); err != nil || resp.Error != "" {
		t.Fatal(resp, err)
	}
	if err := s.SetShardEnabled(shardID, false); err != nil {
		t.Fatal(err)
	}
	resp, err := srv.WriteShard(context.Background(), req)
	if err != nil || resp.Error != "shard is disabled" || resp.Partial || !resp.Temporary {
		t.Errorf("%v, %v", resp, err)
	}
}

func FuzzDecodePoint(f *testing.F) {
	f.Add(rawPoint(`cpu,a=b\,c`, `v=1,s="x",i=2i,b=true`, time.Unix(1, 0)))
	f.Add(rawPoint("cpu,a", `v="`, time.Unix(1, 0)))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodePoint(b)
		if err != nil {
			return
		}
		// What the engine does with a point must not panic.
		p.Tags()
		p.Name()
		if _, err := p.Fields(); err != nil {
			t.Skip()
		}
	})
}

// A write that arrives again, at once or late, undoes nothing that came after it.
func TestWritesThatComeLateUndoNothing(t *testing.T) {
	t.Parallel()
	s := mustStore(t)
	srv := serverOf(t, s)
	for _, m := range []struct {
		name    string
		version uint64
		hinted  bool
		value   string
		floor   uint64 // of the sender, told before
		code    codes.Code
		behind  bool
		want    string
	}{
		{"a write", 10, false, "1", 5, codes.OK, false, "[1]"},
		{"the same again", 10, false, "1", 5, codes.OK, false, "[1]"},
		{"a later one", 12, false, "2", 5, codes.OK, false, "[2]"},
		{"the first after that", 10, false, "1", 5, codes.OK, true, "[2]"},
		{"one out of hinted handoff that is older", 11, true, "3", 5, codes.OK, false, "[2]"},
		{"the first when its sender has given it up", 10, false, "1", 12, codes.Canceled, false, "[2]"},
		{"the same when nothing is known of it any more", 10, true, "1", 13, codes.Canceled, false, "[2]"},
		{"of a node without versions", 0, false, "4", 13, codes.OK, false, "[4]"},
	} {
		srv.writer.Told(Said{Node: 1, Floor: m.floor})
		r := &rpc.WriteShardRequest{
			ShardId: shardID, Database: db, RetentionPolicy: policy, Sender: 1, SenderNode: 1,
			Version: m.version, Hinted: m.hinted,
			Points: [][]byte{rawPoint("cpu", "v="+m.value, time.Unix(1, 0))},
		}
		if m.hinted {
			r.Version, r.Spans = 0, []*rpc.VersionSpan{{Version: m.version, Points: 1}}
		}
		resp, err := srv.WriteShard(t.Context(), r)
		if status.Code(err) != m.code || resp.GetBehind() != m.behind || resp.GetError() != "" {
			t.Errorf("%s: %v, %v", m.name, resp, err)
		}
		if got := fmt.Sprint(values(t, s, "cpu")); got != m.want {
			t.Errorf("%s: the owner has %s, want %s", m.name, got, m.want)
		}
	}
}

// A node that was removed from the cluster, and goes on, does not bring what it kept: what is newer may be forgotten.
// Its writes that other owners send on are taken.
func TestWritesOfANodeThatWasRemovedAreRefused(t *testing.T) {
	t.Parallel()
	s := mustStore(t)
	srv := serverOf(t, s)
	for _, tt := range []struct {
		sender  uint64
		relayed bool
		code    codes.Code
	}{{3, false, codes.FailedPrecondition}, {3, true, codes.OK}, {1, false, codes.OK}, {0, false, codes.OK}} {
		_, err := srv.WriteShard(t.Context(), &rpc.WriteShardRequest{
			ShardId: shardID, Database: db, RetentionPolicy: policy, SenderNode: tt.sender, Relayed: tt.relayed,
			Version: uint64(srv.writer.Order.Clock.Next()), Points: [][]byte{rawPoint("cpu", "v=1", time.Unix(1, 0))},
		})
		if status.Code(err) != tt.code {
			t.Errorf("node %d, relayed %t: %v, want %v", tt.sender, tt.relayed, err, tt.code)
		}
	}
}

// leftOut notes which nodes miss a write.
type leftOut struct {
	replicationtest.NoCopies
	nodes []uint64
}

func (l *leftOut) Missed(node, _ uint64, _ bool) { l.nodes = append(l.nodes, node) }

// A node whose metadata is old sends its writes to those that owned the shard before. They know who does not get them.
func TestOwnerThatTheSenderDoesNotKnowMissesTheWrite(t *testing.T) {
	t.Parallel()
	s := mustStore(t)
	for _, tt := range []struct {
		owners, want []uint64
	}{{[]uint64{1, 2}, []uint64{3}}, {[]uint64{1, 2, 3}, nil}, {nil, nil}} {
		missed := new(leftOut)
		meta := &replicationtest.Meta{Nodes: []cluster.Node{{ID: 1}, {ID: 2}, {ID: 3}}, Owners: []uint64{2, 3}}
		w := newWriter(t, meta, s, nil, 2)
		w.Copies = missed
		_, err := NewServer(s, mustOpen(t, w), zap.NewNop()).WriteShard(t.Context(), &rpc.WriteShardRequest{
			ShardId: shardID, Database: db, RetentionPolicy: policy, SenderNode: 1, Owners: tt.owners,
			Version: uint64(w.Order.Clock.Next()), Points: [][]byte{rawPoint("cpu", "v=1", time.Unix(1, 0))},
		})
		if err != nil || !slices.Equal(missed.nodes, tt.want) {
			t.Errorf("sent to %v: %v; nodes %v miss the write, want %v", tt.owners, err, missed.nodes, tt.want)
		}
	}
}

// An owner that knows that a shard was dropped takes no writes to it, and the sender looks again where the points
// belong.
func TestWriteToADroppedShardIsPlacedAgain(t *testing.T) {
	t.Parallel()
	c := &testCluster{meta: &replicationtest.Meta{}}
	var index atomic.Uint64
	index.Store(3)
	c.pool = &rpc.Pool{Relies: func() rpc.Reliance { return rpc.Reliance{Index: index.Load()} }}
	t.Cleanup(func() { c.pool.Close() })
	store, other := mustStore(t), mustStore(t)
	owned := &replicationtest.Meta{Nodes: []cluster.Node{{ID: 1}, {ID: 2}}}
	owner := mustOpen(t, newWriter(t, owned, other, c.pool, 2))
	owned.Dropped = func(_, at uint64) bool { return at > 0 && at <= 5 }
	c.stores = []*tsdb.Store{store, other}
	c.meta.Nodes = []cluster.Node{{ID: 1}, {ID: 2, TCPAddr: mustServe(t, NewServer(other, owner, zap.NewNop()))}}
	c.meta.Owners = []uint64{2}
	w := c.writer(t)
	refreshed := 0
	c.meta.Update = func() error { refreshed++; return nil }
	points := mustPoints(t, "cpu v=1 1")
	write := func() error { return w.WritePoints(db, policy, models.ConsistencyLevelAll, nil, points) }
	if err := write(); !errors.Is(err, errShardDeleted) || other.Shard(shardID) != nil || refreshed != 1 {
		t.Errorf("%v after looking %d times", err, refreshed)
	}
	c.meta.Update = func() error { index.Store(6); return nil } // now the metadata has a shard that is there
	if err := write(); err != nil || count(t, other, "cpu") != 1 {
		t.Errorf("%v, %d points", err, count(t, other, "cpu"))
	}
	// This node's own copy is no other.
	c.meta.Owners = []uint64{1}
	c.meta.Update, c.meta.Dropped = nil, func(_, at uint64) bool { return at == 1 }
	if err := write(); !errors.Is(err, errShardDeleted) || store.Shard(shardID) != nil {
		t.Errorf("its own: %v", err)
	}
}
