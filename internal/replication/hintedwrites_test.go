package replication

import (
	"context"
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

// slowShards take a write only when they are told to go on.
type slowShards struct {
	*tsdb.Store
	began chan struct{} // has one entry for each write
	on    chan struct{}
}

func (s *slowShards) WriteToShard(ctx tsdb.WriteContext, id uint64, points []models.Point) error {
	s.began <- struct{}{}
	<-s.on
	return s.Store.WriteToShard(ctx, id, points)
}

// A message out of hinted handoff that comes again while an owner is still writing it is not written twice. It has the
// answer of the first one.
func TestHintThatComesAgainWaitsForTheFirst(t *testing.T) {
	t.Parallel()
	store := mustStore(t)
	if err := store.CreateShard(db, policy, shardID, true); err != nil {
		t.Fatal(err)
	}
	slow := &slowShards{Store: store, began: make(chan struct{}, 10), on: make(chan struct{})}
	deps := newDeps(t, &replicationtest.Meta{Nodes: []cluster.Node{{ID: 1}, {ID: 2}}}, store, nil, 2)
	deps.Shards = slow
	srv := NewServer(store, mustOpen(t, NewWriter(deps)), zap.NewNop())
	send := func(ctx context.Context, value string) error {
		resp, err := srv.WriteShard(ctx, &rpc.WriteShardRequest{
			ShardId: shardID, Database: db, RetentionPolicy: policy, Sender: 1, SenderNode: 1, Hinted: true,
			Spans:  []*rpc.VersionSpan{{Version: 10, Points: 1}},
			Points: [][]byte{rawPoint("cpu", "v="+value, time.Unix(1, 0))},
		})
		if err == nil && resp.Error != "" {
			t.Errorf("%s: %s", value, resp.Error)
		}
		return err
	}
	first, last := make(chan error, 1), make(chan error, 1)
	go func() { first <- send(t.Context(), "1") }()
	<-slow.began
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if err := send(ctx, "1"); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("the same message, while the first is written: %v", err)
		}
		cancel()
	}
	go func() { last <- send(t.Context(), "1") }()
	close(slow.on)
	for _, ended := range []chan error{first, last} {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	// The last one may have come after the first had ended.
	if n := len(slow.began); n > 1 {
		t.Errorf("the message was written %d times", n+1)
	}
	if err := send(t.Context(), "2"); err != nil || len(slow.began) == 0 {
		t.Errorf("another message: %v", err)
	}
}

// lateShards take a write after a while.
type lateShards struct {
	*tsdb.Store
	after time.Duration
}

func (s lateShards) WriteToShard(ctx tsdb.WriteContext, id uint64, points []models.Point) error {
	<-time.After(s.after)
	return s.Store.WriteToShard(ctx, id, points)
}

// A write that takes an owner longer than WriteTimeout each time is delivered nevertheless.
func TestHintThatTakesLongIsWaitedForLonger(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "ok")
	deps := newDeps(t, c.meta, c.stores[1], c.pool, 2)
	deps.Shards = lateShards{c.stores[1], 250 * time.Millisecond}
	c.meta.Nodes[1].TCPAddr = mustServe(t, NewServer(c.stores[1], mustOpen(t, NewWriter(deps)), zap.NewNop()))
	w := c.newWriter(t, 1)
	w.WriteTimeout = 50 * time.Millisecond
	mustOpen(t, w)
	if err := c.stores[1].CreateShard(db, policy, shardID, true); err != nil {
		t.Fatal(err)
	}
	entries, err := w.Entries(shardID, db, policy, 10, mustPoints(t, "cpu v=1 1"))
	if err != nil {
		t.Fatal(err)
	}
	const most = 100
	for tries := 1; ; tries++ {
		n, err := w.DeliverWrites(t.Context(), 2, entries, nothing)
		if err == nil && n == 1 {
			break
		}
		if tries == most {
			t.Fatalf("not delivered after %d attempts: %v", tries, err)
		}
	}
	if n := count(t, c.stores[1], "cpu"); n != 1 {
		t.Errorf("the owner has %d points", n)
	}
	if d := w.patience.of(lane{2, shardID}, time.Second); d != time.Second {
		t.Errorf("after it was delivered, the next message may take %s", d)
	}
}
