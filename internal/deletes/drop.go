package deletes

import (
	"context"
	"errors"
	"fmt"

	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/rpc"
)

// DeleteDatabase removes a database's shards.
func (d *Service) DeleteDatabase(name string) error {
	return d.drop(&rpc.DropShardsRequest{What: &rpc.DropShardsRequest_Database{Database: name}})
}

// DeleteRetentionPolicy removes a policy's shards.
func (d *Service) DeleteRetentionPolicy(db, name string) error {
	return d.drop(&rpc.DropShardsRequest{What: &rpc.DropShardsRequest_RetentionPolicy{
		RetentionPolicy: &rpc.DropRetentionPolicy{Database: db, Name: name},
	}})
}

// DeleteShard removes all copies of a shard.
func (d *Service) DeleteShard(id uint64) error {
	return d.drop(&rpc.DropShardsRequest{What: &rpc.DropShardsRequest_ShardId{ShardId: id}})
}

// drop removes shards from all nodes that can be reached. Nothing is kept for the others: they see in the metadata that
// the shards are gone, and remove them.
func (d *Service) drop(r *rpc.DropShardsRequest) error {
	// A node that is behind would take shards for later ones, and not know of new nodes.
	if err := d.deps.Meta.CatchUpWithOthers(context.Background()); err != nil {
		return err
	}
	nodes, err := d.others()
	if err != nil {
		return err
	}
	r.NextShard = d.deps.Meta.State().Data.MaxShardID + 1
	ran := d.onAllNodes(nodes, func() error { return d.dropShards(r) }, func(ctx context.Context, p peer) (string, error) {
		resp, err := p.drop(ctx, r)
		return resp.GetError(), err
	})
	old := oldDrop(r)
	d.warn(old.Kind, old.Database, ran.missed)
	return ran.err
}

// dropShards removes this node's copies of shards.
func (d *Service) dropShards(r *rpc.DropShardsRequest) error {
	leave, err := d.enter()
	if err != nil {
		return err
	}
	defer leave()
	switch what := r.What.(type) {
	case *rpc.DropShardsRequest_Database:
		return d.deps.Store.DeleteDatabase(what.Database, r.NextShard)
	case *rpc.DropShardsRequest_RetentionPolicy:
		policy := what.RetentionPolicy
		return d.deps.Store.DeleteRetentionPolicy(policy.GetDatabase(), policy.GetName(), r.NextShard)
	case *rpc.DropShardsRequest_ShardId:
		// Not every node has every shard.
		if err := d.deps.Store.DeleteShard(what.ShardId); !errors.Is(err, tsdb.ErrShardNotFound) {
			return err
		}
		return nil
	}
	return errUnknown
}

// checkDrop refuses an invalid request. The names of the database and the policy become folders.
func checkDrop(r *rpc.DropShardsRequest) error {
	switch what := r.What.(type) {
	case *rpc.DropShardsRequest_Database:
		return checkDatabase(what.Database)
	case *rpc.DropShardsRequest_RetentionPolicy:
		if name := what.RetentionPolicy.GetName(); !emeta.ValidName(name) {
			return fmt.Errorf("invalid retention policy %q", name)
		}
		return checkDatabase(what.RetentionPolicy.GetDatabase())
	case *rpc.DropShardsRequest_ShardId:
		return nil
	}
	return errUnknown
}
