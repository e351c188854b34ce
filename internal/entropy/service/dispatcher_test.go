package service

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"concord/internal/copystate"
	"concord/internal/entropy"
	"concord/internal/entropy/entropytest"
)

func TestQueuedRepairs(t *testing.T) {
	t.Parallel()
	bubble("paused repairs wait, also over a restart, and are recorded", t, func(t *testing.T, c *nodes) {
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
		all, err = s.Repairs(t.Context())
		if err != nil || !all.Paused || len(all.Repairs) != 1 || all.Repairs[0].State != entropy.Waiting {
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
		r := all.Repairs[0]
		if r.State != entropy.Done || r.Points != 2 || len(r.Owners) != 3 || r.Progress() != 1 || r.Ended.IsZero() ||
			r.Rounds == 0 {
			t.Errorf("the record is %+v", r)
		}
	})
	bubble("an unreachable owner keeps the shard queued, the others are repaired", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		c.Replicas[3].SetDown(entropytest.ErrAway)
		pass(2 * time.Minute)
		mustRepair(t, s, 1)
		queued := shard1(entropy.Diff)
		queued.Queued = []uint64{1}
		wantStatus(t, s, queued)
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
	bubble("a copy that lost points is repaired at once, after failed attempts too", t, func(t *testing.T, c *nodes) {
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
	bubble("an owner that is back ends the pause after failed attempts", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		c.Replicas[3].SetDown(entropytest.ErrAway)
		pass(2 * time.Minute)
		mustRepair(t, s, 1)
		pass(3 * time.Minute)
		wait := func() time.Duration { return time.Until(s.queue.list()[0].Next) }
		if wait() < 30*time.Second {
			t.Fatalf("the next attempt is in %v: this shows nothing", wait())
		}
		s.Back(4) // owns nothing
		synctest.Wait()
		if wait() < 30*time.Second {
			t.Errorf("a node that does not own the shard ended the pause: it is %v", wait())
		}
		s.Back(3)
		synctest.Wait()
		if wait() > time.Second {
			t.Errorf("3 answers, but not about its copies yet: the next attempt is in %v", wait())
		}
		c.Replicas[3].SetDown(nil)
		pass(time.Second)
		wantStatus(t, s, entropy.NodeStatus{})
		if c.Replicas[1].Dump(1) != c.Replicas[3].Dump(1) {
			t.Error("the owner that came back differs")
		}
	})
	bubble("a repair that waited long for hinted handoff begins soon after it", t, func(t *testing.T, c *nodes) {
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
	bubble("the queue survives a restart", t, func(t *testing.T, c *nodes) {
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
}

func TestRepairsThatAreNotWantedAnyMore(t *testing.T) {
	t.Parallel()
	bubble("a running repair is canceled", t, func(t *testing.T, c *nodes) {
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
	bubble("a shard that is dropped during its repair is not made anew", t, func(t *testing.T, c *nodes) {
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
	bubble("expired and dropped shards leave", t, func(t *testing.T, c *nodes) {
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
