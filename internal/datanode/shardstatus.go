package datanode

import (
	"context"
	"encoding/json"
	"net/http"

	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/entropy"
	"concord/internal/meta/wire"
	"concord/internal/rpc"
	"concord/internal/shardcopy"
)

// serveShardStatus leaves out the databases that the user may not read; it is nil without authentication.
func (n *Node) serveShardStatus(w http.ResponseWriter, r *http.Request, user emeta.User) {
	status, body := http.StatusOK, any(nil)
	if out, err := n.shardStatus(r.Context(), user); err != nil {
		status, body = http.StatusInternalServerError, wire.Error{Error: err.Error()}
	} else {
		body = out
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

// shardStatus tells about this node's copies in the databases that the user may read.
func (n *Node) shardStatus(ctx context.Context, user emeta.User) (*wire.ShardStatus, error) {
	type policy struct{ database, name string }
	owned, ids := map[policy][]uint64{}, []uint64{}
	st := n.Meta.State()
	for _, sh := range st.Shards() {
		if sh.Owned(n.Meta.NodeID()) {
			key := policy{sh.Database, sh.RetentionPolicy}
			owned[key], ids = append(owned[key], sh.ID), append(ids, sh.ID)
		}
	}
	found := n.findings(ctx, ids)
	out := &wire.ShardStatus{Databases: []wire.DatabaseStatus{}}
	for _, db := range st.Data.Databases {
		if !st.MaySee(user, db.Name) {
			continue
		}
		d := wire.DatabaseStatus{Name: db.Name, Policies: []wire.PolicyStatus{}, Former: []wire.FormerPolicy{}}
		for _, rp := range db.RetentionPolicies {
			shards, former, err := n.localShards(owned[policy{db.Name, rp.Name}], found)
			if err != nil {
				return nil, err
			}
			d.Policies = append(d.Policies, wire.PolicyStatus{Name: rp.Name, ReplicaN: rp.ReplicaN, Shards: shards})
			d.Former = append(d.Former, wire.FormerPolicy{Name: rp.Name, ReplicaN: rp.ReplicaN, Shards: former})
		}
		out.Databases = append(out.Databases, d)
	}
	return out, nil
}

// localShards tells about this node's copies of shards, in both forms.
func (n *Node) localShards(ids []uint64, found findings) ([]wire.LocalShard, []wire.FormerShard, error) {
	shards, former := []wire.LocalShard{}, []wire.FormerShard{}
	for _, id := range ids {
		about, err := shardcopy.Describe(n.Store, id)
		if err != nil {
			return nil, nil, err
		}
		shard := wire.LocalShard{ID: id, Size: about.Size, IsHot: about.Hot, State: found.state(about)}
		shards = append(shards, shard)
		if shard.State = about.State; !about.Exists {
			shard.State = "missing"
		}
		former = append(former, wire.FormerShard(shard))
	}
	return shards, former, nil
}

// findings is what is known to be wrong with copies of this node, by shard. All of it is empty while anti-entropy is
// off, but for what the copies lack.
type findings struct {
	differs map[uint64]entropy.Status
	repairs map[uint64]entropy.RepairState // the latest of each shard
	lacking map[uint64]string              // acknowledged writes or deletes
}

func (n *Node) findings(ctx context.Context, owned []uint64) findings {
	f := findings{
		differs: map[uint64]entropy.Status{}, repairs: map[uint64]entropy.RepairState{}, lacking: n.notWhole(ctx, owned...),
	}
	if st, err := n.view.Status(ctx, true); err == nil {
		for _, sh := range st.Shards {
			f.differs[sh.ID] = sh.Status
		}
	}
	if all, err := n.view.Repairs(ctx); err == nil {
		for _, r := range all.Repairs { // those that run come first, then those that wait, then the newest
			if _, later := f.repairs[r.ShardID]; !later {
				f.repairs[r.ShardID] = r.State
			}
		}
	}
	return f
}

// state is the state of a copy in the words of InfluxDB Enterprise.
func (f findings) state(about *rpc.ShardDescription) string {
	lacks := !about.Exists || f.lacking[about.ShardId] != ""
	differs, repair := f.differs[about.ShardId], f.repairs[about.ShardId]
	switch {
	case differs == entropy.Conflict || repair == entropy.Failed:
		return wire.ErrorProcessing
	case lacks && repair == entropy.Running:
		return wire.Restoring
	case lacks:
		return wire.RestorePending
	case differs != "" || repair == entropy.Running || repair == entropy.Waiting:
		return wire.Repairing
	}
	return wire.Healthy
}
