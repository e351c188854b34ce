package replication

import (
	"context"
	"testing"
	"time"

	"go.uber.org/zap"

	"concord/internal/rpc"
)

// slowDelete is a node that hears of deletes, and runs them when it is let.
type slowDelete struct {
	*Server
	let chan struct{}
}

func (s *slowDelete) Execute(ctx context.Context, r *rpc.ExecuteRequest) (*rpc.ExecuteResponse, error) {
	if !r.AnnounceOnly {
		select {
		case <-s.let:
		case <-ctx.Done():
		}
	}
	return s.Server.Execute(ctx, r)
}

// A node that has run a delete must not take, by a repair or a copy, what one has that has yet to run it.
func TestNothingIsRepairedWhileADeleteIsUnderWay(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "down")
	c.stores[1] = mustStore(t)
	other := NewWriter(c.meta, c.stores[1], noSubscriber{}, c.pool)
	if err := other.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	slow := &slowDelete{NewServer(c.stores[1], other, zap.NewNop()), make(chan struct{})}
	c.meta.nodes[1].TCPAddr = mustServe(t, slow)
	w, _ := c.withHandoff(t, 5*time.Second)
	if err := w.WritePoints(db, policy, all, nil, mustPoints(t, "m v=1 1")); err != nil {
		t.Fatal(err)
	}
	d := NewDeletes(c.meta, c.stores[0], c.pool, w, zap.NewNop())
	done := make(chan error, 1)
	go func() { done <- d.DeleteMeasurement(db, "m") }()
	await(t, "the first node has run it", func() bool { return count(t, c.stores[0], "m") == 0 })
	for name, at := range map[string]*Writer{"ran": w, "will run": other} {
		seen := at.DeletesSeen(shardID)
		if release, ok := at.HoldDeletes(shardID, seen); ok {
			release()
			t.Errorf("the node that %s it takes points that others have", name)
		}
		if at.DeletesSeen(shardID) == seen {
			t.Errorf("the node that %s it takes copies", name)
		}
	}
	before := w.DeletesSeen(shardID)
	close(slow.let)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if release, ok := w.HoldDeletes(shardID, before); ok {
		release()
		t.Error("what was read during the delete is taken after it")
	}
	for name, at := range map[string]*Writer{"first": w, "second": other} {
		release, ok := at.HoldDeletes(shardID, at.DeletesSeen(shardID))
		if !ok {
			t.Errorf("the %s node takes nothing when the delete has ended", name)
			continue
		}
		release()
	}
}

// A delete that was announced and is not run, or whose sender is lost, holds repairs up for a while only.
func TestDeleteThatIsGivenUpHoldsNothingUp(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "down", "down")
	w, _ := c.withHandoff(t, 5*time.Second)
	if err := NewDeletes(c.meta, c.stores[0], c.pool, w, zap.NewNop()).DeleteMeasurement(db, "m"); err == nil {
		t.Fatal("a delete ran that most nodes do not know of")
	}
	release, ok := w.HoldDeletes(shardID, w.DeletesSeen(shardID))
	if !ok {
		t.Fatal("a delete that was refused is still under way")
	}
	release()
	var counts deleteCounts
	now := time.Now()
	counts.begin(db, "lost", now)
	if !counts.underWay(db, now) || counts.underWay("other", now) || counts.underWay(db, now.Add(2*deleteTimeout+time.Second)) {
		t.Error("a delete whose sender is lost is under way for another time than it may take")
	}
}
