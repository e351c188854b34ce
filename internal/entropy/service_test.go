package entropy

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
	"github.com/influxdata/influxdb/models"

	"concord/internal/copystate"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/pace"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile"
)

// old is a time in shard 1.
func old() int64 { return time.Now().Add(-2*week - week/2).UnixNano() }

func bubble(name string, t *testing.T, fn func(*testing.T, *fakeCluster)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { fn(t, newCluster()) }) })
}

func wantStatus(t *testing.T, s *Service, want NodeStatus) {
	t.Helper()
	want.Enabled = true
	if d := cmp.Diff(want, mustStatus(t, s)); d != "" {
		t.Errorf("status (-want +got):\n%s", d)
	}
}

func TestCheck(t *testing.T) {
	bubble("equal copies are clean", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		c.writeAll(1, old(), 1.0)
		pass(2 * time.Minute)
		mustCheck(t, s)
		wantStatus(t, s, NodeStatus{})
	})
	bubble("a shard that nobody has is clean", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		mustCheck(t, s)
		wantStatus(t, s, NodeStatus{})
	})
	bubble("a difference at rest is reported at once", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		c.writeAll(1, old(), 1.0)
		c.replicas[2].write(1, "cpu,host=b", "value", old(), 1.0)
		pass(2 * time.Minute)
		mustCheck(t, s)
		wantStatus(t, s, NodeStatus{Shards: []ShardStatus{{ID: 1, Status: Diff}}})
	})
	bubble("a difference under writes counts when it is seen again after settle", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		c.writeAll(1, old(), 1.0)
		c.replicas[2].write(1, "cpu,host=b", "value", old(), 1.0)
		mustCheck(t, s)
		wantStatus(t, s, NodeStatus{})
		pass(30 * time.Second)
		c.writeAll(1, old()+1, 1.0)
		pass(31 * time.Second) // the checker looks again by itself
		wantStatus(t, s, NodeStatus{Shards: []ShardStatus{{ID: 1, Status: Diff}}})
	})
	bubble("under writes, a window that differs in another way each time is not entropy", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		at := old()
		c.writeAll(1, at, 0.0)
		for i := range 10 { // owner 2 has each write before the others
			c.replicas[2].write(1, "cpu,host=b", "value", at, float64(i))
			if i == 0 {
				mustCheck(t, s)
			}
			pass(31 * time.Second) // the checker looks again by itself
			wantStatus(t, s, NodeStatus{})
			c.replicas[1].write(1, "cpu,host=b", "value", at, float64(i))
			c.replicas[3].write(1, "cpu,host=b", "value", at, float64(i))
		}
	})
	bubble("a write in flight is not entropy", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		at := old()
		c.writeAll(1, at, 1.0)
		c.replicas[2].write(1, "cpu,host=b", "value", at, 1.0)
		mustCheck(t, s)
		c.replicas[1].write(1, "cpu,host=b", "value", at, 1.0)
		c.replicas[3].write(1, "cpu,host=b", "value", at, 1.0)
		pass(2 * time.Minute)
		wantStatus(t, s, NodeStatus{})
	})
	bubble("a shard whose first write is on its way to an owner is not missing there", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		begin := func(owners ...uint64) {
			for _, o := range owners {
				c.replicas[o].write(1, "cpu,host=a", "value", old(), 1.0)
				c.replicas[o].change(func() { c.replicas[o].shards[1].began = copystate.BegunAt(time.Now()) })
			}
		}
		begin(1, 2)
		mustCheck(t, s)
		wantStatus(t, s, NodeStatus{})
		begin(3)
		pass(61 * time.Second) // the checker looks again by itself
		wantStatus(t, s, NodeStatus{})
	})
	bubble("a shard that an owner still lacks after settle is missing", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, func(cfg *Config, _ *Deps) { cfg.AutoRepairMissing = false })
		for _, o := range []uint64{1, 2} {
			c.replicas[o].write(1, "cpu,host=a", "value", old(), 1.0)
			c.replicas[o].change(func() { c.replicas[o].shards[1].began = copystate.BegunAt(time.Now()) })
		}
		mustCheck(t, s)
		wantStatus(t, s, NodeStatus{})
		pass(61 * time.Second) // the checker looks again by itself
		wantStatus(t, s, NodeStatus{Shards: []ShardStatus{{ID: 1, Status: Missing}}})
	})
	bubble("an owner that could not be told that its copy is whole does not seem to have lost it", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		c.writeAll(1, old(), 1.0)
		for _, r := range c.replicas {
			r.change(func() { r.shards[1].began = copystate.LongAgo })
		}
		c.replicas[2].change(func() { c.replicas[2].deaf = true })
		pass(2 * time.Minute)
		mustCheck(t, s)
		if c.replicas[1].shards[1].began != copystate.FoundEqual || c.replicas[2].shards[1].began != copystate.LongAgo {
			t.Fatal("it is not as it was to be")
		}
		c.replicas[3].write(1, "cpu,host=b", "value", old(), 1.0)
		for _, deaf := range []bool{true, false} {
			c.replicas[2].change(func() { c.replicas[2].deaf = deaf })
			pass(2 * time.Minute)
			mustCheck(t, s)
			wantStatus(t, s, NodeStatus{Shards: []ShardStatus{{ID: 1, Status: Diff}}})
			c.replicas[3].write(1, "cpu,host=b", "value", old()+1, 1.0)
		}
		if c.replicas[2].shards[1].began != copystate.FoundEqual {
			t.Error("it was never told")
		}
	})
	bubble("young windows of a hot shard are not compared", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		c.writeAll(2, time.Now().Add(-week/4).UnixNano(), 1.0)
		c.replicas[2].write(2, "cpu,host=a", "value", time.Now().UnixNano(), 1.0)
		mustCheck(t, s)
		pass(30 * time.Second)
		c.writeAll(2, time.Now().Add(-week/4).UnixNano(), 1.0)
		pass(31 * time.Second)
		wantStatus(t, s, NodeStatus{})
	})
	bubble("without an owner the others are compared", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		c.writeAll(1, old(), 1.0)
		c.replicas[2].write(1, "cpu,host=b", "value", old(), 1.0)
		c.replicas[3].setDown(errAway)
		pass(2 * time.Minute)
		mustCheck(t, s)
		wantStatus(t, s, NodeStatus{Shards: []ShardStatus{{ID: 1, Status: Diff}}})
	})
	bubble("only the first reachable owner checks", t, func(t *testing.T, c *fakeCluster) {
		c.id = 2
		s := mustOpen(t, c, nil)
		c.writeAll(1, old(), 1.0)
		c.replicas[2].write(1, "cpu,host=b", "value", old(), 1.0)
		pass(2 * time.Minute)
		mustCheck(t, s)
		wantStatus(t, s, NodeStatus{})
		c.replicas[1].setDown(errAway)
		mustCheck(t, s)
		wantStatus(t, s, NodeStatus{Shards: []ShardStatus{{ID: 1, Status: Diff}}})
		c.replicas[1].setDown(nil)
		mustCheck(t, s)
		wantStatus(t, s, NodeStatus{})
	})
	bubble("a copy that lacks points, and refuses some of them, is repaired once for each time that it lost some", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		c.writeAll(1, old(), 1.0)
		c.replicas[2].write(1, "mem,host=a", "used", old(), 1.0)
		c.replicas[3].write(1, "mem,host=b", "used", old(), int64(1))
		pass(2 * time.Minute)
		for gen := range 2 {
			at := old() + 1 + int64(gen)
			c.replicas[2].write(1, "cpu,host=a", "value", at, 1.0)
			c.replicas[3].change(func() {
				c.replicas[3].shards[1].lack = copystate.Lack{Kind: copystate.Missed, Why: "it lost a write", Gen: uint64(gen + 1)}
			})
			for range 3 {
				pass(2 * time.Minute)
				mustCheck(t, s)
				all, err := s.Repairs(t.Context())
				if err != nil || len(all.Repairs) != gen+1 {
					t.Fatalf("%+v, %v, want %d repairs", all, err, gen+1)
				}
			}
			if st := mustStatus(t, s); len(st.Shards) != 1 || st.Shards[0].Status != Conflict {
				t.Errorf("%+v", st)
			}
			if got := c.replicas[3].dump(1); !strings.Contains(got, strconv.FormatInt(at, 10)+":1") {
				t.Errorf("it still lacks the point: %s", got)
			}
		}
	})
	bubble("types in conflict are named, and everything else is repaired", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, func(cfg *Config, _ *Deps) { cfg.AutoRepairDiff = true })
		c.writeAll(1, old(), 1.0)
		c.replicas[2].write(1, "mem,host=a", "used", old(), 1.0)
		c.replicas[3].write(1, "mem,host=b", "used", old(), int64(1)) // in another series
		c.replicas[3].write(1, "mem,host=b", "free", old(), int64(1))
		pass(2 * time.Minute)
		mustCheck(t, s) // and the repair of what can be
		conflict := func(on string) []ShardStatus {
			return []ShardStatus{{ID: 1, Status: Conflict, Message: `measurement "mem" field "used" is ` + on + ": choose a type with influxd-ctl entropy resolve"}}
		}
		all := conflict("float on data1:8088, float on data2:8088, integer on data3:8088")
		wantStatus(t, s, NodeStatus{Shards: all})
		for id, want := range map[uint64]string{
			1: "map[{cpu,host=a value}:map[945172800000000000:1] {mem,host=a used}:map[945172800000000000:1] {mem,host=b free}:map[945172800000000000:1]]",
			2: "map[{cpu,host=a value}:map[945172800000000000:1] {mem,host=a used}:map[945172800000000000:1] {mem,host=b free}:map[945172800000000000:1]]",
			3: "map[{cpu,host=a value}:map[945172800000000000:1] {mem,host=b free}:map[945172800000000000:1] {mem,host=b used}:map[945172800000000000:1]]",
		} {
			if got := c.replicas[id].dump(1); got != want {
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
			wantStatus(t, s, NodeStatus{Shards: all})
		}
		if n := repairs(); n != 1 {
			t.Errorf("%d repairs after the checks, want 1", n)
		}
		// Another difference beside it is repaired, too.
		at := old() + 1
		c.replicas[1].write(1, "cpu,host=a", "value", at, 1.0)
		pass(2 * time.Minute)
		mustCheck(t, s)
		wantStatus(t, s, NodeStatus{Shards: all})
		if got := c.replicas[2].dump(1); !strings.Contains(got, strconv.FormatInt(at, 10)+":1") || repairs() != 2 {
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
	bubble("a missing shard comes back unasked", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		c.replicas[2].write(1, "cpu,host=a", "value", old(), 1.0)
		c.replicas[3].write(1, "cpu,host=a", "value", old(), 1.0)
		c.replicas[3].write(2, "", "", 0, nil) // empty
		pass(2 * time.Minute)
		mustCheck(t, s)
		mustCheck(t, s)
		wantStatus(t, s, NodeStatus{})
		if got, want := c.replicas[1].dump(1), c.replicas[2].dump(1); got != want {
			t.Errorf("shard 1 is %s, want %s", got, want)
		}
		if got := c.replicas[1].dump(2); got != "map[]" {
			t.Errorf("the empty shard is %s", got)
		}
	})
	bubble("a repair keeps to the pace of the node that drives it", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, func(_ *Config, d *Deps) { d.Pace = pace.New(func() int64 { return 0 }) })
		c.writeAll(1, old(), 1.0)
		c.replicas[2].write(1, "cpu,host=b", "value", old(), 1.0)
		pass(2 * time.Minute)
		mustRepair(t, s, 1)
		if !c.replicas[2].paced.Load() {
			t.Error("its points were read without")
		}
	})
	type versionOf = func(owner uint64, p patch.Region) uint64
	versions := func(t *testing.T, c *fakeCluster, s *Service, series int, of versionOf) patch.Decision {
		t.Helper()
		for id, r := range c.replicas {
			for i := range series {
				r.write(1, fmt.Sprintf("cpu,host=%d", i), "value", old(), min(float64(id), 2)) // 2 is with the majority
			}
			r.versions = func(p patch.Region) uint64 { return of(id, p) }
		}
		pass(2 * time.Minute)
		mustRepair(t, s, 1)
		all, err := s.Repairs(t.Context())
		if err != nil || len(all.Repairs) != 1 || len(all.Repairs[0].Decided) == 0 {
			t.Fatalf("%v: %+v", err, all)
		}
		return all.Repairs[0].Decided[0]
	}
	bubble("what was written last wins; many series take few questions", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		d := versions(t, c, s, 1000, func(owner uint64, _ patch.Region) uint64 { return 30 - owner })
		wantConflicts(t, s, 1000, 0)
		if d.Value != "1" || d.Why != patch.WhyNewer {
			t.Errorf("%+v", d)
		}
		for id, r := range c.replicas {
			if a, b := r.dump(1), c.replicas[1].dump(1); a != b {
				t.Errorf("owner %d has %.300s, want %.300s", id, a, b)
			}
			if most := (1000 + conflictPieces - 1) / conflictPieces; r.asked == 0 || r.asked > most {
				t.Errorf("owner %d was asked %d times about 1,000 series, at most %d are needed", id, r.asked, most)
			}
		}
	})
	bubble("the value of an owner without versions may be the newest", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		for id, r := range c.replicas {
			for i := range int64(maxParts) + 1 { // more than one question has
				r.write(1, "cpu,host=0", "value", old()+i, float64(id))
			}
		}
		d := versions(t, c, s, 1, func(owner uint64, _ patch.Region) uint64 {
			c.replicas[3].versions = nil
			return 30 - owner
		})
		if d.Why != patch.WhyMajority { // its value may be the newest
			t.Errorf("%+v", d)
		}
	})
	bubble("a version of a value that was not read decides nothing", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		d := versions(t, c, s, 1, func(owner uint64, p patch.Region) uint64 {
			if owner == 1 {
				c.replicas[1].write(1, string(p.Series), p.Field, p.Min, 3.0)
			}
			return 30 - owner
		})
		if d.Value != "2" || d.Why != patch.WhyMajority {
			t.Errorf("%+v", d)
		}
	})
	bubble("missing shards wait for the operator when told so", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, func(cfg *Config, _ *Deps) { cfg.AutoRepairMissing = false })
		c.replicas[2].write(1, "cpu,host=a", "value", old(), 1.0)
		mustCheck(t, s)
		wantStatus(t, s, NodeStatus{Shards: []ShardStatus{{ID: 1, Status: Missing}}})

		s.SetConfig(NewConfig())
		mustCheck(t, s)
		wantStatus(t, s, NodeStatus{})
		if c.replicas[1].dump(1) != c.replicas[2].dump(1) {
			t.Error("the reloaded configuration repairs nothing")
		}
	})
	bubble("an owner that has only what was written since it lost the shard", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		c.writeAll(1, old(), 1.0)
		lost := c.replicas[3]
		lost.change(func() { lost.shards[1] = nil })
		lost.write(1, "cpu,host=a", "value", old()+1, 2.0)
		lost.change(func() { lost.shards[1].began = copystate.LongAgo })
		mustCheck(t, s)
		pass(2 * time.Minute)
		mustCheck(t, s)
		synctest.Wait()
		if got, want := c.replicas[3].dump(1), c.replicas[1].dump(1); got != want || c.replicas[3].shards[1].began != copystate.FoundEqual {
			t.Errorf("it was not repaired unasked: %s, want %s; begun %v", got, want, c.replicas[3].shards[1].began)
		}
	})
	bubble("an owner that was away since a new shard began is not one that lost it", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		c.writeAll(1, old(), 1.0)
		for _, r := range c.replicas {
			r.change(func() { r.shards[1].began = copystate.LongAgo })
		}
		c.replicas[3].setDown(errors.New("away"))
		pass(2 * time.Minute)
		mustCheck(t, s)
		for _, id := range []uint64{1, 2} {
			c.replicas[id].write(1, "cpu,host=a", "value", old()+1, 2.0)
		}
		pass(2 * time.Minute)
		c.replicas[3].setDown(nil)
		mustCheck(t, s)
		pass(2 * time.Minute)
		mustCheck(t, s)
		wantStatus(t, s, NodeStatus{Shards: []ShardStatus{{ID: 1, Status: Diff}}})
	})
	bubble("what a delete removes during a repair does not come back", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		c.writeAll(1, old(), 1.0)
		c.replicas[3].write(1, "cpu,host=gone", "value", old(), 2.0)
		target := c.replicas[1]
		target.overtake = func() { // deleted everywhere after the repair has read it from the third owner
			for id, r := range c.replicas {
				if id != 1 {
					r.mu.Lock()
					defer r.mu.Unlock()
				}
				delete(r.shards[1].fields, fieldKey{"cpu,host=gone", "value"})
				r.shards[1].deletes++
			}
		}
		pass(2 * time.Minute)
		mustRepair(t, s, 1)
		pass(time.Minute)
		synctest.Wait()
		for id, r := range c.replicas {
			if strings.Contains(r.dump(1), "gone") {
				t.Errorf("it is back on owner %d", id)
			}
		}
	})
	bubble("paused repairs wait, also over a restart, and are recorded", t, func(t *testing.T, c *fakeCluster) {
		dir := t.TempDir()
		open := func() *Service { return mustOpen(t, c, func(_ *Config, d *Deps) { d.Dir = dir }) }
		s := open()
		c.writeAll(1, old(), 1.0)
		c.replicas[2].write(1, "cpu,host=new", "value", old(), 2.0)
		pass(2 * time.Minute)
		if err := errors.Join(s.Pause(t.Context(), true), s.Repair(t.Context(), 1)); err != nil {
			t.Fatal(err)
		}
		pass(time.Hour)
		all, err := s.Repairs(t.Context())
		if err != nil || !all.Paused || len(all.Repairs) != 1 || all.Repairs[0].State != Waiting {
			t.Fatalf("while paused: %+v, %v", all, err)
		}
		s.Close()
		s = open()
		pass(time.Hour)
		if all, err = s.Repairs(t.Context()); err != nil || !all.Paused || len(all.Repairs) != 1 || all.Repairs[0].State != Waiting {
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
		if r := all.Repairs[0]; r.State != Done || r.Points != 2 || len(r.Owners) != 3 || r.Progress() != 1 || r.Ended.IsZero() || r.Rounds == 0 {
			t.Errorf("the record is %+v", r)
		}
	})
	bubble("a dry run counts and changes nothing", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		at := old()
		c.writeAll(1, at, 1.0)
		for i := range int64(5) {
			c.replicas[2].write(1, "cpu,host=new", "value", at+i, 2.0)
		}
		c.replicas[3].write(1, "cpu,host=new", "value", at, 3.0)
		before := c.replicas[1].dump(1) + c.replicas[2].dump(1) + c.replicas[3].dump(1)
		pass(2 * time.Minute)
		d, err := s.Diff(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		var pairs []patch.Compared
		for _, p := range d.Pairs {
			pairs = append(pairs, p.Compared)
		}
		want := []patch.Compared{{MissingA: 5}, {MissingA: 1}, {MissingB: 4, Conflicts: 1}}
		if diff := cmp.Diff(want, pairs); diff != "" || d.Count != 1 || len(d.Fields) != 1 || d.Fields[0].Series != "cpu,host=new" || d.Bytes == 0 || len(d.Owners) != 3 {
			t.Errorf("%s\n%+v", diff, d)
		}
		if d.Fields[0].Start > at || d.Fields[0].End <= at+4 {
			t.Errorf("the range [%d, %d) does not have the points at %d", d.Fields[0].Start, d.Fields[0].End, at)
		}
		if before != c.replicas[1].dump(1)+c.replicas[2].dump(1)+c.replicas[3].dump(1) {
			t.Error("a dry run changed something")
		}
		if _, err := s.Diff(t.Context(), 99); !errors.Is(err, ErrUnknownShard) {
			t.Errorf("an unknown shard: %v", err)
		}
	})
	bubble("two owners decide nothing that the third could turn", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		at := old()
		c.writeAll(1, at, 9.0) // the older value is the greater: a tie would take it
		c.replicas[2].write(1, "cpu,host=a", "value", at, 1.0)
		c.replicas[3].write(1, "cpu,host=a", "value", at, 1.0)
		c.replicas[1].write(1, "cpu,host=b", "value", at, 2.0)
		c.replicas[3].setDown(errAway)
		pass(2 * time.Minute)
		mustRepair(t, s, 1)
		for id, want := range map[uint64]any{1: 9.0, 2: 1.0} {
			if got := c.replicas[id].shards[1].fields[fieldKey{"cpu,host=a", "value"}][at]; got != want {
				t.Errorf("without the third owner, owner %d has %v, want %v", id, got, want)
			}
		}
		if c.replicas[2].shards[1].fields[fieldKey{"cpu,host=b", "value"}][at] != 2.0 {
			t.Error("a point that is not in doubt waits for the third owner")
		}
		c.replicas[3].setDown(nil)
		pass(10 * time.Minute)
		synctest.Wait()
		for id, r := range c.replicas {
			if got := r.shards[1].fields[fieldKey{"cpu,host=a", "value"}][at]; got != 1.0 {
				t.Errorf("with all owners, owner %d has %v, want what most have, 1", id, got)
			}
		}
	})
	bubble("all owners get all points", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		for i, r := range []*fakeReplica{c.replicas[1], c.replicas[2], c.replicas[3]} {
			for n := range int64(200) {
				r.write(1, "cpu,host="+strings.Repeat("x", int(n)), "value", old()+n*int64(time.Hour)/2+int64(i), float64(n))
			}
		}
		pass(2 * time.Minute)
		mustCheck(t, s)
		wantStatus(t, s, NodeStatus{Shards: []ShardStatus{{ID: 1, Status: Diff}}})
		mustRepair(t, s, 1)
		wantStatus(t, s, NodeStatus{})
		if c.replicas[1].dump(1) != c.replicas[2].dump(1) || c.replicas[1].dump(1) != c.replicas[3].dump(1) {
			t.Error("owners differ after the repair")
		}
		if got := s.Statistics(nil)[0].Values["pointsRepaired"]; got != int64(1200) {
			t.Errorf("pointsRepaired = %v, want 1200", got)
		}
	})
	bubble("an unreachable owner keeps the shard queued, the others are repaired", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		c.writeAll(1, old(), 1.0)
		c.replicas[2].write(1, "cpu,host=b", "value", old(), 1.0)
		c.replicas[3].setDown(errAway)
		pass(2 * time.Minute)
		mustRepair(t, s, 1)
		wantStatus(t, s, NodeStatus{Shards: []ShardStatus{{ID: 1, Status: Diff}}, Queued: []uint64{1}})
		if c.replicas[1].dump(1) != c.replicas[2].dump(1) {
			t.Error("reachable owners differ")
		}
		it := s.queue.list()[0]
		if it.Attempts != 1 || !strings.Contains(it.Error, "data3:8088") {
			t.Errorf("queued as %+v, want the name of the owner in the error", it)
		}
		c.replicas[3].setDown(nil)
		pass(10 * time.Second)
		wantStatus(t, s, NodeStatus{})
		if c.replicas[1].dump(1) != c.replicas[3].dump(1) {
			t.Error("the owner that came back differs")
		}
	})
	bubble("what a copy lost is repaired at once, although an owner that is away had earlier attempts fail", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		c.writeAll(1, old(), 1.0)
		c.replicas[2].write(1, "cpu,host=b", "value", old(), 1.0)
		c.replicas[3].setDown(errAway)
		pass(2 * time.Minute)
		mustRepair(t, s, 1)
		pass(3 * time.Minute)
		it := s.queue.list()[0]
		if wait := time.Until(it.Next); wait < 30*time.Second {
			t.Fatalf("the next attempt is in %v: this shows nothing", wait)
		}
		c.replicas[2].change(func() {
			c.replicas[2].shards[1].lack = copystate.Lack{Kind: copystate.Missed, Why: "it lost a write", Gen: 1}
		})
		c.replicas[1].write(1, "cpu,host=b", "value", old()+1, 2.0)
		mustCheck(t, s)
		pass(time.Second)
		if c.replicas[1].dump(1) != c.replicas[2].dump(1) {
			t.Error("the copy still lacks what it lost")
		}
		attempts := s.queue.list()[0].Attempts
		mustCheck(t, s)
		pass(time.Second)
		if got := s.queue.list()[0].Attempts; got != attempts || attempts != it.Attempts+1 {
			t.Errorf("%d attempts, then %d, then %d: want one more, once", it.Attempts, attempts, got)
		}
	})
	bubble("a running repair is canceled", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		c.writeAll(1, old(), 1.0)
		c.replicas[2].write(1, "cpu,host=b", "value", old(), 1.0)
		c.replicas[2].block = make(chan struct{})
		pass(2 * time.Minute)
		mustRepair(t, s, 1)
		diff := []ShardStatus{{ID: 1, Status: Diff}}
		wantStatus(t, s, NodeStatus{Shards: diff, Queued: []uint64{1}, Processing: []uint64{1}})
		if err := s.CancelRepair(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantStatus(t, s, NodeStatus{Shards: diff})
		if n := s.stats.jobsActive.Load(); n != 0 {
			t.Errorf("%d jobs are active", n)
		}
	})
	bubble("the queue survives a restart", t, func(t *testing.T, c *fakeCluster) {
		dir := t.TempDir()
		same := func(_ *Config, d *Deps) { d.Dir = dir }
		c.writeAll(1, old(), 1.0)
		c.replicas[2].write(1, "cpu,host=b", "value", old(), 1.0)
		c.replicas[2].block = make(chan struct{})
		s := mustOpen(t, c, same)
		mustRepair(t, s, 1)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		close(c.replicas[2].block)
		s = mustOpen(t, c, same)
		synctest.Wait()
		wantStatus(t, s, NodeStatus{})
		if c.replicas[1].dump(1) != c.replicas[2].dump(1) {
			t.Error("owners differ")
		}
	})
	bubble("files of missing shards are copied beside a repair", t, func(t *testing.T, c *fakeCluster) {
		now := time.Now()
		c.setGroups(0, now.Add(-9*week), now.Add(-8*week), now.Add(-7*week), now.Add(-6*week), now.Add(-5*week))
		s := mustOpen(t, c, func(cfg *Config, _ *Deps) { cfg.MaxFetch = 3 })
		var most, now3 int
		let := make(chan struct{})
		c.replicas[3].files = func(ctx context.Context, id uint64) error {
			c.replicas[3].change(func() { now3++; most = max(most, now3) })
			<-let
			c.replicas[3].change(func() {
				now3--
				c.replicas[3].shards[id] = &fakeShard{fields: map[fieldKey]map[int64]any{{"cpu,host=a", "value"}: {old(): 1.0}}}
			})
			return nil
		}
		for id := uint64(1); id <= 5; id++ {
			c.replicas[1].write(id, "cpu,host=a", "value", old(), 1.0)
			c.replicas[2].write(id, "cpu,host=a", "value", old(), 1.0)
		}
		pass(2 * time.Minute)
		mustCheck(t, s)
		st := mustStatus(t, s)
		if d := cmp.Diff([]uint64{1, 2, 3}, st.Processing); d != "" {
			t.Error(d)
		}
		all, err := s.Repairs(t.Context())
		if err != nil || all.Repairs[0].State != Running || all.Repairs[0].Progress() != 0.25 {
			t.Errorf("%v, %+v", err, all)
		}
		close(let)
		pass(time.Minute)
		wantStatus(t, s, NodeStatus{})
		if most != 3 {
			t.Errorf("%d shards were copied at a time, want max-fetch, which is 3", most)
		}
		for id := uint64(1); id <= 5; id++ {
			if a, b := c.replicas[1].dump(id), c.replicas[3].dump(id); a != b {
				t.Errorf("shard %d: %s and %s", id, a, b)
			}
		}
	})
	bubble("a shard whose files do not come gets its points at last", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		c.replicas[1].write(1, "cpu,host=a", "value", old(), 1.0)
		c.replicas[2].write(1, "cpu,host=a", "value", old(), 1.0)
		tries := 0
		c.replicas[3].files = func(context.Context, uint64) error { tries++; return errAway }
		mustRepair(t, s, 1)
		pass(time.Minute)
		wantStatus(t, s, NodeStatus{})
		if a, b := c.replicas[1].dump(1), c.replicas[3].dump(1); a != b || tries != fillTries {
			t.Errorf("after %d tries: %s and %s", tries, a, b)
		}
	})
	bubble("a shard that is dropped during its repair is not made anew", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		c.writeAll(1, old(), 1.0)
		c.replicas[3].write(1, "cpu,host=b", "value", old(), 1.0)
		let := make(chan struct{})
		c.replicas[3].change(func() { c.replicas[3].block = let })
		pass(2 * time.Minute)
		mustRepair(t, s, 1) // it fetches
		c.setGroups(0)
		for id := uint64(1); id <= 3; id++ {
			c.replicas[id].change(func() { delete(c.replicas[id].shards, 1) })
		}
		close(let)
		pass(time.Minute)
		for id, r := range c.replicas {
			if got := r.dump(1); got != "missing" {
				t.Errorf("owner %d has %s", id, got)
			}
		}
		if n := s.queue.len(); n != 0 {
			t.Errorf("%d shards are queued", n)
		}
	})
	bubble("expired and dropped shards leave", t, func(t *testing.T, c *fakeCluster) {
		s := mustOpen(t, c, nil)
		c.writeAll(1, old(), 1.0)
		c.replicas[2].write(1, "cpu,host=b", "value", old(), 1.0)
		c.replicas[3].setDown(errAway)
		pass(2 * time.Minute)
		mustCheck(t, s)
		mustRepair(t, s, 1)
		c.setGroups(time.Hour, time.Now().Add(-3*week), time.Now())
		wantStatus(t, s, NodeStatus{})
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

// Windows that follow each other are one region when the same owners hold the same.
func TestNextBatch(t *testing.T) {
	rng := digest.Range{Start: 0, End: 64 * 10}
	diff := func(windows uint64, groups ...uint8) reconcile.Difference {
		return reconcile.Difference{Series: []byte("m"), Field: "f", Types: []digest.Type{0, digest.Float}, Windows: windows, Groups: groups}
	}
	for _, tt := range []struct {
		diff reconcile.Difference
		want [][2]int64
	}{
		{diff(1, 0, 2), [][2]int64{{models.MinNanoTime, 9}}},
		{diff(0b11011, 0, 2, 0, 2, 0, 2, 0, 2), [][2]int64{{models.MinNanoTime, 19}, {30, 49}}},
		{diff(0b1110, 0, 2, 1, 2, 1, 2), [][2]int64{{10, 19}, {20, 39}}},
		{diff(1<<63|1, 1, 0, 1, 0), [][2]int64{{models.MinNanoTime, 9}, {630, models.MaxNanoTime}}},
	} {
		n, regions := nextBatch(rng, []reconcile.Difference{tt.diff}, 2)
		var got [][2]int64
		for _, r := range regions {
			got = append(got, [2]int64{r.Min, r.Max})
		}
		if d := cmp.Diff(tt.want, got); n != 1 || d != "" {
			t.Errorf("windows %b, groups %v: %s", tt.diff.Windows, tt.diff.Groups, d)
		}
	}
	many := make([]reconcile.Difference, 100)
	for i := range many {
		many[i] = diff(0b101, 0, 2, 0, 2)
	}
	if n, _ := nextBatch(rng, many, 2); n != batchRegions/2 {
		t.Errorf("%d differences in a batch", n)
	}
}

func TestConfigValidateNamesTheKey(t *testing.T) {
	if err := NewConfig().Validate(); err != nil {
		t.Fatal(err)
	}
	for key, change := range map[string]func(*Config){
		"check-interval": func(c *Config) { c.CheckInterval = 0 },
		"max-fetch":      func(c *Config) { c.MaxFetch = 0 },
		"max-sync":       func(c *Config) { c.MaxSync = -1 },
		"settle":         func(c *Config) { c.Settle = -1 },
		"max-rate":       func(c *Config) { c.MaxRate = 1 << 63 },
		"scrub-interval": func(c *Config) { c.ScrubInterval = -1 },
	} {
		c := NewConfig()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: error is %v", key, err)
		}
	}
}
