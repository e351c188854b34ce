package copystate

import (
	"sync/atomic"
	"testing"
	"time"
)

// A node that was down takes no writes of clients before it ran the deletes that wait for it: they are older than these
// writes.
func TestWritesWaitForDeletes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.stop(2)
	w.nodes[1].owe(2, allShards)
	w.nodes[1].s.TellOthers(2, allShards)
	w.heardOwed(3, 1, 2, allShards)
	began := time.Now()
	w.start(2)
	var ran atomic.Bool
	admitted := make(chan bool)
	go func() {
		w.nodes[2].s.Admit(t.Context())
		admitted <- ran.Load()
	}()
	w.await("node 2 knows that deletes wait for it", func() bool { return !w.nodes[2].s.facts.Load().deletes.IsZero() })
	ran.Store(true)
	w.nodes[1].owe(2)
	if !<-admitted && time.Since(began) < admitWithin {
		t.Error("a write was admitted before the deletes ran")
	}
	w.await("nothing waits any more", w.nodes[2].s.admits)
}

// Deletes that wait on a node which is away hold up nobody.
func TestWritesDoNotWaitForANodeThatIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.stop(2)
	w.nodes[1].owe(2, allShards)
	w.nodes[1].s.TellOthers(2, allShards)
	w.heardOwed(3, 1, 2, allShards)
	w.stop(1)
	w.start(2)
	s := w.nodes[2].s
	// Another node may tell it of the deletes before it has asked the node that is away.
	w.await("node 2 has asked all", s.ready.Load)
	w.await("node 2 knows that deletes wait for it", func() bool { return !s.facts.Load().deletes.IsZero() })
	if !s.admitted() {
		t.Error("a write waits for a node that is away")
	}
}
