package deletes

import (
	"context"
	"testing"
	"time"

	"concord/internal/rpc"
)

// slowDelete is a node that hears of deletes, and runs them when it is let.
type slowDelete struct {
	server
	let chan struct{}
}

func (s *slowDelete) RunDelete(ctx context.Context, r *rpc.RunDeleteRequest) (*rpc.RunDeleteResponse, error) {
	select {
	case <-s.let:
	case <-ctx.Done():
	}
	return s.server.RunDelete(ctx, r)
}

// A node that has run a delete must not take, by a repair or a copy, what one has that has yet to run it.
func TestNothingIsRepairedWhileADeleteIsUnderWay(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]func(t *testing.T, c *testCluster) *node{
		"with hinted handoff": func(t *testing.T, c *testCluster) *node {
			w, _ := c.withHandoff(t, 30*time.Second)
			return w
		},
		"without hinted handoff": func(t *testing.T, c *testCluster) *node { return c.node(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testNothingIsRepairedWhileADeleteIsUnderWay(t, first)
		})
	}
}

func testNothingIsRepairedWhileADeleteIsUnderWay(t *testing.T, first func(*testing.T, *testCluster) *node) {
	c := newTestCluster(t, "ok", "down")
	c.stores[1] = mustStore(t)
	other := mustOpen(t, c.newNode(t, 2))
	slow := &slowDelete{other.server(), make(chan struct{})}
	c.meta.SetAddr(1, mustServe(t, slow))
	w := first(t, c)
	if err := w.WritePoints(db, policy, all, nil, mustPoints(t, "m v=1 1")); err != nil {
		t.Fatal(err)
	}
	d := w.deletes
	done := make(chan error, 1)
	go func() { done <- d.DeleteMeasurement(db, "m") }()
	await(t, "the first node has run it", func() bool { return count(t, c.stores[0], "m") == 0 })
	for name, at := range map[string]*node{"ran": w, "will run": other} {
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
	for name, at := range map[string]*node{"first": w, "second": other} {
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
	w, _ := c.withHandoff(t, 30*time.Second)
	if err := w.deletes.DeleteMeasurement(db, "m"); err == nil {
		t.Fatal("a delete ran that most nodes do not know of")
	}
	release, ok := w.HoldDeletes(shardID, w.DeletesSeen(shardID))
	if !ok {
		t.Fatal("a delete that was refused is still under way")
	}
	release()
	counts := newDeleteCounts(1)
	now := time.Now()
	counts.begin(db, "lost", announcer{at: now})
	if !counts.underWay(db, now) || counts.underWay("other", now) ||
		counts.underWay(db, now.Add(2*deleteTimeout+time.Second)) {
		t.Error("a delete whose sender is lost is under way for another time than it may take")
	}
}

// A node that does not answer when a delete ends, or whose answer to the announcement is lost, hears of the end later.
func TestEndOfADeleteIsToldUntilItIsHeard(t *testing.T) {
	t.Parallel()
	c, g := newGatedCluster(t)
	other := mustOpen(t, c.newNode(t, 2))
	g.server = other.server()
	w, _ := c.withHandoff(t, 30*time.Second)
	d := w.deletes
	r := &rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: "1"}
	if _, missed := d.announce(c.meta.DataNodes()[1:], r); len(missed) > 0 {
		t.Fatal(missed)
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
	d.announceEnd(c.meta.DataNodes()[1:], r)
	if free() {
		t.Fatal("it ended for a node that is away")
	}
	g.away.Store(false)
	await(t, "the end is heard", free)
	other.counts.begin(db, "1", announcer{at: time.Now()})
	if !free() {
		t.Error("an announcement that comes after the end begins it anew")
	}
}

// What a node announced and did not end before it was killed has ended when it is back, also when its clock was ahead.
func TestRestartEndsDeletes(t *testing.T) {
	t.Parallel()
	c, g := newGatedCluster(t)
	other := mustOpen(t, c.newNode(t, 2))
	g.server = other.server()
	before := start{uint64(time.Now().Add(time.Minute).UnixNano()), c.newNode(t, 1).deletes.process}
	other.counts.begin(db, "killed", announcer{at: time.Now(), node: 1, started: before})
	other.counts.begin(db, "another node's", announcer{at: time.Now(), node: 3, started: before})
	c.withHandoff(t, 30*time.Second) // node 1 starts
	left := func() (n int) {
		other.counts.mu.RLock()
		defer other.counts.mu.RUnlock()
		return len(other.counts.began[db])
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
	w := c.node(t)
	if err := w.WritePoints(db, policy, all, nil, mustPoints(t, "m v=1 1")); err != nil {
		t.Fatal(err)
	}
	endWrite := w.removals.of(db).writing.begin() // the delete waits for it
	done := make(chan error, 1)
	go func() {
		done <- w.deletes.runDelete(&rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: "1"}, false)
	}()
	held := func() bool {
		release, ok := w.HoldDeletes(shardID, w.DeletesSeen(shardID))
		if ok {
			release()
		}
		return ok
	}
	await(t, "the delete runs", func() bool { return !held() })
	endWrite()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !held() {
		t.Error("a delete that has run is under way")
	}
}

// A delete waits for a repair that holds it back for long, which opens a large shard for example. Nobody else waits:
// clients write meanwhile, other nodes are answered, and a repair that would hold the delete back, too, gives way.
func TestOnlyTheDeleteWaitsForARepair(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w := c.node(t)
	if err := w.WritePoints(db, policy, all, nil, mustPoints(t, "m v=1 1")); err != nil {
		t.Fatal(err)
	}
	w.runs(db, "1")() // it has failed before
	release, ok := w.HoldDeletes(shardID, w.DeletesSeen(shardID))
	if !ok {
		t.Fatal("a delete is under way")
	}
	drop := &rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: "1"}
	done := make(chan error, 1)
	go func() { done <- w.deletes.runDelete(drop, false) }()
	await(t, "the delete waits, and no other repair holds it back", func() bool {
		second, ok := w.HoldDeletes(shardID, w.DeletesSeen(shardID))
		if ok {
			second()
		}
		return !ok
	})
	if err := w.WritePoints(db, policy, all, nil, mustPoints(t, "other v=1 1")); err != nil {
		t.Fatal(err)
	}
	w.Keeps()
	select {
	case err := <-done:
		t.Fatalf("the delete ran while it was held back: %v", err)
	default:
	}
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestDeletesSeenChangesWithEachDelete(t *testing.T) {
	t.Parallel()
	c, _ := newGatedCluster(t)
	w, _ := c.withHandoff(t, 30*time.Second)
	d := w.deletes
	seen := w.DeletesSeen(shardID)
	release, ok := w.HoldDeletes(shardID, seen)
	if !ok || seen == 0 {
		t.Fatal("no delete came, and one was seen")
	}
	done := make(chan error, 1)
	go func() { done <- d.DeleteMeasurement(db, "m") }()
	select {
	case err := <-done:
		t.Fatalf("a delete ran while it was held back: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, ok := w.HoldDeletes(shardID, seen); ok || w.DeletesSeen(shardID) == seen {
		t.Error("a delete was not seen")
	}
}

// A read that waits for deletes ends although there are always some: it waits for those that it met.
func TestReadWaitsForTheDeletesThatItMet(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w := c.node(t)
	announce := func(id string) {
		w.announce(&rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: id}, announcer{at: time.Now()})
	}
	announce("1")
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if w.AwaitDeletes(short, shardID) {
		t.Error("it does not wait for a delete that is under way")
	}
	met := w.counts.idsUnderWay(db, time.Now())
	announce("2")
	w.end(db, "1")
	if !w.counts.await(t.Context(), db, met) {
		t.Error("it waits for a delete that it has not met")
	}
	w.end(db, "2")
	if !w.AwaitDeletes(t.Context(), shardID) {
		t.Error("it waits for deletes that have ended")
	}
}
