package devcluster_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/cmd/influxd/backup_util"
	"github.com/spf13/cobra"

	"concord/internal/backup"
	"concord/internal/cli"
	"concord/internal/cluster"
	"concord/internal/ctl"
	"concord/internal/devcluster"
)

// runCtl executes influxd-ctl against the cluster's meta node.
func runCtl(ctx context.Context, c *devcluster.Cluster, args ...string) (string, error) {
	root := &cobra.Command{Use: "influxd-ctl", SilenceUsage: true, SilenceErrors: true}
	ctl.Setup(root)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(cli.DoubleDash(append([]string{"-bind", c.Meta.HTTPAddr()}, args...)))
	err := root.ExecuteContext(ctx)
	return out.String(), err
}

func mustCtl(ctx context.Context, t *testing.T, c *devcluster.Cluster, args ...string) string {
	t.Helper()
	out, err := runCtl(ctx, c, args...)
	if err != nil {
		t.Fatalf("influxd-ctl %v: %v\n%s", args, err, out)
	}
	return out
}

// contents is everything in a database, as one node answers.
func contents(ctx context.Context, t *testing.T, c *devcluster.Cluster, node int, db string) string {
	t.Helper()
	return fmt.Sprint(mustQuery(ctx, t, c, node, db, "SELECT * FROM /.*/ GROUP BY *"))
}

func settled(ctx context.Context, t *testing.T, c *devcluster.Cluster) {
	t.Helper()
	if err := c.Wait(ctx, func() bool {
		for _, n := range c.Data {
			if n != nil && n.Entropy != nil {
				n.Entropy.CheckNow(ctx)
			}
		}
		s, _, err := c.Client(0).EntropyStatus(ctx)
		return err == nil && s.Clean()
	}); err != nil {
		t.Fatal("the replicas never agreed")
	}
}

// TestCopiedShardLosesNothing copies a shard under writes, with a delete before, and asks the new owner alone.
func TestCopiedShardLosesNothing(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, nil)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	at := yesterday()
	if err := c.Client(0).Write(ctx, "db", "all", lines(500, at, time.Second)); err != nil {
		t.Fatal(err)
	}
	mustQuery(ctx, t, c, 0, "db", `DELETE FROM m WHERE host = 'h3'`)
	sh := c.Shards("db")[0]
	nodes := c.Meta.State().DataNodes
	var from, to cluster.Node
	target := 0
	for i, n := range nodes {
		if !slices.Contains(sh.Owners, n.ID) {
			to, target = n, i
		} else {
			from = n
		}
	}
	// On a busy machine a repair may have found the new shard missing, and begun to make it from files.
	if err := c.Wait(ctx, func() bool { return c.Data[place(c, from.ID)].Unfit(ctx, sh.ID) == "" }); err != nil {
		t.Fatal("the copy to be copied never became whole:", err)
	}
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				done <- n
				return
			default:
			}
			line := fmt.Appendf(nil, "live v=%di %d", n, at.Add(time.Duration(n)*time.Millisecond).UnixNano())
			if err := c.Client(0).Write(ctx, "db", "quorum", line); err != nil {
				t.Error(err)
			}
		}
	}()
	end := sync.OnceValue(func() int { close(stop); return <-done })
	defer end() // also when the test fails: the cluster is closed then
	id := fmt.Sprint(sh.ID)
	if got, want := mustCtl(ctx, t, c, "copy-shard", from.TCPAddr, to.TCPAddr,
		id), fmt.Sprintf("Copied shard %s from %s to %s\n", id, from.TCPAddr, to.TCPAddr); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	wrote := end()
	// What was written while it was copied comes by anti-entropy, automatically. That may take more than half a minute: a
	// repair waits for hinted handoff.
	if err := c.Wait(ctx, func() bool {
		_, err := os.Stat(filepath.Join(c.DataDir(target), "meta", "entropy", "begun", id))
		return os.IsNotExist(err)
	}); err != nil {
		t.Fatal("the copy never became whole")
	}
	for i := range c.Data {
		if i != target {
			c.Cut(i)
		}
	}
	want := fmt.Sprint([][]any{{"0", "429"}}, [][]any{{"0", fmt.Sprint(wrote)}})
	if got := fmt.Sprint(mustQuery(ctx, t, c, target, "db", "SELECT count(i) FROM m"),
		mustQuery(ctx, t, c, target, "db", "SELECT count(v) FROM live")); got != want {
		t.Errorf("the new owner alone has %s, want %s", got, want)
	}
	for i := range c.Data {
		c.Heal(i)
	}
	for args, want := range map[string]string{
		"copy-shard " + from.TCPAddr + " " + to.TCPAddr + " " + id:      "is an owner of shard",
		"copy-shard nobody:1 " + to.TCPAddr + " " + id:                  `data node "nobody:1" does not exist`,
		"copy-shard " + from.TCPAddr + " " + to.TCPAddr + " 999":        "shard 999 does not exist",
		"kill-copy-shard " + from.TCPAddr + " " + to.TCPAddr + " " + id: "is not being copied",
		"remove-shard nobody:1 " + id:                                   `data node "nobody:1" does not exist`,
	} {
		if out, err := runCtl(ctx, c, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v %q, want %s", args, err, out, want)
		}
	}
	want = fmt.Sprintf("Removed shard %s from %s\n", id, from.TCPAddr)
	var out string
	var err error
	if c.Wait(ctx, func() bool { // the other owners may need a moment after the cut to know that they are whole
		out, err = runCtl(ctx, c, "remove-shard", from.TCPAddr, id)
		return err == nil
	}) != nil || out != want {
		t.Errorf("remove-shard printed %q: %v", out, err)
	}
	if sh := c.Shards("db")[0]; slices.Contains(sh.Owners, from.ID) || len(sh.Owners) != 2 {
		t.Errorf("owners are %v", sh.Owners)
	}
	for i, n := range nodes {
		if n.ID == from.ID && c.Data[i].Store.Shard(sh.ID) != nil {
			t.Error("the removed copy is still there")
		}
	}
	if out := mustCtl(ctx, t, c, "show-shards", "-v"); !strings.Contains(out, to.TCPAddr+" ") {
		t.Errorf("show-shards -v:\n%s", out)
	}
	if out := mustCtl(ctx, t, c, "copy-shard-status"); !strings.Contains(out, "CurrentSize") {
		t.Errorf("copy-shard-status:\n%s", out)
	}
}

func TestBackupRestores(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, nil)
	dir := t.TempDir()
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2 SHARD DURATION 1h`)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE other WITH REPLICATION 1`)
	at := yesterday()
	for db, n := range map[string]int{"db": 300, "other": 20} {
		if err := c.Client(0).Write(ctx, db, "all", lines(n, at, time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	mustQuery(ctx, t, c, 0, "db", `DELETE FROM m WHERE host = 'h3'`)
	mustCtl(ctx, t, c, "backup", "-full", dir)

	// An incremental one takes what changed alone.
	if err := c.Client(0).Write(ctx, "db", "all", fmt.Appendf(nil, "m,host=h3 f=1 %d", at.UnixNano())); err != nil {
		t.Fatal(err)
	}
	waitForStamp(t, ctx, c, dir)
	out := mustCtl(ctx, t, c, "backup", dir)
	if n := strings.Count(out, ", shard "); n != 1 || !strings.Contains(out, "Backing up meta data... Done. ") ||
		!strings.Contains(out, "Backed up to "+dir+" in ") {
		t.Errorf("the incremental backup has %d shards:\n%s", n, out)
	}
	want, wantOther := contents(ctx, t, c, 0, "db"), contents(ctx, t, c, 0, "other")

	// Nothing is overwritten.
	if _, err := runCtl(ctx, c, "restore", dir); err == nil || !strings.Contains(err.Error(), "has data already") {
		t.Errorf("restore over data: %v", err)
	}
	// Into another name, beside it.
	out = mustCtl(ctx, t, c, "restore", "-db", "db", "-newdb", "copy", "-newrf", "3", dir)
	for _, part := range []string{
		"Using backup directory: " + dir, "Restoring meta data... Done. Restored in ",
		"Restoring db copy, rp autogen, shard ", "Copying data to 127.0.0.1:", "Restored from " + dir,
	} {
		if !strings.Contains(out, part) {
			t.Errorf("no %q in:\n%s", part, out)
		}
	}
	mustQuery(ctx, t, c, 0, "", `DROP DATABASE db`)
	mustQuery(ctx, t, c, 0, "", `DROP DATABASE other`)
	mustCtl(ctx, t, c, "restore", dir)
	settled(ctx, t, c)
	for node := range c.Data {
		if d := cmp.Diff(want, contents(ctx, t, c, node, "db")); d != "" {
			t.Errorf("node %d: db: %s", node+1, d)
		}
		if d := cmp.Diff(want, contents(ctx, t, c, node, "copy")); d != "" {
			t.Errorf("node %d: copy: %s", node+1, d)
		}
		if d := cmp.Diff(wantOther, contents(ctx, t, c, node, "other")); d != "" {
			t.Errorf("node %d: other: %s", node+1, d)
		}
	}
	// The copy is on all three nodes, each with all of it.
	for _, sh := range c.Shards("copy") {
		if len(sh.Owners) != 3 {
			t.Errorf("shard %d of the copy is on %v", sh.ID, sh.Owners)
		}
	}
	for args, want := range map[string]string{
		"backup -from nobody:1 " + dir:               `data node "nobody:1" does not exist`,
		"backup -db nothing " + dir:                  `database "nothing" does not exist`,
		"backup -shard 9999 " + dir:                  "shard 9999 does not exist",
		"backup -strategy daily " + dir:              "-strategy daily is unknown",
		"restore " + t.TempDir():                     "there is no backup in",
		"restore -db nothing " + dir:                 "does not have what",
		"restore -newdb x " + dir:                    "-newdb needs -db",
		"restore -full " + filepath.Join(dir, "nix"): "no such file",
	} {
		if out, err := runCtl(ctx, c, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v %q, want %s", args, err, out, want)
		}
	}
	if out := mustCtl(ctx, t, c, "restore", "-list", dir); strings.Count(out, ".tar.gz") < 6 {
		t.Errorf("restore -list:\n%s", out)
	}
	if out := mustCtl(ctx, t, c, "backup", "-estimate", "-full", dir); !strings.Contains(out, " bytes (") ||
		!strings.Contains(out, ") before compression") {
		t.Errorf("backup -estimate:\n%s", out)
	}

	// A damaged file changes nothing.
	files, _ := filepath.Glob(filepath.Join(dir, "*.tar.gz"))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(f, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := runCtl(ctx, c, "restore", "-db", "db", "-newdb", "damaged", dir); err == nil ||
		!strings.Contains(err.Error(), "the backup is damaged") {
		t.Errorf("restore of a damaged backup: %v", err)
	}
	if c.Meta.State().Data.Database("damaged") != nil {
		t.Error("a damaged backup made a database")
	}
}

// waitForStamp waits for the next second, which names the files of a backup.
func waitForStamp(t *testing.T, ctx context.Context, c *devcluster.Cluster, dir string) {
	t.Helper()
	if err := c.Wait(ctx, func() bool {
		_, err := os.Stat(filepath.Join(dir, time.Now().UTC().Format(backup.Stamp)+".manifest"))
		return os.IsNotExist(err)
	}); err != nil {
		t.Fatal(err)
	}
}

// TestPortableBackupOfInfluxDBRestores restores what influxd backup -portable writes: no checksums, no version.
func TestPortableBackupOfInfluxDBRestores(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 2, nil)
	dir := t.TempDir()
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 1`)
	if err := c.Client(0).Write(ctx, "db", "all", lines(50, yesterday(), time.Second)); err != nil {
		t.Fatal(err)
	}
	want := contents(ctx, t, c, 0, "db")
	mustCtl(ctx, t, c, "backup", "-full", dir)
	// As InfluxDB has it: its own manifest type.
	paths, _ := filepath.Glob(filepath.Join(dir, "*.manifest"))
	ours, err := backup.Load(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	theirs := backup_util.Manifest{Meta: backup_util.MetaEntry{FileName: ours.Meta.FileName, Size: ours.Meta.Size}}
	for _, e := range ours.Files {
		theirs.Files = append(theirs.Files, backup_util.Entry{
			Database: e.Database, Policy: e.Policy, ShardID: e.ShardID, FileName: e.FileName, Size: e.Size,
			LastModified: e.LastModified,
		})
	}
	if err := theirs.Save(paths[0]); err != nil {
		t.Fatal(err)
	}
	if meta, shards, err := backup_util.LoadIncremental(dir); err != nil || meta == nil || len(shards) == 0 {
		t.Fatalf("InfluxDB does not read it: %v", err)
	}
	mustQuery(ctx, t, c, 0, "", `DROP DATABASE db`)
	mustCtl(ctx, t, c, "restore", "-full", "-newrf", "2", "-db", "db", paths[0])
	settled(ctx, t, c)
	for node := range c.Data {
		if d := cmp.Diff(want, contents(ctx, t, c, node, "db")); d != "" {
			t.Errorf("node %d: %s", node+1, d)
		}
	}

	// Without a checksum of its own: the blocks of points have some.
	for _, tt := range []struct {
		want   string
		change func(h *tar.Header, data []byte)
	}{
		{"is damaged: block of", func(_ *tar.Header, data []byte) { data[20] ^= 1 }},
		{"neither a file nor a folder", func(h *tar.Header, _ []byte) {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, "/etc/passwd", 0
		}},
	} {
		bad := t.TempDir()
		changed := theirs
		changed.Files = slices.Clone(theirs.Files)
		for i := range changed.Files {
			e := &changed.Files[i]
			e.Size = rewriteTar(t, filepath.Join(dir, e.FileName), filepath.Join(bad, e.FileName), tt.change)
		}
		manifest := filepath.Join(bad, filepath.Base(paths[0]))
		b, err := os.ReadFile(filepath.Join(dir, ours.Meta.FileName))
		err = errors.Join(err, os.WriteFile(filepath.Join(bad, ours.Meta.FileName), b, 0o600), changed.Save(manifest))
		if err != nil {
			t.Fatal(err)
		}
		_, err = runCtl(ctx, c, "restore", "-full", "-newrf", "2", "-db", "db", "-newdb", "bad", manifest)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("the restore says %v, want %q", err, tt.want)
		}
		mustQuery(ctx, t, c, 0, "", `DROP DATABASE bad`)
	}
}

// rewriteTar copies a tar.gz with changed entries, and returns the size of the copy.
func rewriteTar(t *testing.T, from, to string, change func(h *tar.Header, data []byte)) int64 {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	unzip, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	r, w := tar.NewReader(unzip), tar.NewWriter(zip)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		change(h, data)
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data[:h.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return int64(out.Len())
}

// TestMetadataAloneRestores backs the metadata up alone, and restores it over what changed since.
func TestMetadataAloneRestores(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 2, nil)
	dir := t.TempDir()
	for _, q := range []string{
		`CREATE DATABASE db WITH DURATION 10d REPLICATION 2`, `CREATE USER paul WITH PASSWORD 'pw'`,
		`GRANT READ ON db TO paul`,
		`CREATE CONTINUOUS QUERY cq ON db BEGIN SELECT mean(v) INTO x FROM m GROUP BY time(1h) END`,
	} {
		mustQuery(ctx, t, c, 0, "", q)
	}
	if err := c.Client(0).Write(ctx, "db", "all", lines(10, yesterday(), time.Second)); err != nil {
		t.Fatal(err)
	}
	out := mustCtl(ctx, t, c, "backup", "-strategy", "only-meta", dir)
	if files, _ := filepath.Glob(filepath.Join(dir, "*.tar.gz")); len(files) != 0 ||
		!strings.Contains(out, "Backing up meta data... Done.") {
		t.Errorf("files %v\n%s", files, out)
	}
	mustQuery(ctx, t, c, 0, "", `ALTER RETENTION POLICY autogen ON db DURATION 20d`)
	mustQuery(ctx, t, c, 0, "", `DROP USER paul`)
	mustCtl(ctx, t, c, "restore", "-meta-only-overwrite-force", dir)
	rp, err := c.Meta.State().Data.RetentionPolicy("db", "autogen")
	if err != nil || rp == nil || rp.Duration != 10*24*time.Hour || len(rp.ShardGroups) == 0 {
		t.Errorf("the policy is %+v, %v", rp, err)
	}
	if c.Meta.State().Data.User("paul") == nil {
		t.Error("the user is not back")
	}
	mustQuery(ctx, t, c, 0, "", `DROP DATABASE db`)
	mustCtl(ctx, t, c, "restore", "-meta-only-overwrite-force", dir)
	if db := c.Meta.State().Data.Database("db"); db == nil || len(db.ContinuousQueries) != 1 ||
		len(db.RetentionPolicies[0].ShardGroups) != 0 {
		t.Errorf("the database is %+v", db)
	}
	if out := mustCtl(ctx, t, c, "show-shards", "-m"); strings.Contains(out, "autogen") {
		t.Errorf("shards without data:\n%s", out)
	}
}
