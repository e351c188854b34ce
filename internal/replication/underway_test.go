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
	other := mustOpen(t, c.newWriter(t, 2))
	slow := &slowDelete{NewServer(c.stores[1], other, zap.NewNop()), make(chan struct{})}
	c.meta.nodes[1].TCPAddr = mustServe(t, slow)
	w, _ := c.withHandoff(t, 5*time.Second)
	if err := w.WritePoints(db, policy, all, nil, mustPoints(t, "m v=1 1")); err != nil {
		t.Fatal(err)
	}
	d := NewDeletes(member{c.meta, 1}, c.stores[0], c.pool, w, zap.NewNop())
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
	if err := NewDeletes(member{c.meta, 1}, c.stores[0], c.pool, w, zap.NewNop()).DeleteMeasurement(db, "m"); err == nil {
		t.Fatal("a delete ran that most nodes do not know of")
	}
	release, ok := w.HoldDeletes(shardID, w.DeletesSeen(shardID))
	if !ok {
		t.Fatal("a delete that was refused is still under way")
	}
	release()
	var counts deleteCounts
	now := time.Now()
	counts.begin(db, "lost", announced{at: now})
	if !counts.underWay(db, now) || counts.underWay("other", now) || counts.underWay(db, now.Add(2*deleteTimeout+time.Second)) {
		t.Error("a delete whose sender is lost is under way for another time than it may take")
	}
}

// A node that does not answer when a delete ends, or whose answer to the announcement is lost, hears of the end later.
func TestEndOfADeleteIsToldUntilItIsHeard(t *testing.T) {
	t.Parallel()
	c, g := newGatedCluster(t)
	other := mustOpen(t, c.newWriter(t, 2))
	g.writer = other
	w, _ := c.withHandoff(t, 5*time.Second)
	d := NewDeletes(member{c.meta, 1}, c.stores[0], c.pool, w, zap.NewNop())
	r := &rpc.ExecuteRequest{Kind: rpc.ExecuteRequest_DROP_MEASUREMENT, Database: db, Name: "m", Id: "1"}
	if _, _, err := d.announce(c.meta.DataNodes()[1:], r); err != nil {
		t.Fatal(err)
	}
	free := func() bool {
		release, ok := other.HoldDeletes(shardID, other.DeletesSeen(shardID))
		if ok {
			release()
		}
		return ok
	}
	if free() {
		t.Fatal("the delete is not under way")
	}
	g.away.Store(true)
	d.ended(c.meta.DataNodes()[1:], r)
	if free() {
		t.Fatal("it ended for a node that is away")
	}
	g.away.Store(false)
	await(t, "the end is heard", free)
	other.deletes.begin(db, "1", announced{at: time.Now()})
	if !free() {
		t.Error("an announcement that comes after the end begins it anew")
	}
}

// What a node announced and did not end before it was killed has ended when it is back.
func TestRestartEndsDeletes(t *testing.T) {
	t.Parallel()
	c, g := newGatedCluster(t)
	other := mustOpen(t, c.newWriter(t, 2))
	g.writer = other
	before := c.newWriter(t, 1).started
	other.deletes.begin(db, "killed", announced{time.Now(), 1, before})
	other.deletes.begin(db, "another node's", announced{time.Now(), 3, before})
	c.withHandoff(t, 5*time.Second) // node 1 starts
	left := func() (n int) {
		other.deletes.mu.RLock()
		defer other.deletes.mu.RUnlock()
		return len(other.deletes.began[db])
	}
	await(t, "the delete has ended", func() bool { return left() < 2 })
	if left() != 1 {
		t.Error("a delete of another node has ended, too")
	}
}

// A delete that runs is under way, also one that nobody announced.
func TestRunningDeleteIsUnderWay(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w := c.writer(t)
	if err := w.WritePoints(db, policy, all, nil, mustPoints(t, "m v=1 1")); err != nil {
		t.Fatal(err)
	}
	writing := &w.removals.of(db).writing
	writing.RLock() // by a write, for which the delete waits
	done := make(chan error, 1)
	go func() {
		done <- w.runDelete(c.stores[0], &rpc.ExecuteRequest{Kind: rpc.ExecuteRequest_DROP_MEASUREMENT, Database: db, Name: "m", Id: "1"})
	}()
	held := func() bool {
		release, ok := w.HoldDeletes(shardID, w.DeletesSeen(shardID))
		if ok {
			release()
		}
		return ok
	}
	await(t, "the delete runs", func() bool { return !held() })
	writing.RUnlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !held() {
		t.Error("a delete that has run is under way")
	}
}
