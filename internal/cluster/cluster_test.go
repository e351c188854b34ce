package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"
	"pgregory.net/rapid"
)

var t0 = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

var equalStates = cmp.Options{cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(meta.Data{})}

type fataler interface{ Fatal(...any) }

func mustApply(t fataler, s *State, op Op) any {
	c, err := NewCommand(op)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Apply(s.Index+1, c)
	if err != nil {
		t.Fatal(c.Type, err)
	}
	return r
}

func withNodes(t fataler, n int) *State {
	s := NewState()
	mustApply(t, s, CreateMetaNode{RaftAddr: "meta:8089", HTTPAddr: "meta:8091", ClusterID: 7})
	for i := range n {
		mustApply(t, s, CreateDataNode{
			TCPAddr: fmt.Sprintf("data%d:8088", i+1), HTTPAddr: fmt.Sprintf("data%d:8086", i+1),
		})
	}
	return s
}

func TestShardsHaveDistinctOwnersSpreadEvenly(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(t, "nodes")
		x := rapid.IntRange(1, n).Draw(t, "replicas")
		s := withNodes(t, n)
		mustApply(t, s, CreateDatabase{Name: "db", Spec: &meta.RetentionPolicySpec{ReplicaN: &x}})
		load := map[uint64]int{}
		for i := range n { // n successive groups come round to every node equally
			mustApply(t, s, CreateShardGroup{
				Database: "db", RetentionPolicy: "autogen", Time: t0.Add(time.Duration(i) * 7 * 24 * time.Hour),
			})
		}
		shards := s.Shards()
		if want := n * max(1, n/x); len(shards) != want {
			t.Fatalf("%d shards, want %d", len(shards), want)
		}
		for i, sh := range shards {
			seen := map[uint64]bool{}
			for _, o := range sh.Owners {
				seen[o] = true
				load[o]++
			}
			if len(seen) != x || len(sh.Owners) != x || sh.ID != uint64(i+1) {
				t.Fatalf("shard %d has owners %v, want %d", sh.ID, sh.Owners, x)
			}
		}
		for _, node := range s.DataNodes {
			if load[node.ID] != load[s.DataNodes[0].ID] {
				t.Fatalf("uneven load %v", load)
			}
		}
	})
}

func TestDefaultReplicationFactor(t *testing.T) {
	t.Parallel()
	for nodes, want := range []int{1, 1, 2, 3, 2, 2} {
		s := withNodes(t, nodes)
		mustApply(t, s, CreateDatabase{Name: "db"})
		if got := s.Data.Database("db").RetentionPolicy("autogen").ReplicaN; got != want {
			t.Errorf("%d nodes: %d replicas, want %d", nodes, got, want)
		}
	}
}

func TestFailedCommandLeavesStateUnchanged(t *testing.T) {
	t.Parallel()
	s := withNodes(t, 2)
	mustApply(t, s, CreateDatabase{Name: "db"})
	mustApply(t, s, CreateSubscription{
		Database: "db", RetentionPolicy: "autogen", Name: "sub", Mode: "ALL", Destinations: []string{"http://h:1"},
	})
	three, minute := 3, time.Minute
	cmd := func(op Op) Command {
		c, err := NewCommand(op)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, tc := range []struct {
		name string
		c    Command
		want string
	}{
		{"unknown type", Command{Type: "explode", Args: json.RawMessage(`{}`)}, "unknown command"},
		{"no arguments", Command{Type: "drop-user"}, "arguments of drop-user"},
		{"unknown argument", Command{Type: "drop-user", Args: json.RawMessage(`{"nam":"x"}`)}, "unknown field"},
		{
			"factor too high", cmd(CreateDatabase{Name: "new", Spec: &meta.RetentionPolicySpec{ReplicaN: &three}}),
			"above the number of data nodes, 2",
		},
		{
			"factor raised too high",
			cmd(UpdateRetentionPolicy{
				Database: "db", Name: "autogen", Update: meta.RetentionPolicyUpdate{ReplicaN: &three},
			}),
			"above the number",
		},
		{
			"duration too short", cmd(CreateDatabase{Name: "new", Spec: &meta.RetentionPolicySpec{Duration: &minute}}),
			meta.ErrRetentionPolicyDurationTooLow.Error(),
		},
		{"name that leaves the folder", cmd(CreateDatabase{Name: "../x"}), meta.ErrInvalidName.Error()},
		{
			"missing database", cmd(CreateShardGroup{Database: "nope", RetentionPolicy: "autogen", Time: t0}),
			"database not found: nope",
		},
		{"missing user", cmd(UpdateUser{Name: "nope"}), meta.ErrUserNotFound.Error()},
		{"missing node", cmd(DeleteDataNode{ID: 99}), "data node 99 does not exist"},
	} {
		before := s.Clone()
		if _, err := s.Apply(s.Index+1, tc.c); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want %q", tc.name, err, tc.want)
		}
		if d := cmp.Diff(before, s, equalStates); d != "" {
			t.Errorf("%s: state changed: %s", tc.name, d)
		}
	}
	// What a command does to the next state, the last one does not see.
	before := s.Clone()
	for _, op := range []Op{
		DropSubscription{Database: "db", RetentionPolicy: "autogen", Name: "sub"},
		DropDatabase{Name: "db"},
		DeleteDataNode{ID: 2},
	} {
		if _, _, err := s.Next(s.Index+1, cmd(op)); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(before, s, equalStates); d != "" {
		t.Errorf("Next changed its receiver: %s", d)
	}
}

func TestContinuousQueryThatCannotBeParsedIsRefused(t *testing.T) {
	t.Parallel()
	s := withNodes(t, 1)
	mustApply(t, s, CreateDatabase{Name: "db"})
	c, err := NewCommand(CreateContinuousQuery{
		Database: "db", Name: "cq", Query: "SELECT " + strings.Repeat("(", 1_000_000),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(c); err == nil || !strings.Contains(err.Error(), "deeper than") {
		t.Error(err)
	}
}

func TestNoDataNodesIsAClearError(t *testing.T) {
	t.Parallel()
	s := withNodes(t, 0)
	mustApply(t, s, CreateDatabase{Name: "db"})
	c, _ := NewCommand(CreateShardGroup{Database: "db", RetentionPolicy: "autogen", Time: t0})
	if _, err := s.Apply(9, c); !errors.Is(err, ErrNoDataNodes) {
		t.Errorf("got %v", err)
	}
}

func TestDataNodeKeepsItsID(t *testing.T) {
	t.Parallel()
	s := withNodes(t, 3)
	n := mustApply(t, s, CreateDataNode{TCPAddr: "data2:8088", HTTPAddr: "data2:9999", Version: "v2"}).(Node)
	if got, _ := s.DataNode(n.ID); n.ID != 3 || got.HTTPAddr != "data2:9999" || len(s.DataNodes) != 3 {
		t.Errorf("got %+v, nodes %+v", n, s.DataNodes)
	}
}

func TestRemovedNodeOwnsNothing(t *testing.T) {
	t.Parallel()
	s, one := withNodes(t, 2), 1
	mustApply(t, s, CreateDatabase{Name: "two"})
	mustApply(t, s, CreateDatabase{Name: "one", Spec: &meta.RetentionPolicySpec{ReplicaN: &one}})
	for _, db := range []string{"two", "one"} {
		mustApply(t, s, CreateShardGroup{Database: db, RetentionPolicy: "autogen", Time: t0})
	}
	mustApply(t, s, DeleteDataNode{ID: 2, Time: t0})
	for _, sh := range s.Shards() {
		for _, o := range sh.Owners {
			if o == 2 {
				t.Errorf("shard %d is owned by the removed node", sh.ID)
			}
		}
	}
	if n := len(s.Shards()); n != 3 { // the live group of "one" keeps its ownerless shard: routing stays
		t.Errorf("%d shards, want 3", n)
	}
	mustApply(t, s, DeleteDataNode{ID: 3, Time: t0})
	if n := len(s.Shards()); n != 0 {
		t.Errorf("%d shards are left without any owner", n)
	}
	mustApply(t, s, CreateDataNode{TCPAddr: "data1:8088"})
	if id := s.DataNodes[0].ID; id != 4 {
		t.Errorf("ID %d was used before", id)
	}
}

// Without an owner, the shard of a live group would fail writes for as long as the group lives.
func TestShardsOfARemovedNodeAreAdopted(t *testing.T) {
	t.Parallel()
	s, one := withNodes(t, 3), 1
	mustApply(t, s, CreateDatabase{Name: "db", Spec: &meta.RetentionPolicySpec{ReplicaN: &one}})
	mustApply(t, s, CreateShardGroup{Database: "db", RetentionPolicy: "autogen", Time: t0})
	for removed := range uint64(3) {
		mustApply(t, s, DeleteDataNode{ID: removed + 2, Time: t0, Adopt: true})
		for _, sh := range s.Shards() {
			if len(sh.Owners) != 1 || sh.Owners[0] <= removed+2 {
				t.Errorf("without node %d, shard %d is owned by %v", removed+2, sh.ID, sh.Owners)
			}
		}
		// the number of shards says where a series is
		if n := len(s.Shards()); n != map[bool]int{true: 3, false: 0}[removed < 2] {
			t.Errorf("without node %d, %d shards are left", removed+2, n)
		}
	}
}

func TestSuccessorGroupsDoNotOverlap(t *testing.T) {
	t.Parallel()
	s := withNodes(t, 3)
	mustApply(t, s, CreateDatabase{Name: "db"})
	mustApply(t, s, CreateShardGroup{Database: "db", RetentionPolicy: "autogen", Time: t0})
	cut := t0.Add(time.Hour)
	mustApply(t, s, TruncateShardGroups{Time: cut})
	mustApply(t, s, CreateShardGroup{Database: "db", RetentionPolicy: "autogen", Time: cut})
	g := s.Shards()
	if len(g) != 2 || g[0].End != cut.UnixNano() || g[1].Start != cut.UnixNano() || !g[0].Truncated {
		t.Errorf("got %+v", g)
	}
	end := time.Unix(0, g[1].End)
	for range 2 { // every data node asks
		mustApply(t, s, PrecreateShardGroups{From: t0, To: end.Add(time.Hour)})
	}
	if g = s.Shards(); len(g) != 3 || g[2].Start != end.UnixNano() {
		t.Errorf("got %+v", g)
	}
}

// TestShardGroupsCoverTheEndsOfTime makes groups near both ends of the times that points may have. What other nodes
// decode must cover the same times.
func TestShardGroupsCoverTheEndsOfTime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := withNodes(t, 3)
		length := time.Duration(rapid.Int64Range(int64(time.Hour), int64(400*24*time.Hour)).Draw(t, "group"))
		mustApply(t, s, CreateDatabase{Name: "db", Spec: &meta.RetentionPolicySpec{ShardGroupDuration: length}})
		near := rapid.Int64Range(0, 3*int64(length))
		times := []int64{models.MinNanoTime, models.MaxNanoTime}
		for range rapid.IntRange(0, 4).Draw(t, "times") {
			times = append(times, models.MinNanoTime+near.Draw(t, "after"), models.MaxNanoTime-near.Draw(t, "before"))
		}
		times = rapid.Permutation(times).Draw(t, "order")
		for _, at := range times {
			mustApply(t, s, CreateShardGroup{Database: "db", RetentionPolicy: "autogen", Time: time.Unix(0, at)})
		}
		b, err := s.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var got State
		if err := got.UnmarshalBinary(b); err != nil {
			t.Fatal(err)
		}
		for _, at := range times {
			if g, err := got.Data.ShardGroupByTimestamp("db", "autogen", time.Unix(0, at)); err != nil || g == nil {
				t.Fatalf("no shard group for %d: %v", at, err)
			}
		}
		groups, err := got.Data.ShardGroups("db", "autogen")
		if err != nil {
			t.Fatal(err)
		}
		for i := range groups {
			if i > 0 && groups[i].StartTime.Before(groups[i-1].EndTime) ||
				!groups[i].StartTime.Before(groups[i].EndTime) {
				t.Fatalf("groups that overlap or are turned around: %+v", groups)
			}
		}
	})
}

func TestNoShardGroupIsBeyondTheEndsOfTime(t *testing.T) {
	t.Parallel()
	s := withNodes(t, 1)
	mustApply(t, s, CreateDatabase{Name: "db"})
	for _, at := range []int64{models.MinNanoTime - 1, models.MaxNanoTime + 1} {
		c, err := NewCommand(CreateShardGroup{Database: "db", RetentionPolicy: "autogen", Time: time.Unix(0, at)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Apply(s.Index+1, c); err == nil || len(s.Shards()) > 0 {
			t.Errorf("time %d: error %v, shards %v", at, err, s.Shards())
		}
	}
}

func TestStateRoundTripsAndCorruptionIsRefused(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := withNodes(t, rapid.IntRange(1, 5).Draw(t, "nodes"))
		for i := range rapid.IntRange(0, 4).Draw(t, "databases") {
			db := fmt.Sprintf("db%d", i)
			mustApply(t, s, CreateDatabase{Name: db})
			mustApply(t, s, CreateUser{
				Name: db, Hash: rapid.StringMatching(`[a-z]{0,9}`).Draw(t, "hash"), Admin: i%2 == 0,
			})
			mustApply(t, s, SetPrivilege{User: db, Database: db, Privilege: influxql.WritePrivilege})
			mustApply(t, s, CreateContinuousQuery{Database: db, Name: "cq", Query: "SELECT"})
			for range rapid.IntRange(0, 3).Draw(t, "groups") {
				mustApply(t, s, CreateShardGroup{
					Database: db, RetentionPolicy: "autogen",
					Time: time.Unix(rapid.Int64Range(-1<<32, 1<<32).Draw(t, "time"), 0),
				})
			}
		}
		b, err := s.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var got State
		if err := got.UnmarshalBinary(b); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(s, &got, equalStates); d != "" {
			t.Fatal(d)
		}
		if got.Data.AdminUserExists() != s.Data.AdminUserExists() {
			t.Fatal("admin user lost")
		}
		bad := append([]byte(nil), b...)
		bad[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= byte(1 << rapid.IntRange(0, 7).Draw(t, "bit"))
		cut := b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")]
		for _, b := range [][]byte{bad, cut, append(append([]byte(nil), b...), 0)} {
			if err := new(State).UnmarshalBinary(b); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("error %v, want %v", err, ErrCorrupt)
			}
		}
	})
}

func FuzzUnmarshalBinary(f *testing.F) {
	s := withNodes(f, 2)
	mustApply(f, s, CreateDatabase{Name: "db"})
	b, err := s.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:headAt])
	f.Fuzz(func(t *testing.T, b []byte) {
		s := NewState()
		if err := s.UnmarshalBinary(b); err == nil && s.Data == nil {
			t.Fatal("a state without data")
		} else if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
	})
}

func TestOwnersStandInDifferentZones(t *testing.T) {
	t.Parallel()
	for _, zones := range []string{"aab", "aabc", "aabbcc", "aaabbc", "aabbb", "ab c "} {
		for replicas := 1; replicas <= 3; replicas++ {
			s := NewState()
			distinct := map[rune]bool{}
			for i, z := range zones {
				n := Node{ID: uint64(i + 1), TCPAddr: fmt.Sprint(i)}
				if z != ' ' {
					n.Labels = map[string]string{"az": string(z)}
				}
				distinct[z] = true
				s.DataNodes = append(s.DataNodes, n)
			}
			zoneOf := func(id uint64) string { return s.DataNodes[id-1].Labels["az"] }
			s.Data.Databases = []meta.DatabaseInfo{{Name: "db", RetentionPolicies: []meta.RetentionPolicyInfo{{
				Name: "rp", ReplicaN: replicas, ShardGroupDuration: time.Hour,
			}}}}
			for h := range 12 {
				if err := s.createShardGroup("db", "rp", time.Unix(0, 0).Add(time.Duration(h)*time.Hour)); err != nil {
					t.Fatal(err)
				}
			}
			for _, sh := range s.Shards() {
				seen := map[string]bool{}
				for _, o := range sh.Owners {
					if z := zoneOf(o); z != "" {
						seen[z] = true
					} else {
						seen[fmt.Sprint(o)] = true
					}
				}
				if want := min(replicas, len(distinct)); len(seen) < want || len(sh.Owners) != replicas {
					t.Errorf("zones %s, %d replicas: shard %d is on %v, in %d zones", zones, replicas, sh.ID, sh.Owners,
						len(seen))
				}
			}
		}
	}
}

func TestUpdateDataNodeKeepsIDShardsAndLabels(t *testing.T) {
	t.Parallel()
	s := NewState()
	s.DataNodes = []Node{{ID: 1, TCPAddr: "a:1", Labels: map[string]string{"az": "x"}}, {ID: 2, TCPAddr: "b:1"}}
	n, err := UpdateDataNode{ID: 1, TCPAddr: "c:1", HTTPAddr: "c:2", Version: "v"}.apply(s)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Node{
		ID: 1, TCPAddr: "c:1", HTTPAddr: "c:2", Version: "v", Labels: map[string]string{"az": "x"},
	},
		n); diff != "" {
		t.Error(diff)
	}
	for _, o := range []UpdateDataNode{{ID: 1, TCPAddr: "b:1"}, {ID: 9, TCPAddr: "d:1"}, {ID: 1}} {
		if _, err := o.apply(s); err == nil {
			t.Errorf("%+v is no error", o)
		}
	}
}

func TestRestoredGroupsKeepTheirShards(t *testing.T) {
	t.Parallel()
	s := NewState()
	for i := range 3 {
		mustApply(t, s, CreateDataNode{TCPAddr: fmt.Sprint("n", i)})
	}
	mustApply(t, s, CreateDatabase{Name: "db"})
	at := func(h int) time.Time { return t0.Add(time.Duration(h) * time.Hour) }
	op := RestoreShardGroups{Database: "db", RetentionPolicy: "autogen", Groups: []RestoredGroup{
		{Start: at(0), End: at(24), Shards: 3, TruncatedAt: at(10)}, {Start: at(10), End: at(24), Shards: 1},
	}}
	ids := mustApply(t, s, op).([][]uint64)
	if len(ids) != 2 || len(ids[0]) != 3 || len(ids[1]) != 1 {
		t.Fatalf("got shards %v", ids)
	}
	rp, _ := s.Data.RetentionPolicy("db", "autogen")
	for h, want := range map[int]int{5: 3, 15: 1} {
		if g := rp.ShardGroupByTimestamp(at(h)); g == nil || len(g.Shards) != want {
			t.Errorf("hour %d is in %+v, want a group of %d shards", h, g, want)
		}
	}
	for _, g := range []RestoredGroup{
		{Start: at(9), End: at(10), Shards: 1}, {Start: at(23), End: at(25), Shards: 1},
		{Start: at(30), End: at(30), Shards: 1}, {Start: at(30), End: at(31)},
	} {
		c, err := NewCommand(RestoreShardGroups{Database: "db", RetentionPolicy: "autogen", Groups: []RestoredGroup{g}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Apply(s.Index+1, c); err == nil {
			t.Errorf("%+v was restored over others", g)
		}
	}
}

func TestLeaderRefusesNamesThatAreFolders(t *testing.T) {
	t.Parallel()
	s := NewState()
	mustApply := func(op Op) {
		t.Helper()
		c, err := NewCommand(op)
		if err == nil {
			_, err = s.Apply(s.Index+1, c)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	mustApply(CreateDataNode{TCPAddr: "a:1"})
	mustApply(CreateDatabase{Name: "db"})
	name := func(n string) meta.RetentionPolicyUpdate { return meta.RetentionPolicyUpdate{Name: &n} }
	for want, ops := range map[string][]Op{
		"a folder of the storage engine": {
			CreateRetentionPolicy{Database: "db", Spec: meta.RetentionPolicySpec{Name: "_series"}},
			CreateRetentionPolicy{Database: "db", Spec: meta.RetentionPolicySpec{Name: "index"}},
			CreateDatabase{Name: "new", Spec: &meta.RetentionPolicySpec{Name: "_series"}},
			UpdateRetentionPolicy{Database: "db", Name: "autogen", Update: name("index")},
		},
		"files of the data folder": {CreateDatabase{Name: "concord-cluster"}},
		"for a pattern of file names": {
			CreateDatabase{Name: "a[b]"}, CreateDatabase{Name: "a*"}, CreateDatabase{Name: `a\b`},
			CreateRetentionPolicy{Database: "db", Spec: meta.RetentionPolicySpec{Name: "a?"}},
			UpdateRetentionPolicy{Database: "db", Name: "autogen", Update: name("[")},
		},
		"shard not found": {DropShard{ID: 99999}},
		"": {
			CreateRetentionPolicy{Database: "db", Spec: meta.RetentionPolicySpec{Name: "_Series"}},
			CreateDatabase{Name: "_series"}, CreateDatabase{Name: "index"}, CreateDatabase{Name: "concord"},
			UpdateRetentionPolicy{Database: "db", Name: "autogen", Update: name("year")},
		},
	} {
		for _, op := range ops {
			c, err := NewCommand(op)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Check(c); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v, want %q", op, err, want)
			}
		}
	}
	// Logs of earlier versions have them.
	mustApply(CreateRetentionPolicy{Database: "db", Spec: meta.RetentionPolicySpec{Name: "index"}})
	mustApply(DropShard{ID: 99999})
	mustApply(CreateShardGroup{Database: "db", RetentionPolicy: "index", Time: time.Unix(0, 0)})
	c, err := NewCommand(DropShard{ID: s.Shards()[0].ID})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(c); err != nil {
		t.Errorf("a shard that is there: %v", err)
	}
	// A policy that has such a name can get another one, and be changed.
	c, err = NewCommand(UpdateRetentionPolicy{Database: "db", Name: "index", Update: name("index")})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(c); err != nil {
		t.Errorf("the name that it has: %v", err)
	}
}

func TestPlaceIsTheFirstClaimants(t *testing.T) {
	t.Parallel()
	s := NewState()
	s.DataNodes = []Node{{ID: 1, TCPAddr: "a:1"}} // of an earlier version
	for _, tt := range []struct {
		op   Op
		want string // the identity afterwards
		fail bool
	}{
		{ClaimDataNode{ID: 1, Identity: "x"}, "x", false},
		{ClaimDataNode{ID: 1, Identity: "x"}, "x", false},
		{ClaimDataNode{ID: 1, Identity: "y"}, "x", true},
		{ClaimDataNode{ID: 2, Identity: "y"}, "x", true},
		{UpdateDataNode{ID: 1, TCPAddr: "b:1", Identity: "y"}, "y", false},
		{CreateDataNode{TCPAddr: "b:1", Identity: "z"}, "z", false},
	} {
		if _, err := tt.op.apply(s); (err != nil) != tt.fail || s.DataNodes[0].Identity != tt.want {
			t.Errorf("%+v: %v, and the place is %q's", tt.op, err, s.DataNodes[0].Identity)
		}
	}
	b, err := s.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	back := NewState()
	if err := back.UnmarshalBinary(b); err != nil || back.DataNodes[0].Identity != "z" {
		t.Errorf("%v, %+v", err, back.DataNodes)
	}
}
