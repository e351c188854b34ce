package service

import (
	"context"
	"fmt"
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

func TestRepair(t *testing.T) {
	t.Parallel()
	bubble("all owners get all points", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, nil)
		for i, r := range []*entropytest.Replica{c.Replicas[1], c.Replicas[2], c.Replicas[3]} {
			for n := range int64(200) {
				r.Write(1, "cpu,host="+strings.Repeat("x", int(n)), "value", old()+n*int64(time.Hour)/2+int64(i), float64(n))
			}
		}
		pass(2 * time.Minute)
		mustCheck(t, s)
		wantStatus(t, s, shard1(entropy.Diff))
		mustRepair(t, s, 1)
		wantStatus(t, s, entropy.NodeStatus{})
		if c.Replicas[1].Dump(1) != c.Replicas[2].Dump(1) || c.Replicas[1].Dump(1) != c.Replicas[3].Dump(1) {
			t.Error("owners differ after the repair")
		}
		if got := s.Statistics(nil)[0].Values["pointsRepaired"]; got != int64(1200) {
			t.Errorf("pointsRepaired = %v, want 1200", got)
		}
	})
	bubble("a repair keeps to the pace of the node that drives it", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, func(_ *entropy.Config, d *Deps) { d.Pace = pace.New(func() int64 { return 0 }) })
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		pass(2 * time.Minute)
		mustRepair(t, s, 1)
		if !c.Replicas[2].Paced.Load() {
			t.Error("its points were read without")
		}
	})
	bubble("what a delete removes during a repair does not come back", t, func(t *testing.T, c *nodes) {
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
	bubble("writes and deletes beside a repair do not keep it from ending", t, func(t *testing.T, c *nodes) {
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
		pass(10 * time.Minute) // each write or delete that comes between costs it another settle time at most
		for id, r := range c.Replicas {
			if a, b := r.Dump(1), c.Replicas[1].Dump(1); a != b {
				t.Errorf("owner %d has %s, and owner 1 %s", id, a, b)
			}
		}
		wantStatus(t, s, entropy.NodeStatus{})
	})
}

// A copy that may hold deleted points is not merged as it is. It is made anew where that loses nothing.
func TestRepairOfOlderCopies(t *testing.T) {
	t.Parallel()
	lacks := func(c *nodes, kinds ...copystate.Kind) {
		for i, kind := range kinds {
			r := c.Replicas[uint64(i+1)]
			r.Change(func() { r.Shards[1].Lack = copystate.Lack{Kind: kind, Gen: 1} })
		}
	}
	const missed, outdated, stale = copystate.Missed, copystate.Outdated, copystate.Stale
	for _, tt := range []struct {
		name  string
		lacks []copystate.Kind
		want  bool // the point that only the third has is on all at the end
	}{
		{"a whole copy replaces it", []copystate.Kind{"", missed, outdated}, false},
		{"two that lack writes have what a majority has acknowledged", []copystate.Kind{missed, missed, outdated}, false},
		{"two older ones may have a write alone", []copystate.Kind{missed, outdated, outdated}, true},
		{"the second one may have had it", []copystate.Kind{missed, copystate.Lost, outdated}, true},
	} {
		bubble(tt.name, t, func(t *testing.T, c *nodes) {
			s := mustOpen(t, c, nil)
			c.WriteAll(1, old(), 1.0)
			c.Replicas[3].Write(1, "cpu,host=third", "value", old(), 2.0)
			lacks(c, tt.lacks...)
			pass(2 * time.Minute)
			mustRepair(t, s, 1)
			for id, r := range c.Replicas {
				if got := strings.Contains(r.Dump(1), "third"); got != tt.want {
					t.Errorf("owner %d has the point: %t, want %t", id, got, tt.want)
				}
			}
		})
	}
	bubble("it waits for the deletes that it missed", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[3].Write(1, "cpu,host=third", "value", old(), 2.0)
		before := c.Replicas[3].Dump(1)
		lacks(c, missed, copystate.Lost, stale)
		pass(2 * time.Minute)
		if err := s.Repair(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		pass(time.Hour)
		if got := c.Replicas[3].Dump(1); got != before || c.Replicas[1].Dump(1) == before {
			t.Errorf("owner 3 has %s, want %s", got, before)
		}
		lacks(c, missed, copystate.Lost, missed) // they have run
		pass(10 * time.Minute)
		synctest.Wait()
		if got := c.Replicas[1].Dump(1); got != before {
			t.Errorf("owner 1 has %s, want %s", got, before)
		}
	})
	bubble("copies that lack the same deletes are equal, and not whole", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		lacks(c, stale, stale, stale)
		told := func() (n int) {
			for _, r := range c.Replicas {
				r.Change(func() { n += r.Told })
			}
			return n
		}
		pass(2 * time.Minute)
		mustCheck(t, s)
		if told() != 0 {
			t.Error("they are told that they are whole, and the deletes have not run")
		}
		lacks(c, "", stale, stale)
		mustCheck(t, s)
		if told() != 2 {
			t.Errorf("%d are told that they are equal to a whole one, want 2", told())
		}
	})
	bubble("it is not merged while an owner is away that may be whole", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[3].Write(1, "cpu,host=third", "value", old(), 2.0)
		lacks(c, missed, "", outdated)
		c.Replicas[2].SetDown(entropytest.ErrAway)
		pass(2 * time.Minute)
		if err := s.Repair(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Minute)
		if got := c.Replicas[1].Dump(1); strings.Contains(got, "third") {
			t.Errorf("owner 1 has %s", got)
		}
		c.Replicas[2].SetDown(nil)
		pass(10 * time.Minute)
		synctest.Wait()
		for id, r := range c.Replicas {
			if strings.Contains(r.Dump(1), "third") {
				t.Errorf("owner %d has %s", id, r.Dump(1))
			}
		}
	})
	for _, first := range []copystate.Kind{"", missed} {
		bubble(fmt.Sprintf("it does not wait for long where others replace it, of which the first lacks %q", first), t,
			func(t *testing.T, c *nodes) {
				s := mustOpen(t, c, nil)
				c.WriteAll(1, old(), 1.0)
				c.Replicas[3].Write(1, "cpu,host=third", "value", old(), 2.0)
				lacks(c, first, missed, stale)
				pass(2 * time.Minute)
				if err := s.Repair(t.Context(), 1); err != nil {
					t.Fatal(err)
				}
				pass(time.Minute)
				synctest.Wait()
				if got, want := c.Replicas[3].Dump(1), c.Replicas[1].Dump(1); got != want || strings.Contains(got, "third") {
					t.Errorf("owner 3 has %s, want %s", got, want)
				}
			})
	}
}

func TestRepairOfMissingCopies(t *testing.T) {
	t.Parallel()
	bubble("a missing shard comes back automatically", t, func(t *testing.T, c *nodes) {
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
	bubble("missing shards wait for the operator when told so", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, func(cfg *entropy.Config, _ *Deps) { cfg.AutoRepairMissing = false })
		c.Replicas[2].Write(1, "cpu,host=a", "value", old(), 1.0)
		mustCheck(t, s)
		wantStatus(t, s, shard1(entropy.Missing))

		s.SetConfig(entropy.NewConfig())
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{})
		if c.Replicas[1].Dump(1) != c.Replicas[2].Dump(1) {
			t.Error("the reloaded configuration repairs nothing")
		}
	})
	bubble("an owner that has only what was written since it lost the shard", t, func(t *testing.T, c *nodes) {
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
		got, want, began := lost.Dump(1), c.Replicas[1].Dump(1), lost.Shards[1].Began
		if got != want || began != copystate.FoundEqual {
			t.Errorf("it was not repaired automatically: %s, want %s; begun %v", got, want, began)
		}
	})
	bubble("files of missing shards are copied beside a repair", t, func(t *testing.T, c *nodes) {
		var groups []time.Time
		for ago := range 5 {
			groups = append(groups, time.Now().Add(time.Duration(ago-9)*entropytest.Week))
		}
		c.SetGroups(0, groups...)
		s := mustOpen(t, c, func(cfg *entropy.Config, _ *Deps) { cfg.MaxFetch = 3 })
		var most, now3 int
		let := make(chan struct{})
		c.Replicas[3].Files = func(ctx context.Context, id uint64) error {
			c.Replicas[3].Change(func() { now3++; most = max(most, now3) })
			<-let
			c.Replicas[3].Change(func() {
				now3--
				fields := map[entropytest.Field]map[int64]any{{"cpu,host=a", "value"}: {old(): 1.0}}
				c.Replicas[3].Shards[id] = &entropytest.Shard{Fields: fields}
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
	bubble("a shard whose files do not come gets its points at last", t, func(t *testing.T, c *nodes) {
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
}

// repairWithVersions repairs shard 1 after its owners had different values of one point in so many series, and returns
// what was decided about the first one. of is the version of a point at an owner.
func repairWithVersions(
	t *testing.T, c *nodes, s *Service, series int, of func(owner uint64, p patch.Region) uint64,
) entropy.Decision {
	t.Helper()
	for id, r := range c.Replicas {
		for i := range series {
			r.Write(1, fmt.Sprintf("cpu,host=%d", i), "value", old(), min(float64(id), 2)) // 2 is with the majority
		}
		r.PointVersions = func(p patch.Region) uint64 { return of(id, p) }
	}
	pass(2 * time.Minute)
	mustRepair(t, s, 1)
	pass(2 * time.Duration(s.config().Settle)) // rounds wait for it when points were left open
	all, err := s.Repairs(t.Context())
	if err != nil || len(all.Repairs) != 1 || len(all.Repairs[0].Decided) == 0 {
		t.Fatalf("%v: %+v", err, all)
	}
	return all.Repairs[0].Decided[0]
}

func TestRepairDecidesBetweenValues(t *testing.T) {
	t.Parallel()
	bubble("what was written last wins; many series take few questions", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, nil)
		d := repairWithVersions(t, c, s, 1000, func(owner uint64, _ patch.Region) uint64 { return 30 - owner })
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
	bubble("the value of an owner without versions may be the newest", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, nil)
		for id, r := range c.Replicas {
			for i := range int64(2048) + 1 { // more than one question has
				r.Write(1, "cpu,host=0", "value", old()+i, float64(id))
			}
		}
		d := repairWithVersions(t, c, s, 1, func(owner uint64, _ patch.Region) uint64 {
			c.Replicas[3].PointVersions = nil
			return 30 - owner
		})
		if d.Why != patch.WhyMajority { // its value may be the newest
			t.Errorf("%+v", d)
		}
	})
	bubble("a value that changes after it was read is read anew", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, nil)
		d := repairWithVersions(t, c, s, 1, func(owner uint64, p patch.Region) uint64 {
			if owner == 1 {
				c.Replicas[1].Write(1, string(p.Series), p.Field, p.Min, 3.0)
			}
			return 30 - owner
		})
		if d.Value != "3" || d.Why != patch.WhyNewer {
			t.Errorf("%+v", d)
		}
	})
	// Owner 1 has it already. Owner 2 was read before it had it. Owner 3 did not take it, because its disk is full.
	for _, arrives := range []string{"arrives", "is on its way"} {
		bubble("a write stays that "+arrives+" while the copies are read", t, func(t *testing.T, c *nodes) {
			s := mustOpen(t, c, nil)
			asked, at := 0, old()
			d := repairWithVersions(t, c, s, 1, func(owner uint64, p patch.Region) uint64 {
				switch owner {
				case 1:
					return 9
				case 3:
					return 0
				}
				if asked++; asked == 1 && arrives == "is on its way" {
					return patch.Uncertain
				}
				c.Replicas[2].Write(1, string(p.Series), p.Field, p.Min, 1.0)
				return 9
			})
			if d.Value != "1" {
				t.Errorf("%+v", d)
			}
			for id, r := range c.Replicas {
				if got := r.Shards[1].Fields[entropytest.Field{"cpu,host=0", "value"}][at]; got != 1.0 {
					t.Errorf("owner %d has %v, want the newer value, 1", id, got)
				}
			}
		})
	}
	bubble("two owners decide nothing that the third could turn", t, func(t *testing.T, c *nodes) {
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
}
