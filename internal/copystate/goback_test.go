package copystate

import (
	"sync"
	"sync/atomic"
	"testing"

	"concord/internal/rpc"
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
	w.nodes[2].s.TellOthers(3, shard)
	w.runDeletes(2, 1)
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
		var sent atomic.Bool
		w.change(1, func(n *node) { n.heard = func(m *rpc.CopyStates) { sent.Store(sent.Load() || m.Node == 2) } })
		w.hears(2, 1)
		w.hears(2, 3)
		w.await("it sends meanwhile", sent.Load)
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
	w.runDeletes(2, 1)
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
