//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"concord/internal/devcluster"
	"concord/test/process"
)

// plainInflux returns the influxd of Debian's package influxdb, a plain server of InfluxDB 1.6.
func plainInflux(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("the package influxdb of Debian is needed, and this machine has no ", tool)
		}
	}
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	get := exec.CommandContext(ctx, "apt-get", "download", "influxdb")
	get.Dir = dir
	if out, err := get.CombinedOutput(); err != nil {
		t.Skipf("the package influxdb of Debian cannot be had: %v: %s", err, out)
	}
	packages, err := filepath.Glob(filepath.Join(dir, "influxdb_*.deb"))
	if err != nil || len(packages) != 1 {
		t.Skip("apt-get brought no package influxdb: ", packages)
	}
	if out, err := exec.Command("dpkg-deb", "-x", packages[0], dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return filepath.Join(dir, "usr", "bin", "influxd")
}

// plainServer is a plain server that runs.
type plainServer struct {
	dir    string // has meta, data and wal
	client devcluster.Client
	stop   func()
}

// startPlain starts a plain server on a folder.
func startPlain(t *testing.T, binary, dir, index string) *plainServer {
	t.Helper()
	port, rpc := freePort(t), freePort(t)
	conf := fmt.Sprintf("reporting-disabled = true\nbind-address = %q\n[meta]\ndir = %q\n[data]\ndir = %q\nwal-dir = %q\n"+
		"index-version = %q\n[http]\nbind-address = %q\nlog-enabled = false\n",
		rpc, filepath.Join(dir, "meta"), filepath.Join(dir, "data"), filepath.Join(dir, "wal"), index, port)
	path := dir + ".conf"
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-config", path)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &plainServer{dir: dir, client: devcluster.Client{Base: "http://" + port}}
	stopped := false
	s.stop = func() {
		if !stopped {
			stopped = true
			cmd.Process.Signal(syscall.SIGTERM)
			cmd.Wait()
		}
	}
	t.Cleanup(s.stop)
	if !process.Poll(30*time.Second, func() bool {
		resp, err := http.Get(s.client.Base + "/ping")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	}) {
		s.stop()
		t.Fatalf("the plain server does not come up:\n%s", log.String())
	}
	return s
}

// raw is the answer to a statement, byte for byte.
func raw(t *testing.T, c devcluster.Client, db, q string) string {
	t.Helper()
	resp, err := http.Get(c.Base + "/query?" + url.Values{"db": {db}, "q": {q}}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// hand gives a data node that is down the folders of a plain server.
func hand(t *testing.T, n *process.Node, from *plainServer) {
	t.Helper()
	from.stop()
	n.Stop(syscall.SIGTERM)
	n.Wipe("meta", "data", "wal", "hh")
	for _, folder := range []string{"meta", "data", "wal"} {
		if err := os.CopyFS(filepath.Join(n.Dir, folder), os.DirFS(filepath.Join(from.dir, folder))); err != nil {
			t.Fatal(err)
		}
	}
	n.Start()
	if !process.Poll(30*time.Second, func() bool {
		resp, err := http.Get(n.Client().Base + "/ping")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	}) {
		t.Fatalf("%s does not answer", n.Name)
	}
}

const adoptDay = 1_700_006_400 // a day begins, in seconds

// fillPlain gives a plain server what servers have. Points of a share of series are left out.
func fillPlain(t *testing.T, s *plainServer, days int, lacks func(series, point int) bool) {
	t.Helper()
	for _, q := range []string{
		`CREATE DATABASE "plant" WITH DURATION INF SHARD DURATION 1d NAME "raw"`,
		`CREATE RETENTION POLICY "hourly" ON "plant" DURATION INF REPLICATION 1`,
		`CREATE DATABASE "shop"`,
		`CREATE USER "ann" WITH PASSWORD 'a secret' WITH ALL PRIVILEGES`,
		`CREATE USER "bob" WITH PASSWORD 'another one'`,
		`GRANT READ ON "plant" TO "bob"`,
		`CREATE CONTINUOUS QUERY "mean_hourly" ON "plant" BEGIN SELECT mean(v) INTO "plant"."hourly"."m" ` +
			`FROM "plant"."raw"."m" GROUP BY time(1h), * END`,
		`CREATE SUBSCRIPTION "copy" ON "shop"."autogen" DESTINATIONS ALL 'udp://127.0.0.1:9'`,
	} {
		if _, err := s.client.Query(t.Context(), "", q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	for day := range days {
		var lines []byte
		for p := range 200 {
			for series := range 50 {
				if lacks == nil || !lacks(series, p) {
					lines = fmt.Appendf(lines, "m,host=h%02d v=%d.5,n=%di %d\n",
						series, p, series, int64(adoptDay+day*86400+p*60)*1e9)
				}
			}
		}
		if err := s.client.Write(t.Context(), "plant", "one", lines); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.client.Write(t.Context(), "shop", "one",
		[]byte("sales,city=Oslo sum=12i 1700000000000000000")); err != nil {
		t.Fatal(err)
	}
}

var adoptQueries = [][2]string{
	{"plant", "SELECT count(v), sum(v), mean(v), first(n), last(n) FROM m"},
	{"plant", "SELECT mean(v) FROM m WHERE time >= 1700006400s AND time < 1700265600s GROUP BY time(6h), host"},
	{"plant", "SELECT * FROM m WHERE host = 'h07' LIMIT 300"},
	{"plant", "SHOW SERIES"}, {"plant", "SHOW FIELD KEYS"}, {"plant", "SHOW TAG VALUES WITH KEY = host"},
	{"shop", "SELECT * FROM sales"}, {"", "SHOW USERS"}, {"", "SHOW GRANTS FOR bob"},
}

// TestPlainServerIsAdopted takes a server of InfluxDB 1.6 into a cluster that has data of its own.
func TestPlainServerIsAdopted(t *testing.T) {
	t.Parallel()
	binary := plainInflux(t)
	for _, index := range []string{"inmem", "tsi1"} {
		t.Run(index, func(t *testing.T) {
			t.Parallel()
			server := startPlain(t, binary, filepath.Join(t.TempDir(), "plain"), index)
			fillPlain(t, server, 3, nil)
			want := make(map[string]string)
			for _, q := range adoptQueries {
				want[q[1]] = raw(t, server.client, q[0], q[1])
			}

			c := process.Start(t, process.Options{Meta: 1, Data: 1, Settings: map[string]map[string]any{
				"data": {"index-version": index}, "monitor": {"store-enabled": true},
			}})
			own := c.Data[0].Client()
			if _, err := own.Query(t.Context(), "", "CREATE DATABASE own"); err != nil {
				t.Fatal(err)
			}
			if err := own.Write(t.Context(), "own", "all", []byte("m v=1 1700000000000000000")); err != nil {
				t.Fatal(err)
			}
			n := c.AddNode()
			hand(t, n, server)
			got := raw(t, n.Client(), "plant", "SELECT count(v) FROM m")
			if !strings.Contains(got, "influxd-ctl adopt "+n.TCP) {
				t.Errorf("the data node does not say how it is adopted: %s", got)
			}
			if _, err := c.TryCtl("add-data", n.TCP); err == nil ||
				!strings.Contains(err.Error(), "influxd-ctl adopt") {
				t.Errorf("add-data of a plain server: %v", err)
			}
			out := c.Ctl("adopt", "-dry-run", n.TCP)
			if !strings.Contains(out, "nothing was changed") || !strings.Contains(out, "plant") {
				t.Errorf("the dry run prints\n%s", out)
			}
			begun := time.Now()
			out = c.Ctl("adopt", n.TCP)
			t.Logf("adopted in %s:\n%s", time.Since(begun), out)
			c.Await("the adopted node serves", func() bool {
				_, err := n.Client().Query(t.Context(), "plant", "SELECT count(v) FROM m")
				return err == nil
			})
			for _, at := range []*process.Node{n, c.Data[0]} {
				for _, q := range adoptQueries {
					if got := raw(t, at.Client(), q[0], q[1]); got != want[q[1]] {
						t.Errorf("%s answers %q otherwise:\n%s", at.Name, q[1], cmp.Diff(want[q[1]], got))
					}
				}
			}
			for q, has := range map[string]string{
				"SHOW CONTINUOUS QUERIES": "mean_hourly", "SHOW SUBSCRIPTIONS": "udp://127.0.0.1:9",
				"SHOW RETENTION POLICIES ON plant": `"raw","0s","24h0m0s",1`,
			} {
				if got := raw(t, own, "", q); !strings.Contains(got, has) {
					t.Errorf("%s answers %s, want %s in it", q, got, has)
				}
			}
			if out := c.Ctl("adopt", n.TCP); !strings.Contains(out, "already") {
				t.Errorf("adopting it again prints\n%s", out)
			}
			if rows, err := own.Query(t.Context(), "own", "SELECT v FROM m"); err != nil || len(rows) != 1 {
				t.Errorf("the cluster's own data: %v, %v", rows, err)
			}
			// It is a member like others: it takes writes, and comes back after a crash.
			if err := own.Write(t.Context(), "plant", "all", []byte("m,host=new v=1 1700006400000000000")); err != nil {
				t.Error(err)
			}
			n.Stop(syscall.SIGKILL)
			n.Start()
			n.AwaitUp()
			c.Await("the adopted node serves after a crash", func() bool {
				rows, err := n.Client().Query(t.Context(), "plant", "SELECT count(v) FROM m")
				return err == nil && len(rows) == 1 && fmt.Sprint(rows[0][1]) == "30001"
			})
		})
	}
}

// TestTwoPlainServersBecomeOneCluster takes in two servers that were fed the same points, of which each lacks some.
func TestTwoPlainServersBecomeOneCluster(t *testing.T) {
	t.Parallel()
	binary := plainInflux(t)
	dir := t.TempDir()
	lacks := func(which int) func(int, int) bool {
		return func(series, point int) bool { return (series*200+point)%23 == which }
	}
	var servers []*plainServer
	for i := range 2 {
		s := startPlain(t, binary, filepath.Join(dir, fmt.Sprint("plain", i)), "tsi1")
		fillPlain(t, s, 3, lacks(i))
		servers = append(servers, s)
	}
	if err := servers[1].client.Write(t.Context(), "plant", "one",
		fmt.Appendf(nil, "m,host=h01 v=77.25 %d\n", int64(adoptDay)*1e9)); err != nil {
		t.Fatal(err) // a conflict
	}
	c := process.Start(t, process.Options{Meta: 1, Data: 0, Settings: map[string]map[string]any{
		"data": {"index-version": "tsi1"}, "anti-entropy": {"auto-repair-diff": true},
	}})
	for i, s := range servers {
		n := c.AddNode()
		hand(t, n, s)
		if i == 1 {
			if _, err := c.TryCtl("adopt", n.TCP); err == nil ||
				!strings.Contains(err.Error(), `database "plant" already`) {
				t.Errorf("without -merge: %v", err)
			}
		}
		t.Log(c.Ctl("adopt", "-merge", n.TCP))
	}
	const q = "SELECT count(v) FROM m"
	for _, n := range c.Data {
		c.Await(n.Name+" has the points of both, and says so", func() bool {
			rows, err := n.Client().Query(t.Context(), "plant", q)
			return err == nil && len(rows) == 1 && fmt.Sprint(rows[0][1]) == "30000" &&
				!strings.Contains(raw(t, n.Client(), "plant", q), "incomplete")
		})
	}
	c.Await("all copies agree", func() bool {
		s, _, err := c.Data[0].Client().EntropyStatus(t.Context())
		return err == nil && len(s.Shards)+len(s.Queued)+len(s.Processing) == 0
	})
	if out := c.Ctl("entropy", "repairs"); !strings.Contains(out, "plant") {
		t.Errorf("entropy repairs prints\n%s", out)
	}
	for i, n := range c.Data { // each of them has everything
		c.Data[1-i].Stop(syscall.SIGKILL)
		rows, err := n.Client().Query(t.Context(), "plant", q)
		if err != nil || len(rows) != 1 || fmt.Sprint(rows[0][1]) != "30000" {
			t.Errorf("%s alone answers %v, %v", n.Name, rows, err)
		}
		c.Data[1-i].Start()
		c.Data[1-i].AwaitUp()
	}
}

// freePort is an address on which nothing listens.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
