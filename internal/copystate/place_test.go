package copystate

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// identify gives the place of a node to an identity.
func (w *world) identify(id uint64, identity string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := *w.state
	next.DataNodes = append([]cluster.Node(nil), w.state.DataNodes...)
	next.DataNodes[id-1].Identity = identity
	w.publish(&next)
}

// stranger sends what another process says with the number of node 2.
func stranger(w *world, m *rpc.CopyStates) error {
	m.Node, m.Starting = 2, true
	_, err := link{w, 2, 1}.Exchange(context.Background(), m)
	return err
}

// The place of a node was given to another one: what its old folders say counts no more, in both directions.
func TestReplacedNodeIsNotListenedTo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.change(2, func(n *node) { n.identity = "old" })
	w.identify(2, "new")
	w.await("node 2 hears that it is not the one", func() bool {
		return w.nodes[2].get(func() bool { return w.nodes[2].checks > 0 })
	})
	s := w.nodes[1].s
	w.await("node 1 does not take its answers", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.peers[2].away()
	})
	if err := stranger(w, &rpc.CopyStates{Identity: "new"}); err != nil {
		t.Errorf("the new node is refused: %v", err)
	}
	if err := stranger(w, &rpc.CopyStates{}); err != nil {
		t.Errorf("a node of an earlier version is refused: %v", err)
	}
}

// Two processes have the folders of node 2. The one to which its address leads is the node.
func TestOtherProcessOfANodeIsNotListenedTo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	s := w.nodes[1].s
	w.await("node 1 has reached node 2", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.peers[2].process == 1
	})
	w.await("the other process is refused", func() bool { // it is answered when node 2 itself answers late
		err := stranger(w, &rpc.CopyStates{Process: 9})
		return status.Code(err) == codes.FailedPrecondition && strings.Contains(err.Error(), "another process")
	})
	// After a restart the address leads to the new process.
	w.change(2, func(n *node) { n.process = 9 })
	if err := stranger(w, &rpc.CopyStates{Process: 9}); err != nil {
		t.Errorf("the node is refused after a restart: %v", err)
	}
}
