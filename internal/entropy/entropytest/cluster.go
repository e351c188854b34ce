package entropytest

import (
	"fmt"
	"sync"
	"time"

	"github.com/influxdata/influxdb/services/meta"

	"concord/internal/cluster"
	"concord/internal/entropy"
)

// Cluster has three data nodes, whose shards are all on all of them.
type Cluster struct {
	ID       uint64 // of the node under test
	mu       sync.Mutex
	state    *cluster.State
	Replicas map[uint64]*Replica
	Controls map[uint64]entropy.Control
}

func (c *Cluster) NodeID() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ID
}

// Leave makes the node under test leave its cluster.
func (c *Cluster) Leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ID = 0
}

func (c *Cluster) State() *cluster.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

func (c *Cluster) Replica(n cluster.Node) entropy.Replica { return c.Replicas[n.ID] }
func (c *Cluster) Control(n cluster.Node) entropy.Control { return c.Controls[n.ID] }

// Week is the length of a shard.
const Week = 7 * 24 * time.Hour

// NewCluster has shard 1, whose time range ended long ago, and shard 2, which is written now.
func NewCluster() *Cluster {
	c := &Cluster{ID: 1, Replicas: make(map[uint64]*Replica), Controls: make(map[uint64]entropy.Control)}
	for id := uint64(1); id <= 3; id++ {
		c.Replicas[id] = &Replica{Shards: make(map[uint64]*Shard)}
		c.Controls[id] = &Control{Know: entropy.NodeStatus{Enabled: true}}
	}
	now := time.Now()
	c.SetGroups(0, now.Add(-3*Week), now.Add(-Week/2))
	return c
}

// SetGroups makes one shard, owned by all, for each start.
func (c *Cluster) SetGroups(duration time.Duration, starts ...time.Time) {
	rp := meta.RetentionPolicyInfo{Name: "autogen", ReplicaN: 3, Duration: duration}
	owners := []meta.ShardOwner{{NodeID: 1}, {NodeID: 2}, {NodeID: 3}}
	for i, s := range starts {
		id := uint64(i + 1)
		rp.ShardGroups = append(rp.ShardGroups, meta.ShardGroupInfo{
			ID: id, StartTime: s, EndTime: s.Add(Week), Shards: []meta.ShardInfo{{ID: id, Owners: owners}},
		})
	}
	st := &cluster.State{Index: 1, Data: &meta.Data{Databases: []meta.DatabaseInfo{
		{Name: "db", RetentionPolicies: []meta.RetentionPolicyInfo{rp}},
	}}}
	for id := uint64(1); id <= 3; id++ {
		st.DataNodes = append(st.DataNodes, cluster.Node{ID: id, TCPAddr: fmt.Sprintf("data%d:8088", id)})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = st
}

// WriteAll writes the same value to shard id of all owners.
func (c *Cluster) WriteAll(id uint64, t int64, v any) {
	for _, r := range c.Replicas {
		r.Write(id, "cpu,host=a", "value", t, v)
	}
}
