package client

import (
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/cluster"
)

// shards has shard groups, shards and their owners, as the engine and the parts of a data node change them.
type shards struct {
	copied *stateCopy
	sender *sender
}

// CreateShardGroup returns the group that covers t, making it if there is none.
func (s *shards) CreateShardGroup(database, policy string, t time.Time) (*emeta.ShardGroupInfo, error) {
	if g, err := s.copied.State().Data.ShardGroupByTimestamp(database, policy, t); err == nil && g != nil {
		return g, nil
	}
	op := cluster.CreateShardGroup{Database: database, RetentionPolicy: policy, Time: t}
	if err := s.sender.Execute(op); err != nil {
		return nil, err
	}
	g, err := s.copied.State().Data.ShardGroupByTimestamp(database, policy, t)
	if err == nil && g == nil {
		err = emeta.ErrShardGroupNotFound
	}
	return g, err
}

// DeleteShardGroup marks a shard group as deleted.
func (s *shards) DeleteShardGroup(database, policy string, id uint64) error {
	return s.sender.Execute(cluster.DeleteShardGroup{
		Database: database, RetentionPolicy: policy, ID: id, Time: time.Now(),
	})
}

// PrecreateShardGroups creates the successors of groups that end between from and to.
func (s *shards) PrecreateShardGroups(from, to time.Time) error {
	return s.sender.Execute(cluster.PrecreateShardGroups{From: from, To: to})
}

// PruneShardGroups forgets groups that were deleted long ago.
func (s *shards) PruneShardGroups() error {
	return s.sender.Execute(cluster.PruneShardGroups{Before: time.Now().Add(emeta.ShardGroupDeletedExpiration)})
}

// TruncateShardGroups ends the groups that could take points after t.
func (s *shards) TruncateShardGroups(t time.Time) error {
	return s.sender.Execute(cluster.TruncateShardGroups{Time: t})
}

// DropShard forgets a shard on all nodes.
func (s *shards) DropShard(id uint64) error {
	return s.sender.Execute(cluster.DropShard{ID: id, Time: time.Now()})
}

// AddShardOwner records a copy of a shard.
func (s *shards) AddShardOwner(id, nodeID uint64) error {
	return s.sender.Execute(cluster.AddShardOwner{ID: id, NodeID: nodeID})
}

// RemoveShardOwner records that a copy of a shard is gone.
func (s *shards) RemoveShardOwner(id, nodeID uint64) error {
	return s.sender.Execute(cluster.RemoveShardOwner{ID: id, NodeID: nodeID, Time: time.Now()})
}
