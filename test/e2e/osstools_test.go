//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"concord/internal/devcluster"
	"concord/test/process"
)

// tool is an influxd with the commands backup and restore of InfluxDB OSS.
type tool struct {
	name, path string
}

// run runs a command of the tool, within a minute.
func (o tool) run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, o.path, args...).CombinedOutput()
	return string(out), err
}

// mustRun is run that must succeed.
func (o tool) mustRun(t *testing.T, args ...string) string {
	t.Helper()
	out, err := o.run(t, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", o.name, strings.Join(args, " "), err, out)
	}
	return out
}

// debian fetches Debian's influxd 1.6.7, once for all tests.
var debian = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "concord-oss-")
	if err != nil {
		return "", err
	}
	for _, args := range [][]string{
		{"apt-get", "download", "influxdb"}, {"sh", "-c", "dpkg-deb -x influxdb_*.deb ."},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return filepath.Join(dir, "usr", "bin", "influxd"), nil
})

// goBuild builds a program for a test.
func goBuild(t *testing.T, pkg string, flags ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), filepath.Base(pkg))
	cmd := exec.Command("go", append(append([]string{"build", "-o", path}, flags...), pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return path
}

// engineTool is that of the engine's module.
func engineTool(t *testing.T) tool {
	t.Helper()
	return tool{name: "engine113", path: goBuild(t, "concord/test/ossinfluxd")}
}

// ossTools are those of the engine's module and, where it can be had, of Debian.
func ossTools(t *testing.T) []tool {
	t.Helper()
	tools := []tool{engineTool(t)}
	old, err := debian()
	if err != nil {
		t.Logf("without Debian's influxd 1.6.7: %v", err)
		return tools
	}
	return append(tools, tool{name: "debian167", path: old})
}

// oss is a cluster that the tools of InfluxDB OSS back up and restore.
type oss struct {
	*process.Cluster
	day time.Time // when the points begin
}

// all is everything in a database, as one node answers.
func all(t *testing.T, c devcluster.Client, db string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	rows, err := c.Query(ctx, db, "SELECT * FROM /.*/")
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(rows)
}

// same waits until each data node answers with want for a database: the tools end before the last shard is restored.
func (o *oss) same(t *testing.T, db, want string) {
	t.Helper()
	for _, n := range o.Data {
		got := ""
		if !process.Poll(time.Minute, func() bool { got = all(t, n.Client(), db); return got == want }) {
			t.Fatalf("%s answers for %s otherwise:\n%s", n.Name, db, cmp.Diff(want, got))
		}
	}
}

func (o *oss) query(t *testing.T, db, q string) [][]any {
	t.Helper()
	rows, err := o.Data[0].Client().Query(t.Context(), db, q)
	if err != nil {
		t.Fatalf("%s: %v", q, err)
	}
	return rows
}

// write writes points to each of three days.
func (o *oss) write(t *testing.T, db, rp string, from, to int) {
	t.Helper()
	var b strings.Builder
	for d := range 3 {
		for i := from; i < to; i++ {
			fmt.Fprintf(&b, "m,s=s%d v=%di %d\n", i%7, i,
				o.day.AddDate(0, 0, d).Add(time.Duration(i)*time.Second).UnixNano())
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	url := "http://" + o.Data[1].HTTP + "/write?consistency=all&db=" + db + "&rp=" + rp
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		t.Fatalf("write: %s", resp.Status)
	}
}

// TestToolsOfOSS backs up and restores a cluster with influxd of InfluxDB OSS, through nodes that own only some shards.
func TestToolsOfOSS(t *testing.T) {
	t.Parallel()
	o := &oss{
		Cluster: process.Start(t, process.Options{Meta: 1, Data: 3}),
		day:     time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -5),
	}
	o.query(t, "", `CREATE DATABASE src WITH DURATION INF REPLICATION 1 SHARD DURATION 1d NAME "one"`)
	o.query(t, "", `CREATE RETENTION POLICY two ON src DURATION INF REPLICATION 2 SHARD DURATION 1d`)
	o.query(t, "", `CREATE CONTINUOUS QUERY cq ON src BEGIN SELECT mean(v) INTO d FROM m GROUP BY time(1h) END`)
	o.query(t, "", `CREATE USER u WITH PASSWORD 'p'`)
	o.write(t, "src", "one", 0, 300)
	o.write(t, "src", "two", 1000, 1100)
	o.query(t, "src", `DELETE FROM m WHERE s = 's3'`)
	one := all(t, o.Data[0].Client(), "src")
	two := fmt.Sprint(o.query(t, "src", `SELECT * FROM src.two./.*/`))
	if strings.Contains(one, "s3") || !strings.Contains(one, "s4") || !strings.Contains(two, "1000") {
		t.Fatalf("what is backed up is\n%s\n%s", one, two)
	}
	for _, tool := range ossTools(t) {
		t.Run(tool.name, func(t *testing.T) { o.backUp(t, tool, one, two) })
	}
}

func (o *oss) backUp(t *testing.T, tool tool, one, two string) {
	name := func(db string) string { return db + tool.name }
	host := func(i int) string { return o.Data[i].TCP }
	t.Run("a database, with another name", func(t *testing.T) {
		dir := t.TempDir()
		tool.mustRun(t, "backup", "-portable", "-host", host(0), "-db", "src", dir)
		tool.mustRun(t, "restore", "-portable", "-host", host(1), "-db", "src", "-newdb", name("new"), dir)
		o.same(t, name("new"), one)
		got := ""
		if !process.Poll(time.Minute, func() bool { // the tool ends before the last shard is restored
			rows, err := o.Data[0].Client().Query(t.Context(), name("new"), `SELECT * FROM two./.*/`)
			got = fmt.Sprint(rows)
			return err == nil && got == two
		}) {
			t.Errorf("the other policy differs:\n%s", cmp.Diff(two, got))
		}
		policies := fmt.Sprint(o.query(t, "", "SHOW RETENTION POLICIES ON "+name("new")))
		if want := fmt.Sprint(o.query(t, "", "SHOW RETENTION POLICIES ON src")); policies != want {
			t.Errorf("policies are %s, want %s", policies, want)
		}
	})
	t.Run("what is there is not changed", func(t *testing.T) {
		dir := t.TempDir()
		tool.mustRun(t, "backup", "-portable", "-host", host(2), dir)
		for _, args := range [][]string{{}, {"-db", "src"}, {"-db", "nobody"},
			{"-db", "src", "-rp", "nope", "-newdb", "x"}} {
			args = append(append([]string{"restore", "-portable", "-host", host(0)}, args...), dir)
			if out, err := tool.run(t, args...); err == nil {
				t.Errorf("%v succeeds: %s", args, out)
			}
		}
		o.same(t, "src", one)
	})
	t.Run("a policy, with another name", func(t *testing.T) {
		dir := t.TempDir()
		tool.mustRun(t, "backup", "-portable", "-host", host(1), "-db", "src", "-rp", "two", dir)
		tool.mustRun(t, "restore", "-portable", "-host", host(2), "-db", "src", "-newdb", name("rp"), "-rp", "two",
			"-newrp", "three", dir)
		o.same(t, name("rp"), two)
	})
	t.Run("one shard", func(t *testing.T) {
		dir, id := t.TempDir(), ""
		for _, sh := range shardsOf(t, o.Cluster, "src") {
			if sh.RetentionPolicy == "two" {
				id = fmt.Sprint(sh.ID)
			}
		}
		tool.mustRun(t, "backup", "-portable", "-host", host(0), "-db", "src", "-rp", "two", "-shard", id, dir)
		tool.mustRun(t, "restore", "-portable", "-host", host(0), "-db", "src", "-newdb", name("shard"), "-rp", "two",
			"-shard", id, dir)
		at := o.day.AddDate(0, 0, 2).UnixNano()
		want := fmt.Sprint(o.query(t, "src", fmt.Sprintf("SELECT * FROM src.two.m WHERE time >= %d", at)))
		o.same(t, name("shard"), want)
	})
	t.Run("a range of times", func(t *testing.T) {
		dir := t.TempDir()
		tool.mustRun(t, "backup", "-portable", "-host", host(0), "-db", "src", "-start",
			o.day.AddDate(0, 0, 1).Format(time.RFC3339), "-end",
			o.day.AddDate(0, 0, 1).Add(time.Hour).Format(time.RFC3339), dir)
		tool.mustRun(t, "restore", "-portable", "-host", host(2), "-db", "src", "-newdb", name("range"), dir)
		from := o.day.AddDate(0, 0, 1)
		want := fmt.Sprint(o.query(t, "src", fmt.Sprintf("SELECT * FROM m WHERE time >= %d AND time < %d",
			from.UnixNano(), from.AddDate(0, 0, 1).UnixNano())))
		o.same(t, name("range"), want)
	})
	t.Run("what changed since", func(t *testing.T) {
		dir := t.TempDir()
		since := time.Now().Add(time.Hour) // nothing has
		tool.mustRun(t, "backup", "-portable", "-host", host(0), "-db", "src", "-since", since.Format(time.RFC3339),
			dir)
		tool.mustRun(t, "restore", "-portable", "-host", host(2), "-db", "src", "-newdb", name("none"), dir)
		o.same(t, name("none"), "[]")
		dir = t.TempDir()
		since = time.Now().Add(-time.Hour)
		tool.mustRun(t, "backup", "-portable", "-host", host(0), "-db", "src", "-since", since.Format(time.RFC3339),
			dir)
		tool.mustRun(t, "restore", "-portable", "-host", host(2), "-db", "src", "-newdb", name("since"), dir)
		o.same(t, name("since"), one)
	})
	t.Run("the former form", func(t *testing.T) {
		dir := t.TempDir()
		tool.mustRun(t, "backup", "-host", host(1), "-db", "src", dir)
		tool.mustRun(t, "restore", "-online", "-host", host(0), "-db", "src", "-newdb", name("online"), dir)
		o.same(t, name("online"), one)
	})
	t.Run("with influxd-ctl", func(t *testing.T) {
		dir := t.TempDir()
		tool.mustRun(t, "backup", "-portable", "-host", host(1), "-db", "src", dir)
		o.Ctl("restore", "-db", "src", "-newdb", name("ctl"), dir)
		o.same(t, name("ctl"), one)
		dir = t.TempDir()
		o.Ctl("backup", "-db", "src", dir)
		tool.mustRun(t, "restore", "-portable", "-host", host(1), "-db", "src", "-newdb", name("fromctl"), dir)
		o.same(t, name("fromctl"), one)
	})
	t.Run("no users come", func(t *testing.T) {
		dir := t.TempDir()
		tool.mustRun(t, "backup", "-portable", "-host", host(1), dir)
		o.query(t, "", "DROP USER u")
		queries := fmt.Sprint(o.query(t, "", "SHOW CONTINUOUS QUERIES"))
		tool.mustRun(t, "restore", "-portable", "-host", host(1), "-db", "src", "-newdb", name("users"), dir)
		o.same(t, name("users"), one)
		if rows := o.query(t, "", "SHOW USERS"); len(rows) != 0 {
			t.Errorf("a restore without credentials made the users %v", rows)
		}
		o.query(t, "", `CREATE USER u WITH PASSWORD 'p'`)
		if got := fmt.Sprint(o.query(t, "", "SHOW CONTINUOUS QUERIES")); got != queries {
			t.Errorf("continuous queries are %s, want %s", got, queries)
		}
	})
}

// TestServerOfOSSMovesIn brings what a server of InfluxDB OSS has into a cluster and back, with its own tools.
func TestServerOfOSSMovesIn(t *testing.T) {
	t.Parallel()
	path, err := debian()
	if err != nil {
		t.Skipf("there is no influxd of InfluxDB OSS: %v", err)
	}
	old := tool{name: "debian167", path: path}
	o := &oss{
		Cluster: process.Start(t, process.Options{Meta: 1, Data: 2}),
		day:     time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -5),
	}
	rpc, server := startOSS(t, path)
	ctx := t.Context()
	if _, err := server.Query(ctx, "",
		`CREATE DATABASE old WITH DURATION INF REPLICATION 1 SHARD DURATION 1d NAME "rp"`); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i := range 500 {
		fmt.Fprintf(&b, "m,s=s%d v=%di,f=%d.5 %d\n", i%7, i, i, o.day.Add(time.Duration(i)*time.Hour/4).UnixNano())
	}
	if err := server.Write(ctx, "old", "", []byte(b.String())); err != nil {
		t.Fatal(err)
	}
	want := all(t, server, "old")
	dir := t.TempDir()
	old.mustRun(t, "backup", "-portable", "-host", rpc, dir)
	for _, tool := range ossTools(t) {
		tool.mustRun(t, "restore", "-portable", "-host", o.Data[0].TCP, dir)
		o.same(t, "old", want)
		if rows := o.query(t, "", "SHOW RETENTION POLICIES ON old"); len(rows) != 1 || fmt.Sprint(rows[0][3]) != "2" {
			t.Errorf("%s: the policy is %v, want the replicas that the cluster makes", tool.name, rows)
		}
		o.query(t, "", "DROP DATABASE old")
	}
	// And back, with the form of 1.6.7.
	old.mustRun(t, "restore", "-portable", "-host", o.Data[1].TCP, dir)
	o.same(t, "old", want)
	back := t.TempDir()
	old.mustRun(t, "backup", "-portable", "-host", o.Data[1].TCP, "-db", "old", back)
	old.mustRun(t, "restore", "-portable", "-host", rpc, "-db", "old", "-newdb", "back", back)
	if !process.Poll(30*time.Second, func() bool { return all(t, server, "back") == want }) {
		t.Errorf("the server of InfluxDB OSS gets back another database:\n%s", cmp.Diff(want, all(t, server, "back")))
	}
}

// startOSS starts a server of InfluxDB OSS, and returns the addresses of its protocol for backups and of its HTTP API.
func startOSS(t *testing.T, path string) (rpc string, c devcluster.Client) {
	t.Helper()
	dir := t.TempDir()
	free := func() string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		return ln.Addr().String()
	}
	rpc, api := free(), free()
	conf := filepath.Join(dir, "influxdb.conf")
	text := fmt.Sprintf("reporting-disabled = true\nbind-address = %q\n[meta]\ndir = %q\n[data]\ndir = %q\nwal-dir = %q\n"+
		"[http]\nbind-address = %q\nlog-enabled = false\n[monitor]\nstore-enabled = false\n",
		rpc, filepath.Join(dir, "meta"), filepath.Join(dir, "data"), filepath.Join(dir, "wal"), api)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "run", "-config", conf)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	c = devcluster.Client{Base: "http://" + api}
	if !process.Poll(time.Minute,
		func() bool { _, err := c.Query(t.Context(), "", "SHOW DATABASES"); return err == nil }) {
		t.Fatal("influxd of InfluxDB OSS does not come up")
	}
	return rpc, c
}

// TestToolsOfOSSAreRefused has the protocol where it must not be answered.
func TestToolsOfOSSAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		data map[string]map[string]any
		why  string
	}{
		"when it is off": {map[string]map[string]any{"cluster": {"oss-backup": "none"}},
			`[cluster] oss-backup is \"none\"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := process.Start(t, process.Options{Meta: 1, Data: 1, Settings: c.data})
			conn, err := net.Dial("tcp", cluster.Data[0].TCP)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(time.Minute))
			fmt.Fprintf(conn, "\x03\x01{}\n")
			if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || os.IsTimeout(err) {
				t.Errorf("%d bytes come, %v", n, err)
			}
			cluster.Await("the log says why", func() bool { return strings.Contains(cluster.Data[0].Log(), c.why) })
		})
	}
}
