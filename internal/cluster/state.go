package cluster

import (
	"cmp"
	"slices"
	"sort"
	"time"

	"github.com/influxdata/influxdb/services/meta"

	"concord/internal/restrict"
)

// Node is a member of the cluster. ID is unique over data and meta nodes and
// never used again.
type Node struct {
	ID       uint64 `json:"id"`
	TCPAddr  string `json:"tcpAddr"`  // host:port; data nodes: 8088, meta nodes: Raft, 8089
	HTTPAddr string `json:"httpAddr"` // host:port; data nodes: 8086, meta nodes: 8091
	Version  string `json:"version"`

	// Identity names the folders of the data node that holds this place: random, made when it joins. It is empty for
	// meta nodes, and for a data node that joined with an earlier version, until that node claims its place.
	Identity string `json:"identity,omitempty"`

	Labels map[string]string `json:"labels,omitempty"` // never changed, only replaced

	// Passive is true for a data node that coordinates writes and queries and never owns a shard.
	Passive bool `json:"passive,omitempty"`

	// Draining is true for a data node that gets no more shards: those that it has are moved to other nodes.
	Draining bool `json:"draining,omitempty"`

	// Awaited is true for a data node of a cluster that was adopted, until its influxd runs as one of this cluster.
	Awaited bool `json:"awaited,omitempty"`
}

// Zone is where the node stands: the copies of a shard go to nodes of different zones where they can. It is empty when
// nobody said it.
func (n Node) Zone() string { return n.Labels["az"] }

// State is everything the meta nodes agree on. Data is the engine's own metadata; shard owners in it are IDs of
// DataNodes. State has many methods: they look things up, or do what several commands do. Each change is a Command.
type State struct {
	Index     uint64 // grows with every change
	MaxNodeID uint64
	DataNodes []Node // sorted by ID
	MetaNodes []Node // sorted by ID
	Roles     []Role // sorted by name; never changed, only replaced
	Data      *meta.Data

	// Grants are what users have besides what Data knows, by name; never changed, only replaced.
	Grants map[string]Grants

	// Fine-grained authorization. The lists are in the order of IDs; never changed, only replaced.
	Restrictions []restrict.Restriction
	FineGrants   []restrict.Grant
	MaxRuleID    uint64 // of both, also of those that are gone

	ContinuousRuns []ContinuousRun // sorted by database and name; never changed, only replaced

	LDAP *LDAP // nil when there was never a configuration

	Merges     []Merge // that have begun, by shard; never changed, only replaced
	OldShardID uint64  // the greatest that the cluster of the awaited data nodes had; 0 for none
}

// Merge is a shard of which a data node that was adopted has a copy that nobody has compared with the others. No copy
// of the shard counts as whole. It is in the state together with the new owner, so that no node knows the owner alone.
// It ends when the node has told all other owners, which remember by themselves from then on (EndMerges).
type Merge struct {
	Shard uint64 `json:"shard"`
	Node  uint64 `json:"node"`
}

// Merging reports whether a merge of a shard has begun and not ended.
func (s *State) Merging(shard uint64) bool {
	_, found := slices.BinarySearchFunc(s.Merges, shard, func(m Merge, shard uint64) int {
		return cmp.Compare(m.Shard, shard)
	})
	return found
}

// beginMerges adds merges of a data node.
func (s *State) beginMerges(node uint64, shards []uint64) {
	if len(shards) == 0 {
		return
	}
	s.Merges = slices.Clone(s.Merges)
	for _, id := range shards {
		s.Merges = append(s.Merges, Merge{Shard: id, Node: node})
	}
	slices.SortFunc(s.Merges, func(a, b Merge) int {
		return cmp.Or(cmp.Compare(a.Shard, b.Shard), cmp.Compare(a.Node, b.Node))
	})
}

// endMerges ends all merges of a data node.
func (s *State) endMerges(node uint64) {
	s.Merges = slices.DeleteFunc(slices.Clone(s.Merges), func(m Merge) bool { return m.Node == node })
}

// DataNode returns the data node with the given ID.
func (s *State) DataNode(id uint64) (Node, bool) { return byID(s.DataNodes, id) }

// DataNodeByAddr returns the data node with the given TCP address.
func (s *State) DataNodeByAddr(tcpAddr string) (Node, bool) {
	for _, n := range s.DataNodes {
		if n.TCPAddr == tcpAddr {
			return n, true
		}
	}
	return Node{}, false
}

// ActiveDataNodes returns the data nodes that may own shards, by ascending ID.
func (s *State) ActiveDataNodes() []Node {
	out := make([]Node, 0, len(s.DataNodes))
	for _, n := range s.DataNodes {
		if !n.Passive {
			out = append(out, n)
		}
	}
	return out
}

// placeable are the data nodes that get new shards, by ascending ID: those that are active and not being drained, or
// all active ones when all are being drained.
func (s *State) placeable() []Node {
	active := s.ActiveDataNodes()
	if staying := slices.DeleteFunc(slices.Clone(active), func(n Node) bool { return n.Draining }); len(staying) > 0 {
		return staying
	}
	return active
}

func byID(nodes []Node, id uint64) (Node, bool) {
	i := sort.Search(len(nodes), func(i int) bool { return nodes[i].ID >= id })
	if i < len(nodes) && nodes[i].ID == id {
		return nodes[i], true
	}
	return Node{}, false
}

// Shard is one shard with all that its place in the metadata says of it.
type Shard struct {
	ID              uint64
	Database        string
	RetentionPolicy string
	ReplicaN        int // desired replicas, as the policy says
	GroupID         uint64
	Start, End      int64    // nanoseconds, [Start, End); a truncated group's End is where it was truncated
	Truncated       bool     // the group was truncated
	GroupEnd        int64    // End before that: it may hold later points from then
	Expires         int64    // nanoseconds; 0 for never
	Owners          []uint64 // node IDs, ascending
}

// Shards lists every shard of groups that are not deleted, by ascending ID.
func (s *State) Shards() []Shard {
	var out []Shard
	s.eachShard(func(db *meta.DatabaseInfo, rp *meta.RetentionPolicyInfo, g *meta.ShardGroupInfo,
		sh *meta.ShardInfo) bool {
		out = append(out, newShard(db, rp, g, sh))
		return true
	})
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out
}

// Live are the shards that have not expired, by ID. There are none in a state that was not loaded yet.
func (s *State) Live(now time.Time) map[uint64]Shard {
	out := make(map[uint64]Shard)
	if s == nil || s.Data == nil {
		return out
	}
	for _, sh := range s.Shards() {
		if sh.Expires == 0 || sh.Expires > now.UnixNano() {
			out[sh.ID] = sh
		}
	}
	return out
}

// Owned reports whether a node is an owner of the shard.
func (s Shard) Owned(node uint64) bool { return slices.Contains(s.Owners, node) }

// Shard returns the shard with the given ID, unless its group is deleted.
func (s *State) Shard(id uint64) (found Shard, ok bool) {
	s.eachShard(func(db *meta.DatabaseInfo, rp *meta.RetentionPolicyInfo, g *meta.ShardGroupInfo,
		sh *meta.ShardInfo) bool {
		if ok = sh.ID == id; ok {
			found = newShard(db, rp, g, sh)
		}
		return !ok
	})
	return found, ok
}

// ShardIDs are all shards of the metadata, those of deleted groups included: data nodes remove these a while later.
func (s *State) ShardIDs() map[uint64]bool {
	out := make(map[uint64]bool)
	for _, db := range s.Data.Databases {
		for _, rp := range db.RetentionPolicies {
			for _, g := range rp.ShardGroups {
				for _, sh := range g.Shards {
					out[sh.ID] = true
				}
			}
		}
	}
	return out
}

// eachShard calls fn for the shards of groups that are not deleted, until it returns false.
func (s *State) eachShard(
	fn func(*meta.DatabaseInfo, *meta.RetentionPolicyInfo, *meta.ShardGroupInfo, *meta.ShardInfo) bool,
) {
	for i := range s.Data.Databases {
		db := &s.Data.Databases[i]
		for j := range db.RetentionPolicies {
			rp := &db.RetentionPolicies[j]
			for k := range rp.ShardGroups {
				g := &rp.ShardGroups[k]
				if g.Deleted() {
					continue
				}
				for l := range g.Shards {
					if !fn(db, rp, g, &g.Shards[l]) {
						return
					}
				}
			}
		}
	}
}

func newShard(db *meta.DatabaseInfo, rp *meta.RetentionPolicyInfo, g *meta.ShardGroupInfo, sh *meta.ShardInfo) Shard {
	end := g.EndTime
	if g.Truncated() {
		end = g.TruncatedAt
	}
	var expires int64
	if rp.Duration > 0 {
		expires = g.EndTime.Add(rp.Duration).UnixNano()
	}
	owners := make([]uint64, len(sh.Owners))
	for i, o := range sh.Owners {
		owners[i] = o.NodeID
	}
	sort.Slice(owners, func(i, j int) bool { return owners[i] < owners[j] })
	return Shard{
		ID: sh.ID, Database: db.Name, RetentionPolicy: rp.Name, ReplicaN: rp.ReplicaN,
		GroupID: g.ID, Start: g.StartTime.UnixNano(), End: end.UnixNano(), Truncated: g.Truncated(),
		GroupEnd: g.EndTime.UnixNano(), Expires: expires, Owners: owners,
	}
}
