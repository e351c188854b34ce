package deletes

import (
	"errors"
	"strings"
	"testing"
	"time"

	itoml "github.com/influxdata/influxdb/toml"
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
	w, hh := c.withHandoff(t, 5*time.Second)
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
	await(t, "the write is queued", func() bool { return hh.Pending(2, shardID) })
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

// A queue that is full of writes takes the delete of their points all the same.
func TestDeleteGoesIntoAFullQueue(t *testing.T) {
	t.Parallel()
	c, g := newGatedCluster(t)
	g.away.Store(true)
	b, err := proto.Marshal(writeRequest(t, "m v=1 1"))
	if err != nil {
		t.Fatal(err)
	}
	w, hh := c.withQueues(t, 5*time.Second, func(cfg *handoff.Config) {
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
