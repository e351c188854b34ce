package copystate

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"concord/internal/cluster"
)

// An owner that takes a restored shard notes who did not. That is known after restarts of both, and when the node that
// noted it is away.
func TestWhatAnOwnerNotedReachesOneThatWasAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.stop(2)
	id := w.addShard(1, 2, 3)
	w.knows(1, id)
	noter := w.nodes[1].s
	if err := noter.NoteLacking([]uint64{2}, id); err != nil {
		t.Fatal(err)
	}
	if err := noter.NoteLacking([]uint64{2, 1}, id); err == nil {
		t.Error("a node notes that its own copy lacks what it has")
	}
	w.stop(1)
	w.start(1)
	w.await("node 3 has heard of it", func() bool {
		s := w.nodes[3].s
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.holders.tables[1].owed[2].has(id)
	})
	w.stop(1)
	w.start(2)
	w.knows(2, id)
	w.await("node 2 is told by node 3 that it lacks the shard", func() bool {
		why := w.unfit(2, id) // node 1 may have been away for long by then
		return strings.Contains(why, "node1:8088") && strings.Contains(why, "keeps writes")
	})
	w.start(1)
	w.await("node 2 has noted it itself", func() bool { return w.nodes[2].s.Lacks(id).Kind == Missed })
	w.stop(1)
	w.stop(2)
	w.start(2)
	if got := w.nodes[2].s.Lacks(id).Kind; got != Missed {
		t.Errorf("after a restart the copy lacks %q", got)
	}
}

// A node that starts with old metadata is told what it lacks of a shard that it does not know yet. The other node
// forgets it then.
func TestWhatACopyLacksIsNotedBeforeItsShardIsKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	var old *cluster.State
	w.change(2, func(*node) { old = w.state })
	w.stop(2)
	id := w.addShard(1, 2)
	w.knows(1, id)
	if err := w.nodes[1].s.NoteLacking([]uint64{2}, id); err != nil {
		t.Fatal(err)
	}
	w.change(2, func(n *node) { n.behind = old })
	w.start(2)
	if !w.nodes[1].s.Noted(t.Context(), []uint64{id}) {
		t.Fatal("node 2 does not take it over")
	}
	w.stop(2)
	w.start(2) // with the old metadata once more
	w.change(2, func(n *node) {
		n.behind = nil
		w.publish(w.state)
	})
	w.knows(2, id)
	if got := w.nodes[2].s.Lacks(id).Kind; got != Missed {
		t.Errorf("the copy lacks %q", got)
	}
}

// A copy that lacks something makes journals remember more. It does so no longer than its shard is there and its node
// owns it, and a node that keeps running forgets it as one that starts does.
func TestWhatACopyLackedIsForgottenWithItsShard(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	dropped, moved, back, other := w.addShard(1, 2), w.addShard(1, 2), w.addShard(1, 2), w.addShard(1, 2)
	w.knows(2, other)
	s := w.nodes[2].s
	for _, id := range []uint64{dropped, moved, back, other} {
		for range 2 { // the second time it was lost meanwhile
			if err := s.Begin(id); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.dropShard(dropped)
	w.await("node 2 has forgotten the dropped shard", func() bool { return s.Lacks(dropped).Kind == "" })
	w.change(2, func(n *node) { n.has[moved], n.has[back] = true, true })
	w.giveShard(moved, 1)
	w.giveShard(back, 1)
	w.knows(2, w.addShard(1, 2))
	if got := s.Lacks(moved).Kind; got != Lost { // who has older metadata may still ask it
		t.Errorf("the copy that is still on the disk of its former owner lacks %q", got)
	}
	if err := s.Copied(back); err != nil { // its node will own it again
		t.Fatal(err)
	}
	w.change(2, func(n *node) { n.has[moved], n.has[back] = false, false })
	w.addShard(1, 2)
	w.await("node 2 has forgotten the shard that it does not own", func() bool { return s.Lacks(moved).Kind == "" })
	if got := s.Lacks(back).Kind; got != Lost {
		t.Errorf("the copy that its node will own again lacks %q", got)
	}
	w.giveShard(back, 2)
	w.dropShard(back)
	if got := s.Lacks(other).Kind; got != Lost {
		t.Errorf("the other copy lacks %q", got)
	}
	w.dropShard(other)
	w.await("nothing lacks anything", func() bool { return s.Lacking() == 0 })
	w.stop(2)
	w.start(2)
	if w.nodes[2].s.Lacking() != 0 {
		t.Error("after a restart a copy lacks something")
	}
}

// breakStore makes a node unable to write copies.db, until repair.
func breakStore(t *testing.T, s *Service) (repair func()) {
	t.Helper()
	broken, err := bbolt.Open(filepath.Join(t.TempDir(), "closed"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := broken.Close(); err != nil {
		t.Fatal(err)
	}
	s.saving.Lock()
	defer s.saving.Unlock()
	file := s.store.db
	s.store.db = broken
	return func() {
		s.saving.Lock()
		defer s.saving.Unlock()
		s.store.db = file
	}
}

// That a copy is whole cannot be stored, or it is not known whether it was. It lacks what it lacked, and that is stored
// once more. Other nodes do not take it for something new.
func TestCopyThatCannotBeNotedAsWholeLacksWhatItLacked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	id := w.addShard(1, 2)
	w.knows(1, id)
	s := w.nodes[1].s
	s.Missed(id, "a write was dropped")
	missed := s.Lacking()
	repair := breakStore(t, s)
	if err := s.Whole(id, s.Lacks(id).Gen); err == nil || s.Lacks(id).Kind != Missed || s.Lacking() != missed {
		t.Errorf("it lacks %+v: %v", s.Lacks(id), err)
	}
	s.saving.Lock()
	if !s.unsaved.has(id) {
		t.Error("what it lacks is not stored once more")
	}
	s.saving.Unlock()
	repair()
	w.stop(1)
	w.start(1)
	if s := w.nodes[1].s; s.Lacks(id).Kind != Missed || s.Lacking() == 0 {
		t.Errorf("after a restart it lacks %+v", s.Lacks(id))
	}
}

// A node cannot write copies.db, because its disk is full. What its copies lack is stored when it can again, or when it
// stops: after a restart it is known.
func TestWhatACopyLacksIsStoredLater(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"later", "when the node stops"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2)
			id := w.addShard(1, 2)
			w.knows(1, id)
			s := w.nodes[1].s
			repair := breakStore(t, s)
			s.Missed(id, "a write was dropped")
			if s.Lacks(id).Kind != Missed {
				t.Error("the copy counts as whole")
			}
			repair()
			if when == "later" {
				w.await("it is stored", func() bool {
					s.saving.Lock()
					defer s.saving.Unlock()
					return len(s.unsaved) == 0
				})
			}
			w.stop(1)
			w.start(1)
			if got := w.nodes[1].s.Lacks(id); got.Kind != Missed || got.Why != "a write was dropped" {
				t.Errorf("after a restart the copy lacks %+v", got)
			}
		})
	}
}

// Of deletes that nobody keeps for a copy, other nodes know. When these have run on it, it lacks what it lacked before.
func TestCopyThatLacksDeletesLacksNoMoreWhenTheyHaveRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	whole, missed, lost, outdated, rolledBack, old := w.addShard(1, 2), w.addShard(1, 2), w.addShard(1, 2),
		w.addShard(1, 2), w.addShard(1, 2), w.addShard(1, 2)
	w.knows(2, old)
	s := w.nodes[2].s
	set := func(id uint64, r record) {
		t.Helper()
		r.Gen = 1
		if err := s.update(func(set func(uint64, record)) { set(id, r) }); err != nil {
			t.Fatal(err)
		}
	}
	const since = 9
	set(missed, record{Lacks: Missed})
	set(lost, record{Lacks: Lost})
	set(outdated, record{Lacks: Outdated})
	set(rolledBack, record{Lacks: Stale, Since: since, After: Outdated})
	set(old, record{Lacks: Stale}) // of a version that knew no other one
	w.stop(2)
	w.start(2)
	s = w.nodes[2].s
	s.Missed(allShards, "its deletes are lost")
	s.Missed(whole, "it lacks a write, too")
	s.Missed(outdated, "it lacks a write, too")
	w.stop(2)
	w.start(2)
	s = w.nodes[2].s
	for _, all := range []bool{true, false} {
		back, stale, at := s.Stale()
		if len(back)+len(stale) != 6 || back[rolledBack] == 0 || back[outdated] == 0 || at != since {
			t.Fatalf("copies that may hold deleted points: %v since %d, and %v", back, at, stale)
		}
		if err := errors.Join(s.CaughtUp(back, true), s.CaughtUp(stale, all)); err != nil {
			t.Fatal(err)
		}
		for id, want := range map[uint64]Kind{
			whole: Missed, missed: Missed, lost: Lost, outdated: Outdated, rolledBack: Outdated, old: Outdated,
		} {
			if !all {
				want = Outdated
			}
			if got := s.Lacks(id); got.Kind != want {
				t.Errorf("all have run: %t; copy %d lacks %+v, want %s", all, id, got, want)
			}
		}
		s.Missed(allShards, "its deletes are lost once more")
		set(rolledBack, record{Lacks: Stale, Since: since, After: Outdated})
	}
}

// A write makes a copy before a node whose disk is new has looked at the metadata: the copy is made anew by repairs.
func TestCopyThatAWriteMadeOnANewDiskIsMadeAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	id := w.addShard(1, 2)
	w.knows(2, id)
	w.change(2, func(n *node) { n.has[id] = true })
	s := w.nodes[2].s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records.byShard[id], s.folders.self = record{Had: true}, self{} // as Begin leaves them on a new disk
	r, _ := s.reviewShard(cluster.Shard{ID: id, Owners: []uint64{1, 2}}, look{now: 7})
	if r.Lacks != Lost || r.Anew != 7 {
		t.Errorf("it is noted as %+v", r)
	}
}

// A node remembers when its copy was made anew, also when the copy is whole: a delete that comes later and is older
// may take points of it that are newer.
func TestCopyThatWasMadeAnewIsRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	id, other := w.addShard(1, 2), w.addShard(1, 2)
	w.knows(2, other)
	s := w.nodes[2].s
	w.nodes[2].clock.Store(6)
	if err := s.Copied(id); err != nil {
		t.Fatal(err)
	}
	w.change(2, func(n *node) { n.has[id] = true })
	if err := s.Whole(id, s.Lacks(id).Gen); err != nil {
		t.Fatal(err)
	}
	w.stop(2)
	w.nodes[2].clock.Store(5) // older than before
	w.start(2)
	s = w.nodes[2].s
	if got := s.LastUnversioned(id); got != 6 || s.Lacks(id).Kind != "" {
		t.Errorf("the copy was made anew at %d, want 6; it lacks %+v", got, s.Lacks(id))
	}
	if got := s.LastUnversioned(other); got != 0 {
		t.Errorf("a copy that was never lost was made anew at %d", got)
	}
	const unknown = 1 << 40
	if err := errors.Join(s.GotUnversioned(id), s.GotUnversioned(unknown)); err != nil || s.LastUnversioned(id) != 6 {
		t.Errorf("%v; an older clock takes back when the copy was made anew: %d", err, s.LastUnversioned(id))
	}
	s.Missed(id, "a write came late")
	told := w.nodes[2].found[id]
	if err := s.GotUnversioned(id); err != nil || w.nodes[2].found[id] != told {
		t.Errorf("%v; a repair that brings points has its copy repaired anew", err)
	}
	if _, known := s.records.byShard[unknown]; known {
		t.Error("a shard that was not looked at has a record: what was lost of it would not be noted any more")
	}
	w.nodes[2].clock.Store(9)
	s.Missed(allShards, "its deletes are lost")
	if err := s.Discarded(other); err != nil || s.LastUnversioned(other) != 9 || s.Lacks(other).Kind != Lost {
		t.Errorf("%v; the copy was made anew at %d, and lacks %+v", err, s.LastUnversioned(other), s.Lacks(other))
	}
}

// A queue of old writes tells of the same copy with each message. That is on disk once, and each time a comparison from
// before says nothing any more, also after a crash.
func TestCopyThatLacksMoreIsNotWrittenAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	id := w.addShard(1, 2)
	w.knows(2, id)
	w.change(2, func(n *node) { n.has[id] = true })
	s := w.nodes[2].s
	saves := func() (n int) {
		t.Helper()
		if err := s.store.db.View(func(tx *bbolt.Tx) error { n = tx.ID(); return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := saves()
	s.Missed(id, "a write came late")
	once, gen := saves(), s.Lacks(id).Gen
	if once == before || s.Lacks(id).Kind != Missed {
		t.Fatalf("what it lacks is not on disk: %+v", s.Lacks(id))
	}
	told := func() (n int) {
		w.nodes[2].get(func() bool { n = w.nodes[2].found[id]; return true })
		return n
	}
	first := told()
	gens := []uint64{gen}
	for range 3 {
		s.Missed(id, "another write came late")
		gens = append(gens, s.Lacks(id).Gen)
	}
	if saves() != once {
		t.Errorf("%d more saves for a copy that lacks writes already", saves()-once)
	}
	s.tick()
	s.tick()
	if n := told() - first; n < 1 || n > 2 { // once with a tick, of which one may have come in between
		t.Errorf("it was told %d times for three more late writes", n)
	}
	for _, restarted := range []bool{false, true} {
		if restarted {
			w.stop(2)
			w.start(2)
			s = w.nodes[2].s
		}
		now := s.Lacks(id).Gen
		for i, gen := range gens {
			if !restarted && i == len(gens)-1 {
				break
			}
			if err := s.Whole(id, gen); err != nil || s.Lacks(id).Kind != Missed || gen == now {
				t.Errorf("restarted %v: comparison %d makes the copy whole: %v", restarted, i, err)
			}
		}
	}
	if err := s.Whole(id, s.Lacks(id).Gen); err != nil || s.Lacks(id).Kind != "" {
		t.Errorf("it lacks %+v after it was compared: %v", s.Lacks(id), err)
	}
	s.Missed(id, "a write came late")
	if s.Lacks(id).Kind != Missed {
		t.Error("a copy that was whole again does not lack what it misses then")
	}
}

// An owner that compared a copy may tell its node late that it is whole. Meanwhile the copy was removed, or made of
// another owner's: what was found whole is not there any more.
func TestComparisonWithACopyFromBeforeSaysNothingOfTheOneThatIsThere(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		lacks  func(s *Service, id uint64)
		change func(s *Service, id uint64) error
		want   Kind
	}{
		"removed":          {func(s *Service, _ uint64) { s.Missed(allShards, "its deletes are lost") }, (*Service).Discarded, Lost},
		"made of another":  {func(s *Service, id uint64) { s.Missed(id, "it lost a write") }, (*Service).Copied, Missed},
		"removed and made": {func(s *Service, _ uint64) { s.Missed(allShards, "its deletes are lost") }, discardAndCopy, Lost},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2)
			id := w.addShard(1, 2)
			w.knows(2, id)
			w.change(2, func(n *node) { n.has[id] = true })
			s := w.nodes[2].s
			tc.lacks(s, id)
			compared := s.Lacks(id).Gen
			if err := errors.Join(tc.change(s, id), s.Whole(id, compared)); err != nil || s.Lacks(id).Kind != tc.want {
				t.Errorf("%v; the copy lacks %+v, want %q", err, s.Lacks(id), tc.want)
			}
			if err := s.Whole(id, s.Lacks(id).Gen); err != nil || s.Lacks(id).Kind != "" {
				t.Errorf("%v; it was compared since, and lacks %+v", err, s.Lacks(id))
			}
		})
	}
}

func discardAndCopy(s *Service, id uint64) error { return errors.Join(s.Discarded(id), s.Copied(id)) }

// What Lacking says changes when a copy that was whole misses something, and not when one misses more and more.
func TestLackingChangesWhenAWholeCopyMissesSomething(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	id, other := w.addShard(1, 2), w.addShard(1, 2)
	w.knows(2, other)
	w.change(2, func(n *node) { n.has[id], n.has[other] = true, true })
	s := w.nodes[2].s
	if got := s.Lacking(); got != 0 {
		t.Errorf("whole copies lack something: %d", got)
	}
	s.Missed(id, "it lost a write")
	first := s.Lacking()
	s.Missed(id, "it lost another write")
	if more := s.Lacking(); first == 0 || more != first {
		t.Errorf("it says %d, and %d after the same copy missed more", first, more)
	}
	s.Missed(other, "it lost a write")
	if second := s.Lacking(); second == first {
		t.Errorf("it says %d also after another copy missed something", second)
	}
}
