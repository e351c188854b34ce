package deletes

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/order"
	"concord/internal/replication/replicationtest"
	"concord/internal/rpc"
)

// twoNodes are two nodes with logs of deletes that began long ago, and both have the points of m and mem.
func twoNodes(t *testing.T) (c *testCluster, nodes [2]*node) {
	t.Helper()
	c = newTestCluster(t, "ok", "ok")
	for i := range nodes {
		n := c.newNode(t, uint64(i+1))
		log := withLog(t, n)
		log.beginsAt(t, 0)
		if err := log.HasLearned(); err != nil {
			t.Fatal(err)
		}
		mustOpen(t, n)
		c.meta.SetAddr(i, mustServe(t, n.server()))
		nodes[i] = n
	}
	if err := nodes[0].WritePoints(db, policy, all, nil, mustPoints(t, "m v=1 1\nmem v=1 1")); err != nil {
		t.Fatal(err)
	}
	return c, nodes
}

// dropOf is a delete that a third node began for some nodes, and did not end.
func dropOf(n *node, name, id string, nodes ...uint64) *rpc.Delete {
	return &rpc.Delete{
		Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: name, Id: id, Nodes: nodes,
		Version: uint64(n.Order.Clock.Next()),
	}
}

// A delete that ran on one node runs on the other one, too, when the node that began it has crashed, and what is newer
// stays.
func TestDeleteIsFinishedWhenItsCoordinatorCrashed(t *testing.T) {
	t.Parallel()
	c, nodes := twoNodes(t)
	ran, lacks := nodes[0], nodes[1]
	const crashed = 3
	started := uint64(time.Now().UnixNano())
	for _, n := range nodes {
		n.announce(&rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: "half"},
			announcer{at: time.Now(), node: crashed, started: start{at: started - 1}})
	}
	if floor, now := lacks.Memory.Floor(), lacks.Order.Clock.Now(); floor >= now {
		t.Errorf("floor %d is not below the version of the delete, %d or more", floor, now)
	}
	half, others := dropOf(ran, "m", "half", 1, 2), dropOf(ran, "mem", "before it joined", 1)
	for _, r := range []*rpc.Delete{half, others} {
		if err := ran.deletes.runOnce(r, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := ran.WritePoints(db, policy, all, nil, mustPoints(t, "m v=2 2")); err != nil {
		t.Fatal(err)
	}
	if ran, lacking := values(t, c.stores[0], "m"), values(t, c.stores[1], "m"); len(ran) != 1 || len(lacking) != 2 {
		t.Fatalf("the nodes have %v and %v, want one of them to lack the delete", ran, lacking)
	}

	busy := ran.runs(db, "another") // it does not say yet what it ran
	r := &rpc.EndDeletesBeforeRequest{SenderNode: crashed, Started: started}
	if _, err := lacks.server().EndDeletesBefore(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if lacks.Memory.Floor() != 0 {
		t.Error("the node forgets versions before it knows which deletes ran")
	}
	busy()
	await(t, "the delete has run", func() bool { return lacks.deletes.ran("half") })
	if got := values(t, c.stores[1], "m"); len(got) != 1 {
		t.Errorf("%v is left, want the point that is newer than the delete", got)
	}
	if got := count(t, c.stores[1], "mem"); got != 1 || lacks.deletes.ran("before it joined") {
		t.Error("a delete ran that is not for this node")
	}
	await(t, "the node forgets again", func() bool { return lacks.Memory.Floor() > lacks.Order.Clock.Now() })
	ended := func(n *node) bool { return n.counts.hasEnded("half") }
	if !ended(ran) {
		t.Error("the node that ran the delete was not told that its coordinator was started anew")
	}
}

// A node runs the deletes that nobody keeps for it. It does not run those of which it has forgotten what is newer, and
// says that it may lack some.
func TestNodeRunsWhatNobodyKeepsForIt(t *testing.T) {
	t.Parallel()
	c, nodes := twoNodes(t)
	ran, lacks := nodes[0], nodes[1]
	await(t, "it has heard which deletes ran before", func() bool { changes, _ := lacks.halfRun.look(); return changes == 0 })
	runs := func(r *rpc.Delete) {
		t.Helper()
		if err := ran.deletes.runOnce(r, false); err != nil {
			t.Fatal(err)
		}
	}
	away := func(ids ...uint64) func(cluster.Node) bool {
		return func(n cluster.Node) bool { return slices.Contains(ids, n.ID) }
	}
	runMissed := func(wantAll bool, why string) {
		t.Helper()
		if all, err := lacks.deletes.RunMissed(t.Context(), away(3)); err != nil || all != wantAll {
			t.Errorf("%s: it has run all: %t, %v", why, all, err)
		}
	}
	runs(dropOf(ran, "m", "missed", 1, 2))
	runs(dropOf(ran, "mem", "before it joined", 1))
	c.meta.Add(cluster.Node{ID: 3, TCPAddr: replicationtest.Down})
	if _, err := lacks.deletes.RunMissed(t.Context(), away(1, 3)); err == nil {
		t.Error("no other node has to answer")
	}
	runMissed(true, "a delete that it missed")
	if got := values(t, c.stores[1], "m"); len(got) != 0 || !lacks.deletes.ran("missed") {
		t.Errorf("the delete did not run: there is %v", got)
	}
	if got := count(t, c.stores[1], "mem"); got != 1 || lacks.deletes.ran("before it joined") {
		t.Error("a delete ran that is not for this node")
	}

	if _, err := lacks.deletes.RunMissed(t.Context(), away()); err == nil || !strings.Contains(err.Error(), replicationtest.Down) {
		t.Errorf("%v, want an error that names the node that did not answer", err)
	}
	old := dropOf(ran, "mem", "old", 1, 2)
	runs(old)
	j, err := order.OpenJournal(order.JournalConfig{Dir: t.TempDir(), MaxKeys: 1, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	forget(t, j, order.Version(old.Version+1))
	lacks.deletes.deps.Journal = j
	runMissed(false, "a delete that is older than what it has forgotten")
	if lacks.deletes.ran("old") || count(t, c.stores[1], "mem") != 1 {
		t.Error("the delete ran, and may have taken newer points with it")
	}
	lacks.deletes.deps.Ran.beginsAt(t, order.Version(old.Version))
	if err := lacks.deletes.deps.Ran.Learn([]*rpc.Delete{old}); err != nil {
		t.Fatal(err)
	}
	runMissed(true, "a delete from before its disk was new")
	runs(dropOf(ran, "mem", "of a coordinator that does not say for whom"))
	runMissed(false, "a delete of a node of an earlier version")
}

// forget has a journal with MaxKeys 1 forget a write of a version.
func forget(t *testing.T, j *order.Journal, v order.Version) {
	t.Helper()
	for i, lines := range []string{"m v=1 1", "other v=1 1"} {
		_, w, err := j.Begin(shardID, v+order.Version(i), mustPoints(t, lines), false)
		if err != nil {
			t.Fatal(err)
		}
		w.Done()
	}
	if err := j.SetFloor(v + 1); err != nil {
		t.Fatal(err)
	}
}

// A delete whose coordinator was started anew runs no more: other nodes may have asked already what ran.
func TestLateMessageOfACrashedCoordinatorRunsNothing(t *testing.T) {
	t.Parallel()
	c, nodes := twoNodes(t)
	const crashed = 3
	late := dropOf(nodes[1], "m", "late", 1, 2)
	nodes[1].announce(late, announcer{at: time.Now(), node: crashed, started: start{at: 1}})
	srv := nodes[1].server()
	if _, err := srv.EndDeletesBefore(t.Context(), &rpc.EndDeletesBeforeRequest{SenderNode: crashed, Started: 2}); err != nil {
		t.Fatal(err)
	}
	resp, err := srv.RunDelete(t.Context(), &rpc.RunDeleteRequest{Delete: late})
	if err != nil || resp.Error == "" || count(t, c.stores[1], "m") != 1 {
		t.Errorf("%v, %v: the delete ran", resp, err)
	}
	resp, err = srv.RunDelete(t.Context(), &rpc.RunDeleteRequest{Delete: late, Hinted: true})
	if err != nil || resp.Error != "" || count(t, c.stores[1], "m") != 0 {
		t.Errorf("%v, %v: it does not run out of hinted handoff", resp, err)
	}
}

// What is older than what a node has forgotten, or than its log, does not run late: newer points would go.
func TestDeletesFromBeforeWhatIsKnownAreNotFinished(t *testing.T) {
	t.Parallel()
	c, nodes := twoNodes(t)
	ran, lacks := nodes[0], nodes[1]
	for _, r := range []*rpc.Delete{dropOf(ran, "m", "forgotten", 1, 2), dropOf(ran, "mem", "before the log", 1, 2)} {
		if err := ran.deletes.runOnce(r, false); err != nil {
			t.Fatal(err)
		}
		if r.Id == "forgotten" {
			if err := lacks.Order.Journal.Lost(order.Version(r.Version)); err != nil {
				t.Fatal(err)
			}
		} else {
			lacks.deletes.deps.Ran.beginsAt(t, order.Version(r.Version))
		}
	}
	if err := lacks.deletes.finish(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if count(t, c.stores[1], "m") != 1 || count(t, c.stores[1], "mem") != 1 {
		t.Error("a delete ran whose newer points this node does not know")
	}
}

// That versions of newer points are forgotten is known after a restart, too.
func TestDeletesFromBeforeWhatIsKnownAreNotFinishedAfterARestart(t *testing.T) {
	t.Parallel()
	c, nodes := twoNodes(t)
	ran, lacks := nodes[0], nodes[1]
	dir := t.TempDir()
	open := func() *order.Journal {
		t.Helper()
		j, err := order.OpenJournal(order.JournalConfig{Dir: dir, MaxKeys: 1, Log: zap.NewNop()})
		if err == nil {
			err = j.SetBegins(lacks.Order.Clock.Now())
		}
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	j := open()
	r := dropOf(ran, "m", "long ago", 1, 2)
	if err := errors.Join(ran.deletes.runOnce(r, false), j.Close()); err != nil {
		t.Fatal(err)
	}
	j = open()
	if forgot := j.Forgot(); forgot >= order.Version(r.Version) {
		t.Fatalf("version %d is forgotten before the delete %d", forgot, r.Version)
	}
	forget(t, j, order.Version(r.Version+1))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	lacks.deletes.deps.Journal = open()
	t.Cleanup(func() { lacks.deletes.deps.Journal.Close() })
	if err := lacks.deletes.finish(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if count(t, c.stores[1], "m") != 1 {
		t.Error("a delete ran whose newer points this node does not know")
	}
}

// While a node does not say what it ran, deletes may be half run, though not for ever.
func TestNothingIsForgottenWhileANodeDoesNotSayWhatItRan(t *testing.T) {
	t.Parallel()
	c, nodes := twoNodes(t)
	busy := nodes[1].runs(db, "out of hinted handoff")
	if err := nodes[0].deletes.finish(t.Context(), nil); err == nil {
		t.Error("a node says what it ran while a delete runs there")
	}
	busy()
	h := &halfRun{}
	h.possible(time.Now())
	before, _ := h.look()
	h.restarted(7, start{1, 1}, time.Now())
	if h.done(before); !h.holds(time.Now()) {
		t.Error("what came since the nodes were asked is taken for finished")
	}
	now, started := h.look()
	if h.done(now); len(started) != 1 || h.holds(time.Now()) {
		t.Errorf("nodes %v were started; versions are kept although all is finished", started)
	}
	old := &halfRun{}
	old.possible(time.Now().Add(-holdFor - time.Second))
	if old.holds(time.Now()) {
		t.Error("versions are kept for ever")
	}
	counts := newDeleteCounts(1)
	begins := time.Now()
	counts.begin(db, "lost", announcer{at: begins, node: 7})
	if counts.giveUp(begins) || !counts.giveUp(begins.Add(longestDelete+time.Second)) || len(counts.began) != 0 {
		t.Error("a delete that does not end is given up at another time than it should be")
	}
	c.meta.Add(cluster.Node{ID: 3, TCPAddr: "127.0.0.1:1"})
	if err := nodes[0].deletes.finish(t.Context(), nil); err == nil {
		t.Error("all nodes have answered, although one is away")
	}
}

// What a process of a node announced ends when another one says that it runs now. That one says when it was started, by
// a clock that may have been set back in between.
func TestDeletesOfAFormerProcessEnd(t *testing.T) {
	t.Parallel()
	const now, ahead = 1000, 9000
	for name, tt := range map[string]struct {
		announced, started start
		underWay           bool
		after              uint64
	}{
		"it was started before":                {start{now, 1}, start{now + 1, 2}, false, 0},
		"it was started later, by the clock":   {start{ahead, 1}, start{now, 2}, true, ahead},
		"it counts as started after that":      {start{ahead, 1}, start{ahead + 1, 2}, false, 0},
		"it is the same process":               {start{now, 2}, start{ahead, 2}, true, 0},
		"an earlier build, before":             {start{at: now}, start{now + 1, 2}, false, 0},
		"an earlier build, later":              {start{at: ahead}, start{now, 2}, true, ahead},
		"to an earlier build, before":          {start{now, 1}, start{at: now + 1}, false, 0},
		"between earlier builds, at that time": {start{at: now}, start{at: now}, true, now},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := NewMemory(nil)
			m.counts.begin(db, "1", announcer{at: time.Now(), node: 3, started: tt.announced})
			m.counts.begin(db, "2", announcer{at: time.Now(), node: 4, started: start{now, 9}})
			if after := m.endBefore(3, tt.started); after != tt.after {
				t.Errorf("deletes of a process that was started at %d are left, want %d", after, tt.after)
			}
			want := []string{"2"}
			if tt.underWay {
				want = []string{"1", "2"}
			}
			got := m.counts.idsUnderWay(db, time.Now())
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("the deletes %v are under way, want %v", got, want)
			}
		})
	}
}
