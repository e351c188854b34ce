package datanode

import (
	"errors"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/shardcopy"
)

// sweepAgain is the time after which the sweep tries again to remove what it could not.
const sweepAgain = 10 * time.Second

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
		var again <-chan time.Time
		// A node that was removed from the cluster keeps its files: its shards may be dropped only because it has gone.
		if _, member := now.DataNode(n.Meta.NodeID()); member && now.Data.ClusterID == known.Data.ClusterID {
			if !n.removeDropped(shards, known, now) {
				again = time.After(sweepAgain)
			}
		}
		if again == nil {
			known = now
		} else {
			changed = nil // or many changes would have it try all the time
		}
		select {
		case <-changed: // also when it has changed since now
		case <-again:
		case <-done:
			return
		}
	}
}

func (n *Node) removeDropped(shards *shardcopy.Server, before, now *cluster.State) (all bool) {
	left := now.ShardIDs()
	all = true
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
			n.log.Warn("Cannot remove a shard that was dropped, and tries again", zap.Uint64("db_shard_id", id),
				zap.Duration("after", sweepAgain), zap.Error(err))
			all = false
			continue
		}
		n.log.Info("Removed a shard that was dropped", zap.Uint64("db_shard_id", id))
	}
	return all
}
