package copystate

import (
	"sync"
	"testing"

	"concord/internal/rpc"
)

// A new node in the place of an old one has fewer marks. Who remembers those of the old one over a restart must not
// tell the new one that its folders went back.
func TestMarksOfAReplacedNodeAreForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	id := w.addShard(1, 2)
	w.knows(2, id)
	heard := func(ok func(mark uint64) bool) (mark uint64) {
		w.await("node 1 has heard of the mark", func() bool {
			s := w.nodes[1].s
			s.mu.Lock()
			defer s.mu.Unlock()
			mark = s.holders.marks[2]
			return ok(mark)
		})
		return mark
	}
	for range 50 {
		if err := w.nodes[2].s.Mark(); err != nil {
			t.Fatal(err)
		}
	}
	old := heard(func(mark uint64) bool { return mark >= 50 })
	if err := w.nodes[1].s.store.save(change{marks: map[uint64]*uint64{2: &old}}); err != nil { // as after ten seconds
		t.Fatal(err)
	}
	w.stop(2)
	w.nodes[2].dir = t.TempDir()
	w.start(2)
	heard(func(mark uint64) bool { return mark > 0 && mark < 50 })
	w.stop(1)
	w.start(1)
	w.stop(2)
	w.start(2)
	s := w.nodes[2].s
	w.await("node 1 has the table of node 2", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.peers[1].told == s.own.sequence
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.folders.wentBack {
		t.Error("a node that was restarted takes its folders for older ones")
	}
}

// What a node stores of itself never has an older mark than the others were told: at its next start, its folders would
// seem to have gone back.
func TestMarksAreNotStoredOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	s := w.nodes[1].s
	for i := range 60 {
		var both sync.WaitGroup
		both.Go(func() {
			if err := s.Mark(); err != nil {
				t.Error(err)
			}
		})
		both.Go(func() {
			s.learnSelf(&rpc.CopyStates{You: &rpc.TableVersion{Folder: "another", Start: uint64(i+1) << 32}})
		})
		both.Wait()
		s.saving.Lock()
		stored, err := load(s.store.db)
		marked := s.Marked()
		s.saving.Unlock()
		if err != nil || stored.self.Mark < marked {
			t.Fatalf("the mark is %d, and another one is stored: %v", marked, err)
		}
	}
}

// Copies that may lack writes are not read until they were compared.
func TestMissedAllIsOfSharedCopies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	shared, own := w.addShard(1, 2), w.addShard(2)
	w.knows(2, shared)
	w.await("node 2 is sure", func() bool { return w.unfit(2, shared) == "" && w.unfit(2, own) == "" })
	s := w.nodes[2].s
	if err := s.MissedAll("the reason"); err != nil {
		t.Fatal(err)
	}
	if l := s.Lacks(shared); l.Kind != Missed || w.unfit(2, shared) == "" || w.unfit(2, own) != "" {
		t.Errorf("%+v, %q, %q", l, w.unfit(2, shared), w.unfit(2, own))
	}
}
