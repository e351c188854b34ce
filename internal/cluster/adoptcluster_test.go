package cluster

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/services/meta"
	"google.golang.org/protobuf/encoding/protowire"
)

// oldNode is a data node as the metadata of influxdb-cluster has it.
func oldNode(id uint64, http, tcp string) []byte {
	b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), id)
	b = protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), http)
	return protowire.AppendString(protowire.AppendTag(b, 3, protowire.BytesType), tcp)
}

// oldCluster is the metadata of an influxdb-cluster with data nodes 2 to 4, and one shard in each of four weeks: of
// nodes 2 and 3, of 3 and 4, of all, and of 4 alone.
func oldCluster(t testing.TB, change func(*meta.Data)) []byte {
	t.Helper()
	d := serverWith("plant", 11, 0, 1, 2, 3)
	d.ClusterID = 77
	groups := d.Databases[0].RetentionPolicies[0].ShardGroups
	for i, owners := range [][]uint64{{2, 3}, {3, 4}, {2, 3, 4}, {4}} {
		for _, id := range owners {
			groups[i].Shards[0].Owners = append(groups[i].Shards[0].Owners, meta.ShardOwner{NodeID: id})
		}
	}
	if change != nil {
		change(d)
	}
	b, err := d.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range [][]byte{
		oldNode(4, "c:8086", "c:8088"), oldNode(2, "a:8086", "a:8088"), oldNode(3, "b:8086", "b:8088"),
	} {
		b = protowire.AppendBytes(protowire.AppendTag(b, dataNodes, protowire.BytesType), n)
	}
	return protowire.AppendBytes(protowire.AppendTag(b, metaNodes, protowire.BytesType), oldNode(1, "m:8091", "m:8089"))
}

// newCluster has two meta nodes, one of which has the ID of a data node of the old cluster.
func newCluster() *State {
	s := emptyCluster()
	s.MaxNodeID, s.MetaNodes = 2, []Node{{ID: 1, TCPAddr: "x:8089"}, {ID: 2, TCPAddr: "y:8089"}}
	return s
}

// adopted applies an op as a command that was logged, and returns the state after it, as it is read back.
func adopted(t testing.TB, s *State, op Op) *State {
	t.Helper()
	c, err := NewCommand(op)
	if err != nil {
		t.Fatal(err)
	}
	next, _, err := s.Next(s.Index+1, c)
	if err != nil {
		t.Fatalf("%T: %v", op, err)
	}
	b, err := next.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	read := &State{}
	if err := read.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	return read
}

func TestClusterIsAdoptedWithItsNodesAndOwners(t *testing.T) {
	t.Parallel()
	s := adopted(t, newCluster(), AdoptCluster{Cluster: oldCluster(t, nil)})
	want := []Node{
		{ID: 2, TCPAddr: "a:8088", HTTPAddr: "a:8086", Awaited: true},
		{ID: 3, TCPAddr: "b:8088", HTTPAddr: "b:8086", Awaited: true},
		{ID: 4, TCPAddr: "c:8088", HTTPAddr: "c:8086", Awaited: true},
	}
	if diff := cmp.Diff(want, s.DataNodes); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]Node{{ID: 1, TCPAddr: "x:8089"}, {ID: 5, TCPAddr: "y:8089"}}, s.MetaNodes); diff != "" {
		t.Error("meta nodes: ", diff)
	}
	if s.Data.ClusterID != 1 || s.MaxNodeID != 5 || s.Data.MaxShardID != 14 || s.OldShardID != 14 {
		t.Errorf("cluster %d goes on after node %d and shard %d", s.Data.ClusterID, s.MaxNodeID, s.Data.MaxShardID)
	}
	for id, owners := range map[uint64][]uint64{11: {2, 3}, 12: {3, 4}, 13: {2, 3, 4}, 14: {4}} {
		if sh, ok := s.Shard(id); !ok || !slices.Equal(sh.Owners, owners) || s.Merging(id) != (len(owners) > 1) {
			t.Errorf("shard %d: %+v, %v, merging %v", id, sh, ok, s.Merging(id))
		}
	}
	if s.User("ann") == nil {
		t.Error("the user is not there")
	}
}

// Until its data nodes run as those of this cluster, what the old cluster did since can be taken over, too.
func TestAdoptionOfAClusterIsRepeatedUntilADataNodeIsAdopted(t *testing.T) {
	t.Parallel()
	s := adopted(t, newCluster(), AdoptCluster{Cluster: oldCluster(t, nil)})
	got, err := s.PlanMember(s.DataNodes[0], []ShardMove{{"plant", "raw", 11, 0}, {"plant", "raw", 3, 0}})
	want := &Member{Aside: []ShardMove{{"plant", "raw", 3, 0}}, Shared: []uint64{11, 13}, Missing: []uint64{13}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for found, want := range map[ShardMove]string{
		{"plant", "raw", 15, 0}:   "-influxdb-cluster again", // made since
		{"plant", "raw", 14, 0}:   "does not own",
		{"plant", "other", 11, 0}: "does not own",
	} {
		_, err := s.PlanMember(s.DataNodes[0], []ShardMove{found})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v on disk: %v", found, err)
		}
	}
	s = adopted(t, s, AdoptCluster{Cluster: oldCluster(t, func(d *meta.Data) {
		d.MaxShardID++
		g := &d.Databases[0].RetentionPolicies[0].ShardGroups[0]
		g.Shards = append(g.Shards, meta.ShardInfo{ID: d.MaxShardID, Owners: []meta.ShardOwner{{NodeID: 2}}})
	})})
	if _, err := s.PlanMember(s.DataNodes[0], []ShardMove{{"plant", "raw", 15, 0}}); err != nil {
		t.Error(err)
	}
	s = adopted(t, s, AdoptDataNode{ID: 2, HTTPAddr: "a:1", Version: "v", Identity: "mine"})
	if n, _ := s.DataNode(2); n.Awaited || n.TCPAddr != "a:8088" || n.HTTPAddr != "a:1" || n.Identity != "mine" {
		t.Errorf("the adopted node is %+v", n)
	}
	c, _ := NewCommand(AdoptCluster{Cluster: oldCluster(t, nil)})
	if _, _, err := s.Next(9, c); err == nil || !strings.Contains(err.Error(), "member already") {
		t.Errorf("it is adopted anew under a data node that serves: %v", err)
	}
	c, _ = NewCommand(AdoptDataNode{ID: 2, Identity: "another"})
	if _, _, err := s.Next(9, c); err == nil {
		t.Error("the place is given away twice")
	}
}

func TestMergesEnd(t *testing.T) {
	t.Parallel()
	begun := adopted(t, newCluster(), AdoptCluster{Cluster: oldCluster(t, nil)})
	merging := func(s *State) (out []uint64) {
		for id := uint64(11); id <= 14; id++ {
			if s.Merging(id) {
				out = append(out, id)
			}
		}
		return out
	}
	for name, tc := range map[string]struct {
		ops  []Op
		want []uint64
	}{
		"one node has told":         {[]Op{EndMerges{Node: 2}}, []uint64{11, 12, 13}},
		"two have told":             {[]Op{EndMerges{Node: 2}, EndMerges{Node: 3}}, []uint64{12, 13}},
		"one has told, twice":       {[]Op{EndMerges{Node: 2}, EndMerges{Node: 2}}, []uint64{11, 12, 13}},
		"all have told":             {[]Op{EndMerges{Node: 4}, EndMerges{Node: 2}, EndMerges{Node: 3}}, nil},
		"the others are removed":    {[]Op{EndMerges{Node: 2}, DeleteDataNode{ID: 3}, DeleteDataNode{ID: 4}}, nil},
		"empty nodes come for them": {[]Op{EndMerges{Node: 2}, empty(3), empty(4)}, nil},
		"a node is only adopted":    {[]Op{AdoptDataNode{ID: 2, Identity: "x"}}, []uint64{11, 12, 13}},
		"one has told, and moves": {[]Op{
			AdoptDataNode{ID: 2, Identity: "x"}, UpdateDataNode{ID: 2, TCPAddr: "z:1", Identity: "x"},
			EndMerges{Node: 3}, EndMerges{Node: 4},
		}, []uint64{11, 13}},
	} {
		s := begun
		for _, op := range tc.ops {
			s = adopted(t, s, op)
		}
		if diff := cmp.Diff(tc.want, merging(s)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// empty gives the place of a data node to one with empty folders.
func empty(id uint64) Op {
	return UpdateDataNode{ID: id, TCPAddr: string(rune('a'+id)) + ":9", Identity: "empty", HTTPAddr: "h:1"}
}

func TestClusterThatCannotBeAdopted(t *testing.T) {
	t.Parallel()
	whole := oldCluster(t, nil)
	node := func(n []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(slices.Clone(whole), dataNodes, protowire.BytesType), n)
	}
	plain, err := serverWith("plant", 1, 0).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	owner := func(owners ...meta.ShardOwner) []byte {
		return oldCluster(t, func(d *meta.Data) {
			d.Databases[0].RetentionPolicies[0].ShardGroups[0].Shards[0].Owners = owners
		})
	}
	for want, b := range map[string][]byte{
		"no data nodes": plain,
		"InfluxDB Enterprise": protowire.AppendString(
			protowire.AppendTag(slices.Clone(whole), 12, protowire.BytesType), "a role"),
		"before 0.10": protowire.AppendString(
			protowire.AppendTag(slices.Clone(whole), 4, protowire.BytesType), "n"),
		"data node 2":                     node(oldNode(2, "d:8086", "d:8088")),
		`"c:8088"`:                        node(oldNode(9, "d:8086", "c:8088")),
		`the address ":8088"`:             node(oldNode(9, "d:8086", ":8088")),
		"cannot be read":                  node([]byte{0xff}),
		"which the cluster does not have": owner(meta.ShardOwner{NodeID: 8}),
		"belongs to no data node":         owner(),
		"part of it is missing":           whole[:len(whole)-3],
		"not the metadata":                []byte("<html>"),
		"cannot be read: ":                {},
	} {
		if old, err := DecodeCluster(b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v", want, old, err)
		}
	}
	busy := newCluster()
	busy.Data.Databases = serverWith("own", 1, 0).Databases
	c, _ := NewCommand(AdoptCluster{Cluster: whole})
	if _, _, err := busy.Next(9, c); err == nil || !strings.Contains(err.Error(), "databases already") {
		t.Errorf("a cluster with databases: %v", err)
	}
}

func FuzzDecodeCluster(f *testing.F) {
	f.Add(oldCluster(f, nil))
	f.Add(oldCluster(f, func(d *meta.Data) {
		d.Databases[0].RetentionPolicies[0].ShardGroups[0].DeletedAt = time.Unix(1, 0)
	}))
	f.Fuzz(func(t *testing.T, b []byte) {
		old, err := DecodeCluster(b)
		if err != nil {
			return
		}
		s := adopted(t, newCluster(), AdoptCluster{Cluster: b})
		if len(s.DataNodes) != len(old.DataNodes) {
			t.Fatalf("%d of %d data nodes", len(s.DataNodes), len(old.DataNodes))
		}
		for _, sh := range s.Shards() {
			if len(sh.Owners) == 0 || sh.ID > s.Data.MaxShardID {
				t.Fatalf("%+v", sh)
			}
		}
	})
}
