package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/services/meta"
	"pgregory.net/rapid"
)

// withPassive adds a passive data node, which gets the next ID.
func withPassive(t fataler, s *State, addr string) Node {
	return mustApply(t, s, CreateDataNode{TCPAddr: addr, HTTPAddr: addr, Passive: true}).(Node)
}

// No change makes a passive node an owner: nodes are added, activated and removed, groups are made, made in advance and
// restored, copies recorded, in any order.
func TestPassiveNodesOwnNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := withNodes(t, rapid.IntRange(0, 3).Draw(t, "active"))
		mustApply(t, s, CreateDatabase{Name: "db"})
		try := func(op Op) {
			c, err := NewCommand(op)
			if err != nil {
				t.Fatal(err)
			}
			s.Apply(s.Index+1, c) // some are refused
		}
		day := 24 * time.Hour
		for i := range rapid.IntRange(1, 40).Draw(t, "steps") {
			at := t0.Add(time.Duration(rapid.IntRange(0, 60).Draw(t, "day")) * 7 * day)
			node, shard := uint64(rapid.IntRange(1, 12).Draw(t, "node")), uint64(rapid.IntRange(1, 20).Draw(t, "shard"))
			addr := fmt.Sprintf("data%d:8088", rapid.IntRange(1, 8).Draw(t, "addr"))
			switch rapid.IntRange(0, 9).Draw(t, fmt.Sprint("step", i)) {
			case 0, 1:
				try(CreateDataNode{TCPAddr: addr, Passive: rapid.Bool().Draw(t, "passive")})
			case 2:
				try(ActivateDataNode{ID: node})
			case 3:
				try(DeleteDataNode{ID: node, Time: t0, Adopt: rapid.Bool().Draw(t, "adopt")})
			case 4, 5:
				try(CreateShardGroup{Database: "db", RetentionPolicy: "autogen", Time: at})
			case 6:
				try(PrecreateShardGroups{From: at.Add(-30 * day), To: at.Add(30 * day)})
			case 7:
				try(RestoreShardGroups{
					Database: "db", RetentionPolicy: "autogen", Groups: []RestoredGroup{{Start: at, End: at.Add(day), Shards: 2}},
				})
			case 8:
				try(AddShardOwner{ID: shard, NodeID: node})
			case 9:
				try(UpdateDataNode{ID: node, TCPAddr: addr})
			}
			for _, sh := range s.Shards() {
				for _, id := range sh.Owners {
					if n, ok := s.DataNode(id); !ok || n.Passive {
						t.Fatalf("shard %d has owner %d: %+v", sh.ID, id, n)
					}
				}
			}
		}
	})
}

func TestReplicationFactorCountsActiveNodes(t *testing.T) {
	t.Parallel()
	s := withNodes(t, 2)
	withPassive(t, s, "p:8088")
	mustApply(t, s, CreateDatabase{Name: "db"})
	if got := s.Data.Database("db").RetentionPolicy("autogen").ReplicaN; got != 2 {
		t.Errorf("the default factor is %d, want 2", got)
	}
	three := 3
	_, err := CreateDatabase{Name: "more", Spec: &meta.RetentionPolicySpec{ReplicaN: &three}}.apply(s.Clone())
	if want := "replication factor 3 is above the number of active data nodes, 2"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestClusterOfPassiveNodesHasNoPlaceForAShard(t *testing.T) {
	t.Parallel()
	s := withNodes(t, 0)
	withPassive(t, s, "p:8088")
	mustApply(t, s, CreateDatabase{Name: "db"})
	_, err := CreateShardGroup{Database: "db", RetentionPolicy: "autogen", Time: t0}.apply(s.Clone())
	if !errors.Is(err, ErrNoDataNodes) {
		t.Errorf("%v, want %v", err, ErrNoDataNodes)
	}
}

func TestPassiveNodeBecomesActiveOnRequestAlone(t *testing.T) {
	t.Parallel()
	s := withNodes(t, 1)
	n := withPassive(t, s, "p:8088")
	mustApply(t, s, SetNodeLabels{ID: n.ID, Set: map[string]string{"az": "b"}})
	passive := func() bool { n, _ := s.DataNode(n.ID); return n.Passive }
	mustApply(t, s, CreateDataNode{TCPAddr: "p:8088", Version: "2"}) // add-data again, as a script may do at each start
	mustApply(t, s, UpdateDataNode{ID: n.ID, TCPAddr: "p:8088", Version: "3"})
	if !passive() {
		t.Error("adding it again made it active")
	}
	for range 2 {
		mustApply(t, s, ActivateDataNode{ID: n.ID})
		if got, _ := s.DataNode(n.ID); got.Passive || got.Labels["az"] != "b" || got.Version != "3" {
			t.Errorf("it is %+v", got)
		}
	}
	mustApply(t, s, CreateDatabase{Name: "db"})
	mustApply(t, s, CreateShardGroup{Database: "db", RetentionPolicy: "autogen", Time: t0})
	if got := s.Shards()[0].Owners; !cmp.Equal(got, []uint64{2, 3}) {
		t.Errorf("owners %v", got)
	}
	if _, err := (CreateDataNode{TCPAddr: "p:8088", Passive: true}).apply(s.Clone()); err == nil ||
		!strings.Contains(err.Error(), "owns 1 shards") {
		t.Errorf("an owner becomes passive: %v", err)
	}
	if _, err := (ActivateDataNode{ID: 99}).apply(s.Clone()); err == nil {
		t.Error("a node that does not exist becomes active")
	}
}

func TestPassiveIsInSnapshots(t *testing.T) {
	t.Parallel()
	s := withNodes(t, 1)
	withPassive(t, s, "p:8088")
	b, err := s.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var got State
	if err := got.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(s, &got, equalStates); d != "" {
		t.Error(d)
	}
	// Of active nodes nothing is new in the bytes: earlier versions read them, and theirs are read.
	active, err := json.Marshal(s.DataNodes[0])
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(active), "passive") {
		t.Errorf("an active node is %s", active)
	}
}
