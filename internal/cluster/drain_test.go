package cluster

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/services/meta"
	"pgregory.net/rapid"
)

// No change gives a shard to a node that is being drained, as long as another one is there. What it has it keeps.
func TestDrainedNodesGetNoShards(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := withNodes(t, rapid.IntRange(2, 5).Draw(t, "nodes"))
		mustApply(t, s, CreateDatabase{Name: "db"})
		drained := s.DataNodes[rapid.IntRange(0, len(s.DataNodes)-1).Draw(t, "drained")]
		mustApply(t, s, CreateShardGroup{Database: "db", RetentionPolicy: "autogen", Time: t0})
		had := ownedBy(s, drained.ID)
		mustApply(t, s, DrainDataNode{ID: drained.ID})
		day := 24 * time.Hour
		for i := range rapid.IntRange(1, 20).Draw(t, "steps") {
			at := t0.Add(time.Duration(rapid.IntRange(1, 60).Draw(t, "week")) * 7 * day)
			var op Op
			switch rapid.IntRange(0, 4).Draw(t, fmt.Sprint("step", i)) {
			case 0:
				op = CreateShardGroup{Database: "db", RetentionPolicy: "autogen", Time: at}
			case 1:
				op = PrecreateShardGroups{From: at.Add(-30 * day), To: at.Add(30 * day)}
			case 2:
				op = RestoreShardGroups{
					Database: "db", RetentionPolicy: "autogen",
					Groups: []RestoredGroup{{Start: at, End: at.Add(day), Shards: 2}},
				}
			case 3:
				op = AddShardOwner{ID: uint64(rapid.IntRange(1, 20).Draw(t, "shard")), NodeID: drained.ID}
			case 4:
				op = CreateDataNode{TCPAddr: drained.TCPAddr, Version: "2"} // add-data again
			}
			c, err := NewCommand(op)
			if err != nil {
				t.Fatal(err)
			}
			s.Apply(s.Index+1, c) // some are refused
			if d := cmp.Diff(had, ownedBy(s, drained.ID)); d != "" {
				t.Fatalf("after %+v: %s", op, d)
			}
		}
	})
}

// ownedBy are the shards of a node.
func ownedBy(s *State, node uint64) (out []uint64) {
	for _, sh := range s.Shards() {
		if slices.Contains(sh.Owners, node) {
			out = append(out, sh.ID)
		}
	}
	return out
}

func TestShardsOfALostNodeGoToNodesThatAreNotDrained(t *testing.T) {
	t.Parallel()
	s := withNodes(t, 3)
	one := 1
	mustApply(t, s, CreateDatabase{Name: "db"})
	mustApply(t, s, UpdateRetentionPolicy{
		Database: "db", Name: "autogen", Update: meta.RetentionPolicyUpdate{ReplicaN: &one},
	})
	mustApply(t, s, CreateShardGroup{Database: "db", RetentionPolicy: "autogen", Time: t0})
	mustApply(t, s, DrainDataNode{ID: s.DataNodes[0].ID})
	had := ownedBy(s, s.DataNodes[0].ID)
	mustApply(t, s, DeleteDataNode{ID: s.DataNodes[2].ID, Time: t0, Adopt: true})
	if d := cmp.Diff(had, ownedBy(s, s.DataNodes[0].ID)); d != "" {
		t.Error(d)
	}
}

func TestDrainEnds(t *testing.T) {
	t.Parallel()
	s := withNodes(t, 1)
	id := s.DataNodes[0].ID
	if n := mustApply(t, s, DrainDataNode{ID: id}).(Node); !n.Draining {
		t.Errorf("it is %+v", n)
	}
	// Writes go on when no other node is left.
	mustApply(t, s, CreateDatabase{Name: "db"})
	mustApply(t, s, CreateShardGroup{Database: "db", RetentionPolicy: "autogen", Time: t0})
	if err := s.DataNodes[0].CheckMayOwn(); err == nil || !strings.Contains(err.Error(), "-undrain") {
		t.Errorf("it may own a copy: %v", err)
	}
	for range 2 {
		if n := mustApply(t, s, DrainDataNode{ID: id, Ended: true}).(Node); n.Draining || n.CheckMayOwn() != nil {
			t.Errorf("it is %+v", n)
		}
	}
	if _, err := (DrainDataNode{ID: 99}).apply(s.Clone()); err == nil {
		t.Error("a node that does not exist is drained")
	}
}

// Other states have the same bytes as before, which earlier versions read.
func TestDrainingIsInSnapshots(t *testing.T) {
	t.Parallel()
	s := withNodes(t, 2)
	mustApply(t, s, DrainDataNode{ID: s.DataNodes[1].ID})
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
	if b, err := json.Marshal(s.DataNodes[0]); err != nil || strings.Contains(string(b), "draining") {
		t.Errorf("another node is %s, %v", b, err)
	}
}
