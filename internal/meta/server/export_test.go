package server

import (
	"errors"
	"slices"

	"github.com/hashicorp/raft"

	"concord/internal/cluster"
	"concord/internal/meta/wire"
)

// What tests outside of the package see.

// SpreadTimeout is for how long a change waits for a data node.
const SpreadTimeout = spreadTimeout

// Initialised reports whether the node is in a cluster.
func (s *Server) Initialised() bool { return s.st().initialised() }

// CaughtUp returns when a leader has applied all that was committed before it led.
func (s *Server) CaughtUp() error { return s.st().caughtUp() }

// Applied is the state that Raft has led to, without the saved copy.
func (s *Server) Applied() *cluster.State { return s.st().fsm.applied() }

// Snapshot makes Raft take a snapshot.
func (s *Server) Snapshot() error { return s.st().raft.Snapshot().Error() }

// ChangeUser is a POST /user.
func ChangeUser(s *Server, action string, u wire.User) error {
	return (&userRoutes{state: s.State, execute: s.Execute}).changeUser(action, u)
}

// ChangeRole is a POST /role.
func ChangeRole(s *Server, action string, r wire.Role) error {
	return (&userRoutes{state: s.State, execute: s.Execute}).changeRole(action, r)
}

// LabelNode is a POST /node-labels.
func LabelNode(s *Server, node string, set map[string]string, remove []string) (cluster.Node, error) {
	return (&memberRoutes{server: s}).labelNode(node, set, remove)
}

// TakeVote leaves a member as an add-meta does that loses its leader: without a vote.
func (s *Server) TakeVote(raftAddr string) error {
	return s.changeMember(raftAddr, func(r *raft.Raft, id raft.ServerID) raft.Future { return r.DemoteVoter(id, 0, 0) })
}

// RemoveUntold removes a member as a remove-meta does that loses its leader: the member is not told. It can be
// repeated.
func (s *Server) RemoveUntold(n cluster.Node) error {
	err := s.changeMember(n.TCPAddr, func(r *raft.Raft, id raft.ServerID) raft.Future {
		return r.RemoveServer(id, 0, 0)
	})
	if err != nil && !errors.Is(err, errNoMember) {
		return err
	}
	if !slices.ContainsFunc(s.State().MetaNodes, func(known cluster.Node) bool { return known.ID == n.ID }) {
		return nil
	}
	_, err = s.Execute(cluster.DeleteMetaNode{ID: n.ID})
	return err
}

var errNoMember = errors.New("no such member")

func (s *Server) changeMember(raftAddr string, change func(*raft.Raft, raft.ServerID) raft.Future) error {
	r := s.st().raft
	f := r.GetConfiguration()
	if err := f.Error(); err != nil {
		return err
	}
	for _, srv := range f.Configuration().Servers {
		if string(srv.Address) == raftAddr {
			return change(r, srv.ID).Error()
		}
	}
	return errNoMember
}
