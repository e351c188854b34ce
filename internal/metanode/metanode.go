// Package metanode joins the meta server with the view of anti-entropy over
// all data nodes, which operators reach through it.
package metanode

import (
	"concord/internal/entropy"
	"concord/internal/entropy/transport"
	"concord/internal/meta"
)

// Prepare makes a meta node serve /shard-repair by asking the data nodes.
func Prepare(s *meta.Server) {
	s.ShardRepair = entropy.NewHandler(&entropy.View{State: s.State, Transport: transport.New(s.Pool())})
}
