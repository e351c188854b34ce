package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/influxdb/services/meta"
	"pgregory.net/rapid"
)

const adoptWeek = 7 * 24 * time.Hour

var adoptStart = time.Unix(1_700_006_400, 0).UTC().Truncate(adoptWeek)

// serverWith is a plain server with one policy, that has a group of one shard in each of some weeks.
func serverWith(db string, firstID uint64, weeks ...int) *meta.Data {
	rp := meta.RetentionPolicyInfo{Name: "raw", ReplicaN: 1, ShardGroupDuration: adoptWeek}
	d := &meta.Data{MaxShardID: firstID - 1, MaxShardGroupID: firstID - 1}
	for _, w := range weeks {
		d.MaxShardID++
		d.MaxShardGroupID++
		from := adoptStart.Add(time.Duration(w) * adoptWeek)
		rp.ShardGroups = append(rp.ShardGroups, meta.ShardGroupInfo{
			ID: d.MaxShardGroupID, StartTime: from, EndTime: from.Add(adoptWeek),
			Shards: []meta.ShardInfo{{ID: d.MaxShardID}},
		})
	}
	d.Databases = []meta.DatabaseInfo{{
		Name: db, DefaultRetentionPolicy: "raw", RetentionPolicies: []meta.RetentionPolicyInfo{rp},
		ContinuousQueries: []meta.ContinuousQueryInfo{{Name: "cq",
			Query: "CREATE CONTINUOUS QUERY cq ON x BEGIN SELECT 1 END"}},
	}}
	d.Users = []meta.UserInfo{{Name: "ann", Hash: "h", Admin: true}}
	return d
}

// adoptInto adopts a server as the next data node, and returns the state after it.
func adoptInto(t interface {
	Helper()
	Fatal(args ...any)
}, s *State, server *meta.Data, merge bool) (*State, Adopted, error) {
	t.Helper()
	plan, err := s.PlanAdoption(server, merge)
	if err != nil {
		return nil, Adopted{}, err
	}
	b, err := server.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCommand(AdoptServer{
		Node: CreateDataNode{TCPAddr: fmt.Sprintf("data%d:8088", len(s.DataNodes)+1),
			Identity: fmt.Sprint(s.MaxNodeID)},
		Server: b, Merge: merge, Moves: plan.Moves,
	})
	if err != nil {
		t.Fatal(err)
	}
	next, result, err := s.Next(s.Index+1, c)
	if err != nil {
		return nil, Adopted{}, err
	}
	return next, result.(Adopted), nil
}

func emptyCluster() *State { return &State{Data: &meta.Data{ClusterID: 1}} }

func TestServerIsAdoptedWithItsIDs(t *testing.T) {
	t.Parallel()
	s, got, err := adoptInto(t, emptyCluster(), serverWith("plant", 40, 0, 1, 5), false)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Adoption.Moves) != 0 || s.Data.MaxShardID != 42 || s.Data.MaxShardGroupID != 42 {
		t.Errorf("an empty cluster renames %v, and goes on after shard %d, group %d",
			got.Adoption.Moves, s.Data.MaxShardID, s.Data.MaxShardGroupID)
	}
	for _, id := range []uint64{40, 41, 42} {
		if sh, ok := s.Shard(id); !ok || !slices.Equal(sh.Owners, []uint64{got.Node.ID}) || sh.Database != "plant" {
			t.Errorf("shard %d: %+v, %v", id, sh, ok)
		}
	}
	if u := s.User("ann"); u == nil || !u.Admin || u.Hash != "h" {
		t.Errorf("the user is %+v", u)
	}
	if db := s.Data.Database("plant"); db.DefaultRetentionPolicy != "raw" || len(db.ContinuousQueries) != 1 {
		t.Errorf("the database is %+v", db)
	}
}

func TestWhatIsInTheWayOfAnAdoption(t *testing.T) {
	t.Parallel()
	s, _, err := adoptInto(t, emptyCluster(), serverWith("plant", 1, 0, 1), false)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = adoptInto(t, s, serverWith("plant", 1, 0), false)
	if err == nil || !strings.Contains(err.Error(), `"plant"`) {
		t.Errorf("a database that the cluster has is adopted without merge: %v", err)
	}
	days := serverWith("plant", 1, 0)
	g := &days.Databases[0].RetentionPolicies[0].ShardGroups[0]
	g.EndTime = g.StartTime.Add(24 * time.Hour)
	if _, _, err := adoptInto(t, s, days, true); err == nil || !strings.Contains(err.Error(), "one shard from") {
		t.Errorf("groups of other lengths are merged: %v", err)
	}
	for name, broken := range map[string]func(*meta.Data){
		"a pattern as a name": func(d *meta.Data) { d.Databases[0].Name = "a[b]" },
		"a name with a path":  func(d *meta.Data) { d.Databases[0].Name = "../x" },
		"a file of ours":      func(d *meta.Data) { d.Databases[0].Name = "concord-cluster" },
		"a shard twice": func(d *meta.Data) {
			d.Databases = append(d.Databases, serverWith("other", 1, 3).Databases...)
		},
		"shard 0": func(d *meta.Data) { d.Databases[0].RetentionPolicies[0].ShardGroups[0].Shards[0].ID = 0 },
	} {
		d := serverWith("new", 1, 0)
		broken(d)
		b, err := d.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeServer(b); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	plan, err := s.PlanAdoption(serverWith("new", 1, 0), false)
	if err != nil {
		t.Fatal(err)
	}
	changed, _, err := adoptInto(t, s, serverWith("another", 1, 7), false)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := serverWith("new", 1, 0).MarshalBinary()
	c, _ := NewCommand(AdoptServer{Node: CreateDataNode{TCPAddr: "late:8088"}, Server: b, Moves: plan.Moves})
	if _, err := changed.Apply(99, c); err == nil {
		t.Error("a plan is carried out that another adoption has overtaken: two shards have one ID")
	}
}

// Whatever is adopted, no two shards have one ID, and each shard of a server is in the cluster once, with its owner.
func TestAdoptedShardsAreAllThere(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := emptyCluster()
		for range rapid.IntRange(1, 4).Draw(t, "servers") {
			weeks := rapid.SliceOfNDistinct(rapid.IntRange(0, 6), 1, 5, rapid.ID[int]).Draw(t, "weeks")
			slices.Sort(weeks)
			db := rapid.SampledFrom([]string{"plant", "shop", internalDB}).Draw(t, "database")
			server := serverWith(db, uint64(rapid.IntRange(1, 9).Draw(t, "first id")), weeks...)
			next, got, err := adoptInto(t, s, server, true)
			if err != nil {
				t.Fatal(err)
			}
			s = next
			place := make(map[uint64]uint64) // of the server's shards, by their old IDs
			for _, g := range server.Databases[0].RetentionPolicies[0].ShardGroups {
				place[g.Shards[0].ID] = g.Shards[0].ID
			}
			for _, m := range got.Adoption.Moves {
				place[m.From] = m.To
			}
			taken := make(map[uint64]bool)
			for _, g := range server.Databases[0].RetentionPolicies[0].ShardGroups {
				id := place[g.Shards[0].ID]
				sh, ok := s.Shard(id)
				if !ok || taken[id] || !sh.Owned(got.Node.ID) || sh.Database != db ||
					sh.Start != g.StartTime.UnixNano() {
					t.Fatalf("shard %d of the server is %d: %+v, %v", g.Shards[0].ID, id, sh, ok)
				}
				taken[id] = true
			}
		}
		ids, groups := make(map[uint64]bool), make(map[uint64]bool)
		for _, sh := range s.Shards() {
			if ids[sh.ID] || groups[sh.GroupID] || sh.ID > s.Data.MaxShardID || sh.GroupID > s.Data.MaxShardGroupID {
				t.Fatalf("two shards or groups have one ID, or one is above the greatest: %+v", sh)
			}
			ids[sh.ID], groups[sh.GroupID] = true, true
		}
	})
}
