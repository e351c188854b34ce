package datanode

import (
	"google.golang.org/grpc"

	"concord/internal/copystate"
	"concord/internal/distquery"
	"concord/internal/entropy"
	"concord/internal/entropy/local"
	"concord/internal/entropy/transport"
	"concord/internal/replication"
	"concord/internal/rpc"
	"concord/internal/shardcopy"
)

// registerServices adds what this node does for other nodes. control is nil while anti-entropy is off.
func (n *Node) registerServices(s grpc.ServiceRegistrar, copies *local.Local, control entropy.Control,
	shards *shardcopy.Server) {
	rpc.RegisterMembershipServer(s, &membership{node: n})
	writes := replication.NewServer(n.Store, n.writer, n.log)
	rpc.RegisterReplicationServer(s, replicationServer{writes, n.deletes.OldServer()})
	rpc.RegisterDeletesServer(s, n.deletes.Server())
	queries := distquery.NewServer(n.Store, n.log)
	queries.Whole, queries.Budget = n.whole(), n.queries
	rpc.RegisterQueryServer(s, queries)
	rpc.RegisterCopyStateServer(s, copystate.Server{Service: n.copies})
	transport.NewServer(copies, control).Register(s)
	rpc.RegisterShardsServer(s, shards)
}
