package datanode

import (
	"encoding/json"
	"net/http"
	"slices"

	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/cluster"
	"concord/internal/shardcopy"
)

// shardStatus is the answer of GET /shard-status: this node's copies by policy.
type shardStatus struct {
	Databases []databaseStatus `json:"databases"`
}

type databaseStatus struct {
	Name     string         `json:"name"`
	Policies []policyStatus `json:"retention-policies"`
}

type policyStatus struct {
	Name     string       `json:"name"`
	ReplicaN int          `json:"replication-factor"`
	Shards   []copyStatus `json:"shards"`
}

type copyStatus struct {
	ID    uint64 `json:"id,string"`
	Size  int64  `json:"size,string"` // bytes on disk
	IsHot bool   `json:"is_hot"`
	State string `json:"state"` // hot, cold or missing
}

// serveShardStatus leaves out the databases that the user may not read; it is nil without authentication.
func (n *Node) serveShardStatus(w http.ResponseWriter, _ *http.Request, user emeta.User) {
	out := shardStatus{Databases: []databaseStatus{}}
	status, body := http.StatusOK, any(&out)
	owned := map[[2]string][]uint64{} // by database and policy
	for _, sh := range n.Meta.State().Shards() {
		if slices.Contains(sh.Owners, n.Meta.NodeID()) {
			owned[[2]string{sh.Database, sh.RetentionPolicy}] = append(owned[[2]string{sh.Database, sh.RetentionPolicy}], sh.ID)
		}
	}
	for _, db := range n.Meta.State().Data.Databases {
		if !cluster.MayRead(user, db.Name) {
			continue
		}
		d := databaseStatus{Name: db.Name, Policies: []policyStatus{}}
		for _, rp := range db.RetentionPolicies {
			p := policyStatus{Name: rp.Name, ReplicaN: rp.ReplicaN, Shards: []copyStatus{}}
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
				p.Shards = append(p.Shards, copyStatus{id, about.Size, about.Hot, state})
			}
			d.Policies = append(d.Policies, p)
		}
		out.Databases = append(out.Databases, d)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}
