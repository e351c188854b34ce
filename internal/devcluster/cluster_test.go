package devcluster_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	itoml "github.com/influxdata/influxdb/toml"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/datanode"
	"concord/internal/devcluster"
	"concord/internal/entropy/api"
)

// mustStart returns a cluster of data nodes that ends with the test.
func mustStart(t *testing.T, nodes int) (context.Context, *devcluster.Cluster) {
	t.Helper()
	return mustStartWith(t, nodes, func(cfg *datanode.Config) {
		// What a cut link misses stays missed: these tests look at what is then seen and repaired.
		cfg.HintedHandoff.Enabled = false
	})
}

func mustStartWith(t *testing.T, nodes int, config func(*datanode.Config)) (context.Context, *devcluster.Cluster) {
	t.Helper()
	return mustStartOptions(t, devcluster.Options{DataNodes: nodes, DataConfig: config})
}

// mustStartOptions starts a cluster in a folder of its own.
func mustStartOptions(t *testing.T, opts devcluster.Options) (context.Context, *devcluster.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	config := opts.DataConfig
	if opts.Free == nil { // how full the disk of this machine is must not matter
		opts.Free = func(string) (free, total uint64, err error) { return 1 << 40, 2 << 40, nil }
	}
	if opts.WritesEnd == 0 {
		opts.WritesEnd = 2 * time.Second
	}
	opts.Dir, opts.DataConfig = t.TempDir(), func(cfg *datanode.Config) {
		cfg.Cluster.WriteTimeout = itoml.Duration(30 * time.Second) // a busy machine is not a node that is away
		if config != nil {
			config(cfg)
		}
	}
	c, err := devcluster.Start(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close the cluster: %v", err)
		}
	})
	return ctx, c
}

func mustQuery(ctx context.Context, t *testing.T, c *devcluster.Cluster, node int, db, q string) [][]any {
	t.Helper()
	rows, err := c.Client(node).Query(ctx, db, q)
	if err != nil {
		t.Fatalf("node %d: %s: %v", node+1, q, err)
	}
	if strings.HasPrefix(q, "CREATE DATABASE") {
		awaitMetadata(ctx, t, c, node)
	}
	return rows
}

// awaitMetadata waits until all nodes have the metadata that one has: a node learns of a database a moment later.
func awaitMetadata(ctx context.Context, t *testing.T, c *devcluster.Cluster, node int) {
	t.Helper()
	index := c.Data[node].Meta.State().Index
	err := c.Wait(ctx, func() bool {
		return !slices.ContainsFunc(c.Data, func(n *datanode.Node) bool {
			return n != nil && n.Meta.State().Index < index
		})
	})
	if err != nil {
		t.Fatal("a node never gets the metadata:", err)
	}
}

// mustStatus asks the first node for the status of the cluster, until all nodes have answered. On a busy machine one
// may be late.
func mustStatus(ctx context.Context, t *testing.T, c *devcluster.Cluster) (s api.Status, raw []byte) {
	t.Helper()
	var err error
	if c.Wait(ctx, func() bool {
		s, raw, err = c.Client(0).EntropyStatus(ctx)
		return err == nil && len(s.Unreachable) == 0
	}) != nil {
		t.Fatalf("there is no status of all nodes: %s %v", raw, err)
	}
	return s, raw
}

// beginning is the day before that on which the tests began, also when they run past midnight.
var beginning = time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -1)

// yesterday is a time whose shard group is the same all through a test.
func yesterday() time.Time { return beginning }

func lines(n int, from time.Time, step time.Duration) []byte {
	var b []byte
	for i := range n {
		b = fmt.Appendf(b, "m,host=h%d f=%d.5,i=%di,s=\"v%d\",b=%t %d\n",
			i%7, i, i, i%5, i%2 == 0, from.Add(time.Duration(i)*step).UnixNano())
	}
	return b
}

// notWithRace leaves out a test that does many things, or large ones, one after the other. The race detector is slow
// with these, and sees in them what it sees in the others. It runs with -short.
func notWithRace(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: the race detector is slow with it")
	}
}

func TestTourTellsTheTruth(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	ctx, c := mustStart(t, 3)
	var out strings.Builder
	if err := devcluster.Tour(ctx, c, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{`"status":"diff"`, "All three replicas agree"} {
		if !strings.Contains(strings.ReplaceAll(out.String(), `": "`, `":"`), want) {
			t.Errorf("the tour does not say %q:\n%s", want, out.String())
		}
	}
}

func TestWipedNodeGetsItsShardsBackUnasked(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 3)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db`)
	if err := c.Client(0).Write(ctx, "db", "all", lines(2000, yesterday(), time.Second)); err != nil {
		t.Fatal(err)
	}
	const q = "SELECT count(f), sum(i), last(s) FROM m"
	want := mustQuery(ctx, t, c, 0, "db", q)
	if err := c.StopData(2); err != nil {
		t.Fatal(err)
	}
	if err := c.Wipe(2); err != nil {
		t.Fatal(err)
	}
	if err := c.StartData(2); err != nil {
		t.Fatal(err)
	}
	id := c.Shards("db")[0].ID
	if err := c.Wait(ctx, func() bool { return c.Data[2].Store.Shard(id) != nil }); err != nil {
		t.Fatal("the shard did not come back:", err)
	}
	if err := c.Wait(ctx, func() bool {
		s, _, err := c.Client(2).EntropyStatus(ctx)
		return err == nil && s.Clean()
	}); err != nil {
		t.Fatal("the repair did not end:", err)
	}
	c.Cut(2)
	if d := cmp.Diff(want, mustQuery(ctx, t, c, 2, "db", q)); d != "" {
		t.Errorf("the wiped node alone answers otherwise:\n%s", d)
	}
}

func TestEqualDataOfOtherLayoutIsNeverListed(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 3)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db`)
	// Node 3 misses the first half and gets it after the second: another order.
	first, second := lines(1000, yesterday(), time.Second), lines(1000, yesterday().Add(300*time.Second), time.Second)
	for _, half := range [][]byte{first, second} {
		if err := c.Client(0).Write(ctx, "db", "all", half); err != nil {
			t.Fatal(err)
		}
	}
	id := c.Shards("db")[0].ID
	// Node 2 has all in files, written and rewritten; nodes 1 and 3 still in the cache.
	engine, err := c.Data[1].Store.Shard(id).Engine()
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.(*tsm1.Engine).WriteSnapshot(); err != nil {
		t.Fatal(err)
	}
	if err := c.Client(1).Write(ctx, "db", "all", second); err != nil {
		t.Fatal(err)
	}
	if err := engine.(*tsm1.Engine).WriteSnapshot(); err != nil {
		t.Fatal(err)
	}
	if err := engine.ScheduleFullCompaction(); err != nil {
		t.Fatal(err)
	}
	for i, n := range c.Data {
		if err := n.Entropy.CheckNow(ctx); err != nil {
			t.Fatalf("check on node %d: %v", i+1, err)
		}
	}
	if s, raw := mustStatus(ctx, t, c); !s.Clean() {
		t.Errorf("equal data is listed: %s", raw)
	}
}

func TestShardRepairAnswersAsDocumented(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 2)
	for _, base := range []string{c.Data[0].HTTPAddr(), c.Meta.HTTPAddr()} {
		for _, tt := range []struct {
			method, path string
			want         int
		}{
			{"GET", "/status", 200},
			{"POST", "/status", 405},
			{"GET", "/status?local=perhaps", 400},
			{"GET", "/repair?id=1", 405},
			{"POST", "/repair", 400},
			{"POST", "/repair?id=", 400},
			{"POST", "/repair?id=abc", 400},
			{"POST", "/repair?id=-1", 400},
			{"POST", "/repair?id=99999999999999999999", 400},
			{"POST", "/repair?id=4711", 400},
			{"POST", "/cancel-repair", 400},
			{"POST", "/cancel-repair?id=x", 400},
			{"DELETE", "/cancel-repair?id=1", 405},
			{"GET", "/nowhere", 404},
		} {
			req, err := http.NewRequest(tt.method, "http://"+base+"/shard-repair"+tt.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != tt.want {
				t.Errorf("%s %s on %s: %d, want %d: %s", tt.method, tt.path, base, resp.StatusCode, tt.want, body)
			}
			if tt.want >= 400 && !strings.Contains(string(body), `"error"`) {
				t.Errorf("%s %s on %s: no JSON error: %s", tt.method, tt.path, base, body)
			}
		}
	}
	if s, raw := mustStatus(ctx, t, c); !s.Clean() || strings.Contains(string(raw), "null") {
		t.Errorf("after bad requests the status is %s", raw)
	}
}

func TestStatementsActOnTheCluster(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 3)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 1 SHARD DURATION 1h NAME "one"`)
	if err := c.Client(0).Write(ctx, "db", "all", lines(600, yesterday(), time.Minute)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ q, want string }{
		{"SELECT count(f), sum(i) FROM m", "[[0 600 179700]]"},
		{"SHOW TAG VALUES FROM m WITH KEY = host WHERE host = 'h3'", "[[host h3]]"},
		{"SHOW MEASUREMENTS", "[[m]]"},
		{"SHOW FIELD KEYS", "[[b boolean] [f float] [i integer] [s string]]"},
		{"SELECT count(f) FROM m WHERE host = 'h1' GROUP BY host", "[[0 86]]"},
	} {
		for i := range c.Data {
			if got := fmt.Sprint(mustQuery(ctx, t, c, i, "db", tt.q)); got != tt.want {
				t.Errorf("node %d: %s: %s, want %s", i+1, tt.q, got, tt.want)
			}
		}
	}
	mustQuery(ctx, t, c, 1, "db", "DROP SERIES FROM m WHERE host = 'h1'")
	for i := range c.Data {
		if got := fmt.Sprint(mustQuery(ctx, t, c, i, "db", "SELECT count(f) FROM m")); got != "[[0 514]]" {
			t.Errorf("node %d counts %s after the drop", i+1, got)
		}
	}
	mustQuery(ctx, t, c, 2, "db",
		fmt.Sprintf("DELETE FROM /^m$/ WHERE host = 'h2' AND time < %d", yesterday().Add(70*time.Minute).UnixNano()))
	for i := range c.Data {
		if got := fmt.Sprint(mustQuery(ctx, t, c, i, "db", "SELECT count(f) FROM m")); got != "[[0 504]]" {
			t.Errorf("node %d counts %s after the delete", i+1, got)
		}
	}
	// With one replica most nodes lack the shard that is dropped.
	before := len(c.Shards("db"))
	mustQuery(ctx, t, c, 2, "", fmt.Sprintf("DROP SHARD %d", c.Shards("db")[0].ID))
	if got := len(c.Shards("db")); got != before-1 {
		t.Errorf("%d shards after DROP SHARD, want %d", got, before-1)
	}
	for q, want := range map[string]string{
		"DROP SHARD 99999": "shard not found",
		`CREATE RETENTION POLICY "_series" ON db DURATION 1d REPLICATION 1`: "folder of the storage engine",
		`CREATE DATABASE other WITH NAME "index"`:                           "folder of the storage engine",
		`CREATE DATABASE "concord-cluster"`:                                 "files of the data folder",
	} {
		if _, err := c.Client(1).Query(ctx, "", q); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", q, err, want)
		}
	}
	mustQuery(ctx, t, c, 2, "", "DROP DATABASE db")
	for i, n := range c.Data {
		if err := c.Wait(ctx, func() bool { return len(n.Store.ShardIDs()) == 0 }); err != nil {
			t.Errorf("node %d still has shards %v", i+1, n.Store.ShardIDs())
		}
	}
	if _, err := c.Client(0).Query(ctx, "", "CREATE DATABASE big WITH REPLICATION 4"); err == nil {
		t.Error("a replication factor above the number of data nodes was taken")
	}
}
