package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/influxdata/influxdb/services/meta"
	"google.golang.org/protobuf/encoding/protowire"
)

// AdoptCluster takes over the metadata of a cluster of influxdb-cluster, with the IDs of its data nodes and the owners
// of its shards. Until each of its data nodes runs as one of this cluster (AdoptDataNode), its place is awaited. It can
// be repeated until the first of them does: the metadata is taken over anew then. The result is an AdoptedCluster.
type AdoptCluster struct {
	Cluster []byte `json:"cluster"` // as a meta node of the cluster answers GET /?index=0
}

// AdoptedCluster is the result of AdoptCluster.
type AdoptedCluster struct {
	DataNodes []Node   `json:"data-nodes"`
	Adoption  Adoption `json:"adoption"` // without moves
}

func (o AdoptCluster) apply(s *State) (any, error) {
	old, err := DecodeCluster(o.Cluster)
	if err != nil {
		return nil, err
	}
	return s.adoptCluster(old)
}

// PlanClusterAdoption returns what AdoptCluster would do, and changes nothing.
func (s *State) PlanClusterAdoption(old *OldCluster) (*AdoptedCluster, error) {
	return s.Clone().adoptCluster(old)
}

// OldCluster is the metadata of a cluster of influxdb-cluster.
type OldCluster struct {
	Data      *meta.Data
	DataNodes []Node // by ID
}

// Fields of the metadata of influxdb-cluster. The engine's own decoder leaves the nodes out.
const (
	oldNodes  protowire.Number = 4 // of versions before 0.10
	dataNodes protowire.Number = 10
	metaNodes protowire.Number = 11 // the last one that is known

	maxOldNodes = 1000
)

// DecodeCluster reads the metadata of influxdb-cluster, and refuses what cannot be adopted.
func DecodeCluster(b []byte) (*OldCluster, error) {
	old := &OldCluster{}
	for rest := b; len(rest) > 0; {
		num, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return nil, errors.New("this is not the metadata of influxdb-cluster")
		}
		size := protowire.ConsumeFieldValue(num, kind, rest[n:])
		switch {
		case size < 0:
			return nil, errors.New("this is not the metadata of influxdb-cluster, or a part of it is missing")
		case num > metaNodes:
			return nil, fmt.Errorf("the metadata has a part that influxdb-cluster does not have (field %d): "+
				"InfluxDB Enterprise moves in with a backup and influxd-ctl restore", num)
		case num == oldNodes:
			return nil, errors.New("the metadata is of a version before 0.10")
		case num == dataNodes && kind == protowire.BytesType:
			field, _ := protowire.ConsumeBytes(rest[n:])
			node, err := decodeNode(field)
			if err != nil {
				return nil, err
			}
			old.DataNodes = append(old.DataNodes, node)
		}
		rest = rest[n+size:]
	}
	var err error
	if old.Data, err = DecodeServer(b); err != nil {
		return nil, err
	}
	return old, old.check()
}

// decodeNode reads one data node: its ID, and the addresses of its HTTP and TCP ports.
func decodeNode(b []byte) (n Node, err error) {
	damaged := errors.New("the metadata is damaged: a data node cannot be read")
	for len(b) > 0 {
		num, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return n, damaged
		}
		b = b[size:]
		switch {
		case num == 1 && kind == protowire.VarintType:
			n.ID, size = protowire.ConsumeVarint(b)
		case num == 2 && kind == protowire.BytesType:
			n.HTTPAddr, size = protowire.ConsumeString(b)
		case num == 3 && kind == protowire.BytesType:
			n.TCPAddr, size = protowire.ConsumeString(b)
		default:
			size = protowire.ConsumeFieldValue(num, kind, b)
		}
		if size < 0 {
			return n, damaged
		}
		b = b[size:]
	}
	n.Awaited = true
	return n, nil
}

// check refuses nodes and owners that no cluster has.
func (c *OldCluster) check() error {
	if len(c.DataNodes) == 0 {
		return errors.New("the cluster has no data nodes: take a plain server in with influxd-ctl adopt <tcp-addr>")
	} else if len(c.DataNodes) > maxOldNodes {
		return fmt.Errorf("the cluster has %d data nodes, and %d can be adopted", len(c.DataNodes), maxOldNodes)
	}
	slices.SortFunc(c.DataNodes, byNodeID)
	addrs := make(map[string]bool)
	for i, n := range c.DataNodes {
		if n.ID == 0 || n.ID >= 1<<62 || i > 0 && n.ID == c.DataNodes[i-1].ID || addrs[n.TCPAddr] {
			return fmt.Errorf("the metadata is damaged: data node %d at %q", n.ID, n.TCPAddr)
		}
		addrs[n.TCPAddr] = true
		for _, addr := range []string{n.TCPAddr, n.HTTPAddr} {
			if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
				return fmt.Errorf("data node %d has the address %q, which others cannot reach: "+
					"set it with the old influxd-ctl update-data", n.ID, addr)
			}
		}
	}
	old := State{Data: c.Data}
	for _, sh := range old.Shards() {
		for _, owner := range sh.Owners {
			if _, ok := byID(c.DataNodes, owner); !ok {
				return fmt.Errorf("shard %d of %s.%s belongs to data node %d, which the cluster does not have: "+
					"remove it with the old influxd-ctl remove-shard", sh.ID, sh.Database, sh.RetentionPolicy, owner)
			}
		}
		if len(sh.Owners) == 0 {
			return fmt.Errorf("shard %d of %s.%s belongs to no data node: drop it in the old cluster first",
				sh.ID, sh.Database, sh.RetentionPolicy)
		}
	}
	return nil
}

func (s *State) adoptCluster(old *OldCluster) (*AdoptedCluster, error) {
	if err := s.mayAdoptCluster(); err != nil {
		return nil, err
	}
	out := &AdoptedCluster{DataNodes: old.DataNodes}
	s.DataNodes, s.Merges = slices.Clone(old.DataNodes), nil
	s.MaxNodeID = max(s.MaxNodeID, old.DataNodes[len(old.DataNodes)-1].ID)
	s.renumberMetaNodes()
	s.Data.Databases = nil
	a := &adopter{State: s}
	for i := range old.Data.Databases {
		a.keepOwners(&old.Data.Databases[i])
	}
	s.OldShardID = max(old.Data.MaxShardID, a.lastShard)
	s.Data.MaxShardID = max(s.Data.MaxShardID, s.OldShardID)
	s.Data.MaxShardGroupID = max(s.Data.MaxShardGroupID, old.Data.MaxShardGroupID, a.lastGroup)
	shared := make(map[uint64][]uint64)
	for _, sh := range s.Shards() {
		if len(sh.Owners) > 1 {
			for _, node := range sh.Owners {
				shared[node] = append(shared[node], sh.ID)
			}
		}
	}
	for node, shards := range shared {
		s.beginMerges(node, shards)
	}
	if err := a.users(old.Data.Users); err != nil {
		return nil, err
	}
	out.Adoption = a.out
	return out, nil
}

// mayAdoptCluster returns why a cluster cannot be adopted: only one without data of its own takes over another.
func (s *State) mayAdoptCluster() error {
	for _, n := range s.DataNodes {
		if !n.Awaited {
			return fmt.Errorf("data node %d at %s is a member already: influxdb-cluster is adopted into a new "+
				"cluster, which has meta nodes alone", n.ID, n.TCPAddr)
		}
	}
	if len(s.DataNodes) == 0 && len(s.Data.Databases) > 0 {
		return errors.New("this cluster has databases already: influxdb-cluster is adopted into a new cluster, " +
			"which has meta nodes alone")
	}
	return nil
}

// renumberMetaNodes gives meta nodes other IDs that have one of a data node. Nothing keeps the ID of a meta node.
func (s *State) renumberMetaNodes() {
	for i := range s.MetaNodes {
		s.MaxNodeID = max(s.MaxNodeID, s.MetaNodes[i].ID)
	}
	for i := range s.MetaNodes {
		if _, taken := s.DataNode(s.MetaNodes[i].ID); taken {
			s.MaxNodeID++
			s.MetaNodes[i].ID = s.MaxNodeID
		}
	}
	slices.SortFunc(s.MetaNodes, byNodeID)
}

func byNodeID(a, b Node) int { return cmp.Compare(a.ID, b.ID) }

// keepOwners adds a database of the old cluster with everything as it is there.
func (a *adopter) keepOwners(from *meta.DatabaseInfo) {
	db := meta.DatabaseInfo{
		Name: from.Name, DefaultRetentionPolicy: from.DefaultRetentionPolicy, ContinuousQueries: from.ContinuousQueries,
	}
	for _, q := range from.ContinuousQueries {
		a.out.Queries = append(a.out.Queries, from.Name+"."+q.Name)
	}
	for _, rp := range from.RetentionPolicies {
		rp.ReplicaN = max(1, rp.ReplicaN)
		adopted := AdoptedPolicy{Database: from.Name, Name: rp.Name, Replicas: rp.ReplicaN}
		rp.ShardGroups = slices.DeleteFunc(slices.Clone(rp.ShardGroups), func(g meta.ShardGroupInfo) bool {
			a.lastGroup = max(a.lastGroup, g.ID)
			for _, sh := range g.Shards {
				a.lastShard = max(a.lastShard, sh.ID)
			}
			return g.Deleted()
		})
		for _, g := range rp.ShardGroups {
			adopted.Shards += len(g.Shards)
		}
		db.RetentionPolicies = append(db.RetentionPolicies, rp)
		a.out.Policies = append(a.out.Policies, adopted)
	}
	a.Data.Databases = append(a.Data.Databases, db)
}

// Member is what adopting an awaited data node does.
type Member struct {
	Aside   []ShardMove // on its disk, and of no live shard group: they are set aside
	Shared  []uint64    // shards that other nodes own, too
	Missing []uint64    // shards that are not on its disk: nothing was written to them, or they are lost
}

// PlanMember compares the shards on the disk of an awaited data node with those that it owns.
func (s *State) PlanMember(n Node, onDisk []ShardMove) (*Member, error) {
	out := &Member{}
	live, has := make(map[uint64]Shard), make(map[uint64]bool)
	for _, found := range onDisk {
		has[found.From] = true
	}
	for _, sh := range s.Shards() {
		live[sh.ID] = sh
		if len(sh.Owners) > 1 && sh.Owned(n.ID) {
			out.Shared = append(out.Shared, sh.ID)
		}
		if sh.Owned(n.ID) && !has[sh.ID] {
			out.Missing = append(out.Missing, sh.ID)
		}
	}
	for _, found := range onDisk {
		sh, ok := live[found.From]
		switch {
		case found.From > s.OldShardID: // this cluster may have given the ID to another shard since
			return nil, fmt.Errorf("%s has shard %d of %s.%s, which was made after the metadata was taken over: "+
				"run influxd-ctl adopt -influxdb-cluster again, while none of its data nodes is adopted",
				n.TCPAddr, found.From, found.Database, found.RetentionPolicy)
		case !ok:
			out.Aside = append(out.Aside, found)
		case sh.Database != found.Database || sh.RetentionPolicy != found.RetentionPolicy || !sh.Owned(n.ID):
			return nil, fmt.Errorf("%s has shard %d of %s.%s, which data node %d does not own: "+
				"move its folder away if it is left over, or start the node on its own folders",
				n.TCPAddr, found.From, found.Database, found.RetentionPolicy, n.ID)
		}
	}
	return out, nil
}

// AdoptDataNode gives the place of an awaited data node to the influxd that runs on its folders. The result is the
// Node.
type AdoptDataNode struct {
	ID       uint64 `json:"id"`
	HTTPAddr string `json:"http-addr"`
	Version  string `json:"version"`
	Identity string `json:"identity"`
}

func (o AdoptDataNode) apply(s *State) (any, error) {
	for i := range s.DataNodes {
		n := &s.DataNodes[i]
		if n.ID != o.ID {
			continue
		}
		if !n.Awaited && n.Identity != o.Identity {
			return nil, fmt.Errorf("the place of data node %d belongs to an influxd with other folders: influxd-ctl "+
				"show has its address", o.ID)
		}
		n.HTTPAddr, n.Version, n.Identity, n.Awaited = o.HTTPAddr, o.Version, o.Identity, false
		return *n, nil
	}
	return nil, fmt.Errorf("data node %d does not exist", o.ID)
}
