package copystate

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"concord/internal/rpc"
)

// imageOf stops a node, copies its folders, and starts it again.
func (w *world) imageOf(id uint64) string {
	w.t.Helper()
	w.stop(id)
	image := w.t.TempDir()
	mustCopy(w.t, w.nodes[id].dir, image)
	w.start(id)
	return image
}

// restore starts a node on a copy of an image.
func (w *world) restore(id uint64, image string) {
	w.t.Helper()
	w.stop(id)
	w.nodes[id].dir = w.t.TempDir()
	mustCopy(w.t, image, w.nodes[id].dir)
	w.start(id)
}

// heardOf waits until node 1 knows the folder that a node has now, and its mark.
func (w *world) heardOf(id uint64) {
	w.t.Helper()
	s := w.nodes[id].s
	s.mu.Lock()
	self := s.folders.self
	s.mu.Unlock()
	w.await("node 1 has heard of the folder", func() bool {
		of := w.nodes[1].s
		of.mu.Lock()
		defer of.mu.Unlock()
		return of.holders.tables[id].folder == self.Folder && of.holders.marks[id] >= self.Mark
	})
}

// runDeletes runs some deletes on a node. Node 1 hears of them.
func (w *world) runDeletes(id uint64, count int) {
	w.t.Helper()
	for range count {
		if err := w.nodes[id].s.Mark(); err != nil {
			w.t.Fatal(err)
		}
	}
	w.heardOf(id)
}

// compares waits until a node has compared its folders with what all others remember, and they have heard of them.
func (w *world) compares(id uint64) {
	w.t.Helper()
	s := w.nodes[id].s
	w.await("the node is ready", s.Ready)
	for range 3 {
		s.ask(w.t.Context())
	}
	w.heardOf(id)
}

// A new node in the place of another one has not gone back, although the others remember a later start.
func TestANewNodeInThePlaceOfAnotherOneHasNotGoneBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	id := w.addShard(1, 2)
	w.knows(2, id)
	w.heardOf(2)
	w.stop(2)
	w.nodes[2].dir = t.TempDir()
	w.start(2)
	s := w.nodes[2].s
	w.compares(2)
	if w.foldersOf(2).wentBack || s.Lacks(id).Kind != Lost {
		t.Errorf("it is taken for older than it was; its copy is %+v", s.Lacks(id))
	}
}

// snapshotOf copies the folders of a node while it runs.
func (w *world) snapshotOf(id uint64) string {
	w.t.Helper()
	n, image := w.nodes[id], w.t.TempDir()
	mustCopy(w.t, filepath.Join(n.dir, "data"), filepath.Join(image, "data"))
	if err := n.s.store.db.View(func(tx *bbolt.Tx) error {
		return tx.CopyFile(filepath.Join(image, "copies.db"), 0o600)
	}); err != nil {
		w.t.Fatal(err)
	}
	return image
}

// A snapshot is noticed that lacks only a delete, when a node heard from its answer that the delete is on the disk.
func TestSnapshotFromBeforeADeleteThatANodeHeardOfIsNoticed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	id := w.addShard(1, 2)
	w.knows(2, id)
	w.compares(2)
	w.heardOf(2)
	image := w.snapshotOf(2)
	w.setCut(1, 2, true)
	s, other := w.nodes[2].s, w.nodes[1].s
	if err := s.Mark(); err != nil { // the delete ran
		t.Fatal(err)
	}
	mark, heard := s.DiskMark(), other.HeardMark(2)
	other.Hear(nil)
	other.Hear(&rpc.DiskMark{Node: 2, Folder: mark.Folder, Start: mark.Start + 1, Mark: mark.Mark})
	other.Hear(&rpc.DiskMark{Node: 2, Folder: "another", Start: mark.Start, Mark: mark.Mark})
	if got := other.HeardMark(2); got != heard {
		t.Fatalf("a mark of another folder or start counts: %d, want %d", got, heard)
	}
	other.Hear(mark)
	if got := other.HeardMark(2); got != mark.Mark || got == heard {
		t.Fatalf("it has heard of mark %d, want %d", got, mark.Mark)
	}
	w.setCut(1, 2, false)
	w.restore(2, image)
	w.await("node 2 finds out", func() bool { return w.nodes[2].s.Lacks(id).Kind == Stale })
}

// A snapshot is noticed that was made while the node ran, and reached nobody.
func TestSnapshotOfANodeThatReachedNobodyIsNoticed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	id := w.addShard(1, 2)
	w.knows(2, id)
	w.heardOf(2)
	w.stop(2)
	w.setCut(1, 2, true)
	w.start(2)
	image := w.snapshotOf(2)
	w.setCut(1, 2, false)
	w.runDeletes(2, 20)
	w.restore(2, image)
	w.await("node 2 finds out", func() bool { return w.nodes[2].s.Lacks(id).Kind == Stale })
}

// The others remember which names the folders had: an image is noticed each time that a node is set back to it.
func TestSecondRollbackToAnImageIsNoticed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	id := w.addShard(1, 2)
	w.knows(2, id)
	w.heardOf(2)
	image := w.imageOf(2)
	for range 3 {
		w.runDeletes(2, 1)
		w.restore(2, image)
		w.await("node 2 finds out", func() bool { return w.nodes[2].s.Lacks(id).Kind == Stale && w.nodes[2].s.Ready() })
		w.heardOf(2)
	}
	if n := len(w.foldersOf(2).self.Former); n != 3 {
		t.Errorf("it remembers %d earlier names of its folders, want 3", n)
	}
}

func TestImageFromBeforeADiskWasReplacedIsNoticed(t *testing.T) {
	t.Parallel()
	for name, replaced := range map[string]string{"the data folder": "data", "copies.db": "copies.db"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2)
			id := w.addShard(1, 2)
			w.knows(2, id)
			w.heardOf(2)
			image := w.imageOf(2)
			w.stop(2)
			if err := os.RemoveAll(filepath.Join(w.nodes[2].dir, replaced)); err != nil {
				t.Fatal(err)
			}
			w.start(2)
			s := w.nodes[2].s
			w.compares(2)
			if w.foldersOf(2).wentBack || s.Lacks(id).Kind != Lost {
				t.Errorf("it is taken for older than it was; its copy is %+v", s.Lacks(id))
			}
			w.restore(2, image)
			w.await("node 2 finds out", func() bool { return w.nodes[2].s.Lacks(id).Kind == Stale })
		})
	}
}

// A data folder of an earlier time may hold deleted points. One without a name may be a current one: what it has is
// right.
func TestDataFolderOfAnEarlierTimeIsOutdated(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		earlier bool
		want    Kind
	}{{true, Outdated}, {false, Lost}} {
		w := newWorld(t, 2)
		id := w.addShard(1, 2)
		w.knows(2, id)
		data := filepath.Join(w.nodes[2].dir, "data")
		w.stop(2)
		earlier, err := os.ReadFile(filepath.Join(data, folderFile))
		if err == nil {
			err = os.Remove(filepath.Join(data, folderFile))
		}
		if err != nil {
			t.Fatal(err)
		}
		if test.earlier {
			w.start(2) // on a new disk
			w.stop(2)
			if err := os.WriteFile(filepath.Join(data, folderFile), earlier, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		w.nodes[2].has[id] = true
		w.start(2)
		if lack := w.nodes[2].s.Lacks(id); lack.Kind != test.want {
			t.Errorf("the copy is %+v, want %s", lack, test.want)
		}
	}
}

// A node that began on an image, and reached nobody, counts starts and marks until they are greater than those that the
// others remember. It was still set back.
func TestRollbackIsNoticedAfterALongTimeAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	id := w.addShard(1, 2)
	w.knows(2, id)
	image := w.imageOf(2)
	w.stop(2)
	w.start(2)
	w.heardOf(2)
	w.setCut(1, 2, true)
	w.restore(2, image)
	for range 3 {
		w.stop(2)
		w.start(2)
	}
	for range 5 {
		if err := w.nodes[2].s.Mark(); err != nil {
			t.Fatal(err)
		}
	}
	w.stop(2)
	w.start(2)
	w.setCut(1, 2, false)
	w.await("node 2 finds out", func() bool { return w.nodes[2].s.Lacks(id).Kind == Stale })
}

// Where nobody answers, nobody can say that the folders went back. A repair must not take the copies for right, and the
// deletes that are missing are those since the image, also after another start.
func TestNodeIsNotReadyBeforeEnoughOthersHaveAnswered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4)
	id := w.addShard(1, 2)
	w.knows(2, id)
	image := w.imageOf(2)
	w.runDeletes(2, 5)
	for _, other := range []uint64{1, 3, 4} {
		w.setCut(2, other, true)
	}
	w.restore(2, image)
	s := w.nodes[2].s
	w.await("all were asked", s.ready.Load)
	if s.Ready() {
		t.Error("it is ready, and none has answered")
	}
	w.stop(2)
	w.nodes[2].began = beganAt + 100 // the clock went on
	w.start(2)
	w.setCut(2, 4, false)
	s = w.nodes[2].s
	w.await("one has answered", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.peers[4].known
	})
	said := func() (times int) {
		w.nodes[2].get(func() bool { times = w.nodes[2].ready; return true })
		return times
	}
	before := said()
	if s.Ready() {
		t.Error("it is ready, and one of three has answered")
	}
	w.setCut(2, 1, false)
	w.await("it is ready", s.Ready)
	w.await("that is said", func() bool { return said() == before+1 })
	if _, _, since := s.Stale(); s.Lacks(id).Kind != Stale || since != beganAt {
		t.Errorf("the copy is %+v, and lacks deletes since %d, want %d", s.Lacks(id), since, beganAt)
	}
	w.await("what it had reached is forgotten", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.folders.self.Reached == 0
	})
}

// What a node had lost for others when an image of it was made, it told them since.
func TestRolledBackNodeDoesNotTellAgainWhatItHadLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	id := w.addShard(1, 2)
	w.knows(1, id)
	w.knows(2, id)
	w.heardOf(2)
	w.setCut(1, 2, true)
	w.nodes[2].s.Lose(1, id)
	image := w.imageOf(2)
	if err := w.nodes[2].s.Mark(); err != nil {
		t.Fatal(err)
	}
	w.setCut(1, 2, false)
	first := w.nodes[1].s
	w.await("node 1 is told", func() bool { return first.Lacks(id).Kind == Missed })
	if err := first.Whole(id, first.Lacks(id).Gen); err != nil { // it is repaired
		t.Fatal(err)
	}
	w.await("node 1 has heard that node 2 keeps nothing", func() bool {
		first.mu.Lock()
		defer first.mu.Unlock()
		return len(first.holders.tables[2].owed) == 0
	})
	w.heardOf(2)
	w.await("node 3 has heard of the mark", func() bool {
		return w.nodes[3].s.HeardMark(2) >= w.nodes[2].s.Marked()
	})
	w.restore(2, image)
	w.await("node 2 finds out", func() bool { return w.nodes[2].s.Lacks(id).Kind == Stale && w.nodes[2].s.Ready() })
	w.heardOf(2)
	if why := first.Lacks(id).Why; why != "" {
		t.Errorf("node 1 is told again that its copy lacks something: %q", why)
	}
}

func TestHowManyNodesMustAnswer(t *testing.T) {
	t.Parallel()
	answered, silent, down := &peer{known: true}, &peer{}, &peer{refused: true}
	for name, test := range map[string]struct {
		peers        []*peer
		since        time.Duration
		enough, half bool
	}{
		"it is alone":                    {nil, 0, true, true},
		"the other one answered":         {[]*peer{answered}, 0, true, true},
		"the other one is silent":        {[]*peer{silent}, 0, false, false},
		"for half a minute":              {[]*peer{silent}, enoughAfter, true, false},
		"all others are down":            {[]*peer{down, down}, 0, true, false},
		"one of two answered":            {[]*peer{answered, silent}, 0, true, true},
		"one answered, and two are down": {[]*peer{answered, down, down}, 0, true, false},
		"one of three answered":          {[]*peer{answered, silent, silent}, 0, false, false},
		"one that answered went down":    {[]*peer{{known: true, refused: true}, silent}, 0, true, true},
	} {
		f := freshness{base: time.Now().Add(-test.since)}
		peers := make(map[uint64]*peer)
		for i, p := range test.peers {
			peers[uint64(i)] = p
		}
		f.hear(peers)
		if f.enough.Load() != test.enough || f.half.Load() != test.half {
			enough, half := f.enough.Load(), f.half.Load()
			t.Errorf("%s: enough %v, half %v; want %v, %v", name, enough, half, test.enough, test.half)
		}
	}
}

// A node that was rolled back knows an earlier start of another one, and hears of its mark before it hears of its
// start. That does not make the other one look rolled back.
func TestRollbackOfOneNodeIsNoneOfAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	id := w.addShard(1, 2)
	w.knows(1, id)
	w.heardOf(2)
	image := w.imageOf(1) // it has a start of node 2 that is over soon
	w.heardOf(2)
	w.stop(2)
	w.start(2)
	for range 5 {
		if err := errors.Join(w.nodes[1].s.Mark(), w.nodes[2].s.Mark()); err != nil {
			t.Fatal(err)
		}
	}
	w.heardOf(2)
	w.await("node 2 has heard of node 1", func() bool {
		s := w.nodes[2].s
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.holders.marks[1] >= w.nodes[1].s.Marked()
	})
	w.mu.Lock()
	w.cut[[2]uint64{1, 2}] = true // node 1 hears of node 2, and cannot answer for itself
	w.mu.Unlock()
	w.restore(1, image)
	w.await("node 1 has heard of node 2", func() bool {
		s := w.nodes[1].s
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.peers[2].ended > 1
	})
	w.setCut(1, 2, false)
	w.await("node 1 finds out", func() bool { return w.nodes[1].s.Lacks(id).Kind == Stale })
	w.heardOf(2)
	if lack := w.nodes[2].s.Lacks(id); w.foldersOf(2).wentBack || lack.Kind == Stale {
		t.Errorf("node 2 is taken for older than it was: %+v", lack)
	}
}

// Another node may hear of a start before it has told what it remembers: in a message of which the answer was lost, or
// from a third node.
func TestRollbackIsNoticedAfterItsStartIsKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	id := w.addShard(1, 2)
	w.knows(2, id)
	w.heardOf(2)
	image, other := w.imageOf(2), w.imageOf(3)
	w.runDeletes(2, 5)
	w.stop(1)
	w.stop(2)
	w.stop(3)
	w.restore(2, image)
	w.restore(3, other)
	w.await("node 2 is ready", w.nodes[2].s.Ready)
	knows := func(id uint64) func() bool {
		return func() bool {
			start := w.foldersOf(2).self.Start
			s := w.nodes[id].s
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.holders.tables[2].start == start
		}
	}
	w.await("node 3 knows its start", knows(3))
	w.setCut(1, 2, true)
	w.start(1)
	w.await("node 1 knows it from node 3", knows(1))
	w.setCut(1, 2, false)
	w.await("node 2 finds out", func() bool { return w.nodes[2].s.Lacks(id).Kind == Stale })
}

// The meta folder has the queues. That it alone goes back, beside an empty data folder, is noticed, too.
func TestRollbackOfTheMetaFolderIsNoticed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	id := w.addShard(1, 2)
	w.knows(2, id)
	w.heardOf(2)
	image := w.imageOf(2)
	w.runDeletes(2, 5)
	if err := os.RemoveAll(filepath.Join(image, "data")); err != nil {
		t.Fatal(err)
	}
	w.nodes[2].owe(1, id)
	w.restore(2, image)
	w.setAside(2)
}

// A node that stops by itself stores what it has heard: others may be set back meanwhile.
func TestMarksAreStoredByANodeThatStops(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.heardOf(2)
	w.runDeletes(2, 5)
	w.stop(2)
	w.stop(1)
	before := w.nodes[1].s.HeardMark(2) // of the node that has stopped
	w.start(1)
	if after := w.nodes[1].s.HeardMark(2); after != before {
		t.Errorf("it remembers mark %d, want %d", after, before)
	}
}

// None of these is a rollback: what the node keeps for others would be given up.
func TestWhatIsNoRollback(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	id := w.addShard(1, 2)
	w.knows(2, id)
	w.heardOf(2)
	dir := w.nodes[2].dir
	data, file := filepath.Join(dir, "data"), filepath.Join(dir, "copies.db")
	is := func(what string) {
		t.Helper()
		s := w.nodes[2].s
		w.compares(2)
		n := w.nodes[2]
		if w.foldersOf(2).wentBack || s.Lacks(id).Kind.Worse(Lost) || n.get(func() bool { return n.gaveUp }) {
			t.Fatalf("%s: it is taken for older than it was; its copy is %+v", what, s.Lacks(id))
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for range maxPast + 8 {
		w.stop(2)
		w.start(2)
	}
	is("many starts")
	w.stop(2)
	must(writeFolder(data, newFolder()))
	w.start(2)
	is("a crash after the data folder was named, and before copies.db was written")
	w.stop(2)
	must(os.Rename(data, data+".away"))
	w.start(2)
	is("the disk of the data is missing")
	w.stop(2)
	must(errors.Join(os.RemoveAll(data), os.Rename(data+".away", data)))
	w.start(2)
	is("it is there again")
	w.stop(2)
	must(os.Remove(file))
	w.start(2)
	is("copies.db was moved away")
	w.asEarlierBuild(2)
	is("an earlier build ran in between")
	leave := func() { // the others do not speak to a node that has left
		t.Helper()
		w.stop(2) // so that no message to it is under way
		w.setCut(1, 2, true)
		w.setCut(3, 2, true)
		w.start(2)
		must(w.nodes[2].s.Forget())
		w.stop(2)
		w.setCut(1, 2, false)
		w.setCut(3, 2, false)
	}
	leave()
	w.nodes[2].dir = t.TempDir()
	w.start(2)
	is("another node has its place")
	leave()
	w.nodes[2].dir = dir
	w.start(2)
	is("it has its place again")
}

// asEarlierBuild starts a node again as if a build had run meanwhile that knows no earlier names and no starts.
func (w *world) asEarlierBuild(id uint64) {
	w.t.Helper()
	w.stop(id)
	db, st, err := openStore(filepath.Join(w.nodes[id].dir, "copies.db"))
	if err != nil {
		w.t.Fatal(err)
	}
	old := st.self
	old.Former, old.Starts, old.Start = nil, nil, nextStart(old.Start)
	if err := errors.Join(db.save(change{self: &old}), db.close()); err != nil {
		w.t.Fatal(err)
	}
	other := w.nodes[1].s
	other.mu.Lock()
	t := other.holders.tables[id]
	t.start, t.former = old.Start, nil
	other.holders.tables[id] = t
	other.mu.Unlock()
	w.start(id)
}
