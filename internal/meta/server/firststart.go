package server

import (
	"context"

	"concord/internal/firststart"
)

// FirstStart is what this node does without a cluster: it joins the one that the meta nodes at the addresses in join
// are in, or begins it.
func (m *MetaMembers) FirstStart(join []string) firststart.Meta {
	s := m.server
	return firststart.Meta{
		Join: join, Addr: s.httpAddr, Ask: s.peers.Ask, Log: s.log,
		ClusterID: func() uint64 { return s.State().Data.ClusterID },
		Begin: func(ctx context.Context) error {
			_, err := m.AddMeta(ctx, s.httpAddr)
			return err
		},
	}
}
