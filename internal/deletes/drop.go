package deletes

import "concord/internal/rpc"

// DeleteDatabase removes a database's shards.
func (d *Service) DeleteDatabase(name string) error {
	return d.drop(&rpc.ExecuteRequest{Kind: rpc.ExecuteRequest_DROP_DATABASE, Database: name})
}

// DeleteRetentionPolicy removes a policy's shards.
func (d *Service) DeleteRetentionPolicy(db, name string) error {
	return d.drop(&rpc.ExecuteRequest{Kind: rpc.ExecuteRequest_DROP_RETENTION_POLICY, Database: db, Name: name})
}

// DeleteShard removes all copies of a shard.
func (d *Service) DeleteShard(id uint64) error {
	return d.drop(&rpc.ExecuteRequest{Kind: rpc.ExecuteRequest_DROP_SHARD, ShardId: id})
}

// drop removes shards from all nodes that are reached. It is no delete: the metadata says that the shards are gone, and a
// node that was away removes them when it hears of that.
func (d *Service) drop(r *rpc.ExecuteRequest) error {
	nodes, err := d.others()
	if err != nil {
		return err
	}
	ran := d.run(nodes, r)
	d.warn(r, ran.missed)
	return ran.err
}
