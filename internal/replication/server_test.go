package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

func rawPoint(key, fields string, t time.Time) []byte {
	tb, _ := t.MarshalBinary()
	b := binary.BigEndian.AppendUint32(nil, uint32(len(key)))
	b = append(b, key...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(fields)))
	return append(append(b, fields...), tb...)
}

func TestMalformedRequestsHaveNoEffect(t *testing.T) {
	s := mustStore(t)
	srv := NewServer(s, nil, nil)
	now := time.Unix(1, 0)
	good := rawPoint("cpu", "v=1", now)
	for name, p := range map[string][]byte{
		"empty": nil, "cut": good[:9], "huge length": {0xff, 0xff, 0xff, 0xff, 1},
		"no field": rawPoint("cpu", "", now), "bare quote": rawPoint("cpu", `v="`, now), "open string": rawPoint("cpu", `v="a`, now),
		"no value": rawPoint("cpu", "v=", now), "no equals": rawPoint("cpu", "v", now), "bad integer": rawPoint("cpu", "v=1x2i", now),
		"no measurement": rawPoint("", "v=1", now), "only tags": rawPoint(",a=b", "v=1", now),
		"out of time": rawPoint("cpu", "v=1", time.Unix(1<<40, 0)), "long key": rawPoint(string(make([]byte, 70000)), "v=1", now),
	} {
		_, err := srv.WriteShard(context.Background(), &rpc.WriteShardRequest{ShardId: shardID, Database: db, RetentionPolicy: policy, Points: [][]byte{good, p}})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("point %s: %v", name, err)
		}
	}
	for _, req := range []*rpc.WriteShardRequest{
		{Database: db, RetentionPolicy: policy}, {ShardId: 1, RetentionPolicy: policy}, {ShardId: 1, Database: "../x", RetentionPolicy: policy},
		{ShardId: 1, Database: db, RetentionPolicy: ".."},
	} {
		if _, err := srv.WriteShard(context.Background(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", req, err)
		}
	}
	for _, req := range []*rpc.ExecuteRequest{
		{Database: db}, {Kind: 99, Database: db}, {Kind: rpc.ExecuteRequest_DROP_DATABASE}, {Kind: rpc.ExecuteRequest_DROP_DATABASE, Database: ".."},
		{Kind: rpc.ExecuteRequest_DROP_MEASUREMENT, Database: db}, {Kind: rpc.ExecuteRequest_DROP_RETENTION_POLICY, Database: db, Name: "../db1"},
		{Kind: rpc.ExecuteRequest_DELETE_SERIES, Database: db, Statement: "DROP DATABASE db0"},
		{Kind: rpc.ExecuteRequest_DELETE_SERIES, Database: db, Statement: "DELETE FROM a; DELETE FROM b"},
		{Kind: rpc.ExecuteRequest_DELETE_SERIES, Database: db, Statement: "DELETE FR"},
	} {
		if _, err := srv.Execute(context.Background(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", req, err)
		}
	}
	if n := s.ShardN(); n != 0 {
		t.Errorf("%d shards were created", n)
	}
}

func TestErrorsOfTheStoreAreData(t *testing.T) {
	s := mustStore(t)
	srv := NewServer(s, nil, nil)
	req := &rpc.WriteShardRequest{ShardId: shardID, Database: db, RetentionPolicy: policy, Points: [][]byte{rawPoint("cpu", "v=1", time.Unix(1, 0))}}
	if resp, err := srv.WriteShard(context.Background(), req); err != nil || resp.Error != "" {
		t.Fatal(resp, err)
	}
	if err := s.SetShardEnabled(shardID, false); err != nil {
		t.Fatal(err)
	}
	resp, err := srv.WriteShard(context.Background(), req)
	if err != nil || resp.Error != "shard is disabled" || resp.Partial || !resp.Retryable {
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
func TestRepeatedWritesAreVoid(t *testing.T) {
	s := mustStore(t)
	srv := NewServer(s, nil, nil)
	at := time.Unix(1, 0)
	for i, m := range []struct {
		name                       string
		message, sequence, settled uint64
		hinted                     bool
		value                      string
		void                       bool
	}{
		{"a write", 1, 10, 10, false, "1", false},
		{"the same at once", 1, 10, 10, false, "1", true},
		{"another with it", 2, 11, 10, false, "2", false},
		{"the first after that", 1, 10, 10, false, "1", true},
		{"a second part", 3, 11, 10, false, "3", false},
		{"one when these have ended", 4, 12, 12, false, "4", false},
		{"the first after that one", 1, 10, 10, false, "1", true},
		{"one that had not come before", 5, 11, 10, false, "5", true},
		{"out of the queue", 6, 20, 20, true, "6", false},
		{"a second batch", 7, 20, 20, true, "7", false},
		{"a direct one behind it", 8, 21, 13, false, "8", false},
		{"the batch again", 7, 20, 20, true, "7", true},
		{"of an older version", 0, 22, 0, false, "9", false},
	} {
		_, err := srv.WriteShard(t.Context(), &rpc.WriteShardRequest{
			ShardId: shardID, Database: db, RetentionPolicy: policy, Sender: 1, Points: [][]byte{rawPoint("cpu", "v="+m.value, at.Add(time.Duration(i)))},
			Message: m.message, Sequence: m.sequence, Settled: m.settled, Hinted: m.hinted,
		})
		if void := status.Code(err) == codes.Canceled; void != m.void || err != nil && !void {
			t.Errorf("%s: %v", m.name, err)
		}
	}
	if n := len(values(t, s, "cpu")); n != 8 {
		t.Errorf("%d points", n)
	}
	kept := 0
	for _, fe := range srv.fences.shards {
		kept += len(fe.seen)
	}
	if kept > 3 {
		t.Errorf("%d messages are remembered", kept)
	}
}

// An owner that knows that a shard was dropped takes no writes to it, and the sender looks again where the points
// belong.
func TestWriteToADroppedShardIsPlacedAgain(t *testing.T) {
	t.Parallel()
	c := &testCluster{meta: &fakeMeta{self: 1}}
	var index atomic.Uint64
	index.Store(3)
	c.pool = &rpc.Pool{Index: index.Load}
	t.Cleanup(func() { c.pool.Close() })
	store, other := mustStore(t), mustStore(t)
	owner := NewWriter(c.meta, other, noSubscriber{}, c.pool)
	dropped := func(_, at uint64) bool { return at > 0 && at <= 5 }
	owner.Deleted = dropped
	c.stores = []*tsdb.Store{store, other}
	c.meta.nodes = []cluster.Node{{ID: 1}, {ID: 2, TCPAddr: mustServe(t, NewServer(other, owner, zap.NewNop()))}}
	c.meta.owners = []uint64{2}
	w := c.writer(t)
	refreshed := 0
	w.Refresh = func() error { refreshed++; return nil }
	points := mustPoints(t, "cpu v=1 1")
	write := func() error { return w.WritePoints(db, policy, models.ConsistencyLevelAll, nil, points) }
	if err := write(); !errors.Is(err, errShardDeleted) || other.Shard(shardID) != nil || refreshed != 1 {
		t.Errorf("%v after looking %d times", err, refreshed)
	}
	w.Refresh = func() error { index.Store(6); return nil } // now the metadata has a shard that is there
	if err := write(); err != nil || count(t, other, "cpu") != 1 {
		t.Errorf("%v, %d points", err, count(t, other, "cpu"))
	}
	// This node's own copy is no other.
	c.meta.owners = []uint64{1}
	w.Refresh, w.Deleted = nil, func(_, at uint64) bool { return at == 1 }
	if err := write(); !errors.Is(err, errShardDeleted) || store.Shard(shardID) != nil {
		t.Errorf("its own: %v", err)
	}
}
