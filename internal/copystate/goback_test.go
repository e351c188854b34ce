package copystate

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// imageThatOwesLater makes an image of node 2. Afterwards node 2 keeps a write for node 3's copy of a shard, and all
// know that.
func (w *world) imageThatOwesLater(shard uint64) (image string) {
	w.t.Helper()
	for id := range w.nodes {
		w.knows(id, shard)
	}
	w.heardOf(2)
	image = w.imageOf(2)
	w.nodes[2].owe(3, shard)
	w.nodes[2].s.Announce(3, shard)
	if err := w.nodes[2].s.Mark(); err != nil {
		w.t.Fatal(err)
	}
	w.heardOf(2)
	w.setCut(1, 2, true)
	w.setCut(2, 3, true)
	w.stop(2)
	w.nodes[2].owe(3) // what the image keeps
	return image
}

// hears lets what a node sends arrive at another one.
func (w *world) hears(from, to uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[[2]uint64{from, to}] = false
}

// setAside waits until a node has set aside what it kept.
func (w *world) setAside(id uint64) {
	w.t.Helper()
	n := w.nodes[id]
	w.await("what it kept is set aside", func() bool { return n.get(func() bool { return n.gaveUp }) })
	w.await("it is ready", n.s.Ready)
}

// What a node had kept for another one is lost when it goes back: the copy there is not whole. The node may be heard
// before it has found out, with starts that are later than those that the others remember.
func TestWhatARolledBackNodeKeptIsMissed(t *testing.T) {
	t.Parallel()
	t.Run("it was alone before", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, 3)
		id := w.addShard(1, 3)
		w.restore(2, w.imageThatOwesLater(id))
		for range 3 {
			w.stop(2)
			w.start(2)
		}
		w.await("all were asked", w.nodes[2].s.ready.Load)
		w.hears(2, 1)
		w.hears(2, 3)
		w.setAside(2)
		w.heardOf(2)
		w.await("node 3's copy is not whole", func() bool { return w.nodes[3].s.Lacks(id).Kind == Missed })
	})
	t.Run("its disk is slow", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, 3)
		id, own := w.addShard(1, 3), w.addShard(1, 2)
		w.knows(2, own)
		w.restore(2, w.imageThatOwesLater(id))
		s := w.nodes[2].s
		var once sync.Once
		wait := make(chan struct{})
		written := sync.OnceFunc(func() { close(wait) })
		t.Cleanup(written)
		s.ledger.found = func(uint64) { once.Do(func() { <-wait }) }
		w.hears(1, 2)
		w.await("it finds out", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.folders.wentBack
		})
		w.hears(2, 1)
		w.hears(2, 3)
		s.mu.Lock()
		begun := s.peers[1].begun
		s.mu.Unlock()
		w.await("it sends meanwhile", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.peers[1].begun > begun
		})
		written()
		w.setAside(2)
		w.heardOf(2)
		w.await("node 3's copy is not whole", func() bool { return w.nodes[3].s.Lacks(id).Kind == Missed })
	})
}

// A crash, or a start that fails, does not let the queues of an image be sent.
func TestQueuesOfAnImageAreSetAsideAfterACrash(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	id := w.addShard(1, 2)
	w.knows(2, id)
	w.heardOf(2)
	image := w.imageOf(2)
	if err := w.nodes[2].s.Mark(); err != nil {
		t.Fatal(err)
	}
	w.heardOf(2)
	n := w.nodes[2]
	n.giveUp = make(chan struct{})
	w.restore(2, image)
	s := n.s
	w.await("it has another name", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.folders.wentBack && !s.folders.unnoted
	})
	crashed := w.snapshotOf(2)
	close(n.giveUp)
	w.setAside(2)
	w.stop(2)
	n.giveUp, n.gaveUp = nil, false
	w.restore(2, crashed)
	w.setAside(2)
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
	for range 5 {
		if err := w.nodes[2].s.Mark(); err != nil {
			t.Fatal(err)
		}
	}
	w.heardOf(2)
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

// The meta folder has the queues. It is noticed alone, too.
func TestRollbackOfTheMetaFolderIsNoticed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	id := w.addShard(1, 2)
	w.knows(2, id)
	w.heardOf(2)
	image := w.imageOf(2)
	for range 5 {
		if err := w.nodes[2].s.Mark(); err != nil {
			t.Fatal(err)
		}
	}
	w.heardOf(2)
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
	for range 5 {
		if err := w.nodes[2].s.Mark(); err != nil {
			t.Fatal(err)
		}
	}
	w.heardOf(2)
	before := w.nodes[1].s.HeardMark(2)
	w.stop(2)
	w.stop(1)
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
		w.await("node 2 is ready", s.Ready)
		for range 3 {
			s.ask(t.Context())
		}
		w.heardOf(2)
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
	s := w.nodes[2].s
	must(s.Forget())
	w.stop(2)
	w.nodes[2].dir = t.TempDir()
	w.start(2)
	is("another node has its place")
	must(w.nodes[2].s.Forget())
	w.stop(2)
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
