package service

import (
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"concord/internal/copystate"
	"concord/internal/entropy"
	"concord/internal/entropy/entropytest"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	bubble("equal copies are clean", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		pass(2 * time.Minute)
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{})
	})
	bubble("a shard that nobody has is clean", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, nil)
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{})
	})
	bubble("a difference at rest is reported at once", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		pass(2 * time.Minute)
		mustCheck(t, s)
		wantStatus(t, s, shard1(entropy.Diff))
	})
	bubble("a difference under writes counts when it is seen again after settle", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{})
		pass(30 * time.Second)
		c.WriteAll(1, old()+1, 1.0)
		pass(31 * time.Second) // the checker looks again by itself
		wantStatus(t, s, shard1(entropy.Diff))
	})
	bubble("a window under writes that differs in another way each time is clean", t, func(t *testing.T, c *nodes) {
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
	bubble("a write in flight is not entropy", t, func(t *testing.T, c *nodes) {
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
	bubble("young windows of a hot shard are not compared", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, nil)
		c.WriteAll(2, time.Now().Add(-entropytest.Week/4).UnixNano(), 1.0)
		c.Replicas[2].Write(2, "cpu,host=a", "value", time.Now().UnixNano(), 1.0)
		mustCheck(t, s)
		pass(30 * time.Second)
		c.WriteAll(2, time.Now().Add(-entropytest.Week/4).UnixNano(), 1.0)
		pass(31 * time.Second)
		wantStatus(t, s, entropy.NodeStatus{})
	})
	bubble("without an owner the others are compared", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		c.Replicas[3].SetDown(entropytest.ErrAway)
		pass(2 * time.Minute)
		mustCheck(t, s)
		wantStatus(t, s, shard1(entropy.Diff))
	})
	bubble("only the first reachable owner checks", t, func(t *testing.T, c *nodes) {
		c.ID = 2
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		pass(2 * time.Minute)
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{})
		c.Replicas[1].SetDown(entropytest.ErrAway)
		mustCheck(t, s)
		wantStatus(t, s, shard1(entropy.Diff))
		c.Replicas[1].SetDown(nil)
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{})
	})
}

// A shard that is to be looked at again is looked at once a while, and not without pause, when nothing can be found
// then.
func TestChecksPause(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]func(*nodes){
		"the other owners are away": func(c *nodes) {
			c.Replicas[2].SetDown(entropytest.ErrAway)
			c.Replicas[3].SetDown(entropytest.ErrAway)
		},
		"a copy cannot be read":     func(c *nodes) { c.Replicas[2].Change(func() { c.Replicas[2].Unreadable = true }) },
		"the node left its cluster": func(c *nodes) { c.Leave() },
	} {
		bubble(name, t, func(t *testing.T, c *nodes) {
			var waits atomic.Int64
			s := mustOpen(t, c, func(_ *entropy.Config, deps *Deps) {
				deps.After = func(d time.Duration) <-chan time.Time { waits.Add(1); return after(d) }
			})
			c.WriteAll(1, old(), 1.0)
			c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
			mustCheck(t, s)
			then(c)
			pass(time.Minute - time.Microsecond)
			before := waits.Load()
			pass(2 * time.Microsecond) // the checker looks again by itself
			if n := waits.Load() - before; n > 3 {
				t.Errorf("the service waited %d times in 2 µs", n)
			}
		})
	}
}

func TestCheckOfMissingCopies(t *testing.T) {
	t.Parallel()
	bubble("a copy whose first write is on its way is not missing", t, func(t *testing.T, c *nodes) {
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
	bubble("a copy that an owner still lacks after settle is missing", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, func(cfg *entropy.Config, _ *Deps) { cfg.AutoRepairMissing = false })
		for _, o := range []uint64{1, 2} {
			c.Replicas[o].Write(1, "cpu,host=a", "value", old(), 1.0)
			c.Replicas[o].Change(func() { c.Replicas[o].Shards[1].Began = copystate.BegunAt(time.Now()) })
		}
		mustCheck(t, s)
		wantStatus(t, s, entropy.NodeStatus{})
		pass(61 * time.Second) // the checker looks again by itself
		wantStatus(t, s, shard1(entropy.Missing))
	})
	bubble("a copy whose owner was not told that it is whole is not missing", t, func(t *testing.T, c *nodes) {
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
			wantStatus(t, s, shard1(entropy.Diff))
			c.Replicas[3].Write(1, "cpu,host=b", "value", old()+1, 1.0)
		}
		if c.Replicas[2].Shards[1].Began != copystate.FoundEqual {
			t.Error("it was never told")
		}
	})
	bubble("an owner that was away since the shard began has not lost it", t, func(t *testing.T, c *nodes) {
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
		wantStatus(t, s, shard1(entropy.Diff))
	})
}

func TestCheckOfRefusedPoints(t *testing.T) {
	t.Parallel()
	bubble("a copy that refuses points is repaired once for each time it lost some", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "mem,host=a", "used", old(), 1.0)
		c.Replicas[3].Write(1, "mem,host=b", "used", old(), int64(1))
		pass(2 * time.Minute)
		for gen := range 2 {
			at := old() + 1 + int64(gen)
			c.Replicas[2].Write(1, "cpu,host=a", "value", at, 1.0)
			c.Replicas[3].Change(func() {
				lost := copystate.Lack{Kind: copystate.Missed, Why: "it lost a write", Gen: uint64(gen + 1)}
				c.Replicas[3].Shards[1].Lack = lost
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
	bubble("types in conflict are named, and everything else is repaired", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, func(cfg *entropy.Config, _ *Deps) { cfg.AutoRepairDiff = true })
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "mem,host=a", "used", old(), 1.0)
		c.Replicas[3].Write(1, "mem,host=b", "used", old(), int64(1)) // in another series
		c.Replicas[3].Write(1, "mem,host=b", "free", old(), int64(1))
		pass(2 * time.Minute)
		mustCheck(t, s) // and the repair of what can be
		conflict := func(on string) []entropy.ShardStatus {
			message := `measurement "mem" field "used" is ` + on + ": choose a type with influxd-ctl entropy resolve"
			return []entropy.ShardStatus{{ID: 1, Status: entropy.Conflict, Message: message}}
		}
		all := conflict("float on data1:8088, float on data2:8088, integer on data3:8088")
		wantStatus(t, s, entropy.NodeStatus{Shards: all})
		const point = ":map[945172800000000000:1]"
		float := "map[[cpu,host=a value]" + point + " [mem,host=a used]" + point + " [mem,host=b free]" + point + "]"
		integer := "map[[cpu,host=a value]" + point + " [mem,host=b free]" + point + " [mem,host=b used]" + point + "]"
		for id, want := range map[uint64]string{1: float, 2: float, 3: integer} {
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
