// Package metanode joins the meta server with what it asks of data nodes for
// operators: the view of anti-entropy, copies of shards, backup and restore.
package metanode

import (
	"concord/internal/entropy/routes"
	"concord/internal/entropy/transport"
	"concord/internal/entropy/view"
	"concord/internal/meta"
)

// Prepare adds to a meta node, before it opens, what needs data nodes.
func Prepare(s *meta.Server) {
	s.ShardRepair = routes.NewHandler(&view.View{State: s.State, Transport: transport.New(s.Pool())}, meta.UserOf)
	s.Losses = shards{s}.losses
	shards{s}.routes()
	newBackups(s).routes()
}
