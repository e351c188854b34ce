//go:build e2e

package e2e

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"concord/internal/handoff"
	"concord/test/process"
)

var peer = flag.String("peer", "", "checkout of chengshiwen/influxdb-cluster: one is adopted; empty skips that")

// peerQueries are asked the old cluster and the new one.
var peerQueries = [][2]string{
	{"plant", "SELECT count(v), sum(v), mean(v), first(n), last(n) FROM m"},
	{"plant", "SELECT mean(v) FROM m WHERE time >= 1700006400s AND time < 1700265600s GROUP BY time(6h), host"},
	{"plant", "SELECT * FROM m WHERE host = 'h07' LIMIT 300"}, {"plant", "SHOW SERIES"}, {"plant", "SHOW FIELD KEYS"},
	{"plant", "SHOW TAG VALUES WITH KEY = host"}, {"single", "SELECT count(v), sum(v) FROM m GROUP BY host"},
	{"everywhere", "SELECT v FROM m"}, {"", "SHOW USERS"}, {"", "SHOW GRANTS FOR bob"}, {"", "SHOW CONTINUOUS QUERIES"},
}

// fillPeer gives an influxdb-cluster of three data nodes databases with one, two and three copies.
func fillPeer(t *testing.T, old *process.Cluster) {
	t.Helper()
	for _, q := range []string{
		`CREATE DATABASE "plant" WITH DURATION INF REPLICATION 2 SHARD DURATION 1d NAME "raw"`,
		`CREATE DATABASE "single" WITH DURATION INF REPLICATION 1 SHARD DURATION 1d NAME "raw"`,
		`CREATE DATABASE "everywhere" WITH DURATION INF REPLICATION 3 NAME "autogen"`,
		`CREATE USER "ann" WITH PASSWORD 'a secret' WITH ALL PRIVILEGES`,
		`CREATE USER "bob" WITH PASSWORD 'another one'`, `GRANT READ ON "plant" TO "bob"`,
		`CREATE CONTINUOUS QUERY "hourly" ON "plant" BEGIN SELECT mean(v) INTO "single"."raw"."x" ` +
			`FROM "plant"."raw"."m" GROUP BY time(1h) END`,
	} {
		if _, err := old.Data[0].Client().Query(t.Context(), "", q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	for day := range 3 {
		for _, db := range []string{"plant", "single"} {
			var lines []byte
			for p := range 200 {
				for series := range 20 {
					lines = fmt.Appendf(lines, "m,host=h%02d v=%d.5,n=%di %d\n",
						series, p, series, int64(adoptDay+day*86400+p*60)*1e9)
				}
			}
			if err := old.Data[day].Client().Write(t.Context(), db, "all", lines); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// queuesOf are the queues of the old cluster's hinted handoff on a node that are not empty.
func queuesOf(t *testing.T, n *process.Node) []string {
	t.Helper()
	full, err := handoff.PeerQueues(filepath.Join(n.Dir, "hh"))
	if err != nil {
		t.Fatal(err)
	}
	return full
}

// TestInfluxDBClusterIsAdopted takes over a cluster of influxdb-cluster: its metadata first, then its data nodes, which
// are stopped and started as Concord on the same folders.
func TestInfluxDBClusterIsAdopted(t *testing.T) {
	t.Parallel()
	if *peer == "" {
		t.Skip("a checkout of influxdb-cluster is needed: make e2e PEER=DIR")
	}
	build, err := process.BuildPeer(*peer)
	if err != nil {
		t.Fatal(err)
	}
	old := process.Start(t, process.Options{Meta: 1, Data: 3, Build: &build})
	fillPeer(t, old)
	// One node is away during a write, for which the others keep hints.
	old.Data[2].Stop(syscall.SIGTERM)
	err = old.Data[0].Client().Write(t.Context(), "everywhere", "any", []byte("m v=1 1700000000000000000"))
	if err != nil {
		t.Fatal(err)
	}
	old.Await("the write is in hinted handoff", func() bool { return len(queuesOf(t, old.Data[0])) > 0 })

	c := process.Start(t, process.Options{Meta: 1})
	this := process.ThisBuild(t)
	concord := func(n *process.Node) {
		t.Helper()
		n.Stop(syscall.SIGTERM)
		n.Use(this)
		n.Start()
		awaitPing(t, n)
	}
	source := old.Meta[0].HTTP
	if out := c.Ctl("adopt", "-dry-run", "-influxdb-cluster", source); !strings.Contains(out, "Nothing was changed") {
		t.Errorf("the dry run prints\n%s", out)
	}
	t.Log(c.Ctl("adopt", "-influxdb-cluster", source))
	if out := c.Ctl("show"); strings.Count(out, "awaited") != 3 {
		t.Errorf("show prints\n%s", out)
	}
	if _, err := c.TryCtl("add-data", old.Data[0].TCP); err == nil {
		t.Error("add-data takes a data node of the old cluster")
	}
	refused := func(want string) {
		t.Helper()
		if _, err := c.TryCtl("adopt", old.Data[0].TCP); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the adoption is not refused with %q: %v", want, err)
		}
	}
	refused("stop the old influxd")
	concord(old.Data[0])
	refused("keeps writes for")
	// The way back: nothing was changed. The old cluster goes on, and its queues empty.
	old.Data[0].Stop(syscall.SIGTERM)
	for _, n := range []*process.Node{old.Data[0], old.Data[2]} {
		n.Use(build)
		n.Start()
		n.AwaitUp()
	}
	old.Await("hinted handoff is empty", func() bool { return len(queuesOf(t, old.Data[0])) == 0 })
	want := make(map[string]string)
	for _, q := range peerQueries {
		want[q[1]] = raw(t, old.Data[1].Client(), q[0], q[1])
		if strings.Contains(want[q[1]], `"error"`) {
			t.Fatalf("the old cluster answers %q with %s", q[1], want[q[1]])
		}
	}

	t.Log(c.Ctl("adopt", "-influxdb-cluster", source)) // what it did since
	if _, err := c.TryCtl("adopt", "-influxdb-cluster", "127.0.0.1:1"); err == nil {
		t.Error("a meta node that does not answer is adopted")
	}
	begun := time.Now()
	for _, n := range old.Data {
		concord(n)
		t.Log(c.Ctl("adopt", n.TCP))
	}
	old.Meta[0].Stop(syscall.SIGTERM)
	t.Logf("three data nodes adopted in %s", time.Since(begun).Round(time.Millisecond))
	for _, n := range old.Data {
		for _, q := range peerQueries {
			var got string
			same := func() bool {
				got = raw(t, n.Client(), q[0], q[1])
				return got == want[q[1]]
			}
			if !process.Poll(time.Minute, same) {
				t.Errorf("%s answers %q otherwise:\n%s", n.Name, q[1], cmp.Diff(want[q[1]], got))
			}
		}
	}
	t.Logf("all answers are as before after %s", time.Since(begun).Round(time.Millisecond))
	c.Await("all copies agree", func() bool {
		s, _, err := old.Data[0].Client().EntropyStatus(t.Context())
		return err == nil && len(s.Shards)+len(s.Queued)+len(s.Processing) == 0
	})
	if out := c.Ctl("show"); strings.Contains(out, "awaited") {
		t.Errorf("show prints\n%s", out)
	}
	if _, err := c.TryCtl("adopt", "-influxdb-cluster", source); err == nil {
		t.Error("the metadata is taken over under data nodes that serve")
	}

	// It is a cluster like others: it takes writes, also in new shards, and loses a node.
	later := fmt.Appendf(nil, "m,host=new v=1 %d", time.Now().UnixNano())
	for i, db := range []string{"plant", "single", "everywhere"} {
		if err := old.Data[i].Client().Write(t.Context(), db, "all", later); err != nil {
			t.Errorf("a write to %s: %v", db, err)
		}
	}
	old.Data[1].Stop(syscall.SIGKILL)
	if err := os.RemoveAll(filepath.Join(old.Data[1].Dir, "data")); err != nil {
		t.Fatal(err)
	}
	rows, warnings, err := old.Data[2].Client().Ask(t.Context(), "plant", "SELECT count(v) FROM m")
	if err != nil || len(rows) != 1 || fmt.Sprint(rows[0][1]) != "12001" || len(warnings) > 0 {
		t.Errorf("without a node the answer is %v, %v, %v", rows, warnings, err)
	}
}
