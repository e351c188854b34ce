package copystate

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/rpc"
)

// Server answers the other data nodes.
type Server struct {
	rpc.UnimplementedCopyStateServer
	*Service
}

// forwardTimeout bounds how long a node waits for those that it passes a table on to.
const forwardTimeout = 600 * time.Millisecond

// Exchange takes over what another node knows, and answers with what this node knows.
func (s Server) Exchange(ctx context.Context, m *rpc.CopyStates) (*rpc.CopyStates, error) {
	if s.meta.NodeID() == 0 {
		return nil, status.Error(codes.FailedPrecondition, "this data node is in no cluster")
	}
	if _, ok := s.meta.State().DataNode(m.Node); !ok || m.Node == s.meta.NodeID() {
		return nil, status.Errorf(codes.FailedPrecondition,
			"data node %d is not one of this cluster that this node knows", m.Node)
	}
	if !s.holdsPlace(m) {
		return nil, status.Errorf(codes.FailedPrecondition, "another node has the place of data node %d now", m.Node)
	}
	if s.answersElsewhere(ctx, m) {
		return nil, status.Errorf(codes.FailedPrecondition,
			"another process answers at the address of data node %d", m.Node)
	}
	s.mu.Lock()
	if p := s.peers[m.Node]; p != nil {
		p.down = false // this node alone cannot reach it, and is to notice when it goes down
		if s.wake != nil {
			s.wake(p.node)
		}
	}
	before := new(rpc.CopyStates)
	s.remind(before, m.Node)
	s.mu.Unlock()
	if err := s.learn(m); err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	s.passOn(ctx, m.Node)
	reply := s.newMessage(m.Node)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refreshOwn()
	s.fill(reply, m.Node, decodeVersions(m.Have), true)
	reply.You, reply.YourFormer, reply.YourMark = before.You, before.YourFormer, before.YourMark
	if p := s.peers[m.Node]; p != nil && p.away() {
		notify(p.kick) // it is back
	}
	return reply, nil
}

// answersElsewhere reports whether the address of a message's sender leads to another process than the one that sent
// it: two processes have copies of the same folders. A node that was restarted is asked again first.
func (s Server) answersElsewhere(ctx context.Context, m *rpc.CopyStates) bool {
	s.mu.Lock()
	p := s.peers[m.Node]
	if p == nil || m.Process == 0 || p.process == 0 || p.process == m.Process {
		s.mu.Unlock()
		return false
	}
	attempt := p.begun + 1
	notify(p.kick)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	other := false
	s.await(ctx, func() bool {
		if p.ended < attempt {
			return false
		}
		other = p.process != 0 && p.process != m.Process
		return true
	})
	return other
}

// passOn tells nodes at once what waits for them on a node that may not reach them itself.
func (s Server) passOn(ctx context.Context, holder uint64) {
	s.mu.Lock()
	t := s.holders.tables[holder]
	attempt := make(map[*peer]uint64)
	for node := range t.owed {
		p := s.peers[node]
		if p == nil || node == holder || p.away() && !p.refused || !t.version.newer(p.have[holder]) {
			continue
		}
		attempt[p] = p.begun + 1 // also of one that was down: it may be up again
		notify(p.kick)
	}
	s.mu.Unlock()
	if len(attempt) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	s.await(ctx, func() bool {
		for p, n := range attempt {
			if t.version.newer(p.have[holder]) && (p.ended < n || p.reached) {
				return false
			}
		}
		return true
	})
}
