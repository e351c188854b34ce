package copystate

import (
	"errors"
	"slices"
	"testing"
	"time"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// What a new process of a node says of the order of writes counts after it is known that the former one is gone, also
// when two messages of it come at once: the floor of the former one would be lost.
func TestFormerProcessIsGoneBeforeTheNewOneIsHeard(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	x := w.nodes[1].s.exchanges
	learn := func() {
		if err := x.learn(&rpc.CopyStates{Node: 2, Process: 7, Version: 1, Starting: true}); err != nil {
			t.Error(err)
		}
	}
	told := make(chan struct{}, 2)
	x.order.Told = func(Said) { told <- struct{}{} }
	second := make(chan struct{})
	x.events.Gone = func(uint64, uint64) {
		go func() { defer close(second); learn() }()
		select {
		case <-told:
			t.Error("a message of the new process counted while the former one was not known to be gone")
		case <-time.After(20 * time.Millisecond):
		}
	}
	learn()
	<-second
	if len(told) != 2 {
		t.Errorf("%d of 2 messages counted", len(told))
	}
}

// A node that hangs is not known to be gone. When it leaves the cluster, it is: what it had under way may have reached
// some owners only.
func TestNodeThatLeftIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.setCut(1, 3, true)
	one := w.nodes[1]
	w.await("node 3 is away", func() bool {
		one.s.mu.Lock()
		defer one.s.mu.Unlock()
		return one.s.peers[3] != nil && one.s.peers[3].away()
	})
	w.mu.Lock()
	one.gone = nil // it was not up when node 1 began
	next := *w.state
	next.DataNodes = slices.DeleteFunc(slices.Clone(next.DataNodes), func(n cluster.Node) bool { return n.ID == 3 })
	w.publish(&next)
	w.mu.Unlock()
	w.await("node 3 is gone", func() bool {
		return one.get(func() bool { return slices.Contains(one.gone, 3) })
	})
}

// A node to which no connection can be made, and that is heard, has not gone down: it may do so later.
func TestNodeThatIsHeardMayGoDownAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	s := w.nodes[1].s
	w.await("the nodes know each other", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.peers[2] != nil && s.peers[2].reached
	})
	s.mu.Lock()
	p := &peer{node: s.peers[2].node}
	refused := errors.New("connection refused")
	_, first := p.end(1, time.Now(), nil, refused)
	_, again := p.end(2, time.Now(), nil, refused)
	known := s.peers[2]
	s.peers[2] = p
	s.mu.Unlock()
	if _, err := (link{w, 2, 1}).Exchange(t.Context(), w.nodes[2].s.newMessage(1)); err != nil {
		t.Error(err)
	}
	s.mu.Lock()
	_, heard := p.end(3, time.Now(), nil, refused)
	s.peers[2] = known
	s.mu.Unlock()
	if !first || again || !heard {
		t.Errorf("the node went down: %t, and again %t, and after it was heard %t", first, again, heard)
	}
}
