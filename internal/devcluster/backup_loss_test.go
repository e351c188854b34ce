package devcluster_test

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"concord/internal/cluster"
	"concord/internal/datanode"
	"concord/internal/rpc"
)

// TestRemoveShardKeepsWhatACopyLacks writes between the snapshot of a copy and
// its record, as any write may that comes while copy-shard runs: the first owner
// alone has it until anti-entropy has caught up, which here it never does.
func TestRemoveShardKeepsWhatACopyLacks(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 2, func(cfg *datanode.Config) { cfg.AntiEntropy.Enabled = false })
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 1`)
	at := yesterday()
	if err := c.Client(0).Write(ctx, "db", "all", lines(10, at, time.Second)); err != nil {
		t.Fatal(err)
	}
	sh := c.Shards("db")[0]
	var from, to cluster.Node
	for _, n := range c.Meta.State().DataNodes {
		if n.ID == sh.Owners[0] {
			from = n
		} else {
			to = n
		}
	}
	var pool rpc.Pool
	t.Cleanup(func() { pool.Close() })
	conn, err := pool.Conn(to.TCPAddr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rpc.NewShardsClient(conn).Copy(ctx,
		&rpc.CopyRequest{ShardId: sh.ID, Database: "db", RetentionPolicy: "autogen", Source: from.TCPAddr}); err != nil {
		t.Fatal(err)
	}
	// The group has a shard on each node: of this many series some fall into this one.
	const series = 40
	var late []byte
	for i := range series {
		late = fmt.Appendf(late, "late,k=%d v=1 %d\n", i, at.UnixNano())
	}
	if err := c.Client(0).Write(ctx, "db", "all", late); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Meta.Execute(cluster.AddShardOwner{ID: sh.ID, NodeID: to.ID}); err != nil {
		t.Fatal(err)
	}
	id := strconv.FormatUint(sh.ID, 10)
	if out, err := runCtl(ctx, c, "remove-shard", from.TCPAddr, id); err == nil ||
		!strings.Contains(err.Error(), "not have all of shard "+id) {
		t.Errorf("removed the one whole copy: %v %q", err, out)
	}
	// The copy itself may go, and everything is there without it.
	mustCtl(ctx, t, c, "remove-shard", to.TCPAddr, id)
	if err := c.Wait(ctx, func() bool {
		for _, n := range c.Data {
			if s, _ := n.Meta.State().Shard(sh.ID); len(s.Owners) != 1 {
				return false
			}
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if n := len(mustQuery(ctx, t, c, 0, "db", "SELECT v FROM late")); n != series {
		t.Errorf("%d of %d acknowledged points are there", n, series)
	}
}

// TestBackupOfARangeDoesNotReplaceAWholeOne backs up all, then a range into the
// same folder: a restore of the folder has all.
func TestBackupOfARangeDoesNotReplaceAWholeOne(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 1, nil)
	dir := t.TempDir()
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db`)
	at := yesterday()
	if err := c.Client(0).Write(ctx, "db", "all", lines(100, at, time.Second)); err != nil {
		t.Fatal(err)
	}
	mustCtl(ctx, t, c, "backup", "-full", dir)
	// Another file of the same shard, an hour later.
	if err := c.Client(0).Write(ctx, "db", "all", lines(100, at.Add(time.Hour), time.Second)); err != nil {
		t.Fatal(err)
	}
	waitForStamp(t, ctx, c, dir)
	start := at.Add(30 * time.Minute).UTC().Format(time.RFC3339)
	if out := mustCtl(ctx, t, c, "backup", "-start", start, dir); !strings.Contains(out, ", shard ") {
		t.Fatalf("nothing was backed up:\n%s", out)
	}
	waitForStamp(t, ctx, c, dir)
	// What the range left out is still to be backed up.
	if out := mustCtl(ctx, t, c, "backup", dir); !strings.Contains(out, ", shard ") {
		t.Errorf("the range counted as a backup of the whole shard:\n%s", out)
	}
	want := contents(ctx, t, c, 0, "db")
	mustQuery(ctx, t, c, 0, "", `DROP DATABASE db`)
	mustCtl(ctx, t, c, "restore", dir)
	if got := contents(ctx, t, c, 0, "db"); got != want {
		t.Errorf("the restore has %d bytes of answer, want %d", len(got), len(want))
	}
}

// TestBackupsInOneSecondKeepTheirFiles backs up two databases in turn, as scripts do.
func TestBackupsInOneSecondKeepTheirFiles(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 1, nil)
	dir := t.TempDir()
	const n = 4
	for i := range n {
		db := "db" + strconv.Itoa(i)
		mustQuery(ctx, t, c, 0, "", `CREATE DATABASE `+db)
		if err := c.Client(0).Write(ctx, db, "all", lines(5, yesterday(), time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		mustCtl(ctx, t, c, "backup", "-db", "db"+strconv.Itoa(i), dir)
	}
	if m, _ := filepath.Glob(filepath.Join(dir, "*.manifest")); len(m) != n {
		t.Errorf("%d backups left %d manifests", n, len(m))
	}
	for i := range n {
		mustQuery(ctx, t, c, 0, "", `DROP DATABASE db`+strconv.Itoa(i))
	}
	mustCtl(ctx, t, c, "restore", dir)
	for i := range n {
		if got := fmt.Sprint(mustQuery(ctx, t, c, 0, "db"+strconv.Itoa(i),
			"SELECT count(i) FROM m")); !strings.Contains(got, "5") {
			t.Errorf("db%d: %s", i, got)
		}
	}
}

// TestContinuousQueriesComeBack has a default policy that is not the first one.
func TestContinuousQueriesComeBack(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 1, nil)
	dir := t.TempDir()
	for _, q := range []string{
		`CREATE DATABASE db`, `CREATE RETENTION POLICY month ON db DURATION 30d REPLICATION 1 DEFAULT`,
		`CREATE CONTINUOUS QUERY cq ON db BEGIN SELECT mean(f) INTO x FROM m GROUP BY time(1h) END`,
	} {
		mustQuery(ctx, t, c, 0, "", q)
	}
	if err := c.Client(0).Write(ctx, "db", "all", lines(5, yesterday(), time.Second)); err != nil {
		t.Fatal(err)
	}
	mustCtl(ctx, t, c, "backup", "-full", dir)
	mustQuery(ctx, t, c, 0, "", `DROP DATABASE db`)
	mustCtl(ctx, t, c, "restore", dir)
	db := c.Meta.State().Data.Database("db")
	if db == nil || len(db.ContinuousQueries) != 1 || db.DefaultRetentionPolicy != "month" {
		t.Errorf("the database is %+v", db)
	}
}

// TestBackupOfADatabaseLeavesOthersAlone looks for files that only a flush of the cache makes.
func TestBackupOfADatabaseLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 1, nil)
	for _, db := range []string{"asked", "other"} {
		mustQuery(ctx, t, c, 0, "", `CREATE DATABASE `+db)
		if err := c.Client(0).Write(ctx, db, "all", lines(5, yesterday(), time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	mustCtl(ctx, t, c, "backup", "-db", "asked", t.TempDir())
	for db, want := range map[string]int{"asked": 1, "other": 0} {
		if files, _ := filepath.Glob(filepath.Join(c.DataDir(0), "data", db, "autogen", "*", "*.tsm")); len(files) != want {
			t.Errorf("%s has the files %v, want %d", db, files, want)
		}
	}
}
