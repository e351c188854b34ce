package datanode

import (
	"encoding/json"
	"net/http"
	"slices"

	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/meta/wire"
	"concord/internal/shardcopy"
)

// serveShardStatus leaves out the databases that the user may not read; it is nil without authentication.
func (n *Node) serveShardStatus(w http.ResponseWriter, _ *http.Request, user emeta.User) {
	out := wire.ShardStatus{Databases: []wire.DatabaseStatus{}}
	status, body := http.StatusOK, any(&out)
	owned := map[[2]string][]uint64{} // by database and policy
	for _, sh := range n.Meta.State().Shards() {
		if slices.Contains(sh.Owners, n.Meta.NodeID()) {
			owned[[2]string{sh.Database, sh.RetentionPolicy}] = append(
				owned[[2]string{sh.Database, sh.RetentionPolicy}], sh.ID)
		}
	}
	for _, db := range n.Meta.State().Data.Databases {
		if !n.Meta.State().MaySee(user, db.Name) {
			continue
		}
		d := wire.DatabaseStatus{Name: db.Name, Policies: []wire.PolicyStatus{}}
		for _, rp := range db.RetentionPolicies {
			p := wire.PolicyStatus{Name: rp.Name, ReplicaN: rp.ReplicaN, Shards: []wire.LocalShard{}}
			for _, id := range owned[[2]string{db.Name, rp.Name}] {
				about, err := shardcopy.Describe(n.Store, id)
				if err != nil {
					status, body = http.StatusInternalServerError, map[string]string{"error": err.Error()}
					break
				}
				state := about.State
				if !about.Exists {
					state = "missing"
				}
				p.Shards = append(p.Shards, wire.LocalShard{ID: id, Size: about.Size, IsHot: about.Hot, State: state})
			}
			d.Policies = append(d.Policies, p)
		}
		out.Databases = append(out.Databases, d)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}
