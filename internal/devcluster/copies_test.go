package devcluster_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	itoml "github.com/influxdata/influxdb/toml"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/spf13/cobra"

	"concord/internal/backup"
	"concord/internal/cli"
	"concord/internal/cluster"
	"concord/internal/ctl"
	"concord/internal/datanode"
	"concord/internal/devcluster"
)

// copies is which copies of a cluster are not whole, as a test decides.
type copies struct {
	mu   sync.Mutex
	why  map[int]string // by data node, for all its shards
	then map[int]string // what why is after the next answer
}

func (c *copies) set(node int, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.why[node] = why
}

func (c *copies) notWhole(node int, _ uint64) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	why := c.why[node]
	if then, ok := c.then[node]; ok {
		c.why[node] = then
	}
	return why
}

// after makes a node say why once it has answered again.
func (c *copies) after(node int, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.then[node] = why
}

// mustStartCopies returns a cluster whose copies are what a test says, and are repaired by nobody.
func mustStartCopies(t *testing.T, nodes int) (context.Context, *devcluster.Cluster, *copies) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	said := &copies{why: map[int]string{}, then: map[int]string{}}
	c, err := devcluster.Start(ctx, devcluster.Options{
		Dir: t.TempDir(), DataNodes: nodes, NotWhole: said.notWhole,
		DataConfig: func(cfg *datanode.Config) {
			cfg.AntiEntropy.Enabled = false
			cfg.Cluster.WriteTimeout = itoml.Duration(30 * time.Second) // a busy machine is not a node that is away
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close the cluster: %v", err)
		}
	})
	return ctx, c, said
}

// exit runs influxd-ctl as a process would, and returns what it prints and its exit code.
func exit(c *devcluster.Cluster, args ...string) (out, errs string, code int) {
	var stdout, stderr bytes.Buffer
	code = cli.Run("influxd-ctl", "", append([]string{"-bind", c.Meta.HTTPAddr()}, args...), func(root *cobra.Command) {
		ctl.Setup(root)
		root.SetOut(&stdout)
		root.SetErr(&stderr)
	})
	return stdout.String(), stderr.String(), code
}

// mustWriteAll writes points to all owners.
func mustWriteAll(ctx context.Context, t *testing.T, c *devcluster.Cluster, db string, points []byte) {
	t.Helper()
	if err := c.Client(0).Write(ctx, db, "all", points); err != nil {
		t.Fatal(err)
	}
}

// waitCount waits until the first node answers that a database has so many points: it hears of a restore a moment
// later.
func waitCount(ctx context.Context, t *testing.T, c *devcluster.Cluster, db, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	got := "no"
	if err := c.Wait(ctx, func() bool {
		if rows, err := c.Client(0).Query(ctx, db, "SELECT count(i) FROM m"); err == nil && len(rows) > 0 {
			got = fmt.Sprint(rows[0][1])
		}
		return got == want
	}); err != nil {
		t.Errorf("%s has %s points, want %s", db, got, want)
	}
}

// lose makes a node lose its copy of a shard. Then n writes begin it anew, on this node alone: it has the newest
// write, and lacks all that was there before.
func lose(t *testing.T, c *devcluster.Cluster, node int, sh cluster.Shard, n int) {
	t.Helper()
	store := c.Data[node].Store
	if err := store.DeleteShard(sh.ID); err != nil {
		t.Fatal(err)
	}
	if err := store.CreateShard(sh.Database, sh.RetentionPolicy, sh.ID, true); err != nil {
		t.Fatal(err)
	}
	points, err := models.ParsePointsString(string(lines(n, yesterday().Add(time.Hour), time.Second)))
	if err == nil {
		err = store.WriteToShard(tsdb.WriteContext{}, sh.ID, points)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// manifest is the newest of a folder.
func manifest(t *testing.T, dir string) *backup.Manifest {
	t.Helper()
	paths, _ := filepath.Glob(filepath.Join(dir, "*.manifest"))
	if len(paths) == 0 {
		t.Fatal("there is no manifest")
	}
	slices.Sort(paths)
	m, err := backup.Load(paths[len(paths)-1])
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func addr(t *testing.T, c *devcluster.Cluster, node int) string {
	t.Helper()
	return c.Data[node].TCPAddr()
}

// The copy with the newest write is one that began a moment ago, and lacks nearly all.
func TestBackupTakesAWholeCopy(t *testing.T) {
	t.Parallel()
	ctx, c, said := mustStartCopies(t, 2)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	mustWriteAll(ctx, t, c, "db", lines(2000, yesterday(), time.Second))
	for node := range 2 {
		t.Run(fmt.Sprint("node ", node+1), func(t *testing.T) {
			sh := c.Shards("db")[0]
			lose(t, c, node, sh, 10)
			said.set(node, "a write began it anew")
			dir := t.TempDir()
			// Also when it is the one that was asked for.
			for _, args := range [][]string{{"backup", "-full", dir}, {"backup", "-full", "-from", addr(t, c, node), dir}} {
				if out, errs, code := exit(c, args...); code != 0 || errs != "" {
					t.Errorf("%v: exit code %d\n%s%s", args, code, out, errs)
				}
			}
			mustQuery(ctx, t, c, 0, "", `DROP DATABASE db`)
			said.set(node, "")
			mustCtl(ctx, t, c, "restore", dir)
			waitCount(ctx, t, c, "db", "2000")
		})
	}
}

// What the nodes know by themselves of an owner that lost its disk while writes went on.
func TestWipedOwnerIsNoSourceOfABackup(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 2, func(cfg *datanode.Config) { cfg.AntiEntropy.Enabled = false })
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	mustWriteAll(ctx, t, c, "db", lines(2000, yesterday(), time.Second))
	if err := c.StopData(1); err != nil {
		t.Fatal(err)
	}
	if err := c.Wipe(1); err != nil {
		t.Fatal(err)
	}
	if err := c.StartData(1); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(ctx, func() bool {
		return c.Client(0).Write(ctx, "db", "all", lines(10, yesterday(), time.Second)) == nil
	}); err != nil {
		t.Fatal(err)
	}
	sh := c.Shards("db")[0]
	if c.Data[1].Store.Shard(sh.ID) == nil {
		t.Fatal("the write did not begin the shard anew")
	}
	dir := t.TempDir()
	if out, errs, code := exit(c, "backup", "-full", "-from", addr(t, c, 1), dir); code != 0 || errs != "" ||
		!strings.Contains(out, "node "+addr(t, c, 0)) {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	for _, args := range [][]string{{"remove-shard", addr(t, c, 0), fmt.Sprint(sh.ID)}, {"remove-data", addr(t, c, 0)}} {
		if _, err := runCtl(ctx, c, args...); err == nil || !strings.Contains(err.Error(), addr(t, c, 1)+": ") {
			t.Errorf("%v: %v", args, err)
		} else {
			t.Log(err)
		}
	}
	mustCtl(ctx, t, c, "restore", "-db", "db", "-newdb", "again", dir)
	waitCount(ctx, t, c, "again", "2000")
}

// Where no copy is whole the largest is backed up. The backup says so, and does not count as one of that shard.
func TestBackupSaysThatNoCopyIsWhole(t *testing.T) {
	t.Parallel()
	ctx, c, said := mustStartCopies(t, 2)
	dir := t.TempDir()
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	mustWriteAll(ctx, t, c, "db", lines(2000, yesterday(), time.Second))
	sh := c.Shards("db")[0]
	lose(t, c, 1, sh, 10)
	said.set(0, "it waits for hints")
	said.set(1, "a write began it anew")

	_, errs, code := exit(c, "backup", "-wait", "0s", dir)
	want := fmt.Sprintf("Not whole, read from %s all the same: shard %d of db.autogen: no whole copy can be read: "+
		"%[1]s: it waits for hints; %[3]s: a write began it anew\n",
		addr(t, c, 0), sh.ID, addr(t, c, 1))
	if code != cli.Partial || errs != want {
		t.Errorf("exit code %d, %q, want %q", code, errs, want)
	}
	m := manifest(t, dir)
	if len(m.Files) != 1 || !strings.Contains(m.Files[0].Incomplete, "it waits for hints") || len(m.Missing) != 0 {
		t.Errorf("%+v", m)
	}
	if _, errs, code := exit(c, "restore", "-db", "db", "-newdb", "part", dir); code != cli.Partial ||
		!strings.Contains(errs, fmt.Sprintf("Not whole in the backup: shard %d of db.autogen", sh.ID)) {
		t.Errorf("restore: exit code %d, %q", code, errs)
	}
	waitCount(ctx, t, c, "part", "2000") // of the largest copy

	// Nothing was written since, but what was read was not whole.
	said.set(0, "")
	said.set(1, "")
	if out, errs, code := exit(c, "backup", "-db", "db", "-from", addr(t, c, 0), dir); code != 0 || errs != "" ||
		!strings.Contains(out, fmt.Sprintf("shard %d...", sh.ID)) {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	if _, errs, code := exit(c, "restore", "-db", "db", "-newdb", "whole", dir); code != 0 || errs != "" {
		t.Errorf("restore: exit code %d, %q", code, errs)
	}
}

// A copy that hints are on their way to is whole in a moment.
func TestBackupWaitsForAWholeCopy(t *testing.T) {
	t.Parallel()
	ctx, c, said := mustStartCopies(t, 2)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	mustWriteAll(ctx, t, c, "db", lines(100, yesterday(), time.Second))
	for node := range 2 {
		said.set(node, "it waits for hints")
		said.after(node, "")
	}
	if out, errs, code := exit(c, "backup", "-full", t.TempDir()); code != 0 || errs != "" {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
}

// The chosen copy is lost between the plan and the read.
func TestBackupTakesAnotherCopyWhenOneFails(t *testing.T) {
	t.Parallel()
	ctx, c, said := mustStartCopies(t, 2)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	mustWriteAll(ctx, t, c, "db", lines(100, yesterday(), time.Second))
	said.after(1, "it was lost")
	dir := t.TempDir()
	out, errs, code := exit(c, "backup", "-full", "-from", addr(t, c, 1), dir)
	if code != 0 || errs != "" || !strings.Contains(out, "Backing up node "+addr(t, c, 1)) ||
		!strings.Contains(out, "Backing up node "+addr(t, c, 0)) {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	if m := manifest(t, dir); len(m.Files) != 1 || !m.Files[0].Whole() || len(m.Missing) != 0 {
		t.Errorf("%+v", m)
	}

	// There is no other one.
	if err := c.StopData(0); err != nil {
		t.Fatal(err)
	}
	said.set(1, "")
	_, errs, code = exit(c, "backup", "-full", "-wait", "0s", dir)
	if code != cli.Partial || !strings.Contains(errs, addr(t, c, 1)+": it was lost") {
		t.Errorf("exit code %d, %q", code, errs)
	}
}

// The owner of a single copy is away.
func TestBackupGoesOnWithoutWhatItCannotRead(t *testing.T) {
	t.Parallel()
	ctx, c, _ := mustStartCopies(t, 2)
	dir := t.TempDir()
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE spread WITH REPLICATION 1`)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE both WITH REPLICATION 2`)
	for _, db := range []string{"spread", "both"} {
		mustWriteAll(ctx, t, c, db, lines(200, yesterday(), time.Second))
	}
	away := c.Meta.State().DataNodes[1]
	var lost cluster.Shard
	for _, sh := range c.Shards("spread") {
		if sh.Owners[0] == away.ID {
			lost = sh
		}
	}
	if err := c.StopData(1); err != nil {
		t.Fatal(err)
	}
	out, errs, code := exit(c, "backup", "-full", "-wait", "0s", dir)
	want := fmt.Sprintf("Not backed up: shard %d of spread.autogen: no copy can be read: %s does not answer\n",
		lost.ID, away.TCPAddr)
	if code != cli.Partial || errs != want {
		t.Errorf("exit code %d, %q, want %q\n%s", code, errs, want, out)
	}
	m := manifest(t, dir)
	if len(m.Missing) != 1 || m.Missing[0].ShardID != lost.ID || len(m.Files) != 2 {
		t.Errorf("%+v", m)
	}
	if _, errs, code := exit(c, "backup", "-full", "-estimate", "-wait", "0s", dir); code != cli.Partial ||
		errs != want {
		t.Errorf("-estimate: exit code %d, %q", code, errs)
	}

	// A restore says what it does not bring back, of what it was asked for.
	if _, errs, code := exit(c, "restore", "-db", "spread", "-newdb", "s2", dir); code != cli.Partial ||
		!strings.Contains(errs, fmt.Sprintf("Not in the backup: shard %d of spread.autogen", lost.ID)) {
		t.Errorf("restore: exit code %d, %q", code, errs)
	}
	if _, errs, code := exit(c, "restore", "-db", "both", "-newdb", "b2", "-newrf", "1", dir); code != 0 || errs != "" {
		t.Errorf("restore of what is whole: exit code %d, %q", code, errs)
	}

	if err := c.StartData(1); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := exit(c, "backup", "-db", "spread", dir); code != 0 || errs != "" ||
		!strings.Contains(out, fmt.Sprintf("shard %d...", lost.ID)) {
		t.Errorf("once it is back: exit code %d\n%s%s", code, out, errs)
	}
	if out, errs, code := exit(c, "restore", "-list", dir); code != 0 || errs != "" {
		t.Errorf("-list: exit code %d\n%s%s", code, out, errs)
	}
}

func TestCopyShardTakesAWholeSource(t *testing.T) {
	t.Parallel()
	ctx, c, said := mustStartCopies(t, 3)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	mustWriteAll(ctx, t, c, "db", lines(100, yesterday(), time.Second))
	sh := c.Shards("db")[0]
	owners, to := []int{}, 0
	for i, n := range c.Meta.State().DataNodes {
		if slices.Contains(sh.Owners, n.ID) {
			owners = append(owners, i)
		} else {
			to = i
		}
	}
	id := fmt.Sprint(sh.ID)
	args := []string{"copy-shard", addr(t, c, owners[0]), addr(t, c, to), id}
	said.set(owners[0], "it waits for hints")
	want := fmt.Sprintf("data node %s does not have all of shard %s (%[1]s: it waits for hints): copy it from %[3]s, "+
		"which has", addr(t, c, owners[0]), id, addr(t, c, owners[1]))
	if _, err := runCtl(ctx, c, args...); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	said.set(owners[1], "it is damaged")
	if _, err := runCtl(ctx, c, args...); err == nil || !strings.Contains(err.Error(),
		"no owner is known to have all of shard "+id) || !strings.Contains(err.Error(), "-force") {
		t.Errorf("no whole copy: %v", err)
	}
	if out := mustCtl(ctx, t, c, "show-shards", "-v"); !strings.Contains(out,
		fmt.Sprintf("Shard %s on %s is not whole: it waits for hints\n", id, addr(t, c, owners[0]))) {
		t.Errorf("show-shards -v:\n%s", out)
	}
	mustCtl(ctx, t, c, append(args, "-force")...)
	if sh, _ := c.Meta.State().Shard(sh.ID); len(sh.Owners) != 3 {
		t.Errorf("the owners are %v", sh.Owners)
	}
}

// All copies are so young that the time at which they began tells nothing.
func TestRemoveShardKeepsTheOnlyWholeCopyOfAYoungShard(t *testing.T) {
	t.Parallel()
	ctx, c, said := mustStartCopies(t, 2)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	mustWriteAll(ctx, t, c, "db", lines(100, yesterday(), time.Second))
	sh := c.Shards("db")[0]
	id := fmt.Sprint(sh.ID)
	said.set(1, "it was lost and is being repaired")
	want := fmt.Sprintf("the other owners do not have all of shard %s (%s: it was lost and is being repaired)",
		id, addr(t, c, 1))
	if _, err := runCtl(ctx, c, "remove-shard", addr(t, c, 0), id); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("removed the one whole copy: %v", err)
	}
	mustCtl(ctx, t, c, "remove-shard", addr(t, c, 1), id)
}

func TestRemoveDataKeepsWhatNoOtherNodeHas(t *testing.T) {
	t.Parallel()
	ctx, c, said := mustStartCopies(t, 2)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE both WITH REPLICATION 2`)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE spread WITH REPLICATION 1`)
	mustWriteAll(ctx, t, c, "both", lines(100, yesterday(), time.Second))
	gone := c.Meta.State().DataNodes[1]
	said.set(0, "it waits for hints")
	both := c.Shards("both")[0]
	want := fmt.Sprintf("data node %s holds what no other node has: shard %d of both.autogen (%s: it waits for hints); "+
		"give each shard another owner", gone.TCPAddr, both.ID, addr(t, c, 0))
	if _, err := runCtl(ctx, c, "remove-data", gone.TCPAddr); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	said.set(0, "")

	mustWriteAll(ctx, t, c, "spread", lines(100, yesterday(), time.Second))
	var last cluster.Shard
	for _, sh := range c.Shards("spread") {
		if sh.Owners[0] == gone.ID {
			last = sh
		}
	}
	phrase := fmt.Sprintf("shard %d of spread.autogen (the last copy)", last.ID)
	if _, err := runCtl(ctx, c, "remove-data", gone.TCPAddr); err == nil ||
		!strings.Contains(err.Error(), "no other node has: "+phrase+"; give") {
		t.Errorf("%v, want %s", err, phrase)
	}
	if n := len(c.Meta.State().DataNodes); n != 2 {
		t.Fatalf("%d data nodes are left", n)
	}

	kept := c.Data[1].Store.Shard(last.ID).Path()
	wantOut := fmt.Sprintf("Removed data node %d at %s\nThe cluster has lost:\n  %s\nTheir files are still on the disk "+
		"of that node.\n", gone.ID, gone.TCPAddr, phrase)
	if out := mustCtl(ctx, t, c, "remove-data", "-force", gone.TCPAddr); out != wantOut {
		t.Errorf("got %q, want %q", out, wantOut)
	}
	if err := c.Wait(ctx, func() bool { return c.Data[1].Meta.NodeID() == 0 }); err != nil {
		t.Fatal(err)
	}
	if err := c.StopData(1); err != nil { // what was to remove files has ended
		t.Fatal(err)
	}
	if files, _ := os.ReadDir(kept); len(files) == 0 {
		t.Errorf("no files are left in %s", kept)
	}
	// The shard is where writes can go, and queries ask.
	if err := c.Wait(ctx, func() bool {
		return c.Client(0).Write(ctx, "spread", "all", lines(100, yesterday(), time.Second)) == nil
	}); err != nil {
		t.Fatal("writes to the group of the lost shard never work again")
	}
	waitCount(ctx, t, c, "spread", "100")
}

// A node whose only copies are the last of their groups: its groups go with it, and its files stay.
func TestFilesStayOnARemovedNode(t *testing.T) {
	t.Parallel()
	ctx, c, _ := mustStartCopies(t, 1)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db`)
	mustWriteAll(ctx, t, c, "db", lines(100, yesterday(), time.Second))
	kept := c.Data[0].Store.Shard(c.Shards("db")[0].ID).Path()
	// The node gets the metadata without itself before it is told to leave.
	if _, err := c.Meta.Execute(
		cluster.DeleteDataNode{ID: c.Data[0].Meta.NodeID(), Time: time.Now(), Adopt: true},
	); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(ctx, func() bool { return len(c.Data[0].Meta.DataNodes()) == 0 }); err != nil {
		t.Fatal(err)
	}
	if err := c.StopData(0); err != nil { // what was to remove files has ended
		t.Fatal(err)
	}
	if files, _ := os.ReadDir(kept); len(files) == 0 {
		t.Errorf("no files are left in %s", kept)
	}
}

// A node that owns nothing may hold writes that no other node has.
func TestRemoveDataKeepsWritesThatWait(t *testing.T) {
	t.Parallel()
	ctx, c, _ := mustStartCopies(t, 3)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 1`)
	mustWriteAll(ctx, t, c, "db", lines(100, yesterday(), time.Second))
	owner := c.Meta.State().DataNodes[1]
	if err := c.StopData(1); err != nil {
		t.Fatal(err)
	}
	if err := c.Client(2).Write(ctx, "db", "any", lines(200, yesterday(), time.Second)); err != nil {
		t.Fatal(err)
	}
	want := "(writes for " + owner.TCPAddr + " wait in its hinted handoff)"
	if _, err := runCtl(ctx, c, "remove-data", addr(t, c, 2)); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}

// The data node could go, but its meta node is the last one.
func TestLeaveChecksAllBeforeItRemovesAny(t *testing.T) {
	t.Parallel()
	ctx, c, said := mustStartCopies(t, 2)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	mustWriteAll(ctx, t, c, "db", lines(10, yesterday(), time.Second))
	args := []string{"leave", "-y", "-data", addr(t, c, 1)}
	if out, err := runCtl(ctx, c, args...); err == nil || !strings.HasPrefix(err.Error(), "nothing was removed: ") ||
		!strings.Contains(err.Error(), "is the last meta node") || out != "" {
		t.Errorf("%v\n%s", err, out)
	}
	said.set(0, "it waits for hints")
	_, err := runCtl(ctx, c, args...)
	for _, want := range []string{"holds what no other node has: shard " +
		strconv.FormatUint(c.Shards("db")[0].ID, 10), "; and ", "is the last meta node"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if n := len(c.Meta.State().DataNodes); n != 2 {
		t.Errorf("%d data nodes are left", n)
	}
}
