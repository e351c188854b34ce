package devcluster_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/cluster"
	"concord/internal/datanode"
	"concord/internal/devcluster"
)

// mustBackUp backs up n points of a database, drops it, and returns the folder and the shard in the backup.
func mustBackUp(ctx context.Context, t *testing.T, c *devcluster.Cluster, at time.Time, n int) (string, uint64) {
	t.Helper()
	mustQuery(ctx, t, c, 0, "", fmt.Sprintf(`CREATE DATABASE db WITH REPLICATION %d`, len(c.Data)))
	mustWriteAll(ctx, t, c, "db", points(at, 0, n))
	id, dir := c.Shards("db")[0].ID, t.TempDir()
	mustCtl(ctx, t, c, "backup", "-full", "-db", "db", dir)
	mustQuery(ctx, t, c, 0, "", `DROP DATABASE db`)
	return dir, id
}

// mustMakeShard makes a database again, with an empty shard.
func mustMakeShard(ctx context.Context, t *testing.T, c *devcluster.Cluster, at time.Time, replicas int) cluster.Shard {
	t.Helper()
	mustQuery(ctx, t, c, 0, "", fmt.Sprintf(`CREATE DATABASE db WITH REPLICATION %d`, replicas))
	if _, err := c.Meta.Execute(
		cluster.CreateShardGroup{Database: "db", RetentionPolicy: "autogen", Time: at}); err != nil {
		t.Fatal(err)
	}
	return c.Shards("db")[0]
}

// mustRestoreInto restores a shard of a backup into another one, which a data node does not take.
func mustRestoreInto(
	ctx context.Context, t *testing.T, c *devcluster.Cluster, dir string, shard, into uint64, without string,
) {
	t.Helper()
	out := mustCtl(ctx, t, c, "restore", "-db", "db", "-shard", strconv.FormatUint(shard, 10),
		"-newshard", strconv.FormatUint(into, 10), dir)
	if !strings.Contains(out, without+" did not take it") {
		t.Fatalf("data node %s took the shard:\n%s", without, out)
	}
}

// waitReady waits until a data node that was started has heard of the others, and they reach it.
func waitReady(ctx context.Context, t *testing.T, c *devcluster.Cluster, node int, shard uint64) {
	t.Helper()
	why := ""
	if err := c.Wait(ctx, func() bool {
		why = c.Data[node].Unfit(ctx, shard)
		return c.Data[node].Meta.State().Index >= c.Meta.State().Index && !strings.Contains(why, "its node")
	}); err != nil {
		t.Fatalf("data node %d is not ready: %s", node+1, why)
	}
	mustQuery(ctx, t, c, 0, "", fmt.Sprintf(`CREATE DATABASE ready WITH REPLICATION %d`, len(c.Data)))
	if err := c.Wait(ctx, func() bool {
		return c.Client(0).Write(ctx, "ready", "all", points(yesterday(), 0, 1)) == nil
	}); err != nil {
		t.Fatalf("data node %d is not reached", node+1)
	}
}

// An owner that was down when a shard was restored takes the shard for a new one when it is back. It does not answer
// out of its copy, with anti-entropy off for ever.
func TestOwnerThatWasDownDuringARestoreIsNotRead(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, func(cfg *datanode.Config) { cfg.AntiEntropy.Enabled = false })
	const away, n = 1, 1000
	at := yesterday()
	dir, _ := mustBackUp(ctx, t, c, at, n)
	awayAddr := addr(t, c, away)
	if err := c.StopData(away); err != nil {
		t.Fatal(err)
	}
	if out := mustCtl(ctx, t, c, "restore", "-db", "db", dir); !strings.Contains(out, awayAddr+" did not take it") {
		t.Fatalf("a node that is down took the shard:\n%s", out)
	}
	if err := c.StartData(away); err != nil {
		t.Fatal(err)
	}
	waitReady(ctx, t, c, away, c.Shards("db")[0].ID)
	mustWriteAll(ctx, t, c, "db", points(at, n, 1))
	var a asked
	for range 20 {
		a.count(ctx, c.Client(away), n+1)
	}
	a.check(t, 0)
}

// Where only owners that did not take a restored shard are left, answers are not silently empty.
func TestRestoredShardIsNotEmptyOnTheOwnerThatIsLeft(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, func(cfg *datanode.Config) { cfg.AntiEntropy.Enabled = false })
	const n = 100
	at := yesterday()
	dir, old := mustBackUp(ctx, t, c, at, n)
	sh := mustMakeShard(ctx, t, c, at, 2)
	took, failed := place(c, sh.Owners[0]), place(c, sh.Owners[1])
	other := 3 - took - failed
	failedAddr := addr(t, c, failed)
	if err := c.StopData(failed); err != nil {
		t.Fatal(err)
	}
	mustRestoreInto(ctx, t, c, dir, old, sh.ID, failedAddr)
	if err := c.StartData(failed); err != nil {
		t.Fatal(err)
	}
	waitReady(ctx, t, c, failed, sh.ID)
	if err := c.StopData(took); err != nil {
		t.Fatal(err)
	}
	var a asked
	for _, node := range []int{failed, other} {
		a.count(ctx, c.Client(node), n)
	}
	a.check(t, 2)
}

// An owner that got points before a restore reached it refuses the files. It says at once that it lacks the rest, and
// is repaired.
func TestOwnerThatRefusedARestoredShardIsRepaired(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, nil)
	const full, n = 1, 1000
	at := yesterday()
	dir, old := mustBackUp(ctx, t, c, at, n)
	sh := mustMakeShard(ctx, t, c, at, 3)
	written, err := models.ParsePointsString(fmt.Sprintf("agent v=1 %d", at.UnixNano()))
	if err == nil {
		err = c.Data[full].Store.CreateShard("db", "autogen", sh.ID, true)
	}
	if err == nil {
		err = c.Data[full].Store.WriteToShard(tsdb.WriteContext{}, sh.ID, written)
	}
	if err != nil {
		t.Fatal(err)
	}
	mustRestoreInto(ctx, t, c, dir, old, sh.ID, addr(t, c, full))
	var a asked
	if err := c.Wait(ctx, func() bool {
		a.count(ctx, c.Client(full), n)
		return c.Data[full].Unfit(ctx, sh.ID) == ""
	}); err != nil {
		t.Fatalf("the copy does not become whole: %s", c.Data[full].Unfit(ctx, sh.ID))
	}
	a.count(ctx, c.Client(full), n)
	a.check(t, 0)
	c.Cut(full) // asked alone
	if got := new(asked).count(ctx, c.Client(full), 0); got != n {
		t.Errorf("the repaired copy has %d of %d points", got, n)
	}
}
