package service

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"concord/internal/copystate"
	"concord/internal/entropy"
	"concord/internal/entropy/entropytest"
	"concord/internal/entropy/pace"
	"concord/internal/entropy/patch"
)

// old is a time in shard 1.
func old() int64 { return time.Now().Add(-2*entropytest.Week - entropytest.Week/2).UnixNano() }

func bubble(name string, t *testing.T, fn func(*testing.T, *entropytest.Cluster)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { fn(t, entropytest.NewCluster()) }) })
}

func wantStatus(t *testing.T, s *Service, want entropy.NodeStatus) {
	t.Helper()
	want.Enabled = true
	if d := cmp.Diff(want, mustStatus(t, s)); d != "" {
		t.Errorf("status (-want +got):\n%s", d)
	}
}

func TestCheck(t *testing.T) {
	bubble("equal copies are clean", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		pass(2 * time.Minute)
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{})
	})
	bubble("a shard that nobody has is clean", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{})
	})
	bubble("a difference at rest is reported at once", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		pass(2 * time.Minute)
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{Shards: []entropy.ShardStatus{{ID: 1, Status: entropy.Diff}}})
	})
	bubble("a difference under writes counts when it is seen again after settle", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{})
		pass(30 * time.Second)
		c.WriteAll(1, old()+1, 1.0)
		pass(31 * time.Second) // the checker looks again by itself
		wantStatus(t, s, entropy.NodeStatus{Shards: []entropy.ShardStatus{{ID: 1, Status: entropy.Diff}}})
	})
	bubble("under writes, a window that differs in another way each time is not entropy", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		at := old()
		c.WriteAll(1, at, 0.0)
		for i := range 10 { // owner 2 has each write before the others
			c.Replicas[2].Write(1, "cpu,host=b", "value", at, float64(i))
			if i == 0 {
				mustCheck(t, s)
			}
			pass(31 * time.Second) // the checker looks again by itself
			wantStatus(t, s, entropy.NodeStatus{})
			c.Replicas[1].Write(1, "cpu,host=b", "value", at, float64(i))
			c.Replicas[3].Write(1, "cpu,host=b", "value", at, float64(i))
		}
	})
	bubble("a write in flight is not entropy", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		at := old()
		c.WriteAll(1, at, 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", at, 1.0)
		mustCheck(t, s)
		c.Replicas[1].Write(1, "cpu,host=b", "value", at, 1.0)
		c.Replicas[3].Write(1, "cpu,host=b", "value", at, 1.0)
		pass(2 * time.Minute)
		wantStatus(t, s, entropy.NodeStatus{})
	})
	bubble("a shard whose first write is on its way to an owner is not missing there", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		begin := func(owners ...uint64) {
			for _, o := range owners {
				c.Replicas[o].Write(1, "cpu,host=a", "value", old(), 1.0)
				c.Replicas[o].Change(func() { c.Replicas[o].Shards[1].Began = copystate.BegunAt(time.Now()) })
			}
		}
		begin(1, 2)
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{})
		begin(3)
		pass(61 * time.Second) // the checker looks again by itself
		wantStatus(t, s, entropy.NodeStatus{})
	})
	bubble("a shard that an owner still lacks after settle is missing", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, func(cfg *entropy.Config, _ *Deps) { cfg.AutoRepairMissing = false })
		for _, o := range []uint64{1, 2} {
			c.Replicas[o].Write(1, "cpu,host=a", "value", old(), 1.0)
			c.Replicas[o].Change(func() { c.Replicas[o].Shards[1].Began = copystate.BegunAt(time.Now()) })
		}
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{})
		pass(61 * time.Second) // the checker looks again by itself
		wantStatus(t, s, entropy.NodeStatus{Shards: []entropy.ShardStatus{{ID: 1, Status: entropy.Missing}}})
	})
	bubble("an owner that could not be told that its copy is whole does not seem to have lost it", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		for _, r := range c.Replicas {
			r.Change(func() { r.Shards[1].Began = copystate.LongAgo })
		}
		c.Replicas[2].Change(func() { c.Replicas[2].Deaf = true })
		pass(2 * time.Minute)
		mustCheck(t, s)
		if c.Replicas[1].Shards[1].Began != copystate.FoundEqual || c.Replicas[2].Shards[1].Began != copystate.LongAgo {
			t.Fatal("it is not as it was to be")
		}
		c.Replicas[3].Write(1, "cpu,host=b", "value", old(), 1.0)
		for _, deaf := range []bool{true, false} {
			c.Replicas[2].Change(func() { c.Replicas[2].Deaf = deaf })
			pass(2 * time.Minute)
			mustCheck(t, s)
			wantStatus(t, s, entropy.NodeStatus{Shards: []entropy.ShardStatus{{ID: 1, Status: entropy.Diff}}})
			c.Replicas[3].Write(1, "cpu,host=b", "value", old()+1, 1.0)
		}
		if c.Replicas[2].Shards[1].Began != copystate.FoundEqual {
			t.Error("it was never told")
		}
	})
	bubble("young windows of a hot shard are not compared", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(2, time.Now().Add(-entropytest.Week/4).UnixNano(), 1.0)
		c.Replicas[2].Write(2, "cpu,host=a", "value", time.Now().UnixNano(), 1.0)
		mustCheck(t, s)
		pass(30 * time.Second)
		c.WriteAll(2, time.Now().Add(-entropytest.Week/4).UnixNano(), 1.0)
		pass(31 * time.Second)
		wantStatus(t, s, entropy.NodeStatus{})
	})
	bubble("without an owner the others are compared", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		c.Replicas[3].SetDown(entropytest.ErrAway)
		pass(2 * time.Minute)
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{Shards: []entropy.ShardStatus{{ID: 1, Status: entropy.Diff}}})
	})
	bubble("only the first reachable owner checks", t, func(t *testing.T, c *entropytest.Cluster) {
		c.ID = 2
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		pass(2 * time.Minute)
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{})
		c.Replicas[1].SetDown(entropytest.ErrAway)
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{Shards: []entropy.ShardStatus{{ID: 1, Status: entropy.Diff}}})
		c.Replicas[1].SetDown(nil)
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{})
	})
	bubble("a copy that lacks points, and refuses some of them, is repaired once for each time that it lost some", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "mem,host=a", "used", old(), 1.0)
		c.Replicas[3].Write(1, "mem,host=b", "used", old(), int64(1))
		pass(2 * time.Minute)
		for gen := range 2 {
			at := old() + 1 + int64(gen)
			c.Replicas[2].Write(1, "cpu,host=a", "value", at, 1.0)
			c.Replicas[3].Change(func() {
				c.Replicas[3].Shards[1].Lack = copystate.Lack{Kind: copystate.Missed, Why: "it lost a write", Gen: uint64(gen + 1)}
			})
			for range 3 {
				pass(2 * time.Minute)
				mustCheck(t, s)
				all, err := s.Repairs(t.Context())
				if err != nil || len(all.Repairs) != gen+1 {
					t.Fatalf("%+v, %v, want %d repairs", all, err, gen+1)
				}
			}
			if st := mustStatus(t, s); len(st.Shards) != 1 || st.Shards[0].Status != entropy.Conflict {
				t.Errorf("%+v", st)
			}
			if got := c.Replicas[3].Dump(1); !strings.Contains(got, strconv.FormatInt(at, 10)+":1") {
				t.Errorf("it still lacks the point: %s", got)
			}
		}
	})
	bubble("types in conflict are named, and everything else is repaired", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, func(cfg *entropy.Config, _ *Deps) { cfg.AutoRepairDiff = true })
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "mem,host=a", "used", old(), 1.0)
		c.Replicas[3].Write(1, "mem,host=b", "used", old(), int64(1)) // in another series
		c.Replicas[3].Write(1, "mem,host=b", "free", old(), int64(1))
		pass(2 * time.Minute)
		mustCheck(t, s) // and the repair of what can be
		conflict := func(on string) []entropy.ShardStatus {
			return []entropy.ShardStatus{{ID: 1, Status: entropy.Conflict, Message: `measurement "mem" field "used" is ` + on + ": choose a type with influxd-ctl entropy resolve"}}
		}
		all := conflict("float on data1:8088, float on data2:8088, integer on data3:8088")
		wantStatus(t, s, entropy.NodeStatus{Shards: all})
		for id, want := range map[uint64]string{
			1: "map[[cpu,host=a value]:map[945172800000000000:1] [mem,host=a used]:map[945172800000000000:1] [mem,host=b free]:map[945172800000000000:1]]",
			2: "map[[cpu,host=a value]:map[945172800000000000:1] [mem,host=a used]:map[945172800000000000:1] [mem,host=b free]:map[945172800000000000:1]]",
			3: "map[[cpu,host=a value]:map[945172800000000000:1] [mem,host=b free]:map[945172800000000000:1] [mem,host=b used]:map[945172800000000000:1]]",
		} {
			if got := c.Replicas[id].Dump(1); got != want {
				t.Errorf("node %d has %s, want %s", id, got, want)
			}
		}
		repairs := func() int {
			all, err := s.Repairs(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return len(all.Repairs)
		}
		if n := repairs(); n != 1 {
			t.Errorf("%d repairs, want 1", n)
		}
		wantConflicts(t, s, 0, 1)
		// What is left does not keep the node busy.
		for range 3 {
			mustCheck(t, s)
			wantStatus(t, s, entropy.NodeStatus{Shards: all})
		}
		if n := repairs(); n != 1 {
			t.Errorf("%d repairs after the checks, want 1", n)
		}
		// Another difference beside it is repaired, too.
		at := old() + 1
		c.Replicas[1].Write(1, "cpu,host=a", "value", at, 1.0)
		pass(2 * time.Minute)
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{Shards: all})
		if got := c.Replicas[2].Dump(1); !strings.Contains(got, strconv.FormatInt(at, 10)+":1") || repairs() != 2 {
			t.Errorf("after %d repairs: %s", repairs(), got)
		}
	})
}

// wantConflicts compares the statistics about points of which owners had different values, and about repairs that ended
// with points that an owner refuses.
func wantConflicts(t *testing.T, s *Service, points, repairs int64) {
	t.Helper()
	values := s.Statistics(nil)[0].Values
	if p, r := values["conflicts"], values["repairsInConflict"]; p != points || r != repairs {
		t.Errorf("conflicts is %v and repairsInConflict %v, want %d and %d", p, r, points, repairs)
	}
}

func TestRepair(t *testing.T) {
	bubble("a missing shard comes back automatically", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.Replicas[2].Write(1, "cpu,host=a", "value", old(), 1.0)
		c.Replicas[3].Write(1, "cpu,host=a", "value", old(), 1.0)
		c.Replicas[3].Write(2, "", "", 0, nil) // empty
		pass(2 * time.Minute)
		mustCheck(t, s)
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{})
		if got, want := c.Replicas[1].Dump(1), c.Replicas[2].Dump(1); got != want {
			t.Errorf("shard 1 is %s, want %s", got, want)
		}
		if got := c.Replicas[1].Dump(2); got != "map[]" {
			t.Errorf("the empty shard is %s", got)
		}
	})
	bubble("a repair keeps to the pace of the node that drives it", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, func(_ *entropy.Config, d *Deps) { d.Pace = pace.New(func() int64 { return 0 }) })
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		pass(2 * time.Minute)
		mustRepair(t, s, 1)
		if !c.Replicas[2].Paced.Load() {
			t.Error("its points were read without")
		}
	})
	type versionOf = func(owner uint64, p patch.Region) uint64
	versions := func(t *testing.T, c *entropytest.Cluster, s *Service, series int, of versionOf) entropy.Decision {
		t.Helper()
		for id, r := range c.Replicas {
			for i := range series {
				r.Write(1, fmt.Sprintf("cpu,host=%d", i), "value", old(), min(float64(id), 2)) // 2 is with the majority
			}
			r.PointVersions = func(p patch.Region) uint64 { return of(id, p) }
		}
		pass(2 * time.Minute)
		mustRepair(t, s, 1)
		all, err := s.Repairs(t.Context())
		if err != nil || len(all.Repairs) != 1 || len(all.Repairs[0].Decided) == 0 {
			t.Fatalf("%v: %+v", err, all)
		}
		return all.Repairs[0].Decided[0]
	}
	bubble("what was written last wins; many series take few questions", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		d := versions(t, c, s, 1000, func(owner uint64, _ patch.Region) uint64 { return 30 - owner })
		wantConflicts(t, s, 1000, 0)
		if d.Value != "1" || d.Why != patch.WhyNewer {
			t.Errorf("%+v", d)
		}
		want := []entropy.Held{
			{Node: "data1:8088", Value: "1", Version: 29}, {Node: "data2:8088", Value: "2", Version: 28},
			{Node: "data3:8088", Value: "2", Version: 27},
		}
		if d := cmp.Diff(want, d.Held); d != "" {
			t.Error(d)
		}
		for id, r := range c.Replicas {
			if a, b := r.Dump(1), c.Replicas[1].Dump(1); a != b {
				t.Errorf("owner %d has %.300s, want %.300s", id, a, b)
			}
			if most := (1000 + 256 - 1) / 256; r.Asked == 0 || r.Asked > most {
				t.Errorf("owner %d was asked %d times about 1,000 series, at most %d are needed", id, r.Asked, most)
			}
		}
	})
	bubble("the value of an owner without versions may be the newest", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		for id, r := range c.Replicas {
			for i := range int64(2048) + 1 { // more than one question has
				r.Write(1, "cpu,host=0", "value", old()+i, float64(id))
			}
		}
		d := versions(t, c, s, 1, func(owner uint64, _ patch.Region) uint64 {
			c.Replicas[3].PointVersions = nil
			return 30 - owner
		})
		if d.Why != patch.WhyMajority { // its value may be the newest
			t.Errorf("%+v", d)
		}
	})
	bubble("a version of a value that was not read decides nothing", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		d := versions(t, c, s, 1, func(owner uint64, p patch.Region) uint64 {
			if owner == 1 {
				c.Replicas[1].Write(1, string(p.Series), p.Field, p.Min, 3.0)
			}
			return 30 - owner
		})
		if d.Value != "2" || d.Why != patch.WhyMajority {
			t.Errorf("%+v", d)
		}
	})
	bubble("missing shards wait for the operator when told so", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, func(cfg *entropy.Config, _ *Deps) { cfg.AutoRepairMissing = false })
		c.Replicas[2].Write(1, "cpu,host=a", "value", old(), 1.0)
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{Shards: []entropy.ShardStatus{{ID: 1, Status: entropy.Missing}}})

		s.SetConfig(entropy.NewConfig())
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{})
		if c.Replicas[1].Dump(1) != c.Replicas[2].Dump(1) {
			t.Error("the reloaded configuration repairs nothing")
		}
	})
	bubble("an owner that has only what was written since it lost the shard", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		lost := c.Replicas[3]
		lost.Change(func() { lost.Shards[1] = nil })
		lost.Write(1, "cpu,host=a", "value", old()+1, 2.0)
		lost.Change(func() { lost.Shards[1].Began = copystate.LongAgo })
		mustCheck(t, s)
		pass(2 * time.Minute)
		mustCheck(t, s)
		synctest.Wait()
		if got, want := c.Replicas[3].Dump(1), c.Replicas[1].Dump(1); got != want || c.Replicas[3].Shards[1].Began != copystate.FoundEqual {
			t.Errorf("it was not repaired automatically: %s, want %s; begun %v", got, want, c.Replicas[3].Shards[1].Began)
		}
	})
	bubble("an owner that was away since a new shard began is not one that lost it", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		for _, r := range c.Replicas {
			r.Change(func() { r.Shards[1].Began = copystate.LongAgo })
		}
		c.Replicas[3].SetDown(errors.New("away"))
		pass(2 * time.Minute)
		mustCheck(t, s)
		for _, id := range []uint64{1, 2} {
			c.Replicas[id].Write(1, "cpu,host=a", "value", old()+1, 2.0)
		}
		pass(2 * time.Minute)
		c.Replicas[3].SetDown(nil)
		mustCheck(t, s)
		pass(2 * time.Minute)
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{Shards: []entropy.ShardStatus{{ID: 1, Status: entropy.Diff}}})
	})
	bubble("what a delete removes during a repair does not come back", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[3].Write(1, "cpu,host=gone", "value", old(), 2.0)
		target := c.Replicas[1]
		target.Overtake = func() { // deleted everywhere after the repair has read it from the third owner
			for id, r := range c.Replicas {
				remove := func() {
					delete(r.Shards[1].Fields, entropytest.Field{"cpu,host=gone", "value"})
					r.Shards[1].Deletes++
				}
				if id == 1 { // which calls this
					remove()
				} else {
					r.Change(remove)
				}
			}
		}
		pass(2 * time.Minute)
		mustRepair(t, s, 1)
		pass(time.Minute)
		synctest.Wait()
		for id, r := range c.Replicas {
			if strings.Contains(r.Dump(1), "gone") {
				t.Errorf("it is back on owner %d", id)
			}
		}
	})
	bubble("writes and deletes beside a repair do not keep it from ending", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[3].Write(1, "cpu,host=a", "value", old(), 2.0) // just now: it may be on its way to the others
		tick := time.NewTicker(10 * time.Second)
		defer tick.Stop()
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			for {
				select {
				case <-tick.C:
				case <-stop:
					return
				}
				c.WriteAll(1, old()+int64(time.Hour), 3.0)
				for _, r := range c.Replicas {
					r.Change(func() { r.Shards[1].Deletes++ })
				}
			}
		}()
		mustRepair(t, s, 1)
		pass(3 * time.Minute)
		for id, r := range c.Replicas {
			if a, b := r.Dump(1), c.Replicas[1].Dump(1); a != b {
				t.Errorf("owner %d has %s, and owner 1 %s", id, a, b)
			}
		}
		wantStatus(t, s, entropy.NodeStatus{})
	})
	bubble("paused repairs wait, also over a restart, and are recorded", t, func(t *testing.T, c *entropytest.Cluster) {
		dir := t.TempDir()
		open := func() *Service { return mustOpen(t, c, func(_ *entropy.Config, d *Deps) { d.Dir = dir }) }
		s := open()
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=new", "value", old(), 2.0)
		pass(2 * time.Minute)
		if err := errors.Join(s.Pause(t.Context(), true), s.Repair(t.Context(), 1)); err != nil {
			t.Fatal(err)
		}
		pass(time.Hour)
		all, err := s.Repairs(t.Context())
		if err != nil || !all.Paused || len(all.Repairs) != 1 || all.Repairs[0].State != entropy.Waiting {
			t.Fatalf("while paused: %+v, %v", all, err)
		}
		s.Close()
		s = open()
		pass(time.Hour)
		if all, err = s.Repairs(t.Context()); err != nil || !all.Paused || len(all.Repairs) != 1 || all.Repairs[0].State != entropy.Waiting {
			t.Fatalf("after a restart: %+v, %v", all, err)
		}
		if err := s.Pause(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		all, err = s.Repairs(t.Context())
		if err != nil || all.Paused || len(all.Repairs) != 1 {
			t.Fatalf("resumed: %+v, %v", all, err)
		}
		if r := all.Repairs[0]; r.State != entropy.Done || r.Points != 2 || len(r.Owners) != 3 || r.Progress() != 1 || r.Ended.IsZero() || r.Rounds == 0 {
			t.Errorf("the record is %+v", r)
		}
	})
	bubble("a dry run counts and changes nothing", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		at := old()
		c.WriteAll(1, at, 1.0)
		for i := range int64(5) {
			c.Replicas[2].Write(1, "cpu,host=new", "value", at+i, 2.0)
		}
		c.Replicas[3].Write(1, "cpu,host=new", "value", at, 3.0)
		before := c.Replicas[1].Dump(1) + c.Replicas[2].Dump(1) + c.Replicas[3].Dump(1)
		pass(2 * time.Minute)
		d, err := s.Diff(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		var pairs []patch.Compared
		for _, p := range d.Pairs {
			pairs = append(pairs, p.Compared)
		}
		want := []patch.Compared{{LackingA: 5}, {LackingA: 1}, {LackingB: 4, ValueConflicts: 1}}
		if diff := cmp.Diff(want, pairs); diff != "" || d.Count != 1 || len(d.Fields) != 1 || d.Fields[0].Series != "cpu,host=new" || d.Bytes == 0 || len(d.Owners) != 3 {
			t.Errorf("%s\n%+v", diff, d)
		}
		if d.Fields[0].Start > at || d.Fields[0].End <= at+4 {
			t.Errorf("the range [%d, %d) does not have the points at %d", d.Fields[0].Start, d.Fields[0].End, at)
		}
		if before != c.Replicas[1].Dump(1)+c.Replicas[2].Dump(1)+c.Replicas[3].Dump(1) {
			t.Error("a dry run changed something")
		}
		if _, err := s.Diff(t.Context(), 99); !errors.Is(err, entropy.ErrUnknownShard) {
			t.Errorf("an unknown shard: %v", err)
		}
	})
	bubble("a dry run shows who has which value, of which version, and which one would win", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		at := old()
		for id, r := range c.Replicas {
			r.Write(1, "cpu,host=a", "value", at, min(float64(id), 2)) // 2 is with the majority
			r.PointVersions = func(patch.Region) uint64 { return map[uint64]uint64{1: 29, 2: 28}[id] }
		}
		pass(2 * time.Minute)
		held := []entropy.Held{
			{Node: "data1:8088", Value: "1", Version: 29}, {Node: "data2:8088", Value: "2", Version: 28},
			{Node: "data3:8088", Value: "2"},
		}
		want := entropy.Decision{
			Series: "cpu,host=a", Field: "value", Time: at, Value: "1", Why: patch.WhyNewer, Held: held,
		}
		diff := func() []entropy.Decision {
			t.Helper()
			d, err := s.Diff(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			return d.Decided
		}
		if d := cmp.Diff([]entropy.Decision{want}, diff()); d != "" {
			t.Error(d)
		}
		c.Replicas[3].Change(func() { c.Replicas[3].Shards[1].Lack = copystate.Lack{Kind: copystate.Missed, Gen: 1} })
		c.Replicas[1].PointVersions = nil
		want.Value, want.Why = "2", patch.WhyOrder
		held[0].Version = 0
		if d := cmp.Diff([]entropy.Decision{want}, diff()); d != "" {
			t.Errorf("when the third lacks writes: %s", d)
		}
		c.Replicas[2].Write(1, "cpu,host=a", "value", at, 1.0)
		c.Replicas[2].PointVersions = nil
		held[1].Version, held[1].Value, want.Value, want.Why = 0, "1", "1", patch.WhyWhole
		if d := cmp.Diff([]entropy.Decision{want}, diff()); d != "" {
			t.Errorf("when the other two agree: %s", d)
		}
		c.Replicas[3].SetDown(entropytest.ErrAway)
		c.Replicas[2].Write(1, "cpu,host=a", "value", at, 2.0)
		want.Value, want.Why, want.Open, want.Held = "", patch.WhyAbsent, true, held[:2]
		held[1].Value = "2"
		if d := cmp.Diff([]entropy.Decision{want}, diff()); d != "" {
			t.Errorf("when the third is away: %s", d)
		}
	})
	bubble("two owners decide nothing that the third could turn", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		at := old()
		c.WriteAll(1, at, 9.0) // the older value is the greater: a tie would take it
		c.Replicas[2].Write(1, "cpu,host=a", "value", at, 1.0)
		c.Replicas[3].Write(1, "cpu,host=a", "value", at, 1.0)
		c.Replicas[1].Write(1, "cpu,host=b", "value", at, 2.0)
		c.Replicas[3].SetDown(entropytest.ErrAway)
		pass(2 * time.Minute)
		mustRepair(t, s, 1)
		for id, want := range map[uint64]any{1: 9.0, 2: 1.0} {
			if got := c.Replicas[id].Shards[1].Fields[entropytest.Field{"cpu,host=a", "value"}][at]; got != want {
				t.Errorf("without the third owner, owner %d has %v, want %v", id, got, want)
			}
		}
		if c.Replicas[2].Shards[1].Fields[entropytest.Field{"cpu,host=b", "value"}][at] != 2.0 {
			t.Error("a point that is not in doubt waits for the third owner")
		}
		c.Replicas[3].SetDown(nil)
		pass(10 * time.Minute)
		synctest.Wait()
		for id, r := range c.Replicas {
			if got := r.Shards[1].Fields[entropytest.Field{"cpu,host=a", "value"}][at]; got != 1.0 {
				t.Errorf("with all owners, owner %d has %v, want what most have, 1", id, got)
			}
		}
	})
	bubble("all owners get all points", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		for i, r := range []*entropytest.Replica{c.Replicas[1], c.Replicas[2], c.Replicas[3]} {
			for n := range int64(200) {
				r.Write(1, "cpu,host="+strings.Repeat("x", int(n)), "value", old()+n*int64(time.Hour)/2+int64(i), float64(n))
			}
		}
		pass(2 * time.Minute)
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{Shards: []entropy.ShardStatus{{ID: 1, Status: entropy.Diff}}})
		mustRepair(t, s, 1)
		wantStatus(t, s, entropy.NodeStatus{})
		if c.Replicas[1].Dump(1) != c.Replicas[2].Dump(1) || c.Replicas[1].Dump(1) != c.Replicas[3].Dump(1) {
			t.Error("owners differ after the repair")
		}
		if got := s.Statistics(nil)[0].Values["pointsRepaired"]; got != int64(1200) {
			t.Errorf("pointsRepaired = %v, want 1200", got)
		}
	})
	bubble("an unreachable owner keeps the shard queued, the others are repaired", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		c.Replicas[3].SetDown(entropytest.ErrAway)
		pass(2 * time.Minute)
		mustRepair(t, s, 1)
		wantStatus(t, s, entropy.NodeStatus{Shards: []entropy.ShardStatus{{ID: 1, Status: entropy.Diff}}, Queued: []uint64{1}})
		if c.Replicas[1].Dump(1) != c.Replicas[2].Dump(1) {
			t.Error("reachable owners differ")
		}
		it := s.queue.list()[0]
		if it.Attempts != 1 || !strings.Contains(it.Error, "data3:8088") {
			t.Errorf("queued as %+v, want the name of the owner in the error", it)
		}
		c.Replicas[3].SetDown(nil)
		pass(10 * time.Second)
		wantStatus(t, s, entropy.NodeStatus{})
		if c.Replicas[1].Dump(1) != c.Replicas[3].Dump(1) {
			t.Error("the owner that came back differs")
		}
	})
	bubble("what a copy lost is repaired at once, although an owner that is away had earlier attempts fail", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		c.Replicas[3].SetDown(entropytest.ErrAway)
		pass(2 * time.Minute)
		mustRepair(t, s, 1)
		pass(3 * time.Minute)
		it := s.queue.list()[0]
		if wait := time.Until(it.Next); wait < 30*time.Second {
			t.Fatalf("the next attempt is in %v: this shows nothing", wait)
		}
		c.Replicas[2].Change(func() {
			c.Replicas[2].Shards[1].Lack = copystate.Lack{Kind: copystate.Missed, Why: "it lost a write", Gen: 1}
		})
		c.Replicas[1].Write(1, "cpu,host=b", "value", old()+1, 2.0)
		mustCheck(t, s)
		pass(time.Second)
		if c.Replicas[1].Dump(1) != c.Replicas[2].Dump(1) {
			t.Error("the copy still lacks what it lost")
		}
		attempts := s.queue.list()[0].Attempts
		mustCheck(t, s)
		pass(time.Second)
		if got := s.queue.list()[0].Attempts; got != attempts || attempts != it.Attempts+1 {
			t.Errorf("%d attempts, then %d, then %d: want one more, once", it.Attempts, attempts, got)
		}
	})
	bubble("a repair that waited long for hinted handoff begins soon after it", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[1].Write(1, "cpu,host=b", "value", old(), 1.0)
		hints := func(to ...uint64) {
			c.Replicas[1].Change(func() { c.Replicas[1].Shards[1].Hints = to })
		}
		hints(3)
		mustRepair(t, s, 1)
		pass(time.Hour)
		if it := s.queue.list()[0]; it.Attempts != 0 || !strings.Contains(it.Error, "hinted handoff") {
			t.Errorf("queued as %+v, want no failed attempt, and what it waits for", it)
		}
		hints()
		pass(maxWait + time.Second)
		wantStatus(t, s, entropy.NodeStatus{})
		if c.Replicas[1].Dump(1) != c.Replicas[3].Dump(1) {
			t.Error("owners differ")
		}
	})
	bubble("a running repair is canceled", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		c.Replicas[2].Block = make(chan struct{})
		pass(2 * time.Minute)
		mustRepair(t, s, 1)
		diff := []entropy.ShardStatus{{ID: 1, Status: entropy.Diff}}
		wantStatus(t, s, entropy.NodeStatus{Shards: diff, Queued: []uint64{1}, Processing: []uint64{1}})
		if err := s.CancelRepair(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantStatus(t, s, entropy.NodeStatus{Shards: diff})
		if n := s.report.JobsActive.Load(); n != 0 {
			t.Errorf("%d jobs are active", n)
		}
	})
	bubble("the queue survives a restart", t, func(t *testing.T, c *entropytest.Cluster) {
		dir := t.TempDir()
		same := func(_ *entropy.Config, d *Deps) { d.Dir = dir }
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		c.Replicas[2].Block = make(chan struct{})
		s := mustOpen(t, c, same)
		mustRepair(t, s, 1)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		close(c.Replicas[2].Block)
		s = mustOpen(t, c, same)
		synctest.Wait()
		wantStatus(t, s, entropy.NodeStatus{})
		if c.Replicas[1].Dump(1) != c.Replicas[2].Dump(1) {
			t.Error("owners differ")
		}
	})
	bubble("files of missing shards are copied beside a repair", t, func(t *testing.T, c *entropytest.Cluster) {
		now := time.Now()
		c.SetGroups(0, now.Add(-9*entropytest.Week), now.Add(-8*entropytest.Week), now.Add(-7*entropytest.Week), now.Add(-6*entropytest.Week), now.Add(-5*entropytest.Week))
		s := mustOpen(t, c, func(cfg *entropy.Config, _ *Deps) { cfg.MaxFetch = 3 })
		var most, now3 int
		let := make(chan struct{})
		c.Replicas[3].Files = func(ctx context.Context, id uint64) error {
			c.Replicas[3].Change(func() { now3++; most = max(most, now3) })
			<-let
			c.Replicas[3].Change(func() {
				now3--
				c.Replicas[3].Shards[id] = &entropytest.Shard{Fields: map[entropytest.Field]map[int64]any{{"cpu,host=a", "value"}: {old(): 1.0}}}
			})
			return nil
		}
		for id := uint64(1); id <= 5; id++ {
			c.Replicas[1].Write(id, "cpu,host=a", "value", old(), 1.0)
			c.Replicas[2].Write(id, "cpu,host=a", "value", old(), 1.0)
		}
		pass(2 * time.Minute)
		mustCheck(t, s)
		st := mustStatus(t, s)
		if d := cmp.Diff([]uint64{1, 2, 3}, st.Processing); d != "" {
			t.Error(d)
		}
		all, err := s.Repairs(t.Context())
		if err != nil || all.Repairs[0].State != entropy.Running || all.Repairs[0].Progress() != 0.25 {
			t.Errorf("%v, %+v", err, all)
		}
		close(let)
		pass(time.Minute)
		wantStatus(t, s, entropy.NodeStatus{})
		if most != 3 {
			t.Errorf("%d shards were copied at a time, want max-fetch, which is 3", most)
		}
		for id := uint64(1); id <= 5; id++ {
			if a, b := c.Replicas[1].Dump(id), c.Replicas[3].Dump(id); a != b {
				t.Errorf("shard %d: %s and %s", id, a, b)
			}
		}
	})
	bubble("a shard whose files do not come gets its points at last", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.Replicas[1].Write(1, "cpu,host=a", "value", old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=a", "value", old(), 1.0)
		tries := 0
		c.Replicas[3].Files = func(context.Context, uint64) error { tries++; return entropytest.ErrAway }
		mustRepair(t, s, 1)
		pass(time.Minute)
		wantStatus(t, s, entropy.NodeStatus{})
		if a, b := c.Replicas[1].Dump(1), c.Replicas[3].Dump(1); a != b || tries != 3 {
			t.Errorf("after %d tries: %s and %s", tries, a, b)
		}
	})
	bubble("a shard that is dropped during its repair is not made anew", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[3].Write(1, "cpu,host=b", "value", old(), 1.0)
		let := make(chan struct{})
		c.Replicas[3].Change(func() { c.Replicas[3].Block = let })
		pass(2 * time.Minute)
		mustRepair(t, s, 1) // it fetches
		c.SetGroups(0)
		for id := uint64(1); id <= 3; id++ {
			c.Replicas[id].Change(func() { delete(c.Replicas[id].Shards, 1) })
		}
		close(let)
		pass(time.Minute)
		for id, r := range c.Replicas {
			if got := r.Dump(1); got != "missing" {
				t.Errorf("owner %d has %s", id, got)
			}
		}
		if n := s.queue.len(); n != 0 {
			t.Errorf("%d shards are queued", n)
		}
	})
	bubble("expired and dropped shards leave", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		c.Replicas[3].SetDown(entropytest.ErrAway)
		pass(2 * time.Minute)
		mustCheck(t, s)
		mustRepair(t, s, 1)
		c.SetGroups(time.Hour, time.Now().Add(-3*entropytest.Week), time.Now())
		wantStatus(t, s, entropy.NodeStatus{})
		mustCheck(t, s)
		if n := s.queue.len(); n != 0 {
			t.Errorf("%d shards are queued", n)
		}
	})
}

func TestBackoffDoublesUpToFiveMinutes(t *testing.T) {
	for attempts, want := range map[int]time.Duration{
		1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 9: 256 * time.Second, 10: 5 * time.Minute, 1000: 5 * time.Minute,
	} {
		if got := backoff(attempts); got != want {
			t.Errorf("backoff(%d) = %s, want %s", attempts, got, want)
		}
	}
}

func TestQueueRecordWithBadChecksumKeepsItsPlace(t *testing.T) {
	v, err := encodeQueued(queued{ID: 7, Attempts: 3})
	if err != nil {
		t.Fatal(err)
	}
	if got := decodeQueued(7, v); got.Attempts != 3 {
		t.Errorf("decoded %+v", got)
	}
	v[len(v)-2] ^= 1
	if got := decodeQueued(7, v); got != (queued{ID: 7}) {
		t.Errorf("decoded %+v from a damaged record", got)
	}
}
