package replication

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	itoml "github.com/influxdata/influxdb/toml"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"concord/internal/handoff"
	"concord/internal/rpc"
)

// A delete that no store can carry out must not be kept for a node that is away: its queue would stand still.
func TestDeleteThatCannotRunIsNotKept(t *testing.T) {
	t.Parallel()
	c, g := newGatedCluster(t)
	w, hh := c.withHandoff(t, 5*time.Second)
	d := NewDeletes(member{c.meta, 1}, c.stores[0], c.pool, w, zap.NewNop())
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
	w, hh := c.withHandoff(t, 5*time.Second)
	d := NewDeletes(member{c.meta, 1}, c.stores[0], c.pool, w, zap.NewNop())
	if err := w.WritePoints(db, policy, all, nil, mustPoints(t, "m v=1 1")); err != nil {
		t.Fatal(err)
	}
	g.away.Store(true)
	if err := deleteOf(`DELETE FROM m WHERE v > 5`)(d); err == nil || !strings.Contains(err.Error(), "fields not supported in WHERE clause during deletion") {
		t.Fatal(err)
	}
	if err := w.WritePoints(db, policy, one, nil, mustPoints(t, "m v=2 2")); err != nil {
		t.Fatal(err)
	}
	await(t, "the write is queued", func() bool { return hh.Pending(2, shardID) })
	g.away.Store(false)
	hh.Heard(2)
	await(t, "the queue is empty", func() bool { return !hh.Pending(2, shardID) })
	if n := count(t, c.stores[1], "m"); n != 2 {
		t.Errorf("the node has %d points, want 2", n)
	}
	// What reaches a node directly says the same.
	_, err := g.Server.Execute(context.Background(), &rpc.ExecuteRequest{Kind: rpc.ExecuteRequest_DELETE_SERIES, Database: db, Statement: `DELETE FROM m WHERE v > 5`, Id: "x"})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a node answers %v", err)
	}
}

// A queue that is full of writes takes the delete of their points all the same.
func TestDeleteGoesIntoAFullQueue(t *testing.T) {
	t.Parallel()
	c, g := newGatedCluster(t)
	w := c.newWriter(t, 1)
	w.WriteTimeout = 5 * time.Second
	g.away.Store(true)
	cfg := handoff.NewConfig()
	cfg.Dir = t.TempDir()
	cfg.RetryInterval, cfg.RetryMaxInterval = itoml.Duration(5*time.Millisecond), itoml.Duration(20*time.Millisecond)
	reqs, _, err := encode(tsdb.WriteContext{}, shardID, db, policy, mustPoints(t, "m v=1 1"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := proto.Marshal(reqs[0])
	if err != nil {
		t.Fatal(err)
	}
	cfg.MaxSize = itoml.Size(8 + 21 + len(b)) // one entry
	hh := handoff.New(cfg, handoff.Deps{Deliver: w.Deliver, Due: func(uint64, uint64) (bool, bool) { return true, true }, Dropped: func(uint64, uint64) {}})
	w.Handoff = hh
	if err := errors.Join(hh.Open(), w.Open()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close(); hh.Close() })
	if err := hh.Append(2, shardID, handoff.Entry{Kind: handoff.Write, Points: 1, Data: b}); err != nil {
		t.Fatal(err)
	}
	if err := hh.Append(2, shardID, handoff.Entry{Kind: handoff.Write, Points: 1, Data: b}); !errors.Is(err, handoff.ErrQueueFull) {
		t.Fatalf("the queue is not full: %v", err)
	}
	if err := NewDeletes(member{c.meta, 1}, c.stores[0], c.pool, w, zap.NewNop()).DeleteMeasurement(db, "m"); err != nil {
		t.Fatal(err)
	}
	g.away.Store(false)
	hh.Heard(2)
	await(t, "the queue is empty", func() bool { return !hh.Pending(2, shardID) })
	if n := count(t, c.stores[1], "m"); n > 0 {
		t.Errorf("%d deleted points came back", n)
	}
}

// What is queued for a node that is not known at the moment is kept.
func TestHintForAnUnknownNodeIsTriedAgain(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "ok")
	w := c.writer(t)
	reqs, _, err := encode(tsdb.WriteContext{}, shardID, db, policy, mustPoints(t, "m v=1 1"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := proto.Marshal(reqs[0])
	if err != nil {
		t.Fatal(err)
	}
	c.meta.lost = true
	var never *handoff.PermanentError
	hints := []handoff.Entry{{Kind: handoff.Write, Points: 1, Data: b}}
	if n, err := w.Deliver(t.Context(), 2, shardID, hints, nil); n != 0 || err == nil || errors.As(err, &never) {
		t.Errorf("%d sent, %v", n, err)
	}
}
