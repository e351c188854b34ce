package devcluster_test

import (
	"fmt"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/toml"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/datanode"
	"concord/internal/devcluster"
	"concord/internal/entropy"
)

// TestRepairKeepsWhatWasWrittenLast has a newer value on one owner, whose copy lacks an earlier write, and an older one
// on the two others. Nothing is kept in hinted handoff, so repairs alone bring the owners together.
func TestRepairKeepsWhatWasWrittenLast(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, func(cfg *datanode.Config) {
		cfg.HintedHandoff.Enabled = false
		cfg.AntiEntropy.AutoRepairMissing = false
		cfg.AntiEntropy.Settle = toml.Duration(time.Second)
	})
	mustQuery(ctx, t, c, 0, "", "CREATE DATABASE d WITH REPLICATION 3")
	write := func(node int, level string, at, v int) {
		t.Helper()
		line := fmt.Appendf(nil, "m v=%d %d\n", v, yesterday().Add(time.Duration(at)*time.Second).UnixNano())
		if err := c.Client(node).Write(ctx, "d", level, line); err != nil {
			t.Fatal(err)
		}
	}
	for at := range 3 {
		write(0, "all", at, 10+at)
	}
	id := c.Shards("d")[0].ID
	c.Cut(0)
	write(1, "quorum", 1, 21) // node 1 lacks it
	c.Heal(0)
	c.Cut(1)
	c.Cut(2)
	// Node 1 alone has it, and it is the smallest: neither votes nor the order of values choose it. At quorum it is
	// answered when no write to the other two is under way any more.
	line := fmt.Appendf(nil, "m v=5 %d\n", yesterday().Add(2*time.Second).UnixNano())
	if err := c.Client(0).Write(ctx, "d", "quorum", line); err == nil {
		t.Fatal("a write reached owners that are cut off")
	}
	c.Heal(1)
	c.Heal(2)
	want := []float64{10, 21, 5}
	has := func(node int) []float64 { return storedValues(t, c, node, id) }
	for i, w := range [][]float64{{10, 11, 5}, {10, 21, 12}, {10, 21, 12}} {
		if got := has(i); !slices.Equal(got, w) {
			t.Errorf("before the repair node %d has %v, not %v", i+1, got, w)
		}
	}
	first := place(c, c.Shards("d")[0].Owners[0])
	if err := c.Wait(ctx, func() bool {
		if err := c.Client(first).Repair(ctx, fmt.Sprint(id)); err != nil {
			t.Logf("repair: %v", err)
		}
		return !slices.ContainsFunc([]int{0, 1, 2}, func(i int) bool { return !slices.Equal(has(i), want) })
	}); err != nil {
		t.Errorf("after the repair the nodes have %v, %v and %v, not %v", has(0), has(1), has(2), want)
	}
}

// A node that missed the announcement of a delete gets the delete out of hinted handoff, and runs it while an owner
// still waits for its turn. A repair must not bring the points from there again: nothing would remove them any more.
func TestRepairTakesNoPointsThatADeleteIsAboutToRemove(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, func(cfg *datanode.Config) { cfg.AntiEntropy.Settle = toml.Duration(time.Second) })
	mustQuery(ctx, t, c, 0, "", "CREATE DATABASE d WITH REPLICATION 2")
	if err := c.Client(0).Write(ctx, "d", "all", fmt.Appendf(nil, "other v=1 %d", yesterday().UnixNano())); err != nil {
		t.Fatal(err)
	}
	sh := c.Shards("d")[0]
	first, second := place(c, sh.Owners[0]), place(c, sh.Owners[1])
	// A point whose version the owners have forgotten: a repair does not know that it is older than the delete.
	points, err := models.ParsePointsString(fmt.Sprintf("m v=1 %d", yesterday().UnixNano()))
	if err != nil {
		t.Fatal(err)
	}
	for _, owner := range []int{first, second} {
		if err := c.Data[owner].Store.WriteToShard(tsdb.WriteContext{}, sh.ID, points); err != nil {
			t.Fatal(err)
		}
	}
	e, err := c.Data[first].Store.Shard(sh.ID).Engine()
	if err != nil {
		t.Fatal(err)
	}
	cache := e.(*tsm1.Engine).Cache
	if _, err := cache.Snapshot(); err != nil { // the delete waits for its end
		t.Fatal(err)
	}
	c.CutLink(first, second)
	deleted := make(chan error, 1)
	go func() {
		_, err := c.Client(first).Query(ctx, "d", "DELETE FROM m")
		deleted <- err
	}()
	left := func(owner int) int { return len(storedValues(t, c, owner, sh.ID)) }
	mustWait(ctx, t, c, "the third node has brought the delete", func() bool { return left(second) == 0 })
	c.HealLink(first, second)
	overtaken := regexp.MustCompile(`"error":"[^"]*` + entropy.ErrOvertaken.Error())
	repair := func() (said string) {
		if err := c.Client(second).Repair(ctx, fmt.Sprint(sh.ID)); err != nil {
			t.Logf("repair: %v", err)
		}
		_, said = mustGet(ctx, t, c, second, "/shard-repair/repairs")
		return said
	}
	mustWait(ctx, t, c, "a repair is refused while the delete is under way", func() bool {
		return overtaken.MatchString(repair()) || left(second) > 0
	})
	if left(second) > 0 {
		t.Error("a repair brought a deleted point back")
	}
	cache.ClearSnapshot(false)
	if err := <-deleted; err != nil {
		t.Fatal(err)
	}
	mustWait(ctx, t, c, "the point is gone for good", func() bool {
		repair()
		whole := c.Data[second].Unfit(ctx, sh.ID) == "" && c.Data[first].Unfit(ctx, sh.ID) == ""
		return whole && left(first)+left(second) == 0
	})
}

// storedValues are those of measurement m in a node's own copy of a shard.
func storedValues(t *testing.T, c *devcluster.Cluster, node int, shard uint64) []float64 {
	t.Helper()
	cursors, err := c.Data[node].Store.Shard(shard).CreateCursorIterator(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cur, err := cursors.Next(t.Context(), &tsdb.CursorRequest{
		Name: []byte("m"), Field: "v", Ascending: true, StartTime: models.MinNanoTime, EndTime: models.MaxNanoTime,
	})
	if err != nil {
		t.Fatal(err)
	}
	if cur == nil {
		return nil
	}
	defer cur.Close()
	return slices.Clone(cur.(tsdb.FloatArrayCursor).Next().Values)
}
