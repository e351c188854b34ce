package datanode

import (
	"errors"

	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/shardcopy"
)

// sweep removes this node's copies of shards that were dropped, with their
// database or policy perhaps, while it was away. What the metadata never had is
// left alone: it may be an operator's, from elsewhere.
func (n *Node) sweep(shards *shardcopy.Server, done <-chan struct{}) {
	known := n.Meta.Loaded()
	if _, member := known.DataNode(n.Meta.NodeID()); !member {
		known = n.Meta.State() // what was dropped while it was no member may be dropped only because it had gone
	}
	for {
		changed := n.Meta.Changed()
		now := n.Meta.State()
		// A node that was removed from the cluster keeps its files: its shards may be dropped only because it has gone.
		if _, member := now.DataNode(n.Meta.NodeID()); member && now.Data.ClusterID == known.Data.ClusterID {
			n.removeDropped(shards, known, now)
		}
		if known = now; n.Meta.State() != now {
			continue
		}
		select {
		case <-changed:
		case <-done:
			return
		}
	}
}

func (n *Node) removeDropped(shards *shardcopy.Server, before, now *cluster.State) {
	left := now.ShardIDs()
	for id := range before.ShardIDs() {
		if left[id] {
			continue
		}
		if err := shards.Dropped(id); err != nil {
			n.log.Warn("Cannot remove the gathered files of a shard that was dropped",
				zap.Uint64("db_shard_id", id), zap.Error(err))
		}
		if n.Store.Shard(id) == nil {
			continue
		}
		err := n.drops.DeleteShard(id)
		if err != nil && !errors.Is(err, tsdb.ErrShardNotFound) {
			n.log.Warn("Cannot remove a shard that was dropped", zap.Uint64("db_shard_id", id), zap.Error(err))
			continue
		}
		n.log.Info("Removed a shard that was dropped", zap.Uint64("db_shard_id", id))
	}
}
